"""The real programs, once, end to end: phantoms, AGI-Net, nnU-Net, arms, scores, the page.

Everything is as small as it can be and nothing is stood in for, so figures mean nothing here;
that each stage takes what the one before it leaves is what counts.
"""

from dataclasses import replace

import pytest

pytest.importorskip("nnunetv2")
pytestmark = pytest.mark.filterwarnings("ignore")  # third parties warn while being imported

import seg_eval  # noqa: E402
from nnunet_plans.presets import PRESETS, Network, Preset  # noqa: E402
from seg_eval.arms import parse_kinds  # noqa: E402
from seg_eval.cli import main  # noqa: E402

RECIPE = """
sources = ["t1n", "t1c", "t2w"]
targets = ["t2f"]

[model]
name = "agi-net"
widths = [4, 8]
blocks = 1
groups = 2
stages = 2

[data]
patch = [16, 16, 16]
overlap = [0, 0, 0]
batch = 2
queue = 8
validation_cases = 1

[train]
framework = "l1"
steps = 6
learning_rate = 2e-3
"""
PRESET = Preset(
    name="smallest",
    network=Network((16, 16, 16), 2, (4, 8, 8), (1, 1)),
    schedule={"epochs": 6, "iterations": 4, "validation_iterations": 1, "save_every": 6},
)

RESIDUAL = replace(
    PRESET, name="smallest-resenc", network=Network((16, 16, 16), 2, (4, 8, 8), (1, 1), True)
)


def test_phantoms_become_a_certificate(tmp_path, monkeypatch, capfd):
    from synth3d.cli import main as synth3d

    for preset in (PRESET, RESIDUAL):
        monkeypatch.setitem(PRESETS, preset.name, preset)
    cohort, work, recipe = tmp_path / "cohort", tmp_path / "work", tmp_path / "tiny.toml"
    recipe.write_text(RECIPE)
    assert synth3d(["phantom", str(cohort), "--cases", "6", "--size", "32"]) == 0
    flags = ["--data", str(cohort), "--work", str(work), "--recipe", str(recipe)]
    flags += ["--preset", PRESET.name, "--threads", "1", "--device", "cpu"]
    code = main(["run", "--missing", "flair", *flags])
    said = capfd.readouterr()
    assert code in (0, 1), said.err
    folder = work / "eval" / "t2f-cohort"
    summary = seg_eval.read_summary(folder)
    assert code == (0 if summary["plumbing"]["passed"] else 1)
    kinds = {arm["kind"] for arm in summary["arms"]}
    assert kinds == {*parse_kinds(["default"])}
    assert summary["headline"]["sentence"]
    assert (folder / "report.html").stat().st_size > 100_000
    trained = {name.split()[0] for name in summary["hashes"]}
    assert trained == {"synthesiser", "segmenter"}
    assert [*work.glob("runs/*/weights.safetensors")]
    assert [*work.glob("segmenters/*/smallest/results/**/checkpoint_final.pth")]
    _couple(work, flags, capfd)


def _couple(work, flags, capfd) -> None:
    """Another segmenter teaches a synthesiser, which this one judges, and one like neither."""
    ask = ["run", "--missing", "flair", *flags, "--arms", "synthetic", "--name", "taught"]
    told = ["--coupled", "--set", "train.coupling.label=0.1", "--transfer", RESIDUAL.name]
    assert main([*ask, *told]) == 0, capfd.readouterr().err
    (run,) = work.glob("runs/coupled-*")
    found = seg_eval.read_summary(work / "eval" / "taught")
    assert "(seed 1000)" in found["notes"][run.name]
    assert set(found["transfer"][0]["regions"]["WT"]) == {"full", "zero", run.name}
    capfd.readouterr()
    by_its_teacher = ["--run", str(run), "--seed", "1000", "--name", "again"]
    assert main(["run", "--missing", "flair", *flags, *by_its_teacher]) == 2
    assert "was coupled to the segmenter" in capfd.readouterr().err
    made = f"made={work / 'eval' / 'taught' / 'arms' / run.name}"
    given = ["--completed", made, "--seed", "1000", "--name", "again"]
    assert main(["run", "--missing", "flair", *flags, *given]) == 2
    assert "made was coupled to the segmenter" in capfd.readouterr().err
