"""Whether fast attacks do what the plain loop does: the same images broken, the same gradients.

Gradients are teacher-forced: both sides are asked at the very iterates of the plain loop, so that a
difference is of one pass and not of a path that rounding has sent elsewhere.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arlib import attacks, engine
from arlib.attacks import steps as parts
from arlib.attacks.losses import Goal
from benchmarks.attackers import right
from benchmarks.loops import public_pgd
from benchmarks.subjects import Subject

TARGETS = {"masks": 1e-3, "gradient": 1e-4}  # share of images; relative error in float32


@contextmanager
def without_tf32() -> Iterator[None]:
    """Float32 as such: by default a GPU's convolutions round their factors to 10 bits."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def plain_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The input gradient of the summed cross-entropy as most codes compute it,
    weight gradients and all. (n, …).
    """
    x = x.detach().clone().requires_grad_()
    F.cross_entropy(model(x), y, reduction="sum").backward()
    model.zero_grad(set_to_none=True)
    return x.grad


def fast_gradient(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The same as the attacks here compute it. (n, …)."""
    return parts.slope(parts.forward_of(network), parts.nhwc(x), Goal(y))[0]


class InDouble(nn.Module):
    """The network as it is, computing in float64:
    how far the plain loop's own float32 gradients are off.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = copy.deepcopy(model).double().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.double())


def iterates(subject: Subject, steps: int, seed: int = 0) -> list[Tensor]:
    """Where the plain loop's PGD comes by: a random start and all iterates but the last."""
    generator = torch.Generator(subject.x.device).manual_seed(seed)
    x = attacks.random_start(subject.x, eps=subject.eps, generator=generator)
    points = [x]
    for _ in range(steps - 1):
        x = x + subject.eps / 4 * plain_gradient(subject.model, x, subject.y).sign()
        x = (subject.x + (x - subject.x).clamp(-subject.eps, subject.eps)).clamp(0, 1)
        points.append(x)
    return points


def compare_gradients(plain: Tensor, fast: Tensor) -> dict[str, float]:
    """Relative error (of the batch; of the median image), images past the target,
    differing signs, exact zeros.

    Where rounding moves one activation across the kink of its ReLU, that image's gradient changes
    by more than rounding: a few such images make the error of the batch.
    """
    own = (fast - plain).flatten(1).norm(dim=1) / plain.flatten(1).norm(dim=1).clamp_min(1e-30)
    return {
        "relative error": float((fast - plain).norm() / plain.norm()),
        "median image": float(own.median()),
        "images past 1e-4": float((own > TARGETS["gradient"]).float().mean()),
        "signs differing": float((fast.sign() != plain.sign()).float().mean()),
        "zeros, plain": float((plain == 0).float().mean()),
        "zeros, fast": float((fast == 0).float().mean()),
    }


def gradients(subject: Subject, networks: dict[str, nn.Module], steps: int = 10) -> pd.DataFrame:
    """One row per network, and one of the plain loop in float64:
    the worst over the iterates of `compare_gradients`.
    """
    networks = {"plain float64": InDouble(subject.model)} | networks
    rows = {name: [] for name in networks}
    with without_tf32():
        for x in iterates(subject, steps):
            expected = plain_gradient(subject.model, x, subject.y)
            for name, network in networks.items():
                rows[name].append(compare_gradients(expected, fast_gradient(network, x, subject.y)))
    worst = [pd.DataFrame(differences).max().to_dict() for differences in rows.values()]
    head = [
        {"network": subject.title, "passes": name, "n": len(subject.x), "iterates": steps}
        for name in rows
    ]
    return pd.DataFrame([a | b for a, b in zip(head, worst, strict=True)])


def pgd_masks(subject: Subject, networks: dict[str, nn.Module], steps: int = 20) -> pd.DataFrame:
    """PGD's last iterate from one random start: the plain loop against `attacks.perturb`."""
    start = attacks.random_start(
        subject.x, eps=subject.eps, generator=torch.Generator(subject.x.device).manual_seed(1)
    )
    options = {"eps": subject.eps, "steps": steps, "step_size": subject.eps / 4, "start": start}

    def fallen(attack, network) -> Tensor:
        crafted = attack(network, subject.x, subject.y, **options)
        return ~right(subject.model, crafted, subject.y)

    with without_tf32():
        expected = fallen(public_pgd, subject.model)
        subject.model.zero_grad(set_to_none=True)
        masks = {name: fallen(attacks.perturb, network) for name, network in networks.items()}
    return _compared(subject, f"pgd-{steps}, last iterate", expected, masks)


def evaluation_masks(
    subject: Subject, networks: dict[str, nn.Module], names: tuple[str, ...]
) -> pd.DataFrame:
    """`attacks.evaluate` on the network as it is (not folded, eager, float32)
    against prepared ones.
    """

    def fallen(network: nn.Module) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", attacks.TrustWarning)
            result = attacks.evaluate(network, subject.x, subject.y, eps=subject.eps, attacks=names)
        return torch.from_numpy(~result.robust[0])

    with without_tf32():
        expected = fallen(engine.prepare(subject.model, "plain"))
        result = {name: fallen(network) for name, network in networks.items()}
    return _compared(subject, "+".join(names), expected, result)


def _compared(
    subject: Subject, attack: str, expected: Tensor, masks: dict[str, Tensor]
) -> pd.DataFrame:
    n = len(expected)
    rows = []
    for name, fallen in masks.items():
        differing = int((fallen != expected).sum())
        accuracies = {
            "plain accuracy": 1 - float(expected.sum()) / n,
            "fast accuracy": 1 - float(fallen.sum()) / n,
        }
        head = {"network": subject.title, "attack": attack, "passes": name, "n": n}
        rows.append(head | accuracies | {"differing": differing, "share": differing / n})
    return pd.DataFrame(rows)
