"""pGAN: VGG16 from a file of torchvision's kind, frozen, and what it compares."""

import hashlib
from dataclasses import replace

import pytest
import torch
from torch import nn

from synth3d.errors import InputError
from synth3d.losses.perceptual import load_vgg16
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


def test_slices_of_a_volume_lie_where_the_step_says_and_bf16_leaves_the_term_float32(
    cell, make_batch
):
    pgan, batch = cell(3), make_batch(3)
    with torch.autocast("cpu", torch.bfloat16):
        found = [pgan.generator_loss(batch, step)["perceptual"] for step in (4, 5, 4)]
    assert found[0] == found[2]
    assert found[0] != found[1]
    assert found[0].dtype == torch.float32
    found[0].backward()
    assert all(p.grad.isfinite().all() for p in pgan.generator.parameters())


def test_it_looks_in_the_cache_of_torch_hub_never_fetches_and_says_what_to_do(
    cell, vgg16, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", pytest.fail)
    monkeypatch.setattr(torch.hub, "download_url_to_file", pytest.fail)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    expected = tmp_path / "checkpoints" / "vgg16-397923af.pth"
    with pytest.raises(InputError) as caught:
        cell(weights="")
    for part in (str(expected), "https://download.pytorch.org/models/vgg16-397923af.pth",
                 "train.pgan.perceptual_weights"):  # fmt: skip
        assert part in str(caught.value)
    with pytest.raises(InputError, match="elsewhere.pth are not there"):
        cell(weights=tmp_path / "elsewhere.pth")
    expected.parent.mkdir()
    expected.write_bytes(vgg16.read_bytes())
    assert digest(cell(weights="")._features[0]) == digest(load_vgg16(vgg16))


def test_a_cell_can_be_planned_without_memory_and_made_without_the_file(cell, make_batch, tmp_path):
    with torch.device("meta"):
        planned = cell()
    assert {p.device.type for p in planned.parameters()} == {"meta"}
    assert cell(weights=tmp_path / "gone.pth", training=False).critic is None
    silent = cell(weights=tmp_path / "gone.pth", weight=0.0)
    assert set(silent.generator_loss(make_batch(), 0)) == {"l1", "adversarial"}
