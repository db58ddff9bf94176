"""The model and the loop of a run, put together from its groundwork."""

from __future__ import annotations

from typing import Any

from tunewright.models.dropout import DropoutSource, replace_dropout
from tunewright.models.embedding import keep_row_gradients
from tunewright.run.groundwork import Groundwork
from tunewright.training.config import TrainingConfig
from tunewright.training.course import total_steps
from tunewright.training.loop import Loop
from tunewright.training.optimizer import MovingAverage, build_optimizer, freeze
from tunewright.training.order import EncodedRow
from tunewright.training.recompute import recompute_activations
from tunewright.training.schedule import Schedule

# What the families of transformers call the dropout of attention probabilities.
ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")


def load_model(ground: Groundwork) -> tuple[Any, str]:
    """Returns the run's model on its device, ready to be trained, and the route it takes."""
    settings = ground.config.training
    model, notices = ground.task.build(
        ground.source, ground.tokenizer, dropout=settings.dropout, seed=settings.seed
    )
    ground.note(*notices)
    route = ground.task.route(model)
    model.to(ground.device.name)
    if route != "packed":
        ground.note(f"{ground.config.model.name} runs in padded batches ({route}).")
    elif any(getattr(model.config, name, 0) for name in ATTENTION_DROPOUT):
        ground.note("Attention dropout is off: packed attention has none.")
    freeze(model, settings.freeze_layers)
    keep_row_gradients(model)
    return model, route


def build_loop(ground: Groundwork, model: Any, rows: list[EncodedRow]) -> Loop:
    """Returns the loop that trains the model on the rows, with the run's settings."""
    settings, units = ground.config.training, ground.task.units(rows)
    average = None
    if settings.ema_decay is not None:
        average = MovingAverage(model.parameters(), settings.ema_decay)
    return Loop(
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
        schedule=_schedule(ground, len(units)),
        device=ground.device,
        batch_size=settings.batch_size,
        max_tokens=settings.max_tokens,
        seed=settings.seed,
        max_grad_norm=settings.max_grad_norm,
        l1=settings.l1,
        dropout=_prepare_activations(model, settings),
        average=average,
    )


def _schedule(ground: Groundwork, num_rows: int) -> Schedule:
    settings = ground.config.training
    steps = total_steps(
        num_rows, settings.batch_size, settings.num_train_epochs, settings.max_steps
    )
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
