"""MS-SSIM as a loss: equal images, worse ones, small ones, and torchmetrics' value."""

import pytest
import torch

from synth3d.losses import multiscale_similarity
from synth3d.losses.structure import scales_of


def pictures(shape, seed=0):
    draws = torch.Generator().manual_seed(seed)
    coarse = torch.rand(2, 1, *[max(side // 4, 1) for side in shape], generator=draws)
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    return torch.nn.functional.interpolate(coarse, shape, mode=mode)[:, 0]


@pytest.mark.parametrize("shape", [(8, 8), (16, 24), (8, 8, 8), (20, 16, 32), (3, 5)])
def test_equal_images_are_1_and_noise_makes_them_ever_less_alike(shape):
    real = pictures(shape)
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(1))
    found = [multiscale_similarity(real + s * noise, real) for s in (0, 0.02, 0.1, 0.4)]
    torch.testing.assert_close(found[0], torch.ones(2))
    assert all((a > b).all() for a, b in zip(found, found[1:], strict=False))
    assert found[-1].min() >= 0


def test_images_are_judged_one_by_one_and_give_gradients():
    real, made = pictures((16, 16)), pictures((16, 16), 1).requires_grad_()
    alone = torch.cat([multiscale_similarity(made[[b]], real[[b]]) for b in range(2)])
    together = multiscale_similarity(made, real)
    torch.testing.assert_close(alone, together)
    (1 - together).sum().backward()
    assert made.grad.isfinite().all()
    assert made.grad.abs().sum() > 0
    dark = torch.zeros(1, 16, 16, requires_grad=True)
    multiscale_similarity(dark, real[:1]).sum().backward()
    assert dark.grad.isfinite().all()


def test_scales_follow_from_the_sides():
    assert scales_of((161, 200)) == (5, 11)
    assert scales_of((160, 256)) == (5, 7)
    assert scales_of((96, 96, 96)) == (4, 7)
    assert scales_of((16, 16)) == (2, 7)
    assert scales_of((8, 8, 8)) == (1, 7)
    assert scales_of((4, 64)) == (1, 3)


def test_five_scales_are_torchmetrics():
    metrics = pytest.importorskip("torchmetrics.functional.image")
    real = pictures((176, 192))
    made = real + 0.05 * torch.randn(real.shape, generator=torch.Generator().manual_seed(1))
    told = [
        metrics.multiscale_structural_similarity_index_measure(
            made[[b], None], real[[b], None], data_range=1.0, kernel_size=11, sigma=1.5
        )
        for b in range(2)
    ]
    found = multiscale_similarity(made, real)
    torch.testing.assert_close(found, torch.stack(told), atol=1e-2, rtol=0)
