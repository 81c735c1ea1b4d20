from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageColor

from seg_eval.arms.kinds import ARM_KINDS, Arm
from seg_eval.arms.synthesisers import SynthesisRun, Teacher
from seg_eval.report.agreement import VolumePanel, volume_panels
from seg_eval.report.charts import bland_altman
from seg_eval.report.page import fill
from seg_eval.report.pictures import (
    EXPERT_COLOUR,
    GROUP_COLOURS,
    REGION_COLOURS,
    Point,
    dice_by_case,
    draw_dice,
    draw_panel,
    draw_scatter,
    draw_volumes,
    error_and_loss,
    labels_of,
    short_name,
    slicer,
)
from seg_eval.report.volumes import ArmVolumes, CaseVolumes
from seg_eval.scoring.scores import Score
from synth3d.cohort import Splits

ARMS = {
    "full": "reference", "zero": "reference", "copy": "naive", "template": "naive",
    "ridge": "voxel-wise", "boosted": "voxel-wise", "t2f-agi-net-a-long-name": "synthesis",
    "another": "synthesis", "plumbing": "check", "specialist": "rival", "dropout": "rival",
    "retrained": "rival",
}  # fmt: skip


def score(case: str, arm: str, dice: float, region: str = "WT", seed: int = 0) -> Score:
    """A row of which only the Dice matters."""
    return Score(case, case, arm, seed, region, dice, 0.0, 1.0, dice, 0.0, 1, 1, 0, dice, dice,
                 1.0, 1.0, 0.0, 9, 9, 1.0, "ours", 2.0)  # fmt: skip


def size_of_png(path):
    """Width and height from the header; also proves that it is a PNG."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


@pytest.mark.parametrize("cases", [1, 2, 7])
def test_dice_of_any_number_of_cases_can_be_drawn(tmp_path, cases):
    scores = [
        score(f"c{i}", arm, 0.1 * i, region, seed)
        for i in range(cases)
        for arm in ARMS
        for region in ("WT", "TC", "ET")
        for seed in (0, 1)
    ]
    draw_dice(scores, ARMS, ("WT", "TC", "ET"), "title", tmp_path / "dice.png")
    width, height = size_of_png(tmp_path / "dice.png")
    assert width > height > 300


def test_a_case_is_one_dot_however_many_seeds_there_are():
    rows = [score("a", "zero", 0.2), score("a", "zero", 0.4, seed=1), score("b", "zero", 1.0),
            score("a", "zero", 0.6, region="ET"), score("a", "full", 0.9)]  # fmt: skip
    assert dice_by_case(rows, "zero", "WT") == pytest.approx({"a": 0.3, "b": 1.0})
    assert dice_by_case(rows, "zero") == pytest.approx({"a": 0.4, "b": 1.0})


def test_the_scatter_has_a_point_for_each_error_with_a_dice(tmp_path):
    rows = [score("a", "full", 0.9), score("a", "ridge", 0.7), score("b", "ridge", 0.5)]
    images = [{"case": "a", "arm": "ridge", "mae_tumour@own-scale": 0.1},
              {"case": "b", "arm": "ridge", "mae_tumour@own-scale": 0.2},
              {"case": "a", "arm": "copy", "mae_tumour@own-scale": 0.3},
              {"case": "a", "arm": "ridge", "mae_tumour@own-scale": None}]  # fmt: skip
    points = error_and_loss(rows, images, ["ridge", "zero"])
    assert points == [Point("a", "ridge", 0.1, pytest.approx(0.2))]
    several = [
        {"case": "a", "arm": "ridge", "mae_tumour@own-scale": 0.4},
        *images,
    ]  # missing sequences
    assert error_and_loss(rows, several, ["ridge"])[0].error == pytest.approx(0.25)
    draw_scatter(points, ARMS, "title", tmp_path / "scatter.png")
    draw_scatter([Point("a", arm, 0.1, 0.0) for arm in ARMS], ARMS, "all", tmp_path / "all.png")
    assert min(size_of_png(tmp_path / "scatter.png")) > 300
    assert min(size_of_png(tmp_path / "all.png")) > 300


@pytest.mark.parametrize(
    "volumes", [[(0.0, 0.0)], [(0.0, 0.0)] * 3, [(12.0, -3.0)] * 2, [(30.0, 5.0), (90.0, -40.0)]],
    ids=["one patient", "no tumour", "equal volumes", "two"],
)  # fmt: skip
def test_volumes_of_few_patients_and_without_a_tumour_can_be_drawn(tmp_path, volumes):
    points = {f"c{i}": pair for i, pair in enumerate(volumes)}
    limits = (None, None) if len(volumes) == 1 else (-50.0, 9.0)
    panels = [
        VolumePanel(region, arm, points, volumes[0][1], *limits)
        for region in ("WT", "ET") for arm in ("full", "ridge")
    ]  # fmt: skip
    draw_volumes(panels, ARMS, "title", tmp_path / "volumes.png")
    assert min(size_of_png(tmp_path / "volumes.png")) > 200
    for chart in bland_altman(panels[:2], ARMS, {name: name for name in ARMS}):
        assert len(chart["limits"]) == (0 if len(volumes) == 1 else 2)
        heights = [chart["bias"], *chart["limits"], *(point["y"] for point in chart["points"])]
        assert all(0 < height <= chart["bottom"] for height in heights)
        assert all(chart["left"] <= point["x"] <= chart["right"] for point in chart["points"])


def test_a_panel_has_a_point_for_each_case_whose_volume_is_a_mean_over_seeds():
    rows = [
        replace(score(case, arm, 0.5, seed=seed), predicted_ml=10.0 + 4 * seed, reference_ml=8.0)
        for case in "ab" for arm in ("full", "ridge") for seed in (0, 1)
    ]  # fmt: skip
    told = {"bias": {"value": 4.0}, "limits": {"low": {"value": 3.0}, "high": {"value": 5.0}}}
    agreement = [
        {"region": "WT", "arm": arm, "against": against} | told
        for arm in ("full", "ridge", "gone") for against in ("label", "full")
    ]  # fmt: skip
    (panel,) = volume_panels(rows, agreement, ["ridge", "gone"])
    assert (panel.arm, panel.points) == ("ridge", {"a": (10.0, 4.0), "b": (10.0, 4.0)})
    assert (panel.low, panel.bias, panel.high) == (3, 4, 5)


def test_a_dollar_in_a_name_begins_no_formula(tmp_path):
    points = [Point("a", "a$_$", 0.1, 0.0)]
    draw_scatter(points, {"a$_$": "naive"}, "b$_$", tmp_path / "scatter.png")
    assert min(size_of_png(tmp_path / "scatter.png")) > 300


@pytest.mark.parametrize("tumour", [True, False])
def test_a_case_can_be_drawn_with_and_without_a_tumour(tmp_path, tumour):
    real = np.zeros((5, 12, 10), np.float32)
    real[:, 2:10, 3:8] = 0.5
    mask = np.zeros(real.shape, bool)
    mask[3, 4:6, 4:6] = tumour
    masks = dict.fromkeys(("WT", "TC", "ET"), mask)
    arms = {"zero": ArmVolumes(None, masks), "ridge": ArmVolumes(0.9 * real, masks)}
    case = CaseVolumes("c", "p", "median", "t2f", real, arms, masks, np.eye(4), (1, 1, 1))
    draw_panel(case, arms, (), "case", tmp_path / "slices.png")
    assert min(size_of_png(tmp_path / "slices.png")) > 200


def test_the_real_channel_is_shown_once_beside_those_of_other_arms(tmp_path, monkeypatch):
    real = np.zeros((5, 12, 10), np.float32)
    real[:, 2:10, 3:8] = 0.5
    mask = np.zeros(real.shape, bool)
    mask[3, 4:6, 4:6] = True
    masks, drawn = dict.fromkeys(("WT", "TC", "ET"), mask), []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *how, **more: (
        drawn.append(self), save(self, *how, **more)))  # fmt: skip
    channels = {"full": real, "zero": None, "ridge": 0.9 * real}
    arms = {name: ArmVolumes(channel, masks) for name, channel in channels.items()}
    case = CaseVolumes("c", "p", "median", "t2f", real, arms, masks, np.eye(4), (1, 1, 1))
    draw_panel(case, arms, (), "case", tmp_path / "slices.png")
    named = {axes.get_title(): axes.images[0].get_array() for axes in drawn[0].axes
             if axes.get_title()}  # fmt: skip
    assert [*named] == ["real", "zero", "ridge"]
    brightest = [float(picture.max()) for picture in named.values()]
    assert brightest == [0.5, 0.0, pytest.approx(0.45)]
    page = fill("index.html.j2", {"title": "", "rows": [], "regions": []})
    lines = {line.get_color() for axes in drawn[0].axes for line in axes.lines}
    assert lines == {*REGION_COLOURS.values(), EXPERT_COLOUR}
    assert f"--expert:{EXPERT_COLOUR};" in page


def test_page_and_figures_share_one_palette(tmp_path):
    draw_dice([score("a", arm, 0.5) for arm in ARMS], ARMS, ("WT",), "title", tmp_path / "dice.png")
    drawn = {*Image.open(tmp_path / "dice.png").convert("RGB").get_flattened_data()}
    page = fill("index.html.j2", {"title": "", "rows": [], "regions": []})
    for group, (light, dark) in GROUP_COLOURS.items():
        assert ImageColor.getrgb(light) in drawn
        assert f"--{group}:{light};" in page
        assert f"--{group}:{dark};" in page
    assert set(GROUP_COLOURS) == {kind.group for kind in ARM_KINDS.values()}
    colours = [*REGION_COLOURS.values(), *(light for light, _ in GROUP_COLOURS.values())]
    assert len({colour.lower() for colour in colours}) == len(colours)


@pytest.mark.parametrize(("sign", "z"), [(1, 3), (-1, 3)])
def test_the_slice_is_radiological_whichever_way_the_voxels_run(sign, z):
    real, tumour = np.ones((5, 2, 2), np.float32), np.zeros((5, 2, 2), bool)
    tumour[z] = True
    case = CaseVolumes("c", "p", "median", "t2f", real, {}, {}, np.diag([sign, sign, 1, 1]),
                       (1, 1, 1))  # fmt: skip
    cut, name = slicer(case, tumour)
    # RAS: index x = 0 is the patient's left, index y = 1 is the front; left belongs on the right
    left_and_front = np.zeros_like(real)
    left_and_front[(z, 1, 0) if sign > 0 else (z, 0, 1)] = 1
    assert cut(left_and_front).tolist() == [[0, 1], [0, 0]]
    assert name == f"slice z = {z}"


@pytest.mark.parametrize(("ratio", "axis"), [((4, 1, 1), "y"), ((1, 4, 1), "z"), ((1, 1, 4), "z")])
def test_thick_slices_are_cut_where_they_show(ratio, axis):
    """Coronally where they are axial, so that their edges are in the picture."""
    real, tumour = np.ones((5, 6, 7), np.float32), np.zeros((5, 6, 7), bool)
    tumour[2, 4, 3] = True
    case = CaseVolumes("c", "p", "median", "t2f", real, {}, {}, np.eye(4), (1, 1, 1))
    cut, name = slicer(case, tumour, ratio)
    assert name == f"slice {axis} = {4 if axis == 'y' else 2}"
    thick = np.broadcast_to(np.arange(5.0)[:, None, None], real.shape)
    assert len(np.unique(cut(thick))) == (5 if axis == "y" else 1)
    assert cut(tumour).sum() == 1


def test_long_names_are_cut_in_the_middle():
    assert short_name("ridge") == "ridge"
    assert short_name("t2f-agi-net-cohort-1234abcd") == "agi-net-cohort"
    assert short_name("another-tool-of-a-long-name") == "another-to…-long-name"


FIRST, SECOND = "t2f-agi-net-cohort-1234abcd", "t2f-agi-net-cohort-99995678"


def made(teachers=()):
    return SynthesisRun(
        Path("run"), ("t2f",), None, "", Splits((), (), ()), teachers=teachers, made_by="AGI-Net L1"
    )


def labelled(*names):
    """Labels of synthetic arms of these names, whose runs say what they are, and of ``copy``."""
    found = labels_of([Arm("copy", "copy"), *(Arm(name, "synthetic", made()) for name in names)])
    assert found.pop("copy") == "copy"
    assert [*found] == [*names]
    return [*found.values()]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        ([FIRST], ["synthetic"]),
        (["mine"], ["mine"]),
        ([FIRST, "mine"], ["AGI-Net L1", "mine"]),
        ([FIRST, SECOND], ["AGI-Net L1 (1)", "AGI-Net L1 (2)"]),
        ([FIRST, f"{FIRST}@xyz", "AGI-Net L1"],
         ["AGI-Net L1 (1)", "AGI-Net L1 (2)", "AGI-Net L1"]),
        (["coupled-t1c-dc1b530b"], ["synthetic"]),
        (["fold3-dc1b530b"], ["synthetic"]),
        (["agi-20251130"], ["agi-20251130"]),
        (["agi-20251130", "agi-20251201"], ["agi-20251130", "agi-20251201"]),
        (["my-run-deadbeef"], ["my-run-deadbeef"]),
        (["t2f-mine-20251130"], ["t2f-mine-20251130"]),
        ([FIRST, "t2f-agi-net-20251130"], ["AGI-Net L1", "t2f-agi-net-20251130"]),
    ],
)  # fmt: skip
def test_an_arm_has_its_given_name_or_a_plain_one(names, labels):
    assert labelled(*names) == labels


def test_a_coupled_run_is_called_so_beside_the_one_that_no_segmenter_taught():
    arms = [Arm(FIRST, "synthetic", made()),
            Arm("coupled-t2f-1b2c3d4e", "synthetic", made((Teacher("a", "b"),)))]  # fmt: skip
    assert [*labels_of(arms).values()] == ["AGI-Net L1", "AGI-Net L1 coupled"]


def test_names_that_are_cut_alike_are_told_apart():
    alike = [f"a-very-long-name-{number}-of-a-tool" for number in (1, 2, 3)]
    assert len({*labelled(*alike)}) == 3


def test_a_run_without_a_record_is_called_by_what_its_name_says():
    found = labels_of([Arm(FIRST, "synthetic"), Arm("mine", "synthetic")])
    assert found == {FIRST: "agi-net-cohort", "mine": "mine"}
