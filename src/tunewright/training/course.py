"""A course of training: the loop, judged and saved now and then, keeping its best weights."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tunewright.errors import (
    DataError,
    NonFiniteLoss,
    RunError,
    SettingsError,
    listed,
    nearest,
)
from tunewright.training.checkpoint import Checkpoint
from tunewright.training.events import Evaluation, Event, Finished, Phase, Step
from tunewright.training.loop import Loop
from tunewright.training.saving import Saver
from tunewright.training.state import (
    Held,
    copies_of,
    loop_state,
    own_parts,
    put_loop_state,
    put_weights,
    weights_of,
)
from tunewright.training.stopping import StopSignals

Judge = Callable[[], Mapping[str, float]]


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

    def to_json(self) -> dict[str, Any]:
        """Returns what changes in the course of a run; what is not known yet is None."""
        value, progress = (None if math.isnan(x) else x for x in (self.value, self.progress))
        return {"value": value, "step": self.step, "stale": self.stale, "progress": progress}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Becomes what `to_json` described."""
        self.step, self.stale = state["step"], state["stale"]
        self.value, self.progress = (
            math.nan if state[name] is None else state[name] for name in ("value", "progress")
        )

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
    """Runs a loop to its end, with evaluations, best weights, early stopping and checkpoints.

    `judge` returns the validation metrics of the weights that the model holds. The best weights
    are kept on the CPU, and in every checkpoint. `stop` asks between updates whether to end early.
    `about` returns what else a checkpoint is to hold. Several processes save and stop together,
    when one of them is to.
    """

    loop: Loop
    judge: Judge | None
    best: Best
    eval_steps: int | None = None
    patience: int | None = None
    load_best: bool = True
    saver: Saver | None = None
    stop: StopSignals | None = None
    about: Callable[[], Mapping[str, Any]] = dict
    ended: str | None = None
    seconds: float = 0.0
    best_weights: dict[str, Held] = field(default_factory=dict)

    def run(self) -> Iterator[Event]:
        """Yields every update, evaluation and save, and at the end why it stopped.

        Afterwards the model holds the kept weights, in evaluation mode. Raises what the loop
        raises and what `stop` wishes, after the state before that is saved.
        """
        started, before = time.perf_counter(), self.seconds
        if self.ended is None:
            for event in self._train():
                self.seconds = before + time.perf_counter() - started
                yield event
        assert self.ended is not None
        kept = self._settle()
        yield Finished(self.loop.step, self.ended, kept, self.seconds)

    def _train(self) -> Iterator[Event]:
        """Trains until all updates are done or progress has ended; saves then."""
        for event in self._updates():
            yield event
            if not isinstance(event, Step):
                continue
            if self.judge is not None and self._is_due(event):
                yield Phase("evaluating", event.step)
                yield self._evaluate(event)
                if self.patience is not None and self.best.stale >= self.patience:
                    self.ended = f"no progress in {self.patience} evaluations"
                    break
            if event.step < event.total_steps:
                yield from self._save_between()
        self.ended = self.ended or "all updates done"
        yield from self._save()
        (stop_wished,) = self.loop.processes.any_of(self.stop is not None and self.stop.is_wished)
        if stop_wished:
            self._stop()

    def _updates(self) -> Iterator[Event]:
        """Yields the loop's events; when it fails, its last good state is saved.

        It fails also at a row that cannot be read, where rows are read as they are needed. Several
        processes can only save what stopped them all.
        """
        try:
            yield from self.loop.run()
        except (RunError, DataError) as error:
            if self.loop.processes.is_alone or isinstance(error, NonFiniteLoss):
                with suppress(RunError):
                    deque(self._save(), maxlen=0)
            raise

    def _save_between(self) -> Iterator[Event]:
        stop_wished, save_due = self.loop.processes.any_of(
            self.stop is not None and self.stop.is_wished,
            self.saver is not None and self.saver.is_due(self.loop.step),
        )
        if stop_wished:
            yield from self._save()
            self._stop()
        if save_due:
            assert self.saver is not None
            yield Phase("saving", self.loop.step)
            yield self.saver.try_to_save(self.checkpoint())

    def _save(self) -> Iterator[Event]:
        if self.saver is not None:
            yield Phase("saving", self.loop.step)
            yield self.saver.save(self.checkpoint())

    def _stop(self) -> None:
        assert self.stop is not None
        raise self.stop.error(self.loop.step)

    def checkpoint(self) -> Checkpoint:
        """Returns the whole state of the course, for a save."""
        tensors, values = loop_state(self.loop)
        if self.best_weights:
            tensors["best"] = self.best_weights
        course = {
            "best": self.best.to_json(),
            "ended": self.ended,
            "seconds": self.seconds,
            "total_steps": self.loop.schedule.total_steps,
        }
        state = {"loop": values, "course": course, **self.about()}
        return Checkpoint(self.loop.step, tensors, state)

    def take_up(self, checkpoint: Checkpoint) -> None:
        """Becomes the course that was saved, to go on with it.

        A course that had ended goes on when the loop has more updates than it had. Raises
        ModelError when the checkpoint is that of another model.
        """
        tensors, values = checkpoint.tensors, checkpoint.state["course"]
        put_loop_state(self.loop, checkpoint.step, tensors, checkpoint.state["loop"])
        self.best.take_up(values["best"])
        self.best_weights = own_parts(self.loop.model, tensors.get("best", {}))
        self.ended, self.seconds = values["ended"], values["seconds"]
        if self.loop.schedule.total_steps > values["total_steps"]:
            self.ended = None

    def _is_due(self, event: Step) -> bool:
        interval = self.eval_steps or self.loop.steps_per_epoch
        return event.step % interval == 0 or event.step == event.total_steps

    def _evaluate(self, event: Step) -> Evaluation:
        started = time.perf_counter()
        assert self.judge is not None
        with _averaged(self.loop):
            with self.loop.whole():
                metrics = self.judge()
            is_best = self.best.observe(metrics, event.step)
            if is_best and self.load_best:
                self.best_weights = copies_of(weights_of(self.loop.model))
        self.loop.schedule.observe(self.best.stale == 0)
        return Evaluation(event.step, event.epoch, metrics, is_best, time.perf_counter() - started)

    def _settle(self) -> int:
        """Puts the kept weights into the model; returns their step."""
        kept = self.loop.step
        if self.best_weights:
            put_weights(self.loop.model, self.best_weights)
            kept = self.best.step
        elif self.loop.average is not None:
            self.loop.average.swap()
        self.loop.settle()
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
