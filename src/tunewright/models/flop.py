"""Floating-point operations of real tokens: no padding, no recomputation.

With s the length of a sequence, P the parameters that take part in matrix products, L layers and
d = heads x head width: training is 6 P s + 12 L d s², inference 2 P s + 4 L d s²; half the square
term for causal attention (Kaplan et al. 2020, appendix, with the attention term added). Weights
that are frozen get no gradient, so that training costs 2 s less for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import nn
from transformers.pytorch_utils import Conv1D

from tunewright.models.architecture import text_part


@dataclass(frozen=True)
class FlopCount:
    """What one token and one pair of tokens cost in a model; of the parameters some are frozen."""

    matrix_parameters: int
    attention_width: float
    frozen_parameters: int = 0

    @classmethod
    def of(cls, model: Any) -> Self:
        """Counts the backbone's linear layers; heads see one token a text and are left out.

        A token of an encoder-decoder goes through one of its stacks: half of it is counted for
        each, with the table that scores the next token, and attention within the text alone.
        """
        config = model.config
        if config.is_encoder_decoder:
            matrices = [m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)]
            table = model.get_input_embeddings().weight.numel()
            size = sum(size for size in matrices if size != table) + table
            config = text_part(config)
            return cls(size // 2, config.num_hidden_layers * config.hidden_size * 0.75)
        named = model.base_model.named_modules()
        linear = [(name, m) for name, m in named if isinstance(m, nn.Linear | Conv1D)]
        sizes = [(_num_passes(name, config) * _size(m), m.weight) for name, m in linear]
        head_width = getattr(config, "head_dim", None)
        width = head_width * config.num_attention_heads if head_width else config.hidden_size
        causal = any(getattr(m, "is_causal", False) for m in model.base_model.modules())
        return cls(
            sum(size for size, _ in sizes),
            config.num_hidden_layers * width * (0.5 if causal else 1.0),
            sum(size for size, weight in sizes if not weight.requires_grad),
        )

    def inference(self, lengths: Sequence[int]) -> float:
        """Returns the operations of a forward pass over sequences of these lengths."""
        squares = sum(length * length for length in lengths)
        return 2.0 * self.matrix_parameters * sum(lengths) + 4.0 * self.attention_width * squares

    def training(self, lengths: Sequence[int]) -> float:
        """Returns the operations of a forward and a backward pass."""
        return 3.0 * self.inference(lengths) - 2.0 * self.frozen_parameters * sum(lengths)


def _size(layer: nn.Linear | Conv1D) -> int:
    """Returns the numbers of a matrix, also of one that is kept in fewer bits."""
    if isinstance(layer, nn.Linear):
        return layer.in_features * layer.out_features
    return int(layer.weight.numel())


def _num_passes(name: str, config: Any) -> int:
    """Returns how often a token goes through a linear layer: ALBERT shares its layers."""
    if name.startswith(("pooler", "prompt_encoder")):
        return 0
    shared = name.startswith("encoder.albert_layer_groups.")
    return int(config.num_hidden_layers / config.num_hidden_groups) if shared else 1
