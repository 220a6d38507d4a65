"""Our attacks and those of torchattacks and foolbox on one trained network,
at equal settings; prints JSON.

Run by the interpreter that `tests/environments.py` makes. For each pair: which images stand (1) or
fall (0), the seconds it took, and for minimum-norm attacks the distances.
"""

import json
import sys
import time
from pathlib import Path

import foolbox
import torch
import torchattacks

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from attacked import digits, right

from arlib import attacks

LINF, L2, STEPS = 0.08, 0.35, 50
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)


def timed(attack):
    start = time.perf_counter()
    x_adv = attack()
    return x_adv, round(time.perf_counter() - start, 3)


def seeded():
    return torch.Generator().manual_seed(torch.initial_seed())


def standing(model, x, y, ours, theirs, seeds=(0,)):
    """seeds: both sides are repeated with each (torchattacks draws its PGD start from the global
    generator).
    """
    sides = {}
    for name, attack in (("ours", ours), ("theirs", theirs)):
        side = {"standing": [], "seconds": 0.0, "linf": 0.0, "l2": 0.0}
        for seed in seeds:
            torch.manual_seed(seed)
            x_adv, seconds = timed(attack)
            x_adv = x_adv.detach()
            side["standing"] += right(model, x_adv, y).int().tolist()
            side["seconds"] += seconds
            side["linf"] = max(side["linf"], float((x_adv - x).abs().max()))
            side["l2"] = max(side["l2"], float((x_adv - x).flatten(1).norm(dim=1).max()))
        sides[name] = side
    return sides


def distances(model, x, y, norm, ours, theirs):
    sides = {}
    for name, attack in (("ours", ours), ("theirs", theirs)):
        x_adv, seconds = timed(attack)
        measured = attacks.distance(model, x, x_adv.clamp(0, 1), y, norm=norm)
        sides[name] = {"distances": measured.clamp_max(10).tolist(), "seconds": seconds}
    return sides


def compare():
    model, x, y = digits()
    pgd = {"steps": 20, "step_size": LINF / 4}
    theirs = {"eps": LINF, "steps": 20, "alpha": LINF / 4}
    auto = {"steps": STEPS, "n_restarts": 1, "seed": 0}
    flat = foolbox.PyTorchModel(model, bounds=(0, 1))

    def fooled(attack, eps):
        return attack(flat, x, y, epsilons=eps)[1]

    return {
        "pgd from the image": standing(
            model,
            x,
            y,
            lambda: attacks.perturb(model, x, y, eps=LINF, **pgd),
            lambda: torchattacks.PGD(model, **theirs, random_start=False)(x, y),
        ),
        "pgd from the image, foolbox": standing(
            model,
            x,
            y,
            lambda: attacks.perturb(model, x, y, eps=LINF, **pgd),
            lambda: fooled(
                foolbox.attacks.LinfPGD(rel_stepsize=0.25, steps=20, random_start=False), LINF
            ),
        ),
        "pgd": standing(
            model,
            x,
            y,
            lambda: attacks.pgd(model, x, y, eps=LINF, **pgd, generator=seeded()),
            lambda: torchattacks.PGD(model, **theirs)(x, y),
            seeds=range(5),
        ),
        "pgd l2 from the image": standing(
            model,
            x,
            y,
            lambda: attacks.perturb(model, x, y, eps=L2, steps=20, norm="l2"),
            lambda: torchattacks.PGDL2(model, eps=L2, alpha=L2 / 4, steps=20, random_start=False)(
                x, y
            ),
        ),
        "apgd-ce": standing(
            model,
            x,
            y,
            lambda: attacks.apgd(model, x, y, eps=LINF, steps=STEPS),
            lambda: torchattacks.APGD(model, norm="Linf", eps=LINF, loss="ce", **auto)(x, y),
        ),
        "apgd-dlr": standing(
            model,
            x,
            y,
            lambda: attacks.apgd(
                model, x, y, eps=LINF, steps=STEPS, loss="dlr", generator=seeded()
            ),
            lambda: torchattacks.APGD(
                model, norm="Linf", eps=LINF, loss="dlr", **auto | {"seed": torch.initial_seed()}
            )(x, y),
            seeds=range(5),
        ),
        "apgd-ce l2": standing(
            model,
            x,
            y,
            lambda: attacks.apgd(model, x, y, eps=L2, steps=STEPS, norm="l2"),
            lambda: torchattacks.APGD(model, norm="L2", eps=L2, loss="ce", **auto)(x, y),
        ),
        "apgd-t": standing(
            model,
            x,
            y,
            lambda: attacks.apgd(
                model, x, y, eps=LINF, steps=STEPS, loss="dlr-targeted", early_stop=True
            ),
            lambda: torchattacks.APGDT(model, norm="Linf", eps=LINF, n_classes=10, **auto)(x, y),
        ),
        "minimum norm linf": distances(
            model,
            x,
            y,
            "linf",
            lambda: attacks.minimum_norm(model, x, y, steps=100),
            lambda: fooled(foolbox.attacks.LInfFMNAttack(steps=100), None),
        ),
        "minimum norm l2": distances(
            model,
            x,
            y,
            "l2",
            lambda: attacks.minimum_norm(model, x, y, steps=100, norm="l2"),
            lambda: fooled(foolbox.attacks.L2FMNAttack(steps=100), None),
        ),
    }


if __name__ == "__main__":
    print(json.dumps(compare()))
