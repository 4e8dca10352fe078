"""Foreign chat templates, rendered in a process of their own with bounds of time and memory.

Templates come with model folders and are not trusted: jinja2's sandbox keeps them from the system, not from loops
without end or texts of gigabytes. The template that this package ships is rendered right here.

Public: render_template, template_variables.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from openqwq.errors import UserError

from . import template_worker
from .template_worker import CPU_SECONDS, MEMORY_BYTES, TemplateFailure

# For a process that is stopped or starved; its own bound is of computing.
WALL_SECONDS = 30.0
HINT = "check the roles and their order, or use another `chat_template` in tokenizer_config.json"


@lru_cache(maxsize=1)
def load_default_template() -> str:
    """QwQ-32B's chat template."""
    return files(__package__).joinpath("qwq_chat_template.jinja").read_text(encoding="utf-8")


def render_template(template: str, names: Mapping[str, Any]) -> str:
    """The text of a chat template with these names, which are plain JSON values.

    Raises UserError for a template that fails, takes more than CPU_SECONDS of computing, or too much memory.
    """
    if template == load_default_template():
        try:
            return template_worker.render_text(template, names)
        except TemplateFailure as failure:
            raise _failed(str(failure)) from failure
    return _ask({"template": template, "names": names})["text"]


def template_variables(template: str) -> set[str]:
    """The names that a template reads and does not set. Raises UserError as `render_template` does."""
    return set(_ask({"template": template, "asked": "variables"})["variables"])


def _failed(reason: str) -> UserError:
    return UserError(f"the chat template cannot render this conversation: {reason}", hint=HINT)


def _ask(request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        body = json.dumps(request).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"a conversation is made of texts, numbers, lists and objects: {error}") from error
    reply = _worker().ask(body)
    if "error" in reply:
        raise _failed(reply["error"])
    return reply


class _Worker:
    """The process, started when it is first needed and again after one that a template brought down."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    def ask(self, body: bytes) -> dict[str, Any]:
        with self._lock:
            process = self._process if self._process and self._process.poll() is None else self._start()
            try:
                assert process.stdin is not None
                process.stdin.write(len(body).to_bytes(8, "little") + body)
                process.stdin.flush()
                deadline = time.monotonic() + WALL_SECONDS
                size = int.from_bytes(self._read(process, 8, deadline), "little")
                return json.loads(self._read(process, size, deadline))
            except (OSError, EOFError):
                self.close()
                bounds = f"{CPU_SECONDS:g} seconds of computing or {MEMORY_BYTES >> 20} MiB of memory"
                return {"error": f"it takes more than {bounds}"}

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        self.close()
        program = [sys.executable, "-P", str(Path(template_worker.__file__))]
        try:
            self._process = subprocess.Popen(
                program,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the caller
            )
        except OSError as error:
            raise UserError(f"no process could be started for the chat template: {error}") from error
        return self._process

    def _read(self, process: subprocess.Popen[bytes], size: int, deadline: float) -> bytes:
        """Raises EOFError where the process ends or the deadline passes."""
        assert process.stdout is not None
        stream = process.stdout.fileno()
        parts, missing = [], size
        while missing:
            ready, _, _ = select.select([stream], [], [], max(deadline - time.monotonic(), 0))
            part = os.read(stream, min(missing, 2**20)) if ready else b""
            if not part:
                raise EOFError
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)


@lru_cache(maxsize=4)
def _worker_of(process: int) -> _Worker:
    return _Worker()


def _worker() -> _Worker:
    """This process's own: a fork must not write into its parent's pipes."""
    return _worker_of(os.getpid())
