"""Attacks of several libraries as functions of a batch, at equal settings.

    plain          PGD as most public codes have it: `loss.backward()`, which computes weight
                   gradients too torchattacks, foolbox, art those libraries' own attacks, called as
                   their documentation does, on the network as it is
    ours           this library's: "bare" is one call of `attacks.…` on the network as it is; a mode
                   of `engine.prepare` ("folded", "compiled", …) is a network prepared beforehand

Each maker returns a function (x, y) -> adversarial images, all on the subject's device.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from arlib import attacks, engine
from benchmarks import contenders
from benchmarks.loops import public_pgd
from benchmarks.subjects import Subject

Attack = Callable[[Tensor, Tensor], Tensor]
SQUARE_QUERIES, APGD_STEPS, TARGETS = 5000, 100, 9
PEERS = ("torchattacks", "foolbox", "art")


@dataclass(frozen=True)
class Budget:
    """How much an attack may spend; the step of PGD is eps / 4 throughout."""

    steps: int = 20
    restarts: int = 1
    apgd_steps: int = APGD_STEPS
    queries: int = SQUARE_QUERIES


def right(model: nn.Module, x: Tensor, y: Tensor, batch: int = 500) -> Tensor:
    """Which images are classified right, (n,) bool, by the network as it is."""
    with torch.no_grad():
        parts = zip(x.split(batch), y.split(batch), strict=True)
        return torch.cat([model(images).argmax(1) == labels for images, labels in parts])


def modes(device: torch.device) -> list[tuple[str, str]]:
    """(mode, precision) pairs of `engine.prepare` worth measuring on a device."""
    pairs = [(mode, "float32") for mode in contenders.modes(device.type) if mode != "plain"]
    able = "bfloat16" in contenders.precisions(device.type)
    return pairs + [(mode, "bfloat16") for mode, _ in pairs if able]


def prepared(subject: Subject, mode: str, precision: str = "float32") -> engine.Prepared:
    dtype = torch.bfloat16 if precision == "bfloat16" else None
    return engine.prepare(subject.model, mode, dtype)


def ours(
    kind: str, network: nn.Module, eps: float, budget: Budget, *, early_stop: bool = True
) -> Attack:
    """This library's attack of a kind on a network, prepared or as it is."""
    common = {"eps": eps, "early_stop": early_stop}
    auto = common | {"steps": budget.apgd_steps}
    if kind == "pgd":
        return lambda x, y: attacks.pgd(
            network, x, y, steps=budget.steps, restarts=budget.restarts, **common
        )
    if kind == "apgd-ce":
        return lambda x, y: attacks.apgd(network, x, y, **auto)
    if kind == "apgd-t":
        return lambda x, y: attacks.apgd(
            network, x, y, loss="dlr-targeted", targets=TARGETS, **auto
        )
    return lambda x, y: attacks.square(network, x, y, eps=eps, queries=budget.queries)


def plain(kind: str, subject: Subject, budget: Budget) -> Attack | None:
    """PGD as the public codes write it, restarted as they do:
    all images again, misclassified ones kept.
    """
    if kind != "pgd":
        return None
    options = {"eps": subject.eps, "steps": budget.steps, "step_size": subject.eps / 4}

    def attack(x: Tensor, y: Tensor) -> Tensor:
        x_adv = public_pgd(subject.model, x, y, **options)
        for _ in range(budget.restarts - 1):
            again = public_pgd(subject.model, x, y, **options)
            stood = right(subject.model, x_adv, y)
            x_adv = torch.where(stood[:, None, None, None], again, x_adv)
        return x_adv

    return attack


def torchattacks(kind: str, subject: Subject, budget: Budget) -> Attack | None:
    """With restarts as its MultiAttack does them: each on what the last left standing."""
    import torchattacks as library

    auto = {"norm": "Linf", "eps": subject.eps, "seed": 0}
    if kind == "pgd":
        options = {"eps": subject.eps, "alpha": subject.eps / 4, "steps": budget.steps}
        made = [library.PGD(subject.model, **options) for _ in range(budget.restarts)]
        return library.MultiAttack(made) if len(made) > 1 else made[0]
    if kind == "apgd-ce":
        return library.APGD(subject.model, steps=budget.apgd_steps, loss="ce", **auto)
    if kind == "apgd-t":
        return library.APGDT(subject.model, steps=budget.apgd_steps, n_classes=TARGETS + 1, **auto)
    return library.Square(subject.model, n_queries=budget.queries, **auto)


def foolbox(kind: str, subject: Subject, budget: Budget) -> Attack | None:
    """Has PGD only; `repeat` restarts all images."""
    if kind != "pgd":
        return None
    import foolbox as library

    wrapped = library.PyTorchModel(subject.model, bounds=(0, 1), device=subject.x.device)
    attack = library.attacks.LinfPGD(rel_stepsize=0.25, steps=budget.steps, random_start=True)
    attack = attack.repeat(budget.restarts) if budget.restarts > 1 else attack
    return lambda x, y: attack(wrapped, x, y, epsilons=subject.eps)[1]


def art(kind: str, subject: Subject, budget: Budget) -> Attack | None:
    """adversarial-robustness-toolbox takes and gives numpy arrays;
    it has no targeted APGD of that kind.
    """
    if kind == "apgd-t":
        return None
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    shape = {"input_shape": tuple(subject.x.shape[1:]), "nb_classes": 10, "clip_values": (0.0, 1.0)}
    place = "gpu" if subject.x.is_cuda else "cpu"
    network = PyTorchClassifier(subject.model, nn.CrossEntropyLoss(), **shape, device_type=place)
    options = {"norm": np.inf, "eps": subject.eps, "verbose": False}
    steps = {
        "eps_step": subject.eps / 4,
        "max_iter": budget.steps,
        "num_random_init": budget.restarts,
    }
    auto = {"eps_step": 2 * subject.eps, "max_iter": budget.apgd_steps, "nb_random_init": 1}
    # its batch size is that of each call here, so that one call is one batch for everybody
    makers = {
        "pgd": lambda n: evasion.ProjectedGradientDescentPyTorch(
            network, **options, **steps, batch_size=n
        ),
        "apgd-ce": lambda n: evasion.AutoProjectedGradientDescent(
            network, **options, **auto, loss_type="cross_entropy", batch_size=n
        ),
        "square": lambda n: evasion.SquareAttack(
            network, **options, max_iter=budget.queries, batch_size=n
        ),
    }

    def attack(x: Tensor, y: Tensor) -> Tensor:
        x_adv = makers[kind](len(x)).generate(x=x.cpu().numpy(), y=y.cpu().numpy())
        return torch.from_numpy(x_adv).to(x)

    return attack


MAKERS = {"plain": plain, "torchattacks": torchattacks, "foolbox": foolbox, "art": art}


def others(kind: str, subject: Subject, budget: Budget, peers: bool = True) -> dict[str, Attack]:
    """Name → attack of everybody else who has this kind of attack and can be imported here."""
    attackers = {}
    for name, make in MAKERS.items():
        if name in PEERS and not peers:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # theirs, at import
                attack = make(kind, subject, budget)
        except ImportError as reason:
            print(f"{name} is left out: it cannot be imported ({reason})", flush=True)
            continue
        if attack is not None:
            attackers[name] = attack
    return attackers
