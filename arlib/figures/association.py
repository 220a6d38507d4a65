"""What goes with what among networks of one AR strength."""

import pandas as pd

from arlib import claims
from arlib.figures.style import colour, legend, log_axis, marker, panels, picture

_AXES = {
    "features": "feature change",
    "operators": "folded std/mean",
    "margin": "median |m|",
    "error": "test error (%)",
}


@picture
def association(records: pd.DataFrame, config=None):
    """A point per network: margin and test error, each against smoothness and against the spectra
    of its operators. Medians over blocks and layers.

    Raises `NotMeasured` where no strength has enough networks for an association.
    """
    table = claims.spread_of(records, config)
    correlations = claims.association(records, config)
    figure, axes = panels(4, columns=2, height=2.6)
    pairs = [(x, y) for y in ("margin", "error") for x in ("features", "operators")]
    for ax, (x, y) in zip(axes, pairs, strict=True):
        for strength, part in table.groupby("strength"):
            ax.plot(part[x], (100 if y == "error" else 1) * part[y], marker(strength),
                    color=colour(strength), markersize=5)  # fmt: skip
        ax.set(xlabel=_AXES[x], ylabel=_AXES[y])
        log_axis(ax, "x")
        if y == "margin":
            log_axis(ax)
    strengths = sorted(table["strength"].unique())
    legend(figure, strengths)
    known = correlations.set_index(["strength", "first", "second"])
    told = []
    for strength in sorted(correlations["strength"].unique()):
        rhos = ", ".join(
            f"{_AXES[x]} with {_AXES[y].removesuffix(' (%)')} "
            f"{known.loc[(strength, x, y), 'rho']:+.2f}"
            for x, y in pairs
        )
        told.append(f"at AR strength {strength:g}: {rhos}")
    finding = f"Rank correlations {'; '.join(told)}.".replace("-", "−")
    return figure, "Four panels of points, one for each network.", finding
