"""Weight files: which a model folder holds, whether they are whole, and their tensors.

Only safetensors are read; nothing is ever unpickled. The header of a file is checked here, by
itself, before anything is allocated: a header that lies about sizes costs nothing.
Source: the format's description in the safetensors repository (8 bytes of little-endian length,
a JSON object of that length, then the tensors' bytes without holes).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.errors import ModelError, listed

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".pkl", ".msgpack")

# The format's own limit (safetensors, MAX_HEADER_SIZE).
MAX_HEADER_BYTES = 100_000_000
# The index of the largest published model (about 100,000 tensors) takes about 10 MB.
MAX_INDEX_BYTES = 100_000_000

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64,
}  # fmt: skip

DAMAGED = "Download or copy the file again."


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """What a header says of one tensor: its dtype (the format's name), its shape, its file."""

    dtype: str
    shape: tuple[int, ...]
    file: Path

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)


def find_weights(folder: Path) -> tuple[Path, ...]:
    """Returns the safetensors files of a model folder, in the order of their names.

    Raises ModelError when there are none (pickled weights or an adapter alone do not count), when
    a shard that the index names is missing, or when the index names a file outside the folder.
    """
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    if (folder / INDEX).is_file():
        return tuple(_shard(folder, name) for name in _shard_names(folder / INDEX))
    raise _no_weights(folder)


def _no_weights(folder: Path) -> ModelError:
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    needed = f"A model folder holds {WEIGHTS}."
    if ADAPTER in names:
        return ModelError(
            str(folder),
            f"holds an adapter ({ADAPTER}) without the model it belongs to",
            needed,
            "Merge the adapter into its model with peft's merge_and_unload(), save that, "
            "and name the saved folder.",
        )
    pickled = [name for name in names if name.endswith(PICKLED)]
    if pickled:
        return ModelError(
            str(folder),
            f"holds its weights as {listed(pickled)} only",
            "Such files can run code when they are read, so only safetensors are.",
            "Convert them once, where running them can do no harm: load the folder with "
            "transformers and call save_pretrained(NEW_FOLDER), which writes safetensors.",
        )
    return ModelError(
        str(folder),
        "holds no weights",
        needed,
        f"Add {WEIGHTS}, or name another folder.",
    )


def _shard_names(index: Path) -> list[str]:
    """Returns the names of the shards, each once, checked to be plain file names."""
    content = read_json_object(index, MAX_INDEX_BYTES)
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(
            str(index), 'has no "weight_map"', "It names the file of each tensor.", DAMAGED
        )
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise ModelError(
                str(index),
                f'names the file "{name}"',
                "Shards are .safetensors files in the same folder.",
                "Do not use this folder: such a name reaches for other files.",
            )
    return names


def _shard(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise ModelError(
            str(folder),
            f'the shard "{name}" is missing',
            f"{INDEX} names it.",
            "Download or copy it too.",
        )
    return path


def read_headers(folder: Path) -> dict[str, TensorEntry]:
    """Returns the tensors of all weight files of a folder, by name, without reading their values.

    Raises ModelError when a file is damaged, or when the index names a tensor that its shard does
    not hold, or two shards hold the same tensor.
    """
    tensors: dict[str, TensorEntry] = {}
    for path in find_weights(folder):
        for name, entry in read_header(path).items():
            if name in tensors:
                raise ModelError(
                    str(path),
                    f'holds the tensor "{name}", which {tensors[name].file.name} holds too',
                    "Every tensor is stored once.",
                    DAMAGED,
                )
            tensors[name] = entry
    if not (folder / WEIGHTS).is_file():
        _check_index(folder / INDEX, tensors)
    return tensors


def _check_index(index: Path, tensors: Mapping[str, TensorEntry]) -> None:
    weight_map = read_json_object(index, MAX_INDEX_BYTES)["weight_map"]
    lost = [n for n, file in weight_map.items() if n not in tensors or tensors[n].file.name != file]
    if lost:
        raise ModelError(
            str(index),
            f"names tensors that their shards do not hold: {listed(lost, 3)}",
            "Index and shards belong together.",
            "Download or copy the whole folder again.",
        )


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Returns what the header of one safetensors file says, checked against the file's size.

    Raises ModelError when the header is larger than the file or than 100 MB, is not JSON, names a
    tensor twice, gives a shape that its bytes do not have, or leaves holes or overlaps.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise _damaged(path, f"is {size} bytes long", "A header alone is longer.")
        num_bytes = int.from_bytes(start, "little")
        if num_bytes > MAX_HEADER_BYTES:
            raise _damaged(
                path,
                f"its header claims {num_bytes:,} bytes",
                f"Headers have at most {MAX_HEADER_BYTES:,}.",
            )
        if num_bytes + 8 > size:
            raise _damaged(
                path,
                f"its header claims {num_bytes:,} bytes, and the file has {size:,}",
                "The file is cut short or is something else.",
            )
        entries = _parse_header(path, file.read(num_bytes))
    return _check_entries(path, entries, size - 8 - num_bytes)


def _damaged(path: Path, found: str, needed: str) -> ModelError:
    return ModelError(str(path), found, needed, DAMAGED)


def _parse_header(path: Path, raw: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise _damaged(path, f'its header names "{twice}" twice', "Every name stands once.")
        return dict(pairs)

    try:
        entries = json.loads(raw.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its header is not JSON", "It is not a safetensors file.") from error
    if not isinstance(entries, dict):
        raise _damaged(path, "its header is not a JSON object", "It is not a safetensors file.")
    entries.pop("__metadata__", None)
    return entries


def _check_entries(
    path: Path, entries: Mapping[str, Any], num_bytes: int
) -> dict[str, TensorEntry]:
    """Checks each tensor's dtype, shape and offsets, and that all of them fill the file."""
    spans: list[tuple[int, int, str]] = []
    tensors: dict[str, TensorEntry] = {}
    for name, entry in entries.items():
        dtype, shape, (begin, end) = _parts(path, name, entry)
        needed_bits = math.prod(shape) * BITS[dtype]
        if needed_bits != 8 * (end - begin):
            raise _damaged(
                path,
                f'the tensor "{name}" is {dtype} {list(shape)} and spans {end - begin:,} bytes',
                f"That shape takes {needed_bits // 8:,}.",
            )
        tensors[name] = TensorEntry(dtype, shape, path)
        spans.append((begin, end, name))
    _check_spans(path, sorted(spans), num_bytes)
    return tensors


def _parts(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """Returns dtype, shape and byte offsets of a header entry, each of the right kind."""
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    dtype: Any = fields.get("dtype")
    shape: Any = fields.get("shape")
    offsets: Any = fields.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ModelError(
            str(path),
            f'the tensor "{name}" has the dtype {dtype!r}',
            f"Known dtypes are {', '.join(BITS)}.",
            "Use the unquantised weights.",
        )
    usable = _counts(shape) and _counts(offsets) and len(offsets) == 2
    if not usable or offsets[0] > offsets[1]:
        raise _damaged(
            path,
            f'the tensor "{name}" has no usable shape and offsets',
            "Both are lists of whole numbers from 0.",
        )
    return dtype, tuple(shape), (offsets[0], offsets[1])


def _counts(values: Any) -> bool:
    """Says whether `values` is a list of whole numbers from 0 to the largest a file can have.

    torch itself allows 64 dimensions.
    """
    if not isinstance(values, list) or len(values) > 64:
        return False
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


def _check_spans(path: Path, spans: Sequence[tuple[int, int, str]], num_bytes: int) -> None:
    at, before = 0, "the header"
    for begin, end, name in spans:
        if begin != at:
            kind = "overlaps" if begin < at else "leaves a hole after"
            raise _damaged(
                path, f'the tensor "{name}" {kind} {before}', "Tensors lie one after another."
            )
        at, before = end, f'"{name}"'
    if at != num_bytes:
        raise _damaged(
            path,
            f"its tensors take {at:,} bytes, and the file has {num_bytes:,} for them",
            "The file is cut short or has something appended.",
        )


def read_tensors(folder: Path) -> dict[str, Any]:
    """Returns all tensors of a folder by name, on the CPU, as they are stored.

    They are copies: the file may change or vanish afterwards. Raises ModelError when a value is
    NaN or infinite; the tensor is named.
    """
    tensors: dict[str, Any] = {}
    for path in find_weights(folder):
        tensors.update(read_tensor_file(path))
    return tensors


def read_tensor_file(path: Path) -> dict[str, Any]:
    """Returns the tensors of one safetensors file, as `read_tensors` does."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damaged(path, f"cannot be read ({error})", "") from error
    check_finite(path, tensors)
    return tensors


def check_finite(path: Path, tensors: Mapping[str, Any]) -> None:
    """Raises ModelError naming the first tensor that holds a NaN or an infinity."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or bool(tensor.isfinite().all()):
            continue
        count = int((~tensor.isfinite()).sum())
        raise ModelError(
            str(path),
            f'the tensor "{name}" holds NaN or infinity in {count:,} of {tensor.numel():,} places',
            "Such a model answers NaN to everything.",
            "Use an earlier checkpoint, or download the file again.",
        )


def read_json_object(path: Path, max_bytes: int) -> dict[str, Any]:
    """Returns the JSON object in a file; raises ModelError when it is not one or too large."""
    size = path.stat().st_size
    if size > max_bytes:
        raise ModelError(
            str(path),
            f"is {size:,} bytes long",
            f"Such a file has at most {max_bytes:,}.",
            "Use the model's own file.",
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = "is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ModelError(
            str(path), f"is not JSON ({reason})", "It holds one JSON object.", DAMAGED
        ) from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ModelError(str(path), f"holds a {kind}", "It holds one JSON object.", DAMAGED)
    return content


def total_elements(tensors: Iterable[TensorEntry]) -> int:
    """Returns how many numbers the tensors hold together."""
    return sum(tensor.num_elements for tensor in tensors)
