"""What a chapter shows in a notebook client beside its cells:
its result, where its page is, captions.

The rendered page has all of this from the chapter's Markdown and metadata, which a client shows as
they are typed or not at all. Nothing of it is stored: it appears only where somebody sits before
the kernel (`attended`).
"""

import hashlib
import html
import json
import re
import sys
from importlib import resources

_ROLE = re.compile(r"\{(?P<role>[a-z:]+)\}`(?P<target>[^`]+)`")


def attended() -> bool:
    """Whether the code that runs was sent by a client with somebody before it.

    The request says so itself: a client lets code ask for input (`allow_stdin`). What only executes
    (the book's build, nbval, papermill, nbconvert) cannot answer, and says that it cannot.
    """
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    request = getattr(get_ipython(), "get_parent", dict)()
    return bool(request) and bool(request.get("content", {}).get("allow_stdin"))


class Client:
    """The line below the setup cell, and the captions below figures, of one kernel."""

    def __init__(self):
        self.page = ""
        self.glued: dict[str, str] = {}  # name -> text, as the chapter computes it
        self._line = None
        self._captions: dict | None = None

    def introduce(self, page: str) -> None:
        """Show the line, which `glue` completes, and from now on captions; page:
        the address of the rendered one.
        """
        from IPython import get_ipython
        from IPython.display import display

        if self._captions is None:
            kept = resources.files("arlib").joinpath("captions.json").read_text("utf-8")
            self._captions = numbered(json.loads(kept))
            get_ipython().events.register("post_run_cell", self._caption)
        self.page = page
        self._line = display(self._shown(), display_id=True)

    def glue(self, name: str, text: str) -> None:
        """Keep what the chapter found; the line shows it if it
        is a sentence (a bare number belongs to the prose).
        """
        self.glued[name] = text
        if self._line is not None:
            self._line.update(self._shown())

    def _shown(self):
        from IPython.display import Markdown

        sentences = [text for text in self.glued.values() if " " in text]
        line = " ".join(sentences) or "What this chapter finds stands here when its cells have run."
        where = f" [This chapter as a page]({self.page})." if self.page else ""
        return Markdown(line + where)

    def _caption(self, result) -> None:
        """After each cell: if it is a figure of the chapter and has drawn one,
        what the page says below it.
        """
        known = self._captions.get(key(result.info.raw_cell or ""))
        if known and hasattr(result.result, "_repr_png_"):
            from IPython.display import Markdown, display

            display(Markdown(caption(known, self.glued)))


def caption(known: dict, glued: dict) -> str:
    """A figure's caption and description as Markdown that any client renders."""
    words = _ROLE.sub(
        lambda role: glued.get(role["target"], f"({role['target']})"), known["caption"]
    )
    # {numref} is a number in a plain notebook, and a name where MyST stands as it was typed.
    label = f"**Fig. {known['number']} ({known['name']})** " if known["name"] else ""
    about = html.escape(known["alt"], quote=False)
    return f"{label}{words}\n\n<details><summary>Description</summary>{about}</details>"


def captions(chapter: dict) -> dict[str, dict]:
    """The captions of a chapter's figures, by the source of their cell:
    an edited cell has lost its caption.
    """
    by_source = {}
    for cell in chapter["cells"]:
        shown = cell["metadata"].get("mystnb", {})
        if shown:
            figure = shown.get("figure", {})
            by_source[key("".join(cell["source"]))] = {
                "name": figure.get("name", ""),
                "caption": figure.get("caption", ""),
                "alt": shown["image"]["alt"],
            }
    return by_source


def numbered(captions: dict[str, dict]) -> dict[str, dict]:
    """Captions of the whole book, in its order, with the numbers that named figures have there."""
    named = [entry for entry in captions.values() if entry["name"]]
    for number, entry in enumerate(named, start=1):
        entry["number"] = number
    return captions


def key(source: str) -> str:
    """Of a cell's source, as the chapter has it and as a client sends it."""
    return hashlib.sha256(source.strip().encode()).hexdigest()[:16]


HERE = Client()
