"""A run's configuration: composed here, owned by the parts, and read without torch."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, fields
from dataclasses import Field as DataclassField
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import tomlkit
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tunewright.data.auditing.audit import AuditConfig
from tunewright.data.config import DataConfig
from tunewright.errors import SettingsError, listed, nearest
from tunewright.models.adapting.adapter_config import LEARNING_RATES, AdapterConfig
from tunewright.models.generating.generation import Generation
from tunewright.tasks import find_task
from tunewright.training.config import TrainingConfig, several

# Their short key is the section's, so that `name` is left to the output.
NAMED_BY_SECTION = ("task.name", "model.name", "adapter.name")


class TaskChoice(BaseModel):
    """The task's name, and its own settings, which the task checks when it is loaded."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = Field("text-classification", description="what the model is trained to do")

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


# What a new model's own configuration does not have, or has only where it reads pictures.
NOT_OF_A_MODEL = {"tokenizer", "vocab_size", "lowercase", "image_size", "patch_size"}


class NewModelConfig(BaseModel):
    """What a model is that begins from nothing (`new:SIZE`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokenizer: Literal["bpe", "unigram", "wordpiece"] = Field(
        "bpe", description="how words are cut into tokens; Chinese characters are always single"
    )
    vocab_size: int = Field(8000, ge=300, le=1_000_000, description="most tokens it knows")
    lowercase: bool = Field(False, description="read and write everything in lower case")
    positions: Literal["sinusoidal", "learned", "relative", "rotary"] = Field(
        "sinusoidal", description="how the model knows where a token stands"
    )
    norm_first: bool = Field(
        True, description="normalise what goes into a layer; false: what comes out, as in 2017"
    )
    num_attention_heads: int | None = Field(
        None, ge=1, le=256, description="heads of each attention; off: one for each 64 of its width"
    )
    intermediate_size: int | None = Field(
        None, ge=1, le=65_536, description="width of the feed-forward layers; off: 4 times its own"
    )
    tie_word_embeddings: bool = Field(
        True, description="the table that reads tokens also scores the next one"
    )
    image_size: int = Field(
        64, ge=8, le=1024, description="captions: pictures are made squares of so many pixels"
    )
    patch_size: int = Field(
        8, ge=2, le=256, description="captions: pixels on a side of what is one token, a power of 2"
    )

    @property
    def variant(self) -> dict[str, Any]:
        """Returns what the model's own configuration is told."""
        return self.model_dump(exclude=NOT_OF_A_MODEL)


class ModelConfig(BaseModel):
    """What training starts from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        "starter",
        description='"starter" (all-MiniLM-L6-v2), "smollm2" (it chats), a folder, a GGUF file, or '
        "an id of the Hub; translation, summarization and image-captioning also begin from "
        "nothing: new:SIZE, such as new:small or new:4x256",
    )
    new: NewModelConfig = Field(
        default_factory=NewModelConfig, description="what a model is that begins from nothing"
    )


class EvaluationConfig(BaseModel):
    """How a model is judged."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    num_resamples: int = Field(
        1000, ge=0, le=100_000, description="bootstrap draws behind each interval; 0 gives none"
    )
    slices: Annotated[tuple[str, ...], BeforeValidator(several)] = Field(
        (), strict=False, description="columns by whose values the metrics are also shown"
    )
    num_mistakes: int = Field(50, ge=0, description="most confident mistakes shown in the report")


class OutputConfig(BaseModel):
    """Where a run is written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str = Field("runs", description="the folder of all runs")
    name: str | None = Field(
        None, description="the run's folder within it; off: the data's name, numbered when taken"
    )


class RunConfig(BaseModel):
    """One run, whole. A short key such as `learning_rate` finds its section by itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    training: TrainingConfig = TrainingConfig()
    task: TaskChoice = TaskChoice()
    model: ModelConfig = ModelConfig()
    adapter: AdapterConfig = AdapterConfig()
    data: DataConfig = DataConfig()
    generation: Generation = Generation()
    evaluation: EvaluationConfig = EvaluationConfig()
    audit: AuditConfig = AuditConfig()
    output: OutputConfig = OutputConfig()

    @model_validator(mode="after")
    def _with_the_adapters_rate(self) -> Self:
        """Lets an adapter learn at a rate of its own where none is given."""
        name = self.adapter.name
        if name is None or "learning_rate" in self.training.model_fields_set:
            return self
        rate = {"learning_rate": LEARNING_RATES[name]}
        object.__setattr__(self, "training", self.training.model_copy(update=rate))
        return self


def read_config(path: Path) -> dict[str, Any]:
    """Reads a TOML file into plain nested values.

    Raises SettingsError when there is no such file or it is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(str(path), "there is no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(str(path), f"it is not TOML ({error})") from None


def compose(*layers: Mapping[str, Any], where: str = "settings") -> RunConfig:
    """Returns the configuration that the layers make, later ones winning.

    Raises SettingsError that names the key, what was found and the nearest known key.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        _merge(merged, layer)
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        raise _explained(error, where) from None


def overrides(pairs: Iterable[str], task_keys: Iterable[str] = ()) -> dict[str, Any]:
    """Returns the layer that `key=value` words make.

    A value is read as TOML where it is TOML (`3e-5`, `true`, `["a", "b"]`) and as text otherwise.
    A key without a section finds its own; `task_keys` are the settings of the chosen task.
    """
    layer: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise SettingsError("command line", f'"{pair}" is not a setting', "Write key=value.")
        set_key(layer, key.strip(), _value(text.strip()), task_keys)
    return layer


def set_key(layer: dict[str, Any], key: str, value: Any, task_keys: Iterable[str] = ()) -> None:
    """Puts one value under its full path into a layer."""
    *path, last = _full_path(key, frozenset(task_keys))
    for part in path:
        layer = layer.setdefault(part, {})
    layer[last] = value


def known_keys() -> dict[str, str]:
    """Returns every setting by full path, with its description, but for the task's own."""
    return dict(_walk(RunConfig, ""))


def to_toml(config: RunConfig, options_help: Mapping[str, str] | None = None) -> str:
    """Returns the whole configuration as commented TOML; what is off stands as a comment."""
    document = tomlkit.document()
    for name in RunConfig.model_fields:
        document.add(name, _table(getattr(config, name), options_help or {}))
        document.add(tomlkit.nl())
    return tomlkit.dumps(document)


def _table(section: BaseModel, options_help: Mapping[str, str]) -> tomlkit.items.Table:
    table = tomlkit.table()
    helps = {name: info.description or "" for name, info in type(section).model_fields.items()}
    values = {name: getattr(section, name) for name in helps} | (section.model_extra or {})
    # Tables come last: a plain key after one would belong to it.
    for name, value in sorted(
        values.items(), key=lambda item: isinstance(item[1], BaseModel | dict)
    ):
        if text := helps.get(name, options_help.get(name, "")):
            table.add(tomlkit.comment(text))
        if value is None:
            table.add(tomlkit.comment(f"{name} ="))
        elif isinstance(value, BaseModel):
            table.add(name, _table(value, options_help))
        else:
            table.add(name, list(value) if isinstance(value, tuple) else value)
    return table


def _written(key: Any) -> str:
    """Returns a key as a file would have it: a label may be a number or a boolean in Python."""
    if isinstance(key, float) and key.is_integer():
        key = int(key)
    return str(key).lower() if isinstance(key, bool | np.bool_) else str(key)


def _merge(target: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for given, value in layer.items():
        key = _written(given)
        if isinstance(value, Mapping):
            inner = target.get(key)
            target[key] = inner if isinstance(inner, dict) else {}
            _merge(target[key], value)
        else:
            target[key] = value.item() if isinstance(value, np.generic) else value


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _walk(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str]]:
    for name, info in model.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _walk(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", info.description or ""


def _full_path(key: str, task_keys: frozenset[str]) -> list[str]:
    """Returns the path of a full or short key; of several the first section's wins.

    Sections are asked in the order of `RunConfig`, so `seed` is `training.seed`. The names of
    the task and the model are called `task` and `model`, so `name` is `output.name`.
    """
    sections = RunConfig.model_fields
    first = key.split(".")[0]
    if first in sections and "." in key:
        return key.split(".")
    if key in ("task", "model", "adapter"):
        return [key, "name"]
    known = known_keys()
    for path in known:
        if path.endswith(f".{key}") and path not in NAMED_BY_SECTION:
            return path.split(".")
    if key in task_keys:
        return ["task", key]
    short = {path.split(".", 1)[1]: path for path in known} | {k: f"task.{k}" for k in task_keys}
    raise _unknown(key, [*known, *short], short, "settings")


def _unknown(key: str, known: Iterable[str], short: Mapping[str, str], where: str) -> SettingsError:
    hint = nearest(key, known)
    remedy = f"Did you mean {short.get(hint, hint)}?" if hint else ""
    return SettingsError(where, f"{key} is not a setting", remedy=remedy)


def _explained(error: ValidationError, where: str) -> SettingsError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        sections = [*known_keys(), *RunConfig.model_fields]
        return _unknown(key, sections, {}, where)
    message = first["msg"].removeprefix("Value error, ")
    found = first["input"]
    shown = listed([found]) if isinstance(found, str) else repr(found)
    return SettingsError(where, f"{key} is {shown}", f"{message[0].upper()}{message[1:]}.")


def task_keys(task: str) -> list[str]:
    """Returns the settings of a task, without those that training fits; imports the task."""
    return [name for name, _, _ in task_settings(task)]


def task_settings(task: str) -> list[tuple[str, Any, str]]:
    """Returns (name, default, description) of each setting of a task that a user may choose."""
    return [
        (item.name, _default(item), item.metadata.get("help", ""))
        for item in fields(find_task(task))  # type: ignore[arg-type]
        if not item.metadata.get("fitted")
    ]


def _default(item: DataclassField[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def template(task: str) -> str:
    """Returns the whole default configuration of a task as commented TOML."""
    options = task_settings(task)
    choice = TaskChoice(name=task, **{name: default for name, default, _ in options})
    return to_toml(RunConfig(task=choice), {name: help for name, _, help in options})
