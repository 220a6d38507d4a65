"""The ten claims and the statistics that decide them:
declared here once, never chosen after the fact.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from arlib.errors import InputError, one_of

BLOCKS, CONVOLUTIONS = "blocks", "convolutions"


@dataclass(frozen=True)
class Config:
    """What a study fixes for its verdicts.
    Radii and strengths are AR strengths (255 × the radius).
    """

    effect: float = 8.0
    """AR strength compared with 0."""
    feature: float = 4.0
    """Radius of the feature change (C5)."""
    flip_pgd: float = 4.0
    """Radius of the flip rate under PGD (C7)."""
    flip_sign: float = 8.0
    """Radius of the flip rate under random signs (C7's twin)."""
    bound: float = 4.0
    """Radius of q, the share of training images within it of a wrong answer (C10, protocol 2)."""
    protocol: int = 1
    """The rules: 1 for `digits` and the first small study, for good;
    2 for every study begun after them.
    """
    classes: int = 10
    """Number of classes, for telling collapsed runs."""
    toy: bool = False
    """A toy study is shown, labelled, and never enters the combined verdict."""
    seeds: tuple[int, ...] = ()
    """Seeds the study plans, so that missing ones can be named."""

    def __post_init__(self):
        one_of("claims: protocol", self.protocol, (1, 2))
        for name in ("effect", "feature", "flip_pgd", "flip_sign", "bound"):
            if not getattr(self, name) > 0:
                raise InputError(
                    f"claims: {name} is {getattr(self, name)!r}; it is an AR strength, a number "
                    "above 0."
                )
        if self.classes < 2:
            raise InputError(f"claims: classes is {self.classes}; at least 2 are needed.")

    @classmethod
    def of(cls, config: "Config | Mapping | None") -> "Config":
        """A `Config` from itself, from a mapping (unknown keys are refused),
        or the defaults from None.
        """
        if isinstance(config, cls):
            return config
        for key in config or {}:
            one_of("claims: key", key, [field.name for field in fields(cls)])
        return cls(**(config or {}))


@dataclass(frozen=True)
class Statistic:
    """One number of a run, or one per layer, as it stands in the record table."""

    label: str
    name: str
    split: str = "test"
    minus: str = ""
    """A split whose value is subtracted (gaps)."""
    setting: str = ""
    """May name a radius of `Config` in braces; "*" stands for every setting recorded."""
    log: bool = False
    """Compared as log ratios: medians of |m|, feature changes, spectra."""
    layers: str = ""
    """"blocks" or "convolutions" for one number per layer, "" for one a net."""
    percent: bool = False
    checkpoint: str = "last"

    def at(self, config: Config) -> "Statistic":
        """The same with the radii of a study filled in."""
        radii = {
            f.name: f"{getattr(config, f.name):g}"
            for f in fields(config)
            if isinstance(f.default, float)
        }
        return replace(self, label=self.label.format(**radii), setting=self.setting.format(**radii))


@dataclass(frozen=True)
class Claim:
    """A statement about adversarially robust (AR) training and the statistic that decides it."""

    id: str
    title: str
    statement: str
    source: str
    expected: int = 0
    primary: Statistic | None = None
    twin: Statistic | None = None
    twin_follows: int = 1
    """1 where the twin is expected to move as the primary does, −1 where it moves the other way."""
    sensitivity: tuple[Statistic, ...] = ()
    needs: str = ""
    """What would measure it, for claims that a grid over strengths does not decide."""
    part_of: str = ""
    """The claim that this one is a part of (protocol 2);
    that claim's row follows from its parts.
    """

    @property
    def arrow(self) -> str:
        return {1: "↑", -1: "↓", 0: "–"}[self.expected]


def _each(names: Mapping[str, str], **same) -> tuple[Statistic, ...]:
    return tuple(Statistic(label, name, **same) for name, label in names.items())


_ERROR = Statistic("natural test error", "error", percent=True)
_GAP = Statistic("test − train error", "error", minus="train", percent=True)
_SOFTMAX = Statistic("mean max-softmax on test images", "max_softmax")
_MARGIN = Statistic("median |m| on test images", "median_abs_margin", log=True)
_RANDOM = Statistic(
    "feature change, random ±{feature}/255",
    "feature_change",
    setting="random@{feature}",
    log=True,
    layers=BLOCKS,
)
_STD = Statistic(
    "std of singular values", "sv_std", split="", setting="circular", log=True, layers=CONVOLUTIONS
)
_RELATIVE = replace(_STD, label="std/mean of singular values", name="sv_std_over_mean")
_FLIP = Statistic(
    "flip rate under PGD at {flip_pgd}/255", "flip_rate", setting="pgd@{flip_pgd}", percent=True
)
_SPECTRA = {
    "sv_mean": "mean singular value",
    "sv_max": "largest singular value",
    "effective_rank": "effective rank / count",
    "stable_rank": "stable rank / count",
    "condition": "condition (95th / 5th percentile)",
}


def _best(statistic: Statistic) -> Statistic:
    return replace(statistic, label=f"{statistic.label}, best checkpoint", checkpoint="best")


CLAIMS: dict[str, Claim] = {
    claim.id: claim
    for claim in (
        Claim(
            "C1",
            "Degradation",
            "Requiring adversarial robustness costs accuracy on natural examples.",
            "abstract",
            expected=1,
            primary=_ERROR,
            sensitivity=(_best(_ERROR), Statistic("natural test cross-entropy", "ce")),
        ),
        Claim(
            "C2",
            "Regularization",
            "Adversarial robustness regularizes: the gap between test and train error closes.",
            "title and abstract",
            expected=-1,
            primary=_GAP,
            twin=Statistic(
                "test − train cross-entropy at one temperature", "ce_scaled", minus="train"
            ),
            sensitivity=(
                _best(_GAP),
                Statistic("test − train cross-entropy, raw", "ce", minus="train"),
                Statistic("train error", "error", split="train", percent=True),
                Statistic("test error", "error", percent=True),
                Statistic("train cross-entropy, raw", "ce", split="train"),
                Statistic("test cross-entropy, raw", "ce"),
                Statistic(
                    "robust test − train error",
                    "robust_error",
                    minus="train",
                    setting="*",
                    percent=True,
                ),
            ),
        ),
        Claim(
            "C3",
            "Less confident",
            "Adversarial robustness biases networks towards less confident solutions.",
            "abstract",
            expected=-1,
            primary=_SOFTMAX,
            twin=Statistic("mean max-softmax − accuracy", "overconfidence"),
            sensitivity=(
                _best(_SOFTMAX),
                Statistic("the same after temperature scaling", "overconfidence_scaled"),
                Statistic("expected calibration error", "ece"),
                Statistic("entropy (nats)", "entropy"),
                Statistic("temperature", "temperature", split="val"),
                Statistic("mean max-softmax on train images", "max_softmax", split="train"),
            ),
        ),
        Claim(
            "C4",
            "Margin shrinkage",
            "Samples concentrate around the decision boundaries.",
            "abstract",
            expected=-1,
            primary=_MARGIN,
            twin=Statistic("median |m|/R on test images", "median_abs_margin_scalefree", log=True),
            sensitivity=(
                _best(_MARGIN),
                Statistic(
                    "median |m| on train images", "median_abs_margin", split="train", log=True
                ),
                Statistic("median signed margin m", "median_margin"),
                Statistic("logit scale R", "logit_scale", log=True),
                Statistic("median instance margin (an upper bound)", "instance_margin_median"),
            ),
        ),
        Claim(
            "C5",
            "Smoothing",
            "Changes in feature space are smoother in most layers.",
            "abstract",
            expected=-1,
            primary=_RANDOM,
            twin=replace(
                _RANDOM,
                label="feature change, adversarial δ at {feature}/255",
                setting="adversarial@{feature}",
            ),
            sensitivity=(
                _best(_RANDOM),
                Statistic(
                    "feature gain of the block",
                    "feature_gain",
                    setting="*",
                    log=True,
                    layers=BLOCKS,
                ),
                *_each(
                    {
                        "jacobian_max": "largest singular value of the Jacobian",
                        "jacobian_uniformity": "its uniformity",
                    },
                    log=True,
                    layers=BLOCKS,
                ),
            ),
        ),
        Claim(
            "C6",
            "Singular value concentration",
            "The smoothing is uniform in all directions: the singular values of most convolutions "
            "concentrate.",
            "abstract; the statistic as reported second-hand",
            expected=-1,
            primary=_STD,
            twin=_RELATIVE,
            sensitivity=(
                _best(_STD),
                _best(_RELATIVE),
                replace(_STD, setting="*"),
                replace(_RELATIVE, setting="*"),
                *_each(_SPECTRA, split="", setting="*", log=True, layers=CONVOLUTIONS),
                Statistic(
                    "share of dead channels",
                    "dead_channels",
                    split="",
                    setting="*",
                    layers=CONVOLUTIONS,
                ),
            ),
        ),
        Claim(
            "C7",
            "No sudden change",
            "Predictions change less suddenly: they flip less under perturbation.",
            "abstract",
            expected=-1,
            primary=_FLIP,
            twin=replace(
                _FLIP,
                label="flip rate under random signs at {flip_sign}/255",
                setting="sign@{flip_sign}",
            ),
            sensitivity=(
                _best(_FLIP),
                Statistic("flip rate", "flip_rate", setting="*", percent=True),
            ),
        ),
        Claim(
            "C8",
            "Mechanism",
            "The smoothing itself causes the small margins and the lost accuracy.",
            "asserted in the abstract, untested",
            needs=(
                "an intervention: networks trained normally but given the spectra of robust ones, "
                "and the reverse, with at least 3 paired seeds each"
            ),
        ),
        Claim(
            "C9",
            "Gentler",
            "Robustness can be built in with less degradation.",
            "outlook of the abstract",
            needs=(
                "other objectives, each swept over 5 values of one knob and compared with the "
                "front of PGD adversarial training under APGD-CE+T on the full test set"
            ),
        ),
        Claim(
            "C10",
            "Bound",
            "The measured quantities move the generalization bound as the theory says.",
            "abstract",
            expected=-1,
            needs=(
                "q(v): the share of training images not classified right with an instance margin "
                "of at least v, measured by attack over a grid of v"
            ),
        ),
    )
}
