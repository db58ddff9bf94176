"""The loss of every update, ours beside a plain loop in fp32: `python -m benchmarks.losses`.

Finds SST-2 through TUNEWRIGHT_BENCHMARK_DATA. Both sides tune the starter model from the same
weights, without dropout, on the same rows in each update. Ours is what a run has on this machine:
packed, native, in the precision of the device. The other is the textbook's: transformers' model on
padded rows in fp32, torch's AdamW and clipping. Losses go to `benchmarks/losses.json`, a picture to
`docs/images/losses.png`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality.harness import data_root, read_rows
from benchmarks.sides import SEED, Own
from tunewright.devices import find_device, settle_allocator
from tunewright.models.files.folder import find_model
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.tasks.text_classification import TextClassification
from tunewright.training.events import Step
from tunewright.training.order import order_of_epoch
from tunewright.training.schedule import Schedule
from tunewright.types import Row

RESULTS = Path(__file__).with_suffix(".json")
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "losses.png"
BATCH_ROWS, MAX_LENGTH, LEARNING_RATE = 32, 128, 1e-4
SMOOTHED = 10  # updates


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--updates", type=int, default=200)
    updates = parser.parse_args().updates
    settle_allocator()
    device = find_device()
    folder = find_model("starter")
    values = read_rows(data_root() / "classification/sst2/train.jsonl.gz")
    rows = [
        Row(number, {"text": value["text"], "label": str(value["label"])})
        for number, value in enumerate(values[: BATCH_ROWS * updates])
    ]
    tokenizer = load_tokenizer(folder)
    task = TextClassification().started_from(folder).within(MAX_LENGTH).learn(rows)
    encoded = [task.encode(row, tokenizer) for row in rows]
    schedule = Schedule("linear", updates, updates // 10)
    own = Own.of(task, folder, tokenizer, device, dropout=0.0, learning_rate=LEARNING_RATE)
    plain = task.build(folder, tokenizer, dropout=0.0, seed=SEED)[0].to(device.name)
    events = own.loop(encoded, BATCH_ROWS, schedule).run()
    found = {
        "precision": device.precision,
        "ours": [event.loss for event in events if isinstance(event, Step)],
        "plain loop, fp32": plain_losses(plain, encoded, schedule),
    }
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known[device.description] = found
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    draw(known, PICTURE)
    print(told(device.description, found))


def plain_losses(model: Any, encoded: Sequence[Any], schedule: Schedule) -> list[float]:
    """Returns the losses of a loop as textbooks have it, on the rows of our loop's updates."""
    model.float().train()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.factor)
    losses = []
    for rows_R in order_of_epoch(len(encoded), SEED, 0).reshape(-1, BATCH_ROWS):
        loss = model(**_padded([encoded[row][0] for row in rows_R], model.device)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def _padded(items: Sequence[Any], device: Any) -> dict[str, torch.Tensor]:
    ids = [torch.from_numpy(item.streams["text"].token_ids).long() for item in items]
    given = {
        "input_ids": torch.nn.utils.rnn.pad_sequence(ids, batch_first=True),
        "attention_mask": torch.nn.utils.rnn.pad_sequence(
            [torch.ones_like(each) for each in ids], batch_first=True
        ),
        "labels": torch.tensor([int(item.targets["label"]) for item in items]),
    }
    return {name: tensor.to(device) for name, tensor in given.items()}


def told(device: str, found: Mapping[str, Any]) -> str:
    """Returns how far the losses of one machine lie apart, in words."""
    pairs = list(zip(found["ours"], found["plain loop, fp32"], strict=True))
    apart = [abs(ours - plain) for ours, plain in pairs]
    return (
        f"{device}, {found['precision']}: over {len(apart)} updates of {BATCH_ROWS} rows the loss "
        f"differs by {statistics.fmean(apart):.1e} on average and by {max(apart):.1e} at most; in "
        f"the last tenth it is {_end(found['ours']):.4f}, and "
        f"{_end(found['plain loop, fp32']):.4f} in the plain loop"
    )


def _end(losses: Sequence[float]) -> float:
    return statistics.fmean(losses[-max(len(losses) // 10, 1) :])


def draw(results: Mapping[str, Any], file: Path) -> None:
    """Draws our losses over those of the plain loop, one panel a machine."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(results), figsize=(5.5 * len(results), 3.2), squeeze=False
    )
    for panel, (device, found) in zip(panels[0], results.items(), strict=True):
        panel.plot(_smoothed(found["plain loop, fp32"]), color="#bbbbbb", linewidth=5,
                   label="plain loop, fp32")  # fmt: skip
        panel.plot(_smoothed(found["ours"]), color="#1f5fa8", linewidth=1.2,
                   label=f"ours, {found['precision']}")  # fmt: skip
        panel.set_title(device, fontsize=9)
        panel.set_xlabel("update")
        panel.set_ylabel(f"loss, mean of {SMOOTHED} updates")
        panel.set_ylim(bottom=0)
        panel.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _smoothed(losses: Sequence[float]) -> list[float]:
    starts = range(len(losses))
    return [statistics.fmean(losses[max(at - SMOOTHED + 1, 0) : at + 1]) for at in starts]


if __name__ == "__main__":
    main()
