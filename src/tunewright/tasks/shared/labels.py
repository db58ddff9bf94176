"""What tasks with labels share: their names, their types in the data, and their order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from tunewright.answers import LabelValue
from tunewright.data import is_blank, plain_label
from tunewright.errors import DataError, SettingsError, listed
from tunewright.types import Row

LabelKind = Literal["string", "integer", "boolean"]


def as_names(given: Any) -> Any:
    """Takes labels as the data has them, integers and booleans too, for the names they go by."""
    if isinstance(given, Mapping):
        return {name_of(label): value for label, value in given.items()}
    return tuple(map(name_of, given)) if isinstance(given, list | tuple) else given


Names = Annotated[tuple[str, ...], BeforeValidator(as_names)]
Weights = Annotated[Literal["balanced"] | dict[str, float] | None, BeforeValidator(as_names)]


def label_of(row: Row, role: str = "label") -> LabelValue | float:
    """Returns the one label of a row. Raises DataError for what is none, such as a list."""
    label = row.values[role]
    if isinstance(label, str | int | float) and not is_blank(label):
        return label
    raise DataError(
        row.where, f"its {role} is {label!r:.60}", "One text, integer or boolean is needed."
    )


def column_of(rows: Iterable[Row], role: str) -> str:
    """Returns the name of a role's column in the user's data, where the rows know it."""
    return str(getattr(rows, "columns", {}).get(role, role))


def name_of(value: LabelValue | float) -> str:
    """Returns a label as it stands in the model's configuration.

    Whole floats are what pandas makes of integers beside an empty cell.
    """
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def value_of(name: str, kind: LabelKind) -> LabelValue:
    """Returns a label as the data has it."""
    if kind == "integer":
        return int(name)
    return name == "true" if kind == "boolean" else name


def place_of(value: LabelValue | float, labels: Sequence[str]) -> int:
    """Returns the position of a label, or -1 when training never saw it.

    A file may write a label in another way than the training data: true, True and "True" are
    one, and so are 1 and 1.0.
    """
    for name in (name_of(value), plain_label(value), *_spellings(value)):
        if name in labels:
            return labels.index(name)
    plain = [plain_label(name) for name in labels]  # the training data may be the odd one
    return plain.index(plain_label(value)) if plain_label(value) in plain else -1


def _spellings(value: LabelValue | float) -> tuple[str, ...]:
    """Returns how else a boolean may be written."""
    lower = str(value).lower()
    return (lower, lower.capitalize(), lower.upper()) if lower in ("true", "false") else ()


def kind_of(values: Iterable[LabelValue | float]) -> LabelKind:
    """Returns the type that all labels of the data have; text where they have several."""
    distinct = {(type(value), value): value for value in values}.values()  # True is not 1
    if all(isinstance(value, bool) for value in distinct):
        return "boolean"
    return "integer" if all(map(_is_whole, distinct)) else "string"


def _is_whole(value: LabelValue | float) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def common_kind(kind: LabelKind, labels: Iterable[str]) -> LabelKind:
    """Returns `kind` where every label can be of it, else `string`."""
    if kind == "integer" and not all(name.removeprefix("-").isdecimal() for name in labels):
        return "string"
    return "string" if kind == "boolean" and not {"true", "false"}.issuperset(labels) else kind


def ordered(names: Iterable[str], kind: LabelKind) -> tuple[str, ...]:
    """Returns labels sorted as numbers or as text."""
    return tuple(sorted(names, key=int) if kind == "integer" else sorted(names))


def joined_labels(
    earlier: Sequence[str], labels: Sequence[str], weights: Sequence[float], kind: LabelKind
) -> dict[str, Any]:
    """Returns what a model goes on with: its earlier labels first, and the new ones after them.

    The earlier ones weigh 1 where the new data, whose labels have `weights` or none, lacks them.
    """
    joined = tuple(dict.fromkeys((*earlier, *labels)))
    weight = dict(zip(labels, weights, strict=False))
    return {
        "labels": joined,
        "label_kind": common_kind(kind, joined),
        "weights": tuple(weight.get(name, 1.0) for name in joined) if weight else (),
    }


def check_named(found: Iterable[str], labels: Sequence[str], source: str) -> None:
    """Raises DataError when the data has labels that the given ones, if any, do not name."""
    unnamed = [name for name in found if labels and name not in labels]
    if unnamed:
        raise DataError(
            source,
            f"it has the labels {listed(unnamed)}, which task.labels does not name",
            f"task.labels names {listed(labels)}.",
            "Add them there, or leave task.labels out to learn the labels from the data.",
        )


def weights_of(
    given: Mapping[str, float], labels: Sequence[str], setting: str
) -> tuple[float, ...]:
    """Returns the weight of each label, 1 where none is given.

    Raises SettingsError for a label that there is not, and for a weight that is not over 0.
    """
    where, unknown = "[task]", [name for name in given if name not in labels]
    if unknown:
        raise SettingsError(
            where, f"task.{setting} names {listed(unknown)}", f"The labels are {listed(labels)}."
        )
    for name, weight in given.items():
        if not 0 < weight < float("inf"):
            found = f'task.{setting} gives "{name}" the weight {weight:g}'
            raise SettingsError(where, found, "It must be more than 0.")
    return tuple(given.get(name, 1.0) for name in labels)
