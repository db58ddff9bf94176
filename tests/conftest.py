"""Fixtures that every test may use, and the warnings of others that we cannot mend."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

TinyFolder = Callable[..., Path]

# Encoded rows that a test leaves are no other's, and none are left in the user's own cache.
os.environ["TUNEWRIGHT_CACHE"] = tempfile.mkdtemp(prefix="tunewright-cache-")
atexit.register(shutil.rmtree, os.environ["TUNEWRIGHT_CACHE"], ignore_errors=True)

# The same examples at every run, so that a green run stays green; HYPOTHESIS_PROFILE=default looks
# for new ones.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


# A shell starts what runs in the background with this signal ignored, and so it would stay.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", params=["1", "0"], ids=["native", "torch"])
def either_way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Holds a module's tests to the same both ways: native code, and plain torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_NATIVE", request.param)
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> TinyFolder:
    """Returns a function (architecture, num_labels=None) -> folder of a tiny random model.

    Folders are shared by all tests of the session: copy one before changing it.
    """
    root = tmp_path_factory.mktemp("tiny")
    built: dict[tuple[str, int | None], Path] = {}

    def build(architecture: str, num_labels: int | None = None) -> Path:
        from tests.tiny import tiny_model  # torch is slow to import, and many tests need none

        key = (architecture, num_labels)
        if key not in built:
            folder = root / f"{architecture}-{num_labels or 'backbone'}"
            built[key] = tiny_model(architecture, folder, num_labels)
        return built[key]

    return build
