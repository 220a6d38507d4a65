"""Composed maps and Jacobians against matrices that autograd or the convolution spectra give."""

import pytest
import torch
from torch import nn

from arlib import models, spectra
from arlib.errors import InputError


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = models.resnet(8, width=4, in_channels=1).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.double()


def images(count=3, size=8):
    return torch.rand(
        count, 1, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


def test_network_jacobian_equals_autograd(net):
    x = images()
    frame = spectra.jacobian(net, x)
    for index in range(3):
        matrix = torch.autograd.functional.jacobian(
            lambda one: net(one)[0], x[index : index + 1]
        ).reshape(10, 64)
        sigma = torch.linalg.svdvals(matrix)
        row = frame.iloc[index]
        assert (row["max"], row["min"]) == pytest.approx((sigma[0].item(), sigma[-1].item()))
        assert row["sum_of_squares"] == pytest.approx(matrix.square().sum().item())
        assert (row.method, row.rows, row.columns, row["count"]) == ("exact", 10, 64, 10)


def test_beyond_the_limit_extremes_and_a_stochastic_sum(net):
    x = images()
    exact, estimated = spectra.jacobian(net.blocks, net_input(net, x)), None
    estimated = spectra.jacobian(net.blocks, net_input(net, x), exact_limit=1, steps=60, probes=40)
    assert set(estimated.method) == {"lanczos"}
    assert estimated["max"].tolist() == pytest.approx(exact["max"].tolist(), rel=1e-6)
    assert (estimated["max"] <= exact["max"] * (1 + 1e-9)).all()
    assert (estimated["min"] >= exact["min"] - 1e-9).all()
    assert (estimated.sum_of_squares_low <= exact.sum_of_squares).all()
    assert (exact.sum_of_squares <= estimated.sum_of_squares_high).all()
    assert estimated["std"].isna().all()


def net_input(net, x):
    return torch.relu(net.bn(net.stem(x))).detach()


def test_convolution_with_batch_norm_is_the_folded_operator(net):
    block = net.blocks[0]
    folded = block.conv1.weight * (
        block.bn1.weight / (block.bn1.running_var + block.bn1.eps).sqrt()
    ).view(-1, 1, 1, 1)
    exact = spectra.statistics(spectra.singular_values(folded, 6, padding=1))
    result = spectra.jacobian(
        lambda x: block.bn1(block.conv1(x)), torch.zeros(1, 4, 6, 6, dtype=torch.float64)
    ).iloc[0]
    assert {name: result[name] for name in exact} == pytest.approx(exact)


def test_a_block_less_its_activations_is_one_linear_map(net):
    block = net.blocks[1]  # with a strided, channel-padding shortcut
    linear = spectra.linearised(block)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    expected = block.bn2(block.conv2(block.bn1(block.conv1(x)))) + block.shortcut(x)
    assert torch.allclose(linear(x), expected)
    frame = spectra.jacobian(linear, x)
    assert frame["max"][0] == pytest.approx(frame["max"][1])  # the same at every input
    assert not torch.allclose(linear(x), block(x))


def test_torchvision_blocks_with_in_place_activations():
    from torchvision.models.resnet import BasicBlock

    torch.manual_seed(0)
    block = BasicBlock(2, 2).eval()
    x = torch.rand(2, 2, 4, 4)
    frame = spectra.jacobian(block, x)
    matrix = torch.autograd.functional.jacobian(lambda one: block(one)[0], x[:1]).reshape(32, 32)
    assert frame["max"][0] == pytest.approx(torch.linalg.svdvals(matrix)[0].item(), rel=1e-4)


def test_the_module_is_left_as_found(net):
    model = models.resnet(8, width=2, in_channels=1)
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    spectra.jacobian(model, images().float())
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_bad_input_is_named(net):
    with pytest.raises(InputError, match="int64"):
        spectra.jacobian(net, torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(InputError, match="one float tensor"):
        spectra.jacobian(lambda x: x.sum(0), images())

    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(InputError, match="cannot trace Branching"):
        spectra.linearised(Branching())
