import math

import pandas as pd
import pytest
import torch
from torch import nn

from arlib import attacks, models, smoothness
from arlib.errors import InputError


def GENERATOR(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(weight, bias=None, dtype=torch.float64):
    """x (n, 1, 1, d) -> W x + b; module "1" is the layer."""
    weight = torch.as_tensor(weight, dtype=dtype)
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.zeros(len(weight)) if bias is None else torch.as_tensor(bias))
    return nn.Sequential(nn.Flatten(), layer)


def images(n, d, low=0.3, high=0.7, seed=0):
    return low + (high - low) * torch.rand(
        n, 1, 1, d, generator=GENERATOR(seed), dtype=torch.float64
    )


def orthogonal(d, seed=0):
    return torch.linalg.qr(torch.randn(d, d, generator=GENERATOR(seed), dtype=torch.float64)).Q


def normaliser_by_pairs(h):
    squares = torch.cdist(h.detach(), h.detach()).square()
    return float((squares.sum() / (len(h) * (len(h) - 1)) / 2).sqrt())


def test_normaliser_is_the_mean_over_all_pairs_of_different_images():
    model, x = (
        linear(torch.randn(4, 6, generator=GENERATOR()), torch.randn(4, generator=GENERATOR(1))),
        images(7, 6),
    )
    (value,) = smoothness.normalisers(model, x, batch_size=3).values()
    assert value == pytest.approx(normaliser_by_pairs(model(x)), rel=1e-9)


def test_random_change_of_a_scaled_rotation():
    model, x = linear(3 * orthogonal(5)), images(9, 5)
    frame = smoothness.feature_change(model, x, radius=0.1)
    expected = 3 * 0.1 * math.sqrt(5) / normaliser_by_pairs(model(x))
    assert frame.loc[0, "change"] == pytest.approx(expected, rel=1e-9)
    assert (frame.loc[0, "layer"], frame.loc[0, "n"]) == ("1", 9)
    assert math.isnan(frame.loc[0, "gain"])


def test_adversarial_change_of_one_linear_feature_is_the_dual_norm():
    w = torch.randn(1, 8, generator=GENERATOR(3), dtype=torch.float64)
    model, x = linear(w), images(6, 8)
    frame = smoothness.feature_change(model, x, radius=0.1, direction="adversarial", batch_size=4)
    assert frame.loc[0, "change"] == pytest.approx(
        0.1 * float(w.abs().sum()) / normaliser_by_pairs(model(x)), rel=1e-9
    )


def test_perturbed_images_stay_in_the_pixel_range():
    model, x = linear(torch.eye(40)), torch.zeros(2, 1, 1, 40, dtype=torch.float64)
    x[1] = 1.0  # normaliser: sqrt(40 / 2)
    for direction in ("random", "adversarial"):
        change = smoothness.feature_change(model, x, radius=0.5, direction=direction).loc[
            0, "change"
        ]
        # about half of the pixels could not move
        assert 0.4 < change / (0.5 * math.sqrt(40 / 20)) < 0.9


def test_gain_is_the_ratio_to_the_layer_before():
    model = nn.Sequential(linear(orthogonal(6)), linear(2 * orthogonal(6, 1))).double()
    frame = smoothness.feature_change(model, images(5, 6), radius=0.05, layers=["0.1", "1.1"])
    # twice the change, twice the normaliser
    assert frame["gain"][1] == pytest.approx(1.0, rel=1e-9)
    given = smoothness.feature_change(
        model, images(5, 6), radius=0.05, layers=["0.1", "1.1"], normaliser={"0.1": 1.0, "1.1": 1.0}
    )
    assert given["gain"][1] == pytest.approx(2.0, rel=1e-9)


@pytest.mark.slow
def test_adversarial_is_larger_than_random_in_every_block_and_needs_the_hidden_layers_only():
    torch.manual_seed(0)
    model = models.resnet(8, width=4)
    x = torch.rand(8, 3, 16, 16, generator=GENERATOR())
    random = smoothness.feature_change(model, x, radius=4 / 255)
    adversarial = smoothness.feature_change(
        model, x, radius=4 / 255, direction="adversarial", steps=5
    )
    assert (
        list(random["layer"]) == list(adversarial["layer"]) == ["blocks.0", "blocks.1", "blocks.2"]
    )
    assert (adversarial["change"] > 1.3 * random["change"]).all()
    assert random["normaliser"].to_numpy() == pytest.approx(
        adversarial["normaliser"].to_numpy(), rel=1e-5
    )
    again = smoothness.feature_change(model, x, radius=4 / 255, direction="adversarial", steps=5)
    pd.testing.assert_frame_equal(adversarial, again)
    more = smoothness.feature_change(model, x, radius=4 / 255, direction="adversarial", steps=10)
    # the same path, further: the largest met
    assert (more["change"] >= adversarial["change"]).all()


def test_change_ignores_the_scale_of_the_network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3))
    x = torch.rand(20, 3, 2, 2, generator=GENERATOR())
    before = smoothness.feature_change(model, x, radius=0.05)
    with torch.no_grad():
        model[1].weight *= 10
        model[1].bias *= 10
    after = smoothness.feature_change(model, x, radius=0.05)
    assert after["change"][0] == pytest.approx(before["change"][0], rel=1e-5)


def test_a_dead_layer_has_no_change():
    model = nn.Sequential(linear(torch.zeros(3, 4), [5.0, 7.0, 1e4]))
    frame = smoothness.feature_change(model, images(5, 4), radius=0.1)
    assert math.isnan(frame["change"][0])


def two_classes(w, bias):
    """Logits (w·x + b, 0), whose predictions flip where |w·x + b| < radius·‖w‖₁."""
    return linear(torch.stack([w, torch.zeros_like(w)]), [bias, 0.0])


def test_flip_rate_under_attack_of_a_linear_classifier():
    w = torch.randn(10, generator=GENERATOR(), dtype=torch.float64)
    x = images(400, 10, 0.2, 0.8)
    distances = x.flatten(1) @ w
    bias = -float(distances.median())
    for radius in (0.02, 0.05, 0.15):
        expected = ((distances + bias).abs() < radius * w.abs().sum()).double().mean()
        rate = smoothness.flip_rate(two_classes(w, bias), x, radius=radius, batch_size=150)
        assert rate == pytest.approx(float(expected))


def test_random_flip_rates_of_one_pixel():
    x = torch.full((4000, 1, 1, 1), 0.5, dtype=torch.float64)
    model = two_classes(torch.ones(1, dtype=torch.float64), -0.45)  # flips where δ < −0.05
    assert smoothness.flip_rate(model, x, radius=0.1, attack="sign") == pytest.approx(
        0.5, abs=0.012
    )
    assert smoothness.flip_rate(model, x, radius=0.1, attack="uniform") == pytest.approx(
        0.25, abs=0.012
    )
    assert smoothness.flip_rate(model, x, radius=0.04, attack="sign") == 0
    assert smoothness.flip_rate(model, x, radius=0.1) == 1


def test_flips_are_those_of_the_same_attack_run_whole():
    torch.manual_seed(1)
    model = models.resnet(8, width=4)
    x = torch.rand(40, 3, 16, 16, generator=GENERATOR())
    y = model.eval()(x).argmax(1)
    adversarial = attacks.pgd(model, x, y, eps=24 / 255, steps=20, generator=GENERATOR(5))
    expected = float((model(adversarial).argmax(1) != y).float().mean())
    rate = smoothness.flip_rate(model, x, radius=24 / 255, generator=GENERATOR(5))
    assert 0 < expected < 1
    assert rate == pytest.approx(expected, abs=0.026)  # one image: folded weights round differently


def test_jacobian_of_a_linear_layer():
    weight = torch.randn(6, 9, generator=GENERATOR(2), dtype=torch.float64)
    model, x = linear(weight), images(5, 9)
    row = smoothness.jacobian(model, x, probes=400, batch_size=2, exact_limit=1).loc[0]
    singular = torch.linalg.svdvals(weight)
    scale = normaliser_by_pairs(model(x))
    assert row["sigma_max"] == pytest.approx(float(singular[0]) / scale, rel=1e-6)
    assert row["frobenius"] == pytest.approx(float(weight.norm()) / scale, rel=0.02)
    assert row["uniformity"] == pytest.approx(
        row["sigma_max"] / row["frobenius"] * math.sqrt(6), rel=1e-3
    )
    assert row["rank"] == 6


def test_uniformity_is_one_for_a_rotation_and_root_rank_for_one_direction():
    x = images(4, 5)
    rotation = smoothness.jacobian(linear(7 * orthogonal(5)), x).loc[0]
    assert rotation["uniformity"] == pytest.approx(1.0, rel=1e-9)
    assert rotation["frobenius"] == pytest.approx(rotation["sigma_max"] * math.sqrt(5), rel=1e-9)
    single = torch.zeros(5, 5)
    single[2, 3] = 4.0
    assert smoothness.jacobian(linear(single), x)["uniformity"][0] == pytest.approx(
        math.sqrt(5), rel=1e-9
    )


def test_jacobian_of_a_block_against_autograd():
    torch.manual_seed(0)
    model = models.resnet(8, width=2).eval().double()
    x = torch.rand(2, 3, 8, 8, generator=GENERATOR(), dtype=torch.float64)
    row = smoothness.jacobian(
        model,
        x,
        layers=["blocks.1"],
        steps=64,
        probes=300,
        exact_limit=1,
        normaliser={"blocks.1": 1.0},
    ).loc[0]
    part = nn.Sequential(
        model.normalize, model.stem, model.bn, nn.ReLU(), model.blocks[0], model.blocks[1]
    )
    matrices = [
        torch.autograd.functional.jacobian(part, image[None]).flatten(4).flatten(0, 3)
        for image in x
    ]
    assert matrices[0].shape == (4 * 4 * 4, 3 * 8 * 8)
    assert row["sigma_max"] == pytest.approx(
        sum(float(torch.linalg.svdvals(m)[0]) for m in matrices) / 2, rel=1e-4
    )
    assert row["frobenius"] == pytest.approx(sum(float(m.norm()) for m in matrices) / 2, rel=0.03)
    assert row["rank"] == 64


def test_model_is_left_as_it_was():
    torch.manual_seed(0)
    model = models.resnet(8, width=2).train()
    model.bn.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.rand(4, 3, 8, 8, generator=GENERATOR())
    smoothness.feature_change(model, x, radius=0.01)
    smoothness.feature_change(model, x, radius=0.01, direction="adversarial", steps=1)
    smoothness.flip_rate(model, x, radius=0.01, steps=1)
    smoothness.jacobian(model, x, steps=1, probes=2)
    assert model.training
    assert not model.bn.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"direction": "adverserial"}, "Did you mean 'adversarial'"),
        ({"layers": ["2"]}, "layer is '2'"),
        ({"radius": 4}, "radius is 4"),
        ({"normaliser": {"0": 1.0}}, "no value for layer 1"),
        ({"x": torch.zeros(0, 1, 1, 3)}, "shape"),
        ({"x": torch.full((2, 1, 1, 3), 2.0)}, "outside"),
    ],
)
def test_bad_input_is_named(change, message):
    options = {
        "model": linear(torch.eye(3), dtype=torch.float32),
        "x": images(4, 3).float(),
        "radius": 0.1,
    } | change
    with pytest.raises(InputError, match=message):
        smoothness.feature_change(**options)


def test_one_image_has_no_normaliser_of_its_own():
    with pytest.raises(InputError, match="two different images"):
        smoothness.normalisers(linear(torch.eye(3)), images(1, 3))
    frame = smoothness.feature_change(
        linear(torch.eye(3)), images(1, 3), radius=0.1, normaliser={"1": 2.0}
    )
    assert frame["change"][0] == pytest.approx(0.1 * math.sqrt(3) / 2)
