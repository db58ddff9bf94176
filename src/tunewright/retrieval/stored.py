"""The vectors of an index as they are stored and searched: in full, in 8 bits, or their signs.

    raws = packed(vectors_PD, "int8")                  # the bytes of each
    stored_vectors(raws_PB, "int8", 384) @ query_D     # the cosines, of vectors of length 1

The query stays float32. An index grows, so no code may depend on the range of all vectors: `int8`
has a scale for each vector, by which its largest number is 127. `binary` has the signs alone, a bit
a number, and compares them as the vector of length 1 that they make.

Shape letters: P passages, B bytes of a vector, D numbers of a vector, W bytes of packed bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from tunewright.models.pooling import Codes, Floats, to_bits

StoredForm = Literal["float32", "int8", "binary"]
Bytes = npt.NDArray[np.uint8]

SCALE_BYTES = 4
# Codes that are made floats at once, in the cache: 200,000 of 384 numbers take 16 ms by 4,096 and
# 36 ms by 16,384, and float32 17 ms (one core).
PART = 4096


@dataclass(frozen=True)
class Int8Vectors:
    """Codes from -127 to 127, and what 1 stands for in each vector."""

    codes_PD: npt.NDArray[np.int8]
    scales_P: Floats

    def __len__(self) -> int:
        return len(self.codes_PD)

    def __getitem__(self, chosen: Any) -> Self:
        return replace(self, codes_PD=self.codes_PD[chosen], scales_P=self.scales_P[chosen])

    def __matmul__(self, query_D: Floats) -> Floats:
        return _products(self.codes_PD, query_D, _as_floats) * self.scales_P

    def floats(self) -> Floats:
        return self.codes_PD * self.scales_P[:, None]


@dataclass(frozen=True)
class SignVectors:
    """The signs of `dimensions` numbers, packed: 1 where it is over 0."""

    bits_PW: Bytes
    dimensions: int

    def __len__(self) -> int:
        return len(self.bits_PW)

    def __getitem__(self, chosen: Any) -> Self:
        return replace(self, bits_PW=self.bits_PW[chosen])

    def __matmul__(self, query_D: Floats) -> Floats:
        over_P = _products(self.bits_PW, query_D, self._unpacked)
        return ((2 * over_P - query_D.sum()) / np.sqrt(self.dimensions)).astype(np.float32)

    def floats(self) -> Floats:
        signs_PD = 2 * self._unpacked(self.bits_PW) - 1
        return (signs_PD / np.sqrt(self.dimensions)).astype(np.float32)

    def _unpacked(self, bits_PW: Codes) -> Floats:
        return _as_floats(np.unpackbits(bits_PW, axis=1, count=self.dimensions))


StoredVectors = Floats | Int8Vectors | SignVectors


def packed(vectors_PD: Floats, form: StoredForm) -> list[bytes]:
    """Returns the bytes by which each vector is stored."""
    if form == "binary":
        return [bits_W.tobytes() for bits_W in to_bits(vectors_PD)]
    if form == "float32":
        return [vector_D.tobytes() for vector_D in vectors_PD.astype("<f4")]
    greatest_P1 = np.abs(vectors_PD).max(axis=1, keepdims=True)
    scales_P1 = np.where(greatest_P1 == 0, 1, greatest_P1 / 127).astype("<f4")
    codes_PD = np.rint(vectors_PD / scales_P1).astype(np.int8)
    pairs = zip(scales_P1, codes_PD, strict=True)
    return [scale_1.tobytes() + code_D.tobytes() for scale_1, code_D in pairs]


def stored_vectors(raws_PB: Bytes, form: StoredForm, dimensions: int) -> StoredVectors:
    """Returns what `packed` stored, ready to be compared; nothing is made larger."""
    if form == "binary":
        return SignVectors(raws_PB, dimensions)
    if form == "float32":
        return raws_PB.view("<f4")
    scales_P = np.ascontiguousarray(raws_PB[:, :SCALE_BYTES]).view("<f4")[:, 0]
    return Int8Vectors(raws_PB[:, SCALE_BYTES:].view(np.int8), scales_P)


def in_full(vectors: StoredVectors) -> Floats:
    """Returns the float32 vectors that the stored ones stand for, (P, D)."""
    return vectors if isinstance(vectors, np.ndarray) else vectors.floats()


def _products(codes_PW: Codes, query_D: Floats, floats: Callable[[Codes], Floats]) -> Floats:
    parts = range(0, len(codes_PW), PART)
    products = [floats(codes_PW[start : start + PART]) @ query_D for start in parts]
    return np.concatenate(products) if products else np.zeros(0, np.float32)


def _as_floats(codes_PD: Codes) -> Floats:
    return codes_PD.astype(np.float32)
