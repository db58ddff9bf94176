"""`tw.train` and what it leaves behind, on tiny models."""

from __future__ import annotations

import json

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict
from sklearn.metrics import balanced_accuracy_score

import tunewright as tw
from tunewright.errors import AuditRefused, SettingsError, TunewrightWarning
from tunewright.run.preparing.groundwork import Notice
from tunewright.run.training import Started
from tunewright.training.events import Evaluation, Finished, Phase, Saved, Step

TEXTS = [
    f"{text} {number}"
    for number in range(10)
    for text in ("a good film", "an awful film", "the best plot", "the worst plot")
]
LABELS = ["good", "bad"] * 20
QUICK = {
    "precision": "fp32",
    "max_steps": 3,
    "num_resamples": 20,
    "batch_size": 8,
    "track": (),
}


@pytest.fixture
def train(tiny_folder, tmp_path):
    """Returns `tw.train` with a tiny model and a folder of its own."""

    def call(data=(TEXTS, LABELS), **named):
        named = {"model": tiny_folder("bert"), "folder": str(tmp_path / "runs")} | QUICK | named
        return tw.train(data, **named)

    return call


def weights(run):
    return (run.folder.model / "model.safetensors").read_bytes()


def test_columns_may_be_numbers_and_a_list_is_no_column(train):
    frame = pd.DataFrame(list(zip(TEXTS, LABELS, strict=True)))
    numbered = train(frame, text=0, label=1)
    assert weights(numbered) == weights(train())
    many = {"text": TEXTS, "labels": [[label] for label in LABELS]}
    task = "multi-label-classification"
    run = train(many, task=task, labels=["good", "bad"])
    assert run.model.predictor.task.labels == ("good", "bad")


def test_two_runs_end_with_the_same_bits(train):
    first, second = train(), train()

    assert first.path != second.path
    assert weights(first) == weights(second)


def test_another_seed_gives_other_weights(train):
    assert weights(train()) != weights(train(seed=1))


def test_metrics_have_a_value_and_an_interval(train):
    accuracy = train().metrics["accuracy"]

    assert 0 <= accuracy.low <= accuracy.value <= accuracy.high <= 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: pd.DataFrame({"text": TEXTS, "label": LABELS}),
        lambda: pl.DataFrame({"text": TEXTS, "label": LABELS}),
        lambda: pa.table({"text": TEXTS, "label": LABELS}),
        lambda: Dataset.from_dict({"text": TEXTS, "label": LABELS}),
        lambda: [{"text": t, "label": x} for t, x in zip(TEXTS, LABELS, strict=True)],
        lambda: {"text": TEXTS, "label": LABELS},
    ],
    ids=["pandas", "polars", "arrow", "datasets", "dicts", "columns"],
)
def test_every_kind_of_table_gives_the_same_model(train, make):
    assert weights(train(make())) == weights(train())


@pytest.mark.parametrize(("good", "bad"), [("good", "bad"), (1, 0), (True, False), (7, 11)])
def test_labels_come_back_as_they_were_given(train, good, bad):
    labels = [good if label == "good" else bad for label in LABELS]
    (answer,) = train((TEXTS, labels)).predict(["a good film"])

    assert answer.label in (good, bad)
    assert type(answer.label) is type(good)


def test_pairs_of_texts_are_read_together(train):
    rows = [
        {"premise": t, "hypothesis": "film", "label": x} for t, x in zip(TEXTS, LABELS, strict=True)
    ]
    run = train(rows)
    alone, paired = run.predict(["a good film", ("a good film", "film")])

    assert run.model.columns == {"label": "label", "text": "premise", "text_pair": "hypothesis"}
    assert alone.logits != paired.logits


def test_events_come_in_order(train):
    heard = []
    train(tell=heard.append)

    kinds = [type(event) for event in heard if not isinstance(event, Notice)]
    assert kinds == [
        Started, Step, Step, Step, Phase, Evaluation, Phase, Saved, Finished, Phase, Phase,
    ]  # fmt: skip
    phases = [event.name for event in heard if isinstance(event, Phase)]
    assert phases == ["evaluating", "saving", "saving the model", "measuring"]


def test_metrics_of_the_users_own_are_measured_and_can_pick_the_best(train):
    run = train(metrics=[balanced_accuracy_score], metric_for_best_model="balanced_accuracy_score")

    assert run.metrics["balanced_accuracy_score"].value == pytest.approx(
        run.metrics["recall_macro"].value
    )


def test_an_unknown_metric_to_pick_the_best_by_is_refused(train):
    with pytest.raises(SettingsError) as caught:
        train(metric_for_best_model="acuracy")

    assert str(caught.value).startswith(
        'training.metric_for_best_model: there is no metric "acuracy". The task has "accuracy",'
    )
    assert str(caught.value).endswith('Did you mean "accuracy"?')


def test_a_finished_model_learns_a_new_label_and_keeps_its_rows(train):
    first = train()
    again = train(
        (TEXTS + ["music of the band"] * 10, LABELS + ["music"] * 10),
        model=first.folder.model,
        learning_rate=1e-10,
    )

    head = [r.model.predictor.model.classifier.weight.detach() for r in (first, again)]
    assert again.model.predictor.task.labels == ("bad", "good", "music")
    assert head[1][:2].sub(head[0]).abs().max() < 1e-6


def test_texts_that_are_cut_are_in_the_ledger(train):
    run = train(max_length=5)
    found = json.loads((run.path / "audit.json").read_text())["splits"]["train"]["lengths"]

    assert found["max_length"] == 5
    assert found["cut_texts"] == found["num_texts"] == 32
    assert found["worst"][0]["num_cut"] == max(worst["num_cut"] for worst in found["worst"])


def test_a_gate_stops_the_run_before_a_folder_is_made(train, tmp_path):
    with pytest.raises(AuditRefused) as caught:
        train((TEXTS * 2, LABELS * 2), max_leaked_fraction=0.0)

    assert str(caught.value).startswith("audit.max_leaked_fraction: ")
    assert not (tmp_path / "runs").exists()


def test_labels_unseen_in_training_are_reported_and_counted_as_wrong(train):
    test = (["a good film", "the news"], ["good", "unheard"])
    run = train(test=test)

    found = json.loads((run.path / "audit.json").read_text())
    assert [each["label"] for each in found["unseen_labels"]] == ["unheard"]
    assert run.metrics["accuracy"].value <= 0.5


def test_every_loss_option_trains(train):
    for options in (
        {"class_weights": "balanced"},
        {"class_weights": {"good": 2.0}},
        {"label_smoothing": 0.1},
        {"focal_gamma": 2.0},
        {"l1": 1e-4, "ema_decay": 0.9, "layer_lr_decay": 0.9, "freeze_layers": 1},
        {"gradient_checkpointing": True, "dropout": 0.2, "lr_scheduler_type": "cosine"},
    ):
        assert train(**options).metrics["log_loss"].value > 0


def test_abstention_is_fitted_on_validation_and_kept_in_the_model(train):
    run = train(target_accuracy=1.0, max_steps=20, learning_rate=1e-3)
    task = tw.load(run.folder.model).predictor.task

    assert task.abstain_below > 0
    assert task.temperature != 1.0


def test_a_run_without_native_code_says_so_once_and_says_why(train, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_NATIVE", "0")
    heard = []
    train(max_steps=2, tell=heard.append)

    told = [event.sentence for event in heard if isinstance(event, Notice)]
    assert [text for text in told if "native" in text] == [
        "There is no native code (TUNEWRIGHT_NATIVE=0): training takes more time."
    ]


def test_without_validation_and_test_nothing_is_measured_and_that_is_said(train):
    heard = []
    run = train(settings={"data": {"split": {"validation": 0, "test": 0}}}, tell=heard.append)

    notices = [event.sentence for event in heard if isinstance(event, Notice)]
    assert run.result is None
    assert "There are no validation or test rows, so nothing was measured." in notices
    assert run.report.exists()


def test_parity_with_stock_transformers_is_recorded(train):
    about = json.loads((train().path / "run.json").read_text())

    assert about["parity"]["against"] == "stock transformers"
    assert about["parity"]["largest_difference"] < 1e-4


def test_a_damaged_model_is_refused(train):
    run = train()
    file = run.folder.model / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))

    with pytest.raises(tw.TunewrightError, match=r"model\.safetensors"):
        tw.load(run.folder.model)


def test_a_tracker_that_is_not_installed_is_named(train):
    with pytest.raises(SettingsError) as caught:
        train(track=("wandb",))

    assert str(caught.value) == (
        "training.track: wandb is not installed. Tracking with it needs the package. "
        'Run: pip install "tunewright[tracking]"'
    )


def test_tensorboard_files_are_written(train):
    run = train(track=("tensorboard",))

    assert list(run.path.glob("events.out.tfevents.*"))


def test_audit_looks_without_training(tiny_folder):
    found = tw.audit((TEXTS, LABELS), model=tiny_folder("bert"))

    assert [split.name for split in found.splits] == ["train", "validation", "test"]


def test_a_chinese_spreadsheet_trains_and_comes_through_whole(train, tmp_path):
    file = tmp_path / "评论.csv"
    lines = ["评论,标签"] + [f"房间很好{n},好评\n服务很差{n},差评" for n in range(20)]
    file.write_bytes("\n".join(lines).encode("gb18030"))
    run = train(file, text="评论", label="标签", num_resamples=0)

    page = run.report.read_text(encoding="utf-8")
    assert run.path.name == "评论"
    assert "好评" in page
    assert "GB18030" in page
    assert run.predict(["房间很好"])[0].label in ("好评", "差评")


def test_a_boolean_and_the_word_for_it_are_one_label(train):
    run = train((TEXTS, [label == "good" for label in LABELS]))
    spelled = run.evaluate([{"text": t, "label": str(x == "good")} for t, x in
                            zip(TEXTS, LABELS, strict=True)])  # fmt: skip

    assert not spelled.notices
    assert set(spelled.statistics["true"]) == {0, 1}


def test_integers_that_pandas_made_floats_are_integers(train):
    frame = pd.DataFrame({"text": [*TEXTS, "x"], "label": [*(x == "good" for x in LABELS), None]})
    frame["label"] = frame["label"].astype(float)
    run = train(frame, drop_unlabelled=True)

    assert run.task.labels == ("0", "1")
    assert type(run.predict(["a good film"])[0].label) is int


def test_a_pair_given_to_a_model_of_single_texts_is_refused(train):
    run = train()
    with pytest.raises(tw.TunewrightError) as caught:
        run.predict([("a good film", "another")])

    assert str(caught.value) == (
        "text 0: it is ('a good film', 'another'). The model was trained on rows with text. Give "
        "one text."
    )


def test_a_missing_text_is_answered_as_a_blank_one(train):
    with pytest.warns(TunewrightWarning, match="2 rows without a word answered, too"):
        none, blank = train().predict([None, ""])

    assert none.logits == pytest.approx(blank.logits, abs=1e-5)  # two rows of one product


def test_splits_that_are_not_read_are_named(train):
    data = DatasetDict(
        train=Dataset.from_dict({"text": TEXTS, "label": LABELS}),
        unsupervised=Dataset.from_dict({"text": TEXTS, "label": LABELS}),
    )
    heard = []
    train(data, tell=heard.append)

    assert any("the splits \"unsupervised\" are not read" in e.sentence for e in heard
               if isinstance(e, Notice))  # fmt: skip


def test_a_slice_by_a_column_that_is_not_there_is_refused_before_training(train, tmp_path):
    with pytest.raises(SettingsError, match='there is no column "shop"'):
        train(slices="shop")

    assert not (tmp_path / "runs").exists()


def test_settings_may_hold_everything(tiny_folder, tmp_path):
    sections = {
        "model": {"name": str(tiny_folder("bert"))},
        "output": {"folder": str(tmp_path), "name": "mine"},
        "training": {"precision": "fp32", "max_steps": 1, "track": []},
        "task": {"class_weights": {"good": 2}, "labels": ["good", "bad"]},
    }
    run = tw.train((TEXTS, LABELS), settings=sections, num_resamples=0)

    assert run.path == tmp_path / "mine"
    assert run.task.labels == ("good", "bad")


def test_two_runs_are_compared_by_themselves_too(train):
    comparison = tw.compare(train(), train(seed=5))

    assert comparison.num_rows == 4
    assert all(row["text"] in TEXTS for row in comparison.rows)


def test_an_evaluation_of_another_file_of_the_same_name_overwrites_nothing(train, tmp_path):
    run = train()
    folders = []
    for place in ("a", "b"):
        file = tmp_path / place / "test.csv"
        file.parent.mkdir()
        file.write_text("text,label\na good film,good\n")
        folders.append(run.evaluate(file).folder.name)

    assert folders == ["test", "test-2"]


def test_what_is_no_metric_is_refused_wherever_it_is_given(train):
    def words(true, predicted):
        return "many"

    with pytest.raises(SettingsError, match=r'"words" gave .many.\. A metric gives one number'):
        train(metrics=[words])
    run = train()
    with pytest.raises(SettingsError, match="it holds 'accuracy'"):
        run.evaluate((["a good film"], ["good"]), metrics=["accuracy"])
    assert run.evaluate((["a good film"], ["good"]), slices="label").slices.keys() >= {"label"}


def test_metrics_without_a_name_of_their_own_are_refused(train):
    def accuracy(true, predicted):
        return 0.0

    with pytest.raises(SettingsError) as caught:
        train(metrics=[accuracy])

    assert str(caught.value) == (
        'metrics: "accuracy" cannot name a metric, or names one already. Each metric is called by '
        "its function's name. Define it with def and a name of its own."
    )
