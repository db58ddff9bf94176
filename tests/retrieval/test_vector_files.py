"""Files of vectors: what stands in them, in full and quantised, and that memory does not grow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest

from tunewright.errors import DataError, SettingsError
from tunewright.models.pooling import quantised, to_int8, value_ranges
from tunewright.retrieval import vector_files
from tunewright.retrieval.documents import Document
from tunewright.retrieval.embedding import embedded
from tunewright.retrieval.encoder import load_encoder, load_token_encoder
from tunewright.retrieval.vector_files import check_target, read_ranges, write_vectors

TEXTS = [f"a {'very ' * (n % 4)}good film {n}" for n in range(11)]


@pytest.fixture(scope="module")
def encoder(tiny_folder):
    return load_encoder(tiny_folder("bert"), precision="fp32")


@pytest.fixture(scope="module")
def token_encoder(tiny_folder):
    return load_token_encoder(tiny_folder("bert"), precision="fp32")


def documents(texts=TEXTS):
    return (Document(f"t{n}", text) for n, text in enumerate(texts))


@pytest.fixture(params=[256, 3])
def rows_at_once(request, monkeypatch):
    monkeypatch.setattr(vector_files, "ROWS_AT_ONCE", request.param)


def test_a_parquet_file_holds_id_text_and_vector(encoder, tmp_path, rows_at_once):
    file = tmp_path / "v.parquet"
    assert write_vectors(embedded(documents(), encoder), file) == len(TEXTS)

    table = parquet.read_table(file)
    assert table.column_names == ["id", "text", "vector"]
    assert table["text"].to_pylist() == TEXTS
    assert table["id"].to_pylist()[:2] == ["t0", "t1"]
    np.testing.assert_array_equal(np.stack(table["vector"].to_numpy()), encoder.encode(TEXTS))


def test_a_parquet_file_of_tokens_holds_their_pieces_places_and_vectors(
    token_encoder, tmp_path, rows_at_once
):
    file = tmp_path / "v.parquet"
    texts = [*TEXTS, ""]
    write_vectors(embedded(documents(texts), token_encoder), file)

    rows = parquet.read_table(file).to_pylist()
    assert [row["text"] for row in rows] == texts
    for row, answer in zip(rows, token_encoder.stream(texts), strict=True):
        assert tuple(row["tokens"]) == answer.tokens
        assert list(zip(row["starts"], row["ends"], strict=True)) == [
            tuple(place) for place in answer.places_N2.tolist()
        ]
        np.testing.assert_array_equal(
            np.array(row["vectors"], np.float32).reshape(answer.vectors_ND.shape),
            answer.vectors_ND,
        )


def test_an_array_holds_the_vectors_in_order(encoder, tmp_path):
    file = tmp_path / "v.npy"
    assert write_vectors(embedded(documents(), encoder), file) == len(TEXTS)

    vectors_RD = np.load(file, mmap_mode="r", allow_pickle=False)
    assert vectors_RD.dtype == np.float32
    np.testing.assert_array_equal(vectors_RD, encoder.encode(TEXTS))


def test_json_lines_hold_the_same(encoder, token_encoder, tmp_path):
    file = tmp_path / "v.jsonl"
    write_vectors(embedded(documents(), encoder), file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert list(rows[0]) == ["id", "text", "vector"]
    np.testing.assert_allclose([r["vector"] for r in rows], encoder.encode(TEXTS), atol=1e-7)

    write_vectors(embedded(documents(), token_encoder), file)
    row = json.loads(file.read_text().splitlines()[0])
    assert list(row) == ["id", "text", "tokens", "starts", "ends", "vectors"]
    assert len(row["tokens"]) == len(row["starts"]) == len(row["ends"]) == len(row["vectors"])


@pytest.mark.parametrize("suffix", [".parquet", ".npy", ".jsonl"])
def test_a_fault_on_the_way_leaves_what_was_there(encoder, tmp_path, suffix):
    file = tmp_path / f"v{suffix}"
    file.write_text("before")

    def breaking():
        yield from documents()
        raise DataError("f.csv, line 12", "it is broken")

    with pytest.raises(DataError, match="it is broken"):
        write_vectors(embedded(breaking(), encoder), file)
    assert file.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("suffix", [".parquet", ".npy", ".jsonl"])
def test_no_text_is_no_file(encoder, tmp_path, suffix):
    with pytest.raises(DataError) as caught:
        write_vectors(embedded([], encoder), tmp_path / f"v{suffix}")
    assert str(caught.value) == "the source: there is no row. At least one text is needed."
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(encoder, tmp_path):
    file = tmp_path / "none" / "v.npy"
    with pytest.raises(DataError) as caught:
        write_vectors(embedded(documents(), encoder), file)
    assert str(caught.value) == f"{file}: it cannot be written (No such file or directory)."


def test_only_a_window_of_texts_and_of_answers_is_held(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(type(encoder.predictor.task), "window_texts", 10)
    monkeypatch.setattr(vector_files, "ROWS_AT_ONCE", 10)
    alive, most = 0, 0

    class Counted(Document):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def many():
        nonlocal alive, most
        for number in range(300):
            alive += 1
            most = max(most, alive)
            yield Counted(f"{number}", f"film {number}")

    for suffix in (".parquet", ".npy", ".jsonl"):
        for form in ("float32", "int8"):
            assert write_vectors(embedded(many(), encoder), tmp_path / f"v{suffix}", form) == 300
    assert most <= 40


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v.csv", 'v.csv: vectors are not written as ".csv". The file has to end in one of '
                  ".parquet, .jsonl, .npy."),
        ("v", 'v: vectors are not written as "". The file has to end in one of .parquet, .jsonl, '
              ".npy."),
    ],
)  # fmt: skip
def test_files_that_cannot_hold_them_are_refused(name, message):
    with pytest.raises(SettingsError) as caught:
        check_target(Path(name))
    assert str(caught.value) == message


@pytest.mark.parametrize("num_texts", [11, 1000])
def test_an_array_of_tokens_has_the_beginnings_of_texts_beside_it(
    token_encoder, tmp_path, num_texts
):
    texts = ["", *(f"film {n} of the {'old ' * (n % 5)}book" for n in range(num_texts)), ""]
    file = tmp_path / "v.npy"
    assert write_vectors(embedded(documents(texts), token_encoder), file) == len(texts)

    vectors_ND = np.load(file, mmap_mode="r", allow_pickle=False)
    offsets_R1 = np.load(tmp_path / "v.offsets.npy", allow_pickle=False)
    answers = list(token_encoder.stream(texts))
    assert (vectors_ND.dtype, offsets_R1.dtype) == (np.float32, np.int64)
    assert offsets_R1[0] == 0
    assert np.diff(offsets_R1).tolist() == [len(answer.tokens) for answer in answers]
    assert len(vectors_ND) == offsets_R1[-1]
    for answer, start, stop in zip(answers, offsets_R1, offsets_R1[1:], strict=False):
        np.testing.assert_array_equal(vectors_ND[start:stop], answer.vectors_ND)


def test_texts_without_any_token_are_an_array_of_none(token_encoder, tmp_path):
    write_vectors(embedded(documents(["", ""]), token_encoder), tmp_path / "v.npy")
    assert np.load(tmp_path / "v.npy").shape == (0, 32)
    assert np.load(tmp_path / "v.offsets.npy").tolist() == [0, 0, 0]


def test_a_fault_on_the_way_leaves_both_arrays_of_tokens_as_they_were(token_encoder, tmp_path):
    def breaking():
        yield from documents()
        raise DataError("f.csv, line 12", "it is broken")

    for name in ("v.npy", "v.offsets.npy"):
        (tmp_path / name).write_text("before")
    with pytest.raises(DataError, match="it is broken"):
        write_vectors(embedded(breaking(), token_encoder), tmp_path / "v.npy")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "v.npy": "before", "v.offsets.npy": "before",
    }  # fmt: skip


def read_back(file):
    """Returns the vectors of a file, (R, D), as it holds them."""
    if file.suffix == ".npy":
        return np.load(file, allow_pickle=False)
    if file.suffix == ".jsonl":
        return np.array([json.loads(line)["vector"] for line in file.read_text().splitlines()])
    column = parquet.read_table(file)["vector"]
    dtype = column.type.value_type.to_pandas_dtype()
    return np.stack(column.to_numpy()).astype(dtype, casting="no")


@pytest.mark.parametrize("suffix", [".parquet", ".npy", ".jsonl"])
@pytest.mark.parametrize("form", ["int8", "uint8", "binary", "ubinary"])
def test_vectors_are_written_as_sentence_transformers_quantises_them(
    encoder, tmp_path, rows_at_once, form, suffix
):
    quantize = pytest.importorskip("sentence_transformers.util.quantization").quantize_embeddings
    file = tmp_path / f"v{suffix}"
    assert write_vectors(embedded(documents(), encoder), file, form) == len(TEXTS)

    found, expected = read_back(file), quantize(encoder.encode(TEXTS), form)
    if suffix != ".jsonl":
        assert found.dtype == expected.dtype
    assert found.tolist() == expected.tolist()
    ranged = ["v.ranges.npy"] if form in ("int8", "uint8") else []
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([file.name, *ranged])


def test_the_ranges_beside_are_those_of_all_vectors_and_read_other_texts(encoder, tmp_path):
    file = tmp_path / "v.parquet"
    write_vectors(embedded(documents(), encoder), file, "int8")
    ranges_2D = read_ranges(tmp_path / "v.ranges.npy")
    np.testing.assert_array_equal(ranges_2D, value_ranges(encoder.encode(TEXTS)))

    others = ["the bank", "music"]
    write_vectors(embedded(documents(others), encoder), tmp_path / "w.npy", "int8", ranges_2D)
    expected = to_int8(encoder.encode(others), ranges_2D)
    np.testing.assert_array_equal(np.load(tmp_path / "w.npy"), expected)
    np.testing.assert_array_equal(read_ranges(tmp_path / "w.ranges.npy"), ranges_2D)


@pytest.mark.parametrize("suffix", [".parquet", ".npy", ".jsonl"])
def test_the_vectors_of_tokens_are_quantised_by_the_ranges_of_all(
    token_encoder, tmp_path, rows_at_once, suffix
):
    texts = ["", *TEXTS, ""]
    file = tmp_path / f"v{suffix}"
    write_vectors(embedded(documents(texts), token_encoder), file, "uint8")

    answers = list(token_encoder.stream(texts))
    flat_ND = np.concatenate([answer.vectors_ND for answer in answers])
    expected_ND = quantised(flat_ND, "uint8")
    if suffix == ".npy":
        found_ND = np.load(file)
        assert found_ND.dtype == np.uint8
    elif suffix == ".jsonl":
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        assert [tuple(row["tokens"]) for row in rows] == [answer.tokens for answer in answers]
        found_ND = np.array([code for row in rows for code in row["vectors"]])
    else:
        rows = parquet.read_table(file).to_pylist()
        assert [row["text"] for row in rows] == texts
        assert [tuple(row["tokens"]) for row in rows] == [answer.tokens for answer in answers]
        assert [row["starts"] for row in rows] == [
            answer.places_N2[:, 0].tolist() for answer in answers
        ]
        found_ND = np.array([code for row in rows for code in row["vectors"]])
    assert found_ND.tolist() == expected_ND.tolist()


@pytest.mark.parametrize("suffix", [".parquet", ".npy", ".jsonl"])
def test_a_fault_leaves_no_part_of_quantised_vectors(encoder, tmp_path, suffix):
    def breaking():
        yield from documents()
        raise DataError("f.csv, line 12", "it is broken")

    with pytest.raises(DataError, match="it is broken"):
        write_vectors(embedded(breaking(), encoder), tmp_path / f"v{suffix}", "int8")
    with pytest.raises(DataError, match="there is no row"):
        write_vectors(embedded([], encoder), tmp_path / f"v{suffix}", "int8")
    assert list(tmp_path.iterdir()) == []


def test_a_single_text_has_no_ranges_of_its_own(encoder, tmp_path):
    with pytest.raises(SettingsError) as caught:
        write_vectors(embedded(documents(["a film"]), encoder), tmp_path / "v.npy", "int8")
    assert str(caught.value) == (
        "ranges: they cannot be taken from fewer than two vectors. They are the least and the "
        "greatest value of each number. Give the ranges of other vectors."
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("made", [None, b"text", np.zeros(3), np.zeros((2, 3), int)])
def test_what_is_no_file_of_ranges_is_refused(tmp_path, made):
    file = tmp_path / "r.npy"
    if isinstance(made, bytes):
        file.write_bytes(made)
    elif made is not None:
        np.save(file, made)
    with pytest.raises(DataError) as caught:
        read_ranges(file)
    assert str(caught.value).startswith(f"{file}: it ")
    assert str(caught.value).endswith("It is a .ranges.npy that was written beside vectors.")
