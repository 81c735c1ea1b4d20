"""Shared by all tests: one Hypothesis profile, one thread, one phantom cohort."""

import os
import tempfile

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MPLBACKEND", "agg")

from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("house", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("house")
_STATE = tempfile.TemporaryDirectory()
os.environ["XDG_STATE_HOME"] = _STATE.name
"""The key that seals our records is the tests' own."""


@pytest.fixture(scope="session")
def phantom_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small BraTS-2023-named cases; treat the folder as read-only."""
    from synth3d.phantom.cohort import make_cohort

    folder = tmp_path_factory.mktemp("phantom") / "cohort"
    make_cohort(folder, cases=6, size=32, seed=0)
    return folder


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
            ],
        ),
    ]
)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A GPU whose convolutions are float32 throughout; the CPU proves the test's own logic."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return torch.device(request.param)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many registers the CUDA kernels take, as the compiler reported them."""
    passed = terminalreporter.getreports("passed")
    found = [text for r in passed for name, text in r.user_properties if name == "registers"]
    if found:
        terminalreporter.write_sep("-", "registers a thread, no spill, no local memory")
        for text in sorted(set(found)):
            terminalreporter.write_line(text)
