"""What torch runs on, decided in one place: the device, and how many CPU threads."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def choose_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
