"""The two panels as markup: everything is escaped, numbers are inlined as JSON.

The scripts of the book (`boundary.js`, `judge.js`, and what they build on) bring them to life.
Without them a panel stays hidden, and what stands beside it, a figure or a table, says the same.
"""

import base64
import json
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined

from arlib import figures
from arlib.boundary.bench import LEVELS, PROTOCOLS, Bench, declared
from arlib.boundary.walk import PER_UNIT
from arlib.studies import Shelf

HERE = Path(__file__).parent
BINS = 48
# Characters that could end the script tag, or a line in old browsers: as JSON's own escapes.
_UNSAFE = {ord(one): f"\\u{ord(one):04x}" for one in "<>&\u2028\u2029"}


def inlined(name: str, content: object) -> str:
    """A script tag with the id `name` that holds content as JSON, which nothing in it can end.

    Raises `ValueError` for NaN or infinities, which JSON lacks.
    """
    text = json.dumps(content, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    if not name.replace("-", "").isalnum():
        raise ValueError(f"the id is {name!r}; letters, digits and dashes are allowed.")
    return f'<script type="application/json" id="{name}">{text.translate(_UNSAFE)}</script>'


def walk_panel(content: dict, study: Shelf) -> str:
    """Panel 1 with the figure beside it. content: the record of the walk; study: its study."""
    drawn = figures.walks(content)
    return _rendered(
        "walk.html",
        data=inlined("ar-walk-data", shown_walk(content, study)),
        images=[content["classes"][image["label"]] for image in content["images"]],
        strengths=[network["strength"] for network in content["networks"]],
        typical=typical(content),
        stops=content["stops"],
        shape=content["shape"],
        figure=base64.b64encode(drawn._repr_png_()).decode(),
        narrow=base64.b64encode(drawn.narrow().for_a_phone()).decode(),
        alt=drawn.alt,
        finding=figures.walked(content),
        title=content["title"],
        study=content["study"],
        seed=content["seed"],
    )


def judge_panel(study: Shelf) -> str:
    """Panel 2 with the study's own verdicts beside it."""
    bench = Bench(study)
    return _rendered(
        "judge.html",
        judged=bool(bench.items),
        data=inlined("ar-judge-data", bench.content()),
        seeds=bench.seeds,
        strengths=bench.strengths,
        effect=bench.config.effect,
        levels=LEVELS,
        protocols=PROTOCOLS,
        protocol=bench.config.protocol,
        rows=declared(study),
        study=study.name,
        title=study.title,
    )


def typical(content: dict) -> int:
    """The image shown first: how much farther the last network's boundary is, is in the middle."""
    farther = [i["walks"][-1]["crossing"] / i["walks"][0]["crossing"] for i in content["images"]]
    return int(np.argsort(farther)[(len(farther) - 1) // 2])


def shown_walk(content: dict, study: Shelf) -> dict:
    """The record with what the page adds: colours, and all recorded margins as histograms."""
    arrays = [study.arrays(network["run"]) for network in content["networks"]]
    networks = [
        network | {"colour": figures.colour(network["strength"])} for network in content["networks"]
    ]
    instance = [PER_UNIT * one["instance_margin|test"].astype(float) for one in arrays]
    histograms = {
        "margin": histogram([one["margin|test"].astype(float) for one in arrays]),
        # an image that is wrong already has no margin to walk: it is counted apart
        "instance": histogram([values[values > 0] for values in instance], low=0.0),
    }
    wrong = [int((values == 0).sum()) for values in instance]
    kept = {key: value for key, value in content.items() if key != "checksum"}
    return kept | {"networks": networks, "histograms": histograms, "wrong": wrong}


def histogram(groups: list[np.ndarray], low: float | None = None) -> dict:
    """Counts of each group in common bins; the first and last hold what lies beyond them, too."""
    everything = np.concatenate(groups)
    ends = np.quantile(everything, [0.002, 0.998])
    start = float(f"{ends[0] if low is None else low:.3g}")
    end = float(f"{ends[1]:.3g}")
    edges = np.linspace(start, end, BINS + 1)
    counts = [np.histogram(group.clip(start, end), edges)[0].tolist() for group in groups]
    return {"low": start, "high": end, "counts": counts}


def _rendered(template: str, **values) -> str:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = (HERE / template).read_text(encoding="utf-8")
    return environment.from_string(text).render(**values)
