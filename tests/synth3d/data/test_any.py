"""In mode any nothing of a sequence, nor its brain, depends on what others a case has."""

from dataclasses import replace
from itertools import combinations, islice

import numpy as np
import pytest
import torch

from synth3d.cohort import Case, find_cases
from synth3d.data import DataConfig, MisalignConfig, Stream, Task, pack, prepare, seen, shown
from synth3d.data.batch import head_of
from synth3d.data.task import shown_of
from synth3d.errors import InputError
from synth3d.images.volumes import read, write_new

SEQUENCES = ("t1n", "t1c", "t2w", "t2f")
SUBSETS = [names for count in (1, 2, 3) for names in combinations(SEQUENCES, count)]
TASK = Task(3, SEQUENCES, SEQUENCES, "any")
SMALL = DataConfig((8, 8, 8), (0, 0, 0), queue=8, patches_per_case=8)


@pytest.fixture(scope="module")
def ragged(phantom_cohort, tmp_path_factory) -> Case:
    """A case whose heads differ: one cut off, one fractional, one in noise, one z-scored."""
    case, folder = find_cases(phantom_cohort)[0], tmp_path_factory.mktemp("ragged")
    raw = {name: read(path) for name, path in case.images.items()}
    data = {name: volume.data.astype(np.float32) for name, volume in raw.items()}
    data["t1n"][: data["t1n"].shape[0] // 2 - 4] = 0
    draws = np.random.default_rng(0)
    data["t1c"] *= 1 + 0.1 * draws.random(data["t1c"].shape, np.float32)
    data["t2w"] += 20 + 9 * draws.random(data["t2w"].shape, np.float32)
    head = data["t2f"] != 0
    data["t2f"][head] = (data["t2f"][head] - data["t2f"][head].mean()) / data["t2f"][head].std()
    data["t2f"][:, :, : data["t2f"].shape[2] // 2] = 0
    images = {name: folder / f"{name}.nii.gz" for name in data}
    for name, path in images.items():
        write_new(path, data[name], raw[name].affine, np.float32)
    return replace(case, images=images, label=None)


@pytest.fixture(scope="module")
def whole(ragged):
    return prepare(ragged, SEQUENCES, SEQUENCES, mode="any")


def alone(ragged, names):
    """What completing a case that has nothing but ``names`` sees."""
    images = {name: path for name, path in ragged.images.items() if name in names}
    return prepare(replace(ragged, images=images), SEQUENCES, (), mode="any")


def same(one, other):
    assert list(one.volumes) == list(other.volumes)
    for name, volume in one.volumes.items():
        np.testing.assert_array_equal(volume, other.volumes[name])
    np.testing.assert_array_equal(one.brain, other.brain)
    assert one.scales == other.scales


@pytest.mark.parametrize("names", SUBSETS)
def test_a_case_shown_in_part_is_a_case_that_has_no_more(ragged, whole, names):
    assert len({int((volume != 0).sum()) for volume in whole.volumes.values()}) > 2
    part = shown(whole, names)
    same(part, alone(ragged, names))
    task, data = Task(2, SEQUENCES, SEQUENCES, "any"), DataConfig((16, 16), (0, 0))
    for size in ((), (24, 20)):
        sliced = replace(data, slice_size=size)
        viewed = shown(seen(whole, task, sliced), names)
        same(viewed, seen(part, task, sliced))


def test_on_disk_nothing_becomes_background_that_was_none(whole):
    back = pack(whole).prepared(whole.case)
    for name, volume in whole.volumes.items():
        np.testing.assert_array_equal(back.volumes[name] != 0, volume != 0)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_batchs_brain_and_sources_are_those_of_what_is_shown(whole, dim):
    """Another picture of the sequences that are hidden changes neither, to the last bit."""
    task = Task(dim, SEQUENCES, SEQUENCES, "any")
    data = SMALL if dim == 3 else replace(SMALL, patch=(16, 16), overlap=(0, 0))

    def drawn(case):
        return list(islice(Stream([pack(seen(case, task, data))] * 2, task, data).batches(3), 12))

    other = replace(
        whole, volumes={n: np.where(v != 0, 1 + v, 0) for n, v in whole.volumes.items()}
    )
    some = {**whole.volumes, "t1c": other.volumes["t1c"], "t2f": other.volumes["t2f"]}
    smaller = replace(other, volumes=some)
    hidden = 0
    for one, two in zip(drawn(whole), drawn(smaller), strict=True):
        assert torch.equal(one.brain, head_of(one.sources))
        assert torch.equal(one.present, two.present)
        assert torch.equal(one.wanted, two.wanted)
        for b in (~one.present[:, [1, 3]].any(1)).nonzero().flatten():
            assert torch.equal(one.sources[b], two.sources[b])
            assert torch.equal(one.brain[b], two.brain[b])
            hidden += 1
    assert hidden


def test_patches_read_by_themselves_are_those_of_a_case_read_whole(whole, monkeypatch):
    """And hold what a worker of its own would draw: the same law as for fixed targets."""
    stream = Stream([pack(whole)] * 2, TASK, SMALL)
    cut = list(islice(stream.batches(5), 10))
    helped = replace(stream, data=replace(SMALL, workers=1))
    drawn = list(islice(helped.batches(5), 10))
    monkeypatch.setattr(Stream, "reads_whole", True)
    for one, two, three in zip(cut, drawn, stream.batches(5), strict=False):
        for name in ("sources", "targets", "present", "wanted", "brain"):
            assert torch.equal(getattr(one, name), getattr(two, name))
            assert torch.equal(getattr(one, name), getattr(three, name))


def test_gaps_of_validation_take_turns_over_all_there_are():
    turns = [shown_of(SEQUENCES, number) for number in range(28)]
    assert {*turns} == {*SUBSETS}
    assert turns[:14] == turns[14:]
    assert {shown_of(("t1n", "t2f"), number) for number in range(2)} == {("t1n",), ("t2f",)}


def test_a_sequence_that_moves_would_be_made_as_well():
    with pytest.raises(InputError, match="misalign.source must be left out where mode is any"):
        MisalignConfig(source="t1n", shift=1.0).check_fits(TASK)
