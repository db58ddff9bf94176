"""Where a user's caches lie: encoded rows, converted models, native code.

    XDG_CACHE_HOME/tunewright           where that is set
    ~/.cache/tunewright                 Linux
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

    Raises RunError for a user without a home where there can be no private folder either.
    """
    folder = usual_folder() or private_folder()
    if folder is None:
        raise RunError(
            str(temporary_folder()), "it cannot be made, or others may write to it",
            "A user without a home has the caches there.", "Name a folder in XDG_CACHE_HOME.",
        )  # fmt: skip
    return folder / part


def usual_folder() -> Path | None:
    """Returns where the system keeps this user's caches, None where there is no home."""
    given = os.environ.get("XDG_CACHE_HOME")
    if given:
        return Path(given) / "tunewright"
    try:
        if sys.platform == "win32":
            local = os.environ.get("LOCALAPPDATA")
            return Path(local or Path.home() / "AppData" / "Local") / "tunewright" / "cache"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "tunewright"
        return Path.home() / ".cache" / "tunewright"
    except RuntimeError:  # that of a container may be nobody
        return None


def private_folder() -> Path | None:
    """Makes a folder among what is temporary; None where it cannot, or others may write to it."""
    path = temporary_folder()
    try:
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        told = path.lstat()
    except OSError:
        return None
    is_own = stat.S_ISDIR(told.st_mode) and not told.st_mode & 0o077 and told.st_uid == _user()
    return path if is_own else None


def temporary_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"tunewright-{_user()}"


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0
