"""Eight rows of every task, for the contract suite; a new task adds its line here."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw

from tunewright.types import Row


def picture(place: int, size: tuple[int, int] = (20, 20), form: str = "PNG") -> bytes:
    """A disc of some colour at some place, on white."""
    image = Image.new("RGB", size, "white")
    left, top = 5 * (place % 3), 5 * (place // 3 % 3)
    colour = (30 * place % 256, 90 * place % 256, 150 * place % 256)
    ImageDraw.Draw(image).ellipse((left, top, left + 9, top + 9), colour)
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


URL = f"data:image/png;base64,{base64.b64encode(picture(2)).decode()}"

EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "text-classification": [
        {"text": "a fine film, and the plot is very good", "label": "film"},
        {"text": "the worst film ever", "label": "film"},
        {"text": "a new book", "label": "book", "text_pair": "not like the old book"},
        {"text": "slow book, awful story, and not very good at that", "label": "book"},
        {"text": "the team won the game", "label": "sport"},
        {"text": "lose the match", "label": "sport", "text_pair": "win the game"},
        {"text": "stock and shares", "label": "bank"},
        {"text": "the bank card of the phone service, 24 hours", "label": "bank"},
    ],
    "multi-label-classification": [
        {"text": "a fine film, and the plot is very good", "labels": ["film"]},
        {"text": "the worst film ever", "labels": ["film"]},
        {"text": "a new book", "labels": "book", "text_pair": "not like the old book"},
        {"text": "good book, fine story, and very good at that", "labels": "book"},
        {"text": "the team won the game", "labels": ["sport"]},
        {"text": "a film of the match", "labels": "sport| film", "text_pair": "win the game"},
        {"text": "stock and shares", "labels": []},
        {"text": "the book of the film, a good one", "labels": "film|book"},
    ],
    "token-classification": [
        {"tokens": ["the", "fine", "film"], "tags": ["O", "O", "B-work"]},
        {"tokens": ["a", "new", "book", "!"], "tags": ["O", "O", "B-work", "O"]},
        {"tokens": ["the", "team", "won"], "tags": ["B-group", "I-group", "O"]},
        {"tokens": ["stock"], "tags": ["O"]},
        {"tokens": ["the", "bank", "card", "team"], "tags": ["O", "B-group", "I-group", "I-group"]},
        {"tokens": ["很", "好", "的", "电", "影"], "tags": ["O", "O", "O", "B-work", "I-work"]},
        {"tokens": ["a", "film", "book"], "tags": ["O", "B-work", "B-work"]},
        {"text": "won the bank game", "entities": [[8, 12, "group"]]},
    ],
    "question-answering": [
        {
            "question": "a film?",
            "context": "the new film is good",
            "answers": [{"text": "new film", "start": 4}],
        },
        {
            "question": "a book?",
            "context": "the old book was awful, very slow and not good",
            "answers": {"text": ["old book"], "answer_start": [4]},
        },
        {"question": "team?", "context": "the team won the game", "answers": []},
        {
            "question": "who won?",
            "context": "the team won the game",
            "answers": [{"text": "the team", "start": 0}, {"text": "team", "start": 4}],
        },
        {
            "question": "card?",
            "context": "the bank card",
            "answers": [{"text": "card", "start": 9}],
        },
        {"question": "电影?", "context": "电影很好", "answers": [{"text": "很好", "start": 2}]},
        {"question": "music?", "context": "stock and shares", "answers": []},
        {
            "question": "phone?",
            "context": "a new phone service",
            "answers": [{"text": "phone", "start": 6}],
        },
    ],
    "multiple-choice": [
        {"question": "the film was", "choices": ["good", "book"], "label": 0},
        {"question": "the plot was", "choices": ["team", "good", "bank"], "label": 1},
        {"question": "a new", "choices": ["good", "stock"], "label": 0},
        {"question": "they won the", "choices": ["bank", "price", "game"], "label": 2},
        {"question": "who won", "context": "the team", "choices": ["book", "game"], "label": 1},
        {"question": "lose the", "choices": ["game", "phone"], "label": "0"},
        {"question": "she wrote", "choices": ["a bank", "a card", "a good"], "label": 2.0},
        {"question": "read it", "context": "a story", "choices": ["game", "card"], "label": 0},
    ],
    "regression": [
        {"text": "a fine film, and the plot is very good", "score": 5},
        {"text": "the worst film ever", "score": 1.0},
        {"text": "a new book", "score": "3", "text_pair": "not like the old book"},
        {"text": "slow book, awful story, and not very good at that", "score": 1.5},
        {"text": "the team won the game", "score": 4},
        {"text": "lose the match", "score": 2.5, "text_pair": "win the game"},
        {"text": "stock and shares", "score": 3.25},
        {"text": "the bank card of the phone service, 24 hours", "score": 2},
    ],
    "masked-language-modelling": [
        {"text": "the film the film the film the film"},
        {"text": "the film the film the film"},
        {"text": "the film the film the film the film the film"},
        {"text": "the film the film"},
        {"text": "the film the film the film the film the film the film"},
        {"text": "the film"},
        {"text": "the film the film the film the film the film the film the film"},
        {"text": "the film the film the film"},
    ],
    "text-generation": [
        {"prompt": "a film?", "completion": "the film the film"},
        {"prompt": "a book?", "completion": "the film the film"},
        {"prompt": "a game", "input": "of the team", "completion": "the film the film"},
        {"messages": [{"role": "user", "content": "a film?"}], "completion": "the film the film"},
        {"prompt": "a bank?", "system": "a very good bank", "completion": "the film the film"},
        {
            "messages": [
                {"from": "human", "value": "a book?"},
                {"from": "gpt", "value": "the film the film"},
                {"from": "human", "value": "a film?"},
            ],
            "completion": "the film the film",
        },
        {"text": "the film the film the film"},
        {"text": "the film the film"},
    ],
    "sentence-embedding": [
        {"anchor": "a fine film, and the plot is very good", "positive": "a good movie"},
        {"anchor": "the worst film ever", "positive": "an awful movie", "negative": "a good movie"},
        {"anchor": "a new book", "positive": ["the story is new", "not like the old book"]},
        {"anchor": "slow book", "positive": "story", "negative": ["fast game", "fine acting"]},
        {"anchor": "the team won the game", "positive": "the goal was good"},
        {"anchor": "lose the match", "positive": "never win the game"},
        {"anchor": "stock and shares", "positive": "the price in the market"},
        {"anchor": "the bank card", "positive": "the phone service, 24 hours"},
    ],
    "reranking": [
        {"query": "a fine film", "positive": "a good movie", "negative": "the bank card"},
        {"query": "awful", "positive": ["bad", "poor"], "negative": ["good", "fine", "love"]},
        {"query": "game", "text": ["the goal", "the price", "slow"], "label": [1, 0, 0]},
        {"query": "market", "positive": "stock and shares", "negative": "the phone"},
        {"query": "team", "positive": "won the match", "negative": "a new book"},
        {"query": "story", "positive": "the plot", "negative": "the card", "negative_2": "win"},
        {"query": "phone", "text": ["the service", "lose"], "label": [2, 1]},
        {"query": "book", "positive": "a good story, never slow", "negative": "the price"},
    ],
    "translation": [
        {"source": "the film", "target": "the the the the the the"},
        {"source": "a book", "target": ["the the the the the the", "a book"]},
        {"translation": {"en": "the team won", "de": "the the the the the the"}},
        {"source": "the game", "target": "the the the the the the"},
        {"source": "stock and shares, market price", "target": "the the the the the the"},
        {"source": "电影很好", "target": "the the the the the the"},
        {"source": "music", "target": "the the the the the the"},
        {"source": "", "target": "the the the the the the"},
    ],
    "summarization": [
        {"document": "the film is good. it was a new film", "summary": "the the the the the the"},
        {"document": "a book.", "summary": ["the the the the the the", "a book"]},
        {"document": "the team won", "summary": "the the the the the the"},
        {"document": "the game", "summary": "the the the the the the"},
        {"document": "stock and shares, market price", "summary": "the the the the the the"},
        {"document": "电影很好。酒店很差", "summary": "the the the the the the"},
        {"document": "music", "summary": "the the the the the the"},
        {"document": "", "summary": "the the the the the the"},
    ],
    "image-captioning": [
        {"image": picture(0), "caption": "the the the the the the"},
        {"image": picture(1), "caption": ["the the the the the the", "a book"]},
        {"image": URL, "caption": "the the the the the the"},
        {"image": {"bytes": picture(3), "path": None}, "caption": "the the the the the the"},
        {"image": picture(4, (40, 16), "JPEG"), "caption": "the the the the the the"},
        {"image": picture(5, form="GIF"), "caption": "the the the the the the"},
        {"image": picture(6, form="BMP"), "caption": "the the the the the the"},
        {"image": picture(7, form="WEBP"), "caption": "the the the the the the"},
    ],
    "multi-task": [
        {"task": "topic", "text": "a fine film", "label": "film"},
        {"task": "topic", "text": "the worst film ever", "label": "film"},
        {"task": "topic", "text": "a new book", "label": "book"},
        {"task": "topic", "text": "slow book, awful story", "label": "book"},
        {"task": "mood", "text": "a fine film", "text_pair": "love", "label": 1},
        {"task": "mood", "text": "good and fast service", "label": 1},
        {"task": "mood", "text": "the worst game", "text_pair": "hate", "label": 0},
        {"task": "mood", "text": "slow, awful story", "label": 0},
    ],
}

# Eight rows of a multi-task whose parts are of unlike kinds, and its parts.
UNLIKE: list[dict[str, Any]] = [
    {"task": "topic", "text": "a fine film", "label": "film"},
    {"task": "topic", "text": "slow book, awful story", "label": "book"},
    {"task": "names", "tokens": ["the", "team", "won"], "tags": ["B-group", "I-group", "O"]},
    {"task": "names", "tokens": ["a", "new", "book", "!"], "tags": ["O", "O", "B-work", "O"]},
    {"task": "meaning", "anchor": "a new book", "positive": ["the story is new", "not old"]},
    {"task": "meaning", "anchor": "awful", "positive": "bad", "negative": "a good movie"},
    {
        "task": "answers",
        "question": "a film?",
        "context": "the new film is good",
        "answers": [{"text": "new film", "start": 4}],
    },
    {"task": "answers", "question": "team?", "context": "the bank card", "answers": []},
]
UNLIKE_PARTS: dict[str, dict[str, Any]] = {
    "topic": {"name": "text-classification"},
    "names": {"name": "token-classification"},
    "meaning": {"name": "sentence-embedding"},
    "answers": {"name": "question-answering"},
}

# The tiny model that a task is tried with, where it is no encoder.
ARCHITECTURES: dict[str, str] = {
    "text-generation": "llama",
    "image-captioning": "tunewright-captioner",
    "summarization": "tunewright-transformer",
    "translation": "tunewright-transformer",
}

# What a task must be told before it can learn.
SETTINGS: dict[str, dict[str, Any]] = {
    "image-captioning": {
        "label_smoothing": 0.0,
        "form": {"height": 16, "width": 16, "patch_size": 4},
    },
    "summarization": {"label_smoothing": 0.0},
    "translation": {"label_smoothing": 0.0},
    "multi-task": {
        "parts": {"topic": {"name": "text-classification"}, "mood": {"name": "text-classification"}}
    },
}

# Every task of the table, and parts of unlike kinds: the task, its rows, what it is told.
TRIED: dict[str, tuple[str, list[dict[str, Any]], dict[str, Any]]] = {
    name: (name, rows, SETTINGS.get(name, {})) for name, rows in sorted(EXAMPLES.items())
} | {"unlike parts": ("multi-task", UNLIKE, {"parts": UNLIKE_PARTS})}


def rows_of(values: Sequence[dict[str, Any]]) -> list[Row]:
    """Returns rows as a file `rows.csv` would give them."""
    return [Row(i, value, "rows.csv", i + 2) for i, value in enumerate(values)]
