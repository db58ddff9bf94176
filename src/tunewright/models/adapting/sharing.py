"""Several of the library's models that learn one backbone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tunewright.models.adapting.adapter_config import AdapterConfig
from tunewright.models.adapting.adapters import attach, is_adapter
from tunewright.models.adapting.bases import Base
from tunewright.models.files.architecture import Kind, backbone_prefix, is_backbone


class Models(nn.Module):
    """Models by name, which look like one of the library's to the rest of the house.

    `base_model`, `config`, `device` and the table of words are the first model's. A parameter that
    several of them hold counts once, under the first one's name.
    """

    def __init__(self, heads: Mapping[str, Any]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(heads)

    @property
    def first(self) -> Any:
        return next(iter(self.heads.values()))

    @property
    def base_model(self) -> Any:
        return self.first.base_model

    @property
    def config(self) -> Any:
        return self.first.config

    @property
    def device(self) -> torch.device:
        device: torch.device = self.first.device
        return device

    def get_input_embeddings(self) -> Any:
        return self.first.get_input_embeddings()


def share_backbone(model: Any, other: Any) -> None:
    """Lets the backbone of `model` hold the parameters of `other`'s; heads and poolers stay apart.

    Raises ValueError when the backbones have unlike parameters.
    """
    own, shared = (dict(_backbone(each)) for each in (model, other))
    if own.keys() != shared.keys():
        raise ValueError(f"unlike backbones: {sorted(own.keys() ^ shared.keys())[:3]}")
    held = {parameter: shared[name] for name, parameter in own.items()}
    for module in model.modules():  # heads, too: one that makes logits may be the table of words
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter in held:
                setattr(module, name, held[parameter])


def share_frozen(models: Iterable[Any]) -> None:
    """Lets models hold once what several of their backbones have alike, whatever their adapters."""
    pool: dict[str, nn.Parameter] = {}
    for model in models:
        prefix = backbone_prefix(model)
        for name, parameter in list(model.named_parameters()):
            plain = name.replace(".base_layer.", ".")  # what an adapter is put around
            if is_adapter(name) or not is_backbone(name, prefix):
                continue
            kept = pool.setdefault(plain.removeprefix(prefix), parameter)
            if kept is not parameter and torch.equal(kept, parameter):
                path, _, last = name.rpartition(".")
                setattr(model.get_submodule(path), last, kept)


def attach_to_all(
    models: Sequence[tuple[Kind, Any]], config: AdapterConfig, seed: int, base: Base
) -> None:
    """Puts one new adapter into models of one backbone, each with a head of its own kind.

    Layers that are frozen get none. `base` says whose weights they go with.
    """
    learning = [p for _, model in models for p in model.parameters() if p.requires_grad]
    attached = []
    for kind, model in models:
        for parameter in learning:  # the model before, which shares them, froze them
            parameter.requires_grad_(True)
        attached.append(attach(model, config, kind, seed))
        attached[-1].base = base
    for parameter in learning:
        parameter.requires_grad_(False)
    for _, model in models[1:]:
        share_backbone(model, models[0][1])
    for adapters in attached:
        adapters.let_learn()


def _backbone(model: Any) -> list[tuple[str, nn.Parameter]]:
    named = model.base_model.named_parameters()
    return [(name, p) for name, p in named if "pooler" not in name.split(".")]
