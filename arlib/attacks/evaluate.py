"""Robust accuracy: the worst case of several attacks per image, with its interval,
resumable, self-critical.
"""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from arlib import engine
from arlib.attacks import sanity
from arlib.attacks.checks import TrustWarning as TrustWarning
from arlib.attacks.checks import check, radius
from arlib.attacks.losses import Goal, finite
from arlib.attacks.named import BUDGETS, STRONG, Named, strong
from arlib.attacks.spelling import answered
from arlib.attacks.steps import (
    BALLS,
    Best,
    Forward,
    Streams,
    itself_of,
    look,
    nhwc,
    opened,
)
from arlib.errors import InputError

if TYPE_CHECKING:  # who attacks need not load pandas
    import pandas as pd

State = dict[str, np.ndarray]
# outcome of one attack on one image; the last: also rounded to 8 bits
UNTRIED, STOOD, BROKEN, BROKEN_8BIT = range(4)
ANSWERS = 16  # images whose logits tell one model from another
SAMPLE = 256  # images that the checks of trustworthiness look at
FEW = 0.01  # share of a copy's adversarial images that may fail to fool the model, unremarked


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    table: a row for the natural images (attack "none"), for each attack and for the "worst case" at
        each eps: eps, attack, attacks (the set that the row's number is of: compare numbers of
        equal sets only), n, correct, accuracy, low, high (Wilson 95 %), accuracy_8bit (counting
        only adversarial images that still are when their perturbation is rounded to multiples of
        1/255 inside the ball).
    eps: radii, ascending. robust: (len(eps), n) bool, classified right whatever was tried. natural:
    (n,) bool.
    unverified: adversarial images of a folded, compiled or half-precision copy that did not fool
    the model itself. They did not count, and the model itself was attacked instead.
    state: for resuming. warnings: why the numbers should not be trusted, if so.
    """

    table: "pd.DataFrame"
    eps: tuple[float, ...]
    robust: np.ndarray
    natural: np.ndarray
    state: State
    warnings: list[str]
    unverified: int = 0


@answered
def evaluate(
    model: nn.Module,
    x: Tensor | Dataset | DataLoader,
    y: Tensor | None = None,
    *,
    eps: float | Sequence[float],
    attacks: Sequence[str] | str | None = None,
    norm: str = "linf",
    seed: int = 0,
    batch_size: int = 256,
    independent: bool = False,
    clip: tuple[float, float] = (0.0, 1.0),
    logits: Callable[[object], Tensor] | None = None,
    state: State | None = None,
    save: Callable[[State], object] | None = None,
    progress: bool = False,
) -> Evaluation:
    """Robust accuracy of a network at several radii.

    Radii go upwards and attacks in the order given (black boxes last). An image that is
    misclassified, or broken at a smaller radius or by an earlier attack, is not attacked again; so
    the row of an attack counts what it and those before it left standing. Attacks run on a fast
    copy of the model (`engine.prepare` makes others), but an image counts as broken only if the
    model itself gives a wrong answer to what was found.

    Args:
        model, x, y, norm, clip, logits: as in `pgd`; eps: one radius or several, in the units of
            the pixels. x may also be a data set of (image, label), or its loader, without y:
            images are then read when they are needed, in the data set's order, with the same
            results (`engine.Streamed`).
        attacks: "fgsm", "pgd-20", "pgd-50x10" (restarts), "apgd-ce", "apgd-dlr", "apgd-margin",
            "apgd-t" (targeted DLR), "apgd-margin-t" (for fewer than 4 classes), "square". Auto-PGD
            takes 100 steps, and 9 targets: "apgd-ce-50" has 50, "apgd-t-25x3" 25 for 3 targets;
            "apgd-focused" looks at all nine and stays with two. Or one of two budgets: "full",
            also None, is "apgd-ce" and the targeted one that the number of classes allows;
            "standard" is "pgd-10" and "apgd-focused".
        seed: of each image's own random stream: batches and their order do not matter.
        independent: run every attack on every image that is right, so that each row is of that
            attack alone.
        state: an earlier evaluation's, or a dict to be filled; arrays that an npz can hold, updated
            in place after every batch and then passed to `save`, so that an interrupted evaluation
            goes on.
        progress: show a bar for each attack and radius.

    Returns: an `Evaluation`; its warnings are also emitted as `TrustWarning`.
    Raises: `InputError` as `pgd`; for an unknown attack or one the model has too few classes for;
        for a state that belongs to another evaluation.

    A linear network whose boundary is ¼ away in every pixel:

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval()
    >>> net[1].weight.data = torch.tensor([[1.0] * 4, [-1.0] * 4])
    >>> net[1].bias.data = torch.tensor([-1.0, 1.0])
    >>> x, y = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 0, 1])
    >>> evaluate(net, x, y, eps=[0.24, 0.26], attacks=["pgd-10"]).robust.tolist()
    [[True, True, False], [False, False, False]]
    """
    x, y = engine.streamed(model, x, y)
    radii = tuple(sorted({float(e) for e in np.atleast_1d(np.asarray(radius(eps, None)))}))
    attacks = "full" if attacks is None else attacks
    budget = attacks if isinstance(attacks, str) and attacks in BUDGETS else None
    names = STRONG if budget else attacks
    job = _Job(radii, _ordered(names), norm, seed, independent, tuple(map(float, clip)))
    doubts = [sanity.training_modules(model)]  # before `opened`, where all are in eval mode
    with opened(model, x, y, logits) as (f, forward, x, y):
        if not job.eps:
            raise InputError("eps is empty; give at least one radius, such as eps=[8/255].")
        classes = check(
            model, forward, x, y, eps=job.eps[0], norm=norm, clip=clip, batch_size=batch_size
        )
        # the largest radius, too; two images suffice, since the first check has read them all
        check(model, forward, x[:2], y[:2], eps=job.eps[-1], norm=norm, clip=clip)
        if budget:
            job = replace(job, attacks=_ordered(strong(classes, budget)))
        for attack in job.attacks:
            attack.check(classes, tuple(x.shape), norm)
        state = job.begin({} if state is None else state, model, forward, x, y)
        itself = itself_of(f, forward, logits)
        _classify(itself, x, y, state, batch_size)
        doubts += _doubts_before(f, forward, x, y, state, job, classes)
        for stage in job.stages():
            _attack(forward, itself, x, y, state, job, stage, batch_size, save, progress)
        doubts += _doubts_after(forward, x, y, state, job)
    reasons = [doubt for doubt in doubts if doubt]
    for doubt in reasons:
        warnings.warn(f"evaluate: {doubt}", TrustWarning, stacklevel=2)
    return Evaluation(
        _table(state, job),
        job.eps,
        ~_broken(state, job).any(1),
        state["natural"] == STOOD,
        state,
        reasons,
        int(state["unverified"]),
    )


def wilson(correct: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson 1927)."""
    # not mean ± z·std, which near 0 and 1, where robust accuracies lie, shrinks to nothing
    centre = (correct + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * np.sqrt(correct * (n - correct) / n + z * z / 4)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _ordered(names: Sequence[str]) -> tuple[Named, ...]:
    names = [names] if isinstance(names, str) else list(names)
    if not names or len(set(names)) < len(names):
        raise InputError(f"attacks is {names}; give at least one, each once.")
    # black boxes last: what they break then speaks against the gradient attacks (`sanity`)
    return tuple(sorted(map(Named, names), key=lambda attack: attack.black_box))


@dataclass(frozen=True)
class _Job:
    """What is to be done; a stage is one attack at one radius."""

    eps: tuple[float, ...]
    attacks: tuple[Named, ...]
    norm: str
    seed: int
    independent: bool
    clip: tuple[float, float] = (0.0, 1.0)

    @property
    def gradients(self) -> bool:
        """Whether any attack needs the model's gradient."""
        return any(not attack.black_box for attack in self.attacks)

    def ball(self, x: Tensor, eps: float):
        return BALLS[self.norm](x, eps, self.clip)

    def stages(self) -> list[tuple[int, int]]:
        return [(e, a) for e in range(len(self.eps)) for a in range(len(self.attacks))]

    def names(self, a: int | None = None) -> str:
        """The set of attacks that a row is of: of attack `a`, or of all."""
        if a is not None and self.independent:
            return self.attacks[a].name
        return "+".join(attack.name for attack in self.attacks[: None if a is None else a + 1])

    def begin(
        self, state: State, model: nn.Module, forward: Forward, x: Tensor, y: Tensor
    ) -> State:
        """Fill an empty state, or make sure that this one is of the same evaluation.

        The model is known by its tensors and, since Python numbers count too, by its answers to
        some images.
        """
        settings = [
            list(self.eps),
            [attack.name for attack in self.attacks],
            self.norm,
            self.seed,
            self.independent,
        ]
        # only where it is not the default: states of before it was a setting still match
        settings += [list(self.clip)] if self.clip != (0.0, 1.0) else []
        tensors = model.state_dict().values() if isinstance(model, nn.Module) else ()
        key = {
            "images": engine.digest_of(x),
            "labels": engine.digest(y),
            "weights": engine.digest(*(tensor for tensor in tensors if isinstance(tensor, Tensor))),
            "settings": json.dumps(settings),
        }
        with torch.no_grad():
            answers = forward(nhwc(x[:ANSWERS])).double().cpu().numpy()
        if state:
            stored = json.loads(str(state["key"]))
            other = [name for name, value in key.items() if stored.get(name) != value]
            if not other and "logits" in state and not _alike(state["logits"], answers):
                other = ["model's answers"]
            if other:
                raise InputError(
                    f"state is of another evaluation: its {', '.join(other)} differ. Start with "
                    "state=None, or with the arguments it was made with."
                )
            state.setdefault("unverified", np.array(0))  # states of before it was counted
            return state
        state["unverified"] = np.array(0)
        state["key"], state["logits"] = np.array(json.dumps(key)), answers
        state["natural"] = np.full(len(x), UNTRIED, np.uint8)
        state["outcome"] = np.full((len(self.eps), len(self.attacks), len(x)), UNTRIED, np.uint8)
        return state


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two tables of logits are those of one model, on whatever machine."""
    # other devices and kernels move logits by rounding, another model by far more than this
    return a.shape == b.shape and np.allclose(
        a, b, rtol=0, atol=0.01 * (np.ptp(a) or 1.0), equal_nan=True
    )


@torch.no_grad()
def _classify(forward: Forward, x: Tensor, y: Tensor, state: State, batch_size: int) -> None:
    if not (state["natural"] == UNTRIED).any():
        return
    parts = zip(x.split(batch_size), y.split(batch_size), strict=True)
    # one at a time: images of a data set are read for it
    answers = ((forward(nhwc(part)), labels) for part, labels in parts)
    right = torch.cat([(z.argmax(1) == labels) & finite(z) for z, labels in answers]).cpu().numpy()
    state["natural"][:] = np.where(right, STOOD, BROKEN)


def _attack(
    forward, itself, x, y, state: State, job: _Job, stage: tuple[int, int], batch_size, save,
    progress,
) -> None:  # fmt: skip
    """Run one attack at one radius on the images still standing, batch by batch.

    The batches are those of an uninterrupted evaluation, so that resuming changes no rounding.
    """
    (e, a), outcome = stage, state["outcome"]
    attack, eps = job.attacks[a], job.eps[e]
    standing = np.flatnonzero((state["natural"] == STOOD) & ~_broken_before(state, job, stage))
    batches = [standing[i : i + batch_size] for i in range(0, len(standing), batch_size)]
    todo = [batch for batch in batches if (outcome[e, a, batch] == UNTRIED).any()]
    for batch in tqdm(
        todo, desc=f"{attack.name} at eps={eps:.4g}", disable=not progress, leave=False
    ):
        index = torch.from_numpy(batch).to(x.device)
        ball = job.ball(nhwc(x[index]), eps)
        best = attack.run(forward, ball, y[index], Streams(job.seed, batch.tolist(), attack.name))
        if itself is not forward:
            wrong = _verify(itself, attack, ball, y[index], best, job.seed, batch)
            state["unverified"] = state["unverified"] + wrong
        rounded, _ = look(itself, _rounded(ball.x, best.x, eps, job.norm, job.clip), Goal(y[index]))
        code = torch.where(best.hit, torch.where(rounded, BROKEN_8BIT, BROKEN), STOOD)
        outcome[e, a, batch] = code.cpu().numpy().astype(np.uint8)
        if save is not None:
            save(state)


def _verify(
    itself: Forward, attack: Named, ball, y: Tensor, best: Best, seed: int, batch: np.ndarray
) -> int:
    """Strike out of `best` what does not fool the model itself, and attack those images on it.

    Returns how many there were. So a copy may be as rough as it likes: no strength is lost, and
    none is made up.
    """
    hits, _ = look(itself, best.x, Goal(y))
    left = (best.hit & ~hits).nonzero()[:, 0]
    best.hit = best.hit & hits
    if len(left):
        streams = Streams(seed, batch[left.cpu().numpy()].tolist(), attack.name)
        again = attack.run(itself, ball.take(left), y[left], streams)
        best.x[left], best.hit[left] = again.x, again.hit
    return len(left)


def _rounded(
    x: Tensor, x_adv: Tensor, eps: float, norm: str, clip: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """The perturbation in multiples of 1/255 of the pixel range, inside the ball and the range.

    linf to the nearest multiple there is, l2 towards 0: both stay within eps.
    """
    unit = (clip[1] - clip[0]) / 255
    levels = (x_adv - x) / unit
    most = int(eps / unit + 1e-3)  # 7.9999 means 8
    levels = levels.trunc() if norm == "l2" else levels.round().clamp(-most, most)
    # levels that stay in the range; the 1e-3 again, for pixels that lie on one but for rounding
    lowest, highest = ((clip[0] - x) / unit - 1e-3).ceil(), ((clip[1] - x) / unit + 1e-3).floor()
    return (x + levels.clamp(lowest, highest) * unit).clamp(*clip)


def _broken(state: State, job: _Job, least: int = BROKEN) -> np.ndarray:
    """(eps, attack, n) bool: broken by that attack up to that radius,
    or misclassified from the start.

    Where attacks build on each other, by it or those before it up to that radius, or by any at a
    smaller one.
    """
    outcome = state["outcome"] >= least
    broken = np.logical_or.accumulate(outcome, axis=0)
    if not job.independent:
        smaller = np.concatenate([np.zeros_like(broken[:1]), broken[:-1]]).any(1, keepdims=True)
        broken = np.logical_or.accumulate(broken, axis=1) | smaller
    return broken | (state["natural"] == BROKEN)


def _broken_before(state: State, job: _Job, stage: tuple[int, int]) -> np.ndarray:
    """(n,) bool: what this stage need not try: by the stages before it only."""
    (e, a), outcome = stage, state["outcome"] >= BROKEN
    if job.independent:
        return outcome[:e, a].any(0)
    return outcome[:e].any((0, 1)) | outcome[e, :a].any(0)


def _table(state: State, job: _Job) -> "pd.DataFrame":
    import pandas as pd

    broken, rounded = _broken(state, job), _broken(state, job, BROKEN_8BIT)
    natural = state["natural"] == BROKEN
    rows = [_row(0.0, "none", "none", natural, natural)]
    for e, eps in enumerate(job.eps):
        for a, attack in enumerate(job.attacks):
            rows.append(_row(eps, attack.name, job.names(a), broken[e, a], rounded[e, a]))
        rows.append(_row(eps, "worst case", job.names(), broken[e].any(0), rounded[e].any(0)))
    return pd.DataFrame(rows)


def _row(eps: float, attack: str, attacks: str, broken: np.ndarray, rounded: np.ndarray) -> dict:
    n, correct = len(broken), int((~broken).sum())
    low, high = wilson(correct, n)
    numbers = {"n": n, "correct": correct, "accuracy": correct / n, "low": low, "high": high}
    return {
        "eps": eps,
        "attack": attack,
        "attacks": attacks,
        **numbers,
        "accuracy_8bit": float((~rounded).mean()),
    }


def _sample(x: Tensor, y: Tensor, mask: np.ndarray) -> tuple[Tensor, Tensor]:
    index = torch.from_numpy(np.flatnonzero(mask)[:SAMPLE]).to(x.device)
    return nhwc(x[index]), y[index]


def _doubts_before(
    f, forward: Forward, x: Tensor, y: Tensor, state: State, job: _Job, classes: int
) -> list[str | None]:
    right = state["natural"] == STOOD
    doubts = [
        *sanity.behaviour(f, forward, nhwc(x[:SAMPLE])),
        sanity.near_chance(int(right.sum()), len(x), classes),
    ]
    doubts.append(sanity.normalised(x[:SAMPLE], job.clip))
    if right.any() and job.gradients:
        doubts += sanity.gradients(forward, *_sample(x, y, right))
    return doubts


def _rough(state: State) -> str | None:
    """A copy that answers like the model need not be verified in vain."""
    failed, broken = int(state["unverified"]), int((state["outcome"] >= BROKEN).sum())
    if failed > max(1, FEW * broken):
        return (
            f"{failed} adversarial images fooled the prepared copy of the model and not the model "
            f"itself, beside {broken} that count: they do not, and the model itself was attacked "
            "instead. The copy is too rough; evaluate the model, or prepare it in float32."
        )


def _doubts_after(
    forward: Forward, x: Tensor, y: Tensor, state: State, job: _Job
) -> list[str | None]:
    right, doubts = state["natural"] == STOOD, [_rough(state)]
    if right.any() and job.gradients:
        some_x, some_y = _sample(x, y, right)
        streams = Streams(job.seed, range(len(some_x)), "sanity")
        doubts.append(sanity.does_not_fall(forward, some_x, some_y, job.norm, streams, job.clip))
    white = [a for a, attack in enumerate(job.attacks) if not attack.black_box]
    outcome, generator = state["outcome"] >= BROKEN, torch.Generator().manual_seed(job.seed)
    for e, eps in enumerate(job.eps):
        others = "+".join(job.attacks[a].name for a in white)
        # what gradients left at any radius so far: whatever breaks there tells that they were weak
        stood = right & ~outcome[: e + 1, white].any((0, 1))
        for a, attack in enumerate(job.attacks):
            if attack.black_box and white:
                broken = int((outcome[e, a] & stood).sum())
                doubts.append(sanity.stronger_black_box(attack.name, eps, broken, len(x), others))
        standing = right & ~outcome[: e + 1].any((0, 1))
        if standing.any():
            some_x, some_y = _sample(x, y, standing)
            broken = sanity.random_noise(forward, job.ball(some_x, eps), some_y, generator)
            doubts.append(
                sanity.stronger_black_box("random noise", eps, broken, len(some_x), job.names())
            )
    return doubts
