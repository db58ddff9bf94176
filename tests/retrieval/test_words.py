"""The words that BM25 compares, through the full-text index itself."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.retrieval.words import MAX_QUERY_WORDS, expression, indexed, query_words


@pytest.fixture(scope="module")
def table():
    """Returns a function (text, query) that says whether the query finds the text."""
    connection = sqlite3.connect(":memory:")
    connection.execute(
        "create virtual table words using fts5(body, tokenize='unicode61 remove_diacritics 2')"
    )

    def finds(text, query):
        connection.execute("delete from words")
        connection.execute("insert into words values (?)", (indexed(text),))
        asked = expression(query_words(query))
        if not asked:
            return False
        found = connection.execute("select count(*) from words where words match ?", (asked,))
        return found.fetchone()[0] == 1

    return finds


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("The hotel was GOOD", "good"),
        ("Ein schönes Café", "cafe"),
        ("酒店很好", "酒店"),
        ("酒店很好", "店很好吗"),
        ("酒店很好", "好"),
        ("酒店很好", "酒"),
        ("Win10系统", "系统"),
        ("ＡＢＣ１２３", "abc123"),
        ("トヨタの車", "トヨタ"),
        ("a OR b", 'or "'),
        ("snake_case", "snake_case"),
    ],
)
def test_a_query_finds_a_text_with_one_of_its_words(table, text, query):
    assert table(text, query)


@pytest.mark.parametrize(
    ("text", "query"),
    [("The hotel was good", "goo"), ("酒店很好", "店酒"), ("酒店很好", "很坏"), ("text", "?!")],
)
def test_other_queries_do_not(table, text, query):
    assert not table(text, query)


@given(st.text(max_size=60), st.text(max_size=20))
def test_no_query_is_a_fault_of_the_index(table, text, query):
    table(text, query)


@given(st.text(st.sampled_from("中文酒店好a "), min_size=1, max_size=20))
def test_every_stretch_of_a_chinese_text_finds_it(table, text):
    for start in range(len(text)):
        piece = text[start : start + 3]
        if piece.strip() and "a" not in piece:
            assert table(text, piece)


def test_words_of_a_query_are_counted_once_and_bounded():
    assert query_words("a b A b") == ["a", "b"]
    assert len(query_words(" ".join(f"w{n}" for n in range(500)))) == MAX_QUERY_WORDS
