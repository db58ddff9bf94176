"""Who hands out the memory of the CPU's tensors, and gives back what is free."""

from __future__ import annotations

import ctypes
import gc
import platform
import threading
from typing import Literal, NamedTuple

import torch

from tunewright.native import keeper

Allocator = Literal["own", "glibc", "system"]

# Parameters of glibc's mallopt (malloc.h), and the largest threshold that it accepts.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _LARGEST_THRESHOLD = -1, -3, 32 << 20
# Of what is freed, what a process keeps that is to hold little, and any other.
_LITTLE, _ALL = 64 << 20, 2**63 - 1

_IN_USE: list[ctypes.CDLL] = []  # our own allocator, once it is torch's
_SETTLING = threading.Lock()


class Kept(NamedTuple):
    """The bytes of large tensors in use, of freed ones that are kept, and the most used at once."""

    used: int
    kept: int
    most: int


def settle_allocator() -> Allocator:
    """Lets freed memory be kept for the next tensors instead of going back to the system.

    With the defaults every large tensor is a fresh mapping whose pages fault in one by one, which
    took up to all of a core's time. Blocks of tensors are kept by our own allocator where that can
    be compiled (`own`); everything else, and all of it elsewhere, by glibc, if this is glibc.
    """
    glibc = _tell_glibc(_LARGEST_THRESHOLD, 2**31 - 1)
    _use_own()
    for library in _IN_USE:
        library.limit_kept(_ALL)
        return "own"
    return "glibc" if glibc else "system"


def _use_own() -> None:
    library = keeper()
    with _SETTLING:
        if not _IN_USE and not isinstance(library, str):
            library.keep_memory()
            _IN_USE.append(library)


def _tell_glibc(mapped_from: int, trimmed_from: int) -> bool:
    """Sets from which size blocks are mappings, and how much glibc keeps; False: another library.

    It keeps no freed mapping.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(
        libc.mallopt(_M_MMAP_THRESHOLD, mapped_from)
        and libc.mallopt(_M_TRIM_THRESHOLD, trimmed_from)
    )


def kept_memory() -> Kept | None:
    """Returns what our own allocator holds; None where it is not used."""
    for library in _IN_USE:
        found = (ctypes.c_int64 * 3)()
        library.memory_now(found)
        return Kept(*found)
    return None


def return_large_blocks() -> None:
    """Lets every freed block of a mebibyte or more go back to the system at once.

    The opposite of `settle_allocator`: for a process whose large tensors come and go, and which is
    to hold little. Kept for later use, they took more than twice what was held at any time.
    """
    _tell_glibc(1 << 20, _LITTLE)
    for library in _IN_USE:
        library.limit_kept(_LITTLE)


def release_memory(kind: str) -> None:
    """Hands memory that is freed but kept back to the system, so that others can have it.

    After an allocation was refused, what the allocator keeps is of no use to oneDNN, which maps
    pages of its own.
    """
    gc.collect()
    if kind == "cuda":
        torch.cuda.empty_cache()
        return
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    for library in _IN_USE:
        library.give_back()
