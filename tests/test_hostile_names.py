"""Every program that writes, given names that lead elsewhere: nothing happens."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from seg_eval.cli import main as seg_eval
from synth3d.cli import main as synth3d
from synth3d.images import write_new

SCRIPTS = Path(__file__).parents[1] / "scripts"
NAMES = ["../../leaves", "/tmp/absolute", "..", "a\0b", "a\nerror: forged", "\x1b[2Jx", "\ud800",
         "--overwrite", "CON", "a:b", "back\\slash", ".hidden", "x" * 300]  # fmt: skip
PROGRAMS = [
    "synth3d complete --plumbing --missing flair --data {data} --out {out}",
    "synth3d complete --plumbing --missing flair --data {data} --out {out} --format nnunet",
    "synth3d train --data {data} --work {out}",
    "synth3d ablate components --data {data} --work {out}",
    "seg_eval run --missing flair --data {data} --work {out}",
    "seg_eval run --missing flair --data {data} --work {out} --arms copy,ridge",
    "convert_brats_to_nnunet {data} {out}",
    "convert_brats_to_nnunet {data} {out} --link",
    "convert_brats_to_nnunet {data} {out} --copy",
    "convert_nnunet_to_brats {data}/labelsTr {data} {out} --codes 1,2,3",
    "convert_ixi_to_nnunet {data} {out} --channels t1 t2 flair",
]
FLAGS = [
    "synth3d train --data {good} --work {out} --name NAME",
    "synth3d ablate components --data {good} --work {out} --name NAME",
    "seg_eval run --missing flair --data {good} --work {out} --name NAME",
    "seg_eval run --missing flair --data {good} --work {out} --completed NAME={good}",
]


def run(line, **places):
    program, *rest = line.format(**places).split(" ")
    if program in ("synth3d", "seg_eval"):
        return {"synth3d": synth3d, "seg_eval": seg_eval}[program](rest)
    spec = importlib.util.spec_from_file_location(program, SCRIPTS / f"{program}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(rest)


@pytest.fixture(scope="module")
def channels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voxels")
    voxels = np.arange(1, 513, dtype=np.int16).reshape(8, 8, 8)
    for number in range(4):
        write_new(folder / f"{number}.nii.gz", voxels + number, np.eye(4), np.int16)
    write_new(folder / "label.nii.gz", voxels % 4, np.eye(4), np.uint8)
    return folder


def cohort(folder, channels, names):
    folder.mkdir(parents=True)
    (folder / "labelsTr").symlink_to(channels)
    listed = {name: {"images": [str(channels / f"{n}.nii.gz") for n in range(4)],
                     "label": str(channels / "label.nii.gz")} for name in names}  # fmt: skip
    described = {"channel_names": {"0": "T1", "1": "T1Gd", "2": "T2", "3": "FLAIR"},
                 "file_ending": ".nii.gz", "dataset": listed}  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def everything(root):
    return sorted(str(path) for path in root.rglob("*"))


@pytest.mark.parametrize("line", PROGRAMS)
def test_no_program_writes_where_the_name_of_a_case_says(tmp_path, channels, capsys, line):
    for number, name in enumerate(NAMES):
        root = tmp_path / str(number)
        data = cohort(root / "in", channels, ["good-1", name, "good-2", "good-3"])
        before = everything(root)
        assert run(line, data=data, out=root / "deep" / "er" / "out") == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("error: ")
        assert said.isprintable()
        assert everything(root) == before
        assert not list(Path("/tmp").glob("absolute*"))


@pytest.mark.parametrize("line", FLAGS)
def test_no_program_writes_where_a_flag_names_another_folder(tmp_path, channels, capsys, line):
    good = cohort(tmp_path / "in", channels, [f"good-{n}" for n in range(5)])
    before = everything(tmp_path)
    for name in ("../../leaves", "/tmp/absolute", "..", "a\nb", "CON", "a:b", ".hidden"):
        assert run(line.replace("NAME", name), good=good, out=tmp_path / "out") == 2
        assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: ")
        assert everything(tmp_path) == before
