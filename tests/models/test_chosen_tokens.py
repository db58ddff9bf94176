"""The head of a language model sees the chosen tokens only; they get what they always get."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import tiny_model
from tunewright.models.batch import pack
from tunewright.models.chosen_tokens import chosen_outputs
from tunewright.models.files.architecture import MASKED_LM
from tunewright.models.files.loading import load_library_model
from tunewright.models.heads import choose_route, token_outputs
from tunewright.types import Features, TokenStream

PACKED = ("albert", "bert", "camembert", "distilbert", "electra", "ernie", "modernbert",
          "nomic_bert", "roberta", "xlm-roberta")  # fmt: skip
PADDED = ("deberta-v2", "mpnet")
LENGTHS = (5, 17, 3, 30)


@pytest.fixture(scope="module")
def stream():
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(5, 60, (length,), generator=generator).tolist() for length in LENGTHS]
    features = [Features(row, {"text": TokenStream(ids)}) for row, ids in enumerate(rows)]
    return pack(features).streams["text"]


def all_logits(model, stream):
    return token_outputs(model, stream, "logits")[0]


@pytest.mark.parametrize("architecture", PACKED + PADDED)
def test_chosen_logits_are_those_of_the_whole_model(architecture, stream, tmp_path):
    model = load_library_model(tiny_model(architecture, tmp_path), MASKED_LM).model
    route = choose_route(model, all_logits)
    chosen_N = torch.arange(stream.num_tokens) % 7 == 2
    with torch.no_grad():
        found_MV = chosen_outputs(model, stream, chosen_N)
        expected_NV = all_logits(model, stream)
    assert (route == "packed") == (architecture in PACKED)
    assert found_MV.shape == (int(chosen_N.sum()), model.config.vocab_size)
    torch.testing.assert_close(found_MV, expected_NV[chosen_N], atol=1e-5, rtol=1e-5)


def test_the_model_is_whole_again_afterwards(stream, tmp_path):
    model = load_library_model(tiny_model("bert", tmp_path), MASKED_LM).model
    choose_route(model, all_logits)
    none_N = torch.zeros(stream.num_tokens, dtype=torch.bool)
    assert chosen_outputs(model, stream, none_N).shape == (0, model.config.vocab_size)
    assert all_logits(model, stream).shape[0] == stream.num_tokens


def test_the_gradient_reaches_every_layer(stream, tmp_path):
    model = load_library_model(tiny_model("bert", tmp_path), MASKED_LM).model
    choose_route(model, all_logits)
    chosen_outputs(model, stream, torch.arange(stream.num_tokens) == 9).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
