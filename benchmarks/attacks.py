"""Attacks against other libraries': python -m benchmarks.attacks [--device cpu|cuda] [--quick]

In one process, on the same weights, images and settings:

    speed        PGD-20 (ℓ∞, step ε/4) on batches of 128, ResNet-20 and ResNet-56, 32 px: this
                 library bare, prepared, compiled, against torchattacks, foolbox,
                 adversarial-robustness-toolbox and a plain loop
    evaluation   PGD-50×10, APGD-CE, targeted APGD-DLR, Square, and the three last as one
                 evaluation: robust accuracy, the images on which a peer and ours differ, seconds
    agreement    our fast passes against the plain loop's: broken images, gradients at the same
    iterates

The peers come from `.venv-peers` (`python tests/environments.py peers` makes it). Rounds go A B
C A B C …; a wall time of a busy machine says little, so the table has processor seconds too. Writes
records/benchmarks/attacks-DEVICE.json (with --only PART: attacks_PART-DEVICE.json; with --quick:
nothing).
"""

import argparse
import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from arlib import attacks, engine
from benchmarks import agreement, attackers, loops, report
from benchmarks.attackers import Attack, Budget
from benchmarks.subjects import Subject, subjects

PARTS = ("speed", "evaluation", "agreement")
KINDS = ("pgd-50x10", "apgd-ce", "apgd-t", "square", "evaluate")
WHOLE = ("apgd-ce", "apgd-t", "square")  # what "evaluate" runs
TARGETS = {
    "cpu": (
        "PGD-20 at least 1.5 times as fast as the fastest peer bare, 1.7 times prepared and "
        "compiled"
    ),
    "agreement": "at most 0.1 % of the images broken differently; float32 gradients within 1e-4",
}


def networks(subject: Subject, options: argparse.Namespace) -> dict[str, Callable[[], nn.Module]]:
    """ "ours MODE PRECISION" → what prepares the network so."""
    chosen = [pair for pair in attackers.modes(subject.x.device) if _wanted(pair, options)]
    return {
        f"ours {mode}" + ("" if precision == "float32" else f" {precision}"): (
            lambda mode=mode, precision=precision: attackers.prepared(subject, mode, precision)
        )
        for mode, precision in chosen
    }


def _wanted(pair: tuple[str, str], options: argparse.Namespace) -> bool:
    return options.modes is None or not {*pair, " ".join(pair)}.isdisjoint(options.modes.split(","))


# Speed


def speed(subject: Subject, options: argparse.Namespace) -> pd.DataFrame:
    """PGD on one batch: image-steps a second, median and spread over rounds,
    first call (with compilation) apart.
    """
    budget, batch = Budget(steps=options.steps), subject.first(options.batch)
    contenders: dict[str, Attack] = attackers.others("pgd", batch, budget, options.with_peers)
    contenders["ours bare"] = attackers.ours(
        "pgd", batch.model, batch.eps, budget, early_stop=False
    )
    first, accuracy = {}, {}
    for name, make in networks(batch, options).items():
        begun = time.perf_counter()
        contenders[name] = attackers.ours("pgd", make(), batch.eps, budget, early_stop=False)
        first[name] = time.perf_counter() - begun
    for name, attack in contenders.items():
        begun = time.perf_counter()
        x_adv = attack(batch.x, batch.y)
        accuracy[name] = float(attackers.right(batch.model, x_adv, batch.y).float().mean())
        first[name] = first.get(name, 0.0) + time.perf_counter() - begun
        print(f"  {name}: first call {first[name]:.1f} s", flush=True)
    calls = {
        name: (lambda attack=attack: attack(batch.x, batch.y))
        for name, attack in contenders.items()
    }
    times = report.interleaved(calls, options.rounds, batch.x.device, warm_up=0)
    table = speed_table(batch, budget, times, first, accuracy)
    print(
        table[["attack", "image-steps/s", "× peer", "× peer, cpu"]].to_string(index=False),
        flush=True,
    )
    return table


def speed_table(
    subject: Subject, budget: Budget, times: dict, first: dict, accuracy: dict
) -> pd.DataFrame:
    """One row per contender. × peer: over the fastest that is not ours,
    by wall and by processor time.
    """
    done = len(subject.x) * budget.steps
    peers = [name for name in times if not name.startswith("ours")]
    wall, cpu = (
        min((getattr(times[name], what) for name in peers), default=np.nan)
        for what in ("median", "cpu")
    )
    rows = []
    for name, taken in times.items():
        rates = {
            "image-steps/s": done / taken.median,
            "slowest": done / taken.high,
            "fastest": done / taken.low,
        }
        ratios = {
            "× peer": wall / taken.median,
            "× peer, cpu": cpu / taken.cpu if taken.cpu else np.nan,
        }
        rest = {"cpu s": taken.cpu, "first call s": first[name], "accuracy": accuracy[name]}
        rows.append({"network": subject.title, "attack": name} | rates | ratios | rest)
    return pd.DataFrame(rows)


# Evaluation


def evaluation(subject: Subject, options: argparse.Namespace) -> pd.DataFrame:
    """Every kind of attack by everybody who has it,
    batch by batch until the images or the seconds are used up.
    """
    tables = []
    budget = Budget(steps=50, restarts=10)
    if options.quick:
        budget = Budget(steps=3, restarts=2, apgd_steps=5, queries=20)
    for kind in options.attacks.split(","):
        contenders = _contenders(kind, subject, budget, options)
        runs = {}
        for name, attack in contenders.items():
            runs[name] = run(attack, subject, options.eval_batch, options.budget)
            print(
                f"  {kind}, {name}: {len(runs[name][0])} images, {runs[name][1]:.1f} s", flush=True
            )
        tables.append(evaluation_table(subject, kind, runs))
    return pd.concat(tables, ignore_index=True)


def _contenders(
    kind: str, subject: Subject, budget: Budget, options: argparse.Namespace
) -> dict[str, Attack]:
    """Ours first: the others are compared with the first."""
    made = {"ours bare": subject.model}
    for name, make in networks(subject, options).items():
        # On a CPU one alone, for time: a compiled one would compile anew for every number
        # of images that is left.
        if subject.x.is_cuda or name == "ours folded":
            made[name] = make()
    if kind == "evaluate":
        timed = {name: whole(network, subject.eps) for name, network in made.items()}
        return timed | ({} if not options.with_peers else whole_of_peers(subject, budget))
    kind = "pgd" if kind.startswith("pgd") else kind
    timed = {
        name: attackers.ours(kind, network, subject.eps, budget) for name, network in made.items()
    }
    other = attackers.others(kind, subject, budget, options.with_peers)
    if kind == "square" and not subject.x.is_cuda:
        other.pop("art", None)  # classifies every image anew at every query: hours on a CPU
    return timed | other


def whole(network: nn.Module, eps: float) -> Callable[[Tensor, Tensor], np.ndarray]:
    """`attacks.evaluate`, with its checks of trustworthiness;
    gives the standing images themselves.
    """

    def attack(x: Tensor, y: Tensor) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", attacks.TrustWarning)
            return attacks.evaluate(
                network, x, y, eps=eps, attacks=WHOLE, batch_size=len(x)
            ).robust[0]

    return attack


def whole_of_peers(subject: Subject, budget: Budget) -> dict[str, Attack]:
    """The same three attacks in one, each on what the last left: torchattacks' MultiAttack."""
    try:
        import torchattacks
    except ImportError:
        return {}
    made = [attackers.torchattacks(kind, subject, budget) for kind in WHOLE]
    return {"torchattacks": torchattacks.MultiAttack(made)}


def run(attack: Attack, subject: Subject, batch: int, seconds: float) -> tuple[np.ndarray, float]:
    """Which images stand (n,) bool, as many as could be tried
    in time (at least one batch), and the seconds.
    """
    standing, begun = [], time.perf_counter()
    for x, y in zip(subject.x.split(batch), subject.y.split(batch), strict=True):
        x_adv = attack(x, y)
        if isinstance(x_adv, Tensor):
            x_adv = attackers.right(subject.model, x_adv.detach().to(x.device), y).cpu().numpy()
        standing.append(x_adv)
        if time.perf_counter() - begun > seconds:
            break
    return np.concatenate(standing), time.perf_counter() - begun


def evaluation_table(
    subject: Subject, kind: str, runs: dict[str, tuple[np.ndarray, float]]
) -> pd.DataFrame:
    """One row per contender; accuracies that are compared are of the same images:
    those that this contender reached.
    """
    rows, (ours, ours_seconds) = [], next(iter(runs.values()))
    for name, (standing, seconds) in runs.items():
        n = min(len(standing), len(ours))
        missed = {
            "ours broke more": int((standing[:n] & ~ours[:n]).sum()),
            "ours broke fewer": int((ours[:n] & ~standing[:n]).sum()),
        }
        low, high = attacks.wilson(int(standing.sum()), len(standing))
        shares = {"accuracy": float(standing.mean()), "low": low, "high": high}
        shares["ours, same images"] = float(ours[:n].mean())
        times = {"seconds": seconds, "images/s": len(standing) / seconds}
        ratio = {"× ours bare": (len(standing) / seconds) / (len(ours) / ours_seconds)}
        head = {"network": subject.title, "attack": kind, "by": name, "n": len(standing)}
        rows.append(head | shares | missed | times | ratio)
    return pd.DataFrame(rows)


# Agreement


def agree(subject: Subject, options: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """Masks and gradients of every way to prepare a network that was asked for."""
    made = {name: make() for name, make in networks(subject, options).items()}
    few, steps = subject.first(options.images), 3 if options.quick else 20
    eager = {
        name: network
        for name, network in made.items()
        if subject.x.is_cuda or "compiled" not in name
    }
    strong = ("pgd-3",) if options.quick else ("apgd-ce", "apgd-t")
    masks = [agreement.pgd_masks(subject.first(options.mask_images), made, steps)]
    masks.append(agreement.evaluation_masks(few, eager, strong))
    gradients = agreement.gradients(few.first(128), made, steps // 2 + 1)
    return {
        "agreement of broken images": pd.concat(masks, ignore_index=True),
        "agreement of gradients": gradients,
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
    options = parsed(arguments)
    device = engine.device(options.device)
    torch.backends.cudnn.benchmark = device.type == "cuda"  # for everybody
    options.with_peers = peers_or_say(options)
    names = ("resnet8",) if options.quick else tuple(options.networks.split(","))
    chosen = subjects(names, device)
    tables: dict[str, pd.DataFrame] = {}
    for part in PARTS if options.only is None else options.only.split(","):
        print(
            f"{part}: {torch.get_num_threads()} threads, load {report.LOAD_AT_START:.1f}",
            flush=True,
        )
        tables |= _part(part, chosen, options)
    for title, table in tables.items():
        print(f"\n{title}\n{table.to_string(index=False, float_format='{:.4g}'.format)}")
    if not options.quick or options.folder is not None:
        name = "attacks" if options.only is None else f"attacks_{options.only.replace(',', '_')}"
        print(report.write(name, device, tables, folder=options.folder, **_notes(chosen, options)))
    return tables


def _part(part: str, chosen: list[Subject], options: argparse.Namespace) -> dict[str, pd.DataFrame]:
    if part == "speed":
        title = f"PGD-{options.steps}, batch {options.batch}"
        return {
            title: pd.concat([speed(subject, options) for subject in chosen], ignore_index=True)
        }
    trained = [subject for subject in chosen if subject.trained][:1] or chosen[:1]
    if part == "evaluation":
        return {"evaluation": evaluation(trained[0].first(options.images), options)}
    return agree(trained[0], options)


def _notes(chosen: list[Subject], options: argparse.Namespace) -> dict:
    settings = {
        name: getattr(options, name)
        for name in ("steps", "batch", "rounds", "images", "eval_batch")
    }
    accuracies = {
        s.title: float(attackers.right(s.model, s.x[:1000], s.y[:1000]).float().mean())
        for s in chosen
    }
    eps = {s.title: f"{255 * s.eps:g}/255" for s in chosen}
    return {
        "targets": TARGETS,
        "settings": settings,
        "eps": eps,
        "natural accuracy, 1000 images": accuracies,
    }


def peers_or_say(options: argparse.Namespace) -> bool:
    """Whether the peers can be imported; if not, how to get them."""
    if options.no_peers:
        return False
    warnings.filterwarnings("ignore", module=r"(art|torchattacks|foolbox|eagerpy)(\.|$)")
    try:
        loops.show_peers(options.peers)
    except loops.Missing as reason:
        print(f"left out: {reason}", flush=True)
        return False
    return True


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny sizes on the digits, to see that it runs; no JSON",
    )
    parser.add_argument("--only", default=None, help=f"parts, by commas: {','.join(PARTS)}")
    parser.add_argument("--networks", default="resnet20,resnet56")
    parser.add_argument(
        "--attacks", default=None, help=f"kinds that are evaluated, by commas: {','.join(KINDS)}"
    )
    parser.add_argument(
        "--modes",
        default=None,
        help="modes, precisions or both (folded float32) of ours, by commas; by default all",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=None,
        help="evaluated: by default 100 on a CPU, 10000 on a GPU",
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=300,
        help="seconds an attack may take, to the next batch's end",
    )
    parser.add_argument(
        "--rounds", type=int, default=None, help="of speed: by default 3 on a CPU, 10 on a GPU"
    )
    parser.add_argument(
        "--no-peers", action="store_true", help="without torchattacks, foolbox and art"
    )
    parser.add_argument(
        "--peers", default=None, help="the peers' site-packages, by default those in .venv-peers"
    )
    parser.add_argument(
        "--folder", default=None, help="where the JSON goes, by default records/benchmarks"
    )
    options = parser.parse_args(arguments)
    return sized(options, engine.device(options.device))


def sized(options: argparse.Namespace, device: torch.device) -> argparse.Namespace:
    """The sizes of a run: of a CPU, of a GPU, or tiny."""
    gpu = device.type == "cuda"
    options.steps, options.batch = (3, 16) if options.quick else (20, 128)
    # the last is as it is: long
    options.attacks = options.attacks or ",".join(KINDS[: -1 if options.quick else None])
    options.rounds = options.rounds or (1 if options.quick else 10 if gpu else 3)
    options.images = options.images or (24 if options.quick else 10_000 if gpu else 100)
    options.mask_images = min(options.images, 24) if options.quick else 10_000 if gpu else 1000
    options.eval_batch = 1000 if gpu else min(options.images, 128)
    return options


if __name__ == "__main__":
    report.command(main)
