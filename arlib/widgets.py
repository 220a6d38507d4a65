"""Figures a reader can move through: a slider that needs no kernel, and controls that recompute with one."""

import base64
import contextlib
import functools
import hashlib
import html
import io
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from arlib.errors import InputError

_STYLE = """
.ar-slider {margin: 1em 0}
.ar-slider .ar-bar {display: flex; align-items: center; gap: .8em; flex-wrap: wrap}
.ar-slider input {flex: 1 1 12em; max-width: 30em; accent-color: #006ba4}
.ar-slider figure {margin: .5em 0}
.ar-slider figure[hidden] {display: none}
.ar-slider img {max-width: 100%; background: #fff}
.ar-slider figcaption {display: none}
@media print {
  .ar-slider .ar-bar {display: none}
  .ar-slider figure, .ar-slider figure[hidden], .ar-slider figcaption {display: block !important}
  .ar-slider figure {break-inside: avoid}
}
"""
# In the element's own attribute: it works wherever the markup does, from file:// and in each notebook front end.
_MOVE = """
const box = this.closest('.ar-slider'), frames = box.querySelectorAll('figure');
frames.forEach((frame, i) => {frame.hidden = i != this.value});
const said = frames[this.value].querySelector('figcaption').textContent;
box.querySelector('output').textContent = said;
this.setAttribute('aria-valuetext', said);
"""


def figure_slider(figures: Sequence, values: Sequence, label: str, *, alt: str = "", start: int = 0, dpi: int = 100):
    """A range input over ready figures, as static HTML: it moves in a rendered page, without kernel or network.

    figures: matplotlib figures of one size (they are closed), or PNG images as bytes; values: what each
    shows, in order ("0", "4", "8"); label: what the values are ("AR strength"); alt: what the figures
    show, for those who cannot see them (by default each figure's own `alt`); start: index of the figure
    shown first. Printed, all figures show.

    Raises `InputError` unless there are as many values as figures, at least two, and each has an alt text.
    """
    if len(figures) != len(values) or len(figures) < 2:
        raise InputError(f"figure_slider got {len(figures)} figures and {len(values)} values; give two or more each.")
    alts = [alt or getattr(figure, "alt", "") for figure in figures]
    if not all(alts):
        raise InputError("figure_slider needs alt: one sentence on what the figures show.")
    if not 0 <= start < len(figures):
        raise InputError(f"start is {start}; allowed: 0 to {len(figures) - 1}.")
    from IPython.display import HTML

    said = [f"{label} = {value}" for value in values]
    pngs = [figure if isinstance(figure, bytes) else _png(figure, dpi) for figure in figures]
    frames = [
        _frame(png, f"{about} {text}", text, text == said[start])
        for png, about, text in zip(pngs, alts, said, strict=True)
    ]
    return HTML(f"<style>{_STYLE}</style>\n{_bar(said, label, alts[0], start)}\n" + "\n".join(frames) + "\n</div>")


def live(compute: Callable, **controls):
    """Controls and a Compute button for a running kernel (ipywidgets 7.7 and 8); nothing is computed before.

    What `compute` returns is shown below, with what it prints; a bar runs while it works. If it fails,
    one line says why, and the last result stays.

    controls: what `ipywidgets.interactive` takes: (low, high, step), a list of choices, or a widget.
    """
    return _live_class()(compute, {"manual": True, "manual_name": "Compute"}, **controls)


@functools.cache
def _live_class() -> type:
    """Made at first use: a page that is only built needs no ipywidgets."""
    from IPython.display import display
    from IPython.utils.capture import capture_output
    from ipywidgets import HTML, FloatProgress, interactive

    class Live(interactive):
        """`interactive` that shows what it computes: on its own it gives the result back to nobody."""

        def __init__(self, *args, **options):
            self._last = 3.0  # seconds of the last time, for the bar
            self.progress = FloatProgress(min=0, max=1, description="computing", layout={"visibility": "hidden"})
            self.said = HTML()
            super().__init__(*args, **options)
            self.children = [*self.children[:-1], self.progress, self.children[-1], self.said]

        def update(self, *_):
            """Compute with the controls' present values, and show the result in the output area."""
            self.kwargs = {widget._kwarg: widget.get_interact_value() for widget in self.kwargs_widgets}
            self.manual_button.disabled, begun = True, time.monotonic()
            try:
                with _running(self.progress, self._last), capture_output() as printed:
                    self.result = self.f(**self.kwargs)
                    if self.result is not None:
                        display(self.result)
                self._last = time.monotonic() - begun
            except Exception as error:  # whatever the chapter's function raises is said, not thrown at the reader
                self.said.value = f"<b>Not computed.</b> {html.escape(f'{type(error).__name__}: {error}')}"
                return
            finally:
                self.manual_button.disabled = False
            self.said.value = ""
            self.out.clear_output(wait=True)
            with self.out:
                printed.show()

    return Live


@contextlib.contextmanager
def _running(bar, seconds: float) -> Iterator[None]:
    """Inside it the bar moves, by the time that the last computation took; it shows only if this takes a moment."""
    over, begun = threading.Event(), time.monotonic()

    def move() -> None:
        while not over.wait(0.25):
            gone = time.monotonic() - begun
            bar.layout.visibility = "visible"
            bar.value, bar.description = 1 - math.exp(-2 * gone / seconds), f"computing, {gone:.0f} s"

    thread = threading.Thread(target=move, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        bar.layout.visibility, bar.value = "hidden", 0


def _bar(said: list[str], label: str, alt: str, start: int) -> str:
    """The head of the slider. Its id depends on the words alone, so stored outputs stay the same."""
    name = "ar-" + hashlib.sha256("\0".join([*said, alt]).encode()).hexdigest()[:10]
    move = " ".join(_MOVE.split())
    return (
        f'<div class="ar-slider">\n<div class="ar-bar"><label for="{name}">{html.escape(label)}</label>\n'
        f'<input type="range" id="{name}" min="0" max="{len(said) - 1}" step="1" value="{start}" autocomplete="off" '
        f'aria-valuetext="{html.escape(said[start])}" oninput="{html.escape(move)}">\n'
        f'<output for="{name}">{html.escape(said[start])}</output></div>'
    )


def _frame(png: bytes, alt: str, said: str, shown: bool) -> str:
    source = "data:image/png;base64," + base64.b64encode(png).decode()
    image = f'<img src="{source}" alt="{html.escape(alt)}">'
    return f"<figure{'' if shown else ' hidden'}>{image}<figcaption>{html.escape(said)}</figcaption></figure>"


def _png(figure, dpi: int) -> bytes:
    """A matplotlib figure as a PNG of 128 colours, a third of the size; white behind, so dark pages keep it legible."""
    from matplotlib import pyplot
    from PIL import Image

    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=dpi, facecolor="white")
    pyplot.close(figure)
    Image.open(full).convert("RGB").quantize(128).save(small, format="png", optimize=True)
    return small.getvalue()
