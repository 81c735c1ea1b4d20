"""pGAN: VGG16 from a file of torchvision's kind, frozen, and what it compares."""

import hashlib
from dataclasses import replace

import pytest
import torch
from torch import nn

from synth3d.errors import InputError
from synth3d.losses.perceptual import feature_distance, load_vgg16, orthogonal_slices
from synth3d.training.config import build_framework


@pytest.fixture(scope="module")
def cell(make_config, vgg16):
    """(dim, file) → pGAN around a ResUNet."""

    def make(dim=2, weights=vgg16, training=True, weight=100.0):
        options = {"perceptual_weight": weight, "perceptual_slices": 2}
        config = make_config("pgan", dim, perceptual_weights=str(weights), **options)
        return build_framework(config, training)

    return make


def digest(module: nn.Module) -> str:
    state = b"".join(v.numpy().tobytes() for v in module.state_dict().values())
    return hashlib.sha256(state).hexdigest()


def test_the_file_becomes_vgg16_up_to_relu2_2(vgg16):
    features, state = load_vgg16(vgg16), torch.load(vgg16, weights_only=True)
    x = torch.rand(2, 3, 12, 8)
    y = x
    for layer in (0, 2, 5, 7):
        if layer == 5:
            y = torch.max_pool2d(y, 2)
        kernel, bias = state[f"features.{layer}.weight"], state[f"features.{layer}.bias"]
        y = torch.conv2d(y, kernel, bias, padding=1).relu()
    torch.testing.assert_close(features(x), y)
    assert y.shape == (2, 128, 6, 4)


def test_it_is_frozen_and_no_part_of_what_is_trained_or_saved(cell, make_batch):
    pgan, batch = cell(), make_batch()
    (features,) = pgan._features
    before = digest(features)
    optimizer = torch.optim.SGD(pgan.parameters(), 1e-3)
    for step in range(3):
        optimizer.zero_grad()
        sum(pgan.generator_loss(batch, step).values()).backward()
        optimizer.step()
    assert digest(features) == before
    assert all(p.grad is None and not p.requires_grad for p in features.parameters())
    mine = {id(p) for p in pgan.parameters()}
    assert not mine & {id(p) for p in features.parameters()}
    assert {key.split(".")[0] for key in pgan.state_dict()} == {"generator", "critic"}


def test_the_term_is_the_mean_absolute_difference_of_features(cell, make_batch):
    pgan, batch = cell(), make_batch()
    terms = pgan.generator_loss(batch, 0)
    assert set(terms) == {"l1", "perceptual", "adversarial"}
    (features,) = pgan._features
    made = pgan.generator(batch.sources) * batch.brain
    grey = [(2 * x - 1).expand(-1, 3, -1, -1) for x in (made, batch.targets)]
    expected = 100 * (features(grey[0]) - features(grey[1])).abs().mean()
    torch.testing.assert_close(terms["perceptual"], expected)


@pytest.mark.parametrize("dim", [2, 3])
def test_it_teaches_the_generator_and_only_inside_the_brain(dim, cell, make_batch):
    pgan, batch = cell(dim), make_batch(dim)
    made = torch.rand_like(batch.targets).requires_grad_()
    pgan.fidelity(made, batch, 0)["perceptual"].backward()
    assert made.grad.abs().max() > 0
    assert (made.grad[~batch.brain] == 0).all()
    same = pgan.fidelity(batch.targets, batch, 0)["perceptual"]
    assert same == 0
    unwanted = replace(batch, wanted=~batch.wanted)
    assert pgan.fidelity(made, unwanted, 0)["perceptual"] == 0


def test_slices_of_a_volume_lie_where_the_step_says(cell, make_batch):
    pgan, batch = cell(3), make_batch(3)
    found = [pgan.generator_loss(batch, step)["perceptual"].item() for step in (4, 5, 4)]
    assert found[0] == found[2]
    assert found[0] != found[1]


def test_orthogonal_slices_cut_across_each_axis():
    volumes = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).float()
    draws = torch.Generator().manual_seed(0)
    across_z, across_y, across_x = orthogonal_slices(volumes, 2, draws)
    assert across_z.shape == (4, 4, 5)
    assert across_y.shape == (4, 3, 5)
    assert across_x.shape == (4, 3, 4)
    assert any(torch.equal(across_z[0], volumes[0, k]) for k in range(3))
    assert any(torch.equal(across_y[1], volumes[1, :, k]) for k in range(4))
    assert any(torch.equal(across_x[3], volumes[1, :, :, k]) for k in range(5))
    (pictures,) = orthogonal_slices(volumes[0], 2, draws)
    assert torch.equal(pictures, volumes[0])
    nothing = [stack[:0] for stack in (across_z, across_y)]
    assert feature_distance(nn.Identity(), nothing, nothing) == 0


def test_no_file_is_ever_fetched_and_the_error_says_what_to_do(cell, tmp_path, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("tried to download")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", forbidden)
    monkeypatch.setattr(torch.hub, "download_url_to_file", forbidden)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    expected = tmp_path / "checkpoints" / "vgg16-397923af.pth"
    with pytest.raises(InputError) as caught:
        cell(weights="")
    for part in (str(expected), "https://download.pytorch.org/models/vgg16-397923af.pth",
                 "train.pgan.perceptual_weights"):  # fmt: skip
        assert part in str(caught.value)
    with pytest.raises(InputError, match="elsewhere.pth are not there"):
        cell(weights=tmp_path / "elsewhere.pth")


def test_the_cache_of_torch_hub_is_where_it_looks(cell, vgg16, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "vgg16-397923af.pth").write_bytes(vgg16.read_bytes())
    assert digest(cell(weights="")._features[0]) == digest(load_vgg16(vgg16))


def test_a_file_of_something_else_is_told(vgg16, tmp_path):
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(vgg16.read_bytes()[:1000])
    with pytest.raises(InputError, match="is damaged"):
        load_vgg16(damaged)
    other = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(64, 1, 3, 3)}, other)
    with pytest.raises(InputError, match=r"features.0.weight is \(64, 1, 3, 3\), expected"):
        load_vgg16(other)
    torch.save([1, 2], other)
    with pytest.raises(InputError, match="does not hold torchvision's VGG16"):
        load_vgg16(other)


def test_a_cell_can_be_planned_without_memory_and_made_without_the_file(cell, make_batch, tmp_path):
    with torch.device("meta"):
        planned = cell()
    assert {p.device.type for p in planned.parameters()} == {"meta"}
    assert cell(weights=tmp_path / "gone.pth", training=False).critic is None
    silent = cell(weights=tmp_path / "gone.pth", weight=0.0)
    assert set(silent.generator_loss(make_batch(), 0)) == {"l1", "adversarial"}


def test_under_bf16_the_term_stays_float32(cell, make_batch):
    pgan, batch = cell(3), make_batch(3)
    with torch.autocast("cpu", torch.bfloat16):
        term = pgan.generator_loss(batch, 0)["perceptual"]
    assert term.dtype == torch.float32
    term.backward()
    assert all(p.grad.isfinite().all() for p in pgan.generator.parameters())
