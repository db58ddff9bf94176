"""Per-row figures of several processes, brought together: each process judges some of the rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from tunewright.devices.processes import Processes

T = TypeVar("T")


def gather_statistics(
    own: Sequence[Mapping[str, Any]], processes: Processes
) -> list[list[dict[str, np.ndarray]]]:
    """Returns the per-row figures of every process, to the bit, by rank.

    A row's figures are numbers or small arrays by name; all rows have the same names.
    """
    if processes.is_alone:
        return [[{name: np.asarray(value) for name, value in row.items()} for row in own]]
    about = processes.gather_json(_described(own))
    names = sorted(set().union(*(told["names"] for told in about)))
    found: list[list[dict[str, np.ndarray]]] = [
        [{} for _ in range(told["num_rows"])] for told in about
    ]
    for name in names:
        arrays = [np.ascontiguousarray(row[name]) for row in own]
        raw = np.frombuffer(b"".join(array.tobytes() for array in arrays), np.uint8)
        parts = processes.gather(torch.tensor(raw))
        for rows, told, part in zip(found, about, parts, strict=True):
            described = told["names"].get(name, ())
            for row, array in zip(rows, _cut(bytes(part.numpy()), described), strict=False):
                row[name] = array
    return found


def _described(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the dtype and the shape of each row's figures, by name."""
    arrays = [{name: np.asarray(value) for name, value in row.items()} for row in rows]
    names = arrays[0].keys() if arrays else ()
    return {
        "num_rows": len(rows),
        "names": {name: [[row[name].dtype.str, row[name].shape] for row in arrays]
                  for name in names},
    }  # fmt: skip


def _cut(raw: bytes, described: Iterable[tuple[str, Sequence[int]]]) -> Iterable[np.ndarray]:
    start = 0
    for dtype, shape in described:
        count = int(np.prod(shape, dtype=np.int64))
        yield np.frombuffer(raw, dtype, count, start).reshape(shape)
        start += count * np.dtype(dtype).itemsize


def in_order(parts: Sequence[Sequence[T]], places: Sequence[Sequence[int]]) -> list[T]:
    """Returns what stands at `places` of a whole, put together from its parts."""
    whole = {place: item for part, own in zip(parts, places, strict=True)
             for place, item in zip(own, part, strict=True)}  # fmt: skip
    return [whole[place] for place in range(len(whole))]
