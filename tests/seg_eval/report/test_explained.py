"""A map that explains a channel is a layer of the page, if the case that was completed has one."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest

from seg_eval.arms.build import ArmBuilder
from seg_eval.arms.completed import Completed
from seg_eval.arms.gaps import Gaps
from seg_eval.arms.kinds import Arm
from seg_eval.arms.synthesisers import completed_file, read_run
from seg_eval.report.slices import Limits, draw_planes
from seg_eval.report.viewer import page
from seg_eval.report.volumes import CaseFiles
from synth3d.cohort import SCHEMES, find_cases
from synth3d.files import read_json, write_json
from synth3d.images.volumes import read, write_like
from synth3d.settings import parse, read_as, to_plain
from synth3d.training import RunConfig, build_framework

PRIMARY = "t2f-agi-net-cohort-1234abcd"


@pytest.fixture
def explained(phantom):
    """A case with a map of the primary arm in units of its own."""

    def make(name="tsem", scale=1.0):
        case = phantom("Brats18_P07_1", "median", (16, 20, 18))
        arm = case.arms[PRIMARY]
        layer = scale * np.abs(arm.channel - case.real)
        return replace(case, arms={**case.arms, PRIMARY: replace(arm, layers={name: layer})})

    return make


@pytest.mark.parametrize(("name", "title"), [("tsem", "TSEM: "), ("spread", "Uncertainty: ")])
def test_the_page_shows_it_beside_the_error_and_says_that_it_is_none(
    summary, scores, images, explained, phantom, name, title
):
    text = page(summary, scores, images, [explained(name)])
    assert f"<figcaption>{title}" in text
    assert "not a measured error" in text
    assert "measured error" not in page(summary, scores, images, [phantom("c", "median")])


def test_it_is_as_bright_as_it_gets_whatever_its_units(explained):
    sheets = [
        draw_planes(explained(scale=scale), [PRIMARY], Limits(3, 60))[0].sheets
        for scale in (1.0, 1000.0)
    ]
    assert sheets[0][f"tsem {PRIMARY}"] == sheets[1][f"tsem {PRIMARY}"]
    assert sheets[0][f"tsem {PRIMARY}"] != sheets[0][f"error {PRIMARY}"]
    assert not any(key.startswith("error tsem") for key in sheets[0])


def test_it_is_found_by_the_receipt_of_whoever_completed_the_case(toy_cohort, tmp_path):
    case = next(case for case in find_cases(toy_cohort) if case.name == "Brats18_TOY_F_1")
    out = tmp_path / "theirs" / case.name
    out.mkdir(parents=True)
    real = case.images["t2f"]
    write_like(real, read(real).data + 5, out / real.name)
    tsem = f"{case.name}_flair_tsem.nii.gz"
    write_like(real, read(real).data, out / tsem, dtype=np.float32)
    builder = ArmBuilder(tmp_path / "arms", None, Gaps(("t2f",)), print)  # type: ignore[arg-type]
    source = Completed("theirs", tmp_path / "theirs")
    arm = Arm("theirs", "synthetic", source=source)
    assert builder.maps(arm, case, "t2f") == {}
    assert source.file(case.name, "t2f") == out / real.name  # no second FLAIR
    facts = {"targets": {"t2f": {"maps": {"tsem": f"{case.name}/{tsem}", "evil": "../x"}}}}
    write_json(out / f"{case.name}.receipt.json", facts)
    assert builder.maps(arm, case, "t2f") == {"tsem": out / tsem}
    assert builder.maps(Arm("zero", "zero"), case, "t2f") == {}
    files = CaseFiles(
        case.name, case.name, "worst", "t2f", SCHEMES["brats2018"], str(real), str(case.label),
        (str(case.images["t1n"]),), {"theirs": (str(out / real.name), str(case.label))},
        {"theirs": {"tsem": str(out / tsem), "spread": str(out / "gone.nii.gz")}},
    )  # fmt: skip
    write_json(tmp_path / "volumes.json", [asdict(files)])
    (again,) = read_as(tuple[CaseFiles, ...], tmp_path / "volumes.json", "")
    layers = again.load(tmp_path).arms["theirs"].layers
    np.testing.assert_array_equal(layers["tsem"], read(real).data)
    assert {*layers} == {"tsem"}
    # A record of an older version knows of no maps.
    old = read_json(tmp_path / "volumes.json")
    del old[0]["maps"]
    write_json(tmp_path / "volumes.json", old)
    (older,) = read_as(tuple[CaseFiles, ...], tmp_path / "volumes.json", "")
    assert not older.load(tmp_path).arms["theirs"].layers


NAMES = ["t1n", "t1c", "t2w", "t2f"]
TSF = {
    "dim": 2, "mode": "any", "sources": NAMES, "targets": NAMES,
    "data": {"patch": [16, 16], "overlap": [0, 0]},
    "model": {"name": "tsf", "widths": [4, 8], "blocks": 1, "banks": 2, "fusion_banks": 2},
    "train": {"framework": "tsf"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "maps"),
    [
        ({}, True),
        ({"model": {"fusion": "plain"}}, False),
        ({"train": {"tsf": {"pretrain": 1.0}}}, False),
        ({"model": {"name": "resunet"}, "train": {"framework": "l1"}}, False),
    ],
)
def test_an_arm_of_a_run_that_has_maps_is_completed_with_them(
    changes, maps, toy_cohort, write_run, tmp_path
):
    """What the run's files say of it is what its framework says; the page finds the maps."""
    plain = {key: {**value, **changes.get(key, {})} if isinstance(value, dict) else value
             for key, value in TSF.items()}  # fmt: skip
    config: RunConfig = parse(RunConfig, plain)
    assert ("tsem" in build_framework(config, training=False).explains) == maps
    folder = write_run(tmp_path / "any", toy_cohort, *NAMES, sources=NAMES)
    write_json(folder / "config.json", to_plain(config))
    run, out = read_run(folder), tmp_path / "arms" / "any"
    assert run.explains == maps
    case = find_cases(toy_cohort)[-1]
    commands = []

    def complete(words):
        commands.append([*words])
        made = completed_file(out, case, ("t2f",), "t2f")
        made.parent.mkdir(parents=True)
        write_like(case.images["t2f"], read(case.images["t2f"]).data, made)
        facts = {"maps": {"tsem": f"{case.name}/a_tsem.nii.gz"}} if "--explain" in words else {}
        write_like(case.images["t2f"], read(made).data, made.with_name("a_tsem.nii.gz"))
        write_json(made.parent / f"{case.name}.receipt.json", {"targets": {"t2f": facts}})

    cohort = SimpleNamespace(folder=toy_cohort, test=[case])
    builder = ArmBuilder(tmp_path / "arms", cohort, Gaps(("t2f",)), complete)  # type: ignore[arg-type]
    arm = Arm("any", "synthetic", source=run)
    builder.build(arm)
    assert ["--explain" in words for words in commands] == [maps]
    assert {*builder.maps(arm, case, "t2f")} == ({"tsem"} if maps else set())
