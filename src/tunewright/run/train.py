"""Training, end to end: read, audit, train, calibrate, save, check parity, judge, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tunewright.data.audit import Audit
from tunewright.devices import Device, measure_roof
from tunewright.errors import ParityRefused
from tunewright.models.dropout import DropoutSource, replace_dropout
from tunewright.models.embedding import keep_row_gradients
from tunewright.models.folder import save_model
from tunewright.prediction.predictor import Predictor
from tunewright.run.config import RunConfig, to_toml
from tunewright.run.finished import FinishedRun
from tunewright.run.groundwork import Groundwork, Notice
from tunewright.run.judge import OwnMetric
from tunewright.run.loaded import READING, reading_text
from tunewright.run.pages import write_card, write_report
from tunewright.run.parity import PROBE_SEQUENCES, Parity, compare_with_stock
from tunewright.run.prepare import Prepared
from tunewright.run.record import new_run_folder, versions
from tunewright.run.tracking import Journal
from tunewright.training.course import Best, Course, total_steps
from tunewright.training.events import Event, Finished
from tunewright.training.loop import EncodedRow, Loop
from tunewright.training.optimizer import MovingAverage, build_optimizer, freeze
from tunewright.training.recompute import recompute_activations
from tunewright.training.schedule import Schedule
from tunewright.types import Rows


@dataclass(frozen=True)
class Started:
    """A run that is about to train: its folder, device, audit and size."""

    folder: Path
    device: Device
    route: str
    roof: float
    audit: Audit
    num_rows: Mapping[str, int]
    total_steps: int


# What the families of transformers call the dropout of attention probabilities.
ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")

Told = Notice | Started | Event
Tell = Callable[[Told], None]


def train(
    sources: Mapping[str, Any],
    config: RunConfig,
    own_metrics: Sequence[OwnMetric] = (),
    tell: Tell = lambda _: None,
) -> FinishedRun:
    """Trains, measures and documents a model; returns the finished run.

    `sources` maps `train` (and `validation`, `test` where they are given) to paths, frames or
    lists. `tell` hears of everything as it happens. Raises UserError for input that cannot be
    used, AuditRefused when a gate of `[audit]` fails, ParityRefused when the saved model does
    not answer as the trained one, NonFiniteLoss when training diverges.
    """
    return _Training(Groundwork(sources, config, own_metrics, tell), tell).run()


class _Training:
    """One training run, step by step; each method is a stage and leaves what the next ones need."""

    def __init__(self, ground: Groundwork, tell: Tell) -> None:
        self.ground, self.tell = ground, tell
        self.config, self.settings = ground.config, ground.config.training
        self.prepared, self.judge, self.device = ground.prepared, ground.judge, ground.device
        self.task, self.tokenizer = ground.task, ground.tokenizer

    def run(self) -> FinishedRun:
        started = time.time()
        encoded, found = self.ground.look()
        found.check_gates(self.config.audit)
        self.load()
        loop = self.build_loop(encoded["train"])
        self.open_folder(found)
        roof = measure_roof(self.device)
        journal = Journal(
            self.folder.path,
            self.settings.track,
            self.config.model_dump(mode="json"),
            self.settings.logging_steps,
            roof,
        )
        sizes = {name: len(rows) for name, rows in self.prepared.splits.items()}
        self.tell(Started(self.folder.path, self.device, self.route, roof, found, sizes,
                          loop.schedule.total_steps))  # fmt: skip
        try:
            finished = self.follow(self.course(loop, encoded), journal)
        finally:
            journal.close()
        self.calibrate()
        parity = self.save()
        return self.conclude(finished, parity, time.time() - started)

    def load(self) -> None:
        """Builds the model and chooses its route."""
        self.model, notices = self.task.build(
            self.ground.source,
            self.tokenizer,
            dropout=self.settings.dropout,
            seed=self.settings.seed,
        )
        self.ground.note(*notices)
        self.route = self.task.route(self.model)
        self.model.to(self.device.name)
        if self.route != "packed":
            self.ground.note(f"{self.config.model.name} runs in padded batches ({self.route}).")
        elif any(getattr(self.model.config, name, 0) for name in ATTENTION_DROPOUT):
            self.ground.note("Attention dropout is off: packed attention has none.")

    def open_folder(self, found: Audit) -> None:
        """Makes the run folder and writes what is known before the first step."""
        output = self.config.output
        data_name = self.prepared.files[0]["path"] or "run"
        self.folder = new_run_folder(output.folder, output.name, data_name)
        resolved = _resolved(self.config, self.prepared)
        self.folder.write_text("run.toml", to_toml(resolved))
        self.folder.write_json("data.json", self.prepared.files)
        self.folder.write_json("audit.json", found.to_json())

    def build_loop(self, rows: list[EncodedRow]) -> Loop:
        settings = self.settings
        dropout = self._prepare_model()
        steps = total_steps(
            len(rows), settings.batch_size, settings.num_train_epochs, settings.max_steps
        )
        warmup = settings.warmup_steps
        warmup = round(settings.warmup_ratio * steps) if warmup is None else warmup
        if warmup >= steps > 1:
            self.ground.note(
                f"The warmup of {warmup:,} updates is as long as the run of {steps:,}: the "
                "learning rate never reaches its peak."
            )
        average = None
        if settings.ema_decay is not None:
            average = MovingAverage(self.model.parameters(), settings.ema_decay)
        return Loop(
            model=self.model,
            task=self.task,
            rows=rows,
            optimizer=build_optimizer(
                self.model,
                learning_rate=settings.learning_rate,
                head_learning_rate=settings.head_learning_rate,
                weight_decay=settings.weight_decay,
                layer_lr_decay=settings.layer_lr_decay,
                betas=(settings.adam_beta1, settings.adam_beta2),
                epsilon=settings.adam_epsilon,
            ),
            schedule=Schedule(settings.lr_scheduler_type, steps, warmup),
            device=self.device,
            batch_size=settings.batch_size,
            max_tokens=settings.max_tokens,
            seed=settings.seed,
            max_grad_norm=settings.max_grad_norm,
            l1=settings.l1,
            dropout=dropout,
            average=average,
        )

    def _prepare_model(self) -> DropoutSource | None:
        """Freezes layers and chooses between our dropout and recomputed activations.

        Recomputation replays torch's random state, which our dropout does not use; so with
        gradient checkpointing the library's own dropout stays.
        """
        freeze(self.model, self.settings.freeze_layers)
        keep_row_gradients(self.model)
        if not self.settings.gradient_checkpointing:
            return replace_dropout(self.model)
        recompute_activations(self.model)
        return None

    def course(self, loop: Loop, encoded: Mapping[str, list[EncodedRow]]) -> Course:
        settings = self.settings
        metric = self.ground.best_metric
        best = Best(metric, self.ground.directions[metric], settings.early_stopping_threshold)
        validation = self.prepared.splits.get("validation")
        if validation is None:
            self._note_idle_settings()
        return Course(
            loop=loop,
            judge=None
            if validation is None
            else lambda: self.judge.point(self.predictor, list(validation), encoded["validation"]),
            best=best,
            eval_steps=settings.eval_steps,
            patience=settings.early_stopping_patience,
            load_best=settings.load_best_model_at_end,
        )

    def _note_idle_settings(self) -> None:
        """Names the settings that need validation rows and were given in vain."""
        settings = self.settings
        given = {
            "early_stopping_patience": settings.early_stopping_patience is not None,
            "eval_steps": settings.eval_steps is not None,
            "lr_scheduler_type=plateau": settings.lr_scheduler_type == "plateau",
            "metric_for_best_model": settings.metric_for_best_model is not None,
        }
        idle = [name for name, is_given in given.items() if is_given]
        if idle:
            self.ground.note(
                f"Without validation rows these settings do nothing: {', '.join(idle)}."
            )

    @property
    def predictor(self) -> Predictor:
        return Predictor(self.task, self.model, self.tokenizer, self.device)

    def follow(self, course: Course, journal: Journal) -> Finished:
        """Runs the course, handing every event to the journal and the listener."""
        for event in course.run():
            journal.take(event)
            self.tell(event)
        assert isinstance(event, Finished)
        return event

    def calibrate(self) -> None:
        """Fits on validation what the task fits there, such as its temperature."""
        validation: Rows | None = self.prepared.splits.get("validation")
        if validation is None:
            self.ground.note("Without validation rows the scores are not calibrated.")
            return
        rows = list(validation)
        self.task = self.task.calibrate(list(self.predictor.answers(rows)), rows)

    def save(self) -> Parity:
        """Saves the model and holds what the stock library reads there against the trained one."""
        save_model(
            self.model,
            self.tokenizer,
            self.folder.model,
            max_length=getattr(self.task, "max_length", None),
            extra_files={
                "task.json": self.task.to_json_text(),
                READING: reading_text(self.prepared.columns, self.config.data.reading()),
                **self.task.extra_files(self.model),
            },
        )
        rows = self.prepared.splits.get("validation") or self.prepared.splits["train"]
        probe = [
            item for row in rows[:PROBE_SEQUENCES] for item in self.task.encode(row, self.tokenizer)
        ]
        parity = compare_with_stock(self.task, self.model, self.folder.model, probe)
        try:
            parity.check(str(self.folder.model))
        except ParityRefused:
            self.folder.model.rename(self.folder.path / "model-refused")
            raise
        return parity

    def conclude(self, finished: Finished, parity: Parity, seconds: float) -> FinishedRun:
        """Judges the model on test (or validation), then writes the report and the card."""
        split = "test" if "test" in self.prepared.splits else "validation"
        if split not in self.prepared.splits:
            self.ground.note("There are no validation or test rows, so nothing was measured.")
        elif split == "validation":
            self.ground.note(
                "There are no test rows: the figures are those of the validation rows, which also "
                "chose the weights and the temperature, so they flatter the model."
            )
        about = {
            "created": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            "finished": finished.reason,
            "kept_step": finished.kept_step,
            "seconds": round(seconds, 1),
            "device": self.device.to_json(),
            "route": self.route,
            "parity": parity.to_json(),
            "versions": versions(),
            "notices": self.ground.notices,
        }
        self.folder.write_json("run.json", about)
        if split in self.prepared.splits:
            rows, folder = self.prepared.splits[split], self.folder.evaluation
            predictions = folder / "predictions.jsonl"
            self.judge.judge(self.predictor, rows, split, predictions).save(folder)
        write_report(self.folder)
        write_card(self.folder)
        return FinishedRun(self.folder.path)


def _resolved(config: RunConfig, prepared: Prepared) -> RunConfig:
    """Returns the configuration with what was found in the data filled in."""
    data = config.data.model_copy(update={"columns": dict(prepared.columns)})
    return config.model_copy(update={"data": data})
