"""Runs that know two sequences each, and a cohort of which every case lacks one."""

import shutil

import pytest

import synth3d
from synth3d.files import read_json, write_json

LACKING = ("t2f", "t1n", "t2f")
SCORES = {"psnr": 21.5, "ssim": 0.75, "mae": 0.0625}


@pytest.fixture(scope="package")
def ready(phantom_cohort, write_run, tmp_path_factory):
    """``in``: three cases that lack one sequence each; runs ``flair``, ``t1`` and ``drawn``."""
    root = tmp_path_factory.mktemp("export")
    for case, lacking in zip(synth3d.find_cases(phantom_cohort), LACKING, strict=False):
        gone = shutil.ignore_patterns(f"*{lacking}.nii.gz")
        shutil.copytree(case.folder, root / "in" / case.name, ignore=gone)
    pgan = {"framework": "l1", "pgan": {"perceptual_weights": "/home/mchnhf/vgg16.pth"}}
    write_run(root / "flair", train=pgan)
    write_run(root / "t1", sources=["t1c", "t2w", "t2f"], targets=["t1n"])
    write_run(root / "drawn", train={"framework": "ddpm", "ddpm": {"sampling_steps": 2}})
    for name in ("flair", "t1", "drawn"):
        more = {"data_folder": "/home/mchnhf/BraTS", "validation": SCORES, "steps": 7}
        more |= {"orientations": ["LPS"], "spacings_mm": [[1.0, 1.0, 2.5]]}
        write_json(root / name / "done.json", read_json(root / name / "done.json") | more)
        cohort = {"data_folder": "/home/mchnhf/BraTS", "train": [], "val": ["secret-7"]}
        train = ["BraTS-GLI-31415-000", "BraTS-GLI-31415-001", "secret-9"]
        write_json(root / name / "cohort.json", cohort | {"train": train, "test": []})
    return root
