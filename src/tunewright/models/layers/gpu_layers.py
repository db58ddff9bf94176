"""An encoder's layers on an NVIDIA GPU: narrow numbers from end to end, and few passes over them.

Under autocast torch widens, adds, normalises and narrows again in a kernel each, casts a weight
for every product, and sums a bias's gradient in a pass of its own. Here what stands between two
products is one kernel (`gpu_kernels.py`), a weight's gradient leaves its product in float32, and
the query's, key's and value's layers are one product. Weights, their names and what is computed
stay the library's.

Shape letters: N tokens, I inner and O outer width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tunewright.models.layers.dropout import Dropout
from tunewright.models.layers.sublayers import (
    ACTIVATION,
    Keeping,
    OwnLinear,
    SublayerParts,
    Together,
    attention_inputs,
    is_hooked,
    is_intermediate,
    is_sublayer_end,
)

_TILE = 4096  # numbers that a program has in its registers at a time
_PROGRAMS = 264  # of a pass that sums over tokens: two for each of an H100's processors
_COLUMNS = 256
_WARPS = 8


def use_gpu_layers(model: nn.Module) -> None:
    """Gives a model on a GPU its layers' fused form, where Triton can compile it.

    Whatever something else hooks on to is left alone.
    """
    if why_not_fused() is not None:
        return
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, FusedEnd | FusedIntermediate):
                continue
            if is_sublayer_end(child):
                setattr(parent, name, FusedEnd(child))
            elif is_intermediate(child) and not is_hooked(child):
                setattr(parent, name, FusedIntermediate(child))
    ends = [module for module in model.modules() if isinstance(module, FusedEnd)]
    for end in ends:
        end.is_last = end is ends[-1]
    for parent, names in attention_inputs(model):
        layers = [getattr(parent, name) for name in names]
        plain = all(type(layer) is nn.Linear and not is_hooked(layer) for layer in layers)
        if plain and len({layer.bias is None for layer in layers}) == 1:
            joined = [Joined.of(layer) for layer in layers]
            for name, layer in zip(names, joined, strict=True):
                setattr(parent, name, layer)
            Together(joined, _multiplied)


@cache
def why_not_fused() -> str | None:
    """Returns why a GPU here has no fused layers; None where it has them, which is tried once."""
    if not torch.cuda.is_available():
        return "there is no NVIDIA GPU"
    try:
        own = [torch.cuda.current_device()]
        with torch.random.fork_rng(own), torch.inference_mode(False), torch.enable_grad():
            _try_out(torch.device("cuda"))
    except Exception as error:  # no Triton, no compiler for it, or a GPU that it does not know
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def _try_out(device: torch.device) -> None:
    """Runs every kernel once. Raises whatever is missing, ValueError for a wrong number."""
    values, residual = torch.randn(2, 5, 64, device=device).bfloat16().requires_grad_()
    weight = torch.randn(64, 64, device=device, requires_grad=True)
    norm = nn.LayerNorm(64, device=device)
    narrow, settings = _narrow([weight]), (0.0, norm.eps, torch.float32)
    ended = _End.apply(  # type: ignore[no-untyped-call]
        values, residual, narrow, weight, norm.bias, norm.weight, norm.bias, settings
    )
    plain = norm(values.float() @ weight.bfloat16().float().t() + residual.float())
    active = _Intermediate.apply(  # type: ignore[no-untyped-call]
        values, narrow, weight, norm.bias
    )
    (ended.sum() + active.sum()).backward()
    if not torch.allclose(ended, plain, atol=0.05):
        raise ValueError("a kernel gives other numbers than torch")


def _is_narrow(values: Tensor, *layers: nn.Module) -> bool:
    """Says whether products of these layers are of bfloat16 numbers on a GPU."""
    plain = all(
        isinstance(layer, nn.Linear)
        and layer.weight.dtype == torch.float32
        and (type(layer) is nn.Linear or isinstance(layer, Joined))
        and not is_hooked(layer)
        for layer in layers
    )
    narrow = values.is_cuda and torch.is_autocast_enabled("cuda")
    return plain and narrow and torch.get_autocast_dtype("cuda") == torch.bfloat16


def _narrowed(keeping: Keeping, *weights: Tensor) -> Tensor:
    """Returns weights below one another as bfloat16, made once where they are kept."""
    kept = keeping.kept
    if torch.is_grad_enabled() or kept is None:
        kept = _narrow(weights)
        keeping.kept = kept if keeping.keeps and not torch.is_grad_enabled() else None
    return kept


class FusedEnd(SublayerParts, Keeping):
    """norm(residual + dropout(dense(values))), with the parts of the module that it stands for."""

    dense: nn.Linear

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        norm, dropout = self.LayerNorm, self.dropout
        known = isinstance(dropout, Dropout) or type(dropout) is nn.Dropout
        fits = known and not is_hooked(dropout) and not is_hooked(norm)
        if not fits or not _is_narrow(hidden_states, self.dense):
            plain: Tensor = norm(dropout(self.dense(hidden_states)) + input_tensor)
            return plain
        share = float(getattr(dropout, "p", 0.0)) if dropout.training else 0.0
        dtype = torch.float32 if self.is_last else torch.bfloat16
        found: Tensor = _End.apply(  # type: ignore[no-untyped-call]
            hidden_states.to(torch.bfloat16), input_tensor, _narrowed(self, self.dense.weight),
            self.dense.weight, self.dense.bias, norm.weight, norm.bias, (share, norm.eps, dtype),
        )  # fmt: skip
        return found


class FusedIntermediate(nn.Module, Keeping):
    """gelu(dense(values)), with the parts of the module that it stands for."""

    dense: nn.Linear

    def __init__(self, plain: Any) -> None:
        super().__init__()
        self.dense = plain.dense
        setattr(self, ACTIVATION, getattr(plain, ACTIVATION))
        self.train(plain.training)

    def forward(self, hidden_states: Tensor) -> Tensor:
        activation = getattr(self, ACTIVATION)
        if is_hooked(activation) or not _is_narrow(hidden_states, self.dense):
            plain: Tensor = activation(self.dense(hidden_states))
            return plain
        found: Tensor = _Intermediate.apply(  # type: ignore[no-untyped-call]
            hidden_states.to(torch.bfloat16),
            _narrowed(self, self.dense.weight),
            self.dense.weight,
            self.dense.bias,
        )
        return found


class Joined(OwnLinear):
    """A linear layer that is one product with others that read the same tokens."""

    together: Together[Joined] | None = None

    def forward(self, values: Tensor) -> Tensor:
        together = self.together
        if together is None or not _is_narrow(values, self):
            return super().forward(values)
        found = together.answer(self, values)
        return super().forward(values) if found is None else found


def _multiplied(layers: Sequence[Joined], values: Tensor) -> tuple[Tensor, ...]:
    """Returns each layer's output for the values, bfloat16, as columns of one product."""
    parameters = [each for layer in layers for each in (layer.weight, layer.bias)]
    outputs: tuple[Tensor, ...] = _Linear.apply(  # type: ignore[no-untyped-call]
        values.to(torch.bfloat16),
        _narrowed(layers[0], *(layer.weight for layer in layers)),
        *parameters,
    )
    return outputs


class _Linear(torch.autograd.Function):
    """values weightᵀ + bias for each weight and bias, or None, that follow one another."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, narrow: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor, ...]:
        rows, weights, biases = _rows(values), parameters[::2], parameters[1::2]
        bias = None if biases[0] is None else _narrow(biases)
        found = nn.functional.linear(rows, narrow, bias)
        ctx.save_for_backward(rows, narrow)
        ctx.sizes, ctx.shape = [len(w) for w in weights if w is not None], values.shape
        parts = (part.view(*values.shape[:-1], -1) for part in found.split(ctx.sizes, dim=1))
        return tuple(part.data for part in parts)  # no views, or nobody may change them in place

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, narrow = ctx.saved_tensors
        gradient = torch.cat([_rows(each) for each in gradients], 1)
        wanted, found = ctx.needs_input_grad[2:], list[Tensor | None]()
        d_weights = d_biases = [None] * len(ctx.sizes)
        if any(wanted[::2]):
            d_weights = _wide_product(gradient.t(), rows).split(ctx.sizes)
        if any(wanted[1::2]):
            d_biases = _summed(gradient).split(ctx.sizes)
        for pair in zip(d_weights, d_biases, strict=True):
            found += pair
        d_values = (gradient @ narrow).view(ctx.shape) if ctx.needs_input_grad[0] else None
        asked = (x if wants else None for x, wants in zip(found, wanted, strict=True))
        return d_values, None, *asked


class _Intermediate(torch.autograd.Function):
    """gelu(values weightᵀ + bias)."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, narrow: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        rows = _rows(values)
        before = nn.functional.linear(rows, narrow, None if bias is None else _narrow([bias]))
        ctx.save_for_backward(rows, narrow, before)
        ctx.shape = values.shape
        return nn.functional.gelu(before).view(*values.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, narrow, before = ctx.saved_tensors
        gradient = torch.empty_like(before)
        d_bias = _summed(_rows(gradients[0]), before, gradient)
        of_values, _, of_weight, of_bias = ctx.needs_input_grad
        return (
            (gradient @ narrow).view(ctx.shape) if of_values else None,
            None,
            _wide_product(gradient.t(), rows) if of_weight else None,
            d_bias if of_bias else None,
        )


class _End(torch.autograd.Function):
    """norm(residual + dropout(values weightᵀ + bias)); the sum is made anew for its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        residual: Tensor,
        narrow: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        norm_weight: Tensor,
        norm_bias: Tensor,
        settings: tuple[float, float, torch.dtype],
    ) -> Tensor:
        from tunewright.models.layers import gpu_kernels

        rows = _rows(values)
        product, residual = rows @ narrow.t(), residual.contiguous()
        (drop, epsilon, dtype), (count, width) = settings, product.shape
        output = torch.empty_like(residual, dtype=dtype)
        mean, spread = product.new_empty((2, count), dtype=torch.float32)
        seed = None
        if drop:
            seed = torch.randint(-(2**31), 2**31, (2,), dtype=torch.int32, device=rows.device)
        block = _power_of_two(width)
        height = max(1, _TILE // 2 // block)
        grid = (_cuts(count, height),)
        _launch(
            gpu_kernels.end_forward,
            grid,
            product, bias, residual, norm_weight, norm_bias, seed, output, mean, spread,
            count, width, epsilon, 1 / (1 - drop), int(drop * 2**32),
            ROWS=height, BLOCK=block, BIASED=bias is not None, DROPS=bool(drop),
            num_warps=_WARPS // 2,
        )  # fmt: skip
        ctx.save_for_backward(
            rows, narrow, product, residual, bias, norm_weight, mean, spread, seed
        )
        ctx.drop, ctx.shape = drop, values.shape
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from tunewright.models.layers import gpu_kernels

        rows, narrow, product, residual, bias, norm_weight, mean, spread, seed = ctx.saved_tensors
        (count, width), drop = product.shape, ctx.drop
        d_product, d_residual = torch.empty_like(product), torch.empty_like(residual)
        block = _power_of_two(width)
        height = max(1, _TILE // block)
        tiles = _cuts(_cuts(count, height), _PROGRAMS)
        programs = _cuts(count, height * tiles)
        sums = product.new_empty((programs, 3, width), dtype=torch.float32)
        _launch(
            gpu_kernels.end_backward,
            (programs,),
            gradients[0].contiguous(), product, bias, residual, norm_weight, seed, mean, spread,
            d_product, d_residual, sums, count, width, 1 / (1 - drop), int(drop * 2**32),
            tiles, ROWS=height, BLOCK=block, BIASED=bias is not None, DROPS=bool(drop),
            num_warps=_WARPS,
        )  # fmt: skip
        d_norm_weight, d_norm_bias, d_bias = sums.sum(0)
        found = (
            (d_product @ narrow).view(ctx.shape) if ctx.needs_input_grad[0] else None,
            d_residual,
            None,
            _wide_product(d_product.t(), rows) if ctx.needs_input_grad[3] else None,
            d_bias,
            d_norm_weight,
            d_norm_bias,
            None,
        )
        asked = zip(found, ctx.needs_input_grad, strict=True)
        return tuple(each if wants else None for each, wants in asked)


def _summed(
    gradient: Tensor, before: Tensor | None = None, through: Tensor | None = None
) -> Tensor:
    """Returns the sums (O,) of a gradient (N, O) over tokens, float32.

    With `before` it is first taken through GELU's slope there, and written to `through`.
    """
    from tunewright.models.layers import gpu_kernels

    count, width = gradient.shape
    height = _TILE // _COLUMNS
    across = _cuts(width, _COLUMNS)
    tiles = _cuts(_cuts(count, height), _cuts(4 * _PROGRAMS, across))
    programs = _cuts(count, height * tiles)
    sums = gradient.new_empty((programs, width), dtype=torch.float32)
    _launch(
        gpu_kernels.columns,
        (programs, across),
        gradient, before, through, sums, count, width, tiles, ROWS=height, BLOCK=_COLUMNS,
        GELU=before is not None, num_warps=_WARPS,
    )  # fmt: skip
    return sums.sum(0)


def _launch(
    kernel: Any, grid: tuple[int, ...], first: Tensor, *rest: Any, **constants: Any
) -> None:
    """Launches a kernel on the GPU that its tensors are on, whichever a thread has for its own."""
    with torch.cuda.device_of(first):
        kernel[grid](first, *rest, **constants)


def _wide_product(left: Tensor, right: Tensor) -> Tensor:
    """Returns the product of bfloat16 numbers in float32, never rounded."""
    return torch.mm(left, right, out_dtype=torch.float32)


@torch.no_grad()
def _narrow(parts: Sequence[Tensor | None]) -> Tensor:
    """Returns tensors below one another as bfloat16."""
    held = [part for part in parts if part is not None]
    if len(held) == 1:
        return held[0].to(torch.bfloat16)
    found = held[0].new_empty(sum(map(len, held)), *held[0].shape[1:], dtype=torch.bfloat16)
    torch._foreach_copy_(found.split([len(part) for part in held]), held)
    return found


def _rows(values: Tensor) -> Tensor:
    """Returns (N, D) without gaps."""
    return values.reshape(-1, values.shape[-1]).contiguous()


def _cuts(count: int, size: int) -> int:
    return -(-count // size)


def _power_of_two(number: int) -> int:
    """Returns the least one that is not under a number."""
    return 1 << max(number - 1, 0).bit_length()
