"""The verbs, end to end, on a tiny model."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import QUICK
from tunewright.devices.cores import Cores
from tunewright.errors import TunewrightWarning
from tunewright.run.loaded import load
from tunewright.run.preparing.cache import RowCache

RUN_FOLDER = {
    ".lock", "audit.json", "begun.json", "checkpoints", "data.json", "evaluation",
    "metrics.jsonl", "model", "report.html", "run.json", "run.toml",
}  # fmt: skip


def test_train_leaves_a_whole_run_folder(trained):
    names = {path.name for path in Path(trained["run"]).iterdir()}

    assert names == RUN_FOLDER
    assert trained["evaluation"]["metrics"]["accuracy"]["low"] is not None


def test_train_prints_a_table_and_where_everything_is(command, reviews, tiny):
    ended = command(
        "train", reviews, "--model", tiny, "--text", "review", "--label", "stars", *QUICK
    )

    assert ended.status == 0, ended.err
    assert "accuracy" in ended.out
    assert "report  runs/reviews/report.html" in ended.out
    assert 'new weights, to be trained: "classifier.bias", "classifier.weight"' in ended.err


def test_a_second_run_overwrites_nothing(command, trained, reviews, tiny):
    again = command("train", reviews, "--model", tiny, "--text", "review", "--label", "stars",
                    "--name", "first", "--json", *QUICK)  # fmt: skip

    assert again.json["run"] == "runs/first-2"


def test_a_runs_own_toml_repeats_it(command, trained):
    again = command("train", "runs/first/run.toml", "--json")

    assert again.status == 0, again.err
    first, second = (Path(run["model"]) / "model.safetensors" for run in (trained, again.json))
    assert first.read_bytes() == second.read_bytes()


def test_key_value_wins_over_the_file(command, trained):
    again = command("train", "runs/first/run.toml", "learning_rate=1e-3", "--json")

    settings = tomllib.loads(Path(again.json["run"], "run.toml").read_text())
    assert settings["training"]["learning_rate"] == 1e-3


def test_evaluate_measures_a_file_and_its_slices(command, trained, reviews):
    ended = command("evaluate", "runs/first", reviews, "--slice", "shop", "--json")

    assert ended.status == 0, ended.err
    assert [part["name"] for part in ended.json["slices"]["shop"]] == ["north", "south"]
    assert Path("runs/first/evaluation/reviews/predictions.jsonl").exists()


def test_evaluate_without_data_shows_the_stored_figures(command, trained):
    ended = command("evaluate", "runs/first", "--json")

    assert ended.json == trained["evaluation"]


def test_evaluate_prints_tables(command, trained, reviews):
    ended = command("evaluate", "runs/first", reviews)

    assert "by text length" in ended.out


def test_rows_with_other_columns_in_another_form_are_judged_and_answered(
    command, trained, reviews, tmp_path
):
    whole = command("evaluate", "runs/first", reviews, "--json")
    with reviews.open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    with (tmp_path / "other.csv").open("w", encoding="latin-1", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerows([("bewertung", "note \u00fc", "shop"), *rows])
    text, label = "data.columns.text=bewertung", "data.columns.label=note \u00fc"
    words = ["other.csv", text, label, "delimiter=;", "encoding=latin-1"]
    ended = command("evaluate", "runs/first", *words, "--json")
    assert ended.status == 0, ended.err
    accuracy = whole.json["metrics"]["accuracy"]["value"]
    assert ended.json["metrics"]["accuracy"]["value"] == accuracy
    ended = command("predict", "runs/first", "other.csv", text, *words[3:], "-o", "answers.jsonl")
    assert ended.status == 0, ended.err
    command("train", "runs/first/run.toml", "--name", "twin")
    ended = command("compare", "runs/first", "runs/twin", *words, "--json")
    assert ended.json["num_different"] == 0


def test_a_model_of_pairs_does_not_judge_or_answer_half_of_them(command, tiny, tmp_path):
    rows = [{"a": f"a film {n}", "b": f"a plot {n}", "label": "xy"[n % 2]} for n in range(24)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    half = [{name: row[name] for name in ("a", "label")} for row in rows]
    (tmp_path / "half.jsonl").write_text("\n".join(map(json.dumps, half)), encoding="utf-8")
    words = ["train", "pairs.jsonl", "--text", "a", "--text-pair", "b", "--model", tiny]
    message = (
        'tunewright: half.jsonl: there is no text_pair, and training read it (from "b"). A model '
        "reads what it has learned from. Name the column with data.columns.text_pair=COLUMN."
    )
    assert command(*words, "--name", "pairs", *QUICK).status == 0
    for verb in ("evaluate", "predict"):
        ended = command(verb, "runs/pairs", "half.jsonl")
        assert (ended.status, ended.err.strip().splitlines()[-1]) == (2, message)
    (tmp_path / "half.jsonl").write_text(
        "\n".join(json.dumps({**row, "b": None}) for row in half), encoding="utf-8"
    )
    assert command("evaluate", "runs/pairs", "half.jsonl").status == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.csv", "b.csv"], 'command line: "b.csv" is a second data source. One is read.'),
        (["a.csv", "learning_rate=1"],
         "command line: training.learning_rate is given. What can be set here is how rows are "
         "read. Write, for example: encoding=latin-1 data.columns.text=COLUMN"),
        (["a.csv", "drop_unlabelled=true"],
         "command line: data.drop_unlabelled is given. What can be set here is how rows are read. "
         "Write, for example: encoding=latin-1 data.columns.text=COLUMN"),
        (["test=held_out.csv"],
         'command line: "test=held_out.csv" is given, and no rows are named. It says how rows are '
         "read. Name a file of them first."),
    ],
)  # fmt: skip
def test_evaluate_takes_one_source_and_how_it_is_read(command, trained, words, message):
    ended = command("evaluate", "runs/first", *words)
    assert (ended.status, ended.err.strip()) == (2, f"tunewright: {message}")


def test_compare_finds_no_difference_between_twins(command, trained):
    command("train", "runs/first/run.toml", "--name", "twin")
    ended = command("compare", "runs/first", "runs/twin", "--json")

    assert ended.json["num_different"] == 0
    assert ended.json["differences"]["accuracy"]["difference"]["value"] == 0


def test_compare_on_a_file_prints_where_two_runs_differ(command, trained, reviews):
    command("train", "runs/first/run.toml", "--name", "other", "learning_rate=1e-2")
    ended = command("compare", "runs/first", "runs/other", reviews)

    assert ended.status == 0, ended.err
    assert "McNemar" in ended.out
    assert "The answers differ on" in ended.out


def test_report_is_written_anew(command, trained):
    Path("runs/first/report.html").unlink()
    ended = command("report", "runs/first", "--json")

    assert ended.json == {"report": "runs/first/report.html"}
    assert Path("runs/first/report.html").stat().st_size > 10_000


def test_predict_reads_lines_from_standard_input(command, trained, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("a good film\n好看\n".encode())))
    ended = command("predict", "runs/first")

    answers = [json.loads(line) for line in ended.out.splitlines()]
    assert [answer["text"] for answer in answers] == ["a good film", "好看"]
    assert set(answers[0]) == {"text", "label", "score", "scores", "abstained"}


def test_predict_writes_csv_from_the_columns_of_training(command, trained, reviews):
    ended = command("predict", "runs/first", reviews, "--output", "answers.csv")

    assert ended.status == 0, ended.err
    rows = list(csv.DictReader(Path("answers.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 60
    assert list(rows[0]) == ["review", "stars", "shop", "label", "score", "scores", "abstained"]
    assert rows[0]["review"] == "a good film, 0"


def test_predict_keeps_a_column_that_is_called_as_an_answer_is(command, trained, tmp_path):
    (tmp_path / "new.csv").write_text("review,label\na good film,mine\n")
    ended = command("predict", "runs/first", "new.csv")

    answer = json.loads(ended.out)
    assert answer["label"] == "mine"
    assert answer["predicted_label"] in ("good", "bad")


def test_predict_names_the_file_of_each_row_when_there_are_several(command, trained, reviews):
    ended = command("predict", "runs/first", reviews, reviews)

    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert len(lines) == 120
    assert lines[0]["line"] == 2
    assert lines[0]["source"].endswith("reviews.csv")


def test_audit_prints_json_and_trains_nothing(command, reviews, tiny):
    ended = command(
        "audit", reviews, "--model", tiny, "--text", "review", "--label", "stars", "--json"
    )

    assert ended.status == 0, ended.err
    assert ended.json["splits"]["train"]["classes"] == {"bad": 24, "good": 24}
    assert not Path("runs").exists()
    assert json.loads(Path("audit.json").read_text()) == ended.json


def test_audit_shows_a_table_and_the_lengths(command, reviews, tiny):
    ended = command("audit", reviews, "--model", tiny, "--text", "review", "--label", "stars",
                    "max_length=5", "--output", "-")  # fmt: skip

    assert "texts cut" in ended.out
    assert "6 to 6" in ended.out
    assert not Path("audit.json").exists()


def test_audit_with_a_failing_gate_prints_one_object(command, reviews, tiny):
    ended = command("audit", reviews, "--model", tiny, "--text", "review", "--label", "stars",
                    "max_length=4", "max_truncated_fraction=0.1", "--json")  # fmt: skip

    assert ended.status == 3
    assert ended.json["error_type"] == "AuditRefused"


def test_audit_looks_for_wrong_labels(command, reviews, tiny):
    ended = command("audit", reviews, "--model", tiny, "--text", "review", "--label", "stars",
                    "--label-errors", "--json")  # fmt: skip

    assert ended.status == 0, ended.err
    assert isinstance(ended.json["label_errors"], list)


def test_predict_reads_as_training_read_and_as_it_is_told(command, reviews, tiny, tmp_path):
    latin = tmp_path / "latin.csv"
    latin.write_bytes(reviews.read_text().replace("plot", "qualité").encode("latin-1"))
    named = ("--text", "review", "--label", "stars", "--name", "latin", *QUICK)
    assert command("train", latin, "--model", tiny, "encoding=latin-1", *named).status == 0

    first = command("predict", "runs/latin", latin)
    other = command("predict", "runs/latin", reviews, "encoding=utf-8")
    assert first.status == other.status == 0
    assert "qualité" in first.out


def test_a_model_that_was_moved_still_knows_its_columns(command, trained, reviews):
    Path("runs/first/model").rename("moved")
    ended = command("predict", "moved", reviews)

    assert ended.status == 0, ended.err


def test_evaluate_says_that_labels_are_unknown(command, trained, tmp_path):
    (tmp_path / "new.csv").write_text("review,stars\na good film,good\nnews,unheard\n")
    ended = command("evaluate", "runs/first", "new.csv")

    assert (
        "new.csv: 1 of 2 rows have a label that the model does not know; each counts as a wrong "
        "answer." in ended.err
    )


def test_answers_to_answers_keep_the_first_ones(command, trained, tmp_path):
    (tmp_path / "new.csv").write_text("review,label,source\na good film,x,shop\nno,y,web\n")
    command("predict", "runs/first", "new.csv", "-o", "once.jsonl")
    again = command("predict", "runs/first", "once.jsonl", "new.csv")

    row, other = (json.loads(again.out.splitlines()[place]) for place in (0, 2))
    assert other["predicted_2_label"] == row["predicted_2_label"]  # as in the first file
    assert (row["review"], row["label"], row["source"]) == ("a good film", "x", "shop")
    assert (row["file_source"], row["file_line"]) == ("once.jsonl", 1)
    assert row["predicted_label"] == row["predicted_2_label"] != "x"
    assert row["predicted_scores"] == row["predicted_2_scores"]


def test_what_csv_escapes_is_said(command, trained, tmp_path):
    (tmp_path / "new.csv").write_text("review,id\n-good,=1\nfine,-3.5\n")
    ended = command("predict", "runs/first", "new.csv", "-o", "out.csv")
    assert '2 cells of "review", "id" would be run by a spreadsheet' in ended.err
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [(row["review"], row["id"]) for row in csv.DictReader(file)] == [
            ("'-good", "'=1"), ("fine", "-3.5"),
        ]  # fmt: skip


def test_rows_without_a_text_are_counted(command, trained, tmp_path):
    (tmp_path / "new.jsonl").write_text('{"review": "good"}\n{"text": "bad"}\n{"review": ""}\n')
    ended = command("predict", "runs/first", "new.jsonl")
    assert ended.status == 0
    told = "2 rows without a word answered, too: new.jsonl, line 2 is the first."
    assert ended.err.splitlines()[-1] == told


@pytest.mark.parametrize(
    ("first", "kind"), [("stars;Review", "csv"), ('{"review": "a good film"}', "jsonl")]
)
def test_lines_that_are_no_texts_are_refused(command, trained, monkeypatch, first, kind):
    lines = f"{first}\n{first}\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    ended = command("predict", "runs/first")
    assert ended.status == 2
    assert ended.err.endswith(f"Pass --format {kind}, or lines if it is a text.\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert command("predict", "runs/first", "--format", "lines").status == 0


@pytest.mark.parametrize("first", ["{name}", "{print $1}", "Fine film; really"])
def test_lines_with_signs_of_tables_are_texts(command, trained, monkeypatch, first):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{first}\n".encode())))
    ended = command("predict", "runs/first")
    assert (ended.status, json.loads(ended.out)["text"]) == (0, first)


def test_a_second_text_that_training_had_not_is_not_read(command, trained, tmp_path):
    (tmp_path / "new.csv").write_text("review,sentence2,stars\na good film,awful,good\n")
    answers = command("predict", "runs/first", "new.csv")
    (tmp_path / "alone.csv").write_text("review\na good film\n")
    alone = command("predict", "runs/first", "alone.csv")
    told = 'new.csv: the column "sentence2" is not read: training had no text_pair.'
    assert told in answers.err
    both = [json.loads(each.out)["scores"] for each in (answers, alone)]
    assert both[0] == both[1]


def test_columns_of_other_files_may_differ_in_case_or_go_by_usual_names(command, trained, tmp_path):
    (tmp_path / "new.csv").write_text("REVIEW,Stars\na good film,good\n")
    (tmp_path / "usual.csv").write_text("text,label\na good film,good\n")
    for file in ("new.csv", "usual.csv"):
        assert command("evaluate", "runs/first", file).status == 0
    trained_again = command("train", "reviews.csv", "--text", "review", "--label", "stars",
                            "--test", "usual.csv", "--model", trained["model"], *QUICK)  # fmt: skip
    assert trained_again.status == 0, trained_again.err
    told = 'usual.csv: there is no column "stars"; "label" is taken as label.'
    assert told in trained_again.err


def test_validation_and_test_rows_are_read_as_training_rows_are(command, trained, tmp_path):
    (tmp_path / "more.csv").write_text("text,review,stars\nno,a good film,good\nno,a bad one,bad\n")
    ended = command("train", "reviews.csv", "--label", "stars", "--test", "more.csv",
                    "--model", trained["model"], *QUICK)  # fmt: skip
    assert ended.status == 0, ended.err
    (run,) = (path for path in Path("runs").iterdir() if path.name != "first")
    files = {each["split"]: each["columns"] for each in json.loads((run / "data.json").read_text())}
    assert files["test"] == {"text": "review", "label": "stars"}


def test_a_failed_evaluation_leaves_nothing(command, trained, tmp_path):
    (tmp_path / "new.csv").write_text("review,stars\na good film,\n")
    assert command("evaluate", "runs/first", "new.csv").status == 2
    (tmp_path / "new.csv").write_text("review,stars\na good film,good\n")
    assert command("evaluate", "runs/first", "new.csv", "--slice", "shop").status == 2
    assert not Path("runs/first/evaluation/new").exists()


def test_stored_figures_have_no_slices_of_their_own(command, trained):
    ended = command("evaluate", "runs/first", "--slice", "stars")
    assert ended.status == 2
    assert "Name a file of rows." in ended.err


def test_what_is_cut_of_new_rows_is_said(command, trained, tmp_path):
    long = "a " * 200
    (tmp_path / "new.csv").write_text(f"review,stars\na good film,good\n{long},good\n")
    told = "1 row longer than the model reads: 74 tokens cut."

    assert f"new.csv: {told}" in command("evaluate", "runs/first", "new.csv").err
    assert command("predict", "runs/first", "new.csv").err.splitlines()[-1] == told
    with pytest.warns(TunewrightWarning, match=told) as caught:
        load("runs/first").predict(["a good film", long])
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_run_that_is_stopped_is_saved_and_goes_on(
    command, reviews, tiny, tmp_path, number, status
):
    words = ["train", str(reviews), "--model", str(tiny), "--text", "review", "--label", "stars",
             *QUICK, "num_train_epochs=9999"]  # fmt: skip
    code = f"from tunewright.cli import run; raise SystemExit(run({words}))"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            if line.startswith("Training on"):
                process.send_signal(number)
                break
        said = process.stderr.read().strip().splitlines()[-1]

    assert process.returncode == status
    assert said.startswith(f"tunewright: runs/reviews: {number.name} came, and the run stopped")
    assert said.endswith("is saved. Go on with: tunewright resume runs/reviews")
    steps = said.split("after update ")[1].split(",")[0]
    ended = command("resume", "runs/reviews", f"max_steps={int(steps) + 2}", "--json")
    assert ended.status == 0, ended.err
    assert "The run goes on after update" in ended.err
    assert ended.json["run"] == "runs/reviews"


def test_a_run_whose_settings_differ_is_not_resumed(command, trained):
    ended = command("resume", "runs/first", "num_train_epochs=2", "learning_rate=1e-3")

    assert ended.status == 2
    assert "training.learning_rate was 5e-05 and is 0.001" in ended.err


def test_verify_says_what_is_whole_and_what_is_damaged(command, trained):
    whole = command("verify", "runs/first")
    weights = Path("runs/first/model/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    damaged = command("verify", "runs/first", "--json")

    assert whole.status == 0
    assert [line.split()[:2] for line in whole.out.splitlines()] == [
        ["whole", "model"],
        ["whole", "checkpoint"],
    ]
    assert damaged.status == 1
    model, checkpoint = damaged.json["checked"]
    assert model["damage"].startswith("runs/first/model/model.safetensors: is damaged")
    assert checkpoint["damage"] == ""


def test_export_merges_an_adapter_and_says_how_alike_they_answer(command, reviews, tiny):
    ended = command("train", reviews, "--model", tiny, "--text", "review", "--label", "stars",
                    "--name", "lora", "adapter=lora", "r=4", *QUICK)  # fmt: skip
    assert ended.status == 0, ended.err
    told = command("export", "runs/lora", "merged")
    assert told.status == 0, told.err
    assert told.out.startswith("merged stands alone. Stock libraries answer from it as the model")
    again = command("export", "runs/lora", "merged", "--json")
    assert again.status == 2
    assert "merged: exists already." in again.json["error"]


def test_verify_needs_a_folder_that_was_saved(command, tmp_path):
    ended = command("verify", tmp_path)

    assert ended.status == 2
    assert "it holds no manifest.json" in ended.err


def test_cache_shows_what_is_kept_and_clears_it(command, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path))
    kept = RowCache.usual()
    ones = np.ones(3, np.int64)
    arrays = {"windows": ones} | {f"row_id {part}": ones for part in ("values", "lengths")}
    kept.put("0123456789abcdef", arrays, {"row_id": "int"}, {"task": "text-classification"})
    shown, listed = command("cache"), command("cache", "--json").json
    cleared, again = command("cache", "--clear", "--json").json, command("cache", "--clear")

    assert "0123456789ab" in shown.out
    assert f"{tmp_path}/encoded holds 0.0 MB of at most 10 GB." in shown.out
    assert (listed["entries"][0]["num_rows"], listed["num_cleared"]) == (3, 0)
    assert listed["num_bytes"] == listed["entries"][0]["num_bytes"] > 72
    assert (cleared["entries"], cleared["num_cleared"]) == ([], 1)
    assert again.out.startswith("Entries removed: 0.\n")


def test_init_writes_every_setting_with_its_meaning(command):
    ended = command("init", "recipe.toml")

    text = Path("recipe.toml").read_text()
    assert (
        ended.out == "Wrote recipe.toml. Set data.train in it, then: tunewright train recipe.toml\n"
    )
    assert "# peak step size of AdamW\nlearning_rate = 5e-05\n" in text
    assert tomllib.loads(text)["task"]["name"] == "text-classification"


def test_the_file_of_init_trains_as_it_is(command, reviews, tiny):
    command("init", "recipe.toml")
    ended = command("train", "recipe.toml", f"data.train={reviews}", f"model={tiny}", "--text",
                    "review", "--label", "stars", "--json", *QUICK)  # fmt: skip

    assert ended.status == 0, ended.err


def test_doctor_measures_the_machine(command):
    ended = command("doctor", "--json")

    assert ended.json["roof_tflops"] > 0
    assert ended.json["copy_gb_per_second"] > 0
    assert {"cores", "cpu_quota", "numa_nodes"} <= ended.json.keys()
    assert ended.json["extras"]["starter"] == "installed"
    assert ended.json["native_code"] == "compiled"
    assert ended.json["native_products"] in ("used", "none")
    assert ended.json["matrix_tiles"] in ("used", "none")


def test_doctor_says_how_to_stay_on_one_node_of_memory(command, monkeypatch):
    monkeypatch.setattr("tunewright.devices.find_cores", lambda: Cores(32, 16, 8.5, 2))
    found = command("doctor", "--json").json

    assert (found["cores"], found["cpu_quota"], found["numa_nodes"]) == (16, 8.5, 2)
    assert "numactl --cpunodebind=0 --membind=0" in command("doctor").out


def test_doctor_says_why_there_is_no_native_code(command, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_NATIVE", "0")

    assert command("doctor", "--json").json["native_code"] == "none: TUNEWRIGHT_NATIVE=0"


def test_version_is_printed(command):
    assert command("--version").out == "tunewright 0.1.0\n"


def test_plan_says_what_a_run_will_take_and_writes_nothing(command, reviews, tiny):
    words = ["plan", reviews, "--model", tiny, "--text", "review", "--label", "stars", *QUICK]
    ended, as_json = command(*words), command(*words, "--json")

    assert ended.status == 0, ended.err
    assert [line.split()[0] for line in ended.out.splitlines()] == [
        "rows", "model", "time", "memory", "disk", "It",
    ]  # fmt: skip
    assert as_json.json["fits"] is True
    assert as_json.json["total_steps"] == 6
    assert not Path("runs").exists()
