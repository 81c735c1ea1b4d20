"""Where the operator's tests run: on the CPU, and on a GPU in both of its forms there."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


class Place(NamedTuple):
    """Where a test runs and which form rolls there."""

    device: torch.device
    backend: str


def place_of(name: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    kind, _, backend = name.partition("-")
    if backend == "cupy" and importlib.util.find_spec("cupy") is None:
        pytest.skip("needs CuPy: pip install cupy-cuda13x")
    monkeypatch.setenv("CUDA_OPS_BACKEND", backend or "torch")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return Place(torch.device(kind, 0) if kind == "cuda" else torch.device(kind), backend)


def places(*names: str) -> Any:
    """A fixture; a fault that the device reports late fails the test that made it."""

    @pytest.fixture(params=[pytest.param(n, marks=GPU if "cuda" in n else []) for n in names])
    def there(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
        place = place_of(request.param, monkeypatch)
        yield place
        if place.device.type == "cuda":
            torch.cuda.synchronize(place.device)

    return there


# Both forms on a GPU; the CPU proves a test's own logic without one.
place = places("cpu", "cuda-torch", "cuda-cupy")
gpu = places("cuda-torch", "cuda-cupy")
fused = places("cuda-cupy")


@pytest.fixture
def small() -> Callable[..., list[Tensor]]:
    """Makes small leaves: weight (3, 4, *sides), offsets (2, 2, d), scale (2, 2), gates (2, 4)."""
    return make_small


def make_small(
    dim: int,
    device: torch.device,
    dtype: torch.dtype = torch.float64,
    sides: tuple = (),
    gated: bool = False,
) -> list[Tensor]:
    """Leaves of two samples in two groups, offsets away from whole numbers; gates if wanted."""
    g = torch.Generator().manual_seed(dim)
    kind = torch.promote_types(dtype, torch.float32)
    weight = torch.randn(3, 4, *(sides or (3,) * dim), generator=g, dtype=torch.float64)
    offsets = 0.2 + 0.6 * torch.rand(2, 2, dim, generator=g, dtype=torch.float64)
    offsets = offsets + torch.tensor([-2.0, 1.0], dtype=torch.float64)[:, None, None]
    scale = torch.rand(2, 2, generator=g, dtype=torch.float64)
    leaves = [weight.to(dtype), offsets.to(kind), scale.to(kind)]
    if gated:
        leaves.append(torch.randn(2, 4, generator=g, dtype=torch.float64).to(kind))
    return [leaf.to(device).requires_grad_() for leaf in leaves]


@pytest.fixture
def under_sanitizers() -> Callable[[Path], "subprocess.CompletedProcess[str]"]:
    """Runs a Python file that loads a library compiled with the sanitizers."""

    def run(driver: Path) -> "subprocess.CompletedProcess[str]":
        runtime = [
            subprocess.run(
                ["g++", f"-print-file-name=lib{name}.so"],
                capture_output=True, text=True, check=True,
            ).stdout.strip()
            for name in ("asan", "ubsan")
        ]  # fmt: skip
        return subprocess.run(
            [shutil.which("python3") or sys.executable, str(driver)],
            env={**os.environ, "LD_PRELOAD": ":".join(runtime), "ASAN_OPTIONS": "detect_leaks=0"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run
