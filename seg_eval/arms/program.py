"""`synth3d`, called as a program and never imported."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import synth3d
from synth3d.console import manner, relay

TELLING = ("train", "complete")
"""Commands of ``synth3d`` that take a device and tell events."""

Program = Callable[[Sequence[str]], None]
"""Runs ``synth3d`` with these arguments; raises :class:`StageFailedError` when it fails."""


class StageFailedError(RuntimeError):
    """A stage ended badly although its input was accepted; the command ends with ``exit_code``."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run_synth3d(arguments: Sequence[str], device: str = "auto") -> None:
    """Run ``synth3d`` with this interpreter; it tells what it does as this process does.

    In words all of it is on our standard error; as events it is among ours.

    Raises:
        StageFailedError: It ended with another exit code than 0, which becomes ours.
    """
    name, how = arguments[0], manner()
    asked = [f"--{how}"] if name in TELLING and how != "words" else []
    command, environment = _command_of(arguments, device, asked)
    if how == "json":
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as child:
            for line in child.stdout or ():
                relay(line, f"synth3d {name}")
        code = child.returncode
    else:
        out = subprocess.DEVNULL if how == "quiet" else sys.stderr
        code = subprocess.run(command, stdout=out, env=environment, check=False).returncode
    if code in (130, -2):
        raise KeyboardInterrupt
    if code:
        words = " ".join(["synth3d", *arguments])
        raise StageFailedError(f"`{words}` ended with exit code {code}", max(code, 1))


def forecast_of(arguments: Sequence[str], device: str = "auto") -> dict[str, Any]:
    """What the dry run of ``synth3d`` with these arguments says: its event ``plan``.

    Raises:
        StageFailedError: It was refused; why stands on standard error.
    """
    command, environment = _command_of(arguments, device, ["--json", "--dry-run"])
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, text=True, check=False)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    plans = [one for one in told if one["event"] == "plan"]
    if done.returncode or not plans:
        words = " ".join(["synth3d", *arguments, "--dry-run"])
        code = done.returncode
        raise StageFailedError(f"`{words}` ended with exit code {code}", max(code, 1))
    return plans[0]


def _command_of(
    arguments: Sequence[str], device: str, more: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """A command of ``synth3d`` for this interpreter, and its environment."""
    name, *flags = arguments
    on = ["--device", device] if name in TELLING else []
    command = [sys.executable, "-m", "synth3d", name, *on, *more, *flags]
    # The child must import the same synth3d as we do, also when we run from a source folder.
    source = str(Path(synth3d.__file__).parents[1])
    paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
    return command, {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
