"""Loads the scripts and the head phantom, which belong to no package; runs stock nnU-Net."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def load(path: Path):
    """The module in ``path``."""
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load_script():
    """Loads a script by its name."""
    return lambda name: load(SCRIPTS / f"{name}.py")


@pytest.fixture(scope="session")
def head():
    """The head phantom's module."""
    return load(Path(__file__).with_name("head_phantom.py"))


@pytest.fixture
def plan_and_preprocess(tmp_path):
    """Runs the stock command on dataset ``number`` of a raw folder; (exit code, output)."""

    def run(raw: Path, number: int, *flags: str) -> tuple[int, str]:
        pytest.importorskip("nnunetv2")
        folders = {"nnUNet_raw": raw, "nnUNet_preprocessed": tmp_path / "preprocessed",
                   "nnUNet_results": tmp_path / "results"}  # fmt: skip
        environment = os.environ | {name: str(path) for name, path in folders.items()}
        environment |= {"nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1"}
        program = Path(sys.executable).with_name("nnUNetv2_plan_and_preprocess")
        command = [program, "-d", str(number)]
        command += ["--verify_dataset_integrity", "-npfp", "1", "-np", "1", *flags]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        return done.returncode, done.stdout + done.stderr

    return run
