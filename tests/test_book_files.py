"""The chapters as files, and the promises the project makes in its own text."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from bookfiles import CHAPTERS, ROOT, read, source, tagged, toc

from arlib import notebook
from arlib.errors import InputError
from tools import stamp

TEXT = {
    ".py",
    ".md",
    ".toml",
    ".yml",
    ".yaml",
    ".cfg",
    ".sh",
    ".txt",
    ".cff",
    ".ipynb",
    ".css",
    ".bib",
}


def tracked(root: Path = ROOT) -> list[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: what belongs to the project is not known")
    return [root / name for name in listed.stdout.split("\0") if name and (root / name).is_file()]


def texts():
    own = {"Makefile", "run", "LICENSE", ".gitignore"}
    return [path for path in tracked() if path.suffix in TEXT or path.name in own]


def test_every_page_of_the_contents_exists():
    missing = [page for page in toc() if not list(ROOT.glob(f"{page}.*"))]
    assert not missing


def test_every_chapter_is_in_the_contents():
    assert {f"book/{name}" for name in CHAPTERS} <= set(toc())


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_begins_with_setup_parameters_check(name):
    chapter = read(name)
    setup, parameters = tagged(chapter, "setup"), tagged(chapter, "parameters")
    assert len(setup) == len(parameters) == 1 and setup < parameters
    code = [i for i, cell in enumerate(chapter["cells"]) if cell["cell_type"] == "code"]
    assert code.index(setup[0]) == 0, "the setup cell is the first code cell"
    after = source(chapter["cells"][code[code.index(parameters[0]) + 1]])
    assert after.startswith("notebook.check(globals()"), (
        "the parameters are checked before anything else"
    )
    assert not tagged(chapter, "injected-parameters")


@pytest.mark.parametrize("name", CHAPTERS)
def test_setup_cell_is_the_common_one(name):
    (cell,) = stamp.setup_cells(read(name))
    assert source(cell) == stamp.setup_cell(ROOT, name), "run: python -m tools.stamp"


def test_the_package_has_the_captions_of_all_figures():
    assert stamp.restamp(write=False) == [], "run: python -m tools.stamp"
    for name in CHAPTERS:
        for cell in read(name)["cells"]:
            # a client prints the caption below what the cell returns
            if cell["metadata"].get("mystnb"):
                images = [out for out in cell["outputs"] if "image/png" in out.get("data", {})]
                assert len(images) == 1, cell["id"]
                assert isinstance(ast.parse(source(cell)).body[-1], ast.Expr), cell["id"]


def parameters(name: str, injected: str = "") -> dict:
    """The chapter's globals after setup, parameters and injected cell; then its check is run."""
    chapter = read(name)
    (at,) = tagged(chapter, "parameters")
    check = next(source(c) for c in chapter["cells"][at + 1 :] if c["cell_type"] == "code")
    namespace: dict = {}
    for cell in (notebook.setup_cell(), source(chapter["cells"][at]), injected, check):
        exec(cell, namespace)
    return namespace


@pytest.mark.parametrize("name", CHAPTERS)
def test_parameters_are_annotated_explained_and_pass_their_check(name):
    chapter = read(name)
    (at,) = tagged(chapter, "parameters")
    lines = [
        line
        for line in source(chapter["cells"][at]).splitlines()
        if line and not line.startswith("#")
    ]
    assert [
        line for line in lines if not re.fullmatch(r"\w+: [\w\[\], |]+ = .+  # \S.+", line)
    ] == []
    declared = parameters(name)["_checked"]
    assert {"study", "device", "store"} <= set(declared)


@pytest.mark.parametrize(
    "injected",
    [
        "study = 'digit'",
        "sead = 1",
        "device = 'cuda:99'",
        "study = 3",
        "store = 'runs'",
        "device = 1",
    ],
)
@pytest.mark.parametrize("name", CHAPTERS)
def test_bad_parameters_stop_the_chapter(name, injected):
    with pytest.raises(InputError):
        parameters(name, injected)


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_notices_each_line_that_is_deleted(name):
    """In a kernel where it ran before, no parameter keeps the value of its deleted line."""
    chapter = read(name)
    (at,) = tagged(chapter, "parameters")
    lines = source(chapter["cells"][at]).splitlines()
    check = next(
        source(c) for c in chapter["cells"][at + 1 :] if c["cell_type"] == "code"
    ).splitlines()[0]
    namespace = parameters(name)
    for line in lines:
        deleted = line.split(":")[0]
        exec("\n".join(other for other in lines if other != line), namespace)
        try:
            exec(check, namespace)
            assert namespace[deleted] == notebook.DEFAULTS[deleted]
        except InputError as error:
            assert f"{deleted} has no line" in str(error) and deleted not in namespace
        exec("\n".join(lines), namespace)
        exec(check, namespace)


@pytest.mark.parametrize("name", CHAPTERS)
def test_numbers_are_no_text_and_radii_not_negative(name):
    for parameter, kind in parameters(name)["_checked"].items():
        if kind in (int, float):
            with pytest.raises(InputError):
                parameters(name, f"{parameter} = '8/255'")
        if parameter in ("eps", "strength", "epochs", "steps", "n"):
            with pytest.raises(InputError):
                parameters(name, f"{parameter} = -1")


@pytest.mark.parametrize("name", CHAPTERS)
def test_notebook_is_tidy(name):
    path = ROOT / "book" / f"{name}.ipynb"
    chapter = read(name)
    assert path.stat().st_size < 1_000_000
    assert set(chapter["metadata"]) <= {"kernelspec", "language_info", "accelerator", "colab"}
    assert chapter["metadata"]["kernelspec"]["name"] == "python3"
    assert set(chapter["metadata"].get("language_info", {})) <= {"name"}
    ids = [cell["id"] for cell in chapter["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in chapter["cells"]:
        assert set(cell["metadata"]) <= {"tags", "mystnb"}, (
            f"cell {cell['id']}: execution times and the like"
        )
        for output in cell.get("outputs", []):
            assert output["output_type"] != "error", f"cell {cell['id']} stored an error"
            assert not [kind for kind in output.get("data", {}) if "widget" in kind], (
                f"cell {cell['id']}: a dead widget"
            )
            assert "image/svg+xml" not in output.get(
                "data", {}
            ) and "application/pdf" not in output.get("data", {})


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_is_executed_and_its_figures_are_described(name):
    code = [
        cell for cell in read(name)["cells"] if cell["cell_type"] == "code" and source(cell).strip()
    ]
    assert any(cell["outputs"] for cell in code), "stored outputs are what nbval compares"
    for cell in code:
        if any("image/png" in output.get("data", {}) for output in cell["outputs"]):
            assert cell["metadata"].get("mystnb", {}).get("image", {}).get("alt"), (
                f"cell {cell['id']}: alt text"
            )


@pytest.mark.parametrize("name", CHAPTERS)
def test_exercises_fold_in_every_client(name):
    """`<details>` is Markdown everywhere;
    a cell opens no more than it closes, since clients render each alone.
    """
    for cell in read(name)["cells"]:
        text = source(cell)
        if cell["cell_type"] == "markdown":
            assert "{exercise" not in text and "{solution" not in text
            folded = re.findall(
                r"<details>\n<summary>[^<\n]+</summary>\n\n(?:(?!<details>).)+?\n\n</details>",
                text,
                re.S,
            )
            assert len(folded) == text.count("<details>") == text.count("</details>"), cell["id"]


def test_no_unsafe_loading():
    unsafe = [
        r"pickle\.loads?\(",
        r"torch\.load\(",
        r"yaml\.(full_|unsafe_)?load\(",
        r"allow_pickle\s*=\s*True",
    ]
    pattern = re.compile("|".join(unsafe))
    here = Path(__file__).name
    code = [p for p in tracked() if p.suffix in (".py", ".ipynb") and p.name != here]
    assert [
        f"{p.relative_to(ROOT)}" for p in code if pattern.search(p.read_text(encoding="utf-8"))
    ] == []


def test_the_other_arlib_is_never_recommended():
    words = re.compile("pip install " + r"[\"']?arlib(?!-book)\b(?![./])")
    assert [
        str(p.relative_to(ROOT)) for p in texts() if words.search(p.read_text(encoding="utf-8"))
    ] == []


def test_nothing_large_or_generated_is_tracked():
    large = [p for p in tracked() if p.stat().st_size > 6_000_000]
    assert not large
    assert not [p for p in tracked() if p.suffix in (".pkl", ".pth", ".pt", ".zip", ".gz")]


def links(text: str) -> list[str]:
    return re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)[^)]*\)", text)


@pytest.mark.parametrize(
    "path", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "studies/README.md"]
)
def test_links_between_documents_lead_somewhere(path):
    page = ROOT / path
    assert [
        link
        for link in links(page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ] == []


def test_documented_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    for path in ("README.md", "CONTRIBUTING.md", ".ci/run"):
        wanted = set(re.findall(r"(?:^|`|\s&& |; )make ([a-z-]+)", (ROOT / path).read_text(), re.M))
        assert wanted and wanted <= targets, path


def test_documented_commands_are_commands():
    """`arlib study run NAME` in the documents: the first two words are commands that exist."""
    helped = subprocess.run([*ARLIB, "--help"], capture_output=True, text=True).stdout
    study = subprocess.run([*ARLIB, "study", "--help"], capture_output=True, text=True).stdout
    for path in ("README.md", "CONTRIBUTING.md"):
        for words in re.findall(
            r"^\s*arlib ([a-z]+)(?: ([a-z]+))?", (ROOT / path).read_text(), re.M
        ):
            assert words[0] in helped
            assert words[0] != "study" or words[1] in study


def test_requirements_satisfy_the_ranges_of_the_package():
    from packaging.requirements import Requirement

    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(len(p.specifier) == 1 and str(p.specifier).startswith("==") for p in pins)
    exact = {p.name: next(iter(p.specifier)).version for p in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for wanted in map(Requirement, project["dependencies"]):
        assert wanted.specifier.contains(exact[wanted.name]), wanted
        assert wanted.specifier.contains(COLAB.get(wanted.name, exact[wanted.name])), (
            f"Colab's {wanted}"
        )


# What Colab had in August 2026; the package must be installable there without replacing any of it.
COLAB = {
    "torch": "2.11.0",
    "torchvision": "0.26.0",
    "numpy": "2.1.3",
    "matplotlib": "3.10.0",
    "pandas": "2.2.3",
    "scikit-learn": "1.6.1",
    "ipywidgets": "7.7.1",
}
ARLIB = [sys.executable, "-m", "arlib"]
