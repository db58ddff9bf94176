from __future__ import annotations

import errno
import json
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.training.faults import Broken, Counted, watched
from tests.training.killed_saves import checkpoint
from tunewright.errors import ModelError, RunError
from tunewright.training.checkpoint import Checkpoint, Checkpoints

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path):
    return Checkpoints(tmp_path / "checkpoints")


def assert_is(found, step):
    expected = checkpoint(step)
    assert (found.step, found.state) == (expected.step, expected.state)
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensors in expected.tensors.items():
        for key, tensor in tensors.items():
            assert torch.equal(found.tensors[name][key], tensor)


def names(store):
    return sorted(path.name for path in store.folder.iterdir())


def latest_step(store):
    path = store.latest()
    return None if path is None else store.read(path).step


def test_a_checkpoint_comes_back_bit_by_bit(store):
    tensors = {"model": {"w": torch.randn(3, 2).T, "half": torch.randn(5).bfloat16()}}
    store.save(Checkpoint(12, tensors, {"losses": [0.1, 1 / 3], "name": "é"}))
    found = store.read(store.latest())
    assert (found.step, found.state) == (12, {"losses": [0.1, 1 / 3], "name": "é"})
    assert torch.equal(found.tensors["model"]["w"], tensors["model"]["w"])
    assert torch.equal(found.tensors["model"]["half"], tensors["model"]["half"])


def test_a_checkpoint_is_safetensors_json_and_a_manifest_that_names_its_update(store):
    path = store.save(checkpoint(7))
    assert sorted(file.name for file in path.iterdir()) == [
        "manifest.json",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["step"] == 7
    assert manifest["files"]["state.json"]["size_bytes"] == (path / "state.json").stat().st_size


def test_without_checkpoints_there_is_no_latest(store):
    assert store.latest() is None


def test_the_newest_few_are_kept(store):
    for step in (1, 2, 30):
        store.save(checkpoint(step))
    assert names(store) == ["step-000002", "step-000030"]


def test_the_latest_is_found_by_its_manifest_and_not_by_its_name(store):
    first, second = store.save(checkpoint(5)), store.save(checkpoint(40))
    first.rename(store.folder / "step-999999")
    second.rename(store.folder / "a-name-of-the-user's")
    assert latest_step(store) == 40


def test_a_checkpoint_that_the_user_renamed_is_not_dropped(store):
    store.save(checkpoint(5)).rename(store.folder / "mine")
    for step in (6, 7, 8):
        store.save(checkpoint(step))
    assert names(store) == ["mine", "step-000007", "step-000008"]


def test_an_update_that_is_saved_twice_counts_as_the_second(store):
    store.save(checkpoint(7))
    again = Checkpoint(7, checkpoint(7).tensors, {"second": True})
    assert store.save(again).name == "step-000007-2"
    assert store.read(store.latest()).state == {"second": True}


def test_a_damaged_one_is_told_of_and_the_one_before_it_is_used(store):
    store.save(checkpoint(5))
    flip(store.save(checkpoint(6)) / "optimizer.safetensors", -1)
    heard = []
    assert store.read(store.latest(heard.append)).step == 5
    assert heard == [
        "A checkpoint cannot be used and was skipped: "
        f"{store.folder}/step-000006/optimizer.safetensors is damaged: its SHA-256 is not the "
        "manifest's."
    ]


def test_a_damaged_one_is_never_kept_in_place_of_a_whole_one(store):
    store.save(checkpoint(5))
    flip(store.save(checkpoint(6)) / "model.safetensors", -1)
    store.save(checkpoint(8))
    assert names(store) == ["step-000005", "step-000008"]


def test_a_later_one_that_training_fell_back_from_is_dropped(store):
    store.save(checkpoint(5))
    flip(store.save(checkpoint(60)) / "model.safetensors", -1)
    store.save(checkpoint(8))
    assert names(store) == ["step-000005", "step-000008"]
    assert latest_step(store) == 8


def test_one_that_another_version_wrote_is_skipped(store):
    path = store.save(checkpoint(5))
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    heard = []
    assert store.latest(heard.append) is None
    assert heard == [
        f"A checkpoint cannot be used and was skipped: {path} another version of Tunewright wrote "
        "it."
    ]


def test_what_does_not_fit_is_refused_before_anything_is_written(store):
    store.save(checkpoint(5))
    huge = torch.empty(1 << 50, device="meta")
    with pytest.raises(RunError) as caught:
        store.save(Checkpoint(6, {"model": {"w": huge}}))
    free = shutil.disk_usage(store.folder).free
    message = str(caught.value)
    assert message.startswith(
        f"{store.folder}: the state of training could not be saved (it needs 4,503,599,631,564,800 "
        "bytes, and "
    )
    assert message.endswith(
        " are free on its disk). The earlier checkpoints are as they were, and nothing was left "
        "behind. Free some space, or mend the disk."
    )
    assert free > 0
    assert names(store) == ["step-000005"]


# Faults: a save that fails, and a save that is killed, at every operation on the disk.


def every_operation(build):
    """Yields the faults at operation 1, 2, ..., until one is so late that it never comes."""
    for at in range(1, 1000):
        fault = build(at)
        yield fault
        if not fault.hit:
            assert at > 40  # so many operations there are at least
            return


@pytest.mark.parametrize("build", [Counted, Broken])
def test_whichever_operation_fails_the_earlier_checkpoint_is_whole(tmp_path, build):
    outcomes = set()
    for fault in every_operation(build):
        store = Checkpoints(tmp_path / str(fault.at), limit=1)
        store.save(checkpoint(1))
        outcome = saved_under(fault, store)
        outcomes.add(outcome)
        found = store.read(store.latest())
        assert_is(found, found.step)
        assert found.step == 2 or outcome == "failed"
        if outcome == "failed" and build is Counted:
            assert names(store) == ["step-000001"]
        store.save(checkpoint(3))
        assert names(store) == ["step-000003"]
    assert outcomes == {"saved", "failed"}


def test_what_a_killed_save_left_behind_is_cleared(store):
    for name in (".step-000003.partial", ".step-000001-2.removed", ".mine.removed"):
        (store.folder / name).mkdir(parents=True)
        (store.folder / name / "model.safetensors").write_bytes(b"half")
    store.save(checkpoint(4))
    assert names(store) == ["step-000004"]


def saved_under(fault, store):
    """Saves under a fault; a save that fails says so with one clear error."""
    with watched(fault, store.folder):
        try:
            store.save(checkpoint(2))
        except RunError as error:
            message = str(error)
        else:
            return "saved"
    assert message.startswith(f"{store.folder}: the state of training could not be saved (")
    assert "Input/output error" in message
    return "failed"


def test_killed_at_any_operation_the_earlier_or_the_new_checkpoint_is_whole(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "tests.training.killed_saves", tmp_path],
        capture_output=True, text=True, check=True, cwd=ROOT,
    ).stdout.split()  # fmt: skip
    assert set(ended[:-1]) == {str(-signal.SIGKILL)}
    assert ended[-1] == "0"
    found = []
    for at in range(1, len(ended) + 1):
        store = Checkpoints(tmp_path / str(at), limit=1)
        found.append(latest_step(store))
        assert_is(store.read(store.latest()), found[-1])
        store.save(checkpoint(3))
        assert names(store) == ["step-000003"]
    assert found == sorted(found)  # the new one is there from one operation on
    assert found.count(1) > 20
    assert found.count(2) > 10


@contextmanager
def files_of_at_most(num_bytes):
    """A quota: a write past it fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("num_bytes", [0, 20, 200, 1000])
def test_when_the_disk_is_full_the_earlier_checkpoint_stays_and_nothing_is_left(store, num_bytes):
    store.save(checkpoint(1))
    with pytest.raises(RunError, match="File too large"), files_of_at_most(num_bytes):
        store.save(checkpoint(2))
    assert names(store) == ["step-000001"]
    assert_is(store.read(store.latest()), 1)


# Damage: bits flipped, files cut short, files exchanged.


def flip(file, bit):
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(bytes(content))


def cut(file, bit):
    file.write_bytes(file.read_bytes()[: bit // 8])


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    store = Checkpoints(tmp_path_factory.mktemp("sound"))
    store.save(checkpoint(3))
    return store.save(checkpoint(4))


@pytest.mark.parametrize("damage", [flip, cut])
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.data())
def test_no_flipped_bit_and_no_cut_goes_unseen(sound, damage, where):
    file = where.draw(st.sampled_from(sorted(sound.iterdir())))
    kept = file.read_bytes()
    damage(file, where.draw(st.integers(0, len(kept) * 8 - 1)))
    try:
        with pytest.raises(ModelError) as caught:
            Checkpoints(sound.parent).read(sound)
        assert Checkpoints(sound.parent).latest().name == "step-000003"
    finally:
        file.write_bytes(kept)
    assert sound.name in caught.value.where


def test_every_bit_of_a_manifest_counts(sound):
    file = sound / "manifest.json"
    kept = file.read_bytes()
    unseen = []
    for bit in range(len(kept) * 8):
        flip(file, bit)
        if Checkpoints(sound.parent).latest().name == sound.name:
            unseen.append(bit)
        file.write_bytes(kept)
    assert unseen == []


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
def test_files_exchanged_between_two_checkpoints_are_seen(store, name):
    first, second = store.save(checkpoint(1)) / name, store.save(checkpoint(2)) / name
    kept = first.read_bytes()
    second.replace(first)
    second.write_bytes(kept)
    heard = []
    assert store.latest(heard.append) is None
    assert len(heard) == 2


def test_files_exchanged_within_a_checkpoint_are_seen(store):
    path = store.save(checkpoint(1))
    (path / "model.safetensors").write_bytes(
        (path / "optimizer.safetensors").read_bytes()[:-8] + b"12345678"
    )
    assert store.latest() is None


def test_a_missing_file_is_named(store):
    path = store.save(checkpoint(1))
    (path / "state.json").unlink()
    with pytest.raises(ModelError) as caught:
        store.read(path)
    assert str(caught.value) == (
        f"{path}/state.json: is missing. The folder is not as it was saved. Use another copy, or "
        "train again."
    )


def test_a_disk_that_cannot_be_read_counts_as_damage(store):
    store.save(checkpoint(1))
    store.save(checkpoint(2))
    heard = []
    with watched(Unreadable("step-000002"), store.folder):
        assert store.latest(heard.append).name == "step-000001"
    assert "step-000002 it cannot be read (Input/output error)" in heard[0]


class Unreadable(Counted):
    """A fault of every file in one folder."""

    def __init__(self, folder):
        super().__init__(0)
        self.folder = folder

    def __call__(self, name, arguments):
        if name == "open" and self.folder in str(arguments[0]):
            raise OSError(errno.EIO, "Input/output error")
