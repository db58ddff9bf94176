"""A linear-chain conditional random field over the tags of packed sequences.

The score of tags y of a sequence of S tokens with emissions e is

    start[y_1] + Σ_t e_t[y_t] + Σ_t transitions[y_t, y_t+1] + end[y_S]

and log p(y) = score(y) - log Σ_y' exp score(y') (Lafferty et al. 2001). Sums over all tags go
token by token through every sequence at once (the forward algorithm); the most likely tags are
found by Viterbi's. Probabilities of single tags are the gradient of the logarithm of that sum.

Shape letters: N tokens, C tags, B sequences, S places of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

# A step that the tagging scheme forbids costs this much: never taken, and still finite.
FORBIDDEN = -1e4


class Steps(NamedTuple):
    """The scores of one tag after another: transitions (C, C), start (C,) and end (C,)."""

    transitions: Tensor
    start: Tensor
    end: Tensor


class CRF(nn.Module):
    """The steps of a field as parameters; `allowed` (C + 1, C + 1) may forbid some.

    Its last row and column stand for what is before and after a sequence.
    """

    penalty: Tensor

    def __init__(self, num_tags: int, allowed: Tensor | None = None) -> None:
        super().__init__()
        self.transitions = nn.Parameter(torch.zeros(num_tags, num_tags))
        self.start = nn.Parameter(torch.zeros(num_tags))
        self.end = nn.Parameter(torch.zeros(num_tags))
        if allowed is None:
            allowed = torch.ones(num_tags + 1, num_tags + 1, dtype=torch.bool)
        penalty = torch.zeros(allowed.shape).masked_fill(~allowed, FORBIDDEN)
        self.register_buffer("penalty", penalty, persistent=False)

    @property
    def steps(self) -> Steps:
        """The scores, forbidden steps included."""
        return Steps(
            self.transitions + self.penalty[:-1, :-1],
            self.start + self.penalty[-1, :-1],
            self.end + self.penalty[:-1, -1],
        )


def log_likelihood(
    steps: Steps, emissions_NC: Tensor, tag_N: Tensor, boundaries: Sequence[int]
) -> Tensor:
    """Returns the log probability of the tags, summed over sequences; none may be empty."""
    emissions_NC = emissions_NC.float()
    score_B = _score(steps, emissions_NC, tag_N, boundaries)
    return (score_B - _log_sum(steps, emissions_NC, boundaries)).sum()


def _score(steps: Steps, emissions_NC: Tensor, tag_N: Tensor, boundaries: Sequence[int]) -> Tensor:
    """Returns the score of the tags of each sequence, (B,)."""
    bounds = torch.tensor(boundaries, device=tag_N.device)
    owner_N = torch.repeat_interleave(bounds.diff())
    first_B, last_B = tag_N[bounds[:-1]], tag_N[bounds[1:] - 1]
    step_N = steps.transitions[tag_N[:-1], tag_N[1:]]
    inside_N = owner_N[:-1] == owner_N[1:]  # no step leads from one sequence to the next
    score_B = steps.start[first_B] + steps.end[last_B]
    score_B = score_B.index_add(0, owner_N, emissions_NC.gather(1, tag_N[:, None])[:, 0])
    return score_B.index_add(0, owner_N[1:], step_N * inside_N)


def _log_sum(steps: Steps, emissions_NC: Tensor, boundaries: Sequence[int]) -> Tensor:
    """Returns the logarithm of the sum over all tags of each sequence, (B,)."""
    order_B, rows = _places(boundaries, emissions_NC.device)
    alpha_BC = steps.start + emissions_NC[rows[0]]
    ended = []
    for row in rows[1:]:
        going, gone = alpha_BC.split([len(row), len(alpha_BC) - len(row)])
        ended.append(gone)
        reached = torch.logsumexp(going[:, :, None] + steps.transitions, 1)
        alpha_BC = reached + emissions_NC[row]
    last_BC = torch.cat([alpha_BC, *reversed(ended)])
    return torch.logsumexp(last_BC + steps.end, 1)[order_B.argsort()]


def marginals(steps: Steps, emissions_NC: Tensor, boundaries: Sequence[int]) -> Tensor:
    """Returns the probability of each tag of each token, (N, C), in fp32."""
    with torch.enable_grad():
        emissions_NC = emissions_NC.detach().float().requires_grad_()
        total = _log_sum(steps, emissions_NC, boundaries).sum()
        (found,) = torch.autograd.grad(total, emissions_NC)
    return found


@torch.no_grad()
def best_tags(steps: Steps, emissions_NC: Tensor, boundaries: Sequence[int]) -> Tensor:
    """Returns the most likely tags of each sequence, (N,)."""
    _, rows = _places(boundaries, emissions_NC.device)
    emissions_NC = emissions_NC.float()
    score_BC = steps.start + emissions_NC[rows[0]]
    ended, came_from = [], []
    for row in rows[1:]:
        going, gone = score_BC.split([len(row), len(score_BC) - len(row)])
        ended.append(gone)
        best, source = (going[:, :, None] + steps.transitions).max(1)
        came_from.append(source)
        score_BC = best + emissions_NC[row]
    last_BC = torch.cat([score_BC, *reversed(ended)])
    tag_B = (last_BC + steps.end).argmax(1)
    tag_N = torch.empty(len(emissions_NC), dtype=torch.int64, device=emissions_NC.device)
    for row, source in zip(rows[:0:-1], reversed(came_from), strict=True):
        tag_N[row] = tag_B[: len(row)]
        here = source.gather(1, tag_B[: len(row), None])[:, 0]
        tag_B = torch.cat([here, tag_B[len(row) :]])
    tag_N[rows[0]] = tag_B
    return tag_N


def most_likely(emissions_SC: Tensor, steps: Steps | None) -> tuple[list[int], np.ndarray]:
    """Returns the tags of one sequence and their probabilities, each (S,); also without a CRF."""
    if not len(emissions_SC):
        return [], np.zeros(0)
    if steps is None:
        probabilities_SC, tag_S = emissions_SC.softmax(-1), emissions_SC.argmax(-1)
    else:
        whole = (0, len(emissions_SC))
        probabilities_SC = marginals(steps, emissions_SC, whole)
        tag_S = best_tags(steps, emissions_SC, whole)
    return tag_S.tolist(), probabilities_SC.gather(1, tag_S[:, None])[:, 0].numpy()


def _places(boundaries: Sequence[int], device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """Returns the sequences from the longest, and the tokens at each place of those that reach it.

    So a place costs as much as there are sequences that reach it: nothing is padded.
    """
    bounds = torch.tensor(boundaries)
    lengths_B = bounds.diff()
    order_B = lengths_B.argsort(descending=True, stable=True)
    first_B, sorted_B = bounds[:-1][order_B], lengths_B[order_B]
    longest = int(sorted_B[0])
    reach_S = (sorted_B[:, None] > torch.arange(longest)).sum(0).tolist()
    rows = [(first_B[:count] + place).to(device) for place, count in enumerate(reach_S)]
    return order_B.to(device), rows
