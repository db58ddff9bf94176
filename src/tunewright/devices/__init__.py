"""What this machine has, found and set up by itself."""

from tunewright.devices.allocator import release_memory, settle_allocator
from tunewright.devices.cores import find_cores, settle_threads, usable_cores
from tunewright.devices.device import (
    Device,
    Precision,
    find_device,
    seed_kernels,
    settle_kernels,
)
from tunewright.devices.roof import measure_bandwidth, measure_roof

__all__ = [
    "Device",
    "Precision",
    "find_cores",
    "find_device",
    "measure_bandwidth",
    "measure_roof",
    "release_memory",
    "seed_kernels",
    "settle_allocator",
    "settle_kernels",
    "settle_threads",
    "usable_cores",
]
