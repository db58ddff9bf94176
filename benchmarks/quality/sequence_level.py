"""Several labels, pairs, scores and choices: `python -m benchmarks.quality.sequence_level`.

Names of cases may follow, such as `STS-B`; `--only ours` makes one side's runs, `--rows 300` takes
the first rows of every split, to try it out. Each seed of ours runs beside the same seed of
`transformers.Trainer` with the same model, rows and settings, alternating. Both sides' outputs are
measured by the same task. Results go to `benchmarks/quality/sequence_level.json`, and tables are
printed. Settings were chosen on validation rows, never on test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.quality import sequence_data as data
from benchmarks.quality.harness import (
    Comparison,
    Results,
    Settings,
    Statistics,
    arguments,
    data_root,
    figures_of,
    run_of_ours,
    table,
)

RESULTS = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class Case:
    """A data set, what both sides are told, and the metrics compared.

    Test rows with the same text in the column `question` are drawn together.
    """

    name: str
    task: str
    read: Callable[[Path], data.Splits]
    metrics: tuple[str, ...]
    settings: Settings
    question: str = ""


CASES = (
    Case(
        "MultiWOZ domains",
        "multi-label-classification",
        data.multiwoz_domains,
        ("f1_micro", "f1_macro", "average_precision"),
        Settings(8, 3e-4, max_length=512),
    ),
    Case("Medical RQE", "text-classification", data.medical_rqe, ("accuracy",), Settings(3, 1e-4)),
    Case("STS-B", "regression", data.stsb, ("spearman", "pearson"), Settings(6, 1e-4)),
    Case(
        "MedQuAD, 1 of 4",
        "multiple-choice",
        data.medquad_choices,
        ("accuracy", "mrr"),
        Settings(2, 1e-4),
    ),
    Case(
        "MedQuAD, 1 of 4, three times",
        "multiple-choice",
        data.medquad_choices_thrice,
        ("accuracy", "mrr"),
        Settings(2, 1e-4),
        question="question",
    ),
)


def main() -> None:
    given = arguments(__doc__ or "", [case.name for case in CASES], ("ours", "peer"))
    results = Results(None if given.rows else given.results or RESULTS)
    for case in CASES:
        if case.name in given.names:
            splits = {name: rows[: given.rows] for name, rows in case.read(data_root()).items()}
            results.measure(compared(case, splits, given.seeds), given.only)
    print(table(results.found))


def compared(case: Case, splits: data.Splits, seeds: Sequence[int]) -> Comparison:
    asked = [row[case.question] for row in splits["test"]] if case.question else []
    numbers = {text: number for number, text in enumerate(dict.fromkeys(asked))}
    return Comparison(
        case.name,
        case.settings,
        case.metrics,
        {
            "ours": lambda seed: {"ours": ours(case, splits, seed)},
            "peer": lambda seed: {"peer": theirs(case, splits, seed)},
        },
        (("ours", "peer"),),
        num_rows=len(splits["test"]),
        seeds=seeds,
        groups=[numbers[text] for text in asked],
        **figures_of(case.task, case.metrics),
    )


def ours(case: Case, splits: data.Splits, seed: int) -> Statistics:
    """Returns the statistics of the test rows after one run of ours.

    Validation rows, where the case has them, only fit thresholds: the last weights are kept.
    """
    with run_of_ours({"name": case.task}, case.settings, splits, seed) as run:
        assert run.result is not None
        return run.result.statistics


def theirs(case: Case, splits: data.Splits, seed: int) -> Statistics:
    """Returns the same of one run of `transformers.Trainer`, its outputs measured by our task."""
    from benchmarks.quality.sequence_peer import run

    return run(case.task, splits, case.settings, seed)


if __name__ == "__main__":
    main()
