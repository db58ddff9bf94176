"""Everything Tunewright raises on purpose.

    TunewrightError                 exit status 1
    ├── UserError                   exit status 2: the user's input
    │   ├── DataError               a file, a row, a column, a label
    │   ├── SettingsError           a configuration key or its value
    │   └── ModelError              a model folder, its weights, its tokenizer
    ├── GateError                   exit status 3: a gate the user set, or parity, refused
    │   ├── AuditRefused
    │   └── ParityRefused
    ├── Overloaded                  more is asked at once than can wait for an answer
    └── RunError                    exit status 1: the run itself failed
        ├── NonFiniteLoss
        ├── OutOfMemory
        ├── ProcessLost
        └── Stopped                 exit status 143: SIGTERM, after the run was saved
            └── Interrupted         exit status 130: SIGINT, the same

Every message says, in one line: where - what was found - what is needed - what to do.
"""

from __future__ import annotations

import difflib
import os
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path


class TunewrightError(Exception):
    """The root of all errors raised on purpose.

    `where` is a file, row, setting or object; `found` what is there; `needed` what has to be
    there, as a whole sentence; `remedy` what the user can do, as a whole sentence.
    """

    exit_status = 1

    def __init__(self, where: str, found: str, needed: str = "", remedy: str = "") -> None:
        self.where, self.found, self.needed, self.remedy = where, found, needed, remedy
        sentences = [f"{where}: {found.rstrip('.')}.", needed, remedy]
        super().__init__(" ".join(sentence for sentence in sentences if sentence))

    def __reduce__(self) -> tuple[type[TunewrightError], tuple[str, str, str, str]]:
        """Pickles by the four parts, so that errors cross process borders whole."""
        return type(self), (self.where, self.found, self.needed, self.remedy)


class UserError(TunewrightError):
    """The user's input cannot be used as it is."""

    exit_status = 2


class DataError(UserError):
    """A data file, row, column or label cannot be used."""


class SettingsError(UserError):
    """A configuration key or value is wrong."""


class ModelError(UserError):
    """A model folder is missing something, damaged, or not supported."""


class GateError(TunewrightError):
    """A gate refused to go on."""

    exit_status = 3


class AuditRefused(GateError):
    """The data crossed a limit that the user set in `[audit]`."""


class ParityRefused(GateError):
    """An artefact does not answer as the one that it was made from."""


class Overloaded(TunewrightError):
    """More is asked of a model at once than can wait for an answer."""


class RunError(TunewrightError):
    """The run failed after it had begun."""


class NonFiniteLoss(RunError):
    """The loss or a gradient became NaN or infinite; the update was not applied."""


class OutOfMemory(RunError):
    """A single sequence does not fit into memory; the update was not applied."""


class ProcessLost(RunError):
    """Another process of the run ended, or did not answer in time."""


class Stopped(RunError):
    """SIGTERM came; the run finished its update, was saved, and can be resumed."""

    exit_status = 143


class Interrupted(Stopped):
    """SIGINT came (Ctrl-C); the run finished its update, was saved, and can be resumed."""

    exit_status = 130


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Returns the known name most like `word`, or None when nothing is near."""
    folded = {name.casefold(): name for name in known}
    matches = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.6)
    return folded[matches[0]] if matches else None


def listed(names: Iterable[object], limit: int = 8) -> str:
    """Returns names as text for a message: `"a", "b", "c" and 4 more`."""
    quoted = [f'"{name}"' for name in names]
    shown = ", ".join(quoted[:limit])
    return shown if len(quoted) <= limit else f"{shown} and {len(quoted) - limit} more"


class TunewrightWarning(UserWarning):
    """What was done to data and should be known: texts that were cut, a column that was guessed."""


def warned(sentence: str) -> None:
    """Warns whoever called the package: the place that a warning names is theirs."""
    here, level, frame = f"{Path(__file__).parent}{os.sep}", 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(here):
        frame, level = frame.f_back, level + 1
    warnings.warn(sentence, TunewrightWarning, stacklevel=level)
