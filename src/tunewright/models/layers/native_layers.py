"""What stands between an encoder's linear layers, in one pass over memory each.

Under autocast torch widens a sublayer's result, adds, normalises, and narrows it again for each
product that reads it; the activation of a feed-forward layer is its slowest pass. Here both are
native code that reads and writes the narrow numbers and computes in float32. Weights, their names
and what is computed stay the library's.

Shape letters: N tokens, D width.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.models.layers.dropout import Dropout, scale_of
from tunewright.models.layers.native_products import passed, use_native_products
from tunewright.models.layers.sublayers import SublayerParts, is_sublayer_end
from tunewright.native import native, native_for

_ROWS = 32  # of a part, as in layers.c


def use_native_layers(model: Any) -> None:
    """Gives a model's linear layers, and the ends of its sublayers, their native form.

    A sublayer's end is taken over if it has the parts and gives the numbers of norm(residual +
    dropout(dense(values))), whatever its family calls it. The last one of a model widens its
    result for the head. Whatever something else hooks on to is left alone.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            known = isinstance(child, SublayerEnd) or not _is_on_cpu(child)
            if not known and is_sublayer_end(child):
                setattr(parent, name, SublayerEnd(child))
    use_native_products(model)
    ends = [module for module in model.modules() if isinstance(module, SublayerEnd)]
    for end in ends:
        end.is_last = end is ends[-1]


def _is_on_cpu(module: nn.Module) -> bool:
    return all(each.device.type == "cpu" for each in module.parameters())


class SublayerEnd(SublayerParts):
    """norm(residual + dropout(dense(values))), with the parts of the module that it stands for."""

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        values, dropout, norm = self.dense(hidden_states), self.dropout, self.LayerNorm
        mine = isinstance(dropout, Dropout) or not self.training or not getattr(dropout, "p", 0)
        fits = mine and norm.weight.dtype == torch.float32
        if not fits or native_for(values) is None or native_for(input_tensor) is None:
            plain: Tensor = norm(dropout(values) + input_tensor)
            return plain
        raw, drop_bytes = None, 0
        if self.training and isinstance(dropout, Dropout) and dropout.drop_bytes:
            raw, drop_bytes = dropout.source.raw_bytes(values.shape), dropout.drop_bytes
        dtype = torch.float32 if self.is_last else values.dtype
        found: Tensor = _Normed.apply(  # type: ignore[no-untyped-call]
            values, passed(input_tensor), norm.weight, norm.bias, raw, (drop_bytes, norm.eps, dtype)
        )
        return found


_POINTERS = (
    "values residual bytes weight bias output mean spread gradient d_values d_residual d_weight "
    "d_bias scratch"
)


class _Norm(ctypes.Structure):
    """`struct norm` of layers.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "width", "narrow", "dropped", "num_threads")),
        ("scale", ctypes.c_double),
        ("epsilon", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in _POINTERS.split()),
    )


class _Normed(torch.autograd.Function):
    """norm(residual + dropout(values)); the sum is made anew for the backward pass, not kept."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        residual: Tensor,
        weight: Tensor,
        bias: Tensor,
        raw: Tensor | None,
        settings: tuple[int, float, torch.dtype],
    ) -> Tensor:
        values, residual = values.contiguous(), residual.contiguous()
        output = torch.empty_like(values, dtype=settings[2])
        mean, spread = values.new_empty((2, values.shape[:-1].numel()), dtype=torch.float32)
        ctx.save_for_backward(values, residual, weight, bias, raw, mean, spread)
        ctx.settings = settings
        _norm(0, settings, values=values, residual=residual, bytes=raw, weight=weight, bias=bias,
              mean=mean, spread=spread, output=output)  # fmt: skip
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, residual, weight, bias, raw, mean, spread = ctx.saved_tensors
        d_values, d_residual = torch.empty_like(values), torch.empty_like(residual)
        d_weight, d_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        parts = -(-len(mean) // _ROWS)
        scratch = mean.new_empty(parts, 2, len(weight))
        gradient = gradients[0].to(ctx.settings[2]).contiguous()
        _norm(1, ctx.settings, values=values, residual=residual, bytes=raw, weight=weight,
              bias=bias, mean=mean, spread=spread, gradient=gradient, d_values=d_values,
              d_residual=d_residual, d_weight=d_weight, d_bias=d_bias, scratch=scratch)  # fmt: skip
        return d_values, d_residual, d_weight, d_bias, None, None


def _norm(
    backward: int, settings: tuple[int, float, torch.dtype], **tensors: Tensor | None
) -> None:
    made, (dropped, epsilon, dtype) = native(), settings
    values, residual = tensors["values"], tensors["residual"]
    assert made is not None
    assert values is not None
    assert residual is not None
    dtypes = (values.dtype, residual.dtype, dtype)
    narrow = sum(1 << bit for bit, kind in enumerate(dtypes) if kind == torch.bfloat16)
    width = values.shape[-1]
    call = _Norm(
        rows=values.numel() // width, width=width, narrow=narrow, dropped=dropped, epsilon=epsilon,
        scale=scale_of(dropped), num_threads=torch.get_num_threads(),
    )  # fmt: skip
    for name, tensor in tensors.items():
        setattr(call, name, None if tensor is None else tensor.data_ptr())
    made.library.norm(ctypes.byref(call), backward)
