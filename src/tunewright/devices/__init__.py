"""What this machine has, found and set up by itself."""

from tunewright.devices.allocator import release_memory, settle_allocator
from tunewright.devices.device import (
    Device,
    Precision,
    find_device,
    measure_roof,
    seed_kernels,
    settle_kernels,
)

__all__ = [
    "Device",
    "Precision",
    "find_device",
    "measure_roof",
    "release_memory",
    "seed_kernels",
    "settle_allocator",
    "settle_kernels",
]
