"""The data sets and settings of the quality table.

Settings were chosen on validation rows (a tenth of train where a set has none), never on test.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A data set, what both sides are told, and the accuracy that is asked for."""

    name: str
    folder: str
    max_length: int
    num_train_epochs: int
    learning_rate: float
    seeds: tuple[int, ...]
    target: float
    with_peer: bool
    batch_size: int = 32
    warmup_ratio: float = 0.1
    weight_decay: float = 0.01


CASES = (
    Case("SST-2", "classification/sst2", 128, 2, 1e-4, (1, 2, 3, 4, 5), 0.875, True),
    Case("BANKING77", "classification/banking77", 128, 5, 3e-4, (1, 2, 3), 0.915, True, 64),
    Case("IMDB (2,000 reviews)", "classification/imdb_2k", 512, 3, 1e-4, (1,), 0.85, False),
    Case("AG News", "classification/ag_news", 128, 2, 1e-4, (1,), 0.90, False),
)
