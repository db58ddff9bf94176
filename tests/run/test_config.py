from __future__ import annotations

import tomllib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.errors import SettingsError
from tunewright.run.config import (
    RunConfig,
    compose,
    known_keys,
    overrides,
    read_config,
    task_keys,
    task_settings,
    template,
    to_toml,
)

NAN, TASK = float("nan"), "text-classification"


def refusal(call, *arguments, **named):
    with pytest.raises(SettingsError) as caught:
        call(*arguments, **named)
    return str(caught.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"learning_rate": NAN}, "learning_rate is nan. Input should be a finite number."),
        ({"learning_rate": -1}, "learning_rate is -1. Input should be greater than 0."),
        ({"learning_rate": "1e-5 "}, 'learning_rate is "1e-5 ". Input should be a valid number.'),
        ({"learning_rate": True}, "learning_rate is True. Input should be a valid number."),
        ({"batch_size": 0}, "batch_size is 0. Input should be greater than or equal to 1."),
        ({"batch_size": 8.5}, "batch_size is 8.5. Input should be a valid integer."),
        (
            {"num_train_epochs": 1e9},
            "num_train_epochs is 1000000000.0. Input should be less than or equal to 10000.",
        ),
        (
            {"max_grad_norm": float("inf")},
            "max_grad_norm is inf. Input should be a finite number.",
        ),
        (
            {"lr_scheduler_type": "liner"},
            "lr_scheduler_type is \"liner\". Input should be 'linear', 'cosine', 'constant', "
            "'inverse_sqrt' or 'plateau'.",
        ),
        (
            {"learning_rat": 1},
            "learning_rat is not a setting. Did you mean training.learning_rate?",
        ),
    ],
)
def test_a_value_that_makes_no_sense_is_named_with_what_is_needed(setting, message):
    found = refusal(compose, {"training": setting}, where="run.toml")
    assert found == f"run.toml: training.{message}"


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"trainin": {}}, "trainin is not a setting. Did you mean training?"),
        (
            {"learning_rate": 1e-5},
            "learning_rate is not a setting. Did you mean training.learning_rate?",
        ),
        (
            {"data": {"split": {"sead": 1}}},
            "data.split.sead is not a setting. Did you mean data.split.seed?",
        ),
        (
            {"training": 3},
            "training is 3. Input should be a valid dictionary or instance of TrainingConfig.",
        ),
        ({"zzzz": 1}, "zzzz is not a setting."),
    ],
)
def test_an_unknown_key_gets_the_nearest_known_one(layer, message):
    assert refusal(compose, layer, where="run.toml") == f"run.toml: {message}"


@pytest.mark.parametrize(
    ("pair", "layer"),
    [
        ("learning_rate=3e-5", {"training": {"learning_rate": 3e-5}}),
        ("learning_rate= 1e-5 ", {"training": {"learning_rate": 1e-5}}),
        ("seed=3", {"training": {"seed": 3}}),
        ("data.split.seed=4", {"data": {"split": {"seed": 4}}}),
        ("gradient_checkpointing=true", {"training": {"gradient_checkpointing": True}}),
        ('track=["wandb"]', {"training": {"track": ["wandb"]}}),
        ("task=other", {"task": {"name": "other"}}),
        ("model=some/model", {"model": {"name": "some/model"}}),
        ("name=first", {"output": {"name": "first"}}),
        ("max_length=64", {"task": {"max_length": 64}}),
        ("task.max_length=64", {"task": {"max_length": 64}}),
        ("data.columns.text=review=1", {"data": {"columns": {"text": "review=1"}}}),
        ("encoding=gb18030", {"data": {"encoding": "gb18030"}}),
    ],
)
def test_words_of_the_command_line_find_their_setting(pair, layer):
    assert overrides([pair], task_keys(TASK)) == layer


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("learning_rate", 'command line: "learning_rate" is not a setting. Write key=value.'),
        ("=3", 'command line: "=3" is not a setting. Write key=value.'),
        (
            "learning_rat=1",
            "settings: learning_rat is not a setting. Did you mean training.learning_rate?",
        ),
        ("max_lenght=1", "settings: max_lenght is not a setting. Did you mean task.max_length?"),
        ("trainin.seed=1", "settings: trainin.seed is not a setting. Did you mean training.seed?"),
    ],
)
def test_words_that_are_no_settings_are_explained(word, message):
    assert refusal(overrides, [word], task_keys(TASK)) == message


def test_a_later_layer_wins_and_leaves_its_neighbours():
    first = {"training": {"seed": 1, "batch_size": 4}, "data": {"columns": {"text": "a"}}}
    found = compose(first, {"training": {"seed": 2}, "data": {"columns": {"label": "b"}}})
    assert (found.training.seed, found.training.batch_size) == (2, 4)
    assert found.data.columns == {"text": "a", "label": "b"}


def test_composing_changes_none_of_its_layers():
    first = {"data": {"columns": {"text": "a"}}}
    compose(first, {"data": {"columns": {"text": "b"}}}, {"data": {"columns": {"label": "c"}}})
    assert first == {"data": {"columns": {"text": "a"}}}


def test_numbers_of_numpy_are_numbers():
    found = compose({"training": {"batch_size": np.int64(8), "learning_rate": np.float64(1e-3)}})
    assert (found.training.batch_size, found.training.learning_rate) == (8, 1e-3)


def test_keys_of_python_are_those_of_a_file():
    given = {5: 2.0, np.int64(1): 1.0, False: 3.0, "a": 4.0, 2.0: 1.5}
    found = compose({"task": {"name": TASK, "class_weights": given}})
    weights = {"5": 2.0, "1": 1.0, "false": 3.0, "a": 4.0, "2": 1.5}
    assert found.task.options["class_weights"] == weights
    assert compose(tomllib.loads(to_toml(found))) == found


FULL = {
    "training": {"learning_rate": 3e-5, "track": [], "max_steps": 7, "ema_decay": 0.99},
    "task": {"name": TASK, "class_weights": {"a": 1.0, "b b": 2.5}, "max_length": 12},
    "data": {
        "columns": {"text": "评论"},
        "encoding": "gb18030",
        "quote": "'",
        "split": {"seed": 3},
    },
    "evaluation": {"slices": ["x", "y z"]},
    "output": {"name": 'odd "name"'},
}


@pytest.mark.parametrize("layer", [{}, FULL])
def test_a_written_configuration_reads_back_as_it_was(layer, tmp_path):
    config, file = compose(layer), tmp_path / "run.toml"
    file.write_text(to_toml(config), encoding="utf-8")
    assert compose(read_config(file)) == config


@given(st.text(max_size=20), st.floats(1e-12, 10), st.integers(0, 2**32 - 1))
def test_any_text_and_number_survives_being_written(text, rate, seed):
    layer = {"training": {"learning_rate": rate, "seed": seed}, "data": {"columns": {"text": text}}}
    config = compose(layer)
    assert compose(tomllib.loads(to_toml(config))) == config


def test_every_comment_stands_above_its_own_setting():
    lines = to_toml(compose(FULL)).splitlines()
    helps = {text: path for path, text in known_keys().items()}
    pairs = [(helps[a[2:]], b) for a, b in pairwise(lines) if a[2:] in helps]
    named = [b.strip("# []").split(" =")[0].split(".")[-1] for _, b in pairs if b]
    assert named == [path.split(".")[-1] for path, b in pairs if b]
    assert len(named) > 40


def test_every_setting_has_a_description_of_its_own():
    settings = known_keys()
    assert [path for path, text in settings.items() if not text] == []
    assert len(settings) > 50
    assert [name for name, _, text in task_settings(TASK) if not text] == []


def test_the_template_of_a_task_is_its_default_configuration():
    text = template(TASK)
    assert compose(tomllib.loads(text)).training == RunConfig().training
    assert "# max_length =" in text
    assert all(f"{name} =" in text for name, *_ in task_settings(TASK))


def test_a_file_that_is_missing_or_not_toml_is_named(tmp_path):
    missing, broken = tmp_path / "no.toml", tmp_path / "broken.toml"
    broken.write_text("a = = 1")
    assert refusal(read_config, missing) == f"{missing}: there is no such file."
    assert refusal(read_config, broken) == (
        f"{broken}: it is not TOML (Invalid value (at line 1, column 5))."
    )


def test_bytes_that_are_no_text_are_not_toml(tmp_path):
    file = tmp_path / "run.toml"
    file.write_bytes(b"a = '\xff'")
    assert refusal(read_config, file).startswith(f"{file}: it is not TOML ('utf-8' codec can't")
