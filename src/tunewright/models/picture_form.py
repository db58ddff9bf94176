"""What a model wants a picture to be, and how a picture becomes that: size, colours, numbers.

    form = read_picture_form(folder, config)
    form.pixels(picture.image())                        # float32 (3, height, width)
    form.pixels(picture.image(), Change.drawn(rng, 1))  # turned, moved and coloured a little

A folder says it in `preprocessor_config.json`, whose names these are; the figures are those of
transformers' image processors. Shape letters: C channels, H rows, W columns.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from tunewright.errors import ModelError
from tunewright.models.files.weights import read_json_object

PREPROCESSOR = "preprocessor_config.json"
MAX_PREPROCESSOR_BYTES = 1_000_000
MAX_SIDE = 4096  # pixels; the largest published vision models read less than half of it
HALF = (0.5, 0.5, 0.5)

# The most that a change of strength 1 does.
MAX_DEGREES, MAX_SCALE, MAX_SHIFT = 15.0, 1.28, 0.1
MAX_LIGHT, MAX_TINT = 0.15, 0.15


@dataclass(frozen=True)
class Change:
    """How a picture is varied in training: one draw of random numbers, not the numbers' source.

    The picture is turned by `degrees`, scaled, moved by shares of its width and height, and
    mirrored or not; then each colour is stretched around grey and all are made lighter or darker.
    """

    degrees: float
    scale: float
    shift: tuple[float, float]
    mirrored: bool
    tint: tuple[float, float, float]
    light: float

    @classmethod
    def drawn(cls, rng: np.random.Generator, strength: float, mirror: bool = False) -> Self:
        """Returns a random change; half the pictures are mirrored where `mirror` allows it."""
        turn, scale, right, down, contrast, light, *tint = rng.uniform(-1, 1, 9) * strength
        return cls(
            float(turn * MAX_DEGREES),
            float(MAX_SCALE**scale),
            (float(right * MAX_SHIFT), float(down * MAX_SHIFT)),
            mirror and bool(rng.random() < 0.5),
            tuple(float((1 + contrast * MAX_TINT) * (1 + each * MAX_TINT)) for each in tint),  # type: ignore[arg-type]
            float(light * MAX_LIGHT / 2),
        )

    def moved(self, image: Image.Image) -> Image.Image:
        """Returns the picture turned, scaled, moved and mirrored, on the colour of its edge."""
        width, height = image.size
        sign = -1.0 if self.mirrored else 1.0
        cosine = math.cos(math.radians(self.degrees)) / self.scale
        sine = math.sin(math.radians(self.degrees)) / self.scale
        x, y = width / 2 * (1 + 2 * self.shift[0]), height / 2 * (1 + 2 * self.shift[1])
        back = (
            sign * cosine, sign * sine, width / 2 - sign * (cosine * x + sine * y),
            -sine, cosine, height / 2 + sine * x - cosine * y,
        )  # fmt: skip
        return image.transform(
            image.size,
            Image.Transform.AFFINE,
            back,
            Image.Resampling.BILINEAR,
            fillcolor=_edge_colour(image),
        )

    def coloured(self, pixels_HWC: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Returns pixels in [0, 1] with other colours; they may leave [0, 1] a little."""
        return (pixels_HWC - 0.5) * np.array(self.tint, np.float32) + np.float32(0.5 + self.light)


def _edge_colour(image: Image.Image) -> tuple[int, ...]:
    """Returns the median colour of the outermost pixels."""
    values = np.asarray(image)
    sides = [values[0], values[-1], values[:, 0], values[:, -1]]
    return tuple(int(level) for level in np.median(np.concatenate(sides), axis=0))


@dataclass(frozen=True)
class PictureForm:
    """The size that a model reads and the numbers it wants pixels as.

    A picture is scaled to `height` x `width`; with a `shortest_edge` it is scaled, in proportion,
    until its shorter side has so many pixels, and the middle is cut out. Pixels are divided by 255,
    less `image_mean`, over `image_std`. `patch_size` is the side of what counts as one token.
    """

    height: int = 64
    width: int = 64
    patch_size: int = 8
    shortest_edge: int | None = None
    resample: int = 2
    image_mean: tuple[float, float, float] = HALF
    image_std: tuple[float, float, float] = HALF

    @property
    def num_patches(self) -> int:
        return (self.height // self.patch_size) * (self.width // self.patch_size)

    def fitted(self, image: Image.Image) -> Image.Image:
        """Returns the picture in the size that is read."""
        resample = Image.Resampling(self.resample)
        if self.shortest_edge is None:
            return image.resize((self.width, self.height), resample)
        scale = self.shortest_edge / min(image.size)
        wide, high = (max(int(side * scale), self.shortest_edge) for side in image.size)
        scaled = image.resize((wide, high), resample)
        left, top = (wide - self.width) // 2, (high - self.height) // 2
        return scaled.crop((left, top, left + self.width, top + self.height))

    def pixels(self, image: Image.Image, change: Change | None = None) -> npt.NDArray[np.float32]:
        """Returns what the model reads of an RGB picture, float32 (3, height, width)."""
        image = self.fitted(image)
        if change is not None:
            image = change.moved(image)
        pixels_HWC = np.asarray(image, np.float32) * np.float32(1 / 255)
        if change is not None:
            pixels_HWC = change.coloured(pixels_HWC)
        mean, std = np.array(self.image_mean, np.float32), np.array(self.image_std, np.float32)
        return np.ascontiguousarray(((pixels_HWC - mean) / std).transpose(2, 0, 1))

    def to_json_text(self) -> str:
        """Returns what stands in `preprocessor_config.json`."""
        size: dict[str, int] = {"height": self.height, "width": self.width}
        cut = self.shortest_edge is not None
        values = {
            "image_processor_type": "CLIPImageProcessor" if cut else "ViTImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": self.shortest_edge} if cut else size,
            "resample": self.resample,
            **({"do_center_crop": True, "crop_size": size} if cut else {}),
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.image_mean),
            "image_std": list(self.image_std),
        }
        return json.dumps(values, indent=2) + "\n"


def read_picture_form(folder: Path, config: Any) -> PictureForm:
    """Returns how a model folder wants pictures; `config` is its own configuration.

    Without a `preprocessor_config.json` pictures have the size that the configuration says and
    numbers from -1 to 1.

    Raises ModelError for a file that cannot be read or asks for what is not done here.
    """
    encoder = getattr(config, "encoder", config)
    path = folder / PREPROCESSOR
    values = read_json_object(path, MAX_PREPROCESSOR_BYTES) if path.is_file() else {}
    try:
        height, width = _sides(getattr(encoder, "image_size", 224))
        shortest = None
        size = values.get("size") if values.get("do_resize", True) else None
        if values.get("do_center_crop") and isinstance(size, dict) and "shortest_edge" in size:
            shortest = int(size["shortest_edge"])
            height, width = _sides(values["crop_size"])
        elif size is not None:
            height, width = _sides(size)
        plain = values.get("do_normalize", True)
        return _checked(
            PictureForm(
                height,
                width,
                int(getattr(encoder, "patch_size", None) or 16),
                shortest,
                int(Image.Resampling(values.get("resample", 2))),
                _three(values.get("image_mean", HALF) if plain else (0.0,) * 3),
                _three(values.get("image_std", HALF) if plain else (1.0,) * 3),
            )
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            str(path),
            f"says nothing that can be done to pictures ({error})",
            "It has a size, and a mean and a deviation of three colours.",
            "Use the file that belongs to the model.",
        ) from None


def _sides(value: Any) -> tuple[int, int]:
    if isinstance(value, dict):
        return int(value["height"]), int(value["width"])
    height, width = value if isinstance(value, list | tuple) else (value, value)
    return int(height), int(width)


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue


def _checked(form: PictureForm) -> PictureForm:
    sides = (form.height, form.width, form.shortest_edge or form.height)
    if not all(0 < side <= MAX_SIDE for side in sides):
        raise ValueError(f"pictures of {form.height} x {form.width} pixels")
    if (form.shortest_edge or MAX_SIDE) < max(form.height, form.width):
        raise ValueError("what is cut out is larger than the picture")
    if not 0 < form.patch_size <= min(form.height, form.width) or not all(form.image_std):
        raise ValueError(f"patches of {form.patch_size} pixels")
    return form
