import gzip

import numpy as np
import pytest

from seg_eval.arms.completed import Completed, brain_without, parse_completed
from seg_eval.arms.gaps import Gaps
from synth3d.cohort import find_cases
from synth3d.errors import InputError
from synth3d.images.volumes import read, write_like, write_new


@pytest.fixture
def case(toy_cohort):
    return next(case for case in find_cases(toy_cohort) if case.name == "Brats18_TOY_F_1")


def theirs(folder, case, change, name=None):
    """Another tool's FLAIR of ``case`` in ``folder``: flat, as BraSyn containers write it."""
    real = case.images["t2f"]
    image = read(real)
    volume = change(image.data.copy())
    folder.mkdir(exist_ok=True)
    write_new(folder / (name or real.name), volume.astype(np.float32), image.affine, np.float32)
    return Completed("theirs", folder)


def test_a_foreign_background_is_set_to_zero_and_the_file_marked(case, tmp_path):
    """Whatever a synthesiser paints outside, the brain is that of the channels that are there."""
    source = theirs(tmp_path / "in", case, lambda v: np.where(v > 0, v / 100, -1))
    out = tmp_path / "out" / "x.nii.gz"
    source.write(case, "t2f", ("t2f",), out)
    made, brain = read(out), brain_without(case, ("t2f",))
    assert not brain.all()
    assert not made.data[~brain].any()
    # Float, whatever the cohort's integers are: 0.37 must not become 0.
    np.testing.assert_allclose(made.data[brain], read(case.images["t2f"]).data[brain] / 100, 1e-6)
    np.testing.assert_array_equal(made.affine, read(case.images["t1n"]).affine)
    with gzip.open(out) as file:
        assert b"SYNTHETIC t2f: theirs" in file.read(348)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda v: v, "equals the real t2f: nothing was synthesised"),
        (lambda v: v * 0, "is zero everywhere"),
        (lambda v: v[:-1] + 1, "resample the case to one grid"),
        (lambda v: np.where(v > 0, 0, 3), "is zero everywhere inside the brain of Brats18_TOY_F_1"),
    ],
)
def test_files_that_cannot_be_judged_are_refused(case, tmp_path, change, sentence):
    source = theirs(tmp_path / "in", case, change)
    with pytest.raises(InputError, match=sentence):
        source.write(case, "t2f", ("t2f",), tmp_path / "out.nii.gz")
    assert not (tmp_path / "out.nii.gz").exists()


def test_all_absent_files_are_named_at_once(case, toy_cohort, tmp_path):
    source = theirs(tmp_path / "in", case, lambda v: v + 1)
    others = [other for other in find_cases(toy_cohort) if other.name[-3] in "FGH"]
    with pytest.raises(InputError, match=r"lacks 2 synthesised files.*TOY_G_1 t2f.*TOY_H_1 t2f"):
        source.require(others, Gaps(("t2f",)))
    source.require([case], Gaps(("t2f",)))


def test_headers_that_do_not_fit_are_named_at_once_before_any_work(case, toy_cohort, tmp_path):
    others = [other for other in find_cases(toy_cohort) if other.name[-3] in "FGH"]
    for other, change in zip(
        others, (lambda v: v[1:] + 1, lambda v: v + 1, lambda v: v[:, 1:]), strict=True
    ):
        source = theirs(tmp_path / "in", other, change)
    with pytest.raises(InputError, match=r"TOY_F_1.*shape.*TOY_H_1.*shape") as refusal:
        source.require(others, Gaps(("t2f",)))
    assert "TOY_G_1" not in str(refusal.value)


def test_case_folders_serve_as_well_and_another_file_is_another_arm(case, tmp_path):
    folder = tmp_path / "in" / case.name
    folder.mkdir(parents=True)
    write_like(case.images["t2f"], read(case.images["t2f"]).data * 2, folder / "x.nii.gz")
    (folder / "x.nii.gz").rename(folder / case.images["t2f"].name)
    source = Completed("theirs", tmp_path / "in")
    assert source.file(case.name, "t2f") == folder / case.images["t2f"].name
    assert source.file(case.name, "t1c") is None
    first = source.identity([case], Gaps(("t2f",)))
    write_like(case.images["t2f"], read(case.images["t2f"]).data * 3, folder / "y.nii.gz")
    (folder / "y.nii.gz").replace(folder / case.images["t2f"].name)
    assert Completed("theirs", tmp_path / "in").identity([case], Gaps(("t2f",))) != first


def test_the_flag_names_the_arm_or_the_folder_does(tmp_path):
    (tmp_path / "cwdm").mkdir()
    assert parse_completed(str(tmp_path / "cwdm")).name == "cwdm"
    assert parse_completed(f"entry 7={tmp_path / 'cwdm'}").name == "entry 7"
    (tmp_path / "a=b").mkdir()
    assert parse_completed(str(tmp_path / "a=b")) == Completed("a=b", tmp_path / "a=b")
    with pytest.raises(InputError, match="no folder"):
        parse_completed(f"x={tmp_path / 'nowhere'}")
    for empty in ("", "x="):  # as of a shell variable that is not set
        with pytest.raises(InputError, match="no folder"):
            parse_completed(empty)
    for name in ("../x", "", ".x", "a\nb"):
        with pytest.raises(InputError, match="needs a plain name"):
            parse_completed(f"{name}={tmp_path / 'cwdm'}")


@pytest.mark.parametrize("name", ["{case}.nii.gz", "{case}_0003.nii.gz", "{case}-t2f.nii.gz"])
def test_a_folder_serves_that_synth3d_score_reads(case, toy_cohort, tmp_path, name):
    cases = [one.name for one in find_cases(toy_cohort)]
    theirs(tmp_path / "in", case, lambda v: v + 1, name.format(case=case.name))
    source = parse_completed(str(tmp_path / "in"), cases)
    source.require([case], Gaps(("t2f",)))
    assert source.unsaid([case], Gaps(("t2f",))) == ("t2f" not in name)
    source.write(case, "t2f", ("t2f",), tmp_path / "out.nii.gz")
    assert (tmp_path / "out.nii.gz").is_file()
    # Where two are missing nobody knows which one a file without a sequence is.
    assert len(source.absent([case], Gaps(("t1c", "t2f")))) == (2 if "t2f" not in name else 1)


def test_files_that_are_not_understood_are_named_where_some_are_absent(case, tmp_path):
    theirs(tmp_path / "in", case, lambda v: v + 1, f"{case.name}-t2f.nii.gz")
    source = theirs(tmp_path / "in", case, lambda v: v + 1, "flair_synth_of_somebody.nii.gz")
    with pytest.raises(InputError, match="TOY_F_1 t1c.*flair_synth_of_somebody"):
        source.require([case], Gaps(("t1c",)))
