"""Where a user's caches lie: encoded rows, converted models, native code.

    ~/.cache/tunewright                 Linux; XDG_CACHE_HOME in the place of ~/.cache
    ~/Library/Caches/tunewright         macOS
    %LOCALAPPDATA%/tunewright/cache     Windows
    /tmp/tunewright-UID                 of a user without a home, who alone may read and write it

All that lies there can be made again.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from tunewright.errors import RunError


def cache_folder(part: str) -> Path:
    """Returns the folder of one of the caches, which may not be there yet.

    Raises RunError for a user without a home where others have the folder among what is temporary.
    """
    folder = usual_folder() or private_folder()
    if folder is None:
        raise RunError(
            str(temporary_folder()), "it is not yours alone",
            "A user without a home has the caches there.", "Name a folder in XDG_CACHE_HOME.",
        )  # fmt: skip
    with suppress(OSError):  # whoever writes there says what is wrong
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / part


def usual_folder() -> Path | None:
    """Returns where the system keeps this user's caches, None where there is no home."""
    try:
        if sys.platform == "win32":
            local = os.environ.get("LOCALAPPDATA")
            return Path(local or Path.home() / "AppData" / "Local") / "tunewright" / "cache"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "tunewright"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunewright"
    except RuntimeError:  # that of a container may be nobody
        return None


def private_folder() -> Path | None:
    """Returns a folder among what is temporary, None where others have it or can write to it."""
    path = temporary_folder()
    if path.exists() or path.is_symlink():
        told = path.lstat()
        if not stat.S_ISDIR(told.st_mode) or told.st_mode & 0o077 or told.st_uid != _user():
            return None
    return path


def temporary_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"tunewright-{_user()}"


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0
