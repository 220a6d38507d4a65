"""What was measured of networks that other people trained:
`records/others/networks.json`, and its table of signs.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from arlib import files, places
from arlib.errors import NotMeasured, RecordError

FORMAT = 1
FOLDER, FILE = "others", "networks.json"


def write(path: Path, families: Sequence[dict], **versions: str) -> None:
    """Write what `python -m tools.others` measured, with a checksum of the content."""
    content = {"format": FORMAT, "versions": versions, "families": list(families)}
    text = json.dumps(
        content | {"checksum": files.checksum(content)}, separators=(",", ":"), allow_nan=False
    )
    # a line per network, for who compares two
    files.write_text(path, text.replace('{"name":', '\n{"name":') + "\n")


def read(path: Path | None = None) -> dict:
    """The file's content, by default the checkout's or the shipped one.

    Raises `NotMeasured` where there is none, `RecordError` for one that is damaged or of another
    version.
    """
    if path is None:
        shipped = (folder / FOLDER / FILE for folder in places.places().records)
        path = next((file for file in shipped if file.is_file()), None)
        if path is None:
            raise NotMeasured(
                "no network that others trained is recorded; `python -m tools.others` measures "
                "them."
            )
    content = files.read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RecordError(f"{path} is no file of format {FORMAT}. Restore it from the repository.")
    if content.pop("checksum", None) != files.checksum(content):
        raise RecordError(
            f"{path} is damaged: its content does not match its checksum. Restore it."
        )
    return content
