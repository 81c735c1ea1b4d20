"""nnU-Net's split file keeps patients together."""

import json
from pathlib import Path

import pytest
from seg_eval.segmenter.splits import write_nnunet_splits

from synth3d.cohort.cases import Case
from synth3d.errors import InputError


def case(name: str, patient: str) -> Case:
    return Case(name, patient, Path("/nowhere"), {}, None, "brats2023")


def test_one_fold_is_written_as_nnunet_reads_it(tmp_path):
    train = [case("P-00001-000", "1"), case("P-00001-001", "1")]
    write_nnunet_splits(tmp_path / "splits_final.json", train, [case("P-00002-000", "2")])
    assert json.loads((tmp_path / "splits_final.json").read_text()) == [
        {"train": ["P-00001-000", "P-00001-001"], "val": ["P-00002-000"]}
    ]


def test_without_validation_cases_the_training_cases_are_watched(tmp_path):
    write_nnunet_splits(tmp_path / "s.json", [case("P-00001-000", "1")], [])
    assert json.loads((tmp_path / "s.json").read_text())[0]["val"] == ["P-00001-000"]


def test_a_patient_on_both_sides_is_refused(tmp_path):
    with pytest.raises(InputError, match="share patients: P-00001-000 and P-00001-001"):
        write_nnunet_splits(
            tmp_path / "s.json", [case("P-00001-000", "1")], [case("P-00001-001", "1")]
        )
    assert not list(tmp_path.iterdir())


def test_an_empty_training_side_is_refused(tmp_path):
    with pytest.raises(InputError, match="no training case"):
        write_nnunet_splits(tmp_path / "s.json", [], [])
