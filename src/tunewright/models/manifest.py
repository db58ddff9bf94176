"""Manifests: every file's size and SHA-256, so that damage is found before it is used."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from tunewright.errors import ModelError
from tunewright.models.weights import DAMAGED, read_json_object

MANIFEST = "manifest.json"
CARD = "README.md"
MAX_MANIFEST_BYTES = 10_000_000


def write_manifest(folder: Path) -> None:
    """Writes manifest.json with size and SHA-256 of every file but the model card.

    The card is there to be edited.
    """
    files = {
        path.relative_to(folder).as_posix(): {
            "size_bytes": path.stat().st_size,
            "sha256": _sha256(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in {MANIFEST, CARD}
    }
    text = json.dumps({"files": files}, indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def check_manifest(folder: Path) -> None:
    """Compares a folder with its manifest.json; files that the manifest does not name are free.

    Raises ModelError naming the first file that is missing or damaged, or when there is no
    manifest.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ModelError(str(folder), f"holds no {MANIFEST}", "It was not saved by Tunewright.")
    files = read_json_object(path, MAX_MANIFEST_BYTES).get("files")
    if not isinstance(files, dict):
        raise ModelError(str(path), 'has no "files"', "It lists the folder's files.", DAMAGED)
    for name, stated in files.items():
        found = _difference(folder / name, stated) if _is_inside(name) else "lies outside"
        if found:
            raise ModelError(
                str(folder / name),
                found,
                "The folder is not as it was saved.",
                "Use another copy, or train again.",
            )


def _is_inside(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _difference(path: Path, stated: Any) -> str:
    """Says how a file differs from what the manifest states, or returns ""."""
    expected = stated if isinstance(stated, dict) else {}
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != expected.get("size_bytes"):
        return f"has {size:,} bytes, and the manifest says {expected.get('size_bytes')}"
    if _sha256(path) != expected.get("sha256"):
        return "is damaged: its SHA-256 is not the manifest's"
    return ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush_folder(folder: Path) -> None:
    """Flushes every file of a folder, and the folder itself, to disk."""
    for path in sorted(folder.rglob("*")):
        flush(path)
    flush(folder)


def flush(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some file systems cannot flush a folder; its files are flushed
            raise
    finally:
        os.close(handle)
