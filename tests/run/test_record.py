"""What a run writes down about the machine."""

from __future__ import annotations

import importlib.metadata

import torch

from tunewright.run.record import versions


def test_versions_are_those_that_were_there_when_a_process_began(monkeypatch):
    versions.cache_clear()
    assert versions()["torch"] == torch.__version__

    def gone(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", gone)
    assert versions()["torch"] == torch.__version__
