"""What a model wants a picture to be: as stock image processors do it, and varied by draws."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from tunewright.errors import ModelError
from tunewright.models.picture_form import PREPROCESSOR, Change, PictureForm, read_picture_form


class Config:
    image_size, patch_size = 32, 8


def noise(width, height):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


FORMS = [
    PictureForm(32, 32, 8),
    PictureForm(24, 40, 8, resample=3, image_mean=(0.4, 0.5, 0.6), image_std=(0.2, 0.3, 0.4)),
    PictureForm(24, 24, 8, shortest_edge=32, resample=3),
]


def stock_of(form):
    values = json.loads(form.to_json_text())
    kinds = {"ViTImageProcessor": ViTImageProcessorPil, "CLIPImageProcessor": CLIPImageProcessorPil}
    return kinds[values.pop("image_processor_type")](**values)


@pytest.mark.parametrize("size", [(50, 50), (72, 41), (33, 90), (20, 25)])
@pytest.mark.parametrize("form", FORMS)
def test_pixels_are_those_of_the_stock_processor(form, size):
    image = noise(*size)
    expected = stock_of(form)(image, return_tensors="np")["pixel_values"][0]
    found = form.pixels(image)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_says_it_and_is_read_again(form, tmp_path):
    (tmp_path / PREPROCESSOR).write_text(form.to_json_text())
    assert read_picture_form(tmp_path, Config) == form


@pytest.mark.filterwarnings("ignore")  # transformers would rather have torchvision
def test_stock_transformers_reads_the_file(tmp_path):
    (tmp_path / PREPROCESSOR).write_text(FORMS[1].to_json_text())
    image = noise(60, 30)
    stock = AutoImageProcessor.from_pretrained(tmp_path, use_fast=False)
    expected = stock(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(FORMS[1].pixels(image), expected, atol=1e-5)


def test_without_a_file_the_configuration_says_the_size(tmp_path):
    assert read_picture_form(tmp_path, Config) == PictureForm(32, 32, 8)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"size": 48}, PictureForm(48, 48, 8)),
        ({"size": {"height": 48, "width": 40}, "do_resize": False}, PictureForm(32, 32, 8)),
        (
            {"size": 16, "do_normalize": False, "image_mean": [0.1, 0.1, 0.1]},
            PictureForm(16, 16, 8, image_mean=(0.0, 0.0, 0.0), image_std=(1.0, 1.0, 1.0)),
        ),
    ],
)
def test_other_ways_to_say_it_are_understood(values, expected, tmp_path):
    (tmp_path / PREPROCESSOR).write_text(json.dumps(values))
    assert read_picture_form(tmp_path, Config) == expected


@pytest.mark.parametrize(
    "values",
    [
        {"size": {"longest_edge": 5}},
        {"size": 10**9},
        {"size": 0},
        {"size": 32, "resample": 77},
        {"size": 32, "image_mean": [0.5]},
        {"size": 32, "image_std": [0, 0, 0]},
        {"size": {"shortest_edge": 8}, "do_center_crop": True, "crop_size": 32},
        {"size": {"shortest_edge": 8}, "do_center_crop": True},
    ],
)
def test_a_file_that_asks_for_what_is_not_done_is_refused(values, tmp_path):
    (tmp_path / PREPROCESSOR).write_text(json.dumps(values))
    with pytest.raises(ModelError, match="says nothing that can be done to pictures"):
        read_picture_form(tmp_path, Config)


# Changes -----------------------------------------------------------------------------------------


def draw(seed, strength=1.0, mirror=True):
    return Change.drawn(np.random.default_rng(seed), strength, mirror)


def test_the_same_draw_is_the_same_change():
    image = noise(30, 30)
    first, second = (PictureForm().pixels(image, draw(5)) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, PictureForm().pixels(image, draw(6)))
    assert not np.array_equal(first, PictureForm().pixels(image))


def test_a_change_without_strength_is_none():
    image = noise(30, 30)
    plain, varied = PictureForm().pixels(image), PictureForm().pixels(image, draw(1, 0.0, False))
    np.testing.assert_allclose(varied, plain, atol=1e-6)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.floats(0, 3))
def test_changes_stay_within_their_strength(seed, strength):
    change = draw(seed, strength)
    assert abs(change.degrees) <= 15 * strength
    assert 1.28**-strength <= change.scale <= 1.28**strength
    assert max(map(abs, change.shift)) <= 0.1 * strength
    assert abs(change.light) <= 0.15 * strength


def moved(mirrored=False, shift=(0.0, 0.0), degrees=0.0, scale=1.0):
    """A picture with one dark quarter, top left, after a change; its dark pixels."""
    image = Image.new("RGB", (40, 40), "white")
    image.paste("black", (5, 5, 15, 15))
    change = Change(degrees, scale, shift, mirrored, (1.0, 1.0, 1.0), 0.0)
    return np.argwhere(np.asarray(change.moved(image))[..., 0] < 128)


@pytest.mark.parametrize(
    ("options", "middle", "side"),
    [
        ({}, (9.5, 9.5), 10),
        ({"mirrored": True}, (9.5, 29.5), 10),
        ({"shift": (0.25, 0.5)}, (29.5, 19.5), 10),
        ({"degrees": 90.0}, (9.5, 29.5), 10),
        ({"scale": 0.5}, (14.5, 14.5), 5),
    ],
)
def test_a_picture_is_mirrored_moved_turned_and_scaled_around_its_middle(options, middle, side):
    dark = moved(**options)
    np.testing.assert_allclose(dark.mean(0), middle, atol=0.6)
    assert np.sqrt(len(dark)) == pytest.approx(side, abs=1)


def test_what_comes_in_from_outside_has_the_colour_of_the_edge():
    image = Image.new("RGB", (20, 20), (10, 200, 30))
    change = Change(10.0, 0.6, (0.1, 0.0), False, (1.0, 1.0, 1.0), 0.0)
    assert np.asarray(change.moved(image)).reshape(-1, 3).tolist() == [[10, 200, 30]] * 400
