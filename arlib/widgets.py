"""Figures a reader can move through:
a slider that needs no kernel, and controls that recompute with one.
"""

import base64
import contextlib
import functools
import hashlib
import html
import importlib.metadata
import io
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from arlib.errors import InputError

# Where the script does not run (GitHub, a notebook not yet trusted) all frames stand below each
# other, each with its caption, and there is no bar. The script hides all but one.
_STYLE = """
.ar-slider {margin: 1em 0}
.ar-slider .ar-bar {display: none}
.ar-slider.ar-moves .ar-bar {display: flex; align-items: center; gap: .8em; flex-wrap: wrap}
.ar-slider input {flex: 1 1 12em; max-width: 30em; accent-color: #006ba4}
.ar-slider figure {margin: .5em 0}
.ar-slider figure[hidden] {display: none}
.ar-slider img {max-width: 100%; background: #fff}
.ar-slider.ar-moves figcaption {display: none}
@media print {
  .ar-slider .ar-bar {display: none !important}
  .ar-slider figure, .ar-slider figure[hidden], .ar-slider figcaption {display: block !important}
  .ar-slider figure {break-inside: avoid}
}
"""
# In the element's own attribute: it works wherever the markup does,
# from file:// and in each notebook front end.
_MOVE = """
const box = this.closest('.ar-slider'), frames = box.querySelectorAll('figure');
box.classList.add('ar-moves');
box.querySelector('.ar-bar').hidden = false;
frames.forEach((frame, i) => {frame.hidden = i != this.value});
const said = frames[this.value].querySelector('figcaption').textContent;
box.querySelector('output').textContent = said;
this.setAttribute('aria-valuetext', said);
"""
# What moves it the first time. A page runs the script as it reads it, so nothing jumps; a client
# that puts the output together before it is part of the page (the classic Notebook) has the last
# image's load event.
_BEGIN = (
    "<script>document.querySelectorAll('.ar-slider:not(.ar-moves) input').forEach(input => "
    "input.oninput())</script>"
)
_LOADED = "this.closest('.ar-slider').querySelector('input').oninput()"


def figure_slider(
    figures: Sequence,
    values: Sequence,
    label: str,
    *,
    alt: str = "",
    start: int = 0,
    dpi: int = 100,
):
    """A range input over ready figures, as static HTML:
    it moves in a rendered page, without kernel or network.

    figures: matplotlib figures of one size (they are closed), or PNG images as bytes; values: what
    each shows, in order ("0", "4", "8"); label: what the values are ("AR strength"); alt: what the
    figures show, for those who cannot see them (by default each figure's own `alt`); start: index
    of the figure shown first. Printed, all figures show.

    Raises `InputError` unless there are as many values as figures, at least two, and each has an
    alt text.
    """
    if len(figures) != len(values) or len(figures) < 2:
        raise InputError(
            f"figure_slider got {len(figures)} figures and {len(values)} values; give two or more "
            "each."
        )
    alts = [alt or getattr(figure, "alt", "") for figure in figures]
    if not all(alts):
        raise InputError("figure_slider needs alt: one sentence on what the figures show.")
    if not 0 <= start < len(figures):
        raise InputError(f"start is {start}; allowed: 0 to {len(figures) - 1}.")
    from IPython.display import HTML

    captions = [f"{label} = {value}" for value in values]
    images = [
        _image(figure, f"{about} {text}", dpi, loaded=i == len(captions) - 1)
        for i, (figure, about, text) in enumerate(zip(figures, alts, captions, strict=True))
    ]
    frames = [
        f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>"
        for image, caption in zip(images, captions, strict=True)
    ]
    bar = _bar(captions, label, alts[0], start)
    return HTML("\n".join([f"<style>{_STYLE}</style>", bar, *frames, f"</div>{_BEGIN}"]))


def live(compute: Callable, *, static=None, **controls):
    """Controls and a Compute button for a running kernel (ipywidgets 7.7 and 8);
    nothing is computed before.

    What `compute` returns is shown below, with what it prints; a bar runs while it works. If it
    fails, one line says why, and the last result stays.

    static: a figure with alt text, which a client without widgets shows instead, with one sentence.
    controls: what `ipywidgets.interactive` takes: (low, high, step), a list of choices, or a
    widget.
    """
    box = _live_class()(compute, {"manual": True, "manual_name": "Compute"}, **controls)
    box.static = static
    return box


NO_WIDGETS = (
    "This client shows no widgets. The controls that belong here need JupyterLab, Notebook or "
    "Colab."
)


def other_major_version() -> str:
    """A sentence if the front end that is installed beside ipywidgets belongs
    to another major version; "" if not.
    """
    if "google.colab" in sys.modules:  # it has a front end of its own
        return ""
    ours = _major("ipywidgets")
    for package, belongs in {
        "jupyterlab_widgets": {1: 7, 3: 8},
        "widgetsnbextension": {3: 7, 4: 8},
    }.items():
        theirs = belongs.get(_major(package), ours)
        if theirs != ours:
            return (
                f"If no controls appear below: ipywidgets is {ours}, but {package} is of "
                f"ipywidgets {theirs}. `pip install --upgrade ipywidgets` brings what belongs "
                "together."
            )
    return ""


def _refused() -> str:
    return (
        "The client could not show the controls of ipywidgets "
        f"{importlib.metadata.version('ipywidgets')}: its own part of ipywidgets is missing or of "
        "another major version. Install the two together."
    )


def _major(package: str) -> int:
    try:
        return int(importlib.metadata.version(package).split(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return 0


@functools.cache
def _live_class() -> type:
    """Made at first use: a page that is only built needs no ipywidgets."""
    from IPython.display import HTML as Page
    from IPython.display import display
    from IPython.utils.capture import capture_output
    from ipywidgets import HTML, FloatProgress, interactive

    class Live(interactive):
        """`interactive` that shows what it computes:
        on its own it gives the result back to nobody.
        """

        def __init__(self, *args, **options):
            self._last = 3.0  # seconds of the last time, for the bar
            self.progress = FloatProgress(
                min=0, max=1, description="computing", layout={"visibility": "hidden"}
            )
            self.message = HTML()
            super().__init__(*args, **options)
            self.children = [*self.children[:-1], self.progress, self.children[-1], self.message]

        def _ipython_display_(self, **_):
            """The view, or for a client that has none the static figure;
            ipywidgets 7 and 8 both ask here first.
            """
            if warning := other_major_version():
                print(warning)
            shown = display(self.bundle(), raw=True, display_id=True)
            # A front end that cannot make the controls closes their connection.
            self.comm.on_close(lambda _: shown.update(Page(self.instead(_refused()))))

        def bundle(self) -> dict[str, object]:
            """The view and what stands for it, by media type;
            the client shows the richest it knows.
            """
            view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
            about = f" Without them: {self.static.alt}" if self.static is not None else ""
            data = {
                "application/vnd.jupyter.widget-view+json": view,
                "text/plain": NO_WIDGETS + about,
            }
            # which always has widgets; its order of preference is not known
            if "google.colab" not in sys.modules:
                data["text/html"] = self.instead(NO_WIDGETS)
            return data

        def instead(self, reason: str) -> str:
            """The sentence and the static figure, as HTML."""
            sentence = f"<p>{html.escape(reason)}</p>"
            if self.static is None:
                return sentence
            image = (
                f'<img src="{_address(_png(self.static, 100))}" '
                f'alt="{html.escape(self.static.alt)}">'
            )
            return f"{sentence}\n{image}"

        def update(self, *_):
            """Compute with the controls' present values, and show the result in the output area."""
            self.kwargs = {
                widget._kwarg: widget.get_interact_value() for widget in self.kwargs_widgets
            }
            self.manual_button.disabled, begun = True, time.monotonic()
            try:
                with _running(self.progress, self._last), capture_output() as printed:
                    self.result = self.f(**self.kwargs)
                    if self.result is not None:
                        display(self.result)
                self._last = time.monotonic() - begun
            except (
                Exception
            ) as error:  # whatever the chapter's function raises is said, not thrown at the reader
                self.message.value = (
                    f"<b>Not computed.</b> {html.escape(f'{type(error).__name__}: {error}')}"
                )
                return
            finally:
                self.manual_button.disabled = False
            self.message.value = ""
            self.out.clear_output(wait=True)
            with self.out:
                printed.show()

    return Live


@contextlib.contextmanager
def _running(bar, seconds: float) -> Iterator[None]:
    """Inside it the bar moves, by the time that the last computation took;
    it shows only if this takes a moment.
    """
    over, begun = threading.Event(), time.monotonic()

    def move() -> None:
        while not over.wait(0.25):
            gone = time.monotonic() - begun
            bar.layout.visibility = "visible"
            # comes ever nearer to the end and never stands there, however long it takes
            bar.value, bar.description = (
                1 - math.exp(-2 * gone / seconds),
                f"computing, {gone:.0f} s",
            )

    thread = threading.Thread(target=move, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        bar.layout.visibility, bar.value = "hidden", 0


def _bar(captions: list[str], label: str, alt: str, start: int) -> str:
    """The head of the slider. Its id depends on the words alone,
    so stored outputs stay the same.
    """
    name = "ar-" + hashlib.sha256("\0".join([*captions, alt]).encode()).hexdigest()[:10]
    move = " ".join(_MOVE.split())
    return (
        '<div class="ar-slider">\n<div class="ar-bar" hidden><label '
        f'for="{name}">{html.escape(label)}</label>\n'
        f'<input type="range" id="{name}" min="0" max="{len(captions) - 1}" step="1" '
        f'value="{start}" autocomplete="off" '
        f'aria-valuetext="{html.escape(captions[start])}" oninput="{html.escape(move)}">\n'
        f'<output for="{name}">{html.escape(captions[start])}</output></div>'
    )


def _image(figure, alt: str, dpi: int, *, loaded: bool) -> str:
    """A frame's image; of a figure that has one, with its narrow version for phones."""
    png = figure if isinstance(figure, bytes) else _png(figure, dpi)
    marks = ' class="photographs"' if getattr(figure, "photographs", False) else ""
    marks += f' onload="{html.escape(_LOADED)}"' if loaded else ""
    image = f'<img src="{_address(png)}" alt="{html.escape(alt)}"{marks}>'
    narrow = figure.narrow() if hasattr(figure, "narrow") else None
    if narrow is None:
        return image
    source = f'<source media="(max-width: 576px)" srcset="{_address(narrow.for_a_phone())}">'
    return f"<picture>{source}{image}</picture>"


def _address(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _png(figure, dpi: int) -> bytes:
    """A matplotlib figure as a PNG of 128 colours, a third of the size;
    white behind, so dark pages keep it legible.
    """
    from matplotlib import pyplot
    from PIL import Image

    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=dpi, facecolor="white")
    pyplot.close(figure)
    Image.open(full).convert("RGB").quantize(128).save(small, format="png", optimize=True)
    return small.getvalue()
