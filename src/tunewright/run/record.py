"""The run folder: where everything about a run is written, and nothing is overwritten."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tunewright.answers import finite
from tunewright.errors import SettingsError
from tunewright.models.files.manifest import flush

ABOUT = "run.json"
LOCK = ".lock"


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run folder, and how its files are written."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "run.toml"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def is_finished(self) -> bool:
        """Whether everything of the run was written; a run that was killed can be resumed."""
        file = self.path / ABOUT
        return file.is_file() and json.loads(file.read_text(encoding="utf-8"))["complete"]

    @property
    def is_cut_off(self) -> bool:
        """Whether this is a run that did not finish and that nobody is training."""
        if not is_run_folder(self.path) or self.is_finished:
            return False
        try:
            with self.locked():
                return True
        except SettingsError:
            return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other trainers out of the folder for a block; the lock dies with the process.

        Raises SettingsError at once when another one is in it.
        """
        try:
            with FileLock(self.path / LOCK, blocking=False):
                yield
        except Timeout:
            raise SettingsError(
                str(self.path),
                "another process is training in this folder",
                "Two would spoil each other's files.",
                "Wait until it ends, or stop it first.",
            ) from None

    def write_text(self, name: str, text: str) -> None:
        """Writes a file whole or not at all, and waits until it is on the disk."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_text(text, encoding="utf-8")
        flush(partial)
        partial.replace(target)
        flush(target.parent)

    def write_json(self, name: str, value: Any) -> None:
        self.write_text(name, json.dumps(value, ensure_ascii=False, indent=2) + "\n")

    def read_json(self, name: str) -> Any:
        """Reads one of the run's JSON files; raises SettingsError where it is missing."""
        file = self.path / name
        if not file.exists():
            raise SettingsError(
                str(self.path), f"there is no {name}", "A finished run folder has one.",
                "Train the run to its end first.",
            )  # fmt: skip
        return json.loads(file.read_text(encoding="utf-8"))


def new_run_folder(folder: str, name: str | None, data_name: str) -> RunFolder:
    """Makes a folder for a run; a name that is taken gets a number, so nothing is overwritten."""
    return RunFolder(new_folder(Path(folder), name or name_of(data_name) or "run"))


def check_is_no_run(source: Any) -> None:
    """Raises SettingsError, saying how to go on, when data to train on is a run folder."""
    if not isinstance(source, str | PathLike) or not is_run_folder(Path(source)):
        return
    folder = RunFolder(Path(source))
    longer = " num_train_epochs=6" if folder.is_finished else ""
    raise SettingsError(
        str(folder.path),
        "this is a finished run" if longer else "this is a run that did not finish",
        "Training needs data.",
        f"To {'make it longer' if longer else 'go on with it'}: tunewright resume "
        f"{folder.path}{longer}. To train it anew: tunewright train {folder.config}",
    )


def cut_off_before(folder: RunFolder) -> RunFolder | None:
    """Returns the newest run of the same name, but for its number, that can be resumed."""
    base, dash, number = folder.path.name.rpartition("-")
    if not dash or not number.isdigit():
        return None
    names = [base, *(f"{base}-{n}" for n in range(2, int(number)))]
    others = (RunFolder(folder.path.with_name(name)) for name in reversed(names))
    return next((other for other in others if other.is_cut_off), None)


def name_of(source: str) -> str:
    """Returns a data source's name as a folder may have it; "" where nothing of it is left."""
    return re.sub(r"[^\w.-]+", "-", Path(source).name.split(".")[0]).strip("-")


def new_folder(parent: Path, name: str) -> Path:
    """Makes a folder; a name that is taken gets a number."""
    for number in range(1, 100_000):
        path = parent / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise SettingsError(
                str(path), f"the folder cannot be made ({error.strerror})", "A run needs a folder.",
                "Name another place with output.folder.",
            ) from None  # fmt: skip
        return path
    raise SettingsError(str(parent), f'there are 100,000 folders "{name}"', "", "Use another name.")


def is_run_folder(path: Path) -> bool:
    return (path / "run.toml").is_file()


@cache
def versions() -> dict[str, str]:
    """Returns the versions of what the numbers depend on, as they were when a process first asked.

    A package that is replaced, or taken away, while a run goes on is not what the run has loaded.
    """
    from importlib.metadata import version
    from platform import platform, python_version

    names = ("tunewright", "torch", "transformers", "tokenizers", "safetensors", "numpy")
    found = {name: version(name) for name in names}
    return {"python": python_version(), **found, "platform": platform()}


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Adds one object to a JSON lines file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(finite(value), ensure_ascii=False, allow_nan=False) + "\n")
