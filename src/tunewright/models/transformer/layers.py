"""The parts of a Transformer: attention, feed-forward layers, and the stacks of both.

Shape letters: B texts of a padded batch, S their tokens, T the tokens attended to; N packed tokens;
"..." is (B, S) or (N,); H heads, E width of a head, D = H·E width of the model, F width of the
feed-forward layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import EncoderDecoderCache

from tunewright.models.layers.attention import attend
from tunewright.models.transformer.config import ACTIVATIONS, TransformerConfig
from tunewright.models.transformer.positions import (
    RelativePositions,
    Rotation,
    rotate,
    rotations,
)

# Attention -----------------------------------------------------------------------------------


class Layout(Protocol):
    """Who attends to whom: from heads (..., H, E) and an optional bias (H, S, T) to answers."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor: ...


@dataclass(frozen=True)
class Packed:
    """Sequences one after another in a row: who attends to whom, by boundaries."""

    queries: tuple[int, ...]
    keys: tuple[int, ...] | None = None
    causal: bool = False

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        return attend(
            query,
            key,
            value,
            self.queries,
            self.keys,
            scale=query.shape[-1] ** -0.5,
            causal=self.causal,
            bias_HST=bias,
        )


@dataclass(frozen=True)
class Padded:
    """Sequences as the rows of a rectangle: `seen` (B or 1, 1, S or 1, T) says who sees whom."""

    seen: Tensor | None = None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        mask = self.seen
        if bias is not None:
            bias = bias.to(value.dtype)
            mask = bias[None] if mask is None else bias.where(mask, float("-inf"))
        query, key, value = (x.to(value.dtype).transpose(1, 2) for x in (query, key, value))
        return functional.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head attention: Attention(Q, K, V) = softmax(Q Kᵀ / √E) V, in H subspaces at once.

    Q = x Wq from the attending vectors (..., D); K = m Wk and V = m Wv from the attended ones,
    which are x itself in self-attention. Each of the H heads has its own E of the D features;
    their answers stand side by side and go through Wo (Vaswani et al. 2017, 3.2).
    """

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads, self.layer = config.num_attention_heads, layer
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(
        self,
        hidden: Tensor,
        layout: Layout,
        memory: Tensor | None = None,
        past: EncoderDecoderCache | None = None,
        bias: Tensor | None = None,
        rotation: Rotation | None = None,
    ) -> Tensor:
        """Returns what `hidden` finds in itself, or in the `memory` of an encoder; (..., D)."""
        query = self._split(self.query(hidden))
        if rotation is not None:
            query = rotate(query, rotation)
        if memory is None:
            key, value = self._own(hidden, past, rotation)
        else:
            key, value = self._memory(memory, past)
        return self.output(layout.attend(query, key, value, bias).flatten(-2))

    def _split(self, values: Tensor) -> Tensor:
        """Cuts (..., D) into heads, (..., H, E)."""
        return values.unflatten(-1, (self.num_heads, -1))

    def _own(
        self, hidden: Tensor, past: EncoderDecoderCache | None, rotation: Rotation | None
    ) -> tuple[Tensor, Tensor]:
        key, value = self._split(self.key(hidden)), self._split(self.value(hidden))
        if rotation is not None:
            key = rotate(key, rotation)
        if past is None:
            return key, value
        cache = past.self_attention_cache
        key, value = cache.update(key.transpose(1, 2), value.transpose(1, 2), self.layer)
        return key.transpose(1, 2), value.transpose(1, 2)

    def _memory(self, memory: Tensor, past: EncoderDecoderCache | None) -> tuple[Tensor, Tensor]:
        """Makes keys and values of an encoder's vectors; while generating, only once."""
        if past is not None and past.is_updated.get(self.layer):
            known = past.cross_attention_cache.layers[self.layer]
            return known.keys.transpose(1, 2), known.values.transpose(1, 2)
        key, value = self._split(self.key(memory)), self._split(self.value(memory))
        if past is not None:
            cache = past.cross_attention_cache
            cache.update(key.transpose(1, 2), value.transpose(1, 2), self.layer)
            past.is_updated[self.layer] = True
        return key, value


# Layers --------------------------------------------------------------------------------------


class FeedForward(nn.Module):
    """Two linear maps with an activation between: f(x W1 + b1) W2 + b2, from D to F and back."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.inner = nn.Linear(config.hidden_size, config.intermediate_size)
        self.outer = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.outer(self.dropout(self.activation(self.inner(hidden))))


def narrowed(hidden: Tensor) -> Tensor:
    """Returns vectors as products under autocast read them, once for all that do."""
    kind = hidden.device.type
    return hidden.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else hidden


@dataclass(frozen=True)
class Context:
    """What all layers of a stack are told about a batch.

    `own` is the layout of self-attention and `cross` that of attention to the encoder's `memory`.
    """

    own: Layout
    cross: Layout | None = None
    memory: Tensor | None = None
    past: EncoderDecoderCache | None = None
    bias: Tensor | None = None
    rotation: Rotation | None = None


class Layer(nn.Module):
    """A layer of the encoder, or of the decoder, which also attends to the encoder (`crosses`)."""

    def __init__(self, config: TransformerConfig, number: int, crosses: bool) -> None:
        super().__init__()

        def norm() -> nn.LayerNorm:
            return nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

        self.norm_first = config.norm_first
        self.attention, self.attention_norm = Attention(config, number), norm()
        if crosses:
            self.cross_attention, self.cross_attention_norm = Attention(config, number), norm()
        self.feed_forward, self.feed_forward_norm = FeedForward(config), norm()
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        hidden = self._add(
            hidden,
            self.attention_norm,
            lambda x: self.attention(
                x, context.own, None, context.past, context.bias, context.rotation
            ),
        )
        if context.cross is not None:
            cross, memory = context.cross, context.memory
            hidden = self._add(
                hidden,
                self.cross_attention_norm,
                lambda x: self.cross_attention(x, cross, memory, context.past),
            )
        return self._add(hidden, self.feed_forward_norm, self.feed_forward)

    def _add(self, hidden: Tensor, norm: nn.Module, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """The residual: x + sublayer(norm(x)), or norm(x + sublayer(x)), with dropout."""
        if self.norm_first:
            return hidden + self.dropout(sublayer(narrowed(norm(hidden))))
        return norm(hidden + self.dropout(sublayer(narrowed(hidden))))


class Stack(nn.Module):
    """The layers of the encoder or the decoder; with `norm_first` a last norm follows them."""

    main_input_name = "input_ids"  # generation asks every encoder for it

    def __init__(self, config: TransformerConfig, num_layers: int, decodes: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, n, decodes) for n in range(num_layers))
        self.norm = (
            nn.LayerNorm(config.hidden_size, config.layer_norm_eps) if config.norm_first else None
        )
        self.head_width = config.hidden_size // config.num_attention_heads
        self.rotates = config.positions == "rotary"
        if config.positions == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        if config.positions == "relative":
            self.relative = RelativePositions(config, causal=decodes)

    def rotation(self, positions: Tensor, limit: int) -> Rotation | None:
        """Returns the cosines and sines of positions, all under `limit`, for rotary attention."""
        if not self.rotates:
            return None
        cosine, sine = rotations(limit, self.head_width, positions.device)
        return cosine[positions], sine[positions]

    def bias(self, query_S: Tensor, key_T: Tensor) -> Tensor | None:
        """Returns the relative positions' bias, (H, S, T), where the model has one."""
        return self.relative(query_S, key_T) if hasattr(self, "relative") else None

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        for layer in self.layers:
            hidden = layer(hidden, context)
        return hidden if self.norm is None else self.norm(hidden)
