"""The control of protocol 2: how much of an effect is left beside a standard net
that fits as little.

Adversarially trained (AT) nets fit less at equal epochs, and a less-trained standard net also has
smaller margins, gap and weights. So each seed has controls: standard trainings to the end of a
shorter schedule (checkpoints in the middle of a long one, where the learning rate is high, are no
fair control). Between them the control at the AT net's own fit is interpolated, once at equal
natural train cross-entropy and once at equal natural train error.

share left = (AT − control at equal fit) / (AT − standard net), means over seeds, Fieller's
interval.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from arlib.claims.declared import Claim, Config, Statistic
from arlib.claims.evidence import SEEDS_NEEDED
from arlib.claims.matched import BEYOND, EXPLAINED, interpolated
from arlib.claims.second import PARTS, claims_of
from arlib.claims.statistics import Ratio, fieller
from arlib.claims.values import clean, collapsed, values

PARTLY, DEPENDS, CANNOT_TELL = "partly", "depends on what is held equal", "cannot be told"
CONTROL = "control-"
AXES = {
    "ce": Statistic("train cross-entropy", "ce", split="train"),
    "error": Statistic("train error", "error", split="train"),
}
DEFINITION = (
    "Share left = (AT net − standard net of the same seed trained to the end of a shorter "
    "schedule, at equal fit) / (AT net − fully trained standard net), with Fieller’s 95 % "
    f"interval over seeds; on the log scale where the effect is. “{EXPLAINED}”: its upper end is "
    f"below ¼. “{BEYOND}”: its lower end is above ½. “{PARTLY}”: neither. “{DEPENDS}”: equal "
    f"train cross-entropy and equal train error say different things. “{CANNOT_TELL}”: the "
    f"interval is unbounded, or fewer than {SEEDS_NEEDED} seeds have a control that fits as "
    "little."
)
_COLUMNS = [
    "claim",
    "title",
    "statistic",
    "strength",
    *(f"{axis}_{end}" for axis in AXES for end in ("left", "low", "high", "seeds", "reading")),
    "reading",
]


@dataclass(frozen=True)
class Left:
    """What is left of one effect on one axis."""

    share: Ratio
    seeds: int

    @property
    def reading(self) -> str:
        if self.seeds < SEEDS_NEEDED or not self.share.bounded:
            return CANNOT_TELL
        if self.share.high < 0.25:
            return EXPLAINED
        return BEYOND if self.share.low > 0.5 else PARTLY


def shares_left(
    records: pd.DataFrame,
    config: Config | dict | None = None,
    *,
    strengths: Collection[float] | None = None,
    only: Collection[str] | None = None,
) -> pd.DataFrame:
    """One row per decided claim of protocol 2 and AR strength > 0;
    empty if the study has no controls.

    strengths, only: only these AR strengths and claims; by default all that are recorded.

    Columns: claim, title, statistic, strength; for each axis (ce, error) the share left with low,
    high, the seeds it is of, and its reading; and the reading of both. `attrs["definition"]` says
    what they mean.
    """
    config = Config.of(config)
    table = clean(records)
    table = table[~table["strength"].isin(collapsed(table, config)["strength"])]
    controls = controls_of(records)
    tables, rows = [table, *controls.values()] if controls else [], []
    fits = {axis: [values(part, fit) for part in tables] for axis, fit in AXES.items()}
    for claim in claims_of(2).values() if controls else ():
        wanted = only is None or claim.id in only
        if wanted and claim.primary and claim.id not in PARTS:
            rows += _rows(claim, config, tables, fits, strengths)
    out = pd.DataFrame(rows, columns=_COLUMNS)
    out.attrs["definition"] = DEFINITION
    return out


def controls_of(records: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """Epochs of a control → its rows, cleaned like those of the grid."""
    if "variant" not in records:
        return {}
    names = [name for name in records["variant"].dropna().unique() if name.startswith(CONTROL)]
    parts = {int(name.removeprefix(CONTROL)): records[records["variant"] == name] for name in names}
    return {epochs: clean(parts[epochs].assign(variant="")) for epochs in sorted(parts)}


def curves(records: pd.DataFrame, config: Config | dict | None = None) -> pd.DataFrame:
    """The nets behind `shares_left`, for plotting,
    as `matched.trajectories` has them for protocol 1.

    Columns: claim, statistic, kind, strength, seed, train_ce, value. kind: "standard" (controls
    from the shortest on, then the finished net) or "AT". value: the statistic itself; for layer
    statistics the factor to the finished standard net of the seed, median over layers.
    """
    config = Config.of(config)
    table = clean(records)
    table = table[~table["strength"].isin(collapsed(table, config)["strength"])]
    controls, parts = controls_of(records), []
    for claim in claims_of(2).values() if controls else ():
        if claim.primary and claim.id not in PARTS:
            parts.append(_points(claim, config, table, controls))
    columns = ["claim", "statistic", "kind", "strength", "seed", "train_ce", "value"]
    out = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    out = out[columns]
    out.attrs["standard"] = "of shorter trainings"
    return out


def _points(
    claim: Claim, config: Config, table: pd.DataFrame, controls: dict[int, pd.DataFrame]
) -> pd.DataFrame:
    statistic = claim.primary.at(config)
    tables = [table, *controls.values()]
    frames, fits = (
        [_on_scale(part, wanted) for part in tables] for wanted in (statistic, AXES["ce"])
    )
    grid, curve = _grid_and_curve(frames, fits)
    at = grid[grid.index.get_level_values("strength") > 0]
    both = pd.concat([curve.assign(kind="standard"), at.assign(kind="AT")]).reset_index()
    layers = [name for name in grid.columns if name != "fit"]
    finished = grid[grid.index.get_level_values("strength") == 0].droplevel("strength")
    both = both[both["seed"].isin(finished.index)]
    value = both[layers].astype(float)
    if statistic.layers:
        value = value - finished.loc[both["seed"], layers].to_numpy()
    value = value.median(axis=1)
    both = both.assign(
        claim=claim.id, statistic=statistic.label, value=np.exp(value) if statistic.log else value
    )
    return both.rename(columns={"fit": "train_ce"})


def reading_of(shares: pd.Series) -> str:
    """A reading with its shares, as it is printed: no label without its share;
    empty without controls.
    """
    if not isinstance(shares["reading"], str):
        return ""
    if shares["reading"] == CANNOT_TELL:
        return CANNOT_TELL
    texts = [_share_text(shares, axis) for axis in AXES]
    return f"{shares['reading']} (left: {', '.join(texts)})"


def _share_text(shares: pd.Series, axis: str) -> str:
    name = f"at equal {AXES[axis].label}"
    if shares[f"{axis}_reading"] == CANNOT_TELL:
        return f"{CANNOT_TELL} {name}"
    left, low, high = (
        f"{shares[f'{axis}_{end}']:.2f}".replace("-", "−") for end in ("left", "low", "high")
    )
    return f"{left} [{low}, {high}] {name}"


def _rows(
    claim: Claim,
    config: Config,
    tables: list[pd.DataFrame],
    fits: dict[str, list[pd.DataFrame]],
    strengths: Collection[float] | None,
) -> list[dict]:
    statistic = claim.primary.at(config)
    frames = [_on_scale(part, statistic) for part in tables]
    by_axis = {axis: _grid_and_curve(frames, fit) for axis, fit in fits.items()}
    measured = {
        s for grid, _ in by_axis.values() for s in grid.index.get_level_values("strength")
    } - {0.0}
    rows = []
    for strength in sorted(measured if strengths is None else measured.intersection(strengths)):
        row = {
            "claim": claim.id,
            "title": claim.title,
            "statistic": statistic.label,
            "strength": strength,
        }
        lefts = {axis: _left(grid, curve, strength) for axis, (grid, curve) in by_axis.items()}
        for axis, left in lefts.items():
            row |= {
                f"{axis}_left": left.share.value,
                f"{axis}_low": left.share.low,
                f"{axis}_high": left.share.high,
            }
            row |= {f"{axis}_seeds": left.seeds, f"{axis}_reading": left.reading}
        rows.append(row | {"reading": _together([left.reading for left in lefts.values()])})
    return rows


def _grid_and_curve(
    frames: list[pd.DataFrame], fits: list[pd.DataFrame]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs of the grid, and all standard nets from the shortest control on;
    rows (seed, strength).

    frames, fits: a statistic, and how well the training images are fitted, of the grid and of each
    control.
    """
    grid, *shorter = (_with_fit(frame, fit) for frame, fit in zip(frames, fits, strict=True))
    full = grid[grid.index.get_level_values("strength") == 0]
    return grid, pd.concat([*(part for part in shorter if len(part)), full])


def _on_scale(table: pd.DataFrame, statistic: Statistic) -> pd.DataFrame:
    """The statistic as it is compared, a column per layer."""
    frame = values(table, statistic)
    return np.log(frame.where(frame > 0)) if statistic.log else frame


def _with_fit(frame: pd.DataFrame, fitted: pd.DataFrame) -> pd.DataFrame:
    """The same with how well the training images are fitted in column "fit"."""
    if frame.empty or fitted.empty:
        return pd.DataFrame(columns=["fit"], index=frame.index[:0])
    return frame.join(fitted[""].rename("fit"), how="inner")


def _left(grid: pd.DataFrame, curve: pd.DataFrame, strength: float) -> Left:
    """The share left at one AR strength, over the seeds whose controls reach its fit."""
    layers = [name for name in grid.columns if name != "fit"]
    at, plain = (
        grid[grid.index.get_level_values("strength") == s].droplevel("strength")
        for s in (strength, 0.0)
    )
    rest, effect, fits = [], [], at["fit"]
    curves = dict(list(curve.groupby(level="seed")))
    for seed in at.index.intersection(plain.index):
        control = interpolated(curves[seed], fits[seed], layers)
        if control is not None:
            rest.append(float((at.loc[seed, layers] - control).median()))
            effect.append(float((at.loc[seed, layers] - plain.loc[seed, layers]).median()))
    enough = len(rest) >= SEEDS_NEEDED and np.isfinite([rest, effect]).all()
    return Left(fieller(rest, effect) if enough else Ratio(), len(rest))


def _together(readings: list[str]) -> str:
    """The reading of both axes; where only one can be told, that one's."""
    told = {reading for reading in readings if reading != CANNOT_TELL}
    if not told:
        return CANNOT_TELL
    return told.pop() if len(told) == 1 else DEPENDS
