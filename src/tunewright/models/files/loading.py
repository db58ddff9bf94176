"""From a checked model folder to the library's own model of a kind, with the labels wanted.

Weights are read by us and handed to transformers as tensors, with a configuration made from
cleaned values: transformers itself never opens a file of the folder.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging as library_logging

from tunewright.errors import ModelError, listed
from tunewright.models.adapting.adapters import head_headers, head_tensors, load_adapter
from tunewright.models.adapting.bases import PEFT_CONFIG, find_base, is_adapter_folder, read_base
from tunewright.models.files.architecture import (
    SEQUENCE_CLASSIFIER,
    Kind,
    backbone_prefix,
    build_config,
    check_sizes,
    head_names,
    is_backbone,
    model_class,
    other_heads,
    read_description,
)
from tunewright.models.files.weights import read_headers, read_tensors

SINGLE_LABEL = "single_label_classification"


@dataclass(frozen=True)
class LoadedModel:
    """A model in fp32 and evaluation mode, and what the user should be told about it.

    `kept_labels` are those whose rows of the head came from the folder.
    """

    model: Any
    notices: tuple[str, ...]
    kept_labels: tuple[str, ...] = ()


def load_classifier(folder: Path, labels: Sequence[str], **options: Any) -> LoadedModel:
    """Returns the folder's sequence classifier; see `load_library_model`."""
    return load_library_model(
        folder, SEQUENCE_CLASSIFIER, labels, **({"problem_type": SINGLE_LABEL} | options)
    )


def load_library_model(
    folder: Path,
    kind: Kind,
    labels: Sequence[str] = (),
    *,
    by_place: bool = False,
    dropout: float | None = None,
    seed: int = 0,
    attention: str = "sdpa",
    problem_type: str | None = None,
    pad_token_id: int | None = None,
) -> LoadedModel:
    """Returns the folder's model of a kind with a head for `labels`, in that order.

    Rows of a trained head whose label has the same name are kept; `by_place` keeps them all where
    there are as many, whatever they are called. The others, or the whole head, are made from
    `seed` (torch's global random state is left as found). `dropout` (0 to 1) takes the place of
    every dropout that the configuration has; None keeps them. `attention` is an implementation
    known to transformers; a model that has only its own keeps that. `pad_token_id` is the
    tokenizer's, for a configuration that names none. A folder of an adapter is read as its base
    with the adapter's head, and the adapter put into it.

    Raises ModelError when the folder fails its checks (`check_model_folder`), when a weight of
    the pretrained part is missing, or when a weight is NaN or infinite.
    """
    description = read_description(folder)
    config = build_config(folder, description)
    base = find_base(folder)
    headers, tensors = read_headers(base), read_tensors(base)
    if is_adapter_folder(folder):
        headers, tensors = headers | head_headers(folder), tensors | head_tensors(folder)
    check_sizes(folder, config, headers, kind)
    for name in other_heads(folder, config, headers, kind):
        del tensors[name]
    heads = head_names(folder, config, kind)
    old = tuple(labels) if by_place else description.labels
    old_rows = _take_head(folder, tensors, heads, old, by_place)
    _describe(config, labels, problem_type, pad_token_id)
    if dropout is not None:
        set_dropout(config, dropout)
    model, loading = _load(folder, config, kind, tensors, seed, attention)
    _check_missing(folder, model, loading["missing_keys"], tensors)
    kept = _keep_rows(model, old_rows, old or (), labels)
    if is_adapter_folder(folder):
        load_adapter(model, folder, kind)
    told = _told(folder, kind, loading, heads, kept, labels)
    return LoadedModel(model, (*description.notices, *told), kept)


def load_stock(folder: Path, kind: Kind) -> Any:
    """Returns what stock transformers reads from a saved folder, in fp32 and evaluation mode.

    An adapter's folder is read by stock peft, onto what transformers reads from its base. One that
    peft has not is read by us, and so is one whose base was kept in fewer bits: bitsandbytes'
    layers answer otherwise when they are evaluated (see `quantised.py`).
    """
    if is_adapter_folder(folder):
        if (folder / PEFT_CONFIG).is_file() and read_base(folder).quantize is None:
            return _load_stock_adapter(folder, kind)
        return load_library_model(folder, kind, read_description(folder).labels or ()).model
    with quiet_library():
        return kind.auto.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )


def _load_stock_adapter(folder: Path, kind: Kind) -> Any:
    from peft import PeftModel
    from transformers import AutoConfig

    with quiet_library():
        model = kind.auto.from_pretrained(
            find_base(folder),
            config=AutoConfig.from_pretrained(folder, local_files_only=True),
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # the base may have another head
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft uses names that transformers has changed
            return PeftModel.from_pretrained(model, folder).eval()


def _take_head(
    folder: Path,
    tensors: dict[str, Tensor],
    heads: Sequence[str],
    names: Sequence[str] | None,
    by_place: bool,
) -> dict[str, Tensor]:
    """Removes the head's rows from `tensors`; returns them when it is known what they are for."""
    rows = {name: tensors.pop(name) for name in heads if name in tensors}
    if names is None:
        return {}
    for name, tensor in rows.items():
        if len(tensor) == len(names):
            continue
        if by_place:
            return {}
        raise ModelError(
            str(folder),
            f'config.json names {len(names)} labels, and "{name}" has {len(tensor)} rows',
            "Each row of the head has one name.",
            "Use the config.json that belongs to the weights.",
        )
    return rows


def _describe(
    config: Any, labels: Sequence[str], problem_type: str | None, pad_token_id: int | None
) -> None:
    config.num_labels = len(labels) or 2  # two is what a configuration without labels has
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
    config.problem_type = problem_type
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = pad_token_id
    if hasattr(config, "use_cache") and not config.is_encoder_decoder:
        config.use_cache = False  # nothing is generated
    if hasattr(config, "use_mems_eval"):
        config.use_mems_eval = False  # XLNet: no text remembers the one before


def set_dropout(config: Any, probability: float) -> tuple[str, ...]:
    """Sets every dropout probability that a configuration has; returns their names.

    Layer drop, which leaves out whole layers, is something else and stays.
    """
    names = tuple(
        name
        for name, value in config.to_dict().items()
        if ("dropout" in name or name.endswith("pdrop"))
        and (value is None or (isinstance(value, int | float) and not isinstance(value, bool)))
    )
    for name in names:
        setattr(config, name, probability)
    for part in config.sub_configs:
        set_dropout(getattr(config, part), probability)
    return names


def _load(
    folder: Path,
    config: Any,
    kind: Kind,
    tensors: Mapping[str, Tensor],
    seed: int,
    attention: str,
) -> tuple[Any, dict[str, Any]]:
    """Builds the model from the tensors; weights they lack are drawn from `seed`."""
    library_class = model_class(folder, config, kind)
    own_only = attention == "sdpa" and not library_class._supports_sdpa
    with torch.random.fork_rng(devices=[]), quiet_library():
        torch.manual_seed(seed)
        try:
            model, loading = library_class.from_pretrained(
                None,
                config=config,
                state_dict=dict(tensors),
                dtype=torch.float32,
                attn_implementation="eager" if own_only else attention,
                output_loading_info=True,
            )
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ModelError(
                str(folder),
                f"its weights do not fit its config.json ({reason})",
                "",
                "Use the config.json that belongs to the weights.",
            ) from error
    model.config.name_or_path = ""
    return model.eval(), loading


@contextmanager
def quiet_library() -> Iterator[None]:
    """Keeps transformers' own reports and progress bars off the terminal: ours say it."""
    verbosity = library_logging.get_verbosity()
    bars = library_logging.is_progress_bar_enabled()
    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()
    try:
        yield
    finally:
        library_logging.set_verbosity(verbosity)
        if bars:
            library_logging.enable_progress_bar()


def _check_missing(
    folder: Path, model: nn.Module, missing: Sequence[str], tensors: Mapping[str, Tensor]
) -> None:
    prefix = backbone_prefix(model)
    lost = sorted(name for name in missing if is_backbone(name, prefix))
    if lost:
        raise ModelError(
            str(folder),
            f"its weights lack {listed(lost, 3)}; they hold {listed(sorted(tensors), 3)}",
            "Only the head may be missing.",
            "Use the weights that belong to config.json.",
        )


def _keep_rows(
    model: nn.Module, old_rows: Mapping[str, Tensor], old: Sequence[str], new: Sequence[str]
) -> tuple[str, ...]:
    """Copies the old head's rows to their labels' new places; returns the labels kept."""
    if not old_rows:
        return ()
    old_places = {label: index for index, label in enumerate(old)}
    kept = [(index, label) for index, label in enumerate(new) if label in old_places]
    to = torch.tensor([index for index, _ in kept], dtype=torch.int64)
    of = torch.tensor([old_places[label] for _, label in kept], dtype=torch.int64)
    with torch.no_grad():
        for name, rows in old_rows.items():
            parameter = model.get_parameter(name)
            parameter[to] = rows[of].to(parameter.dtype)
    return tuple(label for _, label in kept)


def _told(
    folder: Path,
    kind: Kind,
    loading: Mapping[str, Any],
    heads: Sequence[str],
    kept: Sequence[str],
    labels: Sequence[str],
) -> list[str]:
    """Says which weights are new, which labels are new to a trained head, and what is unused."""
    notices = []
    rowless = sorted(set(loading["missing_keys"]) - (set(heads) if kept else set()))
    if rowless:
        notices.append(f"{folder}: new weights, to be trained: {listed(rowless)}.")
    fresh = [label for label in labels if label not in set(kept)]
    if kept and fresh:
        notices.append(
            f"{folder}: the head keeps its {len(kept)} known labels and gets new rows "
            f"for {listed(fresh)}."
        )
    unused = sorted(
        name for name in loading["unexpected_keys"] if not name.endswith("position_ids")
    )
    if unused:
        notices.append(f"{folder}: a {kind.purpose} does not use {listed(unused, 4)}.")
    return notices
