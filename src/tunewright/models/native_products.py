"""The products of linear layers on a processor with matrix tiles (AMX).

Torch's own product is prepared for each shape by rules that leave a core idle for some sizes of a
packed batch, and reads a turned operand, as the gradient of a weight does, at half its speed. Here
one native product serves the three that a layer makes in training; bias, GELU and the rounding to
bfloat16 happen while a block is in the cache, and a weight's gradient is float32, never rounded. A
token's numbers are the same in any batch, to the bit.

Shape letters: N tokens, I inner and O outer width.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tunewright.native import native

SIDE = 32  # of a block, as in products.c
_CHUNK = 512  # tokens that a gradient is summed over at a time, as in products.c
_POINTERS = (
    "values weight bias toward back output active gradient d_output d_values d_weight d_bias left "
    "right sums"
)


class _Call(ctypes.Structure):
    """`struct linear` of products.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "inner", "outer", "gelu", "num_threads")),
        *((name, ctypes.c_void_p) for name in _POINTERS.split()),
    )


def use_native_products(model: nn.Module) -> None:
    """Gives a model's linear layers their native products, where the processor has tiles.

    GELU behind one becomes a part of it. What something else hooks on to is left alone.
    """
    for parent in list(model.modules()):
        children = dict(parent.named_children())
        for name, child in children.items():
            if type(child) is not nn.Linear or _is_hooked(child) or not _fits(child):
                continue
            made = Product.of(child)
            setattr(parent, name, made)
            if children.keys() == _INTERMEDIATE and _is_gelu(children[_ACTIVATION]):
                made.gelu = True
                setattr(parent, _ACTIVATION, nn.Identity())


_ACTIVATION = "intermediate_act_fn"
_INTERMEDIATE = {"dense", _ACTIVATION}  # of BERT and its kin: activation(dense(values))


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _is_gelu(activation: nn.Module) -> bool:
    values = torch.linspace(-4, 4, 33)
    found = None if _is_hooked(activation) else activation(values)
    return found is not None and torch.equal(found, nn.functional.gelu(values))


def _fits(layer: nn.Linear) -> bool:
    """Says whether a layer is float32 on a CPU, with sides of 32s, and there are tiles for it."""
    parts = [layer.weight, *([] if layer.bias is None else [layer.bias])]
    plain = all(part.device.type == "cpu" and part.dtype == torch.float32 for part in parts)
    return plain and not any(side % SIDE for side in layer.weight.shape) and _tiles() is not None


def _tiles() -> Any:
    """Returns the native library if it has products, or None."""
    made = native()
    return made.library if made is not None and made.has_tiles else None


class Product(nn.Linear):
    """A linear layer whose products are native under autocast; else it is its parent.

    With `gelu` it gives GELU of them, exact (Hendrycks & Gimpel 2016).
    """

    gelu: bool = False
    kept: Tensor | None = None
    keeps: bool = False

    @classmethod
    def of(cls, layer: nn.Linear) -> Product:
        """Returns the layer over the same parameters."""
        with torch.device("meta"):
            made = cls(layer.in_features, layer.out_features, layer.bias is not None)
        made.weight, made.bias = layer.weight, layer.bias
        made.train(layer.training)
        return made

    def forward(self, values: Tensor) -> Tensor:
        if self._is_narrow(values):
            narrow = values.to(torch.bfloat16)
            if self.keeps and not torch.is_grad_enabled():
                output, active, self.kept = _multiply(
                    narrow, self.weight, self.bias, self.gelu, self.kept
                )
                return output if active is None else active
            found: Tensor = _Linear.apply(  # type: ignore[no-untyped-call]
                narrow, self.weight, self.bias, self.gelu
            )
            return found
        plain = super().forward(values)
        return nn.functional.gelu(plain) if self.gelu else plain

    def _is_narrow(self, values: Tensor) -> bool:
        """Says whether a product here is of bfloat16 numbers, and native."""
        narrow = torch.is_autocast_enabled("cpu") and self.weight.dtype == torch.float32
        narrow = narrow and torch.get_autocast_dtype("cpu") == torch.bfloat16
        return narrow and values.numel() > 0 and _tiles() is not None


@contextmanager
def kept_panels(model: nn.Module) -> Iterator[None]:
    """Lays out each weight of the model once for all answers of a block, not for each pass.

    The weights must not change meanwhile.
    """
    products = [module for module in model.modules() if isinstance(module, Product)]
    for product in products:
        product.keeps = True
    try:
        yield
    finally:
        for product in products:
            product.keeps, product.kept = False, None


def _multiply(
    values: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gelu: bool,
    toward: Tensor | None = None,
    back: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Returns the output, GELU of it where asked, and the weight's panels for the next time.

    They are laid out here unless they are given; `back` is room for those of the gradient.
    """
    values, weight = values.contiguous(), weight.contiguous()
    output = values.new_empty(*values.shape[:-1], len(weight))
    active = torch.empty_like(output) if gelu else None
    call = _call(values, weight, gelu)
    if toward is None:
        toward = _narrow(weight.numel())
        _point(call, weight=weight, back=back)
    _point(call, bias=bias, toward=toward, output=output, active=active)
    _tiles().linear(ctypes.byref(call))
    return output, active, toward


class _Linear(torch.autograd.Function):
    """values weightᵀ + bias, and GELU of that where asked."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool
    ) -> Tensor:
        back = _narrow(weight.numel()) if ctx.needs_input_grad[0] else None
        output, active, _ = _multiply(values, weight, bias, gelu, back=back)
        ctx.save_for_backward(values, weight, back, output if gelu else None)
        return output if active is None else active

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, back, output = ctx.saved_tensors
        to_values, to_weight, to_bias, _ = ctx.needs_input_grad
        values = values.contiguous()
        (outer, inner), gradient = weight.shape, gradients[0].to(torch.bfloat16).contiguous()
        call = _call(values, weight, output is not None)
        rows, padded = call.rows, -(-call.rows // SIDE) * SIDE
        d_values = torch.empty_like(values) if to_values else None
        d_weight = torch.empty_like(weight) if to_weight else None
        d_bias = weight.new_empty(outer) if to_bias else None
        d_output = torch.empty_like(output) if output is not None else None
        left = right = sums = None
        if to_weight or to_bias or output is not None:
            left = _narrow(padded * outer)
            sums = weight.new_empty(-(-rows // _CHUNK), outer)
        if to_weight:
            right = _narrow(padded * inner)
        _point(call, back=back, output=output, gradient=gradient, d_output=d_output,
               d_values=d_values, d_weight=d_weight, d_bias=d_bias, left=left, right=right,
               sums=sums)  # fmt: skip
        _tiles().linear_back(ctypes.byref(call))
        return d_values, d_weight, d_bias, None


def _call(values: Tensor, weight: Tensor, gelu: bool) -> _Call:
    outer, inner = weight.shape
    call = _Call(rows=values.numel() // inner, inner=inner, outer=outer, gelu=gelu,
                 num_threads=torch.get_num_threads())  # fmt: skip
    _point(call, values=values)
    return call


def _point(call: _Call, **tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        setattr(call, name, None if tensor is None else tensor.data_ptr())


def _narrow(number: int) -> Tensor:
    return torch.empty(number, dtype=torch.bfloat16)
