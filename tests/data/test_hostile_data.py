"""Bad input: each gets one whole message and exit status 2."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from tunewright.data import (
    ReadSettings,
    check_labels,
    check_rows,
    escape_formula,
    read_number,
    read_table,
    write_rows,
)
from tunewright.errors import DataError
from tunewright.types import Role

ROLES = (Role("text", "the text"), Role("label", "its class", only_training=True))


def refusal(source: object, settings: ReadSettings | None = None) -> str:
    """Returns the message with which a source is refused."""
    with pytest.raises(DataError) as caught:
        read_table(source, settings or ReadSettings())
    assert caught.value.exit_status == 2
    return str(caught.value)


def texts(path: Path | str) -> list[str]:
    return read_table(path).column("text")


# Empty files, encodings, NUL


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json"])
def test_an_empty_file_is_refused(folder, name):
    Path(name).touch()
    assert refusal(name) == (
        f"{name}: the file is empty. A header line and at least one row are needed."
    )


def test_a_header_without_rows_is_refused(folder):
    Path("a.csv").write_text("text,label\n")
    assert refusal("a.csv") == ("a.csv: there is a header but no row. At least one row is needed.")


def test_a_byte_of_no_encoding_is_named_with_its_offset_and_line(folder):
    Path("a.csv").write_bytes("text,label\nfine,pos\ncaf\xe9,neg\n".encode("latin-1"))
    assert refusal("a.csv") == (
        "a.csv, line 3: the byte 0xe9 at offset 23 is not UTF-8. "
        'The file looks like "cp1252" or "cp1250", but that is a guess. '
        "Save it as UTF-8, or name its encoding, such as data.encoding=cp1252."
    )


def test_bytes_that_are_not_the_named_encoding_are_refused(folder):
    Path("a.csv").write_bytes(b"text,label\nfine,pos\nna\xffve,neg\n")
    assert refusal("a.csv", ReadSettings(encoding="gb18030")).startswith(
        "a.csv, line 3: the byte 0xff at offset 22 is not GB18030."
    )


def test_a_nul_is_refused_with_its_line(folder):
    Path("a.csv").write_bytes(b"text,label\nfine,pos\nba\x00d,neg\n")
    assert refusal("a.csv") == (
        "a.csv, line 3: there is a NUL at character 3. A text file holds none. "
        'If it is UTF-16 without a byte order mark, pass data.encoding="utf-16-le".'
    )


# CSV


def test_a_ragged_row_is_named_with_its_physical_line(folder):
    Path("a.csv").write_text('text,label\n"two\nlines",pos\none,neg,more\n')
    assert refusal("a.csv") == (
        "a.csv, line 4: there are 3 fields where the header has 2. "
        'Every row needs as many fields as the header. Put texts that contain "," in quotes.'
    )


@pytest.mark.parametrize("row", ['"never closed,pos', 'text,"pos', 'x,"'])
def test_a_quote_that_is_never_closed_is_named_where_it_opens(folder, row):
    Path("a.csv").write_text(f"text,label\nfine,pos\n{row}\nnext,neg\n" + "more,neg\n" * 99)
    assert refusal("a.csv") == (
        'a.csv, line 3: a quote (") is opened here and never closed. '
        "It takes the rest of the file as one value. "
        'If quotes are plain characters in this file, pass data.quote="".'
    )


def test_a_quote_closed_by_a_later_rows_quote_is_named_where_it_opens(folder):
    Path("a.csv").write_text('text,label\n"open,pos\nb,neg\n"c",neg\n')
    assert refusal("a.csv") == (
        "a.csv, line 2: a quoted value is followed by other characters (in line 4). "
        'A quote inside a quoted value is written twice (""). '
        'If quotes are plain characters in this file, pass data.quote="".'
    )


def test_a_column_name_twice_is_refused(folder):
    Path("a.csv").write_text("text,label,text\na,b,c\n")
    assert refusal("a.csv") == (
        'a.csv: the column name "text" appears 2 times (columns 1, 3). '
        "Each column needs a name of its own. Rename one of them."
    )


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_is_read_and_counted(folder, end):
    Path("a.csv").write_bytes(end.join(["text,label", "a\u2028b,pos", "c,neg", ""]).encode())
    rows = read_table("a.csv").rows({"text": "text"})
    assert [(row.values["text"], row.line) for row in rows] == [("a\u2028b", 2), ("c", 3)]


def test_formula_cells_are_text_and_escaped_when_written(folder):
    formula = '=cmd|"/c calc"!A0'
    Path("a.csv").write_text('text,label\n"=cmd|""/c calc""!A0",pos\n')
    table = read_table("a.csv")
    assert table.column("text") == [formula]
    write_rows([{"text": formula}], "out.csv")
    assert Path("out.csv").read_text() == 'text\n"\'=cmd|""/c calc""!A0"\n'


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", " =1"])
def test_what_a_spreadsheet_would_run_gets_an_apostrophe(text):
    assert escape_formula(text) == "'" + text


@pytest.mark.parametrize("text", ["-3.5", "+1", "plain", "a=b", "", "-1e-5"])
def test_numbers_and_plain_text_are_written_as_they_are(text):
    assert escape_formula(text) == text


# Labels and numbers


def test_one_empty_label_is_named_with_its_line(folder):
    Path("a.csv").write_text("text,label\na,pos\nb,\nc,neg\n")
    rows = read_table("a.csv").rows({"text": "text", "label": "label"})
    with pytest.raises(DataError) as caught:
        check_rows(rows, ROLES)
    assert str(caught.value) == (
        'a.csv, line 3: column "label" is empty. Every row needs a label to train. '
        "Remove the row or pass data.drop_unlabelled=true."
    )


def test_empty_labels_are_counted_with_the_first_lines(folder):
    Path("a.csv").write_text("text,label\n" + "a,pos\n" + "b,  \n" * 7)
    rows = read_table("a.csv").rows({"text": "text", "label": "label"})
    with pytest.raises(DataError) as caught:
        check_rows(rows, ROLES)
    assert str(caught.value) == (
        'a.csv: column "label" is empty in 7 of 8 rows (lines 3, 4, 5, 6, 7 and more). '
        "Every row needs a label to train. Remove the rows or pass data.drop_unlabelled=true."
    )


def test_one_class_only_is_refused():
    with pytest.raises(DataError) as caught:
        check_labels(["pos"] * 1200, "a.csv")
    assert str(caught.value) == (
        'a.csv: column "label" has the one label "pos" in all 1,200 rows. '
        "A classifier needs at least two classes. "
        "Add rows of another class, or name another column with data.columns.label."
    )


def test_a_label_written_in_several_ways_is_refused_with_each_spelling():
    with pytest.raises(DataError) as caught:
        check_labels(["1", 1, 1.0, " 1", "1", "1.0", "2"], "a.jsonl")
    assert str(caught.value) == (
        'a.jsonl: column "label" writes the label 1 in 5 ways: "1" in 2 rows, 1 in 1 row, '
        '1.0 in 1 row, " 1" in 1 row, "1.0" in 1 row. '
        "Each label has to be written in one way. Write all of them alike."
    )


def test_mixed_labels_of_a_json_file_keep_their_types(folder):
    labels = [1, 1.0, "1", " 1", True]
    lines = [json.dumps({"text": "a", "label": label}) for label in labels]
    Path("a.jsonl").write_text("\n".join(lines))
    read = read_table("a.jsonl").column("label")
    assert list(map(repr, read)) == ["1", "1.0", "'1'", "' 1'", "True"]


def test_a_column_of_ids_is_no_label():
    values = [str(number) for number in range(10_000)] + ["0"]
    with pytest.raises(DataError) as caught:
        check_labels(values, "a.csv", "user")
    assert str(caught.value) == (
        'a.csv: column "user" has 10,000 different labels in 10,001 rows. '
        "It looks like an id or like free text; a class needs several rows. "
        "Name the column of the classes with data.columns.label."
    )


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("N/A", '"N/A" is not a finite number'),
        ("inf", '"inf" is not a finite number'),
        ("1e400", '"1e400" is not a finite number'),
        (float("nan"), "the value is empty"),
        (float("inf"), "inf is not a finite number"),
        (10**400, f"{10**400} is not a finite number"),
        (True, "True is not a finite number"),
        ("1_000", '"1_000" is not a finite number'),
        ("", "the value is empty"),
        (None, "the value is empty"),
    ],
)
def test_what_is_no_finite_number_is_refused(value, found):
    with pytest.raises(DataError) as caught:
        read_number(value, 'a.csv, line 2, column "score"')
    assert str(caught.value) == (
        f'a.csv, line 2, column "score": {found}. A number is needed here. '
        "Correct the value, or remove the row."
    )


def test_a_decimal_comma_gets_a_hint():
    with pytest.raises(DataError) as caught:
        read_number("1,5", "row 1")
    assert str(caught.value) == (
        'row 1: "1,5" is not a finite number. A number is needed here. '
        'Write decimals with a point ("1.5"), and thousands without a sign ("1000").'
    )


@pytest.mark.parametrize(("value", "number"), [("3", 3), (" -0.5 ", -0.5), ("1e-3", 1e-3), (7, 7)])
def test_numbers_are_read_from_text(value, number):
    assert read_number(value, "") == number


def test_blank_texts_are_counted_and_dropped_only_on_request(folder):
    Path("a.csv").write_text('text,label\na,pos\n" \t",pos\n"\u200b\u200e",neg\nb,neg\n')
    rows = read_table("a.csv").rows({"text": "text", "label": "label"})
    kept, dropped = check_rows(rows, ROLES), check_rows(rows, ROLES, drop_blank=True)
    assert (len(kept.rows), kept.num_blank_kept, kept.dropped.num_rows) == (4, 2, 0)
    assert [row.values["text"] for row in dropped.rows] == ["a", "b"]
    assert dropped.dropped.to_json() == {
        "unlabelled": 0,
        "unlabelled_lines": [],
        "blank": 2,
        "blank_lines": [3, 4],
    }


# Sizes


def test_a_text_of_fifty_megabytes_is_read_in_bounded_memory(folder):
    Path("a.csv").write_text("text,label\nshort,pos\n" + "word " * 10_000_000 + ",neg\n")
    tracemalloc.start()
    table = read_table("a.csv")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table.column("text")[1]) == 50_000_000
    assert peak < 400_000_000


def test_a_text_over_the_limit_is_named_with_its_line(folder):
    Path("a.csv").write_text("text,label\nshort,pos\n" + "a" * 1001 + ",neg\n")
    assert refusal("a.csv", ReadSettings(max_text_bytes=1000)) == (
        "a.csv, line 3: a value is longer than 1,000 bytes. If it is one text, raise "
        "data.max_text_bytes. If not, look for a quote or bracket that is never closed."
    )


def test_a_line_without_end_is_refused_before_it_fills_the_memory(folder):
    Path("a.jsonl").write_text('{"text": "' + "a" * 100_000)
    assert refusal("a.jsonl", ReadSettings(max_text_bytes=1000)) == (
        "a.jsonl, line 1: a value is longer than 1,000 bytes. If it is one text, raise "
        "data.max_text_bytes. If not, look for a quote or bracket that is never closed."
    )


def test_twenty_megabytes_without_a_space_are_one_text(folder):
    Path("a.jsonl").write_text(json.dumps({"text": "x" * 20_000_000}))
    assert len(texts("a.jsonl")[0]) == 20_000_000


# JSON


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_json_nested_ten_thousand_deep_is_refused(folder, opening):
    closing = {"[": "]", '{"a":': "}"}[opening]
    Path("a.jsonl").write_text(
        '{"text": "a"}\n{"text": ' + opening * 10_000 + "1" + closing * 10_000 + "}\n"
    )
    assert refusal("a.jsonl") == (
        "a.jsonl, line 2: the value is nested too deep. A row needs no such depth. Leave it out."
    )


def test_json_nested_past_any_row_is_refused(folder):
    Path("a.jsonl").write_text('{"text": ' + "[" * 150 + "]" * 150 + "}\n")
    assert refusal("a.jsonl") == "a.jsonl, line 1 or later: it is nested more than 100 deep."


def test_a_key_twice_is_refused(folder):
    Path("a.jsonl").write_text('{"text": "a"}\n{"text": "b", "text": "c"}\n')
    assert refusal("a.jsonl") == (
        'a.jsonl, line 2: the key "text" appears twice in one object. '
        "Write the value in another way."
    )


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_has_not_are_refused(folder, word):
    Path("a.json").write_text('[{"score": 1},\n{"score": ' + word + "}]")
    assert refusal("a.json") == (
        f"a.json, line 2: {word} is not a JSON value. Write the value in another way."
    )


def test_broken_json_is_named_with_line_and_character(folder):
    Path("a.jsonl").write_text('{"text": "a"}\n{"text": "b" "label": 1}\n')
    assert refusal("a.jsonl") == (
        "a.jsonl, line 2: this is not valid JSON: Expecting ',' delimiter at character 14. "
        "Correct it."
    )


def test_a_list_that_is_cut_off_is_refused(folder):
    Path("a.json").write_text('[{"text": "a"},\n{"text": "b"}\n')
    assert refusal("a.json") == (
        "a.json, line 3: this is not valid JSON: the list is not closed. Correct it."
    )


def test_a_row_that_is_no_object_is_refused(folder):
    Path("a.jsonl").write_text('{"text": "a"}\n["b"]\n')
    assert refusal("a.jsonl") == (
        "a.jsonl, line 2: there is a list where an object is needed. "
        'Each line has to be one JSON object, such as {"text": "...", "label": "..."}.'
    )


def test_an_integer_of_ten_thousand_digits_is_refused(folder):
    Path("a.jsonl").write_text('{"label": ' + "1" * 10_000 + "}\n")
    assert refusal("a.jsonl").startswith("a.jsonl, line 1: this is not valid JSON: Exceeds the")


def test_half_a_character_is_replaced_and_said_so(folder):
    Path("a.jsonl").write_text('{"text": "\\ud800a"}\n{"text": "\\ud83d\\ude00"}\n')
    table = read_table("a.jsonl")
    assert table.column("text") == ["\ufffda", "\U0001f600"]
    assert table.notes == (
        "a.jsonl: half a character (a lone surrogate) became U+FFFD in 1 value of the column "
        '"text".',
    )


def test_marks_of_direction_and_a_hundred_thousand_accents_are_kept(folder):
    odd = ["\u202eabc\u202c", "\u0634\u0643\u0631\u0627", "a" + "\u0301" * 100_000, "a\u200db"]
    Path("a.csv").write_text("text\n" + "\n".join(odd) + "\n")
    assert texts("a.csv") == odd
