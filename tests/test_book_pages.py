"""Every rendered page, opened from disk in a headless browser,
as a reader without network sees it.
"""

import functools
import html
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urljoin, urlparse

import nbformat
import numpy as np
import pytest
from bookfiles import CHAPTERS, ROOT, buttons, environment, links, read, texts, toc
from browsing import launched
from bs4 import BeautifulSoup
from PIL import Image

from tools import references
from tools.stamp import repository

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(1800)]
HTML = ROOT / "_build" / "html"
PAGES = [*toc(), "index", "search", "genindex", "py-modindex"]
# Findings inside markup of the theme that the book cannot reach:
# (rule, part of the selector), and their cause.
LAPTOP = "article pre, article table, article .cell_output, article mjx-container[display]"
PHONE = "article mjx-container[display]"
SOLUTION = 'details:has(> summary:text-is("Solution"))'
FINDING = "Finding: "
ALLOWED: dict[tuple[str, str], str] = {}


@pytest.fixture(scope="module")
def built():
    """The rendered book, built now if anything changed."""
    ran = subprocess.run(
        [sys.executable, "-m", "tools.book"],
        capture_output=True, text=True, cwd=ROOT, env=environment(ROOT / "_build" / "store"),
    )  # fmt: skip
    told = ran.stdout + ran.stderr
    assert ran.returncode == 0, told[-6000:]
    assert "Executing notebook" not in told, "Sphinx executes again what was executed before"
    return HTML


@pytest.fixture(scope="module")
def browser(built):
    with launched() as started:
        yield started


class Visit:
    """One page opened in one colour scheme, with all it complained about."""

    def __init__(self, browser, name: str, scheme: str = "light"):
        self.name, self.complaints = name, []
        self.page = browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 900})
        self.page.set_default_timeout(180_000)  # ms: a machine that also trains is slow
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on(
            "requestfailed", lambda request: self.complaints.append(f"failed: {request.url}")
        )
        self.page.on("request", self._asked)
        self.page.goto((HTML / f"{name}.html").as_uri(), wait_until="load")
        self.page.wait_for_load_state("networkidle")
        if self.page.evaluate("typeof MathJax !== 'undefined' && !!MathJax.startup"):
            self.page.evaluate("MathJax.startup.promise.then(() => true)")

    def _said(self, message) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"console {message.type}: {message.text}")

    def _asked(self, request) -> None:
        if urlparse(request.url).scheme not in ("file", "data", "blob"):
            self.complaints.append(f"asks another host: {request.url}")

    def as_opened(self, width: int = 1280, height: int = 900) -> "Visit":
        """The same page in a window of this size, everything folded that was when it was opened."""
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.evaluate(FOLD)
        return self

    def __enter__(self):
        self.page.evaluate(REMEMBER)
        return self

    def __exit__(self, *_):
        self.page.close()


REMEMBER = "window.opened = new Set(document.querySelectorAll('details[open]'))"
FOLD = "document.querySelectorAll('details').forEach(d => d.open = window.opened.has(d))"


@pytest.fixture(scope="module")
def visit(request, browser):
    """One light page for all tests that only look at it: opening it takes longer than they do."""
    with Visit(browser, request.param) as opened:
        yield opened


def each(names):
    return pytest.mark.parametrize("visit", names, indirect=True)


def test_the_pages_tested_are_all_there_are(built):
    pages = {
        str(path.relative_to(built).with_suffix(""))
        for path in built.rglob("*.html")
        if "_static" not in path.parts
    }
    assert pages - set(PAGES) == set()


@each(PAGES)
def test_page_is_whole(visit):
    visit.as_opened()
    assert visit.complaints == []
    assert visit.page.evaluate(BROKEN_IMAGES) == []
    assert visit.page.evaluate(UNRENDERED) == []


@each(PAGES)
def test_page_fits_a_phone(visit):
    visit.as_opened(390, 844)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390


@each(toc())
@pytest.mark.parametrize(("width", "what"), [(1366, LAPTOP), (400, PHONE)])
def test_nothing_scrolls_sideways_inside_a_page(visit, width, what):
    visit.as_opened(width, 768)
    visit.page.evaluate("document.querySelectorAll('article details').forEach(d => d.open = 1)")
    assert visit.page.evaluate(SIDEWAYS, what) == []


@each([f"book/{name}" for name in CHAPTERS])
def test_a_phone_gets_narrow_figures_and_a_laptop_wide_ones(visit):
    stored = [
        out["metadata"]["image/png"]["narrow"]
        for cell in read(visit.name.removeprefix("book/"))["cells"]
        for out in cell.get("outputs", [])
        if "narrow" in out.get("metadata", {}).get("image/png", {})
    ]
    for width, narrow in ((1280, False), (400, True)):
        visit.as_opened(width)
        # images far down are loaded when they come near
        visit.page.evaluate("document.querySelectorAll('img').forEach(i => i.loading='eager')")
        visit.page.wait_for_function(f"{PICTURES}.every(([from, width]) => from && width)")
        shown = visit.page.evaluate(PICTURES)
        assert len(shown) == len(stored)
        for address, natural, wide in shown:
            assert address.endswith(".narrow.png") == narrow
            # letters of a phone's figure are as large as they were drawn, nearly
            assert not narrow or wide > 0.5 * natural
    assert visit.complaints == []


PICTURES = """[...document.querySelectorAll('.cell_output picture img:not(.ar-slider img)')]
  .map(i => [i.currentSrc, i.naturalWidth, i.getBoundingClientRect().width])"""


@pytest.mark.parametrize("name", ["book/margins", "book/intro"])
def test_on_a_dark_page_figures_are_dark_and_photographs_are_not(browser, name):
    with Visit(browser, name, "dark") as visit:
        figures, photographs = (
            visit.page.locator(f".cell_output picture img{marked}:not(.ar-slider img)")
            for marked in (":not(.photographs)", ".photographs")
        )
        assert figures.count() > 2
        for image in figures.all():
            assert corner(image.screenshot()).max() < 40
        assert photographs.count() == (name == "book/intro")
        for image in photographs.all():
            assert corner(image.screenshot()).min() > 200
        for slider in visit.page.locator(".cell_output .text_html:has(.ar-slider)").all():
            assert corner(slider.screenshot()).max() < 40


def corner(png: bytes) -> np.ndarray:
    """A figure's colour where nothing is drawn, a little inside it."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))[9, 9]


def test_what_is_said_below_a_figure_is_in_its_alt_text(built):
    told = 0
    for name in CHAPTERS:
        for output in parsed(built / "book" / f"{name}.html").select("div.cell_output"):
            sentences = [p.get_text() for p in output.find_all("p")]
            findings = [text for text in sentences if text.startswith(FINDING)]
            images = output.select("img:not(.ar-slider img)")
            if findings and len(images) == 1:
                assert images[0]["alt"].endswith(findings[0].removeprefix(FINDING)), name
                told += 1
    assert told > 20


@each(PAGES)
def test_page_is_accessible(visit):
    assert serious_findings(visit.as_opened(), "light") == []


@pytest.mark.parametrize("name", PAGES)
def test_dark_page_is_accessible(browser, name):
    with Visit(browser, name, "dark") as visit:
        assert serious_findings(visit, "dark") == []


def serious_findings(visit, scheme: str) -> list[tuple]:
    """What axe finds hindering on a page: rule, place, markup."""
    from axe_playwright_python.sync_playwright import Axe

    if visit.name != "index":  # a redirect
        assert visit.page.evaluate("document.documentElement.dataset.theme") == scheme
    assert visit.complaints == []
    violations = Axe().run(visit.page).response["violations"]
    return [
        (finding["id"], node["target"], node["html"][:200])
        for finding in violations if finding["impact"] in ("serious", "critical")
        for node in finding["nodes"]
        if not any(rule == finding["id"] and part in str(node["target"]) for rule, part in ALLOWED)
    ]  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(built, name):
    page = built / f"{name}.html"
    links = [
        (urljoin(page.as_uri(), a["href"]), a.find_parent("article"))
        for a in parsed(page).find_all("a", href=True)
    ]
    dead = [link for link, _ in links if link.startswith("file:") and not target_exists(link)]
    assert dead == []
    ours = repository(ROOT)
    hosts = ("github.com", "gitlab.com", "colab.research.google.com", "mybinder.org")
    by_theme = [
        link for link, article in links if article is None and urlparse(link).netloc in hosts
    ]
    foreign = [link for link in by_theme if not (ours and ours.split("//")[1] in link)]
    foreign += [link for link, _ in links if "executablebooks" in link or "jupyter-book" in link]
    assert foreign == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_buttons_and_links_of_the_plain_notebook_lead_somewhere(built, name):
    here = f"../plain/{name}.ipynb"
    colab = {link for link in buttons(built / "book" / f"{name}.html") if link != here}
    assert here in buttons(built / "book" / f"{name}.html")
    assert bool(colab) == bool(repository(ROOT))
    assert all(link.endswith(f"/blob/notebooks/plain/{name}.ipynb") for link in colab)
    path = built / "plain" / f"{name}.ipynb"
    links_out = [link for text in texts(nbformat.read(path, as_version=4)) for link in links(text)]
    dead = [
        link
        for link in links_out
        if not link.startswith(("http", "#")) and not target_exists(urljoin(path.as_uri(), link))
    ]
    assert links_out and dead == []


def test_plain_notebooks_have_the_numbers_and_names_of_the_pages(built):
    book = references.read(ROOT)

    def page(label):
        return parsed(built / "book" / f"{label.page}.html").find(id=label.anchor)

    for label in book.equations.values():
        assert page(label).find(class_="eqno").get_text().startswith(f"({label.words})"), label
    for label in book.figures.values():
        assert page(label).find(class_="caption-number").get_text() == f"Fig. {label.words} ", label
    for label in book.sections.values():
        assert page(label), label
    cited = 0
    for name in CHAPTERS:
        whole = parsed(built / "book" / f"{name}.html")
        for link in whole.select('a[href*="bibliography.html#cite-"]'):
            entry = book.entries[link["href"].partition("#cite-")[2]]
            words = f"{references.authors(entry)}, {entry.fields['year']}"
            shown = link.get_text().replace("\xa0", " ")  # between the parts of "de Jorge"
            textual = shown in (entry.fields["year"], references.authors(entry))
            assert textual or shown == words
            cited += not textual
    assert cited


@functools.cache
def parsed(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def target_exists(link: str) -> bool:
    address = urlparse(link)
    path = Path(unquote(address.path))
    if not path.is_file():
        return False
    if not address.fragment or path.suffix != ".html":
        return True
    return html.escape(unquote(address.fragment)) in ids(path)


@functools.cache
def ids(page: Path) -> set[str]:
    """All ids of a page, as they are written: a tree of every page would take minutes."""
    return set(re.findall(r'<[a-z][^<>]*\sid="([^"]*)"', page.read_text(encoding="utf-8")))


def sliders():
    """Names of the pages that have a slider."""
    return [name for name in toc() if 'class="ar-slider"' in (HTML / f"{name}.html").read_text()]


def shown(slider) -> list[int]:
    return slider.evaluate(
        "s => [...s.querySelectorAll('figure')].flatMap((f, i) => f.checkVisibility() ? [i] : [])"
    )


def test_sliders_move_without_a_kernel(browser):
    assert sliders(), "the book has a slider"
    for name in sliders():
        with Visit(browser, name) as visit:
            for slider in visit.page.query_selector_all(".ar-slider"):
                control, last = (
                    slider.query_selector("input"),
                    len(slider.query_selector_all("figure")) - 1,
                )
                control.focus()
                seen = []
                for key in ("Home", "ArrowRight", "End"):
                    visit.page.keyboard.press(key)
                    seen.append((shown(slider), slider.query_selector("output").inner_text()))
                captions = [f.text_content() for f in slider.query_selector_all("figcaption")]
                assert seen == [([i], captions[i]) for i in (0, 1, last)]
            assert visit.complaints == []


def test_print_shows_every_frame_of_a_slider(browser):
    for name in sliders():
        with Visit(browser, name) as visit:
            visit.page.emulate_media(media="print")
            for slider in visit.page.query_selector_all(".ar-slider"):
                assert shown(slider) == list(range(len(slider.query_selector_all("figure"))))
                assert not slider.query_selector("input").is_visible()


def test_without_scripts_every_frame_of_a_slider_shows_with_its_caption(browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    for name in sliders():
        page.goto((HTML / f"{name}.html").as_uri(), wait_until="load")
        for slider in page.locator(".ar-slider").all():
            frames = slider.locator("figure")
            assert all(
                frame.is_visible() and frame.locator("figcaption").is_visible()
                for frame in frames.all()
            )
            assert frames.count() > 1 and not slider.locator("input").is_visible()
    context.close()


def test_the_boundary_is_walked_in_the_built_page(browser):
    """With the theme's own scripts and style; tests/test_boundary_page.py looks closer."""
    with Visit(browser, "book/boundary") as visit:
        slider, live = visit.page.locator("#ar-distance"), visit.page.locator("#ar-walk .ar-said")
        before = live.text_content()
        slider.focus()
        visit.page.keyboard.press("ArrowRight")
        assert slider.input_value() == "1" and live.text_content() != before
        assert "supported" in visit.page.locator("#ar-judge .ar-said").text_content()
        visit.page.emulate_media(media="print")
        assert not slider.is_visible() and visit.page.locator(".ar-static img").is_visible()
        assert visit.complaints == []


def test_solutions_are_folded_and_open(browser):
    solved = [
        name
        for name in toc()
        if "<summary>Solution</summary>" in (HTML / f"{name}.html").read_text()
    ]
    assert solved
    for name in solved:
        with Visit(browser, name) as visit:
            # a solution by its own summary: folded tables may lie in an output that is folded too
            for solution in visit.page.locator(SOLUTION).all():
                paragraph = solution.locator("p").first
                assert not paragraph.is_visible()
                solution.locator("summary").click()
                assert paragraph.is_visible()
            hidden = visit.page.locator("div.tag_hide-cell details.hide")
            assert all(not cell.locator("pre").first.is_visible() for cell in hidden.all())
            assert visit.page.evaluate(UNRENDERED) == [] and visit.complaints == []
    with Visit(browser, "book/singular_values") as visit:
        assert visit.page.locator(f"{SOLUTION} mjx-container").count() > 5, (
            "formulas are set in there, too"
        )
        assert visit.page.locator("div.tag_hide-cell details.hide").count() == 2


def test_a_faulty_page_is_noticed(browser, tmp_path):
    """A test of the tests: each check sees the fault planted for it."""
    page = tmp_path / "faulty.html"
    page.write_text(FAULTY)
    with Visit(browser, "index") as visit:
        visit.page.goto(page.as_uri(), wait_until="load")
        visit.page.wait_for_timeout(500)
        complaints = json.dumps(visit.complaints)
        for part in (
            "asks another host: http://127.0.0.1:9/x.js",
            "console error",
            "failed: ",
            "planted",
        ):
            assert part in complaints
        assert len(visit.page.evaluate(BROKEN_IMAGES)) == 2
        assert len(visit.page.evaluate(UNRENDERED)) == 3
    assert not target_exists((tmp_path / "none.html").as_uri())
    assert not target_exists(page.as_uri() + "#none") and target_exists(page.as_uri() + "#here")


FAULTY = """<!doctype html><html lang="en"><title>x</title><body><article id="here">
<img src="none.png" alt="a figure"><img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">
<span class="math">\\(x\\)</span> <p>{glue:text}`lost` and \\[y\\]</p>
<script src="http://127.0.0.1:9/x.js"></script>
<script>throw new Error('planted')</script></article></body></html>"""

BROKEN_IMAGES = """[...document.images].filter(i => !i.closest('mjx-container'))
  .filter(i => !i.complete || !i.naturalWidth || !(i.alt || '').trim())
  .map(i => i.outerHTML.slice(0, 120))"""

SIDEWAYS = """what => [...document.querySelectorAll(what)]
  .filter(e => e.scrollWidth > e.clientWidth + 1)
  .map(e => `${e.tagName} ${e.scrollWidth}>${e.clientWidth} ${e.textContent.slice(0, 90)}`)"""

# Formulas that MathJax left or marked as wrong,
# and markup that should have been replaced by the build.
UNRENDERED = r"""(() => {
  const bare = [...document.querySelectorAll('.math')]
    .filter(m => !m.querySelector('mjx-container'));
  const wrong = [...document.querySelectorAll('mjx-merror, [data-mjx-error]')];
  const prose = document.querySelector('article')?.cloneNode(true);
  prose?.querySelectorAll('pre, code, script, style, mjx-container').forEach(e => e.remove());
  const raw = (prose?.textContent || '').match(/\{[a-z]+(:[a-z]+)?\}`|\$\$|\\\[|\\begin\{/g) || [];
  return [...bare, ...wrong].map(e => e.outerHTML.slice(0, 120)).concat(raw);
})()"""
