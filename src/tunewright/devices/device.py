"""What this machine has: the device, its precision, its threads.

Everything is found by itself; `TUNEWRIGHT_DEVICE` (cpu, cuda, cuda:1, mps) overrides the choice.
Units of a processor that `ONEDNN_MAX_CPU_ISA` hides from torch's own library are not counted on.
"""

from __future__ import annotations

import os
import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from tunewright.devices.cores import settle_threads
from tunewright.errors import SettingsError

Precision = Literal["auto", "bf16", "fp32"]

# What matrix products run on in a processor, the best one first, as Linux names it.
UNITS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
# The best one that each limit of oneDNN leaves. With others than these it sees all of them.
_LIMITS = {
    "SSE41": "",
    "AVX": "",
    "AVX2": "avx2",
    "AVX2_VNNI": "avx2",
    "AVX2_VNNI_2": "avx2",
    "AVX512_CORE": "avx512f",
    "AVX512_CORE_VNNI": "avx512f",
    "AVX512_CORE_BF16": "avx512_bf16",
    "AVX512_CORE_FP16": "avx512_bf16",
    "AVX10_1_512": "avx512_bf16",
}


@dataclass(frozen=True)
class Device:
    """Where tensors live and how wide matrix products are."""

    name: str
    kind: str
    precision: Literal["bf16", "fp32"]
    num_threads: int
    description: str

    def autocast(self, keep_casts: bool = True) -> AbstractContextManager[Any]:
        """Returns the context in which a forward pass runs at this device's precision.

        With `keep_casts` the narrow copy of a weight lives as long as the context.
        """
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.kind, dtype=torch.bfloat16, cache_enabled=keep_casts)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def find_device(precision: Precision = "auto", place: int = 0) -> Device:
    """Returns the best device of this machine; the process at `place` takes a GPU of its own.

    A GPU that has a number becomes the thread's current one. Torch has as many threads afterwards
    as there are cores for, unless the user has said how many.

    `auto` takes bf16 where matrix products have units for it (AMX, AVX-512 BF16, NVIDIA from
    compute capability 8.0), else fp32. Raises SettingsError when `TUNEWRIGHT_DEVICE` names a
    device that is not here.
    """
    settle_threads()
    name = os.environ.get("TUNEWRIGHT_DEVICE") or _best_name()
    if name == "cuda" and place:
        name = f"cuda:{place}"
    if not _is_present(name):
        raise SettingsError(
            "TUNEWRIGHT_DEVICE",
            f'there is no device "{name}" on this machine',
            f"The best one here is {_best_name()}.",
            "Unset the variable to take it.",
        )
    device = torch.device(name)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    chosen = precision if precision != "auto" else ("bf16" if _has_bf16(device) else "fp32")
    return Device(name, device.type, chosen, torch.get_num_threads(), _describe(device))


def _best_name() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _is_present(name: str) -> bool:
    try:
        device = torch.device(name)
    except RuntimeError:
        return False
    if device.type == "cuda":
        return (device.index or 0) < torch.cuda.device_count()
    return name == "cpu" or (name == "mps" and torch.backends.mps.is_available())


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool({"amx_bf16", "avx512_bf16"} & set(_units()))


@cache
def _cpu_flags() -> frozenset[str]:
    """The processor's feature names as Linux lists them; empty on other systems."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return frozenset(next((line.split(":")[1] for line in lines if "flags" in line), "").split())


def _units() -> tuple[str, ...]:
    """Returns the units of the processor that torch's own library may use, the best one first."""
    here = [name for name in UNITS if name in _cpu_flags()]
    best = _LIMITS.get(os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper(), UNITS[0])
    first = UNITS.index(best) if best else len(UNITS)
    return tuple(name for name in here if UNITS.index(name) >= first)


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type == "mps":
        return "Apple GPU"
    told, units = f"{platform.machine()} CPU", _units()
    if units:
        told += f" with {units[0]}"
    hidden = [name for name in UNITS if name in _cpu_flags() and name not in units]
    return f"{told} ({hidden[0]} hidden)" if hidden else told


def settle_kernels(kind: str) -> None:
    """Chooses kernels that give the same bits each time, where a device has others too.

    Those that have none to choose stay as they are. Memory is not cleared for it.
    """
    if kind != "cuda":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def seed_kernels(device: Device, seed: int) -> None:
    """Starts torch's random numbers anew, on the CPU and on `device`; no others are asked for."""
    torch.default_generator.manual_seed(seed)
    if device.kind == "cuda":
        place = torch.device(device.name).index
        place = torch.cuda.current_device() if place is None else place
        torch.cuda.default_generators[place].manual_seed(seed)
    elif device.kind == "mps":
        torch.mps.manual_seed(seed)
