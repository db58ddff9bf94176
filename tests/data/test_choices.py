from __future__ import annotations

import pytest

from tunewright.data.cells.choices import Choices, filled, find_choice_columns
from tunewright.errors import DataError

TEXTS = Choices(("cat", "dog", "7"))
KEYED = Choices(("cat", "dog"), ("x", "y"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["cat", "dog"], Choices(("cat", "dog"))),
        ("['cat', 'dog']", Choices(("cat", "dog"))),
        ([1, 2.5], Choices(("1", "2.5"))),
        ({"text": ["cat", "dog"], "label": ["x", "y"]}, KEYED),
        ({"text": ["cat", "dog"], "label": [1, 2]}, Choices(("cat", "dog"), ("1", "2"))),
    ],
)
def test_choices_come_in_these_forms(value, expected):
    assert Choices.of(value, "here") == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["cat"], "here: it holds 1 choice. Two are needed."),
        ([], "here: it holds 0 choices. Two are needed."),
        (
            {"text": ["cat", "dog"], "label": ["x"]},
            "here: it holds 2 texts and 1 key. Each choice has one text, and one key or none.",
        ),
        (
            None,
            'here: it is empty. A list such as ["a", "b"] is needed, or one text.',
        ),
    ],
)
def test_what_holds_no_choices_is_named(value, message):
    with pytest.raises(DataError) as caught:
        Choices.of(value, "here")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("choices", "label", "form", "place"),
    [
        (TEXTS, 1, "place", 1),
        (TEXTS, "1", "place", 1),
        (TEXTS, 1.0, "place", 1),
        (TEXTS, 3, "place", None),
        (TEXTS, -1, "place", None),
        (TEXTS, 3, "number", 2),
        (TEXTS, 0, "number", None),
        (TEXTS, "B", "letter", 1),
        (TEXTS, " b ", "letter", 1),
        (TEXTS, "AB", "letter", None),
        (TEXTS, "D", "letter", None),
        (TEXTS, "dog", "text", 1),
        (TEXTS, 7, "text", 2),
        (TEXTS, "", "text", None),
        (TEXTS, "x", "key", None),
        (KEYED, "y", "key", 1),
    ],
)
def test_a_label_means_the_choice_of_that_name(choices, label, form, place):
    assert choices.place_of(label, form) == place


@pytest.mark.parametrize("form", ["place", "number", "letter", "text", "key"])
def test_the_label_of_a_choice_means_that_choice(form):
    for place in range(2):
        assert KEYED.place_of(KEYED.label(place, form), form) == place


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["id", "choice_a", "choice_b", "choice_c"], ("choice_a", "choice_b", "choice_c")),
        (["ending1", "ending0", "ending2", "ending4"], ("ending0", "ending1", "ending2")),
        (["Option 1", "Option 2"], ("Option 1", "Option 2")),
        (["A", "B", "C", "D", "x"], ("A", "B", "C", "D")),
        (["opa", "opb", "option_a"], ("opa", "opb")),
        (["choice_a"], ()),
        (["choice_b", "choice_c"], ()),
        (["text", "1"], ()),
        ([], ()),
    ],
)
def test_the_columns_of_choices_are_found(columns, expected):
    assert find_choice_columns(columns) == expected


def test_more_than_nine_columns_are_found():
    names = [f"choice_{number}" for number in range(1, 13)]
    assert find_choice_columns(reversed(names)) == tuple(names)


def test_a_label_that_is_a_choice_to_the_letter_means_that_choice():
    choices = Choices(("1.0", "2.0", "3.0"))
    assert choices.place_of("2.0", "text") == 1
    assert choices.place_of(2.0, "text") == 1


def test_blank_columns_at_the_end_are_no_choices():
    assert filled(["cat", "", "dog", None, " "]) == ["cat", "", "dog"]
