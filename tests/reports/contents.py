"""Report contents such as real runs make: five news classes, 77 intents, Chinese reviews."""

import math
import random

from tunewright.reports.content import (
    Baseline,
    CardContent,
    ClassificationFigures,
    ClassScore,
    Curve,
    CutText,
    DataFile,
    Finding,
    LengthBin,
    Mistake,
    ReliabilityBin,
    ReportContent,
    SliceScore,
    TruncationLedger,
)
from tunewright.types import Estimate

NEWS = ("business", "entertainment", "politics", "sport", "tech")
CHINESE = ("负面", "正面")
THINGS = (
    *("card", "cash_withdrawal", "direct_debit_payment", "exchange_rate", "fee", "pin"),
    *("refund", "top_up_by_bank_transfer", "transfer", "verify_identity", "virtual_card"),
)
VERBS = ("activate", "cancel", "change", "declined", "lost_or_stolen", "pending", "why")
INTENTS = tuple(f"{verb}_{thing}" for verb in VERBS for thing in THINGS)
LONG_TEXT = "The chip maker said that demand for phones had risen for a third quarter. " * 20


def estimate(value, width=0.02, higher_is_better=True):
    return Estimate(value, value - width, min(value + width * 0.8, 1.0), higher_is_better)


def make_metrics(accuracy):
    return {
        "accuracy": estimate(accuracy, 0.014),
        "f1_macro": estimate(accuracy - 0.002, 0.015),
        "precision_macro": estimate(accuracy - 0.001, 0.014),
        "recall_macro": estimate(accuracy - 0.003, 0.015),
        "mcc": estimate(accuracy - 0.008, 0.018),
        "roc_auc": Estimate(0.9982, 0.9961, 0.9994),
        "pr_auc": Estimate(0.9946, 0.9893, 0.9981),
        "log_loss": estimate(0.083, 0.024, higher_is_better=False),
        "brier": estimate(0.0391, 0.011, higher_is_better=False),
        "ece": estimate(0.0148, 0.006, higher_is_better=False),
    }


def make_confusion(labels, support, accuracy, rng):
    rows = []
    for index, _ in enumerate(labels):
        row = [0] * len(labels)
        for _ in range(support):
            is_right = rng.random() < accuracy
            near = (index + rng.choice((1, 2, -1, 11))) % len(labels)
            row[index if is_right else near] += 1
        rows.append(tuple(row))
    return tuple(rows)


def make_curve(name, sharpness, is_average=False):
    x = [index / 200 for index in range(201)]
    y = [1 - (1 - each) ** sharpness for each in x]
    return Curve(name, x, y, 1 - 1 / (sharpness + 1), is_average)


def make_figures(labels, support, accuracy, seed=0):
    rng = random.Random(seed)
    confusion = make_confusion(labels, support, accuracy, rng)
    scores = [
        ClassScore(label, *(accuracy - rng.random() * 0.08 for _ in range(3)), support)
        for label in labels
    ]
    roc = [make_curve("macro average", 60, is_average=True)]
    roc += [make_curve(label, rng.uniform(20, 120)) for label in labels]
    precision = [
        Curve(curve.name, curve.x, [1 - x**40 for x in curve.x], curve.area, curve.is_average)
        for curve in roc
    ]
    bins = [
        ReliabilityBin((i + 0.6) / 10, max(0.0, (i + 0.3 + rng.random() * 0.5) / 10), 2 + i**3)
        for i in range(3, 10)
    ]
    return ClassificationFigures(labels, confusion, scores, roc, precision, bins, 1.274, 0.55)


def make_steps(count=240):
    rng = random.Random(1)
    return [
        {
            "step": step,
            "epoch": step / 80,
            "loss": 1.55 * math.exp(-step / 45) + 0.06 + rng.random() * 0.12,
            "learning_rate": 5e-5 * min(step / 24, (count - step) / (count - 24)),
            "tokens_per_second": 21_000 + rng.random() * 2500,
            "mfu": 0.31 + rng.random() * 0.04,
        }
        for step in range(1, count + 1)
    ]


def make_evaluations(count=6):
    return [
        {
            "step": index * 40,
            "metrics": {
                "loss": 0.95 * math.exp(-index / 1.5) + 0.09,
                "accuracy": 0.978 - 0.35 * math.exp(-index) - (0.003 if index == count else 0),
            },
        }
        for index in range(1, count + 1)
    ]


def make_slices(column, values, base):
    rng = random.Random(len(column))
    return [
        SliceScore(
            column,
            value,
            num_rows,
            {
                "accuracy": estimate(base - rng.random() * 0.05, 0.2 / num_rows**0.5),
                "f1_macro": estimate(base - rng.random() * 0.05, 0.2 / num_rows**0.5),
            },
            num_rows < 30,
        )
        for value, num_rows in zip(values, (210, 154, 61, 12), strict=False)
    ]


def make_ledger(limit=256):
    counts = (3, 41, 180, 392, 511, 440, 283, 165, 96, 54, 30, 17, 8, 3, 2)
    bins = [LengthBin(i * 64, (i + 1) * 64, count) for i, count in enumerate(counts)]
    worst = [CutText(f"bbc.csv, line {40 + i}", 960 - i * 31, 704 - i * 31) for i in range(8)]
    return TruncationLedger(limit, 2225, 891_340, 1609, 267_402, bins, worst)


def make_report(labels=NEWS, **changes):
    values = {
        "title": "bbc-news",
        "task": "text-classification",
        "created": "22 November 2026, 10:06 UTC",
        "metrics": make_metrics(0.978),
        "num_evaluated": 445,
        "baseline": Baseline("sport", {"accuracy": 0.229, "f1_macro": 0.0747}),
        "steps": make_steps(),
        "evaluations": make_evaluations(),
        "best_step": 200,
        "findings": [
            Finding("error", "14 texts are in both train and test."),
            Finding("warning", "72 % of the texts are longer than max_length=256 tokens."),
            Finding("info", "98 texts occur more than once in the training rows."),
        ],
        "truncation": make_ledger(),
        "classifications": {"": make_figures(labels, 89, 0.972)},
        "slices": make_slices("length", ("1 to 127 tokens", "128 to 255", "256 or more"), 0.985)
        + make_slices("source", ("wire", "desk", "مراسل", "博客"), 0.98),
        "mistakes": [
            Mistake("bbc.csv, line 812", LONG_TEXT, labels[0], labels[-1], 0.997),
            Mistake("bbc.csv, line 77", "Label boss says ‘music goes mobile’.", *labels[:2], 0.981),
            Mistake("bbc.csv, line 9", "وقالت الشركة إن المبيعات ارتفعت.", *labels[:2], 0.913),
        ],
        "num_mistakes": 10,
        "data_files": [
            DataFile("data/bbc.csv", "9f3c" * 16, 1780, "train"),
            DataFile("data/bbc-test.csv", "04be" * 16, 445, "test"),
        ],
        "settings": {
            "seed": 7,
            "data": {"path": "data/bbc.csv", "text": "text", "label": "category"},
            "training": {"learning_rate": 5e-5, "batch_size": 16, "early_stopping": False}
            | {"optimizer": {"name": "adamw", "weight_decay": 0.01, "betas": [0.9, 0.999]}},
            "model": {"source": "starter", "max_length": 256, "dropout": None},
        },
        "versions": {"tunewright": "0.1.0", "python": "3.11.7", "torch": "2.13.0"}
        | {"transformers": "5.23.0", "tokenizers": "0.22.1", "device": "CPU, 2 cores, bf16"},
        "notes": [
            "Metrics are over the 445 test rows, which were not used to train or to choose.",
            "Intervals do not include the chance in training; train with other seeds to see it.",
        ],
    }
    return ReportContent(**(values | changes))


def make_card(**changes):
    values = {
        "name": "bbc-news",
        "task": "text classification",
        "metrics": make_metrics(0.978),
        "labels": NEWS,
        "base_model": "sentence-transformers/all-MiniLM-L6-v2",
        "dataset": "BBC news",
        "num_evaluated": 445,
        "language": ("en",),
        "license": "apache-2.0",
        "data_files": [DataFile("data/bbc.csv", "9f3c" * 16, 1780, "train")],
        "truncation": make_ledger(),
        "settings": {"seed": 7, "training": {"learning_rate": 5e-5}},
        "versions": {"tunewright": "0.1.0", "torch": "2.13.0"},
        "limits": ["Trained on news of 2004 and 2005."],
    }
    return CardContent(**(values | changes))
