"""What saving costs: the same updates with checkpoints and without, for models of several sizes.

    python -m benchmarks.saving

Each size is trained in turn without and with a save every few updates; the difference, divided by
the number of saves, is what one save costs, with all that it does to the caches. At the default
interval that is the share of the run that saving takes. Writes benchmarks/saving.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification

from tunewright.devices import Device, find_device, settle_allocator
from tunewright.training.checkpoint import Checkpoint, Checkpoints
from tunewright.training.config import TrainingConfig
from tunewright.training.optimizer import build_optimizer
from tunewright.training.saving import LARGEST_SHARE, Saver
from tunewright.training.state import optimizer_state, weights_of

HERE = Path(__file__).parent
# (layers, width) of the all-MiniLM, BERT base and BERT large families.
SIZES = {"22M": (6, 384), "110M": (12, 768), "335M": (24, 1024)}


def model_of(layers: int, width: int) -> Any:
    return BertForSequenceClassification(
        BertConfig(
            num_hidden_layers=layers,
            hidden_size=width,
            intermediate_size=4 * width,
            num_attention_heads=width // 64 if width > 384 else 12,
        )
    )


def checkpoint_of(model: Any, optimizer: torch.optim.Optimizer, step: int) -> Checkpoint:
    """Returns what a run with validation saves: weights, moments, and the best weights."""
    moments, _ = optimizer_state(model, optimizer)
    best = {name: tensor.clone() for name, tensor in weights_of(model).items()}
    return Checkpoint(step, {"model": weights_of(model), "optimizer": moments, "best": best})


def update(model: Any, optimizer: torch.optim.Optimizer, device: Device) -> None:
    ids = torch.randint(1000, (16, 64))
    with device.autocast():
        loss = model(ids, labels=torch.zeros(16, dtype=torch.long)).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def measured(size: str, num_updates: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Returns seconds of an update and of a save, and the bytes of a checkpoint."""
    device = find_device()
    model = model_of(*SIZES[size])
    optimizer = build_optimizer(model, learning_rate=1e-5)
    saver = Saver(Checkpoints(folder / size))
    update(model, optimizer, device)
    one = checkpoint_of(model, optimizer, 1)
    extra: list[float] = []
    plain: list[float] = []
    for _ in range(repeats):
        seconds = []
        for saves in (False, True):
            started = time.perf_counter()
            for step in range(num_updates):
                update(model, optimizer, device)
                if saves and step == num_updates // 2:
                    saver.save(one)
            seconds.append(time.perf_counter() - started)
        plain.append(seconds[0] / num_updates)
        extra.append(seconds[1] - seconds[0])
    interval = 60 * TrainingConfig().save_minutes
    save = statistics.median(extra)
    return {
        "size": size,
        "megabytes": one.num_bytes / 1e6,
        "seconds_per_update": statistics.median(plain),
        "seconds_per_save": save,
        "share_at_default": save / max(interval, save / LARGEST_SHARE),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="the disk to measure")
    given = parser.parse_args()
    settle_allocator()
    found = []
    for size in given.sizes:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            found.append(measured(size, given.updates, given.repeats, Path(folder)))
        print(json.dumps(found[-1]), flush=True)
    machine = {"device": find_device().description, "threads": torch.get_num_threads()}
    text = json.dumps({"machine": machine, "sizes": found}, indent=2) + "\n"
    (HERE / "saving.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
