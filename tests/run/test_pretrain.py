"""Pretraining is a run like any other; what it leaves can be trained further, for any task."""

from __future__ import annotations

import json
import math

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

import tunewright
from tunewright.errors import SettingsError
from tunewright.models.files.architecture import MASKED_LM
from tunewright.models.files.folder import find_model
from tunewright.models.files.loading import load_classifier, load_library_model
from tunewright.run.config import compose
from tunewright.run.loaded import load
from tunewright.run.pretrain import ADAPTING, FROM_NOTHING, NewTokenizer, pretrain
from tunewright.run.train import train

WORDS = ("film", "book", "plot", "team", "game", "story", "电影", "酒店", "服务")
CORPUS = [f"the {word} is not the {other}, {n}" for n, word in enumerate(WORDS) for other in WORDS]
QUICK = {"num_train_epochs": 1, "batch_size": 16, "precision": "fp32", "track": []}


def config_for(base, folder, model, **training):
    layer = {
        "model": {"name": str(model)},
        "training": QUICK | training,
        "evaluation": {"num_resamples": 20},
        "output": {"folder": str(folder), "name": "corpus"},
    }
    return compose(base, layer)


@pytest.fixture(scope="module")
def adapted(tiny_folder, tmp_path_factory):
    config = config_for(ADAPTING, tmp_path_factory.mktemp("runs"), tiny_folder("bert"))
    return pretrain({"train": CORPUS}, config)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run from nothing, and what was said."""
    said = []
    config = config_for(FROM_NOTHING, tmp_path_factory.mktemp("runs"), "new:1x64")
    run = pretrain({"train": CORPUS}, config, NewTokenizer("wordpiece", 300), tell=said.append)
    return run, [event.sentence for event in said if hasattr(event, "sentence")]


def test_the_result_is_a_language_model_that_stock_transformers_reads(adapted):
    model = AutoModelForMaskedLM.from_pretrained(adapted.folder.model)
    tokenizer = AutoTokenizer.from_pretrained(adapted.folder.model)
    text = f"the film is {tokenizer.mask_token}"
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits_NV = model(**inputs).logits[0]
    (place,) = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0]
    (answer,) = load(adapted.path, "fp32").predict([text])
    (guess,) = answer.guesses
    assert guess.token == tokenizer.decode([int(logits_NV[place].argmax())])
    assert guess.score == pytest.approx(float(logits_NV[place].softmax(-1).max()), rel=1e-4)


def test_the_figures_are_of_hidden_tokens_and_have_intervals(adapted):
    perplexity, accuracy = adapted.metrics["perplexity"], adapted.metrics["token_accuracy"]
    assert 1 < perplexity.low <= perplexity.value <= perplexity.high
    assert 0 <= accuracy.low <= accuracy.value <= accuracy.high <= 1
    about = json.loads((adapted.path / "run.json").read_text(encoding="utf-8"))
    assert about["route"] == "packed"
    assert about["parity"]["largest_difference"] <= about["parity"]["tolerance"]


def test_the_weights_have_learned(adapted, tiny_folder):
    started = load_library_model(tiny_folder("bert"), MASKED_LM, seed=42).model
    learned = load_library_model(adapted.folder.model, MASKED_LM).model
    for name, weight in started.named_parameters():
        if "LayerNorm" not in name and "bias" not in name:
            assert not torch.equal(weight, learned.get_parameter(name)), name


def test_the_folder_reads_as_many_tokens_as_the_model_did(adapted):
    assert AutoTokenizer.from_pretrained(adapted.folder.model).model_max_length == 128


def test_a_classifier_begins_from_it_without_the_language_head(adapted, tmp_path):
    loaded = load_classifier(adapted.folder.model, ["bad", "good"])
    assert any(
        "does not use" in notice and "cls.predictions" in notice for notice in loaded.notices
    )
    rows = [{"text": f"{word} {n}", "label": word} for word in WORDS[:2] for n in range(8)]
    layer = {"training": QUICK, "model": {"name": str(adapted.path)}}
    config = compose(
        layer, {"evaluation": {"num_resamples": 20}, "output": {"folder": str(tmp_path)}}
    )
    run = train({"train": rows, "validation": rows, "test": rows}, config)
    assert run.task.labels == ("book", "film")
    assert find_model(adapted.path) == adapted.folder.model


def test_a_new_model_begins_with_a_tokenizer_of_its_own(begun):
    run, said = begun
    start = run.path.parent / "corpus-start" / "model"
    tokenizer = AutoTokenizer.from_pretrained(start)
    assert said[0] == (
        f"{start} holds the new model (layers: 1, width: 64), which begins with what counting "
        f"says of the texts, and its tokenizer of {len(tokenizer)} tokens."
    )
    assert run.config.model.name == str(start)
    assert len(tokenizer) <= 300
    assert tokenizer.tokenize("film 酒店") == ["film", "酒", "店"]
    assert AutoTokenizer.from_pretrained(run.folder.model).get_vocab() == tokenizer.get_vocab()


def test_a_new_model_guesses_better_than_chance_soon(tmp_path):
    config = config_for(FROM_NOTHING, tmp_path, "new:1x64", num_train_epochs=8, learning_rate=1e-2)
    run = pretrain({"train": CORPUS, "validation": CORPUS, "test": CORPUS}, config)
    assert run.metrics["perplexity"].value < 30
    assert math.isfinite(run.metrics["perplexity"].high)


def test_the_tokenizer_learns_from_training_rows_only(tmp_path):
    config = config_for(FROM_NOTHING, tmp_path, "new:1x64", max_steps=1)
    held_out = ["ΩΩΩ the film"] * 3
    pretrain({"train": CORPUS, "validation": held_out, "test": held_out}, config)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "corpus-start" / "model")
    assert "Ω" not in tokenizer.get_vocab()


def test_a_size_that_no_model_has_is_refused_before_anything_is_written(tmp_path):
    config = config_for(FROM_NOTHING, tmp_path, "new:huge")
    with pytest.raises(SettingsError, match='there is no size "huge"'):
        pretrain({"train": CORPUS}, config)
    assert list(tmp_path.iterdir()) == []


def test_a_call_in_python_makes_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tunewright.pretrain(
        [{"review": text} for text in CORPUS],
        text="review",
        model="new:1x64",
        tokenizer="bpe",
        vocab_size=400,
        name="own",
        num_train_epochs=1,
        num_resamples=20,
        settings={"training": {"precision": "fp32", "track": []}},
    )
    assert (run.config.training.learning_rate, run.config.training.dropout) == (1e-3, 0.0)
    assert 300 < len(AutoTokenizer.from_pretrained(run.folder.model)) <= 400
    with pytest.raises(SettingsError, match='the model "starter" has one already'):
        tunewright.pretrain(CORPUS, vocab_size=400)


def test_a_decoder_is_pretrained_by_writing_on(tiny_folder, tmp_path):
    run = pretrain({"train": CORPUS}, config_for(ADAPTING, tmp_path, tiny_folder("llama")))
    assert run.config.task.name == "text-generation"
    assert set(run.metrics) == {"perplexity", "token_accuracy"}
    assert math.isfinite(run.metrics["perplexity"].value)
    (answer,) = load(run.path).predict([{"text": "the film is not the book"}])
    assert answer.num_known > 5
