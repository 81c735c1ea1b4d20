"""Pictures hold what they should; whether they are good is for eyes."""

import numpy as np
import pytest
from matplotlib import image
from matplotlib.figure import Figure

from synth3d.pictures import (
    Panel,
    draw_contact_sheet,
    draw_contributions,
    draw_curves,
    draw_levels,
    draw_preview,
)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures, save = [], Figure.savefig

    def keep(figure, *args, **how):
        figures.append(figure)
        save(figure, *args, **how)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def told_apart(axis) -> set[str]:
    """Names in the legend of an axis, each with a look of its own."""
    lines, names = axis.get_legend_handles_labels()
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(looks) == len(lines)
    return {*names}


@pytest.mark.parametrize("count", [3, 5, 12])
def test_every_series_is_drawn_and_named(count, tmp_path, drawn):
    names = [f"series {number}" for number in range(count)]
    gap = {"mean": 0.1, "low": 0.0, "high": 0.2}
    line = {"level": [1, 2, 3], "mean": [1, 2, 3], "sd": [0, 0, 0], "difference": [gap] * 3}
    draw_levels(dict.fromkeys(names, line), "inputs", "PSNR", "title", tmp_path / "levels.png")
    terms = [{"step": step, "loss": dict.fromkeys(names, 1 / step)} for step in (1, 2)]
    draw_curves(terms, tmp_path / "curves.png")
    levels, curves = drawn
    for axis in (*levels.axes, curves.axes[0]):
        assert told_apart(axis) == {*names}
    sources = tuple(names)
    bars = [("t2f", sources, [1 / count] * count, [0.5] * count)]
    draw_contributions(bars, "title", tmp_path / "contributions.png")
    (legend,) = drawn[-1].legends
    assert [text.get_text() for text in legend.get_texts()] == names


def test_a_dollar_in_a_name_begins_no_formula(tmp_path, drawn):
    line = {"level": [1], "mean": [1], "sd": [0], "difference": [None]}
    name, volume = "a$_$", np.ones((4, 4, 4))
    draw_levels({name: line}, "inputs", "PSNR", name, tmp_path / "levels.png")
    draw_contributions([("t2f", ("t1n",), [1.0], [0.5])], name, tmp_path / "bars.png")
    sheet = tmp_path / "sheet.png"
    draw_contact_sheet({name: volume}, volume, volume > 0, None, np.eye(4), name, sheet)
    assert all(name in figure.get_suptitle() for figure in drawn)
    assert len(drawn) == 3


def test_two_validation_scores_never_lie_on_one_another(tmp_path, drawn):
    scores = [{"psnr": 19.3, "ssim": 0.76}, {"psnr": 19.7, "ssim": 0.79}]
    log = [{"step": s, "validation": each} for s, each in zip((200, 400), scores, strict=True)]
    draw_curves(log, tmp_path / "curves.png")
    lines = [axis.get_lines() for axis in drawn[-1].axes]
    assert [len(each) for each in lines] == [0, 1, 1]


def test_curves_are_drawn_from_a_log_with_and_without_validation(tmp_path):
    losses = [{"step": s, "loss": {"l1": 9.0 / s, "critic": 0.3}} for s in (10, 20)]
    check = {"step": 20, "validation": {"psnr": 20.0, "ssim": 0.8, "mae": 0.1}}
    for log in (losses, [*losses, check], []):
        draw_curves(log, tmp_path / "curves.png")
        assert image.imread(tmp_path / "curves.png").std() > 0.01


def test_a_contact_sheet_has_a_column_for_every_panel(tmp_path):
    volume = np.random.default_rng(0).random((6, 8, 10))
    brain = np.ones(volume.shape, bool)
    tumour = np.zeros_like(brain)
    tumour[2:4, 3:5, 4:6] = True
    widths = []
    for panels in ({"t1n": volume}, {"t1n": volume, "t1c": volume, "real": volume}):
        for mask in (tumour, None, ~brain):
            draw_contact_sheet(
                panels, volume, brain, mask, np.eye(4), "case", tmp_path / "sheet.png"
            )
        widths.append(image.imread(tmp_path / "sheet.png").shape[1])
    assert widths[1] > 1.5 * widths[0]


def test_a_preview_marks_what_was_made_and_nothing_else(tmp_path):
    """Coloured are frames and words of the made panels alone; thick slices keep their height."""
    cut = np.random.default_rng(1).random((10, 20))
    slices = [cut, cut[:4], cut[:4]]
    edges = {"axial": (1.0, 1.0), "coronal": (5.0, 1.0), "sagittal": (5.0, 1.0)}
    panels = [Panel("T1", "acquired", slices, (0, 1)), Panel("T2", "acquired", slices, (0, 1))]
    panels.append(Panel("$x$", "synthetic", slices, (0, 1), made=True))
    draw_preview(panels, edges, "case_$1$", "a note", tmp_path / "three.png")
    shown = image.imread(tmp_path / "three.png")[..., :3]
    coloured = np.argwhere(np.ptp(shown, axis=2) > 0.3)[:, 1] / shown.shape[1]
    assert coloured.size
    assert coloured.min() > 0.6
    over = Panel("T2", "", slices, (0, 1), overlay=[np.ones_like(each) for each in slices])
    draw_preview([*panels, over], edges, "case", "a note", tmp_path / "four.png")
    wider = image.imread(tmp_path / "four.png")
    assert wider.shape[1] > 1.2 * shown.shape[1]
    assert wider.shape[0] == shown.shape[0]
