"""An exported run: the same pictures, a card that hubs read, and nothing of whoever trained it."""

import shutil

import huggingface_hub
import pytest

import synth3d
from synth3d.cli import main
from synth3d.cohort import digest_of_names
from synth3d.errors import InputError
from synth3d.files import read_json, sha256, write_json


def export(ready, out, *words, run="flair", to="folder"):
    return main(["export", str(ready / run), "--to", to, str(out), *map(str, words)])


def contents_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_an_exported_run_is_the_run(ready, tmp_path, capsys):
    """Not only its pictures: a cohort that the run has completed needs nothing done again."""
    assert export(ready, tmp_path / "model") == 0
    expected = {"README.md", "config.json", "done.json", "model.safetensors", "scales.json"}
    assert contents_of(tmp_path / "model") == expected
    how = {"data": ready / "in", "out": tmp_path / "out", "cases": ["Phantom-00000-000"]}
    synth3d.complete(run=ready / "flair", device="cpu", **how)
    again = synth3d.complete(run=tmp_path / "model", device="cpu", **how)
    assert [one.state for one in again] == ["done"]
    assert export(tmp_path, tmp_path / "twice", run="model") == 0
    for name in expected - {"README.md"}:
        assert sha256(tmp_path / "twice" / name) == sha256(tmp_path / "model" / name)


def test_a_run_that_restores_goes_out_as_a_folder_alone(ready, write_run, tmp_path, capsys):
    poor = {"source": "t2f", "ratio": [4, 1, 1]}
    write_run(tmp_path / "poor", sources=["t1n", "t2w", "t2f"], degrade=poor)
    shutil.copy(ready / "flair" / "cohort.json", tmp_path / "poor")
    done = read_json(tmp_path / "poor" / "done.json")
    write_json(tmp_path / "poor" / "done.json", done | {"validation": {"psnr": 20.0}, "steps": 7})
    for to in ("monai", "brasyn"):
        assert export(tmp_path, tmp_path / to, run="poor", to=to) == 2
        assert f"restores t2f, which is there, and --to {to} is for" in capsys.readouterr().err
    assert export(tmp_path, tmp_path / "model", run="poor") == 0
    card = (tmp_path / "model" / "README.md").read_text()
    assert "a scan of it with voxels 4x1x1 times as long, and out of t1n, t2w" in card
    assert "--out OUT --restore t2f\n" in card


def test_by_whom_a_run_was_taught_goes_out_and_whom_that_saw_does_not(
    ready, write_run, write_segmenter, tmp_path
):
    """In the card, in the model and in the receipts of what either of them completes."""
    channels = ["t1n", "t1c", "t2w", "t2f"]
    export_of = write_segmenter(tmp_path / "segmenter", channels=channels)
    coupling = {"segmenter": str(export_of), "label": 0.5}
    run = write_run(tmp_path / "taught", train={"framework": "l1", "coupling": coupling})
    write_json(run / "done.json", read_json(run / "done.json") | {"validation": {}, "steps": 7})
    teacher = {"weights_sha256": "1" * 64, "checkpoint_sha256": "2" * 64, "seed": 7,
               "cases": ["secret-9"], "origin": "T__P-seed7__3d_fullres"}  # fmt: skip
    cohort = read_json(ready / "flair" / "cohort.json")
    write_json(run / "cohort.json", cohort | {"coupled": [teacher]})
    assert export(tmp_path, tmp_path / "model", run="taught") == 0
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| coupled to | a segmenter, which must not judge it: T__P-seed7__3d_fullres, " in card
    shutil.rmtree(export_of)
    for folder in (run, tmp_path / "model"):
        out, case = tmp_path / f"by-{folder.name}", "Phantom-00000-000"
        synth3d.complete(run=folder, device="cpu", data=ready / "in", out=out, cases=[case])
        (told,) = read_json(out / case / f"{case}.receipt.json")["taught_by"]
        assert (told["seed"], told["checkpoint_sha256"]) == (7, "2" * 64)
        assert told["cases_sha256"] == digest_of_names(["secret-9"])
        assert told["origin"] == "T__P-seed7__3d_fullres"
        assert "cases" not in told
    done = (tmp_path / "model" / "done.json").read_text()
    write_json(tmp_path / "model" / "done.json", read_json(tmp_path / "model" / "done.json")
               | {"taught_by": [{"seed": "x"}]})  # fmt: skip
    assert "secret" not in done
    with pytest.raises(InputError, match="taught_by|done.json"):
        synth3d.load_run(tmp_path / "model")


@pytest.mark.parametrize("to", ["folder", "monai", "brasyn"])
def test_nothing_tells_who_was_trained_on_or_where(ready, tmp_path, to):
    assert export(ready, tmp_path / "out", to=to) == 0
    texts = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    private = (b"secret-", b"31415", b"mchnhf", str(tmp_path).encode(), str(ready).encode())
    assert not [word for word in private for text in texts if word in text]


def test_a_hub_reads_the_card(ready, tmp_path):
    named = ("--license", "cc-by-nc-4.0", "--dataset", 'BraTS "2023": GLI', "--author", "A: B")
    assert export(ready, tmp_path / "model", *named) == 0
    card = huggingface_hub.ModelCard.load(tmp_path / "model" / "README.md")
    assert card.data.license == "cc-by-nc-4.0"
    assert card.data.library_name == "synth3d"
    assert {one.metric_type: one.metric_value for one in card.data.eval_results} == {
        "psnr": 21.5, "ssim": 0.75, "mae": 0.0625
    }  # fmt: skip
    assert {one.dataset_name for one in card.data.eval_results} == {'BraTS "2023": GLI'}
    for fact in ("3 of 2 patients", "1 × 1 × 2.5", "t1n, t1c, t2w", "**t2f**", "not for diagnosis"):
        assert fact in card.text


@pytest.mark.parametrize("noted", [True, False])
def test_a_card_says_what_the_run_was_begun_from(ready, tmp_path, noted):
    """How many cases that was trained on, not who; and an export of the export says the same."""
    run = shutil.copytree(ready / "flair", tmp_path / "begun")
    config, cohort = read_json(run / "config.json"), read_json(run / "cohort.json")
    begun = {"start": "/home/mchnhf/runs/seq2seq", "start_sha256": "0" * 64}
    write_json(run / "config.json", config | {"train": config["train"] | begun})
    before = {"train": [f"secret-{n}" for n in range(5)], "val": ["secret-8"]}
    train = {"train": ["Phantom-00000-000"]}
    write_json(run / "cohort.json", cohort | train | ({"seen_before": before} if noted else {}))
    told = "| begun from | a run trained on cases: 5 of 5 patients; 1 for validation |"
    if not noted:
        told = "| begun from | another run, trained on cases that are not known |"
    for source, out in (("begun", "model"), ("model", "twice")):
        assert export(tmp_path, tmp_path / out, run=source) == 0
        card = (tmp_path / out / "README.md").read_text()
        assert told in card
        assert "1 of 1 patients" in card
        assert "simulated heads" not in card
        texts = [path.read_bytes() for path in (tmp_path / out).iterdir()]
        assert not [text for text in texts if b"secret-" in text or b"mchnhf" in text]


def test_a_card_does_not_guess_a_licence_or_a_dataset(ready, tmp_path):
    assert export(ready, tmp_path / "model") == 0
    card = huggingface_hub.ModelCard.load(tmp_path / "model" / "README.md")
    assert (card.data.license, card.data.license_name) == ("other", "not-stated")
    assert "not stated" in card.data.eval_results[0].dataset_name


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("in", "--to", "folder", "OUT"), "not a run folder"),
        (("flair", "--to", "folder", "t1"), "already there"),
        (("flair", "--to", "folder", "OUT", "--license", "all mine"), "--license"),
        (("flair", "--to", "folder", "OUT", "--also", "t1"), "--also"),
        (("drawn", "--to", "monai", "OUT"), "diffusion"),
        (("flair", "--also", "drawn", "--to", "brasyn", "OUT"), "both make t2f"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    ready, monkeypatch, capsys, words, told
):
    monkeypatch.chdir(ready)
    before = contents_of(ready)
    assert main(["export", *words]) == 2
    assert told in capsys.readouterr().err
    assert contents_of(ready) == before


def test_weights_that_were_swapped_or_doubled_are_refused(ready, tmp_path, capsys):
    assert export(ready, tmp_path / "model") == 0
    weights = tmp_path / "model" / "model.safetensors"
    flags = ["--data", str(ready / "in"), "--out", str(tmp_path / "out"), "--dry-run"]
    words = ["complete", "--run", str(tmp_path / "model"), "--device", "cpu", *flags]
    extra = tmp_path / "model" / "weights.safetensors"
    extra.write_bytes(weights.read_bytes())
    assert main(words) == 2
    assert "one file of weights" in capsys.readouterr().err
    extra.unlink()
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert main(words) == 2
    assert "SHA-256" in capsys.readouterr().err
