"""Counters of a service in Prometheus' text format.

Source of the format: prometheus.io/docs/instrumenting/exposition_formats, version 0.0.4.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter

PREFIX = "openqwq_sandbox_"
BUCKETS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Requests by endpoint and status code, results by their word, a histogram of request times. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._results: Counter[tuple[str, str]] = Counter()
        self._buckets = [0] * (len(BUCKETS_S) + 1)
        self._total_s = 0.0

    def count_request(self, endpoint: str, code: int, wall_s: float) -> None:
        """One answered request."""
        with self._lock:
            self._requests[endpoint, code] += 1
            self._buckets[bisect_left(BUCKETS_S, wall_s)] += 1
            self._total_s += wall_s

    def count_result(self, endpoint: str, word: str) -> None:
        """One result: the status of a run or the verdict of a judgement."""
        with self._lock:
            self._results[endpoint, word] += 1

    def render(self, gauges: dict[str, float]) -> str:
        """Everything counted so far, and the gauges, as one text."""
        with self._lock:
            lines = [f"# TYPE {PREFIX}requests_total counter"]
            for (endpoint, code), count in sorted(self._requests.items()):
                lines.append(f'{PREFIX}requests_total{{endpoint="{endpoint}",code="{code}"}} {count}')
            lines.append(f"# TYPE {PREFIX}results_total counter")
            for (endpoint, word), count in sorted(self._results.items()):
                lines.append(f'{PREFIX}results_total{{endpoint="{endpoint}",result="{word}"}} {count}')
            lines.append(f"# TYPE {PREFIX}request_seconds histogram")
            below = 0
            for bound, count in zip((*BUCKETS_S, "+Inf"), self._buckets, strict=True):
                below += count
                lines.append(f'{PREFIX}request_seconds_bucket{{le="{bound}"}} {below}')
            lines += [f"{PREFIX}request_seconds_sum {self._total_s:.6f}", f"{PREFIX}request_seconds_count {below}"]
        for name, value in gauges.items():
            lines += [f"# TYPE {PREFIX}{name} gauge", f"{PREFIX}{name} {value:g}"]
        return "\n".join(lines) + "\n"
