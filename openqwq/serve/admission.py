"""How many samples may be under way at once: those beyond are told to come back.

Public: Admission.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import ApiError


class Admission:
    """Counts the samples of all requests under way.

    limit:         samples that run or wait, at most; a request that alone has more is let in when nothing else is.
    retry_after_s: what a refused client is told to wait.
    """

    def __init__(self, limit: int, retry_after_s: int = 2):
        self.limit, self.retry_after_s = limit, retry_after_s
        self.under_way = 0
        self.draining = False

    @contextmanager
    def admit(self, num_samples: int) -> Iterator[None]:
        """Hold places while a request is under way. Raises ApiError 429 when they are taken, 503 while draining."""
        headers = {"Retry-After": str(self.retry_after_s)}
        if self.draining:
            raise ApiError(503, "the server is shutting down", code="shutting_down", headers=headers)
        if self.under_way and self.under_way + num_samples > self.limit:
            raise ApiError(
                429,
                f"{self.under_way} samples are under way and {num_samples} more asked for; the limit is {self.limit}",
                code="queue_full",
                headers=headers,
            )
        self.under_way += num_samples
        try:
            yield
        finally:
            self.under_way -= num_samples
