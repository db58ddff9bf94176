"""Dropout that costs almost nothing on a CPU and is the same for any number of threads.

`aten::bernoulli_` is serial on the CPU and took a third of a training step; here the mask is made
from raw random bytes of NumPy's SFC64, one byte an element.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class _Masked(torch.autograd.Function):
    """x ∘ mask · scale, keeping one byte an element for the gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return (values * keep).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return (gradients[0] * keep).mul_(ctx.scale), None, None


class DropoutSource:
    """The random bytes behind every dropout of one model.

    `reseed(seed, step)` is called before each update, so a mask depends on the seed, the update
    and the order of calls within it, and never on threads or on what ran before.
    """

    def __init__(self) -> None:
        self._bits = np.random.SFC64(0)

    def reseed(self, *counters: int) -> None:
        self._bits = np.random.SFC64(np.random.SeedSequence(counters))

    def keep_mask(self, shape: torch.Size, drop_bytes: int) -> Tensor:
        """Returns booleans, true with probability 1 - drop_bytes / 256."""
        count = shape.numel()
        words = self._bits.random_raw((count + 7) // 8)
        raw = torch.from_numpy(words.view(np.uint8)[:count]).view(shape)
        return raw >= drop_bytes


class Dropout(nn.Module):
    """Zeroes elements with probability `p`, rounded to 1/256, and scales the others up.

    The scale is that of the rounded probability, so the expectation is exact. Off in evaluation.
    """

    def __init__(self, p: float, source: DropoutSource) -> None:
        super().__init__()
        self.p = p
        self._drop_bytes = round(p * 256)
        self._source = source

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or self._drop_bytes == 0:
            return values
        if values.device.type != "cpu":
            return nn.functional.dropout(values, self.p)
        keep = self._source.keep_mask(values.shape, self._drop_bytes)
        scaled: Tensor = _Masked.apply(values, keep, 256 / (256 - self._drop_bytes))  # type: ignore[no-untyped-call]
        return scaled


def replace_dropout(model: nn.Module) -> DropoutSource:
    """Swaps every `nn.Dropout` of the model for ours; returns the source that seeds them all.

    Dropout has no weights, so what is saved does not change.
    """
    source = DropoutSource()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(min(child.p, 255 / 256), source))
    return source
