"""Manifests: every file's size and SHA-256, so that damage is found before it is used.

seal(folder, step=120)     after all files are written
check_manifest(folder)     before any of them is read
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunewright.errors import ModelError
from tunewright.models.files.weights import DAMAGED, read_json_object

MANIFEST = "manifest.json"
CARD = "README.md"
MAX_MANIFEST_BYTES = 10_000_000

# What file systems answer that cannot flush a folder; its files are flushed all the same.
_CANNOT_FLUSH_FOLDERS = {errno.EINVAL, errno.ENOTSUP}


def seal(folder: Path, **about: Any) -> None:
    """Flushes every file to disk, then writes the manifest and flushes it and the folders.

    So a manifest on the disk means that the files it names are there too. `about` are further
    plain values that it holds. Raises OSError when the disk refuses.
    """
    for path in _within(folder):
        if path.is_file():
            flush(path)
    _write_manifest(folder, about)
    flush(folder / MANIFEST)
    for path in (*_within(folder), folder):
        if path.is_dir():
            flush(path)


def _write_manifest(folder: Path, about: Mapping[str, Any]) -> None:
    """Writes manifest.json with size and SHA-256 of every file but the model card.

    The card is there to be edited. No line end follows the last brace, so that a manifest of
    which even one byte is cut off is not JSON.
    """
    files = {
        path.relative_to(folder).as_posix(): {
            "size_bytes": path.stat().st_size,
            "sha256": digest_of(path),
        }
        for path in _within(folder)
        if path.is_file() and path.name not in {MANIFEST, CARD}
    }
    text = json.dumps({**about, "files": files}, indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def check_manifest(folder: Path) -> dict[str, Any]:
    """Compares a folder with its manifest.json and returns what that holds.

    Files that the manifest does not name are free. Raises ModelError naming the first file that is
    missing or damaged, or when there is no manifest.
    """
    manifest = read_manifest(folder)
    for name, stated in manifest["files"].items():
        found = _difference(folder / name, stated) if _is_inside(name) else "lies outside"
        if found:
            raise ModelError(
                str(folder / name),
                found,
                "The folder is not as it was saved.",
                "Use another copy, or train again.",
            )
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns what manifest.json holds, without looking at the files.

    Raises ModelError when there is none, or it is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ModelError(str(folder), f"holds no {MANIFEST}", "It was not saved by Tunewright.")
    manifest = read_json_object(path, MAX_MANIFEST_BYTES)
    if not isinstance(manifest.get("files"), dict):
        raise ModelError(str(path), 'has no "files"', "It lists the folder's files.", DAMAGED)
    return manifest


def _within(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


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
    if digest_of(path) != expected.get("sha256"):
        return "is damaged: its SHA-256 is not the manifest's"
    return ""


def digest_of(path: Path) -> str:
    """Returns the SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not path.is_dir() or error.errno not in _CANNOT_FLUSH_FOLDERS:
            raise
    finally:
        os.close(handle)
