"""Cells that hold lists come through every format."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from tunewright.data import read_table

LISTS = [{"tokens": ["a", "b"], "ids": [1, 2]}, {"tokens": [], "ids": []}, {"tokens": ["c"]}]
COLUMNS = {"tokens": [["a", "b"], [], ["c"]], "ids": [[1, 2], [], None]}


def list_sources():
    arrow = pa.table({"tokens": COLUMNS["tokens"], "ids": COLUMNS["ids"]})
    pa.parquet.write_table(arrow, "a.parquet")
    pa.feather.write_feather(arrow, "a.arrow")
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in LISTS))
    Path("a.json").write_text(json.dumps(LISTS))
    arrays = {name: [c and np.array(c) for c in cells] for name, cells in COLUMNS.items()}
    return {
        **{name: name for name in ("a.parquet", "a.arrow", "a.jsonl", "a.json")},
        "pandas": pd.DataFrame(COLUMNS),
        "numpy": pd.DataFrame(arrays),
        "polars": pl.DataFrame(COLUMNS),
        "datasets": datasets.Dataset.from_dict(COLUMNS),
        "dicts": LISTS,
    }


def test_lists_in_cells_come_through_every_format(folder):
    for name, source in list_sources().items():
        read = read_table(source)
        assert {column: read.column(column) for column in COLUMNS} == COLUMNS, name


def test_a_list_in_a_csv_file_stays_text(folder):
    Path("a.csv").write_text('tokens,tags\n"[""a"", ""b""]",[1]\n')
    read = read_table("a.csv")
    assert (read.column("tokens"), read.column("tags")) == (['["a", "b"]'], ["[1]"])


def test_squad_s_nested_answers_come_through_parquet(folder):
    answers = [{"text": ["a"], "answer_start": [0]}, {"text": [], "answer_start": []}]
    datasets.Dataset.from_dict({"answers": answers}).to_parquet("a.parquet")
    assert read_table("a.parquet").column("answers") == answers


@pytest.mark.parametrize("inner", [datasets.List, datasets.Sequence, datasets.LargeList])
def test_lists_of_class_ids_become_lists_of_names(folder, inner):
    features = datasets.Features({"ner_tags": inner(datasets.ClassLabel(names=["O", "B-x"]))})
    made = datasets.Dataset.from_dict({"ner_tags": [[1, 0], [], None, [0, -1]]}, features)
    made.to_parquet("a.parquet")
    expected = [["B-x", "O"], [], None, ["O", None]]
    assert read_table("a.parquet").column("ner_tags") == expected
    assert read_table(made).column("ner_tags") == expected
    assert read_table(made.select([3, 0])).column("ner_tags") == [["O", None], ["B-x", "O"]]
