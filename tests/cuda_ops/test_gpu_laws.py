"""The laws of rolling and its gradients on a GPU, in both forms; `make gpu-check` runs them.

The CPU runs them too, with few examples, so that the tests' own logic is proved without a GPU.
"""

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from cuda_ops import roll_kernel

LAWS_ELSEWHERE = {  # they speak of the CPU's autocast, of two devices, or count operations
    "test_autocast_rolls_in_full_precision_and_returns_the_compute_dtype",
    "test_whole_numbers_and_mixed_devices_are_refused",
}


def gradients(leaves: list[Tensor]) -> list[Tensor]:
    """Rolled kernels and the gradients of a function of them."""
    out = roll_kernel(*leaves)
    return [out, *torch.autograd.grad(out.double().square().sum(), leaves)]


def laws(roll: Callable[..., Tensor] | None, examples: int) -> ModuleType:
    """A private copy of the laws, holding ``roll`` to them instead of ``roll_kernel``."""
    path = Path(__file__).with_name("test_roll_kernel.py")
    spec = importlib.util.spec_from_file_location("laws_of_rolling", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    profile = settings.get_current_profile_name()
    settings.register_profile("laws", settings.get_profile(profile), max_examples=examples)
    settings.load_profile("laws")
    try:
        spec.loader.exec_module(module)
    finally:
        settings.load_profile(profile)
    if roll is not None:
        module.roll_kernel = roll
    return module


def arguments(law: Callable, roll: Callable[..., Tensor]) -> Iterator[dict[str, object]]:
    """What pytest would call ``law`` with, case by case."""
    axes = []
    for mark in getattr(law, "pytestmark", []):
        if mark.name == "parametrize":
            names, cases = mark.args
            names = names.split(",") if isinstance(names, str) else names
            cases = [
                getattr(case, "values", (case,)) if len(names) == 1 else case for case in cases
            ]
            axes.append(
                [dict(zip((n.strip() for n in names), case, strict=True)) for case in cases]
            )
    for combination in itertools.product(*axes):
        merged = {key: value for part in combination for key, value in part.items()}
        yield {key: roll if value is roll_kernel else value for key, value in merged.items()}


LAWS = sorted(name for name in vars(laws(None, 1)) if name.startswith("test_"))


def test_the_laws_are_found_and_each_exception_is_one_of_them():
    assert len(LAWS) >= 18
    assert set(LAWS) > LAWS_ELSEWHERE


@pytest.mark.parametrize("name", [name for name in LAWS if name not in LAWS_ELSEWHERE])
def test_rolling_keeps_its_laws(name, place):
    calls = 0

    def roll(*inputs: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        out = roll_kernel(*(tensor.to(place.device) for tensor in inputs))
        assert out.device.type == place.device.type
        return out.cpu()

    law = getattr(laws(roll, 3 if place.device.type == "cpu" else 50), name)
    cases = list(arguments(law, roll))
    assert cases
    for case in cases:
        law(**case)
    assert calls


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30])
def test_wild_offsets_reach_no_foreign_memory_and_no_foreign_gradient(bad, place, small):
    weight, offsets, scale = small(3, place.device, torch.float32)
    with torch.no_grad():
        offsets[0, 1, 2] = bad
    out, for_weight, for_offsets, for_scale = gradients([weight, offsets, scale])
    spoilt = abs(bad) != 1e30
    assert bool(out[0, :, 2:].isnan().all()) == spoilt
    assert out[0, :, :2].isfinite().all()
    assert out[1].isfinite().all()
    for grad in (for_offsets, for_scale):
        assert grad[1].isfinite().all()
        assert grad[0, 0].isfinite().all()
        assert bool(grad[0, 1].isfinite().all()) != spoilt
    assert for_weight[:, :2].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_backward_repeats_bit_for_bit(dtype, place):
    g = torch.Generator().manual_seed(1)
    weight = torch.randn(64, 64, 3, 3, 3, generator=g).to(place.device, dtype)
    offsets, scale = torch.randn(3, 8, 3, generator=g), torch.rand(3, 8, generator=g)
    leaves = [leaf.to(place.device).requires_grad_() for leaf in (weight, offsets, scale)]
    first = gradients(leaves)
    for _ in range(3):
        again = gradients(leaves)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_gradients_that_are_expanded_or_strided_are_read_right(place, small):
    leaves = small(3, place.device)
    out = roll_kernel(*leaves)
    dense = torch.ones_like(out)
    strided = torch.ones(*out.shape, 2, dtype=out.dtype, device=out.device)[..., 0]
    wanted = torch.autograd.grad(out, leaves, dense, retain_graph=True)
    for grad in (dense[:1, :1, :1, :1, :1, :1].expand_as(out), strided):
        got = torch.autograd.grad(out, leaves, grad, retain_graph=True)
        assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_an_empty_batch_has_zero_gradients_on_the_device(place, small):
    weight, offsets, scale = small(3, place.device)
    leaves = [weight, *(leaf[:0].detach().requires_grad_() for leaf in (offsets, scale))]
    out, for_weight, *_ = gradients(leaves)
    assert out.shape == (0, *weight.shape)
    assert (for_weight == 0).all()
