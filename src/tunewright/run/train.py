"""Training as one call: a run that is new, or one that was begun and cut off."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.devices.processes import join_processes
from tunewright.errors import TunewrightError
from tunewright.models.new_model import is_new
from tunewright.run.config import RunConfig
from tunewright.run.finished import FinishedRun
from tunewright.run.judging.judge import OwnMetric
from tunewright.run.preparing.beginning import begin_from_nothing
from tunewright.run.preparing.groundwork import Groundwork
from tunewright.run.record import RunFolder, check_is_no_run
from tunewright.run.resuming.launched import begun_before
from tunewright.run.resuming.resume import resume
from tunewright.run.training import Tell, Training


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
    not answer as the trained one, NonFiniteLoss when training diverges, Stopped after SIGTERM
    and Interrupted after SIGINT. In several processes it is called in each: the one that leads
    writes and tells, and ProcessLost is raised when one of them ends. Where torchrun starts them
    again, the run that they had begun goes on.
    """
    earlier = begun_before(Path(config.output.folder))
    if earlier is not None:
        if RunFolder(earlier).is_finished:
            return FinishedRun(earlier)
        return resume(earlier, sources, None, own_metrics, tell)
    check_is_no_run(sources["train"])
    if not is_new(config.model.name):
        return Training(Groundwork(sources, config, own_metrics, tell), tell).run()
    made = join_processes().led(lambda: begin_from_nothing(sources, config, tell))
    model = config.model.model_copy(update={"name": made})
    config = config.model_copy(update={"model": model})
    training = None
    try:
        training = Training(Groundwork(sources, config, own_metrics, tell), tell)
        return training.run()
    except TunewrightError:
        begun = training is not None and hasattr(training, "folder")
        if not begun and join_processes().leads:
            shutil.rmtree(Path(made).parent, ignore_errors=True)
        raise
