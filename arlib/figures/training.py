"""Training: curves over epochs, and errors under attack."""

import pandas as pd

from arlib.claims import Statistic
from arlib.figures.shared import row_of_panels
from arlib.figures.style import (
    by_strength,
    legend,
    panels,
    picture,
    strengths_of,
    words,
)

_ERROR, _CE = "error (share of images)", "cross-entropy (nats)"


@picture
def training_curves(histories: pd.DataFrame):
    """Error by epoch: natural on train and validation images,
    and under attack on validation images.
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
    legend(figure, strengths)
    last = (
        histories[histories["epoch"] == histories["epoch"].max()]
        .groupby("strength")["val_error"]
        .mean()
    )
    summary = (
        f"Training curves; validation error after the last epoch by AR strength: {words(last)}."
    )
    return figure, summary + " The attack is at the trained strength; at 0 it is none."


@picture
def robust_errors(records: pd.DataFrame, *, setting: str = "pgd-10@8"):
    """Error under attack on train and test images and the robust gap,
    at one radius for every network.
    """
    train, test = (
        Statistic("", "robust_error", split=split, setting=setting) for split in ("train", "test")
    )
    gap = Statistic("", "robust_error", minus="train", setting=setting)
    label = f"error under {setting}"
    return row_of_panels(
        records,
        [
            ("Train", label, train),
            ("Test", label, test),
            ("Test − train", "difference in error", gap),
        ],
    )
