"""Whether large files are still those that a run was begun with.

Rows that stay on the disk are known by a sample when a run begins. Every byte is known later: a
thread reads the files whole while training goes on, and their SHA-256 is kept in `begun.json`. A
run that goes on takes files for the same when their size and time of change are, and compares
every byte, before it trains, when somebody has written since.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunewright.data.formats.sources import FileStamp
from tunewright.data.large.blocks import BlockRows
from tunewright.data.large.whole_digest import WholeDigests
from tunewright.errors import DataError, SettingsError
from tunewright.types import Rows


def files_of(rows: Rows) -> list[FileStamp]:
    """Returns the files that rows stay in; none for rows in memory."""
    return [file.stamp for file in rows.table.files] if isinstance(rows, BlockRows) else []


class SameFiles:
    """The files of a run, and what is `known` of them: what `to_json` said when the run began."""

    def __init__(
        self, stamps: Sequence[FileStamp], known: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self._stamps, self._digests = list(stamps), WholeDigests(stamps)
        self._sha256: list[str | None] = [None] * len(self._stamps)
        self._known = list(known) if len(known) == len(self._stamps) else []
        if not self._was_touched():
            self._sha256 = [entry["sha256"] for entry in self._known] or self._sha256

    @property
    def is_complete(self) -> bool:
        """Whether the digests of all files are known."""
        return None not in self._sha256

    def compare(self, where: str, note: Callable[[str], None]) -> None:
        """Compares every byte with what the run was begun with, where somebody has written since.

        Raises SettingsError when a file is another one, DataError when it cannot be read.
        """
        if not self._was_touched():
            return
        expected = [entry["sha256"] for entry in self._known]
        name = str(self._stamps[0].path)
        if None in expected:
            note(
                f"{name}: it was written to since the run began, which was cut off before it had "
                "read all of it. A sample of its rows is the same."
            )
            return
        note(f"{name}: it was written to since the run began, so all of it is compared first.")
        found = self._digests.found(wait=True) or []
        for stamp, before, now in zip(self._stamps, expected, found, strict=True):
            if before != now:
                raise SettingsError(
                    where,
                    f"{stamp.path} is not the file that the run was begun with",
                    "A sample of its rows is the same; other bytes differ.",
                    "Resume it with the file that it was begun with, or train a new run.",
                )
        self._sha256 = list(found)

    def look(self) -> bool:
        """Begins to read in the background what is not known; returns whether it just became known.

        It is called now and then while a run trains.
        """
        if self.is_complete:
            return False
        self._digests.begin()
        try:
            found = self._digests.found()
        except DataError:
            return False  # training tells of it, when it meets the file
        if found is None:
            return False
        self._sha256 = list(found)
        return True

    def to_json(self) -> list[dict[str, Any]]:
        """Returns what is known of each file; `sha256` is None until it is."""
        return [
            {"size_bytes": stamp.size_bytes, "changed_ns": stamp.changed_ns, "sha256": sha256}
            for stamp, sha256 in zip(self._stamps, self._sha256, strict=True)
        ]

    def _was_touched(self) -> bool:
        return any(
            (entry["size_bytes"], entry["changed_ns"]) != (stamp.size_bytes, stamp.changed_ns)
            for entry, stamp in zip(self._known, self._stamps, strict=bool(self._known))
        )
