"""Everything that computes runs on a GPU as far as the places of its tensors go:
seen with an imitated one.
"""

import pytest
import torch
from imitated_gpu import GPU, gpu

from arlib import attacks, data, margins, measure, models, smoothness, spectra, training

pytestmark = pytest.mark.slow

BASE = {
    "dataset": "digits",
    "model": "resnet8",
    "width": 4,
    "batch_size": 64,
    "eps": 32 / 255,
    "monitor_images": 20,
}


@pytest.fixture(autouse=True)
def imitated():
    with gpu():
        yield


@pytest.fixture
def network():
    torch.manual_seed(0)
    return models.build("resnet8", "digits", 8).to("cuda:0").eval()


@pytest.fixture
def images():
    return data.load("digits", device="cuda:0").test[:12]


def test_the_imitation_refuses_what_a_gpu_refuses():
    there, here = torch.rand(3, 4, device="cuda:0"), torch.rand(3, 4)
    assert (
        there.is_cuda
        and (there + 1).device == GPU
        and here.device.type == there.cpu().device.type == "cpu"
    )
    with pytest.raises(RuntimeError, match="same device"):
        there + here
    with pytest.raises(RuntimeError, match="same device"):
        torch.nn.functional.linear(there.requires_grad_(), here).sum().backward()
    with pytest.raises(TypeError, match="numpy"):
        there.detach().numpy()
    assert (there * torch.tensor(2.0)).is_cuda and there[torch.tensor([0, 2])].is_cuda


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"eps": 0.0, "augment": "crop-flip"},
        {"objective": "trades"},
        {"attack": "n-fgsm"},
        {"awp": 5e-3},
        {"ema": 0.9, "eps_warmup": 1},
    ],
    ids=str,
)
def test_training(options):
    steps = {} if "attack" in options else {"steps": 2}
    recipe = training.Recipe(**(BASE | steps | {"epochs": 1, "train_images": 300} | options))
    run = training.train(recipe, device="cuda:0", progress=False)
    assert all(value.is_cuda for value in run.model.state_dict().values())
    assert run.provenance["device"] == "cuda"


@pytest.mark.slow
def test_a_run_is_resumed_and_measured(tmp_path):
    recipe = training.Recipe(**(BASE | {"epochs": 3, "steps": 2}))
    options = {"folder": tmp_path, "device": "cuda:0", "progress": False, "keep_epochs": [1]}
    assert not training.train(recipe, time_budget=1e-3, **options).finished
    assert training.train(recipe, **options).finished
    few = {name: 8 for name in measure.Settings().to_dict() if name.endswith("images")} | {
        "bound_images": 10
    }
    frame, _ = measure.measure(
        tmp_path, recipe, measure.Settings(**few, zeros=True), device="cuda:0", progress=False
    )
    assert len(frame) > 300


@pytest.mark.parametrize(
    "attack",
    [
        lambda m, x, y: attacks.pgd(m, x, y, eps=0.1, steps=3, restarts=2, early_stop=True),
        lambda m, x, y: attacks.pgd(
            m, x, y, eps=0.5, steps=3, norm="l2", generator=attacks.Streams(0, range(12))
        ),
        lambda m, x, y: attacks.fgsm(m, x, y, eps=0.1),
        lambda m, x, y: attacks.apgd(
            m, x, y, eps=0.1, steps=8, loss="dlr-targeted", targets=3, early_stop=True
        ),
        lambda m, x, y: attacks.square(m, x, y, eps=0.1, queries=20),
        lambda m, x, y: attacks.minimum_norm(m, x, y, steps=8),
        lambda m, x, y: attacks.minimum_norm(m, x, y, steps=8, norm="l2"),
    ],
    ids=["pgd", "pgd l2", "fgsm", "apgd", "square", "minimum", "minimum l2"],
)
def test_attacks(attack, network, images):
    assert attack(network, *images).is_cuda


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::arlib.attacks.TrustWarning")
def test_evaluation_and_margins(network, images):
    result = attacks.evaluate(
        network, *images, eps=0.1, attacks=("pgd-10x2", "apgd-ce", "apgd-t", "square")
    )
    assert result.robust.shape == (1, 12)
    assert (
        margins.instance(network, *images).is_cuda
        and margins.output(network(images.x), images.y).is_cuda
    )


@pytest.mark.slow
def test_smoothness(network, images):
    assert len(
        smoothness.feature_change(network, images.x, radius=0.1, direction="adversarial", steps=2)
    )
    assert len(smoothness.jacobian(network, images.x[:4]))
    for attack in smoothness.FLIP_ATTACKS:
        assert smoothness.flip_rate(network, images.x, radius=0.1, steps=2, attack=attack)


@pytest.mark.parametrize("operator", ["circular", "as-built", "reshaped"])
def test_spectra_of_a_network(operator, network):
    assert len(spectra.of(network, (1, 8, 8), operator=operator, fold_bn=True))


def test_spectra_of_a_layer():
    kernel = torch.rand(4, 4, 3, 3, device="cuda:0")
    for size, stride, padding in (
        (8, 1, "circular"),
        (8, 2, "circular"),
        (7, 2, "circular"),
        (5, 1, "zeros"),
    ):
        assert spectra.singular_values(kernel, size, stride=stride, padding=padding).is_cuda
    assert spectra.estimate(kernel, 8).values["std"][0] > 0
    assert spectra.impose(kernel, 8, torch.ones(10)).weight.is_cuda
    spectra.spread_penalty(kernel.requires_grad_(), 8).backward()
    assert kernel.grad.is_cuda


def test_jacobians(network, images):
    assert len(spectra.jacobian(network, images.x[:2])) == 2
