"""Pictures hold what they should; whether they are good is for eyes."""

import numpy as np
from matplotlib import image

from synth3d.pictures import draw_contact_sheet, draw_curves


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
