"""The parity gate: an artefact must answer as the one that it was made from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunewright.errors import ParityRefused
from tunewright.models.adapting.adapters import adapters_of
from tunewright.models.batch import fill, pack
from tunewright.models.heads import TOLERANCE
from tunewright.tasks.base import Task
from tunewright.types import Features

PROBE_SEQUENCES = 32
PROBE_WINDOWS = 16  # of a row: what a task scores one by one is the same in a thousand
# Padded ones, of one batch of the stock library: with a vocabulary of 50,000 it makes 400 MB of
# scores for them, and this several times over.
PROBE_TOKENS = 2048


@dataclass(frozen=True)
class Parity:
    """How far two models' outputs (logits, vectors) are apart on a probe set.

    `largest_difference` is absolute, and so is the `tolerance` it is held against, a share of the
    largest output. `flipped_fraction` is the share of outputs (sequences or tokens) whose
    likeliest class changed by more than the tolerance.
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
            f"its outputs differ from {self.against} by {self.largest_difference:.3g}, and "
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


def compare_with_stock(
    task: Task, model: Any, folder: Path, features: Sequence[Features]
) -> Parity:
    """Measures a trained model against what the library that users know reads from its folder."""
    stock = task.stock(folder).to(model.device)
    ours, theirs = task_outputs(task, model, features), stock_outputs(task, stock, features)
    return compare_outputs(_against(task, model), ours, theirs)


def compare_outputs(
    against: str, ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]
) -> Parity:
    """Returns the worst of what each of `theirs` is away from ours of the same name."""
    missing = theirs.keys() - ours.keys()
    if missing or not theirs:
        raise ValueError(f"there are no outputs {sorted(missing)} to compare")
    each = [compare_logits(against, ours[name], theirs[name]) for name in theirs]
    return max(each, key=lambda parity: parity.largest_difference / parity.tolerance)


def _against(task: Task, model: Any) -> str:
    """Says who reads the saved folder: peft an adapter's, and we what peft cannot read the same."""
    models = task.models(model).values()
    _, first = next(iter(models))
    adapters = adapters_of(first)
    if adapters is None:
        return f"stock {' and '.join(dict.fromkeys(part.library for part, _ in models))}"
    quantised = adapters.base is not None and adapters.base.quantize is not None
    return "its folder, read again" if adapters.peft is None or quantised else "stock peft"


@torch.no_grad()
def task_outputs(task: Task, model: Any, features: Sequence[Features]) -> dict[str, np.ndarray]:
    """Returns our outputs of a probe set in fp32, by the model's own route."""
    model.eval()
    return _joined(task.forward(model, pack(_bare(item), model.device)) for item in _rows(features))


@torch.no_grad()
def stock_outputs(task: Task, stock: Any, features: Sequence[Features]) -> dict[str, np.ndarray]:
    """Returns the stock library's outputs of a probe set in fp32, in padded batches.

    Rows with unlike streams, of unlike parts, do not share a batch.
    """
    stock.eval()
    kinds: dict[tuple[str, ...], list[Features]] = defaultdict(list)
    for item in features:
        kinds[(*item.pictures, *item.streams)].append(item)
    return _joined(
        task.stock_outputs(stock, pack(_bare(batch), stock.device))
        for items in kinds.values()
        for batch in fill(
            items,
            max_tokens=PROBE_TOKENS,
            padded=True,
            together=task.scope_of(items) == "document",
        )
    )


def _joined(outputs: Iterable[Mapping[str, Tensor]]) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    for each in outputs:
        for name, values in each.items():
            found[name].append(_array(values))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _array(values: Tensor) -> np.ndarray:
    """Returns outputs as (rows, columns); single numbers have one column."""
    array = values.float().cpu().numpy()
    return array[:, None] if array.ndim == 1 else array.reshape(len(array), -1)


def _rows(features: Sequence[Features]) -> list[list[Features]]:
    """Groups the windows of a row, which some tasks answer together."""
    return [list(group) for _, group in groupby(features, key=lambda item: item.row_id)]


def _bare(features: Iterable[Features]) -> list[Features]:
    return [replace(item, targets={}) for item in features]
