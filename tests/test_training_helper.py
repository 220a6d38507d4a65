"""HAT's standard network: read with its checks, named in the recipe; and what trainings cost."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from arlib import engine, files, records, training
from arlib.errors import InputError
from arlib.training import helper, passes, store
from arlib.training.step import Step

SMALL = {"dataset": "digits", "model": "resnet8", "width": 4, "train_images": 128, "steps": 2}
SMALL |= {"batch_size": 64, "monitor_images": 16}
STANDARD = training.Recipe(**SMALL, epochs=1)
# after so few steps most images get one class
pytestmark = pytest.mark.filterwarnings("ignore:.*collapsed and was stopped")
CPU = engine.Machine(torch.device("cpu"), "folded")


def hat(**fields) -> training.Recipe:
    fields = {"epochs": 2, "eps": 0.1, "gamma": 1.0, "beta": 2.5} | fields
    return training.Recipe(**SMALL, **fields, objective="hat", helper=STANDARD.id)


def train(recipe, **options):
    return training.train(recipe, device="cpu", progress=False, **options)


@pytest.fixture(scope="module")
def standard(tmp_path_factory):
    folder = tmp_path_factory.mktemp("standard")
    train(STANDARD, folder=folder)
    return folder


def test_hat_trains_with_the_labels_of_the_run_it_names_and_says_of_which_weights(standard):
    run = train(hat(epochs=1), helper=standard)
    assert run.finished
    teacher = helper.standard_network(hat(), standard, CPU)
    assert run.provenance["helper_sha256"] == teacher.sha256
    other = train(hat(epochs=1, gamma=0.0), helper=standard)
    weights = [one.model.state_dict()["stem.weight"] for one in (run, other)]
    assert not torch.equal(*weights)


def test_the_helper_only_labels(standard):
    teacher = helper.standard_network(hat(), standard, CPU)
    before = copy.deepcopy(teacher.model.state_dict())
    model = training.initial_model(hat()).train()
    step = Step(hat(), model, CPU, helper=teacher.model)
    x = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    step(x, torch.arange(8), torch.Generator().manual_seed(0), 0.1, 1.0)
    assert not teacher.model.training
    assert all(torch.equal(v, before[k]) for k, v in teacher.model.state_dict().items())
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert helper.standard_network(STANDARD, None, CPU) is None


def test_labels_are_the_same_from_a_run_and_from_what_is_published_of_it(standard, tmp_path):
    halved = records.halved(files.read_tensors(standard / "last.safetensors"))
    store.write_weights(tmp_path, "last", STANDARD, halved)
    ours, published = (
        helper.standard_network(hat(), folder, CPU) for folder in (standard, tmp_path)
    )
    assert ours.sha256 == published.sha256
    weights = [one.model.state_dict()["stem.weight"] for one in (ours, published)]
    assert torch.equal(*weights)


def test_a_helper_that_is_missing_or_another_is_one_message(standard, tmp_path):
    with pytest.raises(InputError, match=rf"{STANDARD.id}, and no folder .* Compute that run"):
        train(hat())
    with pytest.raises(InputError, match=r"holds no weights. Compute that run first"):
        train(hat(), helper=tmp_path)
    other = training.Recipe(**SMALL, epochs=1, seed=1)
    store.write_weights(tmp_path, "last", other, training.initial_model(other).state_dict())
    with pytest.raises(InputError, match=rf"is the run {other.id}, but .* from {STANDARD.id}"):
        train(hat(), helper=tmp_path)


def test_a_training_does_not_go_on_with_labels_of_other_weights(standard, tmp_path):
    work, changed = tmp_path / "work", tmp_path / "changed"
    run = train(hat(), helper=standard, folder=work, time_budget=1e-9)
    while not len(run.history):
        run = train(hat(), helper=standard, folder=work, time_budget=1e-3)
    state = files.read_tensors(standard / "last.safetensors")
    state["stem.weight"] = state["stem.weight"] + 1e-3
    store.write_weights(changed, "last", STANDARD, state)
    with pytest.raises(InputError, match=r"1 epochs so far had their labels from other weights"):
        train(hat(), helper=changed, folder=work)
    whole = train(hat(), helper=standard)
    resumed = train(hat(), helper=standard, folder=work)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


class Counting(TorchDispatchMode):
    """Counts images through the first convolution, which alone reads one channel."""

    forward = backward = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        packet = func.overloadpacket
        if packet is torch.ops.aten.convolution and args[0].shape[1] == 1:
            self.forward += len(args[0])
        if packet is torch.ops.aten.convolution_backward and args[1].shape[1] == 1:
            self.backward += len(args[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("fields", "forward", "backward"),
    [
        ({"eps": 0.0}, 1, 1),
        ({}, 4, 4),
        ({"objective": "trades"}, 6, 5),
        ({"objective": "mixed"}, 5, 5),
        ({"attack": "n-fgsm"}, 2, 2),
        ({"objective": "mixed", "attack": "n-fgsm"}, 3, 3),
        ({"objective": "hat", "helper": STANDARD.id}, 8, 6),
        ({"awp": 0.01}, 5, 5),
    ],
    ids=str,
)
def test_passes_are_those_that_a_step_makes(fields, forward, backward):
    steps = {} if fields.get("attack") == "n-fgsm" else {"steps": 3}
    base = {"dataset": "digits", "model": "resnet8", "width": 4, "eps": 0.1}
    recipe = training.Recipe(**base | steps | fields)
    assert passes.of_each_image(recipe) == (forward, backward)
    model = training.initial_model(recipe).train()
    teacher = training.initial_model(STANDARD).eval() if recipe.helper else None
    step = Step(recipe, model, CPU, helper=teacher)
    x = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    step.prepared.compare(x)
    with Counting() as counted:
        step(x, torch.arange(8), torch.Generator().manual_seed(0), 0.1, 1.0)
    assert (counted.forward, counted.backward) == (8 * forward, 8 * backward)


def test_passes_of_a_training_and_the_epochs_of_equal_cost():
    pgd = training.Recipe(dataset="cifar10", eps=8 / 255, steps=3, epochs=7, train_images=100)
    assert passes.of_training(pgd) == 100 * 7 * 8
    few = {"dataset": "cifar10", "eps": 8 / 255, "train_images": 100}
    fast = training.Recipe(**few, attack="n-fgsm")
    trades = training.Recipe(**few, steps=3, objective="trades")
    assert passes.equal_epochs(fast, pgd) == 14 and passes.equal_epochs(trades, pgd) == 5
    long = training.Recipe(**few, steps=100)
    assert passes.equal_epochs(long, training.Recipe(**few, attack="n-fgsm", epochs=1)) == 1
    assert passes.of_training(training.Recipe(dataset="digits", epochs=1)) == 2 * 1149
