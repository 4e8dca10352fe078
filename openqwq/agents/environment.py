"""Environments: tasks with tools, a state that is JSON, and a verdict at the end.

An environment holds no state of an episode: `reset` and `step` are pure functions, so that a state can be stored, a
call made again, and all episodes of one task begin alike.

Public: Environment, Step, Move, Played, play.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from openqwq.types import ToolCall, Verdict

from .tools import Toolbox

State = Mapping[str, Any]
Move = ToolCall | str
"""What a policy does: a call, or its answer, which ends the episode."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one call came to. over: no further call is taken; failed: by the machine's fault, not the policy's."""

    state: State
    observation: str
    over: bool = False
    failed: bool = False


class Environment(Protocol):
    """A family of tasks.

    max_turns: calls and answer together.
    """

    name: str
    max_turns: int

    @property
    def tools(self) -> Toolbox:
        """What a policy may call; the tools' own functions are not run, `step` is."""
        ...

    def task(self, seed: int) -> Mapping[str, Any]:
        """A problem as JSON, the same for the same seed."""
        ...

    def prompt(self, task: Mapping[str, Any]) -> str:
        """What the policy reads of a problem."""
        ...

    def reset(self, task: Mapping[str, Any]) -> State:
        """The first state."""
        ...

    def step(self, state: State, call: ToolCall) -> Step:
        """The state after a call whose arguments are right; the given one is left as it is."""
        ...

    def verdict(self, state: State, answer: str) -> Verdict:
        """The judgement of an episode that has ended with this state and answer ("" where none was given)."""
        ...

    def reference(self, task: Mapping[str, Any], observations: Sequence[str]) -> Move:
        """The next move of a policy that passes, given all observations so far."""
        ...


@dataclass(frozen=True, slots=True)
class Played:
    """An episode: the state at its end, its moves, what they came to, and the verdict."""

    state: State
    moves: tuple[Move, ...]
    observations: tuple[str, ...]
    verdict: Verdict


def play(environment: Environment, task: Mapping[str, Any], policy: Callable[[Sequence[str]], Move | None]) -> Played:
    """The episode of a policy that is given all observations so far; None from it leaves without an answer.

    A call that failed by the machine's fault leaves the episode unjudged.
    """
    state = environment.reset(task)
    moves: list[Move] = []
    observations: list[str] = []
    answer = ""
    while len(moves) < environment.max_turns:
        move = policy(observations)
        if move is None:
            break
        moves.append(move)
        if isinstance(move, str):
            answer = move
            break
        if fault := environment.tools.fault(move):
            observations.append(f"error: {fault}")
            continue
        step = environment.step(state, move)
        state = step.state
        observations.append(step.observation)
        if step.failed:
            verdict = Verdict.unjudged(f"the call of {move.name} failed: {step.observation}")
            return Played(state, tuple(moves), tuple(observations), verdict)
        if step.over:
            break
    return Played(state, tuple(moves), tuple(observations), environment.verdict(state, answer))
