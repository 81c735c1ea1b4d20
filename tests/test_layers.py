"""The house rules of docs/design.md, enforced on the source itself: a test for each folder."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cuda_ops", "synth3d", "seg_eval", "nnunet_plans", "scripts")
FLOORS = {
    "cuda_ops": [["cuda_ops"], ["cuda_ops.bench"]],
    "nnunet_plans": [["nnunet_plans"]],
    "synth3d": [
        ["synth3d.errors", "synth3d.files", "synth3d.settings", "synth3d.machine"],
        ["synth3d.images", "synth3d.models", "synth3d.losses", "synth3d.pictures"],
        ["synth3d.cohort"],
        ["synth3d.phantom", "synth3d.scoring"],
        ["synth3d.data"],
        ["synth3d.frameworks"],
        ["synth3d.inference"],
        ["synth3d.training"],
        ["synth3d.completion", "synth3d.experiments"],
        ["synth3d.cli"],
    ],
    "seg_eval": [
        ["seg_eval.scoring", "seg_eval.cohort"],
        ["seg_eval.records"],
        ["seg_eval.arms"],
        ["seg_eval.analysis"],
        ["seg_eval.segmenter"],
        ["seg_eval.experiment"],
        ["seg_eval.report"],
        ["seg_eval.evaluation"],
        ["seg_eval.cli"],
    ],
    "scripts": [["scripts"]],
}
"""From the ground up; a room imports what stands on lower floors. Files of one floor may share."""

MAY_IMPORT = {
    "cuda_ops": set(),
    "nnunet_plans": set(),
    "synth3d": {"cuda_ops"},
    "seg_eval": {"synth3d", "nnunet_plans"},
    "scripts": {"synth3d", "seg_eval"},
}
# Between the stages only files travel: seg_eval takes vocabulary, never tensors or training.
VOCABULARY = {
    "synth3d", "synth3d.cohort", "synth3d.completion", "synth3d.errors",
    "synth3d.files", "synth3d.images", "synth3d.scoring", "synth3d.settings",
}  # fmt: skip
DOORS = {
    "cupy": {"cuda_ops/cuda.py"},
    "torchio": {"synth3d/data/patches.py"},
    "nibabel": {"synth3d/images/volumes.py"},
    "SimpleITK": {"synth3d/images/registration.py"},
    "nilearn": {"synth3d/phantom/anatomy.py"},
    "nnunetv2": {
        "seg_eval/segmenter/nnunet.py", "nnunet_plans/trainers.py", "nnunet_plans/planners.py",
    },
    "sklearn": {"seg_eval/arms/baselines.py"},
    "lpips": {"synth3d/scoring/lpips.py"},
    "jinja2": {"seg_eval/report/page.py"},
    "PIL": {"seg_eval/report/slices.py"},
    "matplotlib": {"synth3d/pictures.py", "seg_eval/report/pictures.py"},
}  # fmt: skip
MOST_FILES = {"synth3d": 8, "seg_eval": 6, "cuda_ops": 9}
MOST_LINES, MOST_FUNCTION_LINES = 400, 60
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def imports_of(path: Path) -> tuple[tuple[str, str], ...]:
    """(module, name) of every import, lazy or not; the name is empty for ``import module``."""
    found: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            assert node.module is not None
            found |= {(node.module, alias.name) for alias in node.names}
    return tuple(sorted(found))


def room_of(module: str, name: str = "") -> str:
    """The room (or file beside the rooms) that ``from module import name`` reaches into."""
    parts = [*module.split("."), *([name] if name else [])]
    rooms = {room for floors in FLOORS.values() for floor in floors for room in floor}
    for length in range(len(parts), 0, -1):
        if (room := ".".join(parts[:length])) in rooms:
            return room
    return parts[0]


def room_of_file(path: Path) -> str:
    return room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))


ROOMS = sorted({room_of_file(path) for path in SOURCES})


def files_of(room: str) -> list[Path]:
    return [path for path in SOURCES if room_of_file(path) == room]


def ours(path: Path) -> list[tuple[str, str]]:
    return [(m, n) for m, n in imports_of(path) if m.split(".")[0] in PACKAGES]


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_downhill(room):
    package = room.split(".")[0]
    height = {name: i for i, floor in enumerate(FLOORS[package]) for name in floor}
    wrong = set()
    for path in files_of(room):
        for module, name in ours(path):
            other, there = room_of(module, name), module.split(".")[0]
            if there != package:
                allowed = there in MAY_IMPORT[package]
            elif other in (room, package):  # the package itself is its name and version
                allowed = True
            else:
                allowed = room == package or height[other] <= height[room]
            wrong |= set() if allowed else {(name_of(path), module, name)}
    assert not wrong


def test_no_circle_between_rooms():
    graph = {room: set() for room in ROOMS}
    for path in SOURCES:
        here = room_of_file(path)
        graph[here] |= {room_of(module, name) for module, name in ours(path)} - {here}
    standing = {room: {to for to in tos if "." in to} for room, tos in graph.items()}
    while free := [room for room, tos in standing.items() if not tos & standing.keys()]:
        for room in free:
            del standing[room]
    assert not standing


@functools.cache
def face_of(room: str) -> frozenset[str]:
    """The names that a folder hands on: its ``__all__``; nothing for a single file."""
    path = ROOT / room.replace(".", "/") / "__init__.py"
    if not path.is_file():
        return frozenset()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


@pytest.mark.parametrize("room", ROOMS)
def test_other_rooms_are_entered_by_their_face(room):
    """Only what a folder's ``__init__`` hands on; no file inside another room."""
    inside = set()
    for path in files_of(room):
        for module, name in ours(path):
            other = room_of(module, name)
            is_folder = (ROOT / other.replace(".", "/")).is_dir()
            itself = f"{module}.{name}" == other
            if other == room or "." not in other or not is_folder or itself:
                continue
            if name not in face_of(module):
                inside.add((name_of(path), module, name))
    assert not inside


@pytest.mark.parametrize("room", [room for room in ROOMS if room.split(".")[0] == "seg_eval"])
def test_seg_eval_takes_only_vocabulary_from_synth3d(room):
    used = {m for path in files_of(room) for m, _ in ours(path) if m.split(".")[0] == "synth3d"}
    assert used <= VOCABULARY


@pytest.mark.parametrize("library", DOORS)
def test_heavy_libraries_have_one_door(library):
    users = {
        name_of(path)
        for path in SOURCES
        if library in {module.split(".")[0] for module, _ in imports_of(path)}
    }
    assert users == DOORS[library]


@pytest.mark.parametrize("room", ROOMS)
def test_files_and_functions_stay_small(room):
    for path in files_of(room):
        text = path.read_text("utf-8")
        assert len(text.splitlines()) <= MOST_LINES, name_of(path)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                has_more = ast.get_docstring(node) and len(node.body) > 1
                first = node.body[1] if has_more else node.body[0]
                length = (node.end_lineno or 0) - first.lineno
                assert length < MOST_FUNCTION_LINES, f"{name_of(path)}: {node.name} is too long"


@pytest.mark.parametrize("package", MOST_FILES)
def test_few_files_stand_outside_the_rooms(package):
    assert len(list((ROOT / package).glob("*.py"))) <= MOST_FILES[package]


def test_no_drawer_for_odds_and_ends():
    drawers = {"utils", "helpers", "misc", "common", "manager"}
    assert not {name_of(path) for path in SOURCES if drawers & {path.stem, path.parent.name}}


def test_a_file_drops_the_name_of_its_folder():
    repeats = {
        name_of(path)
        for path in SOURCES
        if path.stem.startswith(f"{path.parent.name}_") or path.stem == path.parent.name
    }
    assert not repeats


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
