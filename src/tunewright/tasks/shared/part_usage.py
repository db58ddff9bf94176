"""What the model card of a multi-task shows: how it and each of its parts is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tunewright.tasks.base import Task
from tunewright.tasks.shared.parts import folder_of

HERE = "path/to/this/folder"
TEXT = "A fine film."
# Rows for the tasks that one text is not enough for.
ROWS: Mapping[str, Mapping[str, Any]] = {
    "multiple-choice": {"question": "What barks?", "choices": ["a cat", "a dog"]},
    "question-answering": {"question": "Who met Bo?", "context": "Ada met Bo."},
    "reranking": {"query": "a question", "text": ["an answer", "another"]},
}


def example_row(name: str, task: Task) -> dict[str, Any]:
    """Returns a row that a part can answer."""
    columns = getattr(task, "choice_columns", ())
    if columns:  # of a multiple choice, each with a choice of its own
        texts = {column: f"choice {place}" for place, column in enumerate(columns, 1)}
        return {"task": name, "question": "What barks?", **texts}
    if task.name in ROWS:
        return {"task": name, **ROWS[task.name]}
    role = "text" if "text" in task.text_roles else task.text_roles[0]
    return {"task": name, role: TEXT}


def own_lines(tasks: Mapping[str, Task]) -> str:
    """Returns lines of Python that ask each part once."""
    rows = [
        f"        {json.dumps(example_row(name, task), ensure_ascii=False)},\n"
        for name, task in tasks.items()
    ]
    return f'import tunewright as tw\n\ntw.load("{HERE}").predict(\n    [\n{"".join(rows)}    ]\n)'


def stock_lines(tasks: Mapping[str, Task]) -> str:
    """Returns lines of Python that show how stock libraries read each part, from its own folder."""
    return "\n\n".join(
        f"# {name}\n{_stock_lines_of(task).replace(HERE, place)}"
        for name, task, place in _places(tasks)
    )


def _stock_lines_of(task: Task) -> str:
    return task.stock_lines() or (
        "from transformers import pipeline\n\n"
        f'model = pipeline("{task.pipeline_tag}", model="{HERE}")\n'
        f'model("{TEXT}", truncation=True)'
    )


def limits(tasks: Mapping[str, Task], max_length: int | None) -> list[str]:
    """Returns sentences on what other libraries read of a multi-task, and what they do not know."""
    parts = [
        f"{name} ({task.name}) is {place.replace(HERE, 'this folder')}"
        for name, task, place in _places(tasks)
    ]
    return [
        f"To other libraries each part is a model by itself: {', '.join(parts)}.",
        *(f"{name}: {sentence}" for name, task in tasks.items() for sentence in task.limits()),
        *_lengths(tasks, max_length),
    ]


def _lengths(tasks: Mapping[str, Task], max_length: int | None) -> Iterator[str]:
    """Yields which parts read less than the tokenizer, which they share, lets through."""
    lengths = {name: getattr(task, "max_length", None) for name, task in tasks.items()}
    shorter = [f"{name} {own:,}" for name, own in lengths.items() if own and own != max_length]
    if shorter and max_length is not None:
        yield (
            f"The parts share a tokenizer, which cuts at {max_length:,} tokens in stock libraries. "
            f"Here fewer are read by {', '.join(shorter)}."
        )


def _places(tasks: Mapping[str, Task]) -> Iterator[tuple[str, Task, str]]:
    """Yields each part with its folder; that of the first is the multi-task's own."""
    for number, (name, task) in enumerate(tasks.items()):
        yield name, task, f"{HERE}/{folder_of(name)}" if number else HERE
