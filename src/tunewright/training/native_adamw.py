"""AdamW in one pass over memory, by native code on a CPU.

The gradient is divided by the count and clipped in the very pass that reads it, and of a table of
words the rows that no batch has read yet are only decayed: their moments are zero. What is computed
is AdamW of torch, and so are the names of its state; sums round differently in the last place.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.models.layers.embedding import RowEmbedding
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


@dataclass
class _Kept:
    """What a step needs of parameters that learn, which stays from one to the next."""

    parameters: list[nn.Parameter]
    groups: list[dict[str, Any]]
    steps: list[Tensor]
    numbers: list[float]  # those of the steps
    told: ctypes.Array[_Learning]


class NativeAdamW(torch.optim.AdamW):
    """AdamW (Loshchilov & Hutter 2019) that can scale the gradients as it reads them.

    `tables` are the word embeddings whose gradients are rows; their parameters are among the
    optimizer's. Without native code it is torch's own fused AdamW.
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], tables: Iterable[RowEmbedding] = (), **settings: Any
    ) -> None:
        super().__init__(groups, fused=True, **settings)
        self.tables = list(tables)
        self._tables = {id(table.weight): table for table in self.tables}
        self._seen: dict[int, Tensor] = {}
        self._kept: _Kept | None = None

    @torch.no_grad()
    def scaled_step(self, scale: float) -> None:
        """Makes a step with all gradients times `scale`; the gradients may be changed."""
        learning = [(p, group) for group in self.param_groups for p in group["params"]]
        learning = [(p, group) for p, group in learning if p.grad is not None]
        made = _native_for_all(x for p, _ in learning for x in (p, p.grad))
        if made is None or self._hooked() or not learning:
            torch._foreach_mul_([p.grad for p, _ in learning], scale)
            self._forget()
            self.step()
            return
        kept = self._kept_for(learning)
        torch._foreach_add_(kept.steps, 1)
        for place, (p, group) in enumerate(learning):
            kept.numbers[place] += 1
            told, gradient = kept.told[place], p.grad
            assert gradient is not None
            told.weight, told.gradient = p.data_ptr(), gradient.data_ptr()
            told.rate, told.decay, told.step = (
                group["lr"], group["weight_decay"], kept.numbers[place],
            )  # fmt: skip
            if id(p) in self._tables:
                seen = self._seen_rows(p)
                told.seen = None if seen is None else seen.data_ptr()
        made.library.adamw(
            ctypes.addressof(kept.told), len(learning), scale, learning[0][1]["eps"],
            torch.get_num_threads(),
        )  # fmt: skip

    def _kept_for(self, learning: Sequence[tuple[nn.Parameter, dict[str, Any]]]) -> _Kept:
        """Returns what was kept, or makes it anew where other parameters learn than before."""
        kept = self._kept
        if kept is not None and len(kept.parameters) == len(learning):
            pairs = zip(kept.parameters, kept.groups, learning, strict=True)
            if all(p is own and group is of for p, group, (own, of) in pairs):
                return kept
        for p, _ in learning:
            if not self.state[p]:
                self._begun(p)
        steps = [self.state[p]["step"] for p, _ in learning]
        told = (_Learning * len(learning))(*(self._told(p, group) for p, group in learning))
        numbers = [float(step) for step in steps]
        self._kept = _Kept([p for p, _ in learning], [g for _, g in learning], steps, numbers, told)
        return self._kept

    @property
    def can_guard_itself(self) -> bool:
        """Says whether nothing that waits for a step has to know whether one was made."""
        return not self._hooked()

    @torch.no_grad()
    def guarded_step(self, divisor: Tensor, norm: Tensor) -> None:
        """Makes a step with all gradients over `divisor`, unless `norm` is not finite.

        Both are on the gradients' device; nobody waits for it. The gradients are changed. Torch's
        own fused kernel is named here, since all that Python does around it takes longer.
        """
        self._forget()
        wrong = (~norm.isfinite()).float()
        for group in self.param_groups:
            learning = [p for p in group["params"] if p.grad is not None]
            if not learning:
                continue
            states = [self.state[p] or self._begun(p) for p in learning]
            steps = [state["step"] for state in states]
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                learning, [p.grad for p in learning], [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states], [], steps, amsgrad=False,
                lr=group["lr"], beta1=group["betas"][0], beta2=group["betas"][1],
                weight_decay=group["weight_decay"], eps=group["eps"], maximize=False,
                grad_scale=divisor, found_inf=wrong,
            )  # fmt: skip
            torch._foreach_sub_(steps, [wrong] * len(steps))

    def _begun(self, p: nn.Parameter) -> dict[str, Tensor]:
        """Returns a parameter's new state, as torch's own AdamW begins it."""
        self.state[p] = {
            "step": torch.zeros((), dtype=torch.float32, device=p.device),
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.zeros_like(p),
        }
        return self.state[p]

    def _hooked(self) -> bool:
        """Says whether something waits for a step, and may look at the gradients or change them."""
        return bool(self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks)

    def _told(self, p: nn.Parameter, group: dict[str, Any]) -> _Learning:
        """Returns what stays the same of a parameter."""
        state = self.state[p]
        return _Learning(
            mean=state["exp_avg"].data_ptr(), square=state["exp_avg_sq"].data_ptr(),
            number=p.numel(), width=p.shape[-1] if p.ndim else 1,
            mean_share=group["betas"][0], square_share=group["betas"][1],
        )  # fmt: skip

    def _seen_rows(self, p: nn.Parameter) -> Tensor | None:
        """Returns which rows of a table ever had a gradient, as bytes; None for other parameters.

        They are found again from the moments after others than native code changed these.
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
        self._forget()

    def _forget(self) -> None:
        """Drops what native code knows of the state, which something else is about to change."""
        self._seen.clear()
        self._kept = None


def gradient_norm(gradients: Sequence[Tensor], tables: Iterable[RowEmbedding] = ()) -> float:
    """Returns the L2 norm of all gradients together; of tables, from the rows that were read."""
    if (made := _native_for_all(gradients)) is None:
        return float(norm_on_device(gradients))
    place = {x.data_ptr(): index for index, x in enumerate(gradients)}
    parts = list(gradients)
    for table in tables:
        if (rows := table.rows_written()) is not None and table.weight.grad is not None:
            parts[place[table.weight.grad.data_ptr()]] = table.weight.grad[rows]
    addresses = (ctypes.c_void_p * len(parts))(*(x.data_ptr() for x in parts))
    sizes = (ctypes.c_int64 * len(parts))(*(x.numel() for x in parts))
    sums = torch.empty(sum(-(-x.numel() // _PART) for x in parts), dtype=torch.float64)
    total: float = made.library.sum_of_squares(
        ctypes.addressof(addresses), ctypes.addressof(sizes), len(parts), sums.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return total**0.5 if total >= 0 else float("nan")


def norm_on_device(gradients: Sequence[Tensor]) -> Tensor:
    """Returns the L2 norm of all gradients together, a tensor that nobody has waited for.

    It is the norm of each one's norm, wherever they lie: so it has the same bits each time.
    """
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(gradients))))
