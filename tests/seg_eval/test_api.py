"""`import seg_eval`: a function to run an experiment and one to read what came of it."""

import inspect
import json

import pytest

import seg_eval
from seg_eval import evaluation
from seg_eval.experiment.request import RunRequest
from synth3d.errors import InputError


def test_it_offers_two_names_and_run_has_the_settings_of_a_request():
    assert seg_eval.__all__ == ["read_summary", "run"]
    assert [*inspect.signature(seg_eval.run).parameters] == [*RunRequest.__dataclass_fields__]
    with pytest.raises(AttributeError, match="seg_eval"):
        _ = seg_eval.walk


@pytest.mark.usefixtures("plain_pictures")
def test_an_experiment_is_run_and_read(toy_request, machines, monkeypatch, folder):
    monkeypatch.setattr(evaluation, "real_engines", lambda *given: machines.engines())
    asked = toy_request("--arms", "copy,plumbing")
    found = seg_eval.run(
        "flair", asked.data, asked.splits, work=asked.work, name="toy", arms=asked.arms, threads=1
    )
    assert found == folder
    summary = seg_eval.read_summary(found)
    assert summary["plumbing"]["passed"]
    assert [arm["name"] for arm in summary["arms"]] == ["full", "zero", "copy", "plumbing"]
    with pytest.raises(InputError, match="--missing"):
        seg_eval.run(missing="")


@pytest.mark.parametrize("content", [{}, [], {"schema": 1}, {"schema": "2"}])
def test_what_is_no_summary_of_this_version_is_refused(tmp_path, content):
    with pytest.raises(InputError, match="is not a finished experiment"):
        seg_eval.read_summary(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="run the experiment again"):
        seg_eval.read_summary(tmp_path)
