"""Our encoder-decoder in CTranslate2, with the same weights, for `benchmarks.seq2seq_speed`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from ctranslate2 import Translator, get_supported_compute_types
from ctranslate2.specs import transformer_spec
from torch import nn

from tunewright.models.transformer import Transformer
from tunewright.models.transformer.positions import sinusoids

COMPUTE_TYPES = ("float32", "bfloat16", "int8_float32", "int8_bfloat16")


def compute_types() -> list[str]:
    """Returns the ways of computing that CTranslate2 has on this machine."""
    return [name for name in COMPUTE_TYPES if name in get_supported_compute_types("cpu")]


def convert(model: Transformer, folder: Path, end: int) -> None:
    """Writes a model with sinusoidal positions, norms first and ReLU; its tokens are numbers."""
    config = model.config
    assert (config.positions, config.norm_first, config.activation) == ("sinusoidal", True, "relu")
    layers = (config.num_hidden_layers, config.num_decoder_layers)
    spec = transformer_spec.TransformerSpec.from_config(layers, config.num_attention_heads)
    for stack, to in ((model.encoder, spec.encoder), (model.decoder, spec.decoder)):
        _norm(to.layer_norm, stack.norm)
        positions = sinusoids(
            config.max_position_embeddings, config.hidden_size, torch.device("cpu")
        )
        to.position_encodings.encodings = positions.numpy()
        for layer, layer_to in zip(stack.layers, to.layer, strict=True):
            _attention(layer_to.self_attention, layer.attention, layer.attention_norm, 3)
            if stack is model.decoder:
                _attention(layer_to.attention, layer.cross_attention, layer.cross_attention_norm, 1)
            _linear(layer_to.ffn.linear_0, layer.feed_forward.inner)
            _linear(layer_to.ffn.linear_1, layer.feed_forward.outer)
            _norm(layer_to.ffn.layer_norm, layer.feed_forward_norm)
    table = _array(model.embedding.weight)
    spec.encoder.embeddings[0].weight = spec.decoder.embeddings.weight = table
    spec.decoder.projection.weight = table
    tokens = [str(number) for number in range(config.vocab_size)]
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.config.decoder_start_token = str(config.decoder_start_token_id)
    spec.config.eos_token, spec.config.bos_token, spec.config.unk_token = str(end), "1", "0"
    folder.mkdir()
    spec.validate()
    spec.optimize()
    spec.save(str(folder))


def _attention(to: Any, attention: Any, norm: nn.LayerNorm, num_fused: int) -> None:
    """The first product makes queries, keys and values (3), or queries alone (1)."""
    parts = (attention.query, attention.key, attention.value)
    groups = [parts] if num_fused == len(parts) else [parts[:1], parts[1:]]
    for each, group in zip(to.linear[:-1], groups, strict=True):
        each.weight = _array(torch.cat([part.weight for part in group]))
        each.bias = _array(torch.cat([part.bias for part in group]))
    _linear(to.linear[-1], attention.output)
    _norm(to.layer_norm, norm)


def _linear(to: Any, linear: nn.Linear) -> None:
    to.weight, to.bias = _array(linear.weight), _array(linear.bias)


def _norm(to: Any, norm: nn.LayerNorm) -> None:
    to.gamma, to.beta = _array(norm.weight), _array(norm.bias)


def _array(values: torch.Tensor) -> Any:
    return values.detach().float().numpy()


class Peer:
    """A converted model, opened for one way of computing in a process of its own.

    Its threads would slow down those of torch, which has another OpenMP library.
    """

    def __init__(self, folder: Path, compute_type: str) -> None:
        self._process = ProcessPoolExecutor(
            1, get_context("spawn"), _open, (str(folder), compute_type, torch.get_num_threads())
        )

    def write(self, sources: Sequence[Sequence[int]], beams: int, most: int) -> list[list[int]]:
        """Returns the best text of each source, as token ids; each has as many as it may."""
        return self._process.submit(_write, sources, beams, most).result()


_opened: list[Translator] = []  # in the other process


def _open(folder: str, compute_type: str, num_threads: int) -> None:
    made = Translator(folder, device="cpu", compute_type=compute_type, intra_threads=num_threads)
    _opened.append(made)


def _write(sources: Sequence[Sequence[int]], beams: int, most: int) -> list[list[int]]:
    found = _opened[0].translate_batch(
        [[str(token) for token in source] for source in sources],
        beam_size=beams,
        max_batch_size=128,
        min_decoding_length=most,
        max_decoding_length=most,
        max_input_length=0,
    )
    return [[int(token) for token in each.hypotheses[0]] for each in found]
