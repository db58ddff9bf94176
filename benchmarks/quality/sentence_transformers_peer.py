"""The same runs with sentence-transformers' own trainers, in bf16 where the machine has it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import (
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.cross_encoder.losses import ListNetLoss
from sentence_transformers.sentence_transformer.losses import (
    CoSENTLoss,
    MultipleNegativesRankingLoss,
)
from transformers import set_seed

from benchmarks.quality.harness import Rows, Settings
from tunewright.devices import find_device
from tunewright.models.files.folder import find_model

CERTAIN = 30.0  # a label whose softmax leaves nothing for labels of 0
Encode = Callable[[Sequence[str]], np.ndarray]
Score = Callable[[Sequence[tuple[str, str]]], np.ndarray]


def train_on_scores(settings: Settings, rows: Rows, seed: int) -> Encode:
    """Returns the encoder of the starter after one run on scored pairs, scores read from 0 to 1."""
    values = {name: [row[name] for row in rows] for name in ("text_a", "text_b")}
    values["score"] = [row["score"] / 5 for row in rows]
    return _trained(settings, values, CoSENTLoss, "batch_sampler", seed)


def train_on_pairs(settings: Settings, rows: Rows, seed: int) -> Encode:
    """Returns the same after one run on queries and their positives, with negatives in batch."""
    values = {name: [row[name] for row in rows] for name in ("query", "positive")}
    return _trained(settings, values, MultipleNegativesRankingLoss, "no_duplicates", seed)


def _trained(
    settings: Settings, values: dict[str, list[Any]], loss: Any, sampler: str, seed: int
) -> Encode:
    set_seed(seed)
    model = SentenceTransformer(str(find_model("starter")), device=_device())
    model.max_seq_length = settings.max_length
    with tempfile.TemporaryDirectory() as output:
        trainer = SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                **_arguments(settings, seed, output), batch_sampler=sampler
            ),
            train_dataset=Dataset.from_dict(values),
            loss=loss(model),
        )
        trainer.train()
    return lambda texts: model.encode(
        list(texts), normalize_embeddings=True, show_progress_bar=False
    )


def train_cross_encoder(model: Path, settings: Settings, lists: Rows, seed: int) -> Score:
    """Returns the scores of a model as a cross-encoder after one run on lists of texts.

    ListNetLoss aims at a softmax of the labels: of large ones it is one for the relevant texts.
    """
    set_seed(seed)
    encoder = CrossEncoder(
        str(model), num_labels=1, max_length=settings.max_length, device=_device()
    )
    values = {name: [row[name] for row in lists] for name in ("query", "text")}
    values["label"] = [[CERTAIN * label for label in row["label"]] for row in lists]
    with tempfile.TemporaryDirectory() as output:
        CrossEncoderTrainer(
            model=encoder,
            args=CrossEncoderTrainingArguments(**_arguments(settings, seed, output)),
            train_dataset=Dataset.from_dict(values),
            loss=ListNetLoss(encoder, mini_batch_size=-1),
        ).train()
    plain = torch.nn.Identity()  # a sigmoid in 32 bits makes ties of unlike scores
    return lambda pairs: encoder.predict(list(pairs), activation_fn=plain, show_progress_bar=False)


def _arguments(settings: Settings, seed: int, output: str) -> dict[str, Any]:
    return {
        "output_dir": output,
        "num_train_epochs": settings.num_train_epochs,
        "per_device_train_batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "warmup_steps": settings.warmup_ratio,
        "weight_decay": settings.weight_decay,
        "bf16": find_device().precision == "bf16",
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": seed,
    }


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
