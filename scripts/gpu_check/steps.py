"""The steps of the GPU check, in order; each is a function that hands back findings.

In a rehearsal (``session.cuda`` is False) the same programs run on the CPU at tiny sizes, and
numbers that mean nothing there have no bar. No expected time here was ever measured on a device.
"""

import itertools
import json
import math
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.gpu_check.session import (
    WORK,
    Finding,
    NotRunError,
    Session,
    Step,
    WrongError,
    fact,
    lacks,
)

LIBRARIES = ("torchio", "nibabel", "nilearn", "safetensors", "tqdm")
"""What a training needs beside torch."""
WAITING = 0.05
"""Of a step's time that a trainer may wait for its data."""
SMALL = ("--recipe", "phantom", "--widths", "4,8", "--patch", "24,24,24", "--groups", "2")
SMALL += ("--set", "model.stages=2")
"""Flags of a training that shows no more than that it trains."""
CONTEXT_MIB = 100
"""More than this on a GPU that nobody asked for is a CUDA context, which takes 300 and more."""
SAME_LABELS = 0.98
"""nnU-Net predicts in half precision on a GPU, so near a tie a voxel may be labelled otherwise."""


def environment(session: Session) -> list[Finding]:
    """The driver, torch and CuPy are of one CUDA."""
    known = session.facts
    if not session.cuda:
        return [fact("torch loads", bool(known["torch"]))]
    code = (
        "import cupy; from cupy.cuda import nvrtc, runtime as r; print('CUDA', "
        "r.driverGetVersion(), r.runtimeGetVersion(), nvrtc.getVersion()[0], cupy.__version__)"
    )
    said = session.python("-c", code).splitlines()
    words = next(line for line in reversed(said) if line.startswith("CUDA ")).split()
    wanted = int(known["cuda"].split(".")[0])
    driver, runtime, nvrtc = int(words[1]) // 1000, int(words[2]) // 1000, int(words[3])
    note = f"torch is built for {known['cuda']}, CuPy {words[4]}"
    return [
        Finding("CUDA of the driver", driver, "", wanted, True, note),
        fact("CuPy's CUDA is torch's", runtime == wanted == nvrtc, f"{runtime}, NVRTC {nvrtc}"),
    ]


def tests(session: Session) -> list[Finding]:
    """The tests marked ``gpu``; in a rehearsal a few that also run on the CPU."""
    report = session.scratch / "tests.xml"
    marked = ["-m", "gpu"] if session.cuda else ["-m", "not gpu", "-k", "repeats_bit_for_bit"]
    lacking = lacks((*LIBRARIES, "nnunetv2", "sklearn"))
    whole = session.cuda and not lacking
    where = "tests" if whole else "tests/cuda_ops"
    quiet = ["-q", "-x", "-p", "no:cacheprovider", f"--junitxml={report}"]
    session.python("-m", "pytest", where, *marked, *quiet)
    cases = [
        case for suite in ET.parse(report).iter("testsuite") for case in suite.iter("testcase")
    ]
    skipped = [each.get("message") or "" for case in cases for each in case.iter("skipped")]
    found = [Finding("tests passed", len(cases) - len(skipped), "", 1, True, where)]
    if session.cuda and skipped:
        reasons = "; ".join(sorted(set(skipped)))
        found.append(Finding(f"{len(skipped)} tests", note=reasons, not_run=True))
    if session.cuda and not whole:
        found.append(Finding("other tests", note=f"no {', '.join(lacking)}", not_run=True))
    return found


def sanitizer(session: Session) -> list[Finding]:
    """No stray access and no race in a roll, forward and backward."""
    found = []
    # torch's allocator would hide that a tensor ended; a sanitised process sees each by itself
    env = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "CUDA_OPS_BACKEND": "cupy"}
    for tool in ("memcheck", "racecheck"):
        words = ["--tool", tool, "--kernel-name", "kns=roll_", "--error-exitcode", "9"]
        if tool == "memcheck":  # libraries ask the driver for functions that it may not have
            words += ["--report-api-errors", "no"]
        work = ["-m", WORK, "roll", "--device", session.device]
        said = session.run("compute-sanitizer", *words, sys.executable, *work, env=env)
        summary = re.findall(r"^=+ (?:ERROR|RACECHECK) SUMMARY: (.*)$", said, re.M)
        if not summary:
            raise WrongError(f"compute-sanitizer --tool {tool} gave no summary")
        errors = sum(int(number) for number in re.findall(r"\d+", summary[-1]))
        found.append(Finding(tool, errors, "errors", 0, note=summary[-1]))
        found.append(fact(f"{tool} saw finite gradients", '"finite": true' in said))
    return found


def measured(session: Session, module: str, cuda: list[str], rehearsed: list[str]) -> list[Finding]:
    """Rows of a benchmark, by patterns of their names."""
    file = session.scratch / f"{session.step}.json"
    only = [word for each in (cuda if session.cuda else rehearsed) for word in ("--only", each)]
    rounds = "3" if session.quick else "5"
    how = ["--device", session.device, "--rounds", rounds if session.cuda else "1"]
    session.python("-m", module, *how, *only, "--json", file)
    return [_finding_of(row) for row in json.loads(file.read_text("utf-8"))["rows"]]


def _finding_of(row: Mapping[str, Any]) -> Finding:
    name = f"{row['name']}: {row['candidate']} / {row['baseline']}"
    times = [f"{1e3 * seconds:.3g}" for seconds in row["seconds"].values()]
    note = ", ".join(filter(None, [f"{' : '.join(times)} ms" if times else "", row["note"]]))
    if row["value"] is None:
        return Finding(name, note=note, not_run=row["met"] is None)
    return Finding(name, row["value"], row["unit"], row["bar"], row["at_least"], note)


def launches(session: Session) -> list[Finding]:
    """How many kernels, fills and copies a roll is."""
    return measured(session, "cuda_ops.bench", ["gpu/launches"], ["generate/3d-2x64/forward"])


def bandwidth(session: Session) -> list[Finding]:
    """The fused kernel's bytes a second over those of a copy."""
    shape = "3d-4x512/" if session.quick else ""
    return measured(session, "cuda_ops.bench", [f"gpu/bandwidth/{shape}*"], [])


def layers(session: Session) -> list[Finding]:
    """Rolled layers over plain ones: as chosen, looped and grouped, at batches of 2, 8 and 16."""
    layout = "*last" if session.quick else "*"
    rows = [f"layer/32@64^3-b{batch}/{layout}" for batch in (2, 8, 16)]
    return measured(session, "cuda_ops.bench", rows, ["layer/512@4^3-b2/fp32/*last"])


def routing(session: Session) -> list[Finding]:
    """The routing's grouped convolutions: what the code chooses over the best merging."""
    rows = ["routing/*bf16" if session.quick else "routing/"]
    return measured(session, "synth3d.experiments.bench", rows, ["routing/"])


def network(session: Session) -> list[Finding]:
    """AGI-Net's training step over ResUNet's, its memory, and the share of layer norm."""
    dtype = "bf16" if session.quick else "*"
    rows = [f"{group}/gpu/{dtype}" for group in ("train", "memory", "norm")]
    return measured(session, "synth3d.experiments.bench", rows, ["infer/paper-2d/fp32"])


def phantoms(session: Session) -> Path:
    """A cohort in the scratch folder, made once: six cases of 96^3 voxels of 2 mm."""
    folder = session.scratch / "phantoms"
    if not folder.exists():
        words = [folder, "--cases", "6", "--size", "96" if session.cuda else "32"]
        session.python("-m", "synth3d.cli", "phantom", *words)
    return folder


def command(
    session: Session, name: str, steps: int, every: int, *more: str, small: bool = False
) -> list[str | Path]:
    """``synth3d train`` by the recipe that fits the GPU's memory; a small network on the CPU."""
    recipe = SMALL if small or not session.cuda else []
    cohort = phantoms(session)
    legs = [f"train.checkpoint_every={every}", f"train.validate_every={steps}"]
    keys = [word for leg in legs for word in ("--set", leg)]
    words = ["--data", cohort, "--steps", str(steps), "--device", session.device, "--name", name]
    words += ["--work", session.scratch, *recipe, *keys, *more]
    return [sys.executable, "-m", "synth3d.cli", "train", *words]


def train(session: Session) -> list[Finding]:
    """Two legs of steps in each precision, killed in the second and begun again."""
    found, precisions = [], ("bf16",) if session.quick else ("fp32", "bf16")
    steps, every = (40, 20) if session.cuda else (12, 6)
    for precision in precisions if session.cuda else ("fp32",):
        words = command(session, precision, steps, every, "--precision", precision)
        run = session.scratch / "runs" / precision
        with session.started(*words) as (process, log):
            while not (run / "resume.pt").exists():
                if process.poll() is not None or time.monotonic() > session.deadline:
                    raise WrongError(f"no checkpoint after {every} steps; {log}")
                time.sleep(0.01)
        if (run / "done.json").exists():
            raise NotRunError("the training was over before it could be killed")
        said = session.run(*words)
        found += [
            fact(f"{precision}: goes on after kill -9", f"at step {every} of {steps}" in said),
            fact(f"{precision}: finishes", (run / "done.json").exists()),
            _rolled(session, run),
            *_logged(session, run, steps, every),
        ]
    return found


def _rolled(session: Session, run: Path) -> Finding:
    """How the run says that it rolled; torch's form would go unnoticed otherwise."""
    how = json.loads((run / "environment.json").read_text("utf-8"))["device"]["rolling"]
    wanted = "fused" if session.cuda else "torch"
    return fact(f"{run.name}: rolled by {wanted}", how == wanted, how)


def _logged(session: Session, run: Path, steps: int, every: int) -> list[Finding]:
    """What the log of a run says; the first line of each leg, when all begins, has no times."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    lines = [line for line in lines if "loss" in line]
    at = [line["step"] for line in lines]
    losses = [value for line in lines for value in line["loss"].values()]
    pairs = [(a, b) for a, b in itertools.pairwise(lines) if a["step"] % every]
    done = sum(b["step"] - a["step"] for a, b in pairs)
    waited, worked = (sum(b["seconds"][key] for _, b in pairs) for key in ("data", "step"))
    bar, name = WAITING if session.cuda else None, run.name
    return [
        fact(f"{name}: logs each step once", at == sorted(set(at)) and at[-1] == steps),
        fact(f"{name}: losses are finite", all(map(math.isfinite, losses))),
        Finding(f"{name}: a step", worked / done, "s"),
        Finding(f"{name}: waiting for data", waited / worked, "of the step", bar),
    ]


def finished_run(session: Session) -> Path:
    """A run to complete with: one that was trained before, or one of two steps."""
    before = sorted(session.scratch.glob("runs/*/done.json"))
    if not before:
        session.run(*command(session, "short", 2, 2))
    return before[0].parent if before else session.scratch / "runs" / "short"


def complete(session: Session) -> list[Finding]:
    """One case through ``synth3d complete``."""
    words = [
        "--data",
        phantoms(session),
        "--run",
        finished_run(session),
        "--out",
        session.scratch / "completed",
    ]
    found = session.work("complete", *words)
    numbers = [Finding("a case", found["seconds"], "s")]
    if session.cuda:
        note = f"{found['gpu_seconds']:.3g} s, from its first kernel to its last"
        numbers.append(Finding("the GPU's share of the time", found["busy"], note=note))
    return numbers


def segmenter(session: Session) -> list[Finding]:
    """nnU-Net's predictor labels as on the CPU."""
    words = ["--data", phantoms(session), "--out", session.scratch / "segmenter"]
    found = session.work("segment", *words)
    return [
        Finding("labels as on the CPU", found["agree"], "of the voxels", SAME_LABELS, True),
        Finding("a case", found["seconds"], "s"),
    ]


def fallbacks(session: Session) -> list[Finding]:
    """What a small training does without CuPy, without a home, and told to insist."""
    stub = session.scratch / "stub"
    stub.mkdir(exist_ok=True)
    (stub / "cupy.py").write_text("raise ImportError('hidden by the GPU check')\n", "utf-8")
    hidden: dict[str, str | None] = {"PYTHONPATH": str(stub), "CUDA_OPS_BACKEND": "auto"}
    homeless = {"HOME": "/proc/nohome", "CUPY_CACHE_DIR": None}
    said = session.run(*_two_steps(session, "hidden"), env=hidden)
    warned = sum("Warning: " in line and "plain torch" in line for line in said.splitlines())
    how = "warns once" if session.cuda else "does not warn"
    found = [
        fact(f"without CuPy it trains and {how}", warned == session.cuda, f"{warned} warnings")
    ]
    session.run(*_two_steps(session, "homeless"), env=homeless)
    found.append(fact("without a home it trains", True))
    if not session.cuda:
        return found
    words = _two_steps(session, "insisting")
    said = session.run(*words, env=hidden | {"CUDA_OPS_BACKEND": "cupy"}, code=2)
    found.append(fact("CUDA_OPS_BACKEND=cupy refuses in a sentence", "Traceback" not in said))
    return [*found, _second_gpu(session)]


def _two_steps(session: Session, name: str, *more: str) -> list[str | Path]:
    return command(session, name, 2, 2, *more, small=True)


def _second_gpu(session: Session) -> Finding:
    """Nothing of a training on cuda:1 lies on the first GPU."""
    name, uuids = "nothing on GPU 0 with cuda:1", session.facts["uuids"]
    if len(uuids) < 2:
        return Finding(name, note="this machine has one GPU", not_run=True)
    ask = ["nvidia-smi", "-i", uuids[0], "--query-gpu=memory.used", "--format=csv,noheader,nounits"]

    def used() -> int:
        return int(subprocess.run(ask, capture_output=True, text=True, check=True).stdout)

    before = most = used()
    with session.started(*_two_steps(session, "second", "--device", "cuda:1")) as (process, log):
        while process.poll() is None:
            if time.monotonic() > session.deadline:
                raise WrongError(f"took too long and was killed; {log}")
            most = max(most, used())
            time.sleep(0.2)
        if process.returncode:
            raise WrongError(f"exit code {process.returncode}; {log}")
    return Finding(name, most - before, "MiB", CONTEXT_MIB)


STEPS = (
    Step("environment", "driver, torch and CuPy fit", environment, (8, 8)),
    Step("tests", "pytest -m gpu", tests, (120, 90), ("pytest", "hypothesis")),
    Step(
        "sanitizer",
        "memcheck, racecheck",
        sanitizer,
        (40, 30),
        program="compute-sanitizer",
        cuda=True,
    ),
    Step("launches", "1 forward, 2 backward", launches, (10, 10)),
    Step("bandwidth", "of a copy's", bandwidth, (40, 15), cuda=True),
    Step("layers", "rolled over plain", layers, (60, 20)),
    Step("routing", "the choice over the best merging", routing, (40, 15)),
    Step("network", "AGI-Net over ResUNet", network, (60, 20)),
    Step("train", "killed, resumed, fed", train, (110, 45), LIBRARIES),
    Step("complete", "one case", complete, (20, 12), LIBRARIES),
    Step("segmenter", "nnU-Net's predictor", segmenter, (30, 0), (*LIBRARIES, "nnunetv2")),
    Step("fallbacks", "no CuPy, no home, cuda:1", fallbacks, (60, 35), LIBRARIES),
)
