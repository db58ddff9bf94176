"""A loop over a tiny model, as a run would build it but in fp32 and without dropout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunewright.devices import Device
from tunewright.devices.processes import ALONE, Processes
from tunewright.models.adapting.adapter_config import AdapterConfig
from tunewright.models.adapting.adapters import attach
from tunewright.models.batch import Batch
from tunewright.models.layers.dropout import replace_dropout
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.tasks.base import Outputs, Task
from tunewright.training.loop import Loop
from tunewright.training.optimizer import MovingAverage, build_optimizer
from tunewright.training.recompute import recompute_activations
from tunewright.training.schedule import Schedule
from tunewright.training.sharding import Sharding
from tunewright.types import Row

CPU = Device("cpu", "cpu", "fp32", 1, "a CPU")


def build_loop(
    folder: Path,
    task: Task,
    rows: Sequence[Row],
    *,
    steps: int = 2,
    batch_size: int = 8,
    max_tokens: int = 8192,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    dropout: float = 0.0,
    seed: int = 0,
    max_grad_norm: float | None = None,
    l1: float = 0.0,
    ema_decay: float | None = None,
    recompute: bool = False,
    processes: Processes = ALONE,
    is_sharded: bool = False,
    adapter: AdapterConfig | None = None,
) -> Loop:
    """Returns the loop of `task`, which has learned from `rows`, over the model in `folder`."""
    tokenizer = load_tokenizer(folder)
    model, _ = task.build(folder, tokenizer, dropout=dropout, seed=seed)
    if adapter is not None:
        attach(model, adapter, task.kind, seed)
    task.route(model)
    sharding = None
    if is_sharded:
        sharding = Sharding.of(model, task, processes, "cpu")
        model = sharding.learner
    if recompute:
        recompute_activations(model)
    average = None if ema_decay is None else MovingAverage(model.parameters(), ema_decay)
    return Loop(
        model=model,
        task=task,
        rows=[task.encode(row, tokenizer) for row in rows],
        optimizer=build_optimizer(model, learning_rate=learning_rate, weight_decay=weight_decay),
        schedule=Schedule("constant", steps, 0),
        device=CPU,
        batch_size=task.update_size(len(rows), batch_size),
        max_tokens=max_tokens,
        seed=seed,
        max_grad_norm=max_grad_norm,
        l1=l1,
        dropout=None if recompute else replace_dropout(model),
        average=average,
        processes=processes,
        sharding=sharding,
    )


def sizes_of_passes(loop: Loop) -> list[int]:
    """Returns the list that the tokens of each forward pass go to from now on."""
    sizes: list[int] = []
    forward: Any = loop._forward

    def noted(step: int, batch: Batch) -> Outputs:
        sizes.append(batch.num_tokens)
        outputs: Outputs = forward(step, batch)
        return outputs

    loop._forward = noted  # type: ignore[method-assign]
    return sizes


def weights(model: Any) -> dict[str, Any]:
    """Returns copies of a model's weights by name."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def gradients(loop: Loop) -> dict[str, Any]:
    """Returns the gradient of the first update by parameter, clipped and with L1; changes nothing.

    The optimizer's step is left out, so the gradient stays where it was added up.
    """
    loop.model.train()
    loop._reseed(0)
    ((indices, _), *_) = loop._updates(0)
    _, count = loop._accumulate(0, loop._shared(indices, 0))
    _, scale = loop.stepping.norm_and_scale(count)
    loop.stepping.scale_gradients(scale)
    named = loop.model.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}
