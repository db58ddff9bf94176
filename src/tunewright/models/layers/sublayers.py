"""The parts of an encoder's layers, found by what they have and what they answer.

Families name and arrange them alike, or else they are left as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

ACTIVATION = "intermediate_act_fn"
WIDEST = 8192  # of a row that is normalised, as in layers.c
_INTERMEDIATE = {"dense", ACTIVATION}  # of BERT and its kin: activation(dense(values))
_TOLERANCE = 1e-4
# What families call the layers that attention reads its tokens through.
_ATTENTION = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
)


def is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def is_gelu(activation: nn.Module) -> bool:
    """Says whether a module is GELU (Hendrycks & Gimpel 2016), from its answer."""
    values = torch.linspace(-4, 4, 33)
    found = None if is_hooked(activation) else activation(values)
    return found is not None and torch.equal(found, nn.functional.gelu(values))


def is_intermediate(module: nn.Module) -> bool:
    """Says whether a module is gelu(dense(values))."""
    children = dict(module.named_children())
    return children.keys() == _INTERMEDIATE and is_gelu(children[ACTIVATION])


def is_sublayer_end(module: nn.Module) -> bool:
    """Says whether a module is norm(residual + dropout(dense(values))), whatever it is called."""
    parts: dict[str, Any] = dict(module.named_children())
    if parts.keys() != {"dense", "LayerNorm", "dropout"} or is_hooked(module):
        return False
    norm, width = parts["LayerNorm"], getattr(parts["dense"], "in_features", 0)
    plain = type(norm) is nn.LayerNorm and norm.elementwise_affine and norm.bias is not None
    if not (plain and width) or len(norm.normalized_shape) > 1 or norm.normalized_shape[0] > WIDEST:
        return False
    if norm.weight.dtype != torch.float32:
        return False
    generator, device = torch.Generator().manual_seed(0), norm.weight.device
    values_ND = torch.randn(3, width, generator=generator).to(device)
    residual_ND = torch.randn(3, norm.normalized_shape[0], generator=generator).to(device)
    was_training = module.training
    try:
        with torch.no_grad():
            found = module.eval()(values_ND, residual_ND)
            expected = norm(parts["dense"](values_ND) + residual_ND)
        return bool((found - expected).abs().max() <= _TOLERANCE)
    except Exception:  # a stranger's forward that takes something else
        return False
    finally:
        module.train(was_training)


def attention_inputs(model: nn.Module) -> Iterator[tuple[nn.Module, Sequence[str]]]:
    """Yields who holds the query's, key's and value's layers, and their names.

    A model that reads a source has others behind the same names, so none of its are.
    """
    reads_a_source = any(
        getattr(getattr(module, "config", None), name, False)
        for module in model.modules()
        for name in ("is_encoder_decoder", "add_cross_attention")
    )
    for parent in () if reads_a_source else list(model.modules()):
        for names in _ATTENTION:
            layers = [getattr(parent, name, None) for name in names]
            linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
            if len(linear) == len(names) and len({each.in_features for each in linear}) == 1:
                yield parent, names


class Keeping:
    """A layer that can keep its weights in the form that its product reads."""

    keeps: bool = False
    kept: Tensor | None = None


class OwnLinear(nn.Linear, Keeping):
    """A linear layer in the place of a library's, over its parameters."""

    @classmethod
    def of(cls, layer: nn.Linear) -> Self:
        """Returns the layer over the same parameters."""
        with torch.device("meta"):
            made = cls(layer.in_features, layer.out_features, layer.bias is not None)
        made.weight, made.bias = layer.weight, layer.bias
        made.train(layer.training)
        return made


class SublayerParts(nn.Module):
    """The parts of a sublayer's end, under the names of the module that it stands for.

    The last one of a model widens its result for the head.
    """

    dense: nn.Module
    dropout: nn.Module
    LayerNorm: nn.LayerNorm

    def __init__(self, plain: Any) -> None:
        super().__init__()
        self.dense, self.LayerNorm, self.dropout = plain.dense, plain.LayerNorm, plain.dropout
        self.is_last = False
        self.train(plain.training)


@contextmanager
def kept_weights(model: nn.Module) -> Iterator[None]:
    """Lays out each weight of the model once for all answers of a block, not for each pass.

    The weights must not change meanwhile.
    """
    keeping = [module for module in model.modules() if isinstance(module, Keeping)]
    for each in keeping:
        each.keeps, each.kept = True, None
    try:
        yield
    finally:
        for each in keeping:
            each.keeps, each.kept = False, None


Layer = TypeVar("Layer", bound=Any)


class Together(Generic[Layer]):
    """Layers that are asked for the same values one after the other, and answer all at once.

    `multiplied` makes the answers; each layer's own `together` is this. Where the others turn out
    to be asked for something else, as in attention to a source, or by another thread, each answers
    for itself from then on.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        multiplied: Callable[[Sequence[Layer], Tensor], tuple[Tensor, ...]],
    ) -> None:
        self._layers, self._multiplied = list(layers), multiplied
        self._asked: tuple[Tensor | None, dict[int, Tensor]] = None, {}
        for layer in layers:
            layer.together = self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_asked": (None, {})}

    def answer(self, layer: Layer, values: Tensor) -> Tensor | None:
        """Returns a layer's output for the values, or None where it has to find it alone."""
        place = next(i for i, each in enumerate(self._layers) if each is layer)
        read, ready = self._asked
        if place == 0:
            read, ready = values, dict(enumerate(self._multiplied(self._layers, values)))
            self._asked = read, ready
        found = ready.pop(place, None) if read is values else None
        if found is None:
            for each in self._layers:
                each.together = None
        if found is None or not ready:
            self._asked = None, {}
        return found
