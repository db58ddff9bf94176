"""Updates in which no text stands twice, so that no row is another one's false negative."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Set

import numpy as np

# An update looks at so many times its size for rows without a text that it has already. Beyond
# that it takes what it passed over: a text that stands in most rows cannot be kept apart.
LOOK_AHEAD = 8


def distinct_updates(
    order: np.ndarray, texts_of: Callable[[int], Set[object]], batch_size: int
) -> Iterator[np.ndarray]:
    """Yields the rows of `order`, `batch_size` at a time, with few texts twice in one update.

    `texts_of` gives the numbers of a row's texts. All updates but the last are full, every row
    stands in one, and rows passed over come first in the next.
    """
    waiting = deque(order.tolist())
    while waiting:
        update: list[int] = []
        passed: list[int] = []
        seen: set[object] = set()
        while waiting and len(update) < batch_size and len(passed) < LOOK_AHEAD * batch_size:
            row = waiting.popleft()
            texts = texts_of(row)
            if seen.isdisjoint(texts):
                update.append(row)
                seen |= texts
            else:
                passed.append(row)
        room = batch_size - len(update)
        waiting.extendleft(reversed(passed[room:]))
        yield np.array(update + passed[:room], order.dtype)
