"""Cases on disk: what is kept, for how long, by whom, and that nothing of it can be seen."""

import dataclasses
import os
import threading
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import synth3d
from synth3d.cohort import SCHEMES, LabelScheme, Reading, find_cases
from synth3d.data import (
    Checked,
    DataConfig,
    DegradeConfig,
    MisalignConfig,
    Shelf,
    Store,
    Stream,
    Task,
    fill,
    hashes_of,
    refuse_contradictions,
)
from synth3d.data.cache.packed import BRAIN, MOST_VALUES, TUMOUR, Packed, pack
from synth3d.data.cache.store import code_digest, key_of, make
from synth3d.data.centres import Frame3d, centres_of
from synth3d.data.prepared import prepare
from synth3d.data.slices import seen
from synth3d.errors import InputError
from synth3d.images import Grid

TASK = Task(3, ("t1n", "t1c", "t2w"), ("t2f",))
DATA = DataConfig((16, 12, 8), (8, 6, 4), batch=2, patches_per_case=4, queue=10)


@pytest.fixture(scope="module")
def cases(phantom_cohort):
    return find_cases(phantom_cohort)[:3]


@pytest.fixture(scope="module")
def hashes(cases):
    return hashes_of(cases)


@pytest.fixture
def shelf_in(tmp_path, cases, hashes):
    """A shelf in a folder, with the GB that the folder may have."""

    def shelf(limit=1.0, data=DATA, task=TASK, some=cases, **how):
        return Shelf(Store(tmp_path / "cache", limit), some, hashes, task, data, **how)

    return shelf


def same(a: Packed, b: Packed) -> bool:
    parts = [(a.codes[name], b.codes[name]) for name in b.codes]
    parts += [(a.values[name], b.values[name]) for name in b.codes]
    parts += [(a.marks, b.marks), (a.affine, b.affine)]
    rest = [(p.shape, p.corner, p.labelled, p.scales, p.own.shape_zyx) for p in (a, b)]
    return all(np.array_equal(*pair) for pair in parts) and rest[0] == rest[1]


@pytest.mark.parametrize("dim", [2, 3])
def test_what_comes_back_is_what_was_prepared_to_the_last_bit(shelf_in, cases, dim):
    task = dataclasses.replace(TASK, dim=dim)
    data = DATA if dim == 3 else DataConfig(patch=(24, 20), overlap=(0, 0), slice_size=(24, 20))
    direct = prepare(cases[1], TASK.sources, TASK.targets)
    for whole in (False, True):
        found = shelf_in(task=task, data=data, whole=whole)[1].prepared(cases[1])
        expected = direct if whole else seen(direct, task, data)
        assert list(found.volumes) == list(expected.volumes)
        for name, volume in expected.volumes.items():
            if whole or dim == 3:
                np.testing.assert_array_equal(found.volumes[name], volume)
            step = np.ptp(volume[expected.brain]) / (MOST_VALUES - 1)
            np.testing.assert_allclose(found.volumes[name], volume, rtol=0, atol=step)
        for part in ("brain", "tumour", "label", "affine"):
            np.testing.assert_array_equal(getattr(found, part), getattr(expected, part))
        assert (found.scales, found.reading) == (expected.scales, direct.reading)


def test_more_values_than_two_bytes_count_are_rounded_evenly(cases):
    prepared = prepare(cases[0], TASK.sources, TASK.targets)
    volume = np.random.default_rng(0).normal(0.5, 0.3, (60, 50, 40)).astype(np.float32)
    brain = np.ones(volume.shape, bool)
    nothing = {"tumour": None, "label": None}
    fine = dataclasses.replace(prepared, volumes={"t1n": volume}, brain=brain, **nothing)
    found = pack(fine).prepared(prepared.case)
    assert found.tumour is None
    assert found.label is None
    step = np.ptp(volume) / (MOST_VALUES - 1)
    assert np.abs(found.volumes["t1n"] - volume).max() <= 0.51 * step


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_chance_means_the_place_that_torchio_would_find(data):
    """Against all weights one by one, padded, flipped and summed up as TorchIO does."""
    sides = data.draw(st.tuples(*[st.integers(1, 9)] * 3))
    patch = data.draw(st.tuples(*[st.integers(1, 12)] * 3))
    flips = data.draw(st.tuples(*[st.booleans()] * 3))
    share = data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    marks = rng.choice([0, BRAIN, BRAIN | TUMOUR], sides).astype(np.uint8)
    packed = Packed(sides[::-1], (0, 0, 0), np.eye(4), {}, {}, marks, {}, (True, False),
                    Grid(sides[::-1], np.eye(4)))  # fmt: skip
    brain, tumour = marks > 0, marks == BRAIN | TUMOUR
    weights = brain / max(1, brain.sum())
    if share and tumour.any():
        weights = (1 - share) * weights + share * tumour / tumour.sum()
    frame = Frame3d(sides, patch)
    weights = np.pad(weights.astype(np.float32), [frame.margin(axis) for axis in range(3)])
    weights = np.flip(weights, [axis for axis in range(3) if flips[axis]]).astype(np.float64)
    allowed = np.zeros(weights.shape, bool)
    ends = zip(patch, weights.shape, strict=True)
    allowed[tuple(slice(p // 2, side - (p - 1) // 2) for p, side in ends)] = True
    reached = np.cumsum(weights * allowed)
    centres = centres_of(packed, frame, flips, share, {})
    assert centres.total == pytest.approx(reached[-1], abs=1e-12)
    for chance in rng.random(20) if reached[-1] else ():
        index = np.searchsorted(reached, chance * reached[-1])
        assert centres.draw(chance) == np.unravel_index(index, weights.shape)


@pytest.mark.parametrize("patch", [(16, 12, 8), (48, 8, 40)])
def test_patches_read_by_themselves_are_those_of_a_case_read_whole(shelf_in, monkeypatch, patch):
    """TorchIO's own sampler and flips on a whole subject give the same batches, bit for bit."""
    data = dataclasses.replace(DATA, patch=patch, overlap=(0, 0, 0))
    cut = list(islice(Stream(shelf_in(data=data), TASK, data).batches(3), 15))
    monkeypatch.setattr(Stream, "reads_whole", True)
    whole = islice(Stream(shelf_in(data=data), TASK, data).batches(3), 15)
    for a, b in zip(cut, whole, strict=True):
        for x, y in ((getattr(each, f.name) for each in (a, b)) for f in dataclasses.fields(a)):
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y


def test_an_entry_that_is_gone_or_damaged_is_made_anew(shelf_in):
    before = shelf_in()[0]
    path = shelf_in().store.path(shelf_in().keys[0])
    content = path.read_bytes()
    for damaged in (content[:-9], content[:5000] + b"?" + content[5001:], b"", None):
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        left = path.with_name(f".partial-1-{path.name}")  # by a process that was killed
        left.write_bytes(content[:500])
        assert same(shelf_in()[0], before)
        assert path.stat().st_size == len(content)
        assert not left.exists()


def test_an_entry_is_made_once_however_many_ask(shelf_in, cases):
    shelf, made = shelf_in(), []

    def work():
        made.append(threading.get_ident())
        return make(cases[0], TASK, DATA, False)

    asking = [threading.Thread(target=shelf.store.get, args=("key", work)) for _ in range(4)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert len(made) == 1
    assert [p.suffix for p in shelf.store.folder.iterdir()] == [".case"]


def test_an_entry_is_named_after_all_that_it_follows_from(cases, hashes):
    case = cases[0]
    own = hashes[case.name]

    def key(case=case, own=own, task=TASK, whole=False, **data):
        return key_of(case, own, task, dataclasses.replace(DATA, **data), whole)

    assert key() == key(batch=5, tumour_chance=0.9, flip=False, patch=(8, 8, 8), overlap=(0, 0, 0))
    others = {
        key(own=own | {"t1n": "other"}),
        key(case=dataclasses.replace(case, scheme="msd")),
        key(task=dataclasses.replace(TASK, sources=TASK.sources[::-1])),
        key(intensity="paper"),
        key(labels="brats2018"),
        key(common_grid="t1n"),
    }
    assert len(others | {key()}) == 7
    assert "label" in own


def test_over_the_limit_those_go_that_were_used_longest_ago_and_none_in_use(shelf_in, cases):
    each = shelf_in()[0].nbytes
    store = shelf_in(2.5 * each / 1e9).store
    paths = [store.path(name) for name in "abcd"]
    packed = shelf_in()[0]
    store.path(shelf_in().keys[0]).unlink()
    store.get("a", lambda: packed)
    store.get("b", lambda: packed)
    os.utime(paths[0], (2, 2))
    os.utime(paths[1], (1, 1))
    store.get("c", lambda: packed)
    assert [path.exists() for path in paths] == [True, False, True, False]
    with store.used(["a", "c"]), pytest.raises(InputError, match="--cache-limit is"):
        store.get("d", lambda: packed)
    assert [path.exists() for path in paths] == [True, False, True, False]
    (store.folder / "dead.used").write_text("a\nc")  # its owner was killed
    store.get("d", lambda: packed)
    assert [path.exists() for path in paths] == [False, False, True, True]
    assert not (store.folder / "dead.used").exists()


def test_a_cohort_that_the_limit_cannot_hold_is_refused_with_figures(shelf_in):
    shelf = shelf_in(1e-6)
    with pytest.raises(InputError, match="--cache-limit is 1e-06"):
        shelf.store.check_room(["a", "b"], 10_000)
    with pytest.raises(InputError, match="GB are free in"):
        shelf_in(1e9).store.check_room(["a", "b"], 10**17)


def broken(case, tmp_path):
    bad = tmp_path / f"{case.name}-t1n.nii.gz"
    bad.write_bytes(case.images["t1n"].read_bytes()[:-200])
    return dataclasses.replace(case, images={**case.images, "t1n": bad})


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_case_is_told_in_a_sentence_by_whoever_meets_it(shelf_in, cases, tmp_path, workers):
    data = dataclasses.replace(DATA, workers=workers, batch=4, queue=12)
    shelf = shelf_in(data=data, some=[broken(case, tmp_path) for case in cases])
    stream = Stream(shelf, TASK, data, expect=shelf.expect)
    with pytest.raises(InputError, match="is truncated") as told:
        next(stream.batches(0))
    assert "Traceback" not in str(told.value)
    with pytest.raises(InputError) as told:
        shelf.fill()
    assert all(f"{case.name}-t1n.nii.gz is truncated" in str(told.value) for case in cases)


def test_cases_are_prepared_in_the_background_and_counted_when_they_are_there(shelf_in):
    shelf = shelf_in()
    assert not shelf.fill(-1)
    shelf.expect([2, 0, 1])
    for number in range(3):
        assert shelf[number].marks.size
    again = shelf_in()
    assert again.fill()
    assert len(again.facts) == 3
    assert again.facts[0].scales == shelf.facts[0].scales


PED = Reading(SCHEMES["ped"], "values", (0, 1, 2, 3, 4), ("4 is oedema",))
DOUBTFUL = Reading(SCHEMES["brats2023"], "values", (0, 1), firm=False)
OWN = Reading(LabelScheme("dataset.json", (3,), (1, 5), (2,)), "dataset", (0, 5), ("a", "b"), True)


def put(shelf, readings):
    """Entries of another process in the store of ``shelf``."""
    packed = make(shelf.cases[0], TASK, DATA, shelf.whole)
    for key, reading in zip(shelf.keys, readings, strict=True):
        shelf.store.get(key, lambda reading=reading: dataclasses.replace(packed, reading=reading))


def test_labels_that_contradict_each_other_are_refused_across_shelves(shelf_in, cases, tmp_path):
    """Whoever prepared them, as soon as both are seen, with what else is wrong; each alone is."""
    learn, check = shelf_in(some=cases[:1]), shelf_in(some=cases[1:2], whole=True)
    put(learn, [PED])
    put(check, [DOUBTFUL])
    for alone in (learn, check):
        fill([alone])
    bad = shelf_in(some=[broken(cases[2], tmp_path)])
    with pytest.raises(InputError, match=r"is truncated.*; the labels of .* may be brats2023"):
        fill([check, learn, bad])
    fresh = [shelf_in(some=cases[:1]), shelf_in(some=cases[1:2], whole=True)]
    refuse_contradictions(fresh, -1.0)  # nothing is looked at in no time
    with pytest.raises(InputError, match=f"labels of {cases[1].name} may be .*of {cases[0].name}"):
        refuse_contradictions(fresh, 60.0)


def test_how_labels_were_read_is_kept_and_noted_once(shelf_in, capsys):
    shelf, readings = shelf_in(), [OWN, PED, None]
    put(shelf, readings)
    fill([shelf], 60.0)
    assert [shelf.facts[number].reading for number in range(3)] == readings
    said = capsys.readouterr().out
    fill([shelf])
    assert [said.count(f"note: {note} (") for note in (*OWN.notes, *PED.notes)] == [1, 1, 1]
    assert "note" not in capsys.readouterr().out


def test_validation_cases_are_misaligned_each_time_they_are_read(shelf_in, cases):
    still = Checked(shelf_in(whole=True), MisalignConfig(), DegradeConfig())
    astray = Checked(shelf_in(whole=True), MisalignConfig("t1c", shift=2.0), DegradeConfig())
    assert len(list(still)) == len(cases)
    a, b, again = still[0], astray[0], astray[0]
    assert np.array_equal(a.volumes["t1n"], b.volumes["t1n"])
    assert not np.array_equal(a.volumes["t1c"], b.volumes["t1c"])
    assert np.array_equal(b.volumes["t1c"], again.volumes["t1c"])
    target = MisalignConfig("t2f", shift=2.0, when="train")
    truth = Checked(shelf_in(whole=True), target, DegradeConfig())[0]
    assert np.array_equal(a.volumes["t2f"], truth.volumes["t2f"])


def test_a_name_follows_from_every_source_that_prepares_a_case(monkeypatch):
    read, home = [], Path(synth3d.__file__).parent
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or b"")
    code_digest.__wrapped__()
    rooms = [home / name for name in ("images", "cohort", "data")]
    assert {*read} == {path for room in rooms for path in room.rglob("*.py")}
