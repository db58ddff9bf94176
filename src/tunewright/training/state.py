"""The state of a loop as named tensors and plain values, and back.

    tensors, values = loop_state(loop)
    put_loop_state(loop, step, tensors, values)

Names are those of the model's parameters, so that a state does not depend on the order of groups.
Of a model in pieces a process has its shard of each tensor.
Order, dropout and augmentation come from counters, so no state of a random generator is in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tunewright.errors import ModelError
from tunewright.training.loop import Loop
from tunewright.training.optimizer import MovingAverage
from tunewright.training.sharding import Shard, like_parameter, shard_of

Held = Tensor | Shard

# Stands between a parameter's name and the name of what the optimizer keeps of it.
_OF = "|"


def loop_state(loop: Loop) -> tuple[dict[str, dict[str, Held]], dict[str, Any]]:
    """Returns all that a loop needs to go on, but for its step: tensors by file, and values."""
    moments, numbers = optimizer_state(loop.model, loop.optimizer)
    tensors: dict[str, dict[str, Held]] = {"model": weights_of(loop.model), "optimizer": moments}
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
    tensors: Mapping[str, Mapping[str, Held]],
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


def _averages(model: Any, average: MovingAverage) -> dict[str, Held]:
    learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return {
        name: shard_of(like_parameter(rows, parameter))
        for (name, parameter), rows in zip(learning, average.tensors, strict=True)
    }


def weights_of(model: Any) -> dict[str, Held]:
    """Returns by name what training can change: parameters that learn, and saved buffers.

    A shared parameter is there once.
    """
    saved = model.state_dict().keys()
    return {name: shard_of(tensor.detach()) for name, tensor in _tensors(model) if name in saved}


def copies_of(tensors: Mapping[str, Held]) -> dict[str, Held]:
    """Returns copies on the CPU."""
    return {
        name: replace(held, own=held.own.to("cpu", copy=True))
        if isinstance(held, Shard)
        else held.to("cpu", copy=True)
        for name, held in tensors.items()
    }


def own_parts(model: Any, tensors: Mapping[str, Held]) -> dict[str, Held]:
    """Returns named tensors of a model as this process holds them: of whole ones its shards."""
    held = weights_of(model)
    return {
        name: own.cut(tensor)
        if isinstance(own := held[name], Shard) and isinstance(tensor, Tensor)
        else tensor
        for name, tensor in tensors.items()
    }


def frozen_digest(model: Any) -> str:
    """Returns the SHA-256 of the parameters that do not learn, which no checkpoint holds."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.no_grad()
def put_weights(model: Any, tensors: Mapping[str, Held]) -> None:
    """Copies named tensors into a model that learns the same ones.

    Raises ModelError, before anything is changed, when a name or a shape differs.
    """
    _copy(weights_of(model), tensors)


def _copy(own: Mapping[str, Held], given: Mapping[str, Held]) -> None:
    _check_same(own, given)
    for name, held in own.items():
        source = given[name]
        if isinstance(held, Shard):
            held.own.copy_(source.own if isinstance(source, Shard) else held.of(source))
        else:
            assert isinstance(source, Tensor)
            held.copy_(source)


def _tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, p) for name, p in model.named_parameters() if p.requires_grad)
    yield from model.named_buffers()


def _check_same(own: Mapping[str, Held], given: Mapping[str, Held]) -> None:
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
) -> tuple[dict[str, Held], dict[str, Any]]:
    """Returns what an optimizer keeps of each parameter: tensors, and plain values."""
    tensors: dict[str, Held] = {}
    numbers: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}{_OF}{key}"] = shard_of(value)
            else:
                numbers[f"{name}{_OF}{key}"] = value
    return tensors, numbers


def put_optimizer_state(
    model: Any,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Held],
    numbers: Mapping[str, Any],
) -> None:
    """Gives an optimizer what `optimizer_state` returned; its settings stay its own.

    Raises ModelError, before anything is changed, for a parameter that does not learn here.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    learning = [names[id(p)] for p in parameters]
    place = {name: index for index, name in enumerate(learning)}
    state: dict[int, dict[str, Any]] = {}
    for full_name, value in [*tensors.items(), *numbers.items()]:
        name, _, key = full_name.rpartition(_OF)
        if name not in place:
            raise ModelError(
                "checkpoint", f'it trains "{name}", which does not learn here', "",
                "It belongs to another run.",
            )  # fmt: skip
        parameter = parameters[place[name]]
        shard = shard_of(parameter)
        if isinstance(shard, Shard) and isinstance(value, Tensor) and value.shape == shard.shape:
            rows = shard.of(value).to(shard.own, copy=True)
            value = like_parameter(rows, parameter)
        state.setdefault(place[name], {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
