"""Adding to an index: what has no id takes the place of nothing, and is not added twice."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from tests.retrieval.conftest import TEXTS, documents
from tests.retrieval.embedders import WordCounts
from tunewright.errors import DataError
from tunewright.retrieval.documents import Document, read_documents
from tunewright.retrieval.indexing import remove_documents
from tunewright.retrieval.making import index as index_of
from tunewright.retrieval.store import opened


def texts_in(folder):
    with opened(folder) as store:
        return dict(store.rows("select key, body from documents order by key"))


@pytest.fixture
def add(update):
    """Returns a function that adds what a source holds, and says what became of it."""

    def call(source, add=True):
        change = update(read_documents(source), add=add)
        return change.num_added, change.num_changed, change.num_removed, change.num_unchanged

    return call


def test_texts_of_another_list_are_added(tmp_path):
    for texts in (["a film", "a bank"], ["a goal", "a team"]):
        index_of(texts, tmp_path / "index", embedder=WordCounts(), add=True).close()
    assert texts_in(tmp_path / "index") == {
        "0": "a film", "0#2": "a goal", "1": "a bank", "1#2": "a team",
    }  # fmt: skip


def test_rows_of_two_files_of_one_name_are_both_kept(add, tmp_path):
    for folder in ("A", "B"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "data.csv").write_text(f"text,n\nfirst of {folder},1\nboth,2\n")
    assert add(tmp_path / "A" / "data.csv") == (2, 0, 0, 0)
    assert add(tmp_path / "B" / "data.csv") == (1, 0, 0, 2)
    assert texts_in(tmp_path / "index") == {
        "data.csv:2": "first of A", "data.csv:2#2": "first of B", "data.csv:3": "both",
    }  # fmt: skip


def test_lines_of_standard_input_are_added_one_after_another(add, tmp_path):
    words = [f"word{number}" for number in range(20)]
    for word in words:
        line = f'{{"text": "{word}"}}\n'.encode()
        assert add(io.BytesIO(line))[0] == 1
        assert add(io.BytesIO(line))[:3] == (0, 0, 0)
    found = texts_in(tmp_path / "index")
    assert sorted(found.values()) == sorted(words)
    assert found["standard input:1#20"] == "word19"


def test_a_number_that_became_free_is_given_again(add, tmp_path):
    for word in ("one", "two", "three"):
        add([word])
    remove_documents(tmp_path / "index", ["0#2"])
    add(["four"])
    assert texts_in(tmp_path / "index") == {"0": "one", "0#2": "four", "0#3": "three"}


def test_the_same_source_again_adds_nothing(add):
    first, second = ["a film", "a bank", "a bank"], ["a goal", "a bank"]
    assert add(first) == (3, 0, 0, 0)
    assert add(second) == (1, 0, 0, 3)
    assert add(second) == add(first) == (0, 0, 0, 4)


def test_lines_that_moved_are_not_added_again(add, tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("one\ntwo\ntwo\nthree\n")
    assert add(file) == (4, 0, 0, 0)
    file.write_text("zero\none\ntwo\ntwo\ntwo\nthree\n")
    assert add(file) == (2, 0, 0, 4)
    assert sorted(texts_in(tmp_path / "index").values()) == [
        "one", "three", "two", "two", "two", "zero",
    ]  # fmt: skip


def test_another_column_makes_another_document(add):
    assert add([{"text": "a film", "year": 2020}]) == (1, 0, 0, 0)
    assert add([{"text": "a film", "year": 2021}]) == (1, 0, 0, 1)


def test_a_document_with_an_id_keeps_its_place_from_one_without(add, tmp_path):
    add([{"id": 0, "text": "named"}])
    add(["not named"])
    assert texts_in(tmp_path / "index") == {"0": "named", "0#2": "not named"}


def test_without_adding_lines_change_in_their_places(add, tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("one\ntwo\nthree\n")
    add(file)
    add(["a list"])
    file.write_text("one\n2\n")
    assert add(file, add=False) == (0, 1, 2, 1)
    assert texts_in(tmp_path / "index") == {"notes.txt:1": "one", "notes.txt:2": "2"}


def test_a_document_that_lost_its_text_leaves_the_index(update, tmp_path):
    update()
    blank = [Document("goal", " "), Document("song", ""), Document("bank", TEXTS["bank"])]
    change = update(blank, add=True)

    assert (change.num_blank, change.num_removed, change.num_unchanged) == (2, 1, 3)
    assert texts_in(tmp_path / "index").keys() == {"iron", "bank", "film"}


def test_a_document_that_lost_its_text_leaves_without_adding_too(update, tmp_path):
    update()
    change = update({**TEXTS, "goal": ""})
    assert (change.num_blank, change.num_removed, change.num_unchanged) == (1, 1, 3)


def test_a_blank_line_removes_nothing(update, tmp_path):
    update({"0": "one", "1": "two"})
    change = update(read_documents([{"text": ""}, {"text": "three"}]), add=True)
    assert (change.num_blank, change.num_removed, change.num_added) == (1, 0, 1)


def test_a_blank_row_beside_one_of_the_same_id_removes_nothing(update, tmp_path):
    update()
    twice = [*documents({"goal": TEXTS["goal"]}), replace(documents()[0], key="goal", text="")]
    assert update(twice, add=True).num_unchanged == 4


def test_blank_texts_alone_do_not_empty_the_index(update, tmp_path):
    update()
    with pytest.raises(DataError, match="no row has a text"):
        update(dict.fromkeys(TEXTS, ""), add=True)
    assert texts_in(tmp_path / "index") == TEXTS
