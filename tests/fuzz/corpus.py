"""What is mutated: a tiny cohort and all that the programs make of it; a process makes it once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import synth3d
from seg_eval.evaluation import evaluate
from seg_eval.experiment import RunRequest
from seg_eval.segmenter.trust import sealed
from synth3d.cohort import find_cases
from synth3d.files import sha256, write_json
from synth3d.phantom.cohort import make_cohort
from synth3d.training import TrainRequest, record, train_run
from tests.exports import write_export
from tests.fuzz.mutants import nifti, raw, table, values
from tests.seg_eval.conftest import NAMES, FakeMachines, write_case

Mutate = Callable[[bytes, Any], bytes]
CASES = NAMES[:5]
SPLIT = {"train": CASES[:2], "val": CASES[2:3], "test": CASES[3:]}
SETTINGS = {
    "model": {"widths": [4, 8], "blocks": 1, "groups": 2, "stages": 2},
    "data": {"patch": [8, 8, 8], "overlap": [4, 4, 4], "source_dropout": 0.3, "batch": 2,
             "queue": 8, "validation_cases": 1},
    "train": {"steps": 6, "checkpoint_every": 2, "validate_every": 4, "threads": 1,
              "average": 0.9, "learning_rate": 2e-3,
              "pix2pix": {"critic_width": 4, "critic_layers": 1, "adversarial_start": 3}},
}  # fmt: skip
MODEL = {
    "dataset.json": {
        "channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"},
        "labels": {"background": 0, "NCR": 1, "ED": 2, "ET": 3}, "file_ending": ".nii.gz",
    },
    "plans.json": {
        "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "configurations": {
            "3d_fullres": {
                "normalization_schemes": ["ZScoreNormalization"] * 4, "spacing": [1, 1, 1],
                "use_mask_for_norm": [True] * 4, "architecture": {
                    "network_class_name": "unet.PlainConvUNet", "arch_kwargs": {
                        "n_stages": 2, "features_per_stage": [4, 8], "strides": [[1] * 3, [2] * 3],
                        "kernel_sizes": [[3] * 3] * 2, "n_conv_per_stage": [1, 1],
                        "n_conv_per_stage_decoder": [1], "conv_op": "torch.nn.Conv3d",
                        "norm_op": "torch.nn.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-5},
                        "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
                    },
                },
            },
            "3d_more": {"inherits_from": "3d_fullres", "patch_size": [16, 16, 16]},
        },
    },
    "fold_0/debug.json": {"configuration_name": "3d_more"},
}  # fmt: skip


def make(root: Path) -> None:
    """All of it in ``root``, which is new: cohort, tables, dataset, runs, completed, experiment."""
    for seed, name in enumerate(CASES):
        write_case(root / "cohort", name, seed)
    write_json(root / "splits.json", SPLIT)
    write_json(root / "recipe.json", SETTINGS)
    (root / "recipe.toml").write_text(values.to_toml(SETTINGS))
    cells = {"cells": {"a": {"train.steps": 3}, "b": {"model": {"blocks": 2}}}}
    (root / "table.toml").write_text(values.to_toml({"title": "t", "baseline": "a"} | cells))
    cases = find_cases(root / "cohort")
    _write_tables(root, cases)
    make_cohort(root / "phantom", 1, 24, 0)
    _train(root)
    for name in CASES[3:]:
        shutil.copytree(root / "cohort" / name, root / "few" / name)
    run, few = root / "work" / "runs" / "run", root / "few"
    synth3d.complete(run=run, data=few, out=root / "completed", missing=["flair"], device="cpu")
    _write_model(root / "model")
    write_export(root / "segmenter")
    with mock.patch("seg_eval.report.outputs.draw_dice"), \
            mock.patch("seg_eval.report.outputs.draw_scatter"), \
            mock.patch("seg_eval.report.outputs.draw_panel"):  # fmt: skip
        evaluate(experiment(root, root / "work"), FakeMachines().engines())


def experiment(root: Path, work: Path, **more: Any) -> RunRequest:
    """What is asked of ``seg_eval run``."""
    given = {"data": root / "cohort", "splits": root / "splits.json", "arms": ("copy,synthetic",),
             "run": (root / "work" / "runs" / "run",), "name": "toy", "threads": 1}  # fmt: skip
    return RunRequest("flair", work=work, **given | more)


def training(root: Path, work: Path, **more: Any) -> TrainRequest:
    """What is asked of ``synth3d train``."""
    given = {"data": root / "cohort", "splits": root / "splits.json", "device": "cpu",
             "recipe": str(root / "recipe.json"), "name": "run"}  # fmt: skip
    return TrainRequest(work=work, **given | more)


def _write_tables(root: Path, cases: list[Any]) -> None:
    """A table of the cohort, and an nnU-Net raw dataset of the same files."""
    lines, listed = ["case,patient,t1n,t1c,t2w,t2f,seg,labels"], {}
    for case in cases:
        files = [f"cohort/{case.name}/{p.name}" for p in (*case.images.values(), case.label)]
        lines.append(",".join([case.name, case.patient, *files, "brats2018"]))
        listed[case.name] = {"images": [f"../{f}" for f in files[:4]], "label": f"../{files[4]}"}
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    described = MODEL["dataset.json"] | {"labels": {"background": 0, "NCR": 1, "ED": 2, "ET": 4}}
    write_json(root / "dataset" / "dataset.json", described | {"dataset": listed})


def _train(root: Path) -> None:
    """A finished run, and what it was after its first leg, with its resume state."""
    keep, work = record.save_state, root / "work"

    def save_and_copy(path: Path, state: Any) -> None:
        keep(path, state)
        if not (root / "half").exists():
            shutil.copytree(path.parent, root / "half" / "runs" / "run")

    with mock.patch.object(record, "save_state", save_and_copy):
        train_run(training(root, work))
    done = work / "runs" / "run" / "done.json"
    said = json.loads(done.read_text())
    del said["scales_sha256"]  # else no other scales would ever be parsed
    write_json(done, said)


def _write_model(folder: Path) -> None:
    for name, value in MODEL.items():
        write_json(folder / name, value)
    checkpoint = folder / "fold_0" / "checkpoint_final.pth"
    checkpoint.write_bytes(b"no pickle of ours")
    receipt = sealed({"finished": True, "checkpoint_sha256": sha256(checkpoint)})
    write_json(folder / "model.json", receipt)


def mutator_of(path: Path) -> Mutate:
    """What changes a file of that name."""
    by_ending = {
        ".json": values.mutate_json, ".jsonl": values.mutate_lines, ".toml": values.mutate_toml,
        ".csv": table.mutate, ".gz": nifti.mutate,
    }  # fmt: skip
    return by_ending.get(path.suffix, raw.mutate)
