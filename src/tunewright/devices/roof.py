"""How fast this machine multiplies and copies at most, measured now."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cache, partial

import torch

from tunewright.devices.device import Device
from tunewright.devices.memory import free_bytes

# Makes (rows, inner, outer) into a product of random numbers that can be repeated, or None.
Native = Callable[[int, int, int], Callable[[], object] | None]

# The sides of square products, the smallest first: a slow machine gets no further.
_SIDES = {"cpu": (1024, 2048, 4096)}
_SIDES_OF_GPUS = (4096, 8192)
# Rows, inner and outer width of an encoder's linear layers.
_LAYERS = ((4096, 384, 1536), (4096, 1536, 384), (4096, 1024, 1024))
_COPIED_BYTES = 256 << 20  # more than caches hold


@cache
def measure_roof(device: Device, seconds: float = 0.5, native: Native | None = None) -> float:
    """Returns the most FLOP/s of several matrix products at the device's precision.

    The peak that MFU is a share of; random data, since products of zeros run faster. `native`
    makes our own products, which take part where a CPU multiplies bfloat16. A product that would
    take too long here is left out.
    """
    sides = _SIDES.get(device.kind, _SIDES_OF_GPUS)
    made: list[tuple[tuple[int, int, int], Native]] = [
        ((side, side, side), partial(_product, device)) for side in sides
    ]
    if native is not None and device.kind == "cpu" and device.precision == "bf16":
        made += [(shape, native) for shape in _LAYERS]
    best, end = 0.0, time.monotonic() + seconds
    for number, (shape, make) in enumerate(made):
        flop, left = 2.0 * math.prod(shape), end - time.monotonic()
        if best and 3 * flop / best > left:
            continue
        multiply = make(*shape)
        if multiply is not None:
            best = max(best, flop / _fastest(multiply, left / (len(made) - number)))
    return best


def _product(device: Device, rows: int, inner: int, outer: int) -> Callable[[], object]:
    """Returns torch's own product."""
    dtype = torch.bfloat16 if device.precision == "bf16" else torch.float32
    left, right = (
        torch.randn(size, device=device.name).to(dtype) for size in ((rows, inner), (inner, outer))
    )
    return lambda: _waited_for(left @ right)


@cache
def measure_bandwidth(device: Device, seconds: float = 0.3) -> float:
    """Returns the bytes per second that a large copy reads and writes, at its fastest."""
    room = free_bytes(device.kind)
    size = _COPIED_BYTES if room is None else min(_COPIED_BYTES, room // 8)
    source = torch.ones(size // 4, device=device.name)
    target = torch.empty_like(source)

    def copy() -> object:
        return _waited_for(target.copy_(source))

    return 2 * source.nbytes / _fastest(copy, seconds)


def _waited_for(made: torch.Tensor) -> float:
    """Waits for an asynchronous device."""
    return float(made.view(-1)[0])


def _fastest(do: Callable[[], object], seconds: float) -> float:
    """Returns the shortest time of several, after a first one that prepares what is kept."""
    end, fastest = time.monotonic() + seconds, math.inf
    do()
    while fastest == math.inf or time.monotonic() < end:
        started = time.perf_counter()
        do()
        fastest = min(fastest, time.perf_counter() - started)
    return fastest
