"""Several processes train as one does: the same rows, losses and weights."""

from __future__ import annotations

import pytest

from tests.tasks.examples import TRIED
from tests.training.processes import IN_WINDOWS, WINDOW, cases, started, told_by

CASES = list(cases())
SHARED = [(case.name, parallel) for case in CASES for parallel in case.parallel]


@pytest.fixture(scope="module")
def told(tiny_folder):
    """What one process and two, whole and in pieces, say of the same trainings."""
    folders = {case.architecture: str(tiny_folder(case.architecture)) for case in CASES}
    sizes = {"alone": 1, "ddp": 2, "fsdp": 2}
    return {parallel: told_by(size, folders, parallel) for parallel, size in sizes.items()}


def test_every_task_is_trained(told):
    assert len(told["alone"]) == len(CASES) == len(TRIED) + 6 + 13 + 4 + 2 + 1
    assert len(told["fsdp"]) == len(CASES) - 1
    assert len(told["ddp"]) == len(TRIED) + 6 + 2 + 1


@pytest.mark.parametrize(("name", "parallel"), SHARED)
def test_two_processes_give_the_loss_curve_of_one(told, name, parallel):
    one, two = told["alone"][name], told[parallel][name]
    # other cuts round otherwise, and the first steps of AdamW see the sign of each number alone;
    # where memory was short, even the cuts of one process are others than before
    near = 3e-6 if name in ("short of memory", "regression", "unlike parts") else 1e-6
    assert two["losses"] == pytest.approx(one["losses"], abs=near, rel=near)
    assert two["norms"] == pytest.approx(one["norms"], rel=1e-4)
    assert two["sizes"] == [pytest.approx(sizes) for sizes in one["sizes"]]


def test_processes_agree_on_passes_that_fit_where_all_rows_belong_together(told):
    found = {told[parallel]["short of memory"]["max_tokens"] for parallel in ("alone", "ddp")}
    assert max(found) <= 16


@pytest.mark.parametrize("task", IN_WINDOWS)
def test_windows_of_a_text_pass_apart(told, task):
    found = told["alone"][f"{task} in windows"]
    assert found["longest_row"] > found["max_tokens"] == WINDOW


@pytest.mark.parametrize(("name", "parallel"), SHARED)
def test_all_processes_hold_the_same_weights_to_the_bit(told, name, parallel):
    digests = told[parallel][name]["digests"]
    assert len(digests) == 2
    assert digests[0] == digests[1]


def test_processes_of_one_machine_know_how_many_share_its_memory(told):
    sizes = {how: {case["local_size"] for case in cases.values()} for how, cases in told.items()}
    assert sizes == {"alone": {1}, "ddp": {2}, "fsdp": {2}}


ENDED = """
import atexit
from torch import distributed
from tunewright.devices.processes import join_processes
atexit.register(lambda: print(distributed.is_initialized()))  # what is registered first runs last
join_processes().wait()
"""


def test_the_threads_that_carry_messages_end_before_python():
    processes = started(2, "-c", ENDED)
    said = [process.communicate(timeout=120) for process in processes]
    assert said == [("False\n", "")] * 2
    assert [process.returncode for process in processes] == [0, 0]


LEFT_ALONE = """
from tunewright.devices.processes import join_processes
processes = join_processes()
processes.wait()
if processes.rank == 1:
    import os, signal
    os.kill(os.getpid(), signal.{signal})
processes.wait()
"""


def test_a_process_that_is_killed_is_noticed_by_the_others():
    first, second = started(2, "-c", LEFT_ALONE.format(signal="SIGKILL"))
    _, said = first.communicate(timeout=60)
    second.communicate()
    assert second.returncode == -9
    assert first.returncode == 1
    assert "ProcessLost: processes: another process of this run has ended" in said


@pytest.mark.slow
def test_a_process_that_stands_still_is_noticed_in_time(monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_TIMEOUT", "5")
    first, second = started(2, "-c", LEFT_ALONE.format(signal="SIGSTOP"))
    _, said = first.communicate(timeout=60)
    second.kill()
    second.communicate()
    assert first.returncode == 1
    assert "does not answer" in said


def test_what_is_missing_in_the_environment_is_named(monkeypatch):
    from tunewright.devices import processes
    from tunewright.errors import SettingsError

    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in processes.VARIABLES:
        if name != "WORLD_SIZE":
            monkeypatch.delenv(name, raising=False)
    processes.join_processes.cache_clear()
    with pytest.raises(SettingsError) as caught:
        processes.join_processes()
    assert str(caught.value) == (
        "WORLD_SIZE: it is 2, and RANK, MASTER_ADDR, MASTER_PORT is not set. Several processes "
        "need to know one another. Start them with tunewright launch, or with torchrun."
    )
