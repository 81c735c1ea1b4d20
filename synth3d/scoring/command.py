"""The command ``synth3d score``: any folder of synthetic images against the real ones."""

import argparse

from synth3d.cohort import parse_modality
from synth3d.errors import InputError

NAMES = ("ours", "paper-agi", "paper-tsf", "brasyn")
"""The conventions, told here so that ``--help`` need not import them."""


def score_command(args: argparse.Namespace) -> int:
    """``synth3d score``; 0 when every case was scored.

    Raises:
        InputError: A folder, a case or a flag cannot be used.
    """
    from synth3d.scoring.cohort import Settings, pair_up, score_folders
    from synth3d.scoring.report import dry_run, present

    settings = Settings(
        real=args.real,
        synthetic=args.synthetic,
        modality=None if args.modality is None else parse_modality(args.modality),
        conventions=_conventions(args.convention),
        rescale=args.rescale,
        splits=args.splits,
        part=args.part,
        cases=None if args.cases is None else tuple(args.cases),
        labels=args.label_folder,
        lpips_weights=args.lpips_weights,
    )
    if args.out is not None and args.out.suffix != ".csv":
        raise InputError(f"--out must end in .csv, got {args.out}")
    pairing = pair_up(settings)
    if args.dry_run:
        print(dry_run(settings, pairing))
        return 0
    print(present(score_folders(settings, pairing), args.out, args.json))
    return 0


def _conventions(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if names == ("all",):
        return NAMES
    if unknown := [name for name in names if name not in NAMES]:
        raise InputError(
            f"no convention is called {', '.join(unknown)}; there are {', '.join(NAMES)}, all"
        )
    return names
