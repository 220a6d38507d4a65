"""Write what was found into the README,
from the published records of the study that the chapters show.

python -m tools.findings             writes figure, findings and table between their two marks
python -m tools.findings --check     only says whether the text differs (exit status 1)
"""

import ast
import sys
import tempfile
from pathlib import Path

import papermill

from arlib import claims, figures, files, studies, tables
from arlib.errors import NotMeasured
from arlib.tables.text import plain

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- written by `python -m tools.findings` -->\n", "<!-- end of what is written -->\n"
FIGURE = Path("book") / "_static" / "three-distances.png"
DARK = FIGURE.with_stem("three-distances-dark")
ROUND = str.maketrans("[]", "()")  # in the text of a link square brackets would end it
COLUMNS = {
    "Verdict": "verdict",
    "By protocol 2, after the fact": "by protocol 2, after the fact",
    "Statistic": "decided by",
    "Effect [95 % interval]": "effect [95 % interval]",
}


def shown() -> str:
    """The study that the book's first page shows."""
    return ast.literal_eval(
        papermill.inspect_notebook(str(ROOT / "book" / "intro.ipynb"))["study"]["default"]
    )


def written(name: str) -> tuple[str, figures.Picture | None]:
    """Figure, findings and verdicts of a study as Markdown, and which studies have no run yet; and
    the figure itself, None where nothing is measured for it.
    """
    with tempfile.TemporaryDirectory() as nothing:  # an empty store: only what is published counts
        study = studies.load(name, nothing)
        frame = claims.completed(claims.verdicts(study), studies.beside(name, nothing))
        others = [studies.load(other, nothing) for other in studies.names(nothing)]
        done = {other.name: (len(other.finished()), len(other.entries)) for other in others}
        waiting = [other for other, (runs, _) in done.items() if not runs]
        begun = [
            f"`{other}` ({runs} of {planned} networks)"
            for other, (runs, planned) in done.items()
            if 0 < runs < planned
        ]
        runs = len(study.finished())
        figure, paragraphs = first(study, frame)
    table = claims.table(frame)
    table = (
        table[[name for name in COLUMNS if name in table]]
        .rename(columns=COLUMNS)
        .rename_axis("claim")
    )
    table["beside a standard net that fits as little"] = [
        reading or "–" for reading in frame["matched"]
    ]
    whole = frame[~frame["claim"].isin([part for parts in claims.PARTS.values() for part in parts])]
    counts = ", ".join(
        f"{count} {verdict}" for verdict, count in whole["verdict"].value_counts().items()
    )
    strengths = f"AR strength 0 against {study.claims['effect']:g}"
    lines = [
        pictured(figures.alt(figure)) if figure else "",
        "\n".join(f"{place}. {sentence}" for place, sentence in enumerate(paragraphs, start=1)),
        f"{plain(study.title)} (study `{name}`, {runs} networks), {strengths}: {counts}. "
        f"{' '.join(plain(study.purpose).split())}",
        tables.markdown(table),
        f"Begun: {', '.join(begun)}." if begun else "",
        f"Not run yet: {', '.join(f'`{other}`' for other in waiting)}." if waiting else "",
    ]
    return "\n\n".join(filter(None, lines)) + "\n", figure


def pictured(alt: str) -> str:
    """The figure as Markdown, with another file where the page is dark."""
    dark = f'<source media="(prefers-color-scheme: dark)" srcset="{DARK.as_posix()}">'
    return f"<picture>{dark}![{alt.translate(ROUND)}]({FIGURE.as_posix()})</picture>"


def first(study, verdicts) -> tuple[figures.Picture | None, list[str]]:
    """The figure and the findings of the first page; no figure where nothing is measured for it."""
    arrays = figures.collect(study)
    try:
        margins, figure = figures.shared_margins(arrays), figures.three_distances(arrays)
    except NotMeasured:
        margins, figure = None, None
    sentences = tables.first_page(study, verdicts, margins)
    return figure, [plain(sentences[name]) for name in ("nearer", "smoother", "gap")]


def updated(readme: str, section: str) -> str:
    """The README with these findings between its marks."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        sys.exit(f"README.md must hold the marks {BEGIN.strip()} and {END.strip()} once each.")
    return readme.split(BEGIN)[0] + BEGIN + "\n" + section + "\n" + END + readme.split(END)[1]


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__)
        return 2
    path = ROOT / "README.md"
    before = path.read_text(encoding="utf-8")
    text, figure = written(shown())
    after = updated(before, text)
    if arguments:
        print(
            "README.md is up to date"
            if before == after
            else "README.md differs; run: python -m tools.findings"
        )
        return int(before != after)
    files.write_text(path, after)
    if figure is not None:
        png = figure._repr_png_()
        files.write_bytes(ROOT / FIGURE, png)
        files.write_bytes(ROOT / DARK, figures.dark_png(png))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
