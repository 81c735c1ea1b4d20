"""What explains a completed case lies beside it, is proved by its receipt, and changes nothing."""

import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

import synth3d
from synth3d.cli import main
from synth3d.cohort import find_cases
from synth3d.completion import maps_of, rate_explanations
from synth3d.data import prepare
from synth3d.errors import InputError
from synth3d.files import sha256
from synth3d.images.volumes import read, write_like
from synth3d.inference import SynthesisOptions, synthesize_volume
from synth3d.training import load_run

FOUR = ("t1n", "t1c", "t2w", "t2f")
LACKING = "Brats18_X_2_1"
TSF = {"name": "tsf", "widths": [4, 8], "blocks": 1, "banks": 2, "fusion_banks": 2}
AGI = {"name": "agi-net", "groups": 2, "stages": 2}
TRAIN = {"framework": "tsf", "tsf": {"perceptual_weight": 0.0}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, write_run):
    """Untrained runs for any gap, ``tsf`` with an attention that does something; and ``agi``."""
    root = tmp_path_factory.mktemp("explained")
    model = TSF | {"faithful": True}
    del model["name"]
    any_gap = {"mode": "any", "sources": FOUR, "targets": FOUR}
    write_run(root / "tsf", train=TRAIN, model=TSF | model, **any_gap)
    alone = {"framework": "tsf", "tsf": {"perceptual_weight": 0.0, "pretrain": 1.0}}
    write_run(root / "seq2seq", train=alone, model=TSF, **any_gap)
    write_run(root / "agi", model=AGI)
    return root


@pytest.fixture
def complete(ready, runs, tmp_path):
    """Complete two cases of ``ready``, one of which lacks FLAIR."""

    def run(out="out", **settings):
        names = ["Brats18_X_0_1", LACKING]
        given = {"run": runs / "tsf", "data": ready / "in", "device": "cpu", "cases": names}
        return synth3d.complete(out=tmp_path / out, **given | {"explain": True} | settings)

    return run


def receipt_of(one):
    return json.loads(one.receipt.read_text())


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["tsf", "agi"])
def test_the_pictures_are_the_same_to_the_bit_whether_they_are_explained_or_not(
    complete, runs, name
):
    plain, told = (complete(str(e), run=runs / name, explain=e)[1] for e in (False, True))
    assert sha256(plain.paths["t2f"]) == sha256(told.paths["t2f"])
    assert len(receipt_of(told)["files"]) > len(receipt_of(plain)["files"])


def test_a_map_lies_on_the_grid_of_its_case_marked_and_in_the_receipt(complete, tmp_path):
    one = complete()[1]
    (path,) = maps_of(tmp_path / "out", LACKING, "t2f").values()
    assert path.name == f"{LACKING}_flair_tsem.nii.gz"
    made, tsem = read(one.paths["t2f"]), read(path)
    np.testing.assert_array_equal(made.affine, tsem.affine)
    assert not tsem.data[made.data == 0].any()
    assert tsem.data.min() >= 0 < tsem.data.max()
    assert nib.load(path).get_data_dtype() == np.float32
    assert receipt_of(one)["files"][f"{LACKING}/{path.name}"] == sha256(path)
    about = json.loads((path.parent / f"{LACKING}_flair_tsem.json").read_text())
    assert about["Synthetic"]
    assert about["Explains"] == one.paths["t2f"].name
    # A cohort of its own, in which no map is an image of a case.
    found = find_cases(tmp_path / "out")
    assert [case.images for case in found] == [one.paths for one in complete()]


def test_a_map_is_what_the_two_reconstructions_differ_by(ready, runs):
    run = load_run(runs / "tsf")
    case = next(case for case in find_cases(ready / "in") if case.name == LACKING)
    prepared = prepare(case, FOUR, (), run.config.data, "any")
    sources = torch.from_numpy(prepared.stack(FOUR))[:, :8, :8, :8]
    present = torch.tensor([True, True, True, False])
    options = SynthesisOptions((8, 8, 8), (4, 4, 4), map="tsem")
    with torch.no_grad():
        made = synthesize_volume(run.framework, sources, present, ~present, options)
        pair = run.framework.generator.reconstructions(sources[None], present[None], ~present[None])
    torch.testing.assert_close(made, (pair[0] - pair[1]).abs()[0])
    assert made[3].any()
    assert not made[:3].any()


def test_maps_alone_come_without_the_table_of_what_sources_are_worth(complete, tmp_path):
    complete(explain="maps")
    maps, table = maps_of(tmp_path / "out", LACKING, "t2f"), tmp_path / "out" / "contributions.csv"
    assert maps
    assert not table.exists()
    assert complete(explain="all")[1].state == "done"  # the same pictures and maps, and the table
    assert table.exists()
    with pytest.raises(InputError, match="explain"):
        complete(explain="some")


def test_resuming_explaining_later_and_verifying(complete, tmp_path, capsys):
    complete(explain=False)
    assert complete()[1].state == "made"  # the maps were not there
    assert [one.state for one in complete()] == ["whole", "done"]
    assert [one.state for one in complete(explain=False)] == ["whole", "done"]
    assert main(["verify", str(tmp_path / "out")]) == 0
    (path,) = maps_of(tmp_path / "out", LACKING, "t2f").values()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert main(["verify", str(tmp_path / "out")]) == 1
    assert path.name in capsys.readouterr().out
    with pytest.raises(InputError, match="--overwrite"):
        complete()
    assert complete(overwrite=True)[1].state == "made"
    assert path.read_bytes() == whole
    table = tmp_path / "out" / "contributions.csv"
    table.write_text(table.read_text() + "\n")
    assert main(["verify", str(tmp_path / "out")]) == 1
    # Of another network nothing is left beside its picture.
    complete(explain=False, overwrite=True, overlap=0)
    assert not path.exists()
    assert not maps_of(tmp_path / "out", LACKING, "t2f")


def test_a_foreign_file_in_the_place_of_a_map_or_a_table_is_not_replaced(complete, tmp_path):
    (tmp_path / "out" / LACKING).mkdir(parents=True)
    there = tmp_path / "out" / LACKING / f"{LACKING}_flair_tsem.nii.gz"
    for path in (there, tmp_path / "out" / "contributions.png"):
        path.write_text("mine")
        with pytest.raises(InputError, match=path.name):
            complete()
        assert path.read_text() == "mine"
        path.unlink()


def test_in_an_nnunet_folder_no_map_is_a_channel(complete, tmp_path):
    complete(format="nnunet")
    assert len(list((tmp_path / "out" / "imagesTs").iterdir())) == 8
    (path,) = maps_of(tmp_path / "out", LACKING, "t2f").values()
    assert path == tmp_path / "out" / "explanations" / f"{LACKING}_t2f_tsem.nii.gz"
    assert main(["verify", str(tmp_path / "out")]) == 0


def test_weights_stand_beside_what_each_source_is_worth(complete, runs, tmp_path):
    complete()
    rows = rows_of(tmp_path / "out" / "contributions.csv")
    sets = {(row["target"], row["sources"]) for row in rows}
    assert len(sets) == 4 * 7
    assert len(rows) == 4 * (3 * 1 + 3 * 2 + 1 * 3)
    for target, sources in sets:
        some = [row for row in rows if (row["target"], row["sources"]) == (target, sources)]
        assert target not in sources.split("+")
        assert sum(float(row["weight"]) for row in some) == pytest.approx(1)
        if len(some) == 1:
            assert float(some[0]["weight"]) == 1
            assert some[0]["psnr_loss_db"] == ""
    psnr = {(row["target"], row["sources"]): float(row["psnr_db"]) for row in rows}
    one = next(r for r in rows if r["target"] == "t1n" and r["sources"] == "t1c+t2w")
    rest = psnr["t1n", "t2w" if one["source"] == "t1c" else "t1c"]
    assert float(one["psnr_loss_db"]) == pytest.approx(psnr["t1n", "t1c+t2w"] - rest)
    assert {(row["cases"], row["truth"]) for row in rows} == {("1", "cohort")}
    about = json.loads((tmp_path / "out" / "contributions.json").read_text())
    assert about["cases"] == ["Brats18_X_0_1"]
    assert (tmp_path / "out" / "contributions.png").stat().st_size > 1000


def test_what_a_source_is_worth_is_not_known_without_the_truth(complete, tmp_path):
    """Hidden sequences are no truth: they are not looked at."""
    complete(missing=["t1"])
    rows = rows_of(tmp_path / "out" / "contributions.csv")
    assert {(row["psnr_db"], row["cases"], row["truth"]) for row in rows} == {
        ("", "0", "not known")
    }


def test_validation_cases_tell_it_where_they_are_at_hand(complete, ready, runs, tmp_path):
    run = shutil.copytree(runs / "tsf", tmp_path / "run")
    cohort = {"data_folder": str(ready / "in"), "train": ["Brats18_X_0_1"]}
    told = {}
    for whence, val in (("validation", ["Brats18_X_1_1"]), ("not known", [])):
        (run / "cohort.json").write_text(json.dumps(cohort | {"val": val, "test": []}))
        complete(whence, run=run)
        about = json.loads((tmp_path / whence / "contributions.json").read_text())
        told[about["truth"]] = about["cases"]
    assert told == {"validation": ["Brats18_X_1_1"], "not known": []}


def test_what_steers_agi_nets_kernels_is_told_case_by_case(complete, runs, tmp_path):
    one = complete(run=runs / "agi")[1]
    table = tmp_path / "out" / LACKING / f"{LACKING}.routing.csv"
    rows = rows_of(table)
    assert [(row["place"], row["group"]) for row in rows] == [
        ("down1.0", "0"), ("down1.0", "1"), ("body.0", "0"), ("body.0", "1"),
    ]  # fmt: skip
    for row in rows:  # untrained: nothing is rolled, and scales are σ(1)
        assert {float(row[f"offset_{axis}"]) for axis in "zyx"} == {0}
        assert float(row["scale"]) == pytest.approx(0.7311, abs=1e-4)
        assert 0 < float(row["gate"]) < 1
    files = receipt_of(one)["files"]
    assert {name.split(".", 1)[1] for name in files if "routing" in name} == {
        "routing.csv", "routing.png",
    }  # fmt: skip
    assert not (tmp_path / "out" / "contributions.csv").exists()


@pytest.mark.parametrize(
    ("name", "words"), [("run", "agi-net or tsf"), ("random", "--draws 5"), ("seq2seq", "nothing")]
)
def test_a_run_that_can_explain_nothing_is_refused_before_anything_is_written(
    complete, ready, runs, tmp_path, name, words
):
    folder = ready / name if (ready / name).exists() else runs / name
    with pytest.raises(InputError, match=words):
        complete(run=folder)
    assert not (tmp_path / "out").exists()


def test_a_mean_of_several_draws_has_its_spread_beside_it(complete, ready, runs, tmp_path):
    (one,) = complete(run=ready / "random", explain=False, draws=3, cases=[LACKING])
    (path,) = maps_of(tmp_path / "out", LACKING, "t2f").values()
    assert path.name.endswith("_flair_spread.nii.gz")
    spread, made = read(path).data, read(one.paths["t2f"]).data
    assert spread.max() > 0
    assert not spread[made == 0].all()
    assert receipt_of(one)["draws"] == 3
    assert main(["verify", str(tmp_path / "out")]) == 0
    with pytest.raises(InputError, match="leave --draws out"):
        complete("other", run=runs / "tsf", draws=3)


def test_whether_maps_find_the_errors_is_asked_of_cases_with_the_truth(
    complete, ready, tmp_path, capsys
):
    """A map that is put in the place of the run's own, the error itself, finds it."""
    whole = "Brats18_X_0_1"
    (one,) = complete(missing=["flair"], cases=[whole])
    (path,) = maps_of(tmp_path / "out", whole, "t2f").values()
    real = next(c for c in find_cases(ready / "in") if c.name == whole).images["t2f"]
    table = tmp_path / "errors.csv"
    flags = ["score", ready / "in", tmp_path / "out", "--explanation", "--out", table]
    found = []
    for _ in range(2):
        assert main([str(flag) for flag in flags]) == 0
        rows = rows_of(table)
        assert [(row["case"], row["target"], row["map"]) for row in rows] == [
            (whole, "t2f", "tsem"), (whole, "t2f", "gradient"),
        ]  # fmt: skip
        found.append({key: float(rows[0][key]) for key in rows[0] if "_" in key})
        error = np.abs(read(one.paths["t2f"]).data - read(real).data)
        write_like(real, error, path, dtype=np.float32)
    assert found[0].keys() == {
        "correlation_brain", "auc_brain", "correlation_tumour", "auc_tumour",
    }  # fmt: skip
    assert found[1]["auc_brain"] > 0.99 > found[0]["auc_brain"]
    assert found[1]["correlation_tumour"] > 0.9
    assert "| all | chance |  | 0.000 | 0.500 |" in capsys.readouterr().out
    with pytest.raises(InputError, match="--missing and --explain"):
        rate_explanations(ready / "in", ready / "in")
