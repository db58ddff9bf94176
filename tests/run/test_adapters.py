"""Runs with an adapter: what is written, read again by peft, resumed and refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import tunewright as tw
from tests.tiny import tiny_model
from tunewright.errors import ModelError, ParityRefused, SettingsError
from tunewright.models.adapting.adapter_config import ADAPTERS, LEARNING_RATES
from tunewright.models.adapting.adapters import adapters_of
from tunewright.run import export as export_module
from tunewright.run.config import compose
from tunewright.run.judging.parity import task_outputs
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


@pytest.mark.parametrize("adapter", ["lora", "prompt", "bottleneck"])
def test_an_adapter_that_claims_the_earth_is_refused_before_memory_is_taken(train, adapter):
    folder = train(adapter, max_steps=2).folder.model
    (folder / "manifest.json").unlink()
    file = folder / f"{'bottleneck' if adapter == 'bottleneck' else 'adapter'}_config.json"
    sizes = {"lora": "r", "prompt": "num_virtual_tokens", "bottleneck": "bottleneck_size"}
    values = json.loads(file.read_text(encoding="utf-8")) | {sizes[adapter]: 10**12}
    file.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ModelError, match=f"its adapter's {sizes[adapter]} is 1000000000000"):
        tw.load(folder)


def test_an_adapter_of_a_kind_that_is_unknown_is_named(train):
    folder = train("lora", max_steps=2).folder.model
    (folder / "manifest.json").unlink()
    file = folder / "adapter_config.json"
    values = json.loads(file.read_text(encoding="utf-8")) | {"peft_type": "VERA"}
    file.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        tw.load(folder)
    assert str(caught.value) == (
        f'{file}: its adapter is a VERA. "LORA", "ADALORA", "IA3", "PREFIX_TUNING", '
        '"PROMPT_TUNING", "P_TUNING" can be read. Merge it with peft, and name the saved folder.'
    )


@pytest.mark.parametrize("change", [{"r": 3}, {"target_modules": ["nothing"]}])
def test_an_adapter_whose_weights_do_not_fit_is_refused(train, change):
    folder = train("lora", max_steps=2).folder.model
    (folder / "manifest.json").unlink()
    file = folder / "adapter_config.json"
    values = json.loads(file.read_text(encoding="utf-8")) | change
    file.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ModelError, match="its adapter does not fit the model"):
        tw.load(folder)


@pytest.mark.parametrize("adapter", ["lora", "adalora"])
def test_the_moving_average_is_that_of_what_learns(train, tmp_path, adapter):
    def cut(event):
        if isinstance(event, Step) and event.step == 11:
            raise Cut

    whole = train(adapter, "whole", ema_decay=0.9)
    (newest, *_) = sorted((whole.path / "checkpoints").iterdir(), reverse=True)
    sizes = [(newest / f"{name}.safetensors").stat().st_size for name in ("average", "optimizer")]
    assert sizes[0] < sizes[1]
    with pytest.raises(Cut):
        train(adapter, "cut", cut, ema_decay=0.9)
    assert weights(tw.resume(tmp_path / "runs" / "cut", (TEXTS, LABELS))) == weights(whole)


def test_a_damaged_adapter_is_refused(train):
    run = train("lora", max_steps=2)
    file = run.folder.model / "adapter_model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-8] ^= 1
    file.write_bytes(raw)
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors: is damaged"):
        tw.load(run.path)


@pytest.mark.parametrize("adapter", [name for name in ADAPTERS if name != "prefix"])
def test_recomputed_activations_give_the_same_adapter(train, adapter):
    kept, anew = (
        train(adapter, str(recompute), max_steps=3, gradient_checkpointing=recompute, dropout=0.0)
        for recompute in (False, True)
    )
    first, second = (figures(tw.load(run.path, "fp32").predict(ASKED)) for run in (kept, anew))
    torch.testing.assert_close(second, first, atol=1e-4, rtol=1e-4)


def test_a_prefix_and_recomputed_activations_do_not_go_together(train):
    with pytest.raises(SettingsError) as caught:
        train("prefix", gradient_checkpointing=True)
    assert str(caught.value) == (
        "training.gradient_checkpointing: it is on, and the adapter is a prefix. Layers that are "
        'computed anew would see a prefix twice. Leave it off, or use adapter "prompt" or "lora".'
    )


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


def figures(answers):
    return torch.tensor([answer.logits for answer in answers])


@pytest.mark.parametrize("adapter", ["lora", "dora", "adalora", "ia3"])
def test_an_exported_folder_stands_alone_and_answers_the_same(train, tmp_path, adapter):
    run = train(adapter)
    expected = figures(tw.load(run.path, "fp32").predict(ASKED))
    parity = tw.export(run.path, tmp_path / "merged")
    assert parity.largest_difference <= parity.tolerance
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    tokens = AutoTokenizer.from_pretrained(tmp_path / "merged")(
        ASKED, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        torch.testing.assert_close(stock(**tokens).logits, expected, atol=1e-4, rtol=0)
    again = figures(tw.load(tmp_path / "merged", "fp32").predict(ASKED))
    torch.testing.assert_close(again, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("adapter", "what"), [("prompt", "tokens"), ("prefix", "tokens"), ("bottleneck", "layers")]
)
def test_what_cannot_be_merged_says_so(train, tmp_path, adapter, what):
    run = train(adapter, max_steps=2)
    with pytest.raises(SettingsError) as caught:
        tw.export(run.path, tmp_path / "merged")
    assert str(caught.value) == (
        f'adapter {adapter}: it cannot be merged. "adalora", "dora", "ia3", "lora" change '
        f"weights; it adds {what}. Use the adapter's folder as it is."
    )
    assert not (tmp_path / "merged").exists()


def test_a_model_without_an_adapter_is_not_exported(train, tmp_path):
    run = train(None, max_steps=2)
    with pytest.raises(SettingsError) as caught:
        tw.export(run.path, tmp_path / "merged")
    assert str(caught.value) == (
        f"{run.folder.model}: it holds no adapter. Its folder stands alone already. Use it as it "
        "is."
    )


def test_a_merged_folder_that_answers_otherwise_is_refused_and_removed(
    train, tmp_path, monkeypatch
):
    run = train("lora", max_steps=2)
    probe = export_module._probe

    def other(task, model):
        found = probe(task, model)
        with torch.no_grad():  # as if merging had lost something
            next(p for n, p in model.named_parameters() if "query.base_layer.bias" in n).add_(1)
        monkeypatch.setattr(export_module, "task_outputs", lambda *_: before)
        return found

    task = run.task
    loaded = tw.load(run.path, "fp32").predictor
    before = task_outputs(task, loaded.model, probe(task, loaded.model))
    monkeypatch.setattr(export_module, "_probe", other)
    with pytest.raises(ParityRefused, match="its outputs differ from the model with its adapter"):
        tw.export(run.path, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_several_adapters_share_one_model_and_answer_as_each_alone(train, tiny_folder):
    runs = {name: train(name, name, max_steps=4) for name in ("lora", "prompt", "bottleneck")}
    alone = {name: figures(tw.load(run.path, "fp32").predict(ASKED)) for name, run in runs.items()}
    together = tw.load_adapters({name: run.path for name, run in runs.items()}, "fp32")
    for name in (*runs, *reversed(runs)):  # asking one changes nothing for the others
        assert torch.equal(figures(together[name].predict(ASKED)), alone[name])
    models = [each.predictor.model for each in together.values()]
    words = {model.bert.embeddings.word_embeddings.weight.data_ptr() for model in models}
    assert len(words) == 1
    sizes = {p.data_ptr(): p.numel() for model in models for p in model.parameters()}
    whole = sum(p.numel() for p in models[0].parameters())
    adapters = sum(p.numel() for m in models for p in adapters_of(m).parameters)
    assert sum(sizes.values()) < 1.2 * whole + adapters


def test_adapters_of_unlike_models_do_not_share(train, tiny_folder, tmp_path):
    first = train("lora", "first", max_steps=2)
    second = train("lora", "second", max_steps=2, model=tiny_folder("distilbert"))
    with pytest.raises(SettingsError) as caught:
        tw.load_adapters({"a": first.path, "b": second.path})
    assert str(caught.value) == (
        'adapter "b": it stands on another model than "a". Adapters that share a model have to be '
        "trained on the same weights. Load it by itself."
    )


def test_a_model_of_its_own_is_no_adapter_to_share(train):
    run = train(None, max_steps=2)
    with pytest.raises(SettingsError, match=r"holds no adapter\. It is a model of its own\."):
        tw.load_adapters({"a": run.path})


@pytest.fixture(scope="session")
def wide(tmp_path_factory):
    """A tiny model whose rows have as many numbers as a block of 4 bits."""
    sizes = {"hidden_size": 64, "intermediate_size": 128}
    return tiny_model("bert", tmp_path_factory.mktemp("wide") / "bert", settings=sizes)


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
@pytest.mark.parametrize("adapter", ["lora", "bottleneck"])
def test_a_run_on_weights_in_fewer_bits_is_read_again_and_resumed(
    train, wide, tmp_path, adapter, bits
):
    def cut(event):
        if isinstance(event, Step) and event.step == 11:
            raise Cut

    whole = train(adapter, "whole", quantize=bits, eval_steps=5, model=wide)
    about = json.loads((whole.path / "run.json").read_text(encoding="utf-8"))
    assert about["parity"]["against"] == "its folder, read again"
    with pytest.raises(Cut):
        train(adapter, "cut", cut, quantize=bits, eval_steps=5, model=wide)
    resumed = tw.resume(tmp_path / "runs" / "cut", (TEXTS, LABELS))
    assert weights(resumed) == weights(whole)
    base = json.loads((whole.folder.model / "base.json").read_text(encoding="utf-8"))
    assert base["quantize"] == bits
    card = (whole.folder.model / "README.md").read_text(encoding="utf-8")
    assert (f"weights in {bits}" in card) == (adapter == "lora")


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
@pytest.mark.parametrize("adapter", ["lora", "dora", "ia3"])
def test_an_adapter_on_fewer_bits_is_exported_to_what_it_answered(
    train, wide, tmp_path, adapter, bits
):
    run = train(adapter, quantize=bits, model=wide)
    expected = figures(tw.load(run.path, "fp32").predict(ASKED))
    tw.export(run.path, tmp_path / "merged")
    again = figures(tw.load(tmp_path / "merged", "fp32").predict(ASKED))
    torch.testing.assert_close(again, expected, atol=1e-4, rtol=0)
