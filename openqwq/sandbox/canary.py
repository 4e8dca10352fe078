"""Whether a fault was the program's or the machine's: a sound program, run where one has ended badly.

Public: is_doubtful, find_fault. A program cannot bring this about or steer it: what it says only decides whether the
sound program is run, and that one's end decides whether the fault is believed.
"""

from __future__ import annotations

import builtins

from .jail.jail import Job
from .programs import Execute
from .spec import Limits

CODE = "import calendar, cmath, csv, hashlib, inspect, json, pprint, queue\nprint(sum(json.loads('[1, 2]')))"
"""Reads the system's files as programs do: a library that is being replaced fails it too."""
JOB = Job(payload={"kind": "run", "code": CODE, "stdin": ""})
LIMITS = Limits(wall_s=30.0)
DOUBTFUL_ERRORS = (ImportError, OSError, SystemError)
"""What Python raises where the system's files or resources fail; other exceptions come from the program's own text."""
DOUBTFUL_ENDS = ("ended by signal", "killed by", "the program stopped answering", "the program ended before")


def is_doubtful(verdict: str, reason: str) -> bool:
    """Whether the machine could have brought this about."""
    if verdict not in ("runtime_error", "killed"):
        return False
    name = reason.removeprefix("exit code 1: ").partition(":")[0]
    kind = getattr(builtins, name, None)
    silent = reason.startswith("exit code ") and ":" not in reason
    doubtful = isinstance(kind, type) and issubclass(kind, DOUBTFUL_ERRORS)
    return silent or doubtful or reason.startswith(DOUBTFUL_ENDS)


def find_fault(execute: Execute) -> str:
    """What is wrong where this executes; "" where a sound program ends well. Raises JailError as `execute` does."""
    outcome = execute(JOB, LIMITS)
    if outcome.end == "exit" and outcome.exit_code == 0 and outcome.out == b"3\n":
        return ""
    words = outcome.err.decode("utf-8", "replace").strip().rpartition("\n")[2]
    return f"a sound program fails here as well: {words or outcome.end}"
