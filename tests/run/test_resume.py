"""Runs that are cut off and gone on with, on tiny models."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

import tunewright as tw
from tunewright.devices import Device
from tunewright.errors import Interrupted, SettingsError, Stopped
from tunewright.run.preparing import groundwork
from tunewright.run.preparing.groundwork import Notice
from tunewright.run.record import RunFolder
from tunewright.run.training import Started
from tunewright.training.events import Evaluation, Phase, Saved, Step

TEXTS = [
    f"{text} {number}"
    for number in range(10)
    for text in ("a good film", "an awful film", "the best plot", "the worst plot")
]
LABELS = ["good", "bad"] * 20
# Six updates an epoch: evaluations at 6 and 12, saves at 4, 8 and 12, lines of the log at 5, 6 and
# so on, so that a save finds updates that no line has yet.
QUICK = {
    "precision": "fp32",
    "num_train_epochs": 2,
    "num_resamples": 10,
    "batch_size": 6,
    "logging_steps": 5,
    "save_steps": 4,
    "track": (),
    "dropout": 0.2,
    "load_best_model_at_end": False,  # the best weights may be those before the cut
}


class Cut(Exception):
    """Stands for a power cut: nothing that comes after it is done."""


@pytest.fixture
def train(tiny_folder, tmp_path):
    """Returns `tw.train` with a tiny model and a folder of its own."""

    def call(name="run", data=(TEXTS, LABELS), **named):
        model = tiny_folder("bert")
        named = {"model": model, "folder": str(tmp_path / "runs"), "name": name} | QUICK | named
        return tw.train(data, **named)

    return call


@pytest.fixture
def cut(train, tmp_path):
    """Returns a function (event, settings) -> folder of a run that was cut off at that event."""

    def call(is_last, name="cut", **named):
        def tell(event):
            if is_last(event):
                raise Cut

        with pytest.raises(Cut):
            train(name, tell=tell, **named)
        return tmp_path / "runs" / name

    return call


def after(step):
    return lambda event: isinstance(event, Step) and event.step == step


def phase(name, step=0):
    return lambda event: isinstance(event, Phase) and event.name == name and event.step >= step


def resume(folder, data=(TEXTS, LABELS), **named):
    return tw.resume(folder, data, **named)


def weights(run):
    return (run.folder.model / "model.safetensors").read_bytes()


def log(run):
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = map(json.loads, run.folder.metrics.read_text().splitlines())
    return [
        {k: v for k, v in line.items() if k not in ("tokens_per_second", "mfu")} for line in lines
    ]


MOMENTS = {
    "before the first checkpoint": after(2),
    "between two checkpoints": after(7),
    "at an evaluation": phase("evaluating", 6),
    "at a save": phase("saving", 8),
    "at the last update": after(12),
    "after the last save": phase("saving the model"),
    "while it is measured": phase("measuring"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_was_cut_off_ends_with_the_same_bits(train, cut, moment):
    whole = train()
    run = resume(cut(MOMENTS[moment]))
    assert weights(run) == weights(whole)
    assert log(run) == log(whole)
    assert run.metrics == whole.metrics


@pytest.mark.parametrize(
    "settings",
    [
        {"load_best_model_at_end": True},
        {"ema_decay": 0.9},
        {"ema_decay": 0.9, "load_best_model_at_end": True},
        {"lr_scheduler_type": "plateau", "eval_steps": 1},
        {"early_stopping_patience": 2, "eval_steps": 1, "save_steps": 1},
        {"freeze_layers": 1},
        {"gradient_checkpointing": True},
        {"layer_lr_decay": 0.8, "l1": 1e-4},
        {"max_tokens": 16},
    ],
    ids=str,
)
def test_every_state_comes_back(train, cut, settings):
    whole = train(**settings)
    run = resume(cut(after(2 if "early_stopping_patience" in settings else 5), **settings))
    assert weights(run) == weights(whole)
    assert log(run) == log(whole)


def test_a_run_may_be_cut_off_again_and_again(train, cut):
    whole = train()
    folder = cut(after(5))
    for step in (6, 9, 9, 12):
        with pytest.raises(Cut):
            resume(
                folder, tell=lambda event, step=step: _raise(Cut) if after(step)(event) else None
            )
    run = resume(folder)
    assert weights(run) == weights(whole)
    assert log(run) == log(whole)
    history = json.loads((folder / "run.json").read_text())["resumed"]
    assert [entry["after_step"] for entry in history] == [4, 4, 8, 8, 8]
    assert all(entry["exact"] for entry in history)


def _raise(kind):
    raise kind


def test_it_says_where_it_goes_on(cut):
    heard = []
    resume(cut(after(5)), tell=heard.append)
    assert "The run goes on after update 4." in [e.sentence for e in heard if type(e) is Notice]
    (started,) = (event for event in heard if type(event) is Started)
    assert (started.step, started.total_steps) == (4, 12)
    assert [event.step for event in heard if type(event) is Step] == [5, 6, 7, 8, 9, 10, 11, 12]


def test_a_damaged_checkpoint_is_told_of_and_the_one_before_is_used(train, cut):
    whole = train()
    folder = cut(after(9))
    (folder / "checkpoints" / "step-000008" / "model.safetensors").write_bytes(b"")
    heard = []
    run = resume(folder, tell=heard.append)
    said = [event.sentence for event in heard if type(event) is Notice]
    assert any("cannot be used and was skipped" in sentence for sentence in said)
    assert "The run goes on after update 4." in said
    assert weights(run) == weights(whole)


def test_without_a_whole_checkpoint_it_starts_again(train, cut):
    whole = train()
    folder = cut(after(5))
    (folder / "checkpoints" / "step-000004" / "state.json").unlink()
    run = resume(folder)
    assert weights(run) == weights(whole)
    assert log(run) == log(whole)


def test_a_run_killed_before_it_wrote_what_it_was_begun_with_starts_again(train, cut):
    whole = train()
    folder = cut(after(1))
    (folder / "begun.json").unlink()
    assert weights(resume(folder)) == weights(whole)


def test_a_finished_run_is_made_longer(train):
    short = train("short")
    before = weights(short)
    longer = tw.resume(short, (TEXTS, LABELS), num_train_epochs=3)
    steps = [line["step"] for line in log(longer) if line["event"] == "step"]
    assert longer.path == short.path
    assert steps[-1] == 18
    assert len(steps) == len(set(steps))
    assert weights(longer) != before
    assert longer.config.training.num_train_epochs == 3
    notices = json.loads((longer.path / "run.json").read_text())["notices"]
    assert any("18 updates instead of 12" in notice for notice in notices)


def test_a_longer_run_may_be_cut_off_too(train):
    whole, other = train("one"), train("two")
    longer = tw.resume(whole, (TEXTS, LABELS), num_train_epochs=3)

    def tell(event):
        if after(15)(event):
            raise Cut

    with pytest.raises(Cut):
        tw.resume(other, (TEXTS, LABELS), num_train_epochs=3, tell=tell)
    with pytest.raises(SettingsError, match="the run did not finish"):
        tw.FinishedRun(other.path)
    assert weights(tw.resume(other.path, (TEXTS, LABELS))) == weights(longer)


def test_a_finished_run_can_only_be_made_longer(train):
    run = train()
    with pytest.raises(SettingsError) as caught:
        resume(run.path)
    assert str(caught.value) == (
        f"{run.path}: the run is finished. It can only be made longer. For example: tunewright "
        f"resume {run.path} num_train_epochs=6"
    )
    with pytest.raises(SettingsError, match="update 12 is done already"):
        resume(run.path, num_train_epochs=1)
    with pytest.raises(SettingsError, match="update 12 is done already"):
        resume(run.path, num_train_epochs=2)


DIFFERENCES = {
    "learning_rate": ({"learning_rate": 1e-3}, "training.learning_rate was 5e-05 and is 0.001"),
    "seed": ({"seed": 7}, "training.seed was 42 and is 7"),
    "text": ({"data": (["another", *TEXTS[1:]], LABELS)}, "the train rows are others"),
    "label": (
        {"data": (TEXTS, ["fair", *LABELS[1:]])},
        'task.labels was ["bad", "good"] and is ["bad", "fair", "good"]',
    ),
    "order": ({"data": (TEXTS[::-1], LABELS)}, "the train rows are others"),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_what_would_give_other_weights_is_shown_and_refused(cut, difference):
    folder = cut(after(5))
    before = sorted(file for file in folder.rglob("*") if file.is_file())
    given, shown = DIFFERENCES[difference]
    with pytest.raises(SettingsError) as caught:
        resume(folder, **given)
    assert caught.value.found == "the run was begun with other data, labels or settings"
    assert shown in caught.value.needed
    assert sorted(file for file in folder.rglob("*") if file.is_file()) == before


def test_what_leaves_the_weights_alone_may_change(train, cut):
    whole = train()
    run = resume(cut(after(5)), save_steps=2, num_resamples=20, logging_steps=5)
    assert weights(run) == weights(whole)


def test_checkpoints_of_another_run_are_refused(cut):
    folder, other = cut(after(5)), cut(after(5), name="other", seed=1)
    for path in (folder / "checkpoints").iterdir():
        path.rename(folder / path.name)
    for path in (other / "checkpoints").iterdir():
        path.rename(folder / "checkpoints" / path.name)
    with pytest.raises(SettingsError, match="its checkpoints are those of another run"):
        resume(folder)


def test_checkpoints_that_nothing_says_they_are_the_runs_own_are_compared_too(cut):
    folder = cut(after(5))
    (folder / "begun.json").unlink()
    with pytest.raises(SettingsError, match="its checkpoints are those of another run"):
        resume(folder, seed=1)
    resume(folder)


def test_a_log_that_lost_lines_is_not_filled_up(cut):
    folder = cut(after(7))
    (folder / "metrics.jsonl").write_text("")
    assert [line["step"] for line in log(resume(folder)) if line["event"] == "step"] == [
        5,
        6,
        10,
        12,
    ]


def test_another_machine_is_allowed_said_and_written_down(cut, monkeypatch):
    folder = cut(after(5))
    other = Device("cpu", "cpu", "bf16", 3, "another CPU")
    monkeypatch.setattr(groundwork, "find_device", lambda *_: other)
    run = resume(folder)
    about = json.loads((run.path / "run.json").read_text())
    (entry,) = about["resumed"]
    assert entry["exact"] is False
    assert 'precision was "fp32" and is "bf16"' in entry["changed"]
    assert any("not to the same bits, since" in notice for notice in about["notices"])


def test_rows_that_came_from_memory_are_asked_for(cut):
    folder = cut(after(5))
    with pytest.raises(SettingsError) as caught:
        tw.resume(folder)
    assert str(caught.value) == (
        f"{folder}: its rows came from memory. They are needed again to go on. Give the same ones: "
        f'tunewright.resume("{folder}", data=...)'
    )


def test_rows_of_a_file_are_read_again(train, cut, tmp_path):
    file = tmp_path / "reviews.jsonl"
    rows = zip(TEXTS, LABELS, strict=True)
    file.write_text("".join(json.dumps({"text": t, "label": x}) + "\n" for t, x in rows))
    whole = train(data=file)
    assert weights(tw.resume(cut(after(5), data=file))) == weights(whole)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"there is no run.toml"):
        tw.resume(tmp_path)


def test_a_run_folder_given_as_data_says_how_to_go_on(train, cut):
    folder, run = cut(after(5)), train()
    with pytest.raises(SettingsError) as caught:
        train(data=str(folder))
    assert str(caught.value) == (
        f"{folder}: this is a run that did not finish. Training needs data. To go on with it: "
        f"tunewright resume {folder}. To train it anew: tunewright train {folder}/run.toml"
    )
    with pytest.raises(SettingsError, match=r"this is a finished run.*num_train_epochs=6"):
        train(data=run.path)


def test_a_new_run_beside_one_that_was_cut_off_says_so(train, cut):
    folder = cut(after(5))
    heard = []
    run = train("cut", tell=heard.append)
    assert run.path.name == "cut-2"
    assert (
        f"{folder} holds a run that did not finish. To go on with it instead: tunewright resume "
        f"{folder}"
    ) in [event.sentence for event in heard if type(event) is Notice]
    resume(folder)
    heard.clear()
    train("cut", tell=heard.append)
    assert not any("did not finish" in e.sentence for e in heard if type(e) is Notice)


def test_two_trainers_in_one_folder_the_second_is_refused(cut):
    folder = cut(after(5))
    with RunFolder(folder).locked(), pytest.raises(SettingsError) as caught:
        resume(folder)
    assert str(caught.value) == (
        f"{folder}: another process is training in this folder. Two would spoil each other's "
        "files. Wait until it ends, or stop it first."
    )
    resume(folder)


@pytest.mark.parametrize(
    ("number", "kind", "status"),
    [(signal.SIGTERM, Stopped, 143), (signal.SIGINT, Interrupted, 130)],
)
def test_a_signal_finishes_the_update_and_saves(train, tmp_path, number, kind, status):
    whole, handler = train(), signal.getsignal(number)
    heard = []

    def tell(event):
        heard.append(event)
        if after(4)(event):
            os.kill(os.getpid(), number)

    folder = tmp_path / "runs" / "stopped"
    with pytest.raises(kind) as caught:
        train("stopped", tell=tell)
    assert caught.value.exit_status == status
    assert str(caught.value) == (
        f"{folder}: {number.name} came, and the run stopped after update 4, which is saved. Go on "
        f"with: tunewright resume {folder}"
    )
    assert isinstance(heard[-1], Saved)
    assert signal.getsignal(number) is handler
    assert weights(resume(folder)) == weights(whole)


def test_without_checkpoints_none_is_written_and_signals_act_at_once(train, tmp_path):
    run = train(save_total_limit=0)
    assert not run.folder.checkpoints.exists()

    def tell(event):
        if after(2)(event):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train("other", save_total_limit=0, tell=tell)


def test_a_full_disk_stops_the_run_after_some_tries_and_it_can_be_resumed(train, tmp_path):
    whole = train()
    folder = tmp_path / "runs" / "full"

    def tell(event):
        if isinstance(event, Started):  # a file where the folder of checkpoints has to be
            (folder / "checkpoints").write_text("")

    heard = []
    with pytest.raises(tw.TunewrightError, match="the state of training could not be saved"):
        train("full", save_steps=1, tell=lambda event: (heard.append(event), tell(event)))
    steps = [event.step for event in heard if isinstance(event, Step)]
    said = [event.sentence for event in heard if isinstance(event, Notice)]
    assert steps == [1, 2, 3]
    assert len([sentence for sentence in said if "It is tried again." in sentence]) == 2
    (folder / "checkpoints").unlink()
    assert weights(resume(folder)) == weights(whole)


def test_evaluations_are_not_repeated(cut):
    heard = []
    folder = cut(after(10))
    resume(folder, tell=heard.append)
    assert [event.step for event in heard if isinstance(event, Evaluation)] == [12]


def test_the_folder_of_a_run_is_named_in_every_message(cut):
    folder = cut(after(5))
    with pytest.raises(SettingsError) as caught:
        tw.FinishedRun(Path(folder))
    assert str(caught.value) == (
        f"{folder}: the run did not finish. A finished run has a model and its figures. Go on with "
        f"it: tunewright resume {folder}"
    )
