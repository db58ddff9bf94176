"""Documents about different things, and an index of them by the words they have."""

from __future__ import annotations

import pytest

from tests.retrieval.embedders import WordCounts
from tunewright.retrieval.documents import Document
from tunewright.retrieval.indexing import update_index
from tunewright.retrieval.search_index import load_index

TEXTS = {
    "iron": "Anaemia is a lack of iron.",
    "bank": "The bank raised its rates again.",
    "film": "A film about a bank that lost its iron safe.",
    "goal": "The team won by a goal.",
}


def documents(texts=TEXTS, **columns):
    return [Document(key, text, columns, key) for key, text in texts.items()]


@pytest.fixture
def update(tmp_path):
    """Returns a function that brings the index of this test up to date."""

    def call(texts=TEXTS, embedder=None, **named):
        given = documents(texts) if isinstance(texts, dict) else texts
        return update_index(tmp_path / "index", given, embedder or WordCounts(), **named)

    return call


@pytest.fixture
def index(update, tmp_path):
    """Returns a function that indexes texts and opens what was made."""
    opened = []

    def call(texts=TEXTS, **named):
        update(texts, **named)
        opened.append(load_index(tmp_path / "index", embedder=WordCounts()))
        return opened[-1]

    yield call
    for each in opened:
        each.close()
