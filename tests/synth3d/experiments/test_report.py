"""Worked examples by hand: levels, paired intervals, the report's sentences and files."""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth3d.experiments.report import render, write_report
from synth3d.experiments.results import curves, difference, level, summarise, verdict
from synth3d.experiments.tables import Cell, Printed

IXI = "IXI T1,T2→PD"
PATIENTS = ["p1", "p2", "p3"]
SCORE = "psnr_brain@real-scale"


def test_mean_and_sd_over_seeds_by_hand():
    scores = np.array([[20.0, 22.0, 24.0], [21.0, 23.0, 28.0]])  # seed means 22 and 24
    # ((22 − 23)² + (24 − 23)²) / (2 − 1)
    assert level(scores) == {"mean": 23, "sd": pytest.approx(2**0.5)}
    assert level(scores[:1])["sd"] is None
    spread_between_cases = np.array([[10.0, 30.0], [30.0, 10.0]])
    assert level(spread_between_cases)["sd"] == 0


def test_difference_by_hand():
    base = np.array([[20.0, 22.0, 24.0], [21.0, 23.0, 25.0]])
    found = difference(base + [[1, 2, 3], [-1, -1, -1]], base, PATIENTS)
    assert (found["mean"], found["positive"], found["seeds"]) == (0.5, 1, 2)
    # Over two seeds by patient 0, 0.5 and 1: a standard error of 0.5 / sqrt(3), Student's 4.3027.
    assert found["low"] == pytest.approx(0.5 - 4.3027 * 0.288675, abs=1e-4)
    assert found["high"] == pytest.approx(0.5 + 4.3027 * 0.288675, abs=1e-4)
    infinite = difference(np.array([[np.inf, 1.0]]), np.zeros((1, 2)), ["a", "b"])
    assert np.isnan([infinite["low"], infinite["high"]]).all()


@given(
    st.integers(1, 4), st.integers(1, 6), st.floats(-3, 3, width=32),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_laws_of_the_difference(seeds, cases, shift, seed):
    draw = np.random.default_rng(seed)
    a, b = draw.normal(20, 2, (2, seeds, cases))
    patients = [f"p{i % 3}" for i in range(cases)]

    def ends(one, other) -> list[float]:
        found = difference(one, other, patients)
        return [found["mean"], found["low"], found["high"]]

    mean, low, high = found = ends(a, b)
    assert low <= high
    assert ends(b, a)[0] == pytest.approx(-mean)
    assert ends(a + shift, b) == pytest.approx([value + shift for value in found], abs=1e-9)
    common = draw.normal(0, 5, (seeds, cases))  # what cell and baseline share cancels
    assert ends(a + common, b + common) == pytest.approx(found, abs=1e-9)
    assert ends(a, a) == [0, 0, 0]


@pytest.mark.parametrize(("seeds", "patients"), [(8, 20), (3, 6)])
def test_the_interval_covers_a_known_difference(seeds, patients):
    """93.7 and 94.3 % of intervals hold the truth; plain percentile intervals 90.8 and 87.8 %."""
    draw, hits, trials = np.random.default_rng(0), 0, 600
    names = [f"p{i}" for i in range(patients)]
    for _ in range(trials):
        gaps = (  # a part of the seed, one of the patient, and one of both
            0.5
            + draw.normal(0, 0.3, (seeds, 1))
            + draw.normal(0, 0.4, (1, patients))
            + draw.normal(0, 0.2, (seeds, patients))
        )
        found = difference(gaps, np.zeros_like(gaps), names)
        hits += found["low"] <= 0.5 <= found["high"]
    assert 0.925 <= hits / trials <= 0.98


CELLS = [
    Cell("conv", {"model.name": "resunet"}, printed={IXI: Printed(34.38, 96.34, 1.01)}),
    Cell("gr", {"m": "gr"}, {}, "conv", printed={IXI: Printed(34.85, gain=0.47, mark="≈")}),
    Cell("ca", {"m": "ca"}, {}, "conv"),
    Cell("cagr", {"m": "cagr"}, {}, "conv"),
]  # fmt: skip


def scored(*seeds: list[float | None], parameters: int = 1000) -> dict:
    """What the scoring program writes, with PSNR ``seeds[k][i]`` for seed k and case i."""

    def row(i: int, psnr: float | None) -> dict:
        scores = {SCORE: psnr, "ssim_brain@real-scale": 0.5, "mae_brain@real-scale": 0.1}
        scores |= {"psnr_volume@paper-agi": psnr, "ssim_volume@paper-agi": 0.9,
                   "mae_volume@paper-agi": 0.012}  # fmt: skip
        return {"case": f"c{i}", "patient": PATIENTS[i], "modality": "t2f", "scores": scores}

    return {
        k: {
            "rows": [row(i, psnr) for i, psnr in enumerate(values)],
            "parameters": parameters,
            "run": f"runs/{k}",
            "training": {"steps": 100, "seconds": 50.0 + 10 * k},
        }
        for k, values in enumerate(seeds)
    }


RESULTS = {
    "conv": scored([20.0, 22.0, 24.0], [21.0, 23.0, 25.0]),
    "gr": scored([20.5, 22.5, 24.5], [21.5, 23.5, 25.5]),
    "ca": scored([19.0, 22.0, 25.0], [22.0, 23.0, 24.0]),
    "cagr": scored([19.0, 21.0, 23.5]),
}


def summary(
    results=RESULTS, cells=CELLS, seeds=(0, 1), conventions=("real-scale", "paper-agi")
) -> dict:
    found = summarise(cells, results, conventions, seeds)
    about = {"title": "Parts", "axis": "", "about": "2 seeds", "notes": ["A note."]}
    about |= {"paper": "paper-agi", "printed_alone": {}, "apart": False}
    return found | about | {"conventions": list(conventions), "failures": {}}


def test_the_report_by_hand():
    text = render(summary())
    papers = {line.split("|")[1].strip(): line for line in text.splitlines() if "|" in line}
    table = text.split("The same under")[0]
    rows = {
        line.split("|")[1].strip(): [part.strip() for part in line.split("|")[2:-1]]
        for line in table.splitlines() if line.startswith("|")
    }  # fmt: skip
    assert rows["cell"][:3] == ["PSNR brain (dB)", "Δ", "SSIM brain"]
    assert rows["conv"][:2] == ["22.50 ± 0.71", ""]  # seed means 22 and 23
    assert rows["gr"][:2] == ["23.00 ± 0.71", "+0.50 [+0.50, +0.50] (2/2)"]
    assert rows["cagr"][0] == "21.17"
    assert rows["cagr"][1].startswith("-0.83 [-1.39, +0.24] (0/1)")
    assert rows["conv"][-3:] == ["1,000", "0.55", "2"]  # 50 s and 60 s for 100 steps
    assert "Better than its baseline: gr (+0.50 dB [+0.50, +0.50] against conv)." in text
    assert "Worse than its baseline: none." in text
    (open_,) = re.findall("Not told apart from its baseline: (.*)", text)
    assert "ca (+0.00 dB" in open_
    assert "cagr (-0.83 dB [-1.39, +0.24] against conv)" in open_
    assert "34.38 / 96.34 / 1.01" in papers["conv"]
    # What the paper prints and how much more than its baseline; SSIM in per cent, MAE x 100.
    for shown in ("≈34.85", "+0.47", "90.00 ± 0.00", "1.20 ± 0.00"):
        assert shown in papers["gr"]
    few, one_seed, lacking = (line for line in text.splitlines() if line.startswith("warning: "))
    assert few.startswith("warning: 3 patients")
    assert "one seed" in one_seed
    assert lacking.endswith("cagr (seed 1)")
    assert "A note." in text


def test_rows_that_only_a_paper_has_stand_beside_ours():
    task, cell = "BraTS 2021", Cell("tsf-2", {}, printed={"BraTS 2021": Printed(28.3, above=18.8)})
    results = {"tsf-2": scored([20.0, 22.0, 24.0])}
    for row in results["tsf-2"][0]["rows"]:
        row["scores"] |= {
            f"{kind}@paper-tsf": value
            for kind, value in {
                "psnr_above": 15.0,
                "psnr_volume": 25.0,
                "lpips_volume": 9.5,
            }.items()
        }
    found = summary(results, [cell], [0], ["real-scale", "paper-tsf"])
    numbers = dataclasses.asdict(Printed(28.3, 0.88, lpips=9.87))
    found |= {"paper": "paper-tsf", "apart": True, "printed_alone": {"resvit-2": {task: numbers}}}
    lines = [line for line in render(found).split("paper-tsf:")[1].splitlines() if "|" in line]
    head, _, ours, alone = ([part.strip() for part in line.split("|")[1:-1]] for line in lines)
    assert head == ["cell", "PSNR TSEM > P99 (dB)", "Δ", "PSNR volume (dB)", "Δ", "LPIPS volume",
                    "Δ", "paper: BraTS 2021"]  # fmt: skip
    assert ours == ["tsf-2", "15.00", "", "25.00", "", "9.5000", "", "18.8 / 28.3"]
    assert alone == ["resvit-2", *["–"] * 6, "28.3 / 0.880 / 9.87"]


def test_a_cell_without_its_baseline_has_no_difference():
    found = summary({"gr": RESULTS["gr"]})
    assert found["cells"][0]["scores"][SCORE]["difference"] is None
    assert found["missing"] == [
        "conv-seed0", "conv-seed1", "ca-seed0", "ca-seed1", "cagr-seed0", "cagr-seed1",
    ]  # fmt: skip
    assert "Better than its baseline: none." in render(found)
    assert "conv, gr, ca, cagr" in render(summary({}))  # nothing scored is a report too


def test_a_case_without_a_tumour_is_left_out_of_that_score_alone():
    mine, theirs = scored([1.0, 2.0, 3.0]), scored([1.0, 2.0, 2.0])
    for value in (mine, theirs):
        for i, row in enumerate(value[0]["rows"]):
            row["scores"]["psnr_tumour@real-scale"] = [10.0, None, 12.0][i]
    found = summarise(CELLS[:2], {"conv": theirs, "gr": mine}, ["real-scale"], [0])
    scores = found["cells"][1]["scores"]
    assert scores["psnr_tumour@real-scale"]["mean"] == 11
    assert (scores["psnr_tumour@real-scale"]["rows"], scores[SCORE]["rows"]) == (2, 3)


def test_the_files_say_the_same(tmp_path):
    found = summary()
    rows = [{"cell": "conv", "case": "c0", SCORE: 20.0, "x": None}, {"cell": "gr"}]
    text = write_report(tmp_path, found, rows)
    assert (tmp_path / "table.md").read_text() == text
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    row = next(r for r in rows if r["name"] == "gr" and r["score"] == SCORE)
    assert (float(row["mean"]), float(row["difference"]), row["against"]) == (23, 0.5, "conv")
    value = json.loads((tmp_path / "table.json").read_text())
    assert value["cells"][1]["scores"][SCORE]["difference"]["low"] == 0.5
    assert (tmp_path / "scores.csv").read_text().splitlines() == [
        "cell,case,psnr_brain@real-scale,x", "conv,c0,20.0,", "gr,,,",
    ]  # fmt: skip
    assert not (tmp_path / "curve.png").exists()


def test_a_curve_is_drawn(tmp_path):
    cells = [
        Cell(f"{name}-{level}", {}, {}, against and f"{against}-{level}", name, level)
        for level in (0, 1) for name, against in (("resunet", ""), ("agi-net", "resunet"))
    ]  # fmt: skip
    results = {
        "resunet-0": scored([20.0, 21, 22], [20.5, 21, 22]),
        "agi-net-0": scored([20.2, 21, 22], [20.5, 21.4, 22]),
        "resunet-1": scored([18.0, 19, 20], [18.5, 19, 20]),
        "agi-net-1": scored([19.0, 20, 21], [19.5, 20, 21]),
    }
    found = summary(results, cells) | {"axis": "shift (voxels)"}
    lines = curves(found)
    assert list(lines) == ["resunet", "agi-net"]
    assert lines["agi-net"]["level"] == [0, 1]
    assert lines["resunet"]["mean"][1] == pytest.approx(19 + 1 / 12)
    assert lines["resunet"]["difference"] == [None, None]
    assert lines["agi-net"]["difference"][1]["mean"] == pytest.approx(1)
    text = write_report(tmp_path, found, [])
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in text.splitlines()]
    rows = rows[rows.index(["PSNR brain (dB); Δ", "0", "1"]) :][:4]
    assert rows[2][::2] == ["resunet", "19.08 ± 0.12"]
    assert rows[3][2].startswith("20.08 ± 0.12; +1.00 [+1.00, +1.00] (2/2)")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_verdict_needs_the_whole_interval():
    def row(low: float, high: float) -> dict:
        gap = {"mean": (low + high) / 2, "low": low, "high": high}
        return {"name": "x", "against": "b", "scores": {SCORE: {"difference": gap}}}

    assert verdict([row(0.01, 0.2)], SCORE)[0].startswith("Better than its baseline: x")
    assert verdict([row(-0.2, -0.1)], SCORE)[1].startswith("Worse than its baseline: x")
    for low, high in ((0.0, 0.2), (0.001, 0.004), (-0.2, -0.003)):
        assert verdict([row(low, high)], SCORE)[2].startswith("Not told apart from its baseline: x")
