"""Files that are read block by block give the rows that reading them whole gives."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.data import read_table
from tunewright.data.large import block_files
from tunewright.data.large.blocks import BlockRows, block_table, sample_places
from tunewright.data.readers import ReadSettings
from tunewright.errors import DataError

ROLES = {"text": "text", "label": "label"}
ROWS = [
    {
        "text": f"row {n} " + "x" * (n % 7) + ("\u2028电影" if n % 5 == 0 else ""),
        "label": n % 3,
        "extra": [n],
    }
    for n in range(250)
]


def write_parquet(path, rows, group=40):
    pa.parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)


def write_arrow(path, rows, group=40, stream=False):
    table = pa.Table.from_pylist(rows)
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as sink, make(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=group)


def write_lines(path, rows, end="\n"):
    text = end.join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_bytes(text.encode() + end.encode())


WRITERS = {
    "data.parquet": write_parquet,
    "data.arrow": write_arrow,
    "stream.arrow": lambda path, rows: write_arrow(path, rows, stream=True),
    "data.jsonl": write_lines,
    "crlf.jsonl": lambda path, rows: write_lines(path, rows, "\r\n"),
    "blank.jsonl": lambda path, rows: write_lines(path, rows, "\n\n \t\n"),
}


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(block_files, "BLOCK_BYTES", 1000)


@pytest.fixture(params=WRITERS)
def path(request, folder, small_blocks):
    path = folder / request.param
    WRITERS[request.param](path, ROWS)
    return path


def rows_in_blocks(path, **settings):
    table = block_table(str(path), [path], ReadSettings(**settings))
    return table.rows({role: name for role, name in ROLES.items() if name in table.column_names})


def test_every_row_is_the_one_that_reading_the_file_whole_gives(path):
    rows, whole = rows_in_blocks(path), read_table(path).rows(ROLES)
    assert len(rows.starts_B1) > 5
    assert list(rows) == list(whole)
    assert rows[-1] == whole[249]
    assert rows.read(np.array([200, 3, 3, 77])) == [whole[200], whole[3], whole[3], whole[77]]


def test_rows_that_are_held_out_are_in_no_other_part_and_ids_count_on(path):
    rows = rows_in_blocks(path)
    gone = np.array([0, 39, 40, 41, 249])
    left = rows.without(gone, None)
    expected = [row for row in rows if row.id not in gone]
    assert [row.values for row in left] == [row.values for row in expected]
    assert [row.line for row in left] == [row.line for row in expected]
    assert [row.id for row in left] == list(range(245))
    assert rows.tables(gone).column("text") == [ROWS[place]["text"] for place in gone]


def test_only_so_many_rows_are_read(path):
    rows = rows_in_blocks(path, max_rows=101)
    assert [row.values["text"] for row in rows] == [row["text"] for row in ROWS[:101]]


def test_several_files_are_one_data_set_and_rows_name_theirs(folder, small_blocks):
    write_parquet(folder / "train-00000-of-00002.parquet", ROWS[:100])
    write_lines(folder / "train-00001-of-00002.jsonl", ROWS[100:])
    paths = sorted(folder.iterdir())
    rows = block_table("data", paths, ReadSettings()).rows(ROLES)
    assert [row.values["text"] for row in rows] == [row["text"] for row in ROWS]
    assert (rows[100].source, rows[100].line) == (str(paths[1]), 1)
    table = rows.tables(np.array([99, 100]))
    assert [row.where for row in table.rows(ROLES)] == [
        f"{paths[0]}, line 100",
        f"{paths[1]}, line 1",
    ]


def test_plain_text_has_a_row_for_every_line_blank_ones_too(folder, small_blocks):
    (folder / "a.txt").write_bytes("\ufeffone\n\ntwo 电\r\n  \nthree".encode())
    rows = rows_in_blocks(folder / "a.txt")
    assert list(rows) == list(read_table(folder / "a.txt").rows({"text": "text"}))
    assert len(rows) == 5


LINE = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n\ufeff"), max_size=40)


@given(st.lists(LINE, min_size=1, max_size=30), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_any_text_is_cut_into_the_same_lines(tmp_path_factory, lines, end, is_ended):
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    path.write_bytes((end.join(lines) + (end if is_ended else "")).encode())
    if not path.stat().st_size:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_files, "BLOCK_BYTES", 7)
        rows = rows_in_blocks(path)
        assert list(rows) == list(read_table(path).rows({"text": "text"}))


def test_blocks_are_held_while_they_are_wanted_and_no_longer(path):
    rows = rows_in_blocks(path)
    rows.keep(rows.blocks_of(np.array([0, 249])))
    rows.read(np.array([0, 120, 249]))
    assert set(rows._open) == rows.blocks_of(np.array([0, 249]))
    rows.keep(frozenset())
    assert not rows._open


def test_a_sample_comes_from_blocks_all_over_the_data_and_is_the_same_each_time(path):
    rows = rows_in_blocks(path)
    places = sample_places(rows, 60, seed=3)
    assert len(set(places.tolist())) == 60
    assert (np.diff(places) > 0).all()
    assert places.min() < 60
    assert places.max() > 190
    assert sample_places(rows, 60, seed=3).tolist() == places.tolist()
    assert sample_places(rows, 60, seed=4).tolist() != places.tolist()
    assert sample_places(rows, 250, seed=3).tolist() == list(range(250))


def test_labels_outside_the_sample_are_found_where_a_column_can_be_read_by_itself(folder):
    write_parquet(folder / "a.parquet", [*ROWS, {"text": "rare", "label": 9, "extra": []}])
    rows = rows_in_blocks(folder / "a.parquet")
    found, is_whole = rows.first_with_others("label", [0, 1])
    assert [(row.values["label"], row.id) for row in found] == [(2, 2), (9, 250)]
    assert is_whole
    write_lines(folder / "a.jsonl", ROWS)
    assert rows_in_blocks(folder / "a.jsonl").first_with_others("label", [0]) == ([], False)


def test_the_digest_is_that_of_the_content(path, folder):
    before = rows_in_blocks(path).table.digest
    copy = folder / f"copy{path.suffix}"
    copy.write_bytes(path.read_bytes())
    assert rows_in_blocks(copy).table.digest == before
    data = path.read_bytes()
    if b"row 77" in data:
        copy.write_bytes(data.replace(b"row 77", b"roe 77"))
    else:  # it is compressed
        write_parquet(copy, [*ROWS[:77], {**ROWS[77], "text": "roe 77"}, *ROWS[78:]])
    assert rows_in_blocks(copy).table.digest != before


BAD_LINES = {
    b'{"text": "caf\xe9", "label": 1}': (
        "a.jsonl, line 201: the byte 0xe9 is not UTF-8. Save the text as UTF-8, or name its "
        "encoding with data.encoding."
    ),
    b'{"text": "a\0b", "label": 1}': (
        "a.jsonl, line 201: there is a NUL at character 12. A text file holds none. If it is "
        'UTF-16 without a byte order mark, pass data.encoding="utf-16-le".'
    ),
    b'{"text": "a", "label": 1': (
        "a.jsonl, line 201: this is not valid JSON: Expecting ',' delimiter at character 25. "
        "Correct it."
    ),
    b'{"text": "a", "text": "b"}': (
        'a.jsonl, line 201: the key "text" appears twice in one object. Write the value in another '
        "way."
    ),
    b"[1]": (
        "a.jsonl, line 201: there is a list where an object is needed. Each line has to be one "
        'JSON object, such as {"text": "...", "label": "..."}.'
    ),
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_ends_the_run_when_it_is_met_and_is_named(folder, small_blocks, line):
    lines = [json.dumps(row).encode() for row in ROWS]
    (folder / "a.jsonl").write_bytes(b"\n".join([*lines[:200], line, *lines[200:]]))
    table = block_table("a.jsonl", [folder / "a.jsonl"], ReadSettings())
    rows = BlockRows(table, ROLES)
    assert len(rows.read(np.array([199, 201]))) == 2
    with pytest.raises(DataError) as caught:
        rows.read(np.array([199, 200]))
    assert str(caught.value).replace(f"{folder}/", "") == BAD_LINES[line]


def test_a_text_that_is_too_long_is_named(folder):
    write_lines(folder / "a.jsonl", ROWS)
    with pytest.raises(DataError, match=r"a\.jsonl, line 6: a value is longer than 15 bytes"):
        list(rows_in_blocks(folder / "a.jsonl", max_text_bytes=15))


def test_a_file_that_changes_while_it_is_used_is_an_error(path):
    rows = rows_in_blocks(path)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataError, match="the file changed while it was read"):
        rows.read(np.array([3]))


@pytest.mark.parametrize("name", ["data.parquet", "data.arrow"])
def test_a_damaged_file_is_named(folder, name):
    WRITERS[name](folder / name, ROWS)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=f"{name}: this is not a whole (Parquet|Arrow) file"):
        rows_in_blocks(folder / name)


def test_a_file_without_rows_is_an_error(folder):
    (folder / "a.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="there is no row"):
        rows_in_blocks(folder / "a.jsonl")
