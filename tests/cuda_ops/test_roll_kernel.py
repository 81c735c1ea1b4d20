"""The laws of rolling a kernel, and that the fast form keeps to the reference.

On a GPU both forms there are held to them: `make gpu-check` runs this.
"""

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cuda_ops
from cuda_ops import roll_kernel_reference

DEVICE = torch.device("cpu")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@pytest.fixture(autouse=True)
def _there(place, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "DEVICE", place.device)


def roll_kernel(*inputs: torch.Tensor) -> torch.Tensor:
    """The operator on the device, for tensors of the CPU."""
    out = cuda_ops.roll_kernel(*(tensor.to(DEVICE) for tensor in inputs))
    assert out.device.type == DEVICE.type
    return out.cpu()


SIDES = st.sampled_from(
    [(3, 3), (1, 3), (2, 4), (5, 5), (1, 1), (3, 3, 3), (1, 3, 3), (2, 3, 5), (1, 1, 1), (4, 1, 2)]
)


@st.composite
def rolls(draw: st.DrawFn, reach: float = 7.0):
    """A weight, offsets and scale in float64."""
    sides = draw(SIDES)
    groups, thickness = draw(st.sampled_from([(1, 3), (2, 1), (2, 2), (4, 1), (3, 2)]))
    batch, outputs, seed = (draw(st.integers(*span)) for span in ((1, 3), (1, 3), (0, 99)))
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, groups * thickness, *sides, generator=g, dtype=torch.float64)
    offsets = torch.rand(batch, groups, len(sides), generator=g, dtype=torch.float64)
    scale = torch.randn(batch, groups, generator=g, dtype=torch.float64)
    return weight, (2 * offsets - 1) * reach, scale


def gates_for(weight, offsets, scale, seed):
    """(B, C_in) of both signs, one of them 0."""
    g = torch.Generator().manual_seed(seed)
    gates = torch.randn(len(scale), weight.shape[1], generator=g, dtype=torch.float64)
    gates[0, 0] = 0
    return gates


def small(dim: int, dtype: torch.dtype = torch.float64):
    g = torch.Generator().manual_seed(dim)
    weight = torch.randn(2, 4, *[3] * dim, generator=g, dtype=torch.float64)
    offsets = torch.randn(2, 2, dim, generator=g, dtype=torch.float64)
    scale = torch.rand(2, 2, generator=g, dtype=torch.float64)
    return weight.to(dtype), offsets.to(dtype), scale.to(dtype)


def test_half_a_tap_blends_two_neighbours():
    weight = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 1, 1, 3)
    rolled = roll_kernel(weight, torch.tensor([[[0.0, 0.5]]]), torch.tensor([[2.0]]))
    assert rolled.flatten().tolist() == [1.0, 1.0, 0.0]


def test_offset_axes_are_z_y_x():
    weight = torch.zeros(1, 1, 3, 3, 3)
    weight[..., 0, 0, 0] = 1
    rolled = roll_kernel(weight, torch.tensor([[[0.0, 1.0, 2.0]]]), torch.ones(1, 1))
    assert rolled[0, 0, 0, 0, 1, 2] == 1


@given(rolls())
def test_the_fast_form_is_the_reference(case):
    weight, offsets, scale = case
    expected = roll_kernel_reference(weight, offsets, scale)
    assert torch.allclose(roll_kernel(weight, offsets, scale), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("dim", [2, 3])
def test_the_fast_form_is_the_reference_in_every_dtype_and_layout(dtype, layout, dim):
    weight, offsets, scale = small(dim)
    expected = roll_kernel_reference(weight, offsets, scale)
    if layout == "channels_last":
        last = torch.channels_last if dim == 2 else torch.channels_last_3d
        weight = weight.to(memory_format=last)
    elif layout == "strided":
        weight = weight.transpose(0, 1).contiguous().transpose(0, 1)
        offsets = offsets.repeat_interleave(2, dim=2)[..., ::2]
        scale = scale.T.contiguous().T
    result = roll_kernel(weight.to(dtype), offsets, scale)
    assert result.dtype == dtype
    laid = result.movedim(2, -1) if layout == "channels_last" else result
    assert laid.is_contiguous()
    assert torch.allclose(result.double(), expected, rtol=0, atol=4 * TOLERANCE[dtype])


@given(rolls(), st.integers(-7, 7))
def test_whole_offsets_are_torch_roll(case, shift):
    weight, offsets, _ = case
    whole = torch.full_like(offsets, shift)
    rolled = roll_kernel(weight, whole, torch.ones_like(offsets[..., 0]))
    axes = tuple(range(2, weight.ndim))
    assert torch.equal(rolled[0], weight.roll((shift,) * len(axes), axes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@given(case=rolls())
def test_zero_offset_and_unit_scale_change_no_bit(dtype, case):
    weight, offsets, scale = case
    weight = weight.to(dtype)
    for roll in (roll_kernel, roll_kernel_reference):
        rolled = roll(weight, torch.zeros_like(offsets), torch.ones_like(scale))
        assert all(torch.equal(sample, weight) for sample in rolled)


@given(rolls())
def test_the_period_is_the_number_of_taps(case):
    weight, offsets, scale = case
    further = offsets + torch.tensor(weight.shape[2:], dtype=offsets.dtype)
    one, two = (roll_kernel(weight, o, scale) for o in (offsets, further))
    assert torch.allclose(one, two, atol=1e-10)


@given(rolls(), st.integers(-3, 3))
def test_whole_rolls_compose(case, shift):
    weight, offsets, scale = case
    ones = torch.ones_like(scale[:1])
    moved = roll_kernel(weight, torch.full_like(offsets[:1], shift), ones)[0]
    one = roll_kernel(moved, offsets, scale)
    assert torch.allclose(one, roll_kernel(weight, offsets + shift, scale), atol=1e-10)


@given(rolls())
def test_sums_over_taps_are_scaled_and_else_kept(case):
    weight, offsets, scale = case
    axes = tuple(range(-(weight.ndim - 2), 0))
    factors = scale.repeat_interleave(weight.shape[1] // scale.shape[1], dim=1)
    expected = weight.sum(axes) * factors[:, None]
    assert torch.allclose(roll_kernel(weight, offsets, scale).sum(axes), expected, atol=1e-10)


@given(rolls(), st.integers(0, 99))
def test_gating_is_multiplying_the_kernels(case, seed):
    gates = gates_for(*case, seed)
    expected = roll_kernel(*case) * gates.reshape(len(gates), 1, -1, *[1] * (case[0].ndim - 2))
    for roll in (roll_kernel, roll_kernel_reference):
        assert torch.allclose(roll(*case, gates), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", TOLERANCE)
@given(case=rolls())
def test_gates_of_ones_change_no_bit(dtype, case):
    weight, offsets, scale = case
    inputs, ones = (weight.to(dtype), offsets, scale), torch.ones(len(scale), weight.shape[1])
    assert torch.equal(roll_kernel(*inputs, ones), roll_kernel(*inputs))


@given(rolls(), st.integers(0, 99))
def test_the_gradients_of_a_groups_gates_add_up_to_its_scales(case, seed):
    """Kernels are linear in both: over a group, gate times gradient is scale times gradient."""
    leaves = [leaf.to(DEVICE).requires_grad_() for leaf in (*case, gates_for(*case, seed))]
    out = cuda_ops.roll_kernel(*leaves)
    _, _, scale, gates = torch.autograd.grad(out, leaves, out.detach().cos())
    by_gates = (gates * leaves[3]).unflatten(1, (scale.shape[1], -1)).sum(2)
    assert torch.allclose(by_gates, scale * leaves[2], rtol=0, atol=1e-9)


@given(rolls())
def test_rolling_is_linear_in_the_weight(case):
    weight, offsets, scale = case
    other = weight.flip(0).cos()
    joint = roll_kernel(2 * weight - 3 * other, offsets, scale)
    apart = 2 * roll_kernel(weight, offsets, scale) - 3 * roll_kernel(other, offsets, scale)
    assert torch.allclose(joint, apart, atol=1e-10)


@given(rolls())
def test_the_adjoint_of_a_roll_is_the_opposite_roll(case):
    weight, offsets, scale = case
    other = weight.sin()
    for b in range(len(offsets)):
        one, two = offsets[b : b + 1], scale[b : b + 1]
        left = (roll_kernel(weight, one, two)[0] * other).sum()
        right = (weight * roll_kernel(other, -one, two)[0]).sum()
        assert torch.allclose(left, right, atol=1e-9)


@given(rolls())
def test_groups_and_samples_move_independently(case):
    weight, offsets, scale = case
    before = roll_kernel(weight, offsets, scale)
    moved = offsets.clone()
    moved[0, 0] += 0.37
    after = roll_kernel(weight, moved, scale)
    thickness = weight.shape[1] // offsets.shape[1]
    assert torch.equal(after[1:], before[1:])
    assert torch.equal(after[0, :, thickness:], before[0, :, thickness:])


@given(rolls())
def test_axes_of_one_tap_are_left_alone(case):
    weight, offsets, scale = case
    single = torch.tensor([side == 1 for side in weight.shape[2:]])
    moved = torch.where(single, offsets + 0.41, offsets)
    assert torch.equal(roll_kernel(weight, moved, scale), roll_kernel(weight, offsets, scale))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_offset_spoils_its_own_group_alone(bad):
    weight, offsets, scale = small(3, torch.float32)
    offsets[0, 1, 2] = bad
    for roll in (roll_kernel, roll_kernel_reference):
        result = roll(weight, offsets, scale)
        assert result[0, :, 2:].isnan().all()
        assert result[0, :, :2].isfinite().all()
        assert result[1].isfinite().all()


def test_huge_offsets_are_whole_rolls():
    weight, offsets, scale = small(3, torch.float32)
    offsets = torch.full_like(offsets, 1e30)
    shift = int((1e30).__class__(torch.tensor(1e30, dtype=torch.float32))) % 3
    rolled = roll_kernel(weight, offsets, torch.ones_like(scale))
    assert torch.equal(rolled[0], weight.roll((shift,) * 3, (2, 3, 4)))


@pytest.mark.parametrize("sides", [(3, 3), (2, 2, 2), (3, 1, 3), (4, 4, 2)])  # up to 32 taps
def test_gradients_are_right_to_second_order(sides):
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 2, *sides, generator=g, dtype=torch.float64, requires_grad=True)
    # away from whole numbers, where the function has a kink
    offsets = 0.2 + 0.6 * torch.rand(2, 2, len(sides), generator=g, dtype=torch.float64)
    offsets = (offsets + torch.tensor([-2.0, 1.0])[:, None, None]).requires_grad_()
    scale = torch.rand(2, 2, generator=g, dtype=torch.float64, requires_grad=True)
    gates = torch.randn(2, 2, generator=g, dtype=torch.float64, requires_grad=True)
    for inputs in ((weight, offsets, scale), (weight, offsets, scale, gates)):
        assert torch.autograd.gradcheck(roll_kernel, inputs)
        assert torch.autograd.gradgradcheck(roll_kernel, inputs, fast_mode=True)


@pytest.mark.parametrize("roll", [roll_kernel, roll_kernel_reference])
@pytest.mark.parametrize("dim", [2, 3])
def test_offsets_learn_from_zero(roll, dim):
    """With the ceil of the paper's eq. 4 this gradient is 0 and the offsets never move."""
    weight, offsets, scale = small(dim)
    offsets = torch.zeros_like(offsets, requires_grad=True)
    (roll(weight, offsets, scale) * weight.flip(-1).sin()).sum().backward()
    assert (offsets.grad.abs() > 1e-3).all()


@pytest.mark.parametrize("dim", [2, 3])
def test_gradients_are_the_references(dim):
    grads = []
    for roll in (roll_kernel, roll_kernel_reference):
        leaves = [t.requires_grad_() for t in small(dim)]
        (roll(*leaves) ** 3).sum().backward()
        grads.append([t.grad for t in leaves])
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(*grads, strict=True))


def test_autocast_rolls_in_full_precision_and_returns_the_compute_dtype():
    weight, offsets, scale = small(3, torch.float32)
    expected = roll_kernel(weight, offsets, scale)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        result = roll_kernel(weight, offsets, scale)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, expected.to(torch.bfloat16))


@pytest.mark.parametrize(
    ("weight", "offsets", "scale", "claim"),
    [
        ((2, 4, 3), (1, 2, 1), (1, 2), "2 or 3 spatial axes"),
        ((2, 4, 3, 3, 3), (1, 2, 2), (1, 2), "2 or 3 spatial axes"),
        ((2, 4, 3, 3, 3), (1, 2, 3), (2, 2), r"scale must be \(B, n\) = \(1, 2\)"),
        ((2, 4, 3, 3, 3), (1, 3, 3), (1, 3), "4 input channels do not split into 3"),
        ((2, 4, 3, 3, 3), (1, 0, 3), (1, 0), "do not split into 0"),
        ((2, 4, 3, 0, 3), (1, 2, 3), (1, 2), "at least one tap"),
    ],
)
def test_shapes_that_disagree_are_refused(weight, offsets, scale, claim):
    with pytest.raises(ValueError, match=claim):
        roll_kernel(torch.zeros(weight), torch.zeros(offsets), torch.zeros(scale))


def test_whole_numbers_and_mixed_devices_are_refused():
    weight, offsets, scale = small(2)
    with pytest.raises(TypeError, match="floating point"):
        roll_kernel(weight.long(), offsets, scale)
    with pytest.raises(TypeError, match="scale"):
        roll_kernel(weight, offsets, scale.long())
    with pytest.raises(ValueError, match="one device"):
        cuda_ops.roll_kernel(weight, offsets.to("meta"), scale)
    with pytest.raises(TypeError, match="gates"):
        roll_kernel(weight, offsets, scale, torch.ones(2, 4).long())
    with pytest.raises(ValueError, match="one device"):
        cuda_ops.roll_kernel(weight, offsets, scale, torch.ones(2, 4, device="meta"))


@pytest.mark.parametrize("shape", [(2, 2), (1, 4), (2, 4, 1)])
def test_gates_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"gates must be \(B, C_in\) = \(2, 4\)"):
        roll_kernel(*small(2), torch.ones(shape))
