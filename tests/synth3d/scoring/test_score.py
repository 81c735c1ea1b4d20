"""Claims about ``synth3d score``, from two folders to tables."""

import csv
import gzip
import json
import math

import numpy as np
import pytest
from matplotlib import image

from synth3d.cli import main
from synth3d.cohort import find_cases
from synth3d.images.intensity import Scale, foreground
from synth3d.images.volumes import read, read_label, write_like, write_new
from synth3d.scoring.cohort import ScoreRequest, on_scale_of, score_cohort
from synth3d.scoring.conventions import CONVENTIONS
from synth3d.scoring.report import summarise


@pytest.fixture
def copied(phantom_cohort, tmp_path):
    """The cohort's T2 under the name of FLAIR, flat, and what to change in it."""
    folder = tmp_path / "synthetic"
    folder.mkdir()

    def make(change=lambda case, volume: volume):
        for case in find_cases(phantom_cohort):
            real, source = case.images["t2f"], read(case.images["t2w"]).data
            write_like(real, change(case, source), folder / real.name)
        return folder

    return make


@pytest.fixture
def score(phantom_cohort, capsys):
    """Exit code, standard output and error of ``synth3d score`` on a folder, or of two."""

    def run(*arguments, real=phantom_cohort):
        code = main(["score", str(real), *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def put(path, data, affine):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_new(path, data, affine, np.float32)


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_cohort_becomes_tables_and_a_picture(phantom_cohort, copied, tmp_path, score):
    out = tmp_path / "new" / "scores.csv"
    code, printed, _ = score(copied(), "--convention", "all", "--out", out)
    assert code == 0
    assert "| real-scale | SSIM tumour " in printed
    assert "fewer than 15 patients" in printed
    assert printed.startswith(out.with_suffix(".md").read_text())
    rows = rows_of(out)
    assert [row["case"] for row in rows] == [case.name for case in find_cases(phantom_cohort)]
    assert {row["modality"] for row in rows} == {"t2f"}
    scores = [name for name in rows[0] if "@" in name]
    assert {name.split("@")[1] for name in scores} == set(CONVENTIONS)
    value = json.loads(out.with_suffix(".json").read_text())
    assert value["settings"].keys() == {
        "real", "synthetic", "modality", "conventions", "rescale", "splits", "part", "cases",
        "label_folder", "labels", "lpips_weights",
    }  # fmt: skip
    assert value["settings"]["conventions"] == list(CONVENTIONS)
    assert value["versions"].keys() >= {"synth3d", "numpy", "python"}
    for summary in value["summary"]:
        mean = np.mean([float(row[summary["score"]]) for row in rows])
        assert summary["mean"] == pytest.approx(mean)
        assert summary["low"] <= summary["mean"] <= summary["high"]
        assert summary["cases"] == summary["patients"] == 6
    assert image.imread(out.with_suffix(".png")).std() > 0.01


def test_a_dry_run_says_what_would_be_done_and_json_writes_nothing(
    phantom_cohort, copied, tmp_path, score
):
    folder = copied()
    before = sorted(tmp_path.rglob("*"))
    code, printed, _ = score(folder, "--dry-run", "--modality", "FLAIR", "--rescale", "match")
    assert code == 0
    assert '"modality": "t2f"' in printed
    assert '"rescale": "match"' in printed
    for case in find_cases(phantom_cohort):
        assert f"{case.name}: {case.images['t2f']} against {folder}" in printed
    assert "PSNR" not in printed
    code, printed, _ = score(folder, "--json")
    assert (code, len(json.loads(printed)["cases"])) == (0, 6)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_part_of_the_splits_is_scored(phantom_cohort, copied, tmp_path, score):
    names = [case.name for case in find_cases(phantom_cohort)]
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps({"train": names[:3], "val": [], "test": names[3:5]}))
    flags = [copied(), "--json", "--splits", splits]
    code, printed, _ = score(*flags)
    assert code == 0
    assert [row["case"] for row in json.loads(printed)["cases"]] == names[3:5]
    for more, part in (
        (["--part", "val"], "no case under val"),
        (["--cases", names[0]], "not both"),
    ):
        code, _, error = score(*flags, *more)
        assert code == 2
        assert part in error


def test_the_real_folder_against_itself_is_perfect(phantom_cohort, tmp_path, score):
    flags = ["--modality", "flair", "--convention", "real-scale,brasyn", "--json"]
    code, printed, _ = score(phantom_cohort, *flags)
    assert code == 0
    value = json.loads(printed)
    summary = {line["score"]: line for line in value["summary"]}
    assert summary["psnr_brain@real-scale"]["mean"] == "inf"
    assert summary["psnr_brain@real-scale"]["infinite"] == 6
    assert summary["psnr_brain@real-scale"]["low"] is None
    assert summary["ssim_tumour@brasyn"]["mean"] == 1
    assert sum("the real one" in warning for warning in value["warnings"]) == 2
    # Without labels there are no tumour scores, and what is infinite can be drawn.
    case, out = find_cases(phantom_cohort)[0], tmp_path / "scores.csv"
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / case.images["t2f"].name).symlink_to(case.images["t2f"])
    assert score(tmp_path / "real", "--out", out, real=tmp_path / "real")[0] == 0
    (row,) = rows_of(out)
    assert row["psnr_brain@real-scale"] == "inf"
    assert not any("tumour" in name for name in row)
    assert image.imread(out.with_suffix(".png")).std() > 0.01


def lose(path):
    path.unlink()
    return path.name.removesuffix("-t2f.nii.gz")


def move(path):
    volume = read(path)
    put(path, volume.data, volume.affine + np.eye(4)[:, :1] * np.array([0, 0, 0, 10]))
    return path.name


def put_nan(path):
    volume = read(path)
    put(path, volume.data, volume.affine)
    content = gzip.decompress(path.read_bytes())[:-4] + np.float32(np.nan).tobytes()
    path.write_bytes(gzip.compress(content))
    return f"case {path.name.removesuffix('-t2f.nii.gz')}: {path} has 1 NaN"


@pytest.mark.parametrize("spoil", [lose, move, put_nan])
def test_every_bad_file_is_named_and_no_smaller_table_is_written(copied, tmp_path, score, spoil):
    folder, out = copied(), tmp_path / "scores.csv"
    first, *others = sorted(folder.iterdir())[:3]
    unread, named = put_nan(first), [spoil(path) for path in others]
    code, _, error = score(folder, "--out", out)
    assert code == 2
    assert all(name in error for name in named)
    assert (unread in error) == (spoil is put_nan)  # names and grids are looked at first
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--out", "scores.txt"], ".csv"),
        (["--convention", "real-scale,paper"], "paper; there are real-scale, own-scale, paper-agi"),
        (["--modality", "ct"], "is not a modality"),
        (["--lpips-weights", "none.pth", "--convention", "real-scale"], "LPIPS needs"),
    ],
)
def test_flags_that_make_no_sense(copied, score, flags, part):
    code, _, error = score(copied(), *flags)
    assert code == 2
    assert part in error


def test_foreign_units_are_noticed_and_matched(phantom_cohort, copied, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = copied()
    plain = score_cohort(ScoreRequest(phantom_cohort, folder, rescale="match"))
    for path in folder.iterdir():
        volume = read(path)
        put(path, volume.data / 1000, volume.affine)
    foreign = score_cohort(ScoreRequest(phantom_cohort, folder))
    assert any("as in other units" in warning for warning in foreign.warnings)
    assert sum("no LPIPS: " in warning for warning in foreign.warnings) == 1
    matched = score_cohort(ScoreRequest(phantom_cohort, folder, rescale="match"))
    assert not any("as in other units" in warning for warning in matched.warnings)
    for before, after in zip(plain.rows, matched.rows, strict=True):
        for name, value in before.items():
            if "@" in name:
                assert after[name] == pytest.approx(value, rel=1e-3, abs=1e-3)
    better, names = matched.rows[0]["psnr_brain@real-scale-matched"], foreign.rows[0]
    assert better > names["psnr_brain@real-scale"]
    assert not {name for name in names if "@" in name} & matched.rows[0].keys()


@pytest.mark.parametrize(("factor", "shift"), [(0.002, 0.0), (3.0, 0.0), (0.004, -1.0)])
def test_a_volume_in_other_units_comes_back(phantom_cohort, factor, shift):
    real = read(find_cases(phantom_cohort)[0].images["t2f"]).data
    brain = foreground(real)
    found = on_scale_of((factor * real + shift).astype(np.float32), real, brain)
    assert np.abs(found - real)[brain].max() < 1e-3 * real.max()
    assert (found[~brain] == 0).all()
    assert Scale.fit(found, brain).width == pytest.approx(Scale.fit(real, brain).width, rel=1e-3)


def test_an_empty_synthesis_is_scored_and_noticed(phantom_cohort, copied):
    names = [case.name for case in find_cases(phantom_cohort)]
    folder = copied(lambda case, volume: volume * (case.name != names[2]))
    for rescale, suffix in (("none", ""), ("match", "-matched")):
        scored = score_cohort(
            ScoreRequest(phantom_cohort, folder, rescale=rescale, conventions=tuple(CONVENTIONS))
        )
        assert f"the synthetic volume is zero everywhere: {names[2]}" in scored.warnings
        empty = scored.rows[2]
        assert all(math.isfinite(value) for name, value in empty.items() if "@" in name)
        worst = max(scored.rows, key=lambda row: row["mae_tumour@paper-agi" + suffix])
        assert worst["case"] == names[2]


def test_a_resection_cavity_is_no_tumour(phantom_cohort, copied, tmp_path):
    case = find_cases(phantom_cohort)[0]
    label = read_label(case.label)
    assert {1, 2, 3} <= set(np.unique(label.data))
    labels = tmp_path / "labels"
    cavity = np.where(label.data == 1, 4, label.data)
    folder = copied()
    settings = ScoreRequest(phantom_cohort, folder, cases=(case.name,), label_folder=labels)
    put(labels / f"{case.name}.nii.gz", cavity, label.affine)
    with_cavity = score_cohort(settings)
    assert any("resection cavity" in warning for warning in with_cavity.warnings)
    put(labels / f"{case.name}.nii.gz", np.where(cavity == 4, 0, cavity), label.affine)
    assert score_cohort(settings).rows == with_cavity.rows


def test_slices_are_axial_however_the_file_is_stored(phantom_cohort, copied, tmp_path):
    """The same head stored with its axes in another order has the same slice-wise scores."""
    case, folder = find_cases(phantom_cohort)[0], copied()
    settings = {"conventions": ("paper-agi",), "cases": (case.name,)}
    upright = score_cohort(ScoreRequest(phantom_cohort, folder, **settings))
    turned = {}
    order = [2, 0, 1, 3]  # the file's x is now what was z
    for name, path in {
        "real": case.images["t2f"],
        "synthetic": folder / case.images["t2f"].name,
        "label_folder": case.label,
    }.items():
        volume = read_label(path) if name == "label_folder" else read(path)
        turned[name] = tmp_path / "turned" / name
        data = np.transpose(volume.data.transpose(2, 1, 0), order[:3]).transpose(2, 1, 0)
        ending = "" if name == "label_folder" else "-t2f"
        target = turned[name] / f"{case.name}{ending}.nii.gz"
        put(target, data, volume.affine[:, order])
    found = score_cohort(ScoreRequest(**turned, **settings))
    for name, value in upright.rows[0].items():
        if "@" in name:
            assert found.rows[0][name] == pytest.approx(value, rel=1e-4, abs=1e-4)


def test_undefined_scores_are_left_out_and_counted():
    rows = [
        {"case": "a", "patient": "p", "modality": "", "x_brain@real-scale": 1.0},
        {"case": "b", "patient": "q", "modality": "", "x_brain@real-scale": math.nan},
        {"case": "c", "patient": "q", "modality": "", "x_brain@real-scale": 3.0},
        {"case": "d", "patient": "r", "modality": "", "y_brain@real-scale": math.nan},
    ]
    x, y = summarise(rows)
    assert (x.cases, x.patients, x.mean) == (2, 2, 2.0)
    assert x.sd == pytest.approx(math.sqrt(2))
    assert (x.low, x.high) == (
        pytest.approx(2 - 12.7062, abs=1e-3),
        pytest.approx(14.7062, abs=1e-3),
    )
    assert (y.cases, y.sd, y.low) == (0, None, None)
    assert math.isnan(y.mean)
