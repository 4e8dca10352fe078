"""A cancellation token: cancelling it kills the running program.

Public: Ticket, Cancelled.
"""

from __future__ import annotations

import os


class Cancelled(Exception):
    """Nobody waits for the result any more."""


class Ticket:
    """Something to cancel, once, from any thread. `fd` is readable from then on, for whoever polls."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._cancelled = False

    def cancel(self) -> None:
        """End the work; nothing happens when it has ended already."""
        self._cancelled = True
        os.eventfd_write(self.fd, 1)

    def check(self) -> None:
        """Raise Cancelled once `cancel` has been called."""
        if self._cancelled:
            raise Cancelled

    def __del__(self) -> None:
        os.close(self.fd)
