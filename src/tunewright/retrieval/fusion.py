"""One ranking out of two.

    fused([("a", 0.9), ("b", 0.5)], [("b", 7.1)], weight=0.8)  ->  [("a", 0.8), ("b", 0.2)]

Scores of unlike kinds are brought to 0 to 1 and added up (Bruch et al. 2023, "An Analysis of Fusion
Functions for Hybrid Retrieval", find that this beats reciprocal ranks, which forget by how much one
is better; so did we, see the decision on the index).
"""

from __future__ import annotations

from collections.abc import Sequence

Ranked = Sequence[tuple[int, float]]


def fused(first: Ranked, second: Ranked, weight: float) -> list[tuple[int, float]]:
    """Returns what stands in either ranking, with scores from 0 to 1, the best first.

    `weight` is that of the first ranking, 1 - `weight` that of the second. In each, the best has
    the score 1 and the last, as well as all that it lacks, 0.
    """
    scores: dict[int, float] = {}
    for ranked, share in ((first, weight), (second, 1 - weight)):
        for item, score in _scaled(ranked):
            scores[item] = scores.get(item, 0.0) + share * score
    return sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))


def _scaled(ranked: Ranked) -> list[tuple[int, float]]:
    if not ranked:
        return []
    high, low = ranked[0][1], ranked[-1][1]
    if high == low:
        return [(item, 1.0) for item, _ in ranked]
    return [(item, (score - low) / (high - low)) for item, score in ranked]
