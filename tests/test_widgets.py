import base64
import io
import re
import sys

import matplotlib
import pytest
from matplotlib import pyplot as plt
from PIL import Image
from waiting import until

from arlib import widgets
from arlib.errors import InputError

matplotlib.use("agg")


def figures(n=3):
    made = []
    for k in range(n):
        figure, axes = plt.subplots(figsize=(3, 2))
        axes.plot([0, k])
        made.append(figure)
    return made


def slider(**options):
    return widgets.figure_slider(figures(), [0, 4, 8], "AR strength", alt="A line.", **options).data


def frames(markup):
    return re.findall(
        r'<figure( hidden)?><img src="data:image/png;base64,([^"]+)" alt="([^"]+)"[^>]*>'
        r"<figcaption>([^<]+)",
        markup,
    )


def test_each_value_has_its_frame_and_no_frame_waits_for_the_script():
    markup = slider(start=1)
    shown = frames(markup)
    assert [hidden == "" for hidden, *_ in shown] == [True, True, True]
    assert '<div class="ar-bar" hidden>' in markup, "a bar that does not move is not shown"
    assert [caption for *_, caption in shown] == [
        "AR strength = 0",
        "AR strength = 4",
        "AR strength = 8",
    ]
    assert all(alt == f"A line. {caption}" for _, _, alt, caption in shown)
    images = [Image.open(io.BytesIO(base64.b64decode(data))) for _, data, _, _ in shown]
    assert {image.size for image in images} == {(300, 200)}
    assert len({image.tobytes() for image in images}) == 3
    assert 'min="0" max="2" step="1" value="1"' in markup
    assert not plt.get_fignums()


def test_nothing_is_fetched_and_all_frames_print():
    markup = slider()
    assert "http" not in markup and not re.search(r"<script\b[^>]+>", markup)
    assert re.search(r"@media print \{.*figure\[hidden\].*display: block", markup, re.S)


def test_the_label_belongs_to_the_input_and_ids_are_stable():
    first, second = slider(), slider()

    def without(markup):
        return re.sub(r"base64,[^\"]+", "", markup)

    assert without(first) == without(second)
    (name,) = re.findall(r'<input type="range" id="([^"]+)"', first)
    assert f'<label for="{name}">' in first and f'<output for="{name}">' in first
    other = widgets.figure_slider(figures(), [0, 4, 8], "AR strength", alt="Another line.").data
    assert f'id="{name}"' not in other


def test_words_are_escaped():
    markup = widgets.figure_slider(figures(2), ["<b>", "&"], 'a "label"', alt="<i>").data
    assert "<b>" not in markup and "<i>" not in markup and 'a "label"' not in markup


def test_ready_images_are_taken_as_they_are():
    png = base64.b64decode(frames(slider())[0][1])
    assert (
        base64.b64encode(png).decode()
        in widgets.figure_slider([png, png], [0, 1], "k", alt="x").data
    )


def test_figures_that_describe_themselves_need_no_alt():
    made = figures(2)
    for k, figure in enumerate(made):
        figure.alt = f"A line to {k}."
    alts = [alt for _, _, alt, _ in frames(widgets.figure_slider(made, [0, 4], "k").data)]
    assert alts == ["A line to 0. k = 0", "A line to 1. k = 4"]


@pytest.mark.parametrize(
    "values, options", [([0, 4], {}), ([0, 4, 8], {"alt": ""}), ([0, 4, 8], {"start": 3})]
)
def test_bad_input(values, options):
    with pytest.raises(InputError):
        widgets.figure_slider(figures(), values, "k", **({"alt": "x"} | options))
    plt.close("all")


def test_live_computes_only_when_asked():
    calls = []
    box = widgets.live(lambda strength: calls.append(strength), strength=(0, 8, 4))
    assert not calls
    box.manual_button.click()
    assert calls == [4]


def bundle(**options):
    return widgets.live(lambda strength: None, strength=(0, 8, 4), **options).bundle()


def test_a_client_without_widgets_gets_the_static_figure_and_one_sentence():
    (figure,) = figures(1)
    figure.alt = "A <line>."
    data = bundle(static=figure)
    assert set(data) == {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"}
    sentence, image = data["text/html"].split("\n")
    assert sentence == f"<p>{widgets.NO_WIDGETS}</p>"
    assert re.fullmatch(r'<img src="data:image/png;base64,[^"]+" alt="A &lt;line&gt;\.">', image)
    assert data["text/plain"] == f"{widgets.NO_WIDGETS} Without them: A <line>."
    plain = bundle()
    assert (
        plain["text/html"] == f"<p>{widgets.NO_WIDGETS}</p>"
        and plain["text/plain"] == widgets.NO_WIDGETS
    )
    assert data == bundle(static=figure) | {key: data[key] for key in data if "view" in key}, (
        "the same at each run"
    )


def test_colab_gets_nothing_it_could_prefer_to_the_widget(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", object())
    assert set(bundle()) == {"application/vnd.jupyter.widget-view+json", "text/plain"}


@pytest.mark.parametrize(
    "package, version, message",
    [
        (
            "jupyterlab_widgets",
            "1.1.11",
            "ipywidgets is 8, but jupyterlab_widgets is of ipywidgets 7",
        ),
        (
            "widgetsnbextension",
            "3.6.10",
            "ipywidgets is 8, but widgetsnbextension is of ipywidgets 7",
        ),
        ("jupyterlab_widgets", "3.0.1", ""),
    ],
)
def test_a_front_end_of_another_major_version_is_said(
    tmp_path, monkeypatch, package, version, message
):
    assert widgets.other_major_version() == ""
    installed = tmp_path / f"{package}-{version}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    if message:
        assert (
            message in widgets.other_major_version()
            and "pip install --upgrade" in widgets.other_major_version()
        )
    else:
        assert widgets.other_major_version() == ""


CLICKED = """
import matplotlib
matplotlib.use("agg")
from IPython.display import HTML
from arlib import widgets

def compute(strength):
    print("at", strength)
    if strength > 6:
        raise ValueError("too <strong>")
    return HTML(f"result {strength}")

box = widgets.live(compute, strength=(0, 8, 4))
box
"""


@pytest.mark.slow
def test_live_shows_what_it_computes_in_a_kernel_and_keeps_it_on_an_error():
    """What a client would show is what stands in the Output widget; nbclient is one."""
    import nbformat
    from nbclient import NotebookClient

    look = (
        "print([dict(o) for o in box.out.outputs], box.message.value, box.manual_button.disabled)"
    )
    click = "box.manual_button.click()"
    sources = [CLICKED, look, click, look, "box.children[0].value = 8", click, look]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    NotebookClient(book, timeout=120, kernel_name="python3").execute()
    texts = [cell["outputs"][0]["text"] for cell in book.cells if cell["source"] == look]
    assert texts[0].startswith("[] ")
    assert "at 4" in texts[1] and "result 4" in texts[1] and texts[1].endswith("False\n")
    assert "result 4" in texts[2] and "at 8" not in texts[2]
    assert "Not computed.</b> ValueError: too &lt;strong&gt;" in texts[2]


def test_the_bar_moves_and_disappears():
    from ipywidgets import FloatProgress

    bar, seen = FloatProgress(min=0, max=1, layout={"visibility": "hidden"}), []
    bar.observe(lambda change: seen.append(change["new"]), "value")
    with widgets._running(bar, 0.5):
        until(lambda: seen and max(seen) > 0.3)
    assert bar.layout.visibility == "hidden" and bar.value == 0
