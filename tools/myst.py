"""MyST in, Markdown that every notebook client renders out.

MyST's own parser finds what is to be replaced, so all else keeps its every character. What the
book uses is converted; anything else of MyST is refused by name.
"""

import ast
import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import yaml
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_inline import link
from markdown_it.token import Token
from mdit_py_plugins.myst_role.index import myst_role
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

from arlib.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
ADMONITIONS = (
    "admonition", "attention", "caution", "danger", "error", "hint", "important", "note",
    "seealso", "tip", "warning",
)  # fmt: skip
TITLES = {"seealso": "See also"}
LEFT = {  # what no other client renders, as the parser calls it
    "amsmath": "a numbered environment outside $$",
    "dl_open": "a list of definitions",
    "footnote_ref": "a footnote",
    "footnote_reference_open": "a footnote",
    "span_open": "[…]{…}",
    "substitution_block": "{{…}}",
    "substitution_inline": "{{…}}",
}


class Book(Protocol):
    """What references of a text lead to; each method returns Markdown."""

    def cited(self, keys: list[str], textual: bool) -> str: ...
    def equation(self, label: str) -> str: ...
    def figure(self, label: str, pattern: str) -> str: ...
    def section(self, label: str, text: str) -> str: ...
    def document(self, target: str, text: str) -> str: ...
    def term(self, word: str, text: str) -> str: ...
    def number(self, label: str) -> int: ...
    def address(self, target: str) -> str: ...
    def contents(self) -> str: ...
    def page(self) -> str: ...


def _noted(rule: Callable) -> Callable:
    """An inline rule that also notes what it found where: (begin, end, end of label, token)."""

    def noting(state, silent: bool) -> bool:
        begin, notes = state.pos, state.env.get("notes")
        if state.src != state.env.get("of"):  # the description of an image is parsed by itself
            notes = None
        label = begin
        if notes is not None and rule is link and state.src[begin] == "[":
            label = state.md.helpers.parseLinkLabel(state, begin, True)
        before = len(state.tokens)
        matched = rule(state, silent)
        if matched and not silent and notes is not None:
            made = [token for token in state.tokens[before:] if token.type != "text"]
            notes += [(begin, state.pos, label, token) for token in made[:1]]
        return matched

    return noting


@functools.cache
def parser() -> MarkdownIt:
    """MyST's, with the extensions that `_config.yml` has."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    extensions = set(config["parse"]["myst_enable_extensions"])
    md = create_md_parser(MdParserConfig(enable_extensions=extensions), RendererHTML)
    for rule in (myst_role, link):
        md.inline.ruler.at(rule.__name__, _noted(rule))
    return md.disable("front_matter")


def blocks(text: str) -> Iterator[Token]:
    """All block tokens of a text, those inside admonitions included."""
    for token in parser().parse(text):
        yield token
        if named := directive(token):
            name, _, _, body = named
            if name in ADMONITIONS:
                yield from blocks(body)


def directive(token: Token) -> tuple[str, str, dict[str, str], str] | None:
    """Name, argument, options and body if a token is a directive."""
    if token.type not in ("fence", "colon_fence"):
        return None
    head = re.match(r"\{([^}\s]+)\}\s*(.*)", token.info.strip(), re.S)
    if not head:
        return None
    options, lines = {}, token.content.split("\n")
    while lines and (option := re.match(r":([\w-]+):\s*(.*)", lines[0])):
        options[option[1]] = option[2].strip()
        del lines[0]
    if not options and lines[0].strip() == "---" and "---" in lines[1:]:
        end = lines.index("---", 1)
        options = yaml.safe_load("\n".join(lines[1:end])) or {}
        lines = lines[end + 1 :]
    return head[1], head[2].strip(), options, "\n".join(lines).strip("\n")


def words(inline: Token) -> str:
    """The text of a heading, without its markup."""
    return "".join(child.content for child in inline.children or ())


def literal(text: str) -> str:
    """A text that Markdown shows as it is.

    No backslash stands before a bracket: some clients begin a formula there.
    """
    return re.sub(r"([\\`*_<>|$])", r"\\\1", text).replace("](", "]&#40;")


def markdown(text: str, book: Book, glued: dict[str, tuple[str, bool]]) -> str:
    """A text of MyST as plain Markdown.

    glued: name -> (value, whether it is Markdown), as the chapter's cells computed them. Raises
    `InputError` for syntax, a label or a name that is not known.
    """
    starts, edits = [0], []
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    environment: dict = {}
    tokens = parser().parse(text, environment)
    reached = 0
    for i, token in enumerate(tokens):
        if token.type == "inline":
            cell = tokens[i - 1].type in ("th_open", "td_open")
            reached = max(reached, starts[token.map[0]])
            places = _places(text, token.content, starts[token.map[0]], reached, cell)
            edits += _inline_edits(token, environment, places, book, glued)
            reached = places(len(token.content)) if cell else reached
            continue
        new = _block(token, book, glued)
        if new is not None:
            begin, end = starts[token.map[0]], starts[token.map[1]] - 1
            edits.append((begin, end, _indented(text[begin:end], token, new)))
    for begin, end, new in sorted(edits, reverse=True):
        text = text[:begin] + new + text[end:]
    _refuse_what_is_left(text)
    return text


def _places(text: str, content: str, line: int, reached: int, cell: bool) -> Callable[[int], int]:
    """Where a character of a token's content stands in the text.

    The content lacks the indentation of its lines and the marks before them; that of a table's cell
    also the backslashes before its bars.
    """
    if cell:
        written = content.replace("|", r"\|")
        at = text.find(written, reached)
        return lambda i: at + i + content[:i].count("|")
    places = []
    for piece in content.split("\n"):
        end = text.find("\n", line)
        end = len(text) if end < 0 else end
        whole = text[line:end].rstrip()
        at = len(whole) - len(piece) if whole.endswith(piece) else whole.find(piece)
        places += range(line + at, line + at + len(piece) + 1)
        line = end + 1
    return places.__getitem__


def _inline_edits(
    token: Token, environment: dict, places: Callable[[int], int], book: Book, glued: dict
) -> Iterator[tuple[int, int, str]]:
    """What to write from where to where, for the roles and links of a paragraph."""
    notes: list = []
    md = parser()
    noting = environment | {"notes": notes, "of": token.content}
    md.inline.parse(token.content, md, noting, [])
    for begin, end, label, mark in notes:
        if mark.type == "myst_role":
            new = _role(mark.meta["name"], mark.content, book, glued)
            yield places(begin), places(end), new
        elif mark.type == "link_open" and token.content[label : label + 2] == "](":
            old = mark.attrs["href"]
            if new := book.address(old):
                if label == begin + 1:  # no text of its own: what it leads to gives it
                    yield places(begin), places(end), book.document(old, "")
                else:
                    yield places(label), places(end), f"]({new})"


def _role(name: str, content: str, book: Book, glued: dict) -> str:
    """What a role says, as Markdown."""
    titled = re.fullmatch(r"(?P<text>.+?)\s*<(?P<target>[^<>]+)>", content, re.S)
    target, text = content.strip(), ""
    if titled:
        target, text = titled["target"], literal(titled["text"])
    match name:
        case "cite" | "cite:p" | "cite:t":
            return book.cited([key.strip() for key in content.split(",")], name == "cite:t")
        case "eq":
            return book.equation(target)
        case "numref":
            return book.figure(target, text or "Fig. %s")
        case "ref":
            return book.section(target, text)
        case "doc":
            return book.document(target, text)
        case "term":
            return book.term(target, text or literal(target))
        case "glue" | "glue:text" | "glue:md":
            return _value(content.strip(), glued)
        case "math":
            return f"${content}$"
        case "sub" | "sup":
            return f"<{name}>{literal(content)}</{name}>"
        case "code":
            return f"`{content}`"
    raise InputError(f"the role {{{name}}}`{content}` has no plain form (tools/myst.py).")


def _value(content: str, glued: dict) -> str:
    """A glued value; `name:.2f` formats a number."""
    name, _, form = content.partition(":")
    if name not in glued:
        raise InputError(f"{name} is glued by no cell (there are: {', '.join(glued) or 'none'}).")
    value, is_markdown = glued[name]
    if is_markdown:
        return value
    with contextlib.suppress(SyntaxError, ValueError):  # else an object, as it prints itself
        value = ast.literal_eval(value)
    return literal(format(value, form))


def _block(token: Token, book: Book, glued: dict) -> str | None:
    """What stands in the place of a block, None where it stays."""
    if token.type == "math_block_label":
        return _equation(token.content, book.number(token.info))
    if token.type == "myst_target":
        return f'<a id="{token.content}"></a>\n'
    if token.type in ("myst_line_comment", "myst_block_break"):
        return ""
    named = directive(token)
    if named is None:
        if token.type == "colon_fence":
            raise InputError(f":::{token.info} has no plain form (tools/myst.py).")
        return None
    name, argument, options, body = named
    if name in ADMONITIONS:
        title = argument if name == "admonition" else TITLES.get(name, name.capitalize())
        first = argument if name != "admonition" else ""
        inner = "\n".join(filter(None, (first, body)))
        return _quoted(
            markdown(title, book, glued),
            markdown(inner, book, glued),
            "dropdown" in options.get("class", ""),
        )
    match name:
        case "math":
            label = options.get("label", "")
            return _equation(
                "\n".join(filter(None, (argument, body))), label and book.number(label)
            )
        case "tableofcontents":
            return book.contents()
        case "glue" | "glue:text" | "glue:md":
            return _value(argument, glued)
        case "code" | "code-block":
            return f"```{argument}\n{body}\n```"
        case "eval-rst":
            return f"*This part is only on {book.page()}.*"
    raise InputError(f"the directive {{{name}}} has no plain form (tools/myst.py).")


def _equation(content: str, number: int | str) -> str:
    tag = f"\n\\tag{{{number}}}" if number else ""
    return "$$\n" + content.strip("\n") + tag + "\n$$"


def _quoted(title: str, body: str, folded: bool) -> str:
    """An admonition: a quotation with its title in bold; folded, where it is one that opens."""
    if folded:
        return f"<details>\n<summary>{title}</summary>\n\n{body}\n\n</details>"
    lines = f"**{title}**\n\n{body}".split("\n")
    return "\n".join(f"> {line}".rstrip() for line in lines)


def _indented(old: str, token: Token, new: str) -> str:
    """A block with the indentation, and the marks of lists and quotations, that the old one had."""
    mark = token.markup or {"myst_target": "("}.get(token.type, "")
    head = old[: old.find(mark)] if mark and mark in old.split("\n")[0] else ""
    later = re.sub(r"[^\s>]", " ", head)
    return head + f"\n{later}".join(new.split("\n"))


def _refuse_what_is_left(text: str) -> None:
    """Raise `InputError` where a text still has what only MyST understands."""
    waiting = parser().parse(text)
    while waiting:
        token = waiting.pop()
        waiting += token.children or ()
        if name := _left(token):
            raise InputError(f"{name} has no plain form (tools/myst.py).")


def _left(token: Token) -> str:
    """What is named to the author of a text that has such a token; "" for Markdown."""
    if token.type == "amsmath" and token.meta.get("numbered") == "*":
        return ""
    if token.type in LEFT:
        return LEFT[token.type]
    if token.type in ("myst_role", "colon_fence") or directive(token):
        return f"{token.meta.get('name') or token.info} inside other markup"
    if token.type == "image" and not re.match(r"https?:|data:", token.attrs["src"]):
        return f"an image in a file of its own ({token.attrs['src']})"
    if added := token.attrs.keys() - {"href", "title", "src", "alt", "start", "style"}:
        return f"attributes ({', '.join(sorted(added))})"
    return ""
