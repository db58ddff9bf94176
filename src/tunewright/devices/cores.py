"""The cores that this process may use, and as many threads.

Torch starts a thread for each core that it sees. What a container may take of them is written
elsewhere: with two cores' worth of time on a machine of 64, 64 threads wait for one another.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

# Whoever sets one of these has said how many threads there are to be.
SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_CPUS, _NODES = "sys/devices/system/cpu", "sys/devices/system/node"
_GROUPS, _OWN_GROUP = "sys/fs/cgroup", "proc/self/cgroup"


@dataclass(frozen=True)
class Cores:
    """What a process may run on: processors, of which hyper-threads share a core.

    `quota` is how many cores' worth of time its container has, None without a limit; `num_nodes`
    counts the nodes of memory that its cores are beside.
    """

    num_processors: int
    num_cores: int
    quota: float | None
    num_nodes: int

    @property
    def usable(self) -> int:
        """The cores that are worth a thread."""
        return max(1, min(self.num_cores, math.ceil(self.quota or self.num_cores)))


def find_cores(root: Path = Path("/"), allowed: Collection[int] | None = None) -> Cores | None:
    """Returns the cores as Linux tells them; None on other systems.

    `allowed` are the processors of this process, which are asked for when absent.
    """
    if allowed is None:
        if not hasattr(os, "sched_getaffinity"):
            return None
        allowed = os.sched_getaffinity(0)
    shared = [_text(root / _CPUS / f"cpu{n}/topology/thread_siblings_list") for n in allowed]
    cores = {siblings or n for n, siblings in zip(allowed, shared, strict=True)}
    beside = [_numbers(_text(file) or "") for file in (root / _NODES).glob("node[0-9]*/cpulist")]
    num_nodes = sum(not node.isdisjoint(allowed) for node in beside)
    return Cores(len(allowed), len(cores), min(_quotas(root), default=None), max(num_nodes, 1))


def usable_cores() -> int:
    """Returns how many cores are worth a thread."""
    found = find_cores()
    return (os.cpu_count() or 1) if found is None else found.usable


@cache
def settle_threads(root: Path = Path("/")) -> None:
    """Lets torch have no more threads than there are cores for; once in a process.

    A number that somebody chose stays: one in OMP_NUM_THREADS, or one of `torch.set_num_threads`
    that torch would not have had by itself.
    """
    cores = find_cores(root)
    if cores is None or any(os.environ.get(name) for name in SETTINGS):
        return
    of_itself = {cores.num_cores, cores.num_processors, os.cpu_count()}
    if torch.get_num_threads() in of_itself and torch.get_num_threads() > cores.usable:
        torch.set_num_threads(cores.usable)


def _quotas(root: Path) -> Iterator[float]:
    """Yields the limits of the control groups that this process is in, in cores.

    Inside a container its own group may be told by its path outside, and is found at the top.
    """
    for line in (_text(root / _OWN_GROUP) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        # version 2 has no controllers here, and lies beside version 1 where there are both
        for mount in {controllers, "cpu"} if controllers else {"", "unified"}:
            for depth in range(len(parts) + 1):
                yield from _quota(root.joinpath(_GROUPS, mount, *parts[:depth]))


def _quota(group: Path) -> Iterator[float]:
    """Yields the limit of one group: microseconds in each period, by version 2 or 1."""
    told = (_text(group / "cpu.max") or "").split() or [
        _text(group / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")
    ]
    if all(word.isdigit() for word in told) and int(told[1]):  # else "max", -1 or nothing
        yield int(told[0]) / int(told[1])


def _text(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:  # not there, or not for us
        return None


def _numbers(ranges: str) -> set[int]:
    """Returns the numbers of a list such as 0-3,8."""
    ends = [part.split("-") for part in ranges.split(",") if part]
    return {number for end in ends for number in range(int(end[0]), int(end[-1]) + 1)}
