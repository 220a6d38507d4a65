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
        proved, found = (
            bounds.certified(net, x, y, norm=norm),
            margins.instance(net, x, y, norm=norm),
        )
        assert proved[0] == found[0] == 0
        assert (proved[1:] > 0).all() and (proved <= found).all()


@pytest.mark.parametrize("classes", [2, 5])
def test_a_linear_network_is_certified_up_to_its_boundary(classes):
    model, x, y = linear(classes, n=30)
    exact = smallest_perturbation(model, x, y, "l2").clamp_min(0).double()
    proved = bounds.certified(model, x, y)
    assert torch.allclose(proved, exact, rtol=1e-5) and (proved > 0).any()
    # a step of that length over the nearest boundary, and none shorter, changes the answer
    assert (bounds.certified(model, x, y, norm="linf") <= proved).all()


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
