"""What every comparison shares: one run of ours, sides that alternate, paired intervals, a table.

    results = Results(Path("embedding.json"))
    results.measure(comparison)
    print(table(results.found))

Every run is written down as soon as it is there, with the statistics of its test rows: what was
stopped goes on with the runs that are missing, and intervals can be drawn again from the file.
Several processes may measure into one file, each some of the cases, sides or seeds, and machines of
several kinds one after another: two sides are compared by the seeds that both had on one kind.

Shape letters: S seeds, R rows.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from tunewright.devices import find_device
from tunewright.run.config import compose
from tunewright.run.train import train
from tunewright.tasks import find_task

NUM_RESAMPLES = 2000
ONCE = ["0"]  # the seed of what is measured before any training
DIGITS = 5  # of a row's statistics, which keeps the files small

Rows = list[dict[str, Any]]
Statistics = Mapping[str, np.ndarray]
Reduce = Callable[[np.ndarray | None], Mapping[str, float]]

CHOSEN = ("true", "predicted")  # of a classifier's statistics, what accuracy is made of


@dataclass(frozen=True)
class Settings:
    """What both sides of a comparison are told."""

    num_train_epochs: int
    learning_rate: float
    max_length: int = 128
    batch_size: int = 32
    warmup_ratio: float = 0.1
    weight_decay: float = 0.01

    @property
    def training(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "max_length"}


@dataclass(frozen=True)
class Comparison:
    """Runs whose test rows are compared; `runs` maps a name to a function of the seed.

    A run returns the statistics of one side or of several: one training may be measured in several
    ways. Those named in `kept` are written down, off: all. `gaps` are the pairs of sides whose
    difference is asked for, and `reducer` makes metrics of a side's statistics. A side named in
    `before` has no seed: it is what training begins with. Rows of the same number in `groups` are
    one question asked several times: an interval draws all of them or none.
    """

    name: str
    settings: Settings
    metrics: Sequence[str]
    runs: Mapping[str, Callable[[int], Mapping[str, Statistics]]]
    gaps: Sequence[tuple[str, str]]
    num_rows: int
    reducer: Callable[[Statistics], Reduce]
    before: Callable[[], Mapping[str, Statistics]] = dict
    seeds: Sequence[int] = (1, 2, 3)
    notes: Mapping[str, Any] = field(default_factory=dict)
    kept: Sequence[str] = ()
    groups: Sequence[int] = ()

    def plain(self, statistics: Statistics) -> dict[str, list[float]]:
        """Returns what is written down of a run."""
        return {
            name: (np.round(values, DIGITS) if values.dtype.kind == "f" else values).tolist()
            for name, values in statistics.items()
            if not self.kept or name in self.kept
        }


@dataclass
class Results:
    """The results of all comparisons of a file; none of it is kept without one."""

    path: Path | None
    found: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._read()

    def measure(self, comparison: Comparison, only: Sequence[str] = ()) -> None:
        """Runs what is missing, seed after seed, and the sides of a seed one after the other."""
        if not self._entry(comparison)["before"]:
            before = comparison.before()
            with self._shared(comparison) as entry:
                for name, statistics in before.items():
                    entry["before"][name] = comparison.plain(statistics)
                    self._tell(comparison, name, "before", statistics)
        for seed in comparison.seeds:
            for name, run in comparison.runs.items():
                self._read()
                done = self._entry(comparison)["seconds"].get(name, {})
                if str(seed) in done or (only and name not in only):
                    continue
                started = time.perf_counter()
                sides = run(seed)
                taken = round(time.perf_counter() - started, 1)
                with self._shared(comparison) as entry:
                    entry["seconds"].setdefault(name, {})[str(seed)] = taken
                    for side, statistics in sides.items():
                        entry["sides"].setdefault(side, {})[str(seed)] = comparison.plain(
                            statistics
                        )
                        entry["places"].setdefault(side, {})[str(seed)] = place()
                        self._tell(comparison, side, f"seed {seed}", statistics)
        with self._shared(comparison):
            pass  # sums up what other processes have added

    def _entry(self, comparison: Comparison) -> dict[str, Any]:
        """Returns the entry of a comparison; one of other settings is begun anew."""
        begun = {
            "settings": asdict(comparison.settings) | dict(comparison.notes),
            "rows": comparison.num_rows,
        }
        old = self.found.get(comparison.name, {})
        if {name: old.get(name) for name in begun} != begun:
            old = {**begun, "before": {}, "sides": {}, "places": {}, "seconds": {}}
        self.found[comparison.name] = old
        return old

    @contextmanager
    def _shared(self, comparison: Comparison) -> Iterator[dict[str, Any]]:
        """Gives the entry as other processes have left it, sums up and writes what is added."""
        with FileLock(f"{self.path}.lock") if self.path else nullcontext():
            self._read()
            entry = self._entry(comparison)
            yield entry
            entry["metrics"] = summary(entry, comparison.metrics, comparison.reducer)
            entry["gaps"] = gaps(
                entry, comparison.gaps, comparison.metrics, comparison.reducer, comparison.groups
            )
            if self.path:
                whole = self.path.with_suffix(".new")
                whole.write_text(json.dumps(self.found) + "\n", encoding="utf-8")
                whole.replace(self.path)

    def _read(self) -> None:
        if self.path and self.path.exists():
            self.found = json.loads(self.path.read_text(encoding="utf-8"))

    def _tell(self, comparison: Comparison, side: str, when: str, statistics: Statistics) -> None:
        found = comparison.reducer(statistics)(None)
        told = ", ".join(f"{name} {found[name]:.4f}" for name in comparison.metrics)
        print(f"{comparison.name}, {when}: {side} {told}", flush=True)


def place() -> str:
    """Returns the kind of machine that runs here, and its precision."""
    device = find_device()
    return f"{device.description}, {device.precision}"


def _runs_of(entry: Mapping[str, Any], side: str, seeds: Sequence[str]) -> list[Statistics]:
    """Returns a side's statistics for each seed; those of before training for every seed."""
    found = entry["before"].get(side)
    each = [found] * len(seeds) if found else [entry["sides"][side][seed] for seed in seeds]
    return [{name: np.array(values) for name, values in one.items()} for one in each]


def _seeds_of(entry: Mapping[str, Any], *sides: str) -> list[str]:
    """Returns the seeds that all of these sides have been run with, on one kind of machine."""
    runs = [entry["places"].get(side, {}) for side in sides if side not in entry["before"]]
    found = [set(places.items()) for places in runs]
    return sorted((seed for seed, _ in set.intersection(*found)), key=int) if found else ONCE


def summary(
    entry: Mapping[str, Any], metrics: Sequence[str], reducer: Callable[[Statistics], Reduce]
) -> dict[str, dict[str, list[float]]]:
    """Returns, for each side, each metric's value for every seed."""
    sides: dict[str, dict[str, list[float]]] = {}
    for side in (*entry["before"], *entry["sides"]):
        runs = _runs_of(entry, side, _seeds_of(entry, side))
        values = [reducer(statistics)(None) for statistics in runs]
        sides[side] = {name: [float(one[name]) for one in values] for name in metrics}
    return sides


def gaps(
    entry: Mapping[str, Any],
    pairs: Sequence[tuple[str, str]],
    metrics: Sequence[str],
    reducer: Callable[[Statistics], Reduce],
    groups: Sequence[int] = (),
) -> list[dict[str, Any]]:
    """Returns the differences of pairs of sides, in points, each with its 95 % interval."""
    found = []
    there = {*entry["before"], *entry["sides"]}
    for first, second in pairs:
        seeds = _seeds_of(entry, first, second) if {first, second} <= there else []
        if not seeds:
            continue
        runs = [_runs_of(entry, side, seeds) for side in (first, second)]
        group_R = np.array(groups or range(len(next(iter(runs[0][0].values())))))
        reducers = [[reducer(each) for each in side] for side in runs]
        drawn = paired_intervals(*reducers, metrics, group_R)
        for metric, (gap, low, high) in drawn.items():
            num_seeds = len(seeds) if seeds != ONCE else 0
            found.append({"of": first, "over": second, "metric": metric, "seeds": num_seeds,
                          "gap": gap, "low": low, "high": high})  # fmt: skip
    return found


def means_of(entry: Mapping[str, Any], gap: Mapping[str, Any]) -> list[float]:
    """Returns, in points, the means of both sides of a difference over the seeds that it is of.

    A side may have more seeds, and another mean over all of them.
    """
    sides = (gap["of"], gap["over"])
    shared = _seeds_of(entry, *sides)
    means = []
    for side in sides:
        values = entry["metrics"][side][gap["metric"]]
        if side not in entry["before"]:
            of_seed = dict(zip(_seeds_of(entry, side), values, strict=True))
            values = [of_seed[seed] for seed in shared]
        means.append(100 * float(np.mean(values)))
    return means


def paired_intervals(
    mine: Sequence[Reduce], others: Sequence[Reduce], metrics: Sequence[str], group_R: np.ndarray
) -> dict[str, tuple[float, float, float]]:
    """Returns, in points, the mean difference of each metric and its 95 % interval.

    Seeds and groups of test rows are both drawn anew, each draw the same on both sides.
    """
    num_groups = int(group_R.max()) + 1
    generator = np.random.Generator(np.random.PCG64(0))

    def differences(counts_R: np.ndarray | None, seeds: Sequence[int]) -> list[float]:
        pairs = [(mine[seed](counts_R), others[seed](counts_R)) for seed in seeds]
        return [100 * float(np.mean([a[m] - b[m] for a, b in pairs])) for m in metrics]

    drawn = []
    for _ in range(NUM_RESAMPLES):
        seeds = generator.integers(0, len(mine), len(mine)).tolist()
        groups = generator.integers(0, num_groups, num_groups)
        counts_R = np.bincount(groups, minlength=num_groups)[group_R]
        drawn.append(differences(counts_R, seeds))
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    whole = differences(None, range(len(mine)))
    return {m: (whole[i], float(low[i]), float(high[i])) for i, m in enumerate(metrics)}


@contextmanager
def run_of_ours(
    task: Mapping[str, Any],
    settings: Settings,
    sources: Mapping[str, Any],
    seed: int,
    columns: Mapping[str, str] | None = None,
    model: str = "starter",
    precision: str = "auto",
) -> Iterator[Any]:
    """Gives one finished run of ours, whose folder is there for the time of a block.

    No row is set aside, and the last weights are kept: settings were chosen before. Several tasks
    in one have their lengths in their parts.
    """
    length = {} if "parts" in task else {"max_length": settings.max_length}
    with tempfile.TemporaryDirectory(prefix="tunewright-quality-") as output:
        config = compose(
            {
                "task": {**task, **length},
                "model": {"name": model},
                "data": {"columns": dict(columns or {}), "split": {"validation": 0, "test": 0}},
                "training": {
                    **settings.training,
                    "load_best_model_at_end": False,
                    "save_total_limit": 0,
                    "precision": precision,
                    "seed": seed,
                    "track": [],
                },
                "evaluation": {"num_resamples": 0},
                "output": {"folder": output, "name": "run"},
            }
        )
        yield train(dict(sources), config)


def read_rows(path: Path) -> Rows:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def accuracy(statistics: Statistics) -> Reduce:
    """Returns the share of right answers as a function of how often each row counts."""
    right_R = statistics["predicted"] == statistics["true"]
    return lambda counts_R: {"accuracy": float(np.average(right_R, weights=counts_R))}


def figures_of(task: str, metrics: Sequence[str]) -> dict[str, Any]:
    """Returns what makes a task's metrics, and which statistics are kept for it."""
    if tuple(metrics) == ("accuracy",):  # without the probabilities of each of many classes
        return {"reducer": accuracy, "kept": CHOSEN}
    return {"reducer": find_task(task)().prepare}


def data_root() -> Path:
    root = os.environ.get("TUNEWRIGHT_BENCHMARK_DATA")
    if not root or not Path(root).is_dir():
        sys.exit("Set TUNEWRIGHT_BENCHMARK_DATA to the folder of the data sets.")
    return Path(root)


def arguments(description: str, names: Sequence[str], runs: Sequence[str]) -> argparse.Namespace:
    """Reads what a harness is asked: which comparisons, runs and seeds, of how many rows."""
    return parser_of(description, names, runs).parse_args()


def parser_of(
    description: str, names: Sequence[str], runs: Sequence[str]
) -> argparse.ArgumentParser:
    """Returns what reads the words that every harness understands."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(names), help=", ".join(names))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", default=[], choices=runs, help="runs to make")
    parser.add_argument("--rows", type=int, help="of each split; nothing is written")
    parser.add_argument("--results", type=Path, help="the file of results, if not the page's")
    return parser


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns two Markdown tables: every side's metrics, and the differences asked for.

    Metrics are means over all seeds of a side; beside a difference stand those over its own seeds.
    """
    lines = ["| data set | side | seeds | metrics |", "|---|---|---:|---|"]
    for name, entry in found.items():
        for side, metrics in entry["metrics"].items():
            told = ", ".join(f"{m} {100 * np.mean(values):.2f}" for m, values in metrics.items())
            num_seeds = "" if side in entry["before"] else len(next(iter(metrics.values())))
            lines.append(f"| {name} | {side} | {num_seeds} | {told} |")
    lines += ["", "| data set | difference | metric | seeds | means over these seeds | points "
              "| 95 % interval |", "|---|---|---|---:|---:|---:|---:|"]  # fmt: skip
    for name, entry in found.items():
        for gap in entry["gaps"]:
            first, second = means_of(entry, gap)
            lines.append(
                f"| {name} | {gap['of']} over {gap['over']} | {gap['metric']} | "
                f"{gap['seeds'] or ''} | {first:.2f} over {second:.2f} | "
                f"{gap['gap']:+.2f} | {gap['low']:+.2f} to {gap['high']:+.2f} |"
            )
    return "\n".join(lines)
