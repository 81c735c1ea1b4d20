"""Whole volumes: tiles are blended at every step, and nothing depends on how they are cut."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from synth3d.data.task import Task
from synth3d.frameworks import FRAMEWORKS, Diffusion, build
from synth3d.frameworks.diffusion import DDPM, DDPMOptions, IDDPMOptions
from synth3d.inference.tiles import Tiling, sliding_window
from synth3d.inference.volume import SynthesisOptions, synthesize_volume
from synth3d.models.options import ModelConfig

YES = torch.ones(2, dtype=torch.bool), torch.ones(1, dtype=torch.bool)
OPTIONS = {
    "ddpm": DDPMOptions(diffusion_steps=40, sampling_steps=4),
    "iddpm": IDDPMOptions(diffusion_steps=40, sampling_steps=4),
}
SIDES = st.tuples(*[st.integers(1, 9)] * 3)


class Pointwise(nn.Module):
    """Linear in every voxel by itself."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.weight, self.outputs, self.calls = nn.Parameter(torch.tensor(0.5)), outputs, 0

    def forward(self, x, present=None, wanted=None, time=None):
        self.calls += len(x)
        late = 0 if time is None else (time / 1000).view(-1, *[1] * (x.ndim - 1))
        made = self.weight * x[:, :1] - 0.25 * x[:, 1:2] + 0.75 * x[:, -1:] + late
        return made.expand(-1, self.outputs, *x.shape[2:])


TASK = Task(3, ("t1n", "t2w"), ("t2f",))


def make(cell, sources, patch, overlap, active=None, **options):
    """``synthesize_volume`` of all sources and targets."""
    how = SynthesisOptions(patch, overlap, **options)
    return synthesize_volume(cell, sources, *YES, how, active)


def pointwise(name: str):
    made = FRAMEWORKS[name]
    generator = Pointwise(made.channels(2, 1)[1])
    return made(generator, TASK, OPTIONS.get(name, made.Options()))


def random_sources(shape, seed: int = 0) -> torch.Tensor:
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(seed)) + 0.1


@st.composite
def cut(draw):
    patch = draw(st.tuples(*[st.integers(1, 6)] * 3))
    return patch, tuple(draw(st.integers(0, size - 1)) for size in patch)


@pytest.mark.parametrize("name", ["l1", "ddpm", "iddpm"])
@settings(max_examples=15)
@given(shape=SIDES, tile=cut())
def test_many_tiles_give_what_one_patch_gives(name, shape, tile):
    cell, sources = pointwise(name), random_sources(shape)
    whole = make(cell, sources, shape, (0, 0, 0), seed=5)
    tiled = make(cell, sources, *tile, seed=5)
    flat = make(cell, sources, *(part[1:] for part in tile), seed=5)  # slices are tiles too
    assert torch.equal(tiled, whole)
    assert torch.equal(flat, whole)
    masks = (mask[None] for mask in YES)
    patch = cell.synthesize(sources[None], *masks, seed=5)[0]
    torch.testing.assert_close(whole, patch)


def real_cell(name: str, dim: int = 3):
    torch.manual_seed(0)
    plain = "tsf" if "explanation" in FRAMEWORKS[name].needs else "resunet"
    task, model = Task(dim, TASK.sources, TASK.targets), ModelConfig(plain, (4, 8), blocks=1)
    return build(task, model, name, OPTIONS.get(name, FRAMEWORKS[name].Options())).eval()


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", sorted(FRAMEWORKS))
def test_the_seed_decides_and_the_batch_does_not(name, dim):
    cell, sources = real_cell(name, dim), random_sources((9, 12, 12))

    def run(**more):
        return make(cell, sources, (8,) * dim, (4,) * dim, **more)

    first = run(batch=2, seed=1)
    assert first.shape == (1, 9, 12, 12)
    assert first.isfinite().all()
    assert torch.equal(first, run(batch=2, seed=1))
    for batch in (1, 3):
        torch.testing.assert_close(run(batch=batch, seed=1), first, rtol=1e-4, atol=1e-5)
    if isinstance(cell, Diffusion):
        assert not torch.allclose(run(batch=2, seed=2), first)
    assert first.dtype == torch.float32
    assert not first.requires_grad
    first *= 2  # an inference tensor would refuse


class Denoiser(nn.Module):
    """The exact answer where every voxel is N(0, 1) as a state: E[ε | x_t] = √(1 − ᾱ_t) x_t."""

    def __init__(self, schedule) -> None:
        super().__init__()
        self.schedule, self.weight = schedule, nn.Parameter(torch.zeros(()))

    def forward(self, x, present=None, wanted=None, time=None):
        alpha_bar = self.schedule.alpha_bar[int(time[0] * len(self.schedule) / 1000)]
        return (1 - alpha_bar).sqrt().float() * x[:, -1:]


def test_tiles_that_overlap_are_as_sharp_as_tiles_that_do_not():
    """Blending finished tiles averages images that disagree; blending at every step does not.

    Images are N(0, 1) in every voxel, for which β is the exact variance (Ho et al., section 3.2).
    """
    options = DDPMOptions(diffusion_steps=100, clip=(-9.0, 9.0), variance="beta")
    cell = DDPM(Denoiser(DDPM.make_schedule(100)), TASK, options)
    sources, cut = torch.ones(2, 24, 24, 24), ((16, 24, 24), (8, 0, 0))
    result = make(cell, sources, *cut)[0]
    overlap, alone = result[8:16].std(), result[:4].std()
    assert overlap.item() == pytest.approx(0.5, rel=0.05)
    assert alone.item() == pytest.approx(0.5, rel=0.05)
    seeds = iter(range(100))

    def finished(tiles: torch.Tensor) -> torch.Tensor:
        masks = (mask.expand(len(tiles), -1) for mask in YES)
        return cell.synthesize(tiles, *masks, seed=10 * next(seeds))

    after = sliding_window(finished, sources, Tiling(*cut))[0]
    assert after[11:13].std() < 0.8 * after[:4].std()


@pytest.mark.parametrize("name", ["l1", "ddpm"])
def test_only_what_is_active_is_made(name):
    cell, sources = pointwise(name), random_sources((12, 4, 4))
    active = torch.zeros(12, 4, 4, dtype=torch.bool)
    cut = ((4, 4, 4), (0, 0, 0))
    nothing = make(cell, sources, *cut, active)
    assert torch.equal(nothing, torch.zeros(1, 12, 4, 4))
    assert cell.generator.calls == 0
    active[1:3] = True
    part = make(cell, sources, *cut, active, batch=1)
    assert cell.generator.calls == 2 * (4 if name == "ddpm" else 1)  # a lone tile goes twice
    whole = make(cell, sources, *cut)
    assert torch.equal(part, torch.where(active, whole, 0))


@pytest.mark.parametrize(
    ("name", "steps", "passes"),
    [("l1", None, 1), ("iddpm", None, 4), ("iddpm", 3, 3), ("ddpm", 40, 40)],
)
def test_progress_counts_tiles_over_all_steps(name, steps, passes):
    cell, told = pointwise(name), []
    report = lambda done, total: told.append((done, total))  # noqa: E731
    make(cell, random_sources((9, 4, 4)), (4, 4, 4), (0, 0, 0), on_tile=report, steps=steps)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (3 * passes, 3 * passes)
    assert {total for _, total in told} == {3 * passes}


class Downloads(TorchDispatchMode):
    """The meta device as one that can be read: what comes home from it are ones."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        copies = func is torch.ops.aten._to_copy.default
        if copies and args[0].is_meta and kwargs["device"].type == "cpu":
            self.shapes.append(tuple(args[0].shape))
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["l1", "ddpm"])
@pytest.mark.parametrize("dim", [2, 3])
def test_volumes_stay_where_the_network_is_and_go_home_once(name, dim):
    cell, active = pointwise(name), torch.zeros(9, 8, 8, dtype=torch.bool)
    cell.generator.to("meta")
    active[2:8, 1:7, 3:] = True
    with Downloads() as downloads:
        made = make(cell, random_sources((9, 8, 8)), (4,) * dim, (2,) * dim, active)
    assert downloads.shapes == [(1, 9, 8, 8)]
    assert made.device.type == "cpu"


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_where_memory_does_not_do_volumes_stay_at_home(error, again):
    """The first calls run out of memory, as long as they are given tiles of a volume over there."""
    cell, sources, calls = pointwise("l1"), random_sources((9, 8, 8)), []
    cell.generator.to("meta")
    plain = cell.generator.forward

    def scarce(x, *told):
        calls.append(len(x))
        if len(calls) <= 2:
            raise error
        return plain(x, *told)

    def run(**more):
        with Downloads() as downloads:
            made = make(cell, sources, (4, 8, 8), (0, 0, 0), **more)
        return made, downloads.shapes

    cell.generator.forward = scarce
    with pytest.raises(type(error)):  # it is the network that has not enough
        run(batch=3)
    assert calls == [3, 3][: 1 + again]
    if not again:
        return
    calls[:] = [0]
    made, downloads = run()
    assert calls[1:] == [2, 2, 2]
    assert downloads == [(2, 1, 4, 8, 8)] * 2  # tile by tile
    assert torch.equal(made, torch.ones(1, 9, 8, 8))


@pytest.mark.parametrize("dim", [2, 3])
def test_tiles_are_laid_out_as_the_weights_are(dim):
    last = torch.channels_last if dim == 2 else torch.channels_last_3d
    for layout in (torch.contiguous_format, last):
        cell, seen = real_cell("l1", dim), []
        cell.generator.to(memory_format=layout)
        cell.generator.register_forward_pre_hook(
            lambda _, args, seen=seen, layout=layout: seen.append(
                args[0].is_contiguous(memory_format=layout)
            )
        )
        make(cell, random_sources((8, 8, 8)), (8,) * dim, (0,) * dim)
        assert seen
        assert all(seen)
