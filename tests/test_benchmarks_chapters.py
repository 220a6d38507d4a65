"""What the benchmark of many chapters counts, on outcomes that are known."""

import nbformat
import pandas as pd

from benchmarks import chapters


def test_runs_are_spread_over_chapters_and_studies(tmp_path):
    planned = chapters.tasks(["margins", "bound", "intro"], 8, tmp_path)
    assert len(planned) == 8 == len({task.output for task in planned})
    counts = pd.Series([task.chapter.stem for task in planned]).value_counts()
    assert counts.max() - counts.min() <= 2 and len(counts) == 3
    assert {task.parameters["study"] for task in planned} == set(chapters.STUDIES)


def test_what_is_printed_is_compared_without_times_and_places(tmp_path):
    def hashed(*outputs) -> str:
        made = [nbformat.v4.new_output("stream", text=text) for text in outputs]
        cell = nbformat.v4.new_code_cell("x", outputs=made)
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "a.ipynb")
        return chapters.printed(tmp_path / "a.ipynb", chapters.masking())

    assert hashed("done in 3.1 s") == hashed("done in 12 s")
    assert hashed("in /tmp/one/store") == hashed("in /tmp/other/store")
    assert hashed("error 3.1 %") != hashed("error 3.2 %")
    assert hashed("a", "b") != hashed("a")


def test_a_chapter_counts_what_failed_was_tried_again_or_printed_otherwise():
    rows = [
        ("bound", "digits", "done", 1, 10.0, "x"),
        ("bound", "digits", "done", 2, 30.0, "x"),
        ("bound", "digits", "done", 1, 20.0, "y"),
        ("bound", "other", "done", 1, 20.0, "z"),
        ("bound", "other", "failed", 3, 90.0, None),
        ("intro", "digits", "done", 1, 5.0, "x"),
    ]
    columns = ["chapter", "study", "status", "attempts", "seconds", "printed"]
    table = chapters.by_chapter(pd.DataFrame(rows, columns=columns)).set_index("chapter")
    assert table.loc["bound"].tolist() == [5, 4, 2, 1, 20.0, 90.0]
    assert table.loc["intro"].tolist() == [1, 1, 0, 0, 5.0, 5.0]
