"""Pictures hold what they should; whether they are good is for eyes."""

import numpy as np
import pytest
from matplotlib import image
from matplotlib.figure import Figure

from synth3d.pictures import draw_contact_sheet, draw_contributions, draw_curves, draw_levels


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
