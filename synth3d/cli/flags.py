"""How a command is added, and the flags that several of them have."""

import argparse
import dataclasses
import re
import textwrap
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from synth3d.console import nearest
from synth3d.errors import InputError

T = TypeVar("T")

TABLE: dict[str, Any] = {
    "type": Path,
    "dest": "cohort_table",
    "metavar": "TABLE.csv",
    "help": "the cohort as a table (case, patient, t1n, t1c, t2w, t2f, seg), see docs/names.md",
}
"""The flag ``--cases``."""

EXAMPLES = tomllib.loads(Path(__file__).with_name("examples.toml").read_text("utf-8"))
"""What ``--help`` of a command ends with."""

WORK: dict[str, Any] = {
    "type": Path, "default": Path("work"), "help": "where runs are kept, in WORK/runs, by whose "
        "names they are called; default: work",
}  # fmt: skip
"""The flag ``--work`` of commands that read runs."""

MODELS = "agi-net, resunet, deform-resunet, arc-resunet, restormer or tsf"
LABELS = (
    "what all labels mean, brats2018|brats2023|brats2024|ped|msd; default: each case tells, by its "
    "dataset.json, its name or its values"
)
CACHE: dict[str, dict[str, Any]] = {
    "--cache": {"type": Path, "metavar": "DIR", "help": "folder of prepared cases, shared by runs "
        "and safe to delete while none runs; default: WORK/cache"},
    "--cache-limit": {"type": float, "default": 100.0, "metavar": "GB",
        "help": "of that folder; what was used longest ago goes first; default: 100"},
}  # fmt: skip
Flags = Callable[..., argparse.Action]
_NO_CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)")
"""How argparse says it; from Python 3.14 on it can suggest by itself."""


class Parser(argparse.ArgumentParser):
    """Tells what is wrong with a command line in one sentence, without all that there is.

    Attributes:
        told: What a command is for, in a line; empty for a program.
        commands: A program's commands, each by its name.
    """

    def __init__(self, *args: Any, told: str = "", **words: Any) -> None:
        super().__init__(*args, **words)
        self.told = told
        self.commands: Mapping[str, Parser] = {}

    def add_commands(self) -> Any:
        """What commands are added to by its ``add_parser(name, help=…, told=…)``."""
        added = self.add_subparsers(title="commands", metavar="COMMAND")
        self.commands = added.choices
        return added

    def error(self, message: str) -> NoReturn:
        """End with exit code 2; what is no choice is told the nearest that is one."""
        if found := _NO_CHOICE.search(message):
            message += nearest(found[1], re.findall(r"[^\s,']+", found[2]))
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def in_brief(parser: Parser, about: str, first: Sequence[str]) -> str:
    """What a program is for and its commands, at most 12 lines: shown where none is given.

    Args:
        parser: Of the program, with its commands.
        about: What it is for.
        first: Commands, the first ones to know; these have a line, others their name.
    """
    lines = [f"{parser.prog}: {about}", ""]
    lines += [f"  {name:9} {parser.commands[name].told}" for name in first]
    others = ", ".join(name for name in parser.commands if name not in first)
    lines += textwrap.wrap(f"others: {others}", 78, initial_indent="  ", subsequent_indent="  ",
                           break_on_hyphens=False)  # fmt: skip
    more = f"{parser.prog} --help tells of all, {parser.prog} COMMAND --help of one, with examples"
    return "\n".join([*lines, "", more])


def add_manner(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how a command tells what it does (:mod:`synth3d.console`)."""
    group = parser.add_mutually_exclusive_group()
    told = "print warnings and errors alone and, last, where the result is, or the plan asked for"
    group.add_argument("--quiet", help=told, dest="manner", action="store_const", const="quiet")
    told = "print events for machines, a JSON object a line, as docs/events.md has them"
    group.add_argument("--json", help=told, dest="manner", action="store_const", const="json")
    parser.set_defaults(manner="words")


def command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    help: str,
    manner: bool = False,
    **words: str,
) -> Flags:
    """Add the command ``name``; what adds its flags. ``manner``: with --quiet and --json."""
    words = {"epilog": EXAMPLES[name], "description": f"{help[0].upper()}{help[1:]}."} | words
    raw = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(name, help=help, told=help, formatter_class=raw, **words)
    parser.set_defaults(run_command=run)
    if manner:
        add_manner(parser)
    return parser.add_argument


def request(schema: type[T], args: argparse.Namespace) -> T:
    """``schema``, the dataclass of a command, from the flags that its fields are named by."""
    fields = [field.name for field in dataclasses.fields(schema)]  # type: ignore[arg-type]
    values = {name: getattr(args, name) for name in fields if hasattr(args, name)}
    return schema(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def with_table(args: argparse.Namespace) -> argparse.Namespace:
    """``args`` with the table of ``--cases``, if one is given, as the data."""
    from synth3d.cohort import TABLE_ENDINGS, cohort_of

    table, names = getattr(args, "cohort_table", None), getattr(args, "cases", None)
    if table is None and names and names[0].lower().endswith(TABLE_ENDINGS):
        if len(names) > 1:
            raise InputError(
                "--cases wants names or one table; for some cases of a table give it to --data"
            )
        table, args.cases = Path(names[0]), None
    args.data = cohort_of(args.data, table)
    return args


def integers(text: str) -> tuple[int, ...]:
    """Numbers as in ``16,32,64`` or ``16x32x64``, for argparse."""
    try:
        return tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers as in 16,32,64, got {text!r}") from None


# fmt: off
def add_workers(add: Flags, what: str) -> None:
    """Add the flags that say who does ``what``."""
    add("--workers", type=int, default=1, metavar="N",
        help=f"processes that do {what} side by side; default: 1")
    add("--dask", metavar="ADDRESS",
        help="the workers of a Dask cluster do them, as in tcp://scheduler:8786")
# fmt: on
