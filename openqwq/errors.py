"""The one error a user's mistake ends in: what is wrong, and what to do about it.

Public: UserError, TargetMissed, disk_error.
"""

from __future__ import annotations

import errno


class UserError(Exception):
    """A mistake in the user's input, shown as two lines and exit code 2, never as a traceback.

    message: where, the value given, what is allowed.
    hint:    what to do; empty when the message already says it.
    """

    def __init__(self, message: str, *, hint: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"error: {self.message}" + (f"\nhint: {self.hint}" if self.hint else "")


class TargetMissed(Exception):
    """The run finished, but missed a target that its own recipe sets, or a stage learned nothing: exit code 1."""


_ROOM = "make room on the disk, or choose another place"
_RIGHTS = "choose another place, or change the rights of this one"
_DISK = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
    errno.EROFS: _RIGHTS,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.ENOENT: "is the path right?",
    errno.ENOTDIR: "is the path right? a part of it is a file",
    errno.EISDIR: "name a file, not a folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "a link in the path leads to itself",
    errno.EIO: "the disk does not answer: look into the system's log",
    errno.ESTALE: "the network disk has lost the file: start again",
    errno.EMFILE: "close other programs, or raise the limit with `ulimit -n`",
    errno.ENFILE: "close other programs",
}
_WITHOUT_A_NAME = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a write reports, which knows no path."""


def disk_error(error: OSError, place: object = "") -> UserError | None:
    """The user's error that a failed file operation comes from; None for one that has other causes.

    place: what was written, for errors that do not name it.
    """
    name = error.filename if error.filename is not None else place
    if error.errno not in _DISK or (not name and error.errno not in _WITHOUT_A_NAME):
        return None
    return UserError(f"{name or 'the output'}: {error.strerror}", hint=_DISK[error.errno])
