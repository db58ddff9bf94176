"""How deep in a model a part lies: 0 embeddings, 1.. layers, last the head."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from tunewright.models.files.architecture import backbone_prefix, is_backbone

_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?|albert_layers)\.(\d+)\.")
_EMBEDDING = re.compile(r"embed|(?:^|\.)w[tp]e\.")


def depths(model: Any) -> dict[str, int]:
    """Returns the depth of each parameter by its name; that of the head is one more than `top`."""
    prefix = backbone_prefix(model)
    names = [name for name, _ in model.named_parameters()]
    inside = {name for name in names if is_backbone(name, prefix)}
    top = num_layers(inside)
    return {name: depth_of(name, top) if name in inside else top + 1 for name in names}


def depth_of(name: str, top: int) -> int:
    """Returns the depth of a part of the backbone, whose highest layer is `top`.

    What is in no layer and no embedding (a final norm) counts with the highest layer.
    """
    match = _LAYER.search(name)
    if match is not None:
        return int(match[1]) + 1
    return 0 if _EMBEDDING.search(name) else top


def num_layers(names: Iterable[str]) -> int:
    """Returns how many layers parameters of these names lie in."""
    return max((int(match[1]) + 1 for name in names if (match := _LAYER.search(name))), default=0)
