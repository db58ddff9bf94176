"""What training a model takes beside its activations: memory for its state, room on the disk."""

from __future__ import annotations

from dataclasses import dataclass

from tunewright.training.loop import Loop

NUM_MOMENTS = 2  # AdamW keeps the mean and the variance of each gradient


@dataclass(frozen=True)
class Footprint:
    """Bytes of the weights, of what training adds to them in memory, and of one checkpoint.

    Of a model in pieces what is added is a process's share, beside the whole weights: it has those
    at the beginning, in evaluations and at the end.
    """

    num_parameters: int
    weight_bytes: int
    added_bytes: int
    checkpoint_bytes: int


def footprint(loop: Loop, keeps_best: bool) -> Footprint:
    """Returns the footprint of a loop; `keeps_best` says whether a copy of the best is kept."""
    parameters = list(loop.model.parameters())
    weights = sum(parameter.nbytes for parameter in parameters)
    learning = sum(parameter.nbytes for parameter in parameters if parameter.requires_grad)
    average = 0 if loop.average is None else learning
    best = learning if keeps_best else 0
    added = learning + NUM_MOMENTS * learning + average + best  # the first are the gradients
    if loop.sharding is not None:
        added = (added + learning) // loop.processes.size  # and a share of the weights
    return Footprint(
        sum(parameter.numel() for parameter in parameters),
        weights,
        added,
        learning + NUM_MOMENTS * learning + average + best,  # the first are the weights
    )
