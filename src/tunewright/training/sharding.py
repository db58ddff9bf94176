"""A model in pieces: each process holds some rows of every weight, its gradient and its moments.

    sharding = Sharding.of(model, task, processes, "cpu")   # the model's own weights are let go
    sharding.learner                # the model that learns: its parameters are this process's rows
    sharding.forward(batch)         # gathers the weights of a layer when the layer is run
    with sharding.whole(): ...      # the model itself holds all weights
    sharding.gather()               # and from now on for good

PyTorch's FSDP2 (`fully_shard`; Zhao et al. 2023, "PyTorch FSDP") does the sharding. It gathers
within the forward and the backward pass, so all processes have to run as many passes, of the same
kind, in the same order; `in_step` sees to that.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from tunewright.devices.allocator import return_large_blocks
from tunewright.devices.processes import Processes
from tunewright.errors import SettingsError
from tunewright.models.adapting.adapter_config import PROMPTS, AdapterConfig
from tunewright.models.batch import Batch
from tunewright.tasks.base import Outputs, Task
from tunewright.training.caching import Pass
from tunewright.types import Features


@dataclass(frozen=True)
class Shard:
    """The rows of a tensor that this process holds, from row `start` on.

    `shape` is that of the tensor, which is the shards of all processes one after another.
    """

    own: Tensor
    shape: torch.Size
    start: int

    @property
    def nbytes(self) -> int:
        """The bytes of the whole tensor."""
        return self.shape.numel() * self.own.element_size()

    def whole(self, processes: Processes) -> Tensor:
        """Returns the tensor; every process has to ask for it."""
        return torch.cat(processes.gather(self.own))

    def of(self, whole: Tensor) -> Tensor:
        """Returns the rows of another tensor of this shape that belong here."""
        return whole[self.start : self.start + len(self.own)]

    def cut(self, whole: Tensor) -> Shard:
        """Returns the shard of another tensor of this shape, on the CPU, in memory of its own."""
        return Shard(self.of(whole).to("cpu", copy=True), self.shape, self.start)


def shard_of(tensor: Tensor) -> Tensor | Shard:
    """Returns what this process holds of a parameter, or of what the optimizer keeps of it."""
    if not isinstance(tensor, DTensor):
        return tensor
    mesh = tensor.device_mesh
    rows = -(-tensor.shape[0] // mesh.size())
    start = min(mesh.get_local_rank() * rows, tensor.shape[0])
    return Shard(own_rows(tensor), tensor.shape, start)


def own_rows(tensor: Tensor) -> Tensor:
    """Returns the rows that this process holds, without their history: all where it is whole."""
    tensor = tensor.detach()
    rows: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return rows


def like_parameter(rows: Tensor, parameter: Tensor) -> Tensor:
    """Returns rows of this process as a tensor that is sharded as the parameter is."""
    if not isinstance(parameter, DTensor):
        return rows
    made: Tensor = DTensor.from_local(
        rows,
        parameter.device_mesh,
        parameter.placements,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
    return made


def check_can_be_sharded(adapter: AdapterConfig) -> None:
    """Raises SettingsError for what cannot be trained in pieces."""
    found = None
    if adapter.quantize is not None:
        found = f"adapter.quantize is {adapter.quantize}"
    elif adapter.name == "adalora" or adapter.name in PROMPTS:
        found = f"the adapter is {adapter.name}"
    if found is not None:
        raise SettingsError(
            "training.parallel=fsdp",
            found,
            "It needs the whole of a weight at once.",
            "Use training.parallel=ddp, or the adapter lora on a model that is not quantised.",
        )


def drops_layers(module: nn.Module) -> bool:
    """Says whether a stack leaves layers out at random (LayerDrop; Fan et al. 2020)."""
    return bool(getattr(module, "layerdrop", 0.0))


class _Pass(nn.Module):
    """A task's forward pass as a module: whatever it calls of the model lies within."""

    def __init__(self, task: Task, model: Any) -> None:
        super().__init__()
        self.model, self._task = model, task

    def forward(self, batch: Batch) -> Outputs:
        outputs = self._task.forward(self.model, batch)
        # A parameter itself would collect a hook of FSDP's at every pass.
        return {
            name: values.view_as(values) if isinstance(values, nn.Parameter) else values
            for name, values in outputs.items()
        }


class Sharding:
    """A model whose weights lie with several processes, and the `learner` that they lie in."""

    def __init__(self, model: Any, passes: _Pass, processes: Processes) -> None:
        self._model, self._passes, self._processes = model, passes, processes
        self.learner: Any = passes.model
        pairs = zip(model.parameters(), self.learner.parameters(), strict=True)
        self._weights = list(pairs)  # a shared one is there once

    @classmethod
    def of(cls, model: Any, task: Task, processes: Processes, kind: str) -> Self:
        """Divides the model's weights among the processes, which all hold the same ones.

        `kind` is that of their devices. The model itself is left without weights. Raises
        SettingsError for one that has a weight without rows.
        """
        for name, parameter in model.named_parameters():
            if not parameter.ndim:
                raise SettingsError(
                    "training.parallel=fsdp", f'the weight "{name}" is a single number',
                    "Weights are divided by their rows.", "Use training.parallel=ddp.",
                )  # fmt: skip
        if kind == "cuda":  # where FSDP takes its weights to
            torch.cuda.set_device(next(model.parameters()).device)
        passes = _Pass(task, _over_the_same_weights(model))
        stacks: Any = filter(drops_layers, passes.modules())
        for stack in stacks:
            stack.layerdrop = 0.0  # processes that skip unlike layers are out of step
        mesh = init_device_mesh(kind, (processes.size,))
        for layer in _layers(passes.model):
            fully_shard(layer, mesh=mesh)
        fully_shard(passes, mesh=mesh)
        for module in passes.modules():
            if isinstance(module, FSDPModule):  # gradients are sums here, and gloo knows no others
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        if kind == "cpu":
            return_large_blocks()
        made = cls(model, passes, processes)
        made._let_go()
        return made

    def forward(self, batch: Batch) -> Outputs:
        """Runs the task's forward pass; every process runs one of its own at the same time."""
        with warnings.catch_warnings():
            # of outputs that are views, which nobody here writes into
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
            outputs: Outputs = self._passes(batch)
        return outputs

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Holds all weights in the model itself for the time of a block."""
        self.gather()
        try:
            yield
        finally:
            self._let_go()

    @torch.no_grad()
    def gather(self) -> None:
        """Puts all weights into the model itself, one after another."""
        for parameter, piece in self._weights:
            shard = shard_of(piece)
            assert isinstance(shard, Shard)
            parameter.data = shard.whole(self._processes)

    def settle(self) -> None:
        """Leaves the model itself with all weights, in evaluation mode."""
        self.gather()
        self._model.eval()

    @torch.no_grad()
    def _let_go(self) -> None:
        """Frees the weights of the model itself; their shapes stay known."""
        for parameter, _ in self._weights:
            parameter.data = parameter.new_zeros(1).expand(parameter.shape)


def _over_the_same_weights(model: Any) -> Any:
    """Returns a copy of a model with parameters of its own, which lie where the model's do."""
    known: dict[int, Any] = {
        id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in model.parameters()
    }
    known |= {id(buffer): buffer for buffer in model.buffers()}
    return copy.deepcopy(model, known)


def _layers(model: nn.Module) -> list[nn.Module]:
    """Returns the modules that are gathered one at a time: the layers of stacks, as a rule.

    What they hold has to be their own: a weight that is read elsewhere too is gathered with the
    rest of the model, which is there for the whole of a pass.
    """
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    inner = {below for stack in stacks for below in stack.modules() if below is not stack}
    layers = [layer for stack in stacks if stack not in inner for layer in stack]
    holders: dict[nn.Parameter, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            holders[parameter] = holders.get(parameter, 0) + 1

    def is_own(layer: nn.Module) -> bool:
        inside: dict[nn.Parameter, int] = {}
        for module in layer.modules():
            for parameter in module.parameters(recurse=False):
                inside[parameter] = inside.get(parameter, 0) + 1
        return bool(inside) and all(holders[p] == count for p, count in inside.items())

    return [layer for layer in layers if is_own(layer)]


def in_step(pieces: Sequence[Sequence[Sequence[Features]]], rank: int) -> list[Pass]:
    """Returns the passes of the process `rank`, given the pieces of each, and whether each counts.

    The passes of all processes have the same streams in the same order. Where one has fewer
    pieces than another, it runs the shortest row, or part of one, once more, which counts nothing.
    """
    kinds: dict[tuple[str, ...], list[list[Sequence[Features]]]] = {}
    for place, own in enumerate(pieces):
        for piece in own:
            by_rank = kinds.setdefault(tuple(sorted(piece[0].streams)), [[] for _ in pieces])
            by_rank[place].append(piece)
    passes: list[Pass] = []
    for kind in sorted(kinds):
        by_rank = kinds[kind]
        rows = (
            list(row)
            for own in by_rank
            for piece in own
            for _, row in groupby(piece, key=lambda item: item.row_id)
        )
        filler = min(rows, key=lambda row: sum(item.num_tokens for item in row))
        missing = max(map(len, by_rank)) - len(by_rank[rank])
        passes += [(piece, True) for piece in by_rank[rank]] + [(filler, False)] * missing
    return passes
