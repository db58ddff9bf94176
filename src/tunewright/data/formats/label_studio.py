"""Flattens what Label Studio exports as JSON, one row per task.

{"data": {"text": "Ada met Bo."}, "annotations": [{"result": [{"type": "labels", "from_name": "l",
    "value": {"start": 0, "end": 3, "text": "Ada", "labels": ["person"]}}]}]}
->  {"text": "Ada met Bo.", "entities": [{"start": 0, "end": 3, "label": "person"}]}

A choice becomes a column under the name of its control: a text, or a list where several may be
chosen. Source: https://labelstud.io/guide/task_format. The smaller export (JSON-MIN) and doccano's
files have rows already; `read_spans` knows their spans.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tunewright.data.cells.spans import in_characters
from tunewright.data.wording import counted

ENTITIES = "entities"


def is_task(row: Mapping[str, Any]) -> bool:
    """Says whether an object is a task of Label Studio with its annotations."""
    return isinstance(row.get("data"), Mapping) and isinstance(row.get("annotations"), list)


class Flattener:
    """Makes rows of tasks, and counts what they cannot hold."""

    def __init__(self) -> None:
        self._several = 0
        self._left_out: Counter[str] = Counter()

    def row(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a task's data and what its annotation says about them.

        Of several annotations it is the one marked as ground truth, else the first that was not
        cancelled. A task without any has None for entities.
        """
        data = task["data"]
        annotations = [each for each in task["annotations"] if _is_given(each)]
        self._several += len(annotations) > 1
        annotation = max(annotations, key=lambda each: bool(each.get("ground_truth")), default=None)
        if annotation is None:
            return {**data, ENTITIES: None}
        choices: dict[str, Any] = {}
        entities: list[dict[str, Any]] = []
        for result in annotation["result"]:
            kind, value = result.get("type"), result.get("value", {})
            if kind == "labels" and isinstance(value.get("labels"), list):
                entities += _entities(value, _text_of(data, value))
            elif kind == "choices" and isinstance(value.get("choices"), list):
                chosen = value["choices"]
                choices[str(result.get("from_name"))] = chosen[0] if len(chosen) == 1 else chosen
            else:
                self._left_out[str(kind)] += 1
        return {**data, **choices, ENTITIES: entities}

    def notes(self, name: str) -> list[str]:
        """Returns whole sentences on what was chosen and left out."""
        notes = [f"{name}: the file is read as Label Studio's export."]
        if self._several:
            tasks = counted(self._several, "task")
            notes.append(f"{name}: of several annotations one is read, in {tasks}.")
        for kind, number in self._left_out.items():
            results = counted(number, "result")
            notes.append(f'{name}: {results} of the type "{kind}" left out.')
        return notes


def _is_given(annotation: Any) -> bool:
    return (
        isinstance(annotation, Mapping)
        and not annotation.get("was_cancelled")
        and isinstance(annotation.get("result"), list)
        and all(isinstance(result, Mapping) for result in annotation["result"])
    )


def _text_of(data: Mapping[str, Any], value: Mapping[str, Any]) -> str | None:
    """Returns the text of a task that holds the marked words."""
    said = value.get("text")
    texts = [text for text in data.values() if isinstance(text, str)]
    return next((text for text in texts if isinstance(said, str) and said in text), None)


def _entities(value: Mapping[str, Any], text: str | None) -> list[dict[str, Any]]:
    start, end = value.get("start"), value.get("end")
    if text is not None and isinstance(start, int) and isinstance(end, int):
        start, end = in_characters(text, start, end, value["text"])
    return [{"start": start, "end": end, "label": label} for label in value["labels"]]
