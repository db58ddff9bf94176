"""Word embeddings whose gradient costs what a batch's words cost, not what the vocabulary does.

The gradient of a table of 30,000 words is 47 MB of zeros but for the few hundred rows that a batch
read. glibc hands out blocks of that size fresh from the system each time, so every update paid for
12,000 page faults: a tenth of its time. Here one block is kept, and only rows that were read are
written and cleared. The gradient is the same to the bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# Smaller tables are cleared faster than their rows are found.
LEAST_ELEMENTS = 1_000_000


class _Lookup(torch.autograd.Function):
    """weight[ids]; the gradient goes to the table's own block, and none through autograd."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, table: RowEmbedding) -> Tensor:
        ctx.ids, ctx.table = ids, table
        return nn.functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        ctx.table.add_gradient(ctx.ids.flatten(), gradients[0].flatten(0, -2))
        return None, None, None


class RowEmbedding(nn.Embedding):
    """An `nn.Embedding` on a CPU that keeps the block of its gradient between updates."""

    @classmethod
    def of(cls, table: nn.Embedding) -> RowEmbedding:
        """Returns the embedding over the same parameter."""
        count, width = table.weight.shape
        with torch.device("meta"):
            made = cls(count, width, table.padding_idx)
        made.weight = table.weight
        made.train(table.training)
        return made

    def forward(self, ids: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and self.weight.requires_grad):
            return super().forward(ids)
        return _Lookup.apply(self.weight, ids, self)  # type: ignore[no-untyped-call]

    def add_gradient(self, ids_N: Tensor, gradient_ND: Tensor) -> None:
        """Adds a gradient (N, D) to the rows that were read."""
        rows_U, place_N = torch.unique(ids_N, return_inverse=True)
        summed_UD = torch.ops.aten.embedding_dense_backward(
            gradient_ND.to(self.weight.dtype), place_N, len(rows_U), -1, False
        )
        if self.padding_idx is not None:
            summed_UD[rows_U == self.padding_idx] = 0
        block = self._cleared()
        block[rows_U] += summed_UD
        self._written.append(rows_U)

    def _cleared(self) -> Tensor:
        """Returns the parameter's gradient, without what an earlier update left in it."""
        if not hasattr(self, "_block"):
            self._block, self._written = torch.zeros_like(self.weight), list[Tensor]()
        if self.weight.grad is not self._block:
            for rows_U in self._written:
                self._block[rows_U] = 0
            self._written.clear()
            self.weight.grad = self._block
        return self._block

    def rows_read(self) -> Tensor:
        """Returns the rows that the gradient was added to, (U,) int64, in order."""
        self._cleared()
        none = torch.empty(0, dtype=torch.long)
        return torch.cat([none, *self._written]).unique()

    def rows_written(self) -> Tensor | None:
        """Returns the only rows whose gradient may be other than zero, (U,) int64, in order.

        None where the parameter's gradient is not this table's own.
        """
        own = hasattr(self, "_block") and self.weight.grad is self._block
        return torch.cat(self._written).unique() if own and self._written else None

    def put_rows(self, rows_U: Tensor, gradient_UD: Tensor) -> None:
        """Makes this the gradient of these rows, whether they were read or not."""
        self._cleared()[rows_U] = gradient_UD
        self._written.append(rows_U)

    def tell_all_written(self) -> None:
        """Notes that something else has added to the gradient, which may be in any row."""
        if hasattr(self, "_block") and self.weight.grad is self._block:
            self._written = [torch.arange(len(self.weight))]


def keep_row_gradients(model: Any) -> None:
    """Gives a model's large word embeddings on a CPU a gradient by rows.

    A table that also makes the logits (tied weights) has a dense gradient and is left alone, and so
    is an embedding of a class of its own.
    """
    tables = [
        (parent, name, child)
        for parent in list(model.modules())
        for name, child in parent.named_children()
        if type(child) is nn.Embedding and child.weight.numel() >= LEAST_ELEMENTS
    ]
    for parent, name, table in tables:
        plain = not (table.sparse or table.scale_grad_by_freq or table.max_norm)
        if plain and table.weight.device.type == "cpu" and _uses(model, table.weight) == 1:
            setattr(parent, name, RowEmbedding.of(table))


def _uses(model: nn.Module, weight: Tensor) -> int:
    """Returns how many modules hold a parameter."""
    return sum(weight is own for m in model.modules() for own in m.parameters(recurse=False))
