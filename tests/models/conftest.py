"""Shared by the tests of models."""

from __future__ import annotations

import os
from pathlib import Path
from zlib import crc32

import pytest

from tunewright.native import native

PLAIN_TILES = Path(__file__).with_name("plain_tiles.h")


@pytest.fixture
def plain_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets what is computed natively be computed on tiles, though this processor may have none."""
    version = crc32(PLAIN_TILES.read_bytes())  # or an older one would be found compiled
    flags = f"-include {PLAIN_TILES} -D__AMX_BF16__ -D__AMX_TILE__ -DPLAIN_TILES={version}"
    monkeypatch.setenv("CC", f"{os.environ.get('CC') or 'cc'} {flags}")
    made = native()
    if made is None or not made.has_tiles:
        pytest.skip("this processor multiplies no bfloat16, or this compiler does not take that")
