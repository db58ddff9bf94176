"""What the fast path costs in quality: `python -m benchmarks.quality.precision`.

The starter model, tuned in the machine's own precision (`fast`: bf16 where it has it) and in fp32
throughout, with the same rows, settings, seeds and minibatches. Names of cases may follow, such as
`SST-2`; `--only fast` or `fp32` makes some of the runs, `--rows 300` takes the first rows of every
split. Results go to `benchmarks/quality/precision.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.quality.cases import CASES, Case
from benchmarks.quality.harness import (
    Comparison,
    Results,
    Rows,
    Statistics,
    arguments,
    data_root,
    figures_of,
    read_rows,
    run_of_ours,
    table,
)

RESULTS = Path(__file__).with_suffix(".json")
SIDES = {"fast": "auto", "fp32": "fp32"}
TASK = "text-classification"
NAMES = ("SST-2", "BANKING77")


def main() -> None:
    given = arguments(__doc__ or "", NAMES, tuple(SIDES))
    results = Results(None if given.rows else given.results or RESULTS)
    for case in CASES:
        if case.name in given.names:
            folder = data_root() / case.folder
            splits = {
                name: read_rows(folder / f"{name}.jsonl.gz")[: given.rows]
                for name in ("train", "test")
            }
            results.measure(compared(case, splits, given.seeds), given.only)
    print(table(results.found))


def compared(case: Case, splits: Mapping[str, Rows], seeds: Sequence[int]) -> Comparison:
    return Comparison(
        case.name,
        case.settings,
        ("accuracy",),
        {
            side: lambda seed, side=side: {side: measured(case, splits, seed, SIDES[side])}
            for side in SIDES
        },
        (("fast", "fp32"),),
        num_rows=len(splits["test"]),
        seeds=seeds,
        **figures_of(TASK, ("accuracy",)),
    )


def measured(case: Case, splits: Mapping[str, Rows], seed: int, precision: str) -> Statistics:
    with run_of_ours({"name": TASK}, case.settings, splits, seed, precision=precision) as run:
        assert run.result is not None
        return run.result.statistics


if __name__ == "__main__":
    main()
