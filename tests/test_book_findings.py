"""Every figure and table of records in the book says in a sentence what it shows."""

import re

import pytest
from bookfiles import CHAPTERS, read, source

from arlib.claims.words import FINDING

# What explains or is computed live has numbers of its own machine; what lists says itself.
NOT_OF_RECORDS = re.compile(
    r"figures\.(live|two_points|covering|bound_terms|gap_by_scale|linear_margins|ascent_paths|"
    r"causal_graph|image_grid|symbol|readings|estimates|change_by_radius|ratio_by_band|attack_ladder)\(|"
    r"comparison\.figure\(|figure_slider\(|widgets\.live\("
)
LISTS = re.compile(r"DataFrame\.from_records, listed|signs\.sources|lambda: shown\.|whole\[later\]")
MISSING = "*Not measured in this study"


def outputs(cell: dict) -> list[dict]:
    return [out.get("data", {}) for out in cell.get("outputs", [])]


def words(cell: dict) -> str:
    return "\n".join("".join(data.get("text/markdown", "")) for data in outputs(cell))


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_recorded_figure_has_its_sentence_and_its_alt_text_has_it(name):
    for cell in read(name)["cells"]:
        images = [out for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
        if cell["cell_type"] != "code" or not images or NOT_OF_RECORDS.search(source(cell)):
            continue
        assert FINDING in words(cell), cell["id"]
        finding = words(cell).partition(FINDING)[2].strip()
        alt = images[0]["metadata"]["image/png"]["alt"]
        assert len(finding) > 20 and alt.endswith(finding), cell["id"]


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_recorded_table_has_its_sentence(name):
    for cell in read(name)["cells"]:
        text = source(cell)
        if cell["cell_type"] != "code" or "notebook.table(" not in text or LISTS.search(text):
            continue
        assert FINDING in words(cell) or MISSING in words(cell), cell["id"]
