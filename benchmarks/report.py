"""What every benchmark shares: the machine, fair timing, and one JSON file of results.

`write` puts `records/benchmarks/NAME-DEVICE.json`, from which the book's tables and figures are
computed (read it back with `arlib.tables.benchmarks`). No number of the book comes from anywhere
else.
"""

import datetime
import json
import math
import numbers
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from arlib import files, places, processes
from arlib.errors import InputError
from arlib.tables import benchmarks as stored

LOAD_AT_START = os.getloadavg()[0]  # before the benchmark adds its own
DIGITS = 6


def machine() -> dict:
    """What the numbers depend on. load: of the last minute before this process began;
    above 0, others worked too.
    """
    return {
        "processor": _processor(),
        "cores": processes.cores(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": round(LOAD_AT_START, 2),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    if names := [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]:
        return names[0]
    if sys.platform == "darwin":
        asked = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True
        )
        if asked.stdout.strip():
            return asked.stdout.strip()
    return platform.processor() or platform.machine()


@dataclass(frozen=True)
class Times:
    """Seconds of one call over several:
    median, least and most of the wall clock, median of the process's own.
    """

    median: float
    low: float
    high: float
    cpu: float

    @classmethod
    def of(cls, samples: list[tuple[float, float]]) -> "Times":
        """samples: (wall, processor) seconds of each call."""
        wall, cpu = zip(*samples, strict=True)
        return cls(statistics.median(wall), min(wall), max(wall), statistics.median(cpu))

    def row(self) -> dict[str, float]:
        """As columns of a table."""
        return {"wall s": self.median, "least": self.low, "most": self.high, "cpu s": self.cpu}


def timed(
    function: Callable[[], object], repeats: int, device: str | torch.device, *, warm_up: int = 1
) -> Times:
    """Seconds of a call, after `warm_up` calls that do not count;
    a GPU is waited for before and after each.
    """
    return interleaved({"": function}, repeats, device, warm_up=warm_up)[""]


def interleaved(
    functions: dict[str, Callable[[], object]],
    rounds: int,
    device: str | torch.device,
    *,
    warm_up: int = 1,
) -> dict[str, Times]:
    """Seconds of each of some calls, taken A B C A B C …,
    so that whatever disturbs the machine hits all alike.
    """
    if rounds < 1 or not functions:
        raise InputError(
            f"rounds is {rounds}, functions are {list(functions)}; needed: at least one of each."
        )
    samples: dict[str, list] = {name: [] for name in functions}
    for turn in range(-warm_up, rounds):
        for name, function in functions.items():
            sample = _sample(function, device)
            if turn >= 0:
                samples[name].append(sample)
    return {name: Times.of(seconds) for name, seconds in samples.items()}


def _sample(function: Callable[[], object], device: str | torch.device) -> tuple[float, float]:
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    _wait(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def _wait(device: str | torch.device) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def write(
    name: str,
    device: str | torch.device,
    tables: dict[str, pd.DataFrame],
    *,
    folder: Path | None = None,
    **notes: object,
) -> Path:
    """Write `NAME-DEVICE.json` whole or not at all,
    into the checkout's `records/benchmarks/` unless `folder` is given.

    Numbers keep 6 significant digits; NaN becomes null and an infinity a word. notes: whatever a
    reader needs to know beside the tables (settings, targets), as plain data.
    """
    if folder is None and places.checkout() is None:
        raise InputError("report: there is no checkout to write into; give a folder.")
    content = {
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "command": _command(),
        "notes": {key: _plain(value) for key, value in notes.items()},
        "tables": {title: _table(frame) for title, frame in tables.items()},
    }
    folder = folder or places.checkout() / "records" / stored.FOLDER
    path = Path(folder) / f"{name}-{torch.device(device).type}.json"
    files.write_text(path, _text(content))
    return path


def _command() -> str:
    """As it was typed, without this machine's paths."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["-m", spec.name.removesuffix(".__main__")] if spec else [Path(sys.argv[0]).name]
    arguments = ["PATH" if Path(argument).is_absolute() else argument for argument in sys.argv[1:]]
    return shlex.join(["python", *program, *arguments])


def _table(frame: pd.DataFrame) -> dict:
    rows = frame.astype(object).to_numpy().tolist()
    return {"columns": [str(c) for c in frame], "rows": [[_plain(v) for v in row] for row in rows]}


def _plain(value: object) -> object:
    """What strict JSON can hold; whole numbers stay whole, others keep 6 digits."""
    if isinstance(value, dict):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, str | bool):
        return value
    if type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if not isinstance(value, numbers.Real):
        return str(value)
    value = float(value)
    if math.isnan(value):
        return None
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else "inf" if value > 0 else "-inf"


def _text(content: dict) -> str:
    """JSON that diffs well: one line per row."""

    def dump(value):
        return json.dumps(value, allow_nan=False, ensure_ascii=False)

    tables = []
    for title, table in content["tables"].items():
        rows = ",\n    ".join(map(dump, table["rows"]))
        tables.append(
            f'  {dump(title)}: {{"columns": {dump(table["columns"])}, "rows": [\n    {rows}\n  ]}}'
        )
    head = [
        f" {dump(key)}: {dump(content[key])}" for key in ("machine", "date", "command", "notes")
    ]
    text = "{\n" + ",\n".join([*head, ' "tables": {\n' + ",\n".join(tables) + "\n }"]) + "\n}\n"
    assert json.loads(text) == content
    return text


def command(main: Callable[[], object]) -> None:
    """Run a benchmark as a program: a mistake in its arguments ends it
    with one line instead of a traceback.
    """
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
