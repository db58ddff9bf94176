"""A folder that stands alone: an adapter becomes part of the weights of its model."""

from __future__ import annotations

import shutil
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.errors import ParityRefused, SettingsError
from tunewright.models.adapting.adapters import adapters_of
from tunewright.models.files.architecture import text_part
from tunewright.models.files.folder import save_model
from tunewright.run.judging.parity import Parity, compare_outputs, stock_outputs, task_outputs
from tunewright.run.loaded import READING, load
from tunewright.tasks.base import Task
from tunewright.types import Features, TokenStream

# Random sequences of these lengths are asked of both; the longest that the model reads, at most.
PROBE_LENGTHS = (3, 5, 8, 12, 17, 30, 50, 80)


def export(source: str | PathLike[str], folder: str | PathLike[str]) -> Parity:
    """Writes a model whose adapter is merged as a plain folder, and returns how far it is apart.

    `source` is a run's folder or a model's. What stock libraries read from the new folder has to
    answer random sequences as the model with its adapter does. Raises SettingsError where there
    is no adapter, or one that cannot be merged, ModelError when the folder exists, ParityRefused
    when the answers differ; nothing is left behind then.
    """
    loaded, target = load(source, "fp32"), Path(folder)
    task, model = loaded.predictor.task, loaded.predictor.model
    if len(task.models(model)) > 1:
        raise SettingsError(str(source), "it has several heads", "One adapter serves them all.",
                            "Use its folder as it is.")  # fmt: skip
    adapters = adapters_of(model)
    if adapters is None:
        raise SettingsError(
            str(loaded.folder), "it holds no adapter", "Its folder stands alone already.",
            "Use it as it is.",
        )  # fmt: skip
    probe = _probe(task, model)
    before = task_outputs(task, model, probe)
    merged = adapters.merge()
    files = {name: text for name in (READING,) if (text := _text(loaded.folder / name))}
    save_model(
        merged,
        loaded.predictor.tokenizer,
        target,
        max_length=getattr(task, "max_length", None),
        extra_files=files | {"task.json": task.to_json_text(), **task.extra_files(merged)},
    )
    after = stock_outputs(task, task.stock(target), probe)
    parity = compare_outputs("the model with its adapter", before, after)
    try:
        parity.check(str(target))
    except ParityRefused:
        shutil.rmtree(target)
        raise
    return parity


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _probe(task: Task, model: Any) -> list[Features]:
    """Returns random sequences, each with a mask token where the model knows one."""
    rng = np.random.Generator(np.random.Philox(0))
    config = text_part(model.config)
    limit = getattr(config, "max_position_embeddings", None) or max(PROBE_LENGTHS)
    features = []
    for number, length in enumerate(PROBE_LENGTHS):
        ids_N = rng.integers(0, config.vocab_size, min(length, limit - 4))
        ids_N[ids_N == config.pad_token_id] += 1  # it would move positions
        mask_id = getattr(model.config, "mask_token_id", None)
        if mask_id is not None:
            ids_N[1] = mask_id
        tokens = [name for name in task.streams if name not in task.picture_roles]
        streams = dict.fromkeys(tokens, TokenStream(ids_N))
        pictures = {name: task.probe_picture(rng) for name in task.picture_roles}
        features.append(Features(number, streams, {}, pictures=pictures))
    return features
