"""The `[adapter]` section of a run's configuration: what learns in the place of all weights."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

AdapterName = Literal[
    "lora", "dora", "adalora", "ia3", "prefix", "prompt", "p-tuning", "bottleneck"
]
Bits = Literal["8bit", "4bit"]
ADAPTERS: tuple[AdapterName, ...] = get_args(AdapterName)
# They add tokens to a text, or keys and values to its attention: one prompt a sequence, so padded.
PROMPTS = frozenset({"prefix", "prompt", "p-tuning"})
# They change weights, or stand behind them as a factor, and can become part of the model.
MERGEABLE = frozenset({"lora", "dora", "adalora", "ia3"})
# Few and new numbers take larger steps than a whole model, whose default is 5e-5. On the starter
# still larger ones learned faster at first (docs/adapters.md); larger models bear less.
LEARNING_RATES: dict[AdapterName, float] = {
    "lora": 1e-3,
    "dora": 1e-3,
    "adalora": 3e-3,
    "ia3": 1e-2,
    "prefix": 1e-2,
    "prompt": 1e-2,
    "p-tuning": 1e-2,
    "bottleneck": 1e-3,
}


def _several(value: object) -> object:
    """Takes one name for a list of one."""
    return (value,) if isinstance(value, str) else value


class AdapterConfig(BaseModel):
    """An adapter: a few new weights that learn while the model's own stay as they are.

    Keys carry the names that users of peft know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: AdapterName | None = Field(
        None, description="what learns beside the head; off: all weights of the model"
    )
    r: int = Field(8, ge=1, le=4096, description="rank of lora and dora; mean rank that adalora "
                   "ends with")  # fmt: skip
    lora_alpha: int = Field(
        16, ge=1, le=1_000_000, description="lora, dora: the product of the two matrices is "
        "multiplied with lora_alpha / r; adalora: with lora_alpha / rank"
    )  # fmt: skip
    lora_dropout: float = Field(
        0.0, ge=0, lt=1, description="lora, dora, adalora: dropout of what the matrices read"
    )
    target_modules: Annotated[tuple[str, ...] | None, BeforeValidator(_several)] = Field(
        None, strict=False, description="ends of the names of the layers that are adapted; off: "
        "every linear layer of the backbone, for ia3 keys, values and feed-forward"
    )  # fmt: skip
    quantize: Bits | None = Field(
        None, description="bits in which the backbone's linear layers are kept while they are "
        "frozen, by bitsandbytes; off: as they are"
    )  # fmt: skip
    num_virtual_tokens: int = Field(
        20, ge=1, le=10_000, description="prefix, prompt, p-tuning: tokens put before a text"
    )
    encoder_hidden_size: int = Field(
        128, ge=1, le=100_000, description="p-tuning: width of the network that makes the tokens"
    )
    bottleneck_size: int = Field(
        64, ge=1, le=100_000, description="bottleneck: width between its two layers"
    )
    placement: Literal["houlsby", "pfeiffer"] = Field(
        "houlsby", description="bottleneck: after attention and feed-forward, or after "
        "feed-forward alone"
    )  # fmt: skip


def prompt_length(config: AdapterConfig) -> int:
    """Returns how many of a model's positions an adapter takes."""
    return config.num_virtual_tokens if config.name in PROMPTS else 0
