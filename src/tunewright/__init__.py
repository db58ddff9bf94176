"""Tunewright turns labelled data into a working, measured, explained, small and fast Transformer.

import tunewright as tw

run = tw.train("reviews.csv", task="text-classification", text="review", label="stars")
run.evaluate("test.csv").metrics["accuracy"]
tw.load("runs/reviews/model").predict(["A fine film."])
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunewright.answers import Label
    from tunewright.api import audit, compare, pretrain, resume, train
    from tunewright.errors import TunewrightError, TunewrightWarning
    from tunewright.estimator import TextClassifier
    from tunewright.retrieval.embedding import embed
    from tunewright.retrieval.making import index
    from tunewright.retrieval.search_index import load_index
    from tunewright.run.export import export
    from tunewright.run.finished import FinishedRun
    from tunewright.run.loaded import load, load_adapters
    from tunewright.run.preparing.cache import cache
    from tunewright.server.run import serve
    from tunewright.types import Estimate

__version__ = "0.1.0"

# OpenMP's threads spin while they wait for one another, for up to a millisecond. On a machine that
# does anything else, that turns a step of 3 ms into one of 30; a short spin costs next to nothing.
# It is read when torch is loaded, so it stands here, and it yields to the user's own setting.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# Names are imported when they are used, so that `tunewright --help` does not import torch.
_HOMES = {
    "Estimate": "tunewright.types",
    "FinishedRun": "tunewright.run.finished",
    "Label": "tunewright.answers",
    "TextClassifier": "tunewright.estimator",
    "TunewrightError": "tunewright.errors",
    "TunewrightWarning": "tunewright.errors",
    "audit": "tunewright.api",
    "cache": "tunewright.run.preparing.cache",
    "compare": "tunewright.api",
    "embed": "tunewright.retrieval.embedding",
    "index": "tunewright.retrieval.making",
    "export": "tunewright.run.export",
    "load": "tunewright.run.loaded",
    "load_adapters": "tunewright.run.loaded",
    "load_index": "tunewright.retrieval.search_index",
    "pretrain": "tunewright.api",
    "resume": "tunewright.api",
    "serve": "tunewright.server.run",
    "train": "tunewright.api",
}

__all__ = [
    "Estimate",
    "FinishedRun",
    "Label",
    "TextClassifier",
    "TunewrightError",
    "TunewrightWarning",
    "audit",
    "cache",
    "compare",
    "embed",
    "export",
    "index",
    "load",
    "load_adapters",
    "load_index",
    "pretrain",
    "resume",
    "serve",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tunewright' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
