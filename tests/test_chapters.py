"""What is read of a notebook that anybody may have written."""

import json

import pytest

from arlib import chapters
from arlib.errors import InputError


def cell(source: object, **metadata) -> dict:
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": metadata or {"tags": ["parameters"]},
        "outputs": [],
        "source": source,
    }


def a_chapter(folder, *cells, **changes):
    path = folder / "a.ipynb"
    content = {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5} | changes
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("x: int = 1\ny = 2", ["x", "y"]),
        ("%matplotlib inline\nx = 1\n!ls\n  \ny = 2", ["x", "y"]),
        ("%%time\nx = 1", ["x"]),
        ("x = 1\nx?\n?x\nlist.append??\ny = 2", ["x", "y"]),
        ("files = !ls\nwhere = %pwd\nx = 1", ["files", "where", "x"]),
        ("if True:\n    %time 3\nx = 1", ["x"]),
        ('x = """\n%no magic\n!none\n"""\ny = 1', ["x", "y"]),
        ("a, (b, *c) = 1, (2, 3)\n[d, e] = 1, 2\nf['g'] = 1", ["a", "b", "c", "d", "e"]),
    ],
)
def test_magics_in_the_parameters_cell_are_passed_over(tmp_path, source, names):
    result = chapters.declared_parameters(a_chapter(tmp_path, cell(source)))
    assert sorted(result) == sorted(names)


@pytest.mark.parametrize(
    "source",
    ["x = (", "x = 1\n%%bash\nfor f in *; do", "x = '\0'", "(" * 5000, "é = \\", "x = 1 = 2"],
)
def test_a_parameters_cell_that_is_no_python_is_one_message(tmp_path, source):
    with pytest.raises(InputError, match=r"a\.ipynb: the parameters cell has a mistake") as refused:
        chapters.declared_parameters(a_chapter(tmp_path, cell(source)))
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        "null",
        '{"nbformat": 4}',
        '{"nbformat": 99, "nbformat_minor": 0, "cells": []}',
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [1]}',
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": {"a": 1}}',
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "code"}]}',
        "[" * 100_000,
        "\ud800",
    ],
    ids=lambda content: ascii(content[:60]),
)
def test_what_is_no_notebook_is_one_message(tmp_path, content):
    path = tmp_path / "a.ipynb"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    for use in (
        lambda: chapters.declared_parameters(path),
        lambda: chapters.use_study("digits", tmp_path),
    ):
        with pytest.raises(InputError, match=r"a\.ipynb is no notebook") as refused:
            use()
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


@pytest.mark.parametrize("metadata", [{"tags": None}, {"tags": "parameters"}, {"tags": {"a": 1}}])
def test_tags_that_are_no_list_are_named(tmp_path, metadata):
    with pytest.raises(InputError, match="tags of cell 1 are no list"):
        chapters.declared_parameters(a_chapter(tmp_path, cell("x = 1", **metadata)))


def test_a_notebook_of_format_3_is_read_and_left_alone(tmp_path):
    old = {
        "cell_type": "code",
        "collapsed": False,
        "input": 'study = "digits"\nx = 1',
        "language": "python",
        "metadata": {"tags": ["parameters"]},
        "outputs": [],
    }
    path = tmp_path / "a.ipynb"
    sheets = [{"cells": [old], "metadata": {}}]
    path.write_text(
        json.dumps({"metadata": {}, "nbformat": 3, "nbformat_minor": 0, "worksheets": sheets})
    )
    before = path.read_bytes()
    assert chapters.declared_parameters(path) == ["study", "x"]
    with pytest.raises(InputError, match="save it once with Jupyter"):
        chapters.use_study("cifar10", tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["~nosuchuser/a.ipynb", "a\0b.ipynb", "a" * 5000 + ".ipynb"])
def test_a_path_that_cannot_be_is_one_message(name):
    with pytest.raises(InputError, match="chapter is ") as refused:
        chapters.find([name])
    assert len(str(refused.value)) < 300
