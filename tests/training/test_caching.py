"""Windows that share a loss and pass apart; what each task does with them is in test_windows.py."""

from __future__ import annotations

import pytest
import torch

from tests.tasks.examples import EXAMPLES, rows_of
from tests.training.loops import build_loop, gradients, sizes_of_passes
from tunewright.tasks import find_task
from tunewright.training.fitting import measure_pass

WINDOW, STRIDE = 6, 1


@pytest.fixture
def loop(tiny_folder):
    """Returns a function (task's name, what it is told, settings) -> loop over its examples."""

    def build(name, told=None, architecture="bert", **settings):
        rows = rows_of(EXAMPLES[name])
        windows = {"long": "window", "max_length": WINDOW, "stride": STRIDE}
        task = find_task(name)(**windows | (told or {})).within(128).learn(rows)
        return build_loop(tiny_folder(architecture), task, rows, **settings)

    return build


def num_tokens(row):
    return sum(item.num_tokens for item in row)


@pytest.mark.parametrize(("architecture", "dropout"), [("bert", 0.2), ("mpnet", 0.0)])
def test_a_field_over_a_text_whose_windows_pass_apart_learns_the_same(loop, architecture, dropout):
    whole, cut = (
        loop("token-classification", {"crf": True}, architecture, dropout=dropout, max_tokens=size)
        for size in (9999, WINDOW)
    )
    sizes = sizes_of_passes(cut)
    expected, found = gradients(whole), gradients(cut)
    assert max(sizes) <= WINDOW < max(map(num_tokens, cut.rows))
    assert found.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * largest, msg=name)


def test_only_rows_that_do_not_fit_into_a_pass_are_run_twice(loop):
    size = 2 * WINDOW
    one = loop("text-classification", max_tokens=size)
    rows = [*map(num_tokens, one.rows)]
    long = [length for length in rows if length > size]
    assert 0 < len(long) < len(rows)
    sizes = sizes_of_passes(one)
    gradients(one)
    assert sum(sizes) == sum(rows) + sum(long)


@pytest.mark.parametrize("max_tokens", [WINDOW, 9999])
@pytest.mark.parametrize("name", ["text-classification", "multiple-choice", "sentence-embedding"])
def test_a_pass_has_no_fewer_tokens_than_the_longest_window(loop, name, max_tokens):
    one = loop(name, max_tokens=max_tokens)
    found = measure_pass(one)
    assert found.longest == max(item.num_tokens for row in one.rows for item in row) <= WINDOW
    assert found.per_token > 0


def test_what_a_field_keeps_for_its_loss_is_measured(loop):
    plain, field = (loop("token-classification", {"crf": crf}) for crf in (False, True))
    assert measure_pass(field).per_token > measure_pass(plain).per_token
