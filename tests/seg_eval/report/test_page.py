import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from seg_eval.report import slices as page_slices
from seg_eval.report import viewer as page_viewer
from seg_eval.report.charts import interval_mark, paired_dots, scatter
from seg_eval.report.methods import bibtex, methods
from seg_eval.report.page import ArmVolumes, CaseVolumes, write_index, write_page
from seg_eval.report.slices import Limits, outline
from seg_eval.report.tables import interval, key_figures, number, p_value, seed_table
from synth3d.errors import InputError

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

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        for name, value in attrs:
            if name in ("src", "href", "action", "srcset", "data", "poster"):
                self.fetched.append(value)
            if name.startswith("on"):
                raise AssertionError(f"inline handler {name} on {tag}")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.said).split())


def read_page(path):
    return Reader(path.read_text("utf-8"))


@pytest.fixture(scope="module")
def written(tmp_path_factory, summary, scores, images, cases):
    return write_page(tmp_path_factory.mktemp("page"), summary, scores, images, cases)


def test_the_page_says_what_the_summary_says(written, summary):
    page = read_page(written)
    assert written.name == "report.html"
    assert summary["headline"]["sentence"] in page.text
    assert "Worth it" in page.text
    for text in [*summary["warnings"], *summary["commands"], *summary["hashes"].values()]:
        assert text in page.text
    share = summary["regions"]["WT"]["arms"]["boosted"]["recovery"]
    assert f"{100 * share['value']:.0f} % [{100 * share['low']:.0f}, " in page.text
    assert page.text.index("worst Brats18_P11_1") < page.text.index("median Brats18_P07_1")
    assert page.text.index("median Brats18_P07_1") < page.text.index("best Brats18_P03_1")


def test_nothing_in_the_page_is_fetched_from_anywhere(written):
    page = read_page(written)
    assert all(value.startswith(("#", "data:")) for value in page.fetched)
    text = written.read_text("utf-8")
    assert all(
        uri.startswith('"data:image/webp;') for uri in re.findall(r"url\(([^)]{1,20})", text)
    )
    assert "@import" not in text
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]


def test_tables_have_headers_and_pictures_have_words(written):
    page = read_page(written)
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in page.tags if tag == "th")
    pictures = [a for _, a in page.tags if "picture" in (a.get("class") or "").split()]
    assert len(pictures) == 3 * 3 * 7
    assert all(a["role"] == "img" and "R at the left" in a["aria-label"] or "A at the left" in
               a["aria-label"] for a in pictures)  # fmt: skip
    assert page.text.count("<svg") == 0


def test_text_from_outside_is_only_text(tmp_path, summary, scores, images, phantom):
    spoiled = json.loads(json.dumps(summary))
    spoiled["title"] = spoiled["headline"]["sentence"] = EVIL
    spoiled["warnings"], spoiled["commands"], spoiled["verdict"] = [EVIL], [EVIL], [EVIL]
    spoiled["notes"] = {"copy": EVIL}
    spoiled["versions"] = {EVIL: EVIL}
    spoiled["config"]["missing"] = [EVIL]
    spoiled["arms"][2] |= {"what": EVIL, "group": EVIL}
    rows = [type(row)(**{**row.__dict__, "case": EVIL + row.case}) for row in scores]
    made = [row | {"case": EVIL + row["case"]} for row in images]
    case = phantom(EVIL, EVIL)
    page = read_page(write_page(tmp_path, spoiled, rows, made, [case]))
    assert not any("onerror" in attrs for _, attrs in page.tags)
    assert not any(tag == "img" for tag, _ in page.tags)
    assert page.text.count("{{ 7*7 }}") > 5
    assert sum(tag == "script" for tag, _ in page.tags) == 2


KEYS = ("schema", "config", "title", "headline", "arms", "regions", "tests", "noninferiority",
        "images", "image_benefit", "plumbing", "verdict", "empty_rule", "bootstrap", "warnings",
        "notes", "seconds", "peak_memory_mb", "versions", "hashes", "commands", "pictures",
        "cases")  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ["absent", None])
def test_any_key_may_be_missing(tmp_path, summary, scores, images, key, value):
    short = {name: content for name, content in summary.items() if name != key}
    page = read_page(write_page(tmp_path, short | ({} if value else {key: None}), scores,
                                images, []))  # fmt: skip
    assert "Methods, to be pasted" in page.text


def test_nothing_at_all_is_still_a_page(tmp_path):
    assert "Methods" in read_page(write_page(tmp_path, {}, [], [], [])).text


def test_a_summary_of_the_first_schema_is_read(tmp_path, scores):
    estimate = {"value": 0.3, "low": 0.2, "high": 0.4}
    old = {
        "arms": [{"name": "full", "kind": "full"}, {"name": "zero", "kind": "zero"},
                 {"name": "ridge", "kind": "ridge"}],
        "regions": {"WT": {"cases": 3, "patients": 3, "cases_without_region": [], "gap": estimate,
                           "gap_defined": True, "gap_reason": "",
                           "arms": {"full": {"dice": 0.9, "gain": estimate, "recovery": estimate},
                                    "zero": {"dice": 0.6, "gain": estimate, "recovery": None},
                                    "ridge": {"dice": 0.7, "gain": estimate, "recovery":
                                              {"value": 0.33, "low": None, "high": None}}}}},
        "config": {"missing": "t2f", "train": ["a"], "test": ["b"], "preset": "x", "seed": 0},
        "verdict": ["Synthesis does not beat ridge."], "plumbing": None, "images": {},
        "warnings": [], "notes": {"ridge": ""}, "seconds": {}, "versions": {},
    }  # fmt: skip
    page = read_page(write_page(tmp_path, old, scores[:3], [], []))
    assert "Synthesis does not beat ridge." in page.text
    assert "33 % [unbounded, unbounded]" in page.text
    assert "trained once" in page.text


def test_what_holds_for_a_frozen_segmenter_alone_is_said_beside(tmp_path, summary, scores):
    head = summary["headline"] | {"worth": "no", "worth_if_frozen": "yes"}
    page = read_page(write_page(tmp_path, summary | {"headline": head}, scores, [], []))
    assert "If no segmenter can be trained anew: worth it." in page.text
    same = head | {"worth_if_frozen": "no"}
    page = read_page(write_page(tmp_path, summary | {"headline": same}, scores, [], []))
    assert "trained anew" not in page.text


def test_a_bound_just_below_the_margin_is_not_rounded_up_to_it(tmp_path, summary):
    close = [summary["noninferiority"][0] | {"upper_bound": 0.0196, "passed": True}]
    text = read_page(write_page(tmp_path, summary | {"noninferiority": close}, [], [], [])).text
    assert "+0.01960.0200not inferior" in text


def test_a_failed_check_of_the_export_path_is_read_first(tmp_path, summary):
    failed = summary["plumbing"] | {"passed": False}
    page = read_page(write_page(tmp_path, summary | {"plumbing": failed}, [], [], []))
    assert page.text.index("Check of the export path FAILED") < page.text.index("test cases")


def test_hashes_may_be_nested(tmp_path, summary):
    nested = summary | {"hashes": {"segmenter": {"0": "aa", "1": "bb"}, "run": "cc"}}
    assert "segmenter / 1 bb run cc" in re.sub(
        r"\s+", " ", " ".join(read_page(write_page(tmp_path, nested, [], [], [])).said)
    )


def test_cases_without_the_region_are_dots_only_if_they_count(tmp_path, summary, scores):
    gone = [type(r)(**{**r.__dict__, "reference_voxels": 0}) if r.case.endswith("P05_1") else r
            for r in scores]  # fmt: skip
    for empty, there in (("brats", True), ("skip", False)):
        config = summary["config"] | {"empty": empty}
        path = write_page(tmp_path, summary | {"config": config}, gone, [], [])
        assert ('data-case="Brats18_P05_1"' in path.read_text("utf-8")) == there


def test_a_region_without_a_loss_says_so(written):
    assert (
        "Blanking it costs 0.010 Dice, under 0.02: no measurable loss." in read_page(written).text
    )


@pytest.mark.parametrize("keep", [("full", "zero"), ("full", "ridge"), ("zero",)])
def test_arms_may_be_few(tmp_path, summary, scores, phantom, keep):
    case = phantom("a", "worst")
    few = {name: arm for name, arm in case.arms.items() if name in keep}
    bare = CaseVolumes(**{f: getattr(case, f) for f in
                          ("case", "patient", "role", "modality", "real", "truth", "affine",
                           "spacing_mm")}, arms=few)  # fmt: skip
    arms = [arm for arm in summary["arms"] if arm["name"] in keep]
    rows = [row for row in scores if row.arm in keep]
    page = read_page(write_page(tmp_path, summary | {"arms": arms}, rows, [], [bare]))
    assert page.text.count("Segmented:") == 3 * len(few)


@pytest.mark.parametrize("empty", ["truth", "image", "both", "no regions"])
def test_empty_volumes_can_be_shown(tmp_path, summary, empty):
    shape = (3, 5, 4)
    real = np.zeros(shape, np.float32)
    mask = np.zeros(shape, bool)
    if empty == "truth":
        real[1, 1:4, 1:3] = 0.5
    if empty == "image":
        mask[1, 2, 2] = True
    truth = {} if empty == "no regions" else {"WT": mask}
    real[2, 2, 2] = np.nan
    arms = {"full": ArmVolumes(real, truth), "zero": ArmVolumes(None, truth)}
    case = CaseVolumes("c", "p", "worst", "t2f", real, arms, truth, np.eye(4), (1, 1, 1))
    assert "Axial" in read_page(write_page(tmp_path, summary, [], [], [case])).text


def test_views_shrink_to_their_budget(tmp_path, summary, phantom, monkeypatch):
    cases = [phantom(name, role, (24, 30, 30)) for name, role in (("a", "worst"), ("b", "best"))]
    whole = write_page(tmp_path, summary, [], [], cases).stat().st_size
    monkeypatch.setattr(page_viewer, "BUDGET", 50_000)
    assert sum(view.size for view in page_viewer.fit_views(cases, summary)[0]) <= 50_000
    small = write_page(tmp_path, summary, [], [], cases)
    assert small.stat().st_size < whole
    assert "At most 48" not in small.read_text("utf-8")
    monkeypatch.setattr(page_viewer, "BUDGET", 1000)
    none = read_page(write_page(tmp_path, summary, [], [], cases))
    assert "2 case(s) are left out" in none.text


def test_no_outline_is_drawn_twice_while_views_shrink(summary, phantom, monkeypatch):
    cases = [phantom(name, role, (24, 30, 30)) for name, role in (("a", "worst"), ("b", "best"))]
    drawn = []

    def count(mask):
        drawn.append(mask)
        return outline(mask)

    monkeypatch.setattr(page_slices, "outline", count)
    monkeypatch.setattr(page_viewer, "LADDER", (Limits(48, 80), Limits(48, 30)))
    views, _ = page_viewer.fit_views(cases, summary)
    once = len(drawn)
    assert len(views) == 2
    drawn.clear()
    monkeypatch.setattr(page_viewer, "BUDGET", sum(view.size for view in views) - 1)
    again, _ = page_viewer.fit_views(cases, summary)
    assert len(drawn) == once
    assert [p.outlines for v in again for p in v.planes] == [
        p.outlines for v in views for p in v.planes
    ]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path, summary):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        write_page(tmp_path / "file", summary, [], [], [])


def test_charts_without_data_are_empty_and_with_one_value_are_drawn():
    assert interval_mark(None, None, None, "check") == ""
    assert paired_dots([], "t") == ""
    assert scatter([], {}, "t", ("x", "y")) == ""
    assert interval_mark(0.5, None, 2.0, "check").count("arrow") == 2
    assert interval_mark(0.5, 0.4, 0.6, "check").count("arrow") == 0


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [(0.12345, ".3f", "0.123"), (-0.5, "+.3f", "−0.500"), (-0.0001, ".3f", "0.000"),
     (None, ".3f", "–"), (float("nan"), ".3f", "–"), (True, ".3f", "–"), (18, "d", "18")],
)  # fmt: skip
def test_numbers_as_text(value, form, text):
    assert number(value, form) == text


def test_other_words():
    assert interval({"value": 0.2, "low": 0.1, "high": None}) == "[0.100, unbounded]"
    assert interval({"mean": None, "low": None, "high": None}) == ""
    assert interval({"value": 0.2}) == interval(None) == ""
    assert p_value(0.0004) == "< 0.001"
    assert p_value(None) == "–"


def test_key_figures_name_the_loss_and_what_came_back(summary):
    tiles = {tile["what"]: tile for tile in key_figures(summary)}
    assert tiles["test cases"]["value"] == "18"
    assert tiles["Dice lost in ET without FLAIR"]["below"].endswith("]: no measurable loss")
    recovered = {what: "recovered" in tile["below"] for what, tile in tiles.items()}
    assert [what for what, yes in recovered.items() if yes and "ET" in what] == []
    assert [what for what, yes in recovered.items() if yes and "WT" in what]


def test_one_case_is_not_many_and_patients_are_told(summary):
    config = summary["config"] | {"test": ["a"], "seeds": [0]}
    assert key_figures(summary | {"config": config})[0] == {
        "value": "1", "what": "test case", "below": "of 18 patients; one segmenter",
    }  # fmt: skip


def test_each_training_of_the_segmenter_is_shown_where_there_are_several(tmp_path, summary):
    several = json.loads(json.dumps(summary))
    several["bootstrap"]["seeds"] = [0, 1]
    for content in several["regions"].values():
        for cell in content["arms"].values():
            cell["metrics"]["dice"]["per_seed"] = [0.5, 0.75]
            cell["recovery_per_seed"] = [1.2, None]
    rows = {row[0]: row[1:] for row in seed_table(several)["rows"]}
    assert rows["boosted"][:2] == ["0.500  0.750", "120 %  –"]
    assert rows["zero"][:2] == ["0.500  0.750", ""]
    page = read_page(write_page(tmp_path, several, [], [], []))
    assert "Each training of the segmenter alone (seeds 0, 1)" in page.text
    assert seed_table(summary) is None


def test_distances_have_their_median_beside_the_mean(tmp_path, summary):
    told = json.loads(json.dumps(summary))
    for cell in told["regions"]["WT"]["arms"].values():
        cell["metrics"]["hd95_mm"]["median"] = 12.345
    text = read_page(write_page(tmp_path, told, [], [], [])).text
    assert "median 12.3" in text


def test_the_methods_paragraph_has_this_experiments_numbers(summary):
    text = methods(summary)
    for part in ("FLAIR", "version 2.8.1", "preset cpu-small", "3 times (seeds 0, 1 and 2)",
                 "42 cases", "18 other cases of 18 patients", "10000 resamples (seed 0)", "Holm",
                 "below 0.02", "both masks empty: Dice 1", "tolerance of 1 mm", "one value per "
                 "patient", "dilated by 3 mm, lesions up to 50 mm³", "; 374 mm where"):  # fmt: skip
        assert part in text
    assert "mm³)." not in text
    known = {"voxel_mm3": [8.0, 8.0], "bootstrap": summary["bootstrap"] | {"interval": "expanded"}}
    assert "own voxels (8 mm³)." in methods(summary | known)
    assert "(seed 0): expanded." in methods(summary | known)
    assert "AGI" not in methods(summary | {"arms": []})
    given = methods(summary | {"config": summary["config"] | {"segmenter": "models/theirs"}})
    assert "A given nnU-Net (version 2.8.1) model (Isensee et al. 2021; theirs)" in given
    assert "42 cases" not in given


def test_bibtex_is_of_what_was_used(summary):
    assert "2411.14684" in bibtex(summary)
    assert "sdata.2017.117" in bibtex(summary)
    assert "2305.09011" not in bibtex(summary)
    other = summary | {"arms": [], "config": {"data": "own"}, "images":
                       {"x": {"ssim_tumour@brasyn": 0.9}}}  # fmt: skip
    assert "2411.14684" not in bibtex(other)
    assert "sdata.2017.117" not in bibtex(other)
    assert "2305.09011" in bibtex(other)
    assert bibtex({}).count("@article") == 2


def test_the_index_has_a_row_and_a_link_per_sequence(tmp_path, summary):
    lost = summary | {"headline": {"sentence": f"No: {EVIL}", "worth": "no"}, "config":
                      {"missing": ["t1c"]}, "warnings": []}  # fmt: skip
    path = write_index(tmp_path, {"t2f": ("t2f run/report.html", summary),
                                  "t1c": ("t1c/report.html", lost),
                                  "pd": ("pd/report.html", {})})  # fmt: skip
    page = read_page(path)
    assert page.fetched == ["data:,", "t2f%20run/report.html", "t1c/report.html", "pd/report.html"]
    assert "Worth it" in page.text
    assert "Not worth it" in page.text
    assert summary["headline"]["sentence"] in page.text
    assert "contrast-enhanced T1" in page.text
    assert not any(tag == "img" for tag, _ in page.tags)
    assert "no finished experiment" in read_page(write_index(tmp_path, {})).text


@pytest.mark.parametrize("link", ["http://x/y", "javascript:alert(1)", "//x/y", "/etc/passwd"])
def test_the_index_links_to_nothing_else(tmp_path, link):
    with pytest.raises(ValueError, match="relative link"):
        write_index(tmp_path, {"t2f": (link, {})})
