"""The house rules of docs/design.md, enforced on the source itself: a test for each folder."""

import ast
import functools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DESIGN = (ROOT / "docs" / "design.md").read_text("utf-8")
PACKAGES = ("cuda_ops", "synth3d", "seg_eval", "nnunet_plans", "scripts")
DRAWN = re.search(r"^\*\*Floors\.\*\*.*?```text\n(.*?)```", DESIGN, re.M | re.S)
FLOORS = {
    package: [
        [package if room == "itself" else f"{package}.{room}" for room in floor.split(", ")]
        for floor in floors.split(" < ")
    ]
    for package, floors in re.findall(r"^(\w+) +(.*)$", re.sub(r"\n +", " ", DRAWN[1]), re.M)
}
"""From the ground up; a room imports what stands on lower floors. Files of one floor may share."""

ROOFS = ("synth3d", "seg_eval")
"""Packages whose ``__init__`` is the public API: a roof over all rooms, which no room imports."""

MAY_IMPORT = {
    "synth3d": {"cuda_ops"},
    # Between the stages only files travel: vocabulary, never training; of losses what an exported
    # segmenter is.
    "seg_eval": {
        "nnunet_plans", "synth3d.cli", "synth3d.cohort", "synth3d.completion", "synth3d.console",
        "synth3d.errors", "synth3d.files", "synth3d.images", "synth3d.losses", "synth3d.machine",
        "synth3d.runs", "synth3d.scoring",
        "synth3d.settings",
    },
    "scripts": {"cuda_ops", "nnunet_plans", "synth3d", "seg_eval"},
}  # fmt: skip
"""Beside itself: packages, or rooms of packages."""

FACELESS = {"nnunet_plans", "scripts"}
"""nnU-Net loads each module of ``nnunet_plans`` by its bare name; scripts are programs."""

DOORS = {
    "cupy": {"cuda_ops/launcher.py"},
    "torchio": {"synth3d/data/patches.py"},
    "nibabel": {"synth3d/images/nifti.py", "synth3d/images/volumes.py"},
    "distributed": {"synth3d/completion/workers/executor.py"},
    "SimpleITK": {"synth3d/images/registration.py"},
    "nilearn": {"synth3d/phantom/anatomy.py"},
    "nnunetv2": {
        "seg_eval/segmenter/nnunet.py", "nnunet_plans/trainers.py", "nnunet_plans/planners.py",
    },
    "dynamic_network_architectures": {"synth3d/losses/segmentation.py"},
    "sklearn": {"seg_eval/arms/baselines.py"},
    "lpips": {"synth3d/scoring/lpips.py"},
    "jinja2": {"seg_eval/report/page.py", "synth3d/completion/gallery/index.py"},
    "PIL": {"seg_eval/report/slices.py"},
    "matplotlib": {"synth3d/pictures.py", "seg_eval/report/pictures.py"},
}  # fmt: skip
PROGRAMS = {
    "cuda_ops/bench/command.py", "synth3d/bids/command.py", "synth3d/experiments/scores.py",
    "seg_eval/cli.py",
    *(f"synth3d/cli/{name}.py" for name in ("parser", "flags", "cohorts", "runs", "completing",
                                            "judging")),
}  # fmt: skip
"""The only files beside scripts that know argparse: a shell starts them. Below is typed."""

MOST_FILES = {"synth3d": 8, "seg_eval": 6, "cuda_ops": 9}
MOST_FILES_OF_A_FOLDER = 14
MOST_LINES, MOST_FUNCTION_LINES, MOST_ARGUMENTS = 400, 60, 7
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@functools.cache
def imports_of(path: Path) -> tuple[tuple[str, str], ...]:
    """(module, name) of every import, lazy or not; the name is empty for ``import module``.

    Of a roof that is imported as a whole, what is read from it counts.
    """
    found: set[tuple[str, str]] = set()
    nodes = list(ast.walk(tree_of(path)))
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {(alias.name, alias.asname or "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            assert node.module is not None
            found |= {(node.module, alias.name) for alias in node.names}
    for roof in [roof for roof in ROOFS if (roof, "") in found]:
        whole = [n for n in nodes if isinstance(n, ast.Attribute)]
        read = {n.attr for n in whole if getattr(n.value, "id", "") == roof}
        found = (found - {(roof, "")}) | {(roof, name) for name in read}
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


def visits(path: Path) -> list[tuple[str, str, str]]:
    """(room, module, name) of what a file takes from other rooms of ours.

    A package's version and place, as in ``synth3d.__version__``, are free for all.
    """
    ours = [(m, n) for m, n in imports_of(path) if m.split(".")[0] in PACKAGES and n[:2] != "__"]
    there = [(room_of(module, name), module, name) for module, name in ours]
    return [visit for visit in there if visit[0] != room_of_file(path)]


@pytest.mark.parametrize("package", ROOFS)
def test_every_file_belongs_to_a_room(package):
    """A file or folder that stands on no floor would be bound by no rule."""
    expected = {f"{package}/__init__.py", f"{package}/__main__.py"}
    assert {name_of(path) for path in files_of(package)} == expected
    assert {room for floor in FLOORS[package] for room in floor} == {
        room for room in ROOMS if room.split(".")[0] == package
    }


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_downhill(room):
    package = room.split(".")[0]
    height = {name: i for i, floor in enumerate(FLOORS[package]) for name in floor}
    wrong = set()
    for path in files_of(room):
        for other, module, name in visits(path):
            there = other.split(".")[0]
            allowed = other not in ROOFS and {there, other} & MAY_IMPORT.get(package, set())
            if there == package:
                allowed = height[other] <= height[room]
            wrong |= set() if allowed else {(name_of(path), module, name)}
    assert not wrong


def test_no_circle_between_rooms():
    standing: dict[str, set[str]] = {room: set() for room in ROOMS}
    for path in SOURCES:
        standing[room_of_file(path)] |= {other for other, _, _ in visits(path)}
    while free := [room for room, tos in standing.items() if not tos & standing.keys()]:
        for room in free:
            del standing[room]
    assert not standing


@functools.cache
def face_of(room: str) -> frozenset[str]:
    """The names that a folder hands on: its ``__all__``; nothing for a single file."""
    path = ROOT / room.replace(".", "/") / "__init__.py"
    for node in tree_of(path).body if path.is_file() else ():
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


@pytest.mark.parametrize("room", ROOMS)
def test_other_rooms_are_entered_by_their_face(room):
    """Only what a folder's ``__init__`` hands on; no file or folder inside another room."""
    inside = set()
    for path in files_of(room):
        for other, module, name in visits(path):
            is_folder = (ROOT / other.replace(".", "/")).is_dir() and other not in FACELESS
            own = room.startswith(f"{other}.")  # a bench may look at what it measures
            if is_folder and not own and (module != other or name not in face_of(other)):
                inside.add((name_of(path), module, name))
    assert not inside


INNER = sorted({name_of(path.parent).replace("/", ".") for path in SOURCES} - {*ROOMS})
"""Rooms in rooms."""


@pytest.mark.parametrize("inner", INNER)
def test_a_room_in_a_room_is_entered_by_its_face(inner):
    """Where it has one, by the files of its room as well; others know the outer face only."""
    inside = set()
    for path in files_of(room_of(inner)) if face_of(inner) else ():
        if ROOT / inner.replace(".", "/") not in path.parents:
            taken = {each for each in imports_of(path) if f"{each[0]}.".startswith(f"{inner}.")}
            wrong = {(m, n) for m, n in taken if m != inner or n not in face_of(inner)}
            inside |= {(name_of(path), *each) for each in wrong}
    assert not inside


def parts_called(room: str) -> dict[str, set[str]]:
    """Of each file and each room in a room, the others that it imports; its face is empty."""
    home, found = ROOT / room.replace(".", "/"), {}
    for path in files_of(room):
        called = found.setdefault(_part(path.relative_to(home).with_suffix("").parts), set())
        for module, name in imports_of(path):
            if room_of(module, name) == room:
                called.add(_part((*module.split("."), name)[room.count(".") + 1 :], home))
    return found


def _part(parts: Sequence[str], home: Path | None = None) -> str:
    known = home is None or (home / parts[0]).is_dir() or (home / f"{parts[0]}.py").is_file()
    return parts[0] if known and parts[0] != "__init__" else ""


@pytest.mark.parametrize("inner", INNER)
def test_no_circle_runs_through_a_room_in_a_room(inner):
    calls, own = parts_called(room_of(inner)), inner.removeprefix(f"{room_of(inner)}.")
    own = own.split(".")[0]
    reached, ahead = set(), [other for other in calls[own] if other != own]
    while ahead:
        if (part := ahead.pop()) not in reached:
            reached.add(part)
            ahead += calls[part]
    assert own not in reached


def users_of(library: str) -> set[str]:
    """The files that import it or a part of it."""
    modules = {path: {module.split(".")[0] for module, _ in imports_of(path)} for path in SOURCES}
    return {name_of(path) for path in SOURCES if library in modules[path]}


@pytest.mark.parametrize("library", DOORS)
def test_heavy_libraries_have_one_door(library):
    assert users_of(library) == DOORS[library]


def test_only_programs_know_argparse():
    assert {name for name in users_of("argparse") if name.split("/")[0] != "scripts"} == PROGRAMS


def test_nothing_is_imported_by_a_text():
    """Which the rules above could not read; only a face may hand on its own room lazily."""
    hidden = ("import_module", "__import__")
    users = {path for path in SOURCES if any(word in path.read_text("utf-8") for word in hidden)}
    assert not {name_of(path) for path in users if path.name != "__init__.py"}


@pytest.mark.parametrize("room", ROOMS)
def test_files_and_functions_stay_small(room):
    """Lines without the docstring; arguments without ``self``."""
    large = []
    for path in files_of(room):
        if len(path.read_text("utf-8").splitlines()) > MOST_LINES:
            large.append(name_of(path))
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            first = node.body[bool(ast.get_docstring(node) and len(node.body) > 1)]
            names = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            arguments = [each for each in names if each.arg not in ("self", "cls", "ctx")]
            lines = (node.end_lineno or 0) - first.lineno
            if lines >= MOST_FUNCTION_LINES or len(arguments) > MOST_ARGUMENTS:
                large.append(
                    f"{name_of(path)}: {node.name}, {lines} lines, {len(arguments)} arguments"
                )
    assert not large


@pytest.mark.parametrize("package", MOST_FILES)
def test_few_files_stand_outside_the_rooms(package):
    assert len(list((ROOT / package).glob("*.py"))) <= MOST_FILES[package]


def test_folders_are_small():
    files = Counter(name_of(path.parent) for path in SOURCES)
    assert not {name: n for name, n in files.items() if n > MOST_FILES_OF_A_FOLDER}


def test_files_are_named_after_what_is_in_them():
    """No drawer for odds and ends; a folder's name is not said twice; a prefix used three times
    is a folder, but in ``scripts``, whose paths users type.
    """
    drawers = {"utils", "helpers", "misc", "common", "manager"}
    wrong = {name_of(path) for path in SOURCES if drawers & {path.stem, path.parent.name}}
    wrong |= {
        name_of(path) for path in SOURCES if f"{path.stem}_".startswith(f"{path.parent.name}_")
    }
    prefixes = Counter((path.parent, path.stem.split("_")[0]) for path in SOURCES)
    often = {key for key, n in prefixes.items() if n > 2 and key[1] and key[0].name != "scripts"}
    assert not wrong | {f"{name_of(folder)}/{prefix}_" for folder, prefix in often}
