"""The inside of a verifier worker process: reads jobs, judges them one by one, dies when one takes too long.

Started by `pool.py` as `python -m openqwq.verifiers.workers.child MODULE:FUNCTION CPU_SECONDS MEMORY_MIB`.
JSON lines on stdin and stdout (never pickle: the jobs hold text that a model wrote). FUNCTION is called as
`function(job, mark)`; `mark("candidate")` says that the work on the task's own side (its gold answer) is done
and starts the deadline anew. `mark("import")` and `mark("setup")` are for loading what the user has installed, without
a deadline and with one; `mark("task")` ends that. The kernel keeps the deadline: SIGPROF after CPU_SECONDS of CPU time
ends the process even inside a C call and even when nobody waits for it any more.

Once FUNCTION is imported, the process can write no file, start no program and reach no network; where FUNCTION's module
says LOADS_LATER, from the first "task" on. No text is run as code during a job (see `guard.py`), and each message
repeats its job's secret number, which nothing under judgement is told.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import IO, Any

from openqwq.sandbox import confine_reader

from .guard import EvaluationGuard

Mark = Callable[[str], None]
UNGUARDED = ("import", "setup")
"""Stages in which a job loads a library of the user's, whose own code may make code."""


def main(arguments: list[str]) -> None:
    """Serve jobs until stdin ends."""
    target, cpu_seconds, memory_mib = arguments[0], float(arguments[1]), int(arguments[2])
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not reach the channel
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
    module, _, attribute = target.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        send(channel, {"fatal": f"{type(error).__name__}: {error}"})
        return

    def confine() -> None:
        if reason := confine_reader():
            send(channel, {"unconfined": reason})

    guard = EvaluationGuard()
    if getattr(sys.modules[module], "LOADS_LATER", False):
        serve(function, sys.stdin, channel, cpu_seconds, guard=guard, confine=confine)
    else:
        confine()
        serve(function, sys.stdin, channel, cpu_seconds, guard=guard)


def send(channel: IO[str], message: dict[str, Any]) -> None:
    """One message to the pool."""
    channel.write(json.dumps(message) + "\n")
    channel.flush()


def serve(
    function: Callable[[Any, Mark], Any],
    jobs: Iterable[str],
    channel: IO[str],
    cpu_seconds: float,
    *,
    guard: EvaluationGuard | None = None,
    confine: Callable[[], None] | None = None,
) -> None:
    """Say that the worker is ready, and answer jobs until there are no more; cpu_seconds 0: without a deadline.

    guard:   what refuses to evaluate during the jobs; None for functions of the user's own.
    confine: what takes the network and the right to write away when the first job has loaded its code.
    """
    send(channel, {"ready": True})
    waiting = [confine] if confine else []
    for line in jobs:
        secret, job = json.loads(line)

        def mark(stage: str, secret: int = secret) -> None:
            signal.setitimer(signal.ITIMER_PROF, 0 if stage == "import" else cpu_seconds)
            if guard is not None:
                guard.active = stage not in UNGUARDED
            if waiting and stage not in UNGUARDED:
                waiting.pop()()
            send(channel, {"secret": secret, "stage": stage})

        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        with guard or nullcontext():
            try:
                reply = {"result": function(job, mark)}
            except MemoryError:
                send(channel, {"secret": secret, "error": "memory"})
                return
            except Exception as error:  # the parent reads it as data: who is at fault depends on the stage
                reply = {"error": f"{type(error).__name__}: {error}"[:500]}
        signal.setitimer(signal.ITIMER_PROF, 0)
        send(channel, {"secret": secret, **reply})


if __name__ == "__main__":
    main(sys.argv[1:])
