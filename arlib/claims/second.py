"""The claims by protocol 2: what differs from the first is declared here,
each for the reason that is given.

C5, C6 and C8 are taken apart. Their own rows follow from their parts: C5 asks of the first two
whether the smoothing is in the features (C5a, which accumulate from the image on) and in each block
by itself (C5b); C6 whether the weights concentrate (C6a), also as they are applied, with batch norm
folded (C6b), and what that makes of the Jacobians at real images (C6c); C8 asks by intervention
what spectra (C8a) and what smooth features (C8b) do to a network (`mechanism`).
"""

from dataclasses import replace

from arlib.claims.declared import BLOCKS, CLAIMS, CONVOLUTIONS, Claim, Statistic

NATURAL = "circular+bn-natural"
PARTS = {"C5": ("C5a", "C5b"), "C6": ("C6a", "C6b", "C6c"), "C8": ("C8a", "C8b")}

# A change of features adds up from the image on:
# a block that does nothing shows what came before it.
_GAIN = Statistic(
    "gain of each block, random ±{feature}/255",
    "feature_gain",
    setting="random@{feature}",
    log=True,
    layers=BLOCKS,
)
# Scaling the rows of a kernel and undoing it in batch norm changes the spectrum
# of the weights, not the network.
_APPLIED = Statistic(
    "std/mean of singular values, batch norm folded",
    "sv_std_over_mean",
    split="",
    setting=NATURAL,
    log=True,
    layers=CONVOLUTIONS,
)
_AT_DATA = Statistic(
    "σ_max / (‖J‖_F/√rank) of image → block at test images",
    "jacobian_uniformity_median",
    setting="image",
    log=True,
    layers=BLOCKS,
)
Q = Statistic(
    "q({bound}/255) on training images", "q", split="train", setting="linf@{bound}", percent=True
)


def _part(whole: str, letter: str, title: str, statement: str, **changed) -> Claim:
    return replace(
        CLAIMS[whole], id=whole + letter, title=title, statement=statement, part_of=whole, **changed
    )


_C5A = _part("C5", "a", "Smoothing: features", "Features change less when the image does.")
_C5B = _part(
    "C5",
    "b",
    "Smoothing: each block",
    "Each block by itself passes on a smaller share of the change that reaches it.",
    primary=_GAIN,
    twin=replace(
        _GAIN,
        label="gain of each block, adversarial δ at {feature}/255",
        setting="adversarial@{feature}",
    ),
    sensitivity=(
        Statistic(
            "largest singular value of the block's own Jacobian",
            "jacobian_max",
            setting="block",
            log=True,
            layers=BLOCKS,
        ),
    ),
)
_C6A = _part(
    "C6", "a", "Concentration: weights", "The singular values of most kernels concentrate."
)
_C6B = _part(
    "C6",
    "b",
    "Concentration: as applied",
    "So do those of most convolutions as they act, with the batch norm behind them.",
    primary=_APPLIED,
    twin=replace(_APPLIED, label="effective rank, batch norm folded", name="effective_rank"),
    twin_follows=-1,
    sensitivity=(
        replace(_APPLIED, label="std of singular values, batch norm folded", name="sv_std"),
        replace(
            _APPLIED, label="std/mean, folded with training's own statistics", setting="circular+bn"
        ),
    ),
)
_C6C = _part(
    "C6",
    "c",
    "Concentration: at the data",
    "The Jacobians at real images become more uniform in all directions.",
    primary=_AT_DATA,
    twin=replace(
        _AT_DATA, label="effective rank of the same Jacobians", name="jacobian_effective_rank"
    ),
    twin_follows=-1,
    sensitivity=(
        replace(
            _AT_DATA, label="uniformity, mean over images", name="jacobian_uniformity", setting=""
        ),
        replace(_AT_DATA, label="uniformity of each block's own Jacobian", setting="block"),
        Statistic("largest singular value, image → block", "jacobian_max", log=True, layers=BLOCKS),
    ),
)
_C8 = replace(
    CLAIMS["C8"],
    needs=(
        "networks that are given what robust ones have, and nothing else: the arms of an "
        "intervention study, of at least 3 paired seeds each"
    ),
)
_C8A = replace(
    _C8,
    id="C8a",
    part_of="C8",
    title="Mechanism: weights",
    statement="The spectra of the layers cause small margins and lost accuracy.",
)
_C8B = replace(
    _C8,
    id="C8b",
    part_of="C8",
    title="Mechanism: features",
    statement="That features change less causes small margins and lost accuracy.",
)
_C10 = replace(
    CLAIMS["C10"],
    primary=Q,
    sensitivity=(
        Statistic("q(v)", "q", split="train", setting="*", percent=True),
        Statistic(
            "share of wrong training images among them", "q_wrong", split="train", percent=True
        ),
    ),
)

CLAIMS_2: dict[str, Claim] = {
    claim.id: claim
    for claim in (
        *(CLAIMS[name] for name in ("C1", "C2", "C3", "C4")),
        CLAIMS["C5"],
        _C5A,
        _C5B,
        CLAIMS["C6"],
        _C6A,
        _C6B,
        _C6C,
        CLAIMS["C7"],
        _C8,
        _C8A,
        _C8B,
        CLAIMS["C9"],
        _C10,
    )
}


def claims_of(protocol: int) -> dict[str, Claim]:
    """The declared claims of a protocol, by id, in the order in which they are printed."""
    return CLAIMS_2 if protocol == 2 else CLAIMS
