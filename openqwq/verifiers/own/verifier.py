"""A user's own function as a verifier: `verifier = "rewards.py:score"`, or a function handed in from Python.

It runs in worker processes that are killed when a call takes too long, so a hang, a crash or an exception makes a
completion unjudged, with the reason, and nothing worse. These workers are the user's: no jail, the whole environment,
no limit of memory. `child.py` says how a function may look, `as_verdict` what it may return.

Public: `OwnVerifier`, `OwnFunction`, `digest_of`, `forget`.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import inspect
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

from openqwq.config import split_own
from openqwq.errors import UserError
from openqwq.types import Problem, Verdict

from ..base import Verifier
from ..workers.pool import Outcome, Process, WorkerPool

GUARD_S = 60.0
"""A worker whose pool is gone ends itself this long after a call's own limit."""


def digest_of(function: Callable[..., Any]) -> str:
    """A digest of a function's code: of its text where that is known, else of its byte code."""
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        text = repr((code.co_code, code.co_consts, code.co_names)) if code else repr(type(function))
    return hashlib.sha256(text.encode()).hexdigest()


class OwnFunction:
    """One function: its short name, the digest of its code, and how a process that runs it is started."""

    def __init__(self, label: str, digest: str, launch: Callable[[], Process]):
        self.label, self.digest, self.launch = label, digest, launch

    @classmethod
    def in_file(cls, spec: str) -> OwnFunction:
        """The function of "PATH.py:NAME". The text is read now: later changes of the file change nothing."""
        path, name = split_own(spec)
        try:
            source = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise UserError(f"cannot read {path}, which `{spec}` names: {why}") from error
        given = {"path": str(path.resolve()), "source": source, "name": name}
        digest = hashlib.sha256(source.encode()).hexdigest()
        return cls(f"{path.name}:{name}", digest, lambda: _launch_file(given))


def _launch_file(given: Mapping[str, str]) -> Process:
    package_root = str(Path(__file__).resolve().parents[3])
    search_path = os.pathsep.join([*filter(None, sys.path), package_root])
    environment = {"PYTHONHASHSEED": "0", **os.environ, "PYTHONPATH": search_path}
    process = subprocess.Popen(
        [sys.executable, "-c", "from openqwq.verifiers.own.child import main; main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,  # Ctrl-C is ours to handle, and what the function starts ends with it
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(given).encode() + b"\n")
    process.stdin.flush()
    return _Session(process)


class _Session:
    """A process that is killed with all that it has started."""

    def __init__(self, process: subprocess.Popen[bytes]):
        self._process = process
        self.stdin, self.stdout = process.stdin, process.stdout

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self) -> int:
        return self._process.wait()


class OwnPool(WorkerPool):
    """Workers of one function; a call may take `timeout_s` seconds of wall-clock time."""

    jobs_per_extra_worker = 2

    def __init__(self, function: OwnFunction, *, timeout_s: float, num_workers: int = 0):
        super().__init__(function.label, num_workers=num_workers, deadline_s=timeout_s, wall_factor=1.0)
        self.function = function

    def cannot_start(self, why: str, hint: str) -> UserError:
        """The error for a file that cannot be loaded."""
        return UserError(f"`{self.target}` cannot be loaded: {why}")

    def _launch(self) -> Process:
        return self.function.launch()


def why_failed(outcome: Outcome, label: str, timeout_s: float) -> str:
    """Why a call gave nothing; empty where it did."""
    if outcome.how == "ok":
        return outcome.result["fault"] if isinstance(outcome.result, dict) and "fault" in outcome.result else ""
    if outcome.how == "stalled":
        return f"{label} took longer than {timeout_s:g} s"
    if outcome.how == "memory":
        return f"{label} ran out of memory"
    if outcome.how == "error":
        return f"{label}: {outcome.error}"
    return f"{label} ended its process ({outcome.error})"


class OwnVerifier(Verifier):
    """Judges by the user's function.

    timeout_s:   seconds that one call may take; a function in TRL's form is called once for a problem's rollouts.
    num_workers: processes; 0: one a core, at most 8.
    options:     handed to the function by name.
    Raises UserError for a file that cannot be loaded, or an option that the function does not take.
    """

    needs_answer: ClassVar[bool] = False

    def __init__(
        self,
        function: OwnFunction,
        *,
        format_free: bool = False,
        timeout_s: float = 30.0,
        num_workers: int = 0,
        **options: Any,
    ):
        super().__init__(format_free=format_free)
        if not timeout_s > 0:
            raise UserError(f"option `timeout_s` of verifier `{function.label}` is {timeout_s}, but must be above 0")
        self.name, self.version = function.label, function.digest[:12]  # type: ignore[misc]
        self.function, self.options, self.timeout_s = function, options, timeout_s
        self._pool = _shared_pool(function, timeout_s, num_workers)
        self.shape: Mapping[str, Any] = self._describe()

    def _describe(self) -> Mapping[str, Any]:
        shape = self._asked([{"do": "describe"}])[0]
        if isinstance(shape, str):
            raise UserError(
                shape, hint="a reward function takes (problem, completion), or TRL's (completions, **columns)"
            )
        if not shape["takes_all"] and (unknown := [n for n in self.options if n not in shape["names"]]):
            raise UserError(
                f"unknown option of verifier `{self.name}`: `{unknown[0]}`",
                hint=f"its function takes {', '.join(shape['names']) or 'none'}; ours are timeout_s and num_workers",
            )
        return shape

    def missing_columns(self, problem: Problem) -> list[str]:
        """The function's parameters that neither the problem's row nor an option fills."""
        known = {
            "problem",
            "completion",
            "prompts",
            "completions",
            "prompt",
            "answer",
            *problem.metadata,
            *self.options,
        }
        return [name for name in self.shape["required"] if name not in known]

    def __call__(self, problem: Problem, completion: str) -> Verdict:
        return self.verify_many([(problem, completion)])[0]

    def verify_many(self, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """One verdict for each pair, in order.

        A problem's completions go to a function in TRL's form in one call; if that fails, each goes alone, so that one
        of them does not take the others along.
        """
        if not self.shape["batched"]:
            return self._judge([[pair] for pair in pairs])
        groups = [list(group) for _, group in groupby(pairs, key=lambda pair: pair[0])]
        return self._judge(groups, alone_where_failed=True)

    def _judge(
        self, groups: Sequence[Sequence[tuple[Problem, str]]], *, alone_where_failed: bool = False
    ) -> list[Verdict]:
        jobs = [
            {"do": "judge", "pairs": [[p.to_dict(), text] for p, text in group], "options": self.options}
            for group in groups
        ]
        verdicts: list[Verdict] = []
        for group, answer in zip(groups, self._asked(jobs), strict=True):
            if not isinstance(answer, str):
                verdicts += [Verdict(**row) for row in answer]
            elif alone_where_failed and len(group) > 1:
                verdicts += self._judge([[pair] for pair in group])
            else:
                verdicts += [Verdict.unjudged(answer[:500]) for _ in group]
        return verdicts

    def _asked(self, jobs: Sequence[Mapping[str, Any]]) -> list[Any]:
        """What the function's workers answer to each job, or as a text why they do not."""
        timed = [{**job, "seconds": self.timeout_s + GUARD_S} for job in jobs]
        outcomes = self._pool.run(timed) if timed else []
        return [why_failed(outcome, self.name, self.timeout_s) or outcome.result for outcome in outcomes]


def forget(function: OwnFunction) -> None:
    """End the workers of a function that nobody asks any more."""
    for key in [key for key, pool in _pools.items() if pool.function is function]:
        _pools.pop(key).close()


_pools: dict[tuple[str, str, float, int], OwnPool] = {}


def _shared_pool(function: OwnFunction, timeout_s: float, num_workers: int) -> OwnPool:
    """One pool for a strict verifier and its format-free sibling; closed at exit."""
    key = (function.label, function.digest, timeout_s, num_workers)
    if key not in _pools:
        _pools[key] = OwnPool(function, timeout_s=timeout_s, num_workers=num_workers)
        atexit.register(_pools[key].close)
    return _pools[key]
