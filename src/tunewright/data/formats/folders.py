"""Finds the data sets in a folder: files or folders named by split, or a folder of texts per class.

reviews/train.csv, reviews/test.csv             two splits
bbc/business/001.txt, bbc/tech/001.txt          one text per file, the folder is its label
notes/monday.txt, notes/tuesday.txt             the same, of one label
imdb/train/pos/0.txt, imdb/test/neg/0.txt       both
saved/dataset_info.json, saved/state.json       what `datasets` saved to disk
pets/metadata.jsonl, pets/dog.png               pictures beside the table that names them
pets/train/metadata.csv, pets/test/metadata.csv the same in splits
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from tunewright.data.formats.encoding import find_encoding
from tunewright.data.formats.sources import FileStamp, TextFile, is_data_file
from tunewright.data.table import Table
from tunewright.errors import DataError, listed

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "eval": "validation",
    "evaluation": "validation",
    "test": "test",
    "testing": "test",
}
# `train-00000-of-00003.parquet`, as the Hub cuts a split into files.
_SHARD = re.compile(r"^(?P<name>.+)-\d+-of-\d+$")
# `en_ewt-ud-train.conllu`, as Universal Dependencies name a treebank's files.
_TREEBANK = re.compile(r"^.+-ud-(?P<name>[a-z]+)$")
# As the Hub calls the table of a folder of pictures.
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
NEEDED = (
    "A folder has to hold files named by split (such as train.csv and test.csv), or one folder "
    "of .txt files per class."
)


def visible(folder: Path) -> list[Path]:
    """Returns a folder's entries by name, without the hidden ones."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def is_saved_dataset(folder: Path) -> bool:
    """Says whether `datasets` saved this folder with `save_to_disk`."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def saved_files(folder: Path) -> dict[str, list[Path]]:
    """Returns the Arrow files of each split that `datasets` saved; {} where they cannot be told."""
    try:
        if not (folder / "dataset_dict.json").is_file():
            return {"train": _data_files(folder)}
        names = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        return {SPLIT_NAMES.get(name, name): _data_files(folder / name) for name in names}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _data_files(folder: Path) -> list[Path]:
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return [folder / Path(file["filename"]).name for file in state["_data_files"]]


def split_entries(folder: Path) -> dict[str, list[Path]]:
    """Returns the files or folder of each split in `folder`, by the split's usual name.

    Raises: DataError when two entries claim one split.
    """
    found: dict[str, list[Path]] = {}
    for entry in visible(folder):
        split = SPLIT_NAMES.get(_split_word(entry))
        if split and (entry.is_dir() or is_data_file(entry)):
            found.setdefault(split, []).append(entry)
    for split, entries in found.items():
        if len(entries) > 1 and not all(_SHARD.match(_stem(entry)) for entry in entries):
            raise DataError(
                str(folder),
                f"{listed(entry.name for entry in entries)} both hold {split} rows",
                "Each split needs one file, or files numbered like train-00000-of-00003.parquet.",
                "Remove or rename one of them.",
            )
    if not found and (folder / "data").is_dir():
        return split_entries(folder / "data")
    return found


def metadata_entries(folder: Path) -> dict[str, list[Path]]:
    """Returns the table that names the pictures beside it, of each split, by the split's name.

    A folder that holds something else that can be read has none.
    """
    entries = visible(folder)
    named = {entry: SPLIT_NAMES.get(_split_word(entry)) for entry in entries}
    if any(split and is_data_file(entry) for entry, split in named.items()):
        return {}
    places = {"train": folder} | {
        split: entry for entry, split in named.items() if split and entry.is_dir()
    }
    return {
        split: tables[:1]
        for split, place in places.items()
        if (tables := [table for name in METADATA if (table := place / name).is_file()])
        and not class_folders(place)
    }


def _stem(entry: Path) -> str:
    return entry.name.split(".")[0].lower()


def _split_word(entry: Path) -> str:
    match = _SHARD.match(_stem(entry)) or _TREEBANK.match(_stem(entry))
    return match["name"] if match else _stem(entry)


def class_folders(folder: Path) -> list[Path]:
    """Returns the folders that hold .txt files, one folder per class: those in `folder`, or it."""
    inner = [entry for entry in visible(folder) if entry.is_dir() and any(entry.glob("*.txt"))]
    return inner or ([folder] if any(folder.glob("*.txt")) else [])


def read_class_folders(folder: Path, encoding: str | None, max_text_bytes: int) -> Table:
    """Returns one row per text file, with the columns text, label (its folder) and file.

    Raises: DataError for a file that cannot be decoded, or is longer than `max_text_bytes`.
    """
    paths = [path for entry in class_folders(folder) for path in sorted(entry.glob("*.txt"))]
    stamps = tuple(FileStamp.of(path) for path in paths)
    for stamp in stamps:
        if stamp.size_bytes > max_text_bytes:
            raise DataError(
                str(stamp.path),
                f"the text has {stamp.size_bytes:,} bytes",
                f"The limit is {max_text_bytes:,}.",
                "Cut it, or raise data.max_text_bytes.",
            )
    decoded = [_decoded(path, encoding) for path in paths]
    return table_of_texts(str(folder), paths, decoded, stamps)


def table_of_texts(
    name: str,
    paths: Sequence[Path],
    decoded: Sequence[tuple[str, str]],
    stamps: tuple[FileStamp, ...],
) -> Table:
    """Returns the table of text files from their paths and their (text, encoding)."""
    columns = {
        "text": [text for text, _ in decoded],
        "label": [path.parent.name for path in paths],
        "file": [f"{path.parent.name}/{path.name}" for path in paths],
    }
    codecs = sorted({codec for _, codec in decoded})
    return Table(
        name,
        pa.table({key: pa.array(values, pa.large_string()) for key, values in columns.items()}),
        np.ones(len(paths), np.int64),
        tuple(f"{name}/{file}" for file in columns["file"]),
        np.arange(len(paths)),
        ", ".join(codecs),
        files=stamps,
    )


def _decoded(path: Path, encoding: str | None) -> tuple[str, str]:
    file = TextFile(path, "lines", "", 1.0)
    codec = find_encoding(file.open, file.name, encoding)
    return path.read_bytes().decode(codec), codec
