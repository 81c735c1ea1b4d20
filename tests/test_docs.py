"""What README.md, docs/*.md and the Makefile name exists: files, names, commands, flags, targets.

``docs/sources.md`` also misses no generator, framework or convention.
"""

import argparse
import contextlib
import functools
import importlib
import itertools
import pkgutil
import re
import shlex
from pathlib import Path
from types import FunctionType
from typing import NoReturn

import pytest
from torch.distributed.run import get_args_parser

from nnunet_plans.presets import PRESETS
from synth3d.experiments.probe import PROBE
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
PROGRAM = re.compile(
    r"(?:[A-Z_]+=\S+ )*(?:in_container )?(?:[\w./]*/)?"
    rf"(?:python3? -m ((?:{'|'.join(PACKAGES)}|scripts)[\w.]*)|python3? (scripts/\S+)"
    r"|(synth3d-bids|synth3d|seg_eval|make))(?=\s|$)"
)
CLIS = {"make": "make", "synth3d-bids": "synth3d.bids.command"}
RECIPES = {path.stem for path in ROOT.glob("synth3d/training/recipes/*.toml")}
CHOICES = {
    "recipe": RECIPES, "model": GENERATORS, "framework": FRAMEWORKS, "preset": PRESETS,
    "table": {*TABLES, PROBE},
}  # fmt: skip


def spans(page: str) -> list[str]:
    """What stands between single backticks."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", PAGES[page]))


def blocks(page: str, *kinds: str) -> list[str]:
    return [text for kind, text in FENCE.findall(PAGES[page]) if kind in kinds]


def created(page: str) -> set[str]:
    """The files that a page has its reader write: the first line of a block names each."""
    return set(re.findall(r"^```\w+\n# (\S+)$", PAGES.get(page, ""), re.M))


def is_there(name: str, home: str = "") -> bool:
    """Whether a dotted name can be imported, or a name from its home, and was defined there."""
    try:
        found = pkgutil.resolve_name(f"{home}:{name}" if home else name)
    except (ImportError, AttributeError):
        return False
    own = home and isinstance(found, type | FunctionType)
    return not own or found.__module__ == home


@pytest.mark.parametrize("page", PAGES)
def test_every_place_exists(page):
    wrong = []
    for span in set(spans(page)) - created(page) - {"ssim.py"}:  # of another project
        if place := PLACE.fullmatch(span):
            path, name = place.groups()
            home = path.removesuffix(".py").replace("/", ".")
            if not list(ROOT.glob(path.rstrip("/"))) or (name and not is_there(name, home)):
                wrong.append(span)
        elif re.search(r"\.(py|cu|cpp|h)\b", span) and " " not in span:
            wrong.append(span)  # a place that begins at no folder of ours
    assert not wrong


@pytest.mark.parametrize("page", PAGES)
def test_every_dotted_name_can_be_imported(page):
    texts = [span for span in spans(page) if DOTTED.match(span)]
    texts += blocks(page, "python") if not created(page) else []
    names = {name for text in texts for name in DOTTED.findall(text)}
    assert not [name for name in sorted(names) if not is_there(name)]


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


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(module, script or ``make``, arguments) of each command of ours; in ``$(...)``, too."""
    found = []
    lines = text.replace("\\\n", " ").splitlines() + re.findall(r"\$\((\w[^()]+)\)", text)
    for line, begin in [(line, PROGRAM.match(line)) for line in lines if PROGRAM.match(line)]:
        module, script, name = begin.groups()
        if module and (ROOT / module.replace(".", "/")).is_dir():
            module += ".__main__"
        words = shlex.split(line[begin.end() :], comments=True)
        alone = itertools.takewhile(lambda word: word[:1] not in ">|&", words)
        found.append((module or script or CLIS.get(name, f"{name}.cli"), [*alone]))
    return found


def recipes_of(makefile: str) -> str:
    """The rules' command lines, with what make would put in."""
    for variable, value in {"BIN": ".", "WORK": "work", "PYTHON_GPU": "python", "ARGS": ""}.items():
        makefile = makefile.replace(f"$({variable})", value)
    lines = [line.strip("\t@") for line in makefile.splitlines() if line[:1] == "\t"]
    return "\n".join(lines).replace("; ", "\n")


COMMANDS = {page: commands("\n".join(blocks(page, "", "sh"))) for page in PAGES}
COMMANDS["Makefile"] = commands(recipes_of(MAKEFILE))


@pytest.mark.parametrize("page", COMMANDS)
def test_every_command_is_understood(page):
    """By its own parser; a recipe, network, framework, preset or table that it names exists."""
    for program, words in COMMANDS[page]:
        if program == "make":
            assert set(words) <= TARGETS
            continue
        given = vars(parser_of(program).parse_args(words))
        assert flags_in(" ".join(words)) <= options(parser_of(program)), words  # no abbreviations
        for key, known in CHOICES.items() if not created(page) else ():
            value = given.get(key)
            assert value is None or value in known or (ROOT / value).is_file(), (key, value, words)


def test_the_targets_of_the_makefile_are_those_it_tells_of():
    assert set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.M)[1].split()) == TARGETS
    assert set(re.findall(r"[\"`]make ([a-z-]+)", MAKEFILE)) <= TARGETS


def test_the_readme_and_the_makefile_show_each_program():
    shown = {program for page in ("README.md", "Makefile") for program, _ in COMMANDS[page]}
    assert {
        "synth3d.cli",
        "synth3d.bids.command",
        "seg_eval.cli",
        "make",
        "cuda_ops.bench.__main__",
    } <= shown
    assert {path.relative_to(ROOT).as_posix() for path in ROOT.glob("scripts/*_to_*.py")} <= shown


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_target_and_recipe_in_the_text_exists(page):
    every = {program for lines in COMMANDS.values() for program, _ in lines} - {"make"}
    anywhere = options(get_args_parser()).union(*(options(parser_of(one)) for one in every))
    for span in spans(page):
        program, words = (*commands(span), ("", []))[0]
        assert program != "make" or set(words) <= TARGETS
        known = options(parser_of(program)) if program not in ("", "make") else anywhere
        assert flags_in(span) <= known, span
    assert flags_in("\n".join(blocks(page, "", "sh"))) <= anywhere  # in comments, too
    named = re.findall(r"[Rr]ecipes? ((?:`[\w-]+`(?:, | and )?)+)", PAGES[page])
    assert set(re.findall(r"`([\w-]+)`", " ".join(named))) <= RECIPES


SOURCES = PAGES["sources.md"]


def section(title: str) -> str:
    """The text of a chapter of docs/sources.md; all of it without a title."""
    return SOURCES.split(f"\n## {title}", 1)[1].split("\n## ", 1)[0] if title else SOURCES


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
    papers = section("AGI-Net") + section("TSF-Seq2Seq")
    assert all(f"`{name}`" in papers for name in TABLES)


def test_equations_that_the_code_cites_are_in_the_sources():
    paths = (ROOT / "synth3d" / "frameworks").glob("*.py")
    cited = {n for path in paths for n in re.findall(r"eq\. (\d+)", path.read_text("utf-8"))}
    rows = " ".join(re.findall(r"eq\. [\d, ]+(?:, eq\. \d+)*", section("Training frameworks")))
    assert cited
    assert cited <= set(re.findall(r"\d+", rows))


def test_the_design_shows_every_room_and_what_is_in_it():
    rows = re.findall(r"^\| `([\w/]+/)` \| ([^|]+) \|", PAGES["design.md"], re.M)
    shown = {room + name for room, names in rows for name in names.strip().split(" · ")}
    there = set()
    for face in [each for name in PACKAGES for each in (ROOT / name).rglob("__init__.py")]:
        room = face.parent.relative_to(ROOT).as_posix()
        inside = [*face.parent.glob("*.py"), *face.parent.glob("*.cu")]
        names = {path.name.removesuffix(".py") for path in inside if path.name[:2] != "__"}
        names |= {f"{path.parent.name}/" for path in face.parent.glob("*/__init__.py")}
        there |= {f"{room}/{name}" for name in names}
    differ = sorted(shown ^ there)
    assert not differ
