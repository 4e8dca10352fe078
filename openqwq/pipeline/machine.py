"""What torch runs on, decided in one place: the device, how many CPU threads, and what becomes of freed memory."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import torch

from openqwq.train.distributed import launched_ranks

# glibc's numbers for mallopt, and its largest threshold on every version
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER, _LARGEST = 2**31 - 1, 2**25


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for its next use; whether the C library has that setting.

    Activations are freed and taken again in every pass, and fresh pages cost: on one core a gradient of
    `benchmarks/rl_step.py --work equal` took 1.13 instead of 1.26 seconds. The peak is the same.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(
        mallopt(_TRIM_THRESHOLD, _NEVER) and (mallopt(_MMAP_THRESHOLD, _NEVER) or mallopt(_MMAP_THRESHOLD, _LARGEST))
    )


def choose_device() -> torch.device:
    """The GPU where there is one (of several ranks, each its own), else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def set_threads(wanted: int) -> int:
    """Set torch's threads to `wanted`, or to the physical cores that this process may use when it is 0.

    Of several ranks on this machine each has its part of the cores.
    """
    threads = wanted or max(physical_cores() // launched_ranks(here=True), 1)
    torch.set_num_threads(threads)
    return threads


def physical_cores() -> int:
    """Cores among the CPUs that this process may run on; two hardware threads of one core count once."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return len({_siblings(cpu) for cpu in allowed})


def _siblings(cpu: int) -> str:
    file = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    return file.read_text().strip() if file.exists() else str(cpu)
