"""Imposed spectra are there, and only they changed; the penalty's gradient is its gradient."""

import math

import pytest
import torch

from arlib import spectra
from arlib.errors import InputError


def kernel(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ratio(weight, size, **options):
    return spectra.statistics(spectra.singular_values(weight, size, **options))["std_over_mean"]


def test_its_own_spectrum_changes_nothing():
    weight = kernel(4, 3, 3, 3)
    imposed = spectra.impose(weight, 6, spectra.singular_values(weight, 6))
    assert torch.allclose(imposed.weight, weight, atol=1e-10)
    assert imposed.residual < 1e-10


def test_a_kernel_as_large_as_the_map_takes_any_spectrum():
    weight, target = (
        kernel(3, 3, 5, 5),
        torch.rand(75, generator=torch.Generator().manual_seed(1)) + 0.5,
    )
    imposed = spectra.impose(weight, 5, target)
    achieved = spectra.statistics(spectra.singular_values(imposed.weight, 5))
    wanted = spectra.statistics(target)
    assert imposed.residual < 1e-9
    # conjugate pairs share one quantile
    assert achieved["std"] == pytest.approx(wanted["std"], rel=0.02)
    assert achieved["mean"] == pytest.approx(wanted["mean"], rel=0.01)


@pytest.mark.parametrize("stride,groups", [(1, 1), (2, 1), (1, 2)])
def test_another_layers_quantiles_are_approached_on_the_own_support(stride, groups):
    weight, other = kernel(8, 8 // groups, 3, 3), 2 * kernel(8, 8 // groups, 3, 3, seed=5)
    other[:, :, 1, 1] += 6 * torch.eye(8, 8 // groups)
    options = {"stride": stride, "groups": groups}
    target = spectra.singular_values(other, 8, **options)
    imposed = spectra.impose(weight, 8, spectra.quantiles(target), **options)
    values = spectra.singular_values(imposed.weight, 8, **options)
    start = spectra.singular_values(weight, 8, **options)

    def distance(sigma):
        return float((sigma - target).norm() / target.norm())

    assert imposed.weight.shape == weight.shape
    assert distance(values) < 0.01 < distance(start)
    # the target's 201 quantiles stand for its spectrum
    assert 0 < imposed.residual <= distance(values)
    assert (values.std() - start.std()) / (target.std() - start.std()) == pytest.approx(1, abs=0.05)


def test_frobenius_is_scaling_alone():
    weight = kernel(4, 4, 3, 3).float()
    imposed = spectra.impose(weight, 6, 0.7, kind="frobenius")
    scale = imposed.weight / weight
    assert torch.allclose(scale, scale.flatten()[0].expand_as(scale), rtol=1e-5)
    assert spectra.singular_values(
        imposed.weight, 6
    ).square().mean().sqrt().item() == pytest.approx(0.7, rel=1e-5)
    assert imposed.weight.dtype == torch.float32


def test_spread_moves_the_ratio_and_keeps_the_size():
    weight = kernel(6, 6, 3, 3)
    before = ratio(weight, 8)
    wanted = 0.8 * before
    imposed = spectra.impose(weight, 8, wanted, kind="spread", steps=200)
    after = ratio(imposed.weight, 8)
    assert (before - after) / (before - wanted) > 0.8
    assert imposed.weight.norm().item() == pytest.approx(weight.norm().item(), rel=0.05)


@pytest.mark.parametrize("shape,size,options", [
    ((3, 2, 3, 3), 3, {}),
    ((2, 3, 3, 3), (4, 6), {"stride": 2}),
    ((4, 1, 3), 6, {"groups": 4}),
])  # fmt: skip
def test_penalty_is_the_squared_ratio_and_differentiable(shape, size, options):
    weight = kernel(*shape).requires_grad_()
    penalty = spectra.spread_penalty(weight, size, **options)
    assert penalty.item() == pytest.approx(ratio(weight, size, **options) ** 2, rel=1e-9)
    assert torch.autograd.gradcheck(lambda w: spectra.spread_penalty(w, size, **options), weight)


def test_descending_the_penalty_concentrates():
    weight = kernel(3, 3, 3, 3).requires_grad_()
    start = ratio(weight.detach(), 5)
    optimiser = torch.optim.SGD([weight], lr=1.0)
    for _ in range(10):
        optimiser.zero_grad()
        spectra.spread_penalty(weight, 5).backward()
        optimiser.step()
    assert ratio(weight.detach(), 5) < 0.9 * start


@pytest.mark.parametrize("options,message", [
    ({"target": [1.0, -1.0]}, "negative"),
    ({"target": 1.0}, "at least two"),
    ({"target": [1.0, 2.0], "kind": "spread"}, "needs one"),
    ({"target": [1.0, math.nan]}, "non-finite"),
    ({"target": [1.0, 2.0], "kind": "quantile"}, "Did you mean 'quantiles'"),
    ({"target": [1.0, 2.0], "stride": 4}, "divides the map"),
    ({"target": [1.0, 2.0], "size": 2}, "fits into it"),
])  # fmt: skip
def test_bad_input_is_named(options, message):
    with pytest.raises(InputError, match=message):
        spectra.impose(**({"weight": kernel(2, 2, 3, 3), "size": 6} | options))
