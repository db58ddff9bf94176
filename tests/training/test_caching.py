"""Windows that share a loss and pass apart, in every task that reads long texts."""

from __future__ import annotations

import pytest
import torch

from tests.tasks.examples import EXAMPLES, SETTINGS, rows_of
from tests.training.loops import build_loop, gradients
from tunewright.tasks import TASKS, find_task
from tunewright.training.fitting import measure_pass

WINDOW, STRIDE = 6, 1
WINDOWED = {name: {} for name in TASKS if "stride" in find_task(name).__dataclass_fields__} | {
    "token-classification": {"crf": True}
}
OBJECTIVES = [
    ("reranking", {"objective": "listwise"}),
    ("sentence-embedding", {"objective": "ranking"}),
]


@pytest.fixture
def loop(tiny_folder):
    """Returns a function (task's name, what it is told, settings) -> loop over its examples."""

    def build(name, told, architecture="bert", **settings):
        rows = rows_of(EXAMPLES[name])
        windows = {"long": "window", "max_length": WINDOW, "stride": STRIDE}
        task = find_task(name)(**SETTINGS.get(name, {}) | windows | told)
        return build_loop(tiny_folder(architecture), task.within(128).learn(rows), rows, **settings)

    return build


def noted(loop):
    """Returns the list that the tokens of each forward pass go to."""
    sizes, forward = [], loop._forward
    loop._forward = lambda step, batch: sizes.append(batch.num_tokens) or forward(step, batch)
    return sizes


@pytest.mark.parametrize(("architecture", "dropout"), [("bert", 0.2), ("mpnet", 0.0)])
@pytest.mark.parametrize(("name", "told"), [*WINDOWED.items(), *OBJECTIVES])
def test_windows_that_pass_apart_have_the_gradient_of_one_pass(
    loop, name, told, architecture, dropout
):
    whole, cut = (
        loop(name, told, architecture, dropout=dropout, max_tokens=size) for size in (9999, WINDOW)
    )
    sizes = noted(cut)
    expected, found = gradients(whole), gradients(cut)
    assert max(sizes) <= WINDOW < max(sum(item.num_tokens for item in row) for row in cut.rows)
    assert found.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for weight, gradient in expected.items():
        torch.testing.assert_close(
            found[weight], gradient, rtol=1e-4, atol=1e-5 * largest, msg=weight
        )


def test_only_rows_that_do_not_fit_into_a_pass_are_run_twice(loop):
    size = 2 * WINDOW
    one = loop("text-classification", {}, max_tokens=size)
    rows = [sum(item.num_tokens for item in row) for row in one.rows]
    long = [num_tokens for num_tokens in rows if num_tokens > size]
    assert 0 < len(long) < len(rows)
    sizes = noted(one)
    gradients(one)
    assert sum(sizes) == sum(rows) + sum(long)


@pytest.mark.parametrize("name", sorted(WINDOWED))
def test_a_pass_is_measured_by_the_longest_window(loop, name):
    one = loop(name, WINDOWED[name])
    found = measure_pass(one)
    assert found.longest == max(item.num_tokens for row in one.rows for item in row) <= WINDOW
    assert found.per_token > 0
