"""Products of bfloat16 numbers, against plain torch in double precision."""

from __future__ import annotations

import copy
import os
import weakref
from contextlib import nullcontext
from itertools import product as product_of

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import BertConfig, BertModel

from tunewright.models.layers.native_products import (
    Activation,
    Product,
    passed,
    use_native_products,
)
from tunewright.models.layers.sublayers import kept_weights
from tunewright.native import native

made = native()
with_products = pytest.mark.skipif(
    made is None or not made.has_products, reason="this processor multiplies no bfloat16"
)


def product(inner: int, outer: int, *, gelu: bool = False, bias: bool = True) -> Product:
    torch.manual_seed(0)
    layer = Product.of(nn.Linear(inner, outer, bias=bias))
    layer.gelu = gelu
    return layer


def activated(layer: nn.Module, values: torch.Tensor) -> torch.Tensor:
    found = layer(values)
    return Activation(nn.GELU())(found) if getattr(layer, "gelu", False) else found


def narrow(layer: nn.Module, values: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return activated(layer, values)


def slope(layer: nn.Module, values: torch.Tensor) -> torch.Tensor:
    """Returns the gradient of the values when each output's is one."""
    leaf = values.clone().requires_grad_()
    narrow(layer, leaf).sum().backward()
    return leaf.grad


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.detach(), expected.detach()
    return float((found.double() - expected).abs().max() / expected.abs().max())


@with_products
@settings(max_examples=40, deadline=None)
@given(
    rows=st.sampled_from([1, 2, 31, 32, 33, 64, 129, 513, 700]),
    sides=st.tuples(*[st.sampled_from([32, 64, 160])] * 2),
    gelu=st.booleans(),
    bias=st.booleans(),
)
def test_outputs_and_gradients_are_those_of_double_precision(rows, sides, gelu, bias):
    layer = product(*sides, gelu=gelu, bias=bias)
    values = torch.randn(1, rows, sides[0]).bfloat16().requires_grad_()
    gradient = torch.randn(1, rows, sides[1]).bfloat16()
    narrow(layer, values).backward(gradient)

    exact = values.detach().double().requires_grad_()
    weight = layer.weight.detach().bfloat16().double().requires_grad_()
    wide = layer.bias.detach().double().requires_grad_() if bias else None
    expected = nn.functional.linear(exact, weight, wide)
    expected = nn.functional.gelu(expected) if gelu else expected
    expected.backward(gradient.double())

    assert off(narrow(layer, values), expected) <= 0.008
    assert off(values.grad, exact.grad) <= 0.008
    assert off(layer.weight.grad, weight.grad) <= 0.008
    if bias:
        assert off(layer.bias.grad, wide.grad) <= 0.008
    assert layer.weight.grad.dtype == torch.float32


@with_products
def test_products_in_vectors_are_those_on_tiles(monkeypatch):
    """Where there are tiles, without them; elsewhere compiled for tiles that the system refuses."""
    flags = "-mno-amx-tile -mno-amx-bf16" if made.has_tiles else "-mamx-tile -mamx-bf16"
    monkeypatch.setenv("CC", f"{os.environ.get('CC') or 'cc'} {flags}")
    other = native()
    if other is None:
        pytest.skip("this compiler does not know the flags")
    assert (other.has_products, other.has_tiles) == (True, False)
    check_products()


@with_products
def test_products_on_tiles_are_those_in_vectors(plain_tiles):
    check_products()


def check_products() -> None:
    check = test_outputs_and_gradients_are_those_of_double_precision.hypothesis.inner_test
    for rows, gelu in product_of((1, 9, 32, 300), (False, True)):
        check(rows=rows, sides=(64, 160), gelu=gelu, bias=True)
        check(rows=rows, sides=(160, 32), gelu=gelu, bias=False)
    together = test_layers_that_read_the_same_values_give_what_each_gives.hypothesis.inner_test
    for rows in (1, 33, 300):
        together(rows=rows, sizes=(96, 32, 96), frozen=set())
    test_a_token_s_numbers_are_the_same_in_any_batch_and_on_any_threads()


class FeedForward(nn.Module):
    """Two layers with GELU between them; `touched` is called with its output before it is read."""

    def __init__(self, touched=lambda active: active) -> None:
        super().__init__()
        self.up, self.down = product(64, 160, gelu=True), product(160, 64)
        self.touched = touched

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if not torch.is_autocast_enabled("cpu"):
            active = nn.functional.gelu(nn.functional.linear(values, self.up.weight, self.up.bias))
            return nn.functional.linear(self.touched(active), self.down.weight, self.down.bias)
        return self.down(self.touched(activated(self.up, values)))


@with_products
@pytest.mark.parametrize(
    "touched",
    [
        lambda active: active,
        lambda active: active.clone(),
        lambda active: active.mul_(0.5),  # in place: it is no longer GELU of anything
        lambda active: active + 3 * active.detach().sum(-1, keepdim=True),
    ],
)
@pytest.mark.parametrize("rows", [1, 33, 300])
def test_a_product_of_gelu_gives_the_gradient_of_what_came_before_it(touched, rows):
    both = FeedForward(touched)
    exact = copy.deepcopy(both).double()
    for parameter in exact.parameters():
        parameter.data = parameter.data.bfloat16().double()
    values, gradient = torch.randn(rows, 64).bfloat16(), torch.randn(rows, 64).bfloat16()
    mine, theirs = values.clone().requires_grad_(), values.double().requires_grad_()
    narrow(both, mine).backward(gradient)
    exact(theirs).backward(gradient.double())

    assert off(mine.grad, theirs.grad) <= 0.02
    for parameter, expected in zip(both.parameters(), exact.parameters(), strict=True):
        assert off(parameter.grad, expected.grad) <= 0.02


@with_products
def test_a_gradient_of_gelu_that_something_waits_for_is_there():
    both, values = FeedForward(), torch.randn(5, 64).bfloat16()
    seen = []
    with torch.autocast("cpu", torch.bfloat16):
        active = activated(both.up, values)
        active.retain_grad()
        active.register_hook(seen.append)
        both.down(active).float().sum().backward()
        cut = activated(both.up, values)
        grown = both.up.weight.grad.clone()
        both.down(cut.detach_()).float().sum().backward()
    assert torch.equal(active.grad, seen[0])
    assert active.grad.abs().sum() > 0
    assert torch.equal(both.up.weight.grad, grown)


@with_products
def test_what_an_output_brings_along_is_given_once():
    layer, gelu = product(64, 96, gelu=True), Activation(nn.GELU())
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(torch.randn(3, 64))
        first, second = gelu(output), gelu(output)
    expected = second.detach().clone()
    first.mul_(2)
    assert torch.equal(second, expected)
    assert off(first / 2, expected.double()) <= 0.008


@with_products
def test_gelu_that_two_products_read_learns_from_both():
    up, first, second = product(64, 96, gelu=True), product(96, 32), product(96, 64)
    values = torch.randn(40, 64).bfloat16().requires_grad_()

    def learned(which):
        values.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            active = activated(up, values)
            sum(layer(active).float().sum() for layer in which).backward()
        return values.grad.double()

    apart = learned([first]) + learned([second])
    assert off(learned([first, second]), apart) <= 0.02


@with_products
@pytest.mark.parametrize("gelu", [False, True])
def test_what_is_not_a_number_is_seen(gelu):
    values = torch.randn(40, 64)
    values[7, 3], values[9, 5] = torch.nan, torch.inf
    found = narrow(product(64, 96, gelu=gelu), values)
    assert found[7].isnan().all()
    assert not found[9].isfinite().all()
    assert found[torch.arange(40).remainder(2) == 0].isfinite().all()


@with_products
def test_a_token_s_numbers_are_the_same_in_any_batch_and_on_any_threads():
    layer, values = product(96, 64, gelu=True), torch.randn(300, 96)
    whole, before = narrow(layer, values), torch.get_num_threads()
    d_whole = slope(layer, values)
    for some in (slice(100, 101), slice(37, 250)):
        assert torch.equal(narrow(layer, values[some]), whole[some])
        assert torch.equal(slope(layer, values[some]), d_whole[some])
    gradients = []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            layer.zero_grad()
            narrow(layer, values).sum().backward()
            gradients.append(layer.weight.grad.clone())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*gradients)


@with_products
def test_a_layer_without_outputs_is_left_to_torch():
    parent = nn.Sequential(nn.Linear(64, 32), nn.Linear(64, 32))
    parent[0].weight = nn.Parameter(torch.empty(0, 64))
    parent[0].bias = nn.Parameter(torch.empty(0))
    use_native_products(parent)
    assert [type(layer) for layer in parent] == [nn.Linear, Product]
    assert narrow(parent[0], torch.randn(5, 64)).shape == (5, 0)


@with_products
def test_gradients_go_only_where_they_are_wanted():
    layer, values = product(64, 32, gelu=True), torch.randn(10, 64)
    narrow(layer, values).sum().backward()
    both = layer.weight.grad
    layer.zero_grad()
    layer.weight.requires_grad_(False)
    narrow(layer, values.requires_grad_()).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None
    assert values.grad.abs().sum() > 0
    assert both.abs().sum() > 0


@with_products
def test_panels_are_kept_for_a_block_and_no_longer():
    layer, values = product(64, 64), torch.randn(5, 64)
    with torch.no_grad(), kept_weights(layer):
        first = narrow(layer, values)
        assert layer.kept is not None
        assert torch.equal(narrow(layer, values), first)
    assert layer.kept is None
    with torch.no_grad():
        layer.weight.mul_(2)
        assert not torch.equal(narrow(layer, values), first)
    with kept_weights(layer):
        narrow(layer, values)
        assert layer.kept is None  # whoever learns changes the weight


@with_products
def test_no_rows_and_odd_sides_are_left_to_torch():
    assert narrow(product(64, 32), torch.randn(0, 64)).shape == (0, 32)
    model = nn.Sequential(nn.Linear(30, 64), nn.Linear(64, 64, dtype=torch.float64))
    use_native_products(model)
    assert not any(isinstance(layer, Product) for layer in model)


def test_without_autocast_it_is_the_layer_that_it_was():
    layer, values = product(64, 32, gelu=True), torch.randn(7, 64)
    expected = nn.functional.gelu(nn.functional.linear(values, layer.weight, layer.bias))
    assert torch.equal(activated(layer, values), expected)


def tiny_bert() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=96, hidden_dropout_prob=0, attention_probs_dropout_prob=0,
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False).eval()


@with_products
def test_a_model_has_the_same_weights_and_answers_with_them():
    plain = tiny_bert()
    model = copy.deepcopy(plain)
    use_native_products(model)
    ids = torch.arange(12)[None]
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert all(layer.intermediate.dense.gelu for layer in model.encoder.layer)
    expected = plain(ids).last_hidden_state
    assert torch.equal(model(ids).last_hidden_state, expected)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(ids).last_hidden_state
    assert off(found, expected.double()) <= 0.03


@with_products
def test_what_something_hooks_on_to_is_left_alone():
    model = tiny_bert()
    first, second = model.encoder.layer
    first.intermediate.dense.register_forward_hook(lambda *_: None)
    second.intermediate.intermediate_act_fn.register_forward_hook(lambda *_: None)
    use_native_products(model)
    assert type(first.intermediate.dense) is nn.Linear
    assert not second.intermediate.dense.gelu


@with_products
@settings(max_examples=20, deadline=None)
@given(
    rows=st.sampled_from([1, 33, 100, 600]),
    sizes=st.tuples(*[st.sampled_from([32, 96])] * 3),
    frozen=st.sets(st.sampled_from(range(3))),
)
def test_layers_that_read_the_same_values_give_what_each_gives(rows, sizes, frozen):
    torch.manual_seed(0)
    parent = nn.Module()
    for name, size in zip(("query", "key", "value"), sizes, strict=True):
        parent.add_module(name, nn.Linear(64, size, bias=name != "key"))
    alone = [Product.of(layer) for layer in copy.deepcopy(parent).children()]
    use_native_products(parent)
    together = list(parent.children())
    for place in frozen:
        alone[place].weight.requires_grad_(False)
        together[place].weight.requires_grad_(False)
    values = torch.randn(rows, 64)
    gradients = [torch.randn(rows, size).bfloat16() for size in sizes]

    def learned(layers):
        read = values.clone().requires_grad_()
        found = [narrow(layer, read) for layer in layers]
        torch.autograd.backward(found, gradients)
        weights = [p.grad for layer in layers for p in layer.parameters()]
        return found, read.grad, weights

    expected, mine = learned(alone), learned(together)
    assert all(layer.together is not None for layer in together)
    assert all(map(torch.equal, expected[0], mine[0]))
    assert off(mine[1], expected[1].double()) <= 0.02  # the sum of three was rounded there
    for mine_, expected_ in zip(mine[2], expected[2], strict=True):
        assert (mine_ is None) == (expected_ is None)
        assert mine_ is None or torch.equal(mine_, expected_)


@with_products
def test_attention_to_something_else_answers_layer_by_layer():
    parent = nn.Module()
    parent.query, parent.key, parent.value = (nn.Linear(32, 32) for _ in range(3))
    plain = copy.deepcopy(parent)
    use_native_products(parent)
    here, there = torch.randn(4, 32), torch.randn(6, 32)
    for _ in range(2):
        for name, values in (("query", here), ("key", there), ("value", there)):
            found = narrow(getattr(parent, name), values)
            assert off(found, getattr(plain, name)(values).double()) <= 0.02
    assert parent.query.together is None


@with_products
def test_layers_of_other_widths_answer_alone():
    parent = nn.Module()
    parent.query, parent.key, parent.value = nn.Linear(64, 64), nn.Linear(32, 64), nn.Linear(32, 64)
    use_native_products(parent)
    assert parent.query.together is None
    assert narrow(parent.query, torch.randn(3, 64)).shape == (3, 64)


@with_products
def test_values_of_another_width_are_refused_as_torch_refuses_them():
    with pytest.raises(RuntimeError, match="shapes"):
        narrow(product(96, 32), torch.randn(4, 64))


@with_products
def test_outputs_can_be_changed_in_place():
    layer, values = product(64, 32), torch.randn(5, 64, requires_grad=True)
    found = narrow(layer, values)
    found /= 2
    found.sum().backward()
    assert off(values.grad, (layer.weight / 2).sum(0).expand(5, -1).double()) <= 0.02


@with_products
def test_the_gradient_of_a_turned_weight_is_as_it_lies():
    layer = product(64, 32)
    layer.weight = nn.Parameter(torch.randn(64, 32).t())
    values = torch.randn(7, 64)
    narrow(layer, values).sum().backward()
    assert off(layer.weight.grad, values.bfloat16().double().sum(0).expand(32, -1)) <= 0.02


@with_products
def test_a_model_that_stopped_half_way_can_be_copied():
    parent = nn.Module()
    parent.query, parent.key, parent.value = (nn.Linear(32, 32) for _ in range(3))
    use_native_products(parent)
    narrow(parent.query, torch.randn(4, 32))
    assert copy.deepcopy(parent).query.together is not None


class Around(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.base_layer = layer

    def forward(self, values):
        return self.base_layer(values) + 1


@with_products
@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("where", ["around", "hook", "hook before the activation", "replaced"])
def test_gelu_comes_after_what_is_put_between(where, learns):
    model = tiny_bert()
    use_native_products(model)
    inner = model.encoder.layer[0].intermediate
    values, layer, expected = torch.randn(3, 64), inner.dense, nn.functional.gelu
    if where == "around":
        inner.dense = Around(layer)
    elif where == "hook":
        layer.register_forward_hook(lambda _, __, found: found + 1)
    elif where == "replaced":
        inner.dense, inner.intermediate_act_fn, expected = Around(layer), nn.ReLU(), torch.relu
    else:
        inner.intermediate_act_fn.register_forward_pre_hook(lambda _, given: given[0] + 1)
    plain = nn.functional.linear(values, layer.weight, layer.bias) + 1
    with torch.set_grad_enabled(learns):
        found = narrow(inner, values)
    assert off(found, expected(plain).double()) <= 0.03


@with_products
@pytest.mark.parametrize("keeps", [True, False])
def test_a_model_that_only_answers_gives_what_one_that_learns_gives(keeps):
    model, ids = tiny_bert(), torch.arange(12)[None]
    use_native_products(model)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(ids).last_hidden_state
        with torch.no_grad(), kept_weights(model) if keeps else nullcontext():
            assert torch.equal(model(ids).last_hidden_state, expected)
        with torch.inference_mode():
            assert torch.equal(model(ids).last_hidden_state, expected)


@with_products
def test_an_output_that_nothing_asks_about_has_a_gradient_of_zero():
    torch.manual_seed(0)
    parent = nn.Module()
    parent.query, parent.key, parent.value = (nn.Linear(32, 32) for _ in range(3))
    use_native_products(parent)
    values = torch.randn(40, 32, requires_grad=True)
    found = [narrow(layer, values) for layer in (parent.query, parent.key, parent.value)]
    (found[0].float().sum() + found[2].float().sum()).backward()
    assert not parent.key.weight.grad.any()
    assert parent.value.weight.grad.all()
    weights = parent.query.weight + parent.value.weight
    assert off(values.grad, weights.sum(0).expand(40, -1).double()) <= 0.02


@with_products
@pytest.mark.parametrize("rows", [5, 96])
@pytest.mark.parametrize("gelu", [False, True])
def test_a_gradient_of_what_is_passed_on_is_added_in_the_product(rows, gelu):
    layer = product(64, 32, gelu=gelu)
    leaf = torch.randn(rows, 64).bfloat16().requires_grad_()
    gradient, beside = torch.randn(rows, 32).bfloat16(), torch.randn(rows, 64).bfloat16()
    values = leaf * 1
    outputs = narrow(layer, values)
    onward = passed(values)
    assert onward is not values
    assert torch.equal(onward, values)
    assert passed(values) is values  # once
    torch.autograd.backward([outputs, onward], [gradient, beside])

    exact = leaf.detach().double().requires_grad_()
    weight = layer.weight.detach().bfloat16().double()
    expected = nn.functional.linear(exact, weight, layer.bias.detach().double())
    expected = nn.functional.gelu(expected) if gelu else expected
    torch.autograd.backward([expected, exact * 1], [gradient.double(), beside.double()])
    assert off(leaf.grad, exact.grad) <= 0.005  # rounded once


@with_products
def test_values_that_changed_or_that_no_product_read_are_not_passed_on():
    layer = product(32, 32)
    values = torch.randn(4, 32).bfloat16().requires_grad_() * 1
    assert passed(values) is values
    narrow(layer, values)
    with torch.no_grad():
        values.add_(1)
    assert passed(values) is values


@with_products
def test_a_pass_that_no_gradient_comes_back_to_is_let_go():
    layer = product(32, 32)
    values = torch.randn(4, 32).bfloat16().requires_grad_() * 1
    found = narrow(layer, values)
    seen = weakref.ref(values)
    del values, found
    assert seen() is None
