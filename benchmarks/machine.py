"""What every result file says of the machine it was made on, and how fast that machine reads its memory."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
READ_FLOATS = 1 << 28


def describe_machine() -> dict:
    """The command, CPU, cores, instruction set, versions and commit."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    commit = ""
    if shutil.which("git"):
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    isa = torch.backends.cpu.get_cpu_capability()
    return {
        "command": command_line(),
        "machine": {"cpu": cpu or platform.processor(), "cores": os.cpu_count(), "isa": isa},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "commit": commit,
    }


def command_line() -> str:
    """The command that is running, with paths of this machine cut to their last part."""
    script, *words = sys.argv
    words = [Path(word).name if Path(word).is_absolute() else word for word in words]
    return shlex.join(["python", f"benchmarks/{Path(script).name}", *words])


def read_bandwidth() -> float:
    """Bytes a second that torch's threads read from large pages: the best of some quarters of a second, as a decoder's
    work goes on for seconds.
    """
    import torch

    from openqwq.kernels.cpu.large_pages import use_large_pages

    memory = torch.empty(READ_FLOATS)
    use_large_pages(memory, filled=False)
    memory.fill_(1.0)
    best = 0.0
    for _ in range(8):
        started = time.perf_counter()
        for _ in range(8):
            memory.sum()
        best = max(best, 8 * memory.nbytes / (time.perf_counter() - started))
    return best
