"""One step ahead: the next item is made while this one is used."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Empty, Full, Queue
from typing import TypeVar

Item = TypeVar("Item")
PATIENCE = 0.1  # seconds between two looks at whether anybody still waits


def made_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Yields the items in their order; a thread makes the next one meanwhile, and no more.

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


def _taken(made: Queue[tuple[bool, Item]]) -> tuple[bool, Item]:
    """Takes what comes next, and lets signals in while it waits."""
    while True:
        try:
            return made.get(timeout=PATIENCE)
        except Empty:
            continue
