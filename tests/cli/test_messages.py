"""What bad input gets: exit status 2 (3 for a gate), one message, no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import QUICK
from tunewright.errors import listed
from tunewright.tasks import TASKS


def train(command, file, tiny, *words):
    return command("train", file, "--model", tiny, *words, *QUICK)


def written(tmp_path, text, name="data.csv"):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return file


def last_line(ended):
    assert "Traceback" not in ended.err
    assert ended.out == ""
    return ended.err.strip().splitlines()[-1]


def test_a_missing_file_is_named_with_its_neighbours(command, reviews, tiny):
    ended = train(command, "review.csv", tiny)

    assert ended.status == 2
    assert last_line(ended) == (
        'tunewright: review.csv: there is no such file. Did you mean "reviews.csv"?'
    )


def test_a_missing_column_is_named_with_the_nearest(command, reviews, tiny):
    ended = train(command, "reviews.csv", tiny, "--text", "reviw", "--label", "stars")

    assert ended.status == 2
    assert last_line(ended) == (
        'tunewright: reviews.csv: there is no column "reviw". It has "review", "stars", "shop". '
        'Did you mean "review"?'
    )


def test_a_broken_picture_is_named_with_its_row_and_its_path(command, tmp_path):
    broken = tmp_path / "half.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    file = written(tmp_path, "image,caption\nhalf.png,a dog\nhalf.png,a cat\n")
    words = ("--task", "image-captioning", "--model", "new:1x64", "vocab_size=300")
    ended = command("train", file, *words, *QUICK)

    assert ended.status == 2
    said = last_line(ended)
    assert said.replace("line 3", "line 2") == (
        f"tunewright: {file}, line 2, {broken}: its image is no picture that is known here. "
        "Pictures are BMP, GIF, JPEG, PNG, TIFF or WEBP files. Convert it, or remove the row."
    )
    assert not list(Path("runs").glob("*"))


def test_an_unknown_setting_is_named_with_the_nearest(command, reviews, tiny):
    ended = train(command, reviews, tiny, "learning_rat=1")

    assert ended.status == 2
    assert last_line(ended) == (
        "tunewright: settings: learning_rat is not a setting. Did you mean training.learning_rate?"
    )


def test_an_unknown_setting_of_a_file_is_named(command, tmp_path):
    ended = command("train", written(tmp_path, "[training]\nlearning_rat = 1\n", "recipe.toml"))

    assert ended.status == 2
    assert last_line(ended).endswith(
        "recipe.toml: training.learning_rat is not a setting. Did you mean training.learning_rate?"
    )


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("learning_rate=-1", "training.learning_rate is -1. Input should be greater than 0."),
        ("learning_rate=nan", "training.learning_rate is nan. Input should be a finite number."),
        ("batch_size=0", "training.batch_size is 0. Input should be greater than or equal to 1."),
        (
            "num_train_epochs=1e9",
            "training.num_train_epochs is 1000000000.0. Input should be less than or equal to "
            "10000.",
        ),
    ],
)
def test_impossible_settings_are_refused(command, reviews, tiny, word, message):
    ended = command("train", reviews, "--model", tiny, word)

    assert ended.status == 2
    assert last_line(ended) == f"tunewright: command line: {message}"


def test_empty_labels_are_counted_with_their_lines(command, tmp_path, tiny):
    file = written(tmp_path, "text,label\na,x\nb,\nc,y\nd,\n")
    ended = train(command, file, tiny)

    assert ended.status == 2
    assert last_line(ended) == (
        f'tunewright: {file}: column "label" is empty in 2 of 4 rows (lines 3, 5). Every row needs '
        "a label to train. Remove the rows or pass data.drop_unlabelled=true."
    )


def test_one_class_only_is_refused(command, tmp_path, tiny):
    file = written(tmp_path, "text,label\n" + "a,x\n" * 20)
    ended = train(command, file, tiny)

    assert ended.status == 2
    assert last_line(ended) == (
        f'tunewright: {file}: column "label" has the one label "x" in all 16 rows. A classifier '
        "needs at least two classes. Add rows of another class, or name another column with "
        "data.columns.label."
    )


def test_a_gate_that_fails_exits_with_3(command, reviews, tiny):
    ended = train(command, reviews, tiny, "--text", "review", "--label", "stars",
                  "max_length=4", "max_truncated_fraction=0.1")  # fmt: skip

    assert ended.status == 3
    assert last_line(ended).startswith("tunewright: audit.max_truncated_fraction: train: 100.0 %")
    assert not Path("runs").exists()


def test_a_longer_max_length_than_the_model_reads_is_refused(command, reviews, tiny):
    ended = train(command, reviews, tiny, "--text", "review", "--label", "stars", "max_length=999")

    assert ended.status == 2
    assert last_line(ended) == (
        "tunewright: [task]: task.max_length is 999. The model reads at most 128 tokens. "
        "Use task.max_length=128 or a model that reads more."
    )


def test_an_unknown_task_is_named_with_the_nearest(command, reviews):
    ended = command("train", reviews, "--task", "text-clasification")

    assert ended.status == 2
    assert last_line(ended) == (
        f'tunewright: task: there is no task "text-clasification". There is {listed(TASKS)}. '
        'Did you mean "text-classification"?'
    )


def test_an_unknown_flag_is_one_message(command):
    ended = command("train", "--lable", "x")

    assert ended.status == 2
    assert "No such option: --lable" in ended.err
    assert "Traceback" not in ended.err


def test_errors_are_json_for_machines(command, reviews, tiny):
    ended = command("train", reviews, "--model", tiny, "--text", "x", "--json")

    assert ended.json["error_type"] == "DataError"
    assert ended.json["error"].startswith(str(reviews))


def test_predict_with_a_folder_that_is_no_model_says_so(command, tmp_path):
    (tmp_path / "empty").mkdir()
    ended = command("predict", "empty", "-o", "out.jsonl")

    assert ended.status == 2
    assert last_line(ended).startswith("tunewright: empty: ")


def test_predict_from_a_broken_file_leaves_no_partial_output(command, trained, tmp_path):
    file = written(tmp_path, '{"review": "good"}\n{"review": }\n', "rows.jsonl")
    ended = command("predict", "runs/first", file, "-o", "out.jsonl")

    assert ended.status == 2
    assert not Path("out.jsonl").exists()
    assert "rows.jsonl, line 2" in last_line(ended)


def test_a_file_of_init_is_never_overwritten(command):
    command("init", "recipe.toml")
    ended = command("init", "recipe.toml")

    assert ended.status == 2
    assert last_line(ended) == (
        "tunewright: recipe.toml: it exists already. Nothing is overwritten. Name another."
    )


def test_compare_refuses_runs_that_were_judged_on_different_rows(command, trained, reviews):
    command("train", "runs/first/run.toml", "--name", "other", "data.split.seed=7")
    ended = command("compare", "runs/first", "runs/other")

    assert ended.status == 2
    assert last_line(ended) == (
        "tunewright: runs/first and runs/other: they were judged on different rows (6 and 6). A "
        "paired test needs the same rows in the same order. Name a file that both are to be judged "
        "on."
    )
