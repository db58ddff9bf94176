from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from tunewright.errors import ModelError
from tunewright.training.checkpoint import Checkpoints


@pytest.fixture
def kept(tmp_path):
    return Checkpoints(tmp_path / "checkpoints")


def model(value=0.0):
    layers = nn.Linear(3, 2)
    for parameter in layers.parameters():
        nn.init.constant_(parameter, value)
    return layers


def test_restoring_brings_the_weights_back_bit_by_bit(kept):
    first, second = nn.Linear(3, 2), model()
    kept.keep(first, 12, {"best": 0.5})
    kept.restore(second, 12)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)


def test_a_checkpoint_is_weights_state_and_a_manifest_with_their_hashes(kept):
    kept.keep(model(), 7, {"best": 0.5})
    files = sorted(file.name for file in kept.path(7).iterdir())
    assert files == ["manifest.json", "model.safetensors", "state.json"]
    assert json.loads((kept.path(7) / "state.json").read_text()) == {"step": 7, "best": 0.5}
    manifest = json.loads((kept.path(7) / "manifest.json").read_text())
    size = (kept.path(7) / "state.json").stat().st_size
    assert manifest["files"]["state.json"]["size_bytes"] == size


def test_a_step_that_is_kept_twice_is_kept_as_the_second(kept):
    kept.keep(model(1.0), 7, {})
    kept.keep(model(2.0), 7, {})
    target = model()
    kept.restore(target, 7)
    assert target.bias.tolist() == [2.0, 2.0]


def test_only_the_last_checkpoint_is_left(kept):
    for step in (1, 2, 30):
        kept.keep(model(step), step, {})
    assert [folder.name for folder in kept.folder.iterdir()] == ["step-000030"]


def test_what_a_killed_save_left_behind_is_cleared(kept):
    partial = kept.folder / ".step-000003.partial"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(b"half")
    kept.keep(model(), 4, {})
    assert [folder.name for folder in kept.folder.iterdir()] == ["step-000004"]


def test_shared_weights_come_back_shared(kept):
    first = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    first[1].weight = first[0].weight
    second = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    second[1].weight = second[0].weight
    kept.keep(first, 1, {})
    kept.restore(second, 1)
    assert torch.equal(second[1].weight, first[0].weight)


def flip(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, cut, lambda file: file.unlink()])
@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
def test_a_damaged_file_is_named_and_nothing_is_read(kept, name, damage):
    kept.keep(model(1.0), 2, {})
    damage(kept.path(2) / name)
    target = model()
    with pytest.raises(ModelError) as caught:
        kept.restore(target, 2)
    assert str(caught.value).startswith(f"{kept.path(2) / name}: ")
    assert str(caught.value).endswith(
        "The folder is not as it was saved. Use another copy, or train again."
    )
    assert target.bias.tolist() == [0.0, 0.0]
