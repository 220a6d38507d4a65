"""The benchmark of attacks: its arithmetic, who is compared,
and that our fast passes are the plain loop's.
"""

import os
import subprocess
import sys
import time

import environments
import numpy as np
import pytest
import torch
from attacked import digits
from torch import nn

from arlib import attacks, engine
from arlib.tables import benchmarks as stored
from benchmarks import agreement, attackers, loops, report, subjects
from benchmarks import attacks as benchmark
from benchmarks.attackers import Budget
from benchmarks.subjects import Subject

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def subject():
    model, x, y = digits()
    return Subject("resnet8", "digits", model, x, y, 0.08, True)


# Agreement: what the benchmark claims of the fast passes, on a small trained network


@pytest.fixture(scope="module")
def passes(subject):
    modes = [("folded", "float32"), ("folded", "bfloat16")]
    return {
        f"{mode} {precision}": attackers.prepared(subject, mode, precision)
        for mode, precision in modes
    }


@pytest.mark.slow
def test_folded_passes_break_the_plain_loops_images(subject, passes):
    table = agreement.pgd_masks(subject, passes, steps=20).set_index("passes")
    assert 0.2 < table["plain accuracy"].iloc[0] < 0.8  # so that there is something to agree on
    assert table.loc["folded float32", "share"] <= agreement.TARGETS["masks"]
    assert table.loc["folded bfloat16", "share"] <= 0.03


def test_a_folded_evaluation_breaks_the_plain_ones_images(subject, passes):
    only = {"folded float32": passes["folded float32"]}
    (row,) = agreement.evaluation_masks(subject, only, ("pgd-10x2",)).to_dict("records")
    assert row["share"] <= agreement.TARGETS["masks"] and 0.1 < row["plain accuracy"] < 0.8
    assert row["plain accuracy"] == pytest.approx(row["fast accuracy"], abs=1e-9)


def test_folded_gradients_are_the_plain_loops(subject, passes):
    table = agreement.gradients(subject, passes, steps=4).set_index("passes")
    exact, half = table.loc["folded float32"], table.loc["folded bfloat16"]
    assert (
        exact["relative error"] <= agreement.TARGETS["gradient"] and exact["signs differing"] < 1e-3
    )
    assert (
        agreement.TARGETS["gradient"] < half["relative error"] < 0.2
        and half["signs differing"] < 0.1
    )
    assert half["zeros, fast"] <= half["zeros, plain"] + 0.01
    assert exact["images past 1e-4"] <= 0.01 < half["images past 1e-4"]
    assert 0 < table.loc["plain float64", "relative error"] <= agreement.TARGETS["gradient"]


def test_another_network_does_not_pass_as_the_same(subject):
    other = nn.Sequential(*[_Noise(0.02), subject.model])
    masks = agreement.pgd_masks(subject, {"other": other}, steps=10)
    gradients = agreement.gradients(subject, {"other": other}, steps=2)
    assert masks["share"].iloc[0] > agreement.TARGETS["masks"]
    assert gradients["relative error"].iloc[-1] > agreement.TARGETS["gradient"]


class _Noise(nn.Module):
    """Moves every image by something fixed, as a fault in a fast path would."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, x):
        return x + self.size * torch.linspace(-1, 1, x[0].numel()).view(x.shape[1:])


def test_compared_gradients_are_what_they_are_called():
    plain = torch.tensor([[3.0, 4.0, 0.0, 1.0], [0.0, 0.0, 6.0, 8.0]])
    fast = torch.tensor([[3.0, 4.0, 0.0, -1.0], [0.0, 1.0, 6.0, 0.0]])
    result = agreement.compare_gradients(plain, fast)
    assert result["relative error"] == pytest.approx(((4 + 1 + 64) / (26 + 100)) ** 0.5)
    assert result["signs differing"] == 3 / 8
    assert (result["zeros, plain"], result["zeros, fast"]) == (3 / 8, 3 / 8)


def test_the_plain_gradient_leaves_no_weight_gradients(subject):
    gradient = agreement.plain_gradient(subject.model, subject.x[:4], subject.y[:4])
    assert gradient.shape == subject.x[:4].shape and all(
        p.grad is None for p in subject.model.parameters()
    )


def test_iterates_are_those_of_the_plain_loop(subject):
    few = subject.first(20)
    result = agreement.iterates(few, 3)
    options = {"eps": few.eps, "step_size": few.eps / 4, "start": result[0]}
    for steps in (1, 2):
        crafted = loops.public_pgd(few.model, few.x, few.y, steps=steps, **options)
        assert torch.allclose(result[steps], crafted, atol=1e-6)
    few.model.zero_grad(set_to_none=True)


def test_tf32_is_put_back():
    before = torch.backends.cudnn.allow_tf32
    with agreement.without_tf32():
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


# Who is compared, and the tables' arithmetic


def test_ratios_are_over_the_fastest_other(subject):
    times = {
        "plain": report.Times(4.0, 3.0, 5.0, 4.0),
        "torchattacks": report.Times(2.0, 1.0, 4.0, 1.5),
        "ours bare": report.Times(1.0, 0.5, 2.0, 0.5),
    }
    every = dict.fromkeys(times, 0.5)
    table = benchmark.speed_table(
        subject.first(10), Budget(steps=20), times, every, every
    ).set_index("attack")
    assert list(table["× peer"]) == [0.5, 1.0, 2.0] and list(table["× peer, cpu"]) == [
        0.375,
        1.0,
        3.0,
    ]
    assert tuple(table.loc["ours bare", ["image-steps/s", "slowest", "fastest"]]) == (200, 100, 400)


def test_without_peers_nothing_is_compared(subject):
    times = {"ours bare": report.Times(1.0, 0.5, 2.0, 0.5)}
    table = benchmark.speed_table(subject, Budget(), times, {"ours bare": 0.0}, {"ours bare": 0.5})
    assert table["× peer"].isna().all() and table["image-steps/s"].iloc[0] == 20 * len(subject.x)


def test_accuracies_are_compared_on_the_images_that_both_reached(subject):
    ours, theirs = np.array([1, 0, 0, 1, 1, 1], bool), np.array([1, 1, 0, 0], bool)
    table = benchmark.evaluation_table(
        subject, "pgd", {"ours bare": (ours, 2.0), "other": (theirs, 4.0)}
    )
    (own, other) = table.to_dict("records")
    assert (
        own["accuracy"] == pytest.approx(2 / 3)
        and own["ours broke more"] == own["ours broke fewer"] == 0
    )
    assert (other["n"], other["accuracy"], other["ours, same images"]) == (4, 0.5, 0.5)
    assert (other["ours broke more"], other["ours broke fewer"]) == (1, 1)
    assert own["images/s"] == 3 and other["× ours bare"] == pytest.approx(1 / 3)


def test_a_slow_attack_stops_after_a_batch_and_says_how_far_it_came(subject):
    calls = []

    def slow(x, y):
        calls.append(len(x))
        time.sleep(0.05)
        return x

    few = subject.first(30)
    standing, seconds = benchmark.run(slow, few, 10, 0.01)
    assert calls == [10] and seconds >= 0.05
    assert (standing == attackers.right(few.model, few.x[:10], few.y[:10]).numpy()).all()
    assert len(benchmark.run(slow, few, 12, 60)[0]) == 30 and calls[1:] == [12, 12, 6]


@pytest.mark.parametrize("kind", ["pgd", "apgd-ce", "apgd-t", "square"])
def test_our_attacks_of_every_kind_stay_in_the_ball_and_break_something(subject, kind):
    few = subject.first(60)
    attack = attackers.ours(
        kind, few.model, few.eps, Budget(steps=10, restarts=2, apgd_steps=10, queries=100)
    )
    x_adv = attack(few.x, few.y)
    assert (x_adv - few.x).abs().max() <= few.eps + 1e-6
    assert (
        attackers.right(few.model, x_adv, few.y).sum()
        < attackers.right(few.model, few.x, few.y).sum()
    )


def test_the_plain_restarts_keep_what_is_broken(subject):
    few = subject.first(60)
    standing = []
    for restarts in (1, 4):
        torch.manual_seed(0)
        attack = attackers.plain("pgd", few, Budget(steps=2, restarts=restarts))
        standing.append(attackers.right(few.model, attack(few.x, few.y), few.y))
    assert (standing[1] <= standing[0]).all() and standing[1].sum() < standing[0].sum()


def test_a_whole_evaluation_gives_the_standing_images(subject, monkeypatch):
    monkeypatch.setattr(benchmark, "WHOLE", ("fgsm",))
    few = subject.first(60)
    standing = benchmark.whole(few.model, few.eps)(few.x, few.y)
    x_adv = attacks.fgsm(few.model, few.x, few.y, eps=few.eps)
    broken = ~attackers.right(few.model, x_adv, few.y) | ~attackers.right(few.model, few.x, few.y)
    assert (standing == ~broken.numpy()).mean() > 0.98


@pytest.mark.slow
def test_subjects_are_trained_and_on_images_they_know_how_to_answer():
    (result,) = subjects.subjects(("resnet8",), CPU)
    assert result.trained and result.title == "resnet8, digits"
    assert attackers.right(result.model, result.x, result.y).float().mean() > 0.9


def test_a_network_without_records_is_there_untrained():
    assert subjects.trained("resnet32", 8.0) is None and subjects.trained("resnet8", 5.0) is None


def test_modes_of_ours_can_be_chosen(subject):
    def chosen(modes):
        return list(benchmark.networks(subject, benchmark.parsed(["--modes", modes])))

    compiled = [] if engine.machine.why_not_compiled(CPU) else ["ours compiled"]
    half = (
        ["ours folded bfloat16"] if any("bfloat16" in pair for pair in attackers.modes(CPU)) else []
    )
    assert chosen("folded float32") == ["ours folded"] and chosen("float32") == [
        "ours folded",
        *compiled,
    ]
    assert chosen("folded") == ["ours folded", *half]
    network = benchmark.networks(subject, benchmark.parsed(["--modes", "folded"]))["ours folded"]()
    assert isinstance(network, engine.Prepared)


def test_missing_peers_are_said_and_left_out(tmp_path, capsys):
    options = benchmark.parsed(["--peers", str(tmp_path)])
    assert benchmark.peers_or_say(options) is False
    assert "python tests/environments.py peers" in capsys.readouterr().out
    assert benchmark.peers_or_say(benchmark.parsed(["--no-peers"])) is False


@pytest.mark.slow
def test_one_command_runs_and_writes_what_the_book_reads(tmp_path, capsys):
    command = [
        "--quick",
        "--device",
        "cpu",
        "--no-peers",
        "--modes",
        "folded float32",
        "--folder",
        str(tmp_path),
    ]
    tables = benchmark.main(command)
    assert set(tables) == {
        "PGD-3, batch 16",
        "evaluation",
        "agreement of broken images",
        "agreement of gradients",
    }
    written = stored.read(tmp_path / "attacks-cpu.json")
    assert list(written["tables"]["PGD-3, batch 16"]["attack"]) == [
        "plain",
        "ours bare",
        "ours folded",
    ]
    assert set(tables["evaluation"]["attack"]) == {"pgd-50x10", "apgd-ce", "apgd-t", "square"}
    assert (
        tables["agreement of gradients"]["relative error"] <= agreement.TARGETS["gradient"]
    ).all()
    assert "image-steps/s" in capsys.readouterr().out


@pytest.mark.slow
def test_the_peers_run_in_the_same_process():
    try:
        environments.python("peers")
    except environments.Unavailable as reason:
        pytest.skip(str(reason))
    command = [
        sys.executable,
        "-m",
        "benchmarks.attacks",
        "--quick",
        "--device",
        "cpu",
        "--modes",
        "folded float32",
    ]
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        command, cwd=loops.ROOT, env=quiet, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("plain", "torchattacks", "foolbox", "art", "ours bare", "ours folded"):
        assert f"  {name}: first call" in done.stdout
    for run in (
        "pgd-50x10, art",
        "apgd-ce, torchattacks",
        "apgd-t, torchattacks",
        "square, torchattacks",
    ):
        assert f"  {run}: 24 images" in done.stdout
