"""``synth3d describe``: how large a generator is, and what a memory budget allows."""

import argparse
import json
from typing import Any

from synth3d.files import InputError
from synth3d.settings import parse_assignment

EXAMPLES = """examples:
  synth3d describe --model agi-net --dim 2d --in-channels 1
  synth3d describe --widths 16,32,64,128 --groups 4 --fit 8GB
  synth3d describe --stages down1,body --set routing_stride=2 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``synth3d describe``."""
    parser.epilog, parser.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--model", default="agi-net", help="agi-net, resunet, deform-resunet or arc-resunet")
    add("--dim", choices=["2d", "3d"], default="3d")
    add("--widths", type=_integers, default=(64, 128, 256, 512), metavar="16,32,64,128")
    add("--groups", type=int, help="agi-net's; default: 8")
    add(
        "--stages",
        type=_stages,
        metavar="N|NAMES",
        help="leading stages with the special convolution, or names: down1,body; default: 5",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="assign",
        help="any further option of the model, as in module=gr; repeatable",
    )
    add("--in-channels", type=int, default=3)
    add("--out-channels", type=int, default=1)
    add("--side", type=int, help="of the input that is counted; default: 256 in 2-D, 64 in 3-D")
    add("--fit", metavar="8GB", help="propose patch and batch for training in so much memory")
    add("--precision", choices=["fp32", "bf16"], default="fp32", help="of --fit")
    add("--json", action="store_true", help="print JSON instead of text")


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers as in 16,32,64, got {text!r}") from None


def _stages(text: str) -> int | tuple[str, ...]:
    return int(text) if text.isdigit() else tuple(text.split(","))


def main(args: argparse.Namespace) -> int:
    """Print the figures; 0.

    Raises:
        InputError: A model, option or size that does not exist or fit.
    """
    from synth3d.describe import describe
    from synth3d.describe_fit import fit, parse_size

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
