"""Every script can be run by itself."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "scripts").rglob("*.py"))
SCRIPTS = [file.relative_to(ROOT) for file in FILES if "__main__" in file.read_text("utf-8")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_it_runs_as_a_program(script):
    """By its path; one of several files as a module."""
    module = ["-m", ".".join(script.with_suffix("").parts)]
    words = [sys.executable, *([script] if script.parent.name == "scripts" else module), "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "examples:" in done.stdout
