"""Models as people have them: what a trace would get wrong, what comes in and out,
and everything left as it was.
"""

import copy
import dataclasses
import inspect
import random
import threading
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

import arlib
from arlib import attacks, engine, margins, smoothness, spectra
from arlib.errors import InputError
from arlib.smoothness import layers

X = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.zeros(32, dtype=torch.int64)


class Net(nn.Module):
    """A convolution with its batch norm and a classifier;
    `kind` says what its forward does besides.
    """

    def __init__(self, kind="", bn=True):
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.calls, self.feat, self.log, self.alpha = kind, 0, None, [], 1.0
        self.conv, self.bn = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8) if bn else nn.Identity(),
        )
        self.fc, self.drop, self.temp = (
            nn.Linear(8 * 64, 5),
            nn.Dropout(0.5),
            nn.Parameter(torch.ones(())),
        )
        self.register_buffer("mean", torch.tensor(0.5))
        if bn:
            self.bn.running_mean.normal_()
            self.bn.running_var.uniform_(0.2, 2)
        self.eval()

    def forward(self, x):
        kind = self.kind
        if kind == "isinstance" and isinstance(x, torch.Tensor):
            x = (x - self.mean) * 4
        if kind == "type" and type(x) is torch.Tensor:
            x = (x - self.mean) * 4
        if kind == "in place":
            x.sub_(0.5).div_(0.25)
        if kind == "crop":
            side = random.randint(4, 8)
            x = F.interpolate(x[:, :, :side, :side], size=(8, 8))
        if kind == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                return self.fc(torch.relu(self.bn(self.conv(x))).flatten(1)).float()
        if kind == "no_grad":
            with torch.no_grad():
                return self.fc(torch.relu(self.bn(self.conv(x))).flatten(1))
        h = torch.relu(self.bn(self.conv(x)))
        if kind == "cached":
            self.feat = h
            self.log.append(h.shape[0])
            self.calls += 1
        if kind == "noise":
            h = h + torch.randn(8, 8) * 0.3
        if kind == "F.dropout":
            h = F.dropout(h, 0.5)
        if kind == "drop.train()":
            h = self.drop.train()(h)
        z = self.fc(h.flatten(1))
        if kind == "item":
            z = z * self.temp.item()
        if kind == "alpha":
            z = z * self.alpha
        return z


@pytest.fixture(autouse=True)
def _doubts_are_told_each_time():
    engine.prepared._warned.clear()


def silent(function, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **options)


def answers(model, x=X):
    with torch.no_grad():
        return model(x.clone())


def gradient(f, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(f(x).sum(), x)[0]


# --- a copy is trusted only after it was compared


@pytest.mark.parametrize("kind", ["isinstance", "type", "autocast"])
def test_what_a_trace_would_lose_is_noticed_and_the_model_itself_is_used(kind):
    model = Net(kind)
    with pytest.warns(UserWarning, match="a prepared copy of Net is not the model: outputs differ"):
        prepared = engine.prepare(model)
        outcome = prepared(X)
    assert prepared.doubt and not prepared.pairs
    assert torch.allclose(outcome, answers(model), atol=1e-5)
    assert torch.allclose(
        gradient(prepared, X), gradient(model, X), atol=1e-3 if kind == "autocast" else 1e-5
    )
    result = silent(
        attacks.evaluate, model, X, answers(model).argmax(1), eps=1e-6, attacks=["fgsm"]
    )
    assert result.table["accuracy"][0] == 1


def test_a_copy_that_is_the_model_is_used_without_a_word():
    model = Net()
    prepared = engine.prepare(model)
    assert torch.allclose(prepared(X), answers(model), atol=1e-5)
    assert prepared.pairs == [("conv", "bn")] and not prepared.doubt


@pytest.mark.parametrize("kind", ["crop", "noise", "F.dropout", "drop.train()"])
@pytest.mark.parametrize("bn", [True, False])
def test_a_random_model_stays_random_and_is_doubted(kind, bn):
    model = Net(kind, bn)
    with engine.frozen(model) as f:
        outcome = [silent(f, X) for _ in range(10)]
    assert any(not torch.equal(outcome[0], other) for other in outcome)
    prepared = engine.prepare(model)
    outcome = [silent(prepared, X) for _ in range(10)]
    assert any(not torch.equal(outcome[0], other) for other in outcome)
    result = silent(
        attacks.evaluate, model, X, answers(model).argmax(1), eps=0.01, attacks=["fgsm"]
    )
    assert any("two forward passes of the same images differ" in doubt for doubt in result.warnings)


class Tied(Net):
    """One kernel, read by two convolutions or once more by `F.conv2d`."""

    def __init__(self, kind):
        super().__init__()
        self.how = kind
        self.first, self.second = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))
        self.bn2 = nn.BatchNorm2d(8).eval()
        self.bn2.running_var.uniform_(0.2, 2)
        if kind == "shared":
            self.second.weight = self.first.weight
        self.eval()

    def forward(self, x):
        h = self.bn(self.first(torch.relu(self.conv(x))))
        h = (
            F.conv2d(h, self.first.weight, padding=1)
            if self.how == "functional"
            else self.second(h)
        )
        return self.fc(torch.relu(self.bn2(h)).flatten(1))


@pytest.mark.parametrize("kind", ["shared", "functional"])
def test_a_weight_that_is_read_twice_is_not_folded(kind):
    model = Tied(kind)
    y = answers(model).argmax(1)
    assert attacks.evaluate(model, X, y, eps=1e-6, attacks=["fgsm"]).table["accuracy"][0] == 1
    assert "first" not in engine.batchnorm_of(model)


@pytest.mark.parametrize(
    "norm", [parametrizations.spectral_norm, parametrizations.weight_norm, spectral_norm]
)
@pytest.mark.parametrize("train", [True, False])
def test_reparametrised_layers_are_themselves_and_stay_as_they_were(norm, train):
    torch.manual_seed(0)
    model = nn.Sequential(
        norm(nn.Conv2d(3, 4, 3, padding=1)),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        norm(nn.Linear(256, 5)),
    )
    answers(model), model.train(train)
    before = copy.deepcopy(model.state_dict())
    y = answers(copy.deepcopy(model).eval()).argmax(1)
    result = silent(attacks.evaluate, model, X, y, eps=1e-6, attacks=["fgsm"])
    assert result.table["accuracy"][0] == 1
    assert set(spectra.of(model, (3, 8, 8), fold_bn=True)["folded"]) == {"not foldable", "no"}
    smoothness.feature_change(model, X, radius=0.03)
    margins.instance(model, X[:4], LABELS[:4])
    assert model.training is train
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("where", ["conv", "bn", "fc", ""])
def test_backward_hooks_are_kept(where):
    model = Net()

    def scale(module, given, returned):
        return tuple(None if g is None else g * 0.1 for g in given)

    (model.get_submodule(where) if where else model).register_full_backward_hook(scale)
    with engine.frozen(model) as f:
        assert torch.allclose(gradient(f, X), gradient(model, X), rtol=1e-4)


@pytest.mark.parametrize("kind", ["", "item", "alpha"])
def test_a_refreshed_copy_is_compared_again(kind):
    model = Net(kind)
    prepared = engine.prepare(model)
    silent(prepared, X)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        model.temp.fill_(5.0)
    model.alpha = 5.0
    assert torch.allclose(silent(prepared.refresh(), X), answers(model), rtol=1e-3, atol=1e-4)


def test_a_model_that_answers_differently_without_gradients_is_not_folded():
    class Moody(Net):
        def forward(self, x):
            return super().forward(x if torch.is_grad_enabled() else 4 * x - 2)

    model = Moody()
    with pytest.warns(UserWarning, match="differently where gradients are switched off"):
        assert torch.allclose(
            engine.prepare(model)(X.clone().requires_grad_()), model(X), atol=1e-5
        )


def test_sums_of_shapes_keep_their_order():
    class Shapes(Net):
        def forward(self, x):
            h = self.bn(self.conv(x))
            shape = (h.shape[0],) + (h.shape[1:2] + (8, 8))  # noqa: RUF005
            return self.fc(h.reshape(shape).transpose(2, 3).flatten(1))

    model = Shapes()
    assert torch.allclose(engine.prepare(model)(X), answers(model), atol=1e-5)


def test_features_are_those_of_the_layers():
    """In-place activations behind a layer, branches and noise:
    what a hook sees at the layer counts.
    """
    overwritten = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 5)
    ).eval()
    for model, layer in ((overwritten, "0"), (Net("isinstance"), "conv"), (Net("cached"), "conv")):
        seen = []
        handle = model.get_submodule(layer).register_forward_hook(
            lambda _, __, value, seen=seen: seen.append(value.clone())
        )
        answers(model)
        handle.remove()
        with torch.no_grad():
            result = silent(layers.prepare(model, [layer]), X)[0]
        assert torch.allclose(result, seen[0], atol=1e-5)


def test_the_input_of_a_layer_is_that_of_the_layer():
    model, seen = Net(), []
    handle = model.fc.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    answers(model)
    handle.remove()
    assert torch.equal(layers.prepare_input(model, "fc")(X), seen[0])
    with pytest.raises(InputError, match="drop is never called"):
        layers.prepare_input(model, "drop")(X)


# --- left as found


@pytest.mark.parametrize(
    "name", ["pgd", "evaluate", "instance", "flip", "change", "jacobian", "of", "fold", "prepare"]
)
def test_everything_is_left_as_it_was(name):
    calls = {
        "pgd": lambda: attacks.pgd(model, X[:8], LABELS[:8], eps=0.03),
        "evaluate": lambda: attacks.evaluate(model, X[:8], LABELS[:8], eps=0.03, attacks=["pgd-5"]),
        "instance": lambda: margins.instance(model, X[:4], LABELS[:4], steps=2),
        "flip": lambda: smoothness.flip_rate(model, X[:8], radius=0.03, steps=2),
        "change": lambda: smoothness.feature_change(model, X[:8], radius=0.03),
        "jacobian": lambda: smoothness.jacobian(model, X[:4], steps=2, probes=2, exact_limit=1),
        "of": lambda: spectra.of(model, (3, 8, 8)),
        "fold": lambda: spectra.of(model, (3, 8, 8), fold_bn=True),
        "prepare": lambda: engine.prepare(model)(X),
    }
    model = Net("cached")
    model.train()
    model.drop.eval()
    model.fc.weight.requires_grad_(False)
    model.fc.bias.grad = torch.ones(5)
    model.feat, model.log = "mine", [1, 2]
    modes, state = [m.training for m in model.modules()], copy.deepcopy(model.state_dict())
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    drawn = torch.rand(3), random.random(), np.random.rand()
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    silent(calls[name])
    assert (model.feat, model.log, model.calls) == ("mine", [1, 2], 0)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert torch.equal(model.fc.bias.grad, torch.ones(5))
    assert not any(engine.folding.has_hooks(module) for module in model.modules())
    assert torch.equal(torch.rand(3), drawn[0]) and (random.random(), np.random.rand()) == drawn[1:]


def test_also_after_an_exception():
    model = Net("cached")
    with pytest.raises(KeyError), engine.left_as_found(model):
        model.train()
        model.new, model.feat, model.bn.running_mean[:] = 1, X, 7.0
        model.log.append(3)
        model.requires_grad_(False)
        raise KeyError
    assert (
        not hasattr(model, "new") and model.feat is None and model.log == [] and not model.training
    )
    assert not (model.bn.running_mean == 7).any() and all(
        p.requires_grad for p in model.parameters()
    )


def test_nothing_in_the_science_touches_the_allocator(monkeypatch):
    monkeypatch.setattr(
        engine.memory, "keep_memory", lambda: pytest.fail("the process was changed")
    )
    attacks.pgd(Net(), X, LABELS, eps=0.03, steps=1)
    assert not hasattr(engine.prepared, "keep_memory")


@pytest.mark.parametrize("kind", ["lock", "generator", "iterator"])
@pytest.mark.parametrize("fold", [True, False])
def test_models_that_cannot_be_copied_work(kind, fold):
    model = Net(bn=fold)
    model.extra = {
        "lock": threading.Lock,
        "generator": torch.Generator,
        "iterator": lambda: (i for i in range(3)),
    }[kind]()
    expected = answers(model)
    attacks.pgd(model, X, LABELS, eps=0.03, steps=2)
    smoothness.feature_change(model, X, radius=0.03)
    assert len(spectra.of(model, (3, 8, 8))) == 2
    assert torch.allclose(engine.prepare(model)(X), expected, atol=1e-5)


@pytest.mark.parametrize("bn", [True, False])
def test_a_model_that_writes_over_its_input_reaches_no_image_of_the_caller(bn):
    model, other = Net("in place", bn), Net("", bn)
    other.forward = lambda x: Net.forward(other, (x - 0.5) / 0.25)
    x = X.clone()
    y = answers(model).argmax(1)
    result, expected = (
        (
            silent(attacks.pgd, m, x, y, eps=0.05),
            silent(smoothness.flip_rate, m, x, radius=0.1, attack="sign"),
            silent(attacks.square, m, x, y, eps=0.1, queries=30),
            silent(smoothness.normalisers, m, x, layers=["conv"]),
        )
        for m in (model, other)
    )
    assert torch.equal(x, X)
    assert torch.allclose(result[0], expected[0], atol=1e-5) and torch.allclose(
        result[2], expected[2], atol=1e-5
    )
    assert result[1] == expected[1] and result[3]["conv"] == pytest.approx(
        expected[3]["conv"], rel=1e-5
    )


# --- numbers that cannot lie


class Root(nn.Module):
    """The gradient at a black pixel is 0 · ∞."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))

    def forward(self, x):
        return self.net(torch.relu(x.sqrt() - 0.1))


def test_gradients_that_are_no_numbers_move_nothing_out_of_its_ball_and_are_said():
    x = torch.where(X < 0.3, torch.zeros(()), X)
    y = answers(Root().eval(), x).argmax(1)
    for attack in (attacks.pgd, attacks.fgsm, attacks.apgd):
        for norm, eps in (("linf", 0.01), ("l2", 0.1)):
            x_adv = attack(Root().eval(), x, y, eps=eps, norm=norm)
            assert x_adv.isfinite().all()
            assert engine and float(attacks.steps.norms(x_adv - x, norm).max()) <= eps * (1 + 1e-5)
    assert margins.instance(Root().eval(), x, y).isfinite().all()
    result = silent(attacks.evaluate, Root().eval(), x, y, eps=0.01, attacks=["fgsm"])
    assert any("gradient is not finite" in doubt for doubt in result.warnings)


def test_answers_that_are_not_finite_are_no_success_and_are_said():
    class Broken(nn.Module):
        def forward(self, x):
            z = x.flatten(1)[:, :5] * 1.0
            return torch.where(x.flatten(1)[:, :1] > 0.9, z / 0, z)

    x = torch.full((4, 1, 3, 3), 0.5)
    x[:, 0, 0, 1] = 0.6
    y = torch.ones(4, dtype=torch.int64)
    adversarial = attacks.square(Broken(), x, y, eps=0.45, queries=50)
    hits = attacks.losses.Goal(y).hits(Broken()(torch.full((4, 1, 3, 3), 0.95)))
    assert not hits.any()
    assert Broken()(adversarial).argmax(1).ne(y).any()
    x[0, 0, 0, 0] = 0.95
    result = silent(attacks.evaluate, Broken(), x, y, eps=0.01, attacks=["fgsm"])
    assert any(
        "logits of 25.0% of the natural images are not finite" in doubt for doubt in result.warnings
    )
    assert not result.natural[0]


@pytest.mark.parametrize("clip", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_everything_scales_with_the_pixel_range(clip, norm):
    torch.manual_seed(0)
    low, high = clip
    net = (
        nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5)).double().eval()
    )

    def scaled(z):
        return net((z - low) / (high - low))

    x = torch.rand(32, 1, 8, 8, dtype=torch.float64)
    y, z = answers(net, x).argmax(1), x * (high - low) + low
    expected = margins.instance(net, x, y, norm=norm, steps=5)
    distances = margins.instance(scaled, z, y, norm=norm, steps=5, clip=clip)
    assert distances.numpy() == pytest.approx(expected.numpy() * (high - low), rel=2e-3)
    near = attacks.minimum_norm(scaled, z, y, norm=norm, clip=clip)
    distance = attacks.distance(scaled, z, near, y, norm=norm, clip=clip)
    assert distance.numpy() == pytest.approx(
        attacks.distance(net, x, attacks.minimum_norm(net, x, y, norm=norm), y, norm=norm).numpy()
        * (high - low),
        rel=2e-3,
    )
    eps = 0.02 * (1 if norm == "linf" else 8)
    options = {"norm": norm, "attacks": ["pgd-10"]}
    mine = silent(
        attacks.evaluate, scaled, z, y, eps=eps * (high - low), clip=clip, **options
    ).table["accuracy"]
    assert (
        mine.tolist()
        == silent(attacks.evaluate, net, x, y, eps=eps, **options).table["accuracy"].tolist()
    )
    with pytest.raises(InputError, match=r"allowed for"):
        attacks.pgd(scaled, z, y, eps=9 * (high - low), norm=norm, clip=clip)


def test_l2_margins_go_up_to_the_longest_way():
    constant = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    nn.init.zeros_(constant[1].weight)
    constant[1].bias.data = torch.arange(5.0, 0, -1)
    assert margins.instance(constant, X[:2], LABELS[:2], norm="l2").tolist() == pytest.approx(
        [192**0.5] * 2
    )
    assert margins.instance(constant, X[:2], LABELS[:2]).tolist() == [1, 1]
    far = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    far[1].weight.data = torch.stack([torch.zeros(192), torch.ones(192)])
    far[1].bias.data = torch.tensor([150.0, 0])
    x = torch.full((1, 3, 8, 8), 0.5)
    assert float(margins.instance(far, x, LABELS[:1], norm="l2")) == pytest.approx(
        54 / 192**0.5, rel=1e-3
    )


def test_rounding_to_8_bits_stays_in_range():
    x = torch.tensor([[[[0.999, 0.001, 0.5]]]])
    moved = torch.tensor([[[[1.0, 0.0, 0.5 + 2.6 / 255]]]])
    for norm in ("linf", "l2"):
        rounded = inspect.unwrap(attacks.evaluate).__globals__["_rounded"](x, moved, 8 / 255, norm)
        assert float(rounded.min()) >= 0 and float(rounded.max()) <= 1
        levels = (rounded - x) * 255
        assert torch.allclose(levels, levels.round(), atol=1e-3)


def test_a_state_belongs_to_one_model_also_in_its_python_numbers():
    model, state = Net("alpha"), {}
    y = answers(model).argmax(1)
    options = {"eps": 0.05, "attacks": ["pgd-5"], "state": state}
    silent(attacks.evaluate, model, X, y, **options)
    silent(attacks.evaluate, model, X, y, **options)
    model.alpha = 3.0
    with pytest.raises(InputError, match="its model's answers differ"):
        silent(attacks.evaluate, model, X, y, **options)


@pytest.mark.parametrize("kind", ["no_grad"])
def test_a_model_without_a_gradient_is_told_to_use_square(kind):
    model = Net(kind)
    y = answers(model).argmax(1)
    for call in (
        lambda: attacks.pgd(model, X, y, eps=0.03),
        lambda: attacks.evaluate(model, X, y, eps=0.03),
        lambda: margins.instance(model, X, y),
    ):
        with pytest.raises(InputError, match=r"no gradient to its images .* attacks.square"):
            silent(call)
    assert silent(attacks.evaluate, model, X, y, eps=0.1, attacks="square").table["n"].iloc[
        -1
    ] == len(X)


# --- what people have in hand


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor
    hidden: torch.Tensor


class Mapping(OrderedDict):
    __getattr__ = OrderedDict.__getitem__


OUTPUTS = {
    "tuple": lambda z, h: (z, h),
    "dict": lambda z, h: {"logits": z, "hidden": h},
    "dataclass": Answer,
    "attribute": lambda z, h: Mapping(logits=z),
    "map": lambda z, h: z[:, :, None, None],
}


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("bn", [True, False])
def test_logits_are_found_in_what_a_model_returns(kind, bn):
    plain = Net(bn=bn)

    class Wrapped(Net):
        def forward(self, x):
            h = torch.relu(self.bn(self.conv(x))).flatten(1)
            return OUTPUTS[kind](self.fc(h), h)

    model, y = Wrapped(bn=bn), answers(plain).argmax(1)
    assert torch.allclose(
        attacks.pgd(model, X, y, eps=0.03), attacks.pgd(plain, X, y, eps=0.03), atol=1e-5
    )
    assert (
        silent(attacks.evaluate, model, X, y, eps=0.01, attacks=["pgd-5"]).table["accuracy"][0] == 1
    )
    assert smoothness.flip_rate(model, X, radius=0.05) == smoothness.flip_rate(
        plain, X, radius=0.05
    )
    assert torch.allclose(
        margins.instance(model, X[:4], y[:4]), margins.instance(plain, X[:4], y[:4]), atol=1e-6
    )


def test_logits_may_be_pointed_at_and_else_the_message_says_so():
    class Odd(Net):
        def forward(self, x):
            return {"a": super().forward(x), "b": x}

    y = answers(Net()).argmax(1)
    with pytest.raises(
        InputError, match=r"returns a dict of a, b, in which no logits were found.*Give logits="
    ):
        attacks.pgd(Odd(), X, y, eps=0.03)
    x_adv = attacks.pgd(Odd(), X, y, eps=0.03, logits=lambda output: output["a"])
    assert torch.allclose(x_adv, attacks.pgd(Net(), X, y, eps=0.03), atol=1e-5)


@pytest.mark.parametrize("shape", ["n", "n x 1"])
def test_one_number_an_image_is_a_binary_classifier(shape):
    torch.manual_seed(0)
    # no pixel meets the range on its way to the boundary
    weight, x = torch.randn(192), 0.3 * X + 0.35

    def model(z):
        return (z.flatten(1) @ weight)[(...,) if shape == "n" else (..., None)]

    y = (x.flatten(1) @ weight > 0).long()
    exact = (x.flatten(1) @ weight).abs() / weight.abs().sum()
    assert margins.instance(model, x, y).numpy() == pytest.approx(exact.numpy(), rel=2e-3)
    assert (
        silent(attacks.evaluate, model, x, y, eps=1e-6, attacks=["apgd-ce"]).table["accuracy"][0]
        == 1
    )


def test_callables_arrays_and_lists():
    model = Net()
    y = answers(model).argmax(1)
    expected = attacks.pgd(model, X, y, eps=0.03)
    for other, x, labels in (
        (lambda z: model(z), X, y),
        (model, X.numpy(), y.numpy().astype(np.int32)),
        (model, X, y.tolist()),
        (model, X, y.to(torch.int16)),
        (nn.DataParallel(model), X, y),
        (torch.compile(model, backend="eager"), X, y),
        (silent(torch.jit.trace, model, X), X, y),
    ):
        assert torch.allclose(
            silent(attacks.pgd, other, x, labels, eps=0.03).float(), expected, atol=1e-5
        )
    assert attacks.pgd(model, X.double(), y, eps=0.03).dtype == torch.float64
    assert attacks.pgd(model, X, y, eps=[0.03] * 32).dtype == torch.float32
    assert attacks.pgd(model, X, y, eps=np.full(32, 0.03)).dtype == torch.float32


def test_wrapped_networks_show_the_layers_inside():
    expected = spectra.of(Net(), (3, 8, 8), fold_bn=True)
    for wrapped in (nn.DataParallel(Net()), torch.compile(Net(), backend="eager")):
        spectrum = spectra.of(wrapped, (3, 8, 8), fold_bn=True)
        assert (
            spectrum["layer"].tolist() == ["conv", "fc"]
            and spectrum["std"].tolist() == expected["std"].tolist()
        )
        assert smoothness.feature_change(wrapped, X, radius=0.03)["layer"].tolist() == [
            "conv",
            "fc",
        ]
    for other in (
        silent(torch.jit.script, nn.Sequential(nn.Flatten(), nn.Linear(192, 5))),
        lambda x: x,
    ):
        with pytest.raises(InputError, match=r"TorchScript|give the torch module"):
            spectra.of(other, (3, 8, 8))
        with pytest.raises(InputError, match="without layers"):
            smoothness.feature_change(other, X, radius=0.03)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bn", [True, False])
def test_models_of_any_precision(dtype, bn):
    model = Net(bn=bn).to(dtype)
    y = engine.logits_of(answers(model, X.to(dtype))).argmax(1)
    assert attacks.pgd(model, X, y, eps=0.03).dtype == torch.float32
    assert margins.instance(model, X[:4], y[:4], steps=3).dtype == torch.float32
    assert 0 <= smoothness.flip_rate(model, X, radius=0.03) <= 1
    changes = [smoothness.feature_change(m, X, radius=0.03)["change"] for m in (model, Net(bn=bn))]
    assert changes[0].to_numpy() == pytest.approx(changes[1].to_numpy(), rel=0.05)
    steep = [
        smoothness.jacobian(m, X[:4], layers=["fc"])["sigma_max"][0] for m in (model, Net(bn=bn))
    ]
    assert steep[0] == pytest.approx(steep[1], rel=0.05)


@pytest.mark.slow
def test_inference_mode_and_no_grad_of_the_caller_change_nothing():
    model = Net()
    y = answers(model).argmax(1)
    calls = (
        lambda x: attacks.pgd(model, x, y, eps=0.03).sum(),
        lambda x: margins.instance(model, x[:4], y[:4], steps=3).sum(),
        lambda x: smoothness.feature_change(
            model, x, radius=0.03, direction="adversarial", steps=2
        )["change"].sum(),
        lambda x: smoothness.jacobian(model, x[:2])["sigma_max"].sum(),
        lambda x: spectra.jacobian(model, x[:2])["max"].sum(),
        lambda x: spectra.of(model, (3, 8, 8))["std"].sum(),
    )
    with torch.inference_mode():
        made_there = X * 1.0
    for call in calls:
        expected = float(call(X))
        with torch.inference_mode():
            assert float(call(X)) == pytest.approx(expected, rel=1e-5)
        with torch.no_grad():
            assert float(call(X)) == pytest.approx(expected, rel=1e-5)
        assert float(call(made_there)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["mha", "encoder", "sdpa"])
def test_attention(kind):
    class ViT(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.patch, self.fc = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 5)
            if kind == "mha":
                self.att = nn.MultiheadAttention(16, 2, batch_first=True)
            elif kind == "encoder":
                layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
                self.att = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, x):
            x = self.patch(x).flatten(2).transpose(1, 2)
            if kind == "mha":
                x = x + self.att(x, x, x, need_weights=False)[0]
            elif kind == "encoder":
                x = self.att(x)
            else:
                x = x + F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0]
            return self.fc(x.mean(1))

    model = ViT().eval()
    y = answers(model).argmax(1)
    assert (
        silent(attacks.evaluate, model, X, y, eps=0.01, attacks=["apgd-ce"]).table["accuracy"][0]
        == 1
    )
    layers = smoothness.feature_change(model, X, radius=0.03)["layer"].tolist()
    assert "patch" in layers and not any(name.endswith("out_proj") for name in layers)
    assert len(
        smoothness.feature_change(model, X[:8], radius=0.03, direction="adversarial", steps=2)
    ) == len(layers)
    matrix = torch.autograd.functional.jacobian(lambda one: model(one)[0], X[:1]).reshape(5, -1)
    assert spectra.jacobian(model, X[:1])["max"][0] == pytest.approx(
        float(torch.linalg.svdvals(matrix)[0]), rel=1e-4
    )
    assert smoothness.jacobian(model, X[:2], layers=["fc"])["sigma_max"][0] > 0


@pytest.mark.parametrize(
    "shape, make",
    [
        ((20,), lambda: nn.Sequential(nn.Linear(20, 5))),
        (
            (2, 30),
            lambda: nn.Sequential(
                nn.Conv1d(2, 4, 3, padding=1), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(120, 5)
            ),
        ),
        (
            (1, 4, 6, 5),
            lambda: nn.Sequential(
                nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Flatten(), nn.Linear(480, 5)
            ),
        ),
    ],
)
def test_other_dimensions(shape, make):
    torch.manual_seed(0)
    model, x = make().eval(), torch.rand(16, *shape)
    y = answers(model, x).argmax(1)
    assert silent(attacks.evaluate, model, x, y, eps=1e-6).table["accuracy"][0] == 1
    assert margins.instance(model, x[:4], y[:4], steps=3).gt(0).all()
    assert len(smoothness.feature_change(model, x, radius=0.01)) == len(
        spectra.of(model, shape, fold_bn=True)
    )
    assert torch.allclose(engine.prepare(model)(x), answers(model, x), atol=1e-5)


def test_images_on_another_scale_are_one_message_that_names_both():
    model = Net()
    with pytest.raises(
        InputError, match=r"scale 0 to 255: give x / 255, and eps on the scale 0 to 1"
    ):
        attacks.pgd(model, X * 255, LABELS, eps=8)
    with pytest.raises(InputError, match=r"uint8, on the scale 0 to 255.*\[0, 1\]"):
        attacks.pgd(model, (X * 255).byte(), LABELS, eps=0.03)
    with pytest.raises(
        InputError, match=r"look normalised.*with_normalization\(model, mean, std\)"
    ):
        attacks.pgd(model, (X - 0.5) / 0.25, LABELS, eps=0.03)
    with pytest.raises(InputError, match=r"rounding: x.clamp\(0, 1\)"):
        attacks.pgd(model, X + 1e-6 + (1 - X.max()), LABELS, eps=0.03)
    with pytest.raises(InputError, match=r"eps is '8/255'; give a number, such as 8/255"):
        attacks.pgd(model, X, LABELS, eps="8/255")


def test_normalisation_becomes_the_first_layer():
    model, mean, std = Net(), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    inside = arlib.with_normalization(model, mean, std)

    def tensor(values):
        return torch.tensor(values).view(1, 3, 1, 1)

    assert torch.allclose(
        answers(inside), answers(model, (X - tensor(mean)) / tensor(std)), atol=1e-5
    )
    with pytest.raises(InputError, match="std above 0"):
        arlib.with_normalization(model, (0.5,), (0.0,))
    result = silent(
        attacks.evaluate, model, 2 * (2 * X - 1), LABELS, eps=0.1, attacks=["fgsm"], clip=(-2, 2)
    )
    assert any("look normalised" in doubt for doubt in result.warnings)


# --- spectra: the operator, or a refusal by name


class Standardised(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Same(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(F.pad(x, (0, 1, 1, 2)), self.weight, self.bias, self.stride)


class Scaled(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight * 0.1, self.bias)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.kernel, stride=2, padding=1)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (Standardised(3, 4, 3, padding=1), (3, 8, 8)),
        (Same(3, 4, 3), (3, 7, 7)),
        (Same(3, 4, 3, 2), (3, 8, 8)),
        (Scaled(6, 5), (6,)),
        (Functional(), (3, 9, 9)),
        (nn.ConvTranspose1d(2, 3, 2, stride=1, dilation=2, output_padding=1), (2, 3)),
        (
            nn.ConvTranspose2d(
                1, 2, (4, 1), padding=(1, 0), dilation=(2, 2), output_padding=(0, 1)
            ),
            (1, 4, 3),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_row_is_the_operator_of_the_layer(layer, shape):
    model = nn.Sequential(layer).double()
    x = torch.zeros(1, *shape, dtype=torch.float64)
    sigma = torch.linalg.svdvals(
        torch.autograd.functional.jacobian(model, x).reshape(-1, x.numel())
    )
    (row,) = spectra.of(model, shape, "as-built").to_dict("records")
    assert row["count"] == len(sigma)
    assert row["max"] == pytest.approx(float(sigma[0])) and row["mean"] == pytest.approx(
        float(sigma.mean())
    )


def test_a_layer_that_is_no_one_operator_is_refused_by_name_or_left_out():
    class Cosine(nn.Linear):
        def forward(self, x):
            return F.linear(F.normalize(x), F.normalize(self.weight))

    class Squared(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) ** 2

    for odd in (Cosine(192, 5), None):
        model = nn.Sequential(
            OrderedDict(flat=nn.Flatten(), odd=odd) if odd else OrderedDict(odd=Squared(3, 4, 3))
        )
        with pytest.raises(
            InputError, match=r"Layer odd \((Cosine|Squared)\) has a forward of its own.*sizes="
        ):
            spectra.of(model, (3, 8, 8))
        assert spectra.of(model, (3, 8, 8), sizes={"odd": None}).empty


def test_linearised_is_affine_or_refused_and_a_copy():
    block = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Dropout(0.5),
        nn.Conv2d(4, 2, 3),
    )
    copied = spectra.linearised(block)
    x, h = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    assert torch.allclose(
        copied(x + h) - copied(x), copied(h) - copied(torch.zeros_like(h)), atol=1e-5
    )
    before = copied(x)
    with torch.no_grad():
        block[0].weight.zero_()
    assert torch.equal(copied(x), before)

    class Gate(nn.Module):
        def forward(self, x):
            return x * torch.exp(x)

    odd = spectra.linearised(nn.Sequential(nn.Conv2d(3, 4, 3), Gate()))
    with pytest.raises(InputError, match=r"still not affine: it calls .*exp"):
        odd(x)
