"""PGD and FGSM: the oracles that are theorems, and the pitfalls other implementations fell into."""

import pytest
import torch
from attacked import (
    binary,
    convolutional,
    digits,
    generator,
    linear,
    pictures,
    right,
    smallest_perturbation,
)
from torch import nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from arlib import attacks, engine
from arlib.attacks import steps as parts
from arlib.attacks.apgd import climb as climb_apgd
from arlib.attacks.losses import Goal
from arlib.attacks.pgd import climb

NORMS = ("linf", "l2")
LOSSES = ("ce", "margin")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", LOSSES)
def test_pgd_breaks_a_linear_model_exactly_from_its_smallest_perturbation_on(norm, loss):
    model, x, y = linear()
    distance = smallest_perturbation(model, x, y, norm)
    assert (distance < 0.39).all()  # pixels lie within 0.1 of 0.5: the balls lie inside [0, 1]
    for factor, broken in ((0.999, False), (1.001, True)):
        eps = factor * distance
        x_adv = attacks.pgd(model, x, y, eps=eps, steps=60, norm=norm, loss=loss)
        assert (right(model, x_adv, y) != broken).all()
        assert (parts.norms(x_adv - x, norm) <= eps + 1e-9).all()


def test_fgsm_is_exact_for_a_linear_model_and_one_step_of_length_eps():
    model, x, y = linear()
    distance = smallest_perturbation(model, x, y, "linf")
    for factor, broken in ((0.999, False), (1.001, True)):
        x_adv = attacks.fgsm(model, x, y, eps=factor * distance)
        assert (right(model, x_adv, y) != broken).all()
    assert torch.allclose((attacks.fgsm(model, x, y, eps=0.01) - x).abs(), torch.full_like(x, 0.01))


@pytest.mark.parametrize("attack", ["pgd", "fgsm", "apgd", "square", "minimum_norm"])
def test_the_model_is_left_as_it_was_module_by_module(attack):
    model, x = convolutional(), pictures(4)
    model.train()
    model[3].eval()  # a mix of modes
    model[5].bias.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    options = {} if attack == "minimum_norm" else {"eps": 0.1}
    options |= {"fgsm": {}, "square": {"queries": 5}}.get(attack, {"steps": 3})
    getattr(attacks, attack)(model, x, torch.tensor([0, 1, 2, 3]), **options)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == [True] * 5 + [False]
    assert all(p.grad is None for p in model.parameters())


def test_crafting_uses_eval_mode_whatever_mode_the_model_is_in():
    model, x = convolutional(), pictures()
    y = model(x).argmax(1)
    expected = attacks.pgd(model, x, y, eps=0.1)
    assert torch.equal(attacks.pgd(model.train(), x, y, eps=0.1), expected)


def test_a_callers_image_is_not_changed_and_needs_no_gradient():
    model, x = convolutional(), pictures()
    kept = x.clone()
    with torch.no_grad():  # as a caller may well have it
        x_adv = attacks.pgd(model, x, model(x).argmax(1), eps=0.1)
    assert torch.equal(x, kept) and not x_adv.requires_grad and x_adv.is_contiguous()


@pytest.mark.parametrize("norm", NORMS)
def test_batch_split_and_order_do_not_matter(norm):
    """Exact in float64 with a random stream per image;
    in float32 rounding flips the sign of small gradients.
    """
    model, x = convolutional(dtype=torch.float64), pictures(dtype=torch.float64)
    y, order = model(x).argmax(1), torch.randperm(24, generator=generator())

    def run(index):
        return attacks.pgd(
            model,
            x[index],
            y[index],
            eps=0.05,
            norm=norm,
            restarts=2,
            generator=attacks.Streams(3, index.tolist()),
        )

    together = run(torch.arange(24))
    assert torch.allclose(run(order), together[order], atol=1e-12)
    split = torch.cat([run(part) for part in torch.arange(24).split(7)])
    assert torch.allclose(split, together, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
def test_more_restarts_never_help_the_model_image_by_image(norm):
    model, x, y = digits()
    eps = 0.08 if norm == "linf" else 0.35
    standing = [
        right(
            model,
            attacks.pgd(
                model, x, y, eps=eps, steps=3, norm=norm, restarts=r, generator=generator(5)
            ),
            y,
        )
        for r in (1, 2, 5)
    ]
    assert (standing[1] <= standing[0]).all() and (standing[2] <= standing[1]).all()
    assert standing[2].sum() < standing[0].sum()


def test_the_worst_restart_is_kept_not_the_last():
    """A function that only a lucky start can leave:
    the last restart is lost for nearly every image.
    """
    model = binary(lambda x: torch.where(x[:, 0] > 0.55, -1.0, 1.0) + 0 * x.sum(1))
    x, y = torch.full((40, 2), 0.5), torch.zeros(40, dtype=torch.int64)
    hits = [
        ~right(
            model,
            attacks.pgd(model, x, y, eps=0.06, steps=1, restarts=r, generator=generator(1)),
            y,
        )
        for r in (1, 20)
    ]
    assert 0 < hits[0].sum() < 10 and hits[1].sum() > 25 and (hits[1] >= hits[0]).all()


@pytest.mark.parametrize("steps", [3, 10])
def test_success_at_any_iterate_counts_so_more_steps_are_never_weaker(steps):
    model, x, y = digits()

    def run(steps):
        return attacks.pgd(
            model, x, y, eps=0.08, step_size=0.02, steps=steps, generator=generator(2)
        )

    assert (right(model, run(2 * steps), y) <= right(model, run(steps), y)).all()


def test_an_iterate_on_the_way_counts_though_the_last_one_fails():
    def bump(x):
        return 1 - 20 * torch.relu(0.02 - (x[:, 0] - 0.53).abs())  # no hit at all, then…

    narrow = binary(lambda x: 1 - 3 * torch.exp(-(((x[:, 0] - 0.53) / 0.01) ** 2)) - 0.1 * x[:, 0])
    x, y = torch.full((1, 1), 0.5), torch.zeros(1, dtype=torch.int64)
    options = {"eps": 0.2, "step_size": 0.03, "random_start": False, "loss": "margin"}
    assert not right(narrow, attacks.pgd(narrow, x, y, steps=6, **options), y)
    assert right(
        narrow, attacks.perturb(narrow, x, y, steps=6, eps=0.2, step_size=0.03, loss="margin"), y
    )
    assert right(binary(bump), attacks.pgd(binary(bump), x, y, steps=6, **options), y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("attack", [attacks.fgsm, attacks.pgd, attacks.apgd])
def test_a_targeted_attack_raises_the_targets_probability(dtype, loss, attack):
    model = convolutional(dtype=torch.float32).to(dtype)
    x = pictures(dtype=torch.float64 if dtype == torch.float64 else torch.float32)

    def probability(x):
        return parts.forward_of(model)(x).softmax(1).gather(1, target[:, None])[:, 0]

    with torch.no_grad():
        target = parts.forward_of(model)(x).argmin(1)
        before, after = (
            probability(x),
            probability(attack(model, x, target, eps=0.05, loss=loss, targeted=True)),
        )
        assert (after > before).all()
        untargeted = probability(attack(model, x, target, eps=0.05, loss=loss))
        assert (untargeted < before).all()


@pytest.mark.parametrize("norm", NORMS)
def test_perturbations_stay_within_fp32_rounding_of_the_ball_and_in_range(norm):
    model, x, y = digits()
    eps = 8 / 255 if norm == "linf" else 0.5
    x_adv = attacks.pgd(model, x, y, eps=eps, norm=norm, restarts=2)
    assert parts.norms(x_adv - x, norm).max() <= eps + 1e-6
    assert x_adv.min() >= 0 and x_adv.max() <= 1


def test_eps_means_pixels_whatever_the_normalisation():
    model, x, y = linear()
    normalised = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, dtype=torch.float64))
    with torch.no_grad():  # the same function written as normalisation (x − .5) / .25 and a layer
        normalised[1].weight.copy_(model[1].weight * 0.25)
        normalised[1].bias.copy_(model[1].bias + model[1].weight.sum(1) * 0.5)
    with_layer = nn.Sequential(_Normalise(), normalised)
    assert torch.allclose(with_layer(x), model(x))
    both = [attacks.pgd(m, x, y, eps=0.05) for m in (model, with_layer)]
    assert torch.allclose(*both, atol=1e-9)


class _Normalise(nn.Module):
    def forward(self, x):
        return (x - 0.5) / 0.25


def test_random_start_off_begins_at_the_image():
    model, x, y = linear(3)
    one = attacks.pgd(model, x, y, eps=0.05, steps=1, step_size=0.05, random_start=False)
    assert torch.allclose(one, attacks.fgsm(model, x, y, eps=0.05))


def test_a_generator_is_used_up_and_its_seed_matters():
    model, x = convolutional(), pictures()
    y, g = model(x).argmax(1), generator(4)
    first, second = (
        attacks.pgd(model, x, y, eps=0.05, steps=1, step_size=0.001, generator=g) for _ in range(2)
    )
    assert not torch.equal(first, second)
    again = attacks.pgd(model, x, y, eps=0.05, steps=1, step_size=0.001, generator=generator(4))
    assert torch.equal(first, again)


def test_the_global_random_state_is_not_touched():
    model, x = convolutional(), pictures()
    state = torch.random.get_rng_state()
    attacks.pgd(model, x, model(x).argmax(1), eps=0.1, restarts=2)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_early_stop_changes_no_verdict():
    model, x = convolutional(dtype=torch.float64), pictures(64, dtype=torch.float64)
    y = model(x).argmax(1)
    verdicts = [
        attacks.pgd(model, x, y, eps=0.03, steps=20, restarts=2, early_stop=stop)
        for stop in (False, True)
    ]
    standing = [right(model, x_adv, y) for x_adv in verdicts]
    assert 0 < standing[0].sum() < 64 and torch.equal(*standing)


def test_without_a_gradient_nothing_breaks():
    model = binary(lambda x: 1 + 0 * x.sum((1, 2, 3)))
    x = pictures(4)
    x_adv = attacks.pgd(
        model, x, torch.zeros(4, dtype=torch.int64), eps=0.1, norm="l2", random_start=False
    )
    assert torch.equal(x_adv, x)


# The bare loop


def test_perturb_is_plain_pgd_and_returns_the_last_iterate():
    model, x = convolutional(), pictures()
    y = model(x).argmax(1)
    start = attacks.random_start(x, eps=0.05, generator=generator())
    with engine.frozen(model) as f:
        x_adv = attacks.perturb(f, x, y, eps=0.05, steps=4, start=start)
        expected = start
        for _ in range(4):  # the definition
            z = expected.clone().requires_grad_(True)
            torch.nn.functional.cross_entropy(f(z), y, reduction="sum").backward()
            expected = torch.minimum(
                torch.maximum(expected + 0.0125 * z.grad.sign(), x - 0.05), x + 0.05
            ).clamp(0, 1)
    assert torch.equal(x_adv, expected)


def test_perturb_makes_one_pass_a_step_and_leaves_a_prepared_network_alone():
    model = binary(lambda x: x.sum((1, 2, 3)) - 20)
    attacks.perturb(model, pictures(6), torch.zeros(6, dtype=torch.int64), eps=0.1, steps=7)
    assert model.seen == [6] * 7
    prepared = engine.prepare(convolutional())
    x = pictures()
    once = attacks.pgd(prepared, x, prepared(x).argmax(1), eps=0.1)
    assert torch.equal(once, attacks.pgd(convolutional(), x, prepared(x).argmax(1), eps=0.1))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_the_loop_asks_no_tensor_for_a_value(norm, loss):
    """So it neither waits for a GPU nor breaks a captured graph:
    fake tensors have no values to ask for.
    """
    with FakeTensorMode():
        weight = torch.empty(4, 1, 3, 3)

        def f(x):
            return nn.functional.conv2d(x, weight).relu().mean((2, 3))

        x, y = torch.empty(5, 1, 6, 6), torch.empty(5, dtype=torch.int64)
        # one per image, as well as numbers
        size = {"eps": torch.empty(5), "step_size": torch.empty(5)}
        for options in ({"eps": 0.1, "start": x}, {"targeted": loss != "dlr", **size}):
            assert attacks.perturb(f, x, y, norm=norm, loss=loss, **options).shape == x.shape
        start = (parts.forward_of(f), parts.BALLS[norm](x, 0.1), x, Goal(y, loss))
        climb(*start, best := parts.Best(x), 3, 0.02)
        climb_apgd(*start, best, 10)
        with pytest.raises(DynamicOutputShapeException):  # that such a test can fail
            climb(*start, best, 3, 0.02, early_stop=True)


def test_more_steps_wait_no_more_often():
    """All of pgd: what it asks of the device does not grow with its loop,
    unless it is to stop early.
    """
    asked, (model, x) = {}, (convolutional(), pictures())
    y = model(x).argmax(1)
    for stop in (False, True):
        for steps in (2, 9):
            with _Asked() as counted:
                attacks.pgd(model, x, y, eps=0.1, steps=steps, early_stop=stop)
            asked[stop, steps] = counted.times
    assert asked[False, 2] == asked[False, 9] < asked[True, 2] < asked[True, 9]


class _Asked(TorchDispatchMode):
    """Counts the operations that a GPU would have to be waited for."""

    def __init__(self):
        super().__init__()
        self.times = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.times += function.overloadpacket.__name__ in (
            "_local_scalar_dense",
            "item",
            "nonzero",
            "is_nonzero",
        )
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("attack", ["pgd", "apgd", "square"])
def test_when_broken_images_are_given_up_changes_no_verdict(monkeypatch, attack):
    """On a GPU they are counted less often, to wait less for it."""
    model, x = convolutional(dtype=torch.float64), pictures(64, dtype=torch.float64)
    y, on_cpu, dropped = model(x).argmax(1), parts.time_to_drop, []
    options = (
        {"queries": 60} if attack == "square" else {"steps": 25, "restarts": 2, "early_stop": True}
    )

    def verdict(schedule):
        steps = []
        monkeypatch.setattr(
            parts, "time_to_drop", lambda step, _: steps.append(schedule(step)) or steps[-1]
        )
        streams = attacks.Streams(0, range(64))
        standing = right(
            model, getattr(attacks, attack)(model, x, y, eps=0.03, generator=streams, **options), y
        )
        dropped.append(sum(steps) / len(steps))
        return standing

    verdicts = [
        verdict(lambda step: on_cpu(step, "cpu")),
        verdict(lambda step: on_cpu(step, "cuda")),
    ]
    assert 0 < verdicts[0].sum() < 64 and torch.equal(*verdicts)
    assert dropped[1] < dropped[0]


@pytest.mark.gpu
def test_perturb_never_waits_for_the_device():
    model, x = engine.prepare(convolutional().cuda()), pictures().cuda()
    y, g = model(x).argmax(1), torch.Generator("cuda").manual_seed(0)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for norm in NORMS:
            start = attacks.random_start(x, eps=0.1, norm=norm, generator=g)
            attacks.perturb(model, x, y, eps=0.1, norm=norm, start=start)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("norm", NORMS)
def test_perturb_from_a_start_can_be_captured_as_a_graph(norm):
    model, x = engine.prepare(convolutional().cuda()), pictures().cuda()
    y = model(x).argmax(1)
    start = attacks.random_start(
        x, eps=0.1, norm=norm, generator=torch.Generator("cuda").manual_seed(0)
    )
    captured = engine.Captured(
        lambda x, y, start: attacks.perturb(model, x, y, eps=0.1, norm=norm, start=start)
    )
    expected = attacks.perturb(model, x, y, eps=0.1, norm=norm, start=start)
    for _ in range(2):
        assert torch.allclose(captured(x, y, start), expected, atol=1e-6)
    assert captured.graph is not None and not captured.refused
