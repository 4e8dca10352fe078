"""Worker processes for functions that were handed in from Python: forks of this process, made on demand.

A function of a notebook or a closure has no file that a fresh interpreter could load. So one process is forked at the
start, before the trainer has threads, and forks a worker of itself whenever one is needed. What such a function may
use is what survives a fork: not a GPU that was used before, nor threads of this process.

Public: `ForkServer`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping
from typing import IO, Any, NoReturn

from openqwq.errors import UserError

from ..workers.child import serve
from ..workers.pool import Process
from .child import answer_jobs

_LIMIT = 1 << 16


class ForkServer:
    """The process that forks workers of these functions, until it is closed."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]]):
        if not hasattr(os, "fork"):
            raise UserError(
                "functions that are handed in from Python run in forked processes, which this system does not have",
                hint='put the function into a file and name it: verifiers={"mine": "rewards.py:score"}',
            )
        self._ours, theirs = socket.socketpair()
        self._lock = threading.Lock()
        sys.stdout.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, which the docstring tells
            pid = os.fork()
        if pid == 0:
            self._ours.close()
            _run(lambda: _serve_forks(theirs, functions))
        theirs.close()
        self._pid = pid

    def launch(self, name: str) -> Process:
        """A new worker for the function of that name."""
        job_end, jobs = os.pipe()
        results, result_end = os.pipe()
        try:
            answer = self._ask({"fork": name}, [job_end, result_end])
        finally:
            os.close(job_end)
            os.close(result_end)
        return _Fork(self, answer["pid"], os.fdopen(jobs, "wb"), os.fdopen(results, "rb"))

    def wait(self, pid: int) -> int:
        """The exit code of a worker that has ended or is about to."""
        return self._ask({"wait": pid}, [])["code"]

    def close(self) -> None:
        """End the process and all its workers."""
        self._ours.close()
        os.waitpid(self._pid, 0)

    def _ask(self, message: Mapping[str, Any], descriptors: list[int]) -> dict[str, Any]:
        with self._lock:
            socket.send_fds(self._ours, [json.dumps(message).encode()], descriptors)
            return json.loads(self._ours.recv(_LIMIT))


class _Fork:
    """A forked worker as its pool sees it."""

    def __init__(self, server: ForkServer, pid: int, jobs: IO[bytes], results: IO[bytes]):
        self._server, self._pid = server, pid
        self._code: int | None = None
        self.stdin, self.stdout = jobs, results

    def kill(self) -> None:
        if self._code is None:
            os.kill(self._pid, signal.SIGKILL)

    def wait(self) -> int:
        if self._code is None:
            self._code = self._server.wait(self._pid)
        return self._code


def _run(work: Callable[[], None]) -> NoReturn:
    """The life of a forked process: the work, and no clean-up of what belongs to its parent."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.stdout = sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _serve_forks(channel: socket.socket, functions: Mapping[str, Callable[..., Any]]) -> None:
    alive: set[int] = set()
    while True:
        data, descriptors, _, _ = socket.recv_fds(channel, _LIMIT, 2)
        if not data:
            break
        message = json.loads(data)
        if "fork" in message:
            pid = os.fork()
            if pid == 0:
                channel.close()
                _run(lambda: _work(functions[message["fork"]], message["fork"], *descriptors))  # noqa: B023
            for descriptor in descriptors:
                os.close(descriptor)
            alive.add(pid)
            channel.send(json.dumps({"pid": pid}).encode())
        else:
            alive.discard(message["wait"])
            _, status = os.waitpid(message["wait"], 0)
            channel.send(json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode())
    for pid in alive:
        os.kill(pid, signal.SIGKILL)


def _work(function: Callable[..., Any], name: str, jobs: int, results: int) -> None:
    """Answer jobs as a worker in a fresh interpreter does."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    with os.fdopen(jobs, encoding="utf-8") as lines, os.fdopen(results, "w", encoding="utf-8") as channel:
        serve(answer_jobs(function, name), lines, channel, 0.0)
