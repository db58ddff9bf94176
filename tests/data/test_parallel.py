"""Two files line by line, and tables without names."""

from __future__ import annotations

import gzip

import pytest

from tunewright.data import DataConfig, read_table
from tunewright.data.formats.parallel import partner_of
from tunewright.data.readers import ReadSettings
from tunewright.errors import DataError


def pair(folder, source="a dog\na cat\n", target="ein Hund\neine Katze\n"):
    (folder / "train.src").write_text(source, encoding="utf-8")
    (folder / "train.tgt").write_text(target, encoding="utf-8")
    return folder / "train.src"


def test_lines_of_both_files_stand_side_by_side(tmp_path):
    table = read_table(pair(tmp_path))
    assert table.column("source") == ["a dog", "a cat"]
    assert table.column("target") == ["ein Hund", "eine Katze"]
    assert table.place(1) == (str(tmp_path / "train.src"), 2)
    assert len(table.files) == 2
    assert table.notes == (
        f"{tmp_path / 'train.src'}: its translations are those of {tmp_path / 'train.tgt'}, line "
        "by line.",
    )


def test_packed_files_go_together_too(tmp_path):
    for name, text in (("a.src.gz", "one\n"), ("a.tgt.gz", "eins\n")):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    table = read_table(tmp_path / "a.src.gz")
    assert (table.column("source"), table.column("target")) == (["one"], ["eins"])


def test_files_of_unlike_length_are_refused(tmp_path):
    with pytest.raises(DataError) as caught:
        read_table(pair(tmp_path, target="ein Hund\n"))
    assert str(caught.value) == (
        f"{tmp_path / 'train.tgt'}: it has 1 lines, and {tmp_path / 'train.src'} has 2. Line by "
        "line, each is the translation of the other. Find the line from which on they do not "
        "belong together."
    )


def test_sources_alone_are_texts(tmp_path):
    path = pair(tmp_path)
    (tmp_path / "train.tgt").unlink()
    assert partner_of(path) is None
    assert read_table(path).column("text") == ["a dog", "a cat"]
    assert partner_of(tmp_path / "reviews.csv") is None


def test_a_table_without_header_has_numbered_columns(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("a dog\tein Hund\na cat\teine Katze\n", encoding="utf-8")
    table = read_table(path, ReadSettings(header=False))
    assert table.column("column_1") == ["a dog", "a cat"]
    assert table.column("column_2") == ["ein Hund", "eine Katze"]
    assert table.place(0)[1] == 1
    assert read_table(path).column_names == ["a dog", "ein Hund"]


def test_the_setting_reaches_the_reader():
    assert DataConfig(header=False).reading().header is False
    assert DataConfig().reading() == ReadSettings()
