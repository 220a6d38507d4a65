"""What a command prints: tables for people, JSON for programs."""

import json
import math
from collections.abc import Mapping


def print_json(value: object) -> None:
    """Strict JSON on stdout: what is not a number, or not finite, is null."""
    print(json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False))


def print_table(rows: list[dict]) -> None:
    """Rows with the same keys as aligned columns, numbers to the right."""
    cells = [[_cell(value) for value in row.values()] for row in rows]
    right = [isinstance(value, int | float) for value in rows[0].values()]
    lines = [list(rows[0]), *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        columns = zip(line, widths, right, strict=True)
        padded = (text.rjust(n) if number else text.ljust(n) for text, n, number in columns)
        print("  ".join(padded).rstrip())


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.1f}"
    return str(value)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "item"):  # a number of numpy's
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
