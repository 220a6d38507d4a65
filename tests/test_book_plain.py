"""The plain notebooks: every chapter for clients that know no MyST."""

import json
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
import yaml
from bookfiles import CHAPTERS, ROOT, buttons, environment, links, read, source, texts

from arlib import client
from arlib.errors import InputError
from tools import execute, myst, plain, references, stamp

ADDRESS = "https://github.com/someone/a-book"
PAGES = "https://someone.github.io/a-book/book"
LEFT = re.compile(
    r"\{[a-zA-Z][\w:+-]*\}`|^[\s>]*:::|^[\s>]*[`~]{3,}\s*\{|^\(\S+\)=|\$\$ *\(|\{\{", re.M
)


@pytest.fixture(scope="module")
def book():
    return references.read(ROOT)


@pytest.fixture(scope="module")
def made(book):
    """Name -> the plain notebook of every chapter."""
    return {path.stem: plain.convert(path, book) for path in stamp.chapters()}


def prose(text: str) -> str:
    """A text without its code."""
    return re.sub(r"^(```+).*?^\1|(`+)(?!`).+?(?<!`)\2(?!`)", "", text, flags=re.S | re.M)


@pytest.mark.parametrize("name", CHAPTERS)
def test_nothing_of_myst_is_left(made, name):
    for text in texts(made[name]):
        assert LEFT.findall(prose(text)) == [], text[:300]
        assert not re.search(r"\{(cite|glue|doc|ref|numref|eq|term)\b", prose(text))


@pytest.mark.parametrize(
    "text",
    ["see {cite}`x`", ":::{note}", "> :::", "```{math}", "(here)=", "$$ (eq-x)", "{{ x }}"],
)
def test_what_is_left_would_be_seen(text):
    assert LEFT.search(text)


@pytest.mark.parametrize("name", CHAPTERS)
def test_code_is_that_of_the_chapter_and_the_notebook_valid(made, name):
    def code(cells):
        kept = [cell for cell in cells if cell["cell_type"] == "code"]
        return [(cell["id"], source(cell), cell["metadata"].get("tags")) for cell in kept]

    nbformat.validate(made[name])
    assert code(made[name].cells) == code(read(name)["cells"])
    assert [cell.id for cell in made[name].cells if cell.id != "references"] == [
        cell["id"] for cell in read(name)["cells"]
    ]
    assert set(made[name].metadata) <= {"kernelspec", "language_info", "accelerator", "colab"}
    assert len(nbformat.writes(made[name])) < 1_000_000


@pytest.mark.parametrize("name", CHAPTERS)
def test_outputs_are_those_of_the_chapter_that_can_be_shown(made, name):
    chapter = {cell["id"]: cell for cell in read(name)["cells"]}
    for cell in made[name].cells:
        if cell.cell_type != "code":
            continue
        expected = [
            output
            for output in chapter[cell.id]["outputs"]
            if not any(kind.startswith("application/") for kind in output.get("data", {}))
        ]
        if {"remove-cell", "remove-output"} & set(cell.metadata.get("tags", [])):
            expected = []
        folded = {"jupyter": {"source_hidden": True}, "cellView": "form"}
        tags = set(cell.metadata.get("tags", []))
        hidden = {"hide-input", "hide-cell", "remove-cell"} & tags and "parameters" not in tags
        assert {k: v for k, v in cell.metadata.items() if k != "tags"} == (folded if hidden else {})
        kept = [dict(output) for output in cell.outputs]
        if any("image/png" in output.get("data", {}) for output in kept):
            assert "<summary>Description</summary>" in kept.pop()["data"]["text/markdown"]
        assert [_seen(output) for output in kept] == [_seen(output) for output in expected]


def _seen(output: dict) -> dict:
    """An output with its lines joined, as the file has them split."""
    joined = {kind: "".join(value) for kind, value in output.get("data", {}).items()}
    return {"type": output["output_type"], "text": "".join(output.get("text", "")), **joined}


@pytest.mark.parametrize("name", CHAPTERS)
def test_links_lead_to_a_chapter_or_a_page(made, name):
    """Relative ones, as long as the book has no address; those into pages are followed where the
    built pages are looked at (test_book_pages).
    """
    own = {f"#{i}" for text in texts(made[name]) for i in re.findall(r'<a id="([^"]+)"></a>', text)}
    pages = stamp.contents()
    for link in (link for text in texts(made[name]) for link in links(text)):
        if link.startswith("#"):
            assert link in own
        elif not re.match("https?:", link):
            parts = re.fullmatch(r"(\w+)\.ipynb|\.\./book/(\w+)\.html(#[\w-]+)?", link)
            assert parts, link
            assert parts[1] in CHAPTERS if parts[1] else parts[2] in pages


def test_links_are_absolute_once_there_is_an_address(book, monkeypatch):
    monkeypatch.setitem(book.__dict__, "repository", ADDRESS)
    for path in stamp.chapters():
        notebook = plain.convert(path, book)
        links_out = [link for text in texts(notebook) for link in links(text)]
        assert f"{PAGES}/{path.stem}.html" in links_out
        assert [link for link in links_out if not link.startswith(("https://", "#"))] == []


def test_writing_twice_gives_the_same_files_and_drops_what_is_gone(tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "gone.ipynb").write_text("{}")
    first = {path.name: path.read_bytes() for path in plain.write(folder)}
    again = {path.name: path.read_bytes() for path in plain.write(folder)}
    assert first == again == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(first) == {f"{name}.ipynb" for name in CHAPTERS}


def test_figures_have_the_same_number_in_text_captions_and_client(book, made):
    kept = client.numbered(json.loads((ROOT / "arlib" / "captions.json").read_text("utf-8")))
    numbers = {one["name"]: one["number"] for one in kept.values() if one["name"]}
    assert numbers == {name: int(label.words) for name, label in book.figures.items()}
    printed = {
        name: int(number)
        for notebook in made.values()
        for text in texts(notebook)
        for number, name in re.findall(r"^\*\*Fig\. (\d+) \(([\w-]+)\)\*\*", text)
    }
    assert printed and printed.items() <= numbers.items()


class Known:
    """A book of known answers: it says what it was asked."""

    name = "here"

    def __getattr__(self, asked):
        return lambda *args: f"<{asked} {' '.join(map(str, args))}>"

    def number(self, label):
        return 7

    def address(self, target):
        return {"other.ipynb": "https://x/other.html", "other.md#a": "../book/other.html#a"}.get(
            target, ""
        )


GLUED = {"n": ("'1,000'", False), "p": ("0.12345", False), "bars": ("'|m| *a*'", False),
         "verdict": ("**C1: yes** (`s`)", True)}  # fmt: skip


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a {cite}`x, y` b", "a <cited ['x', 'y'] False> b"),
        ("{cite:t}`x`", "<cited ['x'] True>"),
        ("{eq}`e` and {numref}`f`", "<equation e> and <figure f Fig. %s>"),
        ("{numref}`Figure %s <f>`", "<figure f Figure %s>"),
        ("{ref}`here <a>`, {ref}`a`", "<section a here>, <section a >"),
        ("{doc}`that <other>`", "<document other that>"),
        ("{term}`gap`", "<term gap gap>"),
        ("n = {glue:text}`n`, {glue}`p:.2f`", "n = 1,000, 0.12"),
        ("{glue:text}`bars`", r"\|m\| \*a\*"),
        ("{glue:md}`verdict`", "**C1: yes** (`s`)"),
        ("{math}`x^2`, x{sup}`2`, {code}`f`", "$x^2$, x<sup>2</sup>, `f`"),
        ("`{cite}` and `` {cite}`x` `` stay", "`{cite}` and `` {cite}`x` `` stay"),
        (r"$\{cite}$ \{cite}`x`", r"$\{cite}$ \{cite}`x`"),
        ("`` {glue}`p` `` is {glue}`p`", "`` {glue}`p` `` is 0.12345"),
        ("[a](other.ipynb), [b](https://y)", "[a](https://x/other.html), [b](https://y)"),
        ("[*a* {glue}`p`](other.md#a)", "[*a* 0.12345](../book/other.html#a)"),
        ("[](other.ipynb)", "<document other.ipynb >"),
        ("$$\na\n$$ (eq-a)", "$$\na\n\\tag{7}\n$$"),
        ("$$\na\n$$", "$$\na\n$$"),
        ("```{math}\n:label: e\na\n```", "$$\na\n\\tag{7}\n$$"),
        ("(a-b)=\n# T", '<a id="a-b"></a>\n\n# T'),
        ("a\n\n% said to nobody\n\n+++\n\nb", "a\n\n\n\n\n\nb"),
        (
            ":::{admonition} In *short*\n:class: tip\na\n\n- b\n:::",
            "> **In *short***\n>\n> a\n>\n> - b",
        ),
        ("```{note} a\nb {glue}`n`\n```", "> **Note**\n>\n> a\n> b 1,000"),
        (
            "::::{warning}\n---\nclass: x\n---\n:::{tip}\na\n:::\n::::",
            "> **Warning**\n>\n> > **Tip**\n> >\n> > a",
        ),
        (
            ":::{admonition} T\n:class: dropdown\na\n:::",
            "<details>\n<summary>T</summary>\n\na\n\n</details>",
        ),
        ("- a\n\n  :::{note}\n  b\n  :::", "- a\n\n  > **Note**\n  >\n  > b"),
        ("> ```{math}\n> a\n> ```", "> $$\n> a\n> $$"),
        ("```{tableofcontents}\n```", "<contents >"),
        ("```{glue} n\n```", "1,000"),
        ("```{eval-rst}\n.. automodule:: x\n```", "*This part is only on <page >.*"),
        ("```{code-block} python\nx\n```", "```python\nx\n```"),
        ("```python\n{cite}`x`\n```", "```python\n{cite}`x`\n```"),
        ("| a | b |\n| --- | --- |\n| `x\\|y` | {cite}`x` |", None),
        ("| {eq}`a` | {eq}`a` |\n| --- | --- |\n| b | {eq}`c` |", None),
        ("<details>\n<summary>S</summary>\n\n{eq}`a`\n\n</details>", None),
        ("- {eq}`a`\n  goes {eq}`b`\n- > {eq}`c`\n  > {cite}`d,\n  > e`", None),
    ],
)  # fmt: skip
def test_known_answers(text, expected):
    by_hand = {
        "| a |": "| a | b |\n| --- | --- |\n| `x\\|y` | <cited ['x'] False> |",
        "| {eq": "| <equation a> | <equation a> |\n| --- | --- |\n| b | <equation c> |",
        "<deta": "<details>\n<summary>S</summary>\n\n<equation a>\n\n</details>",
        "- {eq": "- <equation a>\n  goes <equation b>\n- > <equation c>\n  > "
        "<cited ['d', 'e'] False>",
    }
    expected = by_hand[text[:5]] if expected is None else expected
    assert myst.markdown(text, Known(), GLUED).rstrip() == expected.rstrip()


@pytest.mark.parametrize(
    "text, named",
    [
        ("```{figure} a.png\n```", "directive {figure}"),
        (":::{grid} 2\n:::", "directive {grid}"),
        (":::warning\n:::", ":::warning"),
        ("{py:func}`f`", "role {py:func}`f`"),
        ("{glue:text}`m`", "m is glued by no cell"),
        ("a[^1]\n\n[^1]: b", "footnote"),
        ("a\n: b", "list of definitions"),
        ("{{ a }}", "{{…}}"),
        ("[a]{.b}", "[…]{…}"),
        ("![a](b.png)", "an image in a file of its own (b.png)"),
        ("![{cite}`a`](https://b.png)", "cite inside other markup"),
    ],
)
def test_what_has_no_plain_form_is_named(text, named):
    with pytest.raises(InputError, match=re.escape(named)):
        myst.markdown(text, Known(), GLUED)


@pytest.fixture
def project(tmp_path):
    """A book of two chapters and a page."""
    for name in ("pyproject.toml", "_config.yml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "book").mkdir()
    shutil.copy(ROOT / "book" / "references.bib", tmp_path / "book")
    (tmp_path / "_toc.yml").write_text(
        "root: book/one\nparts: [{chapters: [{file: book/two}, {file: book/bibliography}]}]\n"
    )
    (tmp_path / "book" / "bibliography.md").write_text("# Works\n\n```{bibliography}\n```\n")
    one = "# One\n\n(a)=\n## A *b*\n\n$$\nx\n$$ (eq-x)\n\n{numref}`fig-y`, {eq}`eq-z`, {ref}`a`"
    two = (
        "# Two\n\n:::{note}\n$$\nz\n$$ (eq-z)\n:::\n\n{cite:t}`holm1979simple` {doc}`one` {ref}`a`"
    )
    figure = {"mystnb": {"figure": {"name": "fig-y", "caption": "C."}, "image": {"alt": "<D>"}}}
    image = {"image/png": "", "text/plain": "Figure", execute.VIEW: {"model_id": "0"}}
    drawn = nbformat.v4.new_code_cell(
        "y",
        id="y",
        metadata=figure,
        outputs=[
            nbformat.v4.new_output(
                "display_data", image, metadata={"image/png": {"alt": "<D>", "narrow": "AAAA"}}
            )
        ],
    )
    for name, text, cells in (("one", one, []), ("two", two, [drawn])):
        cells = [nbformat.v4.new_markdown_cell(text, id="text"), *cells]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "book" / f"{name}.ipynb")
    return tmp_path


def test_references_of_a_small_book(project):
    stamp.write_address(ADDRESS, project)
    one, two = (nbformat.read(path, as_version=4) for path in plain.write(project / "x", project))
    assert (
        f"[Fig. 1]({PAGES}/two.html#fig-y), [(2)]({PAGES}/two.html#equation-eq-z), [A b](#a)"
        in (one.cells[0].source)
    )
    assert '<a id="a"></a>\n\n## A *b*' in one.cells[0].source
    holm = f"[Holm (1979)]({PAGES}/bibliography.html#cite-holm1979simple)"
    assert f"{holm} [One]({PAGES}/one.html) [A b]({PAGES}/one.html#a)" in two.cells[0].source
    assert "\\tag{2}" in two.cells[0].source and "\\tag{1}" in one.cells[0].source
    assert f"[the chapter's page]({PAGES}/two.html)" in two.cells[0].source
    (figure, text) = two.cells[1].outputs
    assert set(figure.data) == {"image/png", "text/plain"}
    assert figure.metadata == {"image/png": {"alt": "<D>"}}, "a narrow figure is of the page only"
    assert text.data["text/markdown"] == (
        "**Fig. 1 (fig-y)** C.\n\n<details><summary>Description</summary>&lt;D&gt;</details>"
    )
    assert "mystnb" not in two.cells[1].metadata
    assert two.cells[2].source.startswith("## References\n\n- Sture Holm. A simple sequentially")
    assert len(one.cells) == 1


@pytest.mark.parametrize(
    "old, new, named",
    [
        ("{eq}`eq-z`", "{eq}`eq-w`", "equation"),
        ("{ref}`a`", "{ref}`q`", "label"),
        ("{numref}`fig-y`", "{cite}`nobody2000`", "work"),
        ("{numref}`fig-y`", "[q](three.md)", "three.md is no page of the book"),
        ("{numref}`fig-y`", "{video}`v`", "the role {video}`v` has no plain form"),
    ],
)
def test_an_error_names_chapter_and_cell_and_writes_nothing(project, old, new, named):
    path = project / "book" / "one.ipynb"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=r"^one\.ipynb, cell text: .*" + re.escape(named)):
        plain.write(project / "x", project)
    assert not (project / "x").exists()


def test_the_workflow_writes_the_branch_anew(tmp_path):
    """The script of pages.yml, in a clone beside a repository that it may push to."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "pages.yml").read_text())["jobs"]
    assert jobs["notebooks"]["permissions"] == {"contents": "write"}
    (script,) = [step["run"] for step in jobs["notebooks"]["steps"] if "run" in step]

    def git(*words, cwd=tmp_path / "clone"):
        ran = subprocess.run(["git", *words], cwd=cwd, capture_output=True, text=True, check=True)
        return ran.stdout.split()

    git("init", "-q", "--bare", "-b", "main", "origin.git", cwd=tmp_path)
    for number in (1, 2):
        git("clone", "-q", "origin.git", "clone", cwd=tmp_path)
        if number == 1:
            (tmp_path / "clone" / "README.md").write_text("x")
            (tmp_path / "clone" / ".gitignore").write_text("plain/\n")
            git("add", ".")
            git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first")
            git("push", "-q", "origin", "HEAD:main")
        (tmp_path / "clone" / "plain").mkdir()
        (tmp_path / "clone" / "plain" / f"{number}.ipynb").write_text("{}")
        subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path / "clone", check=True)
        shutil.rmtree(tmp_path / "clone")
    bare = tmp_path / "origin.git"
    assert git("ls-tree", "-r", "--name-only", "notebooks", cwd=bare) == ["plain/2.ipynb"]
    assert git("rev-list", "--count", "notebooks", cwd=bare) == ["1"]
    assert git("ls-tree", "--name-only", "main", cwd=bare) == [".gitignore", "README.md"]


CONF = """
project, html_theme = "x", "sphinx_book_theme"
extensions = ["sphinx.ext.autodoc", "myst_nb", "arbook"]
nb_execution_mode, nb_ipywidgets_js = "off", {}
html_theme_options = {}
root_doc = "book/page"
exclude_patterns = ["_build"]
"""


def render(project, text: str) -> subprocess.CompletedProcess:
    """A small book that has an address and one chapter, rendered with the real theme."""
    stamp.write_address(ADDRESS, project)
    (project / "conf.py").write_text(CONF)
    (project / "_toc.yml").write_text("root: book/page\nparts: []\n")
    for path in (project / "book").glob("*.[im]*"):
        path.unlink()
    kernel = {"kernelspec": {"name": "python3", "display_name": "x", "language": "python"}}
    cell = nbformat.v4.new_markdown_cell(text, id="text")
    page = nbformat.v4.new_notebook(cells=[cell], metadata=kernel)
    nbformat.write(page, project / "book" / "page.ipynb")
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'book' / '_ext')!r}); "
        "from sphinx.cmd.build import main; sys.exit(main(['-q', '.', '_build/html']))"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=project, capture_output=True, text=True, env=environment(project / "store"),
    )  # fmt: skip


@pytest.mark.slow
def test_buttons_open_the_plain_notebook_on_colab_and_as_download(project):
    ran = render(project, "# T")
    assert ran.returncode == 0, ran.stderr[-3000:]
    html = project / "_build" / "html"
    assert buttons(html / "book" / "page.html") == {
        "../plain/page.ipynb",
        "https://colab.research.google.com/github/someone/a-book/blob/notebooks/plain/page.ipynb",
    }
    assert (html / "plain" / "page.ipynb").exists()


@pytest.mark.slow
def test_a_build_stops_at_what_has_no_plain_form(project):
    ran = render(project, "# T\n\n{abbr}`AR (adversarial robustness)`")
    assert ran.returncode != 0
    message = (
        "page.ipynb, cell text: the role {abbr}`AR (adversarial robustness)` has no plain form"
    )
    assert message in ran.stderr and "Traceback" not in ran.stderr
    assert not (project / "_build" / "html" / "plain").exists()
