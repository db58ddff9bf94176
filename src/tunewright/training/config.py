"""The `[training]` section of a run's configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tunewright.training.schedule import ScheduleName

Fraction = Annotated[float, Field(ge=0, le=1)]
Tracker = Literal["tensorboard", "wandb", "mlflow"]


def several(value: object) -> object:
    """Takes one name for a list of one, so that `slices=product` needs no brackets."""
    return (value,) if isinstance(value, str) else value


class TrainingConfig(BaseModel):
    """How a model is trained. Keys carry the names that users of transformers know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    num_train_epochs: float = Field(3.0, gt=0, le=10_000, description="passes over the data")
    max_steps: int | None = Field(
        None, ge=1, description="updates, instead of num_train_epochs; off: by epochs"
    )
    batch_size: int = Field(32, ge=1, le=1_000_000, description="rows of one update")
    max_tokens: int | None = Field(
        None, ge=1, description="tokens of one forward pass, off: 8,192, or 16,384 on a GPU; an "
        "update is cut into as many passes as needed and adds up to the same gradient"
    )  # fmt: skip
    learning_rate: float = Field(5e-5, gt=0, le=10, description="peak step size of AdamW")
    head_learning_rate: float | None = Field(
        None, gt=0, le=10, description="peak step size of the new head; off: learning_rate"
    )
    lr_scheduler_type: ScheduleName = Field("linear", description="shape after the warmup")
    warmup_steps: int | None = Field(
        None, ge=0, description="updates of linear warmup; off: warmup_ratio of all"
    )
    warmup_ratio: Fraction = Field(0.1, description="share of all updates that warm up")
    weight_decay: float = Field(0.01, ge=0, le=1, description="decoupled L2; 0 is off")
    l1: float = Field(0.0, ge=0, le=1, description="weight of the L1 penalty; 0 is off")
    max_grad_norm: float | None = Field(1.0, gt=0, description="gradients are scaled to this norm; "
                                        "off: never")  # fmt: skip
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="AdamW: decay of the mean")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="AdamW: decay of the variance")
    adam_epsilon: float = Field(1e-8, gt=0, description="AdamW: added to the denominator")
    layer_lr_decay: float = Field(
        1.0, gt=0, le=1, description="factor of the step size from each layer to the one below; "
        "1 is off"
    )  # fmt: skip
    freeze_layers: int = Field(
        0, ge=-1, description="lowest layers (with the embeddings) kept as they are; 0 none, -1 "
        "all, so that only the head learns"
    )  # fmt: skip
    dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="every dropout of the model (of attention on a CPU only); off: its own",
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="decay of the moving average of weights that is judged and "
        "kept; off: the weights themselves"
    )  # fmt: skip
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, more time"
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp", description="what several processes hold: ddp the whole model each, fsdp a share of "
        "its weights, gradients and moments"
    )  # fmt: skip
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="width of matrix products; auto takes bf16 where the machine has it"
    )
    eval_steps: int | None = Field(
        None, ge=1, description="updates between two evaluations; off: once an epoch"
    )
    metric_for_best_model: str | None = Field(
        None, description="metric that picks the best weights; off: the task's first"
    )
    load_best_model_at_end: bool = Field(
        True, description="keep the weights of the best evaluation, not the last"
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, description="evaluations without progress before the run stops; off: never"
    )
    early_stopping_threshold: float = Field(
        0.0, ge=0, description="least gain that counts as progress, in units of the metric"
    )
    save_minutes: float = Field(5.0, ge=0, description="minutes between two checkpoints; 0 is off")
    save_steps: int | None = Field(
        None, ge=1, description="updates between two checkpoints, beside save_minutes; off: by time"
    )
    save_total_limit: int = Field(
        2, ge=0, description="newest checkpoints that are kept; 0: none is written, and a run that "
        "is killed starts again"
    )  # fmt: skip
    logging_steps: int = Field(10, ge=1, description="updates between two lines of metrics.jsonl")
    seed: int = Field(42, ge=0, lt=2**32, description="seeds the head, the order and dropout")
    track: Annotated[tuple[Tracker, ...], BeforeValidator(several)] = Field(
        ("tensorboard",), strict=False, description="where curves are also written"
    )
