"""The first page: the abstract in four panels."""

import pandas as pd

from arlib.claims import CLAIMS, Config
from arlib.figures.shared import row_of_panels
from arlib.figures.style import (
    picture,
)

_ERROR, _CE = "error (share of images)", "cross-entropy (nats)"


@picture
def four_effects(records: pd.DataFrame, config: Config | dict | None = None):
    """The abstract in four panels: confidence, feature change, margins, natural error,
    against AR strength.
    """
    names = {"C3": "max-softmax", "C5": "feature change", "C4": "margin |m| (logits)", "C1": _ERROR}
    titles = {
        "C3": "Less confident?",
        "C5": "Smoother?",
        "C4": "Nearer the boundary?",
        "C1": "Less accurate?",
    }
    shown = [
        (titles[c], label, CLAIMS[c].primary.at(Config.of(config))) for c, label in names.items()
    ]
    return row_of_panels(records, shown)
