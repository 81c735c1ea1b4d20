"""The one door of ``cpu_*.cpp``: compiles them for this processor, once, and loads the library.

The library stays on disk, in ``$CUDA_OPS_CACHE`` or the user's cache, under a name that says what
it was compiled from and for. Before its first use in a process it must reproduce torch's numbers
on small cases (:mod:`cuda_ops.cpu_calls`, :mod:`cuda_ops.cpu_norm` and :mod:`cuda_ops.cpu_roll` see
to it).
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import torch

CHOICES = ("auto", "torch", "compiled")
FOLDER = Path(__file__).parent
SOURCES = tuple(FOLDER / name for name in ("cpu_conv.cpp", "cpu_norm.cpp", "cpu_roll.cpp"))
HEADER = FOLDER / "cpu_vectors.h"
OPTIONS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp")
COMPILERS = ("c++", "g++")  # the sources use vectors as GCC knows them
PROCESSORS = ("AVX2", "AVX512")
NORM = [ctypes.c_int64, ctypes.c_int64, ctypes.c_double, ctypes.c_int64]
CALLS = {
    "convolve": [ctypes.c_void_p] * 7,
    "kernel_gradient": [ctypes.c_void_p] * 5,
    "norm_gelu": [*NORM, *[ctypes.c_void_p] * 4],
    "norm_gelu_backward": [*NORM, *[ctypes.c_void_p] * 6],
    "roll_kernels": [ctypes.c_void_p, *[ctypes.c_int64] * 5, *[ctypes.c_void_p] * 4],
}
NEW = ".new-"
"""How the name of a file begins that is not whole yet."""
HASH = 32
"""Bytes of the hash that ends the file."""
PATIENCE = 300
"""Seconds that a compiler may take; it needs about four."""


_refused: list[str] = []
_left_out: ContextVar[bool] = ContextVar("left_out", default=False)


class NoLibraryError(OSError):
    """There is no compiled library; the sentence says why and what to do."""


def choice() -> str:
    """What ``CUDA_OPS_CPU`` says.

    ``auto`` (the default) uses the compiled library where it can be made, and says so with a
    warning where it should be possible and is not; ``torch`` does without; ``compiled`` insists.

    Raises:
        NoLibraryError: It says something else.
    """
    chosen = os.environ.get("CUDA_OPS_CPU", "auto")
    if chosen not in CHOICES:
        raise NoLibraryError(f"CUDA_OPS_CPU must be one of {CHOICES}, got {chosen!r}")
    return chosen


def describe() -> str:
    """Who convolves on this CPU, in a few words for the record."""
    try:
        if library() is not None:
            return "compiled"
        if choice() == "torch":
            return "torch, as CUDA_OPS_CPU says"
    except NoLibraryError as error:
        return f"none: {error}"
    return f"torch: {_refused[0]}" if _refused else "torch, the only one for this processor"


def library() -> ctypes.CDLL | None:
    """The loaded library, or None where torch is to compute alone.

    Raises:
        NoLibraryError: ``CUDA_OPS_CPU=compiled`` and there is none; or see :func:`choice`.
    """
    if _left_out.get():
        return None
    chosen = choice()
    if chosen != "torch" and _refused:
        refuse(_refused[0])
        return None
    return _library(chosen)


@contextmanager
def left_out() -> Iterator[None]:
    """Within this context there is no library: what torch would do on any device."""
    token = _left_out.set(True)
    try:
        yield
    finally:
        _left_out.reset(token)


@cache
def _library(chosen: str) -> ctypes.CDLL | None:
    if chosen == "torch" or chosen == "auto" and not known_processor():
        return None
    try:
        return opened()
    except NoLibraryError as error:
        refuse(str(error))
        return None


def refuse(why: str) -> bool:
    """Say that torch computes instead, and return False.

    Raises:
        NoLibraryError: ``CUDA_OPS_CPU=compiled``.
    """
    if why not in _refused:
        _refused.append(why)
    if choice() == "compiled":
        raise NoLibraryError(f"CUDA_OPS_CPU=compiled, but the library cannot be used: {why}")
    _warn(why)
    return False


@cache
def _warn(why: str) -> None:
    warnings.warn(
        f"the compiled CPU library cannot be used: {why}; torch computes instead, more slowly. "
        "CUDA_OPS_CPU=torch says that this is meant",
        stacklevel=2,
    )


@cache
def opened() -> ctypes.CDLL:
    """The library, compiled if need be and loaded, whatever ``CUDA_OPS_CPU`` says.

    Raises:
        NoLibraryError: It cannot be.
    """
    if not known_processor():
        raise NoLibraryError(
            "it needs Linux on an x86-64 processor with AVX2, and this is "
            f"{platform.system()} on {platform.machine()} "
            f"({torch.backends.cpu.get_cpu_capability()})"
        )
    name, built, refused = f"cpu-{_key()}.so", None, []
    for folder in _folders():
        try:
            _make(folder)
            path = folder / name
            if not _is_whole(path):
                built = _build() if built is None else built
                _keep(path, built)
            return _load(path)
        except NoLibraryError:
            raise
        except OSError as error:
            refused.append(f"{folder}: {error.strerror or error}")
    raise NoLibraryError(
        "there is no folder to keep it in (" + "; ".join(refused) + "); point CUDA_OPS_CACHE to "
        "one of your own, from which programs may run"
    )


def known_processor() -> bool:
    """Whether this is a machine for which the sources were written."""
    capable = torch.backends.cpu.get_cpu_capability() in PROCESSORS
    return platform.system() == "Linux" and platform.machine() == "x86_64" and capable


def _folders() -> Iterator[Path]:
    """Where the library may be kept, the best first."""
    if told := os.environ.get("CUDA_OPS_CACHE"):
        yield Path(told).expanduser().absolute()
        return
    if base := os.environ.get("XDG_CACHE_HOME"):
        yield Path(base).absolute() / "cuda_ops"
    else:
        with suppress(RuntimeError):  # nobody knows where this user's home is
            yield Path("~/.cache").expanduser().absolute() / "cuda_ops"
    yield Path(tempfile.gettempdir()).absolute() / f"cuda_ops-{os.getuid()}"


def _make(folder: Path) -> None:
    """Make the folder; an OSError where others can have put something there: it would be run."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    shared = folder.parent == Path(tempfile.gettempdir()).absolute()
    if (shared and folder.is_symlink()) or not _is_ours(folder):
        raise OSError("it belongs to somebody else, or others may write there")
    for left in folder.glob(f"{NEW}*"):  # by a process that was killed
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > PATIENCE:
                left.unlink()


def _is_ours(path: Path) -> bool:
    found = path.stat()
    others = stat.S_IWGRP | stat.S_IWOTH
    return found.st_uid == os.getuid() and not found.st_mode & others


def _is_whole(path: Path) -> bool:
    """Whether the library is there, ours, and ends with the hash of what precedes: a part of one
    that were loaded would end the process.
    """
    if path.is_symlink() or not path.is_file() or not _is_ours(path):
        return False
    content = path.read_bytes()
    return content[-HASH:] == hashlib.sha256(content[:-HASH]).digest()


def _keep(path: Path, library: bytes) -> None:
    """Put the library in its place, whole or not at all."""
    number, name = tempfile.mkstemp(dir=path.parent, prefix=NEW)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(library)
            file.flush()
            os.fchmod(file.fileno(), 0o700)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def _key() -> str:
    """What the library was compiled from, and for which processor."""
    processor = ""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        text = ""
    for line in text.split("\n\n", 1)[0].splitlines():
        if line.startswith(("model name", "flags")):
            processor += line
    texts = (path.read_text("utf-8") for path in (*SOURCES, HEADER))
    parts = (*texts, *OPTIONS, processor, platform.machine())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def _compilers() -> list[list[str]]:
    """What may compile, the best first.

    Raises:
        NoLibraryError: There is none.
    """
    try:
        told = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise NoLibraryError(f"CXX={os.environ['CXX']} is no command ({error})") from None
    found = [told] if told else [[path] for name in COMPILERS if (path := shutil.which(name))]
    if not found:
        raise NoLibraryError(
            f"no C++ compiler (looked for $CXX and {', '.join(COMPILERS)}): install one"
        )
    return found


def _build() -> bytes:
    """Compile; the library, followed by its hash.

    Raises:
        NoLibraryError: No compiler can.
    """
    said = []
    for compiler in _compilers():
        with tempfile.TemporaryDirectory(prefix="cuda_ops-compiling-") as folder:
            try:
                library = _compiled(compiler, Path(folder))
                return library + hashlib.sha256(library).digest()
            except (OSError, subprocess.SubprocessError) as error:
                said.append(f"{compiler[0]}: {error}")
    raise NoLibraryError(f"it could not be compiled ({'; '.join(said)})")


def _compiled(compiler: list[str], folder: Path) -> bytes:
    objects = {str(folder / f"{one.stem}.o"): str(one) for one in SOURCES}
    made = folder / "library.so"
    steps = [[*compiler, *OPTIONS, "-c", one, "-o", part] for part, one in objects.items()]
    # Linked without OpenMP, whose runtime is then the one that torch has loaded.
    for step in (*steps, [*compiler, "-shared", *objects, "-o", str(made)]):
        done = subprocess.run(step, capture_output=True, timeout=PATIENCE)
        if done.returncode:
            words = " ".join(done.stderr.decode(errors="replace").split())[:300]
            raise OSError(f"exit {done.returncode}: {words}")
    return made.read_bytes()


def _load(path: Path) -> ctypes.CDLL:
    """Load a library; an OSError where the linker refuses."""
    try:
        loaded = ctypes.CDLL(str(path))
        for name, arguments in CALLS.items():
            function: Any = getattr(loaded, name)
            function.argtypes, function.restype = arguments, None
    except AttributeError as error:
        raise OSError(str(error)) from None
    return loaded
