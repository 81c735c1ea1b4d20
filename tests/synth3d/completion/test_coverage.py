"""On 200 phantoms: intervals cover what they promise, and more inputs leave less uncertainty."""

import dataclasses

import numpy as np
import pytest

import synth3d
from synth3d.cohort import find_cases, write_splits
from synth3d.cohort.splits import Splits
from synth3d.completion import CalibrateRequest, calibrate_run
from synth3d.completion.calibration import measuring
from synth3d.phantom.cohort import make_cohort

LEARNT, HALF = 30, 100

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """30 to learn from, and twice 100 that no training sees; heads of 24 voxels a side."""
    folder = tmp_path_factory.mktemp("phantoms") / "cohort"
    make_cohort(folder, LEARNT + 2 * HALF, size=24, seed=1)
    return folder


@pytest.fixture(scope="module")
def run(phantoms, tmp_path_factory):
    """A small uncertain network, a minute's training, which now and then lacked sequences."""
    names = [case.name for case in find_cases(phantoms)][:LEARNT]
    work = tmp_path_factory.mktemp("work")
    write_splits(work / "splits.json", Splits(tuple(names[:24]), tuple(names[24:])))
    keys = ("data.overlap=[8,8,8]", "data.source_dropout=0.3", "train.l1.uncertain=true",
            "model.blocks=1", "train.validate_every=300")  # fmt: skip
    return synth3d.train(
        data=phantoms, splits=work / "splits.json", target="flair", recipe="phantom",
        framework="l1", model="resunet", widths=(8, 16), patch=(16, 16, 16), steps=300,
        precision="fp32", assign=keys, work=work, name="uncertain", device="cpu", threads=1,
    )  # fmt: skip


def measured(run, phantoms, names, gap=()):
    """Of each patient the errors, spreads and tumour, as ``calibrate`` sees them."""
    request = CalibrateRequest((run.folder,), phantoms, device="cpu").completing
    cases = [dataclasses.replace(c, images={m: p for m, p in c.images.items() if m not in gap})
             for c in find_cases(phantoms, names)]  # fmt: skip
    return [measuring._measured(c, run._maker, ("t2f",), request)["t2f"] for c in cases]


def test_intervals_cover_brain_and_tumour_of_new_patients_within_3_points(run, phantoms, tmp_path):
    """Each half is judged by the other, and both are averaged."""
    names = [case.name for case in find_cases(phantoms)][LEARNT:]
    halves = names[:HALF], names[HALF:]
    shares: dict[tuple[float, str], list[float]] = {}
    for mine, others in (halves, halves[::-1]):
        request = CalibrateRequest(
            (run.folder,), phantoms, cases=tuple(mine), out=tmp_path / "c.json", device="cpu"
        )
        record = calibrate_run(request)
        told = record.calibration("t2f")
        for one in measured(run, phantoms, others):
            for level in record.levels:
                inside = one.error <= told.half_width(one.spread, level)
                shares.setdefault((level, "brain"), []).append(inside.mean())
                if one.tumour.any():
                    shares.setdefault((level, "tumour"), []).append(inside[one.tumour].mean())
        for level, found in record.targets["t2f"].coverage.items():
            assert found["brain"] == pytest.approx(float(level), abs=0.03)
            assert found["tumour"] == pytest.approx(float(level), abs=0.03)
    for (level, region), values in shares.items():
        print(level, region, len(values), np.mean(values))
        assert np.mean(values) == pytest.approx(level, abs=0.03), (level, region)


def test_more_inputs_leave_less_uncertainty_and_less_error(run, phantoms):
    """From T1 alone, T1 and T2, and all three; means over 20 patients."""
    names = [case.name for case in find_cases(phantoms)][LEARNT : LEARNT + 20]
    gaps = (("t1c", "t2w"), ("t1c",), ())
    found = [measured(run, phantoms, names, gap) for gap in gaps]
    for name in ("spread", "error"):
        means = [np.mean([getattr(one, name).mean() for one in some]) for some in found]
        print(name, means)
        assert means[0] > means[1] > means[2], name
