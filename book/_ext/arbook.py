"""What this book needs beyond Jupyter Book 1:
a sound execution cache, clean pages, plain notebooks beside them, readable API docstrings.
"""

import base64
import contextlib
import hashlib
import os
import re
import shutil
import sys
import textwrap
import tomllib
from collections.abc import Callable
from pathlib import Path

import myst_nb.sphinx_
from docutils import nodes
from myst_nb.core.render import NbElementRenderer
from sphinx.errors import SphinxError

FINDING = "Finding: "  # as `arlib.claims.words` begins such a sentence
NARROW, PHONE = ".narrow.png", "(max-width: 576px)"
IMAGE = re.compile(r'<img [^>]*src="(?P<folder>[^"]*_images/)(?P<name>[0-9a-f]{64}\.png)"[^>]*>')
PLAIN, BRANCH = "plain", "notebooks"  # the folder of plain notebooks, and the branch that has it
CODE = ("arlib", "records", "studies", "requirements.txt", "pyproject.toml")


def fingerprint(root: Path, extra: tuple[str, ...] = ()) -> str:
    """SHA-256 over the names and contents of everything a chapter's result depends on,
    but the chapter itself.
    """
    digest = hashlib.sha256(f"{sys.version} {os.environ.get('ARLIB_STORE')}".encode())
    for path in sorted(p for name in (*CODE, *extra) for p in _files(root / name)):
        digest.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _files(path: Path):
    if path.is_file():
        return [path]
    skip = {"__pycache__", ".ipynb_checkpoints"}
    return [p for p in path.rglob("*") if p.is_file() and not skip.intersection(p.parts)]


def repository(root: Path) -> str:
    """The repository's address as pyproject has it; "" before it is stamped."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "").removesuffix(".git")


def cache_of(root: Path) -> Path:
    """Where executed chapters lie for Sphinx, as long as nothing changes that any of them reads."""
    return root / "_build" / ".jupyter_cache" / fingerprint(root)[:16]


def configure(app, config) -> None:
    """The book is executed from published records,
    with a cache that notices a change of arlib or of a record.
    """
    root = Path(app.srcdir)
    os.environ.setdefault("ARLIB_STORE", str(root / "_build" / "store"))
    here = cache_of(root)
    for old in here.parent.glob("*"):
        if old != here and old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
    config.nb_execution_cache_path = str(here)
    options = config.html_theme_options
    options.pop("repository_url", None)
    if address := repository(root):
        options |= {
            "repository_url": address,
            "repository_branch": "main",
            "use_repository_button": True,
        }
        options["launch_buttons"] = {"colab_url": "https://colab.research.google.com"}
    else:
        options["launch_buttons"] = {}


def drop_thebe(app) -> None:
    """sphinx_thebe is always loaded and declares its constants twice on every page;
    nothing here uses it.
    """
    for listeners in app.events.listeners.values():
        for listener in list(listeners):
            if (
                listener.handler.__module__ == "sphinx_thebe"
                and listener.handler.__name__ != "st_static_path"
            ):
                app.disconnect(listener.id)


CURES = {
    # A list role without list items: sphinxcontrib-bibtex's citation list.
    '<div role="list" class="citation-list">': '<div class="citation-list">',
    # A table that scrolls must be reachable by keyboard.
    'class="dataframe"': 'class="dataframe" tabindex="0"',
}


def clean_page(app, pagename, templatename, context, doctree) -> None:
    """Cure what would be serious or critical accessibility errors in the markup of others."""
    for ill, cured in CURES.items() if "body" in context else ():
        context["body"] = context["body"].replace(ill, cured)


def plain_buttons(app, pagename, templatename, context, doctree) -> None:
    """Download and launch a chapter as a plain notebook (`tools/plain.py`).

    Colab opens notebooks of GitHub and of no other address: those that the workflow `pages` writes
    into a branch of their own.
    """
    if not context.get("sourcename", "").endswith(".ipynb"):
        return
    notebook = f"{PLAIN}/{Path(pagename).name}.ipynb"
    groups = context.get("header_buttons", [])
    for button in (one for group in groups for one in group.get("buttons", [group])):
        if button.get("label") == "download-source-button":
            button["url"] = context["pathto"](notebook, 1)
            button["tooltip"] = "Download this chapter as a notebook"
        elif button.get("text") == "Colab":
            where, _, _ = button["url"].partition("/blob/")
            button["url"] = f"{where}/blob/{BRANCH}/{notebook}"


def tell_findings(app, doctree) -> None:
    """What is said below a figure of records belongs to its alt text, too."""
    for cell in doctree.findall(nodes.container):
        images = list(cell.findall(nodes.image)) if "cell_output" in cell["classes"] else []
        texts = (
            [paragraph.astext() for paragraph in cell.findall(nodes.paragraph)] if images else []
        )
        findings = [text.removeprefix(FINDING) for text in texts if text.startswith(FINDING)]
        if len(images) == 1 and findings:
            images[0]["alt"] = " ".join([images[0].get("alt", ""), *findings]).strip()


def with_narrow(render: Callable) -> Callable:
    """Beside each figure its narrow version is written, if it has one, by the same name and
    `.narrow`; images that are photographs are marked as that.
    """

    def render_image(self, data):
        (image,) = render(self, data)
        about = data.output_metadata.get(data.mime_type, {})
        if "narrow" in about:
            name = Path(image["uri"]).with_suffix(NARROW).name
            # overwritten: it is named by the wide figure, which may be the same as before
            self.write_file([name], base64.b64decode(about["narrow"]), overwrite=True)
        if about.get("photographs"):
            image["classes"].append("photographs")
        return [image]

    return render_image


def on_a_phone(app, pagename, templatename, context, doctree) -> None:
    """Figures that have a narrow version show it where the page is narrow."""
    made = Path(app.outdir).parent / "jupyter_execute"
    shown = Path(app.outdir) / "_images"

    def choose(image: re.Match) -> str:
        narrow = Path(image["name"]).with_suffix(NARROW).name
        if not (made / narrow).exists():
            return image[0]
        shown.mkdir(exist_ok=True)
        shutil.copy2(made / narrow, shown / narrow)
        source = f'<source media="{PHONE}" srcset="{image["folder"]}{narrow}">'
        return f"<picture>{source}{image[0]}</picture>"

    if "body" in context:
        context["body"] = IMAGE.sub(choose, context["body"])


def one_figure(wrap: Callable) -> Callable:
    """Of a cell's outputs only the first becomes the figure that its metadata names: what is said
    below the image is a paragraph.
    """

    @contextlib.contextmanager
    def context(renderer, options, line):
        lines = renderer.sphinx_env.temp_data.setdefault("lines of figures", set())
        if not isinstance(options, dict) or line in lines:
            yield
            return
        lines.add(line)
        with wrap(renderer, options, line):
            yield

    return context


def write_plain(app, exception) -> None:
    """Write the plain notebooks that the buttons open."""
    if exception or app.builder.format != "html":
        return
    if app.srcdir not in map(Path, sys.path):
        sys.path.insert(0, str(app.srcdir))
    from arlib.errors import InputError
    from tools import plain

    try:
        plain.write(Path(app.outdir) / PLAIN, Path(app.srcdir))
    except InputError as error:
        raise SphinxError(str(error)) from None


def readable_docstring(app, what, name, obj, options, lines) -> None:
    """arlib's docstrings are plain prose with `code`:
    keep their paragraphs, escape what reST would interpret.
    """
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))
    lines[:] = [line for paragraph in paragraphs for line in (*_paragraph(paragraph), "")]


def _paragraph(text: str) -> list[str]:
    """Prose stays prose; lines with hanging indents ("eps: …", also below "Args:") become a list;
    the rest is code.
    """
    lines = text.splitlines()
    bullets = lines[0].startswith(("- ", "* "))
    if not any(line.startswith(" ") for line in lines) and not bullets:
        return [_inline(line) for line in lines]
    if lines[0].startswith(" "):
        return ["::", "", *(f"    {line}" for line in lines)]
    head = (
        lines[:1]
        if lines[0].endswith(":") and lines[1:] and all(line.startswith(" ") for line in lines[1:])
        else []
    )
    items = re.split(r"\n(?! )", textwrap.dedent("\n".join(lines[len(head) :])))
    flat = [" ".join(item.split()) for item in items]
    return [*map(_inline, head), "", *(_inline(item if bullets else f"- {item}") for item in flat)]


def _inline(text: str) -> str:
    bullet, body = (text[:2], text[2:]) if text.startswith(("- ", "* ")) else ("", text)
    parts = re.split(r"(`+[^`]+`+)", body)
    escaped = [
        f"``{p.strip('`')}``" if p.startswith("`") else re.sub(r"([*|\\_])", r"\\\1", p)
        for p in parts
    ]
    return bullet + "".join(escaped)


def setup(app):
    myst_nb.sphinx_.create_figure_context = one_figure(myst_nb.sphinx_.create_figure_context)
    NbElementRenderer.render_image = with_narrow(NbElementRenderer.render_image)
    app.connect("config-inited", configure, priority=300)
    app.connect("builder-inited", drop_thebe, priority=100)
    app.connect("html-page-context", clean_page, priority=900)
    app.connect("html-page-context", on_a_phone, priority=900)
    app.connect("html-page-context", plain_buttons, priority=900)
    app.connect("doctree-read", tell_findings)
    app.connect("build-finished", write_plain)
    app.connect("autodoc-process-docstring", readable_docstring)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
