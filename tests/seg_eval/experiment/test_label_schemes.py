"""Whatever integers a cohort uses, its regions are scored as if it had been written in one."""

import json
import shutil
from pathlib import Path

import pytest

from seg_eval.cohort import load_cohort
from seg_eval.evaluation import evaluate
from seg_eval.experiment.request import RunRequest
from synth3d.cohort import MODALITIES, SCHEMES, find_cases
from synth3d.errors import InputError
from synth3d.images.volumes import read_label, write_like

pytestmark = pytest.mark.usefixtures("plain_pictures")
SWAPPED = {
    "background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]
}  # fmt: skip


def recode(path: Path, scheme: str, target: Path) -> None:
    """The toy cohort's label (BraTS 2018) in the integers of another scheme."""
    own = SCHEMES["brats2018"].encode(read_label(path).data)
    write_like(path, SCHEMES[scheme].decode(own), target)


def as_nnunet(cohort: Path, out: Path) -> None:
    """What nnU-Net's own BraTS converter makes of it, under names that say nothing."""
    for number, case in enumerate(find_cases(cohort)):
        for place, modality in enumerate(MODALITIES):
            target = out / "imagesTr" / f"c{number}_{place:04d}.nii.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(case.images[modality], target)
        recode(case.label, "msd", out / "labelsTr" / f"c{number}.nii.gz")
    described = {"channel_names": dict(enumerate(("T1", "T1ce", "T2", "Flair"))),
                 "labels": SWAPPED, "regions_class_order": [1, 2, 3]}  # fmt: skip
    (out / "dataset.json").write_text(json.dumps(described))


def dice(data: Path, work: Path, machines, **settings) -> list[float]:
    """Of every arm, test case and region, without names."""
    names = [case.name for case in find_cases(data)]
    work.mkdir()
    (work / "s.json").write_text(json.dumps({"train": names[:4], "val": [], "test": names[5:]}))
    request = RunRequest("flair", data, work / "s.json", work=work, name="toy", threads=1,
                         arms=("copy",), device="cpu", **settings)  # fmt: skip
    evaluate(request, machines.engines())
    rows = json.loads((work / "eval" / "toy" / "scores" / "copy" / "seed0.json").read_text())
    assert {row["region"] for row in rows} == {"WT", "TC", "ET"}
    return [row["dice"] for row in rows]


def test_a_swapped_dataset_scores_as_if_it_were_written_right(toy_cohort, machines, tmp_path):
    as_nnunet(toy_cohort, tmp_path / "data")
    swapped = dice(tmp_path / "data", tmp_path / "a", machines)
    assert swapped == dice(toy_cohort, tmp_path / "b", machines)
    assert min(swapped) < max(swapped)


def test_a_cohort_of_mixed_schemes_is_scored_case_by_case(own_cohort, machines, tmp_path):
    right = dice(own_cohort, tmp_path / "a", machines)
    for case in find_cases(own_cohort)[::2]:
        recode(case.label, "brats2023", case.label)
    assert dice(own_cohort, tmp_path / "b", machines) == right
    config = json.loads((tmp_path / "b" / "eval" / "toy" / "config.json").read_text())
    assert {text: len(names) for text, names in config["labels"].items()} == {
        "1 necrosis, 2 oedema, 4 enhancing": 4, "1 necrosis, 2 oedema, 3 enhancing": 3
    }  # fmt: skip


def test_a_declared_scheme_is_passed_on_and_another_experiment(own_cohort, machines, tmp_path):
    names = [case.name for case in find_cases(own_cohort)]
    split = tmp_path / "s.json"
    split.write_text(json.dumps({"train": names[:4], "val": names[4:5], "test": names[5:]}))
    told = {"data": own_cohort, "splits": split, "work": tmp_path / "w", "threads": 1}
    told |= {"missing": "flair", "name": "toy", "device": "cpu"}
    evaluate(RunRequest(**told, labels="brats2018", arms=("copy", "synthetic")), machines.engines())
    (training,) = [command for command in machines.commands if command[0] == "train"]
    assert training[training.index("--labels") + 1] == "brats2018"
    with pytest.raises(InputError, match="another experiment .labels is"):
        evaluate(RunRequest(**told, arms=("copy",)), machines.engines())


def test_labels_without_tissues_are_refused(own_cohort, tmp_path):
    for case in find_cases(own_cohort):
        write_like(case.label, read_label(case.label).data > 0, case.label)
        for path in (*case.images.values(), case.label):
            target = path.parent.parent / path.name.replace("Brats18_TOY", "study")
            path.rename(target)
    names = [case.name for case in find_cases(own_cohort)]
    (tmp_path / "s.json").write_text(json.dumps({"train": names[:4], "test": names[4:]}))
    with pytest.raises(InputError, match="may be the whole tumour or one tissue of it"):
        load_cohort(own_cohort, tmp_path / "s.json")
