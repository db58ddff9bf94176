"""Where a token stands: waves that are added, angles that are turned by, biases of distances.

Shape letters: S tokens that attend, T the tokens attended to; H heads, E width of a head, D width
of the model; "..." is (B, S) or (N,).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from tunewright.models.transformer.config import TransformerConfig


@lru_cache(maxsize=8)
def sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """Returns the positions 0 to `length` - 1 as vectors, (length, D).

    PE[p, 2i] = sin(p / 10000^(2i/D)), PE[p, 2i+1] = cos(p / 10000^(2i/D)): Vaswani et al., 3.5.
    """
    turns = _turns(length, width, device)
    return torch.stack([turns.sin(), turns.cos()], -1).flatten(1)


def _turns(length: int, width: int, device: torch.device) -> Tensor:
    """Returns the angles p / 10000^(2i/D) of each position and pair of features, (length, D/2)."""
    pair = torch.arange(0, width, 2, device=device)
    return torch.arange(length, device=device)[:, None] * torch.exp(
        pair * (-math.log(10_000) / width)
    )


Rotation = tuple[Tensor, Tensor]


@lru_cache(maxsize=8)
def rotations(length: int, width: int, device: torch.device) -> Rotation:
    turns = _turns(length, width, device)
    return turns.cos(), turns.sin()


def rotate(heads: Tensor, rotation: Rotation) -> Tensor:
    """Turns each pair of features (x, y) of (..., H, E) by its position's angle a:

    (x cos a - y sin a, x sin a + y cos a), so that products of queries and keys depend on the
    distance of their positions alone (Su et al. 2021, "RoFormer"). A pair is a feature of the
    first half and the one as far into the second. The angles' cosines and sines are (..., E/2).
    """
    cosine, sine = (part[..., None, :] for part in rotation)
    left, right = heads.chunk(2, -1)
    return torch.cat([left * cosine - right * sine, left * sine + right * cosine], -1)


class RelativePositions(nn.Module):
    """A number for each head and distance, added to the scores: (H, S, T).

    Distances up to a quarter (a half, when looking back only) of the buckets have their own; the
    further ones share buckets whose width grows with the logarithm (Raffel et al. 2020, "T5").
    """

    def __init__(self, config: TransformerConfig, causal: bool) -> None:
        super().__init__()
        self.causal, self.farthest = causal, config.max_relative_distance
        self.table = nn.Embedding(config.num_relative_buckets, config.num_attention_heads)

    def forward(self, query_S: Tensor, key_T: Tensor) -> Tensor:
        bucket_ST = self.bucket(key_T[None, :] - query_S[:, None])
        return self.table(bucket_ST).permute(2, 0, 1)

    def bucket(self, distance: Tensor) -> Tensor:
        """Returns the bucket of each distance (key minus query)."""
        count = self.table.num_embeddings
        if self.causal:
            after, away = torch.zeros_like(distance), (-distance).clamp(min=0)
        else:
            count //= 2
            after, away = (distance > 0).long() * count, distance.abs()
        near = count // 2
        share = torch.log(away.clamp(min=1) / near) / math.log(self.farthest / near)
        far = (near + (share * (count - near)).long()).clamp(max=count - 1)
        return after + torch.where(away < near, away, far)
