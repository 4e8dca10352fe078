"""A Lean 4 REPL as a child process: JSON commands in, JSON answers out, each ended by a blank line.

Public: `LeanRepl`, `ReplError`. The protocol of leanprover-community/repl. A REPL that ran past its deadline is killed
with all that it started, never asked again.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

MAX_ANSWER_BYTES = 1 << 24


class ReplError(Exception):
    """The REPL gave no answer. `why`: "deadline", "gone" or "unreadable"."""

    def __init__(self, why: str, text: str = ""):
        super().__init__(f"{why}: {text}" if text else why)
        self.why = why


class LeanRepl:
    """One REPL, started with the first request.

    command:    e.g. ["lake", "exe", "repl"], in the folder `cwd`.
    memory_mib: address space of the process and of each that it starts; 0: no bound.
    """

    def __init__(self, command: Sequence[str], *, cwd: str = "", memory_mib: int = 16384):
        self.command = list(command)
        self.cwd = cwd or None
        self.memory_mib = memory_mib
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """The REPL's answer. Raises ReplError when there is none within the time; the REPL is dead then."""
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n\n")
            process.stdin.flush()
            return self._read_answer(process, time.monotonic() + timeout_s)
        except OSError as error:
            self.close()
            raise ReplError("gone", str(error)) from error
        except ReplError:
            self.close()
            raise

    def close(self) -> None:
        """Kill the REPL and everything that it started; the next request starts a new one."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        self._process, self._buffer = None, b""
        atexit.unregister(self.close)

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            process = subprocess.Popen(
                self.command,
                cwd=self.cwd,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            )
        except OSError as error:
            raise ReplError("gone", str(error)) from error
        if self.memory_mib:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(process.pid, resource.RLIMIT_AS, (self.memory_mib << 20, self.memory_mib << 20))
        self._process = process
        atexit.register(self.close)
        return process

    def _read_answer(self, process: subprocess.Popen[bytes], deadline: float) -> dict[str, Any]:
        assert process.stdout is not None
        channel = process.stdout.fileno()
        while b"\n\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([channel], [], [], left)[0]:
                raise ReplError("deadline")
            data = os.read(channel, 1 << 16)
            if not data:
                raise ReplError("gone")
            self._buffer = (self._buffer + data).lstrip(b"\n")
            if len(self._buffer) > MAX_ANSWER_BYTES:
                raise ReplError("unreadable", f"more than {MAX_ANSWER_BYTES} bytes")
        text, _, self._buffer = self._buffer.partition(b"\n\n")
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ReplError("unreadable", str(error)) from error
        if not isinstance(answer, dict):
            raise ReplError("unreadable", "not an object")
        return answer
