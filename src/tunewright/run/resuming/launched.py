"""A training that is started again, since one of its processes was lost, goes on with its run.

torchrun gives each launch an id and counts how often it has started the processes. The first time
the run's folder is written down beside the runs; the next time it is looked up, and resumed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from tunewright.devices.processes import join_processes
from tunewright.run.record import RunFolder, is_run_folder

# How often torchrun has started the processes, and Slurm the job.
RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")


def begun_before(folder: Path) -> Path | None:
    """Returns the run in `folder` that an earlier start of this launch has begun, to go on with it.

    One of which there is nothing yet is removed. Called by all processes; the one that leads looks.
    """
    found = join_processes().led(lambda: _begun_before(folder))
    return None if found is None else Path(found)


def _begun_before(folder: Path) -> str | None:
    file = _file(folder)
    if file is None or not file.is_file():
        return None
    run = _run_of(file).path
    is_restarted = any(int(os.environ.get(name, "0")) > 0 for name in RESTARTS)
    if is_restarted and is_run_folder(run):
        return str(run)
    if is_restarted:
        shutil.rmtree(run, ignore_errors=True)
    file.unlink()  # or a later start would take it for its own
    return None


def note_launched(folder: RunFolder) -> None:
    """Writes down, where there is a launch, that this is its run."""
    file = _file(folder.path.parent)
    if file is not None:
        for other in file.parent.glob("*.json"):  # nobody asks for those of finished runs again
            if _run_of(other).is_finished:
                other.unlink()
        RunFolder(file.parent).write_json(file.name, {"run": folder.path.name})


def _run_of(file: Path) -> RunFolder:
    name = json.loads(file.read_text(encoding="utf-8"))["run"]
    return RunFolder(file.parent.parent / name)


def _file(folder: Path) -> Path | None:
    """Returns where the run of this launch is written down; None without one."""
    launch = os.environ.get("TORCHELASTIC_RUN_ID")
    if launch is None:
        return None
    return folder / ".launched" / f"{re.sub(r'[^A-Za-z0-9-]+', '-', launch)}.json"
