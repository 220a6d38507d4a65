"""What the references of a chapter lead to, and what they say: the numbers of the book's pages."""

import functools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import pybtex.database
from docutils.nodes import make_id
from pybtex.backends import markdown
from pybtex.richtext import Text
from pybtex.style.formatting.plain import Style

from arlib.errors import InputError, one_of
from tools import myst, stamp

GLOSSARY, BIBLIOGRAPHY = "notation", "bibliography"


class Backend(markdown.Backend):
    """pybtex's, without backslashes before brackets (`myst.literal`)."""

    def format_str(self, text: str) -> str:
        return myst.literal(text)


@dataclass(frozen=True)
class Label:
    """Of a figure, an equation or a section."""

    page: str
    anchor: str
    words: str  # its number, or the section's title


@dataclass
class Book:
    """The labels of all pages.

    Sphinx numbers equations and named figures through the whole book, in the order of its contents.
    """

    root: Path
    pages: list[str]  # in their order, without their folder
    titles: dict[str, str] = field(default_factory=dict)  # of each page
    figures: dict[str, Label] = field(default_factory=dict)
    equations: dict[str, Label] = field(default_factory=dict)
    sections: dict[str, Label] = field(default_factory=dict)

    @functools.cached_property
    def entries(self) -> dict[str, pybtex.database.Entry]:
        path = self.root / "book" / "references.bib"
        return dict(pybtex.database.parse_file(path, "bibtex").entries)

    @functools.cached_property
    def style(self) -> Style:
        return Style()

    @functools.cached_property
    def repository(self) -> str:
        return stamp.repository(self.root)

    def of(self, page: str) -> "Page":
        """The book as one chapter refers to it."""
        return Page(self, page)


def read(root: Path = stamp.ROOT) -> Book:
    """Read the labels of all pages that `_toc.yml` lists."""
    book = Book(root, stamp.contents(root))
    for page in book.pages:
        for cell in _cells(root / "book" / page):
            _read_cell(book, page, cell)
    return book


def _cells(path: Path) -> list[dict]:
    if path.with_suffix(".ipynb").exists():
        return json.loads(path.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
    text = path.with_suffix(".md").read_text(encoding="utf-8")
    return [{"cell_type": "markdown", "source": text, "metadata": {}}]


def _read_cell(book: Book, page: str, cell: dict) -> None:
    if cell["cell_type"] == "code":
        name = cell["metadata"].get("mystnb", {}).get("figure", {}).get("name")
        if name:
            book.figures[name] = Label(page, make_id(name), str(len(book.figures) + 1))
        return
    waiting, heading = [], ""
    for token in myst.blocks("".join(cell["source"])):
        named = myst.directive(token)
        label = token.info if token.type == "math_block_label" else ""
        if named and named[0] == "math":
            label = named[2].get("label", "")
        if label:
            number = str(len(book.equations) + 1)
            book.equations[label] = Label(page, make_id(f"equation-{label}"), number)
        if token.type == "myst_target":
            waiting.append(token.content)
        if token.type == "heading_open":
            heading = token.tag
        elif heading and token.type == "inline":
            title, heading = myst.words(token), ""
            book.titles.setdefault(page, title)
            for target in waiting:
                book.sections[target] = Label(page, make_id(target), title)
            waiting.clear()


@dataclass
class Page:
    """`tools.myst.Book` for one chapter; remembers which works it cites."""

    book: Book
    name: str
    works: set[str] = field(default_factory=set)

    def url(self, page: str, anchor: str = "") -> str:
        """Of a rendered page: where it is published, or beside the folder of plain notebooks."""
        at = stamp.page(self.book.repository, page) or f"../book/{page}.html"
        return f"{at}#{anchor}" if anchor else at

    def page(self) -> str:
        return f"[the chapter's page]({self.url(self.name)})"

    def address(self, target: str) -> str:
        """Of a link as the chapter has it; "" where it can stay as it is."""
        if re.match(r"[a-z]+:", target):
            return ""
        path, _, anchor = target.partition("#")
        if not path:
            label = self.book.sections.get(anchor)
            return self.url(label.page, label.anchor) if label and label.page != self.name else ""
        page = self._known(path)
        published = stamp.page(self.book.repository, page)
        chapter = (self.book.root / "book" / f"{page}.ipynb").exists()
        if chapter and not published and not anchor:
            return f"{page}.ipynb"
        return self.url(page, anchor)

    def cited(self, keys: list[str], textual: bool) -> str:
        for key in keys:
            one_of("work", key, tuple(self.book.entries))
        self.works.update(keys)
        works = sorted((authors(self.book.entries[key]), self._year(key), key) for key in keys)
        anchors = {key: self.url(BIBLIOGRAPHY, f"cite-{key}") for key in keys}
        if textual:
            return ", ".join(f"[{who} ({year})]({anchors[key]})" for who, year, key in works)
        return "[" + ", ".join(f"[{who}, {year}]({anchors[key]})" for who, year, key in works) + "]"

    def equation(self, label: str) -> str:
        one_of("equation", label, tuple(self.book.equations))
        return self._linked(self.book.equations[label], f"({self.book.equations[label].words})")

    def number(self, label: str) -> int:
        return int(self.book.equations[label].words)

    def figure(self, label: str, pattern: str) -> str:
        one_of("figure", label, tuple(self.book.figures))
        label_of = self.book.figures[label]
        words = pattern.replace("%s", label_of.words).replace("{number}", label_of.words)
        return self._linked(label_of, words)

    def section(self, label: str, text: str) -> str:
        one_of("label", label, tuple(self.book.sections))
        target = self.book.sections[label]
        where = f"#{label}" if target.page == self.name else self.url(target.page, target.anchor)
        return f"[{text or myst.literal(target.words)}]({where})"

    def document(self, target: str, text: str) -> str:
        if target.startswith("#"):
            return self.section(target[1:], text)
        page = self._known(target.partition("#")[0])
        return f"[{text or myst.literal(self.book.titles[page])}]({self.address(target)})"

    def term(self, word: str, text: str) -> str:
        return f"[{text}]({self.url(GLOSSARY, make_id(f'term-{word}'))})"

    def contents(self) -> str:
        """The other pages, one per line."""
        pages = [page for page in self.book.pages if page != self.name]
        return "\n".join(f"- {self.document(page, '')}" for page in pages)

    def bibliography(self) -> str:
        """The works cited so far, one per line, by authors and year; "" if there are none."""
        entries = self.book.entries
        keys = sorted(self.works, key=lambda key: (authors(entries[key]), self._year(key), key))
        works = self.book.style.format_entries([entries[key] for key in keys])
        return "\n".join(f"- {' '.join(work.text.render(Backend()).split())}" for work in works)

    def _known(self, path: str) -> str:
        """The page of a path as a link or {doc} has it, relative to the folder of the chapters."""
        name = re.sub(r"\.(ipynb|md)$", "", path.removeprefix("./").removeprefix("/book/"))
        if name not in self.book.pages:
            raise InputError(f"{path} is no page of the book.")
        return name

    def _linked(self, label: Label, words: str) -> str:
        """A number: of this notebook it stands beside what it names, of others it leads there."""
        return (
            words if label.page == self.name else f"[{words}]({self.url(label.page, label.anchor)})"
        )

    def _year(self, key: str) -> str:
        return self.book.entries[key].fields["year"]


def authors(entry: pybtex.database.Entry) -> str:
    """As the book's pages name them: one, two, or the first "et al."."""
    last = [
        str(Text.from_latex(" ".join(person.prelast_names + person.last_names)))
        for person in entry.persons["author"]
    ]
    if len(last) > 2:
        return f"{last[0]} et al."
    return " and ".join(last)
