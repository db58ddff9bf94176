"""The sizes of a Transformer, and which of the usual variants it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from huggingface_hub.dataclasses import strict
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedConfig

POSITIONS = ("sinusoidal", "learned", "relative", "rotary")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
}


@strict
class TransformerConfig(PreTrainedConfig):  # type: ignore[misc]
    """The sizes of a Transformer, and which of the usual variants it is.

    `norm_first` normalises what goes into a sublayer (Xiong et al. 2020), which trains without
    care; false normalises the sum, as in 2017. `positions` is one of `POSITIONS`.
    """

    model_type = "tunewright-transformer"
    keys_to_ignore_at_inference = ("past_key_values",)

    vocab_size: int = 8000
    hidden_size: int = 256
    num_hidden_layers: int = 4
    num_decoder_layers: int | None = None
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    positions: str = "sinusoidal"
    norm_first: bool = True
    activation: str = "relu"
    dropout: float | int = 0.1
    layer_norm_eps: float = 1e-5
    max_position_embeddings: int = 512
    num_relative_buckets: int = 32
    max_relative_distance: int = 128
    tie_word_embeddings: bool = True
    is_encoder_decoder: bool = True
    use_cache: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 1

    def __post_init__(self, **kwargs: Any) -> None:
        if self.num_decoder_layers is None:
            self.num_decoder_layers = self.num_hidden_layers
        super().__post_init__(**kwargs)

    def validate_sizes(self) -> None:
        """Called by the library when the values are set."""
        if self.positions not in POSITIONS:
            raise ValueError(f"positions is {self.positions!r}; it is one of {POSITIONS}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is {self.activation!r}; it is one of {[*ACTIVATIONS]}")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError("hidden_size is no even multiple of num_attention_heads")
