"""The one error a user's mistake ends in: what is wrong, and what to do about it."""


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
