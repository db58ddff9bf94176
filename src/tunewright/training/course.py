"""A course of training: the loop, judged now and then, keeping its best weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from tunewright.errors import SettingsError, listed, nearest
from tunewright.training.events import Evaluation, Event, Finished, Step
from tunewright.training.loop import Loop

Judge = Callable[[], Mapping[str, float]]
Keep = Callable[[int], None]


def check_metric(name: str, known: Iterable[str]) -> None:
    """Raises SettingsError, with the nearest name, when there is no such metric."""
    names = list(known)
    if name in names:
        return
    hint = nearest(name, names)
    raise SettingsError(
        "training.metric_for_best_model",
        f'there is no metric "{name}"',
        f"The task has {listed(names, 30)}.",
        f'Did you mean "{hint}"?' if hint else "",
    )


@dataclass
class Best:
    """The best evaluation so far, and how long ago it was.

    An evaluation is progress, for patience and plateaus, when it is better than the last progress
    by more than `threshold`. A metric that is not finite is never best.
    """

    metric: str
    higher_is_better: bool
    threshold: float = 0.0
    value: float = math.nan
    step: int = 0
    stale: int = 0
    progress: float = math.nan

    def observe(self, metrics: Mapping[str, float], step: int) -> bool:
        """Takes in an evaluation; returns whether it is the best so far.

        Raises SettingsError when the metric is not among them.
        """
        check_metric(self.metric, metrics)
        found = metrics[self.metric]
        self.stale += 1
        if self._gains(found, self.progress, self.threshold):
            self.progress, self.stale = found, 0
        if not self._gains(found, self.value, 0.0):
            return False
        self.value, self.step = found, step
        return True

    def _gains(self, found: float, before: float, threshold: float) -> bool:
        gain = (found - before) if self.higher_is_better else (before - found)
        return math.isfinite(found) and (math.isnan(before) or gain > threshold)


@dataclass
class Course:
    """Runs a loop to its end, with evaluations, best weights and early stopping.

    `judge` returns the validation metrics of the weights that the model holds; `keep` stores them
    as those of a step and `restore` brings them back.
    """

    loop: Loop
    judge: Judge | None
    keep: Keep
    restore: Keep
    best: Best
    eval_steps: int | None = None
    patience: int | None = None
    load_best: bool = True

    def run(self) -> Iterator[Event]:
        """Yields every update and evaluation, and at the end why it stopped.

        Afterwards the model holds the kept weights, in evaluation mode.
        """
        started, last, reason = time.perf_counter(), 0, "all updates done"
        for event in self.loop.run():
            yield event
            last = event.step
            if self.judge is not None and self._is_due(event):
                evaluation = self._evaluate(event)
                yield evaluation
                if self.patience is not None and self.best.stale >= self.patience:
                    reason = f"no progress in {self.patience} evaluations"
                    break
        kept = self._settle(last)
        yield Finished(last, reason, kept, time.perf_counter() - started)

    def _is_due(self, event: Step) -> bool:
        interval = self.eval_steps or self.loop.steps_per_epoch
        return event.step % interval == 0 or event.step == event.total_steps

    def _evaluate(self, event: Step) -> Evaluation:
        started = time.perf_counter()
        assert self.judge is not None
        with _averaged(self.loop):
            metrics = self.judge()
            is_best = self.best.observe(metrics, event.step)
            if is_best and self.load_best:
                self.keep(event.step)
        self.loop.schedule.observe(self.best.stale == 0)
        return Evaluation(event.step, event.epoch, metrics, is_best, time.perf_counter() - started)

    def _settle(self, last: int) -> int:
        """Puts the kept weights into the model; returns their step."""
        if self.load_best and self.best.step:
            if self.best.step != last or self.loop.average is not None:
                self.restore(self.best.step)
            kept = self.best.step
        else:
            if self.loop.average is not None:
                self.loop.average.swap()
            kept = last
        self.loop.model.eval()
        return kept


@contextmanager
def _averaged(loop: Loop) -> Iterator[None]:
    """Holds the moving average in the model, where there is one, for the time of a block."""
    if loop.average is not None:
        loop.average.swap()
    try:
        yield
    finally:
        if loop.average is not None:
            loop.average.swap()


def total_steps(num_rows: int, batch_size: int, epochs: float, max_steps: int | None) -> int:
    """Returns the number of updates of a run; a part of an epoch is rounded up."""
    updates = epochs * math.ceil(num_rows / batch_size)
    return max_steps or math.ceil(updates - 1e-9)  # 0.07 x 100 is a little more than 7 in floats
