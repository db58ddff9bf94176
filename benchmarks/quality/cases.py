"""The data sets and settings of the quality table.

Settings were chosen on validation rows (a tenth of train where a set has none), never on test.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.quality.harness import Settings


@dataclass(frozen=True)
class Case:
    """A data set, what both sides are told, and the accuracy that is asked for."""

    name: str
    folder: str
    settings: Settings
    seeds: tuple[int, ...]
    target: float
    with_peer: bool


CASES = (
    Case("SST-2", "classification/sst2", Settings(2, 1e-4), (1, 2, 3, 4, 5), 0.875, True),
    Case(
        "BANKING77",
        "classification/banking77",
        Settings(5, 3e-4, batch_size=64),
        (1, 2, 3),
        0.915,
        True,
    ),
    Case(
        "IMDB (2,000 reviews)",
        "classification/imdb_2k",
        Settings(3, 1e-4, max_length=512),
        (1,),
        0.85,
        False,
    ),
    Case("AG News", "classification/ag_news", Settings(2, 1e-4), (1,), 0.90, False),
)
