"""A linear-chain conditional random field over the tags of packed sequences.

The score of tags y of a sequence of S tokens with emissions e is

    start[y_1] + Σ_t e_t[y_t] + Σ_t transitions[y_t, y_t+1] + end[y_S]

and log p(y) = score(y) - log Σ_y' exp score(y') (Lafferty et al. 2001). Sums over all tags go
token by token through every sequence at once (the forward algorithm); the most likely tags are
found by Viterbi's. Probabilities of single tags are the gradient of the logarithm of that sum.

Shape letters: N tokens, C tags, B sequences, S the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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
    return _score(steps, emissions_NC, tag_N, boundaries) - _log_sum(
        steps, emissions_NC, boundaries
    )


def _score(steps: Steps, emissions_NC: Tensor, tag_N: Tensor, boundaries: Sequence[int]) -> Tensor:
    bounds = torch.tensor(boundaries, device=tag_N.device)
    steps_N = steps.transitions[tag_N[:-1], tag_N[1:]]
    within_N = torch.ones(len(steps_N), device=tag_N.device)
    within_N[bounds[1:-1] - 1] = 0  # no step leads from one sequence to the next
    return (
        emissions_NC.gather(1, tag_N[:, None]).sum()
        + (steps_N * within_N).sum()
        + steps.start[tag_N[bounds[:-1]]].sum()
        + steps.end[tag_N[bounds[1:] - 1]].sum()
    )


def _log_sum(steps: Steps, emissions_NC: Tensor, boundaries: Sequence[int]) -> Tensor:
    rows_BS, real_BS = _grid(boundaries, emissions_NC.device)
    emissions_BSC = emissions_NC[rows_BS]
    alpha_BC = steps.start + emissions_BSC[:, 0]
    for place in range(1, rows_BS.shape[1]):
        reached_BC = torch.logsumexp(alpha_BC[:, :, None] + steps.transitions, 1)
        here_B1 = real_BS[:, place, None]
        alpha_BC = torch.where(here_B1, reached_BC + emissions_BSC[:, place], alpha_BC)
    return torch.logsumexp(alpha_BC + steps.end, 1).sum()


def marginals(steps: Steps, emissions_NC: Tensor, boundaries: Sequence[int]) -> Tensor:
    """Returns the probability of each tag of each token, (N, C), in fp32."""
    with torch.enable_grad():
        emissions_NC = emissions_NC.detach().float().requires_grad_()
        (found,) = torch.autograd.grad(_log_sum(steps, emissions_NC, boundaries), emissions_NC)
    return found


@torch.no_grad()
def best_tags(steps: Steps, emissions_NC: Tensor, boundaries: Sequence[int]) -> Tensor:
    """Returns the most likely tags of each sequence, (N,)."""
    rows_BS, real_BS = _grid(boundaries, emissions_NC.device)
    emissions_BSC = emissions_NC.float()[rows_BS]
    score_BC = steps.start + emissions_BSC[:, 0]
    same_BC = torch.arange(score_BC.shape[1], device=score_BC.device).expand_as(score_BC)
    came_from = []
    for place in range(1, rows_BS.shape[1]):
        best_BC, from_BC = (score_BC[:, :, None] + steps.transitions).max(1)
        here_B1 = real_BS[:, place, None]
        score_BC = torch.where(here_B1, best_BC + emissions_BSC[:, place], score_BC)
        came_from.append(torch.where(here_B1, from_BC, same_BC))
    path = [(score_BC + steps.end).argmax(1)]
    for from_BC in reversed(came_from):
        path.append(from_BC.gather(1, path[-1][:, None])[:, 0])
    return torch.stack(path[::-1], 1)[real_BS]


def _grid(boundaries: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns the tokens of each sequence as (B, S), and which of them are real."""
    bounds = torch.tensor(boundaries, device=device)
    lengths_B = bounds[1:] - bounds[:-1]
    place_S = torch.arange(int(lengths_B.max()), device=device)
    real_BS = place_S < lengths_B[:, None]
    return torch.where(real_BS, bounds[:-1, None] + place_S, bounds[:-1, None]), real_BS
