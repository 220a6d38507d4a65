"""What a chapter shows in a client and nowhere else,
in real kernels that are asked as clients ask them.
"""

import json
import re

import pytest
from bookfiles import CHAPTERS, ROOT, environment, read, source

from arlib import client, notebook
from tools import stamp

PAGE = "https://someone.github.io/a-book/book/singular_values.html"
FIGURE = "figures.symbol(kernel, size)"
CELLS = [
    notebook.setup_cell(page=PAGE),
    "import torch\nfrom arlib import figures\nkernel, size = torch.eye(3), 8",
    f"{FIGURE}\n",
    "notebook.glue('quarter', '0.663')",
    "from IPython.display import Markdown\nnotebook.glue('verdict_C6', Markdown('**C6: mixed**.'))",
    f"Markdown('*Not measured.*') or {FIGURE}",
]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    from jupyter_client.manager import start_new_kernel

    manager, asked = start_new_kernel(
        kernel_name="python3", env=environment(tmp_path_factory.mktemp("store"))
    )
    yield asked
    asked.stop_channels()
    manager.shutdown_kernel(now=True)


def outputs(kernel, code: str, allow_stdin: bool) -> list[dict]:
    """What a client receives: the data of each output, and of each change of one."""
    got = []
    reply = kernel.execute_interactive(
        code, allow_stdin=allow_stdin, output_hook=got.append, timeout=120
    )
    assert reply["content"]["status"] == "ok", reply["content"]
    return [m["content"]["data"] | {"kind": m["msg_type"]} for m in got if "data" in m["content"]]


@pytest.mark.slow
def test_where_nobody_sits_nothing_is_shown(kernel):
    shown = [outputs(kernel, cell, allow_stdin=False) for cell in CELLS]
    kinds = [
        {key for out in cell for key in out if not key.startswith("application/papermill")}
        for cell in shown
    ]
    plain = {"text/plain", "kind"}
    assert kinds == [
        set(),
        set(),
        {"image/png"} | plain,
        {"kind"},
        {"kind"},
        {"text/markdown"} | plain,
    ]


@pytest.mark.slow
def test_a_client_shows_the_result_the_page_and_captions(kernel):
    for _ in range(2):  # all cells, and all again
        shown = [outputs(kernel, cell, allow_stdin=True) for cell in CELLS]
        line, _, figure, number, verdict, unmeasured = [
            [out.get("text/markdown") for out in cell] for cell in shown
        ]
        where = f"[This chapter as a page]({PAGE})."
        assert number[-1].endswith(where) and "0.663" not in number[-1]
        assert verdict == [f"**C6: mixed**. {where}"]
        assert figure[0] is None and re.match(
            r"\*\*Fig\. \d+ \(fig-sv-symbol\)\*\* The kernel above on a circular map\.", figure[1]
        )
        assert "<details><summary>Description</summary>Left a square of coloured cells" in figure[1]
        assert unmeasured == ["*Not measured.*"] and len(figure) == 2
        assert shown[4][0]["kind"] == "update_display_data" and len(line) == 1
    assert line == [f"**C6: mixed**. {where}"], "run again, it knows at once"


def test_only_this_process_sits_nobody_before():
    assert not client.attended()
    notebook.introduce(PAGE)


def test_roles_in_captions_become_words():
    known = {
        "name": "fig-x",
        "number": 3,
        "caption": "Errors (n = {glue:text}`n_test`) of {eq}`eq-y`.",
        "alt": "a < b",
    }
    caption = client.caption(known, {"n_test": "1,000"})
    assert caption.startswith("**Fig. 3 (fig-x)** Errors (n = 1,000) of (eq-y).")
    assert "</summary>a &lt; b</details>" in caption


@pytest.mark.parametrize("name", CHAPTERS)
def test_captions_are_found_by_the_cell_a_client_sends(name):
    kept = client.numbered(json.loads((ROOT / "arlib" / "captions.json").read_text()))
    figures = [cell for cell in read(name)["cells"] if cell["metadata"].get("mystnb")]
    for cell in figures:
        known = kept[client.key(source(cell) + "\n")]
        assert known["alt"] == cell["metadata"]["mystnb"]["image"]["alt"]
        assert not re.search(r"\{\w+[:}]", client.caption(known, {}))
        assert client.key(source(cell) + " # changed") not in kept


def test_the_address_of_a_page():
    assert stamp.page("https://github.com/some-one/a.book", "margins") == (
        "https://some-one.github.io/a.book/book/margins.html"
    )
    assert stamp.page("", "margins") == stamp.page("https://example.org/a/b", "margins") == ""
