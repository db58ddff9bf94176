"""The model and the loop of a run, put together from its groundwork."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from tunewright.data.wording import counted
from tunewright.errors import SettingsError, listed
from tunewright.models.adapting.adapters import adapters_of
from tunewright.models.adapting.bases import Base
from tunewright.models.adapting.peft_config import NEW_HEADS
from tunewright.models.adapting.sharing import attach_to_all
from tunewright.models.files.architecture import (
    ENCODER,
    Kind,
    backbone_prefix,
    is_backbone,
    stored_name,
)
from tunewright.models.files.weights import read_headers
from tunewright.models.heads import is_packed
from tunewright.models.layers.dropout import DropoutSource, replace_dropout
from tunewright.models.layers.embedding import keep_row_gradients
from tunewright.models.layers.gpu_layers import why_not_fused
from tunewright.models.layers.graphs import Graphs, record_passes
from tunewright.models.layers.own_layers import use_own_layers
from tunewright.native import why_not
from tunewright.run.preparing.groundwork import Groundwork
from tunewright.training.budget import keep_budget
from tunewright.training.config import TrainingConfig
from tunewright.training.course import total_steps
from tunewright.training.loop import Loop
from tunewright.training.optimizer import MovingAverage, build_optimizer, freeze
from tunewright.training.order import EncodedRow, OnDemandRows
from tunewright.training.recompute import recompute_activations
from tunewright.training.schedule import Schedule
from tunewright.training.sharding import Sharding, drops_layers

# What the families of transformers call the dropout of attention probabilities.
ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")

# Of one forward pass, where the run does not say how many; by kinds of devices.
PASS_TOKENS = {"cpu": 8192, "cuda": 16_384, "mps": 8192}


def load_model(ground: Groundwork) -> tuple[Any, str]:
    """Returns the run's model on its device, ready to be trained, and the route it takes."""
    settings = ground.config.training
    model, notices = ground.task.build(
        ground.source, ground.tokenizer, dropout=settings.dropout, seed=settings.seed
    )
    ground.note(*notices)
    _merge_what_it_has(ground, model)
    freeze(model, settings.freeze_layers)
    _attach(ground, model)
    route = ground.task.route(model)
    model.to(ground.device.name)
    if route != "packed":
        ground.note(f"{ground.config.model.name} runs in padded batches ({route}).")
    elif ground.device.kind != "cpu" and any(
        getattr(model.config, name, 0) for name in ATTENTION_DROPOUT
    ):
        ground.note("Attention dropout is off: packed attention has none on a GPU.")
    if ground.device.kind == "cpu" and (reason := why_not()):
        ground.note(f"There is no native code ({reason}): training takes more time.")
    if ground.device.kind == "cuda" and (reason := why_not_fused()):
        ground.note(f"Layers of our own cannot be compiled here ({reason}): the library's run.")
    if not ground.is_sharded:  # which shares out gradients of its own making
        keep_row_gradients(model)
        use_own_layers(model)
    return model, route


def _merge_what_it_has(ground: Groundwork, model: Any) -> None:
    """Makes an adapter that the starting model comes with part of its weights."""
    parts = [part for _, part in ground.task.models(model).values()]
    adapters = [found for part in parts if (found := adapters_of(part)) is not None]
    if not adapters:
        return
    if ground.config.adapter.name is not None or len(parts) > 1:
        raise SettingsError(
            "model.name",
            f"{ground.config.model.name} holds an adapter, {adapters[0].name}",
            "A new adapter, or several heads, need a model that is whole.",
            "Merge the adapter into its model first, and name the merged folder.",
        )
    adapters[0].merge()
    ground.note(f"The adapter of {ground.config.model.name} was merged into its model.")


def _attach(ground: Groundwork, model: Any) -> None:
    """Puts the run's adapter, where it has one, into every model that the run will save."""
    config = ground.config.adapter
    if config.name is None:
        return
    if config.name == "prefix" and ground.config.training.gradient_checkpointing:
        raise SettingsError(
            "training.gradient_checkpointing",
            "it is on, and the adapter is a prefix",
            "Layers that are computed anew would see a prefix twice.",
            'Leave it off, or use adapter "prompt" or "lora".',
        )
    parts = [(task.kind, part) for task, part in ground.task.models(model).values()]
    for kind, part in parts:
        _check_head(ground, kind, part)
    num_before = sum(p.numel() for p in model.parameters())
    base = Base.of(ground.config.model.name, ground.source, config.quantize)
    attach_to_all(parts, config, ground.config.training.seed, base)
    num_learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    ground.note(
        f"The adapter {config.name} and the head learn, {num_learning:,} numbers; the model has "
        f"{num_before:,}, and they stay as they are."
    )


def _check_head(ground: Groundwork, kind: Kind, model: Any) -> None:
    """Raises SettingsError where a head that is not saved with an adapter is not in the base."""
    if kind in NEW_HEADS or kind is ENCODER:
        return
    prefix, stored = backbone_prefix(model), read_headers(ground.source)
    names = [name for name, _ in model.named_parameters() if not is_backbone(name, prefix)]
    lost = [name for name in names if stored_name(name, model, stored) is None]
    if lost:
        raise SettingsError(
            "[adapter]",
            f"{ground.config.model.name} lacks {listed(lost, 2)} of a {kind.purpose}",
            "Such a head is as large as the vocabulary, and is not learned beside an adapter.",
            "Start from a model that has it, or leave the adapter off.",
        )


def build_loop(ground: Groundwork, model: Any, rows: Sequence[EncodedRow]) -> Loop:
    """Returns the loop that trains the model on the rows, with the run's settings.

    Where each process holds a share of the weights, the model is left without any.
    """
    settings, sharding = ground.config.training, None
    if ground.is_sharded:
        if any(map(drops_layers, model.modules())):
            ground.note("LayerDrop is off: with training.parallel=fsdp all processes pass in step.")
        sharding = Sharding.of(model, ground.task, ground.processes, ground.device.kind)
        model = sharding.learner
    # The windows of rows that are not read yet cannot be counted: an update is of texts there.
    units = rows if isinstance(rows, OnDemandRows) else ground.task.units(rows)
    batch_size = _update_size(ground, len(units))
    schedule = _schedule(ground, len(units), batch_size)
    average = None
    if settings.ema_decay is not None:
        learning = (p for p in model.parameters() if p.requires_grad)
        average = MovingAverage(learning, settings.ema_decay)
    loop = Loop(
        model=model,
        task=ground.task,
        rows=units,
        optimizer=build_optimizer(
            model,
            learning_rate=settings.learning_rate,
            head_learning_rate=settings.head_learning_rate,
            weight_decay=settings.weight_decay,
            layer_lr_decay=settings.layer_lr_decay,
            betas=(settings.adam_beta1, settings.adam_beta2),
            epsilon=settings.adam_epsilon,
        ),
        schedule=schedule,
        device=ground.device,
        batch_size=batch_size,
        max_tokens=settings.max_tokens or PASS_TOKENS[ground.device.kind],
        seed=settings.seed,
        max_grad_norm=settings.max_grad_norm,
        l1=settings.l1,
        dropout=_prepare_activations(model, settings),
        graphs=_recorded(ground, model),
        average=average,
        processes=ground.processes,
        sharding=sharding,
    )
    keep_budget(model, loop.optimizer, schedule.total_steps)
    return loop


def _recorded(ground: Groundwork, model: Any) -> list[Graphs]:
    """Lets a GPU record the passes of every packed backbone whose weights are all its own."""
    settings = ground.config.training
    plain = ground.config.adapter.name is None and not settings.gradient_checkpointing
    if ground.is_sharded:  # weights are gathered within a pass
        return []
    if (ground.device.kind, ground.device.precision) != ("cuda", "bf16") or not plain:
        return []
    autocast = partial(ground.device.autocast, keep_casts=False)
    parts = [part for _, part in ground.task.models(model).values()]
    return [record_passes(part.base_model, autocast) for part in parts if is_packed(part)]


def _update_size(ground: Groundwork, num_rows: int) -> int:
    """Returns the rows of an update: those of the settings, or as many as the task can do with."""
    wanted = ground.config.training.batch_size
    size = ground.task.update_size(num_rows, wanted)
    if size < wanted:
        ground.note(
            f"An epoch of {counted(num_rows, 'row')} has {math.ceil(num_rows / size):,} updates "
            f"instead of {math.ceil(num_rows / wanted):,}: one at least for each part of the task."
        )
    return size


def _schedule(ground: Groundwork, num_rows: int, batch_size: int) -> Schedule:
    settings = ground.config.training
    steps = total_steps(num_rows, batch_size, settings.num_train_epochs, settings.max_steps)
    warmup = settings.warmup_steps
    warmup = round(settings.warmup_ratio * steps) if warmup is None else warmup
    if warmup >= steps > 1:
        ground.note(
            f"The warmup of {warmup:,} updates is as long as the run of {steps:,}: the learning "
            "rate never reaches its peak."
        )
    return Schedule(settings.lr_scheduler_type, steps, warmup)


def _prepare_activations(model: Any, settings: TrainingConfig) -> DropoutSource | None:
    """Chooses between our dropout and recomputed activations.

    Recomputation replays torch's random state, which our dropout does not use; so with gradient
    checkpointing the library's own dropout stays.
    """
    if not settings.gradient_checkpointing:
        return replace_dropout(model)
    recompute_activations(model)
    return None
