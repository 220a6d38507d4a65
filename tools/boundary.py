"""Measure what a reader walks along on the page "Walk the boundary".

python -m tools.boundary [STUDY]     writes records/boundary/walk.json

STUDY: a study that published weights of two AR strengths or more, by default the one of which the
walk is now. Takes some minutes; needs the study's data set.
"""

import json
import sys
import tempfile

from arlib import boundary, files, studies
from arlib.boundary.walk import path
from arlib.errors import InputError

USUAL = "cifar10-resnet20"


def text(content: dict) -> str:
    """JSON that diffs well: one line per network and walk."""
    lines = []
    for image in content["images"]:
        walks = ",\n   ".join(json.dumps(walk, separators=(",", ":")) for walk in image["walks"])
        rest = json.dumps({k: v for k, v in image.items() if k != "walks"})
        lines.append(f'{rest[:-1]}, "walks": [\n   {walks}]}}')
    nets = ",\n  ".join(json.dumps(network) for network in content["networks"])
    fields = [
        f' "{key}": {json.dumps(value)}'
        for key, value in content.items()
        if key not in ("images", "networks")
    ]
    fields.append(f' "networks": [\n  {nets}]')
    fields.append(' "images": [\n  ' + ",\n  ".join(lines) + "]")
    return "{\n" + ",\n".join(fields) + "\n}\n"


def main(arguments: list[str]) -> int:
    if len(arguments) > 1 or (arguments and arguments[0].startswith("-")):
        print(__doc__)
        return 2
    where = path()
    name = arguments[0] if arguments else boundary.read()["study"] if where.is_file() else USUAL
    try:
        with tempfile.TemporaryDirectory() as nothing:  # only what is published counts
            content = boundary.measure(studies.load(name, nothing))
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    files.write_text(where, text(content))
    print(f"{where}: {len(content['images'])} images, {len(content['networks'])} networks")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
