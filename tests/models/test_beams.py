"""Our own search writes what transformers' own writes, and a text's score is its probability."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import NoRepeatNGramLogitsProcessor

from tunewright.models.generating.beams import search
from tunewright.models.generating.generation import Generation
from tunewright.models.transformer import POSITIONS, Transformer, TransformerConfig

END = 2


@pytest.fixture(params=["native", "plain"], autouse=True)
def native_or_plain(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setenv("TUNEWRIGHT_NATIVE", "0")


@pytest.fixture(params=POSITIONS)
def model(request):
    config = TransformerConfig(
        vocab_size=30,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        positions=request.param,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = Transformer(config).eval()
    made.embedding.weight.data *= 2  # surer of its tokens, so that texts end at many lengths
    return made


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(3, 30, (n,), generator=generator) for n in (3, 14, 7, 2, 20, 9, 5)]
    pad = nn.utils.rnn.pad_sequence
    return pad(texts, batch_first=True), pad([torch.ones_like(t) for t in texts], batch_first=True)


def library(model, batch, settings, **more):
    ids, mask = batch
    found = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=settings.max_new_tokens,
        num_beams=settings.num_beams,
        num_return_sequences=settings.num_return_sequences,
        length_penalty=settings.length_penalty if settings.num_beams > 1 else None,
        **more,
    )[:, 1:].tolist()
    return [row[: row.index(END) + 1] if END in row else row for row in found]


def ours(model, batch, settings, process=None):
    found = search(model, *batch, [1], settings, {END}, process)
    return [list(text.token_ids) for row in found for text in row]


@pytest.mark.parametrize("beams", [1, 2, 5])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("most", [1, 4, 16])
def test_texts_are_those_of_the_library(model, batch, beams, penalty, most):
    settings = Generation(
        max_new_tokens=most,
        num_beams=beams,
        length_penalty=penalty,
        num_return_sequences=min(beams, 2),
    )
    assert ours(model, batch, settings) == library(model, batch, settings)


@pytest.mark.parametrize("beams", [1, 3])
def test_no_run_of_tokens_comes_twice_as_in_the_library(model, batch, beams):
    settings = Generation(max_new_tokens=16, num_beams=beams, no_repeat_ngram_size=2)
    found = ours(model, batch, settings, NoRepeatNGramLogitsProcessor(2))
    assert found == library(model, batch, settings, no_repeat_ngram_size=2)


@pytest.mark.parametrize("beams", [1, 4])
def test_the_log_probability_is_that_of_the_text_read_again(model, batch, beams):
    settings = Generation(max_new_tokens=12, num_beams=beams)
    ids, mask = batch
    for row, (found,) in enumerate(search(model, ids, mask, [1], settings, {END})):
        text = torch.tensor(found.token_ids)
        before = torch.cat([torch.tensor([1]), text[:-1]])
        with torch.no_grad():
            logits = model(
                input_ids=ids[row : row + 1],
                attention_mask=mask[row : row + 1],
                decoder_input_ids=before[None],
            ).logits[0]
        expected = logits.log_softmax(-1).gather(1, text[:, None]).sum().item()
        assert found.log_probability == pytest.approx(expected, abs=1e-4)
        assert found.ended is (found.token_ids[-1] == END)


def test_a_text_does_not_depend_on_its_neighbours(model, batch):
    settings = Generation(max_new_tokens=12, num_beams=3)
    ids, mask = batch
    together = ours(model, batch, settings)
    alone = [
        ours(model, (ids[i : i + 1, : mask[i].sum()], mask[i : i + 1, : mask[i].sum()]), settings)[
            0
        ]
        for i in range(len(ids))
    ]
    assert alone == together


@pytest.mark.parametrize("beams", [1, 2])
def test_a_row_without_numbers_has_texts_too(model, batch, beams):
    output = model.embedding.weight.clone()
    output[:] = float("nan")
    model.score = lambda hidden: torch.nn.functional.linear(hidden, output)
    settings = Generation(max_new_tokens=6, num_beams=beams, num_return_sequences=beams)
    found = search(model, *batch, [1], settings, {END})
    assert [len(texts) for texts in found] == [beams] * len(batch[0])
