"""The settings of `tunewright demo`: small enough for minutes, good enough to be worth keeping."""

from __future__ import annotations

from typing import Any

DEMO: dict[str, Any] = {
    "task": {"name": "text-classification", "max_length": 128},
    "model": {"name": "starter"},
    "data": {
        "train": "starter:bbc-news",
        # A fifth is held out for the test, as the figure in the README says.
        "split": {"validation": 0.1, "test": 0.2},
    },
    # Two passes reach the plateau on these articles; a third changes nothing that can be measured.
    "training": {"num_train_epochs": 2, "learning_rate": 1e-4},
}
