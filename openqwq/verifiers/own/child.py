"""The inside of a process that runs a user's own function: a reward or a maker of problems.

Started by `verifier.py` in a fresh interpreter, where the first line on stdin holds the file's path, its source and the
function's name; or by `forks.py` in a fork. Every further line is a job, as `workers.child.serve` reads them:

    {"do": "describe"}                                     the function's shape
    {"do": "judge", "pairs": [[problem, completion]], ...} one verdict each, or {"fault": why}
    {"do": "rows", "options": {...}}                       every row that a maker of problems gives
    {"do": "row", "seed": n, "options": {...}}             the one row that it gives for this seed

Public: `main`, `answer_jobs`, `load_function`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from importlib.abc import InspectLoader
from pathlib import Path
from random import Random
from typing import Any

from openqwq.types import Problem

from ..base import as_verdict
from ..workers.child import Mark, send, serve

FOR_MESSAGES = "conversational"
"""In a problem's metadata: its prompt was a list of messages, which decides the form that TRL's functions are given."""


def main() -> None:
    """Load the function of the first line, and answer jobs until stdin ends."""
    jobs = os.fdopen(os.dup(0), "rb")
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what the function prints goes to the user's terminal, never into the channel
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        given = json.loads(jobs.readline())
        function = load_function(given["path"], given["source"], given["name"])
    except BaseException as error:
        send(channel, {"fatal": describe_error(error)})
        return
    serve(answer_jobs(function, given["name"]), (line.decode() for line in jobs), channel, 0.0)


def load_function(path: str, source: str, name: str) -> Callable[..., Any]:
    """The function of that name in a file whose text is `source`; files beside it can be imported."""
    sys.path.insert(0, str(Path(path).parent))
    loader = _GivenSource(path, source)
    spec = importlib.util.spec_from_loader(f"own_{Path(path).stem}", loader, origin=path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = path
    sys.modules[module.__name__] = module  # where dataclasses look for the names of their annotations
    loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        own = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
        known = [value.__name__ for value in own if inspect.isfunction(value) and value.__name__[0] != "_"]
        near = get_close_matches(name, known, n=1)
        meant = f", did you mean `{near[0]}`?" if near else ""
        raise Misfit(f"there is no function `{name}`{meant}; the file has {', '.join(known) or 'none'}")
    return function


class _GivenSource(InspectLoader):
    """Loads a module from a text, so that a file that is edited during a run does not change the run."""

    def __init__(self, path: str, source: str):
        self.path, self.source = path, source

    def get_source(self, fullname: str) -> str:
        return self.source

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self.source, self.path)


def describe_error(error: BaseException) -> str:
    """The exception, and the last line of a file that is not ours on the way to it."""
    text = f"{type(error).__name__}: {error}"[:400]
    if isinstance(error, Misfit):
        return str(error)
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} ({Path(error.filename or '').name}, line {error.lineno})"
    here = Path(__file__).resolve().parents[2]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not Path(f.filename).is_relative_to(here)]
    own = [f for f in frames if "site-packages" not in f.filename and f"lib{os.sep}python" not in f.filename]
    last = (own or frames)[-1] if frames else None
    return f"{text} ({Path(last.filename).name}, line {last.lineno})" if last else text


class Misfit(Exception):
    """A function that cannot be called with what there is."""


@dataclass(frozen=True)
class Shape:
    """How a function wants to be called.

    positional: it takes the problem and the completion as its first two arguments, whatever their names.
    batched:    it is written for TRL: lists of prompts and completions, and each column as a list.
    names:      the other parameters, filled by name; required: those without a default.
    takes_all:  it has `**columns`.
    """

    positional: int
    batched: bool
    names: tuple[str, ...]
    required: tuple[str, ...]
    takes_all: bool


def shape_of(function: Callable[..., Any], *, takes_problem: bool = True) -> Shape:
    """The function's shape, told from its parameters' names. Raises Misfit for one that cannot be called."""
    parameters = list(inspect.signature(function).parameters.values())
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    names = [p.name for p in named]
    batched = takes_problem and "completions" in names
    positional = 0
    if takes_problem and not batched:
        positional = 2 if names[1:2] == ["completion"] and names[0] not in ("prompt", "answer") else 0
        positional = positional if "completion" in names else 2
        if len(named) < positional and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            raise Misfit(f"takes ({', '.join(names)}), but a reward function is given (problem, completion)")
    rest = named[positional:]
    return Shape(
        positional=positional,
        batched=batched,
        names=tuple(p.name for p in rest),
        required=tuple(p.name for p in rest if p.default is p.empty),
        takes_all=takes_all,
    )


def answer_jobs(function: Callable[..., Any], name: str) -> Callable[[Any, Mark], Any]:
    """What the worker does with each of the jobs above."""

    def answer(job: Mapping[str, Any], mark: Mark) -> Any:
        signal.setitimer(signal.ITIMER_REAL, job.get("seconds", 0))  # should nobody be left to end this process
        try:
            return _WORK[job["do"]](function, job)
        except BaseException as error:  # a stranger's code, and it may also leave by sys.exit
            verb = "" if isinstance(error, Misfit) else "raised "
            return {"fault": f"{name} {verb}{describe_error(error)}"}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            sys.stdout.flush()

    return answer


def _describe(function: Callable[..., Any], job: Mapping[str, Any]) -> dict[str, Any]:
    return asdict(shape_of(function, takes_problem=job.get("takes_problem", True)))


def _judge(function: Callable[..., Any], job: Mapping[str, Any]) -> list[dict[str, Any]]:
    shape, options = shape_of(function), job["options"]
    pairs = [(Problem.from_dict(problem), completion) for problem, completion in job["pairs"]]
    if shape.batched:
        values = list(_finished(function(**_lists(shape, pairs, options))))
        if len(values) != len(pairs):
            raise ValueError(f"it returned {len(values)} rewards for {len(pairs)} completions")
    else:
        values = [_finished(_call(function, shape, problem, text, options)) for problem, text in pairs]
    return [_as_json(asdict(as_verdict(value))) for value in values]


def _call(
    function: Callable[..., Any], shape: Shape, problem: Problem, completion: str, options: Mapping[str, Any]
) -> Any:
    known = {"problem": problem, "completion": completion, **columns_of(problem), **options}
    first = (problem, completion)[: shape.positional]
    return function(*first, **_chosen(shape, known, {} if shape.positional else {"completion", "problem"}))


def columns_of(problem: Problem) -> dict[str, Any]:
    """What a function may ask for by name: the row's further columns, its answer and the prompt's text."""
    columns = {key: value for key, value in problem.metadata.items() if key != FOR_MESSAGES}
    return {"prompt": problem.prompt, **columns, "answer": problem.answer}


def _lists(shape: Shape, pairs: list[tuple[Problem, str]], options: Mapping[str, Any]) -> dict[str, Any]:
    """TRL's arguments: texts where the data's prompt was a text, lists of messages where it was such a list."""
    columns: dict[str, Any] = {key: [] for problem, _ in pairs for key in columns_of(problem) if key != "prompt"}
    for problem, _ in pairs:
        row = columns_of(problem)
        for key in columns:
            columns[key].append(row.get(key))
    columns["prompts"] = [_as_messages(p) if p.metadata.get(FOR_MESSAGES) else p.prompt for p, _ in pairs]
    columns["completions"] = [
        [{"role": "assistant", "content": text}] if p.metadata.get(FOR_MESSAGES) else text for p, text in pairs
    ]
    return _chosen(shape, {**columns, **options}, set())


def _as_messages(problem: Problem) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in problem.messages]


def _chosen(shape: Shape, known: Mapping[str, Any], not_for_all: Iterable[str]) -> dict[str, Any]:
    """The arguments of these that the function takes. Raises Misfit naming one that it lacks."""
    if missing := [name for name in shape.required if name not in known]:
        have = ", ".join(key for key in known if key not in ("problem", "completion", "prompts", "completions"))
        raise Misfit(f"needs `{missing[0]}`, which is neither a column of the row nor an option (there are {have})")
    if shape.takes_all:
        hidden = {"problem", "completion"} if shape.positional else set(not_for_all) - set(shape.names)
        return {key: value for key, value in known.items() if key not in hidden}
    return {name: known[name] for name in shape.names if name in known}


def _finished(value: Any) -> Any:
    """The value, of a coroutine what it comes to."""
    return asyncio.run(_awaited(value)) if inspect.isawaitable(value) else value


async def _awaited(value: Any) -> Any:
    return await value


def _rows(function: Callable[..., Any], job: Mapping[str, Any]) -> list[Any]:
    return [_row_as_json(row, number) for number, row in enumerate(_finished(function(**job["options"])), 1)]


def _row(function: Callable[..., Any], job: Mapping[str, Any]) -> Any:
    return _row_as_json(function(rng=Random(job["seed"]), **job["options"]), 1)


def _row_as_json(row: Any, number: int) -> Any:
    if isinstance(row, Problem):
        row = row.to_dict()
    if not isinstance(row, Mapping):
        raise TypeError(f"row {number} is {type(row).__name__}, and not a table")
    return _as_json(dict(row))


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


_WORK: dict[str, Callable[[Callable[..., Any], Mapping[str, Any]], Any]] = {
    "describe": _describe,
    "judge": _judge,
    "rows": _rows,
    "row": _row,
}
