"""How much memory a forward pass takes, from a short one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.training.loops import build_loop, weights
from tunewright.devices.memory import held_bytes
from tunewright.models.batch import pack
from tunewright.tasks.text_classification import TextClassification
from tunewright.tasks.token_classification import TokenClassification
from tunewright.training import fitting
from tunewright.training.fitting import AT_PEAK, MEASURED_TOKENS, PassMemory, measure_pass
from tunewright.training.loop import Loop
from tunewright.types import Row


def rows(words):
    return [Row(n, {"text": "good film " * words, "label": "ab"[n % 2]}) for n in range(16)]


@pytest.fixture
def loop(tiny_folder):
    def build(words=10, architecture="bert", **settings):
        task = TextClassification().within(256).learn(rows(words))
        return build_loop(tiny_folder(architecture), task, rows(words), **settings)

    return build


def kept_by(one, count):
    """Returns the bytes that a pass over the first rows keeps, of which all are seen at once."""
    owned = {p.untyped_storage().data_ptr() for p in one.model.parameters()}
    kept = {}

    def take(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = 0 if storage.data_ptr() in owned else storage.nbytes()
        return tensor.detach()

    batch = pack([item for row in one.rows[:count] for item in row])
    with torch.autograd.graph.saved_tensors_hooks(take, lambda tensor: tensor):
        loss = one.task.loss(one._forward(0, batch), batch)
    assert loss.sum.requires_grad
    return sum(kept.values()), sum(item.num_tokens for row in one.rows[:count] for item in row)


@pytest.mark.parametrize("architecture", ["bert", "qwen2", "mpnet"])
def test_a_short_pass_tells_what_a_long_one_keeps(loop, architecture):
    one = loop(architecture=architecture, words=40)
    found = measure_pass(one)
    kept, num_tokens = kept_by(one, 16)
    assert num_tokens > 2 * MEASURED_TOKENS
    assert found.longest == one.rows[0][0].num_tokens
    assert found.per_token * num_tokens == pytest.approx(kept, rel=0.1)


def test_copies_of_the_weights_in_half_precision_do_not_grow_with_tokens(loop):
    one = loop(words=40)
    one.device = replace(one.device, precision="bf16")
    found = measure_pass(one)
    kept, num_tokens = kept_by(one, 16)
    assert found.always > 0
    assert found.always + found.per_token * num_tokens == pytest.approx(kept, rel=0.1)


def test_a_budget_is_halved_until_its_pass_fits():
    memory = PassMemory(always=1000, per_token=10.0, longest=70)
    fits = memory.at_peak(256)
    assert fits == AT_PEAK * 3560
    assert memory.budget(1024, fits) == 256
    assert memory.budget(1024, fits - 1) == 128
    assert memory.budget(200, fits) == 200


@pytest.mark.parametrize(("asked", "budget"), [(1024, 70), (100, 70), (70, 70), (30, 30)])
def test_a_budget_is_not_cut_below_one_sequence_and_never_raised(asked, budget):
    assert PassMemory(always=1000, per_token=10.0, longest=70).budget(asked, 0) == budget


def test_windows_of_a_row_are_measured_one_by_one(tiny_folder):
    texts = [Row(0, {"tokens": ["good"] * 200, "tags": ["B-X"] * 200})]
    task = TokenClassification(max_length=16, long="window", stride=4).within(64).learn(texts)
    one = build_loop(tiny_folder("bert"), task, texts)
    assert len(one.rows[0]) > 5
    assert measure_pass(one).longest == 16


def test_no_pass_is_measured_that_training_would_not_make(loop, monkeypatch):
    one, sizes = loop(words=10, max_tokens=60), []
    rehearse = Loop.rehearse

    def noted(self, features, with_loss):
        sizes.append(sum(item.num_tokens for item in features))
        return rehearse(self, features, with_loss)

    monkeypatch.setattr(Loop, "rehearse", noted)
    assert measure_pass(one) is not None
    assert 0 < max(sizes) <= 60


def test_a_refused_allocation_leaves_it_to_training(loop, monkeypatch):
    one = loop()
    one.model.eval()
    monkeypatch.setattr(Loop, "rehearse", lambda *_: torch.empty(2**55))
    assert measure_pass(one) is None
    assert not one.model.training


def test_another_error_is_raised(loop, monkeypatch):
    monkeypatch.setattr(Loop, "rehearse", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measure_pass(loop())


def test_nothing_is_measured_of_no_rows(loop):
    one = loop()
    one.rows = []
    assert measure_pass(one) is None


def test_what_was_measured_is_let_go(loop):
    one = loop(words=40)
    found = measure_pass(one)
    before = held_bytes("cpu")
    for _ in range(20):
        measure_pass(one)
    assert held_bytes("cpu") - before < 5 * found.per_token * MEASURED_TOKENS


def test_measuring_changes_no_bit_of_training(loop):
    measured, plain = loop(dropout=0.3, steps=3), loop(dropout=0.3, steps=3)
    assert fitting.measure_pass(measured) is not None
    for one in (measured, plain):
        list(one.run())
    expected = weights(plain.model)
    assert all(torch.equal(each, expected[name]) for name, each in weights(measured.model).items())
