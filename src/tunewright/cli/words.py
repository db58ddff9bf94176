"""From the words of a command to a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tunewright.cli import show
from tunewright.errors import SettingsError, listed
from tunewright.run.config import RunConfig, compose, overrides, read_config, task_keys

if TYPE_CHECKING:
    from tunewright.prediction.predictor import Predictor

READING_EXAMPLE = "encoding=latin-1 data.columns.text=COLUMN"
WRITING_EXAMPLE = "max_new_tokens=200 do_sample=true"
SAMPLING = ("temperature", "top_k", "top_p")


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
    plain, pairs = divided(words)
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


def source_of(words: Sequence[str], example: str) -> tuple[str, Asked]:
    """Returns the one source among the words of a command, and what is asked of it."""
    plain, pairs = divided(words)
    if len(plain) != 1:
        raise SettingsError(
            "command line", f"{len(plain)} sources are named", "One is needed.",
            f"Write, for example: tunewright {example}",
        )  # fmt: skip
    return plain[0], Asked.of(pairs)


def rows_asked(words: Sequence[str], flags: Mapping[str, str | None]) -> tuple[str | None, Asked]:
    """Returns the rows that a command names, if any, and what is asked of them; flags win.

    Raises SettingsError for two sources, and for settings without one.
    """
    plain, pairs = divided(words)
    if len(plain) > 1:
        raise SettingsError("command line", f'"{plain[1]}" is a second data source', "One is read.")
    if pairs and not plain:
        raise SettingsError(
            "command line", f'"{pairs[0]}" is given, and no rows are named',
            "It says how rows are read.", "Name a file of them first.",
        )  # fmt: skip
    asked = Asked.of(pairs)
    return plain[0] if plain else None, replace(asked, columns=asked.columns | chosen(flags))


@dataclass(frozen=True)
class Asked:
    """What is asked of a source: its columns by their roles, and how it is read."""

    columns: dict[str, str] = field(default_factory=dict)
    reading: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, pairs: Sequence[str], others: Sequence[str] = (), example: str = READING_EXAMPLE
    ) -> Self:
        """Returns what key=value words ask.

        Raises SettingsError for what is no setting of reading, but for sections among `others`.
        """
        layer = only(overrides(pairs), ("data", *others), "how rows are read", example)
        given = layer.get("data", {})
        data = compose({"data": given}, where="command line").data
        known = asdict(data.reading())
        for name in given:
            if name not in (*known, "columns"):
                raise _not_here(f"data.{name}", "how rows are read", example)
        return cls(dict(data.columns), {name: known[name] for name in known if name in given})


def only(
    layer: Mapping[str, Any], sections: Sequence[str], what: str, example: str
) -> Mapping[str, Any]:
    """Returns the settings of a command; raises SettingsError for one of another section."""
    for section, given in layer.items():
        if section not in sections:
            key = next(iter(given), section) if isinstance(given, Mapping) else section
            raise _not_here(f"{section}.{key}", what, example)
    return layer


def _not_here(key: str, what: str, example: str) -> SettingsError:
    return SettingsError(
        "command line", f"{key} is given", f"What can be set here is {what}.",
        f"Write, for example: {example}",
    )  # fmt: skip


def writing_of(pairs: Sequence[str], others: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the settings of `[generation]` that were given as key=value.

    Raises SettingsError for a setting of another section that is not among `others`.
    """
    layer = only(overrides(pairs), ("generation", *others), "[generation]", WRITING_EXAMPLE)
    found = compose({"generation": layer.get("generation", {})}, where="command line").generation
    return {name: getattr(found, name) for name in layer.get("generation", {})}


def as_asked(predictor: Predictor, pairs: Sequence[str], others: Sequence[str] = ()) -> Predictor:
    """Returns the predictor with the settings of writing that were given, saying which are idle."""
    from tunewright.prediction.predictor import replace_generation

    written = writing_of(pairs, others)
    found = replace_generation(predictor, **written)
    idle = [name for name in SAMPLING if name in written]
    if idle and not found.generation.do_sample:
        show.say(f"Without do_sample=true nothing is drawn, and {listed(idle)} does nothing.")
    return found


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
