"""What every peer of `transformers.Trainer` is told: bf16, batches grouped by length, no extras."""

from __future__ import annotations

import torch
from transformers import TrainingArguments

from benchmarks.quality.harness import Settings
from tunewright.devices import find_device


def trainer_arguments(settings: Settings, output: str, seed: int) -> TrainingArguments:
    """Returns the fast settings of Trainer for the rows and updates that ours has, too."""
    return TrainingArguments(
        output_dir=output,
        num_train_epochs=settings.num_train_epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=64,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        bf16=find_device().precision == "bf16",
        train_sampling_strategy="group_by_length",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        use_cpu=not torch.cuda.is_available(),
        seed=seed,
    )
