"""Runs in two processes, each a process of its own, as torchrun starts them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.training.processes import started
from tunewright.models.files.manifest import read_manifest
from tunewright.run.config import compose, to_toml
from tunewright.run.record import RunFolder
from tunewright.run.resuming.verify_resume import verify_resume
from tunewright.training.checkpoint import Checkpoints

CLOCKED = ("tokens_per_second", "mfu")


@pytest.fixture
def config(tiny_folder, tmp_path):
    rows = tmp_path / "rows.jsonl"
    with rows.open("w") as file:
        for number in range(80):
            label = ("good", "bad")[number % 2]
            text = f"a {label} film " + "and a book " * (number % 7)
            file.write(json.dumps({"text": text + str(number), "label": label}) + "\n")
    return compose(
        {
            "model": {"name": str(tiny_folder("bert"))},
            "data": {"train": str(rows)},
            "training": {
                "precision": "fp32",
                "batch_size": 5,
                "learning_rate": 2e-5,
                "dropout": 0.1,
                "logging_steps": 1,
                "save_steps": 4,
                "num_train_epochs": 1,
                "load_best_model_at_end": False,
                "track": [],
            },
            "evaluation": {"num_resamples": 10},
            "output": {"folder": str(tmp_path / "runs")},
        }
    )


@pytest.fixture
def run(config, tmp_path):
    """Returns a function (words, processes) -> what each process said, after their end."""
    toml = tmp_path / "run.toml"
    toml.write_text(to_toml(config))

    def call(size, *words, status=0):
        words = words or ("train", str(toml))
        processes = started(size, "-m", "tunewright", *words)
        said = [process.communicate(timeout=300) for process in processes]
        assert [process.returncode for process in processes] == [status] * size, said
        return said

    return call


def losses(folder):
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["event"] == "step"}


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_run_in_two_processes_is_that_of_one(run, tmp_path, parallel):
    words = ("load_best_model_at_end=true", "eval_steps=5")
    run(1, "train", str(tmp_path / "run.toml"), "--name", "one", *words)
    words = (*words, f"parallel={parallel}")
    said = run(2, "train", str(tmp_path / "run.toml"), "--name", "two", *words)
    one, two = (RunFolder(tmp_path / "runs" / name) for name in ("one", "two"))
    assert losses(two) == pytest.approx(losses(one), abs=1e-6)
    assert len(losses(two)) == 13
    figures = [
        json.loads((folder.evaluation / "metrics.json").read_text()) for folder in (one, two)
    ]
    assert figures[0]["num_rows"] == figures[1]["num_rows"] == 8
    for name, value in figures[0]["metrics"].items():
        assert figures[1]["metrics"][name]["value"] == pytest.approx(value["value"], abs=1e-5)
    rows = [
        [json.loads(line)["row"] for line in file.read_text().splitlines()]
        for file in (folder.evaluation / "predictions.jsonl" for folder in (one, two))
    ]
    assert rows[0] == rows[1] == list(range(8))
    assert "epoch 1.00: validation accuracy" in said[0][1]
    assert said[1] == ("", "")  # the one that does not lead is silent
    saved = Checkpoints(two.checkpoints).latest()
    assert sorted(path.name for path in saved.glob("model*")) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]


def test_a_run_goes_on_in_another_number_of_processes(run, tmp_path):
    toml = str(tmp_path / "run.toml")
    run(2, "train", toml, "--name", "whole")
    run(2, "train", toml, "--name", "moved", "max_steps=4")
    for size, steps in ((1, 8), (2, 13)):
        run(size, "resume", str(tmp_path / "runs" / "moved"), f"max_steps={steps}")
    whole, moved = (RunFolder(tmp_path / "runs" / name) for name in ("whole", "moved"))
    # Each part has a learning rate of its own length, so only the first part is the same.
    assert [losses(moved)[step] for step in range(1, 5)] == pytest.approx(
        [losses(whole)[step] for step in range(1, 5)], rel=0.01
    )
    history = json.loads((moved.path / "run.json").read_text())["resumed"]
    assert [entry["changed"][0].split(" was")[0] for entry in history] == ["processes"] * 2
    assert [entry["exact"] for entry in history] == [False, False]


def test_a_run_in_pieces_goes_on_whole_and_in_pieces_again(run, tmp_path):
    toml, runs = str(tmp_path / "run.toml"), tmp_path / "runs"
    words = ("eval_steps=3", "load_best_model_at_end=true", "ema_decay=0.9", "warmup_steps=0",
             "lr_scheduler_type=constant")  # fmt: skip
    run(1, "train", toml, "--name", "whole", *words)
    run(2, "train", toml, "--name", "moved", *words, "max_steps=5", "parallel=fsdp")
    run(1, "resume", str(runs / "moved"), "max_steps=9", "parallel=ddp")
    run(2, "resume", str(runs / "moved"), "max_steps=13", "parallel=fsdp")
    whole, moved = (RunFolder(runs / name) for name in ("whole", "moved"))
    assert losses(moved) == pytest.approx(losses(whole), abs=1e-6)
    tensors = [Checkpoints(folder.checkpoints).read(path).tensors for folder in (whole, moved)
               if (path := Checkpoints(folder.checkpoints).latest())]  # fmt: skip
    assert tensors[0].keys() == tensors[1].keys() >= {"model", "optimizer", "average", "best"}
    for file, named in tensors[0].items():
        for name, tensor in named.items():
            if "key.bias" not in name:  # no score depends on it, so its gradient is rounding
                assert torch.allclose(tensors[1][file][name], tensor, atol=1e-5), (file, name)
    history = json.loads((moved.path / "run.json").read_text())["resumed"]
    assert 'parallel was "fsdp" and is off' in history[0]["changed"]
    assert 'parallel was off and is "fsdp"' in history[1]["changed"]


@pytest.mark.parametrize("setting", ["adapter.name=adalora", "adapter.name=prompt"])
def test_what_cannot_be_trained_in_pieces_is_refused(run, tmp_path, setting):
    words = ("train", str(tmp_path / "run.toml"), "parallel=fsdp", setting)
    said = run(2, *words, status=2)
    assert said[0][1].strip().splitlines()[-1] == (
        f"tunewright: training.parallel=fsdp: the adapter is {setting.split('=')[1]}. It needs the "
        "whole of a weight at once. Use training.parallel=ddp, or the adapter lora on a model that "
        "is not quantised."
    )


def test_what_the_user_did_wrong_is_said_once(run, tmp_path):
    said = run(2, "train", str(tmp_path / "run.toml"), "learning_rate=0", status=2)
    assert said[0][1].startswith("tunewright: ")
    assert said[1] == ("", "")


SHORT_OF_MEMORY = """
import sys
from pathlib import Path
from tunewright.devices.processes import join_processes
from tunewright.run.preparing import streamed
from tunewright.run.config import compose, read_config
from tunewright.run.train import train
rank = join_processes().rank
streamed.free_bytes = lambda kind: [1, 1 << 40][rank]
toml = Path(sys.argv[1])
config = compose(read_config(toml), {"data": {"streaming": "auto"}}, where=str(toml))
run = train({"train": config.data.train}, config)
print(run.config.data.streaming)
"""


def test_one_process_decides_whether_rows_stay_on_the_disk(config, tmp_path):
    toml = tmp_path / "run.toml"
    toml.write_text(to_toml(config))
    processes = started(2, "-c", SHORT_OF_MEMORY, str(toml))
    said = [process.communicate(timeout=300) for process in processes]
    assert [out.strip() for out, _ in said] == ["on", "on"], said


def test_a_signal_to_one_stops_and_saves_all(config, tmp_path):
    long = config.model_copy(
        update={"training": config.training.model_copy(update={"num_train_epochs": 500.0})}
    )
    (tmp_path / "long.toml").write_text(to_toml(long))
    processes = started(2, "-m", "tunewright", "train", str(tmp_path / "long.toml"))
    checkpoints = tmp_path / "runs" / "rows" / "checkpoints"
    wait_for(lambda: any(checkpoints.glob("step-*")))
    processes[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [143, 143], said
    assert "SIGTERM came, and the run stopped after update" in said[0][1]
    step = int(said[0][1].split("after update ")[1].split(",")[0])
    assert Checkpoints(checkpoints).latest().name == f"step-{step:06d}"


def wait_for(what, seconds=300):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_runs_that_are_killed_end_the_same(config, parallel):
    training = config.training.model_copy(update={"parallel": parallel})
    config = config.model_copy(update={"training": training})
    verdict = verify_resume(config, num_kills=4, seed=3, num_processes=2)
    assert verdict.is_equal
    assert len(verdict.kills) == 4
    assert max(verdict.repeated) <= verdict.save_steps


@pytest.mark.slow
def test_lost_processes_are_started_again_and_go_on(run, config, tmp_path):
    toml, runs = str(tmp_path / "run.toml"), tmp_path / "runs"
    words = ("num_train_epochs=12", "save_steps=10")
    run(2, "train", toml, "--name", "undisturbed", *words)
    launched = subprocess.Popen(
        [sys.executable, "-m", "tunewright", "launch", "--nproc", "2", "--max-restarts", "1",
         "train", toml, "--name", "lost", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: any((runs / "lost" / "checkpoints").glob("step-*")))
    os.kill(workers_of(launched.pid)[1], signal.SIGKILL)
    _, said = launched.communicate(timeout=300)
    assert launched.returncode == 0, said
    manifests = [read_manifest(runs / name / "model") for name in ("undisturbed", "lost")]
    assert manifests[0] == manifests[1]
    (entry,) = json.loads((runs / "lost" / "run.json").read_text())["resumed"]
    assert entry["exact"]
    assert entry["after_step"] >= 10


def workers_of(launcher):
    """Returns the processes that torchrun started, which the launcher started, by their rank."""

    def children(pid):
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    (torchrun,) = children(launcher)
    ranks = {}
    for pid in children(torchrun):
        variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
        ranks |= {int(v.split("=")[1]): pid for v in variables if v.startswith("RANK=")}
    return ranks
