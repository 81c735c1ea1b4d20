"""Claims about tiles, blending and what the network sees."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from synth3d.inference.tiles import (
    Tiling,
    hann_window,
    sliding_window,
    tile_starts,
    tiles_around,
    tiles_per_call,
)

SIDES = st.tuples(*[st.integers(1, 19)] * 3)


def slide(network, volume, patch, overlap, batch=2, on_tile=None, **more):
    return sliding_window(network, volume, Tiling(patch, overlap, batch, on_tile), **more)


@st.composite
def patch_and_overlap(draw):
    patch = draw(st.tuples(*[st.integers(1, 9)] * 3))
    return patch, tuple(draw(st.integers(0, size - 1)) for size in patch)


def random_volume(shape, channels=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(channels, *shape, generator=generator) * 1000


def test_worked_example_of_where_tiles_lie():
    assert tile_starts(10, 4, 2) == [0, 2, 4, 6]
    assert tile_starts(11, 4, 2) == [0, 2, 4, 5, 7]
    assert tile_starts(4, 4, 0) == [0]


@given(side=st.integers(1, 60), size=st.integers(1, 20), share=st.floats(0, 0.99))
def test_tiles_cover_the_axis_and_overlap_at_least_as_asked(side, size, share):
    side, overlap = max(side, size), int(share * size)
    starts = tile_starts(side, size, overlap)
    assert starts[0] == 0
    assert starts[-1] == side - size
    assert all(b - a <= size - overlap for a, b in zip(starts, starts[1:], strict=False))


@settings(max_examples=60)
@given(shape=SIDES, tile=patch_and_overlap(), chance=st.floats(0, 1))
def test_tiles_cover_what_is_inside_and_none_is_empty(shape, tile, chance):
    patch, overlap = tile
    shape = tuple(map(max, shape, patch))
    inside = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < chance
    covered = torch.zeros(shape, dtype=torch.bool)
    for each in tiles_around(inside, patch, overlap):
        assert inside[each].shape == patch
        assert inside[each].any()
        covered[each] = True
    assert not (inside & ~covered).any()


def test_a_round_brain_takes_fewer_tiles_than_its_box():
    z, y, x = (torch.linspace(-1, 1, side) ** 2 for side in (36, 43, 34))
    brain = z[:, None, None] + y[:, None] + x < 1
    box, layers = (tiles_around(part, (12,) * 3, (3,) * 3) for part in (brain | True, brain))
    assert len(box) == 4 * 5 * 4
    assert len(layers) <= 0.85 * len(box)


def test_hann_windows_are_positive_and_half_overlapping_ones_sum_to_one():
    window = hann_window((8, 1, 48))
    assert window.shape == (8, 1, 48)
    assert window.min() > 0
    along = hann_window((1, 1, 8)).flatten()
    torch.testing.assert_close(along[:4] + along[4:], torch.ones(4))


@settings(max_examples=60)
@given(shape=SIDES, tile=patch_and_overlap(), batch=st.integers(1, 4))
def test_the_identity_network_gives_back_its_input_bit_for_bit(shape, tile, batch):
    volume = random_volume(shape, channels=2)
    result = slide(lambda x: x, volume, *tile, batch=batch, out_channels=2)
    assert torch.equal(result, volume)


@settings(max_examples=30)
@given(shape=SIDES, tile=patch_and_overlap(), chance=st.floats(0, 1))
def test_the_result_is_the_input_where_active_and_zero_elsewhere(shape, tile, chance):
    volume = random_volume(shape)
    active = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < chance
    result = slide(lambda x: x, volume, *tile, active=active)
    assert torch.equal(result, volume * active)


@settings(max_examples=30)
@given(shape=SIDES, tile=patch_and_overlap(), chance=st.floats(0, 1))
def test_a_network_of_slices_sees_slices_and_gives_back_the_volume(shape, tile, chance):
    patch, overlap = (part[1:] for part in tile)
    active = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < chance

    def network(tiles):
        assert tiles.shape == (2, 3, *patch)
        return tiles[:, :2]

    volume = random_volume(shape, channels=3)
    result = slide(network, volume, patch, overlap, active=active, out_channels=2)
    assert torch.equal(result, volume[:2] * active)


def test_disagreeing_tiles_blend_without_a_seam():
    numbers = iter(range(100))
    volume = torch.zeros(1, 8, 8, 40)
    result = slide(
        lambda x: torch.full_like(x, next(numbers)), volume, (8, 8, 8), (4, 4, 4), batch=1
    )
    line = result[0, 4, 4]
    assert line[0] == 0
    assert line[-1] == 8
    assert (line[1:] - line[:-1]).min() >= 0
    assert (line[1:] - line[:-1]).max() < 0.45  # one step of 1 spread over 4 voxels


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_batching_does_not_change_the_result_and_every_call_is_full(batch):
    convolution = torch.nn.Conv3d(1, 1, 3, padding=1).double()
    seen = []

    def network(x):
        seen.append(len(x))
        return convolution(x.double())

    volume = random_volume((13, 9, 10)) / 1000
    with torch.inference_mode():
        result = slide(network, volume, (8, 8, 8), (4, 4, 4), batch)
        one = slide(lambda x: convolution(x.double()), volume, (8, 8, 8), (4, 4, 4), 1)
    torch.testing.assert_close(result, one, rtol=1e-6, atol=1e-6)
    assert set(seen) == {batch}


@pytest.mark.parametrize(("gigabytes", "usual"), [(8, 2), (12, 4), (141, 4)])
def test_a_cpu_gets_no_lone_tile_and_a_large_gpu_four(gigabytes, usual, monkeypatch):
    card = SimpleNamespace(total_memory=gigabytes * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    given = (None, 1, 2, 5)
    assert [tiles_per_call(batch, torch.device("cpu")) for batch in given] == [2, 2, 2, 5]
    assert [tiles_per_call(batch, torch.device("cuda")) for batch in given] == [usual, 1, 2, 5]


def test_tiles_without_active_voxels_are_never_computed():
    active = torch.zeros(64, 64, 64, dtype=torch.bool)
    active[30:34, 40:44, 2:5] = True
    calls, steps = [], []
    slide(
        lambda x: calls.append(x.shape) or x,
        random_volume(active.shape),
        (16, 16, 16),
        (8, 8, 8),
        active=active,
        on_tile=lambda done, total: steps.append((done, total)),
    )
    assert calls == [(2, 1, 16, 16, 16)]
    assert steps == [(1, 1)]


def test_the_network_sees_real_voxels_around_a_small_active_region():
    volume = torch.ones(1, 20, 20, 20)
    active = torch.zeros(20, 20, 20, dtype=torch.bool)
    active[19, 0, 10] = True
    seen = []
    slide(lambda x: seen.append(x) or x, volume, (8, 8, 8), (4, 4, 4), active=active)
    assert seen[0].min() == 1


def test_half_precision_networks_are_blended_in_float32():
    volume = random_volume((9, 9, 9)) / 1000
    result = slide(lambda x: x.bfloat16(), volume, (4, 4, 4), (2, 2, 2))
    assert result.dtype == torch.float32
    assert torch.equal(result, volume.bfloat16().float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": (4, 4)}, r"patch and overlap are \(z, y, x\)"),
        ({"patch": (4,), "overlap": (0,)}, r"patch and overlap are \(z, y, x\) or \(y, x\)"),
        ({"patch": (4, 4), "overlap": (4, 0)}, r"overlap along y must be in \[0, 4\)"),
        ({"overlap": (0, 4, 0)}, r"overlap along y must be in \[0, 4\)"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"active": torch.ones(3, 4, 4, dtype=torch.bool)}, "active is"),
        ({"out_channels": 2}, "the network returned"),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    arguments = {
        "network": lambda x: x,
        "volume": torch.zeros(1, 4, 4, 4),
        "patch": (4, 4, 4),
        "overlap": (0, 0, 0),
    }
    with pytest.raises(ValueError, match=message):
        slide(**arguments | change)
