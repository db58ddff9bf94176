from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tunewright.data import Table, read_table
from tunewright.data.arrays import record_batch, stack
from tunewright.data.table import BATCH_ROWS
from tunewright.errors import DataError


def numbered(num_rows: int) -> Table:
    return read_table({"text": [f"t{n}" for n in range(num_rows)], "id": list(range(num_rows))})


def large_file(num_rows: int) -> Table:
    Path("a.csv").write_text("text,id\n" + "".join(f"t{n},{n}\n" for n in range(num_rows)))
    return read_table("a.csv")


def test_a_row_has_its_values_its_extras_and_where_it_was_read(folder):
    Path("a.csv").write_text("body,stars,when\nfine,5,2020\n")
    row = read_table("a.csv").rows({"text": "body", "label": "stars"})[0]
    assert (row.id, row.values) == (0, {"text": "fine", "label": "5"})
    assert (row.extras, row.where) == ({"when": "2020"}, "a.csv, line 2")


def test_rows_can_be_counted_indexed_and_walked_more_than_once():
    rows = numbered(2 * BATCH_ROWS + 7).rows({"text": "text"})
    assert len(rows) == 2 * BATCH_ROWS + 7
    assert [row.id for row in rows] == [row.id for row in rows] == list(range(len(rows)))
    assert rows[-1].values == {"text": f"t{len(rows) - 1}"}
    with pytest.raises(IndexError):
        rows[len(rows)]


def test_a_slice_keeps_the_ids_of_its_rows():
    rows = numbered(10).rows({"text": "text"})[4:8][1:3]
    assert [(row.id, row.values["text"]) for row in rows] == [(5, "t5"), (6, "t6")]
    assert rows[0].id == 5


def test_a_selection_counts_its_rows_anew():
    rows = numbered(10).rows({"text": "text"}).select([7, 2, 2])
    assert [(row.id, row.values["text"]) for row in rows] == [(0, "t7"), (1, "t2"), (2, "t2")]
    assert rows.values("text") == ["t7", "t2", "t2"]


def test_rows_come_in_any_order_from_a_table_in_many_pieces(folder):
    table = large_file(20_000)
    assert table.columns.column("text").num_chunks > 1
    order = np.random.default_rng(0).permutation(20_000)[:5_000]
    rows = table.rows({"text": "text"}).select(order)
    assert [row.values["text"] for row in rows] == [f"t{n}" for n in order]
    assert [row.line for row in rows] == [n + 2 for n in order]


def test_rows_of_memory_know_their_place_wherever_they_go():
    table = read_table([{"text": str(place)} for place in range(9)]).select([8, 3, 5])
    found = table.rows({"text": "text"}).select([2, 0])
    assert [row.where for row in found] == ["list row 5", "list row 8"]
    assert [(row.id, row.number) for row in found[1:]] == [(1, 8)]


def test_no_rows_can_be_selected():
    assert list(numbered(3).rows({"text": "text"}).select([])) == []


def test_a_table_selects_rows_with_their_lines(folder):
    table = large_file(10).select([9, 0])
    assert table.column("text") == ["t9", "t0"]
    assert [table.place(0), table.place(1)] == [("a.csv", 11), ("a.csv", 2)]


def test_rows_survive_pickling():
    rows = numbered(5).rows({"text": "text"}).select([3, 1])
    assert list(pickle.loads(pickle.dumps(rows))) == list(rows)


def test_a_column_that_is_not_there_is_refused(folder):
    with pytest.raises(DataError) as caught:
        large_file(1).rows({"text": "body"})
    assert str(caught.value) == 'a.csv: there is no column "body". It has "text", "id".'


def test_the_fingerprint_of_a_file_is_that_of_its_bytes(folder):
    assert large_file(3).fingerprint() == {
        "path": "a.csv",
        "sha256": hashlib.sha256(Path("a.csv").read_bytes()).hexdigest(),
        "rows": 3,
        "columns": ["text", "id"],
        "encoding": "utf-8",
    }


def test_the_fingerprint_of_rows_in_memory_tells_values_and_types_apart():
    tables = [read_table({"text": [value]}) for value in ("1", 1, 1.0, True, "2", "1")]
    digests = [table.fingerprint()["sha256"] for table in tables]
    assert len(set(digests)) == 5
    assert digests[0] == digests[-1]


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
nested = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


@example([[[]], [False]])
@example([[None], [[]]])
@example([[[]], ["a"], [None]])
@given(st.lists(st.lists(nested, min_size=1, max_size=4), min_size=1, max_size=3))
def test_values_of_any_type_come_back_as_they_were(batches):
    made = [record_batch({"a": values}, "x", []) for values in batches]
    table = Table("x", stack(made))
    expected = [value for values in batches for value in values]
    assert list(map(repr, table.column("a"))) == list(map(repr, expected))
