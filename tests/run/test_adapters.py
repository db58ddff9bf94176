"""Runs with an adapter: what is written, read again by peft, resumed and refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import tunewright as tw
from tunewright.errors import ModelError, SettingsError
from tunewright.models.adapter_config import ADAPTERS, LEARNING_RATES
from tunewright.run.config import compose
from tunewright.training.events import Step

TEXTS = [
    f"{text} {number}"
    for number in range(10)
    for text in ("a good film", "an awful film", "the best plot", "the worst plot")
]
LABELS = ["good", "bad"] * 20
ASKED = ["a good film", "the worst plot of the old book", "电影很好"]
QUICK = {
    "precision": "fp32",
    "max_steps": 14,
    "warmup_steps": 0,
    "num_resamples": 10,
    "batch_size": 6,
    "save_steps": 4,
    "track": (),
    "num_virtual_tokens": 4,
    "load_best_model_at_end": False,
}


class Cut(Exception):
    """Stands for a power cut."""


@pytest.fixture
def train(tiny_folder, tmp_path):
    def call(adapter, name="run", tell=lambda _: None, **named):
        named = {"model": tiny_folder("bert"), "folder": str(tmp_path / "runs")} | QUICK | named
        return tw.train((TEXTS, LABELS), adapter=adapter, name=name, tell=tell, **named)

    return call


def notices(run):
    return json.loads((run.path / "run.json").read_text(encoding="utf-8"))["notices"]


def weights(run):
    (file,) = run.folder.model.glob("*_model.safetensors")
    return file.read_bytes()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's
@pytest.mark.parametrize("adapter", [name for name in ADAPTERS if name != "bottleneck"])
def test_stock_peft_gives_the_same_logits(train, tiny_folder, adapter):
    folder = train(adapter, max_steps=3).folder.model
    base = AutoModelForSequenceClassification.from_pretrained(
        tiny_folder("bert"), config=AutoConfig.from_pretrained(folder)
    )
    stock = PeftModel.from_pretrained(base, folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        expected = stock(**tokenizer(ASKED, padding=True, return_tensors="pt")).logits
    found = torch.tensor([answer.logits for answer in tw.load(folder, "fp32").predict(ASKED)])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_run_that_was_cut_off_ends_with_the_same_bits(train, tmp_path, adapter):
    def cut(event):
        if isinstance(event, Step) and event.step == 11:
            raise Cut

    whole = train(adapter, "whole", lora_dropout=0.1)
    with pytest.raises(Cut):
        train(adapter, "cut", cut, lora_dropout=0.1)
    resumed = tw.resume(tmp_path / "runs" / "cut", (TEXTS, LABELS))
    assert weights(resumed) == weights(whole)
    assert resumed.metrics == whole.metrics


def test_a_checkpoint_holds_what_learns_and_no_more(train, tiny_folder):
    run = train("lora")
    (newest, *_) = sorted((run.path / "checkpoints").iterdir(), reverse=True)
    saved = (newest / "model.safetensors").stat().st_size
    assert saved < (tiny_folder("bert") / "model.safetensors").stat().st_size / 2


def test_the_folder_holds_the_adapter_and_not_the_model(train):
    run = train("lora", max_steps=3)
    names = {path.name for path in run.folder.model.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "base.json", "task.json"} <= names
    assert "model.safetensors" not in names
    card = (run.folder.model / "README.md").read_text(encoding="utf-8")
    assert "library_name: peft" in card
    assert "PeftModel.from_pretrained(base, folder)" in card


def test_the_card_of_a_bottleneck_names_no_other_library(train):
    run = train("bottleneck", max_steps=3)
    card = (run.folder.model / "README.md").read_text(encoding="utf-8")
    assert "library_name: tunewright" in card
    assert "No other library knows this adapter." in card
    assert "loads in stock" not in card


def test_it_is_said_how_much_learns(train):
    (told,) = [text for text in notices(train("lora", max_steps=2)) if "learn" in text]
    assert told == (
        "The adapter lora and the head learn, 7,778 numbers; the model has 26,434, and they stay "
        "as they are."
    )


def test_answers_after_loading_are_those_that_were_judged(train):
    run = train("adalora")
    lines = (run.path / "evaluation" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    judged = [json.loads(line) for line in lines]
    assert len(judged) > 3
    again = tw.load(run.path, "fp32").predict([line["text"] for line in judged])
    for answer, line in zip(again, judged, strict=True):
        assert answer.logits == pytest.approx(line["logits"], abs=1e-4)


def test_adalora_gives_ranks_away(train):
    config = json.loads(
        (train("adalora", r=4).folder.model / "adapter_config.json").read_text(encoding="utf-8")
    )
    kept = [sum(ranks) for ranks in config["rank_pattern"].values()]
    assert len(kept) == 12
    assert 0 < sum(kept) / len(kept) <= 4 < config["init_r"] == 6


def test_lower_layers_that_are_frozen_get_no_adapter(train):
    run = train("lora", max_steps=2, freeze_layers=1)
    config = json.loads((run.folder.model / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["target_modules"]
    assert all("layer.0" not in name for name in config["target_modules"])


def test_a_base_that_changed_is_refused(train, tiny_folder, tmp_path):
    base = shutil.copytree(tiny_folder("bert"), tmp_path / "base")
    run = train("lora", max_steps=2, model=base)
    raw = bytearray((base / "model.safetensors").read_bytes())
    raw[-4] ^= 1
    (base / "model.safetensors").write_bytes(raw)
    with pytest.raises(ModelError) as caught:
        tw.load(run.path)
    assert str(caught.value) == (
        f"{run.folder.model}: its adapter was trained on other weights than "
        f"{base.resolve()}/model.safetensors. An adapter answers only with the model that it was "
        "trained on. Put the model back that it was, or train again."
    )


def test_a_base_that_is_gone_is_named(train, tiny_folder, tmp_path):
    base = shutil.copytree(tiny_folder("bert"), tmp_path / "base")
    run = train("bottleneck", max_steps=2, model=base)
    shutil.rmtree(base)
    with pytest.raises(ModelError) as caught:
        tw.load(run.path)
    assert str(caught.value) == (
        f'{run.folder.model}: it holds an adapter of the model "{base}", which cannot be found. '
        f"It was at {base.resolve()}. Put it there, or write its folder into base.json."
    )


def test_a_damaged_adapter_is_refused(train):
    run = train("lora", max_steps=2)
    file = run.folder.model / "adapter_model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-8] ^= 1
    file.write_bytes(raw)
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors: is damaged"):
        tw.load(run.path)


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_has_a_learning_rate_of_its_own(name):
    chosen = compose({"adapter": {"name": name}})
    assert chosen.training.learning_rate == LEARNING_RATES[name] > 5e-5
    given = compose({"adapter": {"name": name}, "training": {"learning_rate": 5e-5}})
    assert given.training.learning_rate == 5e-5


def test_an_unknown_adapter_is_named_with_those_that_are_known():
    with pytest.raises(SettingsError) as caught:
        compose({"adapter": {"name": "lorra"}})
    assert str(caught.value) == (
        "settings: adapter.name is \"lorra\". Input should be 'lora', 'dora', 'adalora', 'ia3', "
        "'prefix', 'prompt', 'p-tuning' or 'bottleneck'."
    )


def test_training_goes_on_from_an_adapter_that_was_merged(train):
    first = train("lora", "first", max_steps=4)
    second = train(None, "second", max_steps=2, model=first.folder.model)
    assert any("was merged into its model" in text for text in notices(second))
    assert (second.folder.model / "model.safetensors").is_file()


def test_a_new_adapter_on_an_adapter_is_refused(train):
    first = train("lora", "first", max_steps=2)
    with pytest.raises(SettingsError) as caught:
        train("ia3", "second", model=first.folder.model)
    assert str(caught.value) == (
        f"model.name: {first.folder.model} holds an adapter, lora. A new adapter, or several "
        "heads, need a model that is whole. Merge the adapter into its model first, and name the "
        "merged folder."
    )
