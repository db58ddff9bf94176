from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunewright.data import read_table, write_rows
from tunewright.errors import DataError

ROWS = [
    {"text": "a, b", "score": 0.5, "scores": {"pos": 1.0}},
    {"text": "乙", "score": -1, "scores": {}},
]


def test_rows_are_written_as_json_lines(folder):
    assert write_rows(ROWS, "a.jsonl") == 2
    assert [json.loads(line) for line in Path("a.jsonl").read_text("utf-8").splitlines()] == ROWS


def test_rows_are_written_as_csv_with_nested_values_as_json(folder):
    assert write_rows(ROWS, "a.csv") == 2
    assert read_table("a.csv").column("scores") == ['{"pos": 1.0}', "{}"]
    assert read_table("a.csv").column("score") == ["0.5", "-1"]


def test_standard_output_gets_json_lines_unless_told(capsys):
    write_rows([{"a": 1}], "-")
    write_rows([{"a": 1}], "-", "csv")
    assert capsys.readouterr().out == '{"a": 1}\na\n1\n'


def test_a_file_stays_as_it_was_when_the_rows_fail(folder):
    def failing() -> Iterator[dict[str, int]]:
        yield {"a": 1}
        raise RuntimeError

    Path("a.jsonl").write_text("before")
    with pytest.raises(RuntimeError):
        write_rows(failing(), "a.jsonl")
    assert Path("a.jsonl").read_text() == "before"
    assert [path.name for path in folder.iterdir()] == ["a.jsonl"]


def test_a_missing_folder_is_refused(folder):
    with pytest.raises(DataError) as caught:
        write_rows(ROWS, "nowhere/a.jsonl")
    assert str(caught.value) == (
        "nowhere/a.jsonl: it cannot be written (No such file or directory)."
    )


def test_another_suffix_is_refused(folder):
    with pytest.raises(DataError) as caught:
        write_rows(ROWS, "a.xlsx")
    assert str(caught.value) == (
        "a.xlsx: this suffix is not one that is written. It has to end in .jsonl or .csv."
    )


def test_csv_rows_with_other_columns_are_refused(folder):
    with pytest.raises(DataError) as caught:
        write_rows([{"a": 1}, {"a": 1, "b": 2}], "a.csv")
    assert str(caught.value) == (
        "row 2 to write: its columns are a, b, the first row's a. "
        "In CSV all rows need the same columns. Write .jsonl instead."
    )
