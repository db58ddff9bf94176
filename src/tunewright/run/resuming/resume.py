"""Going on with a run that was killed, stopped, or finished too early."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any

from tunewright.devices.processes import join_processes
from tunewright.errors import SettingsError
from tunewright.run.config import RunConfig, compose, read_config
from tunewright.run.finished import FinishedRun
from tunewright.run.judging.judge import OwnMetric
from tunewright.run.preparing.groundwork import Groundwork
from tunewright.run.record import RunFolder, is_run_folder
from tunewright.run.resuming.resumption import Resumption
from tunewright.run.training import Tell, Training

LENGTH = ("num_train_epochs", "max_steps")


def resume(
    run: str | PathLike[str],
    sources: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    own_metrics: Sequence[OwnMetric] = (),
    tell: Tell = lambda _: None,
) -> FinishedRun:
    """Goes on with a run in its own folder, from its newest whole checkpoint, to its end.

    On the same machine the weights are those of a run that was never killed, to the bit. `sources`
    are needed only for rows that came from memory. `settings`, by section, change for how long
    it trains, or what leaves the weights alone; a finished run goes on when it is given more
    updates.

    Raises SettingsError for a folder that is no run, is finished, is being trained in, or whose
    data, labels or settings differ from those it was begun with.
    """
    folder = RunFolder(Path(run))
    if not is_run_folder(folder.path):
        raise SettingsError(
            str(run), "there is no run.toml", "A run folder is needed.",
            "Name a folder under runs/.",
        )  # fmt: skip
    processes = join_processes()
    with ExitStack() as held:
        processes.led(lambda: held.enter_context(folder.locked()))
        _check_unfinished(folder, settings or {})
        config = compose(read_config(folder.config), settings or {}, where=str(folder.config))
        resumption = Resumption.of(folder, processes)
        ground = Groundwork(_sources(folder, sources or {}, config), config, own_metrics, tell)
        return Training(ground, tell, resumption).run()


def _check_unfinished(folder: RunFolder, settings: Mapping[str, Any]) -> None:
    """Raises SettingsError when there is nothing to do."""
    if folder.is_finished and not any(name in settings.get("training", {}) for name in LENGTH):
        raise SettingsError(
            str(folder.path),
            "the run is finished",
            "It can only be made longer.",
            f"For example: tunewright resume {folder.path} num_train_epochs=6",
        )


def _sources(folder: RunFolder, given: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
    """Returns what was given, and else the files of the run."""
    named = config.data.model_dump(include={"train", "validation", "test"})
    sources = {
        name: path if given.get(name) is None else given[name] for name, path in named.items()
    }
    if sources["train"] is None:
        raise SettingsError(
            str(folder.path),
            "its rows came from memory",
            "They are needed again to go on.",
            f'Give the same ones: tunewright.resume("{folder.path}", data=...)',
        )
    return sources
