"""Answers in texts, ours and the peer's: `python -m benchmarks.quality.question_answering`.

Names of cases may follow, such as `CMRC2018`; `--only ours` makes one side's runs, `--rows 300`
takes the first rows of every split, to try it out. CMRC2018 begins from a Chinese model: `--model`
names it. A case "after v1" begins, on both sides, with a model that has learned SQuAD v1: one run
of ours, made first, or the one that `--after` names. Each seed of ours runs beside the same seed of
`transformers.Trainer`, alternating. Results go to `benchmarks/quality/question_answering.json`, and
tables are printed.

Both sides read windows of 384 tokens that share 128, learn where the answer begins and ends or that
a window has none, and answer with the likeliest stretch of at most 30 tokens (CMRC2018: 50). The
answers of both are measured by the same task. No row is set aside, so that neither side fits a
threshold for "no answer": it is 0.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.quality.harness import (
    Comparison,
    Results,
    Rows,
    Settings,
    Statistics,
    data_root,
    gaps,
    parser_of,
    read_rows,
    run_of_ours,
    summary,
    table,
)
from tunewright.models.files.folder import find_model
from tunewright.tasks import find_task

RESULTS = Path(__file__).with_suffix(".json")
TASK = "question-answering"
TOLD_APART = ("f1", "exact_match", "f1_has_answer", "accuracy_no_answer")
NONE = 'always "none"'


@dataclass(frozen=True)
class Case:
    """Files of training and test questions, and what both sides are told.

    Of the training questions every `nth` is taken: a peer on a CPU reads all of them for hours.
    """

    name: str
    train: tuple[str, ...]
    test: str
    settings: Settings
    task: Mapping[str, Any] = field(default_factory=dict)
    is_chinese: bool = False
    nth: int = 1
    after_v1: bool = False


SQUAD_V1 = ("squad_v1/train", "squadshifts_new_wiki/train", "squadshifts_new_wiki/test")

CASES = (
    Case("SQuAD v1", SQUAD_V1, "squad_v1/validation", Settings(2, 2e-4, max_length=384)),
    Case("SQuAD v1, 1 of 6", SQUAD_V1, "squad_v1/validation", Settings(3, 2e-4, max_length=384),
         nth=6),
    Case("SQuAD v2 half", ("squad_v2_half/train",), "squad_v2_half/test",
         Settings(3, 2e-4, max_length=384)),
    Case("SQuAD v2 half, after v1", ("squad_v2_half/train",), "squad_v2_half/test",
         Settings(2, 1e-4, max_length=384), after_v1=True),
    Case("CMRC2018", ("cmrc2018/train",), "cmrc2018/validation", Settings(2, 3e-4, max_length=384),
         {"max_answer_length": 50}, is_chinese=True),
    Case("CMRC2018, 1 of 6", ("cmrc2018/train",), "cmrc2018/validation",
         Settings(3, 3e-4, max_length=384), {"max_answer_length": 50}, is_chinese=True, nth=6),
)  # fmt: skip


def main() -> None:
    parser = parser_of(__doc__ or "", [case.name for case in CASES], ("ours", "peer"))
    parser.add_argument("--model", help="the folder of a Chinese model")
    parser.add_argument("--after", help="the folder of a model that has learned SQuAD v1")
    given = parser.parse_args()
    results = Results(None if given.rows else given.results or RESULTS)
    with TemporaryDirectory() as place:
        for case in CASES:
            if case.name not in given.names or (case.is_chinese and not given.model):
                continue
            if case.after_v1 and not given.after:
                given.after = learned_v1(Path(place), given.rows)
            begun = given.model if case.is_chinese else given.after if case.after_v1 else "starter"
            model = str(find_model(begun))
            splits = splits_of(case, data_root() / "qa", given.rows)
            results.measure(compared(case, splits, model, given.seeds), given.only)
    print(table(told_apart(results.found)))


def learned_v1(place: Path, num_rows: int | None) -> str:
    """Returns the folder of a model that has learned SQuAD v1, in a run of ours."""
    (case,) = (case for case in CASES if case.name == "SQuAD v1")
    train = splits_of(case, data_root() / "qa", num_rows)["train"]
    with run_of_ours({"name": TASK}, case.settings, {"train": train}, seed=0) as run:
        return str(shutil.copytree(run.folder.model, place / "v1"))


def splits_of(case: Case, folder: Path, num_rows: int | None) -> dict[str, Rows]:
    train = [row for name in case.train for row in read_rows(folder / f"{name}.jsonl.gz")]
    return {
        "train": train[:: case.nth][:num_rows],
        "test": read_rows(folder / f"{case.test}.jsonl.gz")[:num_rows],
    }


def compared(
    case: Case, splits: Mapping[str, Rows], model: str, seeds: Sequence[int]
) -> Comparison:
    return Comparison(
        case.name,
        case.settings,
        ("f1", "exact_match"),
        {
            "ours": lambda seed: {"ours": ours(case, splits, model, seed)},
            "peer": lambda seed: {"peer": theirs(case, splits, model, seed)},
        },
        (("ours", "peer"),),
        reducer=find_task(TASK)().prepare,
        num_rows=len(splits["test"]),
        seeds=seeds,
    )


def ours(case: Case, splits: Mapping[str, Rows], model: str, seed: int) -> Statistics:
    """Returns the statistics of the test rows after one run of ours."""
    task = {"name": TASK, **case.task}
    with run_of_ours(task, case.settings, splits, seed, model=model) as run:
        assert run.result is not None
        return run.result.statistics


def theirs(case: Case, splits: Mapping[str, Rows], model: str, seed: int) -> Statistics:
    """Returns the same of one run of `transformers.Trainer`, its answers measured by our task."""
    from benchmarks.quality.question_peer import run

    longest = case.task.get("max_answer_length", 30)
    return run(splits, case.settings, model, seed, longest)


def told_apart(found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the results with more figures for the data sets where a question may lack an answer.

    They are the F1 of those that have one, the share of the others that get none, and a side that
    never answers; all from the figures of every test row, which a run has left behind.
    """
    return {name: _told_apart(entry) for name, entry in found.items()}


def _told_apart(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    runs = [run for seeds in entry["sides"].values() for run in seeds.values()]
    has_answer_R = np.array(runs[0]["has_answer"] if runs else [])
    if has_answer_R.all():
        return entry
    right_R = 1 - has_answer_R
    nothing = {"exact": right_R, "f1": right_R, "has_answer": has_answer_R}
    reducer = find_task(TASK)().prepare
    pairs = list(dict.fromkeys((gap["of"], gap["over"]) for gap in entry["gaps"]))
    over_none = [(side, NONE) for side in entry["sides"]]
    entry = {**entry, "before": {NONE: nothing, **entry["before"]}}
    return {
        **entry,
        "metrics": summary(entry, TOLD_APART, reducer),
        "gaps": gaps(entry, pairs, TOLD_APART, reducer) + gaps(entry, over_none, ("f1",), reducer),
    }


if __name__ == "__main__":
    main()
