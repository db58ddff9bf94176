"""What makes a run impossible is said before anything is written."""

from __future__ import annotations

import pytest

from tests.run.test_stock_parity import TRAIN
from tunewright.errors import SettingsError
from tunewright.run.config import compose
from tunewright.run.train import train


@pytest.mark.parametrize(
    ("architecture", "setting", "message"),
    [
        (
            "bert",
            {"freeze_layers": 9},
            "training.freeze_layers: it is 9. The model has 2 layers. "
            "Use -1 to train the head alone.",
        ),
        (
            "xlnet",
            {"gradient_checkpointing": True},
            "training.gradient_checkpointing: XLNetForSequenceClassification cannot recompute its "
            "activations. Leave the setting off, or use another model.",
        ),
    ],
)
def test_a_setting_that_the_model_cannot_follow_is_refused(
    tiny_folder, tmp_path, architecture, setting, message
):
    assert refusal(tiny_folder(architecture), tmp_path / "runs", setting) == message


def test_a_metric_that_does_not_exist_is_refused_before_training(tiny_folder, tmp_path):
    found = refusal(tiny_folder("bert"), tmp_path / "runs", {"metric_for_best_model": "logloss"})
    assert found.startswith(
        'training.metric_for_best_model: there is no metric "logloss". The task has "accuracy", '
    )
    assert found.endswith('Did you mean "log_loss"?')


def refusal(model, runs, setting):
    """Returns what `train` says; nothing may be left in the folder of runs."""
    layer = {"model": {"name": str(model)}, "output": {"folder": str(runs)}}
    config = compose(layer, {"training": {"precision": "fp32", "track": [], **setting}})
    with pytest.raises(SettingsError) as caught:
        train({"train": TRAIN, "validation": TRAIN, "test": TRAIN}, config)
    assert not runs.exists()
    return str(caught.value)
