import json
import math
from dataclasses import replace
from functools import wraps

import numpy as np
import pytest
import torch

from arlib import confidence, data, margins, measure, smoothness, spectra, training
from arlib.errors import InputError, RecordError
from arlib.measure import attacked, quantities
from arlib.measure.job import UndeclaredSetting, reads
from arlib.measure.run import Part, plan

SMALL = measure.Settings(
    radius_scale=4,
    feature_images=80,
    adversarial_images=12,
    jacobian_images=4,
    flip_radii=(2, 4),
    flip_images_main=40,
    flip_images=20,
    flip_draws=2,
    robust_images=40,
    strong_images=12,
    instance_images=8,
    instance_steps=4,
    along_images=50,
    bn_images=100,
    zeros=True,
)
RECIPE = training.Recipe(dataset="digits", model="resnet8", width=4, epochs=3, lr=0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert training.train(
        RECIPE, folder=folder, keep_epochs=(1,), device="cpu", progress=False
    ).finished
    return folder


@pytest.fixture(scope="module")
def measured(folder, tmp_path_factory):
    parts = tmp_path_factory.mktemp("parts")
    rows, arrays = measure.measure(
        folder, RECIPE, SMALL, device="cpu", progress=False, part_folder=parts
    )
    return rows, arrays, parts


def value(rows, statistic, checkpoint="last", split="test", layer="", setting=""):
    keys = {
        "statistic": statistic,
        "checkpoint": checkpoint,
        "split": split,
        "layer": layer,
        "setting": setting,
    }
    chosen = rows[np.logical_and.reduce([rows[key] == wanted for key, wanted in keys.items()])]
    assert len(chosen) == 1, keys
    return chosen["value"].item()


def test_every_row_is_there_once(measured):
    rows, _, _ = measured
    assert list(rows.columns) == [
        "checkpoint",
        "split",
        "statistic",
        "layer",
        "setting",
        "n",
        "value",
    ]
    assert not rows.duplicated(["checkpoint", "split", "statistic", "layer", "setting"]).any()
    assert set(rows["checkpoint"]) == {"last", "best", "epoch-1", "initial"}
    last = rows[rows["checkpoint"] == "last"]
    settings = {name: set(part["setting"]) for name, part in last.groupby("statistic")}
    assert settings["robust_error"] == {"pgd-10@32", "pgd-10@trained", "apgd-ce+t@32"}
    assert settings["flip_rate"] == {
        f"{attack}@{r}" for attack in ("pgd", "uniform", "sign") for r in (8, 16)
    }
    assert settings["feature_change"] == settings["feature_gain"] == {"random@16", "adversarial@16"}
    assert settings["sv_std"] == {
        "circular",
        "circular+bn",
        "circular+bn-natural",
        "reshaped",
        "zeros",
    }
    assert set(last[last["statistic"] == "feature_change"]["layer"]) == {
        "blocks.0",
        "blocks.1",
        "blocks.2",
    }
    assert set(last[last["statistic"] == "feature_gain"]["layer"]) == {"blocks.1", "blocks.2"}
    assert set(last[last["statistic"] == "ece"]["split"]) == {"train", "val", "test"}
    counted = last[(last["statistic"] == "counted") & (last["value"] == 1)]
    assert set(counted["layer"]) == {f"blocks.{b}.conv{c}" for b in range(3) for c in (1, 2)}


def test_numbers_of_images_are_written_down(measured):
    rows, _, _ = measured

    def n(**keys):
        return set(rows[np.logical_and.reduce([rows[k] == v for k, v in keys.items()])]["n"])

    assert n(statistic="error", split="test") == {360}
    assert n(statistic="error", split="train") == {len(data.load("digits", device="cpu").train)}
    assert n(setting="random@16", checkpoint="last") == {80}
    assert n(setting="random@16", checkpoint="epoch-1") == {50}
    assert n(setting="adversarial@16") == {12}
    assert n(setting="pgd@16") == {40}
    assert n(setting="pgd@8") == {20}
    assert n(setting="pgd-10@32") == {40}
    assert n(setting="apgd-ce+t@32") == {12}
    assert n(statistic="instance_margin_median") == {8}


def test_outputs_are_those_of_the_stored_weights(folder, measured):
    rows, arrays, _ = measured
    digits, model = data.load("digits", device="cpu"), training.load_model(folder)
    x, y = digits.test
    with torch.no_grad():
        z, z_val = model(x), model(digits.val.x)
    m, scale = margins.output(z, y), margins.logit_scale(z)
    temperature = confidence.temperature(z_val, digits.val.y)
    expected = {
        "error": (z.argmax(1) != y).double().mean(),
        "ce": torch.nn.functional.cross_entropy(z, y),
        "ce_scaled": torch.nn.functional.cross_entropy(z / temperature, y),
        "max_softmax": z.softmax(1).amax(1).mean(),
        "ece": confidence.ece(z, y),
        "overconfidence": confidence.overconfidence(z, y),
        "overconfidence_scaled": confidence.overconfidence(z / temperature, y),
        "logit_scale": scale,
        "median_margin": m.quantile(0.5),
        "median_abs_margin": m.abs().quantile(0.5),
        "median_abs_margin_scalefree": m.abs().quantile(0.5) / scale,
        "share_largest_class": torch.bincount(z.argmax(1)).max() / len(y),
    }
    for statistic, wanted in expected.items():
        assert value(rows, statistic) == pytest.approx(float(wanted), rel=1e-4, abs=1e-5), statistic
    assert value(rows, "temperature", split="val") == pytest.approx(temperature, rel=1e-3)
    assert arrays["margin|test"].dtype == np.float16
    assert arrays["margin|test"] == pytest.approx(m.numpy(), rel=2e-3, abs=1e-3)
    assert len(arrays["margin|train"]) == len(digits.train)
    assert (arrays["correct|test"] == (z.argmax(1) == y).numpy()).all()
    assert value(rows, "error", split="train") == pytest.approx(
        float((arrays["margin|train"] < 0).mean()), abs=1e-3
    )


def test_layers_and_robustness_make_sense_together(folder, measured):
    rows, arrays, _ = measured
    frame = spectra.of(training.load_model(folder), (1, 8, 8))
    expected = frame.set_index("layer").loc["blocks.1.conv2", "std"]
    assert value(
        rows, "sv_std", split="", layer="blocks.1.conv2", setting="circular"
    ) == pytest.approx(expected)
    for block in ("blocks.0", "blocks.1", "blocks.2"):
        change = {
            kind: value(rows, "feature_change", layer=block, setting=f"{kind}@16")
            for kind in ("random", "adversarial")
        }
        assert 0 < change["random"] < change["adversarial"]
        assert value(rows, "jacobian_uniformity", layer=block) > 1
    assert value(rows, "flip_rate", setting="pgd@16") > value(rows, "flip_rate", setting="sign@16")
    assert value(rows, "robust_error", setting="pgd-10@trained") <= value(
        rows, "robust_error", setting="pgd-10@32"
    )
    strong = 1 - arrays["robust|test"].mean()
    assert value(rows, "robust_error", setting="apgd-ce+t@32") == pytest.approx(strong)
    instance = arrays["instance_margin|test"]
    assert (instance[~arrays["correct|test"][:8]] == 0).all()
    assert value(rows, "instance_margin_median") == pytest.approx(float(np.median(instance)))
    least = (1 - arrays["robust|test"][:8].mean()) - 0.005
    assert value(rows, "instance_margin_accepted") == (
        (instance <= 32 / 255 + 1e-6).mean() >= least
    )
    assert arrays["quantiles|zeros|stem"].shape == (201,)


def test_jacobians_and_adversarial_changes_use_the_normaliser_of_all_images(folder, measured):
    rows, arrays, _ = measured
    model, digits = training.load_model(folder), data.load("digits", device="cpu")
    expected = smoothness.normalisers(model, digits.test.x[:80])
    assert arrays["normaliser"] == pytest.approx(list(expected.values()), rel=1e-5)
    frame = smoothness.jacobian(model, digits.test.x[:4], layers=["blocks.1"], normaliser=expected)
    assert value(rows, "jacobian_max", layer="blocks.1") == pytest.approx(
        frame["sigma_max"][0], rel=0.05
    )


@pytest.mark.slow
def test_measuring_again_gives_the_same_and_finished_parts_are_not_measured_again(
    folder, measured, monkeypatch
):
    rows, arrays, parts = measured
    again, their = measure.measure(folder, RECIPE, SMALL, device="cpu", progress=False)
    assert again.equals(rows)
    assert all(np.array_equal(their[key], arrays[key]) for key in arrays)

    def fail(part):
        return pytest.fail(f"{part.name} is measured again")

    monkeypatch.setattr(
        "arlib.measure.run.plan", lambda *asked: [watched(part, fail) for part in plan(*asked)]
    )
    kept, _ = measure.measure(
        folder, RECIPE, SMALL, device="cpu", progress=False, part_folder=parts
    )
    assert kept.equals(rows)
    assert kept.attrs["seconds"] == rows.attrs["seconds"]
    assert set(kept.attrs["seconds"]) >= {
        "last/outputs",
        "last/instance",
        "best/robust",
        "epoch-1/along",
    }


@pytest.mark.slow
def test_an_interrupted_measurement_goes_on(folder, tmp_path, monkeypatch):
    calls, settings = [], replace(SMALL, flip_radii=(4,))
    monkeypatch.setattr("arlib.measure.run.plan", lambda *asked: recorded(asked, calls))
    with pytest.raises(KeyboardInterrupt):
        measure.measure(
            folder, RECIPE, settings, device="cpu", progress=False, part_folder=tmp_path
        )
    measure.measure(folder, RECIPE, settings, device="cpu", progress=False, part_folder=tmp_path)
    assert calls == ["outputs", "features", "features", "robust", "along"]


def watched(part, watch):
    """The same part; `watch` is called with it before it is computed."""

    @wraps(part.compute)  # with what it declares
    def compute(*given, **options):
        watch(part)
        return part.compute(*given, **options)

    return replace(part, compute=compute)


def recorded(asked, calls):
    """A short plan of real parts; the first call of the second one is interrupted."""

    def watch(part):
        calls.append(part.name)
        if calls == ["outputs", "features"]:  # interrupted there
            raise KeyboardInterrupt

    names = {"last": ("outputs", "features"), "best": ("robust",), "initial": ()}.get(
        asked[0], ("along",)
    )
    return [watched(part, watch) for part in plan(*asked) if part.name in names]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_part_is_named_and_measured_again(folder, tmp_path, caplog, monkeypatch, damage):
    monkeypatch.setattr("arlib.measure.run.plan", lambda *asked: plan(*asked)[:1])
    once, arrays = measure.measure(
        folder, RECIPE, SMALL, device="cpu", progress=False, part_folder=tmp_path
    )
    if damage == "truncated":
        path = tmp_path / "last" / "outputs.json"
        path.write_text(path.read_text()[:-40])
    else:
        path = tmp_path / "last" / "outputs.npz"
        path.write_bytes(path.read_bytes()[:-1] + b"?") if damage == "altered" else path.unlink()
    again, their = measure.measure(
        folder, RECIPE, SMALL, device="cpu", progress=False, part_folder=tmp_path
    )
    assert again.equals(once)
    assert np.array_equal(their["margin|test"], arrays["margin|test"])
    assert str(path) in caplog.text
    assert json.loads((tmp_path / "last" / "outputs.json").read_text())["seconds"] >= 0


@pytest.mark.slow
def test_a_part_is_measured_again_only_if_a_setting_it_uses_changed(folder, tmp_path, monkeypatch):
    calls, names = [], ("features", "jacobian")

    def some(*asked):
        def log(part):
            return calls.append(part.name)

        return [
            watched(part, log) for part in plan(*asked) if asked[0] == "last" and part.name in names
        ]

    monkeypatch.setattr("arlib.measure.run.plan", some)
    for settings in (
        SMALL,
        SMALL,
        replace(SMALL, jacobian_images=5),
        replace(SMALL, feature_images=90),
    ):
        kept, _ = measure.measure(
            folder, RECIPE, settings, device="cpu", progress=False, part_folder=tmp_path
        )
    assert calls == ["features", "jacobian", "jacobian", "features", "jacobian"]
    assert set(kept[kept["statistic"] == "feature_change"]["n"]) == {90}


def test_a_part_cannot_read_a_setting_that_it_does_not_declare(folder, tmp_path, monkeypatch):
    @reads("flip_images")
    def careless(job):
        assert job.settings.flip_images == SMALL.flip_images and job.settings.seed == SMALL.seed
        return job.settings.flip_draws

    monkeypatch.setattr("arlib.measure.run.plan", lambda *asked: [Part("careless", careless)])
    with pytest.raises(
        UndeclaredSetting, match="'careless' reads the setting 'flip_draws'; declare it"
    ):
        measure.measure(folder, RECIPE, SMALL, device="cpu", progress=False, part_folder=tmp_path)
    with pytest.raises(InputError, match=r"setting is 'flip_imagez'.*Did you mean 'flip_images"):
        reads("flip_imagez")


KINDS = ("last", "best", "epoch-1", "initial")


def test_every_setting_decides_some_part():
    """Changing any setting changes what some part uses or which parts there are,
    so none goes unnoticed.
    """
    base = replace(
        measure.Settings(),
        cross_images=10,
        strong_images_seed0=300,
        accept_images=20,
        bound_images=50,
    )
    recipes = [replace(RECIPE, eps=eps, seed=seed) for eps in (0, 8 / 255) for seed in (0, 1)]

    def describe(s):
        plans = [plan(w, r, s) for r in recipes for w in KINDS]
        plans += [plan("last", r, s, front=True) for r in recipes]
        return [(part.name, part.uses(s)) for parts in plans for part in parts]

    other = {"accept_radii": (2.0,)} | {
        "flip_radii": (1.0, 2.0, 4.0, 8.0),
        "cross_strengths": (4.0,),
        "zeros": True,
        "flip_main": 8.0,
    }
    other |= {"radius_scale": 2.0, "seed": 1}
    for name, value in base.to_dict().items():
        changed = replace(base, **{name: other[name] if name in other else (value or 100) - 1})
        assert describe(changed) != describe(base), name


def test_more_draws_measure_every_flip_rate_again_and_nothing_else():
    """The rates at uniform and at sign-like perturbations are means over that many draws."""
    more = replace(SMALL, flip_draws=SMALL.flip_draws + 1)

    def again(which, control=False):
        parts = plan(which, RECIPE, SMALL, control)
        return [part.name for part in parts if part.uses(SMALL) != part.uses(more)]

    assert again("last") == [SMALL.name("flips", radius) for radius in SMALL.flip_radii]
    assert again("last", control=True) == ["flips"]
    assert again("epoch-1") == ["along"]
    assert again("best") == []


@pytest.mark.slow
def test_more_attacks_check_the_strong_one_on_seed_0(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "arlib.measure.run.plan",
        lambda *asked: [p for p in plan(*asked) if p.name in ("strong", "cross")],
    )
    settings = replace(
        SMALL, cross_images=6, cross_strengths=(RECIPE.strength,), strong_images_best=5
    )
    rows, arrays = measure.measure(
        folder, RECIPE, settings, device="cpu", progress=False, part_folder=tmp_path
    )
    result = rows.set_index(["checkpoint", "setting"])[["n", "value"]]
    radius = f"@{settings.robust_radius * settings.radius_scale:g}"
    alone = [result.loc["last", kind + radius] for kind in ("pgd-50x10", "square")]
    together = result.loc["last", "apgd-ce+t+pgd-50x10+square" + radius]
    assert {row.n for row in (*alone, together)} == {6}
    assert together.value >= max(
        [row.value for row in alone] + [1 - arrays["robust|test"][:6].mean()]
    )
    assert result.loc["best", "apgd-ce+t" + radius].n == 5


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(RecordError, match=r"last\.safetensors is missing"):
        measure.measure(tmp_path, RECIPE, SMALL, device="cpu", progress=False)


def test_statistics_re_estimated_on_images_are_those_of_the_images():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3)).eval()
    x = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    copy = quantities.with_statistics_of(model, x, 20)
    assert torch.allclose(copy[0].running_mean, x.mean((0, 2, 3)), atol=1e-5)
    assert torch.equal(model[0].running_mean, torch.zeros(3))
    assert not copy[0].training


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"flip_imagse": 3}, "Did you mean 'flip_images'"),
        ({"robust_images": 0}, "robust_images is 0"),
        ({"robust_images": True}, "robust_images is True"),
        ({"strong_images": None}, "strong_images is None"),
        ({"feature_radius": "4"}, "feature_radius is '4'"),
        ({"robust_radius": 300}, "robust_radius × radius_scale is 300"),
        ({"radius_scale": 40}, "radius_scale is 320"),
        ({"flip_radii": [1, 2]}, "flip_radii is"),
        ({"flip_radii": 4}, "it must be a list"),
        ({"instance_images": 400}, "instance_images is 400"),
        ({"zeros": 1}, "zeros is 1"),
        ({"cross_images": 301}, "cross_images is 301"),
        ({"cross_strengths": [-1]}, "cross_strengths is -1"),
        ({"strong_images_seed0": 100}, "instance_images is 200"),
        ({"flip_main": math.nan}, "flip_main is nan"),
    ],
)
def test_settings_name_what_is_wrong(values, message):
    with pytest.raises(InputError, match=message):
        measure.Settings.from_dict(values)


def test_settings_survive_their_own_mapping():
    settings = measure.Settings.from_dict(
        {"flip_radii": [1, 4, 8], "zeros": True, "feature_images": None}
    )
    assert measure.Settings.from_dict(settings.to_dict()) == settings
    assert json.loads(json.dumps(settings.to_dict())) == settings.to_dict()
    assert measure.Settings(radius_scale=4).name("pgd", 4) == "pgd@16"


# --- what protocol 2 needs


def test_initialisation_is_the_network_before_the_first_epoch(measured):
    rows, arrays, _ = measured
    start = training.initial_model(RECIPE)
    expected = spectra.of(start, (1, 8, 8)).set_index("layer").loc["blocks.1.conv2"]
    initial = value(rows, "sv_std_over_mean", "initial", "", "blocks.1.conv2", "circular")
    assert initial == pytest.approx(expected["std_over_mean"])
    assert arrays["quantiles|circular@start|blocks.1.conv2"].shape == (201,)
    assert value(rows, "jacobian_uniformity_median", "initial", "test", "blocks.0", "image") > 1


def test_distance_from_start_is_that_of_the_weights(folder, measured):
    rows, _, _ = measured
    start = training.initial_model(RECIPE).get_parameter("blocks.0.conv1.weight")
    for which in ("last", "epoch-1"):
        now = training.load_model(folder, which).get_parameter("blocks.0.conv1.weight")
        expected = float((now - start).detach().norm() / start.detach().norm())
        assert value(rows, "distance_from_start", which, "", "blocks.0.conv1") == pytest.approx(
            expected, rel=1e-5
        )
    assert set(rows.loc[rows["statistic"] == "distance_from_start", "layer"]) >= {
        "stem",
        "classifier",
    }


def test_blocks_by_themselves_have_jacobians_too(folder, measured):
    rows, _, _ = measured
    model, x = training.load_model(folder), data.load("digits", device="cpu").test.x[:4]
    h = torch.relu(model.bn(model.stem(model.normalize(x))))
    own = [
        torch.autograd.functional.jacobian(model.blocks[0], one[None]).reshape(256, 256)
        for one in h
    ]
    sigma = [torch.linalg.svdvals(matrix.double()) for matrix in own]
    median = float(np.median([s[0] * 16 / s.norm() for s in sigma]))
    assert value(
        rows, "jacobian_uniformity_median", layer="blocks.0", setting="block"
    ) == pytest.approx(median, rel=1e-3)
    ranks = [spectra.statistics(s)["effective_rank"] for s in sigma]
    assert value(
        rows, "jacobian_effective_rank", layer="blocks.0", setting="block"
    ) == pytest.approx(np.median(ranks), rel=1e-3)


def test_folding_for_spectra_is_float64(folder):
    """Folding in float32 moves a singular value by 1e-7 of the largest;
    in float64 the exact fold is reproduced.
    """
    model = training.load_model(folder)
    block = model.blocks[1]
    scale = block.bn1.weight.double() / (block.bn1.running_var.double() + block.bn1.eps).sqrt()
    exact = spectra.singular_values(
        block.conv1.weight.detach().double() * scale.detach().view(-1, 1, 1, 1), 8, stride=2
    )
    spectrum = spectra.of(model, (1, 8, 8), fold_bn=True).set_index("layer").loc["blocks.1.conv1"]
    assert spectrum["max"] == pytest.approx(float(exact.max()), rel=1e-12)


@pytest.mark.slow
def test_instance_margins_are_checked_at_every_radius_that_can_tell(folder, tmp_path, monkeypatch):
    names = ("strong", "accept", "instance")
    monkeypatch.setattr(
        "arlib.measure.run.plan", lambda *asked: [p for p in plan(*asked) if p.name in names]
    )
    settings = replace(SMALL, accept_images=8, accept_radii=(1.0, 4.0, 16.0), instance_images=20)
    rows, arrays = measure.measure(
        folder, RECIPE, settings, device="cpu", progress=False, part_folder=tmp_path
    )
    errors = {r: value(rows, "robust_error", setting=f"apgd-ce+t@{4 * r}") for r in (1, 4, 16)}
    assert errors[1] <= errors[4] <= errors[16]
    strong = 1 - arrays["robust|test"].mean()
    told = [r for r, error in (errors | {8: strong}).items() if 0.1 <= error <= 0.9]
    checked = rows.loc[rows["statistic"] == "instance_margin_missed", "setting"]
    assert sorted(checked) == sorted(f"linf@{4 * r}" for r in told)
    assert (
        value(rows, "instance_margin_checks") == len(told)
        and len(arrays["instance_margin|test"]) == 20
    )
    missed = rows.loc[rows["statistic"] == "instance_margin_missed", "value"]
    assert value(rows, "instance_margin_accepted") == (
        len(told) > 0 and (missed <= 0.005 + 1e-9).all()
    )


@pytest.mark.slow
def test_margins_too_large_are_not_accepted(folder, tmp_path, monkeypatch):
    """An attack too weak to find what the strong one finds says so at some radius."""
    names = ("strong", "accept", "instance")
    monkeypatch.setattr(
        "arlib.measure.run.plan", lambda *asked: [p for p in plan(*asked) if p.name in names]
    )
    monkeypatch.setattr(margins, "instance", lambda model, x, y, **_: torch.ones(len(x)))
    settings = replace(SMALL, accept_images=12, accept_radii=(1.0, 2.0, 4.0), instance_images=12)
    rows, _ = measure.measure(
        folder, RECIPE, settings, device="cpu", progress=False, part_folder=tmp_path
    )
    assert not value(rows, "instance_margin_accepted")


def test_q_is_the_share_of_training_images_nearer_than_v(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "arlib.measure.run.plan", lambda *asked: [p for p in plan(*asked) if p.name == "bound"]
    )
    settings = replace(SMALL, bound_images=40)
    rows, arrays = measure.measure(
        folder, RECIPE, settings, device="cpu", progress=False, part_folder=tmp_path
    )
    distances, train = arrays["instance_margin|train"], data.load("digits", device="cpu").train
    chosen = attacked.balanced(train.y, 40)
    assert torch.bincount(train.y[chosen]).tolist() == [4] * 10
    firsts = {int(label): torch.nonzero(train.y == label)[:4, 0].tolist() for label in range(10)}
    assert sorted(chosen.tolist()) == sorted(index for some in firsts.values() for index in some)
    with torch.no_grad():
        wrong = training.load_model(folder)(train.x[chosen]).argmax(1) != train.y[chosen]
    assert ((distances == 0) == wrong.numpy()).all()
    assert value(rows, "q_wrong", split="train") == pytest.approx(float(wrong.float().mean()))
    for radius in (0.5, 4, 16):
        share = float((distances < radius * 4 / 255).mean())
        assert value(rows, "q", split="train", setting=f"linf@{radius * 4:g}") == pytest.approx(
            share
        )


@pytest.mark.slow
def test_a_control_is_measured_in_what_it_is_compared_in_and_with_the_same_numbers(
    folder, measured, tmp_path
):
    rows, _, _ = measured
    control, _ = measure.measure(
        folder, RECIPE, SMALL, device="cpu", progress=False, part_folder=tmp_path, control=True
    )  # fmt: skip
    assert set(control["checkpoint"]) == {"last"} and len(control) < len(rows) / 3
    keys = ["checkpoint", "split", "statistic", "layer", "setting"]
    both = control.merge(rows, on=keys, suffixes=("", "_full"))
    assert len(both) == len(control)
    assert both["value"].to_numpy() == pytest.approx(both["value_full"].to_numpy(), nan_ok=True)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"accept_images": 300, "instance_images": 200}, "up to instance_images, 200"),
        ({"accept_radii": (8.0,)}, "other than robust_radius"),
        ({"accept_radii": (1.0, 1.0)}, "different radii"),
        ({"bound_images": -1}, "at least 0"),
    ],
)
def test_settings_of_margins_that_cannot_be_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        measure.Settings(**values)


def test_an_image_of_each_class_is_needed_for_q(folder):
    with pytest.raises(InputError, match=r"bound_images is 9; digits has 10 classes.*at least 10"):
        measure.measure(
            folder, RECIPE, replace(SMALL, bound_images=9), device="cpu", progress=False
        )
