"""A row's picture as an input: which it is, what the model wants it to be, how it is varied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from tunewright.data.cells.pictures import REMARKS, Picture, content_digest, picture_of
from tunewright.data.wording import counted
from tunewright.models.picture_form import Change, PictureForm
from tunewright.types import Features, Row, Rows


@dataclass(frozen=True, slots=True)
class PictureInput:
    """A `PictureStream`: the picture stays a file until a batch is packed."""

    picture: Picture
    form: PictureForm
    change: Change | None = None

    def __len__(self) -> int:
        return self.form.num_patches

    @property
    def digest(self) -> npt.NDArray[np.float64]:
        form = [part for value in astuple(self.form) for part in np.ravel(value or 0)]
        return np.array([*self.picture.digest, *form], np.float64)

    def pixels(self) -> npt.NDArray[np.float32]:
        return self.form.pixels(self.picture.image(), self.change)


def row_picture(row: Row, role: str, max_pixels: int) -> Picture:
    """Returns the picture of a row; relative paths count from the folder of the row's file.

    Raises DataError, naming the row, where there is none that can be read.
    """
    return picture_of(row.values.get(role), row.where, _beside(row), max_pixels)


def _beside(row: Row) -> Path | None:
    return Path(row.source).parent if row.line else None


@dataclass(frozen=True)
class PicturesByContent(Sequence[Row]):
    """Rows in which the SHA-256 of its picture stands for each picture."""

    rows: Rows
    role: str

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> PicturesByContent: ...
    def __getitem__(self, index: int | slice) -> Row | PicturesByContent:
        if isinstance(index, slice):
            return replace(self, rows=self.rows[index])
        return self._named(self.rows[index])

    def __iter__(self) -> Iterator[Row]:
        return map(self._named, self.rows)

    def _named(self, row: Row) -> Row:
        digest = content_digest(row.values.get(self.role), row.where, _beside(row))
        return replace(row, values={**row.values, self.role: digest.hex()})


def remarks_on(rows: Iterable[Sequence[Features]], name: str) -> list[str]:
    """Returns sentences on what was done to the pictures of a split."""
    counts: Counter[str] = Counter()
    for row in rows:
        for item in row:
            for stream in item.pictures.values():
                counts.update(getattr(getattr(stream, "picture", None), "remarks", ()))
    return [
        f"{name}: {counted(counts[remark], 'picture')} {words}."
        for remark, words in REMARKS.items()
        if counts[remark]
    ]
