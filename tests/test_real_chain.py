"""The real programs, once, end to end: phantoms, AGI-Net, nnU-Net, arms, scores, the page.

Everything is as small as it can be and nothing is stood in for, so figures mean nothing here;
that each stage takes what the one before it leaves is what counts.
"""

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


def test_phantoms_become_a_certificate(tmp_path, monkeypatch, capfd):
    from synth3d.cli import main as synth3d

    monkeypatch.setitem(PRESETS, PRESET.name, PRESET)
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
    (checkpoint,) = work.glob("segmenters/*/smallest/results/**/checkpoint_final.pth")
    _couple(checkpoint.parents[1], work, flags, capfd)


def _couple(model, work, flags, capfd) -> None:
    """The segmenter teaches a synthesiser of the same cohort, which it may not judge."""
    from synth3d.cli import main as synth3d

    export, (data, cohort, *_) = work / "export", flags
    assert main(["export-segmenter", str(model), str(export), "--work", str(work)]) == 0
    told = f"train.coupling.segmenter={export}", "train.coupling.label=0.1"
    command = ["train", data, cohort, *flags[2:6], "--device", "cpu", "--name", "coupled"]
    assert synth3d([*command, "--set", told[0], "--set", told[1]]) == 0
    capfd.readouterr()
    judged = ["run", "--missing", "flair", *flags, "--run", str(work / "runs" / "coupled")]
    assert main([*judged, "--name", "taught"]) == 2
    assert "was coupled to the segmenter" in capfd.readouterr().err
    assert main([*judged, "--name", "taught", "--seed", "1", "--dry-run"]) == 0
