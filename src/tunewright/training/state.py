"""The state of a loop as named tensors and plain values, and back.

    tensors, values = loop_state(loop)
    put_loop_state(loop, step, tensors, values)

Names are those of the model's parameters, so that a state does not depend on the order of groups.
Order, dropout and augmentation come from counters, so no state of a random generator is in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tunewright.errors import ModelError
from tunewright.training.loop import Loop
from tunewright.training.optimizer import MovingAverage

# Stands between a parameter's name and the name of what the optimizer keeps of it.
_OF = "|"


def loop_state(loop: Loop) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Returns all that a loop needs to go on, but for its step: tensors by file, and values."""
    moments, numbers = optimizer_state(loop.model, loop.optimizer)
    tensors = {"model": weights_of(loop.model), "optimizer": moments}
    values = {
        "max_tokens": loop.max_tokens,
        "recent_losses": loop.watch.recent,
        "plateau": {"reductions": loop.schedule.reductions, "stale": loop.schedule.stale},
        "optimizer": numbers,
    }
    if loop.average is not None:
        tensors["average"] = _averages(loop.model, loop.average)
        values["average_updates"] = loop.average.updates
    return tensors, values


@torch.no_grad()
def put_loop_state(
    loop: Loop,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    values: Mapping[str, Any],
) -> None:
    """Gives a loop of the same settings what `loop_state` returned; it goes on after `step`.

    Raises ModelError when the state is that of another model.
    """
    put_weights(loop.model, tensors["model"])
    put_optimizer_state(loop.model, loop.optimizer, tensors["optimizer"], values["optimizer"])
    loop.step, loop.max_tokens = step, values["max_tokens"]
    loop.watch.recent = values["recent_losses"]
    loop.schedule.reductions = values["plateau"]["reductions"]
    loop.schedule.stale = values["plateau"]["stale"]
    if loop.average is not None:
        _copy(_averages(loop.model, loop.average), tensors["average"])
        loop.average.updates = values["average_updates"]


def _averages(model: Any, average: MovingAverage) -> dict[str, Tensor]:
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    return dict(zip(names, average.tensors, strict=True))


def weights_of(model: Any) -> dict[str, Tensor]:
    """Returns by name what training can change: parameters that learn, and saved buffers.

    A shared parameter is there once.
    """
    saved = model.state_dict().keys()
    return {name: tensor.detach() for name, tensor in _tensors(model) if name in saved}


def frozen_digest(model: Any) -> str:
    """Returns the SHA-256 of the parameters that do not learn, which no checkpoint holds."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.no_grad()
def put_weights(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Copies named tensors into a model that learns the same ones.

    Raises ModelError, before anything is changed, when a name or a shape differs.
    """
    _copy(weights_of(model), tensors)


def _copy(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    _check_same(own, given)
    for name, tensor in own.items():
        tensor.copy_(given[name])


def _tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, p) for name, p in model.named_parameters() if p.requires_grad)
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
