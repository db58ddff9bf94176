"""Dropout of attention's probabilities, on a CPU.

Which keys a query loses is a hash of their places in the sequence and of the sequence's seed: no
mask is drawn, none is kept for the gradient, and a row loses the same ones whatever shares its pass
and whatever its threads. Native code and the plain torch of this file give the same keys.

Shape letters: N tokens, H heads, D width of a head; in a block (see `blocks.py`) G sequences of S
query and T key tokens, and X = G·H matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from tunewright.models.layers.blocks import Block
from tunewright.models.layers.dropout import GOLDEN, DropoutSource

LOTS = 65_536  # a lot is a number below this


@dataclass(frozen=True, eq=False)
class AttentionDropout:
    """Of each query's keys, `dropped` of 65,536 are lost; `seeds` are uint64, one a sequence."""

    seeds: np.ndarray
    dropped: int

    @property
    def scale(self) -> float:
        """What the probabilities that are kept are multiplied with."""
        return LOTS / (LOTS - self.dropped)

    def lots(self, boundaries: tuple[int, ...]) -> Lots:
        """Returns the lots of packed queries, where plain torch attends."""
        lengths = [end - start for start, end in pairwise(boundaries)]
        position_N = np.concatenate([np.arange(length) for length in lengths])
        return Lots(self, np.repeat(self.seeds, lengths), position_N)


@dataclass(frozen=True, eq=False)
class Lots:
    """A seed and a place in its sequence for each of N queries."""

    dropout: AttentionDropout
    seed_N: np.ndarray
    position_N: np.ndarray

    def kept(self, of_queries: Block, like_XST: Tensor) -> Tensor:
        """Says which keys each query keeps, booleans (X, S, T)."""
        rows = of_queries.rows if isinstance(of_queries.rows, slice) else of_queries.rows.numpy()
        shape = of_queries.num_sequences, of_queries.length
        seed_GS, position_GS = (x[rows].reshape(shape) for x in (self.seed_N, self.position_N))
        kept_GHST = kept_keys(
            seed_GS[:, 0],
            position_GS.astype(np.uint32),
            num_heads=len(like_XST) // shape[0],
            num_keys=like_XST.shape[2],
            dropped=self.dropout.dropped,
        )
        return torch.from_numpy(kept_GHST).view(like_XST.shape)


def kept_keys(
    seed_G: np.ndarray, position_GS: np.ndarray, num_heads: int, num_keys: int, dropped: int
) -> np.ndarray:
    """Says which keys each query keeps, (G, H, S, T), as attention.c does.

    A head's seed is splitmix64's (Steele et al. 2014) of its sequence's; the rounds that mix places
    into it are those of lowbias32 (Wellons 2018). A word has the lots of two neighbouring keys.
    """
    seed_GH = seed_G[:, None] + np.arange(1, num_heads + 1, dtype=np.uint64) * GOLDEN
    seed_GH = (seed_GH ^ seed_GH >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    seed_GH = (seed_GH ^ seed_GH >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    seed_GH ^= seed_GH >> np.uint64(31)
    first, second = (
        (seed_GH >> np.uint64(shift)).astype(np.uint32)[:, :, None, None] for shift in (0, 32)
    )
    pair_P = np.arange((num_keys + 1) // 2, dtype=np.uint32)
    lots = position_GS[:, None, :, None] * np.uint32(0x9E3779B1)
    lots = lots + (pair_P * np.uint32(0x85EBCA77) + first)
    lots = (lots ^ lots >> np.uint32(16)) * np.uint32(0x7FEB352D)
    lots = (lots ^ lots >> np.uint32(15) ^ second) * np.uint32(0x846CA68B)
    lots ^= lots >> np.uint32(16)
    both = np.stack((lots & np.uint32(LOTS - 1), lots >> np.uint32(16)), axis=-1)
    kept: np.ndarray = both.reshape(*lots.shape[:-1], -1)[..., :num_keys] >= dropped
    return kept


def dropout_of(
    module: nn.Module, probability: float, values: Tensor, num_sequences: int
) -> AttentionDropout | None:
    """Returns the dropout of a module's next call; None off the CPU.

    Where activations are computed anew there is no source, and torch's random state, which is
    replayed then, gives the seeds.
    """
    if values.device.type != "cpu":
        return None
    source: DropoutSource | None = getattr(module, "dropout_source", None)
    if source is None:
        seeds = torch.randint(2**63 - 1, (num_sequences,)).numpy().astype(np.uint64)
    else:
        seeds = source.seeds(num_sequences)
    return AttentionDropout(seeds, min(round(probability * LOTS), LOTS - 1))
