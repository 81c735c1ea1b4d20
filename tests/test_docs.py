"""What README.md, docs/*.md and the Makefile name exists: files, names, commands, flags, targets.

``docs/sources.md`` also misses no generator, framework or convention.
"""

import argparse
import ast
import contextlib
import functools
import importlib
import itertools
import pkgutil
import re
import shlex
from pathlib import Path
from typing import NoReturn

import pytest

from nnunet_plans.presets import PRESETS
from synth3d.experiments.tables import TABLES
from synth3d.frameworks import FRAMEWORKS
from synth3d.models import GENERATORS
from synth3d.scoring import CONVENTIONS

ROOT = Path(__file__).parents[1]
PACKAGES = ("cuda_ops", "synth3d", "seg_eval", "nnunet_plans")
PAGES = {
    path.name: path.read_text("utf-8") for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]
}
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
PLACE = re.compile(rf"((?:{'|'.join(PACKAGES)}|scripts|tests|docs)/[^`:\s]*)(?::([\w.]+))?")
DOTTED = re.compile(rf"\b(?:{'|'.join(PACKAGES)})(?:\.[a-zA-Z_]\w*)+")
RECIPES = {path.stem for path in ROOT.glob("synth3d/training/recipes/*.toml")}
CHOICES = {
    "recipe": RECIPES, "model": GENERATORS, "framework": FRAMEWORKS, "preset": PRESETS,
    "table": TABLES,
}  # fmt: skip
OTHERS = {"ssim.py"}
"""Files of other projects."""


def spans(page: str) -> list[str]:
    """What stands between single backticks."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", PAGES[page]))


def blocks(page: str, *kinds: str) -> list[str]:
    return [text for kind, text in FENCE.findall(PAGES[page]) if kind in kinds]


def created(page: str) -> set[str]:
    """The files that a page has its reader write: the first line of a block names each."""
    return set(re.findall(r"^```\w+\n# (\S+)$", PAGES.get(page, ""), re.M))


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


@pytest.mark.parametrize("page", PAGES)
def test_every_place_exists(page):
    wrong = []
    for span in set(spans(page)) - created(page) - OTHERS:
        place = PLACE.fullmatch(span)
        if place:
            found = list(ROOT.glob(place[1].rstrip("/")))
            if not found or (place[2] and place[2] not in defined(found[0])):
                wrong.append(span)
        elif re.search(r"\.(py|cu|cpp|h)\b", span) and " " not in span:
            wrong.append(span)  # a place that begins at no folder of ours
    assert not wrong


@pytest.mark.parametrize("page", PAGES)
def test_every_dotted_name_can_be_imported(page):
    texts = [span for span in spans(page) if DOTTED.match(span)]
    texts += blocks(page, "python") if not created(page) else []
    wrong = []
    for name in sorted({name for text in texts for name in DOTTED.findall(text)}):
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            wrong.append(name)
    assert not wrong


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    folder = ROOT if page == "README.md" else ROOT / "docs"
    links = re.findall(r"\]\((?!https?:)([^)#]+)", FENCE.sub("", PAGES[page]))
    assert not [link for link in links if not (folder / link).exists()]


@functools.cache
def parser_of(program: str) -> argparse.ArgumentParser:
    """The parser of a module, or of a file in scripts, as its ``main`` builds it."""
    taken = []

    def take(parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        taken.append(parser)
        raise SystemExit

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(SystemExit):
        patch.setattr(argparse.ArgumentParser, "parse_args", take)
        patch.syspath_prepend(ROOT / "scripts")
        is_script = program.endswith(".py")
        importlib.import_module(Path(program).stem if is_script else program).main([])
    return taken[0]


def options(parser: argparse.ArgumentParser) -> set[str]:
    """All flags of a parser and of the commands below it."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found = found.union(*(options(below) for below in action.choices.values()))
    return found


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))


def program_of(words: list[str]) -> tuple[str, list[str]]:
    """(module, script, ``make`` or nothing, arguments) of a command line in words."""
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    match [Path(words[0]).name if words else "", *words[1:]]:
        case ["synth3d" | "seg_eval" as name, *rest]:
            return f"{name}.cli", rest
        case ["make", *rest]:
            return "make", rest
        case ["python" | "python3", "-m", module, *rest] if module.split(".")[0] in PACKAGES:
            is_package = (ROOT / module.replace(".", "/")).is_dir()
            return module + ".__main__" * is_package, rest
        case ["python" | "python3", script, *rest] if script.startswith("scripts/"):
            return script, rest
    return "", words


def command_lines(text: str) -> list[tuple[str, list[str]]]:
    """Program and arguments of each of our commands in a block, in ``$(...)`` as well."""
    begins = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:[\w./]*/)?(?:synth3d|seg_eval|make|python3?)\s")
    lines = text.replace("\\\n", " ").splitlines() + re.findall(r"\$\((\w[^()]+)\)", text)
    words = [shlex.split(line, comments=True) for line in lines if begins.match(line)]
    alone = [list(itertools.takewhile(lambda word: word[:1] not in ">|&", line)) for line in words]
    return [(program, rest) for program, rest in map(program_of, alone) if program]


def made(makefile: str) -> str:
    """The rules' commands, with what make would put in."""
    for variable, value in {"BIN": ".", "WORK": "work", "PYTHON_GPU": "python", "ARGS": ""}.items():
        makefile = makefile.replace(f"$({variable})", value)
    return "\n".join(line.strip("\t@") for line in makefile.splitlines() if line[:1] == "\t")


COMMANDS = {
    **{page: command_lines("\n".join(blocks(page, "", "sh"))) for page in PAGES},
    "Makefile": [each for line in made(MAKEFILE).split("; ") for each in command_lines(line)],
}


@pytest.mark.parametrize("page", COMMANDS)
def test_every_command_is_understood(page):
    """By its own parser; a recipe, network, framework, preset or table that it names exists."""
    for program, words in COMMANDS[page]:
        if program == "make":
            assert {word for word in words if "=" not in word} <= TARGETS
            continue
        try:
            given = vars(parser_of(program).parse_args(words))
        except SystemExit as error:
            pytest.fail(f"{program} does not understand {words}: exit code {error.code}")
        assert flags_in(" ".join(words)) <= options(parser_of(program)), words  # no abbreviations
        for key, known in CHOICES.items() if not created(page) else ():
            value = given.get(key)
            assert value is None or value in known or (ROOT / value).is_file(), (key, value, words)


def test_the_targets_of_the_makefile_are_those_it_tells_of():
    assert set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.M)[1].split()) == TARGETS
    assert set(re.findall(r"[\"`]make ([a-z-]+)", MAKEFILE)) <= TARGETS


def test_the_readme_and_the_makefile_show_each_program():
    shown = {program for page in ("README.md", "Makefile") for program, _ in COMMANDS[page]}
    assert {"synth3d.cli", "seg_eval.cli", "make", "cuda_ops.bench.__main__"} <= shown
    assert {path.relative_to(ROOT).as_posix() for path in ROOT.glob("scripts/*_to_*.py")} <= shown


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_target_and_recipe_in_the_text_exists(page):
    every = {program for lines in COMMANDS.values() for program, _ in lines} - {"make"}
    anywhere = set().union(*(options(parser_of(program)) for program in every))
    for span in spans(page):
        program, words = program_of(span.split())
        if program == "make":
            assert words[0] in TARGETS, span
            continue
        known = options(parser_of(program)) if program else anywhere
        assert flags_in(span) <= known, span
    assert flags_in("\n".join(blocks(page, "", "sh"))) <= anywhere  # in comments, too
    named = re.findall(r"[Rr]ecipes? ((?:`[\w-]+`(?:, | and )?)+)", PAGES[page])
    assert set(re.findall(r"`([\w-]+)`", " ".join(named))) <= RECIPES


SOURCES = PAGES["sources.md"]


def section(title: str) -> str:
    """The text of a chapter of docs/sources.md; all of it without a title."""
    return SOURCES.split(f"\n## {title}", 1)[1].split("\n## ", 1)[0] if title else SOURCES


def test_the_sources_name_every_package():
    assert {path.split("/")[0] for path, _ in PLACE.findall(SOURCES)} >= set(PACKAGES)


@pytest.mark.parametrize(
    ("title", "made"),
    [*(("", each) for each in GENERATORS.items()), *(("Training", f) for f in FRAMEWORKS.items())],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_every_generator_and_framework_has_its_source(title, made):
    name, built = made
    assert f"`{name}`" in section(title)
    place = (built.__module__.replace(".", "/") + ".py", built.__name__)
    assert place in PLACE.findall(section(title))


def test_every_convention_and_experiment_has_its_source():
    assert all(f"`{name}`" in section("Scores") for name in CONVENTIONS)
    assert all(f"`{name}`" in section("AGI-Net") for name in TABLES)


def test_equations_that_the_code_cites_are_in_the_sources():
    paths = (ROOT / "synth3d" / "frameworks").glob("*.py")
    cited = {n for path in paths for n in re.findall(r"eq\. (\d+)", path.read_text("utf-8"))}
    rows = " ".join(re.findall(r"eq\. [\d, ]+(?:, eq\. \d+)*", section("Training frameworks")))
    assert cited
    assert cited <= set(re.findall(r"\d+", rows))


def test_the_design_shows_every_room_and_what_is_in_it():
    rows = re.findall(r"^\| `([\w/]+)/` \| ([^|]+) \|", PAGES["design.md"], re.M)
    shown = {(room, name) for room, names in rows for name in names.strip().split(" · ")}
    there = set()
    for face in [each for name in PACKAGES for each in (ROOT / name).rglob("__init__.py")]:
        room = face.parent.relative_to(ROOT).as_posix()
        inside = [*face.parent.glob("*.py"), *face.parent.glob("*.cu")]
        there |= {(room, path.name.removesuffix(".py")) for path in inside if path.name[:2] != "__"}
        there |= {(room, f"{path.parent.name}/") for path in face.parent.glob("*/__init__.py")}
    assert shown == {(room, name) for room, name in there if room.count("/") < 2}
