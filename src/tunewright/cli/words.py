"""From the words of a command to a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunewright.errors import SettingsError
from tunewright.run.config import RunConfig, compose, overrides, read_config, task_keys


def config_of(
    words: Sequence[str],
    base: Mapping[str, Any],
    columns: Mapping[str, str | None],
    named: Mapping[str, str | None],
) -> RunConfig:
    """Returns the configuration that a command's words and flags make.

    The first word without `=` is the data or a run's TOML file; the others are `key=value`. Flags
    win over the file, and `key=value` over flags.
    """
    plain = [word for word in words if "=" not in word or Path(word).exists()]
    pairs = [word for word in words if word not in plain]
    if len(plain) > 1:
        raise SettingsError(
            "command line", f'"{plain[1]}" is a second data source', "One is needed.",
            "Give validation rows with --validation and test rows with --test.",
        )  # fmt: skip
    layers: list[Mapping[str, Any]] = [base]
    where = "command line"
    if plain and plain[0].endswith(".toml"):
        where = plain[0]
        layers = [base, read_config(Path(where))]
    elif plain:
        layers.append({"data": {"train": plain[0]}})
    layers.append(_flags(columns, named))
    merged = compose(*layers, where=where)
    return compose(*layers, overrides(pairs, task_keys(merged.task.name)), where=where)


def chosen(columns: Mapping[str, str | None]) -> dict[str, str]:
    """Returns the columns that were named."""
    return {role: name for role, name in columns.items() if name is not None}


def own_settings(words: Sequence[str], names: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Takes the settings of these names out of the words of a command."""
    own = [word for word in words if "=" in word and word.partition("=")[0] in names]
    found: dict[str, Any] = dict(word.split("=", 1) for word in own)
    if "exact" in found:
        if found["exact"] not in ("true", "false"):
            raise SettingsError("exact", f'it is "{found["exact"]}"', "It is true or false.")
        found["exact"] = found["exact"] == "true"
    if "stride" in found:
        if not found["stride"].isdecimal():
            raise SettingsError("stride", f'it is "{found["stride"]}"', "It is a number of tokens.")
        found["stride"] = int(found["stride"])
    return [word for word in words if word not in own], found


def divided(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the sources among the words of a command, and the settings, key=value."""
    plain = [word for word in words if "=" not in word or Path(word).exists()]
    return plain, [word for word in words if word not in plain]


def source_of(words: Sequence[str], example: str) -> tuple[str, list[str]]:
    """Returns the one source among the words of a command, and the settings, key=value."""
    plain, pairs = divided(words)
    if len(plain) != 1:
        raise SettingsError(
            "command line", f"{len(plain)} sources are named", "One is needed.",
            f"Write, for example: tunewright {example}",
        )  # fmt: skip
    return plain[0], pairs


def rows_asked(
    words: Sequence[str], flags: Mapping[str, str | None]
) -> tuple[str | None, dict[str, str], dict[str, Any]]:
    """Returns a source of rows or None, its columns by flags or data.columns, and how it is read.

    Raises SettingsError for two sources, and for a setting of anything but `[data]`.
    """
    plain, pairs = divided(words)
    if len(plain) > 1:
        raise SettingsError("command line", f'"{plain[1]}" is a second data source', "One is read.")
    for section, given in overrides(pairs).items():
        if section != "data":
            key = next(iter(given), section) if isinstance(given, Mapping) else section
            raise SettingsError(
                "command line", f"{section}.{key} is given", "What can be set here is [data].",
                "Write, for example: encoding=latin-1 data.columns.text=COLUMN",
            )  # fmt: skip
    return plain[0] if plain else None, columns_of(pairs) | chosen(flags), reading_of(pairs)


def columns_of(pairs: Sequence[str]) -> dict[str, str]:
    """Returns the columns that were named as data.columns.ROLE=COLUMN."""
    return dict(overrides(pairs).get("data", {}).get("columns", {}))


def reading_of(pairs: Sequence[str]) -> dict[str, Any]:
    """Returns the settings of `[data]` that were given as key=value and say how to read."""
    given = overrides(pairs).get("data", {})
    read = asdict(compose({"data": given}, where="command line").data.reading())
    return {name: value for name, value in read.items() if name in given}


def writing_of(pairs: Sequence[str], others: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the settings of `[generation]` that were given as key=value.

    Raises SettingsError for a setting of another section that is not among `others`.
    """
    layer = overrides(pairs)
    for section, given in layer.items():
        if section not in ("generation", *others):
            key = next(iter(given), section) if isinstance(given, Mapping) else section
            raise SettingsError(
                "command line",
                f"{section}.{key} is given",
                "What can be set here is [generation].",
                "Write, for example: max_new_tokens=200 do_sample=true",
            )
    found = compose({"generation": layer.get("generation", {})}, where="command line").generation
    return {name: getattr(found, name) for name in layer.get("generation", {})}


def _flags(
    columns: Mapping[str, str | None], named: Mapping[str, str | None]
) -> dict[str, dict[str, Any]]:
    """Returns the layer of the flags that were given."""
    homes = {"task": ("task", "name"), "model": ("model", "name"), "name": ("output", "name")}
    layer: dict[str, dict[str, Any]] = {}
    given = chosen(columns)
    if given:
        layer["data"] = {"columns": given}
    for flag, value in named.items():
        if value is not None:
            section, key = homes.get(flag, ("data", flag))
            layer.setdefault(section, {})[key] = value
    return layer


def sources_of(config: RunConfig) -> dict[str, Any]:
    """Returns the sources that are named; raises SettingsError when no training data is."""
    data = config.data
    if data.train is None:
        raise SettingsError(
            "data.train", "no data was named", "A file, folder or Hub id is needed.",
            "Write, for example: tunewright train reviews.csv --text review --label stars",
        )  # fmt: skip
    return {"train": data.train, "validation": data.validation, "test": data.test}
