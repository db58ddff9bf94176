"""AdamW with its groups: decay, depth, head, and what is frozen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from tunewright.errors import SettingsError
from tunewright.models.depths import depths, num_layers
from tunewright.models.layers.embedding import RowEmbedding
from tunewright.training.native_adamw import NativeAdamW
from tunewright.training.sharding import own_rows


def _head_depth(depth_of: Mapping[str, int]) -> int:
    """Returns the depth that the head has, or would have: a bare model has none."""
    return 1 + num_layers(depth_of)


def freeze(model: Any, num_layers: int) -> int:
    """Stops the embeddings and the lowest `num_layers` layers from learning; -1 is all layers.

    Returns the number of parameters that still learn. Raises SettingsError when the model has
    fewer layers.
    """
    depth_of = depths(model)
    head = _head_depth(depth_of)
    if num_layers >= head:
        raise SettingsError(
            "training.freeze_layers",
            f"it is {num_layers}",
            f"The model has {head - 1} layers.",
            "Use -1 to train the head alone.",
        )
    highest = head - 1 if num_layers == -1 else num_layers
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(num_layers == 0 or depth_of[name] > highest)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def build_optimizer(
    model: Any,
    *,
    learning_rate: float,
    head_learning_rate: float | None = None,
    weight_decay: float = 0.0,
    layer_lr_decay: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> NativeAdamW:
    """Returns AdamW (Loshchilov & Hutter 2019) over the parameters that learn.

    Vectors (biases, norms) are not decayed. Each group keeps its own peak as `peak`; the loop
    multiplies it with the schedule's factor.
    """
    depth_of = depths(model)
    head = _head_depth(depth_of)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        base = (head_learning_rate or learning_rate) if depth_of[name] == head else learning_rate
        peak = base * layer_lr_decay ** (head - depth_of[name])
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((peak, decay), []).append(parameter)
    tables = [m for m in model.modules() if isinstance(m, RowEmbedding) and m.weight.requires_grad]
    return NativeAdamW(
        [
            {"params": params, "lr": peak, "peak": peak, "weight_decay": decay}
            for (peak, decay), params in groups.items()
        ],
        tables,
        betas=betas,
        eps=epsilon,
    )


def set_factor(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets every group's step size to its peak times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


class MovingAverage:
    """The exponential moving average of a model's weights (Polyak & Juditsky 1992).

    `decay` is that of a long run; early on it is (1 + t) / (10 + t) if that is less, so that the
    average is not ruled by the first weights. `tensors` are the averages, in the order of the
    parameters, after `updates` updates; of a parameter in pieces, of this process's rows.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self._live = [own_rows(p) for p in parameters]
        self.tensors = [rows.clone() for rows in self._live]
        self.updates, self._decay = 0, decay

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.tensors, self._live, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the model's weights with the average; calling it again undoes it."""
        for live, average in zip(self._live, self.tensors, strict=True):
            kept = live.detach().clone()
            live.copy_(average)
            average.copy_(kept)
