"""Comparing what is on the disk with what was saved: models, checkpoints, whole run folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunewright.errors import ModelError, SettingsError
from tunewright.models.files.architecture import ENCODER
from tunewright.models.files.folder import check_model_folder
from tunewright.models.files.manifest import MANIFEST, check_manifest
from tunewright.run.record import RunFolder, is_run_folder
from tunewright.tasks import find_task
from tunewright.tasks.base import load_task
from tunewright.training.checkpoint import STATE, Checkpoints, check_checkpoint


@dataclass(frozen=True)
class Verified:
    """One folder that was compared with its manifest; `damage` is empty where nothing differs."""

    folder: Path
    kind: Literal["model", "checkpoint"]
    damage: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "kind": self.kind, "damage": self.damage}


def verify(folder: Path) -> list[Verified]:
    """Compares a model, a checkpoint, or all those of a run folder with their manifests.

    Raises SettingsError for a folder that is none of them.
    """
    if is_run_folder(folder):
        return _run(RunFolder(folder))
    if (folder / STATE).is_file():
        return [_verified(folder, "checkpoint")]
    if (folder / MANIFEST).is_file():
        return [_verified(folder, "model")]
    raise SettingsError(
        str(folder),
        f"it holds no {MANIFEST}",
        "A model, a checkpoint or a run folder of Tunewright is needed.",
        "Name one, such as runs/reviews.",
    )


def _run(run: RunFolder) -> list[Verified]:
    models = [run.model] if run.model.is_dir() else []
    found = [_verified(path, "model") for path in models]
    saved = Checkpoints(run.checkpoints).folders()
    return [*found, *(_verified(path, "checkpoint") for path in saved)]


def _verified(folder: Path, kind: Literal["model", "checkpoint"]) -> Verified:
    try:
        if kind == "model":
            _check_model(folder)
        else:
            check_checkpoint(folder)
    except ModelError as error:
        return Verified(folder, kind, str(error))
    return Verified(folder, kind)


def _check_model(folder: Path) -> None:
    check_manifest(folder)
    task = load_task(folder, find_task)
    check_model_folder(folder, ENCODER if task is None else task.kind)
