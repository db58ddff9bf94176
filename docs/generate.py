"""Writes the pages that are made from the code: settings.md and command-line.md.

python docs/generate.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tunewright.cli.app import app
from tunewright.run.config import RunConfig, task_settings
from tunewright.tasks import TASKS

HERE = Path(__file__).parent
NOTE = "<!-- Made by docs/generate.py from the code; changes here are lost. -->"
BOUNDS = {"ge": "at least {}", "gt": "more than {}", "le": "at most {}", "lt": "less than {}",
          "max_length": "at most {} character"}  # fmt: skip
INTRODUCTIONS = {
    "training": "How the model is trained.",
    "model": "What training starts from.",
    "model.new": "A model that begins from nothing (`new:SIZE`), for tasks that write texts.",
    "adapter": "What learns in the place of all weights. See [adapters](adapters.md).",
    "data": "Where the rows come from, and how they are read. See [data formats](data-formats.md).",
    "data.split": "How validation and test rows are chosen where no file is given.",
    "generation": "How a model writes, for tasks whose answers are texts of its own.",
    "evaluation": "How the model is judged. See [evaluation](evaluation.md).",
    "audit": "Limits that stop a run before training, with exit status 3. All are off unless set.",
    "output": "Where the run is written.",
}

SETTINGS_HEAD = """\
# Settings

Every setting of a run, with its default. The same names work everywhere:

```bash
tunewright init my-run.toml
tunewright train reviews.csv --text review --label stars learning_rate=1e-4 num_train_epochs=2
```

```python
import tunewright as tw

tw.train("reviews.csv", text="review", label="stars", learning_rate=1e-4, num_train_epochs=2)
```

A key finds its section by itself: `learning_rate` is `training.learning_rate`. Where two sections
have a key of one name, the first on this page is meant: `seed` is `training.seed`, and the other
is written in full, `data.split.seed`. In a TOML file the sections are tables:

```toml
[training]
learning_rate = 1e-4

[task]
name = "text-classification"
max_length = 128
```

On the command line, flags win over the file, and `key=value` wins over flags. A value is read as
TOML where it is TOML (`3e-5`, `true`, `["a", "b"]`), and as text otherwise. A setting that is off
by default has no value until you give it one. An unknown key is an error that names the nearest
one.
"""

COMMANDS_HEAD = """\
# Command line

Data go to standard output; everything said on the way goes to standard error. Every verb that
answers something takes `--json`, for machines: one JSON object on one line, errors included. The
exit status is 0 (done), 1 (failed), 2 (your input), 3 (a gate refused), 130 (interrupted) or 143
(stopped); see [errors](errors.md).

Any [setting](settings.md) can be given as `key=value`.

```bash
tunewright --help
tunewright --version
tunewright doctor --json
```
"""


def settings_page() -> str:
    """Returns docs/settings.md."""
    parts = [NOTE, SETTINGS_HEAD]
    for name in RunConfig.model_fields:
        section = RunConfig.model_fields[name].annotation
        assert isinstance(section, type)
        if name == "task":
            parts += [_task_section(task) for task in TASKS]
        else:
            parts += _sections(section, name)
    return "\n".join(parts)


def _sections(model: type[BaseModel], name: str) -> Iterator[str]:
    """Yields a section's table, then those of the sections in it."""
    plain = {k: f for k, f in model.model_fields.items() if not _is_section(f)}
    lines = [_line(key, field) for key, field in plain.items()]
    yield _table(f"`[{name}]`", INTRODUCTIONS[name], lines)
    for key, field in model.model_fields.items():
        if _is_section(field):
            assert isinstance(field.annotation, type)
            yield from _sections(field.annotation, f"{name}.{key}")


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _line(key: str, field: FieldInfo) -> tuple[str, str, str, str]:
    default = field.get_default(call_default_factory=True)
    return key, _shown(default), _allowed(field), field.description or ""


def _task_section(task: str) -> str:
    lines = [(name, _shown(default), "", text) for name, default, text in task_settings(task)]
    introduction = f"The settings of [{task}](tasks/{task}.md), beside `name`, which chooses it."
    return _table(f"`[task]` for {task}", introduction, lines)


def _table(title: str, introduction: str, lines: list[tuple[str, str, str, str]]) -> str:
    has_bounds = any(allowed for _, _, allowed, _ in lines)
    heads = ["setting", "default", *(["allowed"] if has_bounds else []), "meaning"]
    rows = [
        [f"`{key}`", default, *([allowed] if has_bounds else []), _sentence(text)]
        for key, default, allowed, text in lines
    ]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *rows])
    return f"## {title}\n\n{introduction}\n\n{table}\n"


def _sentence(text: str) -> str:
    text = text.replace("|", "\\|").strip().rstrip(".")
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _help(parameter: Any) -> str:
    """Returns a parameter's help; a value that it begins with, such as `auto`, stays as it is."""
    return f"{(parameter.help or '').rstrip('.')}."


def _shown(value: Any) -> str:
    if value is None:
        return "off"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`' if value != '"' else "`'\"'`"
    if isinstance(value, dict | tuple | list):
        return f"`{json.dumps(value)}`"
    text = f"{value:g}" if isinstance(value, float) and value < 0.01 else str(value)
    return f"`{text.replace('e-0', 'e-')}`"


def _allowed(field: FieldInfo) -> str:
    choices = _choices(field.annotation)
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    return ", ".join(
        words.format(f"{getattr(bound, name):,}")
        for bound in _bounds(field)
        for name, words in BOUNDS.items()
        if getattr(bound, name, None) is not None
    )


def _bounds(field: FieldInfo) -> Iterator[Any]:
    """Yields the limits of a field, also those inside `float | None`."""
    yield from field.metadata
    for inner in get_args(field.annotation):
        yield from getattr(inner, "__metadata__", ())


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return [choice for inner in get_args(annotation) for choice in _choices(inner)]


def commands_page() -> str:
    """Returns docs/command-line.md."""
    verbs: Mapping[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return "\n".join([NOTE, COMMANDS_HEAD, *(_verb(name, verb) for name, verb in verbs.items())])


EXAMPLES = {
    "demo": ["tunewright demo"],
    "init": ["tunewright init", "tunewright init reviews.toml"],
    "doctor": ["tunewright doctor"],
    "audit": [
        "tunewright audit reviews.csv --text review --label stars",
        "tunewright audit reviews.csv --text review --label stars --label-errors",
    ],
    "cache": ["tunewright cache", "tunewright cache --clear"],
    "train": [
        "tunewright train reviews.csv --text review --label stars",
        "tunewright train reviews.csv --text review --label stars --name second max_length=64",
        "tunewright train runs/second/run.toml",
    ],
    "launch": [
        "tunewright launch --target slurm --nnodes 2 --nproc 8 train reviews.csv --label stars"
    ],
    "plan": ["tunewright plan reviews.csv --text review --label stars"],
    "resume": ["tunewright resume runs/reviews num_train_epochs=6"],
    "verify": ["tunewright verify runs/reviews"],
    "verify-resume": ["tunewright verify-resume runs/reviews/run.toml --kills 20"],
    "pretrain": [
        "tunewright pretrain reviews.csv --text review --name adapted",
        "tunewright pretrain reviews.csv --text review --name first --model new:tiny",
    ],
    "evaluate": [
        "tunewright evaluate runs/reviews",
        "tunewright evaluate runs/reviews test.csv --slice product",
    ],
    "chat": ['tunewright chat smollm2 --system "You are brief." < questions.txt'],
    "serve": ["tunewright serve runs/reviews"],
    "compare": [
        "tunewright compare runs/reviews runs/second",
        "tunewright compare runs/reviews runs/second test.csv",
    ],
    "report": ["tunewright report runs/reviews"],
    "export": [
        "tunewright train reviews.csv --text review --label stars --name lora adapter=lora",
        "tunewright export runs/lora merged",
    ],
    "predict": [
        "tunewright predict runs/reviews new.csv --output answers.csv",
        "tunewright predict runs/reviews < texts.txt",
        "tunewright predict runs/reviews --format csv < new.csv > answers.jsonl",
    ],
    "mine": [
        "tunewright mine faq.jsonl --negatives 2 --out mined.jsonl",
        "tunewright mine faq.jsonl --documents reviews.csv --depth 20 --seed 1 --out mined.jsonl",
    ],
    "embed": [
        "tunewright embed reviews.csv --text review --out vectors.parquet",
        "tunewright embed reviews.csv --text review --out vectors.npy --map map.png",
    ],
    "index": [
        "tunewright index reviews.csv --text review --out index",
        "tunewright index more.csv --text review --out index --add",
    ],
    "search": [
        'tunewright search index "a slow plot" --where product=film',
        "tunewright search index --queries questions.jsonl --out found.jsonl",
    ],
}


def _verb(name: str, verb: Any) -> str:
    arguments = [p for p in verb.params if p.param_type_name == "argument"]
    options = [p for p in verb.params if p.param_type_name == "option"]
    rows = [["word", "default", "meaning"], ["---"] * 3]
    rows += [[f"`{_metavar(p)}`", "", _help(p)] for p in arguments]
    rows += [[_flags(p), _default(p), _help(p)] for p in options]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    example = "\n".join(EXAMPLES[name])
    return f"## tunewright {name}\n\n{verb.help}\n\n```bash\n{example}\n```\n\n{table}\n"


def _metavar(parameter: Any) -> str:
    plain = parameter.metavar or parameter.name.upper()
    return plain.replace("|", "\\|")


def _flags(parameter: Any) -> str:
    words = sorted(parameter.opts, key=len, reverse=True)
    value = "" if parameter.is_flag else f" {parameter.metavar or 'VALUE'}"
    return ", ".join(f"`{word}{value}`" for word in words)


def _default(parameter: Any) -> str:
    if parameter.is_flag or parameter.default in (None, ()):
        return ""
    return f"`{parameter.default}`"


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "command-line.md": commands_page,
}


def main() -> None:
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")
        print(f"wrote docs/{name}")


if __name__ == "__main__":
    main()
