"""What acts on finished networks: folding, tuning with a spectrum or smooth features imposed."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from arlib import data, models, smoothness, spectra
from arlib.errors import InputError, TrainingStopped
from arlib.training.imposed import Imposition, between, spectra_of
from arlib.training.plain import plain
from arlib.training.smoothed import Features, relative_change, smoothed
from arlib.training.tuning import Tuning, adversarial, matched, natural, tune

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", device="cpu")


@pytest.fixture(scope="module")
def net(digits):
    """A small residual network that knows the digits, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.resnet(8, width=4, in_channels=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    order = torch.Generator().manual_seed(0)
    for _ in range(6):
        for index in torch.randperm(len(digits.train), generator=order).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(digits.train.x[index]), digits.train.y[index]).backward()
            optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def folded(net, digits):
    return plain(net, digits.test.x[:8])


def error(net, split):
    with torch.no_grad():
        return float((net(split.x).argmax(1) != split.y).double().mean())


# Networks without batch norm


def test_the_plain_network_answers_as_the_network_does_and_has_no_batch_norm(net, folded, digits):
    with torch.no_grad():
        expected, got = net(digits.test.x), folded(digits.test.x)
    assert torch.allclose(expected, got, atol=1e-4) and error(net, digits.test) < 0.2
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in net.modules()), "the model keeps its own"
    assert all(p.requires_grad for p in folded.parameters())


def test_the_plain_networks_operators_are_those_that_fold_bn_measures(net, folded):
    measured = spectra.of(net, SHAPE, fold_bn=True).set_index("layer")["max"]
    for name, sigma in spectra_of(folded, SHAPE).items():
        assert float(sigma[0]) == pytest.approx(measured[name], rel=1e-5)


def test_a_batch_norm_that_nothing_takes_up_is_named():
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 3), nn.Flatten()).eval()
    with pytest.raises(InputError, match="Batch norm 0 cannot be folded"):
        plain(net, torch.rand(4, 1, 8, 8))


# Training on


def test_two_arms_with_the_same_seed_are_the_same_and_another_seed_is_another(folded, digits):
    ends = []
    for seed in (1, 1, 2):
        arm = copy.deepcopy(folded)
        losses = tune(arm, digits.train, Tuning(epochs=0.3), seed=seed, augment=False)
        ends.append((losses, arm.classifier.weight.detach()))
    assert ends[0][0] == ends[1][0] and torch.equal(ends[0][1], ends[1][1])
    assert ends[0][0] != ends[2][0] and len(ends[0][0]) == round(0.3 * (len(digits.train) // 64))


def test_tuning_goes_downhill_with_a_rate_that_ends_at_zero(folded, digits, monkeypatch):
    rates, step = [], torch.optim.SGD.step

    def noted(self, *arguments):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", noted)
    arm = copy.deepcopy(folded)
    losses = tune(arm, digits.train, Tuning(epochs=3), seed=0, augment=False)
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert rates[0] == 0.01 and rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.01 / len(losses))


@pytest.mark.slow
def test_adversarial_tuning_resists_more(folded, digits):
    errors = []
    for loss in (natural, adversarial(32 / 255, 3)):
        arm = copy.deepcopy(folded)
        tune(arm, digits.train, Tuning(epochs=3), seed=0, loss=loss, augment=False)
        attacked = adversarial(32 / 255, 10)
        some = digits.test[:150]
        with torch.enable_grad():
            value = attacked(arm, *some, torch.Generator().manual_seed(0), 0.0)
        errors.append(float(value.detach()))
    assert errors[1] < 0.8 * errors[0]


def test_it_is_imposed_before_every_k_steps_and_after(folded, digits):
    calls, arm = [], copy.deepcopy(folded)
    how = Tuning(epochs=10 / 17, every=4)
    losses = tune(arm, digits.train, how, seed=0, impose=lambda n: calls.append(n is arm))
    assert len(losses) == 10 and calls == [True] * 4  # before, after 4 and 8, and at the end


def test_a_loss_that_is_not_finite_stops_at_once(folded, digits):
    with pytest.raises(TrainingStopped, match="became nan in step 1 of"):
        tune(
            copy.deepcopy(folded), digits.train, Tuning(), seed=0,
            loss=lambda net, x, y, g, done: natural(net, x, y, g, done) * math.nan,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda split: Tuning(lr=0), "lr is 0; above 0"),
        (lambda split: Tuning(every=-1), "every is -1"),
        (lambda split: tune(None, split[:10], Tuning(), seed=0), "batch_size is 64, but there are"),
    ],
)
def test_settings_that_cannot_be_are_refused(digits, make, message):
    with pytest.raises(InputError, match=message):
        make(digits.train)


# Spectra


def test_an_imposed_spectrum_is_there_and_the_layers_not_asked_for_are_as_they_were(folded):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        arm, other = copy.deepcopy(folded), models.resnet(8, width=4, in_channels=1)
    wanted = {name: 0.5 * sigma for name, sigma in spectra_of(other, SHAPE).items()}
    first = list(wanted)[:3]  # of maps that a 3×3 kernel fits into
    impose = Imposition(arm, SHAPE, {name: wanted[name] for name in first}, steps=200)
    impose(arm)
    now, before = spectra_of(arm, SHAPE), spectra_of(folded, SHAPE)
    for name in wanted:
        if name in first:
            far = (now[name] - wanted[name]).norm() / wanted[name].norm()
            # Values of one conjugate pair are equal and share their target, so sorted values lie
            # a little further off than the residual says.
            assert abs(float(far) - impose.residuals[name]) < 0.01
            gap = (before[name] - wanted[name]).norm() / wanted[name].norm()
            assert float(far) < 0.1 < float(gap)
        else:
            assert torch.equal(now[name], before[name])


def test_a_layers_own_spectrum_changes_nothing_and_passes_the_check(folded):
    arm = copy.deepcopy(folded)
    own = dict(list(spectra_of(folded, SHAPE).items())[:4])
    impose = Imposition(arm, SHAPE, own)
    impose(arm)
    impose.check()
    for (name, weight), (_, kept) in zip(
        arm.named_parameters(), folded.named_parameters(), strict=True
    ):
        assert torch.allclose(weight, kept, atol=1e-5), name


def test_a_spectrum_out_of_reach_is_named_with_how_far(folded):
    arm = copy.deepcopy(folded)
    name, sigma = next(iter(spectra_of(folded, SHAPE).items()))
    lonely = torch.zeros_like(sigma)
    lonely[0] = 1.0  # one direction of all: no small kernel does that
    impose = Imposition(arm, SHAPE, {name: lonely})
    impose(arm)
    with pytest.raises(InputError, match=rf"Layer {name} is \d+.\d% away .* 2% is allowed"):
        impose.check()


def test_layers_that_are_not_counted_cannot_be_imposed_on(folded):
    with pytest.raises(InputError, match="layer is 'stem'"):
        Imposition(folded, SHAPE, {"stem": [1.0, 2.0]})


def test_doses_lie_on_the_line_between_two_spectra_on_the_log_scale():
    a, b = {"l": torch.tensor([8.0, 4.0, 2.0])}, {"l": torch.tensor([2.0, 1.0, 0.5])}
    ends = {share: between(a, b, share)["l"] for share in (-1, 0, 0.5, 1)}
    assert ends[0][[0, -1]] == pytest.approx([2, 8]) and ends[1][[0, -1]] == pytest.approx([0.5, 2])
    assert ends[0.5] == pytest.approx(ends[0] / 2) and ends[-1] == pytest.approx(4 * ends[0])
    with pytest.raises(InputError, match=r"other layers: \['l', 'm'\]"):
        between(a, {"m": b["l"]}, 0.5)


# Features


def test_the_penalty_is_the_mean_square_of_what_feature_change_measures(folded, digits):
    blocks, x = models.block_names(folded), digits.test.x[:200]
    signs = 2 * torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(3)) - 1
    moved = (x + 0.05 * signs).clamp(0, 1)
    with Features(folded, blocks) as features, torch.no_grad():
        (_, clean), (_, far) = features(x), features(moved)
        outputs = {name: h.clone() for name, h in zip(blocks, clean, strict=True)}
    by_hand = [
        float(((b - a).flatten(1) ** 2).sum(1).mean() / a.flatten(1).var(0, correction=0).sum())
        for a, b in zip(clean, far, strict=True)
    ]
    assert float(relative_change(clean, far)) == pytest.approx(np.mean(by_hand), rel=1e-4)
    # the measured normaliser is the unbiased one of the same variance
    scale = smoothness.normalisers(folded, x)
    for name in blocks:
        variance = float(outputs[name].flatten(1).var(0).sum())
        assert scale[name] == pytest.approx(math.sqrt(variance), rel=1e-4)
    assert not folded.blocks[0]._forward_hooks, "no hook is left behind"


def test_features_shrunk_are_not_smooth():
    a = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    b = a + 0.1 * torch.randn(50, 7, generator=torch.Generator().manual_seed(1))
    assert float(relative_change([a], [b])) == pytest.approx(
        float(relative_change([a / 9], [b / 9]))
    )


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 2])
def test_a_price_on_change_makes_features_smoother_where_it_counts(folded, digits, steps):
    blocks, changes = models.block_names(folded), []
    direction = "adversarial" if steps else "random"
    for weight in (0.0, 300.0):
        arm = copy.deepcopy(folded)
        loss = smoothed(blocks, weight, 0.1, steps=steps)
        tune(arm, digits.train, Tuning(epochs=4), seed=0, loss=loss, augment=False)
        table = smoothness.feature_change(
            arm, digits.test.x[:100], radius=0.1, direction=direction, steps=3
        )
        changes.append(float(np.median(table["change"])))
        assert error(arm, digits.test) < 0.7
    assert changes[1] < 0.8 * changes[0]


def test_without_a_price_it_is_natural_training(folded, digits):
    arms = [copy.deepcopy(folded) for _ in range(2)]
    losses = (natural, smoothed(models.block_names(folded), 0.0, 0.1))
    ends = [
        tune(arm, digits.train, Tuning(epochs=0.2), seed=0, loss=loss, augment=False)
        for arm, loss in zip(arms, losses, strict=True)
    ]
    assert ends[0] == pytest.approx(ends[1], rel=1e-5)


def test_layers_that_are_not_there_are_named(folded):
    with pytest.raises(InputError, match=r"layer is 'blocks\.9'"):
        Features(folded, ["blocks.9"])


# The weight that matches


@pytest.mark.parametrize("target", [0.5, 0.02, 1e-4, 30])
def test_the_weight_of_a_target_is_found_inside_and_outside_the_interval(target):
    weight, tried = matched(lambda w: 1 / w, target, low=1, high=100, trials=12)
    assert 1 / weight == pytest.approx(target, rel=0.11) and tried[-1][0] == weight


def test_a_target_that_is_never_reached_is_said_with_what_was_seen():
    with pytest.raises(InputError, match=r"in 5 trials. Seen \(weight: value\): 10: 1.1"):
        matched(lambda w: 1 + 1 / w, 0.5, low=1, high=100, trials=5)
    with pytest.raises(InputError, match="0 < low < high"):
        matched(lambda w: w, 1.0, low=3, high=2)
