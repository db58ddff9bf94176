"""Texts that are lists of words, or one of several columns, are checked and audited as texts."""

from __future__ import annotations

import pytest

from tunewright.data import AuditConfig, check_rows, read_table
from tunewright.data.auditing.audit import audit
from tunewright.types import Role, Row

EITHER = (
    Role("tokens", "the words", required=False),
    Role("text", "the text", required=False),
    Role("tags", "the tags", required=False, only_training=True),
)


@pytest.mark.parametrize(
    ("columns", "num_blank"),
    [
        ({"tokens": [["a"], [], ["", "\u200b"], None]}, 3),
        ({"tokens": [["a"], [], None, None], "text": ["", "b", " ", "c"]}, 1),
        ({"text": ["a", ""], "tags": [None, []]}, 1),
        ({"tags": [["O"], None]}, 0),
    ],
)
def test_a_row_is_blank_when_none_of_its_texts_shows_anything(columns, num_blank):
    rows = read_table(columns).rows({name: name for name in columns})
    assert check_rows(rows, EITHER).num_blank_kept == num_blank


def tagged(source: str, *texts: object) -> list[Row]:
    roles = ("tokens", "text")
    return [
        Row(place, {roles[isinstance(text, str)]: text}, source, place + 2)
        for place, text in enumerate(texts)
    ]


def test_lists_of_words_are_compared_measured_and_found_blank():
    train = tagged("a.jsonl", ["Ada", "met"], ["Ada", "met"], [], ["", " "], ["Bo"])
    found = audit({"train": train}, ["text", "tokens"], None, None, AuditConfig())
    (split,) = found.splits
    assert (split.num_duplicates, split.num_blank) == (1, 2)
    assert (split.characters["max"], split.first_blank) == (7, "a.jsonl, line 4")


def test_words_leak_also_where_the_other_split_has_them_as_text():
    splits = {
        "train": tagged("a.jsonl", ["Ada", "met"]),
        "test": tagged("b.jsonl", "Bo", "Ada  met"),
    }
    found = audit(splits, ["text", "tokens"], None, None, AuditConfig())
    assert [f.sentence for f in found.findings() if f.severity == "error"] == [
        "test: 50.0 % of the texts also stand in train (1 of 2; first: b.jsonl, line 3 = "
        "a.jsonl, line 2)"
    ]


def test_rows_of_several_texts_are_the_same_when_all_of_them_are():
    rows = [
        Row(i, {"question": q, "context": c}, "a.jsonl", i + 1)
        for i, (q, c) in enumerate([("who?", "Ada"), ("when?", "Ada"), ("who?", "Ada")])
    ]
    found = audit({"train": rows}, ["question", "context"], None, None, AuditConfig())
    assert found.splits[0].duplicates == [("a.jsonl, line 3", "a.jsonl, line 1")]
