from __future__ import annotations

import io
from pathlib import Path

import pytest

from tunewright.data import ReadSettings, read_table, stream_tables
from tunewright.data.formats.encoding import Lines, check_encoding, first_bad_byte, marked_encoding
from tunewright.errors import DataError, SettingsError

CHINESE = "text,label\n这家酒店的服务很好，房间也很干净。,好评\n房间太小了，我们不会再来。,差评\n"


def written(encoding: str, text: str = CHINESE) -> Path:
    path = Path("a.csv")
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("encoding", "found"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8-sig"),
        ("utf-16", "utf-16"),
        ("utf-32", "utf-32"),
        ("gb18030", "gb18030"),
        ("gbk", "gb18030"),
    ],
)
def test_an_encoding_is_found_and_reported(folder, encoding, found):
    table = read_table(written(encoding))
    assert table.encoding == found
    assert table.column_names == ["text", "label"]
    assert table.column("label") == ["好评", "差评"]


def test_utf_16_of_either_byte_order_is_read_by_its_mark(folder):
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        Path("a.csv").write_bytes(mark + CHINESE.encode(encoding))
        assert read_table("a.csv").column("label") == ["好评", "差评"]


def test_an_encoding_that_is_not_utf_8_is_said(folder):
    assert read_table(written("gb18030")).notes == ("a.csv: the text is read as GB18030.",)


def test_latin_1_is_read_on_request_only(folder):
    path = written("latin-1", "text,label\ncafé noir,bon\n")
    with pytest.raises(DataError):
        read_table(path)
    assert read_table(path, ReadSettings(encoding="latin-1")).column("text") == ["café noir"]


def test_latin_1_that_is_windows_is_told(folder):
    text = "\u201cfine\u201d \u2013 3 \u20ac"
    path = written("cp1252", f"text,label\n{text},bon\n")
    (note,) = read_table(path, ReadSettings(encoding="latin-1")).notes
    assert note.endswith("read as ISO8859-1; some of it looks like encoding=cp1252 instead.")
    assert read_table(path, ReadSettings(encoding="cp1252")).column("text") == [text]


def test_another_file_is_read_as_it_is_and_else_as_those_before(folder):
    settings = ReadSettings(encoding="latin-1").of_others()
    for encoding in ("utf-8", "latin-1"):
        table = read_table(written(encoding, "text,label\ncafé noir,bon\n"), settings)
        assert table.column("text") == ["café noir"]
    stream = io.BytesIO("text,label\ncafé noir,bon\n".encode())
    (table,) = stream_tables(stream, settings, "csv")
    assert table.column("text") == ["café noir"]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("euc-kr", "이 영화는 정말 재미있고 배우들의 연기도 훌륭했습니다\n"),
        ("latin-1", "Übergröße, naïveté, déjà vu\n"),
        ("shift-jis", "この映画はとても面白かったです。\n"),
        ("cp1251", "Отличный фильм, смотрел с удовольствием\n"),
        ("big5", "這部電影非常好看，我們都很喜歡。\n"),
    ],
)
def test_other_encodings_are_not_taken_for_chinese(folder, encoding, text):
    with pytest.raises(DataError) as caught:
        read_table(written(encoding, "text\n" + text * 3))
    assert "is not UTF-8" in str(caught.value)


def test_a_bad_byte_far_into_a_file_has_its_offset_and_line(folder):
    Path("a.csv").write_bytes(b"text,label\r\n" + b"abcd,pos\r\n" * 300_000 + b"\xff,neg\r\n")
    with pytest.raises(DataError) as caught:
        read_table("a.csv", ReadSettings(encoding="utf-8"))
    assert str(caught.value).startswith(
        "a.csv, line 300002: the byte 0xff at offset 3,000,012 is not UTF-8."
    )


def test_a_character_cut_off_at_the_end_is_refused():
    assert first_bad_byte(io.BytesIO("abcé".encode()[:-1]), "utf-8") == 3


def test_a_character_across_two_pieces_is_whole():
    data = b"a" * ((1 << 20) - 1) + "é".encode() + b"\xff"
    assert first_bad_byte(io.BytesIO(data), "utf-8") == (1 << 20) + 1


def test_the_mark_of_utf_32_is_not_taken_for_that_of_utf_16():
    assert marked_encoding("a".encode("utf-32")) == "utf-32"
    assert marked_encoding("a".encode("utf-16")) == "utf-16"
    assert marked_encoding(b"text") is None


def test_a_name_of_no_encoding_gets_the_nearest():
    with pytest.raises(SettingsError) as caught:
        check_encoding("latin-11")
    assert str(caught.value) == (
        'data.encoding: "latin-11" is not a text encoding. '
        'Names such as utf-8, gb18030 or latin-1 are known. Did you mean "latin1"?'
    )


def test_a_codec_that_is_no_text_encoding_is_refused():
    with pytest.raises(SettingsError):
        check_encoding("zlib")


def test_a_stream_is_read_as_utf_8_and_a_bad_byte_names_the_line():
    with pytest.raises(DataError) as caught:
        list(stream_tables(io.BytesIO(b'{"text": "a"}\n{"text": "\xff"}\n')))
    assert str(caught.value) == (
        "standard input, after line 0: the byte 0xff is not UTF-8. "
        "Save the text as UTF-8, or name its encoding with data.encoding."
    )


def test_only_line_feeds_and_carriage_returns_end_a_line():
    data = "a\r\nb\rc\u2028d\x85e\x0bf\n".encode()
    lines = Lines(io.BytesIO(data), "utf-8", "a.txt", 1000)
    assert list(lines) == ["a\r\n", "b\r", "c\u2028d\x85e\x0bf\n"]
    assert lines.num_read == 3
