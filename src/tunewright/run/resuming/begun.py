"""What a run was begun with, so that it is only gone on with alike: `begun.json`.

What decides the weights has to be the same: the encoded rows, the task with its labels, the
settings of training, and what does not learn. A machine may be another one; the weights may then
differ in their last bits, which is said and written down.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from tunewright.data.large.blocks import BlockRows
from tunewright.devices import Device
from tunewright.errors import SettingsError
from tunewright.run.config import RunConfig
from tunewright.run.record import RunFolder, versions
from tunewright.tasks.base import Task
from tunewright.types import Features

BEGUN = "begun.json"

# Settings that leave the weights as they are, or only say for how long to train.
FREE = (
    "output.", "evaluation.", "audit.", "data.", "training.save_", "training.logging_steps",
    "training.track", "training.num_train_epochs", "training.max_steps", "training.precision",
    "training.parallel",
)  # fmt: skip


class RowsDigest:
    """The SHA-256 of encoded rows in their order: their tokens, pictures and targets."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, features: Sequence[Features]) -> None:
        """Takes in one row."""
        for item in features:
            for name, stream in item.streams.items():
                self._numbers(name, stream.token_ids)
                self._numbers("types", () if stream.type_ids is None else stream.type_ids)
            for name, picture in item.pictures.items():
                self._numbers(name, picture.digest)
            for name, target in item.targets.items():
                self._numbers(name, target)
        self._digest.update(b"row")

    def _numbers(self, name: str, values: Any) -> None:
        numbers = np.asarray(values, np.float64)
        self._digest.update(f"{name}{numbers.shape}".encode() + numbers.tobytes())

    def hex(self) -> str:
        return self._digest.hexdigest()


def digest_of_blocks(rows: BlockRows, sample: str) -> str:
    """Returns the digest of rows that stay on the disk, from the encoded sample's.

    Also in it are their files' sizes, blocks and stretches of bytes, and which rows are held out.
    Whether every byte is the same is known later, see `same_files`.
    """
    digest = hashlib.sha256(f"{sample} {rows.table.digest} ".encode())
    digest.update(rows.held_out.astype("<i8").tobytes())
    return digest.hexdigest()


@dataclass
class Begun:
    """What decides a run's weights, and the machines that it was trained on.

    `rows` maps splits to digests; `frozen` is that of the weights that do not learn. `resumed`
    tells, oldest first, after which update the run was gone on with and what had changed. `files`
    are those that rows stay in, see `same_files`.
    """

    settings: Mapping[str, Any]
    task: Mapping[str, Any]
    rows: Mapping[str, str]
    frozen: str
    machine: Mapping[str, Any]
    resumed: list[dict[str, Any]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        config: RunConfig,
        task: Task,
        rows: Mapping[str, str],
        frozen: str,
        device: Device,
        num_processes: int = 1,
        parallel: str = "ddp",
    ) -> Self:
        every = dict(_flat(config.model_dump(mode="json", exclude={"task"})))
        settings = {key: value for key, value in every.items() if not key.startswith(FREE)}
        machine = {**device.to_json(), "processes": num_processes, "versions": versions()}
        if num_processes > 1 and parallel != "ddp":
            machine["parallel"] = parallel
        return cls(settings, _plain(task.to_json()), dict(rows), frozen, machine)

    @classmethod
    def read(cls, folder: RunFolder) -> Self | None:
        """Returns what stands in a run folder; None for a run that was killed before it began."""
        return cls(**folder.read_json(BEGUN)) if (folder.path / BEGUN).is_file() else None

    def write(self, folder: RunFolder) -> None:
        folder.write_json(BEGUN, asdict(self))

    @property
    def identity(self) -> str:
        """A digest of all that decides the weights, which every checkpoint of the run carries."""
        parts = [self.settings, self.task, self.rows, self.frozen]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def check(self, now: Begun, where: str) -> None:
        """Raises SettingsError, showing what differs, when `now` would give other weights."""
        differing = [
            *_differences("", self.settings, now.settings),
            *_differences("task.", self.task, now.task),
            *(f"the {name} rows are others" for name in _names(self.rows, now.rows)),
        ]
        if self.frozen != now.frozen:
            differing.append("the model's frozen weights are others")
        if differing:
            raise SettingsError(
                where,
                "the run was begun with other data, labels or settings",
                f"What differs: {'; '.join(differing)}.",
                "Resume it with what it was begun with, or train a new run.",
            )

    def moved(self, now: Begun) -> list[str]:
        """Says what of the machine is another than it was."""
        return _differences("", dict(_flat(self.machine)), dict(_flat(now.machine)))


def _names(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns the keys whose values differ, or that only one of the two has."""
    missing = object()
    return [k for k in {**then, **now} if then.get(k, missing) != now.get(k, missing)]


def _differences(prefix: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{prefix}{name} was {_shown(then.get(name))} and is {_shown(now.get(name))}"
        for name in _names(then, now)
    ]


def _shown(value: Any) -> str:
    text = "off" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values as they come back from a JSON file: lists for tuples, text for keys."""
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain
