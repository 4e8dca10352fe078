"""Several files in one descriptor: what goes into a job's folder, and what a compiler leaves there.

A line of JSON (`[[name, size], ...]`), then the contents one after another. Runs on both sides of the wall and
imports nothing of ours. `collect` and `collect_tree` run out of the candidate's reach, but read a folder that it made:
they follow no link, read only regular files, and stop at their caps.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import stat

MAX_FILES = 256


def pack(files: dict[str, bytes]) -> int:
    """A descriptor of a memory file that holds the files (relative path: content)."""
    fd = os.memfd_create("files")
    with open(fd, "wb", closefd=False) as archive:
        archive.write(json.dumps([[name, len(data)] for name, data in files.items()]).encode() + b"\n")
        for data in files.values():
            archive.write(data)
    return fd


def unpack(archive: int, folder: str) -> None:
    """Write the files of `pack` into a folder that only we have written to; all of them may be executed."""
    with mmap.mmap(archive, 0, prot=mmap.PROT_READ) as source:  # leaves the shared position of the descriptor alone
        for name, size in json.loads(source.readline()):
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(source.read(size))
            os.chmod(path, 0o755)


def read(archive: int) -> dict[str, bytes]:
    """The files of `pack`."""
    with open(os.dup(archive), "rb") as source:
        source.seek(0)
        return {name: source.read(size) for name, size in json.loads(source.readline())}


def collect(folder: str, max_bytes: int) -> dict[str, bytes]:
    """The regular files that lie in a folder, up to 256 of them and `max_bytes` together; none where it is missing."""
    files: dict[str, bytes] = {}
    try:
        folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return files
    try:
        for name in sorted(os.listdir(folder_fd))[:MAX_FILES]:
            with contextlib.suppress(OSError):  # a link, or one that cannot be read
                data = _read_regular(name, folder_fd, max_bytes)
                max_bytes -= len(data)
                files[name] = data
    finally:
        os.close(folder_fd)
    return files


def collect_tree(folder: str, max_bytes: int) -> dict[str, bytes]:
    """The regular files below a folder, by their relative paths; none but one without a name where they are too many.

    Folders of compiled Python, and what cannot be read, are left out.
    """
    files: dict[str, bytes] = {}
    try:
        for place, folders, names, folder_fd in os.fwalk(folder, onerror=None, follow_symlinks=False):
            folders[:] = [name for name in folders if name != "__pycache__"]
            for name in sorted(names):
                path = os.path.relpath(os.path.join(place, name), folder)
                with contextlib.suppress(OSError):
                    info = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
                    if not stat.S_ISREG(info.st_mode):
                        continue
                    max_bytes -= info.st_size
                    if len(files) == MAX_FILES or max_bytes < 0 or not path.isprintable():
                        return {"": b""}
                    files[path] = _read_regular(name, folder_fd, info.st_size)
    except (OSError, RecursionError, UnicodeError):
        return {"": b""}
    return files


def _read_regular(name: str, folder_fd: int, max_bytes: int) -> bytes:
    """The file's content. Raises OSError for a link, a pipe, a device, and a file that is too large."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
    with open(fd, "rb") as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size > max_bytes:
            raise OSError(f"{name} is not a regular file of up to {max_bytes} bytes")
        return file.read(max_bytes)
