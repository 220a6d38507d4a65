"""Chapters where readers run them:
real notebook clients, driven by a real browser (tests/clients/).

ARLIB_SCREENSHOTS=FOLDER keeps a screenshot of each moved slider and each computed figure.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from bookfiles import CHAPTERS, ROOT, read, source

from arlib import widgets

sys.path.insert(0, str(Path(__file__).parent / "clients"))
import client as clients
import environments

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(1800)]
OURS = sys.executable
# Whose server, which application, how it is driven, whose kernel (None: this environment's Python).
CLIENTS = {
    "JupyterLab, ipywidgets 8": ("lab-8", "jupyterlab", clients.Lab, None),
    "JupyterLab, ipywidgets 7": ("lab-7", "jupyterlab", clients.Lab, "kernel-7"),
    "Notebook 7": ("lab-8", "notebook", clients.Notebook7, None),
    "Notebook 6": ("notebook-6", "notebook", clients.Notebook6, "kernel-7"),
}


def uses(call: str) -> list[str]:
    return [name for name in CHAPTERS if any(call in source(cell) for cell in read(name)["cells"])]


LIVE, STATIC = uses("widgets.live("), uses("widgets.figure_slider(")
# In JupyterLab each chapter that moves, and one that does not: what those print and draw is the
# same in every client, and other tests run them. In the others, chapters with live widgets.
MOVING = [name for name in CHAPTERS if name in (*LIVE, *STATIC, "verdicts")]
VISITS = [
    (name, chapter)
    for name in CLIENTS
    for chapter in (MOVING if name == next(iter(CLIENTS)) else LIVE)
]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        path = next(
            filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
        )
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        try:
            started = playwright.chromium.launch(executable_path=path, args=options)
        except Error as error:
            pytest.skip(f"no browser: {str(error).splitlines()[0]}; install chromium")
        yield started
        started.close()


def serve(home: Path, server: str, application: str, kernel: str | None, **options):
    try:
        interpreter = environments.python(kernel) if kernel else OURS
        variables = {
            "PYTHONPATH": str(ROOT),
            "ARLIB_STORE": str(home / "store"),
            "OMP_NUM_THREADS": "1",
        }
        return clients.Server(server, application, home, interpreter, **variables | options)
    except environments.Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def client(request, tmp_path_factory):
    """A started client: its server, and the class that drives it."""
    server, application, kind, kernel = CLIENTS[request.param]
    started = serve(tmp_path_factory.mktemp("client"), server, application, kernel)
    yield request.param, kind, started
    started.close()


@pytest.mark.parametrize("client, chapter", VISITS, indirect=["client"])
def test_a_chapter_in_a_client(browser, client, chapter):
    name, kind, server = client
    with kind(server, browser, ROOT / "book" / f"{chapter}.ipynb") as opened:
        if chapter in STATIC:
            frames = opened.find("figure:has(figcaption)").evaluate(ALL_SHOWN)
            assert len(frames) > 1 and all(frames), (
                "no script runs in a notebook that is not trusted: all frames show"
            )
        saved = opened.run_all()
        look_at_outputs(saved)
        for slider in sliders(saved):
            move_a_static_slider(opened, slider)
            opened.picture(f"{name} {chapter} slider {slider}")
        if chapter in LIVE:
            compute(opened)
            opened.picture(f"{name} {chapter} computed")
        assert opened.complaints == []


def look_at_outputs(saved: dict) -> None:
    """Every cell ran, none failed; the result stands below the setup cell,
    captions below the figures.
    """
    code = [cell for cell in saved["cells"] if cell["cell_type"] == "code" and source(cell).strip()]
    assert all(cell["execution_count"] for cell in code)
    assert [out for cell in code for out in cell["outputs"] if out["output_type"] == "error"] == []
    (line,) = [text(out) for out in code[0]["outputs"]]
    assert line and "when its cells have run" not in line
    drawn = [cell for cell in code if cell["metadata"].get("mystnb")]
    for cell in drawn:
        if any("image/png" in out.get("data", {}) for out in cell["outputs"]):
            assert "<summary>Description</summary>" in text(cell["outputs"][-1]), cell["id"]


def text(output: dict) -> str:
    return "".join(output.get("data", {}).get("text/markdown", ""))


def sliders(saved: dict) -> list[str]:
    """The ids of the static sliders that the chapter now shows."""
    outputs = [out for cell in saved["cells"] for out in cell.get("outputs", [])]
    pages = ["".join(out.get("data", {}).get("text/html", "")) for out in outputs]
    return [
        name for page in pages for name in re.findall(r'<input type="range" id="(ar-\w+)"', page)
    ]


ALL_SHOWN = (
    "f => [...f.parentElement.querySelectorAll('figure')].map(other => other.checkVisibility())"
)
SHOWN = (
    "i => [...i.closest('.ar-slider').querySelectorAll('figure')].findIndex(f => "
    "f.checkVisibility())"
)
COUNT = (
    "i => [...i.closest('.ar-slider').querySelectorAll('figure')].filter(f => "
    "f.checkVisibility()).length"
)


def move_a_static_slider(opened, name: str) -> None:
    control = opened.find(f"input#{name}")
    before, last = control.evaluate(SHOWN), int(control.get_attribute("max"))
    assert control.evaluate(COUNT) == 1
    box = control.bounding_box()
    x = box["width"] - 4 if before < last else 4
    control.click(position={"x": x, "y": box["height"] / 2})
    assert control.evaluate(SHOWN) == (last if before < last else 0)
    assert control.evaluate(COUNT) == 1


def compute(opened) -> None:
    """Drag a live slider and press Compute, twice: each time the output area has another figure."""
    seen = []
    for by in (-30, -20):
        button = opened.find('button:has-text("Compute")')
        box = button.locator("xpath=ancestor::*[contains(@class, 'widget-interact')]")
        handle = box.locator(".noUi-handle, .ui-slider-handle").first
        readout = handle.locator("xpath=ancestor::*[contains(@class, 'widget-slider')]").locator(
            ".widget-readout"
        )
        before = readout.inner_text()
        opened.drag(handle, by)
        assert readout.inner_text() != before
        button.click()
        opened.finish()
        assert "Not computed" not in box.inner_text()
        image = box.locator("img")
        assert image.count() == 1, "the new figure takes the old one's place"
        seen.append(image.get_attribute("src"))
        image.scroll_into_view_if_needed()
    assert len(set(seen)) == 2


SMALL = """
import torch
from arlib import figures, widgets
def draw(centre):
    return figures.symbol(torch.tensor([[1.0, 1, 1], [1, centre, 1], [1, 1, 1]]), 8)
widgets.live(draw, centre=(-4.0, 4.0), static=draw(0.0))
"""


def small(folder: Path) -> Path:
    import nbformat

    path = folder / "small.ipynb"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(SMALL.strip())], metadata={"kernelspec": kernel}
        ),
        path,
    )
    return path


def test_a_client_without_widgets_shows_the_static_figure_and_one_sentence(browser, tmp_path):
    config = tmp_path / "home" / "config" / "labconfig"
    config.mkdir(parents=True)
    (config / "page_config.json").write_text(
        json.dumps({"disabledExtensions": {"@jupyter-widgets/jupyterlab-manager": True}})
    )
    server = serve(tmp_path / "home", "lab-8", "jupyterlab", None)
    try:
        with clients.Lab(server, browser, small(tmp_path)) as opened:
            opened.run_all()
            shown = opened.find(".jp-OutputArea-output")
            assert opened.page.locator(".jp-OutputArea-output").count() == 1
            assert shown.inner_text().strip() == widgets._refused()
            assert shown.locator("img").evaluate("i => i.naturalWidth") > 0
            opened.picture("JupyterLab without widgets")
    finally:
        server.close()


def test_a_front_end_of_another_major_version_is_said(browser, tmp_path):
    """The kernel has ipywidgets 8, the client's front end is of 7: it cannot make the controls."""
    server = serve(tmp_path / "home", "lab-7", "jupyterlab", None)
    try:
        with clients.Lab(server, browser, small(tmp_path)) as opened:
            opened.run_all()
            notice = opened.find(".jp-OutputArea-output:has-text('another major version')")
            assert opened.page.locator(".jp-OutputArea-output").count() == 1, (
                "it takes the place of the client's error"
            )
            assert notice.inner_text().startswith(
                "The client could not show the controls of ipywidgets 8"
            )
            assert notice.locator("img").evaluate("i => i.naturalWidth") > 0
            opened.picture("JupyterLab, another major version")
    finally:
        server.close()


def test_a_kernel_without_arlib_stops_at_the_setup_cell_with_its_message(browser, tmp_path):
    try:
        interpreter = environments.python("lab-8")
    except environments.Unavailable as reason:
        pytest.skip(str(reason))
    # A kernel drops what is queued behind an error, and nothing that comes later. On a busy machine
    # the client's other requests may come later, so the first cell waits until they are there.
    startup = tmp_path / "home" / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "wait.py").write_text(
        "import time\n"
        "def wait(info):\n"
        "    get_ipython().events.unregister('pre_run_cell', wait)\n"
        "    time.sleep(10)\n"
        "get_ipython().events.register('pre_run_cell', wait)\n"
    )
    server = clients.Server("lab-8", "jupyterlab", tmp_path / "home", interpreter)
    try:
        with clients.Lab(server, browser, ROOT / "book" / "intro.ipynb") as opened:
            saved = opened.run_all()
            setup, *later = [cell for cell in saved["cells"] if cell["cell_type"] == "code"]
            (message,) = [
                out["evalue"] for out in setup["outputs"] if out["output_type"] == "error"
            ]
            assert message.startswith("arlib is not installed; set ARLIB_SOURCE")
            errors = [
                out["evalue"]
                for cell in later
                for out in cell["outputs"]
                if out["output_type"] == "error"
            ]
            assert errors == []
            opened.picture("JupyterLab, a kernel without arlib")
    finally:
        server.close()
