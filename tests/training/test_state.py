from __future__ import annotations

import pytest
import torch
from torch import nn

from tunewright.errors import ModelError
from tunewright.training.state import (
    optimizer_state,
    put_optimizer_state,
    put_weights,
    weights_of,
)


def network(seed=0, **sizes):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(sizes.get("width", 3), 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def adam(model, groups=2):
    parameters = list(model.parameters())
    parts = [parameters[:3], parameters[3:]] if groups == 2 else [parameters[::-1]]
    return torch.optim.AdamW([{"params": part, "lr": 0.01} for part in parts], fused=True)


def train(model, optimizer, steps, start=0):
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        model(torch.randn(8, 3, generator=generator)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def assert_same(first, second):
    for name, tensor in weights_of(first).items():
        assert torch.equal(tensor, weights_of(second)[name]), name


def copies(tensors):
    return {name: tensor.clone() for name, tensor in tensors.items()}


@pytest.mark.parametrize("groups", [1, 2])
def test_training_goes_on_to_the_same_bits(groups):
    whole, first, second = network(), network(), network(seed=1)
    train(whole, adam(whole), 6)
    optimizer = adam(first)
    train(first, optimizer, 4)
    tensors, numbers = optimizer_state(first, optimizer)
    tensors, weights = copies(tensors), copies(weights_of(first))
    later = adam(second, groups)
    put_weights(second, weights)
    put_optimizer_state(second, later, tensors, numbers)
    train(second, later, 2, start=4)
    assert_same(second, whole)


def test_saved_buffers_are_weights_too_and_others_are_not():
    model = network()
    model.register_buffer("positions", torch.arange(3), persistent=False)
    assert "1.running_mean" in weights_of(model)
    assert "positions" not in weights_of(model)


def test_plain_values_of_an_optimizer_come_back():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    put_optimizer_state(model, optimizer, {}, {"0.bias|rounds": 3})
    assert optimizer_state(model, optimizer) == ({}, {"0.bias|rounds": 3})


def test_weights_of_another_shape_are_refused_and_nothing_is_changed():
    model, other = network(), network(seed=1, width=5)
    before = copies(weights_of(model))
    with pytest.raises(ModelError) as caught:
        put_weights(model, weights_of(other))
    assert str(caught.value) == (
        'checkpoint: "0.weight" is (4, 5). The model has (4, 3). It belongs to another model.'
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in weights_of(model).items())


def test_a_missing_weight_is_named():
    model = network()
    given = weights_of(model)
    del given["2.bias"]
    with pytest.raises(ModelError, match=r'"2.bias" is missing. The model has \(2,\)'):
        put_weights(model, given)


def test_the_state_of_a_parameter_that_is_frozen_here_is_refused():
    model = network()
    optimizer = torch.optim.AdamW(model[0].parameters())
    with pytest.raises(ModelError, match=r"it trains \"2\.bias\", which does not learn here"):
        put_optimizer_state(model, optimizer, {"2.bias|exp_avg": torch.zeros(2)}, {})
