"""Benchmarks as on a lesser processor: what each library is told, and what comes of it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest
from benchmarks.masks import MASKS, check_mask, masked

from tunewright.devices import device as devices
from tunewright.devices import find_device

TILES = frozenset({"avx2", "avx512f", "avx512_bf16", "amx_bf16"})


@pytest.mark.parametrize(
    ("unit", "precision"), [("avx512_bf16", "bf16"), ("avx512f", "fp32"), ("avx2", "fp32")]
)
def test_a_machine_with_tiles_has_the_precision_and_the_name_of_a_lesser_one(
    monkeypatch, unit, precision
):
    for name, value in masked(unit, {}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(devices, "_cpu_flags", lambda: TILES)
    found = find_device()
    assert found.kind == "cpu"
    assert found.precision == precision
    assert found.description.endswith(f"CPU with {unit} (amx_bf16 hidden)")
    check_mask(unit, found.description)


def test_every_library_that_multiplies_is_told():
    assert masked("avx2", {"HOME": "/home/me", "TUNEWRIGHT_MARCH": "native"}) == {
        "HOME": "/home/me",
        "TUNEWRIGHT_DEVICE": "cpu",
        "TUNEWRIGHT_MARCH": "x86-64-v3",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
    for told in MASKS.values():
        assert {"ONEDNN_MAX_CPU_ISA", "TUNEWRIGHT_MARCH"} <= told.keys()


@pytest.mark.parametrize(
    ("unit", "description"),
    [("avx512_bf16", "x86_64 CPU with avx512_bf16"), ("avx2", "x86_64 CPU with avx2"),
     ("avx512_bf16", "x86_64 CPU with avx512f (amx_bf16 hidden)"), ("avx2", "arm64 CPU")],
)  # fmt: skip
def test_a_machine_that_has_nothing_to_hide_is_not_measured_again(unit, description):
    with pytest.raises(SystemExit) as ended:
        check_mask(unit, description)
    assert ended.value.code == f"{description}: there is nothing better than {unit} here to hide."


def test_without_a_mask_nothing_is_asked():
    check_mask(None, "x86_64 CPU with avx2")


TELL = """
import json, sys
from benchmarks.masks import begin_masked
begin_masked("avx2")
import torch
from tunewright.devices import find_device
from tunewright.native import native
made = native()
print(json.dumps({
    "words": sys.argv[1:],
    "torch": torch.backends.cpu.get_cpu_capability(),
    "precision": find_device().precision,
    "products": made is not None and made.has_products,
}))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="these units are an x86-64's")
def test_a_process_begins_anew_with_its_limits_and_its_words():
    environment = {name: value for name, value in os.environ.items() if name not in MASKS["avx2"]}
    done = subprocess.run(
        [sys.executable, "-c", TELL, "news", "--rounds", "3"], env=environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == {
        "words": ["news", "--rounds", "3"],
        "torch": "AVX2",
        "precision": "fp32",
        "products": False,
    }
