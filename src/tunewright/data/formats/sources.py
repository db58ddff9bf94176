"""Opens files as streams of bytes: what kind they are, whether they stay the same, how far they
may expand.

A path is looked at with `stat` before it is opened, so that a named pipe or a device is an error
and not a wait without end. Archives are read as streams and never unpacked to disk.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import io
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from tunewright.errors import DataError, listed

MIB = 1 << 20
# Under this many bytes a file may expand by any ratio: a tiny file of blanks is no attack.
FREE_EXPANSION_BYTES = 64 * MIB
CHUNK_BYTES = 1 * MIB

TEXT_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".txt": "lines",
    ".src": "lines",
    ".tgt": "lines",
    ".conll": "conll",
    ".bio": "conll",
    ".bioes": "conll",
    ".iob": "conll",
    ".iob2": "conll",
    ".conllu": "conllu",
}
COLUMNAR_FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
FORMATS = TEXT_FORMATS | COLUMNAR_FORMATS
READABLE = (
    "CSV, TSV, JSONL, JSON, TXT, CONLL, BIO, IOB, CONLLU (each also as .gz or .zip), Parquet and "
    "Arrow files are read."
)
SHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
SHEET = "Save the sheet as CSV (UTF-8), or in Python pass what pandas.read_excel gives."
RENAME = "Rename the file to say what it holds."

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


class Readable(Protocol):
    """A stream of bytes that can be read forward."""

    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What tells whether a file is still the one that was read: size, time of change, inode."""

    path: Path
    size_bytes: int
    changed_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """Stamps a regular file.

        Raises: DataError when nothing is there, or something that is no regular file.
        """
        check_is_file(path)
        status = path.stat()
        return cls(path, status.st_size, status.st_mtime_ns, status.st_ino)

    def check(self) -> None:
        """Raises DataError when the file is no longer the one that was stamped."""
        if not self.path.exists() or FileStamp.of(self.path) != self:
            raise DataError(
                str(self.path),
                "the file changed while it was read",
                "A file has to stay as it is until its rows are used.",
                "Wait until it is written, or use a copy of it.",
            )


def check_is_file(path: Path) -> None:
    """Raises DataError when `path` is missing or is a pipe, device or socket."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise missing_file(path) from None
    except (OSError, ValueError) as error:
        raise DataError(str(path), f"it cannot be read ({_reason(error)})") from None
    for is_kind, words in _KINDS:
        if is_kind(mode):
            raise DataError(
                str(path),
                f"this is {words}",
                "A regular file or a folder is needed.",
                'Standard input is read with the path "-".',
            )


@contextmanager
def os_errors_named(name: str) -> Iterator[None]:
    """Turns what the system refuses (permissions, names too long) into a DataError on `name`."""
    try:
        yield
    except OSError as error:
        raise DataError(name, f"it cannot be read ({_reason(error)})") from None


def missing_file(path: Path) -> DataError:
    """Returns the error for a path that does not exist, with the nearest names beside it."""
    folder = path.parent
    if not folder.is_dir():
        return DataError(str(path), "there is no such file", f'There is no folder "{folder}".')
    names = sorted(
        entry.name for entry in folder.iterdir() if entry.name[0] != "." and entry != path
    )
    near = difflib.get_close_matches(path.name, names, n=3)
    if near:
        return DataError(str(path), "there is no such file", f"Did you mean {listed(near)}?")
    held = f"The folder holds {listed(names)}." if names else "The folder is empty."
    return DataError(str(path), "there is no such file", held)


def format_of(path: Path | PurePosixPath) -> tuple[str, str]:
    """Returns (format, packing) by suffix: `reviews.csv.gz` is `("csv", "gz")`.

    The packing is "", "gz" or "zip"; the format of a zip file is "" until its member is known.
    Raises: DataError when the suffix is not one that is read.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    last = suffixes[-1] if suffixes else ""
    if last == ".zip":
        return "", "zip"
    if last == ".gz" and len(suffixes) > 1 and suffixes[-2] in TEXT_FORMATS:
        return TEXT_FORMATS[suffixes[-2]], "gz"
    if last in FORMATS:
        return FORMATS[last], ""
    found = f'the suffix "{last}" is not one that is read' if last else "the name has no suffix"
    raise DataError(str(path), found, READABLE, SHEET if last in SHEETS else RENAME)


def is_data_file(path: Path) -> bool:
    """Says whether a file's suffix is one that is read."""
    try:
        format_of(path)
    except DataError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text file that can be opened more than once: its bytes after any unpacking."""

    path: Path
    format: str
    packing: str
    max_expansion: float

    @property
    def name(self) -> str:
        return str(self.path)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Opens the unpacked bytes.

        Raises: DataError for a damaged archive, and for one that expands past the limit.
        """
        with self.path.open("rb") as packed:
            if not self.packing:
                yield packed
                return
            limit = max(FREE_EXPANSION_BYTES, int(self.max_expansion * self.path.stat().st_size))
            with self._unpacked(packed) as stream:
                guarded = ExpansionGuard(stream, limit, self.name)
                yield io.BufferedReader(guarded, CHUNK_BYTES)

    @contextmanager
    def _unpacked(self, packed: BinaryIO) -> Iterator[Readable]:
        if self.packing == "gz":
            with gzip.GzipFile(fileobj=packed) as stream:
                yield stream
            return
        with _zip_file(packed, self.name) as archive, archive.open(data_member(archive)) as stream:
            yield stream


def text_file(path: Path, max_expansion: float) -> TextFile:
    """Returns the text file at `path`; for a zip archive, the one data file in it."""
    kind, packing = format_of(path)
    if packing == "zip":
        with path.open("rb") as packed, _zip_file(packed, str(path)) as archive:
            kind = TEXT_FORMATS[PurePosixPath(data_member(archive).filename).suffix.lower()]
    return TextFile(path, kind, packing, max_expansion)


class ExpansionGuard(io.RawIOBase):
    """Passes unpacked bytes on until they are more than `limit_bytes`."""

    def __init__(self, stream: Readable, limit_bytes: int, name: str) -> None:
        self._stream, self._limit_bytes, self._name = stream, limit_bytes, name
        self._num_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            data = self._stream.read(len(buffer))
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
            raise DataError(
                self._name,
                f"the archive is damaged ({_reason(error)})",
                "A whole archive is needed.",
                "Fetch or pack it again.",
            ) from None
        self._num_bytes += len(data)
        if self._num_bytes > self._limit_bytes:
            raise DataError(
                self._name,
                f"the archive unpacks to more than {self._limit_bytes:,} bytes",
                "So great an expansion is refused, since it may be meant to fill the memory.",
                "If you trust the file, unpack it, or raise data.max_file_expansion.",
            )
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def _zip_file(packed: BinaryIO, name: str) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(packed) as archive:
            yield archive
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(name, f"the archive cannot be read ({_reason(error)})") from None


def data_member(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """Returns the one data file in a zip archive.

    Raises: DataError for names that leave the archive, links, encryption, and when there is no
    data file or more than one.
    """
    name = str(getattr(archive.fp, "name", archive.filename))
    for member in archive.infolist():
        _check_member(member, name)
    members = [
        member
        for member in archive.infolist()
        if PurePosixPath(member.filename).suffix.lower() in TEXT_FORMATS
        and not member.filename.startswith("__MACOSX/")
    ]
    if len(members) != 1:
        found = listed(member.filename for member in members) if members else "no data file"
        raise DataError(name, f"the archive holds {found}", "It has to hold one text data file.")
    return members[0]


def _check_member(member: zipfile.ZipInfo, name: str) -> None:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise DataError(
            name,
            f'the archive member "{member.filename}" points outside the archive',
            "Such archives are refused.",
        )
    if stat.S_ISLNK(member.external_attr >> 16):
        raise DataError(
            name, f'the archive member "{member.filename}" is a link', "Such archives are refused."
        )
    if member.flag_bits & 0x1:
        raise DataError(
            name, f'the archive member "{member.filename}" is encrypted', "", "Unpack it first."
        )


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes as they lie on disk, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    """Returns an error's own words, without its path and number."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return words or type(error).__name__
