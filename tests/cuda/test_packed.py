"""What only an NVIDIA GPU can show; elsewhere these tests are skipped."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch

from tests.training.loops import build_loop, weights
from tunewright.devices import find_device, release_memory, settle_kernels
from tunewright.models.layers.attention import attend
from tunewright.models.layers.embedding import keep_row_gradients
from tunewright.models.layers.graphs import record_passes
from tunewright.models.layers.own_layers import use_own_layers
from tunewright.models.layers.varlen import is_fit
from tunewright.tasks.text_classification import TextClassification
from tunewright.types import Row

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU")

TOLERANCE = 0.02  # of the largest element; bf16 keeps 8 bits


def by_hand(query, key, value, queries, keys, scale, causal, window):
    parts = []
    for (start, end), (first, last) in zip(pairwise(queries), pairwise(keys), strict=True):
        scores = torch.einsum("nhd,mhd->hnm", query[start:end], key[first:last]) * scale
        distance = torch.arange(end - start)[:, None] - torch.arange(last - first)[None]
        hidden = torch.zeros_like(distance, dtype=torch.bool)
        if causal:
            hidden |= distance < 0
        if window is not None:
            hidden |= distance.abs() >= window
        scores = scores.masked_fill(hidden, float("-inf"))
        parts.append(torch.einsum("hnm,mhd->nhd", scores.softmax(-1), value[first:last]))
    return torch.cat(parts)


@pytest.mark.parametrize("width", [8, 32, 64, 128])
@pytest.mark.parametrize(
    ("causal", "window", "crossed"),
    [(False, None, False), (True, None, False), (False, 5, False), (True, 7, False),
     (False, None, True)],
)  # fmt: skip
def test_flash_attention_is_textbook_attention_of_each_sequence(width, causal, window, crossed):
    torch.manual_seed(0)
    queries = (0, 3, 40, 41, 170, 300)
    keys = (0, 7, 9, 80, 81, 290) if crossed else queries
    heads, scale = 3, 0.3
    wide = [
        torch.randn(ends[-1], heads, width, dtype=torch.float64).bfloat16().double()
        for ends in (queries, keys, keys)
    ]
    gradient = torch.randn(queries[-1], heads, width, dtype=torch.float64).bfloat16().double()
    leaves = [x.clone().requires_grad_() for x in wide]
    expected = by_hand(*leaves, queries, keys, scale, causal, window)
    expected.backward(gradient)
    narrow = [x.bfloat16().cuda().requires_grad_() for x in wide]
    assert is_fit(narrow[0], None)
    found = attend(*narrow, queries, keys if crossed else None, scale=scale, causal=causal,
                   window=window)  # fmt: skip
    found.backward(gradient.bfloat16().cuda())
    gradients = ((n.grad, w.grad) for n, w in zip(narrow, leaves, strict=True))
    for mine, theirs in [(found, expected), *gradients]:
        largest = float(theirs.detach().abs().max())
        assert float((mine.double().cpu() - theirs).abs().max()) <= TOLERANCE * largest


def rows():
    words = ["the", "movie", "was", "good", "bad", "slow", "fine", "poor", "best", "story"]
    generator = torch.Generator().manual_seed(1)
    texts = [
        " ".join(words[i] for i in torch.randint(0, len(words), (length,), generator=generator))
        for length in torch.randint(1, 60, (96,), generator=generator)
    ]
    return [Row(n, {"text": text, "label": "yn"[n % 2]}) for n, text in enumerate(texts)]


def breaks_recording(*_):
    if torch.cuda.is_current_stream_capturing():
        torch.cuda.synchronize()


def trained(folder, *, recorded, precision="bf16", dropout=0.1, steps=40, breaks=False):
    """Returns the losses and the weights of a short training on the GPU."""
    settle_kernels("cuda")
    task = TextClassification().started_from(folder).learn(rows())
    loop = build_loop(folder, task, rows(), steps=steps, batch_size=16, dropout=dropout)
    loop.device = find_device(precision)
    loop.model.to("cuda")
    keep_row_gradients(loop.model)
    use_own_layers(loop.model)
    autocast = partial(loop.device.autocast, keep_casts=False)
    if recorded:
        loop.graphs = [record_passes(loop.model.base_model, autocast)]
    if breaks:
        loop.model.base_model.embeddings.register_forward_hook(breaks_recording)
    losses = [event.loss for event in loop.run()]
    assert all((graph.failure is not None) == breaks for graph in loop.graphs), loop.graphs
    assert breaks or not recorded or loop.graphs[0].num_recorded > 1
    return losses, weights(loop.model)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "modernbert", "qwen3"])
def test_recorded_passes_give_the_bits_of_those_that_are_not(tiny_folder, architecture):
    folder = tiny_folder(architecture, 2)
    losses, found = trained(folder, recorded=True)
    expected_losses, expected = trained(folder, recorded=False)
    assert losses == expected_losses
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("recorded", [False, True])
def test_the_same_run_gives_the_same_bits(tiny_folder, recorded):
    one, other = (trained(tiny_folder("bert", 2), recorded=recorded) for _ in range(2))
    assert one[0] == other[0]
    assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])


def test_a_run_goes_on_where_a_recording_breaks(tiny_folder):
    folder = tiny_folder("bert", 2)
    losses, found = trained(folder, recorded=True, breaks=True)
    release_memory("cuda")
    expected_losses, expected = trained(folder, recorded=True)
    assert losses == expected_losses
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_gpu_learns_what_a_cpu_does(tiny_folder):
    folder = tiny_folder("bert", 2)
    losses, _ = trained(folder, recorded=False, precision="fp32", dropout=0.0, steps=9)
    task = TextClassification().started_from(folder).learn(rows())
    loop = build_loop(folder, task, rows(), steps=9, batch_size=16)
    assert losses == pytest.approx([event.loss for event in loop.run()], abs=1e-4)
    narrow, _ = trained(folder, recorded=True, dropout=0.0)
    assert narrow[:9] == pytest.approx(losses, abs=0.05)
