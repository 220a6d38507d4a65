"""Figures where they are read: on a phone, and on a dark page."""

import base64
import io
import re

import numpy as np
import pytest
import synthetic
from bookfiles import CHAPTERS, ROOT, read, source
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image
from test_figures import ALL, RECORDS

from arlib import claims, figures, widgets
from arlib.figures import style
from arlib.figures.mechanism import STATES
from arlib.figures.verdicts import COLOURS

NOTHING = claims.decide(RECORDS).assign(primary_verdict="not measured")
DRAWN = ALL | {
    "causal_graph": figures.causal_graph,
    "if_drawn": lambda: figures.if_drawn(figures.forest, NOTHING),
    "causal_graph, decided": lambda: figures.causal_graph(dict(enumerate(STATES, start=1))),
}


def cut_off(figure) -> list[str]:
    """The words of a figure that do not stand inside it, as it is drawn."""
    figure.set_dpi(100)
    figure.canvas = FigureCanvasAgg(figure)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    inside = Bbox.from_bounds(-2, -2, *(figure.bbox.size + 4))  # two pixels of grace
    # those of ticks have the room that they need, and some are never drawn
    ticks = {label for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)
             for label in (*axis.get_ticklabels(), *axis.get_ticklabels(minor=True))}  # fmt: skip
    boxes = [
        (text.get_text(), text.get_window_extent(renderer).get_points())
        for text in figure.findobj(Text)
        if text not in ticks and text.get_visible() and text.get_text().strip()
        if text.axes is None or text.axes.get_visible()
    ]
    return [words for words, box in boxes if inside.count_contains(box) < 2]


@pytest.mark.parametrize("name", DRAWN)
def test_a_phone_gets_the_same_figure_with_its_panels_below_one_another(name):
    wide = DRAWN[name]()
    narrow = wide.narrow()
    assert narrow.get_figwidth() == 4.0 < wide.get_figwidth()
    assert narrow.alt == wide.alt and narrow.finding == wide.finding
    assert len(narrow.axes) == len(wide.axes)
    places = [ax.get_subplotspec() for ax in narrow.axes if ax.get_visible()]
    columns = {place.colspan.start for place in places if place is not None}
    assert len(columns) <= 1 or wide.photographs
    assert cut_off(narrow) == [] == cut_off(wide)


def test_words_that_do_not_fit_are_seen_to_be_cut_off():
    figure = figures.errors(RECORDS)
    figure.text(0.9, 0.5, "these words go on beyond the end of the figure")
    assert cut_off(figure) == ["these words go on beyond the end of the figure"]


def test_drawing_for_a_phone_ends_with_the_figure():
    figures.errors(RECORDS).narrow()
    assert not style.is_narrow()
    with pytest.raises(ZeroDivisionError), style.narrowed():
        1 / 0  # noqa: B018
    assert not style.is_narrow()


def test_a_notebook_stores_the_narrow_figure_beside_the_other(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: shown.append(k))
    figures.errors(RECORDS)._ipython_display_()
    about = shown[0]["metadata"]["image/png"]
    image = Image.open(io.BytesIO(base64.b64decode(about["narrow"])))
    assert image.width == 520 and image.height > 2 * image.width * 0.75
    assert "photographs" not in about
    ALL["image_grid"]()._ipython_display_()
    assert shown[-1]["metadata"]["image/png"]["photographs"] is True


def test_a_sliders_frames_have_theirs_too():
    frames = [figures.errors(RECORDS[RECORDS["seed"] == seed]) for seed in (0, 1)]
    markup = widgets.figure_slider(frames, ["0", "1"], "seed").data
    sources = re.findall(r'<source media="\(max-width: 576px\)" srcset="([^"]+)">', markup)
    assert len(set(sources)) == 2 and 'class="photographs"' not in markup
    photographs = widgets.figure_slider([ALL["image_grid"]() for _ in "ab"], "ab", "x").data
    assert photographs.count('class="photographs"') == 2


def luminance(colour) -> float:
    """As WCAG has it."""
    c = np.asarray(colour)
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_on_a_dark_page_lines_are_light_enough_and_stay_apart():
    card = figures.darkened(to_rgb("white"))
    assert luminance(card) < 0.01
    lines = [to_rgb(figures.colour(s)) for s in (0, 2, 4, 8, 16, 32, 64)]
    lines += [to_rgb(style.NEUTRAL), *(to_rgb(paint) for paint, _ in STATES.values())]
    shown = [figures.darkened(line) for line in lines]
    for line, seen in zip(lines, shown, strict=True):
        contrast = (luminance(seen) + 0.05) / (luminance(card) + 0.05)
        assert contrast >= 2.95, (to_hex(line), to_hex(seen), contrast)
    strengths = np.array(shown[:7])
    apart = np.abs(strengths[:, None] - strengths[None]).max(axis=2)
    assert apart[~np.eye(7, dtype=bool)].min() > 0.08
    # words on the tinted cells of the verdicts
    words = luminance(figures.darkened(to_rgb(style.NEUTRAL)))
    for cell in COLOURS.values():
        assert (words + 0.05) / (luminance(figures.darkened(to_rgb(cell))) + 0.05) >= 4.5, cell


def test_hues_stay_on_a_dark_page():
    red, blue = figures.darkened(to_rgb("#A3123A")), figures.darkened(to_rgb("#0F5FAF"))
    assert red.argmax() == 0 and blue.argmax() == 2
    grey = figures.darkened(to_rgb("#808080"))
    assert np.ptp(grey) < 1e-9


def test_a_dark_picture_has_the_colours_of_the_light_one_turned():
    light = figures.errors(RECORDS)._repr_png_()
    dark = figures.dark_png(light)
    pixels, turned = (
        np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) / 255 for png in (light, dark)
    )
    assert np.abs(figures.darkened(pixels) - turned).mean() < 0.01
    assert len(dark) < 1.5 * len(light)


def test_pages_turn_colours_by_the_same_numbers():
    css = (ROOT / "book" / "_static" / "arbook.css").read_text(encoding="utf-8")
    assert re.findall(r"invert\(([\d.]+)\) hue-rotate\(180deg\)", css) == [str(figures.dark.INVERT)]


def test_one_frame_for_several_figures_is_that_of_their_narrow_versions():
    wide = figures.training_curves(synthetic.histories(), epochs=40)
    for ax in (*wide.axes, *wide.narrow().axes):
        assert ax.get_xlim() == (0.5, 40.5) and ax.get_ylim() == (0, 1)


@pytest.mark.parametrize("name", CHAPTERS)
def test_no_chapter_changes_a_figure_that_is_drawn(name):
    """A narrow version is drawn anew, and would lack the change."""
    for cell in read(name)["cells"]:
        if cell["cell_type"] == "code":
            assert not re.search(r"\.axes\b|\bax\.set", source(cell)), cell["id"]
