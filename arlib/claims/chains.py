"""What can be proved of a study's networks beside what was measured on them, layer by layer."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from arlib import bounds
from arlib.claims.declared import BLOCKS, Statistic
from arlib.claims.values import clean, values
from arlib.errors import InputError, NotMeasured
from arlib.sources import source

# Margins are stored as float16: one that was rounded up must not make a certified radius too large.
HALF = 1 - 2.0**-10


@dataclass(frozen=True)
class Proved:
    """One network's chain of norms, and what attacks and Jacobians found on test images.

    blocks: a row per residual block: layer, proved (no image has a larger slope from the image to
    the block's output), measured (largest singular value of the Jacobian, mean over images), both
    per unit of Euclidean distance.
    lower, upper: (n,) ℓ∞ distances of the images that are right, in 255·ε: certified by the chain,
    and found by attack.
    """

    run: str
    seed: int
    blocks: pd.DataFrame
    lower: np.ndarray
    upper: np.ndarray

    @property
    def factor(self) -> float:
        """Median over images of what the attack found, in units of what is certified."""
        return float(np.median(self.upper / self.lower))


def chains(study, arrays: Mapping) -> dict[float, Proved]:
    """{strength: the network of the smallest seed whose weights are there}, in order of strength.

    arrays: {(strength, seed): arrays of the run}. Raises `NotMeasured` where no run has weights,
    instance margins of test images and Jacobians.
    """
    records, networks = study.records(), {}
    runs = records[records["variant"] == ""].drop_duplicates("run") if len(records) else records
    for row in runs.sort_values(["strength", "seed"]).itertuples():
        if row.strength in networks or "instance_margin|test" not in arrays[row.strength, row.seed]:
            continue
        try:
            model = study.model(row.run)
        except InputError:  # a study publishes the weights of some runs only
            continue
        rows = records[records["run"] == row.run]
        shape = source(study.record(row.run).recipe["dataset"]).shape
        proved = _of(row.run, row.seed, model, shape, rows, arrays[row.strength, row.seed])
        if proved is not None:
            networks[row.strength] = proved
    if not networks:
        raise NotMeasured("no network has published weights, instance margins and Jacobians.")
    return networks


def _of(run: str, seed: int, model, shape: tuple, rows: pd.DataFrame, arrays) -> Proved | None:
    steep = values(clean(rows), Statistic("", "jacobian_max", layers=BLOCKS))
    if steep.empty or "normaliser" not in arrays:
        return None
    links = bounds.chain(model, shape)
    sums = links.table[links.table["kind"] == "sum"]["slope"].to_numpy()
    # recorded in units of the block's normaliser, which is stored in the order of the blocks
    layers = sorted(steep.columns, key=lambda name: int(name.rpartition(".")[2]))
    measured = steep[layers].to_numpy()[0] * arrays["normaliser"]
    if len(sums) != len(measured):
        return None  # a network without one sum per block
    distances = np.asarray(arrays["instance_margin|test"], dtype=float)
    m = torch.as_tensor(arrays["margin|test"][: len(distances)].astype(float)) * HALF
    lower = bounds.certified_by_margin(m, links, pixels=math.prod(shape), norm="linf").numpy()
    right = (distances > 0) & (lower > 0)
    blocks = pd.DataFrame({"layer": layers, "proved": sums, "measured": measured})
    return Proved(run, int(seed), blocks, 255 * lower[right], 255 * distances[right])
