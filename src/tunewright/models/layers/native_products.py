"""The products of linear layers on a processor that multiplies bfloat16 (AVX-512 BF16, AMX).

Torch's own product is prepared for each shape by rules that leave a core idle for some sizes of a
packed batch, and reads a turned operand, as the gradient of a weight does, at half its speed. Here
one native product serves the three that a layer makes in training; bias, GELU and the rounding to
bfloat16 happen while a block is in the cache, and a weight's gradient is float32, never rounded. A
token's numbers are the same in any batch, to the bit. The query's, key's and value's layers of
attention read the same tokens, so they are one product.

Shape letters: N tokens, I inner and O outer width.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tunewright.models.layers.sublayers import (
    ACTIVATION,
    OwnLinear,
    Together,
    attention_inputs,
    is_hooked,
    is_intermediate,
)
from tunewright.native import native

SIDE = 32  # of a block, as in tiles.h
_MOST_PARTS = 3  # layers of one product, as in products.c
_COUNTS = "rows inner outer num_threads num_parts lays_out"
_PART_POINTERS = "weight bias output gradient d_weight d_bias"
_POINTERS = "values before toward back active onto d_values scratch"
# Attributes of tensors.
_BROUGHT, _BEFORE, _PASSED = "tunewright_brought", "tunewright_before", "tunewright_passed"


class _Part(ctypes.Structure):
    """`struct part` of products.c."""

    _fields_ = (
        ("size", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in _PART_POINTERS.split()),
    )


class _Call(ctypes.Structure):
    """`struct linear` of products.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _COUNTS.split()),
        ("parts", _Part * _MOST_PARTS),
        *((name, ctypes.c_void_p) for name in _POINTERS.split()),
    )


def use_native_products(model: nn.Module) -> None:
    """Gives a model's linear layers their native products, where the processor has some.

    GELU behind one becomes a part of it. What something else hooks on to is left alone.
    """
    for parent in list(model.modules()):
        for name, child in dict(parent.named_children()).items():
            if type(child) is not nn.Linear or is_hooked(child) or not _fits(child):
                continue
            made = Product.of(child)
            setattr(parent, name, made)
            if is_intermediate(parent):
                made.gelu, made.inside = True, [parent]
                setattr(parent, ACTIVATION, Activation(getattr(parent, ACTIVATION)))
    for parent, names in attention_inputs(model):
        layers = [getattr(parent, name) for name in names]
        if all(isinstance(layer, Product) for layer in layers):
            Together(layers, multiplied)


def has_native_products(model: nn.Module) -> bool:
    """Says whether some of a model's layers multiply here when they are given bfloat16."""
    return any(isinstance(module, Product) for module in model.modules())


def _fits(layer: nn.Linear) -> bool:
    """Says whether a layer is float32 on a CPU, with sides of 32s, and has products here."""
    parts = [layer.weight, *([] if layer.bias is None else [layer.bias])]
    plain = all(part.device.type == "cpu" and part.dtype == torch.float32 for part in parts)
    sides = all(side > 0 and side % SIDE == 0 for side in layer.weight.shape)
    return plain and sides and _library() is not None


def _library() -> Any:
    """Returns the native library if it has products, or None."""
    made = native()
    return made.library if made is not None and made.has_products else None


class Product(OwnLinear):
    """A linear layer whose products are native under autocast; else it is its parent.

    With `gelu` its output brings along GELU of it (Hendrycks & Gimpel 2016), for the activation
    behind it, as long as it stands where it was put: an adapter around it adds to what comes
    before.
    """

    gelu: bool = False
    inside: Sequence[nn.Module] = ()
    together: Together[Product] | None = None

    def forward(self, values: Tensor) -> Tensor:
        if not self._is_narrow(values):
            return super().forward(values)
        found = None if self.together is None else self.together.answer(self, values)
        return multiplied([self], values)[0] if found is None else found

    @property
    def gives_gelu(self) -> bool:
        return self.gelu and all(parent.dense is self for parent in self.inside)

    @property
    def gives_only_gelu(self) -> bool:
        """Says whether nothing but the activation behind it can read its output."""
        behind = [getattr(parent, ACTIVATION, None) for parent in self.inside]
        alone = all(isinstance(each, Activation) and not is_hooked(each) for each in behind)
        return bool(behind) and alone and self.gives_gelu and not is_hooked(self)

    def _is_narrow(self, values: Tensor) -> bool:
        """Says whether a product here is of bfloat16 numbers, and native."""
        narrow = torch.is_autocast_enabled("cpu") and self.weight.dtype == torch.float32
        narrow = narrow and torch.get_autocast_dtype("cpu") == torch.bfloat16
        fits = values.numel() > 0 and values.shape[-1] == self.in_features
        return narrow and fits and _library() is not None


class Activation(nn.Module):
    """GELU behind a layer that brings it along, or whatever else stands there by now.

    The product that reads GELU asks for the gradient of what came before it; of GELU itself there
    is then none to be had.
    """

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, values: Tensor) -> Tensor:
        brought: _Brought | None = getattr(values, _BROUGHT, None)
        found = None if brought is None else brought.given(values)
        if found is None:
            found = self.plain(values)
        return found


class _Brought:
    """What an output brings along, once: GELU of it or, where nothing learns, that it is that."""

    def __init__(self, output: Tensor, active: Tensor | None) -> None:
        self._is_gelu, self._active = active is None, active
        self._version = None if active is None else output._version

    def given(self, output: Tensor) -> Tensor | None:
        """Returns GELU of the output; None where that was given, or the output changed since."""
        if self._is_gelu:
            return output
        active, self._active = self._active, None
        if active is None or output._version != self._version:
            return None
        found: Tensor = _Gelu.apply(output, active)  # type: ignore[no-untyped-call]
        setattr(found, _BEFORE, (output, output._version, found._version, found.grad_fn))
        return found


def _before_gelu(values: Tensor) -> Tensor | None:
    """Returns what values are GELU of, if neither changed and nothing else waits for a gradient."""
    before, *then = getattr(values, _BEFORE, (None,))
    if before is None or values.grad_fn is None or values._backward_hooks or values.retains_grad:
        return None
    now = [before._version, values._version, values.grad_fn]
    found: Tensor | None = before if then == now else None
    return found


def multiplied(layers: Sequence[Product], values: Tensor) -> tuple[Tensor, ...]:
    """Returns each layer's output for the values, bfloat16; only one alone may bring GELU along."""
    narrow, first = values.to(torch.bfloat16), layers[0]
    parameters = [each for layer in layers for each in (layer.weight, layer.bias)]
    if not torch.is_grad_enabled():
        kept, only_gelu = first.kept if first.keeps else None, first.gives_only_gelu
        outputs, active, panels = _multiply(
            narrow, parameters, only_gelu, kept, only_gelu=only_gelu
        )
        first.kept = panels if first.keeps else None
        if active is None:
            return outputs
        setattr(active, _BROUGHT, _Brought(active, None))
        return (active,)
    before = _before_gelu(values) if narrow is values else None
    passes = narrow is values and before is None and values.requires_grad
    *outputs, passed = _Linear.apply(  # type: ignore[no-untyped-call]
        narrow if before is None else narrow.detach(),
        before,
        first.gives_gelu,
        passes,
        *parameters,
    )
    if passes:
        setattr(values, _PASSED, (passed, values._version))
    if first.gives_gelu:
        output, active = outputs
        setattr(output, _BROUGHT, _Brought(output, active))
        return (output,)
    return tuple(outputs)


def passed(values: Tensor) -> Tensor:
    """Returns the same numbers as they came through the product that read them before, once.

    What adds to them, as a residual connection does, then hands its gradient to that product, where
    the sum of both costs no pass of its own. Values that no product has read are returned as they
    are, and so are those that changed since.
    """
    found, version = values.__dict__.pop(_PASSED, (None, 0))
    return values if found is None or version != values._version else found


def ready_product(rows: int, inner: int, outer: int) -> Callable[[], object] | None:
    """Returns a product of random numbers, its weight laid out, to be timed; None without native.

    It is (rows, inner) by (inner, outer), as a linear layer has it that only answers.
    """
    if _library() is None:
        return None
    values, weight = torch.randn(rows, inner).to(torch.bfloat16), torch.randn(outer, inner)
    *_, panels = _multiply(values, [weight, None], gelu=False)
    return lambda: _multiply(values, [weight, None], False, panels)


def _weights(parameters: Sequence[Tensor | None]) -> list[Tensor]:
    return [weight for weight in parameters[::2] if weight is not None]


def _multiply(
    values: Tensor,
    parameters: Sequence[Tensor | None],
    gelu: bool,
    toward: Tensor | None = None,
    back: Tensor | None = None,
    only_gelu: bool = False,
) -> tuple[tuple[Tensor, ...], Tensor | None, Tensor]:
    """Returns the outputs, GELU of the one where asked, and the weights' panels for the next time.

    `parameters` are a weight and a bias, or None, of each part. The panels are laid out here unless
    they are given; `back` is room for those of the gradient. With `only_gelu` there is no other
    output.
    """
    values, call = values.contiguous(), _call(values, parameters)
    held = [None if each is None else each.contiguous() for each in parameters]
    sizes = [len(weight) for weight in _weights(parameters)]
    around = values.shape[:-1]
    outputs = tuple(values.new_empty(*around, size) for size in sizes if not only_gelu)
    active = values.new_empty(*around, sizes[0]) if gelu else None
    if toward is None or len(toward) != call.outer * call.inner:  # or those of another grouping
        toward, call.lays_out = _narrow(call.outer * call.inner), True
    for place, part in enumerate(call.parts[: len(sizes)]):
        output = outputs[place] if outputs else None
        _point(part, weight=held[2 * place], bias=held[2 * place + 1], output=output)
    _point(call, values=values, toward=toward, back=back, active=active)
    _library().linear(ctypes.byref(call))
    return outputs, active, toward


class _Linear(torch.autograd.Function):
    """values weightᵀ + bias for each part, and GELU of the one where asked.

    With `before`, of which the values are GELU, the gradient is that of `before`. Last come, where
    it `passes` them on, the values themselves.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        before: Tensor | None,
        gelu: bool,
        passes: bool,
        *parameters: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        numbers = sum(weight.numel() for weight in _weights(parameters))
        back = _narrow(numbers) if any(ctx.needs_input_grad[:2]) else None
        outputs, active, _ = _multiply(values, parameters, gelu, back=back)
        # Not the values themselves: they hold what is passed on, which would hold them.
        ctx.save_for_backward(values.detach(), before, back, *parameters)
        ctx.set_materialize_grads(False)
        onward = values.data if passes else None  # as `active` below
        if active is None:
            return *outputs, onward
        ctx.mark_non_differentiable(active)
        return *outputs, active, onward

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        values, before, back, *parameters = ctx.saved_tensors
        wanted, onto = ctx.needs_input_grad[4:], gradients[-1]
        values, call = values.contiguous(), _call(values, parameters)
        given = [
            values.new_zeros(*values.shape[:-1], len(weight))
            if gradient is None
            else gradient.to(torch.bfloat16).contiguous()
            for gradient, weight in zip(gradients, _weights(parameters), strict=False)
        ]
        found = [
            None
            if each is None or not wants
            else torch.empty_like(each, memory_format=torch.contiguous_format)
            for each, wants in zip(parameters, wanted, strict=True)
        ]
        for part, gradient, weight, bias in zip(
            call.parts, given, found[::2], found[1::2], strict=False
        ):
            _point(part, gradient=gradient, d_weight=weight, d_bias=bias)
        d_values = torch.empty_like(values) if any(ctx.needs_input_grad[:2]) else None
        scratch = None
        if any(wanted):
            size = _library().linear_scratch(call.num_threads)
            scratch = torch.empty(size, dtype=torch.uint8)
        onto = None if onto is None else onto.to(torch.bfloat16).contiguous()
        _point(call, values=values, before=before, back=back, onto=onto, d_values=d_values,
               scratch=scratch)  # fmt: skip
        _library().linear_back(ctypes.byref(call))
        to_values, to_before = (d_values, None) if before is None else (None, d_values)
        return to_values, to_before, None, None, *found


class _Gelu(torch.autograd.Function):
    """GELU that is there already; the gradient is for those that do not ask for what was before."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, active: Tensor) -> Tensor:
        ctx.save_for_backward(output)
        return active.data  # not a view: what is changed in place learns as usual

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (output,) = ctx.saved_tensors
        return torch.ops.aten.gelu_backward(gradients[0], output), None


def _call(values: Tensor, parameters: Sequence[Tensor | None]) -> _Call:
    """Returns a call with its sizes."""
    weights, inner = _weights(parameters), values.shape[-1]
    call = _Call(
        rows=values.numel() // inner, inner=inner, outer=sum(map(len, weights)),
        num_parts=len(weights), num_threads=torch.get_num_threads(),
    )  # fmt: skip
    for part, weight in zip(call.parts, weights, strict=False):
        part.size = len(weight)
    return call


def _point(call: _Call | _Part, **tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        setattr(call, name, None if tensor is None else tensor.data_ptr())


def _narrow(number: int) -> Tensor:
    return torch.empty(number, dtype=torch.bfloat16)
