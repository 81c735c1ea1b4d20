"""The roll with little around it: the numbers of the differentiable form, and who gets that one."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from cuda_ops import roll_kernel
from cuda_ops.eager import eager_roll
from cuda_ops.mixing import mixing_forward
from cuda_ops.plain import is_plain

SIDES = [(3, 3, 3), (1, 3, 3), (2, 4, 3), (1, 1, 1), (3, 1, 5), (3, 3), (4, 1), (5, 5, 5)]


def case(sides, batch=2, groups=2, dtype=torch.float64, last=False, seed=0):
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 2 * groups, *sides, generator=g, dtype=torch.float64)
    if last:
        weight = weight.movedim(1, -1).contiguous().movedim(-1, 1)
    offsets = 3 * torch.randn(batch, groups, len(sides), generator=g, dtype=torch.float64)
    scale = torch.randn(batch, groups, generator=g, dtype=torch.float64)
    return [leaf.to(dtype).requires_grad_() for leaf in (weight, offsets, scale)]


@given(
    st.sampled_from(SIDES), st.integers(0, 3), st.integers(1, 3), st.booleans(), st.integers(0, 99)
)
def test_kernels_and_gradients_are_those_of_the_differentiable_form(
    sides, batch, groups, last, seed
):
    leaves = case(sides, batch, groups, last=last, seed=seed)
    forms = [form(*leaves, torch.float64) for form in (eager_roll, mixing_forward)]
    assert torch.allclose(*forms, rtol=0, atol=1e-13)
    for kernel in forms[0]:  # each sample lies as the weight does
        assert kernel.movedim(1, -1).is_contiguous() or not last
        assert kernel.is_contiguous() or last
    change = torch.randn(forms[0].shape, dtype=torch.float64)
    grads = [torch.autograd.grad(form, leaves, change, retain_graph=True) for form in forms]
    for one, other in zip(*grads, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-11)
        assert one.shape == other.shape


@pytest.mark.parametrize("sides", [(3, 3, 3), (1, 2, 3), (3, 3)])
def test_gradients_are_right_to_second_order(sides):
    leaves = case(sides, batch=2, groups=1)

    def roll(*leaves):
        return eager_roll(*leaves, torch.float64)

    assert torch.autograd.gradcheck(roll, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(roll, leaves, fast_mode=True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_own_group_also_backwards(bad):
    weight, offsets, scale = case((3, 3, 3))
    with torch.no_grad():
        offsets[1, 0, 2] = bad
    kernels = eager_roll(weight, offsets, scale, torch.float64)
    spoilt = kernels.isnan().unflatten(2, (2, -1))
    assert spoilt[1, :, 0].all()
    assert not spoilt[0].any()
    assert not spoilt[1, :, 1].any()
    to_offsets, to_scale = torch.autograd.grad(kernels.sum(), (offsets, scale))
    assert to_scale.isnan().tolist() == [[False, False], [True, False]]
    assert to_offsets.isnan().any(-1).tolist() == [[False, False], [True, False]]


def test_arguments_may_lie_anyhow_and_the_type_may_be_any():
    weight, offsets, scale = case((3, 3, 3), dtype=torch.float32)
    expanded = offsets[:1].expand(4, -1, -1), scale.t()[:, :1].t().expand(4, 2)
    one, other = (form(weight, *expanded, torch.bfloat16) for form in (eager_roll, mixing_forward))
    assert one.dtype == torch.bfloat16
    assert torch.equal(one, other)
    half = weight.detach().half().requires_grad_()
    kernels = eager_roll(half, offsets, scale, torch.float32)
    assert torch.autograd.grad(kernels.sum(), half)[0].dtype == torch.float16


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_each_gradient_is_the_same_alone_and_nobody_else_is_computed(wanted):
    leaves = case((3, 3, 3))
    everything = torch.autograd.grad(eager_roll(*leaves, torch.float64).sum(), leaves)
    for index, leaf in enumerate(leaves):
        leaf.requires_grad_(index in wanted)
    counted = Products()
    with counted:
        kernels = eager_roll(*leaves, torch.float64)
        found = torch.autograd.grad(kernels.sum(), [leaves[index] for index in wanted])
    assert counted.seen == 1 + (0 in wanted) + (max(wanted) > 0)
    assert all(
        torch.equal(one, everything[index]) for one, index in zip(found, wanted, strict=True)
    )


class Products(TorchDispatchMode):
    seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += "bmm" in func.name()
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 3e38])
def test_numpy_warns_of_nothing(value):
    """Warnings are errors in these tests."""
    weight, offsets, scale = case((3, 3, 3), dtype=torch.float32)
    for which in (offsets, scale):
        spoilt = which.detach().clone()
        spoilt[0, 0] = value
        leaves = (weight, *((spoilt if one is which else one) for one in (offsets, scale)))
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        kernels = eager_roll(*leaves, torch.float32)
        torch.autograd.grad(kernels, leaves, torch.full_like(kernels, value))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_batches_that_stand_for_one_gradient_get_the_differentiable_form():
    leaves = case((2, 3), batch=1, groups=1)
    kernels = roll_kernel(*leaves)
    grads = torch.randn(3, *kernels.shape, dtype=torch.float64)
    found = torch.autograd.grad(kernels, leaves, grads, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(kernels, leaves, one, retain_graph=True) for one in grads]
    for one, many in zip(found, zip(*each, strict=True), strict=True):
        assert torch.allclose(one, torch.stack(many))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(grads[0], grads[1])
        tangents = [
            forward_ad.unpack_dual(one).tangent
            for one in torch.autograd.grad(kernels, leaves, dual)
        ]
    for one, other in zip(tangents, each[1], strict=True):  # the gradient is linear
        assert torch.allclose(one, other)


def test_who_looks_on_gets_the_differentiable_form():
    leaves = [leaf.detach() for leaf in case((3, 3, 3), dtype=torch.float32)]
    meant = roll_kernel(*leaves)
    assert is_plain(*leaves)
    assert not is_plain(*(leaf.to("meta") for leaf in leaves))
    other = [leaves[0], leaves[1] + 0.5, leaves[2]]  # values must not be baked in
    for before in (False, True):
        graph = make_fx(roll_kernel, pre_dispatch=before)(*leaves)
        assert torch.allclose(graph(*other), roll_kernel(*other), atol=1e-6)
    turned = torch.complex(leaves[1], -leaves[1]).conj().imag  # its sign is a mark, not a number
    assert turned.is_neg()
    assert torch.allclose(roll_kernel(leaves[0], turned, leaves[2]), meant, atol=1e-6)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert roll_kernel(*leaves).shape == meant.shape
    assert torch.allclose(torch.func.vmap(roll_kernel)(*(leaf[None] for leaf in leaves))[0], meant)
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(leaf) for leaf in leaves]
        assert roll_kernel(*fakes).shape == meant.shape
    with torch.inference_mode():
        assert torch.equal(roll_kernel(*leaves), meant)
