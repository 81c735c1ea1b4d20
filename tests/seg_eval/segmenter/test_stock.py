"""`seg_eval paths` prints what a shell can take over."""

import os
import subprocess

import pytest

import nnunet_plans
from seg_eval.cli import main
from seg_eval.segmenter.stock import export_lines, paths
from synth3d.errors import InputError

OURS = os.path.dirname(nnunet_plans.__file__)  # noqa: PTH120


@pytest.fixture(autouse=True)
def no_trainers_of_the_user(monkeypatch):
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)


def evaluated(text: str, name: str) -> str:
    command = f'{text}\nprintf %s "${name}"'
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout


def test_the_trainers_are_always_there(capsys):
    assert paths() == {"nnUNet_extTrainer": OURS}
    assert main(["paths"]) == 0
    assert evaluated(capsys.readouterr().out, "nnUNet_extTrainer") == OURS


def test_the_users_trainers_stay_and_nothing_is_listed_twice(monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join(["/mine", OURS]))
    assert paths()["nnUNet_extTrainer"] == os.pathsep.join([OURS, "/mine"])


def test_a_segmenters_folders_survive_a_shell(tmp_path):
    odd = tmp_path / "it's a $HOME of brains"
    for name in ("raw", "cpu-mini/preprocessed"):
        (odd / name).mkdir(parents=True)
    for given in (odd, odd / "cpu-mini"):
        text = export_lines(paths(given))
        assert evaluated(text, "nnUNet_raw") == str(odd / "raw")
        assert evaluated(text, "nnUNet_preprocessed") == str(odd / "cpu-mini" / "preprocessed")
        assert evaluated(text, "nnUNet_results") == str(odd / "cpu-mini" / "results")


def test_a_folder_without_one_preset_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no segmenter"):
        paths(tmp_path)
    (tmp_path / "a" / "preprocessed").mkdir(parents=True)
    with pytest.raises(InputError, match="no raw data"):
        paths(tmp_path)
    (tmp_path / "b" / "preprocessed").mkdir(parents=True)
    with pytest.raises(InputError, match="several presets; choose .*a or .*b"):
        paths(tmp_path)
