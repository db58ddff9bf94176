"""The files by which sentence-transformers knows an embedding model: read, checked and written.

A folder is the library's own encoder with `modules.json` (what comes after one another),
`1_Pooling/config.json`, `sentence_bert_config.json` (the length to cut at) and
`config_sentence_transformers.json` (what is put before queries and documents) beside it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.errors import ModelError, listed
from tunewright.models.files.weights import read_json_object
from tunewright.models.pooling import Pooling

MODULES = "modules.json"
POOLING = "1_Pooling/config.json"
PROMPTS = "config_sentence_transformers.json"
LENGTH = "sentence_bert_config.json"
MAX_BYTES = 1_000_000

# Names of the poolings, in files of versions before and since 5.
OLD_NAMES: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
NEW_NAMES: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
PACKAGE = "sentence_transformers.models"  # as every version of it reads the types
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True, slots=True)
class SentenceSettings:
    """What turns an encoder into a model of sentences.

    `max_length` is None where the folder names none. The prompts stand before each text.
    """

    pooling: Pooling
    normalize: bool
    max_length: int | None = None
    query_prompt: str = ""
    document_prompt: str = ""

    def files(self, dimensions: int) -> dict[str, str]:
        """Returns what stands in the files of a folder, by name, for vectors of `dimensions`."""
        places = ["", "1_Pooling", "2_Normalize"]
        modules = [
            {"idx": i, "name": str(i), "path": places[i], "type": f"{PACKAGE}.{name}"}
            for i, name in enumerate(KNOWN_MODULES[: 3 if self.normalize else 2])
        ]
        modes = {key: name == self.pooling for key, name in OLD_NAMES.items()}
        prompts = {"query": self.query_prompt, "document": self.document_prompt}
        return {
            MODULES: _text(modules),
            POOLING: _text({"word_embedding_dimension": dimensions, **modes}),
            LENGTH: _text({"max_seq_length": self.max_length, "do_lower_case": False}),
            PROMPTS: _text(
                {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
            ),
        }


def read_sentence_settings(folder: Path, pooling: Pooling | None = None) -> SentenceSettings | None:
    """Returns what a folder's files say, or None where there is no `modules.json`.

    A `pooling` given takes the place of the folder's. Raises ModelError when a file is damaged, or
    asks for what is not done here: a module other than Transformer, Pooling and Normalize, several
    poolings, or one other than mean, first or last token.
    """
    if not (folder / MODULES).is_file():
        return None
    modules = _modules(folder / MODULES)
    prompts = _optional(folder / PROMPTS).get("prompts")
    length = _optional(folder / LENGTH).get("max_seq_length")
    prompts = prompts if isinstance(prompts, dict) else {}
    return SentenceSettings(
        pooling or _pooling(folder / modules["Pooling"] / "config.json"),
        "Normalize" in modules,
        length if isinstance(length, int) else None,
        str(prompts.get("query") or ""),
        str(prompts.get("document") or ""),
    )


def _modules(path: Path) -> dict[str, str]:
    """Returns the modules' folders by the last part of their types' names."""
    modules = {
        str(each.get("type")).rpartition(".")[2]: str(each.get("path")) for each in _listed(path)
    }
    unknown = [name for name in modules if name not in KNOWN_MODULES]
    if unknown or not {"Transformer", "Pooling"} <= modules.keys():
        raise ModelError(
            str(path),
            f"names the modules {listed(modules)}",
            f"Only {listed(KNOWN_MODULES)} are known here.",
            "Remove the file to pool the encoder's tokens anew, or use another model.",
        )
    if Path(modules["Pooling"]).name != modules["Pooling"]:
        raise ModelError(
            str(path),
            f'has the path "{modules["Pooling"]}"',
            "A module stands in a folder beside the file.",
        )
    return modules


def _listed(path: Path) -> list[dict[str, Any]]:
    damaged = ModelError(
        str(path), "is not a list of modules", "", "Copy the file from the model again."
    )
    if path.stat().st_size > MAX_BYTES:
        raise damaged
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        raise damaged from None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise damaged
    return found


def _pooling(path: Path) -> Pooling:
    values = _optional(path)
    modes = values.get("pooling_mode")
    names = [modes] if isinstance(modes, str) else list(modes or ())
    known: dict[str, Pooling] = NEW_NAMES
    if not names:
        names = [key for key in values if key.startswith("pooling_mode_") and values[key]]
        known = OLD_NAMES
    prompt_counts = values.get("include_prompt", True)
    if len(names) != 1 or names[0] not in known or not prompt_counts:
        left_out = "" if prompt_counts else " and leaves out the prompt"
        raise ModelError(
            str(path),
            f"pools by {listed(names) or 'nothing'}{left_out}",
            "One of mean, cls and last token is done here, over the whole text.",
            "Choose task.pooling, or use another model.",
        )
    return known[names[0]]


def _optional(path: Path) -> dict[str, Any]:
    return read_json_object(path, MAX_BYTES) if path.is_file() else {}


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"
