"""Gradient caching (Gao et al. 2021): the gradient of a loss over the outputs of several passes.

    cache = Cache.of(outputs_of(passes, forward), processes)    # each pass runs without gradients
    gradients = cache.gradients(loss_of(cache.outputs))
    for number, each in enumerate(passes):                      # and again, to hand them on
        hand_on(forward(number, each), gradients)

Memory is that of one pass, and of the loss. `forward` has to give the same outputs both times,
dropout included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from tunewright.devices.processes import Processes
from tunewright.tasks.base import Outputs
from tunewright.types import Features

# The features of a forward pass, and whether it counts: one that does not keeps others company.
Pass = tuple[Sequence[Features], bool]


@torch.no_grad()
def outputs_of(
    passes: Sequence[Pass], forward: Callable[[int, Sequence[Features]], Outputs]
) -> list[Outputs]:
    """Returns the outputs of each pass, without gradients; those that do not count are cut."""
    found: list[Outputs] = []
    for number, (piece, counts) in enumerate(passes):
        size = None if counts else 0
        outputs = forward(number, piece)
        found.append({name: values[:size] for name, values in outputs.items()})
    return found


@dataclass(frozen=True)
class Cache:
    """The outputs of all processes, and where those of this one begin in each."""

    outputs: dict[str, Tensor]
    start: dict[str, int]

    @classmethod
    def of(cls, found: Sequence[Outputs], processes: Processes) -> Self:
        outputs, start = {}, {}
        for name in found[0]:
            every = processes.gather(torch.cat([each[name] for each in found]))
            outputs[name] = torch.cat(every).requires_grad_()
            start[name] = sum(len(part) for part in every[: processes.rank])
        return cls(outputs, start)

    def gradients(self, loss: Tensor) -> dict[str, Tensor]:
        """Returns the gradient of each output, from the first one of this process on."""
        found = torch.autograd.grad(loss, list(self.outputs.values()), materialize_grads=True)
        return {
            name: gradient[self.start[name] :]
            for name, gradient in zip(self.outputs, found, strict=True)
        }


def hand_on(outputs: Outputs, gradients: dict[str, Tensor]) -> None:
    """Gives a pass its gradients and takes them off the rest; without any they are zeros."""
    own = []
    for name, values in outputs.items():
        if name not in gradients:
            own.append(torch.zeros_like(values))
            continue
        own.append(gradients[name][: len(values)])
        gradients[name] = gradients[name][len(values) :]
    torch.autograd.backward(list(outputs.values()), own)
