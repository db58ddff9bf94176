"""A Transformer of our own, encoder and decoder, as transformers' own models are used.

    config = TransformerConfig(vocab_size=8000, hidden_size=256, num_hidden_layers=4)
    model = Transformer(config)
    model(input_ids, labels=labels).loss        # padded, as every model of the library
    model.packed(source, target)                # packed, without padding: (M, V)
    model.generate(input_ids, num_beams=4)

Vaswani et al. 2017, "Attention Is All You Need". An encoder turns the N tokens of a source into N
vectors; a decoder predicts each token of a target from those before it and from the encoder's
vectors. Both are stacks of layers, and a layer adds to its input what it found (He et al. 2016):

    encoder layer:  h = h + SelfAttention(h);  h = h + FeedForward(h)
    decoder layer:  h = h + SelfAttention(h), to the past only
                    h = h + CrossAttention(h, encoder);  h = h + FeedForward(h)

Importing this module makes the model known to transformers, so that AutoModelForSeq2SeqLM reads
its folders.

Shape letters: B texts of a padded batch, S their tokens, T the tokens attended to; N packed tokens
of the source and M of the target; "..." is (B, S) or (N,); H heads, E width of a head, D = H·E
width of the model, F width of the feed-forward layer, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    DynamicCache,
    EncoderDecoderCache,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from tunewright.models.attention import attend
from tunewright.models.batch import PackedStream, filled_together
from tunewright.models.dropout import read_stream

POSITIONS = ("sinusoidal", "learned", "relative", "rotary")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
}
NOT_LABELLED = -100  # the library's mark of a token without a target


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


# Positions -----------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """Returns the positions 0 to `length` - 1 as vectors, (length, D).

    PE[p, 2i] = sin(p / 10000^(2i/D)), PE[p, 2i+1] = cos(p / 10000^(2i/D)): Vaswani et al., 3.5.
    """
    turns = _turns(length, width, device)
    return torch.stack([turns.sin(), turns.cos()], -1).flatten(1)


def _turns(length: int, width: int, device: torch.device) -> Tensor:
    """Returns the angles p / 10000^(2i/D) of each position and pair of features, (length, D/2)."""
    pair = torch.arange(0, width, 2, device=device)
    return torch.arange(length, device=device)[:, None] * torch.exp(
        pair * (-math.log(10_000) / width)
    )


Rotation = tuple[Tensor, Tensor]


@lru_cache(maxsize=8)
def _rotations(length: int, width: int, device: torch.device) -> Rotation:
    turns = _turns(length, width, device)
    return turns.cos(), turns.sin()


def rotate(heads: Tensor, rotation: Rotation) -> Tensor:
    """Turns each pair of features (x, y) of (..., H, E) by its position's angle a:

    (x cos a - y sin a, x sin a + y cos a), so that products of queries and keys depend on the
    distance of their positions alone (Su et al. 2021, "RoFormer"). A pair is a feature of the
    first half and the one as far into the second. The angles' cosines and sines are (..., E/2).
    """
    cosine, sine = (part[..., None, :] for part in rotation)
    left, right = heads.chunk(2, -1)
    return torch.cat([left * cosine - right * sine, left * sine + right * cosine], -1)


class RelativePositions(nn.Module):
    """A number for each head and distance, added to the scores: (H, S, T).

    Distances up to a quarter (a half, when looking back only) of the buckets have their own; the
    further ones share buckets whose width grows with the logarithm (Raffel et al. 2020, "T5").
    """

    def __init__(self, config: TransformerConfig, causal: bool) -> None:
        super().__init__()
        self.causal, self.farthest = causal, config.max_relative_distance
        self.table = nn.Embedding(config.num_relative_buckets, config.num_attention_heads)

    def forward(self, query_S: Tensor, key_T: Tensor) -> Tensor:
        bucket_ST = self.bucket(key_T[None, :] - query_S[:, None])
        return self.table(bucket_ST).permute(2, 0, 1)

    def bucket(self, distance: Tensor) -> Tensor:
        """Returns the bucket of each distance (key minus query)."""
        count = self.table.num_embeddings
        if self.causal:
            after, away = torch.zeros_like(distance), (-distance).clamp(min=0)
        else:
            count //= 2
            after, away = (distance > 0).long() * count, distance.abs()
        near = count // 2
        share = torch.log(away.clamp(min=1) / near) / math.log(self.farthest / near)
        far = (near + (share * (count - near)).long()).clamp(max=count - 1)
        return after + torch.where(away < near, away, far)


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
        cosine, sine = _rotations(limit, self.head_width, positions.device)
        return cosine[positions], sine[positions]

    def bias(self, query_S: Tensor, key_T: Tensor) -> Tensor | None:
        """Returns the relative positions' bias, (H, S, T), where the model has one."""
        return self.relative(query_S, key_T) if hasattr(self, "relative") else None

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        for layer in self.layers:
            hidden = layer(hidden, context)
        return hidden if self.norm is None else self.norm(hidden)


# The model -----------------------------------------------------------------------------------


class Transformer(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """An encoder, a decoder, and one table of word vectors for both sides.

    The table's rows are scaled by √D where they are read, and with tied embeddings they also score
    the next token: logits = h Eᵀ (Press & Wolf 2017).
    """

    config_class = TransformerConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    _supports_sdpa = True
    _no_split_modules = ("Layer",)

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        assert config.num_decoder_layers is not None
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = Stack(config, config.num_hidden_layers, decodes=False)
        self.decoder = Stack(config, config.num_decoder_layers, decodes=True)
        if not config.tie_word_embeddings:
            self.output = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Linear maps as Glorot & Bengio 2010, word vectors with the variance 1/D."""
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.hidden_size**-0.5)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    # transformers asks for these two
    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embedding = value

    def get_output_embeddings(self) -> nn.Module | None:
        return getattr(self, "output", None)

    def get_encoder(self, modality: str | None = None) -> Any:
        return _EncoderOf(self)

    def embed(self, token_ids: Tensor, positions: Tensor, limit: int, stack: Stack) -> Tensor:
        """Returns the tokens as vectors, (..., D), with their positions (all under `limit`)."""
        hidden = self.embedding(token_ids) * math.sqrt(self.config.hidden_size)
        if self.config.positions == "sinusoidal":
            hidden = hidden + sinusoids(limit, hidden.shape[-1], hidden.device)[positions]
        elif self.config.positions == "learned":
            hidden = hidden + stack.embed_positions(positions)
        return self.dropout(hidden)

    def score(self, hidden: Tensor) -> Tensor:
        """Returns the logits of the next token, (..., V)."""
        if self.config.tie_word_embeddings:
            return functional.linear(hidden, self.embedding.weight)
        return self.output(hidden)

    def packed(self, source: PackedStream, target: PackedStream) -> Tensor:
        """Returns the logits of the token after each one of the target, (M, V).

        Both streams hold the same texts in the same order, without padding. They are filled up to
        shapes that come again, by one more text on both sides, which is cut off.
        """
        num_tokens = target.num_tokens
        source, target = filled_together(source, target)
        read_stream(self.dropout, "source")
        memory_ND = self._packed_stack(self.encoder, source, Context(Packed(source.boundaries)))
        read_stream(self.dropout, "target")
        hidden_MD = self._packed_stack(
            self.decoder,
            target,
            Context(
                Packed(target.boundaries, causal=True),
                Packed(target.boundaries, source.boundaries),
                narrowed(memory_ND),
            ),
        )
        return self.score(hidden_MD[:num_tokens])

    def _packed_stack(self, stack: Stack, stream: PackedStream, context: Context) -> Tensor:
        limit = max(stream.lengths)
        positions_N = stream.position_ids_N
        every = torch.arange(limit, device=positions_N.device)
        context = Context(
            context.own,
            context.cross,
            context.memory,
            bias=stack.bias(every, every),
            rotation=stack.rotation(positions_N, limit),
        )
        return stack(self.embed(stream.token_ids_N, positions_N, limit, stack), context)

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Returns the encoder's vectors of a padded batch, (B, S, D)."""
        length = input_ids.shape[1]
        position_S = torch.arange(length, device=input_ids.device)
        context = Context(
            Padded(_of_keys(attention_mask)),
            bias=self.encoder.bias(position_S, position_S),
            rotation=self.encoder.rotation(position_S, length),
        )
        return self.encoder(self.embed(input_ids, position_S, length, self.encoder), context)

    def decode(
        self,
        token_ids: Tensor,
        memory: Tensor,
        attention_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        past: EncoderDecoderCache | None = None,
    ) -> Tensor:
        """Returns the decoder's vectors of a padded batch, (B, S, D).

        With a `past` the tokens go on from those that it holds, whose keys and values are kept
        there: a new token then costs one row of attention.
        """
        start = 0 if past is None else past.get_seq_length()
        end = start + token_ids.shape[1]
        key_T = torch.arange(end, device=token_ids.device)
        query_S = key_T[start:]
        past_ST = key_T <= query_S[:, None]
        seen: Tensor | None = past_ST[None, None]
        if decoder_attention_mask is not None:
            seen = past_ST & decoder_attention_mask[:, None, None, :end].bool()
        elif len(query_S) == 1:  # the newest token sees all
            seen = None
        context = Context(
            Padded(seen),
            Padded(_of_keys(attention_mask)),
            narrowed(memory),
            past,
            self.decoder.bias(query_S, key_T),
            self.decoder.rotation(query_S, end),
        )
        return self.decoder(self.embed(token_ids, query_S, end, self.decoder), context)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        **_: Any,
    ) -> Seq2SeqLMOutput:
        """Runs a padded batch, as every sequence-to-sequence model of the library.

        `labels` (B, S), -100 where there is none, give the mean cross-entropy, and the decoder's
        input where that is not given. `encoder_outputs` spare the encoder its work.
        """
        if encoder_outputs is None:
            assert input_ids is not None, "a source is needed: input_ids or encoder_outputs"
            encoder_outputs = BaseModelOutput(self.encode(input_ids, attention_mask))
        memory = encoder_outputs[0]
        if decoder_input_ids is None:
            assert labels is not None, "a target is needed: decoder_input_ids or labels"
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(), DynamicCache())
        hidden = self.decode(
            decoder_input_ids, memory, attention_mask, decoder_attention_mask, past_key_values
        )
        logits = self.score(hidden)
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(
                logits.float().flatten(0, 1), labels.flatten(), ignore_index=NOT_LABELLED
            )
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=past_key_values,
            encoder_last_hidden_state=memory,
        )

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Returns the labels moved by one: each token is to be predicted from those before it."""
        shifted = labels.roll(1, 1)
        shifted[:, 0] = self.config.decoder_start_token_id
        return shifted.masked_fill(shifted == NOT_LABELLED, self.config.pad_token_id)


class _EncoderOf:
    """The encoder with its embeddings, as generation calls it."""

    def __init__(self, model: Transformer) -> None:
        self._model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> BaseModelOutput:
        return BaseModelOutput(self._model.encode(input_ids, attention_mask))

    __call__ = forward


def _of_keys(attention_mask: Tensor | None) -> Tensor | None:
    """Returns which tokens of the attended side are no padding, (B, 1, 1, T)."""
    return None if attention_mask is None else attention_mask[:, None, None].bool()


def register() -> None:
    """Makes the model known to transformers; calling it again changes nothing."""
    AutoConfig.register(TransformerConfig.model_type, TransformerConfig, exist_ok=True)
    for auto in (AutoModel, AutoModelForSeq2SeqLM):
        auto.register(TransformerConfig, Transformer, exist_ok=True)


register()
