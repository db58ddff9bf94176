"""Checkpoints: a folder appears whole, with a manifest, or not at all.

checkpoints/step-000120/{model.safetensors, state.json, manifest.json}
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model

from tunewright.models.manifest import check_manifest, flush, flush_folder, write_manifest


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run; the last one kept is the only one."""

    folder: Path

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def keep(self, model: Any, step: int, state: Mapping[str, Any]) -> None:
        """Writes the model's weights as those of `step`, then drops all other checkpoints.

        Files go to a temporary folder, are described by a manifest, flushed to the disk, and
        renamed together, so a kill at any instant leaves an earlier checkpoint whole.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".step-{step:06d}.partial"
        for leftover in (partial, self.path(step)):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir()
        save_model(model, str(partial / "model.safetensors"))
        (partial / "state.json").write_text(json.dumps({"step": step, **state}), encoding="utf-8")
        write_manifest(partial)
        flush_folder(partial)
        partial.replace(self.path(step))
        flush(self.folder)
        for other in self.folder.glob("*step-*"):
            if other != self.path(step):
                shutil.rmtree(other)

    def restore(self, model: Any, step: int) -> None:
        """Reads the weights of `step` into the model.

        Raises ModelError when a file or the manifest is missing, or a file is damaged.
        """
        check_manifest(self.path(step))
        load_model(model, str(self.path(step) / "model.safetensors"))
