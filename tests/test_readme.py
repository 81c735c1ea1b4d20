"""What README.md tells a reader to type is typed, in a folder that has what the reader has.

``BraTS`` and the other cohorts are phantoms, the runs are trained for one step. Whatever can say
what it would do is asked that (``--dry-run``), as an answer of hours is not waited for; all else is
done. That commands are understood at all is tested by ``test_docs.py``.
"""

import importlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import synth3d
from seg_eval.analysis import SCHEMA
from seg_eval.evaluation import Outcome, real_engines
from seg_eval.segmenter import SegmenterCost
from synth3d.files import write_json
from synth3d.training.forecast import Cost
from tests.exports import write_export
from tests.test_docs import ROOT, blocks, commands, options, parser_of

SMALL = {
    "recipe": "phantom", "framework": "l1", "widths": (4, 8), "groups": 2, "patch": (16, 16, 16),
    "steps": 1, "batch": 2, "device": "cpu", "threads": 1,
    "assign": ("model.blocks=1", "model.stages=2", "train.checkpoint_every=1",
               "data.validation_cases=1"),
}  # fmt: skip
"""How little the reader's runs learn."""
TRAINED = {
    **{f"A{seed}": {"target": "flair", "seed": seed} for seed in range(3)},
    "any-RUN": {"target": "any"},
    "RESTORING": {"degraded": "flair=4,1,1"},
}
"""Runs of the reader and what each was asked to learn; other names there stand for these, too."""
LABELS = {"background": 0, "necrosis": 1, "oedema": 2, "enhancing": 3}
ELSEWHERE = {
    "make": "takes minutes; what it would do is asked below",
    "seg_eval fetch-viewer": "needs a network",
    "seg_eval power": "needs an experiment of hours",
    "seg_eval curve": "needs several",
    "seg_eval pool": "needs several",
    "seg_eval export-segmenter": "needs a trained nnU-Net",
}
"""Commands that are not typed here, and why."""
SHOWN = {
    " ".join([program, *words]): (program, words)
    for program, words in commands("\n".join(blocks("README.md", "", "sh")))
}


def name_of(program: str, words: list[str]) -> str:
    """As ``synth3d train``, or the script."""
    is_one_of_several = program.endswith(".cli")
    return f"{program.removesuffix('.cli')} {words[0]}" if is_one_of_several else program


TYPED = [line for line, each in SHOWN.items() if name_of(*each) not in ELSEWHERE]
TIMED = [next(line for line, each in SHOWN.items() if name_of(*each) == name)
         for name in ("synth3d train", "seg_eval run")]  # fmt: skip
MADE = sorted({word for program, words in SHOWN.values() if program == "make" for word in words})


def linked(cohort: Path, folder: Path, lacking: str = "") -> Path:
    """``cohort`` under another name; its first case without the file of ``lacking``."""
    cases = sorted(path for path in cohort.iterdir() if path.is_dir())
    for case in cases:
        (folder / case.name).mkdir(parents=True)
        for path in case.iterdir():
            if case != cases[0] or not path.name.endswith(f"-{lacking}.nii.gz"):
                (folder / case.name / path.name).symlink_to(path)
    return folder


def write_bids(cohort: Path, folder: Path) -> None:
    """A dataset of one participant who lacks FLAIR."""
    case, anat = synth3d.find_cases(cohort)[0], folder / "sub-01" / "anat"
    anat.mkdir(parents=True)
    tokens = {"t1n": "T1w", "t1c": "ce-gadolinium_T1w", "t2w": "T2w"}
    for modality, token in tokens.items():
        shutil.copy(case.images[modality], anat / f"sub-01_{token}.nii.gz")
    about = {"Name": "heads", "BIDSVersion": "1.10.0"}
    (folder / "dataset_description.json").write_text(json.dumps(about))


def write_predictions(cohort: Path, folder: Path) -> None:
    """What ``nnUNetv2_predict`` leaves: the labels themselves, with what they mean."""
    folder.mkdir()
    for case in synth3d.find_cases(cohort):
        shutil.copy(case.label, folder / f"{case.name}.nii.gz")
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS, "file_ending": ".nii.gz"}))


def write_ixi(cohort: Path, folder: Path) -> None:
    """One head with T1, T2 and PD on one grid."""
    case = synth3d.find_cases(cohort)[0]
    folder.mkdir()
    for modality, token in {"t1n": "T1", "t2w": "T2", "t2f": "PD"}.items():
        shutil.copy(case.images[modality], folder / f"IXI002-Guys-0828-{token}.nii.gz")


def write_model(folder: Path) -> None:
    """An nnU-Net model folder, as far as it is looked at before it judges."""
    (folder / "fold_0").mkdir(parents=True)
    (folder / "fold_0" / "checkpoint_final.pth").touch()
    (folder / "fold_0" / "debug.json").write_text('{"configuration_name": "3d_fullres"}')
    channels = {str(number): name for number, name in enumerate(("T1", "T1ce", "T2", "FLAIR"))}
    told = {"channel_names": channels, "labels": LABELS, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(told))
    size = {"normalization_schemes": ["ZScoreNormalization"] * len(channels)}
    plans = {"configurations": {"3d_fullres": size}, "image_reader_writer": "SimpleITKIO"}
    (folder / "plans.json").write_text(json.dumps(plans))


@pytest.fixture(scope="module")
def place(phantom_cohort, tmp_path_factory):
    """Where a reader stands who has data, has trained, and has other people's results."""
    here = tmp_path_factory.mktemp("reader")
    for name in ("BraTS", "REAL", "THICK"):
        (here / name).symlink_to(phantom_cohort)
    for name in ("IN", "SYNTHETIC", "THEIR_OUTPUT"):
        linked(phantom_cohort, here / name, lacking="t2f" if name == "IN" else "")
    write_bids(phantom_cohort, here / "BIDS")
    write_predictions(phantom_cohort, here / "PREDICTIONS")
    write_ixi(phantom_cohort, here / "IXI")
    write_model(here / "MODEL")
    write_export(here / "segmenter", spacing_mm=[192 / 32] * 3)
    kept = here / "work" / "runs"
    for name, asked in TRAINED.items():
        synth3d.train(data=phantom_cohort, work=kept.parent, name=name, **asked, **SMALL)
    for name, other in {"A": "A1", "B": "A2", "RUN": "A0", "NAME": "any-RUN"}.items():
        (kept / name).symlink_to(kept / other)
    synth3d.complete(run=kept / "RUN", data=here / "IN", out=here / "OUT", device="cpu")
    return here


@pytest.fixture
def reader(place, monkeypatch):
    """Types a command there, with ``--dry-run`` where it has that; the exit code."""
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(ROOT / "scripts")

    def type_(line: str) -> int:
        program, words = SHOWN[line]
        script = program.endswith(".py")
        module = importlib.import_module(Path(program).stem if script else program)
        return module.main([*words, *(["--dry-run"] if has_dry_run(program, words) else [])])

    return type_


def has_dry_run(program: str, words: list[str]) -> bool:
    """Whether a command, or the program's only one, can say what it would do."""
    parser = parser_of(program)
    below = [each.choices for each in parser._actions if isinstance(each.choices, dict)]
    return "--dry-run" in options(below[0][words[0]] if below else parser)


@pytest.fixture
def at_once(monkeypatch):
    """Nothing is timed: two steps of a real recipe take a minute on a CPU."""
    cost = Cost(3.0, 10**9, 10**8)
    for module in ("synth3d.training.forecast.plan", "synth3d.experiments.cost"):
        monkeypatch.setattr(f"{module}.cost_of", lambda *given: cost)
    told = {"seconds": 7200.0, "recipe": "cpu", "memory_bytes": 10**9, "disk_bytes": 10**8}
    engines = partial(
        replace,
        forecast=lambda words: told,
        segmenter_cost=lambda *about: SegmenterCost(180.0, 1000, (32, 32, 32), 2, 10**9),
    )
    monkeypatch.setattr(
        "seg_eval.evaluation.real_engines", lambda *how: engines(real_engines(*how))
    )


@pytest.mark.parametrize("line", TYPED)
@pytest.mark.usefixtures("at_once")
def test_a_command_does_as_printed(line, reader):
    assert reader(line) == 0


@pytest.mark.slow
@pytest.mark.parametrize("line", TIMED)
def test_it_tells_how_long_it_takes(line, reader, capfd):
    """With a recipe and a preset as they are shipped."""
    assert reader(line) == 0
    told = capfd.readouterr().out
    assert re.search(r"^time: +about \d+", told, re.M), told


def test_what_is_not_typed_is_shown():
    assert {*ELSEWHERE} <= {name_of(*each) for each in SHOWN.values()}


@pytest.mark.parametrize("target", MADE)
def test_make_knows_what_to_do(target):
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_what_pip_is_asked_for_is_offered():
    asked = re.findall(r"pip install -e '\.\[([\w-]+)\]'", "\n".join(blocks("README.md", "")))
    offered = re.findall(r'^        "([\w-]+)": \[', (ROOT / "setup.py").read_text("utf-8"), re.M)
    assert asked
    assert {*asked} <= {*offered}


def test_the_python_does_as_printed(phantom_cohort, tmp_path, monkeypatch):
    """All of it but the experiment, which is asked for and read."""
    (tmp_path / "BraTS").symlink_to(phantom_cohort)
    linked(phantom_cohort, tmp_path / "IN", lacking="t2f")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(synth3d, "train", partial(synth3d.train, **SMALL))
    asked = []

    def evaluate(request):
        asked.append(request)
        write_json(tmp_path / "summary.json", {"schema": SCHEMA})
        return Outcome(tmp_path, 0)

    monkeypatch.setattr("seg_eval.evaluation.evaluate", evaluate)
    (text,) = blocks("README.md", "python")
    said = {}
    exec(compile(text, "README.md", "exec"), said)
    (made,) = said["images"].values()
    assert made.shape == (32, 32, 32)
    assert len(list(Path("OUT").glob("*/*-t2f.nii.gz"))) == len(synth3d.find_cases("IN"))
    assert [(each.missing, each.data) for each in asked] == [("flair", Path("BraTS"))]
    assert said["summary"] == {"schema": SCHEMA}
