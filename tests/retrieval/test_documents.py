"""Documents: whatever the readers read, each with a name and its other columns."""

from __future__ import annotations

import io
import json

import pytest

from tunewright.errors import DataError
from tunewright.retrieval.documents import read_documents


def written(tmp_path, text, name="articles.csv"):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return file


def test_rows_of_a_file_are_documents_with_their_columns(tmp_path):
    said = []
    file = written(tmp_path, "url,body,year\nu1,one,2020\nu2,two,2021\n")
    first, second = read_documents(file, id_column="url", say=said.append)

    assert (first.key, first.text, dict(first.columns)) == ("u1", "one", {"year": "2020"})
    assert second.where == f"{file}, line 3"
    assert len(said) == 1
    assert '"body"' in said[0]


def test_a_row_without_an_id_is_named_by_its_file_and_line(tmp_path):
    found = list(read_documents(written(tmp_path, "one\ntwo\n", "notes.txt")))
    assert [document.key for document in found] == ["notes.txt:1", "notes.txt:2"]


def test_the_rows_of_beir_are_documents(tmp_path):
    row = {"_id": "d1", "title": "Anaemia", "text": "A lack of iron."}
    file = written(tmp_path, json.dumps(row) + "\n", "corpus.jsonl")
    (found,) = read_documents(file, text=["title", "text"])

    assert (found.key, found.text) == ("d1", "Anaemia\nA lack of iron.")


def test_title_and_text_of_beir_are_one_document(tmp_path):
    rows = [
        {"_id": "d1", "title": "Anaemia", "text": "A lack of iron.", "metadata": {"year": 2020}},
        {"_id": "d2", "title": "", "text": "No title."},
        {"_id": "d3", "title": "No text", "text": ""},
    ]
    file = written(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "corpus.jsonl")
    said = []
    found = list(read_documents(file, say=said.append))

    assert [(each.key, each.text) for each in found] == [
        ("d1", "Anaemia A lack of iron."), ("d2", "No title."), ("d3", "No text"),
    ]  # fmt: skip
    assert found[0].columns["metadata"] == {"year": 2020}
    assert said[-1] == (
        f'{file}: "title" and "text" are read together, as in BEIR; --text text reads the text '
        "alone."
    )


def test_the_text_of_beir_is_read_alone_where_it_is_named(tmp_path):
    row = {"_id": "d1", "title": "Anaemia", "text": "A lack of iron."}
    said = []
    (found,) = read_documents([row], text=["text"], say=said.append)

    assert (found.text, found.columns["title"]) == ("A lack of iron.", "Anaemia")
    assert not [sentence for sentence in said if "BEIR" in sentence]


@pytest.mark.parametrize("missing", ["_id", "title"])
def test_a_title_alone_makes_no_corpus_of_beir(missing):
    row = {"_id": "d1", "title": "Anaemia", "text": "A lack of iron."}
    (found,) = read_documents([{name: row[name] for name in row if name != missing}])
    assert found.text == "A lack of iron."


def test_files_of_a_folder_are_documents(tmp_path):
    written(tmp_path, "buy milk\n", "monday.txt")
    written(tmp_path, "rest", "sunday.txt")
    found = list(read_documents(tmp_path))

    assert [document.text.strip() for document in found] == ["buy milk", "rest"]
    assert [document.key.endswith(name) for document, name in zip(
        found, ("monday.txt", "sunday.txt"), strict=True)] == [True, True]  # fmt: skip


def test_texts_and_dicts_are_documents():
    assert [d.text for d in read_documents(["one", "two"])] == ["one", "two"]
    (found,) = read_documents([{"id": 7, "text": "one", "tags": ["a"]}])
    assert (found.key, dict(found.columns)) == ("7", {"tags": ["a"]})


def test_a_stream_is_read_as_it_comes():
    stream = io.BytesIO(b'{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n')
    assert [d.key for d in read_documents(stream)] == ["a", "b"]


def test_numbers_that_are_not_finite_are_null_among_the_columns():
    (found,) = read_documents([{"id": "a", "text": "x", "n": float("nan"), "m": [1.5]}])
    assert found.columns_json() == '{"n": null, "m": [1.5]}'


def test_blank_parts_are_not_joined():
    rows = [{"title": "", "text": "one"}, {"title": "head", "text": None}]
    found = list(read_documents(rows, text=["title", "text"]))
    assert [document.text for document in found] == ["one", "head"]


def test_a_missing_column_is_named_with_the_nearest(tmp_path):
    with pytest.raises(DataError) as caught:
        list(read_documents(written(tmp_path, "url,body\nu,b\n"), text=["body", "titel"]))
    assert 'articles.csv: there is no column "titel". It has "url", "body".' in str(caught.value)


def test_an_empty_id_is_refused(tmp_path):
    with pytest.raises(DataError) as caught:
        list(read_documents(written(tmp_path, "id,text\n,one\n")))
    assert str(caught.value).endswith(
        "articles.csv, line 2: its id is empty. An id names one document. "
        "Fill it in, or name another column with --id."
    )


def test_a_text_that_is_none_is_refused():
    with pytest.raises(DataError, match=r"its text is 3, which is no text"):
        list(read_documents([{"text": 3}]))
