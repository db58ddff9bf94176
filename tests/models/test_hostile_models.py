"""Model folders that are broken, lie, or mean harm: each is refused, or made harmless, in words."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import TinyFolder
from tests.tiny import QWEN_PATTERN, tiny_labels
from tunewright.errors import ModelError
from tunewright.models.files.architecture import SEQUENCE_CLASSIFIER
from tunewright.models.files.folder import check_model_folder
from tunewright.models.files.loading import load_classifier
from tunewright.models.files.weights import read_header
from tunewright.models.text.tokenizer_files import backtracks
from tunewright.models.text.tokenizers import load_tokenizer

AGAIN = "Download or copy the file again."
BELONGS = "Use the config.json that belongs to the weights."
BOTH = f"Both must be of the same model. {BELONGS}"


@pytest.fixture
def folder(tiny_folder: TinyFolder, tmp_path: Path) -> Path:
    """A sound BERT classifier with three labels, free to be spoilt."""
    return Path(shutil.copytree(tiny_folder("bert", 3), tmp_path / "bert"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        check_model_folder(folder, SEQUENCE_CLASSIFIER)
    return str(caught.value)


def load_refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_classifier(folder, tiny_labels(3))
    return str(caught.value)


# Weights that are missing or pickled


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert refusal(folder) == (
        f"{folder}: holds no weights. A model folder holds model.safetensors. "
        "Add model.safetensors, or name another folder."
    )


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "tf_model.h5"])
def test_pickled_weights_are_not_read(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    assert refusal(folder) == (
        f'{folder}: holds its weights as "{name}" only. Such files can run code when they are '
        "read, so only safetensors are. Convert them once, where running them can do no harm: "
        "load the folder with transformers and call save_pretrained(NEW_FOLDER), which writes "
        "safetensors."
    )


def test_an_adapter_is_no_model(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    assert refusal(folder) == (
        f"{folder}: holds an adapter (adapter_model.safetensors) without the model it belongs to. "
        "A model folder holds model.safetensors. Merge the adapter into its model with peft's "
        "merge_and_unload(), save that, and name the saved folder."
    )


def shard(folder: Path, weight_map: dict[str, str]) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_a_missing_shard_is_named(folder: Path) -> None:
    shard(folder, {"a": "model-00001-of-00002.safetensors"})
    assert refusal(folder) == (
        f'{folder}: the shard "model-00001-of-00002.safetensors" is missing. '
        "model.safetensors.index.json names it. Download or copy it too."
    )


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/tmp/model.safetensors", "a\\b.safetensors", "x.bin"]
)
def test_shards_stay_in_their_folder(folder: Path, name: str) -> None:
    shard(folder, {"a": name})
    assert refusal(folder) == (
        f'{folder}/model.safetensors.index.json: names the file "{name}". '
        "Shards are .safetensors files in the same folder. "
        "Do not use this folder: such a name reaches for other files."
    )


def test_an_index_that_names_tensors_its_shards_lack(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors, folder / "one.safetensors")
    shard(folder, dict.fromkeys(tensors, "one.safetensors") | {"ghost": "one.safetensors"})
    assert refusal(folder) == (
        f"{folder}/model.safetensors.index.json: names tensors that their shards do not hold: "
        '"ghost". Index and shards belong together. Download or copy the whole folder again.'
    )


# Headers that lie


def header_refusal(
    tmp_path: Path, header: object, data: bytes = b"", size: int | None = None
) -> str:
    """Writes a safetensors file and returns why it is refused, without the file's name."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw) if size is None else size) + raw + data)
    with pytest.raises(ModelError) as caught:
        read_header(path)
    return str(caught.value).removeprefix(f"{path}: ")


def entry(begin: int, end: int, *shape: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}


def test_a_huge_header(tmp_path: Path) -> None:
    assert header_refusal(tmp_path, b"{}", size=2**60) == (
        "its header claims 1,152,921,504,606,846,976 bytes. "
        f"Headers have at most 100,000,000. {AGAIN}"
    )


def test_a_header_longer_than_its_file(tmp_path: Path) -> None:
    assert header_refusal(tmp_path, b"{}", size=1000) == (
        "its header claims 1,000 bytes, and the file has 10. "
        f"The file is cut short or is something else. {AGAIN}"
    )


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.touch()
    with pytest.raises(ModelError) as caught:
        read_header(path)
    assert str(caught.value) == f"{path}: is 0 bytes long. A header alone is longer. {AGAIN}"


@pytest.mark.parametrize("header", [b"nonsense", b"[" * 100_000, b"\xff\xfe", b"9" * 5000])
def test_a_header_that_is_not_json(tmp_path: Path, header: bytes) -> None:
    assert header_refusal(tmp_path, header) == (
        f"its header is not JSON. It is not a safetensors file. {AGAIN}"
    )


def test_a_header_that_is_a_list(tmp_path: Path) -> None:
    assert header_refusal(tmp_path, []) == (
        f"its header is not a JSON object. It is not a safetensors file. {AGAIN}"
    )


def test_a_tensor_named_twice(tmp_path: Path) -> None:
    one = json.dumps(entry(0, 4, 1))
    assert header_refusal(tmp_path, f'{{"a": {one}, "a": {one}}}'.encode(), bytes(4)) == (
        f'its header names "a" twice. Every name stands once. {AGAIN}'
    )


def test_tensors_that_overlap(tmp_path: Path) -> None:
    header = {"a": entry(0, 8, 2), "b": entry(4, 12, 2)}
    assert header_refusal(tmp_path, header, bytes(12)) == (
        f'the tensor "b" overlaps "a". Tensors lie one after another. {AGAIN}'
    )


def test_a_hole_between_tensors(tmp_path: Path) -> None:
    header = {"a": entry(0, 4, 1), "b": entry(8, 12, 1)}
    assert header_refusal(tmp_path, header, bytes(12)) == (
        f'the tensor "b" leaves a hole after "a". Tensors lie one after another. {AGAIN}'
    )


@pytest.mark.parametrize("size", [0, 7, 9])
def test_bytes_that_are_missing_or_too_many(tmp_path: Path, size: int) -> None:
    assert header_refusal(tmp_path, {"a": entry(0, 8, 2)}, bytes(size)) == (
        f"its tensors take 8 bytes, and the file has {size} for them. "
        f"The file is cut short or has something appended. {AGAIN}"
    )


def test_a_shape_that_its_bytes_do_not_have(tmp_path: Path) -> None:
    assert header_refusal(tmp_path, {"a": entry(0, 8, 10**6, 10**6)}, bytes(8)) == (
        'the tensor "a" is F32 [1000000, 1000000] and spans 8 bytes. '
        f"That shape takes 4,000,000,000,000. {AGAIN}"
    )


@pytest.mark.parametrize(
    "spoilt",
    [
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2**70], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1] * 65, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0]},
        {"dtype": "F32", "shape": [1]},
    ],
)
def test_shapes_and_offsets_that_are_no_counts(tmp_path: Path, spoilt: object) -> None:
    assert header_refusal(tmp_path, {"a": spoilt}, bytes(4)) == (
        f'the tensor "a" has no usable shape and offsets. Both are lists of whole numbers from 0. '
        f"{AGAIN}"
    )


def test_an_unknown_dtype(tmp_path: Path) -> None:
    spoilt = {"dtype": "Q4", "shape": [1], "data_offsets": [0, 4]}
    assert header_refusal(tmp_path, {"a": spoilt}, bytes(4)) == (
        "the tensor \"a\" has the dtype 'Q4'. Known dtypes are BOOL, U8, I8, I16, U16, I32, U32, "
        "I64, U64, F16, BF16, F32, F64. Use the unquantised weights."
    )


# Values and names of weights


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number(folder: Path, value: float) -> None:
    edit_tensors(folder, lambda tensors: tensors["classifier.weight"].view(-1)[5:7].fill_(value))
    assert load_refusal(folder) == (
        f'{folder}/model.safetensors: the tensor "classifier.weight" holds NaN or infinity in 2 of '
        "96 places. Such a model answers NaN to everything. "
        "Use an earlier checkpoint, or download the file again."
    )


def test_a_backbone_weight_that_is_missing(folder: Path) -> None:
    name = "bert.encoder.layer.1.output.dense.weight"
    edit_tensors(folder, lambda tensors: tensors.pop(name))
    assert load_refusal(folder) == (
        f'{folder}: its weights lack "{name}"; they hold '
        '"bert.embeddings.LayerNorm.bias", "bert.embeddings.LayerNorm.weight", '
        '"bert.embeddings.position_embeddings.weight" and 35 more. '
        "Only the head may be missing. Use the weights that belong to config.json."
    )


# Configurations


def test_a_folder_without_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert refusal(folder) == (
        f"{folder}: holds no config.json. It says what the model is. Copy it here too."
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "is not JSON (Expecting property name enclosed in double quotes: "
         "line 1 column 2 (char 1))"),
        ("[" * 100_000, "is not JSON (is nested too deeply)"),
        ("[]", "holds a list"),
        ("null", "holds a NoneType"),
    ],
)  # fmt: skip
def test_a_config_that_is_no_json_object(folder: Path, text: str, found: str) -> None:
    (folder / "config.json").write_text(text)
    assert refusal(folder) == f"{folder}/config.json: {found}. It holds one JSON object. {AGAIN}"


def test_a_config_without_model_type(folder: Path) -> None:
    edit(folder / "config.json", model_type=None)
    assert refusal(folder) == (
        f'{folder}/config.json: has no "model_type". It names the architecture, such as "bert". '
        "Add it, or use a folder that transformers saved."
    )


def test_an_unknown_model_type_names_the_nearest(folder: Path) -> None:
    edit(folder / "config.json", model_type="robertta")
    assert refusal(folder) == (
        f'{folder}/config.json: has the model_type "robertta", which transformers does not know. '
        'Did you mean "roberta"? Correct it, or install a newer transformers.'
    )


def test_a_model_that_cannot_classify_text(folder: Path) -> None:
    edit(folder / "config.json", model_type="clip")
    assert refusal(folder) == (
        f'{folder}/config.json: transformers has no text classifier for the model_type "clip". '
        "Encoders such as bert, roberta and modernbert and decoders such as qwen3 have one. "
        "Name another model."
    )


REACHING = {
    "auto_map": {"AutoModel": "evil.Model"},
    "trust_remote_code": True,
    "_attn_implementation_internal": "evil/kernel",
    "_attn_implementation": "evil/kernel",
    "attn_implementation": "evil/kernel",
    "experts_implementation": "evil/kernel",
    "_anything": 1,
    "transformers_weights": "../../secret.safetensors",
    "fusion_config": {"patch_embeddings": True},
    "to_dict": "shadowed",
}


@pytest.mark.parametrize("key", sorted(REACHING))
def test_keys_that_reach_for_code_are_ignored_with_a_notice(folder: Path, key: str) -> None:
    edit(folder / "config.json", **{key: REACHING[key]})
    (folder / "evil.py").write_text("raise SystemExit('code from a model folder ran')")
    loaded = load_classifier(folder, tiny_labels(3))
    notice = (
        f'{folder}/config.json: "{key}" is ignored; nothing in a model folder chooses what code '
        "runs."
    )
    assert loaded.notices == (notice,)
    assert check_model_folder(folder) == (notice,)
    assert loaded.model.config._attn_implementation == "sdpa"
    assert not hasattr(loaded.model.config, "auto_map")


def test_nested_keys_are_cleaned_too(folder: Path) -> None:
    edit(folder / "config.json", text_config={"_attn_implementation_internal": "evil/kernel"})
    config = load_classifier(folder, tiny_labels(3)).model.config
    assert config.text_config == {}


def test_a_quantised_model(folder: Path) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    assert refusal(folder) == (
        f'{folder}/config.json: has a "quantization_config". Quantised weights cannot be trained. '
        "Use the unquantised model."
    )


EMBEDDING = "bert.embeddings.word_embeddings.weight"


@pytest.mark.parametrize("size", [500, 10**12])
def test_a_vocabulary_that_the_weights_do_not_have(folder: Path, size: int) -> None:
    edit(folder / "config.json", vocab_size=size)
    assert refusal(folder) == (
        f'{folder}/config.json: makes the tensor "{EMBEDDING}" [{size}, 32], '
        f"and in the weights it is [190, 32]. {BOTH}"
    )


def test_a_trillion_parameters_that_the_weights_do_not_hold(folder: Path) -> None:
    edit(folder / "config.json", vocab_size=10**12)
    edit_tensors(folder, lambda t: [t.__setitem__(f"x.{n}", t.pop(n)) for n in list(t)])
    assert refusal(folder) == (
        f"{folder}/config.json: describes 32,000,000,019,232 parameters, "
        f"and the weights hold 26,467. {BOTH}"
    )


def test_sizes_past_all_counting(folder: Path) -> None:
    edit(folder / "config.json", vocab_size=10**18, hidden_size=10**18)
    assert refusal(folder).startswith(
        f"{folder}/config.json: describes a model that cannot be built ("
    )


@pytest.mark.parametrize("key", ["num_hidden_layers", "num_attention_heads"])
def test_counts_that_no_model_has(folder: Path, key: str) -> None:
    edit(folder / "config.json", **{key: 10**12})
    assert refusal(folder) == (
        f"{folder}/config.json: {key} is 1,000,000,000,000. "
        f"No model has more than 10,000. {BELONGS}"
    )


def test_more_layers_than_tensors(folder: Path) -> None:
    edit(folder / "config.json", num_hidden_layers=9000)
    assert refusal(folder) == (
        f"{folder}/config.json: describes 9,000 layers, and the weights hold 41 tensors. {BOTH}"
    )


def test_fewer_layers_than_the_weights(folder: Path) -> None:
    edit(folder / "config.json", num_hidden_layers=1)
    assert refusal(folder) == (
        f"{folder}/config.json: describes 1 layers, and the weights go on with "
        f'"bert.encoder.layer.1.attention.output.LayerNorm.bias". {BOTH}'
    )


def test_a_value_of_the_wrong_kind(folder: Path) -> None:
    edit(folder / "config.json", hidden_size="wide")
    assert refusal(folder).startswith(f"{folder}/config.json: does not describe a bert model (")
    assert refusal(folder).endswith(f"). Correct the value, or u{BELONGS[1:]}")


@pytest.mark.parametrize("names", [{"0": "a", "7": "b"}, ["a", "b"], {"zero": "a"}])
def test_labels_without_order(folder: Path, names: object) -> None:
    edit(folder / "config.json", id2label=names)
    assert refusal(folder) == (
        f'{folder}/config.json: "id2label" does not number its labels from 0 without a gap. '
        "Each row of the head has one name. Correct it, or remove it to train a new head."
    )


def test_a_number_of_labels_past_all_memory(folder: Path) -> None:
    edit(folder / "config.json", num_labels=10**12)
    assert load_classifier(folder, tiny_labels(3)).model.config.num_labels == 3


def test_more_names_than_rows(folder: Path) -> None:
    edit(folder / "config.json", id2label={"0": "a", "1": "b"})
    assert load_refusal(folder) == (
        f'{folder}: config.json names 2 labels, and "classifier.weight" has 3 rows. '
        f"Each row of the head has one name. {BELONGS}"
    )


# Tokenizers


def test_a_folder_without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert refusal(folder) == (
        f"{folder}: holds no tokenizer. A model folder holds tokenizer.json. "
        "Save the tokenizer of the model here with save_pretrained()."
    )


def test_a_tokenizer_with_ten_million_merges(folder: Path) -> None:
    merges = '"a b",' * 5_000_000 + '"a b"'
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {}, "merges": [' + merges + "]}}")
    assert refusal(folder) == (
        f"{folder}/tokenizer.json: holds 5,000,001 pieces and merges. "
        "It may have at most 5,000,000. Use the model's own tokenizer."
    )


def test_a_tokenizer_file_past_the_limit(folder: Path) -> None:
    with (folder / "tokenizer.json").open("ab") as file:
        file.truncate(2**30)  # sparse: takes no space
    assert refusal(folder) == (
        f"{folder}/tokenizer.json: is 1,073,741,824 bytes long. "
        "Such a file has at most 128,000,000. Use the model's own file."
    )


def test_a_catastrophic_pattern(folder: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"}
    edit(
        folder / "tokenizer.json",
        pre_tokenizer={"type": "Sequence", "pretokenizers": [split | {"invert": False}]},
    )
    assert refusal(folder) == (
        f'{folder}/tokenizer.json: the pattern "(a+)+$" repeats what already repeats or has '
        "alternatives. On some texts such a pattern never ends. Use the model's own tokenizer."
    )


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+", "(a*)*b", "(?:a|a)*b", "((a|b))+", "(a{2,}){3,}", "(?i:x+y?)*", "(a{0,99}){0,99}",
     "(a)\\1+", "(?<n>a\\g<n>?)", "a*a*a*a*b", "[(]((a+))+", "(?#[)(a+)+(?#])", "a" * 10_001],
)  # fmt: skip
def test_patterns_that_backtrack_are_refused(pattern: str) -> None:
    assert backtracks(pattern)


# Pre-tokenizer patterns of published tokenizers.
@pytest.mark.parametrize(
    "pattern",
    [
        QWEN_PATTERN,
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",  # Llama 3
        r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",  # Mistral
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",  # DeepSeek
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*",  # GPT-4o
        r" ?[^(\s|[.,!?…。，、।۔،])]+",  # BLOOM
        r" {2,}",  # XLM-R, T5
    ],
)
def test_published_patterns_pass(pattern: str) -> None:
    assert backtracks(pattern) == ""


def test_a_tokenizer_that_is_none(folder: Path) -> None:
    edit(folder / "tokenizer.json", model={"type": "Nonsense", "vocab": {}})
    with pytest.raises(ModelError) as caught:
        load_tokenizer(folder)
    assert str(caught.value).startswith(
        f"{folder}/tokenizer.json: is no tokenizer that can be used ("
    )


def test_more_tokens_than_embeddings(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["extra"] = 400
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelError) as caught:
        load_tokenizer(folder)
    assert str(caught.value) == (
        f'{folder}: the tokenizer gives "extra" the id 400, and the model has embeddings for '
        "190 tokens. Every token needs its embedding. "
        "Use the tokenizer that belongs to the model."
    )


def test_code_named_by_a_tokenizer_does_not_run(folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit('code from a model folder ran')")
    evil = {"AutoTokenizer": ["evil.Slow", "evil.Fast"]}
    edit(folder / "tokenizer_config.json", auto_map=evil, tokenizer_class="EvilTokenizer")
    assert load_tokenizer(folder)("good")["input_ids"][0] == 2
