"""Whose turn it is: how the parts of a multi-task share the updates of an epoch.

An update holds rows of one part only, so that losses of unlike units are never added up, and a loss
that looks at a whole update looks at rows of its own.

Shape letters: P parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

Sampling = Literal["size", "temperature", "round-robin"]
# Cuts the rows of a part into as many updates as slices of so many rows would make.
Cut = Callable[[np.ndarray, int], Iterator[np.ndarray]]


def turns(
    own: Mapping[str, np.ndarray],
    cuts: Mapping[str, Cut],
    batch_size: int,
    sampling: Sampling,
    temperature: float,
    rng: np.random.Generator,
) -> Iterator[np.ndarray]:
    """Yields updates of one part each, in a random order.

    There are as many as slices of `batch_size` would make of all rows; every part has one, unless
    there are fewer than parts. `own` are the rows of each part in their random order, and `cuts`
    how those parts cut theirs that have a way of their own.
    """
    total = -(-sum(map(len, own.values())) // batch_size)
    share_P = _shares([len(places) for places in own.values()], sampling, temperature)
    quotas = dict(zip(own, _divided(share_P, total, rng), strict=True))
    cut = _whole if sampling == "size" else _again
    waiting = {
        name: cut(places, quotas[name], batch_size, cuts.get(name), rng)
        for name, places in own.items()
    }
    for name in rng.permutation(np.repeat(np.array(list(own)), list(quotas.values()))):
        yield next(waiting[name])


def update_size(num_rows: int, num_parts: int, batch_size: int) -> int:
    """Returns the most rows, at most `batch_size`, that leave an update for each part."""
    return max(1, min(batch_size, (num_rows - 1) // (num_parts - 1)))


def _shares(sizes: Sequence[int], sampling: Sampling, temperature: float) -> np.ndarray:
    """Returns what share of an epoch each part has, (P,)."""
    power = {"size": 1.0, "temperature": 1 / temperature, "round-robin": 0.0}[sampling]
    weight_P = np.array(sizes, float) ** power
    return weight_P / weight_P.sum()


def _divided(share_P: np.ndarray, total: int, rng: np.random.Generator) -> list[int]:
    """Divides updates by largest remainder; every part has one where there are enough.

    Where there are fewer than parts, as in the last rows that are read from the disk, chance
    decides, so that no part is always the one that goes without.
    """
    if total < len(share_P):
        chosen = rng.choice(len(share_P), total, replace=False, p=share_P)
        return np.bincount(chosen, minlength=len(share_P)).tolist()
    exact_P = share_P * total
    quota_P = np.floor(exact_P).astype(int)
    for index in np.argsort(quota_P - exact_P, kind="stable")[: total - quota_P.sum()]:
        quota_P[index] += 1
    while quota_P.min() == 0:
        quota_P[quota_P.argmax()] -= 1
        quota_P[quota_P.argmin()] += 1
    return quota_P.tolist()


def _whole(
    places: np.ndarray, quota: int, batch_size: int, cut: Cut | None, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yields `quota` updates in which every row of a part stands once, as even as may be."""
    if cut is None:
        yield from np.array_split(places, quota)
        return
    updates = list(cut(places, -(-len(places) // quota)))
    while len(updates) < quota:  # as many slices of one size need not make so many
        largest = max(range(len(updates)), key=lambda index: len(updates[index]))
        updates[largest : largest + 1] = np.array_split(updates[largest], 2)
    yield from updates


def _again(
    places: np.ndarray, quota: int, batch_size: int, cut: Cut | None, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yields `quota` updates of a part, which begin again when all its rows have been read."""
    if cut is None:
        size = min(batch_size, len(places))
        for start in range(0, quota * batch_size, batch_size):
            yield places[np.arange(start, start + size) % len(places)]
        return
    size = -(-len(places) // -(-len(places) // batch_size))
    while True:
        yield from cut(places, size)
        places = rng.permutation(places)
