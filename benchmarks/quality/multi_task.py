"""Three tasks over one backbone, and each by itself: `python -m benchmarks.quality.multi_task`.

STS-B (scores of pairs), Medical RQE (classes of pairs) and BANKING77 (classes of single texts),
from the starter model with the same settings; an epoch of the three together has the updates of the
three epochs apart. `--only together` or `alone` makes some of the runs, `--rows 300` takes the
first rows of every split. Results go to `benchmarks/quality/multi_task.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.quality import sequence_data as data
from benchmarks.quality.harness import (
    Comparison,
    Results,
    Rows,
    Settings,
    Statistics,
    arguments,
    data_root,
    figures_of,
    run_of_ours,
    table,
)

RESULTS = Path(__file__).with_suffix(".json")
SIDES = ("together", "alone")
SETTINGS = Settings(3, 2e-4)


@dataclass(frozen=True)
class Part:
    """One of the tasks, and its first metric."""

    name: str
    task: str
    metric: str
    read: Any


PARTS = (
    Part("STS-B", "regression", "spearman", data.stsb),
    Part("Medical RQE", "text-classification", "accuracy", data.medical_rqe),
    Part("BANKING77", "text-classification", "accuracy", data.banking77),
)


def main() -> None:
    given = arguments(__doc__ or "", [part.name for part in PARTS], SIDES)
    results = Results(None if given.rows else given.results or RESULTS)
    splits = {part.name: _splits(part, given.rows) for part in PARTS}

    @cache
    def together(seed: int) -> Statistics:
        return run_together(splits, seed)

    for part in PARTS:
        if part.name in given.names:
            compared = comparison(part, splits[part.name], together, given.seeds)
            results.measure(compared, given.only)
    print(table(results.found))


def _splits(part: Part, num_rows: int | None) -> dict[str, Rows]:
    splits = part.read(data_root())
    return {split: splits[split][:num_rows] for split in ("train", "test")}


def comparison(
    part: Part, splits: Mapping[str, Rows], together: Any, seeds: Sequence[int]
) -> Comparison:
    return Comparison(
        part.name,
        SETTINGS,
        (part.metric,),
        {
            "together": lambda seed: {"together": own_part(part, together(seed))},
            "alone": lambda seed: {"alone": run_alone(part, splits, seed)},
        },
        (("together", "alone"),),
        num_rows=len(splits["test"]),
        seeds=seeds,
        **figures_of(part.task, (part.metric,)),
    )


def run_together(splits: Mapping[str, Mapping[str, Rows]], seed: int) -> Statistics:
    """Returns the statistics of all test rows after one run of the three tasks."""
    rows: dict[str, Rows] = {
        split: [{**row, "task": name} for name, each in splits.items() for row in each[split]]
        for split in ("train", "test")
    }
    parts = {part.name: {"name": part.task, "max_length": SETTINGS.max_length} for part in PARTS}
    with run_of_ours({"name": "multi-task", "parts": parts}, SETTINGS, rows, seed) as run:
        assert run.result is not None
        return run.result.statistics


def own_part(part: Part, statistics: Statistics) -> Statistics:
    """Returns the figures of a part's own rows."""
    prefix = f"{part.name}/"
    here = statistics[prefix].astype(bool)
    return {
        name.removeprefix(prefix): values[here]
        for name, values in statistics.items()
        if name.startswith(prefix) and name != prefix
    }


def run_alone(part: Part, splits: Mapping[str, Rows], seed: int) -> Statistics:
    with run_of_ours({"name": part.task}, SETTINGS, splits, seed) as run:
        assert run.result is not None
        return run.result.statistics


if __name__ == "__main__":
    main()
