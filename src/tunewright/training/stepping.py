"""The optimizer's step with a summed gradient: divided by its count, measured, clipped.

    norm = stepping.step(count)

A gradient that is not finite changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunewright.devices.processes import Processes
from tunewright.training.native_adamw import NativeAdamW, gradient_norm, norm_on_device
from tunewright.training.sharding import Sharding, own_rows


@dataclass(frozen=True)
class Stepping:
    """A model, the optimizer of its parameters, and what happens to a gradient between them."""

    model: Any
    optimizer: torch.optim.Optimizer
    max_grad_norm: float | None
    l1: float
    processes: Processes
    sharding: Sharding | None

    def step(self, count: float) -> float | Tensor:
        """Updates the weights with the gradients over `count`; returns their norm before clipping.

        Where the norm is not finite, nothing is changed. A GPU may not be done when this returns:
        the norm is a tensor then, that nobody has waited for.
        """
        if self._can_guard_itself():
            return self._guarded_step(count)
        norm, scale = self.norm_and_scale(count)
        if math.isfinite(norm):
            self._scaled_step(scale)
        return norm

    def norm_and_scale(self, count: float) -> tuple[float, float]:
        """Returns the gradient's norm before clipping, and the scale that divides and clips it."""
        count = count or 1.0  # an update without anything to learn leaves only decay and L1
        norm = self._norm([own_rows(gradient) for gradient in self._gradients()]) / count
        limit = self.max_grad_norm
        clip = 1.0 if limit is None else min(1.0, limit / (norm + 1e-6))
        return norm, clip / count

    def scale_gradients(self, scale: float) -> None:
        """Multiplies the gradients with `scale` and adds L1."""
        torch._foreach_mul_([own_rows(gradient) for gradient in self._gradients()], scale)
        if not self.l1:
            return
        for parameter in self.model.parameters():
            if parameter.grad is not None and parameter.ndim > 1:  # not biases and norms
                own_rows(parameter.grad).add_(own_rows(parameter).sign(), alpha=self.l1)
        for table in getattr(self.optimizer, "tables", ()):
            table.tell_all_written()

    def _can_guard_itself(self) -> bool:
        gradients = self._gradients()
        return (
            self.sharding is None
            and not self.l1
            and isinstance(self.optimizer, NativeAdamW)
            and self.optimizer.can_guard_itself
            and bool(gradients)
            and all(gradient.is_cuda for gradient in gradients)
        )

    def _guarded_step(self, count: float) -> Tensor:
        """The same without waiting: the GPU clips, and makes no step, by the norm that it finds."""
        assert isinstance(self.optimizer, NativeAdamW)
        norm = norm_on_device(self._gradients()) / (count or 1.0)
        divisor = torch.full_like(norm, count or 1.0)
        if self.max_grad_norm is not None:
            divisor = divisor / (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        self.optimizer.guarded_step(divisor, norm)
        return norm

    def _scaled_step(self, scale: float) -> None:
        plain = self.sharding is None and not self.l1
        if plain and isinstance(self.optimizer, NativeAdamW):
            self.optimizer.scaled_step(scale)
        else:
            self.scale_gradients(scale)
            self.optimizer.step()

    def _gradients(self) -> list[Tensor]:
        groups = self.optimizer.param_groups
        return [p.grad for group in groups for p in group["params"] if p.grad is not None]

    def _norm(self, gradients: list[Tensor]) -> float:
        """Returns the norm of the whole gradient, of which this process may have some rows."""
        if self.sharding is None:
            return gradient_norm(gradients, getattr(self.optimizer, "tables", ()))
        norm = float(torch.nn.utils.get_total_norm(gradients))
        return float(np.linalg.norm(self.processes.gather_numbers([norm])))
