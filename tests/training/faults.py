"""Disks that fail: every file operation of a save, made to fail, to kill, or to stop half-way.

A save is watched through the functions of `os`, `io` and safetensors that it ends up calling, so
that nothing in the package knows of these tests.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tunewright.training.checkpoint as store

WATCHED = [
    (os, "open"),
    (os, "close"),
    (os, "fsync"),
    (os, "mkdir"),
    (os, "rename"),
    (os, "unlink"),
    (os, "rmdir"),
    (os, "scandir"),
    (os, "listdir"),
    (os, "stat"),
    (io, "open"),
    (shutil, "disk_usage"),
    (store, "save_file"),
]

# (name of the operation, its arguments) -> None, called before the operation is done.
Fault = Callable[[str, tuple[Any, ...]], None]


@contextmanager
def watched(fault: Fault, inside: Path) -> Iterator[None]:
    """Calls `fault` before every file operation, for the time of a block.

    Only operations on what lies in the folder `inside`, and on open files, count.
    """
    originals = [(owner, name, getattr(owner, name)) for owner, name in WATCHED]
    for owner, name, original in originals:
        setattr(owner, name, _watching(original, name, fault, str(inside)))
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def _watching(original: Any, name: str, fault: Fault, inside: str) -> Any:
    def call(*arguments: Any, **named: Any) -> Any:
        place = arguments[1] if name == "save_file" else arguments[0]
        is_elsewhere = isinstance(place, str | Path) and not str(place).startswith(inside)
        if not is_elsewhere or named.get("dir_fd") is not None:
            fault(name, arguments)
        return original(*arguments, **named)

    return call


class Counted:
    """A fault at the n-th operation, counted from 1; afterwards the disk works again."""

    def __init__(self, at: int) -> None:
        self.at, self.count, self.hit = at, 0, ""

    def __call__(self, name: str, arguments: tuple[Any, ...]) -> None:
        self.count += 1
        if self.is_due():
            self.hit = name
            self.act(name, arguments)

    def is_due(self) -> bool:
        return self.count == self.at

    def act(self, name: str, arguments: tuple[Any, ...]) -> None:
        raise OSError(errno.EIO, "Input/output error")


class Broken(Counted):
    """A disk on which everything fails from the n-th operation on."""

    def is_due(self) -> bool:
        return self.count >= self.at


class Killed(Counted):
    """A process that is killed at the n-th operation; a file of tensors is half written by then."""

    def act(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "save_file":
            Path(arguments[1]).write_bytes(b"\0" * 1000)
        os.kill(os.getpid(), signal.SIGKILL)
