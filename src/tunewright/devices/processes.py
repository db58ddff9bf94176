"""Several processes that train one model: which one this is, and how they add up and agree.

torchrun (or `tunewright launch`) starts them and says by `RANK`, `WORLD_SIZE`, `LOCAL_RANK` and
`MASTER_*` which is which; without these there is one. Each holds the same rows and settings. What
they tell each other are numbers and JSON; nothing is pickled.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from tunewright import errors
from tunewright.errors import ProcessLost, SettingsError, TunewrightError

# Gradients are added up in pieces of about this size: large enough for a network's full speed, and
# little memory beside the gradients themselves.
BUCKET_BYTES = 25 << 20
# How long a process waits for the others, unless TUNEWRIGHT_TIMEOUT says otherwise (seconds). One
# that ends is noticed at once; this is for one that stands still. Between two exchanges there may
# be reading and tokenising the data, or saving the model.
TIMEOUT_SECONDS = 1800.0

# What stands in the errors of those who carry the messages.
BACKENDS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Processes:
    """The place of this process among `size`.

    `rank` counts all of them from 0, `local_rank` those of a machine, which has `local_size` of
    them. The one of rank 0 leads: it writes files and speaks to the user. All have to call the same
    methods in the same order. Each raises ProcessLost when another process has ended, or has not
    answered in time.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.size == 1

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors by their sums over all processes, which are the same bits on each."""
        if self.is_alone:
            return
        with _answering():
            for bucket in _buckets(tensors):
                flat = torch.cat([tensor.flatten() for tensor in bucket])
                dist.all_reduce(flat)
                parts = flat.split([tensor.numel() for tensor in bucket])
                for tensor, part in zip(bucket, parts, strict=True):
                    tensor.copy_(part.view_as(tensor))

    def gather(self, own: Tensor) -> list[Tensor]:
        """Returns the tensors of all processes; they may differ in their first size."""
        if self.is_alone:
            return [own]
        sizes = [int(size) for size in self._gather_same(torch.tensor([len(own)]))]
        filled = own.new_zeros(max(sizes), *own.shape[1:])
        filled[: len(own)] = own
        return [part[:size] for part, size in zip(self._gather_same(filled), sizes, strict=True)]

    def _gather_same(self, own: Tensor) -> list[Tensor]:
        """Returns the tensors of all processes, which are of one shape."""
        parts = [torch.empty_like(own) for _ in range(self.size)]
        with _answering():
            dist.all_gather(parts, own.contiguous())
        return parts

    def gather_numbers(self, own: Sequence[float]) -> np.ndarray:
        """Returns the numbers of all processes, (size, numbers), float64."""
        mine = torch.tensor(own, dtype=torch.float64)
        return torch.stack([mine] if self.is_alone else self._gather_same(mine)).numpy()

    def gather_json(self, own: Any) -> list[Any]:
        """Returns the plain values of all processes, as they come back from JSON."""
        raw = np.frombuffer(json.dumps(own).encode(), np.uint8)
        return [json.loads(bytes(part.numpy())) for part in self.gather(torch.tensor(raw))]

    def any_of(self, *own: bool) -> list[bool]:
        """Says of each question whether any process says yes."""
        return [bool(column.any()) for column in self.gather_numbers(own).T]

    def led(self, do: Callable[[], Any]) -> Any:
        """Returns what `do` returns to the leader, a plain value, to all.

        What the leader raises on purpose is raised by all.
        """
        if self.is_alone:
            return do()
        said: dict[str, Any] = {}
        if self.leads:
            try:
                said = {"value": do()}
            except TunewrightError as error:
                parts = (error.where, error.found, error.needed, error.remedy)
                said = {"error": type(error).__name__, "parts": parts}
            except BaseException as error:
                self.gather_json({"error": "ProcessLost", "parts": ("process 0", repr(error))})
                raise
        heard = self.gather_json(said)[0]
        if "error" in heard:
            raise getattr(errors, heard["error"])(*heard["parts"])
        return heard["value"]

    def wait(self) -> None:
        """Waits until all are here."""
        self.any_of(False)


ALONE = Processes()


@cache
def join_processes() -> Processes:
    """Returns this process's place among those that were started together, connecting them once.

    Raises SettingsError for variables that do not fit together, ProcessLost when the others do
    not come.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    if missing:
        raise SettingsError(
            "WORLD_SIZE",
            f"it is {os.environ['WORLD_SIZE']}, and {', '.join(missing)} is not set",
            "Several processes need to know one another.",
            "Start them with tunewright launch, or with torchrun.",
        )
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # gloo for what lies in main memory, NCCL for what lies on a GPU
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    seconds = float(os.environ.get("TUNEWRIGHT_TIMEOUT", TIMEOUT_SECONDS))
    with _answering():
        dist.init_process_group(
            backend,
            store=_meeting_place(),
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=seconds),
        )
    atexit.register(_leave)
    if "LOCAL_RANK" not in os.environ:  # then they are on one machine
        return Processes(rank, size, rank, size)
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Processes(rank, size, int(os.environ["LOCAL_RANK"]), local_size)


def _meeting_place() -> Store:
    """Returns where processes leave their addresses for one another.

    On one machine torchrun keeps the place of the processes that it started before; their
    addresses are told apart by how often it has started some. (On several machines it takes a new
    one where TORCH_DISABLE_SHARE_RDZV_TCP_STORE is 1, as `tunewright launch` sets it.)
    """
    store: Store = next(rendezvous("env://"))[0]
    if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
        return store
    return PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)


def _leave() -> None:
    """Ends the threads that carry the messages.

    One of them may still want Python's lock for its last message. If Python ends first, that ends
    the process as an error does, though all its work is done.
    """
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def _answering() -> Iterator[None]:
    """Turns what a backend says of a process that is gone into ProcessLost."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # gloo has no class of its own
        raise _lost(error) from error


def check_answers(error: Exception) -> None:
    """Raises ProcessLost for an error that came of a process that is gone."""
    if isinstance(error, dist.DistError) or any(word in str(error) for word in BACKENDS):
        raise _lost(error) from error


def _lost(error: Exception) -> ProcessLost:
    atexit.unregister(_leave)  # which may wait for what that process still owes
    return ProcessLost(
        "processes",
        "another process of this run has ended or does not answer",
        f"The network said: {str(error).splitlines()[0]:.200}",
        "Go on with the run from its last checkpoint: tunewright resume.",
    )


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Groups neighbours of one dtype and device, about BUCKET_BYTES in each group."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        alike = not bucket or (tensor.dtype, tensor.device) == (bucket[0].dtype, bucket[0].device)
        if bucket and (not alike or size + tensor.nbytes > BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket
