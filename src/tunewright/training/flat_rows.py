"""Encoded rows as a few flat arrays, to be kept in a file and mapped from it.

    flat = Flattener()
    for features in rows: flat.add(features)
    arrays, kinds = flat.arrays()
    FlatRows(arrays, kinds)[0]      # equal to the first of rows, types of numbers included

Each field of the features (the token ids of a stream, a target, ...) is one column: its values one
after the other, and how many each input has, -1 where it has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from tunewright.training.order import EncodedRow, MadeRows
from tunewright.types import Features, TokenStream

_SCALARS: dict[str, type] = {"int": int, "float": float, "bool": bool}
_DTYPES = {"int": np.int64, "float": np.float64, "bool": np.bool_}
_STREAM = ("token_ids", "type_ids", "num_cut", "num_repeated", "offsets", "text_ids")


class Flattener:
    """Takes in encoded rows; what it cannot give back just as it was, it gives up on."""

    def __init__(self) -> None:
        self._windows: list[int] = []
        self._columns: dict[str, list[Any]] = {}
        self._num_inputs = 0
        self._has_pictures = False

    def add(self, features: Sequence[Features]) -> None:
        """Takes in one row."""
        self._windows.append(len(features))
        for item in features:
            self._has_pictures |= bool(item.pictures)
            self._put("row_id", item.row_id)
            self._put("window", item.window)
            for name, stream in item.streams.items():
                for field in _STREAM:
                    self._put(f"stream {name} {field}", getattr(stream, field))
            for name, target in item.targets.items():
                self._put(f"target {name}", target)
            self._num_inputs += 1

    def _put(self, name: str, value: Any) -> None:
        column = self._columns.setdefault(name, [])
        column += [None] * (self._num_inputs - len(column))
        column.append(value)

    def arrays(self) -> tuple[dict[str, np.ndarray], dict[str, str]] | None:
        """Returns the arrays and what kind each column is of; None for rows that have no such form.

        Those are rows with a field of several kinds, or of one that is not numbers, and rows with
        pictures, which are files that may change.
        """
        if self._has_pictures:
            return None
        arrays, kinds = {"windows": np.array(self._windows, np.int64)}, {}
        for name, column in self._columns.items():
            found = {_kind_of(value) for value in column if value is not None}
            if len(found) > 1 or None in found:
                return None
            kind = found.pop() if found else "none"
            column += [None] * (self._num_inputs - len(column))
            assert kind is not None
            kinds[name] = kind
            arrays[f"{name} lengths"] = np.array([_length(value) for value in column], np.int64)
            arrays[f"{name} values"] = _flat([value for value in column if value is not None], kind)
        return arrays, kinds


def _kind_of(value: Any) -> str | None:
    """Returns what to make of flat numbers to get a value back; None where nothing would do."""
    for name, scalar in _SCALARS.items():
        if type(value) is scalar:
            return name
    if isinstance(value, list | tuple):
        inner = {_kind_of(item) for item in value}
        only = inner.pop() if len(inner) == 1 else None
        return f"{type(value).__name__} {only}" if only in _SCALARS else None
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.ndim in (1, 2):
        width = value.shape[1] if value.ndim == 2 else 0
        return f"array {value.dtype.str} {width}"
    return None


def _length(value: Any) -> int:
    if value is None:
        return -1
    return 1 if type(value) in _SCALARS.values() else len(value)


def _flat(values: Sequence[Any], kind: str) -> np.ndarray:
    form, *rest = kind.split()
    if form in _DTYPES:
        return np.array(values, _DTYPES[form])
    if form == "array":
        return np.concatenate([value.reshape(-1) for value in values])
    if form == "none":
        return np.zeros(0, np.int64)
    return np.array([item for value in values for item in value], _DTYPES[rest[0]])


class _Column:
    """One field of all inputs."""

    def __init__(self, values: np.ndarray, lengths_F: np.ndarray, kind: str) -> None:
        self._values, self._lengths_F = values, lengths_F
        self._make, self._width = _maker(kind)
        counts_F = np.maximum(lengths_F, 0) * self._width
        self._starts_F = np.cumsum(counts_F) - counts_F

    def has(self, place: int) -> bool:
        return bool(self._lengths_F[place] >= 0)

    def __getitem__(self, place: int) -> Any:
        if not self.has(place):
            return None
        start = int(self._starts_F[place])
        return self._make(self._values[start : start + int(self._lengths_F[place]) * self._width])


def _maker(kind: str) -> tuple[Callable[[np.ndarray], Any], int]:
    """Returns what makes a value of its numbers, and how many numbers one of its items has.

    Arrays are copies, so that nobody writes into a file or reads one that is gone.
    """
    form, *rest = kind.split()
    if form in _SCALARS:
        return (lambda flat: flat[0].item()), 1
    if form in ("list", "tuple"):
        sequence: Callable[[Any], Any] = list if form == "list" else tuple
        return (lambda flat: sequence(flat.tolist())), 1
    width = int(rest[1]) if form == "array" else 0
    if not width:
        return np.array, 1
    return (lambda flat: np.array(flat).reshape(-1, width)), width


class FlatRows(MadeRows):
    """Encoded rows, each made from the arrays when it is asked for."""

    def __init__(self, arrays: Mapping[str, np.ndarray], kinds: Mapping[str, str]) -> None:
        windows_R = arrays["windows"]
        self._ends_R = np.cumsum(windows_R)
        self._starts_R = self._ends_R - windows_R
        self._columns = {
            name: _Column(arrays[f"{name} values"], arrays[f"{name} lengths"], kind)
            for name, kind in kinds.items()
        }

    @cached_property
    def _names(self) -> tuple[list[str], list[str]]:
        """The names of the streams and of the targets."""
        parts = [name.split(" ", 1) for name in self._columns if " " in name]
        streams = [rest.rsplit(" ", 1)[0] for kind, rest in parts if kind == "stream"]
        return list(dict.fromkeys(streams)), [rest for kind, rest in parts if kind == "target"]

    def __len__(self) -> int:
        return len(self._ends_R)

    def _made_at(self, place: int) -> EncodedRow:
        return [self._input(at) for at in range(self._starts_R[place], self._ends_R[place])]

    def _input(self, place: int) -> Features:
        columns, (streams, targets) = self._columns, self._names
        return Features(
            columns["row_id"][place],
            {
                name: TokenStream(*(columns[f"stream {name} {field}"][place] for field in _STREAM))
                for name in streams
                if columns[f"stream {name} token_ids"].has(place)
            },
            {
                name: columns[f"target {name}"][place]
                for name in targets
                if columns[f"target {name}"].has(place)
            },
            columns["window"][place],
        )
