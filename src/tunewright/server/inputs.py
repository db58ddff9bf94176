"""From the JSON of a request to rows: texts, pairs, and objects with a task's columns.

    "a text"                                            one row
    ["a text", "its pair"]                              one row, where the model reads pairs
    ["a text", "another"]                               two rows, where it does not
    [["a text"], ["a text", "its pair"]]                a batch
    {"question": "...", "context": "..."}               one row by its columns
    [{"image": "iVBORw0KGgo..."}, ...]                  a batch of them

Pictures come in base64, with or without `data:image/png;base64,` before it: no path and no address
is ever followed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunewright.data import resolve_columns
from tunewright.data.cells.pictures import MAX_PIXELS, bytes_from_base64, num_pixels
from tunewright.data.checks import is_blank
from tunewright.run.loaded import TrainedModel
from tunewright.server.refusals import Refused
from tunewright.tasks.base import Task
from tunewright.types import Row

MAX_ROWS = 256  # of one request
NEEDED = "A text, a pair of texts, an object with columns, or a list of these is needed."


def rows_of(model: TrainedModel, inputs: Any) -> tuple[list[Row], bool]:
    """Returns the rows that a request asks, and whether it asks for a batch.

    Raises: Refused for what is empty (400), too much (413), or of another kind (422); DataError for
    columns that are missing, and for what is no picture in base64.
    """
    roles = model.bare_roles
    is_batch = _is_batch(inputs, roles)
    found = inputs if is_batch else [inputs]
    if is_blank(inputs) or inputs == {}:
        raise Refused(400, f"inputs: it is empty. {NEEDED}")
    names = [f"inputs[{place}]" if is_batch else "inputs" for place in range(len(found))]
    rows = [
        _row(model, roles, place, item, name)
        for place, (item, name) in enumerate(zip(found, names, strict=True))
    ]
    _check_pictures(model.predictor.task, rows)
    return rows, is_batch


def num_asked(inputs: Any) -> int:
    """Returns how many rows a request may ask. Raises Refused (413) where these are too many."""
    count = len(inputs) if isinstance(inputs, list) else 1
    if count > MAX_ROWS:
        raise Refused(413, f"inputs: it has {count:,} rows. At most {MAX_ROWS} are read.")
    return count


def _check_pictures(task: Task, rows: Sequence[Row]) -> None:
    """Refuses pictures that are too much together, by what their heads say: small files can be."""
    sizes = [
        num_pixels(row.values[role], f"{row.source}.{role}")
        for row in rows
        for role in task.picture_roles
        if role in row.values
    ]
    if sum(sizes) > MAX_PIXELS:
        found = f"inputs: its pictures have {sum(sizes):,} pixels."
        raise Refused(413, f"{found} At most {MAX_PIXELS:,} are read at once.")


def _is_batch(inputs: Any, roles: Sequence[str]) -> bool:
    """Says whether a list holds rows; else it is one row of several texts."""
    if not isinstance(inputs, list):
        return False
    is_row = all(isinstance(item, str) for item in inputs) and len(inputs) <= len(roles)
    return not (is_row and len(roles) > 1)


def _row(model: TrainedModel, roles: Sequence[str], place: int, item: Any, name: str) -> Row:
    if isinstance(item, Mapping):
        values = _by_columns(model, item, name)
    else:
        texts = item if isinstance(item, list) else [item]
        if not 1 <= len(texts) <= len(roles) or not all(isinstance(text, str) for text in texts):
            raise Refused(422, f"{name}: it is {item!r:.60}. {NEEDED}")
        values = dict(zip(roles, texts, strict=False))
    task = model.predictor.task
    return Row(place, _checked(task, values, name), name)


def _by_columns(model: TrainedModel, item: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the values of a task's roles: by the columns of training, or by the usual names."""
    roles = model.predictor.task.roles
    choice = resolve_columns(
        roles, list(item), {}, training=False, source=name, before=model.columns, can_name=False
    )
    if choice.unused:
        known = ", ".join(
            model.columns.get(role.name, role.name)
            for role in roles
            if not role.only_training
            and not (role.beside and model.columns and role.name not in model.columns)
        )
        raise Refused(422, f'{name}: "{choice.unused[0]}" is no column. There is {known}.')
    training_only = {role.name for role in model.predictor.task.roles if role.only_training}
    return {
        role: item[column] for role, column in choice.mapping.items() if role not in training_only
    }


def _checked(task: Task, values: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns the values with pictures as bytes. Raises Refused where there is nothing to read."""
    if all(map(is_blank, values.values())):
        raise Refused(400, f"{name}: it is empty. {NEEDED}")
    for role in task.picture_roles:
        if role in values:
            values[role] = _picture(values[role], f"{name}.{role}")
    return values


def _picture(value: Any, name: str) -> bytes:
    if not isinstance(value, str):
        raise Refused(422, f"{name}: it is {value!r:.60}. A picture is a text in base64.")
    return bytes_from_base64(value, name)
