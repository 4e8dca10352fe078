"""Tools of a user's Python file, in a process of their own that can be ended: at a deadline, by Ctrl-C, by its death.

Run as a module it is that process: requests come in on stdin, a JSON line each, and answers go to a pipe of their own,
so that tools may print. The file is never imported elsewhere.

Public: ToolProcess.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import inspect
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openqwq.errors import UserError

from .schema import schema_of
from .tools import Context, Result, Tool, ToolError, ToolFailed, cut_middle, tool_of

START_S = 60.0
READ_BYTES = 1 << 16
MAX_ANSWER_BYTES = 32 << 20
"""Of an answer, the changed workspace included; its text is cut in the process already."""


class ToolProcess:
    """The tools of a Python file. Starts the process on first use, and again when it was ended.

    Raises UserError where the file has no tools, cannot be loaded, or has a function that is no tool.
    """

    def __init__(self, file: Path):
        self.file = file
        self._process: subprocess.Popen | None = None
        self._answers = -1
        if not file.is_file():
            raise UserError(f"there is no file {file}", hint="give a Python file of functions")
        try:
            listed = self._ask({"list": True}, START_S, Context())
        except ToolFailed as error:
            raise UserError(f"the tools of {file} cannot be loaded: {error}") from error
        if "error" in listed:
            self.close()
            raise UserError(f"the tools of {file}: {listed['error']}", hint=listed.get("hint", ""))
        self.tools = [self._tool(row) for row in listed["tools"]]

    def close(self) -> None:
        """End the process and everything that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        os.close(self._answers)

    def _tool(self, row: Mapping[str, Any]) -> Tool:
        def run(arguments: Mapping[str, Any], context: Context) -> Result:
            request = {"name": row["name"], "arguments": arguments, "characters": tool.max_characters}
            request["files"] = _write_files(context.files) if row["wants_files"] else None
            answer = self._ask(request, tool.deadline_s, context)
            if "error" in answer:
                raise ToolError(answer["error"])
            if "failed" in answer:
                raise ToolFailed(answer["failed"])
            if row["wants_files"]:
                context.files.clear()
                context.files.update(_read_files(answer["files"]))
            return Result(answer["text"], cut=answer["cut"])

        fields = {name: row[name] for name in ("name", "description", "parameters")}
        tool = Tool(**fields, run=run)
        return tool

    def _ask(self, request: Mapping[str, Any], deadline_s: float, context: Context) -> dict[str, Any]:
        """The answer to a request; the process is ended where none comes in time. Raises ToolFailed."""
        process = self._started()
        deadline = time.monotonic() + deadline_s
        try:
            assert process.stdin
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = self._read_line(deadline, context)
            return json.loads(line)
        except (OSError, ValueError) as error:
            self.close()
            raise ToolFailed(f"the tool's process died ({type(error).__name__})") from None
        except ToolFailed:
            self.close()
            raise

    def _read_line(self, deadline: float, context: Context) -> bytes:
        answer = bytearray()
        poller = select.poll()
        for fd in (self._answers, context.ticket.fd):
            poller.register(fd, select.POLLIN)
        while not answer.endswith(b"\n"):
            ready = [fd for fd, _ in poller.poll(max(0.0, deadline - time.monotonic()) * 1000)]
            if context.ticket.fd in ready:
                raise ToolFailed("the call was stopped")
            if not ready:
                raise ToolFailed("the tool did not end before its deadline")
            part = os.read(self._answers, READ_BYTES)
            if not part:
                raise ToolFailed("the tool's process died")
            answer += part
            if len(answer) > MAX_ANSWER_BYTES:
                raise ToolFailed(f"the tool gave more than {MAX_ANSWER_BYTES >> 20} MiB")
        return bytes(answer)

    def _started(self) -> subprocess.Popen:
        if self._process is not None:
            return self._process
        self._answers, inside = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(self.file), str(inside)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[inside],
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        finally:
            os.close(inside)
        return self._process


def _write_files(files: Mapping[str, bytes]) -> dict[str, str]:
    return {path: base64.b64encode(content).decode() for path, content in files.items()}


def _read_files(files: Mapping[str, str]) -> dict[str, bytes]:
    return {path: base64.b64decode(content) for path, content in files.items()}


def _load_tools(file: str) -> dict[str, tuple[Tool, bool]]:
    """The public functions that a file defines, as tools, and whether each of them wants the workspace."""
    spec = importlib.util.spec_from_file_location("tools_of_user", file)
    if spec is None or spec.loader is None:
        raise UserError("it is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    own = [value for name, value in vars(module).items() if inspect.isfunction(value) and name[0] != "_"]
    functions = [function for function in own if function.__module__ == spec.name]
    if not functions:
        raise UserError("it defines no functions", hint="every public function of the file is a tool")
    return {f.__name__: (tool_of(f), bool(schema_of(f, Context)[1])) for f in functions}


def _listed(tools: Mapping[str, tuple[Tool, bool]]) -> dict[str, Any]:
    rows = [
        {"name": tool.name, "description": tool.description, "parameters": tool.parameters, "wants_files": wants}
        for tool, wants in tools.values()
    ]
    return {"tools": rows}


def _answer(tool: Tool, request: Mapping[str, Any]) -> dict[str, Any]:
    context = Context(_read_files(request["files"] or {}))
    try:
        text = str(tool.run(request["arguments"], context))
    except ToolError as error:
        return {"error": str(error)[: request["characters"]]}
    except Exception as error:  # a tool's own code may raise anything
        return {"failed": f"{type(error).__name__}: {error}"[: request["characters"]]}
    files = _write_files(context.files) if request["files"] is not None else None
    text, left_out = cut_middle(text, request["characters"])
    return {"text": text, "cut": left_out, "files": files}


def _serve(file: str, answers: int) -> None:
    os.set_inheritable(answers, False)
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # a tool that asks for input gets none
    with open(answers, "w", encoding="utf-8") as sink:
        tools: dict[str, tuple[Tool, bool]] = {}
        try:
            tools = _load_tools(file)
            listed = _listed(tools)
        except UserError as error:
            listed = {"error": error.message, "hint": error.hint}
        except Exception as error:  # whatever the file raises
            listed = {"error": f"{type(error).__name__}: {error}"}
        for line in requests:
            request = json.loads(line)
            answer = listed if "list" in request else _answer(tools[request["name"]][0], request)
            print(json.dumps(answer), file=sink, flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
