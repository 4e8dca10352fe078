"""Whether an environment is sound: pure, passed by its reference, and by no policy that does nothing or anything.

Public: check, Finding, random_policy.
"""

from __future__ import annotations

import copy
import json
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openqwq.agents import Environment, Move, play
from openqwq.types import ToolCall

MAX_RANDOM_SHARE = 0.5
"""Of episodes that a random policy may pass; a task that most random calls solve tests nothing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One property, whether it holds, and what was seen."""

    name: str
    holds: bool
    seen: str


def check(environment: Environment, episodes: int = 100) -> list[Finding]:
    """The properties of an environment, tried on that many tasks; exceptions of its own are findings too."""
    tasks = [environment.task(seed) for seed in range(episodes)]
    properties: dict[str, Callable[[], tuple[bool, str]]] = {
        "tasks are JSON, and the same for a seed": lambda: _same_tasks(environment, tasks),
        "steps are pure, and states JSON": lambda: _pure(environment, tasks),
        "the reference passes": lambda: _share(environment, tasks, _reference, 1.0, 1.0),
        "an empty policy fails": lambda: _share(environment, tasks, lambda *_: lambda seen: None, 0.0, 0.0),
        "a random policy fails": lambda: _share(environment, tasks, random_policy, 0.0, MAX_RANDOM_SHARE),
        "nothing is left behind": lambda: _nothing_left(environment, tasks),
    }
    findings = []
    for name, holds in properties.items():
        try:
            findings.append(Finding(name, *holds()))
        except Exception as error:  # the environment's own code may raise anything
            findings.append(Finding(name, False, f"{type(error).__name__}: {error}"))
    return findings


def random_policy(environment: Environment, task: Mapping[str, Any], seed: int) -> Callable[[Sequence[str]], Move]:
    """Calls with arguments that fit the schemas and mean nothing."""
    source = random.Random(seed)

    def policy(seen: Sequence[str]) -> Move:
        tool = source.choice(list(environment.tools.tools.values()))
        properties = tool.parameters["properties"]
        return ToolCall(tool.name, {name: _any_value(schema, source) for name, schema in properties.items()})

    return policy


def _any_value(schema: Mapping[str, Any], source: random.Random) -> Any:
    if "anyOf" in schema:
        return _any_value(source.choice(schema["anyOf"]), source)
    if "enum" in schema:
        return source.choice(schema["enum"])
    match schema["type"]:
        case "integer":
            return source.randint(0, 99)
        case "number":
            return source.uniform(0, 99)
        case "boolean":
            return source.random() < 0.5
        case "string":
            return "".join(source.choices("abcdef 0123", k=8))
        case "array":
            return [_any_value(schema["items"], source)]
        case "object":
            return {"a": _any_value(schema["additionalProperties"], source)}
    return None


def _reference(environment: Environment, task: Mapping[str, Any], seed: int) -> Callable[[Sequence[str]], Move]:
    return lambda seen: environment.reference(task, seen)


def _same_tasks(environment: Environment, tasks: Sequence[Mapping[str, Any]]) -> tuple[bool, str]:
    stored = json.loads(json.dumps(tasks))
    again = [environment.task(seed) for seed in range(len(tasks))]
    return stored == list(tasks) == again, f"{len(tasks)} tasks"


def _pure(environment: Environment, tasks: Sequence[Mapping[str, Any]]) -> tuple[bool, str]:
    """Each state survives JSON, and each step made twice, from the stored state, comes to the same."""
    for seed, task in enumerate(tasks):
        state = environment.reset(task)
        moves = [*play(environment, task, _reference(environment, task, seed)).moves]
        moves += play(environment, task, random_policy(environment, task, seed)).moves
        for move in moves:
            stored = json.loads(json.dumps(state))
            if stored != state:
                return False, f"task {seed}: the state is no JSON"
            if isinstance(move, str):
                pairs = [environment.verdict(one, move) for one in (state, stored)]
                if pairs[0] != pairs[1]:
                    return False, f"task {seed}: the same answer has two verdicts"
                continue
            before = copy.deepcopy(state)
            step, again = environment.step(state, move), environment.step(stored, move)
            if state != before:
                return False, f"task {seed}: a call of {move.name} changes the state that it is given"
            if step != again:
                return False, f"task {seed}: a call of {move.name} comes to two different things"
            state = step.state
    return True, f"{len(tasks)} episodes, each call made twice"


def _share(
    environment: Environment, tasks: Sequence[Mapping[str, Any]], make: Callable[..., Any], least: float, most: float
) -> tuple[bool, str]:
    verdicts = [play(environment, task, make(environment, task, seed)).verdict for seed, task in enumerate(tasks)]
    unjudged = [verdict.reason for verdict in verdicts if verdict.status == "unjudged"]
    if unjudged:
        return False, f"{len(unjudged)} of {len(tasks)} unjudged: {unjudged[0]}"
    share = sum(verdict.status == "correct" for verdict in verdicts) / len(tasks)
    return least <= share <= most, f"{share:.0%} of {len(tasks)} correct"


def _nothing_left(environment: Environment, tasks: Sequence[Mapping[str, Any]]) -> tuple[bool, str]:
    """Descriptors and threads after as many episodes again; the ones before have opened what is shared."""
    before = _held()
    for seed, task in enumerate(tasks):
        play(environment, task, _reference(environment, task, seed))
    more = {name: count - before[name] for name, count in _held().items()}
    return all(count <= 0 for count in more.values()), ", ".join(f"{count:+} {name}" for name, count in more.items())


def _held() -> dict[str, int]:
    return {"descriptors": len(list(Path("/proc/self/fd").iterdir())), "threads": threading.active_count()}
