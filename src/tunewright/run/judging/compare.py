"""Is one run better than another? On the same rows, with a paired test, and where they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tunewright.data.wording import counted
from tunewright.errors import SettingsError
from tunewright.metrics import mcnemar, paired_bootstrap
from tunewright.metrics.compare import Difference, McNemar
from tunewright.run.finished import FinishedRun
from tunewright.run.judging.judge import lines_of
from tunewright.tasks import PART


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same rows.

    `differences` are b - a by metric, with 95 % interval and p-value from a paired bootstrap.
    `mcnemar` tests whether the two are right equally often. `rows` are the rows whose
    answers differ, with their texts; `num_different` counts them. `notices` are sentences on how
    the rows were read, and on texts that the runs have read in different ways.
    """

    a: str
    b: str
    num_rows: int
    differences: Mapping[str, Difference]
    mcnemar: McNemar | None
    num_different: int
    rows: list[dict[str, Any]]
    notices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare_runs(
    a: str | PathLike[str] | FinishedRun,
    b: str | PathLike[str] | FinishedRun,
    data: Any,
    columns: Mapping[str, str],
    reading: Mapping[str, Any] | None = None,
) -> Comparison:
    """Compares two run folders; on `data` when it is given, else on what both were judged on.

    `reading` are settings of how it is read, in the place of each run's own.

    Raises SettingsError when the stored rows or the classes are not the same.
    """
    first, second = (x if isinstance(x, FinishedRun) else FinishedRun(x) for x in (a, b))
    a, b = str(first.path), str(second.path)
    found = [_judged(run, data, columns, reading or {}) for run in (first, second)]
    folders = [folder for folder, _ in found]
    task, other = first.task, second.task
    if getattr(task, "labels", ()) != getattr(other, "labels", ()):
        raise SettingsError(
            f"{a} and {b}", "the runs have other labels, or the same in another order",
            "Both need the same labels in the same order to be compared.",
        )  # fmt: skip
    lines = [list(lines_of(folder / "predictions.jsonl")) for folder in folders]
    _check_same_rows(lines[0], lines[1], f"{a} and {b}")
    statistics = [load_file(folder / "statistics.safetensors") for folder in folders]
    told = ("row", "index", "source", "line", PART.name, *task.text_roles, "true")
    different = [
        {**{key: x[key] for key in x if key in told},
         "a": x["answered"], "b": y["answered"]}
        for x, y in zip(*lines, strict=True)
        if x["answered"] != y["answered"]
    ]  # fmt: skip
    return Comparison(
        a,
        b,
        len(lines[0]),
        paired_bootstrap(
            task.reduce, statistics[0], statistics[1], task.metrics, prepare=task.prepare
        ),
        _mcnemar(statistics[0], statistics[1]),
        len(different),
        different,
        (*dict.fromkeys(each for _, notices in found for each in notices),
         *_read_otherwise(lines[0], lines[1], task.text_roles)),
    )  # fmt: skip


def _judged(
    run: FinishedRun, data: Any, columns: Mapping[str, str], reading: Mapping[str, Any]
) -> tuple[Path, Sequence[str]]:
    """Returns the folder with the run's figures on the data, judging it there if need be.

    Beside it stands what was told of the rows then.
    """
    if data is None:
        run.folder.read_json("evaluation/metrics.json")
        return run.folder.evaluation, ()
    settings = replace(run.config.data.reading().of_others(), **reading)
    result = run.evaluate(data, columns, settings=settings)
    return result.folder, result.notices


def _read_otherwise(
    a: list[dict[str, Any]], b: list[dict[str, Any]], roles: Sequence[str]
) -> Iterator[str]:
    for role in roles:
        pairs = [(x[role], y[role]) for x, y in zip(a, b, strict=True) if role in x and role in y]
        if num := sum(one != other for one, other in pairs):
            yield f"A and B have read different texts as {role} on {counted(num, 'row')}."


def _check_same_rows(a: list[dict[str, Any]], b: list[dict[str, Any]], where: str) -> None:
    def key(line: Mapping[str, Any]) -> tuple[Any, ...]:
        return line["source"], line["line"], line.get("index", line["row"]), line["true"]

    if [key(line) for line in a] == [key(line) for line in b]:
        return
    raise SettingsError(
        where,
        f"they were judged on different rows ({len(a):,} and {len(b):,})",
        "A paired test needs the same rows in the same order.",
        "Name a file that both are to be judged on.",
    )


def _mcnemar(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> McNemar | None:
    if "predicted" not in a or a["predicted"].dtype.kind == "f":  # numbers are seldom just right
        return None
    return mcnemar(a["predicted"] == a["true"], b["predicted"] == b["true"])
