"""The chain of norms bounds what networks do; the theory's terms are those of hand computation."""

import math

import pytest
import torch
import torch.nn.functional as F
from attacked import linear, smallest_perturbation
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from arlib import bounds, margins, models
from arlib.bounds import square
from arlib.errors import InputError


class Function(nn.Module):
    """A network whose forward pass is a function of (x, self)."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(x, self)


def with_statistics(model, seed=0):
    """A network in eval mode whose batch norms have seen something."""
    draw = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_var, module.weight.data):
                tensor.copy_(torch.rand(tensor.shape, generator=draw) * 2 + 0.2)
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=draw))
    return model.eval()


def pooled(first, last):
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(), first,
        nn.Conv2d(6, 4, 3, groups=2, dilation=2, padding=2), nn.LeakyReLU(0.1), nn.BatchNorm2d(4),
        last, nn.Flatten(), nn.LazyLinear(7), nn.Tanh(), nn.Linear(7, 4),
    )  # fmt: skip


def dense():
    """Three paths joined, one of them written over."""

    def forward(x, net):
        a = F.relu(net.a(x))
        b = net.c(a)
        b.add_(a)
        b = torch.cat([b, x * net.scale, a], 1)
        return net.head(F.avg_pool2d(b, 2).mean((2, 3)))

    parts = {
        "a": nn.Conv2d(3, 4, 5, padding=2),
        "c": nn.Conv2d(4, 4, 1),
        "head": nn.Linear(11, 3),
    }
    net = Function(forward, **parts)
    net.register_buffer("scale", torch.tensor([1.0, -2.0, 0.5]).view(-1, 1, 1))
    return net


NETWORKS = {
    "resnet8": lambda: models.resnet(8, width=4, mean=(0.5,) * 3, std=(0.25, 0.2, 0.3)),
    "max pool": lambda: pooled(nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(1)),
    "average pool": lambda: pooled(nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(2)),
    "dense": dense,
    "outside": lambda: models.with_normalization(dense(), (0.1, 0.2, 0.3), (0.5, 0.1, 0.2)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_no_jacobian_and_no_difference_is_larger_than_the_chain(name):
    torch.manual_seed(1)
    net = NETWORKS[name]()
    net(torch.rand(2, 3, 16, 16))
    net = with_statistics(net).double()
    links = bounds.chain(net, (3, 16, 16))
    x, other = torch.rand(2, 12, 3, 16, 16, dtype=torch.float64) * 3 - 1
    for image in x[:4]:
        jacobian = torch.func.jacrev(lambda v: net(v[None])[0])(image).flatten(1)
        assert torch.linalg.matrix_norm(jacobian, 2) <= links.slope
    with torch.no_grad():
        moved = (net(x) - net(other)).norm(dim=1) / (x - other).flatten(1).norm(dim=1)
    assert (moved <= links.slope).all() and links.table["slope"].iloc[-1] == links.slope


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_certified_no_attack_breaks(name):
    torch.manual_seed(2)
    net = NETWORKS[name]()
    net(torch.rand(2, 3, 16, 16))
    net = with_statistics(net)
    x = torch.rand(12, 3, 16, 16)
    y = net(x).argmax(1)
    y[0] = (y[0] + 1) % 3  # one is wrong
    for norm in ("l2", "linf"):
        proved, result = (
            bounds.certified(net, x, y, norm=norm),
            margins.instance(net, x, y, norm=norm),
        )
        assert proved[0] == result[0] == 0
        assert (proved[1:] > 0).all() and (proved <= result).all()


@pytest.mark.parametrize("classes", [2, 5])
def test_a_linear_network_is_certified_up_to_its_boundary(classes):
    model, x, y = linear(classes, n=30)
    exact = smallest_perturbation(model, x, y, "l2").clamp_min(0).double()
    proved = bounds.certified(model, x, y)
    assert torch.allclose(proved, exact, rtol=1e-5) and (proved > 0).any()
    # a step of that length over the nearest boundary, and none shorter, changes the answer
    assert (bounds.certified(model, x, y, norm="linf") <= proved).all()


@pytest.mark.parametrize("classes", [2, 5])
def test_margins_alone_certify_no_more_than_all_logits_do(classes):
    model, x, y = linear(classes, n=30)
    links = bounds.chain(model, tuple(x.shape[1:]))
    m, pixels = margins.output(model(x).detach(), y), x[0].numel()
    for norm in ("l2", "linf"):
        whole = bounds.certified(model, x, y, norm=norm, links=links)
        alone = bounds.certified_by_margin(m, links, pixels=pixels, norm=norm)
        assert (alone <= whole * (1 + 1e-5)).all() and (alone > 0).any()
        if classes == 2:  # there is one other logit
            assert torch.allclose(alone, whole, rtol=1e-5)
    rest = bounds.Chain(links.table, links.slope)
    looser = bounds.certified_by_margin(torch.tensor([3.0, -1.0]), rest, pixels=pixels)
    assert looser.tolist() == pytest.approx([3 / (math.sqrt(2) * links.slope), 0])
    with pytest.raises(InputError, match="pixels is 0"):
        bounds.certified_by_margin(m, links, pixels=0)


def test_the_chain_is_the_product_of_the_largest_singular_values_where_directions_agree():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, False), nn.ReLU(), nn.Linear(4, 2, False))
    net[1].weight.data = torch.diag(torch.tensor([3.0, 1, 1, 1]))
    net[3].weight.data = torch.tensor([[5.0, 0, 0, 0], [0, 1, 0, 0]])
    links = bounds.chain(net, (1, 2, 2))
    assert links.slope == pytest.approx(15, rel=1e-8) and links.features == pytest.approx(3)
    assert links.table[["step", "kind"]].values.tolist() == [["1", "linear"], ["3", "linear"]]
    with torch.no_grad():
        reached = net(torch.tensor([[1.0, 0, 0, 0]]).view(1, 1, 2, 2)).norm()
    assert float(reached) == pytest.approx(links.slope, rel=1e-6)


def scaled_identity(channels, by):
    conv = nn.Conv2d(channels, channels, 1, bias=False)
    conv.weight.data = by * torch.eye(channels)[..., None, None]
    return conv


@pytest.mark.parametrize(
    ("forward", "slope"),
    [
        (lambda x, net: x + net.three(x), 4),
        (lambda x, net: x - net.three(x), 4),
        (lambda x, net: x + 7, 1),
        (lambda x, net: x + x, 2),
        (lambda x, net: net.three(x) / 2, 1.5),
        (lambda x, net: (x - net.mean) / net.std, 4),
        (lambda x, net: torch.cat([x, net.three(x)], 1), math.sqrt(10)),
        (lambda x, net: torch.cat([x, x], 1), math.sqrt(2)),
        (lambda x, net: net.three(x.view(x.size(0), 2, 4, x.shape[3])), 3),
        (lambda x, net: x.mean((2, 3)), 1 / 4),
        (lambda x, net: x + x.mean((2, 3), keepdim=True), 2),
        (lambda x, net: F.max_pool2d(x, 3, 2, 1), 2),
        (lambda x, net: F.max_pool2d(x, 2), 1),
        (lambda x, net: F.avg_pool2d(x, 2), 0.5),
        (lambda x, net: F.pad(x, (1, 1, 1, 1))[:, :, ::2, ::2].relu(), 1),
        (lambda x, net: net.norm(net.three(x)), 6),
    ],
)
def test_the_slope_of_each_kind_of_step_is_that_of_hand_computation(forward, slope):
    net = Function(forward, three=scaled_identity(2, 3.0), norm=nn.BatchNorm2d(2)).eval()
    net.register_buffer("mean", torch.tensor([0.5, 0.5]).view(-1, 1, 1))
    net.register_buffer("std", torch.tensor([0.25, 0.5]).view(-1, 1, 1))
    net.norm.weight.data = torch.tensor([4.0, -8.0])
    net.norm.running_var, net.norm.eps = torch.tensor([3.0, 15.0]), 1.0
    assert bounds.chain(net, (2, 4, 4)).slope == pytest.approx(slope, rel=1e-6)


def test_what_is_written_over_is_read_as_it_then_is():
    def forward(x, net):
        y = net.three(x)
        y.add_(x)
        return y.flatten(1)

    net = Function(forward, three=scaled_identity(2, 3.0)).eval()
    assert bounds.chain(net, (2, 4, 4)).slope == pytest.approx(4)


def test_the_model_is_left_as_it_was_found():
    net = NETWORKS["resnet8"]().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    bounds.chain(net, (3, 16, 16))
    assert net.training and all(torch.equal(before[n], t) for n, t in net.state_dict().items())


def overwritten(x, net):
    """torch.fx follows `+=` as a sum that leaves the old tensor alone."""
    y = z = net.three(x)
    y += x
    return z


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x, net: x * net.three(x), "joins 2 moving tensors"),
        (lambda x, net: x * x, "joins 2 moving tensors"),
        (lambda x, net: x.split(1, 1)[0], "gives several tensors"),
        (lambda x, net: F.max_pool2d(x, 2, return_indices=True)[0], "several tensors|no bound"),
        (lambda x, net: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), "not all alike"),
        (lambda x, net: 1 / (x + 1), "divides by what moves"),
        (lambda x, net: torch.softmax(x.flatten(1), 1), "softmax"),
        (lambda x, net: x if x.sum() > 0 else -x, "cannot follow"),
        (lambda x, net: x.expand(-1, 2, 4, 4), "expand"),
        (lambda x, net: (x, x), "more than one tensor"),
        (lambda x, net: x + torch.rand(1), "differ from pass to pass"),
        (lambda x, net: overwritten(x, net), "is not the network"),
    ],
)
def test_what_has_no_bound_is_refused_by_name(forward, message):
    net = Function(forward, three=scaled_identity(2, 3.0)).eval()
    with pytest.raises(InputError, match=message):
        bounds.chain(net, (2, 4, 4))


# The theory's terms


def test_the_bound_is_the_sum_of_its_three_terms():
    setting = {"samples": 1000, "classes": 10, "c": 2.0, "k": 3}
    covering = math.sqrt(math.log(2) * 10 * 2**4 * (2 / 0.5) ** 3 / 1000)
    assert bounds.covering_term(0.5, **setting) == pytest.approx(covering)
    whole = bounds.generalization(0.3, 0.5, eta=0.01, **setting)
    assert whole == pytest.approx(0.3 + covering + math.sqrt(2 * math.log(100) / 1000))


@given(v=st.floats(0.01, 0.9), k=st.floats(1, 3000))
def test_a_finer_covering_costs_more_and_more_images_cost_less(v, k):
    setting = {"classes": 10, "c": 1.0, "k": k}
    cost = bounds.covering_term(v, samples=10**4, **setting)
    assert cost > 0 and bounds.covering_term(v / 2, samples=10**4, **setting) >= cost
    assert bounds.covering_term(v, samples=4 * 10**4, **setting) == pytest.approx(cost / 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": 0.0}, "v is 0.0; a radius between 0 and 1"),
        ({"v": 1.0}, "v is 1.0"),
        ({"v": math.nan}, "v is nan"),
        ({"q": 1.2}, "q is 1.2; a share"),
        ({"eta": 0}, "eta is 0"),
        ({"k": -1}, "k is -1"),
        ({"samples": 0}, "samples is 0"),
    ],
)
def test_values_that_mean_nothing_are_refused(change, message):
    values = {"q": 0.1, "v": 0.5, "samples": 10, "classes": 2, "c": 1.0, "k": 2.0}
    with pytest.raises(InputError, match=message):
        bounds.generalization(**values | change)


# Where the covering is known

SIZE = 2000


def drawn(seed, samples=SIZE, **setting):
    return square.draw(samples, generator=torch.Generator().manual_seed(seed), **setting)


def share_of(x, y, v):
    return torch.bincount(square.cells(x, y, v), minlength=2 * square.sides(v) ** 2) / len(x)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("v", [0.5, 0.3, 0.125, 0.1])
def test_cells_are_narrower_than_v_and_have_the_probability_that_is_said(k, v):
    x, y = drawn(0, 100_000, k=k)
    probabilities = square.shares(v, k=k)
    assert float(probabilities.sum()) == pytest.approx(1)
    # five standard deviations
    error = 5 * (probabilities * (1 - probabilities) / len(x)).sqrt()
    assert ((share_of(x, y, v) - probabilities).abs() <= error + 1e-12).all()
    place = square.cells(x, y, v)
    for cell in place.unique()[:20]:
        inside = x[place == cell]
        assert float((inside.amax(0) - inside.amin(0)).max()) <= v
        assert len(y[place == cell].unique()) == 1


@pytest.mark.parametrize("k", [1, 2])
def test_the_number_of_squares_is_what_c_and_k_say(k):
    for sides in (2, 5, 8):
        used = int((square.shares(1 / sides, k=k, noise=0.5) > 0).sum()) // 2
        assert used == sides**k == pytest.approx((square.C / (0.5 / sides)) ** k)
        number = 2 * used  # cells of two classes
        term = bounds.covering_term(1 / sides, samples=SIZE, classes=2, c=square.C, k=k)
        assert term == pytest.approx(math.sqrt(2 * number * math.log(2) / SIZE))


@pytest.mark.parametrize("learner", [square.line, square.nearest])
def test_margins_of_the_learners_hold_on_a_fine_grid(learner):
    x, y = drawn(3, 60, noise=0.0 if learner is square.nearest else 0.1)
    learnt = learner(x, y)
    places = (torch.arange(300, dtype=torch.float64) + 0.5) / 300
    grid = torch.cartesian_prod(places, places)
    answers = learnt.answer(grid)
    assert torch.equal(learnt.margins > 0, learnt.answer(x) == y)
    for image, label, margin in zip(x, y, learnt.margins, strict=True):
        distance = (grid - image).abs().amax(1)
        assert (answers[distance < margin - 1e-9] == label).all()
    if learner is square.line:  # exact: a little farther the answer is another one
        near = learnt.margins.gt(0) & (x - 0.5).abs().amax(1).add(learnt.margins).lt(0.45)
        for image, label, margin in zip(x[near], y[near], learnt.margins[near], strict=True):
            distance = (grid - image).abs().amax(1)
            assert (answers[distance < margin + 0.02] != label).any()
        assert near.any()


@pytest.mark.parametrize("learner", [square.line, square.nearest])
def test_no_new_image_in_a_kept_cell_is_wrong_and_in_wider_cells_some_are(learner):
    noise, v, seen, failed = (0.0 if learner is square.nearest else 0.1), 0.125, 0, 0
    for seed in range(5):
        x, y = drawn(seed, noise=noise)
        learnt = learner(x, y)
        new, label = drawn(100 + seed, noise=noise)
        wrong = learnt.answer(new) != label
        held = square.kept(x, y, learnt.margins, v)[square.cells(new, label, v)]
        seen += int(held.sum())
        assert not wrong[held].any()
        # the margin of v is too small for cells of side 4v: there the theorem does not hold
        wide = torch.zeros(2 * square.sides(4 * v) ** 2, dtype=torch.bool)
        wide[square.cells(x, y, 4 * v)[learnt.margins >= v]] = True
        failed += int(wrong[wide[square.cells(new, label, 4 * v)]].sum())
    assert seen > 1000
    assert failed > 0


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("learner", [square.line, square.nearest])
def test_the_bound_holds_where_c_and_k_are_known(learner, k):
    """Its step that is certain in every training set, its step that is likely, and the whole."""
    draws, samples, eta, v = 20, 1000, 0.05, 0.125
    grid = (torch.arange(60, dtype=torch.float64) + 0.5) / 60
    grid = torch.cartesian_prod(grid, grid) if k == 2 else grid[:, None].expand(-1, 2)
    terms = {"samples": samples, "classes": 2, "k": k}
    likely = bounds.covering_term(v, c=square.C, **terms) + bounds.confidence_term(samples, eta)
    held = whole = too_small = 0
    for seed in range(draws):
        x, y = drawn(seed, samples, k=k)
        learnt = learner(x, y)
        missed = (learnt.answer(grid) != square.truth(grid)).double().mean()
        gap = 0.1 + 0.8 * float(missed) - float((learnt.answer(x) != y).double().mean())
        q = float((learnt.margins < v).double().mean())
        off = float((share_of(x, y, v) - square.shares(v, k=k)).abs().sum())
        assert gap <= q + off + 0.01  # the error on new images is taken on a grid
        held += off <= likely
        too_small += off > bounds.covering_term(v, c=square.C / 4, **terms)
        bound = bounds.generalization(q, v, c=square.C, eta=eta, **terms)
        whole += gap <= bound
    assert held >= (1 - eta) * draws and whole >= (1 - eta) * draws
    # with a quarter of the true C the covering term is too small for what sampling does
    assert too_small > draws / 2


def test_a_learner_that_memorises_is_told_by_q_and_not_by_its_training_error():
    for noise, low, high in ((0.0, 0.5, 0.9), (0.1, 0.98, 1.0)):
        x, y = drawn(0, noise=noise)
        learnt = square.nearest(x, y)
        assert not (learnt.answer(x) != y).any()
        assert low <= float((learnt.margins < 0.125).double().mean()) <= high


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: square.sides(0.0), "v is 0.0; a radius between 0 and 1"),
        (lambda: square.sides(1.0), "v is 1.0"),
        (lambda: square.shares(-0.1), "v is -0.1"),
        (lambda: square.cells(*drawn(0, 2), 1.5), "v is 1.5"),
        (lambda: square.kept(*drawn(0, 2), torch.ones(2), math.nan), "v is nan"),
        (lambda: square.sides(1e-5), "100,000 squares in a row, at most 1,000"),
        (lambda: drawn(0, 1), "samples is 1"),
        (lambda: drawn(0, k=3), "k is 3"),
        (lambda: drawn(0, noise=1.1), "noise is 1.1"),
        (lambda: bounds.check_radius(2.0), "v is 2.0"),
        (lambda: bounds.confidence_term(0), "samples is 0"),
    ],
)
def test_no_square_without_a_radius_between_0_and_1(call, message):
    with pytest.raises(InputError, match=message):
        call()
