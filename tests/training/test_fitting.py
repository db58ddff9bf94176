"""Forward passes that are made small enough before the first update."""

from __future__ import annotations

import pytest
import torch

from tests.training.loops import build_loop, weights
from tunewright.devices.memory import held_bytes
from tunewright.tasks.text_classification import TextClassification
from tunewright.training.fitting import (
    AT_PEAK,
    MEASURED_TOKENS,
    SHARE,
    Cut,
    fit_into_memory,
    kept_by_the_longest,
)
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
    """Returns the bytes that a forward pass over so many rows keeps, by the machine's own count."""
    from tunewright.models.batch import pack

    owned = {p.untyped_storage().data_ptr() for p in one.model.parameters()}
    kept = {}

    def take(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = 0 if storage.data_ptr() in owned else storage.nbytes()
        return tensor.detach()

    batch = pack([item for row in range(count) for item in one.features(row, 0)])
    with torch.autograd.graph.saved_tensors_hooks(take, lambda tensor: tensor):
        outputs = one.forward(0, batch)
        loss = one.task.loss(outputs, batch)
    assert loss.sum.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("architecture", ["bert", "qwen2", "mpnet"])
def test_what_one_row_keeps_tells_what_many_keep(loop, architecture):
    one = loop(architecture=architecture, words=40)
    kept, num_tokens = kept_by_the_longest(one)
    assert num_tokens == one.rows[0][0].num_tokens
    assert 12 * kept == pytest.approx(kept_by(one, 12), rel=0.1)


def test_longer_rows_keep_more(loop):
    short, long = (kept_by_the_longest(loop(words=words)) for words in (10, 40))
    assert long[1] / short[1] == pytest.approx(long[0] / short[0], rel=0.1)


def test_what_fits_is_left(loop):
    one = loop()
    assert fit_into_memory(one, 1_000_000, 10**12) is None
    assert one.max_tokens == 8192


def test_passes_are_halved_until_they_fit(loop):
    one = loop(words=20, batch_size=16)
    kept, num_tokens = kept_by_the_longest(one)
    wanted = 16 * num_tokens
    room = AT_PEAK * kept * 5  # five rows, of which four halve well
    found = fit_into_memory(one, 1000, int((room + 1000) / SHARE) + 1)
    assert isinstance(found, Cut)
    assert (found.asked, found.max_tokens) == (8192, wanted // 4)
    assert found.pass_bytes == pytest.approx(AT_PEAK * kept * 16, rel=1e-3)
    assert found.room_bytes == pytest.approx(room, abs=2)
    assert one.max_tokens == wanted // 4


def test_a_row_is_never_cut(loop):
    one = loop(batch_size=16)
    _, num_tokens = kept_by_the_longest(one)
    found = fit_into_memory(one, 1000, 1000)
    assert (found.max_tokens, found.room_bytes) == (num_tokens, 0)
    assert one.max_tokens == num_tokens


def test_one_long_row_that_does_not_fit_is_left_to_the_system(loop):
    assert fit_into_memory(loop(batch_size=1), 1000, 1000) is None


def test_what_was_measured_is_let_go(loop):
    one = loop(words=40)
    kept_by_the_longest(one)
    before = held_bytes("cpu")
    for _ in range(20):
        kept, num_tokens = kept_by_the_longest(one)
    assert held_bytes("cpu") - before < 5 * kept * MEASURED_TOKENS // num_tokens


def test_measuring_changes_no_bit_of_training(loop):
    measured, plain = loop(dropout=0.3, steps=3), loop(dropout=0.3, steps=3)
    kept_by_the_longest(measured)
    for one in (measured, plain):
        list(one.run())
    expected = weights(plain.model)
    assert all(
        torch.equal(tensor, expected[name]) for name, tensor in weights(measured.model).items()
    )
