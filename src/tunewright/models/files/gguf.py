"""GGUF files, the form in which llama.cpp keeps models: turned into an ordinary model folder, once.

    model.gguf  ->  ~/.cache/tunewright/gguf/model-0f3a…/{config.json, model.safetensors, ...}

transformers' reader gives the weights, dequantised to fp32, the configuration, the tokenizer and
the chat template. What it gives is cleaned, checked and saved as any folder that we write, so that
the rest of the house knows one kind of model only. A GGUF file holds numbers and texts and nothing
that could be run; the package `gguf` reads it through numpy.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tunewright.caches import cache_folder
from tunewright.errors import ModelError, RunError
from tunewright.models.files.architecture import CAUSAL_LM, REACHING, SILENT, model_class
from tunewright.models.files.loading import quiet_library
from tunewright.models.files.manifest import MANIFEST

SUFFIX = ".gguf"
MAGIC = b"GGUF"
# A model of 8 billion parameters in 8 bits; its fp32 copy takes four times as much.
MAX_GGUF_BYTES = 10_000_000_000


def is_gguf(path: Path) -> bool:
    """Says whether a path is a file that is called .gguf."""
    return path.suffix == SUFFIX and path.is_file()


def converted(path: Path) -> Path:
    """Returns the model folder of a GGUF file, made at the first call and kept after it.

    The folder's name holds the file's digest, so another file makes another folder. Of several
    processes one converts, and the others wait for it.

    Raises ModelError when the package `gguf` is missing, when the file is too large, damaged, or
    of an architecture that is no decoder of transformers; RunError when the cache is read-only.
    """
    folder = cache_folder("gguf") / f"{path.stem}-{_digest(path)[:16]}"
    if (folder / MANIFEST).is_file():
        return folder
    with _locked(folder):
        if not (folder / MANIFEST).is_file():
            _convert(path, folder)
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise RunError(
            str(folder.parent),
            f"converted models cannot be kept here ({error.strerror or error})",
            "",
            "Name a folder that can be written in XDG_CACHE_HOME.",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _convert(path: Path, folder: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(
            str(path),
            "reading a GGUF file needs the package gguf",
            "",
            "Run: pip install --no-deps gguf",
        )
    _check_file(path)
    try:
        model, tokenizer = _read(path)
    except ModelError:
        raise
    except Exception as error:  # a damaged header, an unknown kind of number: each fails elsewhere
        reason = " ".join(str(error).split())
        raise ModelError(
            str(path),
            f"cannot be read as a model ({type(error).__name__}: {reason})",
            "A GGUF file of a decoder such as llama or qwen3 is needed.",
            "Download or copy the file again, or use the model's safetensors.",
        ) from error
    from tunewright.models.files.folder import save_model  # which finds models, and so imports this

    save_model(model, tokenizer, folder)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_file(path: Path) -> None:
    size = path.stat().st_size
    if size > MAX_GGUF_BYTES:
        raise ModelError(
            str(path), f"is {size:,} bytes long", f"It may have at most {MAX_GGUF_BYTES:,}."
        )
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ModelError(str(path), "does not begin as a GGUF file does", "", "Copy it again.")


def _read(path: Path) -> tuple[Any, Any]:
    """Returns the model in fp32 and its tokenizer with the chat template."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    with quiet_library(), redirect_stderr(io.StringIO()):  # the reader draws bars of its own
        head = load_gguf_checkpoint(str(path))
        config = _config(path, head["config"])
        library_class = model_class(path, config, CAUSAL_LM)
        with torch.device("meta"):
            empty = library_class(config)
        # transformers' own from_pretrained(gguf_file=...) would need the package accelerate
        tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=empty)
        model = library_class.from_pretrained(
            None, config=config, state_dict=tensors["tensors"], dtype=torch.float32
        )
        tokenizer = _tokenizer(path)
    tokenizer.chat_template = head["tokenizer_config"].get("chat_template")
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.name_or_path = ""
    return model.eval(), tokenizer


def _config(path: Path, values: Mapping[str, Any]) -> Any:
    """Returns the configuration, of values that could choose nothing but sizes and numbers."""
    model_type = values.get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise ModelError(
            str(path), f'is of the architecture "{model_type}", which transformers does not know'
        )
    plain = {
        key: value
        for key, value in values.items()
        if not key.startswith("_") and key not in REACHING | SILENT | {"model_type"}
    }
    return CONFIG_MAPPING[model_type].from_dict(plain)


def _tokenizer(path: Path) -> Any:
    """Returns the tokenizer; transformers sees a folder with this file and nothing else."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="tunewright-gguf-") as name:
        (Path(name) / path.name).symlink_to(path.resolve())
        return AutoTokenizer.from_pretrained(
            name, gguf_file=path.name, local_files_only=True, trust_remote_code=False
        )
