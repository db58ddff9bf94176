"""Pretraining: a model learns from plain text, one that exists or a new one.

    pretrain({"train": "corpus.txt"}, compose(base_for("starter"), settings))
    pretrain({"train": "corpus.txt"}, compose(base_for("new:mini"), settings), NewTokenizer("bpe"))

It is a run like any other, of the task masked-language-modelling; a decoder, which reads in one
direction, is pretrained by text-generation. A new model is written first,
with its tokenizer, to a folder of its own: the run begins from there, and so does its repetition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunewright.data.large.blocks import BlockRows, sample_places
from tunewright.devices.processes import join_processes
from tunewright.errors import SettingsError
from tunewright.models.files.architecture import is_decoder, load_config
from tunewright.models.files.folder import find_model
from tunewright.models.new_model import Sizes, is_new, save_new_model, sizes_of
from tunewright.models.text.new_tokenizer import TokenizerKind, train_tokenizer
from tunewright.run.config import ModelConfig, RunConfig, TaskChoice
from tunewright.run.finished import FinishedRun
from tunewright.run.preparing.beginning import start_folder
from tunewright.run.preparing.groundwork import Notice
from tunewright.run.preparing.prepare import prepare
from tunewright.run.train import train
from tunewright.run.training import Tell
from tunewright.tasks import find_task
from tunewright.types import Rows

TASK, WRITING_TASK = "masked-language-modelling", "text-generation"
MAX_LENGTH = 512  # positions of a new model, as BERT's
# Of a corpus that stays on the disk, a tokenizer learns from so much: it takes a few seconds, and
# the pieces of words hardly change with more.
TOKENIZER_BYTES = 16 << 20

# A fiftieth measures a corpus as well as a tenth would; the rest is there to learn from.
ADAPTING: dict[str, Any] = {
    "task": {"name": TASK},
    "data": {"split": {"validation": 0.02, "test": 0.02}},
    "training": {"batch_size": 64, "learning_rate": 1e-4},
}
# Few passes over a corpus leave nothing to be held back by dropout, and small models bear a large
# learning rate (Geiping & Goldstein 2023, "Cramming").
FROM_NOTHING: dict[str, Any] = {
    **ADAPTING,
    "model": {"name": "new:mini"},
    "training": {
        "batch_size": 64,
        "learning_rate": 1e-3,
        "num_train_epochs": 10,
        "dropout": 0.0,
        "adam_beta2": 0.98,
    },
}


@dataclass(frozen=True, slots=True)
class NewTokenizer:
    """What the tokenizer of a new model is to be."""

    kind: TokenizerKind = "wordpiece"
    vocab_size: int = 8000
    lowercase: bool = False


def base_for(model: str) -> dict[str, Any]:
    """Returns the settings that suit a model to adapt, or a new one."""
    return FROM_NOTHING if is_new(model) else ADAPTING


def pretrain(
    sources: Mapping[str, Any],
    config: RunConfig,
    tokenizer: NewTokenizer | None = None,
    tell: Tell = lambda _: None,
) -> FinishedRun:
    """Pretrains a model on plain text and returns the finished run; see `train`.

    The model's name is one to adapt, or `new:SIZE`, which begins from nothing with a new
    `tokenizer`. The run's `model/` is a masked language model of the library's own, to be trained
    further for any task. Raises what `train` raises, and SettingsError for sizes that no model has
    and for a tokenizer where the model has one.
    """
    name = config.model.name
    if not is_new(name):
        if tokenizer is not None:
            raise SettingsError(
                "the tokenizer",
                f'the model "{name}" has one already',
                "Only a new model gets a new one.",
                "Leave its kind, vocab_size and lowercase out, or name a new model: new:mini.",
            )
        return train(sources, _for_its_kind(config), tell=tell)
    sizes = sizes_of(name)
    processes = join_processes()
    folder, num_tokens = processes.led(
        lambda: _begin(sources, config, sizes, tokenizer or NewTokenizer())
    )
    if processes.leads:
        tell(
            Notice(
                f"{folder} holds the new model (layers: {sizes.layers}, width: {sizes.width}), "
                "which begins with what counting says of the texts, and its tokenizer of "
                f"{num_tokens:,} tokens."
            )
        )
    begun = config.model_copy(update={"model": ModelConfig(name=folder)})
    return train(sources, begun, tell=tell)


def _for_its_kind(config: RunConfig) -> RunConfig:
    """Returns the settings with the task that a model is pretrained by: a decoder writes on."""
    model_type = load_config(find_model(config.model.name)).model_type
    if config.task.name != TASK or not is_decoder(model_type):
        return config
    task = TaskChoice(name=WRITING_TASK, **config.task.options)
    return config.model_copy(update={"task": task})


def _rows_of(rows: Rows) -> Rows:
    """Returns the rows that a tokenizer learns from: of those on the disk a part."""
    if not isinstance(rows, BlockRows):
        return rows
    mean = max(1.0, rows.table.num_bytes / rows.table.num_rows)
    places = sample_places(rows, min(len(rows), int(TOKENIZER_BYTES / mean) + 1), seed=0)
    return rows.tables(places).rows(rows.columns)


def _begin(
    sources: Mapping[str, Any], config: RunConfig, sizes: Sizes, tokenizer: NewTokenizer
) -> tuple[str, int]:
    """Writes a new model, whose tokenizer learns from the training texts.

    Returns its folder and the size of the vocabulary.
    """
    roles = find_task(TASK).roles
    prepared = prepare(sources, roles, None, config.data)
    texts = [row.values["text"] or "" for row in _rows_of(prepared.splits["train"])]
    trained = train_tokenizer(
        texts,
        tokenizer.kind,
        tokenizer.vocab_size,
        lowercase=tokenizer.lowercase,
        max_length=MAX_LENGTH,
    )
    folder = start_folder(config, prepared)
    save_new_model(folder, sizes, trained, seed=config.training.seed, texts=texts)
    return str(folder), len(trained)
