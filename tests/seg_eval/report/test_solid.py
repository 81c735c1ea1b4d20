"""Cases to be turned in 3-D: what is kept of NiiVue, what a page holds, and how it opens."""

import base64
import gzip
import hashlib
import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from seg_eval.report.pictures import REGION_COLOURS
from seg_eval.report.slices import BRIGHTEST
from seg_eval.report.solid import niivue
from seg_eval.report.solid import pages as solid
from seg_eval.report.viewer import page
from seg_eval.report.volumes import ArmVolumes, CaseVolumes
from synth3d.errors import InputError
from tests.seg_eval.report.test_browser import FLAGS, NAMES, Opened

NIIVUE = niivue.kept_script()

STAND_IN = """
globalThis.niivue = {
  NVImage: {
    createNiftiArray: (shape, spacing, affine, type, bytes) => ({buffer: {bytes, shape, affine}}),
    new: async (buffer, name) => ({name, ...buffer, setColormapLabel() { this.labelled = true; }}),
  },
  Niivue: class {
    constructor(opts) { this.opts = opts; this.volumes = []; this.scene = {crosshairPos: []};
      (globalThis.views ||= []).push(this); }
    async attachToCanvas(canvas) { this.canvas = canvas; }
    addColormap() {} setSliceType(type) { this.type = type; } updateGLVolume() {}
    addVolume(volume) { this.volumes.push(volume); }
    removeVolume(volume) { this.volumes = this.volumes.filter((each) => each !== volume); }
    mm2frac(mm) { return mm; }
    setOpacity(i, share) { this.volumes[i].share = share; }
    broadcastTo(others) { this.others = others; }
  },
};
"""
"""Takes NiiVue's place: it notes what it is given."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with the stand-in in NiiVue's place, which counts as the pinned one."""
    path, script = tmp_path / "package.tgz", STAND_IN.encode()
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(niivue.SCRIPT)
        member.size = len(script)
        archive.addfile(member, io.BytesIO(script))
    digest = hashlib.sha512(path.read_bytes()).hexdigest()
    monkeypatch.setattr(niivue, "PACKAGE_SHA512", digest)
    monkeypatch.setattr(niivue, "SCRIPT_SHA256", hashlib.sha256(script).hexdigest())
    return path


def test_the_script_is_kept_from_a_package_and_a_damaged_one_counts_as_none(package):
    assert niivue.kept_script() is None
    path = niivue.keep_script(package)
    assert niivue.kept_script() == STAND_IN
    path.write_text(STAND_IN + " ")
    assert niivue.kept_script() is None
    niivue.keep_script(package)
    assert niivue.kept_script() == STAND_IN


def test_another_package_is_refused_and_nothing_is_kept(package, cache):
    package.write_bytes(package.read_bytes() + b"\0")
    with pytest.raises(InputError, match="is not NiiVue"):
        niivue.keep_script(package)
    with pytest.raises(InputError, match="cannot read"):
        niivue.keep_script(package.with_name("none.tgz"))
    assert not cache.exists()


def test_it_is_fetched_from_the_registry_and_without_a_network_one_is_told_how(
    package, monkeypatch
):
    asked = []

    def answer(url, timeout):
        asked.append(url)
        return io.BytesIO(package.read_bytes())

    monkeypatch.setattr("urllib.request.urlopen", answer)
    niivue.keep_script()
    assert asked == [niivue.URL]
    assert niivue.kept_script() == STAND_IN

    def refuse(url, timeout):
        raise URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    assert niivue.keep_script() == niivue.place_kept()  # and is not asked again
    niivue.place_kept().unlink()
    with pytest.raises(InputError, match=r"no route to host.*seg_eval fetch-viewer \S+\.tgz"):
        niivue.keep_script()


def unpacked(text, volumes):
    bytes_ = gzip.decompress(base64.b64decode(text))
    return np.frombuffer(bytes_, np.uint8).reshape(volumes["shape"][::-1])


def test_what_a_page_holds_is_the_case_at_its_place(cases, summary):
    case = cases[2]
    arms = [name for name in case.arms if case.arms[name].channel is not None and name != "full"]
    told = solid.describe_volumes(case, list(case.arms), summary)
    affine = np.reshape(told["affine"], (4, 4))
    corner = np.linalg.solve(case.affine, affine @ [0, 0, 0, 1])[:3].round().astype(int)
    box = tuple(slice(a, a + n) for a, n in zip(corner[::-1], told["shape"][::-1], strict=True))
    np.testing.assert_array_equal(affine[:3, :3], case.affine[:3, :3])
    assert np.count_nonzero(case.real[box]) == np.count_nonzero(case.real)  # the head is whole
    assert 0 < np.prod(told["shape"]) < case.real.size
    for entry, volume in zip(told["images"], (case.real, case.arms[arms[0]].channel), strict=True):
        shown = unpacked(entry["voxels"], told) * BRIGHTEST / 255
        np.testing.assert_allclose(
            shown, np.clip(volume[box], 0, BRIGHTEST), atol=BRIGHTEST / 510 + 1e-6
        )
    for entry, masks in zip(
        told["masks"], (case.truth, *(arm.masks for arm in case.arms.values())), strict=True
    ):
        numbers = unpacked(entry["voxels"], told)
        innermost = np.zeros(numbers.shape)
        for number, region in enumerate(told["regions"], 1):
            innermost[masks[region][box]] = number
        np.testing.assert_array_equal(numbers, innermost)
    start = np.linalg.solve(case.affine, [*told["start_mm"], 1])[:3].round().astype(int)[::-1]
    assert case.truth["WT"][tuple(start)]
    # A region has one colour on all pages and pictures.
    assert dict(zip(told["regions"], told["colours"], strict=True)) == REGION_COLOURS


def test_layers_and_a_case_without_tumour_or_affine_are_shown(cases, summary):
    case, shape = cases[0], cases[0].real.shape
    layer = np.linspace(0, 3, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    arms = {"full": case.arms["full"]}
    arms |= {"other-tool": ArmVolumes(case.real, {}, {"interval": layer})}
    bare = replace(case, arms=arms, truth={}, affine=np.zeros((4, 4)))
    told = solid.describe_volumes(bare, list(arms), summary)
    assert not told["known"]
    assert np.isfinite(told["affine"]).all()
    assert np.isfinite(told["start_mm"]).all()
    assert ["error_of" in entry for entry in told["layers"]] == [True, False]
    assert unpacked(told["layers"][1]["voxels"], told).max() > 200
    assert not unpacked(told["masks"][0]["voxels"], told).any()


def test_pages_are_linked_where_they_are_and_else_the_report_says_how_to_get_them(
    package, tmp_path, cases, summary
):
    folder = tmp_path / "experiment"
    assert solid.write_solid_pages(folder, summary, cases) == {}
    assert not folder.exists()
    html = page(summary, [], [], cases)
    assert "seg_eval fetch-viewer" in html
    assert 'href="3d/' not in html
    niivue.keep_script(package)
    links = solid.write_solid_pages(folder, summary, cases)
    assert {*links.values()} == {f"3d/{case.case}-t2f.html" for case in cases}
    html = page(summary, [], [], cases, solid=links)
    assert "seg_eval fetch-viewer" not in html
    assert all(f'href="{link}"' in html for link in links.values())
    assert all((folder / link).is_file() for link in links.values())
    (folder / "3d" / "notes.txt").write_text("mine")
    few = solid.write_solid_pages(folder, summary, cases[:1])
    assert {path.name for path in (folder / "3d").iterdir()} == {
        "notes.txt", *(link.removeprefix("3d/") for link in few.values())
    }  # fmt: skip


def test_names_cannot_leave_the_folder_or_become_tags(package, tmp_path, cases, summary):
    niivue.keep_script(package)
    with pytest.raises(InputError):
        solid.write_solid_pages(tmp_path, summary, [replace(cases[0], case="../../x")])
    text = solid.solid_page(replace(cases[0], case="</script><b>x"), summary, STAND_IN)
    assert "<b>x" not in text
    assert len(re.findall("</script>", text)) == 3


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """With WebGL computed by the processor."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.fail("no chromium here; install it with: apt-get install --yes chromium")
    flags = [flag for flag in FLAGS if flag != "--disable-gpu"]
    flags += ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=flags)
        yield started
        started.close()


def opened_page(browser, tmp_path, case, summary, script, **options) -> Opened:
    path = tmp_path / "case.html"
    path.write_text(solid.solid_page(case, summary, script), encoding="utf-8")
    one = Opened(browser, path, **options)
    one.page.wait_for_selector("html.live", state="attached", timeout=120_000)
    return one


def test_the_page_hands_the_volumes_over_and_asks_nobody(browser, tmp_path, cases, summary):
    case = cases[2]
    one = opened_page(browser, tmp_path, case, summary, STAND_IN)
    seen = "i => views[i].volumes.map(v => [v.name, Array.from(v.bytes)])"
    told = solid.describe_volumes(case, list(case.arms), summary)
    for pane, names in ((0, ["image-0", "mask-0"]), (1, ["image-1", "mask-3"])):
        shown = one.page.evaluate(seen, pane)
        assert [name for name, _ in shown] == [f"{name}.nii" for name in names]
        for (_, voxels), name in zip(shown, names, strict=True):
            kind, index = name.split("-")
            entry = told[f"{kind}s"][int(index)]["voxels"]
            assert voxels == unpacked(entry, told).ravel().tolist()
    one.page.locator("[data-pick=layer]").nth(1).select_option("0")
    for _ in range(100):  # a policy that forbids eval forbids Playwright's own waiting, too
        if one.page.evaluate("() => views[1].volumes.length") == 3:
            break
        one.page.wait_for_timeout(100)
    real, made = (unpacked(told["images"][i]["voxels"], told).ravel().astype(float) for i in (0, 1))
    error = np.minimum(255, np.abs(real - made) * told["error_gain"])
    assert one.page.evaluate(seen, 1)[1] == ["layer-0.nii", np.floor(error).tolist()]
    one.page.locator(".layer-share").fill("20")
    assert one.page.evaluate("() => views[1].volumes[1].share") == 0.2
    one.page.locator("[value=solid]").check()
    assert one.page.evaluate("() => views.map(v => v.type)") == [4, 4]
    assert one.said == one.outside == []
    one.context.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_a_phone_and_a_desk(browser, tmp_path, cases, summary, width):
    one = opened_page(
        browser, tmp_path, cases[0], summary, STAND_IN, viewport={"width": width, "height": 800}
    )
    assert one.page.evaluate("document.documentElement.scrollWidth") <= width
    stages = one.page.locator(".stage").evaluate_all("all => all.map(e => e.clientWidth)")
    assert min(stages) >= 340
    one.context.close()


def test_without_webgl_the_page_says_so(browser, tmp_path, cases, summary):
    script = STAND_IN + "HTMLCanvasElement.prototype.getContext = () => null;"
    path = tmp_path / "case.html"
    path.write_text(solid.solid_page(cases[0], summary, script), encoding="utf-8")
    one = Opened(browser, path)
    assert "WebGL 2" in one.page.locator(".told").inner_text()
    assert not one.page.locator("select").first.is_visible()
    one.context.close()


@pytest.mark.skipif(
    NIIVUE is None, reason=f"NiiVue {niivue.VERSION} is not on this machine: seg_eval fetch-viewer"
)
def test_niivue_itself_shows_the_case_in_slices_and_in_3d(browser, tmp_path, summary):
    shape = (30, 36, 42)
    real = np.full(shape, 0.4, np.float32)
    real[20:26, 24:32, 6:14] = 1.2  # RAS+: low x is left, high y is front, high z is top
    truth = {"WT": real > 1}
    arms = {"full": ArmVolumes(real, truth)}
    case = CaseVolumes("c", "p", "worst", "t2f", real, arms, truth, np.eye(4), (1, 1, 1))
    one = opened_page(browser, tmp_path, case, summary, NIIVUE)
    one.page.locator("[data-pick=mask]").first.select_option("-1")
    one.page.locator("[value=slices]").check()
    one.page.wait_for_timeout(1500)

    def seen():
        data = one.page.locator("canvas").first.screenshot()
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float)

    slices = seen()
    bright = np.argwhere(slices.min(axis=2) > 150)
    assert len(bright) > 200
    one.page.locator("[data-pick=mask]").first.select_option("0")
    one.page.wait_for_timeout(1500)
    coloured = np.ptp(seen(), axis=2) > 40
    assert coloured.sum() > 200
    one.page.locator("[value=solid]").check()
    one.page.wait_for_timeout(1500)
    assert np.abs(seen() - slices).mean() > 5
    assert one.outside == []
    assert json.loads(one.page.locator("#volumes").text_content() or "")["regions"] == ["WT"]
    one.context.close()
