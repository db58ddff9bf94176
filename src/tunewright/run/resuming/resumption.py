"""What a run that goes on takes from its folder: how it was begun, and its newest checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tunewright.devices.processes import ALONE, Processes
from tunewright.errors import SettingsError
from tunewright.run.record import RunFolder
from tunewright.run.resuming.begun import Begun
from tunewright.training.checkpoint import Checkpoint, Checkpoints
from tunewright.training.course import Course


@dataclass
class Resumption:
    """A run folder to go on in, which is locked; without a checkpoint it starts anew."""

    folder: RunFolder
    checkpoint: Checkpoint | None = None
    notices: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, folder: RunFolder, processes: Processes = ALONE) -> Resumption:
        """Reads the newest checkpoint that is whole; what is damaged stands in `notices`."""
        notices: list[str] = []
        store = Checkpoints(folder.checkpoints)
        found = processes.led(lambda: str(store.latest(notices.append) or ""))
        path = Path(found) if found else None
        if path is None and folder.is_finished:
            raise SettingsError(
                str(folder.path), "it holds no whole checkpoint", "A longer run goes on from one.",
                f"Start a new run from its model: tunewright train ... --model {folder.model}",
            )  # fmt: skip
        if path is None:
            notices.append("There is no whole checkpoint, so it starts again at the first update.")
            return cls(folder, None, notices)
        checkpoint = store.read(path)
        notices.append(f"The run goes on after update {checkpoint.step:,}.")
        return cls(folder, checkpoint, notices)

    @property
    def begun(self) -> Begun | None:
        """What the run was begun with; None where it was killed before that."""
        return Begun.read(self.folder)

    @property
    def log(self) -> Mapping[str, Any] | None:
        """The state of the journal, for what is done again to be logged once."""
        return None if self.checkpoint is None else self.checkpoint.state["log"]

    def checked(self, now: Begun, note: Callable[..., None]) -> Begun:
        """Returns what the run was begun with, with this resumption added to its history.

        Raises SettingsError when the weights would be other ones. A machine that is another one
        is told of.
        """
        note(*self.notices)
        before = self.begun or now
        before.check(now, str(self.folder.path))
        self._check_checkpoint(before)
        moved = before.moved(now) if self.checkpoint is not None else []
        if moved:
            note(
                "The run goes on as well as it can, but not to the same bits, since "
                f"{'; '.join(moved)}."
            )
        now.resumed = [*before.resumed, self._entry(moved)]
        return now

    def _check_checkpoint(self, before: Begun) -> None:
        if self.checkpoint is not None and self.checkpoint.state["identity"] != before.identity:
            raise SettingsError(
                str(self.folder.checkpoints),
                "its checkpoints are those of another run",
                "A run goes on from its own.",
                "Put its own checkpoints back, or train a new run.",
            )

    def _entry(self, moved: list[str]) -> dict[str, Any]:
        return {
            "after_step": 0 if self.checkpoint is None else self.checkpoint.step,
            "at": datetime.now().astimezone().isoformat(timespec="seconds"),
            "exact": not moved,
            "changed": moved,
        }

    def restore(self, course: Course, note: Callable[..., None]) -> None:
        """Gives a course the state of the checkpoint.

        Raises SettingsError when the run is not to have more updates than it had.
        """
        if self.checkpoint is None:
            return
        total, before = course.loop.schedule.total_steps, self._total_steps
        if self.checkpoint.step > total or (self.folder.is_finished and total <= before):
            raise SettingsError(
                str(self.folder.path),
                f"update {self.checkpoint.step:,} is done already",
                f"The settings ask for {total:,} updates.",
                "Ask for more with num_train_epochs, or with max_steps where that is set.",
            )
        if total != before:
            note(
                f"The run now has {total:,} updates instead of {before:,}; from here on the "
                "learning rate is that of the new length."
            )
        course.take_up(self.checkpoint)
        self.checkpoint = Checkpoint(self.checkpoint.step, {}, self.checkpoint.state)

    @property
    def _total_steps(self) -> int:
        assert self.checkpoint is not None
        steps: int = self.checkpoint.state["course"]["total_steps"]
        return steps
