"""A training run, stage by stage: audit, train, calibrate, save, check parity, judge, report."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tunewright.data.auditing.audit import Audit
from tunewright.data.wording import counted
from tunewright.devices import Device, measure_roof
from tunewright.errors import ParityRefused
from tunewright.models.files.folder import put_generation, save_model
from tunewright.models.layers.native_products import ready_product
from tunewright.prediction.predictor import Predictor
from tunewright.run.assembly import build_loop, load_model
from tunewright.run.config import RunConfig, to_toml
from tunewright.run.finished import FinishedRun
from tunewright.run.judging.parity import PROBE_SEQUENCES, PROBE_WINDOWS, compare_with_stock
from tunewright.run.loaded import READING, reading_text
from tunewright.run.pages import write_card, write_report
from tunewright.run.preparing.groundwork import Groundwork, Notice
from tunewright.run.preparing.prepare import Prepared
from tunewright.run.preparing.room import make_room
from tunewright.run.preparing.streamed import in_memory
from tunewright.run.record import (
    ABOUT,
    RunFolder,
    cut_off_before,
    new_run_folder,
    versions,
)
from tunewright.run.resuming.begun import Begun
from tunewright.run.resuming.launched import note_launched
from tunewright.run.resuming.resumption import Resumption
from tunewright.run.resuming.same_files import SameFiles, files_of
from tunewright.run.tracking import Journal
from tunewright.tasks import find_task
from tunewright.tasks.base import Task, build_task
from tunewright.training.checkpoint import Checkpoints
from tunewright.training.course import Best, Course
from tunewright.training.events import Event, Finished, NotSaved, Phase, Shrunk, Step
from tunewright.training.loop import Loop
from tunewright.training.on_demand import EncodedOnDemand
from tunewright.training.order import EncodedRow
from tunewright.training.saving import Saver
from tunewright.training.state import frozen_digest
from tunewright.training.stopping import StopSignals


@dataclass(frozen=True)
class Started:
    """A run that is about to train: its folder, device, audit and size.

    It goes on after update `step`; 0 is a new run.
    """

    folder: Path
    device: Device
    route: str
    roof: float
    audit: Audit
    num_rows: Mapping[str, int]
    total_steps: int
    step: int = 0


Told = Notice | Started | Event
Tell = Callable[[Told], None]


class Training:
    """One training run, step by step; each method is a stage and leaves what the next ones need.

    With a `resumption` it goes on with an earlier one in the same folder, which is locked. Several
    processes go through the same stages together; only the one that leads writes.
    """

    def __init__(
        self, ground: Groundwork, tell: Tell, resumption: Resumption | None = None
    ) -> None:
        self.ground, self.resumption, self.processes = ground, resumption, ground.processes
        self.tell: Tell = tell if self.processes.leads else lambda _: None
        self.config, self.settings = ground.config, ground.config.training
        self.prepared, self.judge, self.device = ground.prepared, ground.judge, ground.device
        self.task, self.tokenizer = ground.task, ground.tokenizer

    def run(self) -> FinishedRun:
        encoded, found = self.ground.look()
        found.check_gates(self.config.audit)
        self.model, self.route = load_model(self.ground)
        self.begun = self.begin()
        loop = build_loop(self.ground, self.model, encoded["train"])
        with self.opened() as self.folder:
            course = self.course(loop, encoded)
            if self.resumption is not None:
                self.resumption.restore(course, self.ground.note)
            make_room(self.ground, loop)
            self.processes.led(lambda: self.describe(found))
            finished = self.follow(course, found)
            self.note_dropped(loop)
            self.note_unrecorded(loop)
            self.tell(Phase("saving the model", finished.step))
            self.calibrate()
            self.task = self.task.settle(self.model)
            self.processes.led(self.save)
            self.tell(Phase("measuring", finished.step))
            self.conclude(finished)
        return FinishedRun(self.folder.path)

    def begin(self) -> Begun:
        """Returns what decides this run's weights; refuses to go on with a run of other ones."""
        now = Begun.of(
            self.config,
            self.task,
            self.ground.digests,
            frozen_digest(self.model),
            self.device,
            self.processes.size,
            self.settings.parallel,
        )
        stamps = files_of(self.prepared.splits["train"])
        self.files = SameFiles(stamps)
        if self.resumption is not None:
            before = self.resumption.begun or now
            now = self.resumption.checked(now, self.ground.note)
            self.files = SameFiles(stamps, before.files)
            where = str(self.resumption.folder.path)
            self.processes.led(lambda: self.files.compare(where, self.ground.note))
        now.files = self.files.to_json()
        return now

    def note_unrecorded(self, loop: Loop) -> None:
        """Says why a GPU's passes went without recordings, where it could not make them."""
        if loop.unrecorded:
            self.ground.note(
                f"The GPU could not record its passes ({loop.unrecorded}); training went on "
                "without, with the same numbers, and slower. Smaller passes (max_tokens) may fit."
            )

    def note_dropped(self, loop: Loop) -> None:
        """Says how many rows that were read on the way had to be dropped."""
        if isinstance(loop.rows, EncodedOnDemand) and loop.rows.num_dropped:
            self.ground.note(
                f"{counted(loop.rows.num_dropped, 'training row')} without a label or text met on "
                "the way; the next row stood in the place of each."
            )

    @contextmanager
    def opened(self) -> Iterator[RunFolder]:
        """Makes and locks the run's folder, or takes that of the run that goes on."""
        if self.resumption is not None:
            yield self.resumption.folder
            return
        with ExitStack() as held:
            yield RunFolder(Path(self.processes.led(lambda: self._new_folder(held))))

    def _new_folder(self, held: ExitStack) -> str:
        """Makes the run's folder, which is locked until `held` ends; returns its path."""
        output = self.config.output
        data_name = self.prepared.files[0]["path"] or "run"
        folder = new_run_folder(output.folder, output.name, data_name)
        held.enter_context(folder.locked())
        note_launched(folder)
        other = cut_off_before(folder)
        if other is not None:
            self.ground.note(
                f"{other.path} holds a run that did not finish. To go on with it instead: "
                f"tunewright resume {other.path}"
            )
        return str(folder.path)

    def describe(self, found: Audit) -> None:
        """Writes to the folder what is known before the first step."""
        (self.folder.path / ABOUT).unlink(missing_ok=True)  # a run that is extended is unfinished
        self.folder.write_text("run.toml", to_toml(_resolved(self.config, self.prepared)))
        self.folder.write_json("data.json", self.prepared.files)
        self.folder.write_json("audit.json", found.to_json())
        self.begun.write(self.folder)

    def course(self, loop: Loop, encoded: Mapping[str, Sequence[EncodedRow]]) -> Course:
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
            saver=self._saver(),
        )

    def _saver(self) -> Saver | None:
        settings = self.settings
        if settings.save_total_limit == 0:
            return None
        store = Checkpoints(self.folder.checkpoints, settings.save_total_limit, self.processes)
        return Saver(store, 60 * settings.save_minutes, settings.save_steps)

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
        return Predictor(
            self.task,
            self.model,
            self.tokenizer,
            self.device,
            generation=self.config.generation,
        )

    def follow(self, course: Course, found: Audit) -> Finished:
        """Runs the course, handing every event to the journal and the listener."""
        step = course.loop.step
        own_roof = measure_roof(self.device, native=ready_product)
        roof = float(self.processes.gather_numbers([own_roof]).sum())
        sizes = {name: len(rows) for name, rows in self.prepared.splits.items()}
        total = course.loop.schedule.total_steps
        with ExitStack() as closing:
            listeners: list[Callable[[Event], None]] = [self.tell, self._note_trouble]
            if self.processes.leads:
                journal = closing.enter_context(self._journal(step, roof))
                listeners.insert(0, journal.take)
                course.about = lambda: {"log": journal.state(), "identity": self.begun.identity}
            if course.saver is not None:
                course.stop = closing.enter_context(StopSignals(str(self.folder.path)))
            self.tell(Started(self.folder.path, self.device, self.route, roof, found, sizes,
                              total, step))  # fmt: skip
            for event in course.run():
                for listen in listeners:
                    listen(event)
                if self.processes.leads and isinstance(event, Step):
                    self._look_at_files()
        assert isinstance(event, Finished)
        return event

    def _look_at_files(self) -> None:
        """Keeps the digests of files that rows stay in, when they are known."""
        if self.files.look():
            self.begun.files = self.files.to_json()
            self.begun.write(self.folder)

    def _journal(self, step: int, roof: float) -> Journal:
        return Journal(
            self.folder.path,
            self.settings.track,
            self.config.model_dump(mode="json"),
            self.settings.logging_steps,
            roof,
            step,
            None if self.resumption is None else self.resumption.log,
        )

    def _note_trouble(self, event: Event) -> None:
        if isinstance(event, Shrunk):
            self.ground.note(
                f"Update {event.step:,} did not fit into memory. It was repeated in forward passes "
                f"of at most {event.max_tokens:,} tokens, and so are all from now on; an update "
                f"still has {self.settings.batch_size:,} rows. max_tokens={event.max_tokens} fits."
            )
        elif isinstance(event, NotSaved):
            self.ground.note(f"After update {event.step:,}: {event.reason} It is tried again.")

    def calibrate(self) -> None:
        """Fits on validation what the task fits there, such as its temperature."""
        if type(self.task).calibrate is Task.calibrate:
            return  # nothing is fitted, and texts take long to write
        if "validation" not in self.prepared.splits:
            self.ground.note(
                "Without validation rows nothing is fitted to them, such as a temperature of the "
                "scores, the width of an interval, or the least score of an answer."
            )
            return
        values = self.processes.led(self._calibrated)
        self.task = build_task(find_task(values.pop("task")), values)
        self.ground.note(*self.task.fitted_as())

    def _calibrated(self) -> dict[str, Any]:
        rows = list(self.prepared.splits["validation"])
        return self.task.calibrate(list(self.predictor.answers(rows)), rows).to_json()

    def _beside_the_model(self) -> dict[str, str | bytes]:
        """Returns the files that say what the models' answers mean."""
        files = {
            str(Path(place) / name): content
            for place, (task, model) in self.task.models(self.model).items()
            for name, content in {
                "task.json": task.to_json_text(),
                **task.extra_files(model),
            }.items()
        }
        reading = reading_text(self.prepared.columns, self.config.data.reading())
        return files | {"task.json": self.task.to_json_text(), READING: reading}

    def save(self) -> None:
        """Saves the model, and publishes it when what stock libraries read there agrees with it."""
        saved = self.folder.path / ".model"
        shutil.rmtree(saved, ignore_errors=True)
        for task, model in self.task.models(self.model).values():
            if task.generates:
                put_generation(model, self.config.generation)
        models = {place: model for place, (_, model) in self.task.models(self.model).items()}
        save_model(
            models.pop(""),
            self.tokenizer,
            saved,
            max_length=getattr(self.task, "max_length", None),
            parts=models,
            extra_files=self._beside_the_model(),
        )
        rows = self.prepared.splits.get("validation") or in_memory(self.prepared.splits["train"])
        places = range(0, len(rows), -(-len(rows) // PROBE_SEQUENCES))
        windows = (self.task.encode(rows[place], self.tokenizer) for place in places)
        probe = [item for own in windows for item in own[:PROBE_WINDOWS]]
        self.parity = compare_with_stock(self.task, self.model, saved, probe)
        try:
            self.parity.check(str(self.folder.model))
        except ParityRefused:
            _replace(saved, self.folder.path / "model-refused")
            raise
        _replace(saved, self.folder.model)

    def conclude(self, finished: Finished) -> None:
        """Judges the model on test (or validation), then writes the report and the card."""
        split = "test" if "test" in self.prepared.splits else "validation"
        if split not in self.prepared.splits:
            self.ground.note("There are no validation or test rows, so nothing was measured.")
        elif split == "validation":
            self.ground.note(
                "There are no test rows: the figures are those of the validation rows, which also "
                "chose the weights and the temperature, so they flatter the model."
            )
        self.processes.led(lambda: self.folder.write_json(ABOUT, self._about(finished, False)))
        if split in self.prepared.splits:
            rows, folder = self.prepared.splits[split], self.folder.evaluation
            predictions = folder / "predictions.jsonl"
            tally = self.judge.tally(self.predictor, rows, split, predictions)
            self.processes.led(lambda: self.judge.measure(tally, rows, split).write(folder))
        self.processes.led(lambda: self._write_pages(finished))

    def _write_pages(self, finished: Finished) -> None:
        self._look_at_files()
        write_report(self.folder)
        write_card(self.folder)
        self.folder.write_json(ABOUT, self._about(finished, True))

    def _about(self, finished: Finished, complete: bool) -> dict[str, Any]:
        """Returns what run.json says; a run whose figures are not all there yet can be resumed."""
        return {
            "complete": complete,
            "created": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            "finished": finished.reason,
            "kept_step": finished.kept_step,
            "seconds": round(finished.seconds, 1),
            "device": self.device.to_json(),
            "route": self.route,
            "parity": self.parity.to_json(),
            "resumed": self.begun.resumed,
            "versions": versions(),
            "notices": self.ground.notices,
        }


def _replace(new: Path, target: Path) -> None:
    """Puts a folder in the place of another, which is gone only when the new one is there."""
    old = target.with_name(f".{target.name}.removed")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _resolved(config: RunConfig, prepared: Prepared) -> RunConfig:
    """Returns the configuration with what was found in the data filled in."""
    data = config.data.model_copy(update={"columns": dict(prepared.columns)})
    return config.model_copy(update={"data": data})
