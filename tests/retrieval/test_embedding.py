"""Texts in, files of vectors out: what stands in them, and that memory does not grow."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import pytest

import tunewright as tw
from tunewright.errors import DataError, SettingsError
from tunewright.retrieval import embedding
from tunewright.retrieval.documents import Document
from tunewright.retrieval.embedding import check_target, embedded, write_vectors
from tunewright.retrieval.encoder import load_encoder, load_token_encoder

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
    monkeypatch.setattr(embedding, "ROWS_AT_ONCE", request.param)


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
    assert list(row) == ["id", "text", "tokens", "places", "vectors"]
    assert len(row["tokens"]) == len(row["places"]) == len(row["vectors"])


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
    monkeypatch.setattr(embedding, "ROWS_AT_ONCE", 10)
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
        assert write_vectors(embedded(many(), encoder), tmp_path / f"v{suffix}") == 300
    assert most <= 40


@pytest.mark.parametrize(
    ("name", "tokens", "message"),
    [
        ("v.csv", False, 'v.csv: vectors are not written as ".csv". The file has to end in one of '
                         ".parquet, .jsonl, .npy."),
        ("v", False, 'v: vectors are not written as "". The file has to end in one of .parquet, '
                     ".jsonl, .npy."),
        ("v.npy", True, "v.npy: an array cannot say which token belongs to which text. Write "
                        ".parquet or .jsonl."),
    ],
)  # fmt: skip
def test_files_that_cannot_hold_them_are_refused(tmp_path, name, tokens, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError) as caught:
        check_target(type(tmp_path)(name), tokens)
    assert str(caught.value) == message


def test_a_list_and_a_frame_are_embedded_in_one_call(encoder, tiny_folder):
    given = {"model": tiny_folder("bert"), "precision": "fp32"}
    expected = encoder.encode(TEXTS)

    np.testing.assert_array_equal(tw.embed(TEXTS, **given), expected)
    frame = pd.DataFrame({"review": TEXTS, "stars": range(len(TEXTS))})
    np.testing.assert_array_equal(tw.embed(frame, text="review", **given), expected)
    with pytest.raises(DataError, match=r"there is no row\. At least one"):
        tw.embed([], **given)


def test_pooling_layer_and_length_are_chosen(tiny_folder):
    given = {"model": tiny_folder("bert"), "precision": "fp32"}
    plain = tw.embed(TEXTS, **given)
    assert not np.allclose(np.linalg.norm(tw.embed(TEXTS, normalize=False, **given), axis=1), 1)
    np.testing.assert_allclose(np.linalg.norm(plain, axis=1), 1, atol=1e-5)
    for other in ({"pooling": "cls"}, {"layer": 0}):
        assert np.abs(tw.embed(TEXTS, **other, **given) - plain).max() > 0.01
