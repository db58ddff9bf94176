"""AdamW in native code, against torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tunewright.models.layers.embedding import RowEmbedding
from tunewright.native import native
from tunewright.training.native_adamw import NativeAdamW, gradient_norm, norm_on_device
from tunewright.training.optimizer import set_factor

pytestmark = pytest.mark.skipif(native() is None, reason="there is no native code here")


def model_of(width=6, rows=50, seed=0):
    torch.manual_seed(seed)
    table = RowEmbedding.of(nn.Embedding(rows, width))
    return nn.Sequential(table, nn.Linear(width, 700), nn.LayerNorm(700), nn.Linear(700, 3))


def optimizer_of(model, decay=0.01, tables=True):
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    return NativeAdamW(
        [
            {"params": matrices, "lr": 0.02, "peak": 0.02, "weight_decay": decay},
            {"params": vectors, "lr": 0.01, "peak": 0.01, "weight_decay": 0.0},
        ],
        [model[0]] if tables else [],
        betas=(0.9, 0.98),
        eps=1e-8,
    )


def backward(model, ids):
    model(torch.tensor(ids)).square().sum().backward()


def updated(model, optimizer, updates, scale=0.5):
    for number, ids in enumerate(updates):
        backward(model, ids)
        set_factor(optimizer, 1 / (number + 1))
        optimizer.scaled_step(scale)
        optimizer.zero_grad(set_to_none=True)
    return model


UPDATES = st.lists(st.lists(st.integers(0, 49), min_size=1, max_size=20), min_size=1, max_size=5)


@settings(max_examples=20, deadline=None)
@given(UPDATES, st.sampled_from([0.0, 0.1]), st.sampled_from([0.01, 1.0]))
def test_it_is_torch_s_adamw_of_the_scaled_gradient(updates, decay, scale):
    model, plain = model_of(), model_of()
    theirs = optimizer_of(plain, decay)
    theirs.register_step_pre_hook(lambda *_: None)  # whoever waits for a step gets torch's own
    updated(plain, theirs, updates, scale)
    mine = optimizer_of(model, decay)
    updated(model, mine, updates, scale)
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)
        for key, value in theirs.state[other].items():
            torch.testing.assert_close(mine.state[one][key], value, atol=2e-5, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(UPDATES, st.sampled_from([0.0, 0.1]))
def test_rows_that_were_never_read_end_as_a_pass_over_all_rows_would_leave_them(updates, decay):
    by_rows, dense = model_of(), model_of()
    updated(by_rows, optimizer_of(by_rows, decay), updates)
    updated(dense, optimizer_of(dense, decay, tables=False), updates)
    for one, other in zip(by_rows.parameters(), dense.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_was_saved_goes_on_to_the_same_bits():
    updates = [[1, 2], [3], [2, 9, 9], [40]]
    whole, first, second = model_of(), model_of(), model_of(seed=1)
    updated(whole, optimizer_of(whole), updates)
    half = optimizer_of(first)
    updated(first, half, updates[:2])
    second.load_state_dict(first.state_dict())
    resumed = optimizer_of(second)
    backward(second, [7])  # it had been used before it took the state up
    resumed.scaled_step(1.0)
    resumed.zero_grad(set_to_none=True)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(half.state_dict())
    for number, ids in enumerate(updates[2:], 2):
        backward(second, ids)
        set_factor(resumed, 1 / (number + 1))
        resumed.scaled_step(0.5)
        resumed.zero_grad(set_to_none=True)
    for one, other in zip(second.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_gradient_that_is_not_of_rows_touches_all_rows():
    model, plain = model_of(), model_of()
    for one, optimizer in (
        (model, optimizer_of(model)),
        (plain, optimizer_of(plain, tables=False)),
    ):
        updated(one, optimizer, [[1]])
        for _ in range(2):
            backward(one, [2])
            one[0].weight.grad = torch.ones_like(one[0].weight)
            optimizer.scaled_step(1.0)
            optimizer.zero_grad(set_to_none=True)
        updated(one, optimizer, [[3]])
    assert torch.equal(model[0].weight, plain[0].weight)


def test_the_norm_is_torch_s_and_no_thread_changes_a_bit_of_norm_or_step():
    before, found = torch.get_num_threads(), []
    kept = model_of(width=300, rows=400)
    backward(kept, list(range(0, 400, 3)))
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            model = model_of(width=300, rows=400)
            for p, given in zip(model.parameters(), kept.parameters(), strict=True):
                p.grad = given.grad.clone()
            rows = kept[0].rows_written()
            model[0].put_rows(rows, kept[0].weight.grad[rows])
            gradients = [p.grad for p in model.parameters()]
            norm = gradient_norm(gradients, [model[0]])
            assert norm == pytest.approx(float(torch.nn.utils.get_total_norm(gradients)), rel=1e-6)
            optimizer_of(model).scaled_step(0.1)
            found.append([torch.tensor(norm, dtype=torch.float64), *model.parameters()])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_norm_of_what_is_not_finite_is_not_finite(bad):
    model = model_of()
    backward(model, [1])
    model[3].bias.grad[1] = bad
    norm = gradient_norm([p.grad for p in model.parameters()], [model[0]])
    assert not torch.tensor(norm).isfinite()


def test_without_native_code_it_is_torch_s_own(monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_NATIVE", "0")
    model, plain = model_of(), model_of()
    updated(model, optimizer_of(model), [[1, 2], [3]])
    stock = torch.optim.AdamW(optimizer_of(plain).param_groups, betas=(0.9, 0.98), fused=True)
    for number, ids in enumerate([[1, 2], [3]]):
        backward(plain, ids)
        set_factor(stock, 1 / (number + 1))
        torch._foreach_mul_([p.grad for p in plain.parameters()], 0.5)
        stock.step()
        stock.zero_grad(set_to_none=True)
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_step_that_guards_itself_is_the_scaled_one():
    model, plain = model_of(), model_of()
    guarded, scaled = optimizer_of(model), optimizer_of(plain)
    for ids in ([1, 2], [2, 3], [5]):
        for one, optimizer in ((model, guarded), (plain, scaled)):
            backward(one, ids)
            norm = norm_on_device([p.grad for p in one.parameters()])
            if optimizer is guarded:
                optimizer.guarded_step(torch.tensor(4.0), norm)
            else:
                optimizer.scaled_step(0.25)
            optimizer.zero_grad(set_to_none=True)
    for found, expected in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_guards_itself_changes_nothing_by_a_norm_that_is_not_finite(bad):
    model = model_of()
    optimizer = optimizer_of(model)
    backward(model, [1])
    optimizer.guarded_step(torch.tensor(1.0), torch.tensor(1.0))
    before = [p.detach().clone() for p in model.parameters()]
    state = {k: {n: x.clone() for n, x in v.items()} for k, v in optimizer.state.items()}
    model[3].bias.grad[1] = bad
    optimizer.guarded_step(torch.tensor(1.0), torch.tensor(bad))
    assert all(map(torch.equal, before, model.parameters()))
    for p, values in state.items():
        assert all(torch.equal(values[name], optimizer.state[p][name]) for name in values)


def test_parameters_may_join_and_leave_between_steps():
    model, plain = model_of(), model_of()
    optimizers = [optimizer_of(model), optimizer_of(plain)]
    optimizers[1].register_step_pre_hook(lambda *_: None)
    for number, ids in enumerate([[1], [2], [3], [4]]):
        for one, optimizer in zip((model, plain), optimizers, strict=True):
            backward(one, ids)
            if number % 2:
                one[1].weight.grad = None
            optimizer.scaled_step(0.5)
            optimizer.zero_grad(set_to_none=True)
    for found, expected in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    steps = [float(optimizers[0].state[p]["step"]) for p in model.parameters()]
    assert steps == [float(optimizers[1].state[p]["step"]) for p in plain.parameters()]


@pytest.mark.parametrize("step", ["hooked", "guarded"])
def test_rows_that_a_step_of_torch_s_own_has_read_keep_their_moments(step):
    model, plain = model_of(), model_of()
    for one, optimizer in (
        (model, optimizer_of(model)),
        (plain, optimizer_of(plain, tables=False)),
    ):
        updated(one, optimizer, [[1]])
        backward(one, [2])  # a row that native code has never seen
        if step == "guarded":
            norm = norm_on_device([p.grad for p in one.parameters()])
            optimizer.guarded_step(torch.tensor(2.0), norm)
        else:
            hook = optimizer.register_step_pre_hook(lambda *_: None)
            optimizer.scaled_step(0.5)
            hook.remove()
        optimizer.zero_grad(set_to_none=True)
        updated(one, optimizer, [[3], [4]])
    for found, expected in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(found, expected)
    assert float(optimizer.state[plain[0].weight]["step"]) == 4


def test_a_norm_has_the_same_bits_wherever_the_gradients_lie():
    torch.manual_seed(0)
    parts = torch.randn(70_060).split([10, 70_000, 20, 30])
    apart = [x.clone() for x in parts]
    assert torch.equal(norm_on_device(parts), norm_on_device(apart))
    torch.testing.assert_close(norm_on_device(parts), torch.nn.utils.get_total_norm(apart))
