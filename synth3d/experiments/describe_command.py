"""``synth3d describe``: how large a generator is, and what a memory budget allows."""

import argparse
import json
from typing import Any

from synth3d.errors import InputError
from synth3d.settings import parse_assignment


def describe_command(args: argparse.Namespace) -> int:
    """Print the figures; 0.

    Raises:
        InputError: A model, option or size that does not exist or fit.
    """
    from synth3d.experiments.describe import describe
    from synth3d.experiments.describe_fit import fit, parse_size

    options = model_options(args)
    channels = (args.in_channels, args.out_channels)
    try:
        found = describe(
            args.model, int(args.dim[0]), args.widths, args.groups, *channels, side=args.side,
            **options,
        )  # fmt: skip
        if args.fit is not None:
            size = {"dim": int(args.dim[0]), "widths": args.widths} | options
            if args.groups is not None:
                size["groups"] = args.groups
            budget = parse_size(args.fit)
            found["fit"] = fit(budget, args.model, *channels, size, args.precision)
    except (ValueError, RuntimeError, TypeError) as error:
        raise InputError(str(error)) from error
    print(json.dumps(found) if args.json else as_text(found))
    return 0


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """The keywords of the model that the flags give."""
    from synth3d.models import GENERATORS, options_of

    options = dict(parse_assignment(text) for text in args.assign)
    if flags := sorted(options.keys() & {"dim", "widths", "groups", "stages"}):
        raise InputError(f"--set {flags[0]}: give it as --{flags[0]}")
    if args.stages is not None:
        options["stages"] = args.stages
    elif args.model in GENERATORS and "stages" in options_of(args.model):
        options.setdefault("stages", min(5, 2 * len(args.widths) - 1))
    return options


def as_text(found: dict[str, Any]) -> str:
    """One figure a line, and a sentence about the proposal."""
    lines = [f"{name:>26}  {_figure(value)}" for name, value in found.items() if name != "fit"]
    if "fit" in found:
        lines += ["", _proposal(found["fit"])]
    return "\n".join(lines)


def _figure(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1e5 else f"{value:,.1f}"


def _proposal(fit: dict[str, Any]) -> str:
    patch = ",".join(map(str, fit["patch"]))
    again = ", with the routing computed again in the backward" if fit["recompute_routing"] else ""
    return (
        f"{fit['budget'] / 1e9:.2f} GB allow --patch {patch} --batch {fit['batch']} in "
        f"{fit['precision']}: about {fit['bytes'] / 1e9:.2f} GB{again}.\n"
        f"Reckoned with: {fit['assumptions']}."
    )
