"""AdaLoRA in training: its penalty before each step of the optimizer, its budget after it."""

from __future__ import annotations

from typing import Any

import torch

from tunewright.models.adapting.ranks import Ranks


def keep_budget(model: Any, optimizer: torch.optim.Optimizer, total_steps: int) -> None:
    """Lets an optimizer keep the budgets of the model's AdaLoRA adapters, where it has any."""
    for module in model.modules():
        if isinstance(module, Ranks):
            _follow(module, optimizer, total_steps)


def _follow(ranks: Ranks, optimizer: torch.optim.Optimizer, total_steps: int) -> None:
    ranks.plan(total_steps)
    optimizer.register_step_pre_hook(lambda *_: ranks.penalize())
    optimizer.register_step_post_hook(lambda *_: ranks.allocate())
