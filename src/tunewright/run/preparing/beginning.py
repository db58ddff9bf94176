"""A model that begins from nothing: written first, with its tokenizer, to a folder of its own.

The run begins from that folder, and so does its repetition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tunewright.errors import SettingsError
from tunewright.models.files.architecture import CAPTIONER
from tunewright.models.new_model import save_new_captioner, save_new_transformer, sizes_of
from tunewright.models.text.new_tokenizer import train_tokenizer
from tunewright.run.config import RunConfig
from tunewright.run.preparing.groundwork import Notice
from tunewright.run.preparing.prepare import Prepared, prepare
from tunewright.run.record import name_of, new_folder
from tunewright.tasks import find_task
from tunewright.tasks.base import build_task

MAX_LENGTH = 512  # positions of a new model


def begin_from_nothing(
    sources: Mapping[str, Any], config: RunConfig, tell: Callable[[Notice], None]
) -> str:
    """Writes the new model that the settings ask for; returns its folder.

    The tokenizer learns from the training texts of all the task's roles. Raises SettingsError for
    a task that needs a model which exists.
    """
    task_class, new, name = find_task(config.task.name), config.model.new, config.model.name
    sizes = sizes_of(name)
    if task_class.tokenizer_style is None:
        raise SettingsError(
            f'model "{name}"',
            f"{task_class.name} needs a model that has read texts",
            "Translation, summarization and image-captioning begin from nothing.",
            "Name a model, or make one first: tunewright pretrain TEXTS --model new:mini.",
        )
    prepared = prepare(sources, task_class.roles, task_class.label_role, config.data)
    rows = list(prepared.splits["train"])
    task = build_task(task_class, config.task.options).learn(rows)
    tokenizer = train_tokenizer(
        [text for row in rows for text in task.texts(row)],
        new.tokenizer,
        new.vocab_size,
        lowercase=new.lowercase,
        max_length=MAX_LENGTH,
        style=task_class.tokenizer_style,
    )
    folder = start_folder(config, prepared)
    variant = new.variant
    if task_class.kind is CAPTIONER:
        variant |= {"image_size": new.image_size, "patch_size": new.patch_size}
        save_new_captioner(folder, sizes, tokenizer, seed=config.training.seed, **variant)
    else:
        save_new_transformer(folder, sizes, tokenizer, seed=config.training.seed, **variant)
    tell(
        Notice(
            f"{folder} holds the new model (layers: {sizes.layers} on each side, width: "
            f"{sizes.width}) with random weights, and its tokenizer of {len(tokenizer):,} tokens."
        )
    )
    return str(folder)


def start_folder(config: RunConfig, prepared: Prepared) -> Path:
    """Returns the folder, not there yet, for a new model beside its run."""
    output = config.output
    name = output.name or name_of(prepared.files[0]["path"] or "") or "run"
    return new_folder(Path(output.folder), f"{name}-start") / "model"
