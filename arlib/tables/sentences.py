"""What the table of a benchmark shows, in a sentence that is computed from it."""

from collections.abc import Callable

import pandas as pd

# Columns that a row's contender stands in, and what a rate is called.
WHO = ("loop", "by", "attack", "way")
RATES = ("images/s", "image-steps/s")


def sentence(table: pd.DataFrame) -> str:
    """What one table of a benchmark shows; "" where it only lists (the ceilings of a machine).

    Which kind of table it is, its columns say.
    """
    for needed, says in _KINDS:
        if set(needed) <= set(table) and len(table):
            return says(table)
    return ""


def fastest(table: pd.DataFrame, rate: str, who: str) -> str:
    """The fastest contender on each network, and the fastest of the others' beside it."""
    told = []
    networks = table.groupby("network", sort=False) if "network" in table else [("", table)]
    for network, rows in networks:
        best = rows.loc[rows[rate].idxmax()]
        ours = rows[who].astype(str).str.startswith("ours")
        rivals = rows[~ours] if str(best[who]).startswith("ours") else rows[ours]
        where = f"{network}, " if network else ""
        text = f"{where}fastest: {best[who]}, {_rate(best[rate])} {rate}"
        if len(rivals):
            second = rivals.loc[rivals[rate].idxmax()]
            text += f", {best[rate] / second[rate]:.2f} times as fast as {second[who]}"
        told.append(text)
    return "; ".join(told)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def of_spectra(circular: pd.DataFrame) -> str:
    """All convolutions of each network against the published method."""
    told = []
    for network, rows in circular.groupby("network", sort=False):
        rows = rows.set_index("method")
        ours, published = rows.loc["ours"], rows.loc["fft + numpy"]
        wall, cpu = (published[what] / ours[what] for what in ("wall s", "cpu s"))
        told.append(
            f"all {ours['layers']} convolutions of {network} {wall:.1f} times as fast as FFT + "
            f"numpy ({cpu:.1f} times in processor time), error {ours['error']:.0e} of the largest "
            "value"
        )
    return "; ".join(told)


def of_coverage(coverage: pd.DataFrame) -> str:
    """In how many cases the intervals for zero padding hold the truth."""
    held = coverage.set_index("family").filter(like="holds ").stack()
    (family, statistic), widest = held.idxmin(), coverage["width / exact quadrature"].max()
    return (
        f"in each of {len(coverage)} families the truth is inside in at least "
        f"{100 * held.min():.1f} % ({statistic.removeprefix('holds ')}, {family}); the intervals "
        f"are at most {widest:.2f} times as wide as with exact quadrature"
    )


def _zero_padding(table: pd.DataFrame) -> str:
    """By how much the time grows with the map."""
    slowest = table.loc[table["wall s"].idxmax()]
    return (
        f"the longest took {slowest['wall s']:.2g} s, {slowest['channels']:g} channels at "
        f"{slowest['map']:g} pixels; standard deviations are known to "
        f"{100 * (table['half-width'] / table['std']).max():.1f} % or better"
    )


def longest_of_each(table: pd.DataFrame) -> str:
    """The longest that each method took, and for which layer."""
    longest = table.loc[table.groupby("method", sort=False)["wall s"].idxmax()]
    told = [
        f"{row['method']} {row['wall s']:.2g} s ({row['channels']:g} channels, "
        f"{row['map']:g} pixels)"
        for _, row in longest.iterrows()
    ]
    return f"the longest of each method: {', '.join(told)}"


def _simultaneous(table: pd.DataFrame) -> str:
    best = table.loc[table["× one alone"].idxmax()]
    runs = "one run" if best["runs"] == 1 else f"{best['runs']:g} runs"
    return (
        f"most images per second with {runs}, {best['way']}: {best['× one alone']:.2f} times those "
        "of one run alone"
    )


def _scaling(table: pd.DataFrame) -> str:
    what, first, last = table.columns[0], table.iloc[0], table.iloc[-1]
    name = {"K": "attack steps"}.get(what, what)
    return (
        f"from {name} {first[what]:g} to {last[what]:g}, images per second go from "
        f"{first['images/s']:,.0f} to {last['images/s']:,.0f} "
        f"(× {last['images/s'] / first['images/s']:.2g})"
    )


def _evaluation(table: pd.DataFrame) -> str:
    """Strength before speed: on how many images one side alone breaks."""
    others = table[~table["by"].str.startswith("ours")]
    counts = {side: int(others[f"ours broke {side}"].sum()) for side in ("more", "fewer")}
    told = [
        f"of {int(others['n'].sum()):,} comparisons of an image with another library, ours alone "
        f"breaks {counts['more']}, the other alone {counts['fewer']}"
    ]
    for network, rows in table[table["attack"] == "evaluate"].groupby("network", sort=False):
        told.append(fastest(rows.drop(columns="network"), "images/s", "by").replace(
            "fastest", f"whole evaluation of {network}, fastest"))  # fmt: skip
    return "; ".join(told)


def _agreement(table: pd.DataFrame) -> str:
    worst = table.loc[table["share"].idxmax()]
    return (
        f"fast passes and the plain loop differ on at most {100 * worst['share']:.2f} % of images "
        f"({worst['passes']}, {worst['attack']}, {worst['network']})"
    )


def _gradients(table: pd.DataFrame) -> str:
    half = table["passes"].str.contains("bfloat16")
    told = [
        f"{rows['relative error'].max():.1e} in passes in {precision}"
        for precision, rows in (("float32", table[~half]), ("bfloat16", table[half]))
        if len(rows)
    ]
    return f"largest relative error {', '.join(told)}"


def _start_up(table: pd.DataFrame) -> str:
    """The slowest command, and what the library adds to torch."""
    seconds = table.set_index("what")["cpu s"]
    commands = seconds[seconds.index.str.startswith("arlib ")]
    ours, torch = seconds["import arlib.attacks"], seconds["import torch alone"]
    return (
        f"no command that computes nothing takes more than {commands.max():.2f} s of a processor "
        f"({commands.idxmax()}); importing the attacks takes {ours / torch:.2f} times as long as "
        "importing torch"
    )


def _compared(table: pd.DataFrame) -> str:
    same = (table["verdict"] == "equivalent").sum()
    return f"{same} of {len(table)} quantities are equivalent"


def _by_runs(table: pd.DataFrame) -> str:
    worst = table.loc[table["exponent"].idxmax()]
    return f"no cost grows faster than runs to the power {worst['exponent']:.2f} ({worst['asked']})"


def _by_workers(table: pd.DataFrame) -> str:
    """What many workers ask of the file system, beside one alone."""
    one = table.loc[table["workers"].idxmin()]
    many = table.loc[table["workers"].idxmax()]
    asked = "file operations a run"
    return (
        f"a run costs {one[asked]:.0f} file operations with {one['workers']:g} worker and "
        f"{many[asked]:.0f} with {many['workers']:g}"
    )


def _kills(table: pd.DataFrame) -> str:
    count = {name: int(table[name].sum()) for name in
             ("kills", "ends", "ends that differ", "failed starts", "left running")}  # fmt: skip
    return (
        f"after {count['kills']} kills, {count['ends that differ']} of {count['ends']} ends differ "
        f"from an undisturbed one; {count['failed starts']} starts failed, "
        f"{count['left running']} processes were left running"
    )


def _chapters(table: pd.DataFrame) -> str:
    runs, done = int(table["runs"].sum()), int(table["done"].sum())
    again, other = int(table["tried again"].sum()), int(table["printed otherwise"].sum())
    return (
        f"of {runs} runs of {len(table)} chapters {done} ended well, {again} of them at another "
        f"try; {other} printed something else than their equals"
    )


def _rates(rate: str, who: str) -> Callable[[pd.DataFrame], str]:
    return lambda table: fastest(table, rate, who)


def _budgets(table: pd.DataFrame) -> str:
    """How far the standard budget is from the full one, and how much faster."""
    left = {budget: table[f"left by {budget}"] for budget in ("full", "standard")}
    apart = 100 * (left["standard"] - left["full"]) / table["images"]
    weaker = f"at most {apart.max():.2g} points weaker" if apart.max() > 0 else "nowhere weaker"
    lost, more = (int(table[f"only {name} breaks"].sum()) for name in ("full", "standard"))
    images = int((table["right"]).sum())
    return (
        f"the standard budget is {weaker} than the full one on {len(table)} networks (of "
        f"{images:,} right images {lost} fall to the full one alone, {more} to the standard one "
        "alone), and "
        f"{table['factor'].min():.1f} to {table['factor'].max():.1f} times as fast"
    )


_KINDS: tuple[tuple[tuple[str, ...], Callable[[pd.DataFrame], str]], ...] = (
    (("layers", "method", "error"), of_spectra),
    (("half-width", "probes"), _zero_padding),
    (("channels", "map", "method", "MiB"), longest_of_each),
    (("width / exact quadrature",), of_coverage),
    (("× one alone",), _simultaneous),
    (("ours broke more", "by"), _evaluation),
    (("differing", "share"), _agreement),
    (("relative error", "signs differing"), _gradients),
    (("left by full", "left by standard"), _budgets),
    (("kills", "ends that differ"), _kills),
    (("chapter", "printed otherwise"), _chapters),
    (("asked", "exponent"), _by_runs),
    (("file operations a run",), _by_workers),
    (("what", "cpu s"), _start_up),
    (("quantity", "verdict"), _compared),
    *(((who, rate), _rates(rate, who)) for who in WHO for rate in RATES),
    (("images/s", "of ceiling"), _scaling),
)
