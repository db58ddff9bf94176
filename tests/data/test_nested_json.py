"""SQuAD's nested file, Label Studio's and doccano's exports become rows."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tunewright.answers import Span
from tunewright.data import read_spans, read_table
from tunewright.errors import DataError

ANSWERS = [{"text": "Ada", "answer_start": 0}, {"text": "Ada", "answer_start": 0}]
QUESTIONS = [
    {"id": "1", "question": "Who met Bo?", "answers": ANSWERS, "is_impossible": False},
    {"id": "2", "question": "Who left?", "answers": [], "is_impossible": True},
    {"id": 3, "question": "Who came?"},
]
PARAGRAPHS = [{"context": "Ada met Bo.", "qas": QUESTIONS}, {"context": "Empty.", "qas": []}]
SQUAD = {
    "version": "v2.0",
    "data": [{"title": "Ada", "paragraphs": PARAGRAPHS}, {"paragraphs": []}],
}
NEEDED = (
    'A SQuAD file holds {"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", '
    '"answers": [{"text", "answer_start"}]}]}]}]}.'
)
TEXT = "😀 Ada met Bo."


def written(value: object, name: str = "a.json") -> str:
    Path(name).write_text(json.dumps(value))
    return name


def rows_of(table) -> list[dict[str, object]]:
    columns = {name: table.column(name) for name in table.column_names}
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def task(*results, text=TEXT, **annotation):
    return {"id": 7, "data": {"text": text}, "annotations": [{"result": [*results], **annotation}]}


def marked(start, end, text, label="person"):
    value = {"start": start, "end": end, "text": text, "labels": [label]}
    return {"type": "labels", "from_name": "ner", "to_name": "text", "value": value}


# SQuAD


@pytest.mark.parametrize("packed", [False, True])
def test_a_nested_squad_file_is_a_row_for_each_question(folder, packed):
    name = written(SQUAD)
    if packed:
        name = "a.json.gz"
        Path(name).write_bytes(gzip.compress(Path("a.json").read_bytes()))
    read = read_table(name)
    same = {"title": "Ada", "context": "Ada met Bo."}
    two = {"text": ["Ada", "Ada"], "answer_start": [0, 0]}
    assert rows_of(read) == [
        {"id": "1", **same, "question": "Who met Bo?", "answers": two},
        {"id": "2", **same, "question": "Who left?", "answers": {"text": [], "answer_start": []}},
        {"id": 3, **same, "question": "Who came?", "answers": None},
    ]
    assert read.notes == (f"{name}: the file is read as nested SQuAD, one row per question.",)


@pytest.mark.parametrize(
    ("paragraph", "where", "found"),
    [
        ({"qas": []}, "", 'there is no "context"'),
        ({"context": ["Ada"], "qas": []}, "", "\"context\" is ['Ada']"),
        ("Ada", "", 'there is no "context"'),
        ({"context": "Ada"}, "", 'there is no "qas"'),
        ({"context": "Ada", "qas": ["Who?"]}, ", question 1", 'there is no "question"'),
        (
            {"context": "Ada", "qas": [{"question": "Who?", "answers": [{"text": "Ada"}]}]},
            ", question 1",
            'there is no "answer_start"',
        ),
    ],
)
def test_another_form_is_named_with_its_place(folder, paragraph, where, found):
    name = written({"data": [{"paragraphs": [paragraph]}]})
    with pytest.raises(DataError) as caught:
        read_table(name)
    assert str(caught.value) == f"a.json, article 1, paragraph 1{where}: {found}. {NEEDED}"


# Label Studio


def test_a_task_of_label_studio_is_a_row_with_its_entities(folder):
    read = read_table(written([task(marked(2, 5, "Ada"), text="A Ada."), task(text="Bo.")]))
    entity = {"start": 2, "end": 5, "label": "person"}
    assert rows_of(read) == [
        {"text": "A Ada.", "entities": [entity]},
        {"text": "Bo.", "entities": []},
    ]
    assert read.notes == ("a.json: the file is read as Label Studio's export.",)


def test_offsets_of_a_browser_become_characters(folder):
    units = task(marked(3, 6, "Ada"), marked(11, 13, "Bo"), marked(0, 2, "😀", "face"))
    read = read_table(written([units, task(marked(2, 5, "Ada"))]))
    texts = [
        [TEXT[each["start"] : each["end"]] for each in entities]
        for entities in read.column("entities")
    ]
    assert texts == [["Ada", "Bo", "😀"], ["Ada"]]


def test_choices_are_columns_of_their_own(folder):
    one, many = (
        {"type": "choices", "from_name": name, "value": {"choices": chosen}}
        for name, chosen in (("mood", ["good"]), ("topics", ["film", "book"]))
    )
    (row,) = rows_of(read_table(written([task(one, many)])))
    assert (row["mood"], row["topics"]) == ("good", ["film", "book"])


def test_the_true_annotation_is_taken_and_what_is_left_out_is_counted(folder):
    several = task(marked(2, 5, "Ada", "first"), marked(0, 1, "😀", "face"))
    several["annotations"] += [
        {"result": [marked(2, 5, "Ada", "true")], "ground_truth": True},
        {"result": [marked(2, 5, "Ada", "gone")], "was_cancelled": True},
    ]
    without = task()
    without["annotations"] = []
    read = read_table(written([several, without, task({"type": "relation"})]))
    entities = read.column("entities")
    assert (entities[0][0]["label"], entities[1:]) == ("true", [None, []])
    assert read.notes[1:] == (
        "a.json: of several annotations one is read, in 1 task.",
        'a.json: 1 result of the type "relation" left out.',
    )


@pytest.mark.parametrize(
    "entity",
    [
        {"start": 2, "end": 5, "text": "Ada", "labels": ["person"]},
        {"id": 1, "start_offset": 2, "end_offset": 5, "label": "person"},
    ],
    ids=["Label Studio's small export", "doccano's relations"],
)
def test_the_spans_of_tools_are_read(entity):
    assert read_spans([entity], "A Ada", "here") == [Span(2, 5, "person")]


def test_a_span_of_two_labels_is_refused():
    with pytest.raises(DataError, match=r"here: a span is \{'start': 2.*is \{\"start\", \"end\""):
        read_spans([{"start": 2, "end": 5, "labels": ["a", "b"]}], "A Ada", "here")
