"""How many threads there are, by what Linux says of the machine and of the container."""

from __future__ import annotations

import os

import pytest
import torch

from tunewright.devices.cores import Cores, find_cores, settle_threads

TWO_NODES = {0: range(8), 1: range(8, 16)}


@pytest.fixture
def machine(tmp_path):
    """Returns a function that writes what Linux tells of a machine; hyper-threads are n and n + 1.

    `files` are others, by their paths.
    """

    def build(files=(), nodes=TWO_NODES, threads_of_a_core=2):
        told = {**dict(files)}
        for node, numbers in nodes.items():
            told[f"sys/devices/system/node/node{node}/cpulist"] = f"{numbers[0]}-{numbers[-1]}"
            for number in numbers:
                first = number - number % threads_of_a_core
                siblings = f"{first}-{first + 1}" if threads_of_a_core == 2 else str(number)
                place = f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"
                told[place] = siblings
        for path, text in told.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(f"{text}\n")
        return tmp_path

    return build


@pytest.fixture
def threads(monkeypatch):
    """Returns a function that sets the number of torch's threads; they are put back in the end."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_hyper_threads_share_a_core_and_nodes_count_where_the_process_may_run(machine):
    assert find_cores(machine(), range(16)) == Cores(16, 8, None, 2)
    assert find_cores(machine(), range(8, 16)) == Cores(8, 4, None, 1)
    assert find_cores(machine(), [1, 2, 3]) == Cores(3, 2, None, 1)
    assert find_cores(machine(threads_of_a_core=1), range(16)) == Cores(16, 16, None, 2)


def test_a_machine_that_says_nothing_has_a_core_for_each_processor(tmp_path):
    assert find_cores(tmp_path, range(6)) == Cores(6, 6, None, 1)


V2 = {"proc/self/cgroup": "0::/"}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        (V2 | {"sys/fs/cgroup/cpu.max": "max 100000"}, None),
        (V2 | {"sys/fs/cgroup/cpu.max": "250000 100000"}, 2.5),
        # the strictest of a group and those that it is in
        (
            {
                "proc/self/cgroup": "0::/pods/one",
                "sys/fs/cgroup/pods/one/cpu.max": "max 100000",
                "sys/fs/cgroup/pods/cpu.max": "300000 100000",
                "sys/fs/cgroup/cpu.max": "900000 100000",
            },
            3.0,
        ),
        # a container whose group is told by its path outside
        ({"proc/self/cgroup": "0::/docker/f00", "sys/fs/cgroup/cpu.max": "50000 50000"}, 1.0),
        # version 1, with the controller's own folder, and version 2 without limits beside it
        (
            {
                "proc/self/cgroup": "4:cpuset:/\n3:cpu,cpuacct:/docker/f00\n0::/",
                "sys/fs/cgroup/cpu,cpuacct/docker/f00/cpu.cfs_quota_us": "150000",
                "sys/fs/cgroup/cpu,cpuacct/docker/f00/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            1.5,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
        # a limit of another controller is none of time
        (
            {
                "proc/self/cgroup": "1:cpuset:/",
                "sys/fs/cgroup/cpuset/cpu.cfs_quota_us": "100000",
                "sys/fs/cgroup/cpuset/cpu.cfs_period_us": "100000",
            },
            None,
        ),
    ],
)
def test_a_container_s_limit_is_found_by_either_version_of_control_groups(machine, files, quota):
    assert find_cores(machine(files), range(16)).quota == quota


@pytest.mark.parametrize(("quota", "usable"), [(None, 8), (2.5, 3), (0.2, 1), (64.0, 8)])
def test_a_quota_is_rounded_up_and_never_more_than_the_cores(quota, usable):
    assert Cores(16, 8, quota, 1).usable == usable


@pytest.mark.parametrize("of_itself", [8, 16])
def test_torch_s_own_number_of_threads_is_lowered_to_the_quota(machine, threads, of_itself):
    threads(of_itself)
    settle_threads(machine(V2 | {"sys/fs/cgroup/cpu.max": "150000 100000"}))
    assert torch.get_num_threads() == 2


def test_hyper_threads_get_no_threads_of_torch(machine, threads):
    threads(16)
    settle_threads(machine())
    assert torch.get_num_threads() == 8


@pytest.mark.parametrize("chosen", [1, 3, 12])
def test_a_number_that_torch_would_not_have_is_the_user_s(machine, threads, chosen):
    threads(chosen)
    settle_threads(machine(V2 | {"sys/fs/cgroup/cpu.max": "150000 100000"}))
    assert torch.get_num_threads() == chosen


def test_a_number_in_the_environment_is_the_user_s(machine, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    threads(16)
    settle_threads(machine(V2 | {"sys/fs/cgroup/cpu.max": "150000 100000"}))
    assert torch.get_num_threads() == 16


def test_what_the_user_sets_after_the_first_time_stays(machine, threads):
    root = machine(V2 | {"sys/fs/cgroup/cpu.max": "150000 100000"})
    for _ in range(2):
        settle_threads(root)
        threads(16)
    settle_threads(root)
    assert torch.get_num_threads() == 16
