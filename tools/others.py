"""Measure networks that other people trained, as `arlib.compare` measures any,
and keep the numbers.

python -m tools.others --nets FOLDER              all families, into records/others/networks.json
python -m tools.others --nets FOLDER --family mlp_b …      only these; the others stay as they are
python -m tools.others --nets FOLDER --work FOLDER         go on from finished parts that are kept
there

What is kept are numbers, with source, licence and the SHA-256 of each weight file; never the
weights. The folder is described in `tools.othernets`; CIFAR-10 is read from where `arlib.data`
finds it. Some twenty minutes on one core.
"""

import argparse
import logging
import math
import sys
from dataclasses import asdict
from pathlib import Path

import torch

import arlib
from arlib import compare, files
from arlib.errors import InputError
from arlib.report import others
from tools import othernets
from tools.othernets import FAMILIES, Family

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[1]
DIGITS = 6
# Radii in pixel units; on MNIST, whose pixels are nearly black or white, 4/255 moves nothing.
SETTINGS = {
    "mnist": {"eps": [0.1], "radius": 0.05, "robust_images": 200, "instance_images": 200},
    "cifar10": {"eps": [8 / 255], "radius": 4 / 255, "robust_images": 100, "instance_images": 100},
}
TEST_IMAGES = 10_000  # and as many training images, for the gap


def measured(name: str, nets: Path, work: Path | None = None) -> dict:
    """One family: all its networks measured alike, as plain types.

    work: a folder for finished parts, from which the same call goes on.
    """
    family = FAMILIES[name]
    models = {one: othernets.load(one, nets) for one in family.names}
    x, y = othernets.images(family.dataset, nets)
    settings = SETTINGS[family.dataset]
    resume = None if work is None else work / f"{name}.json"
    comparison = compare(
        models, x[:TEST_IMAGES], y[:TEST_IMAGES], **settings, resume=resume, progress=False
    )
    networks = []
    for one, model in models.items():
        rows = comparison.rows[
            (comparison.rows["model"] == one) & ~comparison.rows["layer"].str.startswith("image ")
        ]
        kept = [
            [
                row.quantity,
                row.setting,
                row.layer,
                int(row.n),
                *map(_rounded, (row.value, row.low, row.high)),
            ]
            for row in rows.itertuples()
        ]
        if family.dataset == "cifar10":  # whose training images are there
            kept.append(gap(model, family, nets, wrong_in_test=_value(rows, "error")))
        networks.append({"name": one, "sha256": files.sha256(nets / f"{one}.npz"), "rows": kept})
    about = {
        key: getattr(family, key)
        for key in ("title", "dataset", "base", "base_training", "training")
    }
    return about | {
        "family": name,
        "robust": list(family.robust),
        "source": asdict(family.source),
        "settings": comparison.settings,
        "doubts": list(comparison.doubts),
        "left_out": list(comparison.left_out),
        "networks": networks,
    }


def gap(model: torch.nn.Module, family: Family, nets: Path, wrong_in_test: float) -> list:
    """The row of test error − training error, with its 95 % interval over images."""
    x, y = othernets.images(family.dataset, nets, "train")
    x, y = x[:TEST_IMAGES], y[:TEST_IMAGES]
    wrong = error(model, x, y)
    n = len(y)
    half = 1.96 * math.sqrt((wrong * (1 - wrong) + wrong_in_test * (1 - wrong_in_test)) / n)
    difference = wrong_in_test - wrong
    return ["gap", "", "", n, *map(_rounded, (difference, difference - half, difference + half))]


@torch.no_grad()
def error(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Share of the images (n, …) that the model gets wrong."""
    wrong = sum(
        int((model(part).argmax(1) != labels).sum())
        for part, labels in zip(x.split(500), y.split(500), strict=True)
    )
    return wrong / len(y)


def _value(rows, quantity: str) -> float:
    return float(rows.loc[rows["quantity"] == quantity, "value"].iloc[0])


def _rounded(value: float) -> float | None:
    return None if not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.others", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--nets", help="folder of the networks (otherwise ARLIB_NETS)")
    parser.add_argument(
        "--family", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="only these"
    )
    parser.add_argument("--work", type=Path, help="folder for finished parts")
    parser.add_argument("--out", type=Path, default=ROOT / "records" / others.FOLDER / others.FILE)
    given = parser.parse_args(arguments)
    try:
        nets = othernets.folder(given.nets)
        kept = (
            {one["family"]: one for one in others.read(given.out)["families"]}
            if given.out.is_file()
            else {}
        )
        for name in given.family:
            print(name, flush=True)
            kept[name] = measured(name, nets, given.work)
            ordered = [kept[one] for one in FAMILIES if one in kept]
            others.write(given.out, ordered, arlib=arlib.__version__, torch=torch.__version__)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
