"""Pictures: found where a row says, checked before they are believed, decoded when they are needed.

    picture = picture_of("dog.png", "train.csv, line 2", beside=Path("train.csv").parent)
    picture.image()        # PIL, RGB, upright, transparent parts on white
    picture.remarks        # what was done to it: ("transparent",)

A row names a picture by a path, or carries it: its bytes, what `datasets` makes of either ({"path",
"bytes"}), a `data:` URL, or a picture of Pillow. Only what the header says is believed before the
size is checked, so a small file cannot ask for much memory, and only decoders of the usual formats
are ever started.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tunewright.errors import DataError

# Pillow knows many more; some start other programs or have seen little testing.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
# 50 million pixels are a picture of 8,660 x 5,770; decoded, they take 150 MB.
MAX_PIXELS = 50_000_000
MAX_BYTES = 100_000_000
THUMBNAIL_PIXELS, THUMBNAIL_QUALITY = 96, 85

# What may be done to a picture on the way, in the words of a note to the user.
REMARKS = {
    "transparent": "with transparent parts, which lie on white",
    "animated": "with several frames, of which the first is read",
    "16 bits": "with 16 bits a channel, of which 8 are read",
    "CMYK": "in the colours of a printer (CMYK), made red, green and blue",
    "turned": "set upright, as their camera says",
}
_ORIENTATION = 0x0112  # the EXIF tag


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that was found and checked: its file's path, or its bytes.

    `where` names the row, and the file. `digest` is the SHA-256 of its bytes; `remarks` are keys of
    `REMARKS`.
    """

    source: Path | bytes
    where: str
    digest: bytes
    size: tuple[int, int]
    remarks: tuple[str, ...] = ()

    def image(self) -> Image.Image:
        """Returns the picture, RGB and upright.

        Raises DataError when its file cannot be read any more, or is another one by now.
        """
        content = _bytes_of(self.source, self.where)
        if hashlib.sha256(content).digest() != self.digest:
            raise DataError(
                self.where,
                "the picture has changed since it was first read",
                "A file must stay as it is while it is in use.",
                "Start again.",
            )
        return _decoded(content, self.where, self.size[0] * self.size[1])[0]

    def thumbnail(self) -> bytes:
        """Returns it as a JPEG of at most 96 pixels a side."""
        small = self.image()
        small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        file = io.BytesIO()
        small.save(file, "JPEG", quality=THUMBNAIL_QUALITY)
        return file.getvalue()


def picture_of(
    value: Any, where: str, beside: Path | None = None, max_pixels: int = MAX_PIXELS
) -> Picture:
    """Returns the picture that a value names or carries, decoded once to see that it is whole.

    A relative path is looked for in the folder `beside`, then where the program runs.

    Raises DataError, naming `where`, when there is none, when it is too large, of another format,
    or broken.
    """
    source = _source(value, where, beside)
    where = f"{where}, {source}" if isinstance(source, Path) else where
    content = _bytes_of(source, where)
    image, remarks = _decoded(content, where, max_pixels)
    kept = source if isinstance(source, Path) else content
    return Picture(kept, where, hashlib.sha256(content).digest(), image.size, remarks)


def content_digest(value: Any, where: str, beside: Path | None = None) -> bytes:
    """Returns the SHA-256 of the bytes of a picture, which is not decoded.

    Raises DataError where there is none.
    """
    return hashlib.sha256(_bytes_of(_source(value, where, beside), where)).digest()


def num_pixels(content: bytes, where: str) -> int:
    """Returns the pixels of a picture as its head says, without decoding it.

    Raises DataError for what is no picture.
    """
    with _opened(content, where) as image:
        width, height = image.size
    return width * height


def is_picture(value: Any) -> bool:
    """Says whether a value can be nothing but a picture: bytes, a path object, one of Pillow."""
    return isinstance(value, bytes | PathLike | Image.Image)


def _source(value: Any, where: str, beside: Path | None) -> Path | bytes:
    if isinstance(value, Mapping) and {"bytes", "path"} & value.keys():
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if isinstance(value, Image.Image):
        return file_bytes(value)
    if isinstance(value, str) and value.startswith("data:"):
        return bytes_from_base64(value, where)
    if not isinstance(value, str | PathLike) or not str(value).strip():
        raise DataError(
            where,
            f"its image is {value!r:.60}",
            "A picture is a path, its bytes, or a data: URL.",
            "Name the column with data.columns.image.",
        )
    return _path(Path(value), where, beside)


def _path(path: Path, where: str, beside: Path | None) -> Path:
    places = [folder / path for folder in (beside, Path()) if folder is not None]
    try:
        found = next((place for place in places if place.is_file()), None)
    except (OSError, ValueError):  # a name that no system takes
        found = None
    if found is None:
        folders = " and in ".join(dict.fromkeys(str(place.parent) for place in places))
        raise DataError(
            where,
            f"there is no picture {str(path)!r:.200}",
            f"It was looked for in {folders:.400}.",
            "Paths count from the folder of the data's file, or from where the program runs.",
        )
    return found


def file_bytes(image: Image.Image) -> bytes:
    """Returns a picture of Pillow as the bytes of a file that loses nothing of it."""
    file = io.BytesIO()
    image.save(
        file, "PNG" if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else "TIFF"
    )
    return file.getvalue()


def bytes_from_base64(text: str, where: str) -> bytes:
    """Returns the bytes that a base64 text holds, with or without `data:image/...;base64,`.

    Raises DataError for a text that is no base64.
    """
    head, comma, body = text.partition(",")
    if text.startswith("data:") and (not comma or not head.endswith(";base64")):
        raise DataError(where, f"its data: URL begins {text!r:.40}", "It has to be in base64.")
    try:
        return base64.b64decode((body if comma else text).strip(), validate=True)
    except (binascii.Error, ValueError):
        raise DataError(
            where, f"its image is no base64 ({text!r:.40})", "A picture's bytes are needed in it."
        ) from None


def _bytes_of(source: Path | bytes, where: str) -> bytes:
    if isinstance(source, bytes):
        _check_size(len(source), where)
        return source
    try:
        _check_size(source.stat().st_size, where)
        return source.read_bytes()
    except OSError as error:
        raise DataError(where, f"it cannot be read ({error.strerror})") from None


def _check_size(num_bytes: int, where: str) -> None:
    if num_bytes > MAX_BYTES:
        raise DataError(
            where,
            f"its picture has {num_bytes:,} bytes",
            f"At most {MAX_BYTES:,} are read.",
            "Make it smaller.",
        )


def _decoded(
    content: bytes, where: str, max_pixels: int = MAX_PIXELS
) -> tuple[Image.Image, tuple[str, ...]]:
    """Returns the picture in RGB, and what was done to it."""
    with _opened(content, where, max_pixels) as image:
        return _plain(image, where, max_pixels)


@contextmanager
def _opened(content: bytes, where: str, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Gives a picture of which the head alone was read; what fails in the block is a DataError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", module="PIL")
            yield Image.open(io.BytesIO(content), formats=FORMATS)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(
            where, "its picture has far more pixels than its file", max_pixels
        ) from None
    except UnidentifiedImageError:
        raise DataError(
            where,
            "its image is no picture that is known here" if content else "its image is empty",
            f"Pictures are {', '.join(FORMATS[:-1])} or {FORMATS[-1]} files.",
            "Convert it, or remove the row.",
        ) from None
    except Exception as error:  # each decoder fails in its own way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            where,
            f"its picture is broken ({reason:.200})",
            "It cannot be read to its end.",
            "Replace it, or remove the row.",
        ) from None


def _plain(image: Image.Image, where: str, max_pixels: int) -> tuple[Image.Image, tuple[str, ...]]:
    width, height = image.size
    if width * height > max_pixels:
        raise _too_large(where, f"its picture has {width:,} x {height:,} pixels", max_pixels)
    remarks = ["animated"] if getattr(image, "is_animated", False) and image.format != "MPO" else []
    image.load()
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
        remarks.append("turned")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65_535) // 256).astype(np.uint8))
        remarks.append("16 bits")
    if image.mode == "CMYK":
        remarks.append("CMYK")
    if image.mode == "F":
        raise DataError(
            where, "its picture holds decimal numbers", "Pixels are whole numbers.", "Convert it."
        )
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        image = Image.new("RGBA", clear.size, "white")
        image.alpha_composite(clear)
        if np.asarray(clear)[..., 3].min() < 255:
            remarks.append("transparent")
    return image.convert("RGB"), tuple(remarks)


def _too_large(where: str, found: str, max_pixels: int) -> DataError:
    return DataError(
        where,
        found,
        f"At most {max_pixels:,} are read.",
        "Make it smaller, or raise task.max_pixels.",
    )
