"""Runs a benchmark as on a lesser processor: `--at-most avx2` hides what is better than AVX2.

Every process of the benchmark, ours and the peers', then begins with the same limits: those of
torch's own library (oneDNN), of its kernels (ATen), of MKL, and of our native code. Precision is
chosen as on such a processor, and results stand under a name of their own.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Mapping

# The best unit that is left, and what says so to each library that multiplies. GCC and Clang know
# cooperlake as the processor with AVX-512 BF16 and without tiles.
MASKS: Mapping[str, Mapping[str, str]] = {
    "avx512_bf16": {
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16",
        "TUNEWRIGHT_MARCH": "cooperlake",
    },
    "avx512f": {
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "TUNEWRIGHT_MARCH": "x86-64-v4",
    },
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "TUNEWRIGHT_MARCH": "x86-64-v3",
    },
}


def add_mask(options: ArgumentParser) -> None:
    options.add_argument(
        "--at-most", choices=MASKS, help="hide what is better than this unit of the processor"
    )


def masked(unit: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of a process that is to know nothing better than a unit."""
    return {**environment, **MASKS[unit], "TUNEWRIGHT_DEVICE": "cpu"}


def begin_masked(unit: str | None) -> None:
    """Begins this process anew with a unit's limits, unless it has them or there are to be none.

    Libraries read theirs when they are loaded.
    """
    if unit is None:
        return
    wanted = masked(unit, os.environ)
    if wanted == dict(os.environ):
        return
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)


def check_mask(unit: str | None, description: str) -> None:
    """Ends the process where a mask hides nothing, or not all that it should."""
    if unit is not None and f"with {unit} (" not in description:
        sys.exit(f"{description}: there is nothing better than {unit} here to hide.")
