import dataclasses
import html
import json
import math
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from seg_eval.analysis.summary import SCHEMA
from seg_eval.arms.kinds import ARM_KINDS, ArmKind
from seg_eval.report import record, slices, viewer
from seg_eval.report.certificate import main_region
from seg_eval.report.charts import paired_dots, range_mark, scatter
from seg_eval.report.context import citations, describe
from seg_eval.report.outputs import read_summary, rebuild, render, render_power, write_index
from seg_eval.report.page import figure, interval, number, p_value, share, signed, table
from seg_eval.report.slices import Limits, outline
from seg_eval.report.transfer import read_transfers
from seg_eval.report.viewer import page
from seg_eval.report.volumes import ArmVolumes, CaseVolumes
from seg_eval.scoring.scores import Score
from synth3d.errors import InputError
from synth3d.scoring.intervals import Estimate

VOID = {"meta", "link", "input", "br", "img"}
EVIL = "<img src=x onerror=alert(1)>&\"'</script>{{ 7*7 }}"


class Reader(HTMLParser):
    """Collects what a browser would fetch, the text, and whether tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.fetched, self.said, self.tags = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join("".join(self.said).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        for name, value in attrs:
            if name in ("src", "href", "action", "srcset", "data", "poster"):
                self.fetched.append(value)
            assert not name.startswith("on"), f"inline handler {name} on {tag}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.said.append(data)


@pytest.fixture(scope="module")
def written(summary, scores, images, cases):
    return page(summary, scores, images, cases)


def test_the_page_says_what_the_summary_says(written, summary):
    text = Reader(written).text
    assert summary["headline"]["sentence"] in text
    for told in [*summary["warnings"], *summary["commands"], *summary["hashes"].values()]:
        assert told in text
    order = [text.index(f"{role} Brats18_P{case}_1") for role, case in
             (("worst", "11"), ("median", "07"), ("best", "03"))]  # fmt: skip
    assert order == sorted(order)


def test_nothing_in_the_page_is_fetched_from_anywhere(written):
    found = Reader(written)
    assert all(value.startswith(("#", "data:")) for value in found.fetched)
    assert all(
        uri.startswith('"data:image/webp;') for uri in re.findall(r"url\(([^)]{1,20})", written)
    )
    assert "@import" not in written


def test_tables_have_headers_and_pictures_have_words(written):
    found = Reader(written)
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in found.tags if tag == "th")
    pictures = [a for _, a in found.tags if "picture" in (a.get("class") or "").split()]
    assert len(pictures) == 3 * 3 * 7 + 5  # and the row on the first screen
    assert all(a["role"] == "img" and re.search("[RA] at the left", a["aria-label"])
               for a in pictures)  # fmt: skip


def test_text_from_outside_is_only_text(summary, scores, images, phantom):
    spoiled = json.loads(json.dumps(summary))
    spoiled["title"] = spoiled["headline"]["sentence"] = EVIL
    spoiled["warnings"], spoiled["commands"], spoiled["verdict"] = [EVIL], [EVIL], [EVIL]
    spoiled["notes"]["copy"] = spoiled["arms"][2]["what"] = EVIL
    spoiled["versions"][EVIL] = EVIL
    spoiled["config"]["missing"] = [EVIL]
    rows = [dataclasses.replace(row, case=EVIL + row.case) for row in scores]
    made = [row | {"case": EVIL + row["case"]} for row in images]
    found = Reader(page(spoiled, rows, made, [phantom(EVIL, "worst")]))
    assert not any("onerror" in attrs or tag == "img" for tag, attrs in found.tags)
    assert found.text.count("{{ 7*7 }}") > 5
    assert sum(tag == "script" for tag, _ in found.tags) == 2


def test_a_bound_just_below_the_margin_is_not_rounded_up_to_it(summary):
    close = summary["noninferiority"][0] | {"upper_bound": 0.0196, "passed": True}
    ((*_, cell),) = table("noninferiority", rows=[close], labels={close["arm"]: "x"})["rows"]
    assert "0.0196) yes" in cell


@pytest.mark.parametrize("passed", [True, False])
def test_a_failed_check_of_the_export_path_is_never_folded(summary, passed):
    checked = summary | {"plumbing": summary["plumbing"] | {"passed": passed}}
    found = Reader(page(checked, [], [], []))
    assert any(a.get("role") == "alert" for _, a in found.tags) is not passed
    assert ("Do not trust" in found.text) is not passed
    assert ("Do not trust" in render(checked)) is not passed


def test_the_first_screen_has_verdict_regions_pictures_and_folded_cautions(written, summary):
    first = written.split("<nav", 1)[0]
    text = Reader(first + "</header></body></html>").text
    head = summary["headline"]
    for told in (head["badge"], head["sentence"], head["advice"], "2026-11-30"):
        assert told in text
    names = ["Whole tumour", "Tumour core", "Enhancing tumour"]
    assert [text.index(name) for name in names] == sorted(text.index(name) for name in names)
    for name, region in summary["regions"].items():
        row = text[text.index(names[["WT", "TC", "ET"].index(name)]) :]
        for arm in ("zero", head["primary"], "full", head["rival"]):
            assert f"{region['arms'][arm]['dice']:.2f}" in row[:140]
    assert first.count('class="picture ') == 5
    assert "median case, Brats18_P07_1" in text
    folded = first.split("<details", 1)[1].split("</details>")[0]
    assert all(told in html.unescape(folded) for told in summary["warnings"])
    assert "<details open" not in first


def test_simulated_brains_are_called_so(summary):
    for simulated in (True, False):
        told = summary | {"setting": summary["setting"] | {"simulated": simulated}}
        for text in (Reader(page(told, [], [], [])).text, render(told)):
            assert ("simulated brains" in " ".join(text.split())) is simulated


def test_the_size_of_the_segmenter_stands_beside_nnunets_own(summary):
    for iterations, told in ((1250, True), (250_000, False)):
        of_size = summary | {"setting": summary["setting"] | {"iterations": iterations}}
        text = Reader(page(of_size, [], [], [])).text
        assert f"{iterations:,}".replace(",", " ") + " training iterations" in text
        assert ("own schedule: 250 000" in text) is told


def test_cases_without_the_region_are_dots_only_if_they_count(summary, scores):
    gone = [dataclasses.replace(row, reference_voxels=0) if row.case.endswith("P05_1") else row
            for row in scores]  # fmt: skip
    for empty, there in (("brats", True), ("skip", False)):
        config = summary["config"] | {"empty": empty}
        text = page(summary | {"config": config}, gone, [], [])
        assert ('data-case="Brats18_P05_1"' in text) == there


@pytest.mark.parametrize("keep", [("full", "zero"), ("full", "zero", "ridge")])
def test_arms_may_be_few(make_scores, make_summary, phantom, keep):
    rows = make_scores(4, 1, {name: 0.5 for name in keep})
    case = phantom("a", "worst")
    few = dataclasses.replace(case, arms={n: a for n, a in case.arms.items() if n in keep})
    text = Reader(page(make_summary(rows), rows, [], [few])).text
    assert text.count("Segmented:") == 3 * 2
    markdown = render(make_summary(rows))
    assert "## Tests" not in markdown
    assert ("## As good" in markdown) == ("ridge" in keep)
    assert "## Image scores" not in markdown
    assert "Each training" not in markdown


def test_a_new_kind_of_arm_reaches_every_page_by_its_record(
    monkeypatch, make_scores, make_summary, images
):
    toy = ArmKind("toy", "voxel-wise", "{missing} by a toy", "a toy", tested="greater")
    monkeypatch.setitem(ARM_KINDS, "toy", toy)
    rows = make_scores(16, 1, {"full": 1, "zero": 0, "toy": 0.9, "other-tool": 0.4})
    own = [row | {"arm": "toy"} for row in images if row["arm"] == "other-tool"]
    summary = make_summary(rows, own)
    assert summary["headline"]["better"] == "toy"
    assert "with a toy, which does better" in summary["headline"]["sentence"]
    assert "Use a toy instead" in summary["headline"]["advice"]
    context = describe(summary, rows, own)
    assert [arm["name"] for arm in context["scatter"]["arms"]] == ["toy"]
    assert "FLAIR by a toy" in render(summary)
    assert 'class="mean g-voxel-wise"' in page(summary, rows, own, [])


@pytest.mark.parametrize("empty", ["truth", "image", "both", "no regions"])
def test_empty_volumes_can_be_shown(summary, empty):
    real, mask = np.zeros((3, 5, 4), np.float32), np.zeros((3, 5, 4), bool)
    if empty == "truth":
        real[1, 1:4, 1:3] = 0.5
    mask[1, 2, 2] = empty == "image"
    truth = {} if empty == "no regions" else {"WT": mask}
    real[2, 2, 2] = np.nan
    arms = {"full": ArmVolumes(real, truth), "zero": ArmVolumes(None, truth)}
    case = CaseVolumes("c", "p", "worst", "t2f", real, arms, truth, np.eye(4), (1, 1, 1))
    assert "Axial" in Reader(page(summary, [], [], [case])).text


def test_views_shrink_to_their_budget_and_no_outline_is_drawn_twice(summary, phantom, monkeypatch):
    cases = [phantom(name, role, (24, 30, 30)) for name, role in (("a", "worst"), ("b", "best"))]
    drawn = []
    monkeypatch.setattr(slices, "outline", lambda mask: drawn.append(1) or outline(mask))
    monkeypatch.setattr(viewer, "LADDER", (Limits(48, 80), Limits(48, 30), Limits(5, 30)))
    views, _ = viewer.fit_views(cases, summary)
    once, whole = len(drawn), sum(view.size for view in views)
    drawn.clear()
    monkeypatch.setattr(viewer, "BUDGET", whole - 1)
    again, _ = viewer.fit_views(cases, summary)
    assert len(drawn) == once
    assert sum(view.size for view in again) < whole
    outlines = [[plane.outlines for view in v for plane in view.planes] for v in (views, again)]
    assert outlines[0] == outlines[1]
    monkeypatch.setattr(viewer, "BUDGET", 1000)
    assert viewer.fit_views(cases, summary)[0] == []


def test_charts_without_data_are_none_and_ends_beyond_the_axis_are_arrows():
    assert range_mark(None, None, None, (0, 1)) is None
    assert paired_dots([]) is scatter([], {}) is None
    beyond = range_mark(0.5, None, 2.0, (0, 1))
    within = range_mark(0.5, 0.4, 0.6, (0, 1))
    assert [(mark["goes_below"], mark["goes_above"]) for mark in (beyond, within)] == [
        (True, True), (False, False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [(0.12345, ".3f", "0.123"), (-0.5, "+.3f", "-0.500"), (-0.0001, ".3f", "0.000"),
     (-0.0001, "+.3f", "-0.000"), (None, ".3f", "–"), (math.nan, ".3f", "–"), (18, "d", "18")],
)  # fmt: skip
def test_numbers_as_text(value, form, text):
    assert number(value, form) == text


def test_figures_as_text():
    assert interval({"value": 0.2, "low": 0.1, "high": None}) == "[0.100, unbounded]"
    assert interval({"mean": None, "low": None, "high": None}) == interval(None) == ""
    assert signed(Estimate(0.1, -0.2, 0.3), -1) == "-0.100 [-0.300, +0.200]"
    assert share({"value": -0.001, "low": -0.2, "high": math.inf}) == "0 % [-20, unbounded]"
    assert share(None) == figure(None) == p_value(None) == "–"
    assert (p_value(0.0004), p_value(0.0404)) == ("< 0.001", "0.040")


def test_bibtex_is_of_what_was_used(make_scores, make_summary):
    rows = make_scores(3, 1, {"full": 1, "zero": 0, "t2f-agi-net-cohort-1234abcd": 0.5})
    found = citations(make_summary(rows))
    assert all(key in found for key in ("2411.14684", "sdata.2017.117"))
    assert "2305.09011" not in found
    brasyn = {"x": {"ssim_tumour@brasyn": 0.9}}
    bare = make_scores(3, 1, {"full": 1, "zero": 0})
    found = citations(make_summary(bare, data="own") | {"images": brasyn})
    assert all(key not in found for key in ("2411.14684", "sdata.2017.117"))
    assert "2305.09011" in found


def test_tables_are_readable_at_100_columns(make_scores, make_summary):
    shares = {"full": 1, "zero": 0, "ridge": 0.5, "other-tool": 0.7, "plumbing": 1, "dropout": 0.8}
    blocks = render(make_summary(make_scores(6, 2, shares))).split("\n\n")
    tables = [block.splitlines() for block in blocks if block.startswith("|")]
    assert max(len(line) for lines in tables for line in lines) <= 100
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1


def test_what_holds_for_every_synthesiser_is_said_once(make_scores, make_summary):
    two = {"t2f-agi-net-cohort-1234abcd": 0.5, "other-tool": 0.4}
    free = make_summary(make_scores(16, 1, dict.fromkeys(("full", "zero", *two), 1.0)))
    assert len(free["verdict"]) == 1
    lost = make_summary(make_scores(16, 1, {"full": 1, "zero": 0} | two))
    assert len(lost["verdict"]) == 2
    assert lost["headline"]["primary"] == "t2f-agi-net-cohort-1234abcd"


def test_the_index_links_to_the_pages_and_to_nothing_else(tmp_path, summary):
    bad = summary | {"headline": summary["headline"] | {"sentence": EVIL}}
    path = write_index(tmp_path, {"t2f": ("t2f run/report.html", summary), "t1c": ("t1c/r", bad)})
    found = Reader(path.read_text("utf-8"))
    assert found.fetched == ["data:,", "t2f%20run/report.html", "t1c/r"]
    assert not any(tag == "img" for tag, _ in found.tags)
    assert "no finished experiment" in write_index(tmp_path, {}).read_text("utf-8")


def test_a_finished_experiment_is_rebuilt_from_its_folder(run_toy, folder, tmp_path):
    assert run_toy("--arms", "copy,synthetic,specialist", "--seeds", "0,1") == 0
    html, markdown = (folder / "report.html").read_bytes(), (folder / "report.md").read_text()
    moved = tmp_path / "moved"
    shutil.move(folder, moved)
    for name in ("report.html", "report.md"):
        (moved / name).unlink()
    assert rebuild(moved) == markdown
    assert (moved / "report.html").read_bytes() == html
    assert (moved / "report.md").read_text() == markdown
    shown = [case["case"] for case in read_summary(moved)["cases"]]
    (moved / f"predictions/copy/seed0/{shown[0]}.nii.gz").unlink()
    shutil.rmtree(moved / f"arms/agi/{shown[1]}")
    assert rebuild(moved) == markdown
    text = (moved / "report.html").read_text("utf-8")
    assert text.count('<article class="viewer"') == len(shown) - 2
    assert Reader(text).text.count(f"{shown[0]} and {shown[1]} are missing") == 1


def test_how_many_patients_would_tell(left):
    text = render_power(left)
    assert "| WT" in text
    assert "lead over cheap arm" in text
    assert text.count("these trainings") >= 1
    (left / "summary.json").write_text(json.dumps(json.loads(
        (left / "summary.json").read_text()) | {"power": []}))  # fmt: skip
    with pytest.raises(InputError, match="no synthetic arm, or one patient alone"):
        render_power(left)


def test_a_page_says_which_regions_are_exploratory_and_is_about_one_that_is_judged(
    make_summary, scores, images, cases
):
    for judged in (["WT", "TC", "ET"], ["TC"]):
        summary = make_summary(scores, images, regions=judged)
        flags = {name: region["exploratory"] for name, region in summary["regions"].items()}
        assert [name for name, is_aside in flags.items() if not is_aside] == judged
        for text in (page(summary, scores, images, cases), render(summary)):
            assert text.count("exploratory: the decision") == 3 - len(judged)
        told = {3: "WT", 1: "TC"}[len(judged)]  # where most is lost, of those judged
        assert main_region(summary["regions"]) == told


@pytest.fixture
def left(tmp_path, summary, scores, images):
    """A folder with all that a page without slices is rebuilt from."""
    columns = list(Score.__dataclass_fields__)
    record.write_rows(tmp_path / "results.csv", map(dataclasses.asdict, scores), columns)
    record.write_rows(tmp_path / "image_scores.csv", images, record.IMAGE_COLUMNS)
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    rebuild(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [("summary.json", None, "not a finished experiment"), ("summary.json", "{}", "run the exper"),
     ("summary.json", '{"schema": 1}', "another version"), ("summary.json", "{", "not valid JSON"),
     ("summary.json", '{"schema": 2, "config": {}}', "damaged"), ("results.csv", None, "^cannot"),
     ("results.csv", "case\na\n", "damaged"), ("volumes.json", "[{}]", "damaged")],
)  # fmt: skip
def test_an_older_or_damaged_experiment_is_refused_in_one_sentence(left, name, content, told):
    (left / name).unlink(missing_ok=True)
    if content is not None:
        (left / name).write_text(content)
    with pytest.raises(InputError, match=told) as caught:
        rebuild(left)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("schema", [1, SCHEMA - 1, SCHEMA + 1, None])
def test_a_report_of_another_schema_is_refused_and_stays_as_it_was(left, summary, schema):
    """Its figures follow other rules, whatever keys it has."""
    (left / "summary.json").write_text(json.dumps(summary | {"schema": schema}))
    before = {path: path.read_bytes() for path in left.rglob("*") if path.is_file()}
    for read in (rebuild, read_summary, render_power):
        with pytest.raises(
            InputError, match=f"schema {schema}, not {SCHEMA}; run the experiment"
        ) as told:
            read(left)
        assert "\n" not in str(told.value)
    assert {path: path.read_bytes() for path in left.rglob("*") if path.is_file()} == before


def test_judges_of_another_schema_are_not_mixed_into_a_report(tmp_path, summary):
    path = tmp_path / "transfer" / "cpu-mini-resenc" / "summary.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(summary))
    assert [each["preset"] for each in read_transfers(tmp_path)] == ["cpu-small"]
    path.write_text(json.dumps(summary | {"schema": 3}))
    with pytest.raises(InputError, match="schema 3, .*--transfer cpu-mini-resenc"):
        read_transfers(tmp_path)


@pytest.mark.parametrize("keys", ["headline.worth", "plumbing.tolerance", "regions.WT.gap.value",
                                  "intervals.method", "regions.ET.arms.copy.loss"])  # fmt: skip
def test_a_key_that_is_missing_deep_inside_is_damage(left, summary, keys):
    broken = inside = json.loads(json.dumps(summary))
    *path, last = keys.split(".")
    for key in path:
        inside = inside[key]
    del inside[last]
    (left / "summary.json").write_text(json.dumps(broken))
    with pytest.raises(InputError, match="damaged"):
        rebuild(left)


def test_thirds_of_tiny_tumours_that_read_alike_stand_apart(make_scores, make_summary):
    """Below 0.05 mL the heads of all three are 0.0 to 0.0 mL."""
    scores = [
        dataclasses.replace(row, reference_ml=1e-4 * (1 + int(row.case[9:11])))
        for row in make_scores(cases=9)
    ]
    rendered = " ".join(render(make_summary(scores)).split())
    assert "0.0 to 0.0 mL (3) | 0.0 to 0.0 mL (3) | 0.0 to 0.0 mL (3)" in rendered
