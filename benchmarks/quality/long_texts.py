"""What windows are worth: `python -m benchmarks.quality.long_texts`.

The starter model on texts that are longer than it reads at once: it reads 128 tokens, and longer
texts are cut, or read in windows that share 32. IMDB: 2,000 reviews, of about 300 tokens, to tune
and to test. MedQuAD: questions look for their answers before any training, as in
`benchmarks/quality/embedding.py`. `--only` makes some of the runs, `--rows 300` takes the first
rows of every split. Results go to `benchmarks/quality/long_texts.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality.cases import CASES
from benchmarks.quality.embedding import MEDQUAD, RANKINGS, Search, reducer_of_ranking, splits_of
from benchmarks.quality.harness import (
    Comparison,
    Results,
    Settings,
    Statistics,
    arguments,
    data_root,
    figures_of,
    run_of_ours,
    table,
)
from tunewright.retrieval.encoder import load_encoder

RESULTS = Path(__file__).with_suffix(".json")
WAYS: Mapping[str, Mapping[str, Any]] = {
    "cut": {"long": "truncate"},
    "windows": {"long": "window", "stride": 32},
}
REVIEWS = "IMDB (2,000 reviews)"
ANSWERS = "MedQuAD, before training"


def main() -> None:
    given = arguments(__doc__ or "", tuple(COMPARISONS), tuple(WAYS))
    results = Results(None if given.rows else given.results or RESULTS)
    for name in given.names:
        results.measure(COMPARISONS[name](given.rows, given.seeds), given.only)
    print(table(results.found))


def reviews(num_rows: int | None, seeds: Sequence[int]) -> Comparison:
    (case,) = (case for case in CASES if case.name == REVIEWS)
    splits = splits_of(data_root() / case.folder, num_rows)
    settings = Settings(case.settings.num_train_epochs, case.settings.learning_rate)

    def run(way: str, seed: int) -> Mapping[str, Statistics]:
        task = {"name": "text-classification", **WAYS[way]}
        with run_of_ours(task, settings, splits, seed) as found:
            assert found.result is not None
            return {way: found.result.statistics}

    return Comparison(
        REVIEWS,
        settings,
        ("accuracy",),
        {way: lambda seed, way=way: run(way, seed) for way in WAYS},
        (("windows", "cut"),),
        num_rows=len(splits["test"]),
        seeds=seeds,
        **figures_of("text-classification", ("accuracy",)),
    )


def answers(num_rows: int | None, seeds: Sequence[int]) -> Comparison:
    search = Search(splits_of(data_root() / "retrieval" / "medquad", num_rows))

    def before() -> Mapping[str, Statistics]:
        found = {}
        for way, settings in WAYS.items():
            encoder = load_encoder(max_length=MEDQUAD.max_length, **settings)
            found[way] = search.dense(encoder.encode_query, encoder.encode_document)
        return found

    return Comparison(
        ANSWERS,
        MEDQUAD,
        RANKINGS,
        {},
        (("windows", "cut"),),
        reducer=reducer_of_ranking,
        num_rows=len(search.relevant),
        before=before,
        seeds=seeds,
    )


COMPARISONS: dict[str, Callable[[int | None, Sequence[int]], Comparison]] = {
    REVIEWS: reviews,
    ANSWERS: answers,
}

if __name__ == "__main__":
    main()
