"""Score one finished run on whole volumes: the program that ``synth3d ablate`` starts for each.

``python -m synth3d.experiments.scores ORDER.json``. What the network makes of a case is judged at
the real image's own intensity scale: a wrong guess of the scale is the same for all generators and
would only blur their differences. Everything else is as ``synth3d score`` does it.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synth3d.cohort import Case, Modality, find_cases
from synth3d.data import Prepared, prepare, read_on_one_grid
from synth3d.errors import InputError, run_guarded
from synth3d.experiments.asking import Answer, Asker, Question, psnr_apart
from synth3d.experiments.describe import count_parameters
from synth3d.files import lock, read_json, write_json
from synth3d.images import foreground, turn_to
from synth3d.inference import memory_format
from synth3d.machine import keep_memory, pick_device, use_device
from synth3d.scoring import find_lpips, score_case
from synth3d.settings import parse
from synth3d.training import RunConfig, load_run


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
    with lock(args.order.parent):
        score_run(order)
    return 0


def score_run(order: Mapping[str, Any]) -> None:
    """Score a run with its averaged weights; write one JSON file per test.

    ``order`` has ``run``, a finished run folder; ``data``, the cohort folder; ``cases``, names of
    those that are scored; ``conventions``; ``lpips``, whether it is taken where a convention has
    it; ``device``; and ``tests``, each with ``config`` (a run's, of which ``degrade`` and
    ``misalign`` count here), ``asked`` (a question's fields), ``path`` and ``identity``.
    """
    run, tests = load_run(Path(order["run"])), order["tests"]
    device = use_device(pick_device(order["device"]))
    run.framework.to(device).to(memory_format=memory_format(run.config.dim))
    configs = [parse(RunConfig, dict(test["config"]), str(test["path"])) for test in tests]
    questions = [Question(**test["asked"]) for test in tests]
    asker, rule = Asker(run, device), _Rule(order["conventions"], order["lpips"])
    names = set(order["cases"])
    cases = [case for case in find_cases(Path(order["data"])) if case.name in names]
    found: list[list[dict[str, Any]]] = [[] for _ in tests]
    config = run.config
    for number, case in enumerate(cases):
        print(f"case {number + 1} of {len(cases)}: {case.name}")
        if config.mode == "fixed" and (lacking := case.missing(config.targets)):
            raise InputError(f"case {case.name} has no {', '.join(lacking)} to be scored against")
        outlines = config.task.outlined_by(case.images)
        prepared = prepare(case, outlines, config.targets, config.data, config.mode)
        judge = _Judge(case, prepared, config, rule)
        asker.open(prepared, number)
        for question, tested, rows in zip(questions, configs, found, strict=True):
            if (answer := asker.answer(question, tested)) is not None:
                rows += [judge.row(target, answer) for target in answer.made]
    for question, rows in zip(questions, found, strict=True):
        if not rows:
            raise InputError(f"no case has more than {question.inputs} sequences of the run")
    facts = {
        "parameters": sum(count_parameters(p.requires_grad_(True)) for p in run.framework.used),
        "run": order["run"],
        "training": read_json(run.folder / "done.json"),
    }
    for test, question, rows in zip(tests, questions, found, strict=True):
        identity = {**test["identity"], "weights_sha256": run.weights_sha256}
        about = facts
        if question.way == "interpolated":  # by nobody who had to be trained
            about = facts | {"parameters": 0, "training": {**facts["training"], "seconds": 0.0}}
        write_json(Path(test["path"]), {"identity": identity, **about, "rows": rows})


class _Rule:
    """By which ``conventions`` it is judged, with LPIPS if it is wanted."""

    def __init__(self, conventions: Sequence[str], lpips: bool) -> None:
        self.conventions = conventions
        self.perceptual = find_lpips() if lpips else None
        if lpips and self.perceptual is None:
            raise InputError("LPIPS was at hand when the table was begun and no longer is")


class _Judge:
    """Scores against the real images of one case, which stay whatever is tested on it."""

    def __init__(self, case: Case, prepared: Prepared, config: RunConfig, rule: _Rule) -> None:
        self.case, self.prepared, self.rule = case, prepared, rule
        common: Any = config.data.common_grid
        ordered: list[Modality] = [common, *config.sources]
        grid_of: Modality = next(name for name in ordered if name in case.images)
        targets: list[Modality] = [name for name in config.targets if name in case.images]
        read: list[Modality] = list(dict.fromkeys([grid_of, *targets]))
        raw = read_on_one_grid(case, read, common)
        self.turn = turn_to("axial", prepared.affine)
        self.real: dict[Modality, np.ndarray] = {
            target: self.turn.apply(raw[target].data) for target in targets
        }

    def row(self, target: Modality, answer: Answer) -> dict[str, Any]:
        """The scores of what was made of ``target``."""
        real = self.real[target]
        scanner = self.prepared.scales[target].invert(answer.made[target], answer.brain)
        synthetic = self.turn.apply(scanner)
        brain, tumour = foreground(real), None
        if self.prepared.tumour is not None:
            tumour = self.turn.apply(self.prepared.tumour) & brain
        scores: dict[str, float | None] = {}
        for convention in self.rule.conventions:
            volumes = (real, synthetic, brain, tumour)
            scores |= score_case(*volumes, convention, self.rule.perceptual, blanked=False)
            if target in answer.tsem:
                tsem = self.turn.apply(answer.tsem[target])
                scores |= psnr_apart(real, synthetic, brain, tsem, convention)
        no_tumour = tumour is None or not tumour.any()
        for name, value in scores.items():
            if value is None or math.isfinite(value):
                continue
            if not (no_tumour and "_tumour" in name and math.isnan(value)):
                raise InputError(f"case {self.case.name}: {name} is {value}, not a number")
            scores[name] = None
        about = {"case": self.case.name, "patient": self.case.patient, "modality": target}
        return about | {"scores": scores}


if __name__ == "__main__":
    sys.exit(main())
