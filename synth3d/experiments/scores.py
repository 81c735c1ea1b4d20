"""Score one finished run on whole volumes: the program that ``synth3d ablate`` starts for each.

``python -m synth3d.experiments.scores ORDER.json``. What the network makes of a case is judged at
the
real image's own intensity scale: a wrong guess of the scale is the same for all generators and
would only blur their differences. Everything else is as ``synth3d score`` does it.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synth3d.cohort import Case, Modality, find_cases
from synth3d.data import Prepared, misalign, prepare, read_on_one_grid
from synth3d.errors import InputError, run_guarded
from synth3d.experiments.describe import count_parameters
from synth3d.files import lock, read_json, write_json
from synth3d.images import foreground, turn_to
from synth3d.inference import memory_format, synthesize_case
from synth3d.machine import keep_memory, pick_device
from synth3d.scoring import score_case
from synth3d.settings import parse
from synth3d.training import Run, RunConfig, load_run


def main(argv: Sequence[str] | None = None) -> int:
    """Do one order; exit code 0, or 2 with a sentence."""
    parser = argparse.ArgumentParser(
        prog="python -m synth3d.experiments.scores", description=__doc__
    )
    parser.add_argument("order", type=Path, help="JSON: run, data, cases, conventions, tests")
    return run_guarded(_work, parser.parse_args(argv))


def _work(args: argparse.Namespace) -> int:
    order = read_json(args.order)
    keep_memory()
    torch.set_num_threads(int(order["threads"]))
    names = set(order["cases"])
    cases = [case for case in find_cases(Path(order["data"])) if case.name in names]
    with lock(args.order.parent):
        score_run(Path(order["run"]), cases, order["tests"], order["conventions"], order["device"])
    return 0


def score_run(
    folder: Path,
    cases: Sequence[Case],
    tests: Sequence[Mapping[str, Any]],
    conventions: Sequence[str],
    device: str = "cpu",
) -> None:
    """Score a run with its averaged weights; write one JSON file per test.

    Args:
        folder: A finished run folder.
        cases: All that are scored; each has the targets.
        tests: Each with ``config`` (a run's, of which ``misalign`` counts here), ``path`` and
            ``identity``.
        conventions: Names in ``synth3d.scoring.conventions``.
        device: Where the generator runs.

    Raises:
        InputError: The run or a case cannot be used, or a score is not a number.
    """
    run = load_run(folder)
    where = torch.device(pick_device(device))
    run.framework.to(where).to(memory_format=memory_format(run.config.dim))
    configs = [parse(RunConfig, dict(test["config"]), str(test["path"])) for test in tests]
    found: list[list[dict[str, Any]]] = [[] for _ in tests]
    for number, case in enumerate(cases, start=1):
        print(f"case {number} of {len(cases)}: {case.name}")
        ready = _Case(case, run.config)
        for config, rows in zip(configs, found, strict=True):
            moved = misalign(ready.prepared, config.task, config.data, config.misalign)
            rows += ready.rows(_synthesize(run, moved), conventions)
    facts = {
        "parameters": count_parameters(run.framework.generator.requires_grad_(True)),
        "run": str(folder),
        "training": read_json(folder / "done.json"),
    }
    for test, rows in zip(tests, found, strict=True):
        identity = {**test["identity"], "weights_sha256": run.weights_sha256}
        write_json(Path(test["path"]), {"identity": identity, **facts, "rows": rows})


def _synthesize(run: Run, prepared: Prepared) -> np.ndarray:
    """All targets (T, D, H, W) in the network's scale."""
    device = next(run.framework.generator.parameters()).device
    half = torch.autocast(device.type, torch.bfloat16)
    with (
        torch.inference_mode(),
        half if run.config.train.precision == "bf16" else nullcontext(),
    ):
        result = synthesize_case(run.framework, prepared, run.config.data)
    if not np.isfinite(result).all():
        raise InputError(f"the network gives NaN or infinity for case {prepared.case.name}")
    return result


class _Case:
    """What stays the same of a case whatever is tested on it."""

    def __init__(self, case: Case, config: RunConfig) -> None:
        if lacking := case.missing(config.targets):
            raise InputError(f"case {case.name} has no {', '.join(lacking)} to be scored against")
        self.case, self.config = case, config
        self.prepared = prepare(case, config.sources, config.targets, config.data)
        grid_of = next(name for name in config.sources if name in case.images)
        if config.data.common_grid in case.images:
            grid_of = config.data.common_grid  # type: ignore[assignment]
        names = [grid_of, *config.targets]
        raw = read_on_one_grid(case, names, config.data.common_grid)
        self.turn = turn_to("axial", self.prepared.affine)
        self.real = {target: self.turn.apply(raw[target].data) for target in config.targets}

    def rows(self, result: np.ndarray, conventions: Sequence[str]) -> list[dict[str, Any]]:
        """A row of scores per target.

        Args:
            result: (T, D, H, W) in the network's scale.
            conventions: Their names.
        """
        return [
            {
                "case": self.case.name,
                "patient": self.case.patient,
                "modality": target,
                "scores": self._scores(target, channel, conventions),
            }
            for target, channel in zip(self.config.targets, result, strict=True)
        ]

    def _scores(
        self, target: Modality, channel: np.ndarray, conventions: Sequence[str]
    ) -> dict[str, float | None]:
        prepared, real = self.prepared, self.real[target]
        scanner = prepared.scales[target].invert(channel, prepared.brain)
        brain = foreground(real)
        tumour = None
        if prepared.tumour is not None:
            tumour = self.turn.apply(prepared.tumour) & brain
        found: dict[str, float | None] = {}
        for convention in conventions:
            volumes = (real, self.turn.apply(scanner), brain, tumour)
            found |= score_case(*volumes, convention, blanked=False)
        lawful = tumour is None or not tumour.any()
        for name, value in found.items():
            if value is None or math.isfinite(value):
                continue
            if not (lawful and "_tumour" in name and math.isnan(value)):
                raise InputError(f"case {self.case.name}: {name} is {value}, not a number")
            found[name] = None
        return found


if __name__ == "__main__":
    sys.exit(main())
