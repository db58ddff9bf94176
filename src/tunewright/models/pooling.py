"""From the hidden states of a text's tokens to one vector, and to smaller ones.

    vectors_BD = normalised(pool(hidden_ND, stream, "mean"))
    codes_RD = quantised(vectors_RD, "int8")

Shape letters: N tokens, B sequences, D numbers of a vector, R vectors, W bytes of packed bits.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional

from tunewright.errors import SettingsError
from tunewright.models.batch import PackedStream
from tunewright.models.heads import mean_pool

Pooling = Literal["mean", "cls", "last"]
VectorForm = Literal["float32", "int8", "uint8", "binary", "ubinary"]
Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[Any]

RANGED = ("int8", "uint8")
"""The forms whose codes are read by the range of each number."""


def pool(hidden_ND: Tensor, stream: PackedStream, pooling: Pooling) -> Tensor:
    """Returns the vector of each sequence, float32 (B, D).

    `mean` is that of its tokens' hidden states, `cls` the first token's, `last` the last one's.
    """
    hidden_ND = hidden_ND.float()
    if pooling == "mean":
        return mean_pool(hidden_ND, stream)
    return hidden_ND[stream.first_B if pooling == "cls" else stream.last_B]


def normalised(vectors_BD: Tensor) -> Tensor:
    """Returns vectors of length 1; a vector of zeros stays one."""
    return functional.normalize(vectors_BD, dim=-1)


def truncated(vectors_RD: Floats, dimensions: int, normalize: bool = True) -> Floats:
    """Returns the first numbers of each vector, (R, dimensions), of length 1 if `normalize`.

    For models trained so that a vector's beginning is a vector itself (Kusupati et al. 2022,
    "Matryoshka Representation Learning").
    """
    head_RD = vectors_RD[:, :dimensions]
    if not normalize:
        return head_RD
    length_R1 = np.linalg.norm(head_RD, axis=1, keepdims=True)
    return np.divide(head_RD, length_R1, out=np.zeros_like(head_RD), where=length_R1 > 0)


def quantised(vectors_RD: Floats, form: VectorForm, ranges_2D: Floats | None = None) -> Codes:
    """Returns vectors in a smaller form: (R, D), or (R, W) of packed signs.

    `int8` and `uint8` take the `ranges_2D` of `value_ranges`, or those of these vectors. Equal to
    `quantize_embeddings` of sentence-transformers.

    Raises SettingsError for int8 and uint8 of a single vector without ranges, and for ranges of
    vectors of another size.
    """
    if form == "float32":
        return np.asarray(vectors_RD, np.float32)
    if form not in RANGED:
        bits_RW = to_bits(vectors_RD)
        return bits_RW if form == "ubinary" else (bits_RW ^ 0x80).view(np.int8)
    if ranges_2D is None:
        ranges_2D = value_ranges(vectors_RD)
    elif ranges_2D.shape != (2, vectors_RD.shape[1]):
        raise SettingsError(
            "ranges", f"they have the shape {ranges_2D.shape}",
            f"These vectors need {(2, vectors_RD.shape[1])}: the least and the greatest values.",
        )  # fmt: skip
    codes_RD = to_int8(vectors_RD, ranges_2D)
    return codes_RD if form == "int8" else codes_RD.view(np.uint8) ^ 0x80


def value_ranges(vectors_RD: Floats) -> Floats:
    """Returns the least and the greatest value of each number, (2, D).

    Take them from vectors of many texts, and keep them: every code is read by them.

    Raises SettingsError for fewer than two vectors.
    """
    if len(vectors_RD) < 2:
        raise SettingsError(
            "ranges", "they cannot be taken from fewer than two vectors",
            "They are the least and the greatest value of each number.",
            "Give the ranges of other vectors.",
        )  # fmt: skip
    return np.stack([vectors_RD.min(0), vectors_RD.max(0)])


def to_int8(vectors_RD: Floats, ranges_2D: Floats) -> npt.NDArray[np.int8]:
    """Returns 8-bit codes, -128 for the least value of each number to 127 for the greatest.

    A quarter of the memory of float32. Values outside `ranges_2D` get its nearest end. Equal to
    `quantize_embeddings(..., "int8", ranges)` of sentence-transformers.
    """
    codes_RD = np.floor((vectors_RD - ranges_2D[0]) / _steps(ranges_2D))
    return (np.clip(codes_RD, 0, 255) - 128).astype(np.int8)


def from_int8(codes_RD: npt.NDArray[np.int8], ranges_2D: Floats) -> Floats:
    """Returns the middle of the values that each code stands for, float32 (R, D)."""
    values_RD = (codes_RD.astype(np.float32) + 128.5) * _steps(ranges_2D) + ranges_2D[0]
    return values_RD.astype(np.float32)


def to_bits(vectors_RD: Floats) -> npt.NDArray[np.uint8]:
    """Returns the signs of the numbers as packed bits, (R, W), W = D / 8 rounded up.

    A 32nd of the memory of float32; compare them by the number of bits that differ. A bit is 1
    where the number is over 0. Equal to `quantize_embeddings(..., "ubinary")`.
    """
    return np.packbits(vectors_RD > 0, axis=1)


def _steps(ranges_2D: Floats) -> npt.NDArray[Any]:
    """Returns the width of a code of each number; 1 where all values are the same."""
    steps_D = (ranges_2D[1] - ranges_2D[0]) / 255
    return np.where(steps_D == 0, 1, steps_D)
