"""What threads make while others work: the next item, or all of a list."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, Full, Queue
from typing import TypeVar

import torch

Item = TypeVar("Item")
Row = TypeVar("Row")
PATIENCE = 0.1  # seconds between two looks at whether anybody still waits
MOST_THREADS, ROWS_AT_ONCE = 8, 32


def made_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Yields the items in their order; a thread makes the next two meanwhile, and no more.

    What `items` raises is raised here, in its turn. The thread ends with this generator; one that
    waits for input that never comes keeps no program from ending.
    """
    made: Queue[tuple[bool, Item | BaseException | None]] = Queue(maxsize=1)
    over = threading.Event()

    def put(goes_on: bool, what: Item | BaseException | None) -> None:
        while not over.is_set():
            try:
                made.put((goes_on, what), timeout=PATIENCE)
            except Full:
                continue
            return

    def make() -> None:
        try:
            for item in items:
                put(True, item)
                if over.is_set():
                    return
        except BaseException as error:
            put(False, error)
        else:
            put(False, None)

    threading.Thread(target=make, name="one ahead", daemon=True).start()
    try:
        while True:
            goes_on, what = _taken(made)
            if goes_on:
                yield what  # type: ignore[misc]
            elif isinstance(what, BaseException):
                raise what
            else:
                return
    finally:
        over.set()


def spread(make: Callable[[Row], Item], rows: Sequence[Row]) -> list[Item]:
    """Returns what `make` makes of each row, in order; several threads share them.

    It pays where `make` lets other threads of Python go on, as tokenisers do. What it raises for
    the first row in the order that it fails for is raised here.
    """
    num_threads = min(torch.get_num_threads(), MOST_THREADS, len(rows) // ROWS_AT_ONCE)
    if num_threads < 2:
        return [make(row) for row in rows]
    parts = [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]
    with ThreadPoolExecutor(num_threads, "spread") as threads:
        made = threads.map(lambda part: [make(row) for row in part], parts)
        return [item for part in made for item in part]


def _taken(made: Queue[tuple[bool, Item]]) -> tuple[bool, Item]:
    """Takes what comes next, and lets signals in while it waits."""
    while True:
        try:
            return made.get(timeout=PATIENCE)
        except Empty:
            continue
