"""The page "Walk the boundary" in a browser: its panels and scripts alone, from a file on disk."""

import html
import itertools
import json
import math
import os
import re

import pytest
from bookfiles import ROOT
from browsing import launched

from arlib import boundary, studies
from arlib.boundary import page as markup
from arlib.boundary.bench import LEVELS, PROTOCOLS, Bench
from arlib.claims.words import effect_text

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(1800)]
STATIC = ROOT / "book" / "_static"
SCRIPTS = ("chart.js", "boundary.js", "statistics.js", "judge.js")


@pytest.fixture(scope="module")
def content() -> dict:
    return boundary.read()


@pytest.fixture(scope="module")
def study(content, tmp_path_factory):
    return studies.load(content["study"], tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def address(content, study, tmp_path_factory) -> str:
    """Both panels with the book's own scripts and style, and nothing else."""
    panels = markup.walk_panel(content, study) + markup.judge_panel(study)
    return written(panels, tmp_path_factory.mktemp("page") / "page.html")


def written(panels: str, where) -> str:
    scripts = "".join(f"<script>{(STATIC / name).read_text()}</script>" for name in SCRIPTS)
    style = (STATIC / "boundary.css").read_text()
    where.write_text(
        '<!doctype html><html lang="en" data-theme="light"><meta charset="utf-8"><title>x</title>'
        f"<style>{style}</style><main><article><h1>x</h1>{panels}</article></main>{scripts}</html>",
        encoding="utf-8",
    )
    return where.as_uri()


@pytest.fixture(scope="module")
def browser():
    with launched() as started:
        yield started


@pytest.fixture
def page(browser, address):
    """The page as opened; no script may complain or ask for anything while it is used."""
    complaints = []
    opened = browser.new_page(viewport={"width": 1000, "height": 900})
    opened.set_default_timeout(120_000)
    opened.on("console", lambda m: complaints.append(m.text) if m.type != "log" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: complaints.append(request.url))
    opened.goto(address, wait_until="load")
    yield opened
    assert [c for c in complaints if not c.startswith(("file:", "data:"))] == []
    opened.close()


def number(value: float, digits: int = 3) -> str:
    """As the page writes a number."""
    return f"{float(f'{value:.{digits}g}'):.15g}".replace("-", "−")


def live_text(page, panel: str = "walk") -> str:
    return page.locator(f"#ar-{panel} .ar-said").text_content()


def test_keys_move_the_slider_and_every_number_is_the_record_s(page, content):
    images, classes = content["images"], content["classes"]
    first, last = 0, len(content["networks"]) - 1
    shown = int(page.locator("input[name=ar-image]:checked").get_attribute("value"))
    slider = page.locator("#ar-distance")
    slider.focus()
    seen = set()
    for key, stop in (("Home", 0), ("ArrowRight", 1), ("PageUp", None), ("End", 40)):
        page.keyboard.press(key)
        stop = int(slider.input_value()) if stop is None else stop
        assert slider.input_value() == str(stop)
        image, text = images[shown], live_text(page)
        far = image["reach"] * (stop / (content["stops"] - 1)) ** 2
        for place in (first, last):
            walk = image["walks"][place]
            assert (
                f"AR strength {content['networks'][place]['strength']:g} answers "
                f"{classes[walk['answer'][stop]]}, lead {number(walk['lead'][stop])}, slope "
                f"{number(walk['slope'][stop])} per 1/255, "
                f"{'before' if far < walk['crossing'] else 'past'} its boundary at "
                f"{number(walk['crossing'])}/255."
            ) in text
        assert text.startswith(f"{classes[image['label']]}, {number(far)}/255 away. ")
        assert slider.get_attribute("aria-valuetext") == f"{number(far)}/255"
        charts = [
            c.get_attribute("aria-label") for c in page.locator("#ar-walk .ar-chart > svg").all()
        ]
        assert len(charts) == 3 and number(image["walks"][first]["recorded"]) in charts[2]
        seen.add(text)
    assert len(seen) == 4
    radio = page.locator("input[name=ar-image]").nth(shown)
    radio.focus()
    page.keyboard.press("ArrowLeft")
    assert live_text(page).startswith(f"{classes[images[shown - 1]['label']]}, ")


def test_the_picture_is_the_image_that_the_network_answered(page, content):
    """Pixel by pixel, to the rounding of a canvas."""
    image = content["images"][0]
    page.locator("input[name=ar-image]").first.check(force=True)
    page.locator("#ar-distance").focus()
    page.keyboard.press("End")
    x = markup_image(image["pixels"], content, "uint8") / content["levels"]
    step = markup_image(image["walks"][0]["direction"], content, "int8") / 127
    expected = 255 * (x + image["reach"] / 255 * step).clip(0, 1)
    drawn = page.evaluate(
        "[...document.querySelector('.ar-pictures canvas').getContext('2d')"
        ".getImageData(0, 0, 32, 32).data]"
    )
    errors = [
        abs(drawn[4 * i + c] - expected[i, min(c, expected.shape[1] - 1)])
        for i in range(len(expected))
        for c in range(3)
    ]
    assert max(errors) <= 0.51


def markup_image(text: str, content: dict, kind: str):
    import base64

    import numpy as np

    return (
        np.frombuffer(base64.b64decode(text), kind).reshape(-1, content["shape"][0]).astype(float)
    )


def test_no_network_is_chosen_twice_and_another_one_changes_all(page, content):
    selects = page.locator("select[name=ar-network]")
    before = live_text(page)
    selects.nth(0).select_option("1")
    assert live_text(page) != before
    assert selects.nth(1).locator("option").nth(1).is_disabled()
    strength = content["networks"][1]["strength"]
    assert f"AR strength {strength:g} answers" in live_text(page)


def test_charts_fill_their_box_at_every_width(page):
    for width in (390, 700, 1366):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for chart in page.locator(".ar-chart").all():
            box, drawn = chart.bounding_box(), chart.locator("svg").first.bounding_box()
            assert abs(box["width"] - drawn["width"]) < 2


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_panels_are_accessible(page, theme):
    from axe_playwright_python.sync_playwright import Axe

    page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
    violations = Axe().run(page).response["violations"]
    assert [(f["id"], f["nodes"][0]["html"][:200]) for f in violations] == []


def test_without_scripts_and_on_paper_figure_and_table_stand_alone(browser, address, page):
    context = browser.new_context(java_script_enabled=False)
    bare = context.new_page()
    bare.goto(address)
    page.emulate_media(media="print")
    for one in (bare, page):
        assert not one.locator(".ar-panel").first.is_visible()
        assert one.locator(".ar-static img").is_visible()
        assert one.locator("table.ar-own").is_visible()
    assert bare.locator(".ar-note").first.is_visible()
    context.close()


def test_names_from_the_record_are_text_and_no_markup(browser, content, study, tmp_path):
    planted = json.loads(json.dumps(content))
    bad = "</script><img src=x onerror=document.title='broken'>"
    planted["classes"] = [bad] * len(content["classes"])
    opened = browser.new_page()
    opened.goto(written(markup.walk_panel(planted, study), tmp_path / "page.html"))
    assert opened.title() == "x" and bad in live_text(opened)
    assert opened.locator("article img").count() == 1, "the figure"
    opened.close()


def choices(bench: Bench) -> list[dict]:
    """Every strength, protocol and level, with a few choices of seeds, one of them too few.

    ARLIB_FAULTS, as for `make test-faults`: with all choices of seeds.
    """
    seeds = tuple(bench.seeds)
    sets = [c for n in range(2, len(seeds) + 1) for c in itertools.combinations(seeds, n)]
    if "ARLIB_FAULTS" not in os.environ:
        sets = [seeds, seeds[:2], seeds[:3], seeds[-3:], seeds[::2]]
    every = itertools.product(bench.strengths, sets, PROTOCOLS, LEVELS)
    return [
        dict(zip(("strength", "seeds", "protocol", "level"), one, strict=True)) for one in every
    ]


ALL = """choices => arJudge.items.map(item => choices.map(choice => {
  const found = arJudge.answer(item, {...choice, level: String(choice.level)});
  if (found.problem) return [found.verdict];
  const {mean, low, high} = found.effect;
  return [found.verdict, mean, low, high, found.trend.p, found.trend.sign, found.floor ?? null,
    found.noise ?? null, found.seeds.length, found.atZero, arJudge.effectText(item, found.effect)];
}))"""


def test_the_page_judges_as_the_library_does(page, study):
    bench = Bench(study)
    listed = choices(bench)
    answers = page.evaluate(ALL, listed)
    assert len(answers) == len(bench.items)
    words, verdicts = 0, set()
    for item, by_choice in zip(bench.items, answers, strict=True):
        for choice, (verdict, *numbers) in zip(listed, by_choice, strict=True):
            own = bench.answer(item, **choice)
            where = (item.claim.id, item.statistic.label, item.statistic.setting, choice)
            assert verdict == own.verdict, where
            verdicts.add(verdict)
            evidence = own.evidence
            if evidence.problem:
                assert numbers == []
                continue
            *values, text = numbers
            effect, layers = evidence.effect, bool(item.statistic.layers)
            expected = [*effect, evidence.trend_p, evidence.trend]
            expected += [evidence.floor, evidence.noise] if layers else [None, None]
            expected += [len(evidence.seeds), evidence.at_zero]
            for value, right in zip(values, expected, strict=True):
                same = value == right or math.isclose(value, right, rel_tol=1e-9, abs_tol=1e-12)
                assert same, (where, value, right)
            words += text == effect_text(item.statistic, effect)
    # a number that lies half way between two prints may be rounded to the other
    assert words >= 0.999 * sum(len(row) > 1 for rows in answers for row in rows)
    assert {"supported", "undecided", "not measured", "no gap to regularise"} <= verdicts


def test_controls_judge_anew(page, study):
    bench = Bench(study)
    before = live_text(page, "judge")
    assert before.startswith("supported. ") and "95 % interval" in before
    page.locator("input[name=ar-seed]").first.focus()
    page.keyboard.press("Space")
    after = live_text(page, "judge")
    choice = {"strength": bench.config.effect, "seeds": bench.seeds[1:], "level": 0.05}
    own = bench.answer(bench.items[0], protocol=bench.config.protocol, **choice)
    text = effect_text(bench.items[0].statistic, own.evidence.effect)
    assert after == f"{own.verdict}. {text}, 95 % interval over {len(bench.seeds) - 1} seeds."
    for box in page.locator("input[name=ar-seed]").all()[1:]:
        box.uncheck()
    assert live_text(page, "judge") == "not measured."
    for box in page.locator("input[name=ar-seed]").all():
        box.check()
    options = page.locator("select[name=ar-statistic] option").all_text_contents()
    spectra = next(i for i, text in enumerate(options) if text.startswith("std of singular values"))
    page.locator("select[name=ar-statistic]").select_option(index=spectra)
    operators = page.locator("select[name=ar-setting] option").all_text_contents()
    assert len(operators) >= 3
    seen = set()
    for place in range(len(operators)):
        page.locator("select[name=ar-setting]").select_option(index=place)
        seen.add(live_text(page, "judge"))
    assert len(seen) == len(operators)
    assert re.search(
        r"protocol 1 asks", html.unescape(page.locator(".ar-reasons").inner_text()), re.I
    )
