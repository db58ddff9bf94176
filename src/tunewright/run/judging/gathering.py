"""Per-row figures of several processes, brought together: each process judges some of the rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from tunewright.devices.processes import Processes

T = TypeVar("T")


def gather_statistics(
    own: Sequence[Mapping[str, Any]], processes: Processes
) -> list[Sequence[Mapping[str, Any]]]:
    """Returns the per-row figures of every process, to the bit, by rank.

    A row's figures are plain values or arrays by name. Arrays travel as they lie in memory.
    """
    if processes.is_alone:
        return [own]
    told = processes.gather_json([_described(row) for row in own])
    arrays = (value for row in own for _, value in sorted(row.items()) if _is_array(value))
    raw = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    parts = processes.gather(torch.tensor(np.frombuffer(raw, np.uint8)))
    return [list(_rows(rows, bytes(part.numpy()))) for rows, part in zip(told, parts, strict=True)]


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray | np.generic)


def _described(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row's plain values, and the dtype and shape of each of its arrays."""
    arrays = {name: value for name, value in row.items() if _is_array(value)}
    return {
        "plain": {name: value for name, value in row.items() if name not in arrays},
        "arrays": {name: [value.dtype.str, value.shape] for name, value in sorted(arrays.items())},
    }


def _rows(described: Iterable[Mapping[str, Any]], raw: bytes) -> Iterator[dict[str, Any]]:
    """Yields rows as `_described` told of them, their arrays cut out of the bytes of all."""
    start = 0
    for row in described:
        arrays = {}
        for name, (dtype, shape) in row["arrays"].items():
            count = int(np.prod(shape, dtype=np.int64))
            found = np.frombuffer(raw, dtype, count, start).reshape(shape)
            arrays[name] = found[()] if not shape else found
            start += found.nbytes
        yield row["plain"] | arrays


def in_order(parts: Sequence[Sequence[T]], places: Sequence[Sequence[int]]) -> list[T]:
    """Returns what stands at `places` of a whole, put together from its parts."""
    whole = {
        place: item
        for part, own in zip(parts, places, strict=True)
        for place, item in zip(own, part, strict=True)
    }
    return [whole[place] for place in range(len(whole))]
