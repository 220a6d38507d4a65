"""What the benchmarks measured, read back: `records/benchmarks/NAME-DEVICE.json`, shipped with the package.

Each file is the last run of one benchmark on one kind of device: `{machine, date, command, notes, tables}`.
"""

import re
from pathlib import Path

import pandas as pd

from arlib import files, records
from arlib.errors import InputError, RecordError, one_of

FOLDER = "benchmarks"
KEYS = ("machine", "date", "command", "notes", "tables")


def benchmark(name: str) -> dict | None:
    """The stored result of a benchmark ("spectra-cpu"), or None where it was never run.

    `["tables"]` maps titles to DataFrames, `["machine"]`, `["notes"]` are dicts, `["date"]` and `["command"]` text.
    Raises `InputError` for a name that is no benchmark's, `RecordError` naming a damaged file.
    """
    if not re.fullmatch(r"[a-z0-9_]+-[a-z0-9]+", name):
        raise InputError(f"name is {name!r}; give a benchmark and a device, as in 'spectra-cpu'.")
    found = [path for folder in folders() if (path := folder / f"{name}.json").is_file()]
    return read(found[0]) if found else None


def folders() -> list[Path]:
    """Where results lie: the checkout's records, then the shipped copy."""
    return [folder / FOLDER for folder in records.places().records]


def read(path: Path) -> dict:
    """One file of results, its tables as DataFrames; `RecordError` if it is damaged."""
    content = files.read_json(path)
    try:
        tables = {title: _frame(table) for title, table in content["tables"].items()}
        return {key: content[key] for key in KEYS} | {"tables": tables}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordError(f"{path} is not what a benchmark writes ({error!r}). Run its benchmark again.") from error


def table(name: str, title: str) -> pd.DataFrame | None:
    """One table of a benchmark, or None where it was never run; `InputError` for a title it does not have."""
    found = benchmark(name)
    if found is None:
        return None
    one_of("title", title, tuple(found["tables"]))
    return found["tables"][title]


def _frame(table: dict) -> pd.DataFrame:
    """null in a column of numbers is NaN; the words inf and -inf among numbers are infinities."""
    frame = pd.DataFrame(table["rows"], columns=table["columns"])
    for name in frame:
        values = frame[name]
        if values.map(lambda v: v is None or isinstance(v, int | float) or v in ("inf", "-inf")).all():
            frame[name] = values if values.map(lambda v: isinstance(v, bool)).all() else pd.to_numeric(values)
    return frame
