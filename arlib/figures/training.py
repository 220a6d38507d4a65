"""Training: curves over epochs, and errors under attack."""

import pandas as pd

from arlib.claims import SHARE, Statistic, moves
from arlib.claims.values import at_common_radius, clean
from arlib.figures.shared import row_of_panels, values_of
from arlib.figures.style import (
    against_strength,
    by_strength,
    legend,
    panels,
    picture,
    strengths_of,
    words,
)

_ERROR, _CE = "error (share of images)", "cross-entropy (nats)"


@picture
def training_curves(histories: pd.DataFrame, *, epochs: float | None = None):
    """Error by epoch: natural on train and validation images,
    and under attack on validation images.

    epochs: axes end here, and errors go from 0 to 1, for figures that are to have one frame.
    """
    if "variant" in histories:
        histories = histories[histories["variant"] == ""]
    strengths = strengths_of(histories)
    columns = {
        "train_error": "Train",
        "val_error": "Validation",
        "val_robust_error": "Validation, attacked",
    }
    figure, axes = panels(3, sharey=True, height=3.0)
    for ax, (column, title) in zip(axes, columns.items(), strict=True):
        for strength in strengths:
            wide = histories[histories["strength"] == strength].pivot(
                index="epoch", columns="seed", values=column
            )
            by_strength(ax, wide.index, {strength: wide.to_numpy().T}, every=max(1, len(wide) // 6))
        ax.set(title=title, xlabel="epoch", ylabel=_ERROR if ax is axes[0] else "")
        if epochs is not None:
            ax.set(xlim=(0.5, epochs + 0.5), ylim=(0, 1))
    legend(figure, strengths)
    last = (
        histories[histories["epoch"] == histories["epoch"].max()]
        .groupby("strength")["val_error"]
        .mean()
    )
    summary = (
        f"Training curves; validation error after the last epoch by AR strength: {words(last)}."
    )
    alt = summary + " The attack is at the trained strength; at 0 it is none."
    return figure, alt, _ended(histories)


def _ended(histories: pd.DataFrame) -> str:
    """How finished trainings differ, and what the last epochs did under their own attack."""
    runs = histories.sort_values("epoch").groupby(["seed", "strength"])
    last = runs.last()
    natural = {"train": "training error after the last epoch", "val": "validation error"}
    sentence = moves({name: (last[f"{kind}_error"], SHARE) for kind, name in natural.items()})
    attacked = last["val_robust_error"]
    above = 100 * (attacked - runs["val_robust_error"].min())
    largest = max(last.index.get_level_values("strength"))
    if not largest:
        return sentence
    attacked, above = (part.xs(largest, level="strength") for part in (attacked, above))
    return (
        f"{sentence} Under their own attack the networks of strength {largest:g} end at "
        f"{100 * attacked.mean():.1f} % validation error, {above.mean():.1f} points above their "
        f"best epoch ({above.min():.1f} to {above.max():.1f} over seeds)."
    )


@picture
def accuracies(records: pd.DataFrame):
    """Accuracy on natural test images and under each recorded attack at the common radius, against
    AR strength: a panel per attack.
    """
    table = clean(records)
    rows = table[(table["statistic"] == "robust_error") & (table["split"] == "test")]
    settings = rows.loc[at_common_radius(rows["setting"]), "setting"].unique()
    settings = [setting for setting in settings if setting.partition("@")[0] in _SHOWN]
    statistics = [Statistic("natural accuracy", "error")]
    statistics += [
        Statistic(f"accuracy under {setting}", "robust_error", setting=setting)
        for setting in sorted(settings, key=lambda name: _SHOWN.index(name.partition("@")[0]))
    ]
    figure, axes = panels(len(statistics), sharey=True)
    told = {}
    for ax, statistic in zip(axes, statistics, strict=True):
        numbers = 1 - values_of(table, statistic)
        against_strength(ax, numbers, label="share of test images" if ax is axes[0] else "")
        ax.set(title=statistic.setting or "natural", ylim=(0, 1))
        told[statistic.label] = numbers, SHARE
    return figure, f"{len(statistics)} panels of accuracy against AR strength.", moves(told)


_SHOWN = ("pgd-10", "apgd-ce+t")  # attacks that every network meets


@picture
def robust_errors(records: pd.DataFrame, *, setting: str = "pgd-10@8"):
    """Error under attack on train and test images and the robust gap,
    at one radius for every network.
    """
    of = {"name": "robust_error", "setting": setting, "percent": True}
    train, test = (
        Statistic(f"{split} error under {setting}", split=split, **of)
        for split in ("train", "test")
    )
    gap = Statistic("the robust gap", minus="train", **of)
    label = f"error under {setting}"
    return row_of_panels(
        records,
        [
            ("Train", label, train),
            ("Test", label, test),
            ("Test − train", "difference in error", gap),
        ],
    )
