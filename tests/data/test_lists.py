from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.data.cells.lists import (
    find_separator,
    numbers_in,
    read_flag,
    read_list,
    read_written,
    texts_in,
)
from tunewright.errors import DataError

NAMES = st.lists(st.text("abc é好", min_size=1).map(str.strip).filter(bool), max_size=5)


@pytest.mark.parametrize(
    ("value", "separator", "expected"),
    [
        (["a", "b"], None, ["a", "b"]),
        ((1, 2), None, [1, 2]),
        ([], None, []),
        ("a; b ;c", ";", ["a", "b", "c"]),
        ("a;;b;", ";", ["a", "b"]),
        ("a;b", None, ["a;b"]),
        ("", ";", []),
        ("  ", None, []),
        ('["a", "b, c"]', ",", ["a", "b, c"]),
        ("['a', 'b']", ",", ["a", "b"]),
        (" [] ", ",", []),
        ("[1, 2]", None, [1, 2]),
        ("[1 0\n 1]", None, [1, 0, 1]),
        ("[1. 0.]", None, [1.0, 0.0]),
        ("['film' 'book']", None, ["film", "book"]),
        ("['film'\n \"it's\"]", None, ["film", "it's"]),
        ("[\"a' 'b\"]", None, ["a' 'b"]),
        ("('film', \"it's\")", ",", ["film", "it's"]),
        ("{'film', 'book'}", ",", ["book", "film"]),
        ("(a film)", None, ["(a film)"]),
        (3, ";", [3]),
        (True, None, [True]),
    ],
)
def test_a_cell_holds_these(value, separator, expected):
    assert read_list(value, separator, "here") == expected


@given(NAMES)
def test_what_was_joined_comes_apart_again(names):
    assert read_list("|".join(names), "|", "here") == names
    assert read_list(str(names), "|", "here") == names


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, "it is empty"),
        ([["a"]], "it is [['a']]"),
        (["a", None], "it is ['a', None]"),
        ([" "], "it is [' ']"),
        ("[a, b]", "it is '[a, b]'"),
        ("[[1]]", "it is '[[1]]'"),
        ("[" * 600 + "]" * 600, "it is '[[[[[[[[[["),
        ("{'a', None, 'b'}", "it is \"{'a', None, 'b'}\""),
        ("[" + "(" * 300 + "]", "it is '[(((((((((("),
        ({"a": 1}, "it is {'a': 1}"),
    ],
)
def test_what_is_no_list_is_named(value, found):
    with pytest.raises(DataError) as caught:
        read_list(value, None, "a.csv, line 2, labels")
    assert str(caught.value).startswith(f"a.csv, line 2, labels: {found}")
    assert str(caught.value).endswith('A list such as ["a", "b"] is needed, or one text.')


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a|b", "c", "d|e"], "|"),
        (["a, b; c", "c; d", "e"], ";"),
        (["a,b", "c"], ","),
        (["a", "b c", ""], None),
        ([["a,b"], ["c,d"]], None),
        (["['a', 'b']", "['c', 'd']", "[]"], None),
        ([], None),
    ],
)
def test_the_separator_is_the_one_in_most_texts(values, expected):
    assert find_separator(values) == expected


@pytest.mark.parametrize("value", [1, 1.0, True, "1", "true", "True", " 1 ", "1.0"])
def test_a_flag_that_is_set(value):
    assert read_flag(value, "here") is True


@pytest.mark.parametrize("value", [0, 0.0, False, "0", "false", "FALSE"])
def test_a_flag_that_is_not(value):
    assert read_flag(value, "here") is False


@pytest.mark.parametrize(("value", "found"), [("", "it is empty"), (0.5, "it is 0.5")])
def test_another_value_is_no_flag(value, found):
    with pytest.raises(DataError) as caught:
        read_flag(value, "a.csv, line 2, spam")
    assert str(caught.value) == (
        f"a.csv, line 2, spam: {found}. A label's own column holds 1 where the label applies and "
        "0 where it does not."
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        ('["a b", "c"]', ["a b", "c"]),
        ("['a b' 'c']", ["a b", "c"]),
        ("a, b", ["a, b"]),
        ("[applause] thank you [laughs]", ["[applause] thank you [laughs]"]),
        ('["see [1]", "b"]', ["see [1]", "b"]),
        ('["a", null, ""]', ["a"]),
        ("['a', None]", ["a"]),
        ('["\\ud83d\\ude00"]', ["\U0001f600"]),
        ("[1]", ["[1]"]),
        ("[" * 999 + "]" * 999, ["[" * 999 + "]" * 999]),
        ("[]", []),
        (None, [None]),
    ],
)
def test_a_cell_may_hold_one_text_or_several(value, expected):
    assert texts_in(value, "a.csv.gz, line 2") == expected


def test_a_text_of_other_files_is_one_even_where_it_looks_like_a_list():
    assert texts_in('["a", "b"]', "a.jsonl") == ['["a", "b"]']


@pytest.mark.parametrize("text", ["[1, 0]", "[1 0]", " [1. 0.] ", "[1,\n0]"])
def test_numbers_that_are_written_as_a_list_are_one(text):
    assert [float(each) for each in numbers_in(text, "a.tsv")] == [1, 0]
    assert numbers_in(text, "a.jsonl") == [text]


@pytest.mark.parametrize("text", ["['a' 'b' ... 'z']", "['a' 'b', 'c']"])
def test_an_array_that_was_cut_is_refused(text):
    with pytest.raises(DataError):
        read_list(text, None, "here")


OBJECTS = [{"start": 0, "end": 3, "label": "it's"}, {"start": 4, "end": 6, "label": "x"}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('["a", "b, c"]', ["a", "b, c"]),
        ("['a', \"it's\"]", ["a", "it's"]),
        ("['a' \"it's\"\n 'b']", ["a", "it's", "b"]),
        (" [0, -1] ", [0, -1]),
        ("[ 0 -100\n 12]", [0, -100, 12]),
        ("[]", []),
        ("('a', 'b')", ("a", "b")),
        ('{"text": ["a"], "answer_start": [2]}', {"text": ["a"], "answer_start": [2]}),
        (
            "{'text': array(['a', 'array(['], dtype=object), 'answer_start': array([2, 3],\n"
            "      dtype=int32)}",
            {"text": ["a", "array(["], "answer_start": [2, 3]},
        ),
        (str(OBJECTS), OBJECTS),
        (str(OBJECTS).replace("}, {", "} {"), OBJECTS),
        ("[(0, 3, 'x')]", [(0, 3, "x")]),
    ],
)
def test_lists_and_objects_are_read_as_they_are_written(text, expected):
    assert read_written(text) == expected


@pytest.mark.parametrize(
    "value",
    [
        None,
        ["a"],
        "",
        "a b",
        "[a, b]",
        "['a', 'b'",
        "['a' 'b' ... 'z']",
        "['a', 'b' 'c']",
        "[['a' 'b'], ['c']]",
        "{'text': array(['a', ..., 'b'",
        "[{[1]: 2}]",
        "{[1]}",
        "[" * 9 + "]" * 9,
        "[" * 9_999 + "]" * 9_999,
        "[" + "1+" * 9_999 + "1]",
        "['a'," + " " * 1_000_000 + "'b']",
    ],
    ids=lambda value: f"{value!r:.20}",
)
def test_what_is_no_list_or_object_stays_as_it_is(value):
    assert read_written(value) == value


def test_half_a_character_is_mended_as_in_json_files():
    text = '["a\\ud800b", "\\ud83d\\ude00"]'
    assert read_written(text) == texts_in(text, "a.csv") == ["a\ufffdb", "\U0001f600"]


def test_a_text_with_keys_that_no_object_has_is_a_text():
    assert texts_in("[{[1]: 2}]", "a.csv") == ["[{[1]: 2}]"]


@given(st.lists(st.text(max_size=4), max_size=5), st.lists(st.integers(-200, 200), max_size=5))
def test_what_json_python_and_numpy_write_is_read_back(texts, numbers):
    for written in (json.dumps(texts), str(texts)):
        assert read_written(written) == texts
    assert read_written(str(np.array(numbers, int))) == numbers
    assert read_written(str(np.array(numbers, float))) == numbers
    whole = {"text": texts, "answer_start": numbers}
    arrays = {name: np.array(each, object) for name, each in whole.items()}
    assert read_written(json.dumps(whole)) == read_written(str(whole)) == whole
    assert read_written(str(arrays)) == whole
