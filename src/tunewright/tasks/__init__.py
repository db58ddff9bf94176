"""The table of tasks. Reading it does not import torch.

A task of your own joins through the entry point group `tunewright.tasks`, whose value is the
task's class.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from tunewright.errors import SettingsError, listed, nearest
from tunewright.types import Role

if TYPE_CHECKING:
    from tunewright.tasks.base import Task

ENTRY_POINTS = "tunewright.tasks"

TEXT = Role(
    "text",
    "the text to classify",
    ("sentence", "content", "review", "text_a", "sentence1", "premise"),
)
TEXT_PAIR = Role(
    "text_pair",
    "a second text, read together with the first",
    ("text_b", "sentence2", "hypothesis"),
    required=False,
)
LABEL = Role(
    "label",
    "the class of the text",
    ("labels", "target", "class", "category"),
    only_training=True,
)

SCORE = Role(
    "score",
    "the number to predict",
    ("label", "similarity", "rating", "target", "value"),
    only_training=True,
)

TOKENS = Role("tokens", "the words of the text, a list", ("words",), required=False)
TAGS = Role(
    "tags",
    "the tag of each word, a list",
    ("ner_tags", "pos_tags", "labels"),
    required=False,
    only_training=True,
)
PLAIN_TEXT = Role(
    "text", "the text, where it does not come as words", ("sentence", "content"), required=False
)
ENTITIES = Role(
    "entities",
    "the marked stretches of the text, in characters",
    ("spans", "label", "labels"),
    required=False,
    only_training=True,
)


@dataclass(frozen=True)
class TaskEntry:
    """A line of the table: what a task is for, what it reads, and where its class is."""

    name: str
    summary: str
    roles: tuple[Role, ...]
    target: str

    def load(self) -> type[Task]:
        """Imports the task's module and returns its class."""
        module, _, name = self.target.partition(":")
        return getattr(import_module(module), name)


TASKS: dict[str, TaskEntry] = {
    "text-classification": TaskEntry(
        "text-classification",
        "one label for a text or a pair of texts",
        (TEXT, TEXT_PAIR, LABEL),
        "tunewright.tasks.text_classification:TextClassification",
    ),
    "token-classification": TaskEntry(
        "token-classification",
        "a tag for each word: names, terms, parts of speech",
        (TOKENS, TAGS, PLAIN_TEXT, ENTITIES),
        "tunewright.tasks.token_classification:TokenClassification",
    ),
    "regression": TaskEntry(
        "regression",
        "one number for a text or a pair of texts, such as their similarity",
        (TEXT, TEXT_PAIR, SCORE),
        "tunewright.tasks.regression:Regression",
    ),
}

PART = Role("task", "the name of the part that the row belongs to", ("dataset",))
MULTI_TASK_ROLES = (
    PART,
    *{
        role.name: replace(role, required=False) for entry in TASKS.values() for role in entry.roles
    }.values(),
)
TASKS["multi-task"] = TaskEntry(
    "multi-task",
    "several of these tasks over one backbone",
    MULTI_TASK_ROLES,
    "tunewright.tasks.multi_task:MultiTask",
)


def find_task(name: str) -> type[Task]:
    """Returns the class of a task by name: from the table, or from an installed entry point.

    Raises SettingsError that names the nearest task.
    """
    if name in TASKS:
        return TASKS[name].load()
    foreign = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name in foreign:
        return foreign[name].load()
    known = [*TASKS, *foreign]
    hint = nearest(name, known)
    remedy = f'Did you mean "{hint}"?' if hint else ""
    raise SettingsError("task", f'there is no task "{name}"', f"There is {listed(known)}.", remedy)
