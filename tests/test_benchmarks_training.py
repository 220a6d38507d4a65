"""The benchmarks' logic at tiny size:
what is compared is the same thing, and what is counted is right.
"""

import copy
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from arlib import attacks, engine, models, studies
from arlib.tables import benchmarks as stored
from arlib.training import Recipe
from arlib.training.step import Step
from benchmarks import contenders, equivalence, limits, loops, training, workers
from benchmarks.loops import Setting
from benchmarks.report import Times
from benchmarks.together import Together

pytestmark = pytest.mark.slow

TINY = Setting(network="resnet8", width=4, batch=8, steps=2, images=32, size=8, lr=0.05)


def small_net(seed=0, in_channels=1):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return models.resnet(8, width=4, in_channels=in_channels).double()


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(*shape, seed=1):
    return torch.randint(10, shape, generator=torch.Generator().manual_seed(seed))


def test_pgd_of_the_public_codes_is_ours_from_the_same_start():
    model, x, y = small_net().eval(), draw(16, 1, 8, 8), labels(16)
    start = attacks.random_start(x, eps=0.1, generator=torch.Generator().manual_seed(2))
    options = {"eps": 0.1, "steps": 5, "step_size": 0.03}
    theirs = loops.public_pgd(model, x, y, start=start, **options)
    assert all(p.grad is not None for p in model.parameters())  # the waste that is timed
    ours = attacks.perturb(engine.prepare(model, mode="folded"), x, y, start=start, **options)
    assert (theirs - ours).abs().max() < 1e-6
    assert (theirs - x).abs().max() > 0.09


def test_one_step_of_the_public_loop_is_one_step_of_ours():
    x, y = draw(8, 3, 8, 8), labels(8)
    start = attacks.random_start(x, eps=TINY.eps, generator=torch.Generator().manual_seed(5))
    options = {"eps": TINY.eps, "steps": TINY.steps, "step_size": TINY.step_size}
    public = loops.Public(
        TINY, lambda model, x, y: loops.public_pgd(model, x, y, start=start, **options)
    )
    public.model.double()
    public.batches = iter([(x, y)])
    model = loops.network(TINY).double().train()
    recipe = Recipe(dataset="cifar10", eps=TINY.eps, steps=TINY.steps, lr=TINY.lr)
    step = Step(recipe, model, engine.Machine(torch.device("cpu"), "folded"))
    assert public.step() == 8
    step(x, y, torch.Generator().manual_seed(5), TINY.lr, 0.0)
    before = loops.network(TINY).double().state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(public.model.state_dict()[name], value, rtol=1e-8, atol=1e-10)
    assert any((before[name] != value).any() for name, value in model.state_dict().items())


def brightness(setting):
    """Pictures whose class is how bright they are."""
    y = np.arange(setting.images) % 10
    noise = np.random.default_rng(0).integers(0, 8, (setting.images, setting.size, setting.size, 3))
    return (25 * y[:, None, None, None] + noise).astype(np.uint8), y


def test_the_public_loop_trains(monkeypatch):
    monkeypatch.setattr(loops, "pictures", brightness)
    loop = loops.Public(
        Setting(network="resnet8", width=4, batch=32, steps=1, eps=1 / 255, images=64, lr=0.05)
    )
    losses = []
    for _ in range(24):
        before = loop.loss
        loop.step()
        losses.append((loop.loss - before) / 32)
    assert loop.seen == 24 * 32
    assert np.mean(losses[-4:]) < 0.75 * np.mean(losses[:2])


def test_pictures_from_the_loader_are_cropped_copies_in_the_unit_range():
    x, y = next(loops.public_batches(TINY))
    assert x.shape == (8, 3, 8, 8) and x.min() >= 0 and x.max() <= 1 and y.dtype == torch.int64


def test_missing_peers_are_named_with_the_command_that_brings_them(tmp_path):
    with pytest.raises(loops.Missing, match=r"tests/environments\.py peers"):
        loops.show_peers(tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", loops.PEERS)
def test_peers_attack_inside_the_same_ball_and_raise_the_loss(name):
    try:
        loops.show_peers()
        craft = loops.PEERS[name](TINY)
    except loops.Missing as reason:
        pytest.skip(str(reason))
    model = loops.network(TINY).eval()
    x, y = draw(8, 3, 8, 8).float(), labels(8)
    crafted = craft(model, x, y)
    assert (
        (crafted - x).abs().max() <= TINY.eps + 1e-6 and crafted.min() >= 0 and crafted.max() <= 1
    )
    assert F.cross_entropy(model(crafted), y) > F.cross_entropy(model(x), y)


def test_vectorised_steps_are_separate_steps():
    networks, eps = [small_net(seed) for seed in range(3)], [0.0, 0.05, 0.2]
    one = Together(networks, eps=eps, steps=3, lr=0.05)
    apart = [copy.deepcopy(network).train() for network in networks]
    optimizers = [
        torch.optim.SGD(n.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4) for n in apart
    ]
    generator = torch.Generator().manual_seed(0)
    for turn in range(3):
        x, y = draw(3, 6, 1, 8, 8, seed=turn), labels(3, 6, seed=turn)
        starts = [attacks.random_start(x[i], eps=eps[i], generator=generator) for i in range(3)]
        losses = one.step(x, y, torch.stack(starts))
        for i, network in enumerate(apart):
            frozen = engine.prepare(network, mode="plain")
            crafted = attacks.perturb(frozen, x[i], y[i], eps=eps[i], steps=3, start=starts[i])
            value = F.cross_entropy(network(crafted), y[i])
            assert losses[i].item() == pytest.approx(value.item(), rel=1e-10)
            optimizers[i].zero_grad()
            value.backward()
            optimizers[i].step()
    for together, network in zip(one.networks(), apart, strict=True):
        # batch statistics and their counters, too
        for name, value in together.state_dict().items():
            expected = network.state_dict()[name].double()
            assert (value - expected).norm() <= 1e-10 * expected.norm(), name


def test_vectorised_step_in_bfloat16_is_near_the_one_in_float32():
    x, y = draw(2, 8, 1, 8, 8).float(), labels(2, 8)
    networks = [small_net(seed).float() for seed in range(2)]
    full, half = (
        Together(networks, eps=[0.0, 0.0], steps=1, precision=precision).step(x, y, x)
        for precision in ("float32", "bfloat16")
    )
    assert full.dtype == half.dtype == torch.float32
    assert not torch.equal(full, half)
    torch.testing.assert_close(half, full, rtol=0.03, atol=0.03)


@pytest.mark.slow
def test_worker_processes_answer_and_one_that_dies_is_quoted():
    rates, _ = workers.processes(TINY, 2, "ours folded float32", 1, 2)
    assert len(rates) == 2 and all(0 < rate < math.inf for rate in rates)
    with pytest.raises(loops.Missing, match=r"died.*nonsense"):
        workers.processes(TINY, 1, "ours nonsense float32", 1, 1)


def test_throughput_counts_batches_and_images():
    taken = {"a": 0, "b": 0}

    def loop(name, images):
        def step():
            taken[name] += 1
            return images

        return SimpleNamespace(step=step)

    result = training.throughput({"a": loop("a", 8), "b": loop("b", 32)}, TINY, batches=3, rounds=2)
    assert taken == {"a": 6, "b": 6}
    assert [images for _, images in result.values()] == [24, 96]


def test_the_ceiling_is_that_of_the_fastest_convolution(monkeypatch):
    fastest = "convolution of 64 channels at 8"

    def times(calls, *_, **__):
        return {name: Times.of([(1e-3 if name == fastest else 1.0, 1.0)]) for name in calls}

    monkeypatch.setattr(limits.report, "interleaved", times)
    result = limits.ceilings("cpu", ["float32"], quick=True)
    assert result.ceiling.tolist() == ["matrix product, float32", f"{fastest}, float32", "copy"]
    assert result.value[0] == pytest.approx(2 * 512**3 / 1e12)
    assert limits.highest(result, "float32") == pytest.approx(2 * 16 * 8 * 8 * 64**2 * 9 / 1e9)


def test_a_row_divides_images_by_seconds_and_knows_its_ceiling():
    ceilings = pd.DataFrame(
        [["matrix product, float32", 1.0], ["convolution, float32", 2.0], ["copy", 10.0]],
        columns=["ceiling", "value"],
    )
    times, work = Times(2.0, 1.0, 4.0, 2.0), limits.Work(flops=1e9, bytes=1e6)
    row = training._row("ours folded float32", TINY, 4, 5.5, times, 1000, work, ceilings)
    assert (row["images/s"], row["low"], row["high"], row["epoch s"]) == (500, 250, 1000, 90)
    assert row["start s"] == 5.0  # the first step, less a usual one of half a second
    assert row["TFLOP/s"] == pytest.approx(0.5) and row["of ceiling"] == pytest.approx(0.25)
    assert row["of copy"] == pytest.approx(0.05)
    table = training.against_peers(pd.DataFrame([row, row | {"loop": "public", "images/s": 200.0}]))
    assert table["× fastest peer"].tolist() == [2.5, 1.0]


def test_work_of_a_step_is_counted():
    x, w = torch.rand(2, 3, 8, 8), torch.rand(5, 3, 3, 3)
    flops, moved = limits.counts(lambda: F.conv2d(x, w, padding=1))
    assert flops == 2 * 2 * 5 * 8 * 8 * 3 * 9
    assert moved == 4 * (x.numel() + w.numel() + 2 * 5 * 8 * 8)
    assert limits.counts(lambda: x.flatten(1).unsqueeze(0)) == (0, 0)
    setting = Setting(network="resnet8", steps=10, size=16)
    model = loops.network(setting).eval()
    forward, _ = limits.counts(lambda: model(torch.rand(1, 3, 16, 16)))
    stem = 2 * 16 * 3 * 9 * 16 * 16  # training needs no gradient of the images
    assert limits.work(setting).flops == pytest.approx((2 * 10 + 3) * forward - stem, rel=1e-6)


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        ([0.1, -0.2, 0.3, 0.0, -0.1], "equivalent"),
        # surely above 0, and surely within the margin
        ([0.30, 0.31, 0.29, 0.30, 0.32], "equivalent"),
        ([0.9, 1.1, 1.0, 0.95, 1.05], "different"),
        ([2.0, -2.0, 1.0, -1.0, 0.5], "not shown"),
        ([-3.0, -2.5, -3.5, -3.2, -2.8], "different"),
    ],
)
def test_verdicts_follow_the_ninety_percent_t_interval(differences, word):
    mean, low, high, answer = equivalence.verdict(differences, 1.0)
    # t at .95 with 4 degrees of freedom
    half = 2.131847 * np.std(differences, ddof=1) / math.sqrt(5)
    assert (low, high) == pytest.approx((mean - half, mean + half), rel=1e-6)
    assert answer == word


def test_differences_are_points_and_medians_of_log_ratios():
    plain = {
        "natural error": 10.0,
        "strong error": 50.0,
        "std": [1.0, 2.0, 4.0],
        "std / mean": [1.0, 1.0, 1.0],
    }
    fast = {
        "natural error": 9.5,
        "strong error": 51.0,
        "std": [1.1, 2.2, 40.0],
        "std / mean": [1.0, 1.0, 2.0],
    }
    result = equivalence.difference(plain, fast)
    assert (result["natural error"], result["strong error"], result["std / mean"]) == (
        -0.5,
        1.0,
        0.0,
    )
    assert result["std"] == pytest.approx(math.log(1.1))


def test_seconds_to_accuracy_are_training_seconds_of_whole_epochs():
    history = pd.DataFrame(
        {"val_robust_error": [0.9, 0.6, 0.7, 0.5], "images_per_second": [100.0, 200.0, 100.0, 50.0]}
    )
    assert equivalence.seconds_to(history, 0.6, 1000) == 15
    assert equivalence.seconds_to(history, 0.5, 1000) == 45
    assert math.isnan(equivalence.seconds_to(history, 0.4, 1000))


# networks of one batch: collapsed, and their robustness not to be trusted
@pytest.mark.filterwarnings("ignore")
def test_each_fast_side_has_a_result_of_its_own():
    sides = [
        equivalence.Side(*pair)
        for pair in (("folded",), ("compiled+graphed",), ("compiled", "bfloat16-attack"))
    ]
    asked = [
        (side, {"size": size, "batch": n})
        for side in sides
        for size in ("reduced", "a-study", "full")
        for n in (None, 512)
    ]
    result = [equivalence.result_name(side, **options) for side, options in asked]
    assert result[0] == "equivalence_reduced_folded_float32" and len(set(result)) == len(asked)
    assert all(stored.benchmark(f"{name}-cuda") is None for name in result), (
        "names that can be read back"
    )


def test_the_trainings_of_a_study_are_compared_at_its_own_strengths():
    plan = equivalence.planned(
        equivalence.parsed(["--study", "cifar10-resnet20-small", "--pairs", "2"]), "cpu", Path()
    )
    entries = [entry.run for entry in studies.load("cifar10-resnet20-small").entries]
    assert [(r.strength, r.seed) for r in plan.recipes] == [
        (0, 0),
        (8, 0),
        (0, 1),
        (8, 1),
    ] and plan.pairs == 2
    assert all(recipe.id in entries for recipe in plan.recipes) and plan.eps == 8 / 255
    assert equivalence.planned(equivalence.parsed(["--reduced"]), "cpu", Path()).pairs == 16


@pytest.mark.slow
def test_equivalence_keeps_what_it_trained_and_goes_on_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(equivalence, "STRONG", ("pgd-10",))
    recipe = Recipe(
        dataset="digits", model="resnet8", width=4, steps=2, epochs=3, monitor_images=16
    )
    plan = equivalence.Plan(
        tuple(equivalence.paired(recipe, 32 / 255, 2)), 32 / 255, 24, tmp_path, "cpu"
    )
    table, pairs = equivalence.compare(plan, equivalence.Side("folded"))
    assert len(pairs) == 2 * 2 * 4 and set(table.strength) == {0, 32}
    fooled = (table.quantity == "strong error") & (table[["plain", "fast"]] > 99.5).all(axis=1)
    assert table.verdict[~fooled].isin(["equivalent", "different", "not shown"]).all()
    assert (table.verdict[fooled] == "says nothing: all are fooled").all()
    assert len(list(tmp_path.glob("plain-float32/*/last.safetensors"))) == 4
    monkeypatch.setattr(equivalence, "trained", lambda *_: pytest.fail("trained again"))
    pd.testing.assert_frame_equal(equivalence.compare(plan, equivalence.Side("folded"))[0], table)


@pytest.mark.slow
def test_the_command_writes_its_tables(tmp_path):
    training.main(
        [
            "--device",
            "cpu",
            "--quick",
            "--no-peers",
            "--only",
            "public,folded float32",
            "--rounds",
            "1",
            "--folder",
            str(tmp_path),
        ]
    )
    content = json.loads((tmp_path / "training-cpu.json").read_text())
    (name, table), *_ = content["tables"].items()
    assert name.startswith("resnet8") and [row[1] for row in table["rows"]] == [
        "public",
        "ours folded float32",
    ]


def test_contenders_are_those_the_device_has():
    result = contenders.names("cpu", peers=False)
    assert (
        result[0] == "public"
        and "ours plain float32" in result
        and not any("graphed" in name for name in result)
    )
