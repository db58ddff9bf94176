"""AdamW in one pass over memory, by native code on a CPU.

The gradient is divided by the count and clipped in the very pass that reads it, and of a table of
words the rows that no batch has read yet are only decayed: their moments are zero. What is computed
is AdamW of torch, and so are the names of its state; sums round differently in the last place.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.models.embedding import RowEmbedding
from tunewright.native import Native, native

_PART = 16384  # numbers whose squares are added up together, as in vectors.h


class _Learning(ctypes.Structure):
    """`struct learning` of optimizer.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "gradient", "mean", "square", "seen")),
        ("number", ctypes.c_int64),
        ("width", ctypes.c_int64),
        *(
            (name, ctypes.c_double)
            for name in ("rate", "decay", "mean_share", "square_share", "step")
        ),
    )


def _native_for_all(tensors: Iterable[Tensor]) -> Native | None:
    """Returns native code if all tensors are fp32 on the CPU, each without gaps."""
    made = native()
    fit = made is not None and all(
        x.dtype == torch.float32 and x.device.type == "cpu" and x.is_contiguous() for x in tensors
    )
    return made if fit else None


class NativeAdamW(torch.optim.AdamW):
    """AdamW (Loshchilov & Hutter 2019) that can scale the gradients as it reads them.

    `tables` are the word embeddings whose gradients are rows; their parameters are among the
    optimizer's. Without native code it is torch's own fused AdamW.
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], tables: Iterable[RowEmbedding] = (), **settings: Any
    ) -> None:
        super().__init__(groups, fused=True, **settings)
        self._tables = {id(table.weight): table for table in tables}
        self._seen: dict[int, Tensor] = {}

    @torch.no_grad()
    def scaled_step(self, scale: float) -> None:
        """Makes a step with all gradients times `scale`; the gradients may be changed."""
        learning = [(p, group) for group in self.param_groups for p in group["params"]]
        learning = [(p, group) for p, group in learning if p.grad is not None]
        made = _native_for_all(x for p, _ in learning for x in (p, p.grad))
        if made is None or self._hooked() or not learning:
            torch._foreach_mul_([p.grad for p, _ in learning], scale)
            self.step()
            return
        for p, _ in learning:
            if not self.state[p]:
                self.state[p] = {
                    "step": torch.zeros((), dtype=torch.float32),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        torch._foreach_add_([self.state[p]["step"] for p, _ in learning], 1)
        told = (_Learning * len(learning))(*(self._told(p, group) for p, group in learning))
        made.library.adamw(
            ctypes.addressof(told), len(told), scale, learning[0][1]["eps"],
            torch.get_num_threads(),
        )  # fmt: skip

    def _hooked(self) -> bool:
        """Says whether something waits for a step, and may look at the gradients or change them."""
        return bool(self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks)

    def _told(self, p: nn.Parameter, group: dict[str, Any]) -> _Learning:
        state, seen = self.state[p], self._seen_rows(p)
        assert p.grad is not None
        return _Learning(
            p.data_ptr(), p.grad.data_ptr(), state["exp_avg"].data_ptr(),
            state["exp_avg_sq"].data_ptr(), None if seen is None else seen.data_ptr(), p.numel(),
            p.shape[-1] if p.ndim else 1, group["lr"], group["weight_decay"], *group["betas"],
            float(state["step"]),
        )  # fmt: skip

    def _seen_rows(self, p: nn.Parameter) -> Tensor | None:
        """Returns which rows of a table ever had a gradient, as bytes; None for other parameters.

        They are found again from the moments after these were loaded.
        """
        table = self._tables.get(id(p))
        rows = None if table is None else table.rows_written()
        if rows is None:
            self._seen.pop(id(p), None)
            return None
        if id(p) not in self._seen:
            state = self.state[p]
            moved = (state["exp_avg"] != 0).any(1) | (state["exp_avg_sq"] != 0).any(1)
            self._seen[id(p)] = moved.to(torch.uint8)
        self._seen[id(p)][rows] = 1
        return self._seen[id(p)]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._seen.clear()


def gradient_norm(model: nn.Module, gradients: Sequence[Tensor]) -> float:
    """Returns the L2 norm of all gradients together; of tables, from the rows that were read."""
    if (made := _native_for_all(gradients)) is None:
        return float(torch.nn.utils.get_total_norm(gradients))
    place = {x.data_ptr(): index for index, x in enumerate(gradients)}
    parts = list(gradients)
    for module in model.modules():
        if isinstance(module, RowEmbedding) and (rows := module.rows_written()) is not None:
            assert module.weight.grad is not None
            parts[place[module.weight.grad.data_ptr()]] = module.weight.grad[rows]
    addresses = (ctypes.c_void_p * len(parts))(*(x.data_ptr() for x in parts))
    sizes = (ctypes.c_int64 * len(parts))(*(x.numel() for x in parts))
    sums = torch.empty(sum(-(-x.numel() // _PART) for x in parts), dtype=torch.float64)
    total: float = made.library.sum_of_squares(
        ctypes.addressof(addresses), ctypes.addressof(sizes), len(parts), sums.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return total**0.5 if total >= 0 else float("nan")
