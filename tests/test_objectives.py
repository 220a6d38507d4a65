import copy
import functools
import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from arlib import attacks, cli, data, engine, models, training
from arlib.errors import InputError, RecordError
from arlib.training import awp, objectives
from arlib.training.averaging import Average

EPS = 0.1
STANDARD = "digits-resnet8-ar0-s0-627bced0"
# Every way of crafting and every loss, by the fields that choose it.
KINDS = {
    "adversarial": {},
    "trades": {"objective": "trades"},
    "mixed": {"objective": "mixed", "mix": 0.25},
    "n-fgsm": {"attack": "n-fgsm"},
    "mixed n-fgsm": {"objective": "mixed", "attack": "n-fgsm"},
    "hat": {"objective": "hat", "beta": 2.5, "gamma": 2.0, "helper": STANDARD},
}
each_kind = pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS.keys())


def recipe(**fields) -> training.Recipe:
    return training.Recipe(**{"dataset": "digits", "eps": EPS, **fields})


def seeded(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def teacher(x):
    """What labels hat's helper images here: a network of no weights."""
    return x.flatten(1)[:, :3]


def images(n=6, shape=(1, 2, 2), low=0.3, high=0.7):
    x = low + (high - low) * torch.rand(n, *shape, generator=seeded(7), dtype=torch.float64)
    return x, torch.randint(0, 3, (n,), generator=seeded(8))


def linear(classes=3, size=4) -> nn.Sequential:
    model = nn.Sequential(nn.Flatten(), nn.Linear(size, classes)).double()
    with torch.no_grad():
        for place, parameter in enumerate(model.parameters()):
            parameter.copy_(
                torch.randn(parameter.shape, generator=seeded(place), dtype=torch.float64)
            )
    return model


def small_net(dtype=torch.float64) -> nn.Module:
    """A residual network with statistics and weights that are not its first ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.resnet(8, classes=3, width=4, in_channels=1)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
                nn.init.normal_(module.running_mean)
    return model.to(dtype)


def gradients(model, value):
    return torch.autograd.grad(value, list(model.parameters()))


def state_bits(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class NoHostRead(TorchDispatchMode):
    """Fails at what makes the host wait for the device: .item(), bool(tensor), boolean indexing."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.equal)
        assert func.overloadpacket not in waits, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


# The recipe


def test_no_recorded_run_changes_its_id():
    paths = sorted(Path(__file__).parent.parent.glob("records/*/*/record.json"))
    assert paths
    for path in paths:
        recorded = json.loads(path.read_text())["recipe"]
        described = training.described(recorded)
        assert described.id == path.parent.name
        # a field that came later is written only where it is used
        assert described.to_dict() == recorded


def test_every_option_names_a_run_of_its_own_and_survives_its_dictionary():
    options = [
        {},
        *KINDS.values(),
        {"awp": 5e-3},
        {"eps_warmup": 5},
        {"ema": 0.999},
        {"objective": "trades", "beta": 1},
        {"objective": "mixed", "mix": 0.1},
        {"attack": "n-fgsm", "noise": 1},
    ]
    recipes = {recipe(**fields).id: recipe(**fields) for fields in options}
    assert len(recipes) == len(options) - 1  # adversarial is the default
    assert all(training.Recipe.from_dict(r.to_dict()) == r for r in recipes.values())


def test_the_step_of_each_attack():
    assert recipe().attack_step == EPS / 4
    assert recipe(attack="n-fgsm").attack_step == EPS
    assert (
        recipe(attack="n-fgsm", step_size=0.02).attack_step
        == recipe(step_size=0.02).attack_step
        == 0.02
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": "trade"}, "Did you mean 'trades'"),
        ({"attack": "fgsm"}, "attack is 'fgsm'; allowed: pgd, n-fgsm"),
        (
            {"beta": 1},
            "beta is 1, but has no effect with objective 'adversarial'.*to 'trades' or 'hat'",
        ),
        (
            {"objective": "trades", "mix": 0.3},
            "mix is 0.3, but has no effect with objective 'trades'",
        ),
        ({"noise": 1}, "noise is 1, but has no effect with attack 'pgd'"),
        ({"attack": "n-fgsm", "steps": 5}, "steps is 5, but has no effect with attack 'n-fgsm'"),
        (
            {"objective": "trades", "attack": "n-fgsm"},
            "attack is 'n-fgsm', but trades crafts by PGD",
        ),
        ({"objective": "trades", "beta": -1}, "beta is -1; allowed: at least 0"),
        ({"objective": "mixed", "mix": 1.5}, "mix is 1.5; allowed: 0 to 1"),
        ({"attack": "n-fgsm", "noise": -1}, "noise is -1"),
        ({"awp": 5}, "awp is 5; allowed"),
        ({"gamma": 1}, "gamma is 1, but has no effect with objective 'adversarial'"),
        ({"helper": STANDARD}, "helper is digits-.*, but has no effect .* to 'hat'"),
        ({"objective": "hat"}, "helper is '', but hat takes the labels .* same data set, digits"),
        (
            {"objective": "hat", "helper": "cifar10-resnet20-ar0-s0-55529422"},
            "standard network of the same data set, digits",
        ),
        (
            {"objective": "hat", "helper": STANDARD.replace("ar0", "ar8")},
            "helper is 'digits-resnet8-ar8-.*'; allowed: the id of a run of AR strength 0",
        ),
        (
            {"objective": "hat", "helper": STANDARD, "attack": "n-fgsm"},
            "attack is 'n-fgsm', but hat crafts by PGD",
        ),
        ({"eps_warmup": 61}, "eps_warmup is 61; allowed: 0 to the 60 epochs"),
        ({"ema": 1}, "ema is 1; allowed: at least 0 and below 1"),
        ({"ema": "yes"}, "ema is 'yes'; it must be a number"),
    ],
)
def test_bad_options_are_named(fields, message):
    with pytest.raises(InputError, match=message):
        recipe(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"objective": "trades", "beta": 3.0},
        {
            "objective": "mixed",
            "mix": 0.25,
            "attack": "n-fgsm",
            "noise": 1.0,
            "awp": 0.01,
            "eps_warmup": 2.0,
        },
        {"ema": 0.99},
        {"objective": "hat", "beta": 2.5, "gamma": 1.0, "helper": STANDARD},
    ],
)
def test_the_command_takes_every_option(fields, monkeypatch, tmp_path):
    options = [
        text
        for name, value in fields.items()
        for text in (f"--{name.replace('_', '-')}", str(value))
    ]
    seen = []
    monkeypatch.setattr(
        training,
        "train",
        lambda recipe, **_: seen.append(recipe) or training.Run(recipe, *[[]] * 3),
    )
    monkeypatch.setattr(
        "sys.argv",
        ["arlib", "train", "digits", "--strength", "8", "--store", str(tmp_path), *options],
    )
    with pytest.raises(SystemExit):
        cli.main()
    assert seen == [training.Recipe(dataset="digits", eps=8 / 255, **fields)]


@pytest.mark.parametrize(
    "option", [["--objective", "trades"], ["--attack", "n-fgsm"], ["--eps-warmup", "3"]]
)
def test_the_command_refuses_options_of_an_attack_at_strength_0(option, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["arlib", "train", "digits", *option])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "strength 0 trains unattacked. Give --strength." in capsys.readouterr().err


def test_the_warm_up_is_linear_and_then_exactly_eps():
    warm = recipe(eps=8 / 255, eps_warmup=5)
    assert [objectives.radius(warm, done) for done in (0, 2.5, 5, 60)] == [
        0,
        4 / 255,
        8 / 255,
        8 / 255,
    ]
    assert objectives.radius(recipe(eps=8 / 255), 0) == 8 / 255


# Crafting, where the answer is known


def two_class():
    """A linear model, images away from the pixel range's ends,
    and the direction that the second class gains by.
    """
    model = linear(classes=2)
    x, _ = images()
    return model, x, (model[1].weight[1] - model[1].weight[0]).detach().view(1, 2, 2)


@pytest.mark.parametrize("fields", [{}, {"objective": "mixed"}])
@pytest.mark.parametrize("share", [1, 0.5, 0])
def test_pgd_reaches_the_corner_of_todays_ball(fields, share):
    model, x, towards = two_class()
    y = torch.tensor([0, 1, 0, 1, 0, 1])
    sign = torch.where(y == 0, 1, -1).view(-1, 1, 1, 1) * towards.sign()
    crafted = objectives.examples(
        engine.prepare(model), x, y, recipe(**fields), share * EPS, seeded()
    )
    assert torch.allclose(crafted, x + share * EPS * sign, atol=1e-15, rtol=0)


@pytest.mark.slow
@given(st.floats(0, 3), st.floats(0, 1), st.sampled_from([None, 0.03]))
def test_n_fgsm_is_one_step_from_wide_noise_and_stays_in_the_pixel_range_only(
    noise, share, step_size
):
    model, _, towards = two_class()
    x, y = images(low=0.0, high=1.0)[0], torch.zeros(6, dtype=torch.int64)
    r = recipe(attack="n-fgsm", noise=noise, step_size=step_size)
    u = 2 * torch.rand(x.shape, generator=seeded(3), dtype=x.dtype) - 1
    start = (x + noise * share * EPS * u).clamp(0, 1)
    crafted = objectives.examples(engine.prepare(model), x, y, r, share * EPS, seeded(3))
    expected = (start + share * (step_size or EPS) * towards.sign()).clamp(0, 1)
    assert torch.allclose(crafted, expected, atol=1e-14, rtol=0)


def test_n_fgsm_leaves_the_ball():
    model, x, _ = two_class()
    y = torch.zeros(6, dtype=torch.int64)
    crafted = objectives.examples(
        engine.prepare(model), x, y, recipe(attack="n-fgsm"), EPS, seeded()
    )
    assert EPS * 1.5 < (crafted - x).abs().max() <= 3 * EPS + 1e-12


def test_trades_goes_on_from_its_noise_to_the_corner_on_that_side():
    model, x, towards = two_class()
    r, y = recipe(objective="trades"), torch.zeros(6, dtype=torch.int64)  # labels play no part
    start = x + 0.001 * torch.randn(x.shape, generator=seeded(1), dtype=x.dtype)
    side = ((start - x) * towards).sum((1, 2, 3)).sign().view(-1, 1, 1, 1)
    assert set(side.flatten().tolist()) == {-1.0, 1.0}
    crafted = objectives.examples(engine.prepare(model), x, y, r, EPS, seeded(1))
    assert torch.allclose(crafted, x + EPS * side * towards.sign(), atol=1e-15, rtol=0)
    assert torch.equal(
        crafted, objectives.examples(engine.prepare(model), x, 1 - y, r, EPS, seeded(1))
    )


def test_trades_moves_the_answer_further_than_noise_does():
    model = small_net().eval()
    x, y = images(32, (1, 8, 8), 0, 1)
    r = recipe(objective="trades")

    def moved(images):
        with torch.no_grad():
            return objectives.divergence(model(images), model(x).log_softmax(1))

    attacked = moved(objectives.examples(engine.prepare(model), x, y, r, EPS, seeded()))
    noise = moved(attacks.random_start(x, eps=EPS, generator=seeded()))
    assert (attacked > noise).all() and attacked.mean() > 5 * noise.mean()


@each_kind
def test_crafting_stays_in_bounds_and_touches_neither_network_nor_global_generator(fields):
    model = small_net(torch.float32).train()
    x, y = images(16, (1, 8, 8), 0, 1)
    x, before, drawn = x.float(), state_bits(model), torch.get_rng_state()
    r = recipe(**fields)
    crafted = objectives.examples(engine.prepare(model), x, y, r, EPS, seeded())
    assert (
        same(before, state_bits(model))
        and model.training
        and torch.equal(drawn, torch.get_rng_state())
    )
    reach = 3 * EPS if r.attack == "n-fgsm" else EPS
    assert crafted.shape == x.shape and crafted.min() >= 0 and crafted.max() <= 1
    assert 0.5 * EPS < (crafted - x).abs().max() <= reach + 1e-6


@each_kind
def test_crafting_sees_the_weights_of_now(fields):
    model, (x, y) = small_net(), images(8, (1, 8, 8), 0, 1)
    prepared, r = engine.prepare(model), recipe(**fields)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1)
    late = objectives.examples(prepared, x, y, r, EPS, seeded())
    assert torch.equal(late, objectives.examples(engine.prepare(model), x, y, r, EPS, seeded()))


@each_kind
def test_images_do_not_depend_on_their_batch(fields):
    prepared, r = engine.prepare(small_net()), recipe(**fields)
    x, y = images(12, (1, 8, 8), 0, 1)
    order = torch.randperm(12, generator=seeded(2))
    whole = objectives.examples(prepared, x, y, r, EPS, attacks.Streams(0, range(12)))
    parts = [
        objectives.examples(prepared, x[part], y[part], r, EPS, attacks.Streams(0, part.tolist()))
        for part in order.split(5)
    ]
    assert torch.allclose(torch.cat(parts), whole[order], atol=1e-12, rtol=0)
    value = [
        objectives.loss(prepared, x[i], whole[i], y[i], r, teacher)[0]
        for i in (torch.arange(12), order)
    ]
    assert torch.allclose(*value, atol=0, rtol=1e-12)


@each_kind
def test_the_radius_may_be_a_tensor(fields):
    prepared, r = engine.prepare(small_net()), recipe(**fields)
    x, y = images(8, (1, 8, 8), 0, 1)
    eps = torch.tensor(0.7 * EPS, dtype=torch.float64)
    as_tensor = objectives.examples(prepared, x, y, r, eps, seeded())
    assert torch.allclose(
        as_tensor, objectives.examples(prepared, x, y, r, float(eps), seeded()), atol=1e-15, rtol=0
    )
    assert torch.equal(objectives.examples(prepared, x, y, r, 0 * eps, seeded()), x)


@each_kind
def test_a_recipe_without_attack_trains_on_the_images_themselves(fields):
    model, (x, y) = linear(), images()
    r, generator = recipe(eps=0, **fields), seeded()
    assert objectives.examples(engine.prepare(model), x, y, r, 0.0, generator) is x
    assert torch.equal(generator.get_state(), seeded().get_state())
    assert torch.equal(objectives.loss(model, x, x, y, r)[0], F.cross_entropy(model(x), y))


def worst(model, crafted, y, x, r):
    """The network at its worst weights for one batch, on one process."""
    machine = engine.Machine(torch.device("cpu"))
    return awp.perturbed(model, [(x, crafted, y)], r, machine, helper=teacher)


@each_kind
def test_a_step_never_waits_for_the_device(fields):
    model = small_net(torch.float32).train()
    x, y = images(8, (1, 8, 8), 0, 1)
    r, x, prepared, average = (
        recipe(awp=5e-3, **fields),
        x.float(),
        engine.prepare(model),
        Average(model, 0.99),
    )
    eps = torch.tensor(EPS)
    prepared.compare(x)
    with NoHostRead():
        crafted = objectives.examples(prepared, x, y, r, eps, seeded())
        with worst(model, crafted, y, x, r):
            objectives.loss(model, x, crafted, y, r, teacher)[0].backward()
        average.update(model)
    with pytest.raises(AssertionError, match="waits"), NoHostRead():
        x.sum().item()


# Losses


def pair(model):
    x, y = images()
    return x, (x + EPS * torch.randn(x.shape, generator=seeded(5), dtype=x.dtype)).clamp(0, 1), y


def test_trades_gradient_by_hand():
    model = linear()
    x, crafted, y = pair(model)
    beta = 2.5
    value, logits = objectives.loss(model, x, crafted, y, recipe(objective="trades", beta=beta))
    weight, bias = gradients(model, value)
    with torch.no_grad():
        p, q = model(x).softmax(1), model(crafted).softmax(1)
        kl = (p * (p / q).log()).sum(1, keepdim=True)
        # (n, 3), d value / d logits of x
        by_x = (p - F.one_hot(y, 3) + beta * p * ((p / q).log() - kl)) / len(x)
        by_crafted = beta * (q - p) / len(x)
        expected = by_x.T @ x.flatten(1) + by_crafted.T @ crafted.flatten(1)
        assert torch.allclose(value, F.cross_entropy(model(x), y) + beta * kl.mean(), atol=1e-14)
        assert torch.allclose(weight, expected, atol=1e-14)
        assert torch.allclose(bias, (by_x + by_crafted).sum(0), atol=1e-14)
        assert torch.equal(logits, model(crafted))


def test_hat_by_hand():
    """TRADES' gradient, and cross-entropy twice as far away, at labels that are not the images'."""
    model, standard = linear(), linear(size=4)
    x, crafted, y = pair(model)
    with torch.no_grad():
        standard[1].weight.neg_()
    fields = {"objective": "hat", "beta": 2.5, "helper": STANDARD}
    r = recipe(**fields, gamma=0.75)
    value, logits = objectives.loss(model, x, crafted, y, r, standard)
    trades, _ = objectives.loss(model, x, crafted, y, recipe(objective="trades", beta=2.5))
    with torch.no_grad():
        labels = standard(crafted).argmax(1)
        far = 2 * crafted - x
        q = model(far).softmax(1)
        by_far = 0.75 * (q - F.one_hot(labels, 3)) / len(x)
        helped = -0.75 * q[torch.arange(len(x)), labels].log().mean()
    assert (labels != y).any()
    assert torch.allclose(
        objectives.helper_images(x + 0.5, crafted + 0.5), far + 0.5
    )  # not clipped
    assert torch.allclose(value, trades + helped, atol=1e-14)
    weight, bias = gradients(model, value)
    more = gradients(model, trades)
    assert torch.allclose(weight, more[0] + by_far.T @ far.flatten(1), atol=1e-14)
    assert torch.allclose(bias, more[1] + by_far.sum(0), atol=1e-14)
    assert torch.equal(logits, model(crafted))
    assert all(parameter.grad is None for parameter in standard.parameters())
    none, _ = objectives.loss(model, x, crafted, y, recipe(**fields, gamma=0), standard)
    assert torch.equal(none, trades)


@pytest.mark.parametrize(
    ("fields", "natural", "adversarial"),
    [
        ({"objective": "trades", "beta": 0}, 1, 0),
        ({"objective": "mixed", "mix": 1}, 1, 0),
        ({"objective": "mixed", "mix": 0}, 0, 1),
        ({"objective": "mixed", "mix": 0.25}, 0.25, 0.75),
        ({"objective": "adversarial"}, 0, 1),
        ({"attack": "n-fgsm"}, 0, 1),
    ],
)
def test_losses_that_are_cross_entropies(fields, natural, adversarial):
    model = linear()
    x, crafted, y = pair(model)
    value, logits = objectives.loss(model, x, crafted, y, recipe(**fields))
    expected = natural * F.cross_entropy(model(x), y) + adversarial * F.cross_entropy(
        model(crafted), y
    )
    for mine, theirs in zip(gradients(model, value), gradients(model, expected), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-15, rtol=1e-13)
    assert torch.equal(logits, model(crafted))


def test_the_loss_is_taken_in_single_precision_of_half_precision_logits():
    for fields in KINDS.values():
        model = linear().to(torch.bfloat16)
        x, crafted, y = (
            part.to(torch.bfloat16) if part.is_floating_point() else part for part in pair(model)
        )
        value, _ = objectives.loss(model, x, crafted, y, recipe(**fields), teacher)
        assert value.dtype == torch.float32


# Adversarial weight perturbation


def awp_case(fields=None):
    model = small_net(torch.float32).train()
    x, y = images(16, (1, 8, 8), 0, 1)
    r = recipe(awp=0.01, **(fields or {}))
    crafted = objectives.examples(engine.prepare(model), x.float(), y, r, EPS, seeded())
    return model, crafted, y, x.float(), r


@each_kind
def test_awp_moves_each_layer_by_gamma_uphill_and_puts_the_bits_back(fields):
    model, crafted, y, x, r = awp_case(fields)
    before = state_bits(model)
    value = objectives.loss(copy.deepcopy(model), x, crafted, y, r, teacher)[0]
    with worst(model, crafted, y, x, r):
        inside = state_bits(model)
        worse = objectives.loss(copy.deepcopy(model), x, crafted, y, r, teacher)[0]
    assert same(before, state_bits(model))
    assert worse > value
    for name, weight in before.items():
        moved = (inside[name] - weight).float()
        if weight.ndim > 1 and "normalize" not in name:
            assert moved.norm().item() == pytest.approx(0.01 * weight.norm().item(), rel=1e-4), name
        else:  # biases, batch norm's scales, and its statistics in spite of the extra pass
            assert not moved.any(), name


def test_awp_direction_by_hand():
    model = linear()
    x, crafted, y = pair(model)
    weight = model[1].weight.detach().clone()
    with torch.no_grad():
        gradient = (model(crafted).softmax(1) - F.one_hot(y, 3)).T @ crafted.flatten(1) / len(x)
    with worst(model, crafted, y, x, recipe(awp=0.02)):
        expected = weight + 0.02 * weight.norm() * gradient / gradient.norm()
        assert torch.allclose(model[1].weight, expected, atol=1e-14)


def test_awp_is_one_sgd_step_of_a_copy_rescaled_to_the_layers_norm():
    model, crafted, y, x, r = awp_case({"objective": "trades"})
    model.double()
    crafted, x = crafted.double(), x.double()
    proxy = copy.deepcopy(model)
    optimizer = torch.optim.SGD(proxy.parameters(), lr=0.01, maximize=True)
    objectives.loss(proxy, x, crafted, y, r)[0].backward()
    optimizer.step()
    before = state_bits(model)
    with worst(model, crafted, y, x, r):
        for name, weight in model.named_parameters():
            old, new = before[name], proxy.get_parameter(name).detach()
            expected = (
                old + 0.01 * old.norm() * (new - old) / (new - old).norm() if old.ndim > 1 else old
            )
            assert torch.allclose(weight, expected, atol=1e-12), name


def test_awp_of_parts_of_a_batch_adds_up():
    model = small_net().eval()
    x, y = images(12, (1, 8, 8), 0, 1)
    r = recipe(awp=0.01)
    whole = awp.ascent(model, x, y, x, r)
    parts = [
        awp.ascent(model, x[part], y[part], x[part], r) for part in (slice(0, 6), slice(6, 12))
    ]
    for total, *summands in zip(whole, *parts, strict=True):
        assert torch.allclose(total, sum(summands) / 2, atol=1e-13)


def test_worst_weights_of_a_batch_in_unequal_parts_are_those_of_the_whole():
    model = small_net().eval()
    x, y = images(12, (1, 8, 8), 0, 1)
    r, machine = recipe(awp=0.01), engine.Machine(torch.device("cpu"))
    parts = [(x[part], x[part], y[part]) for part in (slice(0, 2), slice(2, 12))]
    with worst(model, x, y, x, r):
        whole = {name: value.clone() for name, value in model.named_parameters()}
    with awp.perturbed(model, parts, r, machine):
        for name, value in model.named_parameters():
            assert torch.allclose(value, whole[name], atol=1e-13), name
    moved = [not torch.equal(whole[name], value) for name, value in model.named_parameters()]
    assert any(moved)


def test_awp_off_does_nothing_and_an_error_inside_still_restores():
    model, crafted, y, x, r = awp_case()
    before = state_bits(model)
    with worst(model, crafted, y, x, recipe()):
        assert same(before, state_bits(model))
    with pytest.raises(KeyboardInterrupt), worst(model, crafted, y, x, r):
        raise KeyboardInterrupt
    assert same(before, state_bits(model))


def test_a_layer_without_gradient_stays_where_it_is():
    model = linear()
    weight = model[1].weight.detach().clone()
    with awp.moved(model, [torch.zeros_like(weight)], 0.01):
        assert torch.equal(model[1].weight, weight)


# The average of the weights


@given(st.floats(0, 0.9999), st.lists(st.floats(-10, 10), min_size=1, max_size=30))
def test_the_average_has_its_closed_form(decay, values):
    model = nn.Linear(1, 1, bias=False).double()
    model.weight.data.fill_(3.0)
    average = Average(model, decay)
    rates = [min(decay, t / (9 + t)) for t in range(1, len(values) + 1)]
    expected = 3.0 * torch.tensor(rates, dtype=torch.float64).prod()
    for t, value in enumerate(values):
        model.weight.data.fill_(value)
        average.update(model)
        expected += (
            (1 - rates[t]) * value * torch.tensor(rates[t + 1 :], dtype=torch.float64).prod()
        )
    assert average.module.weight.item() == pytest.approx(expected.item(), abs=1e-12)
    assert model.weight.item() == values[-1]


def test_the_average_takes_statistics_along_and_is_an_eval_network():
    model = small_net(torch.float32).train()
    average, first = Average(model, 0.999), state_bits(model)
    x, _ = images(16, (1, 8, 8), 0, 1)
    for _ in range(2):
        model(x.float())
        average.update(model)
    assert not average.module.training and not any(
        p.requires_grad for p in average.module.parameters()
    )
    assert average.module.bn.num_batches_tracked == 2
    mean, now = average.module.bn.running_mean, model.bn.running_mean
    assert not torch.equal(mean, now) and not torch.equal(mean, first["bn.running_mean"])
    # weights that stood still stand still, up to rounding
    for name, value in average.module.named_parameters():
        assert torch.allclose(value, first[name], rtol=1e-6), name


def test_an_average_goes_on_from_its_state():
    model = small_net(torch.float32)
    one = Average(model, 0.9)

    def steps(average, count):
        for _ in range(count):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(0.9)
            average.update(model)

    steps(one, 3)
    two = Average(model, 0.9)
    two.load_state_dict({name: value.clone() for name, value in one.state_dict().items()})
    middle = state_bits(model)
    steps(one, 2)
    model.load_state_dict(middle)
    steps(two, 2)
    assert same(one.state_dict(), two.state_dict()) and one.updates == 5
    with pytest.raises(RecordError, match="not of this network"):
        two.load_state_dict(Average(linear(), 0.9).state_dict())


# Catastrophic overfitting


@pytest.mark.parametrize(
    ("single", "pgd", "expected"),
    [
        (0.1, 1.0, True),
        (0.3, 0.51, True),
        (0.295, 0.403, False),
        (0.9, 0.9, False),
        (0.5, 0.4, False),
    ],
)
def test_catastrophic_overfitting_is_a_gap_between_two_attacks(single, pgd, expected):
    assert objectives.catastrophic(single, pgd) is expected


# On real images


@functools.cache
def trained(**fields) -> training.Run:
    r = recipe(
        model="resnet8", width=4, batch_size=64, epochs=4, monitor_images=64, eps=16 / 255, **fields
    )
    # the published record has the weights
    standard = Path(__file__).parent.parent / "records" / "digits" / r.helper if r.helper else None
    return training.train(r, device="cpu", progress=False, helper=standard)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        *({"steps": 2, **f} if "attack" not in f else f for f in KINDS.values()),
        {"steps": 2, "awp": 5e-3}, {"steps": 2, "eps_warmup": 2}, {"steps": 2, "ema": 0.98},
    ],
    ids=str,
)  # fmt: skip
def test_each_option_learns_the_digits(fields):
    run, plain = trained(**fields), trained(steps=2)
    assert run.history.val_error.iloc[-1] < 0.25
    different = not same(run.model.state_dict(), plain.model.state_dict())
    assert different is (fields != {"steps": 2})


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "overfits"), [(0.0, True), (2.0, False)])
def test_fgsm_overfits_catastrophically_and_wide_noise_prevents_it(noise, overfits):
    fields = {"model": "resnet8", "batch_size": 64, "epochs": 20, "lr": 0.2, "monitor_images": 128}
    r = recipe(eps=64 / 255, attack="n-fgsm", noise=noise, **fields)
    with pytest.warns(UserWarning, match="catastrophic") if overfits else nullcontext():
        model = training.train(r, device="cpu", progress=False).model
    x, y = data.load("digits", device="cpu").train[:300]
    x_adv = [attacks.fgsm(model, x, y, eps=r.eps), attacks.pgd(model, x, y, eps=r.eps, steps=20)]
    with torch.no_grad():
        single, pgd = ((model(images).argmax(1) != y).float().mean().item() for images in x_adv)
    assert objectives.catastrophic(single, pgd) is overfits, (single, pgd)
