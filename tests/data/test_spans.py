from __future__ import annotations

import pytest

from tunewright.answers import Span
from tunewright.data import read_spans
from tunewright.errors import DataError

TEXT = "Ada met Bo in Łódź."


def refusal(value, text=TEXT):
    with pytest.raises(DataError) as caught:
        read_spans(value, text, "ner.jsonl, line 3")
    return str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        [{"start": 0, "end": 3, "label": "person"}, {"start": 8, "end": 10, "label": "person"}],
        [[8, 10, "person"], [0, 3, "person"]],
    ],
    ids=["dicts", "triples"],
)
def test_both_forms_give_the_spans_in_order(value):
    assert read_spans(value, TEXT, "here") == [Span(0, 3, "person"), Span(8, 10, "person")]


def test_no_spans_are_no_error():
    assert read_spans(None, TEXT, "here") == read_spans([], TEXT, "here") == []


def test_spans_that_touch_do_not_overlap():
    assert len(read_spans([[0, 3, "a"], [3, 4, "b"]], TEXT, "here")) == 2


def test_spans_that_overlap_are_refused():
    assert refusal([[0, 7, "a"], [4, 10, "b"]]) == (
        'ner.jsonl, line 3: the span 0 to 7 ("Ada met") and the span 4 to 10 ("met Bo") overlap. '
        "Each character belongs to one span at most. Keep one of the two."
    )


@pytest.mark.parametrize(("start", "end"), [(14, 20), (-1, 3), (5, 5), (7, 4)])
def test_a_span_outside_the_text_is_refused(start, end):
    assert refusal([[start, end, "place"]]) == (
        f'ner.jsonl, line 3: the span {start} to {end} ("place") does not lie in the text of 19 '
        "characters. A span begins before it ends, and ends with the text at the latest. Offsets "
        "count characters, not bytes or tokens: mend them."
    )


@pytest.mark.parametrize(
    ("text", "start", "end", "said", "place"),
    [
        ("Ada met Bo.", 0, 3, "Ada", (0, 3)),
        ("\U0001f600 Ada met Bo.", 3, 6, "Ada", (2, 5)),  # as a browser counts
        ("Ada met Bo.", 8, 11, " Bo.", (8, 11)),
    ],
)
def test_a_span_may_say_what_stands_there(text, start, end, said, place):
    span = {"start": start, "end": end, "text": said, "labels": ["person"]}
    assert read_spans([span], text, "here") == [Span(*place, "person")]


def test_a_span_that_says_something_else_than_stands_there_is_refused():
    with pytest.raises(DataError) as caught:
        read_spans([{"start": 0, "end": 7, "text": "Ada", "label": "a"}], "Ada met Bo.", "here")
    assert str(caught.value) == (
        'here: a span says "Ada"; at 0 to 7 of the text stands "Ada met". Offsets count '
        "characters, not bytes or tokens; an end is the place after the last. Mend the span, or "
        "leave its text out."
    )


def test_a_vowel_sign_belongs_to_its_consonant():
    with pytest.raises(DataError, match="cuts the character before place 1 from its marks"):
        read_spans([[0, 1, "x"]], "\u0915\u093f", "here")


def test_a_span_that_cuts_a_character_from_its_marks_is_refused():
    assert refusal([[0, 4, "word"]], "Cafe\u0301 noir") == (
        'ner.jsonl, line 3: the span 0 to 4 ("Cafe") cuts the character before place 4 from its '
        "marks. A span begins and ends between whole characters. Move its edge past the combining "
        "mark."
    )


@pytest.mark.parametrize(
    "item", [[0, 3], "Ada", {"start": "0", "end": 3, "label": "x"}, [0, True, "x"]]
)
def test_another_form_is_refused(item):
    assert refusal([item]) == (
        f'ner.jsonl, line 3: a span is {item!r}. A span is {{"start", "end", "label"}} or '
        "[start, end, label], in characters of the text."
    )
