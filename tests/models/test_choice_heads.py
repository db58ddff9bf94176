"""Heads of multiple choice models: packed they give what the library's whole model gives."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import ARCHITECTURES
from tunewright.models.batch import pack
from tunewright.models.files.architecture import CHOOSER
from tunewright.models.files.loading import load_library_model
from tunewright.models.heads import CHOICE_HEADS, choice_logits, choose_route, is_packed
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.models.text.tokens import encode_text
from tunewright.types import Features

PADDED = ("deberta-v2", "mpnet", "xlnet")
QUESTIONS = ["a fine film", "the worst book ever, very slow and awful, not like the old one"]
CHOICES = ["good plot", "never", "a very fine market game for the team, and the best service"]


def test_every_head_belongs_to_a_tiny_architecture():
    assert len(CHOICE_HEADS) == 9
    assert set(CHOICE_HEADS) <= set(ARCHITECTURES)


@pytest.mark.parametrize("architecture", [*CHOICE_HEADS, *PADDED])
def test_the_logits_of_choices_are_those_of_stock_transformers(tiny_folder, architecture):
    folder = tiny_folder(architecture)
    tokenizer = load_tokenizer(folder)
    model = load_library_model(folder, CHOOSER, seed=3).model
    pairs = [(question, choice) for question in QUESTIONS for choice in CHOICES]
    inputs = tokenizer(*map(list, zip(*pairs, strict=True)), padding=True, return_tensors="pt")
    with torch.no_grad():
        expected_RK = model(**{name: ids.view(2, 3, -1) for name, ids in inputs.items()}).logits
    route = choose_route(model, choice_logits)
    assert is_packed(model) == (architecture in CHOICE_HEADS), route
    features = [
        Features(row, {"text": encode_text(tokenizer, *pair)}) for row, pair in enumerate(pairs)
    ]
    with torch.no_grad():
        found_B = choice_logits(model, pack(features).streams["text"])
    torch.testing.assert_close(found_B, expected_RK.flatten(), atol=1e-4, rtol=0)


def test_an_architecture_without_a_packed_head_runs_padded(tiny_folder, monkeypatch):
    monkeypatch.delitem(CHOICE_HEADS, "bert")
    model = load_library_model(tiny_folder("bert"), CHOOSER).model
    assert choose_route(model, choice_logits) == "padded: bert has no packed head"
