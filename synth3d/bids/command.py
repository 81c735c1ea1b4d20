"""The command ``synth3d-bids``: a BIDS-App around :func:`synth3d.completion.complete_cohort`.

Participants are independent: jobs for different ones, or for the same one, may share an output
folder. Exit codes: 0 done, 1 the group table has participants without a sound result, 2 the input
cannot be used, 130 interrupted.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from synth3d import __version__
from synth3d.errors import InputError, run_guarded

EXAMPLES = """
examples:
  synth3d-bids BIDS BIDS/derivatives/synth3d participant --participant-label 01 02 --run RUN
  synth3d-bids BIDS BIDS/derivatives/synth3d group
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one level of analysis; the exit code."""
    parser = argparse.ArgumentParser(
        prog="synth3d-bids",
        description="Synthesise the MRI sequences that participants of a BIDS dataset lack.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("bids_dir", type=Path, help="BIDS dataset; only read")
    add("output_dir", type=Path, help="derivative dataset to write, as BIDS/derivatives/synth3d")
    add("level", choices=["participant", "group"], metavar="participant|group",
        help="make what participants lack, or write group_synth.tsv about all of them")  # fmt: skip
    add("--participant-label", "--participant_label", nargs="+", metavar="LABEL", dest="labels",
        help="only these, with or without sub-")  # fmt: skip
    add("--session-label", "--session_label", nargs="+", metavar="LABEL", dest="sessions",
        help="only these, with or without ses-")  # fmt: skip
    add("--run", type=Path, help="a finished run folder (of synth3d train) or an exported one")
    add("--missing", action="append", metavar="MODALITY",
        help="treat t1|t1ce|t2|flair as missing even where it is there; repeatable")  # fmt: skip
    add("--restore", action="append", metavar="MODALITY",
        help="replace a sequence of thick slices, by a run of train --degraded")  # fmt: skip
    add("--overwrite", action="store_true", help="replace files that are already in output_dir")
    add("--dry-run", action="store_true", help="print the plan and stop")
    add("--threads", type=int, help="CPU threads; default: all cores")
    add("--workers", type=int, metavar="N",
        help="processes that make participants side by side; default: 1")  # fmt: skip
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add("-v", "--version", action="version", version=f"synth3d-bids {__version__}")
    args = parser.parse_args(argv)
    return run_guarded(_participants if args.level == "participant" else _group, args)


def _chosen(args: argparse.Namespace) -> list[str]:
    """Names of the cases that the labels stand for; all without labels."""
    from synth3d.cohort import survey_cohort

    survey = survey_cohort(args.bids_dir)
    if others := sorted({case.naming for case in survey.cases} - {"bids"}):
        raise InputError(
            f"{args.bids_dir} is named as {', '.join(others)}, not as BIDS; use synth3d complete"
        )
    known = {case.name: case.name.split("_") for case in survey.cases}
    chosen = list(known)
    for kind, labels in (("sub", args.labels), ("ses", args.sessions)):
        wanted = {f"{kind}-{label.removeprefix(f'{kind}-')}" for label in labels or ()}
        if unknown := sorted(wanted - {part for parts in known.values() for part in parts}):
            raise InputError(f"{args.bids_dir} has no images of {', '.join(unknown)}")
        chosen = [name for name in chosen if not wanted or wanted & {*known[name]}]
    if not chosen:
        raise InputError(f"{args.bids_dir}: none of these participants has one of these sessions")
    return chosen


def _participants(args: argparse.Namespace) -> int:
    from synth3d.completion import CompleteRequest, complete_cohort
    from synth3d.machine import keep_memory

    if args.run is None:
        raise InputError("the participant level needs a run folder (--run)")
    keep_memory()
    request = CompleteRequest(
        data=args.bids_dir,
        out=args.output_dir,
        run=args.run,
        format="bids",
        cases=tuple(_chosen(args)),
        missing=tuple(args.missing or ()),
        restore=tuple(args.restore or ()),
        overwrite=args.overwrite,
        dry_run=args.dry_run,
        threads=args.threads,
        workers=1 if args.workers is None else args.workers,
        device=args.device,
    )
    complete_cohort(request)
    return 0


def _group(args: argparse.Namespace) -> int:
    from synth3d.bids.group import SOUND, group_table
    from synth3d.cohort import find_cases

    given = ("run", "missing", "restore", "overwrite", "dry_run", "workers", "threads")
    if idle := [f"--{name.replace('_', '-')}" for name in given if getattr(args, name)]:
        raise InputError(f"the group level only reads receipts and has no use for {idle[0]}")
    cases = find_cases(args.bids_dir, _chosen(args))
    states = group_table(cases, args.output_dir)
    print(f"{args.output_dir / 'group_synth.tsv'}: {len(cases)} rows")
    bad = [f"{name} ({state})" for name, state in states.items() if state not in SOUND]
    if bad:
        print(f"without a sound result: {', '.join(bad)}; run the participant level again")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
