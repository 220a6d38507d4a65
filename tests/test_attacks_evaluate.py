"""Robust accuracy: what is counted, what is kept for resuming,
and when the result distrusts itself.
"""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attacked import (
    Function,
    convolutional,
    digits,
    generator,
    linear,
    pictures,
    right,
    smallest_perturbation,
)
from torch import nn

from arlib import attacks, files
from arlib.attacks import sanity
from arlib.attacks.evaluate import _rounded
from arlib.attacks.named import Named
from arlib.attacks.steps import Best
from arlib.errors import InputError

COLUMNS = ["eps", "attack", "attacks", "n", "correct", "accuracy", "low", "high", "accuracy_8bit"]


def row(result, eps, attack="worst case"):
    (index,) = np.flatnonzero((result.table["eps"] == eps) & (result.table["attack"] == attack))
    return result.table.iloc[index]


def quiet(*arguments, **options):
    """An evaluation of a toy whose doubts are not the point here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", attacks.TrustWarning)
        return attacks.evaluate(*arguments, **options)


@pytest.fixture
def scripted(monkeypatch):
    """Attacks that break the images they are told to: {attack: {eps: first pixels}};
    with a list of what ran.
    """
    script, ran = {}, []

    def run(self, forward, ball, y, streams):
        ids = (ball.x.flatten(1)[:, 0] * 1000).round().long().tolist()
        ran.append((self.name, ball.eps, ids))
        best = Best(ball.x)
        hits = torch.tensor(
            [i in script.get(self.name, {}).get(ball.eps, ()) for i in ids], dtype=torch.bool
        )
        best.update(ball.x, hits, hits.to(ball.x.dtype))
        return best

    monkeypatch.setattr(Named, "run", run)
    return script, ran


def numbered(n, wrong=()):
    """A model that is right on n images but `wrong`; the first pixel of image i is i / 1000."""
    x = torch.full((n, 1, 2, 2), 0.5)
    x[:, 0, 0, 0] = torch.arange(n) / 1000
    model = Function(
        lambda x: torch.stack([x[:, 0, 1, 1] + 1, x[:, 0, 1, 1], x[:, 0, 1, 1] - 1], 1)
    )
    y = torch.zeros(n, dtype=torch.int64)
    y[list(wrong)] = 1
    return model, x, y


# What is counted


def test_the_worst_case_is_taken_per_image_not_on_averages(scripted):
    script, _ = scripted
    script |= {"pgd-10": {0.1: {0, 1, 2}}, "apgd-ce": {0.1: {2, 3}}}
    result = quiet(
        *numbered(10, wrong=[9]), eps=0.1, attacks=("pgd-10", "apgd-ce"), independent=True
    )
    assert list(result.table.columns) == COLUMNS
    assert [row(result, 0.1, a)["correct"] for a in ("pgd-10", "apgd-ce", "worst case")] == [
        6,
        7,
        5,
    ]
    assert row(result, 0.0, "none")["correct"] == 9
    assert result.robust.tolist() == [[i in (4, 5, 6, 7, 8) for i in range(10)]]
    assert result.natural.tolist() == [i != 9 for i in range(10)]


def test_a_broken_image_is_not_attacked_again(scripted):
    script, ran = scripted
    script |= {"pgd-10": {0.1: {0, 1}}, "apgd-ce": {0.1: {2}, 0.2: {3}}}
    result = quiet(*numbered(6, wrong=[5]), eps=[0.2, 0.1], attacks=("pgd-10", "apgd-ce"))
    assert ran == [
        ("pgd-10", 0.1, [0, 1, 2, 3, 4]),
        ("apgd-ce", 0.1, [2, 3, 4]),
        ("pgd-10", 0.2, [3, 4]),
        ("apgd-ce", 0.2, [3, 4]),
    ]
    assert result.eps == (0.1, 0.2)
    assert [
        row(result, e, a)["correct"]
        for e in (0.1, 0.2)
        for a in ("pgd-10", "apgd-ce", "worst case")
    ] == [
        *(3, 2, 2),
        *(2, 1, 1),
    ]


@pytest.mark.parametrize("independent", [False, True])
def test_a_larger_radius_keeps_what_the_smaller_ball_broke(scripted, independent):
    script, ran = scripted
    script |= {"pgd-10": {0.1: {0, 1}}}  # and nothing at 0.2
    result = quiet(*numbered(4), eps=[0.1, 0.2], attacks=("pgd-10",), independent=independent)
    assert [row(result, e)["correct"] for e in (0.1, 0.2)] == [2, 2]
    assert ran[1] == ("pgd-10", 0.2, [2, 3])


def test_images_are_counted_then_divided(scripted):
    """Three batches of 4, 4 and 2: the mean of batch accuracies would be something else."""
    script, ran = scripted
    script |= {"pgd-10": {0.1: {8, 9}}}
    result = quiet(*numbered(10), eps=0.1, attacks="pgd-10", batch_size=4)
    assert [len(ids) for _, _, ids in ran] == [4, 4, 2]
    values = row(result, 0.1)
    assert (values["n"], values["correct"], values["accuracy"]) == (10, 8, 0.8)
    assert (values["low"], values["high"]) == attacks.wilson(8, 10)


def test_wilson_intervals_are_those_of_the_textbook():
    known = {
        (0, 10): (0.0, 0.2775),
        (5, 10): (0.2366, 0.7634),
        (10, 10): (0.7225, 1.0),
        (81, 263): (0.2553, 0.3662),
    }
    for (correct, n), interval in known.items():
        assert attacks.wilson(correct, n) == pytest.approx(interval, abs=5e-5)


def test_each_row_says_of_which_attacks_it_is(monkeypatch):
    monkeypatch.setattr("arlib.attacks.named.SQUARE_QUERIES", 20)
    model, x, y = linear(4, n=8)
    names = ("square", "fgsm", "apgd-ce")  # black boxes go last
    with_all = quiet(model, x, y, eps=0.05, attacks=names).table["attacks"].tolist()
    assert with_all == [
        "none",
        "fgsm",
        "fgsm+apgd-ce",
        "fgsm+apgd-ce+square",
        "fgsm+apgd-ce+square",
    ]
    alone = quiet(model, x, y, eps=0.05, attacks=names, independent=True).table["attacks"].tolist()
    assert alone == ["none", "fgsm", "apgd-ce", "square", "fgsm+apgd-ce+square"]


@pytest.mark.slow
def test_a_linear_model_has_the_robust_accuracy_of_the_closed_form():
    model, x, y = linear(4, n=40)
    distance = smallest_perturbation(model, x, y, "linf")
    radii = [float(distance.quantile(q)) * 1.002 for q in (0.2, 0.5, 0.8)]
    for names in (("apgd-margin-t",), ("apgd-ce", "apgd-margin-t")):
        result = quiet(model, x, y, eps=radii, attacks=names)
        exact = torch.stack([distance > eps for eps in radii]).numpy()
        assert np.array_equal(result.robust, exact)


@pytest.mark.slow
def test_batch_size_does_not_matter():
    model, x = convolutional(dtype=torch.float64), pictures(40, dtype=torch.float64)
    y = model(x).argmax(1)
    result = [
        quiet(model, x, y, eps=[0.03, 0.1], attacks=("pgd-10x2", "apgd-ce"), batch_size=b).robust
        for b in (7, 40)
    ]
    assert np.array_equal(*result) and 0 < result[0].sum() < result[0].size


def test_the_seed_matters_and_repeats():
    model, x = convolutional(), pictures(40)
    y = model(x).argmax(1)

    def run(seed):
        return quiet(model, x, y, eps=[0.01, 0.02, 0.03, 0.05], attacks="pgd-1", seed=seed).robust

    assert np.array_equal(run(0), run(0))
    assert not all(np.array_equal(run(0), run(seed)) for seed in (1, 2, 3))


def test_eight_bit_rounding_is_evaluated_beside():
    """A boundary between two levels: fp32 pixels cross it at eps = 1.5/255,
    whole levels only at 2/255.
    """
    model = Function(
        lambda x: torch.stack([101.2 / 255 - x.sum((1, 2, 3)), 0 * x.sum((1, 2, 3))], 1)
    )
    x, y = torch.full((6, 1, 1, 1), 100 / 255), torch.zeros(6, dtype=torch.int64)
    result = quiet(model, x, y, eps=[1.5 / 255, 2 / 255], attacks="fgsm", independent=True)
    assert [row(result, e)["accuracy"] for e in result.eps] == [0, 0]
    assert row(result, 1.5 / 255)["accuracy_8bit"] == 1
    assert quiet(model, x, y, eps=2 / 255, attacks="fgsm").table["accuracy_8bit"].tolist() == [
        1,
        0,
        0,
    ]


@pytest.mark.parametrize("clip", [(0.0, 1.0), (-1.0, 1.0)])
def test_eight_bit_rounding_goes_towards_the_image_and_so_stays_in_an_l2_ball(clip):
    """To the nearest level, these perturbations would leave the ball."""
    unit, generator = (clip[1] - clip[0]) / 255, torch.Generator().manual_seed(0)
    levels = torch.randint(40, 216, (8, 3, 6, 6), generator=generator).double()
    x = clip[0] + levels * unit
    # The nearest level is 2, the next one towards the image 1.
    moves = 1.6 + 0.3 * torch.rand(x.shape, generator=generator, dtype=x.dtype)
    signs = torch.randint(0, 2, x.shape, generator=generator) * 2 - 1
    delta = signs * moves * unit
    eps = float(delta.flatten(1).norm(dim=1).min())
    rounded = _rounded(x, x + delta, eps, "l2", clip)
    steps = (rounded - x) / unit
    assert torch.allclose(steps, signs.double(), atol=1e-6)  # whole levels, in the same direction
    assert (rounded - x).flatten(1).norm(dim=1).max() <= eps
    nearest = 2 * unit * signs.double()
    assert nearest.flatten(1).norm(dim=1).min() > eps


@pytest.mark.parametrize(("levels", "accuracy"), [(1.5, 1), (2.2, 0)])
def test_accuracy_at_eight_bits_is_that_of_whole_levels_under_l2_too(levels, accuracy):
    """The boundary lies 1.4 levels away: of a step of 1.5 levels one is left, of 2.2 two are."""

    def margin(x):
        return 101.4 / 255 - x.sum((1, 2, 3))

    model = Function(lambda x: torch.stack([margin(x), 0 * margin(x)], 1))
    x, y = torch.full((6, 1, 1, 1), 100 / 255), torch.zeros(6, dtype=torch.int64)
    result = row(quiet(model, x, y, eps=levels / 255, attacks="fgsm", norm="l2"), levels / 255)
    assert (result["accuracy"], result["accuracy_8bit"]) == (0, accuracy)


# Resuming


class Interrupted(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_an_interrupted_evaluation_goes_on_and_ends_the_same(stop_after, tmp_path):
    model, x = convolutional(), pictures(40)
    y = model(x).argmax(1)
    arguments = {"eps": [0.02, 0.05], "attacks": ("pgd-10", "apgd-ce"), "batch_size": 16, "seed": 3}
    batches = []
    whole = quiet(model, x, y, save=lambda state: batches.append(1), **arguments)
    saved = []

    def save(state):
        files.write_arrays(tmp_path / "state.npz", state)
        saved.append(1)
        if len(saved) == stop_after:
            raise Interrupted

    with pytest.raises(Interrupted):
        quiet(model, x, y, save=save, **arguments)
    stored = files.read_arrays(tmp_path / "state.npz")
    rest = []
    result = quiet(model, x, y, state=stored, save=lambda state: rest.append(1), **arguments)
    assert len(rest) == len(batches) - stop_after > 0
    assert result.table.equals(whole.table) and np.array_equal(result.robust, whole.robust)
    assert all(np.array_equal(result.state[key], whole.state[key]) for key in whole.state)


def test_ctrl_c_leaves_the_callers_own_state_filled(scripted, monkeypatch):
    script, ran = scripted
    script |= {"pgd-10": {0.1: {0}}}
    model, x, y = numbered(9)
    state, inner = {}, Named.run

    def run(self, forward, ball, y, streams):
        if len(ran) == 2:
            raise KeyboardInterrupt
        return inner(self, forward, ball, y, streams)

    monkeypatch.setattr(Named, "run", run)
    with pytest.raises(KeyboardInterrupt):
        quiet(model, x, y, eps=0.1, attacks="pgd-10", batch_size=3, state=state)
    monkeypatch.setattr(Named, "run", inner)
    assert (
        row(quiet(model, x, y, eps=0.1, attacks="pgd-10", batch_size=3, state=state), 0.1)[
            "correct"
        ]
        == 8
    )
    assert [ids for _, _, ids in ran] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"eps": 0.2}, "settings"),
        ({"attacks": "fgsm"}, "settings"),
        ({"seed": 1}, "settings"),
        ({"norm": "l2"}, "settings"),
        ({"independent": True}, "settings"),
        ({"x": pictures(8, seed=9)}, "images"),
        ({"y": torch.zeros(8, dtype=torch.int64)}, "labels"),
        ({"model": convolutional(seed=1)}, "weights"),
    ],
)
def test_a_state_of_another_evaluation_is_refused_and_says_what_differs(change, named):
    model, x = convolutional(), pictures(8)
    arguments = {"model": model, "x": x, "y": model(x).argmax(1), "eps": 0.1, "attacks": "pgd-1"}
    state = quiet(**arguments).state
    with pytest.raises(InputError, match=f"its {named} differ"):
        attacks.evaluate(**arguments | change, state=state)


# Bad input


@pytest.mark.parametrize(
    ("classes", "options", "message"),
    [
        (
            3,
            {"attacks": ("apgd-ce", "apgd-t")},
            "at least 4 classes; this model has 3. Use 'apgd-margin-t'",
        ),
        (2, {"attacks": "apgd-dlr"}, "at least 3 classes"),
        (4, {"attacks": "agpd-ce"}, "Did you mean 'apgd-ce'"),
        (4, {"attacks": "pgd-0"}, "attack is 'pgd-0'"),
        (4, {"attacks": ()}, "at least one"),
        (4, {"attacks": ("fgsm", "fgsm")}, "each once"),
        (4, {"eps": []}, "eps is empty"),
        (4, {"eps": [0.1, 8]}, "eps is 8"),
        (4, {"attacks": "square", "norm": "l2"}, "linf"),
        (4, {"batch_size": 0}, "batch_size is 0"),
        (4, {"norm": "l3"}, "norm is 'l3'"),
    ],
)
def test_evaluate_refuses_before_work_starts(classes, options, message):
    model, x, y = linear(classes, n=4)
    with pytest.raises(InputError, match=message):
        attacks.evaluate(model, x, y, **{"eps": 0.1} | options)


def test_a_network_that_is_always_wrong_has_nothing_to_attack():
    model, x, y = linear(4, n=6)
    result = quiet(model, x, (y + 1) % 4, eps=0.1)
    assert result.table["correct"].tolist() == [0] * 4 and "near chance" in " ".join(
        result.warnings
    )


@pytest.mark.parametrize(("classes", "targeted"), [(2, "margin-t"), (3, "margin-t"), (4, "t")])
def test_the_default_attacks_are_those_the_number_of_classes_allows(classes, targeted):
    model, x, y = linear(classes, n=12)
    eps = 1.001 * float(smallest_perturbation(model, x, y, "linf").median())
    result = quiet(model, x, y, eps=eps)
    assert result.table["attacks"].iloc[-1] == f"apgd-ce+apgd-{targeted}"
    assert row(result, eps)["correct"] == 6


# When the result is not to be trusted


def doubts(model, x, y, eps=0.1, attacks_=("fgsm", "pgd-10"), **options):
    """The warnings of an evaluation; they must be emitted too, one by one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = attacks.evaluate(model, x, y, eps=eps, attacks=attacks_, **options)
    assert [f"evaluate: {text}" for text in result.warnings] == [str(w.message) for w in caught]
    assert all(w.category is attacks.TrustWarning for w in caught)
    return " ".join(result.warnings)


@pytest.fixture(scope="module")
def trained():
    model, x, y = digits()
    return model, x[:100], y[:100]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_honest_network_raises_no_doubt(trained, norm):
    assert doubts(*trained, eps=0.1, norm=norm, attacks_=("pgd-20", "apgd-margin")) == ""


def test_probabilities_instead_of_logits_are_noticed(trained):
    model, x, y = trained
    assert "probabilities" in doubts(nn.Sequential(model, nn.Softmax(1)), x, y)
    assert "probabilities" not in doubts(nn.Sequential(model, nn.LogSoftmax(1)), x, y)


def test_zero_gradients_are_noticed(trained):
    model, x, y = trained
    saturated = Function(lambda x: 1e4 * model(x))
    assert "gradient is exactly zero" in doubts(saturated, x, y)
    underflow = Function(lambda x: (1e-30 * model(x)) * 1e-30)
    assert "gradient is exactly zero" in doubts(underflow, x, y)


def test_masked_gradients_are_noticed_twice(trained, monkeypatch):
    """17 grey levels: no gradient passes the rounding, random search does."""
    monkeypatch.setattr("arlib.attacks.named.SQUARE_QUERIES", 100)
    model, x, y = trained
    masked = Function(lambda x: model((x * 16).round() / 16))
    doubted = doubts(masked, x, y, eps=0.2, attacks_=("pgd-10", "square"))
    assert "gradient is exactly zero" in doubted
    assert "square broke" in doubted and "that pgd-10 did not" in doubted
    assert "does not fall to 0" in doubted


def test_random_noise_that_breaks_more_than_the_attack_is_noticed(trained):
    model, x, y = trained
    downhill = Function(lambda x: model(2 * x.detach() - x))  # the gradient points the wrong way
    assert "random noise broke" in doubts(downhill, x, y, eps=0.3, attacks_=("fgsm",))


def test_a_random_network_is_noticed(trained):
    model, x, y = trained
    g = generator()
    noisy = Function(lambda x: (z := model(x)) + 0.5 * torch.randn(z.shape, generator=g))
    assert "two forward passes of the same images differ" in doubts(noisy, x, y)


def test_training_mode_is_noticed_and_eval_mode_is_what_is_attacked(trained):
    model, x, y = trained
    model.train()
    try:
        doubted = doubts(model, x, y)
        assert "modules were in training mode" in doubted and model.training
    finally:
        model.eval()
    assert "training mode" not in doubts(model, x, y)


def test_a_network_that_trains_in_its_forward_pass_is_noticed(trained):
    model, x, y = trained

    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Dropout(0.0)

        def forward(self, x):
            self.inner.train()
            return model(self.inner(x))

    assert "back into training mode" in doubts(Stubborn().eval(), x, y)


def test_dependence_on_the_batch_is_noticed(trained):
    model, x, y = trained
    batch_norm = Function(lambda x: F.batch_norm(model(x), None, None, training=True))
    assert "depend on the other images" in doubts(batch_norm, x, y)


def test_accuracy_near_chance_is_noticed(trained):
    model, x, y = trained
    assert "near chance" in doubts(model, x, (y + 1) % 10)
    assert "near chance" in doubts(Function(lambda x: model(x / 255)), x, y)


@pytest.mark.parametrize(
    ("classes", "correct", "noticed"),
    [(2, 59, True), (2, 61, False), (3, 43, True), (3, 44, False)],
)
def test_near_chance_means_twice_chance_or_a_tenth_above_it(classes, correct, noticed):
    assert bool(sanity.near_chance(correct, 100, classes)) == noticed
    assert sanity.near_chance(19, 100, 10) and not sanity.near_chance(20, 100, 10)


def test_logits_that_are_not_finite_are_noticed(trained):
    model, x, y = trained
    assert "not finite" in doubts(Function(lambda x: model(x) / 0), x, y)


def test_a_constant_network_cannot_be_called_robust():
    constant = Function(lambda x: torch.tensor([1.0, 0, 0, 0]) + 0 * x.sum((1, 2, 3))[:, None])
    doubted = doubts(constant, pictures(30), torch.zeros(30, dtype=torch.int64))
    assert "does not fall to 0" in doubted and "gradient is exactly zero" in doubted


def test_a_few_images_between_attacks_mean_nothing():
    assert sanity.stronger_black_box("square", 0.1, 1, 100, "pgd-10") is None
    assert sanity.stronger_black_box("square", 0.1, 3, 1000, "pgd-10") is None
    assert "square broke 4 of 1000" in sanity.stronger_black_box("square", 0.1, 4, 1000, "pgd-10")


# The ladder


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.08), ("l2", 0.35)])
def test_the_ladder_of_attacks_stands_in_order(norm, eps, monkeypatch):
    monkeypatch.setattr("arlib.attacks.named.SQUARE_QUERIES", 1000)
    model, x, y = digits()
    names = ["fgsm", "pgd-10", "pgd-50x10", "apgd-ce", "apgd-t"] + ["square"] * (norm == "linf")
    result = attacks.evaluate(model, x, y, eps=eps, norm=norm, attacks=names, independent=True)
    assert result.warnings == []
    accuracy = {name: row(result, eps, name)["accuracy"] for name in names}
    slack = 0.011  # two of 200 images
    assert accuracy["fgsm"] > accuracy["pgd-10"] + 0.05
    assert accuracy["pgd-10"] >= accuracy["apgd-ce"] - slack
    assert accuracy["pgd-10"] >= accuracy["pgd-50x10"]
    assert accuracy["apgd-ce"] <= accuracy["pgd-50x10"] + 3 * slack  # a fifth of its steps
    worst = row(result, eps)["accuracy"]
    assert accuracy["apgd-t"] <= accuracy["apgd-ce"] + slack
    assert worst >= accuracy["apgd-t"] - slack  # hardly anything escapes the strongest
    if norm == "linf":
        assert accuracy["square"] >= accuracy["apgd-t"]
    together = attacks.evaluate(model, x, y, eps=eps, norm=norm, attacks=("apgd-ce", "apgd-t"))
    assert row(together, eps)["accuracy"] <= min(accuracy.values()) + slack
    assert right(model, x, y).double().mean() == row(together, 0.0, "none")["accuracy"]


def test_budgets_are_sets_of_attacks_with_a_name():
    model, x, y = digits()
    x, y = x[:60], y[:60]
    with warnings.catch_warnings(action="ignore", category=attacks.TrustWarning):
        by = {b: attacks.evaluate(model, x, y, eps=0.08, attacks=b) for b in ("standard", "full")}
        usual = attacks.evaluate(model, x, y, eps=0.08)
    names = {budget: result.table["attacks"].iloc[-1] for budget, result in by.items()}
    assert names == {"standard": "pgd-10+apgd-focused", "full": "apgd-ce+apgd-t"}
    assert (usual.robust == by["full"].robust).all()
    assert 0.05 < usual.robust.mean() < 0.95
    assert abs(int(by["standard"].robust.sum()) - int(by["full"].robust.sum())) <= 1
    few, x3, y3 = linear(classes=3, dtype=torch.float32)
    with warnings.catch_warnings(action="ignore", category=attacks.TrustWarning):
        of_three = attacks.evaluate(few, x3, y3, eps=0.01, attacks="standard")
    assert of_three.table["attacks"].iloc[-1] == "pgd-10+apgd-margin-t"
    with pytest.raises(InputError, match="attack is 'standart'"):
        attacks.evaluate(model, x, y, eps=0.08, attacks="standart")
