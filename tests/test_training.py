import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arlib import attacks, data, files, training
from arlib.errors import InputError, RecordError, TrainingStopped
from arlib.training import loop, store
from arlib.training.objectives import examples

SMALL = {
    "dataset": "digits",
    "model": "resnet8",
    "width": 4,
    "epochs": 3,
    "batch_size": 64,
    "monitor_images": 64,
}


def small(**fields) -> training.Recipe:
    return training.Recipe(**{**SMALL, "steps": 2, **fields})


def train(recipe, **options):
    return training.train(recipe, device="cpu", progress=False, **options)


def same_bits(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_run_id_of_a_committed_example_never_changes():
    recipe = training.Recipe(dataset="cifar10", model="resnet56", eps=8 / 255, seed=1)
    assert recipe.to_dict() == {
        "dataset": "cifar10",
        "model": "resnet56",
        "eps": 8 / 255,
        "seed": 1,
    }
    assert recipe.id == "cifar10-resnet56-ar8-s1-1a3fe656"


@given(st.integers(0, 254), st.integers(0, 9), st.sampled_from([None, 100]), st.floats(1e-4, 1))
def test_recipes_survive_their_dictionary(strength, seed, images, lr):
    recipe = training.Recipe(
        dataset="digits", eps=strength / 255, seed=seed, train_images=images, lr=lr
    )
    again = training.Recipe.from_dict(recipe.to_dict())
    assert again == recipe and again.id == recipe.id
    assert recipe.strength == strength


def test_default_fields_and_whole_numbers_do_not_move_the_id():
    plain = training.Recipe(dataset="digits")
    assert training.Recipe(dataset="digits", eps=0, momentum=0.9, step_size=None).id == plain.id
    assert (
        training.Recipe(dataset="digits", lr=1).id == training.Recipe(dataset="digits", lr=1.0).id
    )
    assert training.Recipe(dataset="digits", seed=1).id != plain.id


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dataset": "cifar"}, "Did you mean 'cifar10'"),
        ({"eps": 8}, r"eps is 8; allowed: at least 0 and below 1.*strength 8 is 8/255"),
        ({"eps": -0.1}, "eps is -0.1"),
        ({"eps": "8/255"}, "eps is '8/255'; it must be a number"),
        ({"eps": float("nan")}, "eps is nan"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": 2.5}, "epochs is 2.5; it must be a whole number"),
        ({"epochs": True}, "epochs is True"),
        ({"lr": 0}, "lr is 0"),
        ({"schedule": "cosine"}, "schedule is 'cosine'"),
        ({"seed": -1}, "seed is -1; allowed: at least 0 and below 2147483648"),
        ({"model": "resnet18"}, "model is 'resnet18'"),
    ],
)
def test_bad_recipes_are_named(fields, message):
    with pytest.raises(InputError, match=message):
        training.Recipe(**{"dataset": "digits", **fields})


def test_unknown_recipe_field_is_named():
    with pytest.raises(InputError, match=r"recipe field is 'epsilon'.*Did you mean 'eps'"):
        training.Recipe.from_dict({"dataset": "digits", "epsilon": 0.1})


def test_learning_rate_schedules():
    cycle = training.Recipe(dataset="digits", lr=0.4)
    assert [training.learning_rate(cycle, d) for d in (0, 0.125, 0.25, 0.625, 1)] == pytest.approx(
        [0, 0.2, 0.4, 0.2, 0]
    )
    steps = training.Recipe(dataset="digits", lr=0.4, schedule="piecewise")
    assert [training.learning_rate(steps, d) for d in (0, 0.49, 0.5, 0.75)] == pytest.approx(
        [0.4, 0.4, 0.04, 0.004]
    )


@pytest.mark.slow
def test_training_learns_and_reports_what_it_did():
    run = train(small(epochs=6))
    assert run.finished and not run.collapsed
    history = run.history
    assert list(history.epoch) == [1, 2, 3, 4, 5, 6]
    assert history.val_error.iloc[-1] < 0.2 < history.val_error.iloc[0]
    assert (history.images_per_second > 0).all() and (history.seconds > 0).all()
    digits = data.load("digits", device="cpu")
    x, y = digits.val
    with torch.no_grad():
        error = (run.model(x).argmax(1) != y).float().mean().item()
    assert error == pytest.approx(history.val_error.iloc[-1], abs=1e-6)
    assert not run.model.training


@pytest.mark.slow
def test_the_best_weights_are_those_of_the_lowest_robust_validation_error():
    run = train(small(epochs=4, eps=32 / 255))
    digits = data.load("digits", device="cpu")
    x, y = digits.val[:64]
    best = run.history.val_robust_error.idxmin()
    generator = loop.generator(0, int(run.history.epoch[best]), 3, "cpu")
    x = attacks.pgd(run.best, x, y, eps=32 / 255, steps=10, generator=generator)
    robust_error = (run.best(x).argmax(1) != y).float().mean().item()
    assert robust_error == pytest.approx(run.history.val_robust_error.min(), abs=1e-6)


@pytest.mark.slow
def test_the_same_recipe_gives_the_same_bits_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    one, two = train(small(eps=32 / 255, epochs=1)), train(small(eps=32 / 255, epochs=1))
    assert same_bits(one.model, two.model)
    assert torch.equal(before, torch.get_rng_state())
    assert not same_bits(one.model, train(small(eps=32 / 255, epochs=1, seed=1)).model)


def test_crafting_moves_no_batch_statistics_and_stays_in_the_ball():
    recipe, digits = small(eps=16 / 255), data.load("digits", device="cpu")
    model = training.initial_model(recipe).train()
    from arlib import engine

    prepared, x, y = engine.prepare(model), *digits.train[:32]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    crafted = examples(prepared, x, y, recipe, recipe.eps, torch.Generator().manual_seed(0))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and model.training
    assert (
        (crafted - x).abs().max() <= recipe.eps + 1e-6 and crafted.min() >= 0 and crafted.max() <= 1
    )
    assert not torch.equal(crafted, x)


@pytest.mark.slow
def test_adversarial_training_resists_where_standard_training_does_not():
    digits = data.load("digits", device="cpu")
    x, y = digits.test

    def robust_error(eps):
        model = train(small(width=8, epochs=8, eps=eps, steps=5)).model
        x_adv = attacks.pgd(model, x, y, eps=48 / 255, steps=20)
        return (model(x_adv).argmax(1) != y).float().mean().item()

    assert robust_error(48 / 255) < robust_error(0.0) - 0.15


@pytest.mark.slow
def test_resuming_after_each_epoch_gives_the_same_bits(tmp_path, monkeypatch):
    recipe = small(eps=32 / 255)
    whole = train(recipe, folder=tmp_path / "whole")
    run_epoch = loop._State.run_epoch

    def interrupted(state, bar):
        if state.epoch > started:
            raise KeyboardInterrupt
        run_epoch(state, bar)

    monkeypatch.setattr(loop._State, "run_epoch", interrupted)
    for started in (0, 1):  # noqa: B007 (read by interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, folder=tmp_path / "parts")
    monkeypatch.undo()
    resumed = train(recipe, folder=tmp_path / "parts")
    assert (
        resumed.finished
        and same_bits(whole.model, resumed.model)
        and same_bits(whole.best, resumed.best)
    )
    timing = ["seconds", "images_per_second"]
    assert whole.history.drop(columns=timing).equals(resumed.history.drop(columns=timing))


def test_a_time_budget_ends_between_epochs_and_keeps_what_was_done(tmp_path):
    part = train(small(), folder=tmp_path, time_budget=0.05)
    assert not part.finished and len(part.history) == 1
    assert not (tmp_path / "last.safetensors").exists()
    assert len(train(small(), folder=tmp_path).history) == 3


KILLED = """
import sys
from arlib import training
recipe = training.Recipe.from_dict({recipe})
training.train(recipe, folder=sys.argv[1], device="cpu", progress=False, keep_epochs=[2])
"""


@pytest.mark.slow
def test_kill_nine_and_resume_ends_with_the_same_bits(tmp_path):
    recipe = small(eps=32 / 255, epochs=6)
    command = [
        sys.executable,
        "-c",
        KILLED.format(recipe=recipe.to_dict()),
        str(tmp_path / "killed"),
    ]
    kills, checkpoint = 0, tmp_path / "killed" / training.store.CHECKPOINT
    for wanted in (1, 3):
        process = subprocess.Popen(
            command, env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if (
                checkpoint.exists()
                and training.store.read_checkpoint(checkpoint.parent, recipe).epoch >= wanted
            ):
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.01)
        process.wait()
    assert kills == 2, "the training ended before it could be killed"
    resumed = train(recipe, folder=tmp_path / "killed", keep_epochs=[2])
    whole = train(recipe, folder=tmp_path / "whole", keep_epochs=[2])
    assert same_bits(resumed.model, whole.model)
    middle = [training.load_model(tmp_path / name, "epoch-2") for name in ("killed", "whole")]
    assert same_bits(*middle)


def test_a_finished_folder_loads_and_does_not_train_again(tmp_path, monkeypatch):
    recipe = small(epochs=1)
    run = train(recipe, folder=tmp_path)
    assert (
        same_bits(training.load_model(tmp_path), run.model)
        and not training.load_model(tmp_path).training
    )
    assert files.read_json(tmp_path / "provenance.json")["precision"] == "float32"
    monkeypatch.setattr(loop._State, "run_epoch", lambda *_: pytest.fail("trained again"))
    assert same_bits(train(recipe, folder=tmp_path).model, run.model)


def test_a_folder_of_another_recipe_is_refused(tmp_path):
    train(small(epochs=1), folder=tmp_path)
    with pytest.raises(InputError, match="Give another folder"):
        train(small(epochs=1, seed=3), folder=tmp_path)


VARIANTS = {
    "average": {"ema": 0.95},
    "worst weights and warm-up": {"awp": 5e-3, "eps_warmup": 2},
    "trades": {"objective": "trades"},
    "single steps": {"attack": "n-fgsm", "steps": 10},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_training_goes_on_with_the_same_bits(tmp_path, name):
    recipe = small(eps=32 / 255, **VARIANTS[name])
    whole = train(recipe)
    assert not train(recipe, folder=tmp_path, time_budget=0.05).finished
    assert same_bits(train(recipe, folder=tmp_path).model, whole.model)
    assert not same_bits(train(small(eps=32 / 255)).model, whole.model)


def test_with_averaging_the_averaged_network_is_judged_and_kept(tmp_path):
    recipe = small(ema=0.95, epochs=2)
    run = train(recipe, folder=tmp_path)
    last = store.read_checkpoint(tmp_path, recipe).model
    assert not torch.equal(run.model.stem.weight, last["stem.weight"])
    digits = data.load("digits", device="cpu")
    error = (run.model(digits.val.x).argmax(1) != digits.val.y).float().mean().item()
    assert error == pytest.approx(run.history.val_error.iloc[-1], abs=1e-6)
    assert same_bits(training.load_model(tmp_path), run.model)


@pytest.mark.slow
def test_single_step_training_is_watched_by_a_stronger_attack(monkeypatch):
    history = train(small(eps=32 / 255, attack="n-fgsm", steps=10, epochs=2)).history
    assert (history.train_pgd_error >= history.train_step_error - 0.05).all() and (
        history.train_step_error > 0
    ).all()
    assert "train_pgd_error" not in train(small(eps=32 / 255, epochs=1)).history
    # an attack that succeeds
    monkeypatch.setattr(loop._State, "_pgd", lambda self, x, y, starts, eps: 1 - x)
    with pytest.warns(
        UserWarning,
        match=r"catastrophic overfitting in epoch \d: error \d+% under .* \d+% under PGD-10",
    ):
        train(small(eps=4 / 255, attack="n-fgsm", steps=10, epochs=3, lr=0.2))


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_a_growing_radius_raises_no_false_alarm():
    train(small(eps=48 / 255, attack="n-fgsm", steps=10, epochs=3, eps_warmup=3, lr=0.2))


@pytest.mark.slow
def test_every_mode_and_number_of_micro_batches_trains_and_says_so(tmp_path):
    run = train(small(eps=32 / 255, epochs=1), mode="plain", micro_batches=2)
    assert run.provenance["mode"] == "plain" and run.provenance["micro_batches"] == 2
    assert train(small(epochs=1)).provenance["mode"] == "folded"
    with pytest.raises(InputError, match="micro_batches is 0"):
        train(small(epochs=1), micro_batches=0)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" * 20])
def test_a_damaged_checkpoint_is_named(tmp_path, damage):
    train(small(epochs=1), folder=tmp_path)
    path = tmp_path / training.store.CHECKPOINT
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RecordError, match=r"checkpoint\.safetensors is damaged"):
        train(small(epochs=1), folder=tmp_path)


def test_a_diverging_training_stops_and_says_what_it_saw():
    with pytest.raises(
        TrainingStopped, match=r"the loss became (nan|inf) in epoch \d+ at learning rate"
    ):
        train(small(lr=1e20, schedule="piecewise"))


def test_a_collapsed_training_ends_early_and_is_marked(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "learning_rate", lambda recipe, done: 0.0)
    recipe = small(epochs=5)
    with torch.no_grad():
        model = training.initial_model(recipe)
        model.classifier.bias[3] += 100
    monkeypatch.setattr(loop, "initial_model", lambda *_: model)
    with pytest.warns(UserWarning, match="collapsed and was stopped"):
        run = train(recipe, folder=tmp_path)
    assert run.finished and "100%" in run.collapsed and len(run.history) == 3
    assert "collapsed" in files.read_json(tmp_path / "provenance.json")


def test_training_on_the_first_images_only():
    digits = data.load("digits", device="cpu")
    split = training.trained_split(small(train_images=100), digits)
    assert torch.equal(split.pixels, digits.train.pixels[:100])
    with pytest.raises(InputError, match="train_images is 5000; digits has 1149"):
        train(small(train_images=5000))


def test_weights_that_no_training_ends_with_are_named(tmp_path):
    recipe, path = small(), tmp_path / "last.safetensors"
    state = training.initial_model(recipe).state_dict()
    described = {"recipe": json.dumps(recipe.to_dict())}
    for broken, metadata, message in [
        (
            state | {"classifier.bias": torch.full((10,), torch.nan)},
            described,
            "classifier.bias has values that are not finite",
        ),
        (
            state | {"stem.weight": state["stem.weight"].int()},
            described,
            "holds stem.weight as torch.int32",
        ),
        (state | {"classifier.bias": torch.zeros(9)}, described, "does not hold the weights of"),
        (state, {}, "its 'recipe' is None"),
        (state, {"recipe": "{never closed"}, "its 'recipe' is '{never closed'"),
        (state, {"recipe": "[1]"}, "its 'recipe' is"),
    ]:
        files.write_tensors(path, broken, metadata)
        with pytest.raises(RecordError, match=message) as caught:
            training.load_model(tmp_path)
        assert str(path) in str(caught.value)
    files.write_tensors(path, state, described)
    assert training.load_model(tmp_path).stem.weight.equal(state["stem.weight"])
