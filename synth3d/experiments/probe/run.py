"""``synth3d ablate shift-probe``: rows × seeds, each trained once and kept."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from synth3d.errors import InputError
from synth3d.experiments.plan import digest_of
from synth3d.experiments.probe.learning import LEVELS, Settings, learn
from synth3d.experiments.probe.networks import ROWS
from synth3d.experiments.probe.report import TITLE, write_report
from synth3d.files import place, read_object, write_json
from synth3d.machine import environment, use_device
from synth3d.settings import override, parse, parse_assignment

PROBE = "shift-probe"
"""Its name among the tables of ``synth3d ablate``."""


@dataclass(frozen=True)
class ProbeRequest:
    """Which rows of the probe are run, how often and where to.

    ``only`` are patterns of rows with commas between, None for all; ``assign`` are KEY=VALUE of
    :class:`synth3d.experiments.probe.learning.Settings`. Runs lie in ``folder``, and are found
    there again.
    """

    folder: Path
    seeds: int = 3
    only: str | None = None
    assign: Sequence[str] = ()
    threads: int = 1
    device: str = "cpu"
    report: bool = False
    dry_run: bool = False


def probe_shift(request: ProbeRequest) -> int:
    """Train what is not there yet, all rows of the first seed before those of the next; 0.

    The report is written after every run.

    Raises:
        InputError: A setting or a row does not exist.
    """
    settings, names = _settings(request.assign), _chosen(request.only)
    about = (
        f"{settings.steps} steps of {settings.batch} fresh slices of {settings.side}², one of two "
        f"sources moved by up to {settings.longest:g} pixels, Adam at {settings.rate:g}"
    )
    runs = {
        (name, seed): place(request.folder, "runs", _file(name, seed, settings))
        for seed in range(request.seeds)
        for name in names
    }
    done = sum(path.is_file() for path in runs.values())
    print(f"{TITLE} {len(names)} rows × {request.seeds} seeds, {about}; {done} trained before")
    if request.dry_run:
        print("\n".join(f"{name:20} {ROWS[name].about}" for name in names))
        return 0
    for (name, seed), path in runs.items():
        if not path.is_file() and not request.report:
            _train(name, seed, settings, request, path)
            _write(request.folder, runs, about)
    print(_write(request.folder, runs, about), end="")
    print(f"\nwritten: {request.folder / 'table.md'}, and .csv, .json, curve.png beside it")
    return 0


def _write(folder: Path, runs: Mapping[tuple[str, int], Path], about: str) -> str:
    """The report of all ``runs`` that are there."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for (name, seed), path in runs.items():
        if path.is_file():
            found.setdefault(name, {})[seed] = read_object(path, "levels", "curve")
    return write_report(folder, found, about)


def _train(name: str, seed: int, settings: Settings, request: ProbeRequest, path: Path) -> None:
    device, before = use_device(request.device), torch.get_num_threads()
    torch.set_num_threads(request.threads)
    try:
        found = learn(ROWS[name], seed, settings, device)
    finally:
        torch.set_num_threads(before)
    write_json(path, found | {"settings": asdict(settings), "machine": environment(device)})


def _file(name: str, seed: int, settings: Settings) -> str:
    row = {key: value for key, value in asdict(ROWS[name]).items() if key != "about"}
    made = [row, asdict(settings), list(LEVELS)]
    return f"{name}-seed{seed}-{digest_of(made)}.json"


def _settings(assign: Sequence[str]) -> Settings:
    values = asdict(Settings())
    for text in assign:
        override(values, *parse_assignment(text))
    return parse(Settings, values, PROBE)


def _chosen(only: str | None) -> list[str]:
    """The rows that are wanted, the first among them: the others are compared with it."""
    patterns = only.split(",") if only else ["*"]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in ROWS):
            raise InputError(
                f"no row of {PROBE} is called {pattern!r}; there are {', '.join(ROWS)}"
            )
    first = next(iter(ROWS))
    return [
        name for name in ROWS if name == first or any(fnmatchcase(name, each) for each in patterns)
    ]
