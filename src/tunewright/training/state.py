"""The state of training as named tensors and plain values, and back.

    tensors, numbers = optimizer_state(model, optimizer)
    put_optimizer_state(model, optimizer, tensors, numbers)

Names are those of the model's parameters, so that a state does not depend on the order of groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tunewright.errors import ModelError

# Stands between a parameter's name and the name of what the optimizer keeps of it.
_OF = "|"


def weights_of(model: Any) -> dict[str, Tensor]:
    """Returns a model's parameters and saved buffers by name, each shared one once."""
    saved = model.state_dict().keys()
    return {name: tensor.detach() for name, tensor in _tensors(model) if name in saved}


@torch.no_grad()
def put_weights(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Copies named tensors into a model that has the same ones.

    Raises ModelError, before anything is changed, when a name or a shape differs.
    """
    own = weights_of(model)
    _check_same(own, tensors)
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def _tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _check_same(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    others = {name: tuple(tensor.shape) for name, tensor in given.items()}
    differing = sorted(dict(shapes.items() ^ others.items()))
    if differing:
        name = differing[0]
        raise ModelError(
            "checkpoint",
            f'"{name}" is {others.get(name, "missing")}',
            f"The model has {shapes.get(name, 'no such tensor')}.",
            "It belongs to another model.",
        )


def optimizer_state(
    model: Any, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns what an optimizer keeps of each parameter: tensors, and plain values."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            kept: dict[str, Any] = tensors if isinstance(value, Tensor) else numbers
            kept[f"{name}{_OF}{key}"] = value
    return tensors, numbers


def put_optimizer_state(
    model: Any,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, Any],
) -> None:
    """Gives an optimizer what `optimizer_state` returned; its settings stay its own.

    Raises ModelError, before anything is changed, for a parameter that does not learn here.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    learning = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    place = {name: index for index, name in enumerate(learning)}
    state: dict[int, dict[str, Any]] = {}
    for full_name, value in [*tensors.items(), *numbers.items()]:
        name, _, key = full_name.rpartition(_OF)
        if name not in place:
            raise ModelError(
                "checkpoint", f'it trains "{name}", which does not learn here', "",
                "It belongs to another run.",
            )  # fmt: skip
        state.setdefault(place[name], {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
