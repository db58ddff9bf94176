"""Weights in pieces: which passes run side by side, and what a process holds of a tensor."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tunewright.errors import SettingsError
from tunewright.models.adapting.adapter_config import AdapterConfig
from tunewright.training.sharding import Shard, _layers, check_can_be_sharded, in_step
from tunewright.types import Features, TokenStream


def row(row_id, num_tokens, *streams):
    stream = TokenStream(list(range(num_tokens)))
    return Features(row_id, dict.fromkeys(streams or ("text",), stream), {})


def shown(passes):
    return [([item.row_id for item in piece], counts) for piece, counts in passes]


def test_who_has_fewer_passes_runs_the_shortest_row_again():
    first = [[row(1, 5), row(2, 4)], [row(3, 9)], [row(4, 7)]]
    second = [[row(5, 2), row(6, 6)]]
    assert shown(in_step([first, second], 0)) == [([1, 2], True), ([3], True), ([4], True)]
    assert shown(in_step([first, second], 1)) == [([5, 6], True), ([5], False), ([5], False)]


def test_a_process_without_rows_runs_as_many_passes():
    assert shown(in_step([[[row(1, 5)], [row(2, 3)]], []], 1)) == [([2], False), ([2], False)]


def test_windows_of_the_shortest_row_stay_together():
    pieces = [[[row(1, 3), row(1, 3)], [row(2, 7)]], []]
    assert shown(in_step(pieces, 1))[0] == ([1, 1], False)


def test_passes_side_by_side_have_the_same_streams():
    first = [[row(1, 4, "b")], [row(2, 4, "a")]]
    second = [[row(3, 4, "a")], [row(4, 4, "a")]]
    kinds = [
        [(list(piece[0].streams), counts) for piece, counts in in_step([first, second], rank)]
        for rank in (0, 1)
    ]
    assert kinds[0] == [(["a"], True), (["a"], False), (["b"], True)]
    assert kinds[1] == [(["a"], True), (["a"], True), (["b"], False)]


def test_a_shard_knows_its_rows_of_another_tensor():
    shard = Shard(torch.zeros(2, 3), torch.Size([5, 3]), 3)
    whole = torch.arange(15.0).view(5, 3)
    assert torch.equal(shard.of(whole), whole[3:])
    assert torch.equal(shard.cut(whole).own, whole[3:])
    assert shard.nbytes == 60


def test_layers_are_gathered_one_by_one_unless_others_read_their_weights():
    layers = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2)]))
                           for _ in range(3))  # fmt: skip
    model = nn.ModuleDict({"layers": layers, "head": nn.Linear(2, 2)})
    assert _layers(model) == list(layers)
    model["head"].weight = layers[1][0].weight
    assert _layers(model) == [layers[0], layers[2]]


def test_a_quantised_model_is_refused():
    with pytest.raises(SettingsError) as caught:
        check_can_be_sharded(AdapterConfig(name="lora", quantize="8bit"))
    assert str(caught.value) == (
        "training.parallel=fsdp: adapter.quantize is 8bit. It needs the whole of a weight at once. "
        "Use training.parallel=ddp, or the adapter lora on a model that is not quantised."
    )
    check_can_be_sharded(AdapterConfig(name="lora"))
