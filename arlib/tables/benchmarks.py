"""What the benchmarks measured, read back:
`records/benchmarks/NAME-DEVICE.json`, shipped with the package.

Each file is the last run of one benchmark on one kind of device: `{machine, date, command, notes,
tables}`.
"""

import re
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from arlib import files, places
from arlib.claims.words import FINDING
from arlib.errors import InputError, NotMeasured, RecordError, one_of
from arlib.tables.sentences import sentence
from arlib.tables.text import markdown_of_numbers, plain
from arlib.training import Recipe

FOLDER = "benchmarks"
KEYS = ("machine", "date", "command", "notes", "tables")


def benchmark(name: str) -> dict | None:
    """The stored result of a benchmark ("spectra-cpu"), or None where it was never run.

    `["tables"]` maps titles to DataFrames, `["machine"]`, `["notes"]` are dicts, `["date"]` and
    `["command"]` text.
    Raises `InputError` for a name that is no benchmark's, `RecordError` naming a damaged file.
    """
    if not re.fullmatch(r"[a-z0-9_]+-[a-z0-9]+", name):
        raise InputError(f"name is {name!r}; give a benchmark and a device, as in 'spectra-cpu'.")
    paths = [path for folder in folders() if (path := folder / f"{name}.json").is_file()]
    return read(paths[0]) if paths else None


def names(start: str, device: str) -> list[str]:
    """Names ("equivalence_reduced_folded_float32-cpu") of the stored results of a device
    that begin so, in order.
    """
    return sorted(
        {path.stem for folder in folders() for path in folder.glob(f"{start}*-{device}.json")}
    )


def folders() -> list[Path]:
    """Where results lie: the checkout's records, then the shipped copy."""
    return [folder / FOLDER for folder in places.places().records]


def read(path: Path) -> dict:
    """One file of results, its tables as DataFrames; `RecordError` if it is damaged."""
    content = files.read_json(path)
    try:
        tables = {title: _frame(table) for title, table in content["tables"].items()}
        return {key: content[key] for key in KEYS} | {"tables": tables}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordError(
            f"{path} is not what a benchmark writes ({error!r}). Run its benchmark again."
        ) from error


def table(name: str, title: str) -> pd.DataFrame:
    """One table of a benchmark; `NotMeasured` where it was never run,
    `InputError` for a title it does not have.
    """
    result = benchmark(name)
    if result is None:
        raise NotMeasured(f"there is no result of the benchmark {name}.")
    one_of("title", title, tuple(result["tables"]))
    return result["tables"][title]


def text(name: str, *devices: str, without: Collection[str] = ()) -> str:
    """The tables of a benchmark on some devices, with machine and date, as Markdown: what each
    shows, and the table folded; "not measured" where it is not.

    devices: by default "cpu" and "cuda". without: titles of tables that are left out.
    """
    parts = []
    for device in devices or ("cpu", "cuda"):
        result = benchmark(f"{name}-{device}")
        if result is None:
            parts.append(f"*`{name}` on {_WORDS.get(device, device)}: not measured.*")
            continue
        parts.append(f"{_where(result)} Command: `{result['command']}`")
        for title, frame in result["tables"].items():
            if title not in without:
                parts.append(_folded(f"{title[:1].upper()}{title[1:]}", frame))
    return "\n\n".join(parts)


def _folded(title: str, frame: pd.DataFrame) -> str:
    """A table that opens on demand, below what it shows."""
    shown, title = sentence(frame), plain(title)
    told = f"**{title}.** {FINDING}{plain(shown)}.\n\n" if shown else ""
    summary = f"<summary>{title if not shown else 'The table'}</summary>"
    return f"{told}<details>{summary}\n\n{markdown_of_numbers(frame)}\n\n</details>"


def equivalences(device: str) -> pd.DataFrame:
    """Fast ways to train against the plain one, a row each:
    data, network, pairs, how many quantities are equivalent.

    `otherwise` names the quantities that are not, with strength, interval of the difference, unit
    and verdict. Empty where nothing was compared.
    """
    rows = []
    for name in names("equivalence", device):
        result = benchmark(name)
        notes, compared = (
            result["notes"],
            result["tables"].get(f"plain against {result['notes']['fast']}"),
        )
        if compared is None:  # time to equal accuracy of another batch size
            continue
        recipe = Recipe.from_dict(notes["recipe"])
        part = f", {recipe.train_images:,} images" if recipe.train_images else ""
        row = {"fast way": notes["fast"], "data": recipe.dataset + part, "network": recipe.model}
        others = compared[compared.verdict != "equivalent"]
        counts = {
            "pairs": notes["pairs"],
            "equivalent": f"{len(compared) - len(others)} of {len(compared)}",
        }
        rows.append(
            row
            | counts
            | {"otherwise": "; ".join(map(_otherwise, others.to_dict("records"))) or "none"}
        )
    return pd.DataFrame(rows)


def equivalence(device: str) -> str:
    """The same as Markdown, with how many quantities are equivalent over all; a sentence where
    nothing was compared.
    """
    compared = equivalences(device)
    if compared.empty:
        return f"*Equivalence on {_WORDS.get(device, device)}: not measured.*"
    pairs = [text.split(" of ") for text in compared["equivalent"]]
    shown, tried = (sum(int(pair[place]) for pair in pairs) for place in (0, 1))
    finding = (
        f"{FINDING}{shown} of {tried} quantities of {len(compared)} comparisons are equivalent."
    )
    return f"{markdown_of_numbers(compared)}\n\n{finding}"


def _otherwise(row: dict) -> str:
    return (
        f"{row['quantity']} at strength {row['strength']:g}: {row['low']:+.2g} to "
        f"{row['high']:+.2g} {row['unit']}, {row['verdict']}"
    )


_WORDS = {"cpu": "a CPU", "cuda": "a GPU"}


def _where(result: dict) -> str:
    """On what and when, in a sentence or two."""
    machine = result["machine"]
    counts = (
        f"{machine[what]} {what if machine[what] != 1 else what[:-1]}"
        for what in ("cores", "threads")
    )
    cores = ", ".join((machine["processor"], *counts))
    gpu = f"{machine['gpu']} with " if machine.get("gpu") else ""
    busy = machine["load"] > 0.5
    load = (
        f", while others used the machine (load {machine['load']:g} before it began)"
        if busy
        else ""
    )
    return f"{gpu}{cores}, torch {machine['torch']}, {result['date']}{load}."


def _frame(table: dict) -> pd.DataFrame:
    """null in a column of numbers is NaN; the words inf and -inf among numbers are infinities."""
    frame = pd.DataFrame(table["rows"], columns=table["columns"])
    for name in frame:
        values = frame[name]
        if values.map(
            lambda v: v is None or isinstance(v, int | float) or v in ("inf", "-inf")
        ).all():
            # for Python a bool is a number: a column of yes and no stays one
            frame[name] = (
                values if values.map(lambda v: isinstance(v, bool)).all() else pd.to_numeric(values)
            )
    return frame
