"""A sequence that is there but poor: what a run that restores it is, and what it is shown."""

import pytest

from synth3d.data.options import DataConfig, DegradeConfig, MisalignConfig
from synth3d.data.task import Task
from synth3d.errors import InputError
from synth3d.training.config import RunConfig

ALL = ("t1n", "t1c", "t2w", "t2f")
POOR = {"sources": ALL, "degrade": DegradeConfig("t2f", (1, 1, 4))}


def test_a_degraded_source_that_is_a_target_is_poor():
    task = RunConfig(**POOR).task
    assert task == Task(3, ALL, ("t2f",), "fixed", ("t2f",), (1, 1, 4))
    flat = DataConfig(patch=(16, 16), overlap=(0, 0))
    assert RunConfig(**POOR, dim=2, data=flat).task.ratio == (1, 4)
    named = RunConfig(sources=("T1", "FLAIR"), targets=("flair",), degrade=POOR["degrade"])
    assert (named.task.poor, named.sources) == (("t2f",), ("t1n", "t2f"))
    assert named.words == "t1n+t2f 1x1x4 as coarse -> t2f"
    # One that is no target is an experiment, as ever.
    assert RunConfig(degrade=DegradeConfig("t2w", (1, 1, 4))).task.poor == ()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"degrade": DegradeConfig("t2f")}, "sources and targets must be disjoint"),
        ({"degrade": DegradeConfig("t1c", (4, 1, 1))}, "sources and targets must be disjoint"),
        ({"sources": ("t2f", "t1n")}, "poor must be the last of"),
        ({"degrade": DegradeConfig("t2f", (1, 1, 4), when="test_only")}, "degrade.when must be tr"),
        ({"mode": "any", "targets": ALL}, "degrade.source must be left out where mode is any"),
        ({"misalign": MisalignConfig("t2f", 2.0)}, "misalign.source must be another source than"),
        ({"data": DataConfig(misregistration=2.0)}, "data.misregistration must be 0 where"),
        ({"data": DataConfig(common_grid="t2f")}, "data.common_grid must be another sequence"),
        (
            {"data": DataConfig((48, 48, 40)), "degrade": DegradeConfig("t2f", (1, 1, 16))},
            r"data.patch\[x\] must be a multiple of 16, as degrade.ratio has it, got 40",
        ),
    ],
)
def test_what_cannot_be_restored_is_refused_by_its_key(settings, words):
    with pytest.raises(InputError, match=words):
        RunConfig(**{**POOR, **settings})
