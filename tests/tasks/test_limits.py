"""What stock libraries do not know is named on the model card: every setting of every task."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import tunewright as tw
from tests.tasks.examples import EXAMPLES
from tests.training.loops import CPU
from tunewright.metrics.calibration import ANSWERS_NOTHING
from tunewright.models.files.folder import save_model
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.prediction.predictor import Predictor
from tunewright.tasks import TASKS, find_task
from tunewright.types import Row

WINDOWS = {"long": "window", "max_length": 48, "stride": 6}
POOLED = (WINDOWS, ("more than 48 tokens", "shares at most 6 with", "does not pool them"))
PARTS = {
    "first": {"name": "text-classification"},
    "other": {"name": "regression", "half_width": 0.25},
}

# What stock libraries answer in another way: the settings of a case, and what its card names.
TOLD = {
    ("text-classification", "long"): POOLED,
    ("text-classification", "pooling"): (WINDOWS | {"pooling": "max"}, ("largest, class by",)),
    ("text-classification", "temperature"): (
        {"temperature": 1.2744},
        ("divided by a temperature of 1.274", "uncorrected probability"),
    ),
    ("text-classification", "abstain_below"): (
        {"abstain_below": 0.55},
        ("a probability under 0.550", "always answers"),
    ),
    ("text-classification", "target_accuracy"): (
        {"abstain_below": ANSWERS_NOTHING, "target_accuracy": 0.95},
        ("Every answer is marked as abstained", "the accuracy of 0.95 on validation rows"),
    ),
    ("text-classification", "label_kind"): ({"label_kind": "integer"}, ("whole numbers",)),
    ("multi-label-classification", "long"): POOLED,
    ("multi-label-classification", "pooling"): (
        WINDOWS | {"pooling": "max"},
        ("largest, label by",),
    ),
    ("multi-label-classification", "threshold"): (
        {"labels": ("film", "book"), "threshold": 0.4},
        ("from a score of 0.400 on",),
    ),
    ("multi-label-classification", "thresholds"): (
        {"labels": ("film", "book"), "thresholds": (0.31, 0.5)},
        ("its own on: film 0.310, book 0.500.",),
    ),
    ("multi-label-classification", "label_kind"): ({"label_kind": "boolean"}, ("true or false",)),
    ("token-classification", "crf"): ({"crf": True}, ("a CRF", "`crf.safetensors`")),
    ("token-classification", "long"): (WINDOWS, ("more than 48 tokens", "stride=6")),
    ("token-classification", "scheme"): ({"scheme": "BIOES"}, ("Tags are BIOES.",)),
    ("question-answering", "long"): (WINDOWS, ("more than 48 tokens", "shares at most 6 with")),
    ("question-answering", "may_lack"): ({"may_lack": True}, ("There is no answer where",)),
    ("question-answering", "threshold"): (
        {"may_lack": True, "threshold": -1.25},
        ("a threshold of -1.250", "`task.json`"),
    ),
    ("question-answering", "max_answer_length"): ({"max_answer_length": 17}, ("17 tokens",)),
    ("question-answering", "num_answers"): ({"num_answers": 3}, ("the 3 likeliest",)),
    ("multiple-choice", "long"): POOLED,
    ("multiple-choice", "pooling"): (WINDOWS | {"pooling": "mean"}, ("by the mean of",)),
    ("multiple-choice", "temperature"): ({"temperature": 0.8}, ("a temperature of 0.800",)),
    ("regression", "long"): POOLED,
    ("regression", "symmetric"): ({"symmetric": True}, ("both orders", "of one order")),
    ("regression", "scale"): ({"scale": 2.5}, ("times 2.5 plus 0",)),
    ("regression", "mean"): ({"mean": 3.25}, ("times 1 plus 3.25",)),
    ("regression", "half_width"): ({"half_width": 0.75}, ("0.75 to each side", "90 %")),
    ("sentence-embedding", "long"): POOLED,
    ("sentence-embedding", "dimensions"): (
        {"dimensions": 16},
        ("first 16 numbers", "truncate_dim=16, and normalize_embeddings=True."),
    ),
    ("sentence-embedding", "query_prompt"): (
        {"query_prompt": "find: "},
        ('A prompt is put "find: " before queries.', "encode_query"),
    ),
    ("sentence-embedding", "document_prompt"): (
        {"document_prompt": "story: "},
        ('"story: " before documents', "encode_document"),
    ),
    ("reranking", "long"): POOLED,
    ("reranking", "pooling"): (WINDOWS | {"pooling": "mean"}, ("by the mean of",)),
    ("masked-language-modelling", "window_length"): ({"window_length": 48}, ("48 tokens",)),
    ("text-generation", "answer_length"): (
        {"max_length": 100, "answer_length": 20},
        ("more than 80 tokens before its last answer loses its oldest exchanges",),
    ),
    ("text-generation", "max_length"): ({"max_length": 200}, ("more than 150 tokens",)),
    ("text-generation", "long"): ({"max_length": 200, "long": "error"}, ("is refused",)),
    ("text-generation", "prompt_template"): ({"prompt_template": "Q {prompt}"}, ("'Q {prompt}'",)),
    ("text-generation", "system"): ({"system": "Be brief."}, ("'Be brief.'",)),
    ("translation", "prefix"): ({"prefix": "to German: "}, ('"to German: " is put before',)),
    ("translation", "source_language"): (
        {"source_language": "en", "target_language": "de", "model_type": "m2m_100"},
        ("Sources are marked as en", "forced_bos_token_id"),
    ),
    ("translation", "target_language"): (
        {"target_language": "fr", "model_type": "marian"},
        ("the token that asks for fr",),
    ),
    ("summarization", "prefix"): ({"prefix": "summarize: "}, ('"summarize: " is put before',)),
    ("summarization", "language"): (
        {"language": "zh", "model_type": "mbart"},
        ("Sources are marked as zh and targets as zh",),
    ),
    ("image-captioning", "max_pixels"): ({}, ("stock image processors do neither",)),
    ("multi-task", "parts"): (
        {"parts": PARTS},
        ("first (text-classification) is", "other: An answer's interval reaches 0.25"),
    ),
}

# What stock libraries answer alike, and why.
ALIKE = {
    "max_length": "the saved tokenizer cuts there",
    "stride": "is named with the windows",
    "normalize": "a module of the folder, or named with the dimensions",
    "labels": "config.json has them",
    "form": "preprocessor_config.json has it",
    "model_type": "config.json has it",
    "start_id": "config.json has it",
    "position_limit": "config.json has it",
}
# What only reading data, learning and measuring know.
OF_DATA = {"separator", "label_columns", "choice_columns", "label_form", "is_doubtful", "words"}
OF_DATA |= {"num_odd", "num_trimmed", "num_inside", "rows_hold_lists", "constant", "chinese_words"}
OF_DATA |= {"flags"}
OF_TRAINING = {"class_weights", "weights", "pos_weight", "positive_weight", "label_smoothing"}
OF_TRAINING |= {"focal_gamma", "loss_type", "objective", "margin", "distinct", "sampling"}
OF_TRAINING |= {"matryoshka_dimensions", "matryoshka_weights", "max_target_length", "learn_from"}
OF_TRAINING |= {"augmentation", "mirror", "label_all_tokens", "calibrated", "tune_thresholds"}
OF_TRAINING |= {"mask_fraction", "whole_words", "write_answers"}
OF_TRAINING |= {"lowest_score", "highest_score", "highest_label"}
ONE_BY_ONE = {
    ("sentence-embedding", "pooling"): "a module of the folder",
    ("sentence-embedding", "scale"): "of the loss",
    ("sentence-embedding", "symmetric"): "of the loss",
    ("multi-task", "temperature"): "of the sampling",
}


def limits(name, **settings):
    return find_task(name)(**settings).within(256).limits()


@pytest.mark.parametrize(("name", "field"), TOLD)
def test_the_card_names_what_stock_libraries_do_not_know(name, field):
    settings, words = TOLD[name, field]
    said = " ".join(limits(name, **settings))
    assert [each for each in words if each not in said] == []


def test_every_setting_of_every_task_is_named_or_known_to_be_alike():
    settings = {(name, each.name) for name in TASKS for each in fields(find_task(name))}
    assert {*TOLD, *ONE_BY_ONE} <= settings
    assert {*ALIKE, *OF_DATA, *OF_TRAINING} <= {field for _, field in settings}
    unsorted = {
        (name, field)
        for name, field in settings - set(TOLD) - set(ONE_BY_ONE)
        if field not in {*ALIKE, *OF_DATA, *OF_TRAINING}
    }
    assert unsorted == set()
    assert len(settings) > 120


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("text-classification", {}),
        ("token-classification", {"long": "truncate"}),
        ("regression", {}),
        ("multiple-choice", {}),
        ("sentence-embedding", {}),
        ("reranking", {}),
        ("translation", {}),
        ("summarization", {}),
    ],
)
def test_where_stock_libraries_answer_the_same_nothing_is_said(name, settings):
    assert list(limits(name, **settings)) == []


@pytest.mark.parametrize(
    ("name", "question", "cut"),
    [
        ("question-answering", "a film?", ""),
        (
            "question-answering",
            "a film " * 20,
            "since what stands in each of their windows is long",
        ),
        ("token-classification", None, ""),
    ],
)
def test_the_card_and_the_report_of_a_run_say_that_texts_are_read_in_windows(
    tmp_path, tiny_folder, name, question, cut
):
    rows = [*EXAMPLES[name]]
    if question is not None:
        rows[0] = {**rows[0], "question": question}
    run = tw.train(
        rows * 3, task=name, model=str(tiny_folder("bert")), folder=str(tmp_path), max_length=32,
        stride=4, num_train_epochs=1, num_resamples=20, track=(), precision="fp32",
    )  # fmt: skip
    card = (run.folder.model / "README.md").read_text(encoding="utf-8")
    assert "The model reads 32 tokens at once, and longer texts in windows." in card
    assert ("are cut, since" in card) == bool(cut)
    report = run.folder.report.read_text(encoding="utf-8")
    assert "Texts of more than 32 tokens are read in windows of that length." in report


def test_a_part_s_settings_are_named_with_the_part():
    said = limits("multi-task", parts=PARTS)
    assert sum(each.startswith("other: ") for each in said) == 1


def test_of_many_thresholds_the_first_are_named():
    labels = tuple(f"label {place}" for place in range(30))
    thresholds = tuple(place / 100 for place in range(30))
    (said,) = limits("multi-label-classification", labels=labels, thresholds=thresholds)
    assert said.endswith("label 19 0.190 and 10 more. All are kept in `task.json`.")


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        ("IOB1", "the saved model's own are BIO"),
        ("plain", "joins neighbours of one tag"),
        ("BMES", "leaves all others as entities of their own"),
    ],
)
def test_the_scheme_of_tags_is_named_where_stock_transformers_joins_otherwise(scheme, words):
    (said,) = limits("token-classification", scheme=scheme, long="truncate")
    assert words in said
    assert limits("token-classification", scheme="IO", long="truncate") == ()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("prompts", [{}, {"query_prompt": "the ", "document_prompt": "a "}])
def test_the_lines_of_an_embedding_model_give_its_own_vectors(
    tmp_path, tiny_folder, normalize, prompts
):
    pytest.importorskip("sentence_transformers")
    source = tiny_folder("bert")
    task = find_task("sentence-embedding")(normalize=normalize, dimensions=8, **prompts)
    task, tokenizer = task.started_from(source).within(64), load_tokenizer(source)
    model, _ = task.build(source, tokenizer, dropout=0.0, seed=0)
    folder: Path = tmp_path / "saved"
    save_model(model, tokenizer, folder, max_length=64, extra_files=task.extra_files(model))
    rows = [Row(i, {"anchor": text}) for i, text in enumerate(("a text", "another text"))]
    found = [
        answer.values for answer in Predictor(task, model.eval(), tokenizer, CPU).answers(rows)
    ]
    *lines, last = task.stock_lines().replace("path/to/this/folder", str(folder)).splitlines()
    names: dict[str, object] = {}
    exec("\n".join(lines), names)
    np.testing.assert_allclose(found, eval(last, names), atol=1e-5)
    assert np.shape(found) == (2, 8)


def test_the_lines_of_a_model_that_ranks_give_its_own_scores(tmp_path, tiny_folder):
    pytest.importorskip("sentence_transformers")
    source, folder = tmp_path / "source", tmp_path / "saved"
    shutil.copytree(tiny_folder("bert", 1), source)
    settings = json.loads((source / "config.json").read_text())  # as of many models on the Hub
    settings["sentence_transformers"] = {"activation_fn": "torch.nn.modules.linear.Identity"}
    (source / "config.json").write_text(json.dumps(settings))
    task, tokenizer = find_task("reranking")().within(64), load_tokenizer(source)
    model, _ = task.build(source, tokenizer, dropout=0.0, seed=0)
    save_model(model, tokenizer, folder, max_length=64)
    row = Row(0, {"query": "a question", "text": ["an answer", "another"]})
    (found,) = Predictor(task, model.eval(), tokenizer, CPU).answers([row])
    *lines, last = task.stock_lines().replace("path/to/this/folder", str(folder)).splitlines()
    names: dict[str, object] = {}
    exec("\n".join(lines), names)
    stock = {each["corpus_id"]: each["score"] for each in eval(last, names)}
    assert found.scores == pytest.approx([stock[0], stock[1]], abs=1e-5)


def test_the_lines_of_a_model_that_translates_have_its_prefix():
    lines = find_task("translation")(prefix='say "x": ', model_type="t5").stock_lines()
    assert 'tokenizer("say \\"x\\": A dog runs.", truncation=True' in lines
    compile(lines, "card", "exec")
