"""Bad files and folders: each gets one whole message and exit status 2."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest

from tunewright.data import ReadSettings, read_table
from tunewright.data.formats.sources import FileStamp
from tunewright.errors import DataError


def refusal(source: object, settings: ReadSettings | None = None) -> str:
    """Returns the message with which a source is refused."""
    with pytest.raises(DataError) as caught:
        read_table(source, settings or ReadSettings())
    assert caught.value.exit_status == 2
    return str(caught.value)


# Archives


def test_a_gzip_bomb_is_refused(folder):
    with gzip.open("a.csv.gz", "wb") as stream:
        for _ in range(100):
            stream.write(bytes(1 << 20).replace(b"\0", b" "))
    assert refusal("a.csv.gz") == (
        "a.csv.gz: the archive unpacks to more than 67,108,864 bytes. "
        "So great an expansion is refused, since it may be meant to fill the memory. "
        "If you trust the file, unpack it, or raise data.max_file_expansion."
    )


def test_a_gzip_file_cut_short_is_refused(folder):
    Path("a.csv.gz").write_bytes(gzip.compress(b"text,label\na,b\n")[:-10])
    assert refusal("a.csv.gz") == (
        "a.csv.gz: the archive is damaged (Compressed file ended before the end-of-stream marker "
        "was reached). A whole archive is needed. Fetch or pack it again."
    )


def test_a_file_that_is_no_gzip_is_refused(folder):
    Path("a.csv.gz").write_text("text,label\na,b\n")
    assert refusal("a.csv.gz") == (
        "a.csv.gz: the archive is damaged (Not a gzipped file (b'te')). "
        "A whole archive is needed. Fetch or pack it again."
    )


def zipped(members: dict[str, str], link: str = "") -> None:
    with zipfile.ZipFile("a.zip", "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if name == link else 0o100644) << 16
            archive.writestr(info, content)


def test_the_one_data_file_of_a_zip_archive_is_read(folder):
    zipped({"data/a.csv": "text,label\na,b\n", "README.md": "hello"})
    assert read_table("a.zip").column("text") == ["a"]


@pytest.mark.parametrize("name", ["../a.csv", "/etc/a.csv", "x/../../a.csv"])
def test_a_zip_member_that_points_outside_is_refused(folder, name):
    zipped({name: "text,label\na,b\n"})
    assert refusal("a.zip") == (
        f'a.zip: the archive member "{name}" points outside the archive. Such archives are refused.'
    )


def test_a_zip_member_that_is_a_link_is_refused(folder):
    zipped({"a.csv": "/etc/passwd"}, link="a.csv")
    assert refusal("a.zip") == (
        'a.zip: the archive member "a.csv" is a link. Such archives are refused.'
    )


def test_a_zip_archive_of_two_files_is_refused(folder):
    zipped({"a.csv": "text\na\n", "b.csv": "text\nb\n"})
    assert refusal("a.zip") == (
        'a.zip: the archive holds "a.csv", "b.csv". It has to hold one text data file.'
    )


def test_a_zip_bomb_is_refused(folder):
    with zipfile.ZipFile("a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", "text,label\n" + " " * (70 << 20))
    assert refusal("a.zip").startswith("a.zip: the archive unpacks to more than 67,108,864 bytes.")


# Parquet and Arrow


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_pickled_extension_type_is_refused_and_never_unpickled(folder, name):
    extension = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": b"cos\nsystem\n(S'touch unpickled'\ntR.",
    }
    schema = pa.schema([pa.field("text", pa.string(), metadata=extension)])
    table = pa.table([pa.array(["a"])], schema=schema)
    if name.endswith("parquet"):
        pa.parquet.write_table(table, name)
    else:
        with pa.ipc.new_file(name, schema) as writer:
            writer.write_table(table)
    assert refusal(name) == (
        f'{name}: the column "text" has the extension type "arrow.py_extension_type". '
        "Extension types are refused, since they can carry pickled code. "
        "Write the column with a plain type."
    )
    assert not Path("unpickled").exists()


@pytest.mark.parametrize(("name", "kind"), [("a.parquet", "Parquet"), ("a.arrow", "Arrow")])
def test_a_columnar_file_of_something_else_is_refused(folder, name, kind):
    Path(name).write_bytes(b"text,label\na,b\n" * 10)
    message = refusal(name)
    assert message.startswith(f"{name}: this is not a whole {kind} file (")
    assert message.endswith("Write or fetch it again, or give it the suffix of what it is.")


def test_arrow_text_that_points_outside_its_buffer_is_refused(folder):
    table = pa.table({"text": ["x" * 77]})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    offsets, outside = struct.pack("<ii", 0, 77), struct.pack("<ii", 0, 1 << 30)
    before, after = sink.getvalue().rsplit(offsets, 1)
    Path("a.arrow").write_bytes(before + outside + after)
    assert refusal("a.arrow").startswith("a.arrow: this is not a whole Arrow file (")


def test_random_damage_to_a_parquet_file_never_ends_in_another_error(folder):
    pa.parquet.write_table(pa.table({"text": ["abc"] * 50, "label": [1] * 50}), "a.parquet")
    whole = Path("a.parquet").read_bytes()
    random = np.random.default_rng(0)
    num_refused = 0
    for place in random.integers(4, len(whole), 60):
        damaged = whole[:place] + struct.pack("B", whole[place] ^ 0xFF) + whole[place + 1 :]
        Path("b.parquet").write_bytes(damaged)
        try:
            read_table("b.parquet").column("text")
        except DataError:
            num_refused += 1
    assert num_refused > 10


# Paths


def test_a_named_pipe_is_refused_without_waiting(folder):
    os.mkfifo("a.csv")
    assert refusal("a.csv") == (
        "a.csv: this is a named pipe. A regular file or a folder is needed. "
        'Standard input is read with the path "-".'
    )


def test_a_device_is_refused():
    assert refusal("/dev/zero") == (
        "/dev/zero: this is a device. A regular file or a folder is needed. "
        'Standard input is read with the path "-".'
    )


def test_an_empty_folder_is_refused(folder):
    Path("reviews").mkdir()
    assert refusal("reviews") == (
        "reviews: the folder is empty. A folder has to hold files named by split "
        "(such as train.csv and test.csv), or one folder of .txt files per class."
    )


def test_a_missing_file_gets_the_nearest_names(folder):
    Path("reviews.csv").touch()
    assert refusal("revews.csv") == (
        'revews.csv: there is no such file. Did you mean "reviews.csv"?'
    )


def test_a_missing_file_with_no_near_name_gets_what_is_there(folder):
    Path("b.csv").touch()
    assert refusal("./quite-other.jsonl") == (
        'quite-other.jsonl: there is no such file. The folder holds "b.csv".'
    )


@pytest.mark.parametrize(
    ("suffix", "remedy"),
    [
        (".xlsx", "Save the sheet as CSV (UTF-8), or in Python pass what pandas.read_excel gives."),
        (".dat", "Rename the file to say what it holds."),
    ],
)
def test_an_unknown_suffix_gets_those_that_are_read(folder, suffix, remedy):
    Path(f"a{suffix}").touch()
    assert refusal(f"a{suffix}") == (
        f'a{suffix}: the suffix "{suffix}" is not one that is read. CSV, TSV, JSONL, JSON, TXT, '
        "CONLL, BIO, IOB, CONLLU (each also as .gz or .zip), Parquet and Arrow files are read. "
        f"{remedy}"
    )


def test_a_repeated_header_is_no_row(folder):
    Path("a.csv").write_text("text,label\nfine,pos\ntext,label\nbad,neg\n")
    assert refusal("a.csv") == (
        "a.csv, line 3: it repeats the header. A file has one header; several may have been "
        "joined into this one. Remove the line."
    )


def test_a_file_that_changes_while_it_is_read_is_refused(folder):
    path = Path("a.csv")
    path.write_text("text,label\na,b\n")
    table = read_table(path)
    path.write_text("text,label\na,b\nc,d\n")
    with pytest.raises(DataError) as caught:
        table.fingerprint()
    assert str(caught.value) == (
        "a.csv: the file changed while it was read. "
        "A file has to stay as it is until its rows are used. "
        "Wait until it is written, or use a copy of it."
    )


def test_a_file_put_in_anothers_place_is_noticed(folder):
    Path("a.csv").write_text("text\na\n")
    stamp = FileStamp.of(Path("a.csv"))
    Path("b.csv").write_text("text\nb\n")
    Path("b.csv").rename("a.csv")
    with pytest.raises(DataError):
        stamp.check()
