"""What steps of the GPU check do in a process of their own: each prints one line of JSON."""

import argparse
import contextlib
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any

import torch

EXAMPLES = """examples:
  python -m scripts.gpu_check.work facts --device cuda
  compute-sanitizer --tool racecheck python -m scripts.gpu_check.work roll --device cuda
"""


def facts(args: argparse.Namespace) -> dict[str, Any]:
    """What the numbers depend on; refuses a device that is not here."""
    from synth3d.machine import pick_device

    device = torch.device(pick_device(args.device))
    found: dict[str, Any] = {"device": str(device), "torch": torch.__version__}
    for name in ("cupy-cuda13x", "cupy-cuda12x", "cupy"):
        with contextlib.suppress(PackageNotFoundError):
            found["cupy"] = version(name)
    if device.type != "cuda":
        return found
    found |= {"hardware": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    found |= {"cudnn": torch.backends.cudnn.version(), "driver": _driver()}
    found["capability"] = ".".join(map(str, torch.cuda.get_device_capability(device)))
    found["gib"] = round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1)
    every = range(torch.cuda.device_count())
    found["uuids"] = [f"GPU-{torch.cuda.get_device_properties(i).uuid}" for i in every]
    return found


def _driver() -> str:
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[0]
    return "unknown"


def roll(args: argparse.Namespace) -> dict[str, Any]:
    """Roll both ways in each layout, type and size, with gates and without, then in a network."""
    from cuda_ops import roll_kernel
    from synth3d.models import AGINet

    device, kinds = torch.device(args.device), 0
    torch.manual_seed(0)
    offsets = torch.randn(2, 2, 3, device=device).requires_grad_()
    scale = torch.rand(2, 2, device=device).requires_grad_()
    for side, last, half in product((3, 5), (False, True), (False, True)):
        # 8 x 40 pairs in two groups: a full block of 128 rows and a part
        weight = torch.randn(8, 40, *[side] * 3, device=device)
        weight = weight.contiguous(memory_format=torch.channels_last_3d) if last else weight
        for gates in (None, torch.rand(2, 40, device=device).requires_grad_()):
            leaves = [weight.requires_grad_(), offsets, scale, *([] if gates is None else [gates])]
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                rolled = roll_kernel(weight, offsets, scale, gates)
            torch.autograd.grad(rolled, leaves, torch.ones_like(rolled))
            kinds += 1
    network = AGINet(1, 1, dim=3, widths=(8, 16, 16), groups=2).to(device)
    with torch.autocast(device.type, torch.bfloat16):
        made = network(torch.randn(2, 1, 16, 16, 16, device=device))
    made.float().sum().backward()
    finite = all(p.grad is None or bool(p.grad.isfinite().all()) for p in network.parameters())
    return {"kinds": kinds, "finite": finite}


def complete(args: argparse.Namespace) -> dict[str, Any]:
    """Complete the first case of a cohort: seconds, and how busy a GPU was meanwhile.

    Busy is the share of the time from its first kernel to its last in which any ran.
    """
    from cuda_ops.bench import device_events
    from synth3d.completion import CompleteRequest, complete_cohort

    case = min(folder.name for folder in args.data.glob("Phantom-*"))

    def once() -> None:
        shutil.rmtree(args.out, ignore_errors=True)
        complete_cohort(
            CompleteRequest(
                args.data, args.out, args.run, missing=("flair",), cases=(case,),
                device=args.device,
            )
        )  # fmt: skip

    once()  # libraries load, kernels are compiled
    begin = time.perf_counter()
    once()
    found: dict[str, Any] = {"seconds": time.perf_counter() - begin}
    if torch.device(args.device).type == "cuda":
        spans = [(start, end) for _, start, end in device_events(once)]
        whole = max(end for _, end in spans) - min(spans)[0]
        found |= {"busy": busy(spans) / whole, "gpu_seconds": busy(spans) / 1e6}
    return found


def busy(spans: Iterable[tuple[float, float]]) -> float:
    """How long anything ran, of what may overlap."""
    total, until = 0.0, -math.inf
    for start, end in sorted(spans):
        total, until = total + max(0.0, end - max(start, until)), max(until, end)
    return total


def segment(args: argparse.Namespace) -> dict[str, Any]:
    """Share of voxels that nnU-Net's predictor labels on the device as on the CPU, and seconds.

    The model is tiny, and trained on the CPU: three steps on two phantoms.
    """
    import numpy as np

    from nnunet_plans.presets import Network, Preset
    from seg_eval.segmenter import (
        RawRequest,
        Segmenter,
        prepare,
        train_segmenter,
        write_raw_dataset,
    )
    from synth3d.cohort import MODALITIES, find_cases
    from synth3d.images import read

    cases = find_cases(args.data)[:3]
    schedule = {"epochs": 1, "iterations": 3, "validation_iterations": 1, "save_every": 1}
    preset = Preset("tiny", network=Network((16, 16, 16), 2, (4, 8, 8), (1, 1)), schedule=schedule)
    raw = write_raw_dataset(RawRequest(args.out / "raw", cases[:2], 501, "Tiny"))
    model = train_segmenter(prepare(raw, args.out, preset, cases[:2]), device="cpu")
    volumes = {name: read(cases[2].images[name]).data for name in MODALITIES}
    wanted = Segmenter(model, device="cpu").predict(volumes, (1, 1, 1))
    there = Segmenter(model, device=args.device)
    begin = time.perf_counter()
    found = there.predict(volumes, (1, 1, 1))
    return {"agree": float(np.mean(found == wanted)), "seconds": time.perf_counter() - begin}


TASKS = {task.__name__: task for task in (facts, roll, complete, segment)}


def main(arguments: list[str] | None = None) -> int:
    """Do one task; 0, or 2 where the machine cannot."""
    from synth3d.errors import run_guarded

    parser = argparse.ArgumentParser(
        prog="python -m scripts.gpu_check.work",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--device", default="cuda", help="cpu, cuda or cuda:1")
    for name in ("--data", "--run", "--out"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args(arguments)

    def do(args: argparse.Namespace) -> int:
        found = TASKS[args.task](args)
        print(json.dumps(found))
        return 0

    return run_guarded(do, args)


if __name__ == "__main__":
    sys.exit(main())
