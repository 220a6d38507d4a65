"""Record tables, histories and arrays made up with known answers: what the rest of the suite reads.

A world says how far each effect goes at the effect strength: +1 as the paper says, 0 nothing, −1
reversed. Every number = seed's own level + world × effect × strength / effect strength + noise.
"""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from arlib.studies import Entry
from arlib.training import Recipe

STRENGTHS, SEEDS = (0.0, 4.0, 8.0), (0, 1, 2)
BLOCKS = tuple(f"blocks.{i}" for i in range(9))
CONVOLUTIONS = tuple(f"blocks.{i}.conv{j}" for i in range(9) for j in (1, 2))
OTHERS = ("stem", "classifier")
RADII = (1, 2, 4, 8, 16)

# (statistic, split, setting): (level, effect at the effect strength, multiplicative)
NET = {
    ("error", "train", ""): (0.05, 0.20, False),
    ("error", "val", ""): (0.13, 0.15, False),
    ("error", "test", ""): (0.14, 0.14, False),
    ("ce", "train", ""): (0.20, 0.70, False),
    ("ce", "test", ""): (0.55, 0.40, False),
    ("max_softmax", "train", ""): (0.95, -0.30, False),
    ("max_softmax", "test", ""): (0.92, -0.30, False),
    ("entropy", "test", ""): (0.2, 0.5, False),
    ("ece", "test", ""): (0.08, -0.03, False),
    ("overconfidence", "test", ""): (0.08, -0.10, False),
    ("overconfidence_scaled", "test", ""): (0.01, -0.005, False),
    ("ce_scaled", "train", ""): (0.22, 0.60, False),
    ("ce_scaled", "test", ""): (0.45, 0.40, False),
    ("median_abs_margin", "train", ""): (7.0, -1.2, True),
    ("median_abs_margin", "test", ""): (6.0, -1.0, True),
    ("median_abs_margin_scalefree", "test", ""): (1.5, -0.4, True),
    ("logit_scale", "test", ""): (4.0, -0.6, True),
    ("median_margin", "test", ""): (5.5, -3.0, False),
    ("share_largest_class", "train", ""): (0.11, 0.0, False),
    ("share_largest_class", "test", ""): (0.11, 0.02, False),
    ("temperature", "val", ""): (1.8, -0.6, False),
    ("robust_error", "train", "pgd-10@8"): (0.95, -0.45, False),
    ("robust_error", "test", "pgd-10@8"): (0.96, -0.40, False),
    ("robust_error", "test", "apgd-ce+t@8"): (0.98, -0.36, False),
    ("instance_margin_median", "test", ""): (0.002, 0.02, False),
    ("instance_margin_accepted", "test", ""): (1.0, 0.0, False),
} | {
    ("flip_rate", "test", f"{kind}@{radius}"): (
        level * radius / 16,
        -0.7 * level * radius / 16,
        False,
    )
    for kind, level in (("pgd", 0.9), ("uniform", 0.2), ("sign", 0.3))
    for radius in RADII
}
LAYER = {
    ("feature_change", "test", "random@4", BLOCKS): (0.3, -0.8),
    ("feature_change", "test", "adversarial@4", BLOCKS): (1.2, -0.9),
    ("feature_gain", "test", "random@4", BLOCKS): (1.1, -0.1),
    ("feature_gain", "test", "adversarial@4", BLOCKS): (1.2, -0.1),
    ("jacobian_max", "test", "", BLOCKS): (5.0, -0.9),
    ("jacobian_uniformity", "test", "", BLOCKS): (3.0, -0.2),
} | {
    (statistic, "", operator, CONVOLUTIONS + OTHERS): level
    for operator in ("circular", "circular+bn", "reshaped")
    for statistic, level in {
        "sv_std": (0.6, -0.4),
        "sv_std_over_mean": (0.8, -0.15),
        "sv_mean": (0.75, -0.25),
        "sv_max": (3.0, -0.4),
        "sv_min": (0.01, 0.1),
        "effective_rank": (0.8, 0.05),
        "stable_rank": (0.1, 0.2),
        "condition": (20.0, -0.2),
        "dead_channels": (0.02, 0.0),
    }.items()
}

# What protocol 2 measures besides, drawn from a generator of its own.
NET_2 = {("q", "train", "linf@4"): (0.9, -0.4, False)}
LAYER_2 = {
    ("jacobian_uniformity_median", "test", "image", BLOCKS): (3.0, -0.2),
    ("jacobian_effective_rank", "test", "image", BLOCKS): (0.3, 0.2),
    ("sv_std", "", "circular+bn-natural", CONVOLUTIONS + OTHERS): (0.6, -0.4),
    ("sv_std_over_mean", "", "circular+bn-natural", CONVOLUTIONS + OTHERS): (0.8, -0.15),
    ("effective_rank", "", "circular+bn-natural", CONVOLUTIONS + OTHERS): (0.8, 0.05),
}


COLUMNS = ["checkpoint", "split", "statistic", "layer", "setting", "value", "strength", "seed"]


def records(
    *,
    strengths=STRENGTHS,
    seeds=SEEDS,
    effect=8.0,
    world=1.0,
    worlds=None,
    noise=0.03,
    rng=0,
    epochs=(),
    along=None,
    controls=(),
) -> pd.DataFrame:
    """A study's record table, last and best checkpoints.

    worlds: worlds of single statistics: {name or (name, split, setting): world}. noise: standard
    deviation of a run, as a share of the planted effect. epochs: checkpoints of the ε = 0 runs
    along training; there everything sits where an AT net of equal train cross-entropy would ("less
    fitting"), or in the world `along`. Train cross-entropy and train error always rise with ε.
    controls: epochs of shorter standard trainings, placed in the same way.
    """
    fit = {("ce", "train", ""): 1.0} | ({("error", "train", ""): 1.0} if controls else {})
    draw, worlds = np.random.default_rng(rng), fit | (worlds or {})
    own, second = {seed: draw.normal() for seed in seeds}, np.random.default_rng([rng, 2])

    def told(*about):
        return [*_run(*about, draw), *_run(*about, second, NET_2, LAYER_2)]

    runs = [
        (checkpoint, strength, seed, strength / effect, world)
        for strength in strengths
        for seed in seeds
        for checkpoint in ("last", "best")
    ]
    for epoch in epochs:  # from far from fitted down to nearly the finished net
        far = 2.0 * (1 - epoch / (max(epochs) + 1)) ** 2 + 0.01
        runs += [
            (f"epoch-{epoch}", 0.0, seed, far, world if along is None else along) for seed in seeds
        ]
    rows = []
    for checkpoint, strength, seed, dose, here in runs:
        for key, layer, value in told(dose, own[seed], here, worlds, noise):
            rows.append((checkpoint, key[1], key[0], layer, key[2], value, strength, seed, ""))
    for epoch in controls:
        far = 2.0 * (1 - epoch / (max(controls) + 1)) ** 2 + 0.01
        for seed in seeds:
            # elsewhere as `along` says
            here = {name: move for name, move in worlds.items() if name in fit}
            for key, layer, value in told(
                far, own[seed], world if along is None else along, here, noise
            ):
                rows.append(
                    ("last", key[1], key[0], layer, key[2], value, 0.0, seed, f"control-{epoch}")
                )
    frame = pd.DataFrame(rows, columns=[*COLUMNS, "variant"]).assign(n=1000)
    return frame.assign(
        run=[f"r{a:g}-s{b}" for a, b in zip(frame["strength"], frame["seed"], strict=True)]
    )


def _run(dose, own, world, worlds, noise, draw, net=NET, layer_statistics=LAYER):
    """All numbers of one network: (key, layer, value)."""
    for key, (level, effect, log) in net.items():
        move = worlds.get(key, worlds.get(key[0], world)) * effect * dose
        shift = move + noise * (abs(effect) or 0.01) * (own + draw.normal())
        yield key, "", level * np.exp(shift) if log else level + shift
    for (*key, layers), (level, effect) in layer_statistics.items():
        move = worlds.get(tuple(key), worlds.get(key[0], world)) * effect * dose
        size = noise * (abs(effect) or 0.01)
        shifts = move + 0.1 * size * (own + draw.normal()) + size * draw.normal(size=len(layers))
        for index, (layer, shift) in enumerate(zip(layers, shifts, strict=True)):
            yield key, layer, level * (1 + index / 20) * np.exp(shift)


def histories(*, strengths=STRENGTHS, seeds=SEEDS, epochs=6, rng=0) -> pd.DataFrame:
    """Training curves: a row per epoch, with the columns of `Study.histories()`."""
    draw = np.random.default_rng(rng)
    rows = []
    for strength in strengths:
        for seed in seeds:
            for epoch in range(1, epochs + 1):
                fit = np.exp(-epoch / 3) + 0.02 * strength + 0.01 * draw.normal()
                rows.append(
                    {
                        "run": f"r{strength:g}-s{seed}",
                        "strength": strength,
                        "seed": seed,
                        "variant": "",
                        "epoch": epoch,
                        "train_loss": 2 * fit,
                        "train_error": 0.8 * fit,
                        "val_loss": 2.2 * fit,
                        "val_error": 0.9 * fit,
                        "train_robust_error": min(1.0, 0.8 * fit + 0.1),
                        "val_robust_error": min(1.0, 0.9 * fit + 0.2),
                        "lr": 0.1,
                        "seconds": 10.0,
                    }
                )
    return pd.DataFrame(rows)


def arrays(strength: float, seed: int = 0, *, images=200) -> dict[str, np.ndarray]:
    """A run's arrays: margins, correctness, confidence, instance margins and spectra quantiles."""
    draw = np.random.default_rng([int(strength), seed])
    correct = draw.random(images) < 0.9 - 0.02 * strength
    margin = (6 - 0.5 * strength) * draw.gamma(2, 0.5, images)
    signed = np.where(correct, margin, -0.5 * margin)
    instance = np.where(correct, draw.exponential(0.002 + 0.003 * strength, images), 0)
    out = {
        "margin|test": signed.astype(np.float16),
        "margin|train": (signed + 0.5).astype(np.float16),
        "correct|test": correct,
        "max_softmax|test": (1 / (1 + np.exp(-margin))).astype(np.float16),
        "instance_margin|test": np.minimum(instance, 1).astype(np.float32),
        "instance_margin|train": np.minimum(1.1 * instance, 1).astype(np.float32),
    }
    for operator in ("circular", "circular+bn", "reshaped"):
        for index, layer in enumerate(CONVOLUTIONS + OTHERS):
            spread = (0.6 - 0.03 * strength) * (1 + index / 20)
            out[f"quantiles|{operator}|{layer}"] = (
                (1 + spread * np.linspace(-1, 1, 201)).clip(0).astype(np.float32)
            )
    return out


CLAIMS = {"effect": 8.0, "feature": 4.0, "flip_pgd": 4.0, "flip_sign": 8.0}


def study(records, *, protocol=1, toy=False, name="s", dataset="digits", claims=CLAIMS):
    """What claims, tables and figures read of a study: three seeds, and these records."""
    entries = [Entry(Recipe(dataset=dataset, seed=seed)) for seed in range(3)]
    recipes = [entry.recipe for entry in entries]
    return SimpleNamespace(
        name=name,
        toy=toy,
        protocol=protocol,
        claims=claims,
        entries=entries,
        recipes=recipes,
        records=lambda: records,
        source=None,
        has_fronts=False,
    )
