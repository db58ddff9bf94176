"""Which layers of a model an adapter is put into, whatever its family calls them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from tunewright.errors import SettingsError, listed
from tunewright.models.adapting.adapter_config import AdapterConfig
from tunewright.models.files.architecture import backbone_prefix

# What the families call the layers behind attention, behind feed-forward, and keys and values.
AFTER_ATTENTION = re.compile(
    r"(attention\.output\.dense|attention\.dense|attention\.out_lin|attention\.attn\.o|attn\.Wo"
    r"|attn\.c_proj|self_attn\.o_proj|attention\.output|(self|encoder)_attn\.out_proj"
    r"|(SelfAttention|EncDecAttention)\.o)$"
)
AFTER_FEED_FORWARD = re.compile(
    r"((?<!attention\.)output\.dense|ffn\.lin2|ffn_output|ff\.layer_2|mlp\.Wo|mlp\.c_proj"
    r"|mlp\.down_proj|feed_forward\.outer|layers\.\d+\.fc2|DenseReluDense\.wo)$"
)
KEYS_AND_VALUES = re.compile(
    r"\.(key|value|key_proj|value_proj|k_proj|v_proj|k_lin|v_lin|attn\.[kv]|Attention\.[kv]"
    r"|attn\.Wqkv|attn\.c_attn)$"
)

# What tasks of ours put beside the library's head, and save themselves.
OWN_PARTS = ("crf",)


def head_modules(model: Any) -> tuple[str, ...]:
    """Returns the names of the modules that make up the library's head, poolers among them."""
    prefix = backbone_prefix(model)
    outside = [
        name
        for name, module in model.named_children()
        if f"{name}." != prefix and any(True for _ in module.parameters()) and name not in OWN_PARTS
    ]
    pooler = getattr(model.base_model, "pooler", None)
    return (*outside, *([f"{prefix}pooler"] if isinstance(pooler, nn.Module) else []))


def linear_layers(model: Any) -> list[str]:
    """Returns the names of the backbone's linear layers that are not frozen."""
    prefix = backbone_prefix(model)
    return [
        f"{prefix}{name}"
        for name, module in model.base_model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and module.weight.requires_grad
        and "pooler" not in name.split(".")
    ]


def layers_for(
    model: Any, config: AdapterConfig, usual: Sequence[re.Pattern[str]] = ()
) -> list[str]:
    """Returns the names of the layers that an adapter is put into.

    They are those that end as `target_modules` say, else those that match a pattern of `usual`,
    else all. Raises SettingsError where there are none.
    """
    layers, ends = linear_layers(model), config.target_modules
    known = listed(sorted({re.split(r"\.\d+\.", name)[-1] for name in layers}), 20)
    if not layers:
        raise SettingsError(
            f"adapter {config.name}",
            "all layers are frozen, or it finds none",
            "It is put into linear layers that would learn.",
            "Lower training.freeze_layers, or name another model.",
        )
    if ends is not None:
        found = [n for n in layers if any(n == end or n.endswith(f".{end}") for end in ends)]
        where, odd = "adapter.target_modules", f"no layer that learns ends in {listed(ends)}"
    else:
        found = matching(layers, usual) if usual else layers
        where = f"adapter {config.name}"
        odd = f"no layer of {model.config.model_type} is known to take it"
    if not found:
        raise SettingsError(where, odd, f"There are {known}.", "Name some of them.")
    return found


def places_behind(config: AdapterConfig) -> list[re.Pattern[str]]:
    """Returns which layers a bottleneck stands behind."""
    both = config.placement == "houlsby"
    return [AFTER_ATTENTION, AFTER_FEED_FORWARD] if both else [AFTER_FEED_FORWARD]


def matching(names: Sequence[str], patterns: Sequence[re.Pattern[str]]) -> list[str]:
    return [name for name in names if any(pattern.search(name) for pattern in patterns)]
