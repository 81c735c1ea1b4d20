"""Claims about LPIPS: never from the network, and what the package itself computes."""

import socket

import numpy as np
import pytest
import torch

from synth3d.errors import InputError
from synth3d.scoring import lpips as perceptual_score
from synth3d.scoring.lpips import FILE_NAME, PerceptualDistance

WHY = "needs the package lpips: pip install 'synth3d[score]'"


@pytest.fixture(scope="module")
def distance(alexnet):
    pytest.importorskip("lpips", reason=WHY)
    return PerceptualDistance(alexnet, batch=2)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("something reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


def slices(n=3, side=64, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, side, side)).astype(np.float32)


def test_says_what_is_missing_and_where_it_belongs(monkeypatch, tmp_path, no_network):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for package, told in (
        (None, "LPIPS needs the package lpips: pip install 'synth3d"),
        (object(), f"there is no {tmp_path}.*{FILE_NAME}: fetch"),
    ):
        monkeypatch.setattr(perceptual_score.importlib.util, "find_spec", lambda _, p=package: p)
        with pytest.raises(InputError, match=told):
            PerceptualDistance()


def test_refuses_a_file_that_is_no_alexnet(monkeypatch, tmp_path, no_network):
    pytest.importorskip("lpips", reason=WHY)
    path = tmp_path / "weights.pth"
    path.write_bytes(b"no weights")
    with pytest.raises(InputError, match="does not hold torchvision's AlexNet"):
        PerceptualDistance(path)
    torch.save({"features.0.weight": torch.zeros(3)}, path)
    with pytest.raises(InputError, match="does not hold torchvision's AlexNet"):
        PerceptualDistance(path)


def test_finds_the_weights_where_torchvision_keeps_them(monkeypatch, alexnet):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(alexnet.parents[1]))
    assert perceptual_score.weights_on_disk() == alexnet


def test_is_what_the_package_computes_with_these_weights(
    alexnet, distance, monkeypatch, no_network
):
    lpips = pytest.importorskip("lpips", reason=WHY)
    import torchvision

    full = torchvision.models.alexnet(weights=None)
    full.load_state_dict(torch.load(alexnet, weights_only=True), strict=False)
    monkeypatch.setattr(torchvision.models, "alexnet", lambda **kwargs: full)
    package = lpips.LPIPS(net="alex", verbose=False)
    real, synthetic = slices(5), slices(5, seed=1)
    with torch.inference_mode():
        pair = [torch.from_numpy(v)[:, None] for v in (real, synthetic)]
        expected = package(*pair).flatten().numpy()
    assert distance(real, synthetic) == pytest.approx(expected, rel=1e-5)
    assert expected.min() > 0
    assert not distance.published
    assert (distance(real, real) == 0).all()


@pytest.mark.parametrize("shape", [(0, 64, 64), (2, 1, 1), (2, 31, 40)])
def test_takes_slices_of_any_size(distance, shape):
    found = distance(np.zeros(shape, np.float32), np.ones(shape, np.float32))
    assert found.shape == shape[:1]
    assert np.isfinite(found).all()
    with pytest.raises(ValueError, match=r"expected two \(N, H, W\)"):
        distance(np.zeros(shape), np.zeros((9, 9)))


def test_can_be_learnt_by_where_the_pictures_are(distance):
    real, made = (torch.from_numpy(slices(2, 24, seed)) for seed in (0, 1))
    made.requires_grad_()
    found = distance.of(real, made)
    assert found.tolist() == pytest.approx(distance(*(v.detach().numpy() for v in (real, made))))
    found.sum().backward()
    assert (made.grad != 0).float().mean() > 0.9
    assert not any(p.requires_grad for p in distance.network.parameters())


def test_pictures_in_which_nothing_is_seen_have_a_gradient(alexnet, tmp_path):
    state = torch.load(alexnet, weights_only=True)
    state["features.0.bias"] -= 1e3  # no ReLU lets anything through
    torch.save(state, tmp_path / "blind.pth")
    made = torch.from_numpy(slices(1)).requires_grad_()
    PerceptualDistance(tmp_path / "blind.pth").of(torch.zeros(1, 64, 64), made).sum().backward()
    assert (made.grad == 0).all()
