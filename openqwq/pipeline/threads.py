"""How many CPU threads torch uses and how its heap behaves, decided in one place."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import torch


def set_threads(wanted: int) -> int:
    """Set torch's threads to `wanted`, or to the physical cores that this process may use when it is 0."""
    threads = wanted or physical_cores()
    torch.set_num_threads(threads)
    return threads


def physical_cores() -> int:
    """Cores among the CPUs that this process may run on; two hardware threads of one core count once."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return len({_siblings(cpu) for cpu in allowed})


def _siblings(cpu: int) -> str:
    file = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    return file.read_text().strip() if file.exists() else str(cpu)


MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""glibc's mallopt parameters (malloc.h)."""


def keep_heap() -> bool:
    """Let glibc's heap keep freed blocks of up to 32 MiB; whether it took the setting.

    A training step frees and takes the same large buffers; with glibc's own thresholds each is
    unmapped and mapped again, page by page. Measured on the tiny preset, 12k tokens a step, one core, runs
    in turn: 9% and 15% less CPU time.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    return bool(libc.mallopt(MMAP_THRESHOLD, 32 << 20)) and bool(libc.mallopt(TRIM_THRESHOLD, 2**31 - 1))
