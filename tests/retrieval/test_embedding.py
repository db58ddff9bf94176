"""Texts in, vectors out, in one call."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import tunewright as tw
from tunewright.errors import DataError, SettingsError, TunewrightWarning
from tunewright.models.pooling import quantised, value_ranges
from tunewright.retrieval.encoder import load_encoder

TEXTS = [f"a {'very ' * (n % 4)}good film {n}" for n in range(11)]


@pytest.fixture(scope="module")
def encoder(tiny_folder):
    return load_encoder(tiny_folder("bert"), precision="fp32")


def test_a_list_and_a_frame_are_embedded_in_one_call(encoder, tiny_folder):
    given = {"model": tiny_folder("bert"), "precision": "fp32"}
    expected = encoder.encode(TEXTS)

    np.testing.assert_array_equal(tw.embed(TEXTS, **given), expected)
    frame = pd.DataFrame({"review": TEXTS, "stars": range(len(TEXTS))})
    np.testing.assert_array_equal(tw.embed(frame, text="review", **given), expected)
    with pytest.raises(DataError, match=r"there is no row\. At least one"):
        tw.embed([], **given)


def test_a_text_that_is_cut_is_told_of(tiny_folder):
    with pytest.warns(TunewrightWarning, match="1 text longer than .* reads: 74 tokens cut"):
        tw.embed([*TEXTS, "a " * 200], model=tiny_folder("bert"))


def test_pooling_layer_and_length_are_chosen(tiny_folder):
    given = {"model": tiny_folder("bert"), "precision": "fp32"}
    plain = tw.embed(TEXTS, **given)
    assert not np.allclose(np.linalg.norm(tw.embed(TEXTS, normalize=False, **given), axis=1), 1)
    np.testing.assert_allclose(np.linalg.norm(plain, axis=1), 1, atol=1e-5)
    for other in ({"pooling": "cls"}, {"layer": 0}):
        assert np.abs(tw.embed(TEXTS, **other, **given) - plain).max() > 0.01


@pytest.mark.parametrize("form", ["int8", "uint8", "binary", "ubinary"])
def test_vectors_come_in_smaller_forms(encoder, tiny_folder, tmp_path, form):
    given = {"model": tiny_folder("bert"), "precision": "fp32", "vectors": form}
    vectors_RD = encoder.encode(TEXTS)
    np.testing.assert_array_equal(tw.embed(TEXTS, **given), quantised(vectors_RD, form))

    ranges_2D = value_ranges(vectors_RD[:4])
    np.save(tmp_path / "v.ranges.npy", ranges_2D)
    expected = quantised(vectors_RD, form, ranges_2D)
    for ranges in (ranges_2D, tmp_path / "v.ranges.npy", str(tmp_path / "v.ranges.npy")):
        np.testing.assert_array_equal(tw.embed(TEXTS, ranges=ranges, **given), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"vectors": "int4"}, 'vectors: it is "int4". It is one of "float32", "int8", "uint8", '
                              '"binary", "ubinary".'),
        ({"precision": "int8"},
         'precision: it is "int8". Here it is how the model computes: "auto", "bf16", "fp32". '
         'Write vectors="int8", or encode(texts, precision="int8").'),
        ({"vectors": "int8", "ranges": np.zeros((2, 5), np.float32)},
         "ranges: they have the shape (2, 5). These vectors need (2, 32): the least and the "
         "greatest values."),
    ],
)  # fmt: skip
def test_forms_that_there_are_not_are_refused(tiny_folder, given, message):
    with pytest.raises(SettingsError) as caught:
        tw.embed(TEXTS, model=tiny_folder("bert"), **given)
    assert str(caught.value) == message
