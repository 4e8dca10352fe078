"""A control group for the jobs of one jail: memory and process limits over a whole process tree.

Both hierarchies are supported, v1 (a group per controller) and v2 (one group). Where neither is
writable there is no group, and rlimits alone hold (`Sandbox.capabilities` says so).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from pathlib import Path

PREFIX = "openqwq-"
NEAR_LIMIT = 0.8  # the kernel charges in batches, so an allocation can fail some way below the bound
REMOVAL_ATTEMPTS, REMOVAL_WAIT_S = 20, 0.005  # killed processes leave their group within milliseconds
_numbers = itertools.count()


class ControlGroup:
    """One group, made on construction. Raises OSError where no writable memory controller is found.

    fds: open `cgroup.procs` files; a process that writes "0" to each joins the group.
    """

    def __init__(self) -> None:
        self.version, parents = _find_controllers()
        name = f"{PREFIX}{os.getpid()}-{next(_numbers)}"
        self._folders = {controller: parent / name for controller, parent in parents.items()}
        self.fds: list[int] = []
        self._limits: tuple[int, int] | None = None
        self._oom_kills = 0
        try:
            for folder in dict.fromkeys(self._folders.values()):
                folder.mkdir()
                self.fds.append(os.open(folder / "cgroup.procs", os.O_WRONLY))
            self.prepare(256, 64)
        except OSError:
            self.close()
            raise

    def prepare(self, memory_mib: int, processes: int) -> None:
        """Set the limits for the next job and forget the last one's counters."""
        if self._limits != (memory_mib, processes):
            self._set_memory(memory_mib << 20)
            if "pids" in self._folders:
                _write(self._folders["pids"] / "pids.max", str(processes))
            self._limits = (memory_mib, processes)
        self._oom_kills = self._count_oom_kills()
        with contextlib.suppress(OSError):  # v2 before Linux 6.12 cannot reset its peak
            peak = "memory.max_usage_in_bytes" if self.version == 1 else "memory.peak"
            _write(self._folders["memory"] / peak, "0")

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed a process of the job for memory since `prepare`."""
        return self._count_oom_kills() > self._oom_kills

    def neared_limit(self) -> bool:
        """Whether the job came close to its own bound on memory, so that what it met was that bound."""
        return self._limits is None or self.peak_mib() > NEAR_LIMIT * self._limits[0]

    def peak_mib(self) -> float:
        """Most memory that the job held at one time (in v2 before Linux 6.12: any job of this jail)."""
        name = "memory.max_usage_in_bytes" if self.version == 1 else "memory.peak"
        try:
            return int((self._folders["memory"] / name).read_text()) / (1 << 20)
        except OSError:
            return 0.0

    def waited_s(self) -> float:
        """Seconds that the group's only thread was ready to run and had no processor.

        0 where there are several, which may keep each other waiting, and where the kernel does not say.
        """
        try:
            processes = (self._folders["memory"] / "cgroup.procs").read_text().split()
            if len(processes) != 1 or len(os.listdir(f"/proc/{processes[0]}/task")) != 1:
                return 0.0
            return int(Path(f"/proc/{processes[0]}/schedstat").read_text().split()[1]) / 1e9
        except (OSError, ValueError, IndexError):  # it has ended meanwhile, or the kernel keeps no such account
            return 0.0

    def kill(self) -> None:
        """End every process of the group."""
        for _ in range(REMOVAL_ATTEMPTS):
            processes = (self._folders["memory"] / "cgroup.procs").read_text().split()
            if not processes:
                return
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
            time.sleep(REMOVAL_WAIT_S)

    def close(self) -> None:
        """Remove the group, once its last processes are gone; what does not go is left for the next start."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []
        for folder in dict.fromkeys(self._folders.values()):
            for _ in range(REMOVAL_ATTEMPTS):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(REMOVAL_WAIT_S)

    def _set_memory(self, size: int) -> None:
        folder = self._folders["memory"]
        if self.version == 2:
            _write(folder / "memory.max", str(size))
            with contextlib.suppress(OSError):  # a kernel without swap accounting
                _write(folder / "memory.swap.max", "0")
            return
        swap = folder / "memory.memsw.limit_in_bytes"
        with contextlib.suppress(OSError):  # absent without swap accounting; lifted first, as it may not lie below
            _write(swap, "-1")
        _write(folder / "memory.limit_in_bytes", str(size))
        with contextlib.suppress(OSError):
            _write(swap, str(size))

    def _count_oom_kills(self) -> int:
        return self._read_count("memory.oom_control" if self.version == 1 else "memory.events", "oom_kill")

    def _read_count(self, file: str, name: str) -> int:
        for line in (self._folders["memory"] / file).read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
        return 0


def remove_stale_groups() -> None:
    """Remove the empty groups that killed processes of ours left behind."""
    try:
        _, parents = _find_controllers()
    except OSError:
        return
    for parent in dict.fromkeys(parents.values()):
        for folder in parent.glob(f"{PREFIX}*"):
            pid = folder.name.removeprefix(PREFIX).partition("-")[0]
            if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _find_controllers() -> tuple[int, dict[str, Path]]:
    """The version and, for each of memory and pids, this process's own group. Raises OSError without memory."""
    mounts = _read_mounts()
    own = _read_own_groups()
    parents: dict[str, Path] = {
        controller: mounts[controller] / own[controller].lstrip("/")
        for controller in ("memory", "pids")
        if controller in mounts and controller in own
    }
    writable: dict[str, Path] = {name: folder for name, folder in parents.items() if os.access(folder, os.W_OK)}
    if "memory" in writable:
        return 1, writable
    if "" in mounts and "" in own:
        folder = mounts[""] / own[""].lstrip("/")
        enabled = (folder / "cgroup.subtree_control").read_text().split()
        if "memory" in enabled and os.access(folder, os.W_OK):
            return 2, {name: folder for name in ("memory", "pids") if name in enabled}
    raise OSError("no writable memory controller")


def _read_mounts() -> dict[str, Path]:
    """Where each v1 controller is mounted; the key "" is the v2 hierarchy."""
    mounts: dict[str, Path] = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, folder, kind, options, *_ = line.split(" ")
        if kind == "cgroup":
            mounts |= {option: Path(folder) for option in options.split(",") if option in ("memory", "pids")}
        elif kind == "cgroup2":
            mounts[""] = Path(folder)
    return mounts


def _read_own_groups() -> dict[str, str]:
    groups: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        groups |= dict.fromkeys(controllers.split(","), path)
    return groups


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
