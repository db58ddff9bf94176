"""The device, its precision and its name, and how its peaks are measured."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tunewright.devices import device as devices
from tunewright.devices import find_device, measure_bandwidth, measure_roof, roof
from tunewright.devices.device import Device
from tunewright.models.layers.native_products import ready_product
from tunewright.native import native

TILES = frozenset({"avx2", "avx512f", "avx512_bf16", "amx_bf16"})


@pytest.fixture
def processor(monkeypatch):
    """Returns a function that makes this a CPU with some features, and sets oneDNN's limit."""

    def build(flags, limit=None):
        monkeypatch.setenv("TUNEWRIGHT_DEVICE", "cpu")
        monkeypatch.setattr(devices, "_cpu_flags", lambda: flags)
        monkeypatch.setattr(devices.platform, "machine", lambda: "x86_64")
        if limit is None:
            monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        else:
            monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        return find_device()

    return build


@pytest.mark.parametrize(
    ("limit", "precision", "told"),
    [
        (None, "bf16", "x86_64 CPU with amx_bf16"),
        ("DEFAULT", "bf16", "x86_64 CPU with amx_bf16"),
        ("AVX512_CORE_AMX", "bf16", "x86_64 CPU with amx_bf16"),
        ("AVX512_CORE_BF16", "bf16", "x86_64 CPU with avx512_bf16 (amx_bf16 hidden)"),
        ("AVX512_CORE", "fp32", "x86_64 CPU with avx512f (amx_bf16 hidden)"),
        ("avx2", "fp32", "x86_64 CPU with avx2 (amx_bf16 hidden)"),
        ("SSE41", "fp32", "x86_64 CPU (amx_bf16 hidden)"),
    ],
)
def test_units_that_onednn_may_not_use_are_not_counted_on(processor, limit, precision, told):
    found = processor(TILES, limit)
    assert (found.precision, found.description) == (precision, told)


def test_nothing_is_hidden_that_is_not_there(processor):
    assert processor(frozenset({"avx2"}), "AVX512_CORE").description == "x86_64 CPU with avx2"
    assert processor(frozenset(), "AVX2").description == "x86_64 CPU"


def test_a_precision_that_was_asked_for_is_taken_whatever_is_hidden(processor, monkeypatch):
    processor(TILES, "AVX2")
    assert find_device("bf16").precision == "bf16"


def test_a_process_uses_no_more_threads_than_its_processors():
    """In a process of its own, on one processor, with nothing said about threads."""
    code = "import torch; from tunewright.devices import find_device; print(find_device())"
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    begin = "import os; os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])\n"
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("only Linux lets a process choose its processors")
    done = subprocess.run(
        [sys.executable, "-c", begin + code], env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert "num_threads=1" in done.stdout


def cpu(precision, name="a CPU"):
    return Device("cpu", "cpu", precision, 1, name)


@pytest.fixture
def small_products(monkeypatch):
    """Lets a machine that is slow at bfloat16 be measured at once, too."""
    monkeypatch.setattr(roof, "_SIDES", {"cpu": (64,)})
    monkeypatch.setattr(roof, "_LAYERS", ((32, 64, 96),))


def test_the_roof_is_the_best_of_torch_s_products_and_ours(small_products):
    asked = []

    def no_time_at_all(*shape):
        asked.append(shape)
        return lambda: None

    torch_s = measure_roof(cpu("bf16", "one"), 0.1, lambda *_: None)
    assert 0 < torch_s < measure_roof(cpu("bf16", "another"), 0.1, no_time_at_all)
    assert asked == [(32, 64, 96)]


def test_a_product_that_would_take_too_long_is_left_out():
    assert measure_roof(cpu("bf16", "hasty"), 0.0, never) > 0


def test_ours_are_left_alone_where_products_are_wide(small_products):
    assert measure_roof(cpu("fp32", "wide"), 0.1, never) > 0


def never(*_):
    raise AssertionError


def test_our_product_is_there_where_the_processor_has_it():
    made = native()
    product = ready_product(64, 32, 96)
    assert (product is not None) == (made is not None and made.has_products)
    if product is not None:
        (output,), active, _ = product()
        assert output.shape == (64, 96)
        assert active is None


def test_the_bandwidth_is_that_of_a_copy():
    assert 1e8 < measure_bandwidth(cpu("fp32"), 0.05) < 1e14
