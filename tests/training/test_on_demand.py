"""Rows on the disk that are encoded when they are asked for."""

from __future__ import annotations

import json

import pytest

from tunewright.data.large import block_files
from tunewright.data.large.blocks import block_table
from tunewright.data.readers import ReadSettings
from tunewright.training.on_demand import EncodedOnDemand


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """250 rows in many blocks, of which every tenth is dropped."""
    monkeypatch.setattr(block_files, "BLOCK_BYTES", 1000)
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(250)))
    table = block_table(str(path), [path], ReadSettings())
    return EncodedOnDemand(
        table.rows({"text": "text"}), lambda row: None if row.id % 10 == 0 else [row.id]
    )


def test_a_dropped_row_has_the_next_one_in_its_place(rows):
    assert rows[:4] == [[1], [1], [2], [3]]
    assert [rows[place] for place in (9, 10, 249)] == [[9], [11], [249]]
    assert rows.num_dropped == 2


def test_many_rows_open_each_block_once(rows, monkeypatch):
    opened, own = [], type(rows._rows.table).open

    def noted(table, block):
        opened.append(block)
        return own(table, block)

    monkeypatch.setattr(type(rows._rows.table), "open", noted)
    rows._encode = lambda row: [row.id]
    assert rows[:120] == [[number] for number in range(120)]
    assert len(opened) == len(set(opened)) > 1
