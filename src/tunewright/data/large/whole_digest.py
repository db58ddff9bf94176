"""The SHA-256 of files that are too large to be waited for, worked out beside other work."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence

from tunewright.data.formats.sources import FileStamp
from tunewright.data.large.read_ahead import CHUNK_BYTES, ReadAhead
from tunewright.errors import DataError


class WholeDigests:
    """Reads files whole in a thread of its own, from `begin` on."""

    def __init__(self, stamps: Sequence[FileStamp]) -> None:
        self._stamps = list(stamps)
        self._found: list[str] = []
        self._error: DataError | None = None
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Begins to read, unless it has begun."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._read_all, name="digests", daemon=True)
            self._thread.start()

    def found(self, wait: bool = False) -> list[str] | None:
        """Returns the digests, in the order of the files; None while they are not all known.

        Raises: DataError when a file changed while it was read, or cannot be read.
        """
        if wait:
            self.begin()
        if self._thread is None:
            return None
        self._thread.join(None if wait else 0)
        if self._thread.is_alive():
            return None
        if self._error is not None:
            raise self._error
        return self._found

    def _read_all(self) -> None:
        try:
            for stamp in self._stamps:
                self._found.append(_digest_of(stamp))
        except DataError as error:
            self._error = error
        except OSError as error:
            self._error = DataError(str(stamp.path), f"it cannot be read ({error.strerror})")


def _digest_of(stamp: FileStamp) -> str:
    stamp.check()
    digest, chunk = hashlib.sha256(), memoryview(bytearray(CHUNK_BYTES))
    with ReadAhead(stamp.path) as stream:
        while num_read := stream.readinto(chunk):
            digest.update(chunk[:num_read])
    stamp.check()
    return digest.hexdigest()
