"""A model folder's config.json: cleaned, understood, and compared with the weights.

Nothing in a folder chooses what code runs: keys that could (`auto_map`, an attention
implementation, every underscored key) are dropped before transformers sees the configuration, and
each is told of in a notice.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.models.auto import modeling_auto as auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tunewright.errors import ModelError, nearest
from tunewright.models import transformer
from tunewright.models.files.weights import TensorEntry, read_json_object, total_elements

CONFIG = "config.json"
# A name for each of 100,000 labels takes about 5 MB.
MAX_CONFIG_BYTES = 20_000_000

transformer.register()  # our own architecture is one of the library's like any other

# These could choose code, files or the network in transformers.
REACHING = frozenset(
    {
        "attn_implementation",
        "auto_map",
        "custom_pipelines",
        "distributed_config",
        "experts_implementation",
        "fusion_config",
        "kernel_config",
        "transformers_weights",
        "trust_remote_code",
    }
)
# Of no use here: an old name; labels are in id2label, and weights become fp32.
SILENT = frozenset({"_name_or_path", "num_labels", "torch_dtype", "dtype"})

# Deeper or wider than any published model, and still built in seconds without memory.
MAX_MODULES = 10_000
# These make their position table number by number, in Python.
SINUSOIDAL = frozenset({"distilbert", "flaubert", "roformer", "xlm"})
MAX_SINUSOIDAL_POSITIONS = 16_384
# One layer's weights used over and over: the number of layers does not show in the file.
SHARED_LAYERS = frozenset({"albert"})


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of head: what its models are called, and the library's class that finds them.

    A `labelled` head has one row for each label of the data; others have one size.
    """

    purpose: str
    auto: Any
    labelled: bool = False


ENCODER = Kind("bare model", auto.AutoModel)
SEQUENCE_CLASSIFIER = Kind("text classifier", auto.AutoModelForSequenceClassification, True)
TOKEN_CLASSIFIER = Kind("token classifier", auto.AutoModelForTokenClassification, True)
SPAN_FINDER = Kind("question answering model", auto.AutoModelForQuestionAnswering)
CHOOSER = Kind("multiple choice model", auto.AutoModelForMultipleChoice)
SEQ2SEQ = Kind("sequence-to-sequence model", auto.AutoModelForSeq2SeqLM)
CAPTIONER = Kind("captioner of pictures", auto.AutoModelForImageTextToText)
MASKED_LM = Kind("masked language model", auto.AutoModelForMaskedLM)
CAUSAL_LM = Kind("generating decoder", auto.AutoModelForCausalLM)


@dataclass(frozen=True, slots=True)
class Description:
    """A config.json after cleaning: the values for transformers, the label names, the notices.

    `labels` are None unless the folder names the labels of a trained head.
    """

    values: Mapping[str, Any]
    model_type: str
    labels: tuple[str, ...] | None
    notices: tuple[str, ...]


def read_description(folder: Path) -> Description:
    """Returns the cleaned config.json of a folder.

    Raises ModelError when it is missing, is not a JSON object, has no known `model_type`, is
    quantised, or claims more layers, heads or experts than any model has.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ModelError(
            str(folder), f"holds no {CONFIG}", "It says what the model is.", "Copy it here too."
        )
    raw = read_json_object(path, MAX_CONFIG_BYTES)
    model_type = _model_type(path, raw)
    if raw.get("quantization_config") is not None:
        raise ModelError(
            str(path),
            'has a "quantization_config"',
            "Quantised weights cannot be trained.",
            "Use the unquantised model.",
        )
    dropped: list[str] = []
    values = _cleaned(raw, dropped, CONFIG_MAPPING[model_type])
    _check_counts(path, values)
    notices = [
        f'{path}: "{key}" is ignored; nothing in a model folder chooses what code runs.'
        for key in dict.fromkeys(dropped)
    ]
    return Description(values, model_type, _labels(path, raw), tuple(notices))


def _model_type(path: Path, raw: Mapping[str, Any]) -> str:
    found = raw.get("model_type")
    if found is None:
        raise ModelError(
            str(path),
            'has no "model_type"',
            'It names the architecture, such as "bert".',
            "Add it, or use a folder that transformers saved.",
        )
    known = list(CONFIG_MAPPING.keys())
    if isinstance(found, str) and found in known:
        return found
    near = nearest(str(found), known)
    raise ModelError(
        str(path),
        f'has the model_type "{found}", which transformers does not know',
        f'Did you mean "{near}"?' if near else 'It names the architecture, such as "bert".',
        "Correct it, or install a newer transformers.",
    )


def _cleaned(
    raw: Mapping[str, Any], dropped: list[str], config_class: type | None
) -> dict[str, Any]:
    """Returns `raw` without the keys that could reach further; nested objects are cleaned too.

    A key that would hide a method of the configuration's class is dropped as well.
    """
    clean: dict[str, Any] = {}
    for key, value in raw.items():
        if key in SILENT:
            continue
        if key.startswith("_") or key in REACHING or callable(getattr(config_class, key, None)):
            dropped.append(key)
        else:
            clean[key] = _cleaned(value, dropped, None) if isinstance(value, dict) else value
    return clean


def _check_counts(path: Path, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            _check_counts(path, value)
        counted = re.search(r"layers?$|groups?$|group_num$|heads?$|experts?$", key)
        if counted and isinstance(value, int) and value > MAX_MODULES:
            raise ModelError(
                str(path),
                f"{key} is {value:,}",
                f"No model has more than {MAX_MODULES:,}.",
                "Use the config.json that belongs to the weights.",
            )


def _labels(path: Path, raw: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Returns the names in `id2label` in the order of their ids; None when there are none."""
    names = raw.get("id2label")
    if names is None:
        return None
    expected = {str(index) for index in range(len(names))} if isinstance(names, dict) else None
    if expected is None or set(names) != expected:
        raise ModelError(
            str(path),
            '"id2label" does not number its labels from 0 without a gap',
            "Each row of the head has one name.",
            "Correct it, or remove it to train a new head.",
        )
    return tuple(str(names[str(index)]) for index in range(len(names)))


def build_config(folder: Path, description: Description) -> Any:
    """Returns transformers' configuration of a cleaned description.

    Raises ModelError when a value is of the wrong kind.
    """
    path = folder / CONFIG
    values = {key: value for key, value in description.values.items() if key != "model_type"}
    try:
        return CONFIG_MAPPING[description.model_type].from_dict(values)
    except Exception as error:  # each architecture checks its values in its own way
        reason = " ".join(str(error).split())
        raise ModelError(
            str(path),
            f"does not describe a {description.model_type} model ({reason})",
            "",
            "Correct the value, or use the config.json that belongs to the weights.",
        ) from error


def load_config(folder: Path) -> Any:
    """Returns transformers' configuration (PretrainedConfig) of a folder, from cleaned values.

    Raises ModelError as `read_description` and `build_config` do.
    """
    return build_config(folder, read_description(folder))


def model_class(folder: Path, config: Any, kind: Kind) -> Any:
    """Returns the library's class of a kind for a configuration.

    Raises ModelError when the architecture has none.
    """
    found = kind.auto._model_mapping.get(type(config), None)
    if found is None and kind is ENCODER:  # of two models in one the bare model is the whole one
        found = CAPTIONER.auto._model_mapping.get(type(config), None)
    if found is None:
        raise ModelError(
            str(folder / CONFIG),
            f'transformers has no {kind.purpose} for the model_type "{config.model_type}"',
            "Encoders such as bert, roberta and modernbert and decoders such as qwen3 have one.",
            "Name another model.",
        )
    return found[0] if isinstance(found, tuple) else found


def text_part(config: Any) -> Any:
    """Returns the part of a configuration that knows tokens: of two models in one the decoder."""
    decoder = getattr(config, "decoder", None)
    return config if decoder is None or isinstance(decoder, dict) else decoder


def is_decoder(model_type: str) -> bool:
    """Says whether models of a type write: they read what stands before a token, and no more."""
    return (
        model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and model_type not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )


def meta_model(folder: Path, config: Any, kind: Kind, num_labels: int) -> Any:
    """Returns the model with its shapes and without memory, on torch's `meta` device.

    Raises ModelError when no such model can be built.
    """
    config = copy.deepcopy(config)
    config.num_labels = num_labels
    try:
        with torch.device("meta"):
            return model_class(folder, config, kind)(config)
    except ModelError:
        raise
    except Exception as error:  # sizes that do not fit each other fail anywhere
        reason = " ".join(str(error).split())
        raise ModelError(
            str(folder / CONFIG),
            f"describes a model that cannot be built ({reason})",
            "",
            "Use the config.json that belongs to the weights.",
        ) from error


def head_names(folder: Path, config: Any, kind: Kind) -> tuple[str, ...]:
    """Returns the names of the parameters that have one row for each label.

    They are found by what changes with one label more, whatever the architecture calls them.
    """
    if not kind.labelled:
        return ()
    two, three = (
        {n: tuple(p.shape) for n, p in meta_model(folder, config, kind, count).named_parameters()}
        for count in (2, 3)
    )
    return tuple(name for name, shape in two.items() if three[name] != shape)


def backbone_prefix(model: Any) -> str:
    """Returns what the names of the pretrained part's parameters begin with; "" in a bare model."""
    name = next(name for name, module in model.named_modules() if module is model.base_model)
    return f"{name}." if name else ""


def is_backbone(name: str, prefix: str) -> bool:
    """Says whether a parameter belongs to the pretrained part (see `backbone_prefix`).

    Poolers count to the head: many pretrained models come without.
    """
    return name.startswith(prefix) and "pooler" not in name.split(".")


def stored_name(name: str, model: Any, tensors: Mapping[str, Any]) -> str | None:
    """Returns the name a parameter has in the file: with or without the backbone's prefix."""
    prefix = f"{model.base_model_prefix}."
    candidates = (name, name.removeprefix(prefix), prefix + name)
    return next((candidate for candidate in candidates if candidate in tensors), None)


def check_sizes(
    folder: Path, config: Any, tensors: Mapping[str, TensorEntry], kind: Kind = SEQUENCE_CLASSIFIER
) -> None:
    """Checks that config.json and the weights speak of the same model; allocates no memory.

    Raises ModelError when the configuration has more or fewer layers than the weights, makes a
    tensor of another shape, or describes far more parameters than the weights hold.
    """
    _check_layers(folder, config, len(tensors))
    model = meta_model(folder, config, kind, num_labels=2)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    prefix = backbone_prefix(model)
    backbone = {name: shape for name, shape in shapes.items() if is_backbone(name, prefix)}
    for name, shape in backbone.items():
        stored = stored_name(name, model, tensors)
        if stored is not None and tensors[stored].shape != shape:
            raise _disagree(
                folder,
                f'makes the tensor "{stored}" {list(shape)}, '
                f"and in the weights it is {list(tensors[stored].shape)}",
            )
    _check_extra_layers(folder, model, tensors)
    claimed = sum(math.prod(shape) for shape in backbone.values())
    held = total_elements(tensors.values())
    if claimed > 2 * held:  # twice: weights stored in another arrangement may be shared
        raise _disagree(folder, f"describes {claimed:,} parameters, and the weights hold {held:,}")


def other_heads(
    folder: Path, config: Any, tensors: Mapping[str, TensorEntry], kind: Kind
) -> tuple[str, ...]:
    """Returns the tensors of a file that carry a head's name and have another head's shape."""
    model = meta_model(folder, config, kind, num_labels=2)
    prefix = backbone_prefix(model)
    heads = {n: p.shape for n, p in model.named_parameters() if not is_backbone(n, prefix)}
    rows = head_names(folder, config, kind)
    return tuple(
        name
        for name, shape in heads.items()
        if name not in rows and name in tensors and tensors[name].shape != tuple(shape)
    )


def _disagree(folder: Path, found: str) -> ModelError:
    return ModelError(
        str(folder / CONFIG),
        found,
        "Both must be of the same model.",
        "Use the config.json that belongs to the weights.",
    )


def _check_layers(folder: Path, config: Any, num_tensors: int) -> None:
    layers = getattr(config, "num_hidden_layers", None) or 0
    if layers > num_tensors and config.model_type not in SHARED_LAYERS:
        raise _disagree(
            folder, f"describes {layers:,} layers, and the weights hold {num_tensors:,} tensors"
        )
    positions = getattr(config, "max_position_embeddings", None) or 0
    if config.model_type in SINUSOIDAL and positions > MAX_SINUSOIDAL_POSITIONS:
        raise _disagree(folder, f"describes {positions:,} positions")


def _check_extra_layers(folder: Path, model: Any, tensors: Iterable[str]) -> None:
    """Raises ModelError when the weights go on with layers that the configuration does not have."""
    prefix = model.base_model_prefix
    known = {name.removeprefix(f"{prefix}.") for name, _ in model.named_parameters()}
    patterns = {_numberless(name) for name in known}
    ignored = [re.compile(p) for p in model._keys_to_ignore_on_load_unexpected or ()]
    for stored in tensors:
        bare = stored.removeprefix(f"{prefix}.")
        if bare in known or any(pattern.search(stored) for pattern in ignored):
            continue
        if re.search(r"\.\d+\.", bare) and _numberless(bare) in patterns:
            layers = getattr(model.config, "num_hidden_layers", None)
            raise _disagree(
                folder, f'describes {layers} layers, and the weights go on with "{stored}"'
            )


def _numberless(name: str) -> str:
    return re.sub(r"\.\d+\.", ".#.", name)
