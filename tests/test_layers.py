"""The house rules of docs/design.md, enforced on the source itself."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "cuda_ops": set(),
    "nnunet_plans": set(),
    "synth3d": {"cuda_ops"},
    "seg_eval": {"synth3d", "nnunet_plans"},
    "scripts": {"synth3d", "seg_eval"},
}
# Between the stages only files travel: seg_eval takes vocabulary, never tensors or training.
VOCABULARY = {
    "synth3d", "synth3d.bootstrap", "synth3d.case_scores", "synth3d.cases", "synth3d.config",
    "synth3d.files", "synth3d.intensity", "synth3d.labels", "synth3d.metrics", "synth3d.receipt",
    "synth3d.settings", "synth3d.splits", "synth3d.volumes",
}  # fmt: skip
DOORS = {
    "cupy": {"cuda_ops/cuda.py"},
    "torchio": {"synth3d/data.py"},
    "nibabel": {"synth3d/volumes.py"},
    "SimpleITK": {"synth3d/volumes.py", "synth3d/registration.py"},
    "nilearn": {"synth3d/phantom_anatomy.py"},
    "nnunetv2": {
        "seg_eval/nnunet.py", "nnunet_plans/trainers.py", "nnunet_plans/planners.py",
    },
    "sklearn": {"seg_eval/baselines.py"},
    "lpips": {"synth3d/perceptual_score.py"},
    "jinja2": {"seg_eval/page.py"},
    "PIL": {"seg_eval/page_slices.py"},
    "matplotlib": {"synth3d/pictures.py", "seg_eval/pictures.py"},
}  # fmt: skip
SOURCES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def modules_in(path: Path) -> set[str]:
    """Dotted names that ``path`` imports, lazily or not."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            assert node.module is not None
            names.add(node.module)
    return names


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_run_downhill(path):
    package = path.relative_to(ROOT).parts[0]
    tops = {name.split(".")[0] for name in modules_in(path)}
    assert not (tops & MAY_IMPORT.keys()) - MAY_IMPORT[package] - {package}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_heavy_libraries_have_one_door(path):
    tops = {name.split(".")[0] for name in modules_in(path)}
    assert not {lib for lib in tops & DOORS.keys() if name_of(path) not in DOORS[lib]}


@pytest.mark.parametrize("path", [p for p in SOURCES if "seg_eval" in p.parts], ids=name_of)
def test_seg_eval_takes_only_vocabulary_from_synth3d(path):
    used = {name for name in modules_in(path) if name.split(".")[0] == "synth3d"}
    assert used <= VOCABULARY


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_and_functions_stay_small(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            assert node.end_lineno - first.lineno < 60, f"{node.name} is too long"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_drawer_for_odds_and_ends(path):
    assert not {"utils", "helpers", "misc", "common", "manager"} & {path.stem, path.parent.name}


def test_every_door_exists():
    exist = {name_of(path) for path in SOURCES}
    assert {door for doors in DOORS.values() for door in doors} <= exist


def test_operator_and_models_import_with_torch_alone():
    blocked = ["torchio", "nibabel", "SimpleITK", "nnunetv2", "sklearn", "skimage", "matplotlib",
               "scipy", "safetensors", "tqdm", "nilearn", "cupy", "monai"]  # fmt: skip
    code = (
        "import sys\n"
        f"for name in {blocked}: sys.modules[name] = None\n"
        "import cuda_ops, synth3d.models\n"
        "from synth3d.models import GENERATORS\n"
        "assert {'agi-net', 'resunet'} <= set(GENERATORS)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
