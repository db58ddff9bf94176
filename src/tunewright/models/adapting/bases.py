"""The model that an adapter's folder stands on: named there, found again, and the same to the bit.

runs/NAME/model/
  adapter_config.json         peft's own names; bottleneck_config.json for what peft has not
  adapter_model.safetensors   the adapter and its head
  config.json, tokenizer.json what a folder of the library has, but for the weights
  base.json                   the model's name, its folder, and the SHA-256 of its weights
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunewright.errors import ModelError
from tunewright.models.adapting.adapter_config import Bits
from tunewright.models.files.manifest import digest_of
from tunewright.models.files.weights import INDEX, WEIGHTS, find_weights, read_json_object

BASE = "base.json"
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OWN_CONFIG, OWN_WEIGHTS = "bottleneck_config.json", "bottleneck_model.safetensors"
MAX_BYTES = 10_000_000


@dataclass(frozen=True)
class Base:
    """The name by which a run was given its model, the folder that it was, and its weights.

    `quantize` says in how many bits they were kept while the adapter learned.
    """

    name: str
    folder: str
    sha256: Mapping[str, str]
    quantize: Bits | None = None

    @classmethod
    def of(cls, name: str, folder: Path, quantize: Bits | None = None) -> Base:
        """Describes a model folder; `name` is `starter`, an id of the Hub, or a path."""
        return cls(name, str(folder.resolve()), _digests(folder), quantize)

    def to_json_text(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, indent=2) + "\n"


def is_adapter_folder(folder: Path) -> bool:
    """Says whether a folder holds an adapter in the place of a model's weights."""
    has_weights = any((folder / name).is_file() for name in (WEIGHTS, INDEX))
    return not has_weights and any((folder / n).is_file() for n in (PEFT_CONFIG, OWN_CONFIG))


def find_base(folder: Path) -> Path:
    """Returns the folder whose weights a model folder has: its own, or those of its base.

    Raises ModelError when the base cannot be found, or has other weights than the adapter was
    trained on.
    """
    if not is_adapter_folder(folder):
        return folder
    base = read_base(folder)
    found = _found(base, folder)
    differing = [name for name, sha in _digests(found).items() if base.sha256.get(name) != sha]
    if base.sha256 and differing:
        raise ModelError(
            str(folder),
            f"its adapter was trained on other weights than {found / differing[0]}",
            "An adapter answers only with the model that it was trained on.",
            "Put the model back that it was, or train again.",
        )
    return found


def read_base(folder: Path) -> Base:
    """Returns what an adapter's folder says of its base; peft's own folders give a name alone."""
    if (folder / BASE).is_file():
        values = read_json_object(folder / BASE, MAX_BYTES)
        if values.keys() == set(Base.__dataclass_fields__) and isinstance(values["sha256"], dict):
            return Base(**values)
        raise ModelError(str(folder / BASE), "it is not as it was saved", "", "Use another copy.")
    name = read_json_object(folder / PEFT_CONFIG, MAX_BYTES).get("base_model_name_or_path")
    return Base(str(name), str(name), {})


def _found(base: Base, folder: Path) -> Path:
    from tunewright.models.files.folder import find_model  # it imports what imports this

    if Path(base.folder).is_dir():
        return find_model(Path(base.folder))
    try:
        return find_model(base.name)
    except ModelError as error:
        raise ModelError(
            str(folder),
            f'it holds an adapter of the model "{base.name}", which cannot be found',
            f"It was at {base.folder}.",
            f"Put it there, or write its folder into {BASE}.",
        ) from error


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: digest_of(path) for path in find_weights(folder)}


def adapter_description(folder: Path) -> dict[str, Any]:
    """Returns what stands in the configuration of a folder's adapter."""
    name = PEFT_CONFIG if (folder / PEFT_CONFIG).is_file() else OWN_CONFIG
    return read_json_object(folder / name, MAX_BYTES)
