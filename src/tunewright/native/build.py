"""Compiles the files beside it once for a machine, and loads them: kernels in C, memory in C++.

Each library lies in the user's cache, or where that cannot be written in a private folder for what
is temporary. Its name is a hash of the sources, the flags, torch and the processor, and one of the
compiler: another of any of them makes another library. Without a compiler that of any is taken. It
is put there whole, by a rename: processes that start together may each compile it, and all take the
same file.

`TUNEWRIGHT_NATIVE=0` turns native code off, and `TUNEWRIGHT_ALLOCATOR=torch` that of memory alone.
`TUNEWRIGHT_MARCH` is the processor to compile the kernels for (`native`; `x86-64-v3` is one with
AVX2 only), `CC` and `CXX` are the compilers.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch  # which also loads the OpenMP library whose threads are shared

from tunewright.caches import private_folder, temporary_folder, usual_folder

HERE = Path(__file__).parent
TORCH = Path(torch.__file__).parent


@dataclass(frozen=True)
class _Recipe:
    """How a library is made."""

    sources: tuple[Path, ...]
    compiler: tuple[str, ...]
    flags: tuple[str, ...]
    link: tuple[str, ...]

    @classmethod
    def of_kernels(cls, compiler: str, target: str) -> _Recipe:
        """No OpenMP library is named: torch has loaded the right one."""
        flags = ("-O3", "-std=gnu11", "-fPIC", "-fopenmp", "-fno-math-errno", "-w")
        sources = tuple(sorted(HERE.glob("*.c")))
        return cls(sources, _words(compiler), (*flags, f"-march={target}"), ("-lm",))

    @classmethod
    def of_memory(cls, compiler: str) -> _Recipe:
        strings = int(torch.compiled_with_cxx11_abi())
        flags = ("-O2", "-std=c++20", "-fPIC", "-w", f"-I{TORCH / 'include'}",
                 f"-D_GLIBCXX_USE_CXX11_ABI={strings}")  # fmt: skip
        links = (f"-L{TORCH / 'lib'}", "-lc10")
        return cls((HERE / "memory.cpp",), _words(compiler), flags, links)

    def key(self) -> str:
        """Returns what a library is of, whoever compiles it."""
        own = (*self.compiler[1:], *self.flags, *self.link)
        told = (*own, torch.__version__, platform.machine(), _processor())
        digest = hashlib.sha256()
        for source in sorted([*self.sources, *HERE.glob("*.h")]):
            digest.update(source.read_bytes())
        digest.update("\0".join(told).encode())
        return digest.hexdigest()[:24]

    def compiler_key(self) -> str:
        told = (*self.compiler, _call(*self.compiler, "--version"))
        return hashlib.sha256("\0".join(told).encode()).hexdigest()[:8]

    def made(self, folder: Path) -> Path:
        """Compiles into a folder; returns the library."""
        compiled = [folder / f"{source.stem}.o" for source in self.sources]
        linked = folder / "native.so"
        for source, target in zip(self.sources, compiled, strict=True):
            _call(*self.compiler, *self.flags, "-c", str(source), "-o", str(target))
        _call(*self.compiler, "-shared", *map(str, compiled), "-o", str(linked), *self.link)
        return linked


class _Unavailable(Exception):
    """Why there is no native code here."""


@dataclass(frozen=True)
class Native:
    """The compiled library, what it was compiled for, and what multiplies there.

    Products of bfloat16 numbers are native with AVX-512 BF16, and faster on tiles (AMX).
    """

    library: ctypes.CDLL
    target: str
    has_products: bool
    has_tiles: bool


def native() -> Native | None:
    """Returns the native code, compiled if need be, or None where there is none."""
    found = _made(_wishes())
    return found if isinstance(found, Native) else None


def native_for(values: torch.Tensor) -> Native | None:
    """Returns the native code if it takes such tensors: bf16 or fp32, on the CPU."""
    taken = values.dtype in (torch.bfloat16, torch.float32)
    return native() if taken and values.device.type == "cpu" else None


def why_not() -> str | None:
    """Returns why there is no native code, or None where there is."""
    found = _made(_wishes())
    return None if isinstance(found, Native) else found


def keeper() -> ctypes.CDLL | str:
    """Returns what keeps the memory of tensors (Linux), or why there is none."""
    wished = {name: os.environ.get(name) or "" for name in ("TUNEWRIGHT_ALLOCATOR", "CXX")}
    if os.environ.get("TUNEWRIGHT_NATIVE") == "0":
        return "TUNEWRIGHT_NATIVE=0"
    if wished["TUNEWRIGHT_ALLOCATOR"] == "torch":
        return "TUNEWRIGHT_ALLOCATOR=torch"
    return _kept(wished["CXX"] or "c++")


@cache
def _kept(compiler: str) -> ctypes.CDLL | str:
    if platform.system() != "Linux":
        return f"it is for Linux, and this is {platform.system()}"
    try:
        return _opened(_compiled(_Recipe.of_memory(compiler)), _MEMORY)
    except _Unavailable as reason:
        return str(reason)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{type(error).__name__}: {error}"


def _wishes() -> tuple[str, ...]:
    usual = {"TUNEWRIGHT_NATIVE": "1", "TUNEWRIGHT_MARCH": "native", "CC": "cc"}
    return tuple(os.environ.get(name) or value for name, value in usual.items())


@cache
def _made(wishes: tuple[str, ...]) -> Native | str:
    """Returns the native code, or why there is none."""
    wanted, target, compiler = wishes
    if wanted == "0":
        return "TUNEWRIGHT_NATIVE=0"
    try:
        library = _opened(_compiled(_Recipe.of_kernels(compiler, target)), _KERNELS)
        if not library.runs_here():
            return f"this processor cannot run what was compiled for {target}"
        has_products, has_tiles = bool(library.has_products()), bool(library.ask_for_tiles())
        return Native(library, target, has_products, has_tiles)
    except _Unavailable as reason:
        return str(reason)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{type(error).__name__}: {error}"


def _compiled(recipe: _Recipe) -> Path:
    """Returns the library, from the cache or newly made."""
    key, is_there = recipe.key(), shutil.which(recipe.compiler[0]) is not None
    name = f"{key}-{recipe.compiler_key() if is_there else '*'}.so"
    usual = usual_folder()
    private = private_folder() if temporary_folder().exists() else None
    folders = [folder / "native" for folder in (usual, private) if folder]
    for path in (path for folder in folders for path in sorted(folder.glob(name))):
        if _is_whole(path):
            return path
    if not is_there:
        raise _Unavailable(f"there is no compiler ({recipe.compiler[0]})")
    if usual is not None:
        with suppress(OSError):  # it may not be ours to write
            return _made_in(usual / "native", recipe, name)
    private = private or private_folder()
    if private is None:
        raise _Unavailable(f"no cache can be written, and {temporary_folder()} is not ours alone")
    return _made_in(private / "native", recipe, name)


def _made_in(folder: Path, recipe: _Recipe, name: str) -> Path:
    """Compiles a library into a folder; raises OSError where it cannot be written."""
    path = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as own:
        made = recipe.made(Path(own))
        with made.open("ab") as file:  # what stands after a library's end is not read
            file.write(hashlib.sha256(made.read_bytes()).digest())
        made.replace(path)
    return path


def _words(compiler: str) -> tuple[str, ...]:
    """Returns the words of a compiler's name, such as `ccache cc`."""
    return tuple(shlex.split(compiler)) or (compiler,)


def _is_whole(path: Path) -> bool:
    """Says whether a library ends with the SHA-256 of what comes before: a damaged one crashes."""
    content = path.read_bytes()
    return hashlib.sha256(content[:-32]).digest() == content[-32:]


def _call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        raise _Unavailable(f"{command[0]} could not compile it: {last[0].strip()}")
    return done.stdout


def _processor() -> str:
    """Returns the features of the processor, as Linux tells them."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


# What the functions take: n a count, i an int, f a float, d a double, p an address.
_KERNELS = {
    "attention_scratch": ("n", "nnn"),
    "linear_scratch": ("n", "n"),
    "attention": ("", "pi"),
    "drop": ("", "pppnifii"),
    "random_bytes": ("", "ppnpnni"),
    "norm": ("", "pi"),
    "adamw": ("", "pnddi"),
    "sum_of_squares": ("d", "ppnpi"),
    "newest": ("", "p"),
    "likeliest": ("", "p"),
    "runs_here": ("i", ""),
    "has_products": ("i", ""),
    "ask_for_tiles": ("i", ""),
    "linear": ("", "p"),
    "linear_back": ("", "p"),
    "threads": ("i", ""),
}
_MEMORY = {
    "keep_memory": ("", ""),
    "give_back": ("", ""),
    "limit_kept": ("", "n"),
    "memory_now": ("", "p"),
}
_TYPES = {
    "n": ctypes.c_int64,
    "i": ctypes.c_int,
    "f": ctypes.c_float,
    "d": ctypes.c_double,
    "p": ctypes.c_void_p,
}


def _opened(path: Path, functions: Mapping[str, tuple[str, str]]) -> ctypes.CDLL:
    """Loads a library and says what its functions take and return."""
    library = ctypes.CDLL(str(path))
    for name, (returned, taken) in functions.items():
        function = getattr(library, name)
        function.restype = _TYPES.get(returned)
        function.argtypes = [_TYPES[letter] for letter in taken]
    return library
