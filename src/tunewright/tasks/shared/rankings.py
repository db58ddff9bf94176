"""Where the right text of each query stands, and what came first: what a report shows of rankings.

The figures of R rows, which a task puts beside its metrics:

    right_place     of the right text in its query's ranking, 1 for the first; infinity beyond what
                    was looked at, NaN where no text is right
    query_row       the first of the rows that ask the same; places and texts are theirs together
    right_text      its row, and its number among the texts of that row, (R, 2)
    first_text      the same of the text that came first, (R, 2)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tunewright.figures import Bars, Mistake
from tunewright.metrics.ranking import DEPTH
from tunewright.metrics.spec import Statistics
from tunewright.types import Row, Rows

Texts = Callable[[Row], tuple[str, Sequence[str]]]
"""Returns the query of a row and its texts, in the order of their numbers."""

# Many queries are right or nearly so: the first places are told apart, the later ones are not.
BANDS = ((1, 1), (2, 2), (3, 3), (4, 5), (6, 10), (11, DEPTH))


def place_bars(statistics: Statistics) -> list[Bars]:
    """Returns how many queries have the right text at which place; nothing where none has one."""
    place_Q = _places_of_queries(statistics)
    known_Q = place_Q[~np.isnan(place_Q)]
    if not len(known_Q):
        return []
    counts = {
        f"place {low}" if low == high else f"{low} to {high}": _count(known_Q, low, high)
        for low, high in BANDS
    }
    counts[f"beyond {DEPTH}"] = _count(known_Q, DEPTH + 1, np.inf)
    last = max(number for number, count in enumerate(counts.values()) if count)
    without = len(place_Q) - len(known_Q)
    note = f"{without:,} more have no right text." if without else ""
    shown = dict(list(counts.items())[: last + 1])
    return [Bars("Place of the right text", shown, "queries", note)]


def worst_queries(
    statistics: Statistics, rows: Rows, limit: int, texts_of: Texts
) -> tuple[int, list[Mistake]]:
    """Returns how many queries have another text first, and `limit` of them, the worst first."""
    place_R = statistics["right_place"]
    is_query_R = statistics["query_row"] == np.arange(len(place_R))
    queries = np.flatnonzero(is_query_R & (place_R > 1))
    worst = queries[np.argsort(-place_R[queries], kind="stable")][:limit]

    def text_at(place: np.ndarray) -> str:
        row, number = place.tolist()
        return texts_of(rows[row])[1][number]

    return len(queries), [
        Mistake(
            rows[query].where,
            texts_of(rows[query])[0],
            f"{_told(place_R[query])}: {text_at(statistics['right_text'][query])}",
            f"place 1: {text_at(statistics['first_text'][query])}",
            None,
        )
        for query in worst.tolist()
    ]


def first_places(gains_QT: np.ndarray) -> np.ndarray:
    """Returns the place of the best gain of each ranking, (Q,); infinity where there is none."""
    return np.where(gains_QT.any(1), gains_QT.argmax(1) + 1.0, np.inf)


def _places_of_queries(statistics: Statistics) -> np.ndarray:
    """Returns the place of each query's right text; none in an evaluation that knows of none."""
    place_R = statistics.get("right_place", np.empty(0))
    own_R = statistics.get("query_row", np.empty(0))
    return place_R[own_R == np.arange(len(own_R))]


def _count(place_Q: np.ndarray, low: int, high: float) -> int:
    return int(((place_Q >= low) & (place_Q <= high)).sum())


def _told(place: float) -> str:
    return f"place {place:,.0f}" if np.isfinite(place) else f"beyond place {DEPTH}"
