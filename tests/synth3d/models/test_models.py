"""What ResUNet, AGI-Net and the critic do, whatever their parts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from synth3d.models import GENERATORS, AGINet, PatchCritic, ResUNet, options_of
from synth3d.models.agi_net.routing import OffsetHead, ScaleHead
from synth3d.models.blocks import NORM, ChannelNorm, GlobalMean, instance_norm, norm_gelu
from synth3d.models.moving.deformable import DisplacementMap
from synth3d.models.time_embedding import TimeModulation

LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
SMALL = {"widths": (16, 32), "stages": 3, "groups": 4}


def image(dim: int, channels: int = 2, batch: int = 2, side: int = 8) -> torch.Tensor:
    return torch.randn(batch, channels, *[side] * dim)


def make(name: str, inputs: int, outputs: int, **options) -> nn.Module:
    """The generator ``name`` with those of ``SMALL`` that it takes."""
    taken = {key: value for key, value in SMALL.items() if key in options_of(name)}
    return GENERATORS[name](inputs, outputs, **taken, **options)


CELLS = [(name, dim) for name, made in GENERATORS.items() for dim in sorted(made.dims)]


@pytest.mark.parametrize(("name", "dim"), CELLS)
def test_sources_become_targets_of_the_same_size_in_any_memory_format(name, dim):
    net, x = make(name, 2, 3, dim=dim).eval(), image(dim)
    for head in (m for m in net.modules() if isinstance(m, OffsetHead)):
        nn.init.normal_(head.weight)
    results = []
    for layout in (torch.contiguous_format, LAST[dim]):
        net, x = net.to(memory_format=layout), x.to(memory_format=layout)
        y = net(x)
        assert y.shape == (2, 3, *x.shape[2:])
        results.append([y, *torch.autograd.grad(y.sin().sum(), [*net.parameters()])])
    least = 1e-4 * max(values.abs().max() for values in results[0])  # a bias before a norm has none
    for one, other in zip(*results, strict=True):
        scale = one.abs().max() + least
        assert torch.allclose(one / scale, other / scale, atol=1e-3)


def by_class_name(module: nn.Module) -> None:
    """The usual initialiser of image translation code: normal 0.02 by class name."""
    if hasattr(module, "weight") and any(n in type(module).__name__ for n in ("Conv", "Linear")):
        nn.init.normal_(module.weight, 0.0, 0.02)


def by_type(module: nn.Module) -> None:
    """nnU-Net's: He for convolutions and linear layers."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose3d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, a=0.01)


@pytest.mark.parametrize("init", [by_class_name, by_type])
@pytest.mark.parametrize(("name", "dim"), CELLS)
def test_what_starts_at_zero_survives_initialisers_that_go_by_layer(name, dim, init):
    told = {"time_embedding": True} if "time" in GENERATORS[name].offers else {}
    net = make(name, 2, 1, dim=dim, **told).apply(init)
    still = [m for m in net.modules() if isinstance(m, OffsetHead | DisplacementMap)]
    assert len(still) == (6 if name in ("agi-net", "deform-resunet") else 0)
    still += [m for m in net.modules() if isinstance(m, TimeModulation)]
    assert not any(m.weight.any() for m in still)


@pytest.mark.parametrize("widths", [(8, 16), (8, 16, 24), (8, 8, 16, 16, 32)])
def test_any_number_of_levels(widths):
    net = AGINet(1, 1, dim=2, widths=widths, stages=3, groups=2)
    assert net(image(2, channels=1, side=16)).shape == (2, 1, 16, 16)


def test_dim_2_is_one_slice_of_dim_3():
    """The same layers: a 3-D net whose kernels act in-plane alone gives the 2-D net's slices."""
    flat, deep = ResUNet(1, 1, dim=2, widths=(4,) * 2), ResUNet(1, 1, dim=3, widths=(4,) * 2)
    state = {}
    for name, tensor in flat.state_dict().items():
        target = torch.zeros_like(deep.state_dict()[name])
        if target.shape[2] == 3:
            target[:, :, 1] = tensor
        elif "doublings" in name:
            target[:] = tensor[:, :, None]
        else:
            target[:, :, 0] = tensor
        state[name] = target
    deep.load_state_dict(state)
    x = image(2, channels=1).repeat_interleave(1, 0)
    volume = x[:, :, None].expand(-1, -1, 4, -1, -1)
    assert torch.allclose(deep(volume)[:, :, 1], flat(x), atol=1e-5)


def test_recomputing_the_routing_changes_no_bit():
    kept, recomputed = (
        AGINet(2, 1, checkpoint_routing=flag, **SMALL).requires_grad_() for flag in (False, True)
    )
    recomputed.load_state_dict(kept.state_dict())
    for net in (kept, recomputed):
        g = torch.Generator().manual_seed(0)
        for head in (m for m in net.modules() if isinstance(m, OffsetHead | ScaleHead)):
            head.weight.data.normal_(generator=g)
    x = image(3)
    results = [net(x) for net in (kept, recomputed)]
    assert torch.equal(*results)
    for y in results:
        y.square().mean().backward()
    pairs = zip(kept.parameters(), recomputed.parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in pairs)


def test_autocast_keeps_routes_in_float32(routes):
    net = AGINet(2, 1, **SMALL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for offsets, scale in routes(net, image(3)):
            assert offsets.dtype == scale.dtype == torch.float32
        y = net(image(3))
    assert y.dtype == torch.bfloat16
    y.float().square().mean().backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())


def test_absent_sources_are_read_as_zero_whatever_they_hold():
    net, x = AGINet(2, 1, **SMALL), image(3)
    present = torch.tensor([[True, False], [True, True]])
    zeroed = x.clone()
    zeroed[0, 1] = 0
    x[0, 1] = float("nan")
    assert torch.equal(net(x, present), net(zeroed))


def test_samples_do_not_see_each_other():
    net, x = AGINet(2, 1, **SMALL), image(3)
    for head in (m for m in net.modules() if isinstance(m, OffsetHead)):
        nn.init.normal_(head.weight)
    alone = torch.cat([net(x[:1]), net(x[1:])])
    assert torch.allclose(net(x), alone, atol=1e-4)


@pytest.mark.parametrize("dim", [2, 3])
def test_norm_and_gelu_in_one_are_layer_norm_over_channels_and_gelu(dim):
    norm = ChannelNorm(3).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 3, *[2] * dim, dtype=torch.float64, requires_grad=True)
    layer_norm = F.layer_norm(x.movedim(1, -1), (3,), norm.weight, norm.bias).movedim(-1, 1)
    assert torch.allclose(norm(x), layer_norm, atol=1e-12)
    leaves = (x, norm.weight, norm.bias)
    y, plain = norm_gelu(x, norm), F.gelu(norm(x))
    assert torch.equal(y, plain)
    weight = torch.randn_like(y)
    ours, theirs = (torch.autograd.grad(out, leaves, weight) for out in (y, plain))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: norm_gelu(x, norm), (x,))
    assert torch.autograd.gradgradcheck(lambda x: norm_gelu(x, norm), (x,))
    norm.requires_grad_(False)  # what is not wanted is not computed
    (ours,) = torch.autograd.grad(norm_gelu(x, norm).sum(), x)
    (theirs,) = torch.autograd.grad(F.gelu(norm(x)).sum(), x)
    assert torch.allclose(ours, theirs, atol=1e-12)
    with torch.no_grad():
        assert norm_gelu(x, norm).grad_fn is None


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("norm", ["module", "affine", "function"])
def test_instance_norms_gradient_is_a_samples_own_however_it_lies_in_memory(dim, norm):
    """torch's own, of one sample and a gradient laid out channels-last, has another (2.15, CPU)."""
    make = {
        "module": NORM[dim](3), "affine": NORM[dim](3, affine=True), "function": instance_norm
    }[norm]  # fmt: skip
    last = torch.channels_last if dim == 2 else torch.channels_last_3d
    draws = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(2, 3, *[5] * dim, generator=draws) for _ in range(2))

    def gradient(count: int, layout: torch.memory_format):
        part = x[:count].clone().contiguous(memory_format=layout).requires_grad_()
        make(part).backward(weight[:count].contiguous(memory_format=layout))
        return part.grad

    expected = gradient(2, torch.contiguous_format)
    for layout in (torch.contiguous_format, last):
        torch.testing.assert_close(gradient(2, layout), expected)
        torch.testing.assert_close(gradient(1, layout), expected[:1])


def test_norm_and_gelu_in_one_under_autocast_are_the_two():
    norm = ChannelNorm(8)
    x = torch.randn(2, 8, 3, 3, 3).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y, plain = norm_gelu(x, norm), F.gelu(norm(x))
    assert y.dtype == plain.dtype
    grads = (torch.autograd.grad(out.sum(), (x, norm.weight)) for out in (y, plain))
    for a, b in zip(*grads, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("last", [False, True])
def test_the_global_mean_has_the_means_gradients(last):
    x = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    x = (x.to(memory_format=torch.channels_last_3d) if last else x).requires_grad_()
    assert torch.equal(GlobalMean()(x), x.mean((2, 3, 4)))
    assert torch.autograd.gradcheck(GlobalMean(), x[:, :, :2, :2, :2])
    assert torch.autograd.gradgradcheck(GlobalMean(), x[:, :, :2, :2, :2])


def test_elsewhere_than_on_the_cpu_the_means_gradient_takes_no_memory():
    x = torch.empty(2, 3, 4, 5, 6, device="meta", requires_grad=True)
    (found,) = torch.autograd.grad(GlobalMean()(x).sum(), x)
    assert found.shape == x.shape
    assert found.untyped_storage().nbytes() == 4 * 2 * 3


@pytest.mark.parametrize(
    ("keywords", "claim"),
    [
        ({"groups": 5}, "16 channels do not split into 5 equal groups"),
        ({"module": "deform"}, "module must be one of conv, gr, ca, cagr"),
        ({"routing": "both"}, "routing must be one of"),
        ({"attn_init": "shut"}, "attn_init must be one of"),
        ({"stages": 4}, "expected 0 to 3 stages, got 4"),
        ({"stages": ("down2",)}, "unknown stage"),
        ({"routing_stride": 0}, "routing_stride"),
        ({"head": "both"}, "head must be one of plain, grouped"),
        ({"head": "grouped", "groups": 1}, "1 groups of 16 channels cannot be shared out among 2"),
        ({"dim": 4}, "dim 2 or 3"),
        ({"widths": (8,)}, "at least two"),
        ({"blocks": 0}, "blocks must be positive"),
    ],
)
def test_what_does_not_fit_is_refused(keywords, claim):
    with pytest.raises(ValueError, match=claim):
        AGINet(2, 1, **{**SMALL, **keywords})


def test_inputs_that_do_not_halve_are_refused():
    net = ResUNet(1, 1, dim=3, widths=(4, 4, 4))
    with pytest.raises(ValueError, match="multiples of 4"):
        net(torch.zeros(1, 1, 8, 6, 8))
    with pytest.raises(ValueError, match=r"takes \(B, C, D, H, W\)"):
        net(torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize("dim", [2, 3])
def test_the_critic_scores_patches(dim):
    critic = PatchCritic(2, dim, width=8)
    assert critic(image(dim, side=32)).shape == (2, 1, *[2] * dim)
    with pytest.raises(ValueError, match="at least 24"):
        critic(image(dim, side=16))
    with pytest.raises(ValueError, match="positive"):
        PatchCritic(2, dim, width=0)


def test_a_score_sees_seventy_pixels():
    critic = PatchCritic(1, 2, width=2)
    for m in critic.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.ones_(m.weight)
    critic.body = nn.Sequential(*[m for m in critic.body if isinstance(m, nn.Conv2d)])
    x = torch.zeros(1, 1, 160, 160, requires_grad=True)
    critic(x)[0, 0, 9, 9].backward()
    assert (x.grad[0, 0].abs().sum(0) > 0).sum() == 70
