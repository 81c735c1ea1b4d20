"""What is installed is what is needed: the wheel, its command lines, their speed."""

import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import pytest

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
