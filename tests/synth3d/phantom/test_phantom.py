import json

import numpy as np
import pytest

from synth3d.cohort import MODALITIES, find_cases
from synth3d.errors import InputError
from synth3d.images import volumes
from synth3d.phantom import anatomy as phantom_anatomy
from synth3d.phantom import cohort as phantom
from synth3d.phantom import scanner as phantom_scanner
from synth3d.phantom import tumour as phantom_tumour

SIZE = 28
CASES = 4


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return phantom.make_cohort(tmp_path_factory.mktemp("phantom"), CASES, size=SIZE, seed=7)


@pytest.fixture(scope="module")
def images(cohort):
    """Per case: modality to intensity over the median of healthy brain, and the labels."""
    result = []
    for found in find_cases(cohort[0].parent):
        seg = volumes.read_label(found.label).data
        raw = {modality: volumes.read(path).data for modality, path in found.images.items()}
        case = {m: data / np.median(data[(data > 0) & (seg == 0)]) for m, data in raw.items()}
        result.append({**case, "seg": seg, "brain": case["t1n"] > 0})
    return result


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*.nii.gz"))}


# What lies on disk


def test_a_cohort_is_a_brats_2023_folder(cohort):
    assert [folder.name for folder in cohort] == [f"Phantom-{i:05d}-000" for i in range(CASES)]
    cases = find_cases(cohort[0].parent)
    assert [case.name for case in cases] == [folder.name for folder in cohort]
    assert {case.naming for case in cases} == {"brats2023"}
    assert len({case.patient for case in cases}) == CASES
    assert all(not case.missing() and case.label for case in cases)


def test_files_are_typed_and_placed_as_the_real_ones(cohort):
    import nibabel

    edge = phantom_anatomy.FIELD_OF_VIEW_MM / SIZE
    for path in sorted(cohort[0].glob("*.nii.gz")):
        image = nibabel.load(path)
        is_label = path.name.endswith("-seg.nii.gz")
        assert image.get_data_dtype() == (np.uint8 if is_label else np.int16)
        assert image.shape == (SIZE,) * 3
        assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
        np.testing.assert_allclose(image.header.get_zooms(), edge, rtol=1e-5)
        np.testing.assert_allclose(image.affine[:3, 3], [0, edge * (SIZE - 1), 0], rtol=1e-5)
        assert (image.header["qform_code"], image.header["sform_code"]) == (1, 1)
        assert image.header.get_xyzt_units()[0] == "mm"


def test_background_is_zero_and_the_same_in_all_modalities(images):
    for case in images:
        masks = [case[modality] > 0 for modality in MODALITIES]
        assert all(np.array_equal(mask, masks[0]) for mask in masks)
        assert 0.15 < masks[0].mean() < 0.4
        assert not masks[0][[0, -1]].all(axis=0).any()
        assert not case["seg"][~masks[0]].any()


def test_every_region_occurs_and_low_grade_gliomas_hardly_enhance(images):
    counts = np.array([[np.sum(case["seg"] == label) for label in range(4)] for case in images])
    assert set(np.unique(np.concatenate([case["seg"].ravel() for case in images]))) == {0, 1, 2, 3}
    assert (counts[:, 1:].sum(axis=1) > 10).all()
    assert counts[3, 3] <= 0.05 * counts[3, 1:].sum()  # every fourth case
    assert (counts[:3, 3] > 0).all()


# What the contrasts show


def test_the_rim_lights_up_only_after_contrast(images):
    gains = []
    for case in images[:3]:
        rim = case["seg"] == 3
        assert case["t1n"][rim].mean() < 1.15
        gains.append(case["t1c"][rim].mean() / case["t1n"][rim].mean())
    assert min(gains) > 1.05
    assert np.mean(gains) > 1.15  # rims are thinner than these voxels


def test_fluid_is_bright_in_t2_and_dark_in_flair(images):
    for case in images:
        healthy = case["brain"] & (case["seg"] == 0)
        fluid = healthy & (case["t2w"] > np.quantile(case["t2w"][healthy], 0.97))
        assert case["t2w"][fluid].mean() > 1.5
        assert case["t2f"][fluid].mean() < 0.75
        assert case["t1n"][fluid].mean() < 0.85


def test_oedema_is_bright_in_flair_and_healthy_voxels_as_bright_in_t2_are_not(images):
    for case in images:
        oedema, healthy = case["seg"] == 2, case["brain"] & (case["seg"] == 0)
        assert case["t2f"][oedema].mean() > 1.2
        assert case["t2f"][oedema].mean() > np.quantile(case["t2f"][healthy], 0.95)
        low, high = np.quantile(case["t2w"][oedema], (0.25, 0.9))
        alike = healthy & (case["t2w"] > low) & (case["t2w"] < high)
        assert alike.sum() > 50
        assert case["t2f"][alike].mean() < 0.85 * case["t2f"][oedema].mean()


def test_no_lookup_turns_t2_into_flair(images):
    """Even the best table, fitted to the very case, leaves most of the variance."""
    explained = []
    for case in images:
        t2, flair = case["t2w"][case["brain"]], case["t2f"][case["brain"]]
        bins = np.digitize(t2, np.quantile(t2, np.linspace(0, 1, 33)[1:-1]))
        table = np.bincount(bins, flair) / np.bincount(bins)
        explained.append(1 - np.mean((flair - table[bins]) ** 2) / flair.var())
    assert np.mean(explained) < 0.5


def test_the_other_contrasts_tell_part_of_flair(images):
    explained = []
    for case in images:
        inside = case["brain"]
        known = np.stack([case[m][inside] for m in ("t1n", "t1c", "t2w")] + [np.ones(inside.sum())])
        flair = case["t2f"][inside]
        rest = flair - known.T @ np.linalg.lstsq(known.T, flair, rcond=None)[0]
        explained.append(1 - rest.var() / flair.var())
    assert 0.1 < np.mean(explained) < 0.7


# Same call, same bytes


def test_a_case_is_the_same_head_on_every_grid_and_no_other_case_or_seed():
    a, b, c = (phantom.make_case(i, 24, seed)["t1n"] for i, seed in ((1, 7), (0, 7), (1, 0)))
    assert not np.array_equal(a, b)
    assert not np.array_equal(a, c)
    small, large = (phantom.make_case(1, size, 7)["seg"] > 0 for size in (24, 32))
    shrunk = phantom_anatomy.resample(large.astype(np.float32), 24) > 0.5
    assert 2 * (small & shrunk).sum() / (small.sum() + shrunk.sum()) > 0.8


def test_a_missing_file_comes_back_as_it_was(tmp_path):
    folder = phantom.make_cohort(tmp_path, 1, size=24)[0]
    before = content(tmp_path)
    lost, kept = (folder / f"{folder.name}-{kind}.nii.gz" for kind in ("t2f", "t1n"))
    lost.unlink()
    time = kept.stat().st_mtime_ns
    phantom.make_cohort(tmp_path, 1, size=24)
    assert content(tmp_path) == before
    assert kept.stat().st_mtime_ns == time


def test_a_killed_call_is_continued_with_the_bytes_of_the_seed_and_then_left_alone(
    cohort, tmp_path, monkeypatch
):
    """A larger cohort begins with the cases of a smaller one."""
    whole = phantom.make_case

    def killed(index, size, seed):
        if index == 1:
            raise KeyboardInterrupt
        return whole(index, size, seed)

    monkeypatch.setattr(phantom, "make_case", killed)
    with pytest.raises(KeyboardInterrupt):
        phantom.make_cohort(tmp_path, 2, size=SIZE, seed=7)
    monkeypatch.undo()
    phantom.make_cohort(tmp_path, 2, size=SIZE, seed=7)
    first, again = content(cohort[0].parent), content(tmp_path)
    assert again == {path: first[path] for path in again}
    assert len(again) == 10
    monkeypatch.setattr(phantom, "make_case", None)
    assert len(phantom.make_cohort(tmp_path, 2, size=SIZE, seed=7)) == 2


# Refusals


def test_other_parameters_need_overwrite(tmp_path):
    phantom.make_cohort(tmp_path, 2, size=24)
    with pytest.raises(InputError, match="other parameters"):
        phantom.make_cohort(tmp_path, 1, size=25)
    assert len(phantom.make_cohort(tmp_path, 1, size=25, overwrite=True)) == 1
    assert [case.name for case in find_cases(tmp_path)] == ["Phantom-00000-000"]
    assert json.loads((tmp_path / "phantom.json").read_text())["size"] == 25


def test_somebody_elses_folder_is_never_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="holds other files"):
        phantom.make_cohort(tmp_path, 1, size=24, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("cases", "size", "seed", "message"),
    [(0, 32, 0, "1 to 100000 cases"), (1, 23, 0, "24 to 192"), (1, 32, -1, "negative")],
)
def test_impossible_parameters_are_refused(tmp_path, cases, size, seed, message):
    with pytest.raises(InputError, match=message):
        phantom.make_cohort(tmp_path / "new", cases, size=size, seed=seed)
    assert not (tmp_path / "new").exists()


# The parts


def test_flair_nulls_the_fluid_it_is_timed_for_and_endless_repetition_leaves_t2():
    csf = phantom_scanner.TISSUES["csf"]
    ti = phantom_scanner.nulling_time(csf.t1_ms, 9000)
    assert phantom_scanner.inversion_recovery(csf, 9000, 110, ti) == pytest.approx(0, abs=1e-12)
    assert 2300 < ti < 2700
    endless = phantom_scanner.spin_echo(csf, 1e6, csf.t2_ms)  # of which density and T2 are left
    assert endless == pytest.approx(csf.density / np.e)


def test_a_gradient_echo_is_strongest_at_the_ernst_angle():
    tissue = phantom_scanner.TISSUES["white"]
    ernst = np.degrees(np.arccos(np.exp(-10 / tissue.t1_ms)))
    angles = np.linspace(1, 40, 400)
    signals = [phantom_scanner.gradient_echo(tissue, 10, angle) for angle in angles]
    assert angles[np.argmax(signals)] == pytest.approx(ernst, abs=0.2)


def test_resampling_keeps_means_and_moves_whole_voxels():
    field = np.random.default_rng(0).random((12, 12, 12), dtype=np.float32)
    np.testing.assert_allclose(phantom_anatomy.resample(field, 12), field, rtol=1e-5)
    np.testing.assert_allclose(phantom_anatomy.resample(field, 8).mean(), field.mean(), rtol=1e-5)
    moved = phantom_anatomy.resample(field, 12, shift=np.array([0, 2, -1]))
    np.testing.assert_allclose(moved[:, :-2, 1:], field[:, 2:, :-1], rtol=1e-5)


def test_tissues_fill_each_voxel_and_tumour_spares_the_ventricles():
    rng = np.random.default_rng(3)
    plan = phantom_tumour.plan_tumour(rng, low_grade=False)
    mni_mm = phantom_tumour.push_aside(phantom_anatomy.make_subject(rng, 48), plan)
    anatomy = phantom_anatomy.make_anatomy(rng, mni_mm)
    tumour = phantom_tumour.grow_tumour(rng, anatomy, plan)
    shares = phantom.mix_tissues(rng, anatomy, tumour, low_grade=False)
    assert shares.keys() <= phantom_scanner.TISSUES.keys()
    assert min(share.min() for share in shares.values()) > -1e-5
    np.testing.assert_allclose(sum(shares.values()), 1, atol=1e-4)
    ventricle = (anatomy.ventricle_mm == 0) & (anatomy.csf > 0.9)
    assert ventricle.any()
    assert (tumour.necrosis + tumour.oedema + tumour.enhancing)[ventricle].max() < 0.5
