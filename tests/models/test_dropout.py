from __future__ import annotations

import pytest
import torch
from torch import nn

from tunewright.models.dropout import Dropout, DropoutSource, replace_dropout


def dropped(p=0.1, seed=(0, 0), size=100_000):
    source = DropoutSource()
    source.reseed(*seed)
    return Dropout(p, source)(torch.ones(size))


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_the_share_of_zeros_is_the_probability_rounded_to_a_256th(p):
    rounded, size = round(p * 256) / 256, 100_000
    share = float((dropped(p) == 0).float().mean())
    assert share == pytest.approx(rounded, abs=4 * (rounded * (1 - rounded) / size) ** 0.5)


def test_what_is_kept_is_scaled_so_that_the_expectation_stays():
    values = dropped(0.1)
    drop_bytes = round(0.1 * 256)
    assert values.unique().tolist() == [0.0, pytest.approx(256 / (256 - drop_bytes))]
    assert float(values.mean()) == pytest.approx(1, abs=0.005)


def test_the_mask_depends_on_seed_and_step_only():
    assert torch.equal(dropped(seed=(1, 2)), dropped(seed=(1, 2)))
    assert not torch.equal(dropped(seed=(1, 2)), dropped(seed=(1, 3)))
    assert not torch.equal(dropped(seed=(1, 2)), dropped(seed=(2, 2)))


def test_the_mask_is_the_same_for_any_number_of_threads():
    before, one = torch.get_num_threads(), dropped(seed=(3, 4))
    torch.set_num_threads(2 if before == 1 else 1)
    try:
        other = dropped(seed=(3, 4))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, other)


def test_torch_s_random_state_neither_matters_nor_changes():
    before = torch.get_rng_state()
    first = dropped(seed=(5,))
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        assert torch.equal(dropped(seed=(5,)), first)


def test_the_gradient_passes_through_the_same_mask():
    values = torch.randn(1000, requires_grad=True)
    found = Dropout(0.3, DropoutSource())(values)
    found.sum().backward()
    kept = found.detach() != 0
    drop_bytes = round(0.3 * 256)
    torch.testing.assert_close(values.grad, kept * (256 / (256 - drop_bytes)))


def test_two_calls_in_one_step_draw_two_masks():
    source = DropoutSource()
    layer = Dropout(0.5, source)
    assert not torch.equal(layer(torch.ones(100)), layer(torch.ones(100)))


@pytest.mark.parametrize("p", [0.0, 0.001, 0.5])
def test_dropout_is_off_in_evaluation_and_when_its_probability_rounds_to_nothing(p):
    values, layer = torch.randn(10), Dropout(p, DropoutSource())
    if p > 0.01:
        layer.eval()
    assert layer(values) is values


def test_every_dropout_of_a_model_is_replaced_and_nothing_else():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.Sequential(nn.Dropout(1.0)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    replace_dropout(model)
    found = [module for module in model.modules() if isinstance(module, Dropout)]
    assert [layer.p for layer in found] == [0.1, 255 / 256]
    assert not any(type(module) is nn.Dropout for module in model.modules())
    assert before.keys() == model.state_dict().keys()
