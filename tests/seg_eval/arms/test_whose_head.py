"""Files of two patients that were exchanged are found by the head's outline."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from seg_eval.arms.build import ArmBuilder
from seg_eval.arms.completed import Completed, brain_without
from seg_eval.arms.gaps import Gaps
from seg_eval.arms.kinds import Arm
from seg_eval.cohort import Cohort, LabelledCase
from synth3d.cohort import find_cases
from synth3d.errors import InputError
from synth3d.images import read
from synth3d.images.volumes import write_new

GRID = np.stack(np.meshgrid(*[np.arange(48)] * 3, indexing="ij")) - 23.5


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Four patients whose heads overlap by 0.9 or so, as real ones do on one atlas."""
    folder = tmp_path_factory.mktemp("patients")
    for number, radii in enumerate([(20, 17, 16), (18, 18, 17), (19, 16, 18), (20, 16, 15)]):
        head = np.square(GRID / np.reshape(radii, (3, 1, 1, 1))).sum(axis=0) < 1
        for suffix in ("t1", "t1ce", "t2", "flair"):
            path = folder / f"Brats18_P_{number}_1" / f"Brats18_P_{number}_1_{suffix}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            write_new(path, head.astype(np.int16) * 100, np.eye(4), np.int16)
    return find_cases(folder)


def theirs(folder, cases, change=lambda made, brain: made, order=None):
    """Another tool's FLAIR of all cases, each under the name of the case at its place in order."""
    folder.mkdir()
    for case, place in zip(cases, order or range(len(cases)), strict=True):
        real, brain = read(case.images["t2f"]), brain_without(case, ("t2f",))
        made = change(np.where(brain, real.data + 1.0, 0.0), brain)
        path = folder / cases[place].images["t2f"].name
        write_new(path, made.astype(np.float32), real.affine, np.float32)
    return Completed("theirs", folder)


@given(st.permutations([0, 1, 2, 3]))
@settings(deadline=None, max_examples=12)
def test_all_files_under_a_wrong_name_are_told_and_no_other(cases, tmp_path_factory, order):
    folder = tmp_path_factory.mktemp("swap") / "in"
    source = theirs(folder, cases, order=order)
    wrong = [cases[place].name for place in range(4) if order[place] != place]
    if not wrong:
        source.require_own(cases, Gaps(("t2f",)))
        return
    with pytest.raises(InputError) as error:
        source.require_own(cases, Gaps(("t2f",)))
    for case in cases:
        told = str(folder / case.images["t2f"].name) in str(error.value)
        assert told == (case.name in wrong)


def test_names_that_are_off_by_one_show_heads_of_training_cases(cases, tmp_path):
    """Of cases 0 and 2, tested, the files show 1 and 3, which are not: no two were exchanged."""
    tested, source = [cases[0], cases[2]], theirs(tmp_path / "in", cases, order=[3, 0, 1, 2])
    gaps = Gaps(("t2f",))
    with pytest.raises(InputError) as error:
        source.require_own(tested, gaps, cases)
    for case, shown in ((0, 1), (2, 3)):
        name = cases[case].images["t2f"].name
        assert f"{name} shows {cases[shown].name}" in str(error.value)
    theirs(tmp_path / "right", cases).require_own(tested, gaps, cases)


def test_an_experiment_holds_files_against_its_training_cases(cases, tmp_path):
    arm = Arm("theirs", "synthetic", theirs(tmp_path / "in", cases, order=[3, 0, 1, 2]))
    train, test = ([LabelledCase(**vars(cases[n]) | {"label": tmp_path}) for n in side]
                   for side in ((1, 3), (0, 2)))  # fmt: skip
    cohort = Cohort(tmp_path, tuple(train), tuple(test), {})
    builder = ArmBuilder(tmp_path / "arms", cohort, Gaps(("t2f",)), print)
    with pytest.raises(InputError, match=f"shows {cases[1].name}"):
        builder.build(arm)
    assert not [*tmp_path.glob("arms/**/*.nii.gz")]


def test_where_each_case_lacks_another_sequence_training_cases_lack_none(cases, tmp_path):
    tested, source = [cases[0]], theirs(tmp_path / "in", cases, order=[3, 0, 1, 2])
    gaps = Gaps(("t1n", "t1c", "t2w", "t2f"), {cases[0].name: "t2f"})
    with pytest.raises(InputError, match=f"shows {cases[1].name}"):
        source.require_own(tested, gaps, cases)


@pytest.mark.parametrize(
    "change",
    [
        lambda made, brain: np.where(ndimage.binary_erosion(brain, iterations=2), made, 0),
        lambda made, brain: np.where(ndimage.binary_dilation(brain, iterations=2), made + 1, 0),
        lambda made, brain: made + np.random.default_rng(0).random(made.shape),
    ],
    ids=["peeled", "padded", "noise"],
)
def test_a_tool_with_heads_of_its_own_is_not_accused(cases, tmp_path, change):
    source = theirs(tmp_path / "in", cases, change)
    for tested in (cases, cases[:2]):
        source.require_own(tested, Gaps(("t2f",)), cases)
