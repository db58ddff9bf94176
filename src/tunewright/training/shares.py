"""How the rows of an update are shared among processes: about as many tokens for each."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def shares(sizes: Sequence[int], num_shares: int) -> list[list[int]]:
    """Returns the places that each of `num_shares` takes; every place is in one of them, in order.

    The largest goes first, each to whoever has least so far (Graham 1969): the fullest share is at
    most 4/3 of the fullest that the best division has. The same sizes are always shared alike.
    """
    filled = [(0, share) for share in range(num_shares)]
    taken: list[list[int]] = [[] for _ in range(num_shares)]
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        size, share = filled[0]
        taken[share].append(place)
        heapq.heapreplace(filled, (size + sizes[place], share))
    return [sorted(places) for places in taken]
