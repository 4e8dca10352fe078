"""How a job ended, in words: a status, and a reason that names the limit that was met.

Public: read_outcome, status_of, LOST.
"""

from __future__ import annotations

import re
import signal

from .jail.jail import CPU_SHARE, Outcome
from .spec import Limits, RunResult, RunStatus

LOST = "the machine killed the program, or its jail"
_EXCEPTION = re.compile(rb"([A-Z]\w{0,60})(?::|$)", re.ASCII)
_LAST_BYTES = 2000  # of stderr, where runtimes say what ended them
OUT_OF_MEMORY = (b"MemoryError", b"OutOfMemoryError", b"heap out of memory", b"std::bad_alloc", b"allocation of")
"""Last words of a program that was given no more memory, in the languages that end themselves then."""
MET_LIMITS = {
    "processes": (b"can't start new thread", b"Resource temporarily unavailable", b"unable to create native thread"),
    "tmp_mib": (b"No space left on device", b"File too large"),
}
"""Last words of a program that met a limit which only fails its calls."""


def read_outcome(outcome: Outcome, limits: Limits, fault: str = "") -> RunResult:
    """The result of a program that ran as a script; `fault` says what was wrong with its jail."""
    status, reason = status_of(outcome, limits)
    return RunResult(
        status=status,
        stdout=outcome.out[: limits.output_bytes].decode("utf-8", "replace"),
        stderr=outcome.err[: limits.output_bytes].decode("utf-8", "replace"),
        exit_code=outcome.exit_code,
        wall_s=outcome.wall_s,
        cpu_s=outcome.cpu_s,
        memory_mib=outcome.memory_mib,
        reason=fault or reason,
    )


def status_of(outcome: Outcome, limits: Limits) -> tuple[RunStatus, str]:
    """The status of a job under these limits, and why."""
    if outcome.end == "lost":
        memory = outcome.out_of_memory and outcome.exit_code is not None
        return "infra_error", "the machine has no memory left for the program" if memory else LOST
    if outcome.end == "starved":
        return "infra_error", "the machine was too busy to give the program a processor"
    if outcome.end == "timeout":
        return "timeout", f"no end within {limits.wall_s:g} s, the limit `wall_s`"
    if outcome.end == "output_limit":
        return "output_limit", f"more than {limits.output_bytes} bytes of output, the limit `output_bytes`"
    if outcome.end == "cancelled":
        return "killed", "nobody waited for it any more"
    if outcome.exit_code == 0:
        return "ok", ""
    last_words = bytes(outcome.err[-_LAST_BYTES:])
    if outcome.out_of_memory or any(words in last_words for words in OUT_OF_MEMORY):
        return "memory", f"more than {limits.memory_mib} MiB of memory, the limit `memory_mib`"
    processor_time = f"more than {limits.cpu_s:g} s of processor time, the limit `cpu_s`"
    if outcome.exit_code == -signal.SIGKILL:
        if outcome.cpu_s >= CPU_SHARE * limits.cpu_s:
            return "timeout", processor_time
        return "killed", "killed by a signal 9 that was not ours"
    if outcome.exit_code == -signal.SIGXCPU and outcome.cpu_s >= CPU_SHARE * limits.cpu_s:
        return "timeout", processor_time
    if outcome.exit_code is not None and outcome.exit_code < 0:
        limit = ", the limit `tmp_mib` of files" if outcome.exit_code == -signal.SIGXFSZ else ""
        return "runtime_error", f"ended by signal {-outcome.exit_code}{limit}"
    return "runtime_error", f"exit code {outcome.exit_code}{_exception_name(outcome)}{_met_limit(last_words, limits)}"


def _exception_name(outcome: Outcome) -> str:
    """`: ` and the name of the exception that ended a Python program, as its last words have it."""
    last_line = bytes(outcome.err).rstrip().rpartition(b"\n")[2]
    found = _EXCEPTION.match(last_line) if outcome.exit_code == 1 else None
    return f": {found[1].decode()}" if found else ""


def _met_limit(last_words: bytes, limits: Limits) -> str:
    names = [name for name, words in MET_LIMITS.items() if any(word in last_words for word in words)]
    return f" (it seems to need more than the limit `{names[0]}`, {getattr(limits, names[0])})" if names else ""
