"""Is the standard budget as strong as the full one? python -m benchmarks.budgets [--nets FOLDER]

`attacks.evaluate(attacks="standard")` and `attacks="full"` on the same images, network by network:
which images one breaks and the other leaves standing, and seconds. The networks are of the
published records, with batch norm, standard and robust ones; with --nets (or ARLIB_NETS) also those
that others trained, without batch norm. Each is attacked at a radius that some images withstand,
since where all fall or none the budgets cannot differ.

Writes records/benchmarks/budgets-cpu.json; with --images below 1,000 or --only: nothing.
"""

import argparse
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from arlib import attacks, data, studies
from benchmarks import report
from tools import othernets

IMAGES = 1000
BUDGETS = ("standard", "full")
# study, strength, radius (255·ε)
OURS = (
    ("cifar10-resnet20-small", 0.0, 1.0),
    ("cifar10-resnet20-small", 8.0, 8.0),
    ("cifar10-resnet20", 0.0, 1.0),
    ("cifar10-resnet20", 8.0, 8.0),
)
OTHERS = (("sdp_cnn_a_adv", 2.0), ("sdp_cnn_a_adv4", 8.0), ("ada_resnet4b_pgd", 4.0))


def networks(nets: Path | None) -> Iterator[tuple[str, nn.Module, float]]:
    """Names, networks, and the radius each is attacked at (255·ε)."""
    for name, strength, radius in OURS:
        study = studies.load(name)
        run = next(
            entry.run for entry in study.entries
            if (entry.recipe.strength, entry.recipe.seed, entry.variant) == (strength, 0, "")
        )  # fmt: skip
        yield f"{name}, strength {strength:g}", study.model(run), radius
    for name, radius in OTHERS if nets else ():
        yield name, othernets.load(name, nets), radius


def compare(name: str, model: nn.Module, radius: float, images: int) -> dict:
    """One row: what each budget leaves standing, and how long it takes."""
    x, y = data.load("cifar10", device="cpu").test[:images]
    robust, seconds = {}, {}
    for budget in BUDGETS:
        begun = time.process_time()
        with warnings.catch_warnings(action="ignore", category=attacks.TrustWarning):
            result = attacks.evaluate(model, x, y, eps=radius / 255, attacks=budget)
        robust[budget], seconds[budget] = result.robust[0], time.process_time() - begun
    return {
        "network": name,
        "batch norm": any(isinstance(part, nn.BatchNorm2d) for part in model.modules()),
        "255·ε": radius,
        "images": images,
        "right": int(result.natural.sum()),
        "left by full": int(robust["full"].sum()),
        "left by standard": int(robust["standard"].sum()),
        "only full breaks": int((robust["standard"] & ~robust["full"]).sum()),
        "only standard breaks": int((robust["full"] & ~robust["standard"]).sum()),
        "full cpu s": seconds["full"],
        "standard cpu s": seconds["standard"],
        "factor": seconds["full"] / seconds["standard"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=IMAGES, choices=range(1, 10_001), metavar="N")
    parser.add_argument("--nets", type=Path, help="folder of networks that others trained")
    parser.add_argument("--only", default="", help="networks whose names hold this")
    chosen = parser.parse_args()
    given = chosen.nets or os.environ.get("ARLIB_NETS")
    nets = othernets.folder(given) if given else None
    rows = []
    for name, model, radius in networks(nets):
        if chosen.only in name:
            rows.append(compare(name, model, radius, chosen.images))
            print(pd.DataFrame(rows[-1:]).to_string(index=False, header=len(rows) == 1), flush=True)
    if not rows:
        parser.error(f"no network has {chosen.only!r} in its name")
    results = pd.DataFrame(rows)
    wrong = np.abs(results["left by full"] - results["left by standard"]) / results["images"]
    print(f"largest difference: {100 * wrong.max():.2g} points; slowest factor "
          f"{results['factor'].min():.2g}")  # fmt: skip
    if chosen.images >= IMAGES and not chosen.only:
        print(report.write("budgets", "cpu", {"budgets": results}, images=chosen.images))


if __name__ == "__main__":
    torch.set_num_threads(1)
    report.command(main)
