"""Flattens SQuAD's nested file, one row per question.

{"data": [{"title": "Ada", "paragraphs": [{"context": "Ada met Bo.", "qas": [
    {"id": "1", "question": "Who met Bo?", "answers": [{"text": "Ada", "answer_start": 0}]}]}]}]}
->  {"id": "1", "title": "Ada", "context": "Ada met Bo.", "question": "Who met Bo?",
     "answers": {"text": ["Ada"], "answer_start": [0]}}

Source: Rajpurkar et al. 2016 and 2018. What else a file has, such as version 2's plausible answers
to questions that have none, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tunewright.errors import DataError

NEEDED = (
    'A SQuAD file holds {"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", '
    '"answers": [{"text", "answer_start"}]}]}]}]}.'
)


def is_nested_squad(document: Mapping[str, Any]) -> bool:
    """Says whether a JSON document is a file of articles with paragraphs."""
    articles = document.get("data")
    first = articles[0] if isinstance(articles, list) and articles else None
    return isinstance(first, Mapping) and isinstance(first.get("paragraphs"), list)


def squad_rows(document: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """Yields a row for each question; answers that a file without them lacks are None.

    Raises: DataError that names article, paragraph and question for another form.
    """
    for article_number, article in enumerate(document["data"], 1):
        where = f"{name}, article {article_number}"
        for number, paragraph in enumerate(_part(article, "paragraphs", list, where), 1):
            place = f"{where}, paragraph {number}"
            context = _part(paragraph, "context", str, place)
            for question_number, asked in enumerate(_part(paragraph, "qas", list, place), 1):
                here = f"{place}, question {question_number}"
                yield {
                    "id": asked.get("id") if isinstance(asked, Mapping) else None,
                    "title": article.get("title"),
                    "context": context,
                    "question": _part(asked, "question", str, here),
                    "answers": _answers(asked, here),
                }


def _answers(asked: Mapping[str, Any], where: str) -> dict[str, list[Any]] | None:
    if asked.get("answers") is None:
        return None
    answers = _part(asked, "answers", list, where)
    return {
        "text": [_part(answer, "text", str, where) for answer in answers],
        "answer_start": [_part(answer, "answer_start", int, where) for answer in answers],
    }


def _part(whole: Any, key: str, kind: type, where: str) -> Any:
    """Returns what stands under a key, if it is of its kind."""
    found = whole.get(key) if isinstance(whole, Mapping) else None
    if isinstance(found, kind):
        return found
    words = f'"{key}" is {found!r:.60}' if found is not None else f'there is no "{key}"'
    raise DataError(where, words, NEEDED)
