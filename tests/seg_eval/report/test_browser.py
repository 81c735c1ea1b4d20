"""The report in a real browser: Debian's chromium without a window."""

import shutil
import socket
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from seg_eval.report.outputs import write_index
from seg_eval.report.viewer import page as page_of
from seg_eval.report.volumes import ArmVolumes, CaseVolumes

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.fail("no chromium here; install it with: apt-get install --yes chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield started
        started.close()


def write_page(folder, *content):
    path = folder / "report.html"
    folder.mkdir(exist_ok=True)
    path.write_text(page_of(*content), encoding="utf-8")
    return path


class Opened:
    """A page and all that it said and asked for."""

    def __init__(self, browser: Browser, path, **options) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}} | options)
        self.page: Page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        network = self.context.new_cdp_session(self.page)
        network.on("Network.requestWillBeSent", lambda e: self.asked.append(e["request"]["url"]))
        network.send("Network.enable")
        self.page.goto(path.as_uri())

    @property
    def outside(self) -> list[str]:
        """Requests other than for the page itself and what it holds."""
        return [url for url in self.asked if not url.startswith((self.page.url, "data:"))]


@pytest.fixture(scope="module")
def path(tmp_path_factory, summary, scores, images, cases):
    return write_page(tmp_path_factory.mktemp("page"), summary, scores, images, cases)


@pytest.fixture
def opened(browser, path) -> Iterator[Opened]:
    one = Opened(browser, path)
    yield one
    one.context.close()


def backgrounds(page: Page, plane: str, viewer: int = 0) -> list[str]:
    """Where each panel's sheet stands."""
    pictures = page.locator(".viewer").nth(viewer).locator(f"[data-plane={plane}] .picture")
    return pictures.evaluate_all("all => all.map(p => getComputedStyle(p).backgroundPosition)")


def test_it_opens_without_an_error_or_a_request(opened):
    opened.page.locator("#slices").scroll_into_view_if_needed()
    opened.page.screenshot(full_page=True)
    assert opened.said == []
    assert opened.outside == []
    assert opened.page.url in opened.asked
    assert opened.page.locator("h1").inner_text() == "Dice recovery without FLAIR (t2f)"
    assert opened.page.locator(".viewer").count() == 3


def test_the_file_forbids_the_browser_any_request(opened):
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    url = f"http://127.0.0.1:{server.getsockname()[1]}/"
    blocked = opened.page.evaluate(
        """async url => {
          const tries = [
            new Promise(done => { const i = new Image(); i.onload = () => done(false);
              i.onerror = () => done(true); i.src = url + 'image'; }),
            fetch(url + 'fetch', {mode: 'no-cors'}).then(() => false, () => true),
            new Promise(done => { const s = document.createElement('script');
              s.onload = () => done(false); s.onerror = () => done(true);
              s.src = url + 'script'; document.head.append(s); }),
          ];
          return Promise.all(tries);
        }""",
        url,
    )
    assert blocked == [True, True, True]
    with server, pytest.raises(BlockingIOError):  # nobody has called
        server.accept()
    assert opened.said  # the browser tells that it refused


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_slider_moves_every_panel_of_its_plane_and_the_crosshair_of_the_others(opened, plane):
    page = opened.page
    viewer = page.locator(".viewer").first
    here = viewer.locator(f"[data-plane={plane}]")
    before, next_case = backgrounds(page, plane), backgrounds(page, plane, viewer=1)
    label, expert = here.locator(".where").inner_text(), here.locator(".expert").first
    outline = expert.get_attribute("d")
    others = [p for p in ("axial", "coronal", "sagittal") if p != plane]
    still = {p: backgrounds(page, p) for p in others}
    crosses = {p: viewer.locator(f"[data-plane={p}] .cross").first.get_attribute("d")
               for p in others}  # fmt: skip
    picture = here.locator(".picture").first.screenshot()
    here.locator("input[type=range]").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    after = backgrounds(page, plane)
    assert len(after) == 7
    assert len(set(after)) == 1
    assert set(after) != set(before)
    assert backgrounds(page, plane, viewer=1) == next_case
    assert here.locator(".where").inner_text() != label
    assert expert.get_attribute("d") != outline
    assert here.locator(".picture").first.screenshot() != picture
    for p in others:
        assert backgrounds(page, p) == still[p]
        assert viewer.locator(f"[data-plane={p}] .cross").first.get_attribute("d") != crosses[p]
    assert opened.said == []


def test_a_click_moves_the_other_planes_there(opened):
    page = opened.page
    axial = page.locator(".viewer").first.locator("[data-plane=axial] .picture").nth(3)
    before = {p: backgrounds(page, p) for p in ("axial", "coronal", "sagittal")}
    box = axial.bounding_box()
    axial.click(position={"x": 0.3 * box["width"], "y": 0.35 * box["height"]})
    assert backgrounds(page, "axial") == before["axial"]
    assert backgrounds(page, "coronal") != before["coronal"]
    assert backgrounds(page, "sagittal") != before["sagittal"]


def test_the_region_can_be_chosen_the_crosshair_hidden_and_pictures_enlarged(opened):
    viewer = opened.page.locator(".viewer").first
    found = viewer.locator(".found").first
    wide = found.get_attribute("d")
    viewer.locator("input[value=ET]").check()
    assert found.get_attribute("d") not in ("", wide)
    viewer.locator("input[value=WT]").check()
    assert found.get_attribute("d") == wide
    viewer.locator(".cross-switch").uncheck()
    assert not viewer.locator(".cross").first.is_visible()
    narrow = viewer.locator(".picture").first.bounding_box()["width"]
    viewer.locator(".large-switch").check()
    assert viewer.locator(".picture").first.bounding_box()["width"] > 1.5 * narrow


def test_a_case_is_found_again_in_every_chart(opened):
    page = opened.page
    page.locator("#cases svg").first.locator(".case").last.locator("circle").nth(1).hover()
    asked = "all => all.map(g => [g.closest('section').id, g.dataset.case])"
    sections, names = zip(*page.locator(".case.hot").evaluate_all(asked), strict=True)
    assert len(set(names)) == 1
    # A line for each region; a point for each filled arm; one for each region and arm but the check
    assert Counter(sections) == {"cases": 3, "scatter": 6, "volumes": 3 * 10}
    assert names[0] in page.locator(".picked").inner_text()


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_a_desk_in_light_and_dark(browser, path, width, scheme):
    one = Opened(browser, path, viewport={"width": width, "height": 800}, color_scheme=scheme)
    wide = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    scroll, client = one.page.evaluate(wide)
    pictures = one.page.locator(".picture").evaluate_all(
        "all => all.map(p => p.getBoundingClientRect().width)"
    )
    assert scroll <= client == width
    assert min(pictures) >= 120
    low = one.page.evaluate(CONTRAST)
    assert low == []
    assert one.said == one.outside == []
    one.context.close()


CONTRAST = """() => {
  const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(
    v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4
  ).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const poor = [];
  const chosen = 'p, td, th, dt, dd, li, a, h1, h2, h3, h4, caption, figcaption, summary, pre, ' +
    'button, .marker, .sign, .interval, .small, .better, .role, .where, label, legend';
  for (const e of document.querySelectorAll(chosen)) {
    if (!e.checkVisibility() || !e.textContent.trim()) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${e.tagName}.${e.className} ${ratio.toFixed(2)}`);
  }
  return poor;
}"""


def test_without_javascript_all_but_the_moving_is_there_and_the_same(browser, path, opened):
    one = Opened(browser, path, java_script_enabled=False)
    page = one.page
    assert page.locator(".verdict .sentence").is_visible()
    assert page.locator(".picture").first.is_visible()
    assert page.locator(".found").first.get_attribute("d").startswith("M")
    assert page.locator(".static").first.inner_text() == "Outlined: WT."
    assert not page.locator("input[type=range]").first.is_visible()
    assert not page.locator("button").first.is_visible()
    look = "all => all.map(p => [getComputedStyle(p).backgroundPosition, p.innerHTML])"
    shown = page.locator(".viewer .picture").evaluate_all(look)
    assert shown == opened.page.locator(".viewer .picture").evaluate_all(look)
    assert len(shown) == 63
    one.context.close()


def test_the_picture_is_radiological_on_the_screen(browser, tmp_path, summary):
    """A bright cube at the patient's left, front and top, in a file that runs to the right."""
    real = np.full((20, 24, 28), 0.05, np.float32)
    real[14:18, 16:21, 4:9] = 1.2  # RAS+: low x is left, high y is front, high z is top
    mask = np.zeros(real.shape, bool)
    mask[15, 18, 6] = True
    arms = {"full": ArmVolumes(real, {})}
    case = CaseVolumes("c", "p", "worst", "t2f", real, arms, {"WT": mask}, np.eye(4), (1, 1, 1))
    one = Opened(browser, write_page(tmp_path, summary, [], [], [case]))
    want = {"axial": (True, False), "coronal": (True, False), "sagittal": (False, False)}
    one.page.add_style_tag(content=".picture > * { display: none !important; }")
    for plane, (right, low) in want.items():
        file = tmp_path / f"{plane}.png"
        one.page.locator(f"[data-plane={plane}] .picture").first.screenshot(path=file)
        grey = np.asarray(Image.open(file).convert("L"), float)
        rows, columns = np.nonzero(grey > 180)
        assert (columns.mean() > grey.shape[1] / 2) == right
        assert (rows.mean() > grey.shape[0] / 2) == low
    one.context.close()


def test_it_prints_with_pictures_and_without_controls(opened):
    opened.page.locator(".viewer").first.locator("input[value=TC]").check()
    opened.page.set_viewport_size({"width": 718, "height": 1000})  # A4 less its margins
    opened.page.emulate_media(media="print")
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 718
    assert opened.page.locator(".static").first.inner_text() == "Outlined: TC."
    assert not opened.page.locator("input[type=range]").first.is_visible()
    assert not opened.page.locator("nav").is_visible()
    assert opened.page.locator(".picture").first.is_visible()
    assert opened.page.pdf(format="A4").startswith(b"%PDF")


def test_the_index_opens_and_leads_to_the_pages(browser, tmp_path, summary):
    write_page(tmp_path / "t2f run", summary, [], [], [])
    path = write_index(tmp_path, {"t2f": ("t2f run/report.html", summary)})
    one = Opened(browser, path, viewport={"width": 400, "height": 800})
    assert one.said == one.outside == []
    assert one.page.evaluate("document.documentElement.scrollWidth") <= 400
    one.page.locator("a").first.click()
    assert one.page.locator("h1").inner_text() == summary["title"]
    assert one.said == []
    one.context.close()
