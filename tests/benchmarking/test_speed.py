"""The peers of the speed benchmarks are what their names say, in every round."""

from __future__ import annotations

import gzip
import json

import pytest
import torch
from benchmarks import speed, task_speed
from benchmarks.sides import Measured, in_turn
from torch import nn
from transformers import AutoModelForSequenceClassification, BertConfig

from tunewright.devices import Device

# Of transformers, accelerate and torch.compile, about one another.
pytestmark = pytest.mark.filterwarnings("ignore")
TINY = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48,
}  # fmt: skip


def cpu(precision):
    return Device("cpu", "cpu", precision, 1, "a CPU")


def test_peers_that_compile_are_told_the_same_as_those_that_do_not():
    narrow, wide = (speed.peers_of(cpu(precision), compiled=True) for precision in ("bf16", "fp32"))
    assert list(narrow) == [
        "Trainer, fp32", "Trainer, as installed", "Trainer, bf16", "Trainer, grouped, bf16",
        "Trainer, bf16, compiled", "Trainer, grouped, bf16, compiled",
    ]  # fmt: skip
    assert list(wide) == [
        "Trainer, fp32", "Trainer, as installed", "Trainer, grouped",
        "Trainer, fp32, compiled", "Trainer, grouped, compiled",
    ]  # fmt: skip
    for peers in (narrow, wide):
        for name, settings in peers.items():
            assert settings == peers[name.removesuffix(speed.COMPILED)]
    assert list(speed.peers_of(cpu("bf16"), compiled=False)) == list(narrow)[:4]


@pytest.mark.slow
def test_a_peer_that_compiles_runs_compiled_in_every_round_and_compiles_in_the_first(
    tmp_path, monkeypatch
):
    compiled, ran = [], []

    def backend(graph, _):
        compiled.append(len(ran))

        def run(*inputs):
            ran.append(torch.is_autocast_enabled("cpu"))
            return graph.forward(*inputs)

        return run

    stock = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **how: stock(self, **how, backend=backend)
    )
    folder = tmp_path / "classification" / "words"
    folder.mkdir(parents=True)
    with gzip.open(folder / "train.jsonl.gz", "wt") as file:
        for number in range(16):
            text = "a fine film " * (1 + number % 5)
            file.write(json.dumps({"text": text, "label": number % 2}) + "\n")
    monkeypatch.setenv("TUNEWRIGHT_BENCHMARK_DATA", str(tmp_path))
    case = speed.Case("tiny", TINY, "words", 32, 4, 4)
    place = tmp_path / "model"
    place.mkdir()
    side = speed.Bench(case, cpu("bf16"), place, "starter", None).side("Trainer, bf16, compiled")
    rounds = []
    for _ in range(3):
        before = len(ran)
        side()
        rounds.append(len(ran) - before)
    assert rounds[0] == rounds[1] == rounds[2] > 0
    assert max(compiled) < rounds[0]
    torch._dynamo.reset()


def test_a_peer_as_it_comes_stays_in_fp32_when_another_has_run_in_bf16(tmp_path, monkeypatch):
    """Accelerate leaves a model that was trained in bf16 with a forward that is bf16 for good."""
    seen = []

    def peer(_case, rows):
        config = BertConfig(vocab_size=50, num_labels=2, **TINY)
        model = AutoModelForSequenceClassification.from_config(config)
        model.classifier.register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
        return task_speed.library_trainer(model, rows, collate)

    def collate(items):
        return {name: torch.tensor([item[name] for item in items]) for name in items[0]}

    rows = [{"input_ids": [3, 4, 5 + n], "labels": n % 2} for n in range(10)]
    case = task_speed.Case("tiny", "text-classification", lambda _: rows, peer, 8, 2)
    sides = task_speed.peer_sides(case, rows, tmp_path, cpu("bf16"))
    dtypes = {}
    for name in (task_speed.FAST, task_speed.USUAL, task_speed.FAST):
        seen.clear()
        assert sides[name]().num_tokens == 3 * 2 * 2  # of the updates that count
        dtypes[name] = set(seen)
    assert dtypes == {task_speed.USUAL: {torch.float32}, task_speed.FAST: {torch.bfloat16}}


def test_trainings_of_the_parts_of_a_case_count_together(tmp_path):
    trained = []

    def training(name, num_updates):
        class Trained:
            def __init__(self, settings, callbacks):
                (self.watch,) = callbacks

            def train(self):
                trained.append(name)
                self.watch.ends = [10.0 * number for number in range(num_updates)]

        return Trained, 60

    def peer(_case, _rows):
        return [training("one", 4), training("other", 6)]

    case = task_speed.Case("tiny", "multi-task", list, peer)
    found = task_speed.peer_sides(case, [], tmp_path, cpu("fp32"))[task_speed.USUAL]()
    assert trained == ["one", "other"]
    assert (found.num_tokens, found.seconds) == (60 // 4 + 60 * 3 // 6, 10.0 + 30.0)


def test_rows_of_several_tasks_take_turns_by_updates(monkeypatch, tmp_path):
    def part(name, num_rows):
        rows = [{"text": f"{name} {number}"} for number in range(num_rows)]
        return task_speed.Case(name, "regression", lambda _: rows, task_speed.sequences, 8, 2)

    monkeypatch.setattr(task_speed, "PARTS", (part("a", 5), part("b", 9)))
    rows = task_speed._together(tmp_path)
    assert [row["task"] for row in rows] == ["a", "a", "b", "b"] * 2
    assert len({row["text"] for row in rows}) == 8


def test_the_first_round_does_not_count_and_sides_take_turns():
    order = []

    def side(name):
        def run():
            order.append(name)
            return Measured(len(order), 1.0, 0.0)

        return run

    found = in_turn({"ours": side("ours"), "peer": side("peer")}, rounds=2)
    assert order == ["peer", "ours", "ours", "peer", "peer", "ours"]
    assert {name: [run.num_tokens for run in runs] for name, runs in found.items()} == {
        "ours": [3, 6], "peer": [4, 5],
    }  # fmt: skip
