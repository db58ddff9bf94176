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

Shape letters: B texts of a padded batch, S their tokens, T the tokens attended to; N packed tokens
of the source and M of the target; "..." is (B, S) or (N,); H heads, E width of a head, D = H·E
width of the model, F width of the feed-forward layer, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    DynamicCache,
    EncoderDecoderCache,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from tunewright.models.batch import PackedStream, filled_together
from tunewright.models.layers.dropout import read_stream
from tunewright.models.transformer.config import TransformerConfig
from tunewright.models.transformer.layers import Context, Packed, Padded, Stack, narrowed
from tunewright.models.transformer.positions import sinusoids

NOT_LABELLED = -100  # the library's mark of a token without a target


class EncoderDecoder(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """An encoder, a decoder that attends to it, and one table of word vectors.

    The table's rows are scaled by √D where they are read, and with tied embeddings they also score
    the next token: logits = h Eᵀ (Press & Wolf 2017). What the encoder reads is left to those who
    inherit this: `encode` gives its vectors of a padded batch, `packed` the logits of a packed one.
    """

    base_model_prefix = ""
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

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Linear maps as Glorot & Bengio 2010, convolutions as He et al. 2015, word vectors with
        the variance 1/D.
        """
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.hidden_size**-0.5)
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    # transformers asks for these two
    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embedding = value

    def get_output_embeddings(self) -> nn.Module | None:
        return getattr(self, "output", None)

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

    def decode_packed(
        self, target: PackedStream, memory_ND: Tensor, source_boundaries: tuple[int, ...]
    ) -> Tensor:
        """Returns the decoder's vectors of a packed target, (M, D).

        Each text attends to the stretch of `memory_ND` that `source_boundaries` give it.
        """
        read_stream(self.dropout, "target")
        return self._packed_stack(
            self.decoder,
            target,
            Context(
                Packed(target.boundaries, causal=True),
                Packed(target.boundaries, source_boundaries),
                narrowed(memory_ND),
            ),
        )

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
            Padded(of_keys(attention_mask)),
            narrowed(memory),
            past,
            self.decoder.bias(query_S, key_T),
            self.decoder.rotation(query_S, end),
        )
        return self.decoder(self.embed(token_ids, query_S, end, self.decoder), context)

    def answer(
        self,
        memory: Tensor,
        attention_mask: Tensor | None,
        decoder_input_ids: Tensor | None,
        decoder_attention_mask: Tensor | None,
        past_key_values: EncoderDecoderCache | None,
        labels: Tensor | None,
        use_cache: bool | None,
    ) -> Seq2SeqLMOutput:
        """Returns what `forward` does about a padded batch, given the encoder's vectors of it.

        `labels` (B, S), -100 where there is none, give the mean cross-entropy, and the decoder's
        input where that is not given.
        """
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


class Transformer(EncoderDecoder):
    """An encoder that reads texts, and a decoder: one table of word vectors for both sides."""

    config_class = TransformerConfig
    main_input_name = "input_ids"

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.post_init()

    def get_encoder(self, modality: str | None = None) -> Any:
        return _EncoderOf(self)

    def packed(self, source: PackedStream, target: PackedStream) -> Tensor:
        """Returns the logits of the token after each one of the target, (M, V).

        Both streams hold the same texts in the same order, without padding. They are filled up to
        shapes that come again, by one more text on both sides, which is cut off.
        """
        num_tokens = target.num_tokens
        source, target = filled_together(source, target)
        read_stream(self.dropout, "source")
        memory_ND = self._packed_stack(self.encoder, source, Context(Packed(source.boundaries)))
        hidden_MD = self.decode_packed(target, memory_ND, source.boundaries)
        return self.score(hidden_MD[:num_tokens])

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Returns the encoder's vectors of a padded batch, (B, S, D)."""
        length = input_ids.shape[1]
        position_S = torch.arange(length, device=input_ids.device)
        context = Context(
            Padded(of_keys(attention_mask)),
            bias=self.encoder.bias(position_S, position_S),
            rotation=self.encoder.rotation(position_S, length),
        )
        return self.encoder(self.embed(input_ids, position_S, length, self.encoder), context)

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
        """Runs a padded batch, as every sequence-to-sequence model of the library; see `answer`.

        `encoder_outputs` spare the encoder its work.
        """
        if encoder_outputs is None:
            assert input_ids is not None, "a source is needed: input_ids or encoder_outputs"
            memory = self.encode(input_ids, attention_mask)
        else:
            memory = encoder_outputs[0]
        return self.answer(
            memory,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            past_key_values,
            labels,
            use_cache,
        )


class _EncoderOf:
    """The encoder with its embeddings, as generation calls it."""

    def __init__(self, model: Transformer) -> None:
        self._model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> BaseModelOutput:
        return BaseModelOutput(self._model.encode(input_ids, attention_mask))

    __call__ = forward


def of_keys(attention_mask: Tensor | None) -> Tensor | None:
    """Returns which tokens of the attended side are no padding, (B, 1, 1, T)."""
    return None if attention_mask is None else attention_mask[:, None, None].bool()
