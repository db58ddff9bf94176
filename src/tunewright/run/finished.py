"""A finished run: its folder, its figures, its model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from tunewright.data import ReadSettings
from tunewright.errors import SettingsError, warned
from tunewright.run.config import RunConfig, compose, read_config
from tunewright.run.judging.judge import EvaluationResult, Judge, OwnMetric
from tunewright.run.loaded import TrainedModel, load
from tunewright.run.record import RunFolder, is_run_folder, name_of, new_folder
from tunewright.tasks import find_task
from tunewright.tasks.base import Task, load_task
from tunewright.types import Estimate


class FinishedRun:
    """A run folder whose training is done."""

    def __init__(self, path: str | PathLike[str]) -> None:
        """Opens a run folder. Raises SettingsError when it is not one."""
        self.folder = RunFolder(Path(path))
        if not is_run_folder(self.folder.path):
            raise SettingsError(
                str(path), "there is no run.toml", "A run folder is needed.",
                "Name a folder under runs/.",
            )  # fmt: skip
        if not self.folder.is_finished:
            raise SettingsError(
                str(path), "the run did not finish", "A finished run has a model and its figures.",
                f"Go on with it: tunewright resume {path}",
            )  # fmt: skip

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def report(self) -> Path:
        return self.folder.report

    @cached_property
    def result(self) -> EvaluationResult | None:
        """The evaluation at the end of training; None where no rows were left to judge on."""
        return EvaluationResult.read(self.folder.evaluation)

    @cached_property
    def config(self) -> RunConfig:
        return compose(read_config(self.folder.config), where=str(self.folder.config))

    @cached_property
    def task(self) -> Task:
        """The task with everything that training fitted."""
        task = load_task(self.folder.model, find_task)
        assert task is not None  # a finished run has one
        return task

    @cached_property
    def model(self) -> TrainedModel:
        return load(self.folder.model, self.config.training.precision)

    @property
    def metrics(self) -> dict[str, Estimate]:
        """The metrics of the evaluation at the end of training, by name."""
        return dict(self.result.metrics) if self.result else {}

    def predict(
        self,
        source: Any,
        columns: Mapping[str, str] | None = None,
        say: Callable[[str], None] = warned,
    ) -> list[Any]:
        """Returns the model's answers; see `TrainedModel.predict`."""
        return self.model.predict(source, columns, say)

    def evaluate(
        self,
        source: Any,
        columns: Mapping[str, str] | None = None,
        metrics: Sequence[OwnMetric] = (),
        slices: str | Sequence[str] = (),
        settings: ReadSettings | None = None,
    ) -> EvaluationResult:
        """Measures the model on labelled rows, with the run's settings.

        `slices` are columns by whose values the metrics are also given, beside the run's own, and
        `settings` say how the rows are read, in the place of the run's own. The figures and
        predictions are also written to `evaluation/NAME/`, NAME being the data's; it gets a number
        when it is taken.
        """
        chosen = self.config.evaluation
        slices = (*chosen.slices, *([slices] if isinstance(slices, str) else slices))
        judge = Judge(chosen.num_resamples, slices, chosen.num_mistakes, metrics)
        name = name_of(fspath(source)) if isinstance(source, str | PathLike) else "memory"
        folder = new_folder(self.folder.evaluation, name or "data")
        try:
            result = self.model.evaluate(
                source,
                columns,
                judge,
                settings=settings or self.config.data.reading().of_others(),
                predictions=folder / "predictions.jsonl",
            )
            return result.save(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def __repr__(self) -> str:
        return f"FinishedRun({str(self.path)!r})"
