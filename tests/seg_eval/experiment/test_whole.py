import csv
import html
import json

from seg_eval.evaluation import report

ARMS = ("full", "zero", "copy", "template", "ridge", "boosted", "agi", "plumbing")


def test_a_whole_experiment_leaves_its_tables_and_pictures(run_toy, folder, capsys):
    assert run_toy() == 0
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * len(ARMS) * 3
    assert {row["arm"] for row in rows} == set(ARMS)
    summary = json.loads((folder / "summary.json").read_text())
    whole = {name: cell["dice"] for name, cell in summary["regions"]["WT"]["arms"].items()}
    assert whole["full"] > 0.9
    assert whole["zero"] == 0
    assert whole["plumbing"] == whole["full"]
    assert summary["plumbing"]["passed"]
    assert summary["regions"]["WT"]["arms"]["ridge"]["recovery"]["value"] > 0.8
    assert set(summary["images"]) == {"copy", "template", "ridge", "boosted", "agi", "plumbing"}
    assert (
        summary["images"]["ridge"]["psnr_brain@own-scale"]
        > summary["images"]["copy"]["psnr_brain@own-scale"]
    )
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert len(lines) + len(printed.err.splitlines()) <= 60
    assert lines[-1] == f"report: {folder / 'report.html'}"
    steps = [line for line in lines if line.startswith("step ")]
    assert [line.split(":")[0] for line in steps] == [f"step {n} of 4" for n in (1, 2, 3, 4)]
    table = [line for line in lines if line.startswith("|")]
    regions = [line.split("|")[1].strip() for line in table[2:]]
    assert regions == ["Whole tumour", "Tumour core", "Enhancing tumour"]
    for picture in ("volumes.png", "slices.png", "scatter.png"):
        assert (folder / picture).stat().st_size > 10_000
    page = (folder / "report.html").read_text()
    assert summary["headline"]["sentence"] in html.unescape(page)
    assert "NSD at 1 mm" in page
    assert "Lesion-wise Dice (ours)" in page  # voxels are of 2 x 1 x 1.5 mm
    assert all(shown["case"] in page for shown in summary["cases"])
    assert {shown["role"] for shown in summary["cases"]} == {"worst", "median", "best"}
    assert not list(folder.rglob(".partial*"))
    report(folder)
    again = capsys.readouterr().out
    assert str(folder / "dice.png") in again
    assert "| ridge" in again
    assert "copies t2w (mean |r| with t2f:" in again
