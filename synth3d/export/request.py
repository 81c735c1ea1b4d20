"""What ``synth3d export`` is asked for, and the one way in which every kind is written."""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from synth3d.errors import InputError
from synth3d.export.brasyn import write_context
from synth3d.export.bundle import write_bundle
from synth3d.export.card import Named, write_card
from synth3d.export.contents import Contents, read_contents, write_model
from synth3d.files import make_folder
from synth3d.runs import find_run

KINDS = ("folder", "monai", "brasyn")


@dataclass(frozen=True)
class ExportRequest:
    """What ``synth3d export`` is asked for; the fields are its flags, which ``--help`` explains.

    Attributes:
        run: A finished run: a folder, also of an exported one, the name of a run in ``work/runs``,
            or ``latest``.
        out: The folder to make; it is not there yet, or empty.
        to: ``folder``, ``monai`` or ``brasyn``.
        also: Further runs, for ``brasyn``: no two make the same sequence.
        license: SPDX or Hugging Face identifier of the weights' licence; None is not stated.
        dataset: What the run was trained on, in words; None is not stated.
        author: Who made it; None is not stated.
        work: Where runs are kept, in its folder ``runs``.

    Raises:
        InputError: An unknown kind, or a value that a model card cannot hold.
    """

    run: Path
    out: Path
    to: str
    also: tuple[Path, ...] = ()
    license: str | None = None
    dataset: str | None = None
    author: str | None = None
    work: Path = Path("work")

    def __post_init__(self) -> None:
        work = Path(self.work)
        object.__setattr__(self, "run", find_run(self.run, work))
        object.__setattr__(self, "out", Path(self.out))
        object.__setattr__(self, "also", tuple(find_run(run, work) for run in self.also or ()))
        if self.to not in KINDS:
            raise InputError(f"unknown kind {self.to!r}; known are {', '.join(KINDS)}")
        if self.also and self.to != "brasyn":
            raise InputError("--also is for --to brasyn; export each run by itself")
        if self.license is not None and not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", self.license):
            raise InputError(f"--license is an identifier as in cc-by-4.0, got {self.license!r}")
        for name in ("dataset", "author"):
            text = getattr(self, name)
            if text is not None and (not text.strip() or not text.isprintable()):
                raise InputError(f"--{name} is a line of text, got {text!r}")


def export_run(request: ExportRequest) -> Path:
    """Write ``request.out`` in one piece; it holds no path of this machine and no case's name.

    Raises:
        InputError: A run is unfinished or damaged or cannot be exported so, or ``out`` is taken.
    """
    out = request.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is already there; choose another folder, or remove it")
    contents = [read_contents(run) for run in (request.run, *request.also)]
    if restoring := [one for one in contents if one.config.task.poor and request.to != "folder"]:
        raise InputError(
            f"the run {restoring[0].name} restores {restoring[0].config.task.poor[0]}, which is "
            f"there, and --to {request.to} is for what is missing; export it --to folder"
        )
    named = Named(request.license, request.dataset, request.author)
    write: Callable[[Path], None] = {
        "folder": lambda folder: _write_folder(contents[0], named, folder),
        "monai": lambda folder: write_bundle(contents[0], named, folder),
        "brasyn": lambda folder: write_context(contents, named, folder),
    }[request.to]
    make_folder(out.parent)
    partial = out.with_name(f".partial-{os.getpid()}-{out.name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        make_folder(partial)
        write(partial)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"exported {', '.join(one.name for one in contents)} to {out}")
    if request.license is None:
        print("no --license was stated; see what the training data's terms allow before sharing")
    return out


def _write_folder(contents: Contents, named: Named, folder: Path) -> None:
    """The Hugging Face layout; it is a run folder, too, which ``synth3d complete --run`` takes."""
    write_model(contents, folder, "model.safetensors")
    write_card(contents, named, folder / "README.md")
