"""The look of every figure: one colour and marker a strength, seeds as spread,
a white card, alt text.
"""

import base64
import contextlib
import functools
import io
import math
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from PIL import Image

from arlib.claims.words import FINDING
from arlib.errors import InputError, NotMeasured

STRENGTH = "AR strength (255·ε)"
NEUTRAL = "#1F2937"
GREY = "#9AA1AC"
# 2, 4, …, 64: told apart in normal and colour-blind vision (ΔE ≥ 17 in the book's sets),
# contrast to white ≥ 3.
_ANCHORS = ("#4A98CC", "#0F5FAF", "#DB7A1C", "#A3123A", "#B97CE0", "#1E8C6E")
_MARKERS = ("v", "s", "D", "^", "P", "X")
_CMAP = LinearSegmentedColormap.from_list("ar-strength", _ANCHORS)
_RC = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E3E6EA",
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "figure.constrained_layout.use": True,
}
_PHONE = 4.0  # inches: what a phone shows without making letters smaller
_SHARP = 130  # its dots an inch: a phone has two and more to a pixel
_NARROW: ContextVar[bool] = ContextVar("narrow", default=False)


class Picture(Figure):
    """A matplotlib figure outside pyplot (nothing to close), with alt text;
    notebooks show it as PNG, and below it the sentence that says what it shows.
    """

    alt: str = ""
    finding: str = ""
    """One computed sentence, part of `alt`; "" where a figure explains instead of measuring."""
    photographs: bool = False
    """Whether images are in it, which keep their colours on a dark page."""
    again: Callable[[], "Picture"] | None = None
    """Draws the same anew, for `narrow`; None where it was not drawn by a function here."""

    def draw(self, renderer) -> None:
        with rc_context(_RC):  # ticks are made when they are drawn
            super().draw(renderer)

    def narrow(self) -> "Picture | None":
        """The figure as a phone shows it, its panels below one another;
        None where it is no narrower than this one.
        """
        if self.again is None or self.get_figwidth() <= _PHONE:
            return None
        with narrowed():
            drawn = self.again()
        return drawn if drawn.get_figwidth() < self.get_figwidth() else None

    def _repr_png_(self) -> bytes:
        return self.png(110, 128)

    def png(self, dpi: float, colours: int) -> bytes:
        """The figure as PNG of so many colours, a third of the size of one with all."""
        full, small = io.BytesIO(), io.BytesIO()
        self.savefig(full, format="png", dpi=dpi)
        Image.open(full).convert("RGB").quantize(colours).save(small, format="png", optimize=True)
        return small.getvalue()

    def for_a_phone(self) -> bytes:
        """The PNG of a narrow figure, which is sharper."""
        return self.png(_SHARP, 128 if self.photographs else 64)

    def _ipython_display_(self) -> None:
        from IPython.display import Markdown, display

        shown = {
            "image/png": base64.b64encode(self._repr_png_()).decode(),
            "text/plain": repr(self),
        }
        about = {"alt": self.alt}
        if self.photographs:
            about["photographs"] = True
        if narrow := self.narrow():  # the book's pages show it on a phone; clients pass it over
            about["narrow"] = base64.b64encode(narrow.for_a_phone()).decode()
        display(shown, metadata={"image/png": about}, raw=True)
        if self.finding:
            display(Markdown(FINDING + self.finding))


def picture(function: Callable) -> Callable:
    """Draw in the book's style; the function returns (figure, alt text[, finding]),
    the caller gets the figure.
    """

    @functools.wraps(function)
    def drawn(*args, **kwargs) -> Picture:
        with rc_context(_RC):
            figure, alt, *finding = function(*args, **kwargs)
        figure.finding = " ".join(finding)
        figure.alt = f"{alt} {figure.finding}".strip()
        figure.again = functools.partial(drawn, *args, **kwargs)
        return figure

    return drawn


@contextlib.contextmanager
def narrowed() -> Iterator[None]:
    """In here figures are drawn for a phone."""
    before = _NARROW.set(True)
    try:
        yield
    finally:
        _NARROW.reset(before)


def is_narrow() -> bool:
    """Whether figures are being drawn for a phone."""
    return _NARROW.get()


def live(figure: Picture) -> Picture:
    """A figure of what was computed just now: its numbers differ between machines, so that no
    sentence can be stored below it.
    """
    figure.finding = ""
    return figure


def if_drawn(draw: Callable[..., Picture], *args, **options) -> Picture:
    """The figure, or a card that says what it lacks: for figures whose caption stands before there
    is anything to draw.
    """
    try:
        return draw(*args, **options)
    except NotMeasured as error:
        return _card(f"Not measured: {error}")


@picture
def _card(text: str) -> tuple[Picture, str]:
    letters = 45 if is_narrow() else 90
    figure = Picture(figsize=(_PHONE, 1.6) if is_narrow() else (7.6, 1.0))
    figure.text(0.5, 0.5, fill(text, letters), ha="center", va="center", color=NEUTRAL)
    return figure, "A card in the place of a figure.", text


def alt(figure: Figure) -> str:
    """What a figure shows, in words, for those who cannot see it."""
    return getattr(figure, "alt", "")


def colour(strength: float) -> str:
    """The colour of an AR strength, the same in the whole book;
    strengths between 2 and 64 blend.
    """
    if not (math.isfinite(strength) and strength >= 0):
        raise InputError(f"strength is {strength!r}; an AR strength is a number, 0 or more.")
    return NEUTRAL if strength == 0 else to_hex(_CMAP(_place(strength) / 5))


def marker(strength: float) -> str:
    """The marker of an AR strength: what tells it apart in black and white."""
    return "o" if strength == 0 else _MARKERS[round(_place(strength))]


def _place(strength: float) -> float:
    return min(max(math.log2(strength) - 1, 0.0), 5.0)


def panels(
    count: int,
    *,
    columns: int = 3,
    width: float = 7.6,
    alone: float = 5.0,
    height: float = 2.7,
    **options,
):
    """A picture with `count` axes in rows of at most `columns` (4 axes: 2 × 2), flat in order;
    for a phone in one column. width, alone: inches of several columns, of a single one.
    """
    columns = 1 if is_narrow() else 2 if count == 4 else min(columns, count)
    rows = math.ceil(count / columns)
    width = _PHONE if is_narrow() else width if columns > 1 else alone
    figure = Picture(figsize=(width, height * rows))
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for index, spare in enumerate(axes[count:], start=count):
        spare.set_visible(False)
        # the panel above may share its axis with the spare one
        axes[index - columns].tick_params(labelbottom=True)
    return figure, axes[:count]


def tiles(rows: int, columns: int, *, tile: float):
    """A picture with (rows, columns) axes for small images, and at which columns a row begins: for
    a phone the right half of the rows stands below the left one. tile: inches of a row.
    """
    blocks = 2 if is_narrow() and columns >= 4 else 1
    wide = math.ceil(columns / blocks)
    figure = Picture(
        figsize=(_PHONE if is_narrow() else 7.6, blocks * (0.35 + tile * rows)),
    )
    figure.photographs = True
    below = figure.subplots(blocks * rows, wide, squeeze=False)
    axes = np.hstack([below[block * rows : (block + 1) * rows] for block in range(blocks)])
    for spare in axes[:, columns:].ravel():
        spare.set_visible(False)
    return figure, axes[:, :columns], [block * wide for block in range(blocks)]


def strengths_of(frame: pd.DataFrame) -> list[float]:
    """The strengths in a frame (column or index level), in order;
    `NotMeasured` if there are none.
    """
    strengths = frame.reset_index()["strength"].unique()
    if not len(strengths):
        raise NotMeasured("nothing is recorded to draw; run the study first.")
    return sorted(strengths)


def against_strength(ax, values: pd.Series, *, label: str) -> None:
    """values (index seed, strength) against strength:
    a thin line per seed, mean as coloured markers.
    """
    wide = values.unstack("strength")
    places = np.arange(wide.shape[1])
    for _, row in wide.iterrows():
        ax.plot(places, row, color=GREY, linewidth=0.8, marker=".", markersize=3)
    mean = wide.mean()
    ax.plot(places, mean, color=NEUTRAL, linewidth=1.2, zorder=3)
    for place, strength in zip(places, wide.columns, strict=True):
        ax.plot(
            place, mean[strength], marker(strength), color=colour(strength), markersize=7, zorder=4
        )
    ax.set_xticks(places, [f"{strength:g}" for strength in wide.columns])
    ax.set_xlim(-0.4, len(places) - 0.6)
    ax.set(xlabel=STRENGTH, ylabel=label)


def by_strength(ax, x, curves: dict[float, np.ndarray], *, every: int = 1) -> None:
    """curves {strength: (seeds, points)} against x: mean line with markers, thin line per seed."""
    for strength, rows in curves.items():
        rows = np.atleast_2d(rows)
        for row in rows if len(rows) > 1 else ():
            ax.plot(x, row, color=colour(strength), linewidth=0.7, alpha=0.45)
        style = {
            "color": colour(strength),
            "marker": marker(strength),
            "markersize": 5,
            "markevery": every,
        }
        ax.plot(x, rows.mean(axis=0), label=f"{strength:g}", **style)


def one_scale(axes: Iterable) -> None:
    """Panels whose vertical axes have the same label get the same ends, so that they compare."""
    groups = {}
    for ax in axes:
        groups.setdefault(ax.get_ylabel(), []).append(ax)
    for group in groups.values():
        ends = np.array([ax.get_ylim() for ax in group])
        for ax in group:
            ax.set_ylim(ends.min(), ends.max())


def log_axis(ax, which: str = "y") -> None:
    """A logarithmic axis, x or y, with plain numbers (call it last: the ticks depend on what is
    drawn).
    """
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    axis = ax.xaxis if which == "x" else ax.yaxis
    low, high = axis.get_view_interval()
    axis.set_major_locator(
        MaxNLocator(6) if high < 8 * low else LogLocator(subs=(1, 2, 5), numticks=12)
    )
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def legend(figure: Picture, strengths: Iterable[float], *, extra: Iterable = ()) -> None:
    """One legend of strengths above all panels."""
    handles = [Line2D([], [], color=colour(s), marker=marker(s), label=f"{s:g}") for s in strengths]
    key(figure, [*handles, *extra], title=STRENGTH)


def key(figure: Picture, handles: list, place: str = "upper center", **options) -> None:
    """A legend outside all panels, as many entries side by side as their words allow."""
    longest = max(len(handle.get_label()) for handle in handles)
    letters = figure.get_figwidth() * 12
    fit = max(1, int(letters // (longest + 6)))
    figure.legend(handles=handles, loc=f"outside {place}", ncols=min(fit, len(handles)), **options)


def row_label(text: str) -> str:
    """The label of a row, in lines that leave a phone room for the panel."""
    return fill(text, 18) if is_narrow() else text


def words(series: pd.Series, unit: str = "") -> str:
    """ "0: 0.14, 8: 0.28": means by strength, for alt text."""
    return ", ".join(f"{strength:g}: {value:.3g}{unit}" for strength, value in series.items())
