"""Checkpoints: a folder appears whole, with a manifest, or not at all.

    checkpoints/
      step-000120/
        model.safetensors       the weights that learn
        optimizer.safetensors   the optimizer's moments
        average.safetensors     the moving average of the weights, where there is one
        best.safetensors        the weights of the best evaluation, where there is one
        state.json              everything else, as plain values
        manifest.json           the update, and size and SHA-256 of every file

Each holds all that training needs to go on, so that any of them can be lost. Files go to a hidden
folder beside the others; they are flushed to the disk, described by the manifest, and renamed
together. A kill, a full disk or an I/O error at any instant leaves the earlier checkpoints whole.

Several processes write their shares side by side, into `model-00001-of-00002.safetensors` and so
on. A share is some of the tensors, each whole, so that any number of processes can go on from it.
Of a tensor in pieces the process that writes it gathers the others' rows, one tensor after another.
Their disk has to be one that all of them see.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tunewright.devices.processes import ALONE, Processes
from tunewright.errors import ModelError, RunError
from tunewright.models.files.manifest import check_manifest, flush, read_manifest, seal
from tunewright.models.files.weights import read_json_object
from tunewright.training.sharding import Shard
from tunewright.training.shares import shares

STATE = "state.json"
FORMAT = 1  # counts the ways in which checkpoints have been written
SUFFIX = ".safetensors"
SHARE = re.compile(r"-\d{5}-of-\d{5}$")
PARTIAL, REMOVED = ".partial", ".removed"  # endings of hidden folders that are not checkpoints
# The state holds some numbers, and the updates that no line of the log has yet.
MAX_STATE_BYTES = 100_000_000
# What a file needs beyond its tensors: header, state, manifest and the blocks of the file system.
SPARE_BYTES = 4 << 20


@dataclass(frozen=True)
class Checkpoint:
    """All of a training run after update `step`.

    `tensors` maps the names of files, without suffix, to named tensors; `state` holds plain
    values.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor | Shard]]
    state: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """The size of the tensors, which is nearly all that a save writes."""
        return sum(tensor.nbytes for named in self.tensors.values() for tensor in named.values())


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run; the newest `limit` that are whole are kept.

    All `processes` of the run save together; each raises what one of them has met.
    """

    folder: Path
    limit: int = 2
    processes: Processes = ALONE

    def save(self, checkpoint: Checkpoint) -> Path:
        """Writes a checkpoint and returns its folder, which is on the disk and has been read back.

        Only then are older ones dropped. What killed saves left behind is cleared first.
        Raises RunError when it cannot be written; the earlier ones are then as they were.
        """
        partial = self.folder / f".{_name(checkpoint.step)}{PARTIAL}"
        self.processes.led(lambda: self._open(partial, checkpoint.num_bytes))
        self._write_share(partial, checkpoint)
        return Path(self.processes.led(lambda: self._publish(partial, checkpoint)))

    def _open(self, partial: Path, num_bytes: int) -> None:
        with self._undone([partial]):
            self._make_room(num_bytes)
            partial.mkdir()

    def _write_share(self, partial: Path, checkpoint: Checkpoint) -> None:
        """Writes this process's tensors; raises RunError, everywhere, when one cannot."""
        rank, size, problem = self.processes.rank, self.processes.size, None
        ending = "" if size == 1 else f"-{rank + 1:05d}-of-{size:05d}"
        # all are gathered first: who cannot write must not leave the others waiting
        own = {name: self._share(named) for name, named in checkpoint.tensors.items()}
        try:
            with self._undone([]):
                for name, tensors in own.items():
                    file = partial / f"{name}{ending}{SUFFIX}"
                    save_file(tensors, file)
                    flush(file)
        except RunError as error:
            problem = error.found
        problems = [told for told in self.processes.gather_json(problem) if told]
        if problems:
            _discard(partial)
            raise self._not_saved(problems[0])

    def _share(self, tensors: Mapping[str, Tensor | Shard]) -> dict[str, Tensor]:
        """Returns the tensors that this process writes: about as many bytes for each."""
        names = list(tensors)
        taken = shares([tensors[name].nbytes for name in names], self.processes.size)
        own, written = set(taken[self.processes.rank]), {}
        for place, name in enumerate(names):
            tensor = tensors[name]
            if isinstance(tensor, Shard):
                tensor = tensor.whole(self.processes)  # by all, whoever writes it
                tensor = tensor.cpu() if place in own else tensor
            if place in own:
                written[name] = tensor.contiguous()
        return written

    def _publish(self, partial: Path, checkpoint: Checkpoint) -> str:
        """Makes a checkpoint of what all processes have written, and drops older ones."""
        made = [partial]
        with self._undone(made):
            made.append(saved := self._free_path(checkpoint.step))
            state = json.dumps({"step": checkpoint.step, **checkpoint.state}, ensure_ascii=False)
            (partial / STATE).write_text(state, encoding="utf-8")
            seal(partial, format=FORMAT, step=checkpoint.step)
            partial.rename(saved)
            flush(self.folder)
            check_checkpoint(saved)
        with suppress(OSError):  # what cannot be dropped now is dropped by a later save
            self._prune(saved, checkpoint.step)
        return str(saved)

    @contextmanager
    def _undone(self, folders: Sequence[Path]) -> Iterator[None]:
        """Turns what a disk refuses into RunError, and removes what was begun."""
        try:
            yield
        except (OSError, SafetensorError, ModelError) as error:
            for left in folders:
                _discard(left)
            reason = getattr(error, "strerror", None) or str(error)
            raise self._not_saved(
                f"the state of training could not be saved ({reason.rstrip('.')})"
            ) from error

    def latest(self, tell: Callable[[str], None] = lambda _: None) -> Path | None:
        """Returns the newest checkpoint that is whole, or None when there is none.

        Manifests say which is newest, not names or times. `tell` hears of each that is damaged.
        """
        for path in self._newest_first(tell):
            try:
                check_checkpoint(path)
            except ModelError as error:
                tell(_skipped(error))
            else:
                return path
        return None

    def folders(self) -> list[Path]:
        """Returns the folders that may be checkpoints; what is not finished has a hidden name."""
        if not self.folder.is_dir():
            return []
        found = (path for path in self.folder.iterdir() if path.is_dir())
        return sorted(path for path in found if not path.name.startswith("."))

    def read(self, path: Path) -> Checkpoint:
        """Reads a checkpoint, its tensors on the CPU, after comparing it with its manifest.

        Raises ModelError when a file or the manifest is missing or damaged.
        """
        tensors: dict[str, dict[str, Tensor | Shard]] = {}
        for name in check_checkpoint(path):
            if name.endswith(SUFFIX):
                whole = tensors.setdefault(SHARE.sub("", Path(name).stem), {})
                whole.update(load_file(path / name))
        state = read_json_object(path / STATE, MAX_STATE_BYTES)
        return Checkpoint(state.pop("step"), tensors, state)

    def clear_leftovers(self) -> None:
        """Removes what killed saves and killed removals left behind."""
        for ending in (PARTIAL, REMOVED):
            for left in self.folder.glob(f".*{ending}"):
                shutil.rmtree(left, ignore_errors=True)

    def _make_room(self, num_bytes: int) -> None:
        """Clears leftovers and refuses, before anything is written, what cannot fit."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.clear_leftovers()
        free, needed = shutil.disk_usage(self.folder).free, num_bytes + SPARE_BYTES
        if free < needed:
            raise OSError(0, f"it needs {needed:,} bytes, and {free:,} are free on its disk")

    def _free_path(self, step: int) -> Path:
        """Returns a name that no checkpoint has: an older one of this step may be damaged."""
        path, number = self.folder / _name(step), 2
        while path.exists():
            path, number = self.folder / f"{_name(step)}-{number}", number + 1
        return path

    def _newest_first(self, tell: Callable[[str], None] = lambda _: None) -> list[Path]:
        """Returns the checkpoints whose manifest can be read, the latest update first."""
        found: list[tuple[int, Path]] = []
        for path in self.folders():
            try:
                found.append((_step_of(path), path))
            except ModelError as error:
                tell(_skipped(error))
        return [path for _, path in sorted(found, reverse=True)]

    def _prune(self, newest: Path, step: int) -> None:
        """Drops all but `newest` and the newest earlier ones that are whole.

        Later ones can only be damaged ones that training fell back from.
        """
        kept = [newest]
        for path in self._newest_first():
            if len(kept) < self.limit and _step_of(path) < step and _is_whole(path):
                kept.append(path)
        for path in self.folder.glob("step-*"):  # one that was renamed is the user's to keep
            if path not in kept:
                _discard(path)

    def _not_saved(self, found: str) -> RunError:
        return RunError(
            str(self.folder),
            found,
            "The earlier checkpoints are as they were, and nothing was left behind.",
            "Free some space, or mend the disk.",
        )


def check_checkpoint(path: Path) -> list[str]:
    """Returns the names of a checkpoint's files; raises ModelError when it is not as it was saved.

    A disk that cannot be read counts as damage.
    """
    with _reading(path):
        manifest = check_manifest(path)
        if STATE not in manifest["files"]:
            raise ModelError(str(path), f"its manifest names no {STATE}", "It is no checkpoint.")
        if manifest.get("format") != FORMAT:
            raise ModelError(str(path), "another version of Tunewright wrote it")
        if read_json_object(path / STATE, MAX_STATE_BYTES).get("step") != manifest.get("step"):
            raise ModelError(str(path), "its manifest names another update than its state")
    return list(manifest["files"])


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(str(path), f"it cannot be read ({error.strerror})") from error


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _step_of(path: Path) -> int:
    with _reading(path):
        step = read_manifest(path).get("step")
    if not isinstance(step, int):
        raise ModelError(str(path), "its manifest names no update", "It is no checkpoint.")
    return step


def _is_whole(path: Path) -> bool:
    try:
        check_checkpoint(path)
    except ModelError:
        return False
    return True


def _discard(path: Path) -> None:
    """Removes a folder; hidden first, so that a kill on the way leaves no half checkpoint."""
    hidden = path
    if path.name[0] != ".":
        hidden = path.with_name(f".{path.name}{REMOVED}")
        with suppress(OSError):
            path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _skipped(error: ModelError) -> str:
    return f"A checkpoint cannot be used and was skipped: {error.where} {error.found}."
