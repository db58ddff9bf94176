"""Encoded rows kept between runs, by the SHA-256 of all that decides them.

    cache = RowCache.usual()
    cache.put(key, arrays, kinds, about)    # written beside, flushed, sealed, renamed
    cache.find(key)                         # checked against its manifest before it is used

A key is made of the rows' own values, the task, the tokenizer and the versions of what encodes, so
an entry cannot be out of date. Two processes may use one cache: an entry is there whole or not at
all, and of two that write the same one the second is thrown away. The entries that were not used
for longest go when all are larger than `TUNEWRIGHT_CACHE_GB`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors.numpy import save_file

from tunewright import __version__
from tunewright.caches import cache_folder, temporary_folder, usual_folder
from tunewright.data.table import TableRows
from tunewright.errors import ModelError, SettingsError
from tunewright.models.files.manifest import MANIFEST, check_manifest, flush, read_manifest, seal
from tunewright.models.text.tokenizers import backends_of
from tunewright.tasks.base import Task
from tunewright.training.flat_rows import FlatRows

FORM = 7  # raised whenever rows are encoded or laid down in another way
DEFAULT_GB = 10.0
ARRAYS = "rows.safetensors"
READINGS = 3  # of an entry, before it counts as damaged
# What is half written and this old was left by a process that was killed.
LEFT_BEHIND_SECONDS = 3600.0

_ENCODERS = ("tokenizers", "transformers", "rjieba")
_DTYPES = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "I16": np.int16, "I32": np.int32,
    "I64": np.int64, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64, "F16": np.float16,
    "F32": np.float32, "F64": np.float64,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One split's encoded rows: how large they are, of which task, and when they were last used."""

    key: str
    num_bytes: int
    num_rows: int
    task: str
    last_used: float

    def to_json(self) -> dict[str, Any]:
        used = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.last_used))
        return {"key": self.key, "num_bytes": self.num_bytes, "num_rows": self.num_rows,
                "task": self.task, "last_used": used}  # fmt: skip


@dataclass(frozen=True)
class Kept:
    """The rows of an entry, and what was kept beside them."""

    rows: FlatRows
    arrays: Mapping[str, np.ndarray]
    about: Mapping[str, Any]


@dataclass(frozen=True)
class CacheContents:
    """What the cache holds, the entry last used first; `num_cleared` were just removed."""

    folder: Path
    max_bytes: int
    entries: tuple[Entry, ...]
    num_cleared: int = 0

    @property
    def num_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self.entries)

    def to_json(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "max_bytes": self.max_bytes,
            "num_bytes": self.num_bytes,
            "num_cleared": self.num_cleared,
            "entries": [entry.to_json() for entry in self.entries],
        }


def cache(clear: bool = False) -> CacheContents:
    """Returns what the cache of encoded rows holds, with `clear` after all of it is removed.

    It lies in `TUNEWRIGHT_CACHE`, or where the system keeps caches, and grows to
    `TUNEWRIGHT_CACHE_GB` (10; 0 keeps nothing).
    """
    kept = RowCache.usual()
    num_cleared = kept.clear() if clear else 0
    entries = tuple(reversed(kept.entries()))
    return CacheContents(kept.folder, kept.max_bytes, entries, num_cleared)


@dataclass(frozen=True)
class RowCache:
    """A folder of entries, which may together have `max_bytes`."""

    folder: Path
    max_bytes: int

    @classmethod
    def usual(cls) -> Self:
        """Returns the user's cache; raises SettingsError when its size is no number."""
        given = os.environ.get("TUNEWRIGHT_CACHE_GB", str(DEFAULT_GB))
        try:
            size = float(given)
        except ValueError:
            size = math.nan
        if not 0 <= size < math.inf:
            raise SettingsError(
                "TUNEWRIGHT_CACHE_GB", f'it is "{given}"', "It has to be a number of gigabytes.",
                "Write 10, or 0 to keep nothing.",
            )  # fmt: skip
        named = os.environ.get("TUNEWRIGHT_CACHE")
        if named:
            folder = Path(named) / "encoded"
        elif size or usual_folder():
            folder = cache_folder("encoded")
        else:  # there is no home, and nothing is to be kept
            folder = temporary_folder() / "encoded"
        return cls(folder, int(size * 1e9))

    def find(self, key: str, note: Callable[[str], None] = lambda _: None) -> Kept | None:
        """Returns an entry, or None where there is none; a damaged one is removed and told of.

        Another process may remove an entry and write it anew while this one reads it, so only one
        that cannot be read again and again is damaged.
        """
        place = self.folder / key
        for attempt in range(1, READINGS + 1):
            if not place.is_dir():
                return None
            try:
                about = check_manifest(place)
                arrays = _mapped(place / ARRAYS)
                os.utime(place / MANIFEST)
                return Kept(FlatRows(arrays, about["kinds"]), arrays, about)
            except (ModelError, OSError, KeyError, ValueError) as error:
                if attempt == READINGS and place.is_dir():
                    note(f"An entry of the cache is damaged ({error}); it is made anew.")
                    self._remove(place)
        return None

    def put(
        self,
        key: str,
        arrays: Mapping[str, np.ndarray],
        kinds: Mapping[str, str],
        about: Mapping[str, Any],
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Keeps rows under a key, and removes what was not used for longest if it gets too much.

        What cannot be written is told of and left out: a run does not need it.
        """
        num_bytes = sum(array.nbytes for array in arrays.values())
        if num_bytes > self.max_bytes:
            return
        partial = self.folder / f".{key}.{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            if shutil.disk_usage(self.folder).free < 2 * num_bytes:
                return
            partial.mkdir()
            save_file(
                {name: np.ascontiguousarray(array) for name, array in arrays.items()},
                partial / ARRAYS,
            )
            seal(partial, **about, kinds=dict(kinds), num_rows=len(arrays["windows"]))
            with suppress(OSError):  # another process was first
                partial.rename(self.folder / key)
            flush(self.folder)
        except OSError as error:
            note(f"The encoded rows could not be kept in {self.folder} ({error.strerror}).")
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._evict()

    def entries(self) -> list[Entry]:
        """Returns every entry, the one not used for longest first."""
        found = []
        for place in self._places():
            with suppress(ModelError, OSError, KeyError):
                about = read_manifest(place)
                size = sum(file.stat().st_size for file in place.iterdir())
                used = (place / MANIFEST).stat().st_mtime
                found.append(Entry(place.name, size, about["num_rows"], about["task"], used))
        return sorted(found, key=lambda entry: entry.last_used)

    def clear(self) -> int:
        """Removes everything, also what killed processes left; returns how many entries there were.

        What a process is still writing is left to it: emptied under its hands, it would be renamed
        to an entry of which files are missing.
        """
        places = self._places()
        for place in (*places, *filter(_is_left_behind, self._partials())):
            self._remove(place)
        return len(places)

    def _places(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return [place for place in self.folder.iterdir() if not place.name.startswith(".")]

    def _partials(self) -> list[Path]:
        return [place for place in self.folder.glob(".*") if place.is_dir()]

    def _sweep(self) -> None:
        """Removes what processes that were killed had half written."""
        for place in self._partials():
            with suppress(OSError):
                if time.time() - place.stat().st_mtime > LEFT_BEHIND_SECONDS:
                    self._remove(place)

    def _evict(self) -> None:
        entries = self.entries()
        total = sum(entry.num_bytes for entry in entries)
        for entry in entries:
            if total <= self.max_bytes:
                return
            self._remove(self.folder / entry.key)
            total -= entry.num_bytes

    def _remove(self, place: Path) -> None:
        """Removes an entry so that nobody finds half of it: it loses its name first."""
        gone = place
        if not place.name.startswith("."):
            gone = place.with_name(f".{place.name}.{os.getpid()}.gone")
            with suppress(OSError):
                place.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _is_left_behind(partial: Path) -> bool:
    """Says whether the process that a half-written entry is named after has ended."""
    pid = [*partial.name.split("."), "", ""][2]
    if not pid.isdigit():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it is another user's
        return False
    return False


def _mapped(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a safetensors file as views of the file, which is mapped."""
    data = np.asarray(np.memmap(path, np.uint8, "r"))
    start = 8 + int(data[:8].view("<u8")[0])
    header = json.loads(bytes(data[8:start]))
    header.pop("__metadata__", None)
    return {
        name: data[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]]
        .view(_DTYPES[entry["dtype"]])
        .reshape(entry["shape"])
        for name, entry in header.items()
    }


def key_of(rows: TableRows, task: Task, tokenizer: Any) -> str:
    """Returns the name of the rows' entry: a SHA-256 of all that decides what they encode to."""
    parts = {
        "form": FORM,
        "versions": {"tunewright": __version__, **{name: _version(name) for name in _ENCODERS}},
        "task": task.to_json(),
        "tokenizer": [
            type(tokenizer).__name__,
            [backend.to_str() for backend in backends_of(tokenizer)],
            tokenizer.model_input_names,
            tokenizer.special_tokens_map,
        ],
    }
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(f"{rows.content_digest()} {text}".encode()).hexdigest()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
