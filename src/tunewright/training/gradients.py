"""The sum of gradients over several processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tunewright.devices.processes import Processes
from tunewright.models.layers.embedding import RowEmbedding


def add_up_gradients(
    model: nn.Module, parameters: Sequence[nn.Parameter], processes: Processes
) -> None:
    """Adds up the gradients of `parameters` over all processes; one that is missing counts as 0.

    Of a table of words only the rows that some process has read are sent.
    """
    tables = {m.weight: m for m in model.modules() if isinstance(m, RowEmbedding)}
    dense = [parameter for parameter in parameters if parameter not in tables]
    for parameter in dense:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    processes.add_up([p.grad for p in dense if p.grad is not None])
    for parameter in parameters:
        if parameter in tables:
            _add_up_rows(tables[parameter], processes)


def _add_up_rows(table: RowEmbedding, processes: Processes) -> None:
    rows_U = torch.cat(processes.gather(table.rows_read())).unique()
    gradient = table.weight.grad
    assert gradient is not None
    summed_UD = gradient[rows_U]
    processes.add_up([summed_UD])
    table.put_rows(rows_U, summed_UD)
