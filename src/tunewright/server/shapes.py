"""From answers to the JSON that clients of other servers know.

Classes come as text-embeddings-inference gives them, entities, found answers and texts as the
classic pipelines of transformers do; whatever has no such shape says it in our own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

from tunewright.answers import Answer, Entities, Generated, Label, Labels


def shape_of(answer: Answer, raw_scores: bool = False) -> Any:
    """Returns an answer as plain values; `raw_scores` gives logits in the place of probabilities.

    Answers without logits stay as they are.
    """
    return _shaped(answer, raw_scores)


@singledispatch
def _shaped(answer: Answer, raw_scores: bool) -> Any:
    return answer.to_json()


@_shaped.register
def _(answer: Label, raw_scores: bool) -> list[dict[str, Any]]:
    """All classes, the likeliest first; it says so when the model would rather not answer."""
    found = _classes(answer.scores, answer.logits, raw_scores)
    if answer.abstained:
        found[0]["abstained"] = True
    return found


@_shaped.register
def _(answer: Labels, raw_scores: bool) -> list[dict[str, Any]]:
    """All labels, the likeliest first; `chosen` are those whose score reaches its threshold."""
    chosen = {str(label) for label in answer.labels}
    found = _classes(answer.scores, answer.logits, raw_scores)
    return [{**entry, "chosen": entry["label"] in chosen} for entry in found]


@_shaped.register
def _(answer: Entities, raw_scores: bool) -> Any:
    if answer.tags is not None:
        return answer.to_json()
    return [entity.to_json() for entity in answer]


@_shaped.register
def _(answer: Generated, raw_scores: bool) -> list[dict[str, Any]]:
    found = answer.to_json()
    others = found.pop("alternatives", [])
    return [found, *others]


def _classes(
    scores: Mapping[str, float], logits: Sequence[float], raw_scores: bool
) -> list[dict[str, Any]]:
    numbers = logits if raw_scores and len(logits) == len(scores) else list(scores.values())
    entries = [
        {"score": float(number), "label": label}
        for label, number in zip(scores, numbers, strict=True)
    ]
    return sorted(entries, key=lambda entry: -entry["score"])
