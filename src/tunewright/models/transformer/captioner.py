"""A Transformer that reads pictures and writes about them.

    config = CaptionerConfig(image_size=64, patch_size=8, vocab_size=800)
    model = Captioner(config)
    model(pixel_values, labels=labels).loss       # padded, as every model of the library
    model.packed(pictures, target)                # captions without padding: (M, V)
    model.generate(pixel_values, num_beams=4)

Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words": a picture is cut into squares of P x P
pixels, each becomes a vector, and from there on it is a text of n patches.

Shape letters: B pictures of C channels, n patches each, N = B·n; M packed tokens of the captions;
D width of the model, V vocabulary.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional
from transformers import EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from tunewright.models.batch import PackedPictures, PackedStream, lengthened
from tunewright.models.layers.dropout import read_stream
from tunewright.models.transformer.config import TransformerConfig
from tunewright.models.transformer.layers import Context, Packed, Padded, narrowed
from tunewright.models.transformer.model import EncoderDecoder
from tunewright.models.transformer.positions import sinusoids

NORM_GROUPS = 4


@strict
class CaptionerConfig(TransformerConfig):
    """The sizes of a captioner: pictures are squares of `image_size` pixels."""

    model_type = "tunewright-captioner"

    image_size: int = 64
    patch_size: int = 8
    num_channels: int = 3

    def validate_picture(self) -> None:
        """Called by the library when the values are set."""
        halvings = self.patch_size.bit_length() - 1
        if self.patch_size != 1 << halvings or self.patch_size < 2:
            raise ValueError("patch_size is no power of 2")
        if self.image_size < self.patch_size or self.image_size % self.patch_size:
            raise ValueError("image_size is no multiple of patch_size")
        if self.hidden_size % (NORM_GROUPS << (halvings - 1)):
            raise ValueError(f"hidden_size is too small for patches of {self.patch_size} pixels")
        if self.positions == "learned" and self.num_patches > self.max_position_embeddings:
            raise ValueError("max_position_embeddings is less than the number of patches")

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


class Patches(nn.Module):
    """Squares of a picture as vectors: (B, C, H, W) becomes (B, n, D), row after row.

    Each convolution halves height and width, and the last linear map sees one vector a square. On
    few pictures that generalises better than a linear map of the pixels (Xiao et al. 2021, "Early
    Convolutions Help Transformers See Better").
    """

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        halvings = int(math.log2(config.patch_size))
        widths = [config.hidden_size >> (halvings - 1 - n) for n in range(halvings)]
        before = [config.num_channels, *widths]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(narrow, wide, 3, stride=2, padding=1)
            for narrow, wide in zip(before, widths, strict=False)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(NORM_GROUPS, width) for width in widths)
        self.linear = nn.Linear(before[-1], config.hidden_size)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        hidden = pixels_BCHW
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            hidden = functional.gelu(norm(convolution(hidden)))
        return self.linear(narrowed(hidden.flatten(2).transpose(1, 2)))


@lru_cache(maxsize=8)
def waves(rows: int, columns: int, width: int, device: torch.device) -> Tensor:
    """Returns the places of a grid as vectors, (rows·columns, width), row after row."""
    down = sinusoids(rows, width // 2, device)[:, None].expand(-1, columns, -1)
    across = sinusoids(columns, width - width // 2, device)[None].expand(rows, -1, -1)
    return torch.cat([down, across], -1).flatten(0, 1)


class Captioner(EncoderDecoder):
    """An encoder that reads pictures, and a decoder that writes."""

    config_class = CaptionerConfig
    main_input_name = "pixel_values"

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__(config)
        self.patches = Patches(config)
        self.post_init()

    def get_encoder(self, modality: str | None = None) -> Any:
        return _EncoderOf(self)

    def packed(self, pictures: PackedPictures, target: PackedStream) -> Tensor:
        """Returns the logits of the token after each one of the target, (M, V).

        The captions are filled up to shapes that come again by tokens after the last of them, which
        is cut off: no token sees what comes after it.
        """
        num_tokens = target.num_tokens
        target = lengthened(target)
        read_stream(self.dropout, "image")
        hidden_ND = self.embed_patches(pictures.pixels_BCHW).flatten(0, 1)
        place_N = torch.arange(pictures.num_patches, device=hidden_ND.device)
        context = self._context(Packed(pictures.boundaries), place_N.repeat(pictures.num_sequences))
        memory_ND = self.encoder(hidden_ND, context)
        hidden_MD = self.decode_packed(target, memory_ND, pictures.boundaries)
        return self.score(hidden_MD[:num_tokens])

    def encode(self, pixel_values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Returns the encoder's vectors of pictures, (B, n, D), of which none is padding."""
        hidden = self.embed_patches(pixel_values)
        place_S = torch.arange(hidden.shape[1], device=hidden.device)
        return self.encoder(hidden, self._context(Padded(), place_S))

    def embed_patches(self, pixels_BCHW: Tensor) -> Tensor:
        """Returns the patches as vectors with their positions, (B, n, D).

        Learned, relative and rotary positions count them as those of a text are counted;
        otherwise the waves of rows and columns are added.
        """
        hidden = self.patches(pixels_BCHW)
        if self.config.positions == "learned":
            hidden = hidden + self.encoder.embed_positions.weight[: hidden.shape[1]]
        elif self.config.positions == "sinusoidal":
            side = self.config.image_size // self.config.patch_size
            hidden = hidden + waves(side, side, hidden.shape[-1], hidden.device)
        return self.dropout(hidden)

    def _context(self, layout: Packed | Padded, places: Tensor) -> Context:
        every = torch.arange(self.config.num_patches, device=places.device)
        return Context(
            layout,
            bias=self.encoder.bias(every, every),
            rotation=self.encoder.rotation(places, len(every)),
        )

    def forward(
        self,
        pixel_values: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        **_: Any,
    ) -> Seq2SeqLMOutput:
        """Runs a padded batch, as the library's VisionEncoderDecoderModel; see `answer`.

        `encoder_outputs` spare the encoder its work.
        """
        if encoder_outputs is None:
            assert pixel_values is not None, "a picture is needed: pixel_values or encoder_outputs"
            memory = self.encode(pixel_values)
        else:
            memory = encoder_outputs[0]
        return self.answer(
            memory,
            None,
            decoder_input_ids,
            decoder_attention_mask,
            past_key_values,
            labels,
            use_cache,
        )


class _EncoderOf:
    """The encoder with its patches, as generation calls it."""

    main_input_name = "pixel_values"

    def __init__(self, model: Captioner) -> None:
        self._model = model

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutput:
        return BaseModelOutput(self._model.encode(pixel_values))

    __call__ = forward
