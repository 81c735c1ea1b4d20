"""What is installed is what is needed: the wheel, its command lines, their speed."""

import os
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import pytest

from cuda_ops.launcher import EXTRAS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps",
               "--no-build-isolation", "-w", str(out), str(source)]  # fmt: skip
    subprocess.run(command, check=True)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_code_recipes_plans_and_kernel_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"cuda_ops", "synth3d", "nnunet_plans", "seg_eval"}
    for package in tops:
        on_disk = {p.relative_to(ROOT).as_posix() for p in (ROOT / package).rglob("*.py")}
        assert on_disk <= names
        assert f"{package}/py.typed" in names
    for pattern in ("training/recipes/*.toml", "plans/*.json", "*.cu", "report/*/*.j2"):
        files = {
            p.relative_to(ROOT).as_posix() for top in tops for p in ROOT.glob(f"{top}/{pattern}")
        }
        assert files
        assert files <= names


def test_the_installed_wheel_runs_both_command_lines(wheel, tmp_path, monkeypatch):
    venv.create(tmp_path / "env", with_pip=False, system_site_packages=False)
    python = tmp_path / "env" / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    zipfile.ZipFile(wheel).extractall(site)
    libraries = next(p for p in map(Path, sys.path) if (p / "torch").is_dir())
    # Only the libraries are borrowed: appended, so the extracted wheel comes first.
    (Path(site) / "libraries.pth").write_text(f"{libraries}\n")
    code = (
        "import sys, pathlib, synth3d.cli, seg_eval.cli, cuda_ops;"
        f"assert pathlib.Path(seg_eval.cli.__file__).is_relative_to({site!r}), seg_eval.__file__;"
        "sys.exit(synth3d.cli.main(['describe', '--widths', '8,16,32', '--groups', '4', '--json']))"
    )
    monkeypatch.delenv("PYTHONPATH", raising=False)
    shown = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert '"parameters"' in shown.stdout


@pytest.mark.parametrize("module", ["synth3d", "seg_eval"])
def test_help_is_quick_and_has_examples(module):
    times = []
    command = [sys.executable, "-m", module, "--help"]
    for _ in range(3):
        begin = time.perf_counter()
        found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        times.append(time.perf_counter() - begin)
        assert found.returncode == 0
        assert "examples:" in found.stdout.lower()
    assert min(times) < 1.5


STAND_IN = """#!/bin/sh
case "$*" in
"-m venv "*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
*"import extra"*) echo "$EXTRA" ;;
*) echo "$*" >>calls; case "$*" in *".[gpu"*) exit "$FAIL" ;; esac ;;
esac
"""


@pytest.mark.parametrize(
    ("driver", "extra", "fail", "asked"),
    [
        ("0", "gpu", "0", ".[gpu]"),
        ("0", "gpu-cuda12", "0", ".[gpu-cuda12]"),
        ("0", "gpu", "1", ".[gpu]"),
        ("0", "", "0", None),
        ("9", "gpu", "0", None),  # as nvidia-smi ends where no driver answers it
    ],
)
def test_make_installs_the_cupy_for_torchs_cuda_where_there_is_a_driver(
    driver, extra, fail, asked, tmp_path, monkeypatch
):
    """With stand-ins for Python, pip and nvidia-smi; a CuPy that cannot be had stops nothing."""
    for name in ("Makefile", "setup.py", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    smi = f"#!/bin/sh\nexit {driver}\n"
    for name, text in (("python", STAND_IN), ("nvidia-smi", smi)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    for name, value in {"EXTRA": extra, "FAIL": fail}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    command = ["make", ".venv/.installed", "PYTHON=./python"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / ".venv" / ".installed").is_file()
    calls = [line for line in (tmp_path / "calls").read_text().splitlines() if " -e " in line]
    assert [call.split()[-1] for call in calls] == [".[test]", *filter(None, [asked])]
    assert all("-c constraints.txt" in call for call in calls)
    assert ("rolls in plain torch" in ended.stderr) == (
        driver == "0" and not (extra and fail == "0")
    )


def test_the_extras_are_those_that_messages_name():
    text = (ROOT / "setup.py").read_text("utf-8")
    for major, extra in EXTRAS.items():
        assert f'"{extra}": ["cupy-cuda{major}x' in text
