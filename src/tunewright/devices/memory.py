"""How much memory a device has and has left, and how much this process has needed at most."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

# The limit of a container, as versions 2 and 1 of Linux's control groups state it.
_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def free_bytes(kind: str) -> int | None:
    """Returns the bytes that a process can still take on a device; None where nobody says."""
    if kind == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    if kind != "cpu":
        return None
    known = [_available(), *(_left_in_group(*files) for files in _GROUPS)]
    return min((value for value in known if value is not None), default=None)


def main_memory() -> int | None:
    """Returns the bytes of memory that the CPU's processes have, free or not: the machine's, or
    the limit of its container. None where nobody says.
    """
    known = [_of_the_machine(), *(_limit_of_group(limit) for limit, _ in _GROUPS)]
    return min((value for value in known if value is not None), default=None)


def peak_bytes(kind: str) -> int:
    """Returns the most that this process has held on a device so far."""
    if kind == "cuda":
        return int(torch.cuda.max_memory_allocated())
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def held_bytes(kind: str) -> int:
    """Returns what this process holds on a device now; 0 where nobody says."""
    if kind == "cuda":
        return int(torch.cuda.memory_allocated())
    return _field(Path("/proc/self/status"), "VmRSS") or 0


def _available() -> int | None:
    return _field(Path("/proc/meminfo"), "MemAvailable")


def _field(file: Path, name: str) -> int | None:
    """Returns a line of kB of one of Linux's own files, in bytes."""
    if not file.exists():
        return None
    lines = (line.split() for line in file.read_text().splitlines())
    return next((int(line[1]) * 1024 for line in lines if line[0] == f"{name}:"), None)


def _of_the_machine() -> int | None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", ()):  # Windows
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _left_in_group(limit: str, used: str) -> int | None:
    most = _limit_of_group(limit)
    if most is None or not Path(used).exists():
        return None
    return max(0, most - int(Path(used).read_text()))


def _limit_of_group(limit: str) -> int | None:
    most = Path(limit).read_text().strip() if Path(limit).exists() else "max"
    return None if most == "max" else int(most)
