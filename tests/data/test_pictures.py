"""Pictures as rows name or carry them: what is read, what is done to them, what is refused."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tunewright.data.cells.pictures import (
    MAX_BYTES,
    bytes_from_base64,
    content_digest,
    is_picture,
    num_pixels,
    picture_of,
)
from tunewright.errors import DataError

ROW = "rows.csv, line 2"


def saved(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def two_colours(mode="RGB", size=(4, 2)):
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, "red")
    image.paste("blue", (size[0] // 2, 0, *size))
    return image.convert(mode)


def pixels(content):
    return np.asarray(picture_of(content, ROW).image())


# Where a picture may be ---------------------------------------------------------------------------


def test_a_path_counts_from_the_folder_of_the_rows_file_then_from_where_one_is(
    tmp_path, monkeypatch
):
    (tmp_path / "data" / "images").mkdir(parents=True)
    two_colours().save(tmp_path / "data" / "images" / "a.png")
    two_colours().save(tmp_path / "b.png")
    monkeypatch.chdir(tmp_path)
    beside = tmp_path / "data"
    found = picture_of("images/a.png", ROW, beside)
    assert found.source == beside / "images" / "a.png"
    assert found.where == f"{ROW}, {found.source}"
    assert picture_of("b.png", ROW, beside).image().size == (4, 2)
    assert picture_of(tmp_path / "b.png", ROW).digest == found.digest


def test_bytes_objects_of_datasets_urls_base64_and_pictures_of_pillow_are_the_same_picture():
    content = saved(two_colours())
    text = base64.b64encode(content).decode()
    found = [
        picture_of(content, ROW),
        picture_of({"bytes": content, "path": "a.png"}, ROW),
        picture_of(f"data:image/png;base64,{text}", ROW),
        picture_of(bytes_from_base64(text, ROW), ROW),
        picture_of(bytes_from_base64(f"data:image/png;base64,{text}", ROW), ROW),
        picture_of(two_colours(), ROW),
    ]
    expected = np.asarray(two_colours())
    assert all(np.array_equal(np.asarray(each.image()), expected) for each in found)
    assert len({each.digest for each in found[:5]}) == 1


@pytest.mark.parametrize("form", ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"])
def test_the_usual_formats_are_read(form):
    assert picture_of(saved(two_colours(size=(16, 16)), form), ROW).size == (16, 16)


def test_only_what_can_be_nothing_else_is_a_picture_by_its_type(tmp_path):
    assert [is_picture(value) for value in (b"", tmp_path, two_colours())] == [True] * 3
    assert [is_picture(value) for value in ("a.png", None, 1, ["a.png"])] == [False] * 4


def test_base64_never_follows_a_path(tmp_path, monkeypatch):
    (tmp_path / "abcd").write_bytes(saved(two_colours()))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is no picture that is known here"):
        picture_of(bytes_from_base64("abcd", ROW), ROW)
    with pytest.raises(DataError, match=r"its image is no base64 \('/etc/"):
        bytes_from_base64("/etc/passwd.png", ROW)


def test_the_pixels_of_a_picture_are_known_from_its_head():
    content = saved(two_colours(size=(16, 12)))
    assert num_pixels(content, ROW) == 16 * 12
    assert num_pixels(content[:50], ROW) == 16 * 12
    for broken in (b"", b"no picture", content[:20]):
        with pytest.raises(DataError, match=r"(image|picture) is"):
            num_pixels(broken, ROW)


# What is done to one -----------------------------------------------------------------------------


def test_transparent_parts_lie_on_white_and_it_is_said():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    picture = picture_of(saved(image), ROW)
    assert np.asarray(picture.image()).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    assert picture.remarks == ("transparent",)


def test_a_palette_with_a_clear_colour_lies_on_white():
    image = two_colours().quantize(2)
    content = saved(image, transparency=image.getpixel((0, 0)))
    assert pixels(content)[0, 0].tolist() == [255, 255, 255]
    assert pixels(content)[0, 3].tolist() == [0, 0, 255]


def test_an_alpha_channel_that_hides_nothing_is_no_remark():
    assert picture_of(saved(two_colours("RGBA")), ROW).remarks == ()


def test_the_first_frame_of_an_animation_is_read_and_it_is_said():
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "green", "blue")]
    content = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    picture = picture_of(content, ROW)
    assert np.asarray(picture.image())[0, 0].tolist() == [255, 0, 0]
    assert picture.remarks == ("animated",)


def test_a_picture_is_set_upright_as_its_camera_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by 90 degrees
    picture = picture_of(saved(two_colours(), exif=exif), ROW)
    assert picture.remarks == ("turned",)
    assert picture.size == (2, 4)
    assert np.asarray(picture.image())[:, 0].tolist() == [[255, 0, 0]] * 2 + [[0, 0, 255]] * 2


def test_sixteen_bits_become_eight():
    levels = np.array([[0, 255, 256, 65_535]], np.uint16)
    picture = picture_of(saved(Image.fromarray(levels)), ROW)
    assert np.asarray(picture.image())[0, :, 0].tolist() == [0, 0, 1, 255]
    assert picture.remarks == ("16 bits",)


def test_colours_of_a_printer_become_red_green_and_blue():
    content = saved(two_colours("CMYK", (16, 16)), "JPEG", quality=100)
    picture = picture_of(content, ROW)
    red, blue = np.asarray(picture.image())[8, 2], np.asarray(picture.image())[8, 13]
    assert red[0] > 200 > 60 > red[2]
    assert blue[2] > 200 > 60 > blue[0]
    assert picture.remarks == ("CMYK",)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_becomes_three_colours(mode):
    assert pixels(saved(two_colours(mode))).shape == (2, 4, 3)


def test_a_thumbnail_is_small_and_keeps_its_proportions():
    small = picture_of(saved(two_colours(size=(400, 100))), ROW).thumbnail()
    assert len(small) < 3000
    assert Image.open(io.BytesIO(small)).size == (96, 24)


# What is refused ---------------------------------------------------------------------------------


def test_a_missing_file_is_named_with_where_it_was_looked_for(tmp_path):
    with pytest.raises(DataError) as caught:
        picture_of("images/a.png", ROW, tmp_path)
    assert str(caught.value) == (
        f"{ROW}: there is no picture 'images/a.png'. It was looked for in {tmp_path}/images and in "
        "images. Paths count from the folder of the data's file, or from where the program runs."
    )


@pytest.mark.parametrize("value", [None, 3, "", " ", ["a.png"], {"url": "a"}])
def test_what_is_no_picture_at_all_is_refused(value):
    with pytest.raises(DataError, match=r"line 2: its image is .* A picture is a path, its bytes"):
        picture_of(value, ROW)


def test_a_name_that_no_system_takes_is_a_missing_file():
    for name in ("a\0b.png", "a" * 5000):
        with pytest.raises(DataError, match="there is no picture"):
            picture_of(name, ROW)


def test_what_is_no_plain_file_is_a_missing_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder", "/dev/zero"):
        with pytest.raises(DataError, match="there is no picture"):
            picture_of(name, ROW, tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"%PDF-1.4 ...", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_not_one_of_the_formats_is_refused(content):
    with pytest.raises(DataError, match=r"Pictures are BMP, GIF, JPEG, PNG, TIFF or WEBP files"):
        picture_of(content, ROW)


@pytest.mark.parametrize("form", ["BMP", "JPEG", "PNG", "TIFF", "WEBP"])
def test_a_truncated_picture_is_named_with_its_row_and_its_path(form, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "half.img"
    path.write_bytes(saved(Image.fromarray(noise), form)[:2000])
    with pytest.raises(DataError) as caught:
        picture_of(path, ROW)
    assert str(caught.value).startswith(f"{ROW}, {path}: its ")


@pytest.mark.parametrize("form", ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"])
def test_flipped_bytes_are_a_picture_or_a_message(form):
    content = bytearray(saved(two_colours(size=(40, 40)), form))
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 4):
            damaged[place] ^= int(rng.integers(1, 256))
        with contextlib.suppress(DataError):  # any other error would be ours
            assert picture_of(bytes(damaged), ROW).size[0] > 0


def bomb(side):
    """A PNG of a few hundred bytes that says it has side x side pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 10_000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [8_000, 12_000, 60_000, 2**31 - 1])
def test_a_small_file_cannot_ask_for_much_memory(side):
    with pytest.raises(DataError, match=r"At most 50,000,000 are read\. Make it smaller, or raise"):
        picture_of(bomb(side), ROW)


def test_the_limit_is_the_users():
    content = saved(two_colours(size=(20, 10)))
    assert picture_of(content, ROW, max_pixels=200).size == (20, 10)
    with pytest.raises(DataError, match=r"its picture has 20 x 10 pixels\. At most 199 are read"):
        picture_of(content, ROW, max_pixels=199)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DataError, match=r"its picture has 100,000,001 bytes"):
        picture_of(path, ROW)


def test_a_file_that_changes_after_it_was_checked_is_noticed(tmp_path):
    path = tmp_path / "a.png"
    two_colours().save(path)
    picture = picture_of(path, ROW)
    two_colours(size=(6, 6)).save(path)
    with pytest.raises(DataError, match="the picture has changed since it was first read"):
        picture.image()
    path.unlink()
    with pytest.raises(DataError, match="it cannot be read"):
        picture.image()


def test_a_picture_is_hashed_without_being_decoded(tmp_path):
    content = saved(two_colours())
    assert content_digest(content, ROW) == picture_of(content, ROW).digest
    assert len(content_digest(content[:30], ROW)) == 32


def test_decimal_numbers_are_refused():
    with pytest.raises(DataError, match="its picture holds decimal numbers"):
        picture_of(saved(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), ROW)
