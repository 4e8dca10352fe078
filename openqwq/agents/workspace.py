"""A workspace: files by their paths, held in memory, and the tools that work on them.

Programs run in the sandbox with a copy of the files, and what they change comes back. Nothing is written to the user's
folder before the end, and never through a symbolic link.

Public: load_files, save_files, workspace_tools, check_path.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from openqwq.errors import UserError
from openqwq.sandbox import Limits, RunResult, Sandbox
from openqwq.sandbox.cancellation import Cancelled
from openqwq.sandbox.spec import check_files

from .tools import Context, Tool, ToolError, ToolFailed, tool_of

LIMITS = Limits(wall_s=10.0, output_bytes=1 << 20)
WORKSPACE_TOOLS = ("python", "read_file", "write_file", "edit_file", "list_files", "run_tests")
RUN_PROGRAM = """\
import linecache, sys
sys.path.insert(0, ".")
linecache.cache["program.py"] = (len(CODE), None, CODE.splitlines(True), "program.py")
exec(compile(CODE, "program.py", "exec"), globals())
"""
"""Inside the jail: programs import the files beside them, and tracebacks show their lines."""
RUN_TESTS = """\
import sys, unittest
sys.path.insert(0, ".")
suite = unittest.defaultTestLoader.discover(".", pattern=PATTERN)
result = unittest.TextTestRunner(stream=sys.stdout, verbosity=1).run(suite)
sys.exit(not result.wasSuccessful())
"""


def load_files(folder: Path) -> dict[str, bytes]:
    """The regular files below a folder, by their paths; hidden ones, `__pycache__` and links are left out.

    Raises UserError where they are too many or too large for the sandbox.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}", hint="make it, or give another --workspace")
    files: dict[str, bytes] = {}
    size = 0
    for place, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if name[0] != "." and name != "__pycache__")
        for name in sorted(names):
            path = Path(place) / name
            if name[0] == "." or path.is_symlink() or not path.is_file():
                continue
            size += path.stat().st_size
            files[path.relative_to(folder).as_posix()] = b""
            if len(files) > 256 or size > LIMITS.tmp_mib << 19:
                raise UserError(
                    f"{folder} has more than 256 files or {LIMITS.tmp_mib >> 1} MiB",
                    hint="give the folder of the part to work on",
                )
            files[path.relative_to(folder).as_posix()] = path.read_bytes()
    return files


def save_files(folder: Path, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[str]:
    """Write what changed into a folder; a line for each path that was written or removed.

    Raises UserError, with nothing written there, for a path that a symbolic link would lead elsewhere.
    """
    lines = []
    for path in sorted({*before, *after}):
        if before.get(path) == after.get(path):
            continue
        content = after.get(path)
        try:
            check_path(path)
            _save(folder, path, content)
        except (ToolError, OSError) as error:
            raise UserError(f"{path} cannot be written into {folder}: {error}") from error
        lines.append(f"{'removed' if content is None else 'changed' if path in before else 'new'} {path}")
    return lines


def _save(folder: Path, path: str, content: bytes | None) -> None:
    *parents, name = path.split("/")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    place = os.open(folder, flags)
    try:
        for part in parents:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, dir_fd=place)
            inner = os.open(part, flags | os.O_NOFOLLOW, dir_fd=place)
            os.close(place)
            place = inner
        if content is None:
            os.unlink(name, dir_fd=place)
            return
        to = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=place)
        with open(to, "wb") as file:
            file.write(content)
    finally:
        os.close(place)


def check_path(path: str) -> str:
    """The path, where it stays within the workspace. Raises ToolError."""
    try:
        check_files({path: b""}, LIMITS)
    except ValueError as error:
        raise ToolError(f"{error}; paths are relative to the workspace and stay within it") from None
    return path


def workspace_tools(sandbox: Callable[[], Sandbox]) -> list[Tool]:
    """The tools on the files of a call's context.

    sandbox: gives the one that programs run in; asked on the first run.
    """

    def python(code: Annotated[str, "the program; what it prints is the result"], context: Context) -> str:
        """Run a Python program in the workspace, without network."""
        return _run(sandbox(), f"CODE = {code!r}\n{RUN_PROGRAM}", context)

    def run_tests(
        context: Context, pattern: Annotated[str, "file names of the tests, e.g. test_*.py"] = "test*.py"
    ) -> str:
        """Run the workspace's unittest tests."""
        return _run(sandbox(), RUN_TESTS.replace("PATTERN", repr(pattern)), context)

    quiet = {"asks": False}
    run = {"deadline_s": LIMITS.wall_s * 6}
    made = [tool_of(python, **run), tool_of(read_file, **quiet), tool_of(list_files, **quiet), tool_of(write_file)]
    return [*made, tool_of(edit_file), tool_of(run_tests, **run)]


def read_file(path: Annotated[str, "relative to the workspace"], context: Context) -> str:
    """The text of a file of the workspace."""
    return _text(path, context)


def list_files(context: Context) -> str:
    """The paths of the workspace's files, with their sizes in bytes."""
    return "\n".join(f"{path} ({len(content)})" for path, content in sorted(context.files.items())) or "no files"


def write_file(path: Annotated[str, "relative to the workspace"], text: str, context: Context) -> str:
    """Write a file of the workspace, new or in place of the former one."""
    return _put(path, text, context)


def edit_file(
    path: Annotated[str, "relative to the workspace"],
    old: Annotated[str, "text that is in the file exactly once"],
    new: Annotated[str, "what stands there afterwards"],
    context: Context,
) -> str:
    """Replace one passage of a file of the workspace."""
    text = _text(path, context)
    if not old or text.count(old) != 1:
        raise ToolError(f"`old` is in {path} {text.count(old) if old else 0} times, but must be there once")
    return _put(path, text.replace(old, new), context)


def _text(path: str, context: Context) -> str:
    content = context.files.get(check_path(path))
    if content is None:
        raise ToolError(f"there is no file {path}")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise ToolError(f"{path} is no UTF-8 text; it has {len(content)} bytes") from None


def _put(path: str, text: str, context: Context) -> str:
    try:
        files = {**context.files, check_path(path): text.encode("utf-8")}
        check_files(files, LIMITS)
    except ValueError as error:
        raise ToolError(str(error)) from None
    context.files[path] = files[path]
    return f"{path} has {len(files[path])} bytes now"


def _run(sandbox: Sandbox, code: str, context: Context) -> str:
    try:
        result, left = sandbox.run_workspace(code, context.files, LIMITS, context.ticket)
    except Cancelled:
        raise ToolFailed("the call was stopped") from None
    if result.status == "infra_error":
        raise ToolFailed(result.reason)
    note = ""
    if left is None:
        note = "\n[the program left more or larger files than the workspace holds: its changes are dropped]"
    else:
        context.files.clear()
        context.files.update(left)
    if result.status == "ok":
        return (result.stdout + result.stderr or "[no output]") + note
    raise ToolError(_told(result) + note)


def _told(result: RunResult) -> str:
    parts: list[Any] = [f"{result.status}: {result.reason}", result.stdout.rstrip(), result.stderr.rstrip()]
    return "\n".join(filter(None, parts))
