import numpy as np
import pytest

from seg_eval.report.pictures import (
    Panel,
    Point,
    arm_colours,
    dice_by_case,
    draw_dice,
    draw_panel,
    draw_scatter,
    error_and_loss,
    short_name,
)
from seg_eval.scoring.scores import Score

ARMS = ("full", "zero", "copy", "template", "ridge", "boosted", "t2f-agi-net-a-long-name",
        "another", "plumbing", "specialist", "dropout", "retrained")  # fmt: skip


def score(case: str, arm: str, dice: float, region: str = "WT", seed: int = 0) -> Score:
    """A row of which only the Dice matters."""
    return Score(case, case, arm, seed, region, dice, 0.0, 1.0, dice, 0.0, 1, 1, 0, dice, dice,
                 1.0, 1.0, 0.0, 9, 9)  # fmt: skip


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
    images = [{"case": "a", "arm": "ridge", "mae_tumour": 0.1},
              {"case": "b", "arm": "ridge", "mae_tumour": 0.2},
              {"case": "a", "arm": "copy", "mae_tumour": 0.3},
              {"case": "a", "arm": "ridge", "mae_tumour": None}]  # fmt: skip
    points = error_and_loss(rows, images, ["ridge", "zero"])
    assert [(p.case, p.arm, p.error) for p in points] == [("a", "ridge", 0.1)]
    assert points[0].loss == pytest.approx(0.2)
    draw_scatter(points, "title", tmp_path / "scatter.png")
    draw_scatter([], "nothing", tmp_path / "none.png")
    draw_scatter([Point("a", arm, 0.1, 0.0) for arm in ARMS], "all", tmp_path / "all.png")
    assert min(size_of_png(tmp_path / "scatter.png")) > 300
    assert min(size_of_png(tmp_path / "none.png")) > 300


def test_several_missing_sequences_of_a_case_are_one_point():
    rows = [score("a", "full", 0.9), score("a", "ridge", 0.7)]
    images = [{"case": "a", "arm": "ridge", "modality": "t2f", "mae_tumour": 0.1},
              {"case": "a", "arm": "ridge", "modality": "t1c", "mae_tumour": 0.4}]  # fmt: skip
    (point,) = error_and_loss(rows, images, ["ridge"])
    assert (point.case, point.error) == ("a", pytest.approx(0.25))


@pytest.mark.parametrize("tumour", [True, False])
def test_a_case_can_be_drawn_with_and_without_a_tumour(tmp_path, tumour):
    real = np.zeros((5, 12, 10), np.float32)
    real[:, 2:10, 3:8] = 0.5
    mask = np.zeros(real.shape, bool)
    mask[3, 4:6, 4:6] = tumour
    masks = dict.fromkeys(("WT", "TC", "ET"), mask)
    panels = [Panel("zero", np.zeros_like(real), masks), Panel("ridge", 0.9 * real, masks)]
    draw_panel(real, masks, panels, np.eye(4), "case", tmp_path / "slices.png")
    assert min(size_of_png(tmp_path / "slices.png")) > 200


def test_no_two_compared_arms_share_a_colour():
    colours = arm_colours(ARMS)
    assert len(set(colours.values())) == len(ARMS)


def test_the_view_is_radiological_whichever_way_the_voxels_run():
    from seg_eval.report.pictures import _Slicer

    real = np.ones((1, 2, 2), np.float32)
    # RAS: index x = 0 is the patient's left, index y = 1 is the front; left belongs on the right
    left_and_front = np.array([[[0, 0], [1, 0]]])
    view = _Slicer(0, real, np.diag([1.0, 1, 1, 1]))(left_and_front)
    assert view.tolist() == [[0, 1], [0, 0]]
    same = _Slicer(0, real, np.diag([-1.0, -1, 1, 1]))(np.array([[[0, 1], [0, 0]]]))
    assert same.tolist() == [[0, 1], [0, 0]]


def test_long_names_are_cut_in_the_middle():
    assert short_name("ridge") == "ridge"
    assert short_name("t2f-agi-net-cohort-1234abcd") == "agi-net-cohort"
    assert short_name("another-tool-of-a-long-name") == "another-to…-long-name"
