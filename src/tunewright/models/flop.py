"""Floating-point operations of real tokens: no padding, no recomputation.

With s the length of a sequence, P the parameters that take part in matrix products, L layers and
d = heads x head width: training is 6 P s + 12 L d s², inference 2 P s + 4 L d s²; half the square
term for causal attention (Kaplan et al. 2020, appendix, with the attention term added). A layer
whose tokens see those at a distance under w has s (2 w - 1) - w (w - 1) pairs of them in place of
s², where s is more than w. The head of a language model, of H parameters, costs 6 H and 2 H for
each token whose score is asked for. Weights that are frozen get no gradient, so that training costs
2 less for each at every token; layers with nothing that learns in or below them cost their forward
pass alone (of an encoder-decoder the encoder, and no single layers of either). A token of an
encoder-decoder's source goes through the encoder and through the keys and values that the decoder
makes of it, one of a target through the rest of the decoder; a target of t tokens has s t pairs
with its source in each layer.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tunewright.models.depths import depth_of
from tunewright.types import Features

# A part's name in an encoder-decoder, with an adapter's layers under that of the layer they adapt.
_CROSS = re.compile(r"\.(?:cross_?att(?:entio)?n|encoder_attn|EncDecAttention)\.")
_KEY = re.compile(r"\.(?:key|k_proj|k)(?:\.base_layer)?$")
_FUSED = re.compile(r"\.c_attn(?:\.base_layer)?$")
_KEY_OR_VALUE = re.compile(r"\.(?:key|value|[kv]_proj|[kv]|c_attn)(?:\.|$)")
_READS = re.compile(r"^(?!.*decoder\.)(?:.*\.)?(?:encoder|patches|shared|embed\w*)\.")
_STACK = re.compile(r"(?:^|\.)(?:encoder|decoder|patches)\.")
_TARGET = re.compile(r"(?:^|/)target$")


@dataclass(frozen=True)
class FlopCount:
    """What one token and one pair of tokens cost in a model; of the parameters some are frozen.

    `attention_width` is of the layers whose tokens see all of a text, `windows` have that of the
    others with the distance that they see. `head_parameters` score the words of a vocabulary.
    `below` are the layers that no gradient goes through, which are among the others. A `decoder`
    writes targets, whose tokens meet those of their source in layers of `cross_width`.
    """

    matrix_parameters: int
    attention_width: float
    frozen_parameters: int = 0
    windows: tuple[tuple[int, float], ...] = ()
    head_parameters: int = 0
    frozen_head: int = 0
    below: FlopCount | None = None
    decoder: FlopCount | None = None
    cross_width: float = 0

    @classmethod
    def of(cls, model: Any) -> Self:
        """Counts the linear layers of the backbone and, of a language model, of its head.

        Other heads see one token a text, or make a few numbers of each, and are left out.
        """
        config = model.config
        if config.is_encoder_decoder:
            return cls._of_two_stacks(getattr(model, "first", model))
        named = dict(model.base_model.named_modules())
        top = config.num_hidden_layers
        learning = [name for name, p in model.base_model.named_parameters() if p.requires_grad]
        inside = (name for name in learning if not name.startswith("pooler"))  # of the head's
        lowest = min((depth_of(name, top) for name in inside), default=top + 1)
        sizes = [(name, _num_passes(name, config) * _size(m), m) for name, m in _linear(named)]
        layers = [(size, m) for name, size, m in sizes if depth_of(name, top) >= lowest]
        below = [(size, m) for name, size, m in sizes if depth_of(name, top) < lowest]
        head = [(_size(m), m) for _, m in _linear(_head(model))]
        head_width = getattr(config, "head_dim", None)
        width = head_width * config.num_attention_heads if head_width else config.hidden_size
        causal = any(getattr(m, "is_causal", False) for m in named.values())
        width *= 0.5 if causal else 1.0
        seen = _windows(model.base_model, config)
        return cls(
            sum(size for size, _ in [*layers, *below]),
            *_attention(seen, width, _frozen(layers)),
            sum(size for size, _ in head),
            _frozen(head),
            cls(sum(size for size, _ in below), *_attention(seen[: max(lowest - 1, 0)], width, 0))
            if below
            else None,
        )

    @classmethod
    def _of_two_stacks(cls, model: Any) -> Self:
        layers: dict[str, list[tuple[int, nn.Module]]] = defaultdict(list)
        widths: Counter[str] = Counter()
        table = _table(model)
        for name, size, layer in _of_stacks(model, table):
            stack = "decoder" if "decoder" in name.split(".") else "encoder"
            of_source = bool(_CROSS.search(name) and _KEY_OR_VALUE.search(name))
            place = "memory" if of_source else stack
            layers[place].append((size, layer))
            widths[place] += _width(name, layer)
        read, memory, written = (layers[name] for name in ("encoder", "memory", "decoder"))
        reads = (p for name, p in model.named_parameters() if _READS.search(name))
        learns = any(p.requires_grad for p in reads)
        encoder = cls(sum(size for size, _ in read), widths["encoder"])
        return cls(
            encoder.matrix_parameters + sum(size for size, _ in memory),
            encoder.attention_width,
            _frozen([*read, *memory] if learns else memory),
            below=None if learns else encoder,
            decoder=cls(
                sum(size for size, _ in written),
                0.5 * widths["decoder"],
                _frozen(written),
                head_parameters=0 if table is None else table.numel(),
                frozen_head=0 if table is None or table.requires_grad else table.numel(),
            ),
            cross_width=widths["memory"],
        )

    @property
    def all_matrices(self) -> int:
        """The numbers of all matrices, of both stacks and of what scores a vocabulary."""
        decoder = self.decoder.all_matrices if self.decoder else 0
        return self.matrix_parameters + self.head_parameters + decoder

    def inference(self, lengths: Sequence[int], num_scored: float = 0) -> float:
        """Returns the operations of a forward pass over sequences of these lengths.

        `num_scored` are the tokens that a language model's head is asked about.
        """
        attention = self.attention_width * _num_pairs(lengths)
        attention += sum(width * _num_pairs(lengths, window) for window, width in self.windows)
        products = self.matrix_parameters * sum(lengths) + self.head_parameters * num_scored
        return 2.0 * products + 4.0 * attention

    def update(self, features: Sequence[Features], num_scored: float = 0) -> float:
        """Returns the operations of a forward and a backward pass over all streams of inputs."""
        if self.decoder is None:
            every = [length for item in features for length in item.lengths]
            return self.training(every, num_scored)
        pairs = [_source_and_target(item) for item in features]
        read = self.training([source for source, _ in pairs])
        written = self.decoder.training([target for _, target in pairs], num_scored)
        met = sum(source * target for source, target in pairs)
        return read + written + 12.0 * self.cross_width * met

    def training(self, lengths: Sequence[int], num_scored: float = 0) -> float:
        """Returns the operations of a forward and a backward pass."""
        frozen = self.frozen_parameters * sum(lengths) + self.frozen_head * num_scored
        spared = 0.0 if self.below is None else self.below.inference(lengths)
        return 3.0 * self.inference(lengths, num_scored) - 2.0 * frozen - 2.0 * spared


def _of_stacks(model: Any, table: Tensor | None) -> Iterator[tuple[str, int, Any]]:
    """Yields what multiplies in both stacks: name, numbers used for a token or patch, layer."""
    own = getattr(model, "patches", None)
    halvings = {id(layer): place for place, layer in enumerate(reversed(own.convolutions))
                } if own is not None else {}  # fmt: skip
    for name, layer in model.named_modules():
        if not _STACK.search(name) or ".pooler." in name or getattr(layer, "weight", None) is table:
            continue
        if isinstance(layer, nn.Conv2d):  # each of our own has four outputs for one of the next
            yield name, 4 ** halvings.get(id(layer), 0) * layer.weight.numel(), layer
        elif isinstance(layer, nn.Linear | Conv1D):
            yield name, _size(layer), layer


def _width(name: str, layer: Any) -> int:
    """Returns how wide the keys are that a layer makes, 0 for one that makes none."""
    if _FUSED.search(name):  # beside values, and beside queries where it reads its own stack
        return int(layer.nf) // (2 if _CROSS.search(name) else 3)
    return int(layer.out_features) if _KEY.search(name) else 0


def _table(model: Any) -> Tensor | None:
    """Returns what scores the next token; a model may only classify."""
    if not model.can_generate():
        return None
    layer = model.get_output_embeddings() or model.get_input_embeddings()
    return layer.weight


def _source_and_target(item: Features) -> tuple[int, int]:
    """Returns their tokens; a text that is classified goes through both stacks."""
    targets = [len(stream) for name, stream in item.streams.items() if _TARGET.search(name)]
    return item.num_tokens - sum(targets), sum(targets) or item.num_tokens


def _attention(
    seen: Sequence[int | None], width: float, frozen: int
) -> tuple[float, int, tuple[tuple[int, float], ...]]:
    """Returns the widths of layers that see all of a text, what is frozen, and those of others."""
    counts = Counter(seen)
    whole = counts.pop(None, 0) * width
    return whole, frozen, tuple((w, n * width) for w, n in counts.items() if w is not None)


def _num_pairs(lengths: Sequence[int], window: int | None = None) -> int:
    """Returns how many pairs of tokens see each other, at a distance under `window`."""
    if window is None:
        return sum(length * length for length in lengths)
    seen = [(length, min(length, window)) for length in lengths]
    return sum(length * (2 * near - 1) - near * (near - 1) for length, near in seen)


def _linear(modules: Mapping[str, nn.Module]) -> list[tuple[str, nn.Linear | Conv1D]]:
    return [(name, m) for name, m in modules.items() if isinstance(m, nn.Linear | Conv1D)]


def _head(model: Any) -> dict[str, nn.Module]:
    """Returns what scores a vocabulary behind the backbone, by name.

    Nothing in other models, nor where several tasks share a backbone: not all of them score one.
    """
    outputs = getattr(model, "get_output_embeddings", None)
    if outputs is None or outputs() is None:
        return {}
    backbone = {id(module) for module in model.base_model.modules()}
    return {name: m for name, m in model.named_modules() if id(m) not in backbone}


def _frozen(layers: Sequence[tuple[int, nn.Linear | Conv1D]]) -> int:
    return sum(size for size, layer in layers if not layer.weight.requires_grad)


def _windows(backbone: nn.Module, config: Any) -> list[int | None]:
    """Returns for each layer the distance under which a token sees others; None: it sees all."""
    told: list[Any] = [m.sliding_window for m in backbone.modules() if hasattr(m, "sliding_window")]
    if len(told) == config.num_hidden_layers:
        return told
    return [getattr(config, "sliding_window", None)] * config.num_hidden_layers


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
