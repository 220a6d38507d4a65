"""How often the intervals of `spectra.estimate` hold the truth: python -m
benchmarks.spectra_coverage

1,000 fixed probe sets (seeds 0 to 999) for each family of operators; the truth by a dense matrix.
The width is compared with that of the t interval from exact quadrature, zᵀ|A|z by the dense SVD,
with the same probes. Some 10 minutes on one core; --sets 100 takes one and writes nothing. The
1,000 go to `records/benchmarks/spectra_coverage-cpu.json`.
"""

import argparse
import time

import pandas as pd
import torch

from arlib import spectra
from arlib.spectra.conv import dense_blocks
from arlib.spectra.geometry import geometry
from arlib.spectra.operator import LinearMap
from arlib.spectra.spread import PILOTS, Rules, Spread
from arlib.spectra.stochastic import estimate_map
from benchmarks import report

SETS = 1000
PROBES = 16
STATISTICS = ("mean", "std", "std_over_mean", "effective_rank")


def family(name: str) -> torch.Tensor:
    """The dense matrix of a zero-padded convolution of each family; a fixed random kernel."""
    generator = torch.Generator().manual_seed(7)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    # a delta kernel times an orthogonal matrix, disturbed: std/mean about .13
    if name == "near-orthogonal":
        weight = 0.025 * normal(8, 8, 3, 3)
        weight[:, :, 1, 1] += torch.linalg.qr(normal(8, 8)).Q
        options = {}
    elif name == "rank-deficient":  # a third of the channels carry nothing
        weight, options = torch.einsum("or,rckl->ockl", normal(9, 6), normal(6, 9, 3, 3)), {}
    elif name == "depthwise":
        weight, options = normal(12, 1, 3, 3), {"groups": 12}
    elif name == "strided":
        weight, options = normal(16, 8, 3, 3), {"stride": 2}
    else:
        weight, options = normal(*{"square": (8, 8), "tall": (16, 6)}[name], 3, 3), {}
    shape = geometry(weight, 6, padding="zeros", **options)
    return torch.block_diag(*dense_blocks(weight, shape))


FAMILIES = ("square", "tall", "strided", "depthwise", "near-orthogonal", "rank-deficient")


def coverage(name: str, sets: int, probes: int = PROBES) -> dict:
    """Share of probe sets whose interval holds each statistic,
    and the width against exact quadrature.
    """
    matrix = family(name)
    operator = LinearMap(*matrix.shape, lambda x: x @ matrix.T, lambda y: y @ matrix)
    small = matrix if matrix.shape[1] <= matrix.shape[0] else matrix.T
    _, sigma, vh = torch.linalg.svd(small, full_matrices=False)
    truth, squares = spectra.statistics(sigma), float(sigma.square().sum())
    held, ratios, half, steps = dict.fromkeys(STATISTICS, 0), [], [], []
    for seed in range(sets):
        estimated = estimate_map(operator, squares, probes=probes, seed=seed)
        for key in STATISTICS:
            _, low, high = estimated.values[key]
            held[key] += low <= truth[key] <= high
        width = estimated.values["std"][2] - estimated.values["std"][1]
        ratios.append(width / exact_width(sigma, vh, squares, probes, seed))
        half.append(width / 2 / truth["std"])
        steps.append(estimated.steps)

    def mean(values):
        return sum(values) / len(values)

    return {
        "family": name,
        "values": len(sigma),
        "std/mean": truth["std_over_mean"],
        **{f"holds {key}": held[key] / sets for key in STATISTICS},
        "half-width of std": mean(half),
        "width / exact quadrature": mean(ratios),
        "steps": mean(steps),
    }


def exact_width(
    sigma: torch.Tensor, vh: torch.Tensor, squares: float, probes: int, seed: int
) -> float:
    """Width of the interval of std from the same probes with zᵀ|A|z exact: every σ is a node."""
    n = len(sigma)
    signs = torch.randint(0, 2, (PILOTS + probes, n), generator=torch.Generator().manual_seed(seed))
    weights = ((2 * signs - 1).double() @ vh.T).square() / n  # (probes, n)
    rule = (sigma.expand_as(weights), weights)
    spread = Spread.of(Rules(rule, rule, n), squares / n, 0.95, probes)
    _, low, high = spread.moments()["std"]
    return high - low


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sets",
        type=int,
        default=SETS,
        help="probe sets a family; fewer than the default: only shown",
    )
    sets = parser.parse_args().sets
    rows, start = [], time.perf_counter()
    for name in FAMILIES:
        rows.append(coverage(name, sets))
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    frame = pd.DataFrame(rows)
    print(frame.to_string(index=False, float_format="{:.4g}".format))
    if sets >= SETS:
        print(
            report.write(
                "spectra_coverage",
                "cpu",
                {"coverage": frame},
                sets=sets,
                probes=PROBES,
                confidence=0.95,
                seconds=time.perf_counter() - start,
            )
        )


if __name__ == "__main__":
    report.command(main)
