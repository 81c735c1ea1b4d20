"""TSF-Seq2Seq: its published sizes, and the laws of any sequence from any subset."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from synth3d.errors import InputError
from synth3d.models import HyperConv, Mix, ModelConfig, TSFSeq2Seq
from synth3d.models.blocks import CONV
from synth3d.models.tsf.fusion import KINDS
from synth3d.models.tsf.hyper import normed

SMALL = {"widths": (4, 8), "blocks": 1, "banks": 3}


def count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())


def ghost(**options) -> TSFSeq2Seq:
    with torch.device("meta"):
        return TSFSeq2Seq(4, 4, faithful=True, **options)


def awake(dim: int = 2, sources: int = 4, targets: int = 4, **options) -> TSFSeq2Seq:
    """A small one whose attention does not start at 0."""
    torch.manual_seed(0)
    net = TSFSeq2Seq(sources, targets, dim=dim, **SMALL | options)
    if net.fusion.attends:
        nn.init.normal_(net.fusion.conv.bank, std=0.3)
    return net.eval()


def mixed_batch(dim: int, side: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three samples of four sequences: other subsets, other wishes; absent ones are 0."""
    present = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 1], [0, 1, 1, 0]], dtype=torch.bool)
    wanted = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 0], [1, 0, 0, 1]], dtype=torch.bool)
    x = torch.rand(3, 4, *[side] * dim, generator=torch.Generator().manual_seed(1))
    return x * present.view(3, 4, *[1] * dim), present, wanted


def test_published_sizes_2d():
    """Measured on the reference code: 7.46, 14.16, 119.38, 155.16 and 9.47 million."""
    net = ghost(dim=2, slices=3, recurrent=True)
    series = count(net.encoder.series)
    assert count(net.encoder) - series == 7_459_456
    assert series == count(net.decoder.series) == 14_158_848
    decoder = count(net.decoder) - series - count(net.decoder.style)
    assert decoder == 119_378_448
    assert count(net.encoder) + count(net.decoder) == 155_159_760
    fusion = net.fusion
    parts = [count(part) for part in (fusion.conv, fusion.channel, fusion.spatial, fusion.weight)]
    assert parts == [9_438_280, 34_000, 428, 36]
    assert count(fusion) == sum(parts) == 9_472_744


@pytest.mark.parametrize(
    ("options", "with_series", "without"),
    [
        ({}, 465.2, 380.2),
        ({"widths": (32, 64, 128)}, 116.4, 95.2),
        ({"widths": (32, 64, 128), "banks": 4}, 49.2, 28.0),
        ({"widths": (32, 64, 128), "banks": 4, "blocks": 4}, 40.4, 19.2),
        ({"widths": (24, 48, 96), "banks": 4, "blocks": 4}, 22.7, 10.8),
        ({"widths": (16, 32, 64), "banks": 4, "blocks": 4}, 10.1, 4.8),
    ],
)
def test_sizes_3d(options, with_series, without):
    """In millions; what the reference code would have in 3-D, if it ran. 19.2 is printed for 19.15:
    a difference of rounded numbers.
    """
    for recurrent, expected in ((True, with_series), (False, without)):
        net = ghost(dim=3, recurrent=recurrent, **options)
        found = (count(net.encoder) + count(net.decoder)) / 1e6
        assert found == pytest.approx(expected, abs=0.055)
    if not options:
        assert round(count(net.fusion) / 1e6, 1) == 28.3


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("dim", [2, 3])
def test_a_batch_of_mixed_subsets_equals_its_samples_one_by_one(dim, recurrent, dtype, tolerance):
    net, (x, present, wanted) = awake(dim, recurrent=recurrent).to(dtype), mixed_batch(dim)
    x = x.to(dtype)
    together = net(x, present, wanted)
    close = {"rtol": 0, "atol": tolerance * together.abs().max().item()}
    for b in range(3):
        alone = net(x[[b]], present[[b]], wanted[[b]])
        torch.testing.assert_close(together[[b]], alone, **close)
    assert (together[~wanted] == 0).all()
    assert (together[wanted] != 0).any(dim=tuple(range(1, dim + 1))).all()
    each = torch.eye(4, dtype=torch.bool).expand(3, 4, 4)
    for target in range(4):
        one = net(x, present, each[:, target])[:, target]
        here = wanted[:, target]
        torch.testing.assert_close(one[here], together[here, target], **close)


@pytest.mark.parametrize("fill", [7.0, math.nan, math.inf])
@pytest.mark.parametrize("method", ["forward", "averaged"])
def test_absent_voxels_never_matter_to_a_bit_in_values_or_gradients(fill, method):
    net, (x, present, wanted) = awake(), mixed_batch(2)
    found = []
    for image in (x, torch.where(present[..., None, None], x, fill)):
        image = image.clone().requires_grad_()
        made = getattr(net, method)(image, present, wanted)
        grads = torch.autograd.grad(made.square().sum(), [image, *net.parameters()],
                                    allow_unused=method == "averaged")  # fmt: skip
        assert (grads[0][~present] == 0).all()
        found.append([made, *(g for g in grads if g is not None)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


subsets = st.lists(st.booleans(), min_size=4, max_size=4).filter(any)


@settings(max_examples=40)
@given(st.lists(subsets, min_size=1, max_size=4), st.sampled_from(["full", "uniform", "codeless"]))
def test_weights_of_every_sample_sum_to_one_over_what_is_there(rows, kind):
    net, present = awake(fusion=kind), torch.tensor(rows)
    omega = net.weights(present, torch.ones_like(present))
    assert omega.shape == (len(rows), 4, 4)
    torch.testing.assert_close(omega.sum(2), torch.ones(len(rows), 4))
    assert (omega[~present[:, None].expand_as(omega)] == 0).all()
    lonely = present.sum(1) == 1
    assert (omega[lonely].amax(2) == 1).all(), "a source that is alone has exactly 1"
    if kind == "uniform":
        assert torch.equal(
            omega, (present / present.sum(1, keepdim=True))[:, None].expand_as(omega)
        )


def test_what_is_not_wanted_has_no_weights_and_no_mask_leaves_some_to_the_absent():
    present, wanted = torch.tensor([[True, False, True]]), torch.tensor([[True, False]])
    assert (awake(2, 3, 2).weights(present, wanted)[0, 1] == 0).all()
    loose = awake(2, 3, 2, fusion="unmasked").weights(present, wanted)[0, 0]
    assert loose[1] > 0
    torch.testing.assert_close(loose.sum(), torch.tensor(1.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_two_reconstructions_and_what_each_kind_leaves_out(kind):
    net, (x, present, wanted) = awake(fusion=kind), mixed_batch(2)
    attended, plain = net.reconstructions(x, present, wanted)
    # Not bit for bit: twice as many images go through the decoder at once.
    torch.testing.assert_close(attended, net(x, present, wanted))
    assert torch.equal(attended, plain) == (kind == "plain")
    features = net.features(x, present)
    sample, target = wanted.nonzero(as_tuple=True)
    mean, added = net.fusion(features[sample], present[sample], target)
    omega = net.weights(present, wanted)[sample, target]
    torch.testing.assert_close(mean, torch.einsum("ns,nschw->nchw", omega, features[sample]))
    torch.testing.assert_close(net.decode(mean, target, (8, 8)), plain[wanted])
    if added is None:
        return
    other = net.fusion(features[sample], present[sample], (target + 1) % 4)[1]
    assert torch.equal(added, other) == (kind == "codeless")


def test_one_decoder_call_makes_everything():
    net, (x, present, wanted) = awake(), mixed_batch(2)
    seen = []
    net.decoder.register_forward_hook(lambda m, i, o: seen.append(len(i[0])))
    net.reconstructions(x, present, wanted)
    assert seen == [2 * int(wanted.sum())]


def test_fusion_starts_where_seq2seq_ends():
    """f_A is 0, and a source that is alone makes what Seq2Seq makes of it."""
    torch.manual_seed(0)
    net, (x, present, wanted) = TSFSeq2Seq(4, 4, dim=2, **SMALL), mixed_batch(2)
    attended, plain = net.reconstructions(x, present, wanted)
    assert torch.equal(attended, plain)
    averaged = net.averaged(x, present, wanted)
    torch.testing.assert_close(attended[0], averaged[0])
    grads = torch.autograd.grad(net(x, present, wanted).square().sum(), [*net.fusion.parameters()])
    names = [name for name, _ in net.fusion.named_parameters()]
    assert grads[names.index("conv.bank")].abs().sum() > 0, "which can leave 0"


@pytest.mark.parametrize("shape", [(1, 3), (7, 9), (8, 13), (3, 5, 6)])
def test_any_size_comes_back(shape):
    net = awake(len(shape), 2, 1, widths=(4, 6, 8))
    made = net(torch.rand(2, 2, *shape))
    assert made.shape == (2, 1, *shape)
    assert made.isfinite().all()


def test_slices_are_channels_of_an_image():
    net = awake(2, 2, 3, slices=3, faithful=True)
    made = net(torch.rand(2, 2, 3, 8, 8))
    assert made.shape == (2, 3, 3, 8, 8)
    assert (made > 0).all()
    assert (made < 2).all()
    with pytest.raises(ValueError, match=r"takes \(B, S, H, W\)"):
        net(torch.rand(2, 2, 8, 8))


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("mirror", [True, False])
def test_gradients_of_a_hyperconv(dim, mirror):
    conv = HyperConv(dim, 2, 2, 3, Mix(code=3, banks=2), mirror=mirror).double()
    x = torch.randn(2, 2, *[3] * dim, dtype=torch.float64, requires_grad=True)
    code = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in conv.named_parameters()]

    def call(x, code, *weights):
        state = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(conv, state, (x, code))

    weights = [torch.randn_like(p).requires_grad_() for p in conv.parameters()]
    assert torch.autograd.gradcheck(call, (x, code, *weights), fast_mode=dim == 3)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_hyperconv_is_a_plain_convolution_for_each_code(dim):
    conv = HyperConv(dim, 3, 4, 3, Mix(code=5, banks=2), mirror=False)
    nn.init.normal_(conv.bias_bank)
    x, code = torch.randn(3, 3, *[6] * dim), torch.randn(3, 5)
    plain = nn.functional.conv2d if dim == 2 else nn.functional.conv3d
    for b, kernel in enumerate(conv.kernels(code)):
        bias = conv.bias_mix(code[b]) @ conv.bias_bank
        expected = plain(x[[b]], kernel, bias, padding=1)
        torch.testing.assert_close(conv(x, code)[[b]], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_hyperconv_is_its_sum_written_out(dim):
    """Tap by tap: the kernel mixed of banks, the mirror around the image, and the bias."""
    conv = HyperConv(dim, 2, 3, 3, Mix(code=2, banks=2)).double()
    nn.init.normal_(conv.bias_bank)
    x = torch.randn(2, 2, *[4] * dim, dtype=torch.float64)
    code = torch.randn(2, 2, dtype=torch.float64)
    mirrored = np.pad(x.numpy(), [(0, 0)] * 2 + [(1, 1)] * dim, mode="reflect")
    v, u = (code @ one.weight.T + one.bias for one in (conv.mix, conv.bias_mix))
    banks, found = conv.bank.unflatten(1, conv.shape), conv(x, code)
    for b, out in np.ndindex(2, 3):
        expected = (u[b] @ conv.bias_bank[:, out]).expand([4] * dim)
        for w, inner, *tap in np.ndindex(2, 2, *[3] * dim):
            seen = mirrored[(b, inner, *(slice(at, at + 4) for at in tap))]
            kernel = v[b, w] * banks[(w, out, inner, *tap)]
            expected = expected + kernel * torch.tensor(seen)
        torch.testing.assert_close(found[b, out], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_the_fusion_and_exact_under_autocast(kind):
    """The sum of eight bits of each would be off by a hundredth; in bfloat16 it was."""
    fusion = awake(fusion=kind).fusion
    nn.init.normal_(fusion.weight.weight)
    present, target = torch.cartesian_prod(*[torch.tensor([True, False])] * 4)[:-1], torch.arange(4)
    present, target = present.repeat_interleave(4, 0), target.repeat(15)
    features = torch.randn(60, 4, 8, 4, 4) * present[:, :, None, None, None]
    with torch.autocast("cpu", torch.bfloat16):
        omega = fusion.omega(present, target)
        mean, _ = fusion(features.bfloat16(), present, target)
    assert torch.equal(omega, fusion.omega(present, target))
    assert (kind == "unmasked") or ((omega.sum(1) - 1).abs() < 1e-6).all()
    shown = omega[:, :, None, None, None] * features.bfloat16().float()
    torch.testing.assert_close(mean, shown.sum(1))


def spread_of_kernels(dim: int, faithful: bool) -> float:
    """The root mean of kernel² over He's, over many starts of the decoder's convolutions."""
    found, options = [], {"widths": (8, 16), "blocks": 3, "faithful": faithful}
    for seed in range(30):
        torch.manual_seed(seed)
        decoder = TSFSeq2Seq(4, 4, dim=dim, **options).decoder
        style = nn.functional.leaky_relu(decoder.style(torch.eye(64)[:4]), 0.2)
        for conv in (m for m in decoder.modules() if isinstance(m, HyperConv)):
            he = 2 / (conv.shape[1] * math.prod(conv.shape[2:]))
            found.append(conv.kernels(style).square().mean() / he)
    return torch.stack(found).mean().sqrt().item()


@pytest.mark.parametrize("dim", [2, 3])
def test_kernels_start_as_he_would_have_them_and_faithful_ones_far_below(dim):
    assert spread_of_kernels(dim, faithful=False) == pytest.approx(1, abs=0.08)
    assert 0.02 < spread_of_kernels(dim, faithful=True) < 0.045


def test_the_fusions_kernels_start_as_he_would_have_them():
    squares = []
    present = torch.cartesian_prod(*[torch.tensor([0, 1])] * 4)[1:].bool()
    for seed in range(60):
        torch.manual_seed(seed)
        fusion = TSFSeq2Seq(4, 4, dim=2, widths=(8, 16), blocks=1).fusion
        code = fusion.code(present, torch.arange(15) % 4)
        squares.append(fusion.channel.down.kernels(code).square().mean() / (2 / 16))
    assert torch.stack(squares).mean().item() == pytest.approx(1, abs=0.15)


def test_what_cannot_be_built_is_refused():
    for options, words in [
        ({"fusion": "none"}, "fusion must be one of full"),
        ({"widths": (4,)}, "at least two positive widths"),
        ({"banks": 0}, "must be positive"),
        ({"dim": 4}, "2-D and 3-D"),
    ]:
        with pytest.raises(ValueError, match=words):
            TSFSeq2Seq(2, 1, **SMALL | options)
    with pytest.raises(ValueError, match="64 sequences"):
        TSFSeq2Seq(60, 60, **SMALL)
    with pytest.raises(InputError, match=r"model\.centred"):
        ModelConfig(name="tsf", faithful=True, centred=True)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.channels_last_3d])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_norm_is_torchs_in_the_memory_format_that_it_is_given(layout, batch):
    dim = 2 if layout == torch.channels_last else 3
    plain = 5 + 3 * torch.randn(batch, 4, *[5] * dim, dtype=torch.float64)
    laid = plain.contiguous(memory_format=layout).requires_grad_()
    plain.requires_grad_()
    found, expected = normed(laid), F.instance_norm(plain)
    assert found.is_contiguous(memory_format=layout)
    torch.testing.assert_close(found, expected)
    weights = torch.linspace(-1, 2, plain.numel(), dtype=plain.dtype).view(plain.shape)
    for y in (found, expected):
        (y * weights).sum().backward()
    torch.testing.assert_close(laid.grad, plain.grad)
    with pytest.raises(ValueError, match="more than 1"):
        normed(laid.detach()[(..., *[slice(1)] * dim)])
    half = laid.detach().bfloat16()
    assert normed(half).dtype == torch.bfloat16
    torch.testing.assert_close(normed(half), F.instance_norm(half), rtol=0.01, atol=0.01)


@pytest.mark.parametrize(("dim", "layout"), [(2, torch.channels_last), (3, torch.channels_last_3d)])
def test_a_picture_is_made_in_channels_last_all_the_way_and_is_the_same(dim, layout):
    """Nothing between the first and the last convolution lays an image out anew."""
    net, (x, present, wanted) = awake(dim).double(), mixed_batch(dim, 16)
    x = x.double()
    expected = net(x, present, wanted)
    seen = []
    net.to(memory_format=layout)
    for module in net.modules():
        if isinstance(module, HyperConv | CONV[dim]) and module not in {*net.fusion.modules()}:
            module.register_forward_hook(lambda one, given, made: seen.append((given[0], made)))
    torch.testing.assert_close(net(x, present, wanted), expected)
    seen.clear()
    net.float()(x.float(), present, wanted)
    assert len(seen) == 8
    images = [each for pair in seen for each in pair if each.shape[1] > 1]
    assert all(image.is_contiguous(memory_format=layout) for image in images)
