"""Counts and times of the server in Prometheus' text format.

Public: Metrics, Histogram.
"""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .engine import ServedModel

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


ENGINE_STATS = {
    "running": "Samples that run.",
    "waiting": "Samples that wait.",
    "kv_blocks_used": "Blocks of the KV cache in use.",
    "kv_blocks": "Blocks of the KV cache.",
    "cached_tokens_total": "Prompt tokens found in the cache.",
    "preemptions_total": "Sequences that lost their blocks and were computed again.",
    "drafted_tokens_total": "Tokens guessed by speculation.",
    "accepted_tokens_total": "Guessed tokens that were sampled.",
}


def _process() -> Iterator[tuple[str, str, int]]:
    """What this process holds, under Prometheus' usual names; nothing where the system does not tell."""
    own = Path("/proc/self")
    if (own / "statm").is_file():
        pages = int((own / "statm").read_text().split()[1])
        memory = pages * os.sysconf("SC_PAGE_SIZE")
        yield "process_resident_memory_bytes", "Memory that the process holds.", memory
        yield "process_open_fds", "Files and connections that the process holds.", len(os.listdir(own / "fd"))


def _label(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Histogram:
    """Observed values by upper bound, cumulated when they are shown."""

    def __init__(self, bounds: tuple[float, ...] = SECONDS):
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> Iterator[str]:
        total = 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self.sum:.6f}"
        yield f"{name}_count {total}"


class Metrics:
    """What the server has done since its start."""

    def __init__(self) -> None:
        self.responses: Counter[tuple[str, int]] = Counter()
        self.requests_running = 0
        self.prompt_tokens = self.generated_tokens = self.reasoning_tokens = 0
        self.time_to_first_token = Histogram()
        self.inter_token = Histogram()

    @contextmanager
    def running(self, prompt_tokens: int) -> Iterator[None]:
        """Count a request while it is under way."""
        self.requests_running += 1
        self.prompt_tokens += prompt_tokens
        try:
            yield
        finally:
            self.requests_running -= 1

    def generated(self, tokens: int, reasoning_tokens: int) -> None:
        self.generated_tokens += tokens
        self.reasoning_tokens += reasoning_tokens

    def render(self, models: Iterable[ServedModel]) -> str:
        """The whole page; asked for from the event loop whose tasks it counts."""
        lines = []
        for name, kind, text, value in (
            ("requests_running", "gauge", "Requests that run or wait.", self.requests_running),
            ("prompt_tokens_total", "counter", "Prompt tokens taken in.", self.prompt_tokens),
            ("generated_tokens_total", "counter", "Tokens sampled.", self.generated_tokens),
            ("reasoning_tokens_total", "counter", "Tokens sampled inside thinking.", self.reasoning_tokens),
        ):
            lines += [f"# HELP openqwq_{name} {text}", f"# TYPE openqwq_{name} {kind}", f"openqwq_{name} {value}"]
        lines += [
            "# HELP openqwq_responses_total Responses by path and status.",
            "# TYPE openqwq_responses_total counter",
        ]
        for (path, status), count in sorted(self.responses.items()):
            lines.append(f'openqwq_responses_total{{path="{path}",status="{status}"}} {count}')
        for name, text, histogram in (
            ("time_to_first_token_seconds", "From a request's arrival to its first token.", self.time_to_first_token),
            ("inter_token_seconds", "Between a request's gains.", self.inter_token),
        ):
            lines += [f"# HELP openqwq_{name} {text}", f"# TYPE openqwq_{name} histogram"]
            lines += histogram.lines(f"openqwq_{name}")
        for name, text, held in (("openqwq_tasks", "Tasks of the event loop.", len(asyncio.all_tasks())), *_process()):
            lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge", f"{name} {held}"]
        stats = [(model.name, model.engine.stats()) for model in models]
        for field, text in ENGINE_STATS.items():
            kind = "counter" if field.endswith("_total") else "gauge"
            name = "kv_blocks_total" if field == "kv_blocks" else field.removesuffix("_total")
            lines += [f"# HELP openqwq_engine_{field} {text}", f"# TYPE openqwq_engine_{field} {kind}"]
            lines += [f'openqwq_engine_{field}{{model="{_label(m)}"}} {getattr(s, name)}' for m, s in stats]
        return "\n".join(lines) + "\n"
