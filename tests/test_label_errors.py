"""Planted label errors are found; what cannot be judged is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.conftest import TinyFolder
from tunewright.errors import DataError, SettingsError
from tunewright.label_errors import SuspectLabel, find_label_errors
from tunewright.types import Row

WORDS = {
    "film": ["movie", "plot", "acting", "story", "film", "music"],
    "money": ["bank", "stock", "shares", "market", "price", "card"],
}
PLANTED = (3, 20, 41, 56, 97, 130, 152, 191)


def texts_and_labels() -> tuple[list[str], list[str]]:
    """Two hundred texts of eight words, half of them on film; eight carry the wrong label."""
    generator = np.random.default_rng(0)
    true = ["film", "money"] * 100
    texts = [" ".join(generator.choice(WORDS[label], 8)) for label in true]
    other = {"film": "money", "money": "film"}
    return texts, [other[label] if i in PLANTED else label for i, label in enumerate(true)]


@pytest.fixture
def model(tiny_folder: TinyFolder) -> Path:
    return tiny_folder("bert")


def places(found: list[SuspectLabel]) -> set[int]:
    return {int(suspect.where.split()[-1]) for suspect in found}


@pytest.mark.parametrize("architecture", ["bert", "qwen3", "mpnet"])
def test_most_planted_errors_are_found_and_nothing_else(
    tiny_folder: TinyFolder, architecture: str
) -> None:
    found = find_label_errors(texts_and_labels(), model=tiny_folder(architecture))
    assert places(found) <= set(PLANTED)
    assert len(found) >= 5
    assert all(suspect.label != suspect.suggested for suspect in found)


def test_the_least_believable_label_comes_first(model: Path) -> None:
    scores = [suspect.score for suspect in find_label_errors(texts_and_labels(), model=model)]
    assert scores == sorted(scores)
    assert 0 <= scores[0] <= scores[-1] < 0.5


def test_what_was_guessed_and_what_is_odd_is_said(model: Path, tmp_path: Path) -> None:
    texts, labels = texts_and_labels()
    file, heard = tmp_path / "reviews.csv", list[str]()
    pd.DataFrame({"review": [*texts, " "], "label": [*labels, "film"]}).to_csv(file, index=False)
    find_label_errors(file, model=model, say=heard.append)
    assert heard == [
        f'{file}: the column "review" is taken as text.', f"{file}: 1 row with a blank text.",
    ]  # fmt: skip


def test_a_suspect_says_where_it_stands_and_what_it_says(model: Path, tmp_path: Path) -> None:
    texts, labels = texts_and_labels()
    file = tmp_path / "reviews.csv"
    pd.DataFrame({"review": texts, "kind": labels}).to_csv(file, index=False)
    found = find_label_errors(file, model=model, columns={"text": "review", "label": "kind"})
    third = next(suspect for suspect in found if suspect.text == texts[3])
    assert third.where == f"{file}, line 5"
    assert (third.label, third.suggested) == ("film", "money")
    assert json.loads(json.dumps(third.to_json()))["where"] == third.where


def test_the_same_seed_finds_the_same(model: Path) -> None:
    first = find_label_errors(texts_and_labels(), model=model, seed=7)
    assert find_label_errors(texts_and_labels(), model=model, seed=7) == first


def test_rows_are_judged_as_they_are(model: Path) -> None:
    texts, labels = texts_and_labels()
    values = zip(texts, labels, strict=True)
    rows = [
        Row(place, {"text": text, "label": label == "film"}, "mine")
        for place, (text, label) in enumerate(values)
    ]
    found = find_label_errors(rows, model=model)
    assert places(found) <= set(PLANTED)
    assert {type(suspect.suggested) for suspect in found} == {bool}


def test_right_labels_are_left_alone(model: Path) -> None:
    texts, _ = texts_and_labels()
    assert find_label_errors((texts, ["film", "money"] * 100), model=model) == []


def test_a_missing_package_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    with pytest.raises(SettingsError) as caught:
        find_label_errors(texts_and_labels(), model=model)
    assert str(caught.value) == (
        "find_label_errors: the package cleanlab is not installed. "
        'Run: pip install "tunewright[audit]"'
    )


@pytest.mark.parametrize(
    ("rare", "message"),
    [
        (
            3,
            'lists: 1 of 3 labels have fewer than 5 rows: "rare". Each of the 5 folds needs a row '
            "of every class. Pass folds=3, or leave their rows out.",
        ),
        (
            1,
            'lists: 1 of 3 labels have fewer than 5 rows: "rare". Each of the 5 folds needs a row '
            "of every class. Leave their rows out.",
        ),
    ],
)
def test_a_class_smaller_than_the_folds_is_refused(model: Path, rare: int, message: str) -> None:
    texts, labels = texts_and_labels()
    with pytest.raises(DataError) as caught:
        find_label_errors((texts + ["food"] * rare, labels + ["rare"] * rare), model=model)
    assert str(caught.value) == message


@pytest.mark.parametrize("folds", [1, 0, -3])
def test_fewer_than_two_folds_are_refused(model: Path, folds: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        find_label_errors(texts_and_labels(), model=model, folds=folds)
    assert str(caught.value) == f"find_label_errors: folds is {folds}. At least 2 are needed."
