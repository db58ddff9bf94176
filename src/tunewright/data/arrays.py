"""Turns Python values into Arrow columns and back without changing them.

A column whose values are all text, all integers, all booleans or all floats is stored as Arrow
stores it; so is a column of flat lists. Every other column (1 beside "1", objects, nested lists)
is stored as JSON text, marked in its field's metadata, and parsed again when a row is read. So 1,
1.0, "1" and true stay four different values, and no value is ever cast to its neighbours' type.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tunewright.data.wording import counted
from tunewright.errors import DataError

STORED_AS_JSON = {b"tunewright.stored_as": b"json"}
# Deeper values are refused: a document this deep is no training row, and Python's own parser
# stops at about 1,000.
MAX_DEPTH = 100

_TEXT_LISTS = pa.large_list(pa.large_string())
_PLAIN_TYPES: dict[type, pa.DataType] = {
    str: pa.large_string(),
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
}


def arrow_column(name: str, values: Sequence[Any]) -> tuple[pa.Field, pa.Array]:
    """Returns the field and array that hold `values` unchanged (see the module's head).

    Raises: TypeError for values that have no JSON form, ValueError for values nested too deep.
    """
    kind = _arrow_type(values)
    if kind is not None:
        try:
            return pa.field(name, kind), pa.array(values, kind)
        except (OverflowError, pa.ArrowInvalid):  # an integer beyond 64 bits
            pass
    return pa.field(name, pa.large_string(), metadata=STORED_AS_JSON), _as_json(values)


def record_batch(
    columns: Mapping[str, Sequence[Any]], name: str, notes: list[str]
) -> pa.RecordBatch:
    """Returns columns of Python values as one batch.

    Halves of surrogate pairs, which JSON can hold and UTF-8 cannot, become U+FFFD; how many values
    that changed is added to `notes`.
    """
    made = [_mended_column(column, values, name, notes) for column, values in columns.items()]
    schema = pa.schema([field for field, _ in made])
    return pa.RecordBatch.from_arrays([array for _, array in made], schema=schema)


def _mended_column(
    column: str, values: Sequence[Any], name: str, notes: list[str]
) -> tuple[pa.Field, pa.Array]:
    try:
        return arrow_column(column, values)
    except UnicodeEncodeError:
        mended = [without_lone_surrogates(value) for value in values]
        changed = sum(map(operator.ne, mended, values))
        notes.append(
            f"{name}: half a character (a lone surrogate) became U+FFFD in "
            f'{counted(changed, "value")} of the column "{column}".'
        )
        return arrow_column(column, mended)


def without_lone_surrogates(value: Any) -> Any:
    """Returns a value with every lone half of a surrogate pair in its texts made U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [without_lone_surrogates(item) for item in value]
    if isinstance(value, tuple):
        return tuple(map(without_lone_surrogates, value))
    if isinstance(value, dict):
        return {
            without_lone_surrogates(key): without_lone_surrogates(item)
            for key, item in value.items()
        }
    return value


def _arrow_type(values: Sequence[Any]) -> pa.DataType | None:
    """Returns the Arrow type that holds all values exactly, or None."""
    types = set(map(type, values)) - {type(None)}
    if not types:
        return pa.null()
    if len(types) > 1:
        return None
    (only,) = types
    if only is list:
        inner = {type(item) for value in values if value is not None for item in value}
        if not inner:
            return pa.large_list(pa.null())
        return pa.large_list(_PLAIN_TYPES[inner.pop()]) if inner <= _single(inner) else None
    if only in (date, datetime, Decimal, bytes):
        return pa.infer_type(values)
    return _PLAIN_TYPES.get(only)


def _single(types: set[type]) -> set[type]:
    """Returns `types` when it is one plain type, else the empty set."""
    return types if len(types) == 1 and next(iter(types)) in _PLAIN_TYPES else set()


def _as_json(values: Iterable[Any]) -> pa.Array:
    texts = [None if value is None else _to_json(value) for value in values]
    return pa.array(texts, pa.large_string())


def _to_json(value: Any) -> str:
    if isinstance(value, dict | list | tuple):
        _check_depth(value)
    return json.dumps(value, ensure_ascii=False)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        containers = [item for item in level if isinstance(item, dict | list | tuple)]
        level = [
            inner
            for item in containers
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise ValueError(f"it is nested more than {MAX_DEPTH} deep")


def is_stored_as_json(field: pa.Field) -> bool:
    """Says whether a column holds JSON text that stands for other values."""
    return bool(field.metadata) and field.metadata.items() >= STORED_AS_JSON.items()


def python_values(field: pa.Field, column: pa.ChunkedArray | pa.Array) -> list[Any]:
    """Returns a column's values as they were before they were stored."""
    values = column.to_pylist()
    if is_stored_as_json(field):
        return [None if value is None else json.loads(value) for value in values]
    return list(values)


def stack(batches: Sequence[pa.RecordBatch]) -> pa.Table:
    """Returns the batches one below the other; columns that a batch lacks are null there.

    A column whose type differs between batches is stored as JSON in all of them.
    """
    names = list(dict.fromkeys(name for batch in batches for name in batch.schema.names))
    stacked = [_stack_column(name, batches) for name in names]
    fields = [field for field, _ in stacked]
    return pa.Table.from_arrays([column for _, column in stacked], schema=pa.schema(fields))


def _stack_column(name: str, batches: Sequence[pa.RecordBatch]) -> tuple[pa.Field, pa.ChunkedArray]:
    fields = [batch.schema.field(name) for batch in batches if name in batch.schema.names]
    kinds = {(field.type, is_stored_as_json(field)): field for field in fields}
    valued = [field for (kind, _), field in kinds.items() if not _is_empty_type(kind)]
    empty_lists = any(kind == pa.large_list(pa.null()) for kind, _ in kinds)
    if len(valued) > 1 or (valued and empty_lists and not pa.types.is_large_list(valued[0].type)):
        field = pa.field(name, pa.large_string(), metadata=STORED_AS_JSON)
    else:
        known = valued or [field for field in fields if not pa.types.is_null(field.type)]
        field = (known or fields)[0]
    return field, pa.chunked_array([_chunk(field, batch) for batch in batches], field.type)


def _is_empty_type(kind: pa.DataType) -> bool:
    """Says whether a type belongs to a batch that had only nulls or empty lists."""
    return bool(pa.types.is_null(kind) or kind == pa.large_list(pa.null()))


def _chunk(field: pa.Field, batch: pa.RecordBatch) -> pa.Array:
    if field.name not in batch.schema.names:
        return pa.nulls(batch.num_rows, field.type)
    own, column = batch.schema.field(field.name), batch.column(field.name)
    if is_stored_as_json(field) and not is_stored_as_json(own):
        return _as_json(column.to_pylist())
    if own.type == field.type:
        return column
    if pa.types.is_null(own.type) or column.null_count == len(column):
        return pa.nulls(len(column), field.type)
    # Only empty lists beside lists with values, or nulls beside either, are left.
    return pa.array(column.to_pylist(), field.type)


def plain_table(table: pa.Table, name: str) -> pa.Table:
    """Returns a table read from elsewhere in the types that the rest of the package expects.

    Dictionaries become their values, text becomes large text, and integers that name a class (the
    Hub's `ClassLabel`) become that class's name, -1 becoming null; so do lists of them.

    Raises: DataError for extension types, which can carry pickled code, and for column names that
    appear twice.
    """
    check_names(table.column_names, name)
    for field in table.schema:
        check_plain_type(field, name)
    classes = _class_names(table.schema)
    fields, columns = [], []
    for field, column in zip(table.schema, table.columns, strict=True):
        column = _plain_column(column)
        if field.name in classes and _holds_ids(column.type):
            column = _named(column, classes[field.name])
        columns.append(column)
        keep = STORED_AS_JSON if is_stored_as_json(field) else None
        fields.append(pa.field(field.name, column.type, metadata=keep))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def check_names(names: Sequence[str], name: str) -> None:
    """Raises DataError when a column name appears twice."""
    for column in dict.fromkeys(names):
        if names.count(column) > 1:
            places = [str(place) for place, other in enumerate(names, 1) if other == column]
            raise DataError(
                name,
                f'the column name "{column}" appears {len(places)} times '
                f"(columns {', '.join(places)})",
                "Each column needs a name of its own.",
                "Rename one of them.",
            )


def check_plain_type(field: pa.Field, name: str) -> None:
    """Raises DataError when a column, or a part of it, has an extension type."""
    metadata = field.metadata or {}
    extension = metadata.get(b"ARROW:extension:name", b"").decode("utf-8", "replace")
    if isinstance(field.type, pa.BaseExtensionType):
        extension = field.type.extension_name
    if extension and not extension.startswith("arrow.json"):
        raise DataError(
            name,
            f'the column "{field.name}" has the extension type "{extension}"',
            "Extension types are refused, since they can carry pickled code.",
            "Write the column with a plain type.",
        )
    for place in range(field.type.num_fields):
        if not isinstance(field.type, pa.BaseExtensionType | pa.DictionaryType):
            check_plain_type(field.type.field(place), name)


def _plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.cast(column.type.storage_type)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    return column


def _holds_ids(kind: pa.DataType) -> bool:
    """Says whether a type is that of integers or of lists of them."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_integer(kind))


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Returns the class names that `datasets` keeps in a schema's metadata, by column.

    A column may hold classes or lists of them, such as the tags of tokens.
    """
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        found = {name: _classes_of(feature) for name, feature in features.items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    return {name: names for name, names in found.items() if names is not None}


def _classes_of(feature: Any) -> list[str] | None:
    """Returns the names of a feature of classes, or of a list of these."""
    if isinstance(feature, list) and len(feature) == 1:
        feature = {"_type": "List", "feature": feature[0]}
    kind = feature.get("_type") if isinstance(feature, dict) else None
    if kind in ("List", "LargeList", "Sequence"):
        inner = feature.get("feature")
        return _classes_of(inner) if "names" in inner else None
    return list(feature["names"]) if kind == "ClassLabel" else None


def _named(column: pa.ChunkedArray, names: list[str]) -> pa.ChunkedArray:
    """Returns class ids, or lists of them, as names; ids outside the names become null."""
    if pa.types.is_integer(column.type):
        return pa.chunked_array([_names_of(column.combine_chunks(), names)])
    return pa.chunked_array([_lists_of_names(chunk, names) for chunk in column.chunks], _TEXT_LISTS)


def _lists_of_names(lists: pa.ListArray, names: list[str]) -> pa.LargeListArray:
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    values = _names_of(pc.list_flatten(lists), names)
    return pa.LargeListArray.from_arrays(starts, values, mask=lists.is_null())


def _names_of(ids: pa.Array, names: list[str]) -> pa.Array:
    known = pc.and_(pc.greater_equal(ids, 0), pc.less(ids, len(names)))
    places = pc.if_else(known, ids, pa.scalar(None, ids.type))
    return pa.array(names, pa.large_string()).take(places)
