"""The parity gate: an artefact must answer as the one that it was made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from tunewright.errors import ParityRefused
from tunewright.models.batch import pack
from tunewright.models.classifier import quiet_library
from tunewright.models.heads import TOLERANCE, padded_logits
from tunewright.types import Features

PROBE_SEQUENCES = 32


@dataclass(frozen=True)
class Parity:
    """How far two models' logits are apart on a probe set.

    `largest_difference` is absolute, and so is the `tolerance` it is held against, a share of the
    largest logit. `flipped_fraction` is the share of sequences whose likeliest class changed by
    more than the tolerance.
    """

    against: str
    num_sequences: int
    largest_difference: float
    flipped_fraction: float
    tolerance: float

    def check(self, where: str) -> None:
        """Raises ParityRefused when the difference is past the tolerance."""
        if self.largest_difference <= self.tolerance and self.flipped_fraction == 0:
            return
        raise ParityRefused(
            where,
            f"its logits differ from {self.against} by {self.largest_difference:.3g}, and "
            f"{self.flipped_fraction:.1%} of the answers change",
            f"At most {self.tolerance:g} is allowed.",
            "The artefact must not be used.",
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare_logits(
    against: str, ours_BC: np.ndarray, theirs_BC: np.ndarray, share: float = TOLERANCE
) -> Parity:
    """Measures how far `ours_BC` is from `theirs_BC`, the logits of the same sequences."""
    largest = float(np.abs(ours_BC - theirs_BC).max())
    allowed = share * max(1.0, float(np.abs(theirs_BC).max()))
    rows_B, choice_B = np.arange(len(theirs_BC)), theirs_BC.argmax(1)
    lost_B = ours_BC.max(1) - ours_BC[rows_B, choice_B]  # by how much ours prefers another class
    flipped = float((lost_B > 2 * allowed).mean())
    return Parity(against, len(ours_BC), largest, flipped, allowed)


def load_stock_classifier(folder: Path) -> Any:
    """Returns what stock transformers reads from a saved folder, in fp32."""
    with quiet_library():
        return AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )


@torch.no_grad()
def task_logits(task: Any, model: Any, features: Sequence[Features]) -> np.ndarray:
    """Returns our logits of a probe set in fp32, (B, C), by the model's own route."""
    model.eval()
    batches = (pack(_bare([item]), model.device) for item in features)
    return np.concatenate([task.forward(model, b)["logits"].float().cpu().numpy() for b in batches])


@torch.no_grad()
def stock_logits(model: Any, features: Sequence[Features]) -> np.ndarray:
    """Returns the logits of a stock transformers classifier in fp32, (B, C), padded."""
    model.eval()
    batch = pack(_bare(features), model.device)
    logits_BC = padded_logits(model, batch.streams["text"])
    return np.asarray(logits_BC.float().cpu().numpy())


def _bare(features: Iterable[Features]) -> list[Features]:
    return [Features(item.row_id, item.streams, {}, item.window) for item in features]
