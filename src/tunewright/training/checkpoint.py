"""Checkpoints: a folder appears whole, with a manifest, or not at all.

checkpoints/step-000120/{model.safetensors, state.json, manifest.json}
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model

from tunewright.errors import ModelError


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run; the last one kept is the only one."""

    folder: Path

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def keep(self, model: Any, step: int, state: Mapping[str, Any]) -> None:
        """Writes the model's weights as those of `step`, then drops the earlier ones.

        Files go to a temporary folder, are flushed to the disk, described by a manifest, and
        renamed together, so a kill at any instant leaves the earlier checkpoint whole.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".step-{step:06d}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        save_model(model, str(partial / "model.safetensors"))
        (partial / "state.json").write_text(json.dumps({"step": step, **state}), encoding="utf-8")
        files = sorted(partial.iterdir())
        manifest = {file.name: _describe(file) for file in files}
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        for path in [*files, partial / "manifest.json", partial]:
            _flush(path)
        partial.replace(self.path(step))
        _flush(self.folder)
        for other in self.folder.glob("*step-*"):
            if other != self.path(step):
                shutil.rmtree(other)

    def restore(self, model: Any, step: int) -> None:
        """Reads the weights of `step` into the model.

        Raises ModelError when a file is missing or differs from its manifest.
        """
        folder = self.path(step)
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        for name, described in manifest.items():
            file = folder / name
            if not file.is_file() or _describe(file) != described:
                raise ModelError(
                    str(file),
                    "it is not as its manifest says",
                    "A checkpoint must be read as it was written.",
                    "Delete this checkpoint and train again.",
                )
        load_model(model, str(folder / "model.safetensors"))


def _describe(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"sha256": digest, "bytes": file.stat().st_size}


def _flush(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
