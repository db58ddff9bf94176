"""Where a run's events go: `metrics.jsonl`, TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, Self

from tunewright.errors import SettingsError
from tunewright.models.files.manifest import flush
from tunewright.run.record import append_line
from tunewright.training.events import Evaluation, Event, Shrunk, Spike, Step


class Tracker(Protocol):
    """Takes named numbers at a step."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Hides what an earlier process logged of updates that are done again."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Reads the `WANDB_*` variables itself. A run that is resumed goes on under the same id."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        self._run = _extra("wandb").init(
            dir=str(folder),
            name=folder.name,
            config=dict(settings),
            id=uuid.uuid5(uuid.NAMESPACE_URL, folder.resolve().as_uri()).hex,
            resume="allow",
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """Reads `MLFLOW_TRACKING_URI` itself. A run that is resumed is a second one of its name."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        self._mlflow = _extra("mlflow")
        self._mlflow.start_run(run_name=folder.name)
        self._mlflow.log_dict(dict(settings), "settings.json")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


TRACKERS: dict[str, type[TensorBoard] | type[WeightsAndBiases] | type[MLflow]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def _extra(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise SettingsError(
            "training.track",
            f"{module} is not installed",
            "Tracking with it needs the package.",
            'Run: pip install "tunewright[tracking]"',
        ) from None


class Journal:
    """Writes events to `metrics.jsonl` and to every tracker of the run."""

    def __init__(
        self,
        folder: Path,
        track: Sequence[str],
        settings: Mapping[str, Any],
        every: int,
        roof: float,
        step: int = 0,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """`every` is the number of updates between two lines; `roof` FLOP/s, for MFU.

        `state`, from `state()`, goes on with the journal after update `step`: lines that were
        written later are cut off, since their updates are done again.
        """
        self._file = folder / "metrics.jsonl"
        self._pending = [Step(**values) for values in state["pending"]] if state else []
        if self._file.exists():
            written = self._file.stat().st_size
            os.truncate(self._file, min(written, state["size_bytes"]) if state else 0)
        self._trackers: list[Tracker] = []
        for name in track:
            self._trackers.append(TRACKERS[name](folder, settings, step))
        self._every, self._roof = every, roof

    def state(self) -> dict[str, Any]:
        """Returns how much is written, which is then on the disk, and what waits for its line."""
        size = 0
        if self._file.exists():
            flush(self._file)
            size = self._file.stat().st_size
        return {"size_bytes": size, "pending": [asdict(step) for step in self._pending]}

    def take(self, event: Event) -> None:
        """Writes an event down; updates are averaged over a line's span."""
        if isinstance(event, Step):
            self._pending.append(event)
            if event.step % self._every == 0:
                self._flush()
        elif isinstance(event, Evaluation):
            self._flush()
            values = {f"validation/{name}": value for name, value in event.metrics.items()}
            self._write("evaluation", event.step, {"epoch": event.epoch, **values})
        elif isinstance(event, Spike):
            append_line(self._file, {"event": "spike", **asdict(event)})
        elif isinstance(event, Shrunk):
            append_line(self._file, {"event": "out-of-memory", **asdict(event)})

    def _flush(self) -> None:
        if self._pending:
            values = summed_up(self._pending, self._roof)
            self._write("step", self._pending[-1].step, values)
            self._pending = []

    def _write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        append_line(self._file, {"event": kind, "step": step, **values})
        for tracker in self._trackers:
            tracker.log(values, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        for tracker in self._trackers:
            tracker.close()


def summed_up(steps: Sequence[Step], roof: float) -> dict[str, float]:
    """Returns the figures of several updates as one line; MFU is a share of `roof` FLOP/s."""
    seconds, last = sum(step.seconds for step in steps), steps[-1]
    rows = sum(step.num_rows for step in steps)
    return {
        "epoch": last.epoch,
        "loss": sum(step.loss * step.num_rows for step in steps) / rows,
        "learning_rate": last.learning_rate,
        "gradient_norm": last.gradient_norm,
        "tokens_per_second": sum(step.num_tokens for step in steps) / seconds,
        "mfu": sum(step.flop for step in steps) / seconds / roof,
    }
