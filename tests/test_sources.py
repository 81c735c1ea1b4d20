"""docs/sources.md names places that exist, and misses no generator, framework or convention."""

import ast
import re
from pathlib import Path

import pytest

from synth3d.experiments.tables import TABLES
from synth3d.frameworks import FRAMEWORKS
from synth3d.models import GENERATORS
from synth3d.scoring.conventions import CONVENTIONS
from synth3d.training import recipe_names

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "sources.md").read_text("utf-8")
PACKAGES = ("cuda_ops", "synth3d", "seg_eval", "nnunet_plans")
PLACE = re.compile(rf"`((?:{'|'.join(PACKAGES)})/[^`:\s]+)(?::([\w.]+))?`")
PLACES = sorted(set(PLACE.findall(TEXT)))


def defined(path: Path) -> set[str]:
    """What a file defines at its top, and ``Class.method`` of its classes."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        targets = [*getattr(node, "targets", []), getattr(node, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = [each for each in node.body if isinstance(each, ast.FunctionDef)]
            found |= {f"{node.name}.{each.name}" for each in inner}
    return found


def section(title: str) -> str:
    """The text of a chapter."""
    return TEXT.split(f"\n## {title}", 1)[1].split("\n## ", 1)[0]


def test_every_package_is_named():
    assert {path.split("/")[0] for path, _ in PLACES} == set(PACKAGES)


def test_nothing_that_looks_like_a_place_escapes_the_check():
    looks = re.findall(r"`([^`\s]+\.py[^`]*)`", TEXT)
    known = {path + (f":{name}" if name else "") for path, name in PLACES}
    assert set(looks) <= known | {"ssim.py", "tests/test_sources.py"}


@pytest.mark.parametrize(("path", "name"), PLACES, ids=[":".join(place) for place in PLACES])
def test_every_place_exists(path, name):
    assert (ROOT / path).is_file()
    assert not name or name in defined(ROOT / path)


@pytest.mark.parametrize(
    ("title", "made"),
    [*(("", each) for each in GENERATORS.items()), *(("Training", f) for f in FRAMEWORKS.items())],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_every_generator_and_framework_has_its_source(title, made):
    name, built = made
    text = section(title) if title else TEXT
    path = built.__module__.replace(".", "/") + ".py"
    assert f"`{name}`" in text
    assert (path, built.__name__) in PLACE.findall(text)


def test_every_convention_and_experiment_is_named():
    assert all(f"`{name}`" in section("Scores") for name in CONVENTIONS)
    assert all(f"`{name}`" in section("AGI-Net") for name in TABLES)


def test_the_recipes_that_are_named_exist():
    named = set(re.findall(r"`((?:paper|ixi)-\dd)`", TEXT))
    assert named == {"paper-2d", "paper-3d", "ixi-2d"}
    assert named <= set(recipe_names())


def test_equations_that_the_code_cites_are_in_the_table():
    cited = set()
    for path in (ROOT / "synth3d" / "frameworks").glob("*.py"):
        cited |= set(re.findall(r"eq\. (\d+)", path.read_text("utf-8")))
    rows = " ".join(re.findall(r"eq\. [\d, ]+(?:, eq\. \d+)*", section("Training frameworks")))
    assert cited
    assert cited <= set(re.findall(r"\d+", rows))
