"""Forward passes that fit into the memory of a CPU.

A GPU says when its memory has run out, and the loop then cuts its passes; an operating system ends
the process without a word. So a pass is measured before the first update: what a row keeps for the
backward pass tells what `max_tokens` of them would keep.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tunewright.models.batch import pack
from tunewright.training.loop import Loop

# The longest of so many rows is measured, as often as makes so many tokens: a packed row of few
# is filled up.
MEASURED_ROWS, MEASURED_TOKENS = 256, 512
# What a process grows by in a pass, as a share of what the pass keeps: numbers that go again, and
# the holes that they leave. Measured in fp32 with glibc 2.36: 1.5 for MiniLM-L6, 2.3 for SmolLM2.
AT_PEAK = 2.0
# Of a machine's memory, the share that a run may plan with: others live there, too.
SHARE = 0.75


@dataclass(frozen=True)
class Cut:
    """Forward passes of `asked` tokens were made smaller, to `max_tokens`.

    `pass_bytes` is what the larger ones would have taken, `room_bytes` what was there for them.
    """

    asked: int
    max_tokens: int
    pass_bytes: int
    room_bytes: int


def fit_into_memory(loop: Loop, state_bytes: int, total_bytes: int) -> Cut | None:
    """Halves `loop.max_tokens` until a forward pass fits; returns what was done, None if nothing.

    `state_bytes` is what training holds beside its passes, `total_bytes` what the device has: the
    same on every day, so that a run that is repeated has the same passes. A single row is never
    cut, whether it fits or not.
    """
    kept_bytes, num_tokens = kept_by_the_longest(loop)
    wanted = min(loop.max_tokens, loop.batch_size * num_tokens)
    room = max(int(SHARE * total_bytes) - state_bytes, 0)
    per_token = AT_PEAK * kept_bytes / max(num_tokens, 1)
    if wanted * per_token <= room:
        return None
    asked, budget = loop.max_tokens, wanted
    while budget > num_tokens and budget * per_token > room:
        budget //= 2
    loop.max_tokens = max(budget, num_tokens)
    if loop.max_tokens >= wanted:
        return None
    return Cut(asked, loop.max_tokens, int(wanted * per_token), room)


def kept_by_the_longest(loop: Loop) -> tuple[int, int]:
    """Returns the bytes that a row keeps for the backward pass, weights aside, and its tokens.

    It is the longest of the first rows.
    """
    sizes = [sum(item.num_tokens for item in row) for row in loop.rows[:MEASURED_ROWS]]
    longest = max(range(len(sizes)), key=sizes.__getitem__)
    weights = {p.untyped_storage().data_ptr() for p in loop.model.parameters()}
    kept: dict[int, int] = {}

    def take(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # one that the pass made would hold the pass, and itself, for ever

    was_training = loop.model.training
    loop.model.train()
    times = max(MEASURED_TOKENS // max(sizes[longest], 1), 1)
    row = loop.features(longest, 0)
    copies = [replace(item, row_id=number) for number in range(times) for item in row]
    batch = pack(copies, loop.device.name)
    with torch.autograd.graph.saved_tensors_hooks(take, lambda tensor: tensor):
        outputs = loop.forward(0, batch)
        loss = None if loop.task.scope == "batch" else loop.task.loss(outputs, batch)
    del outputs, loss
    loop.model.train(was_training)
    return sum(kept.values()) // times, sizes[longest]
