import pytest
import torch

from arlib import data, models
from arlib.errors import InputError
from arlib.sources import source

PARAMETERS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}


@pytest.mark.parametrize("depth", PARAMETERS)
def test_parameter_counts_are_those_of_the_paper(depth):
    """He et al. 2016, table 6: 0.27, 0.46, 0.66, 0.85, 1.7 million."""
    assert sum(p.numel() for p in models.resnet(depth).parameters()) == PARAMETERS[depth]


def test_depth_counts_the_weight_layers_and_blocks():
    model = models.resnet(20)
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == 20
    assert models.block_names(model) == [f"blocks.{i}" for i in range(9)]
    assert models.block_names(torch.nn.Linear(2, 2)) == []


def test_map_sizes_and_channels_by_stage():
    model, shapes = models.resnet(8, width=4).eval(), []
    for name in models.block_names(model):
        model.get_submodule(name).register_forward_hook(
            lambda m, i, out: shapes.append(tuple(out.shape[1:]))
        )
    model(torch.rand(2, 3, 32, 32))
    assert shapes == [(4, 32, 32), (8, 16, 16), (16, 8, 8)]


def test_option_a_shortcut_subsamples_and_pads_with_zeros():
    x = torch.rand(1, 4, 6, 6)
    out = models.Shortcut(4, 8, stride=2)(x)
    assert out.shape == (1, 8, 3, 3)
    assert torch.equal(out[:, 2:6], x[:, :, ::2, ::2])
    assert out[:, :2].abs().sum() == out[:, 6:].abs().sum() == 0


def test_normalisation_is_the_first_layer_and_the_training_images_statistics():
    digits = data.load("digits", device="cpu")
    mean, std = source("digits").mean, source("digits").std
    assert digits.train.x.mean().item() == pytest.approx(mean[0], abs=2e-3)
    assert digits.train.x.std().item() == pytest.approx(std[0], abs=2e-3)
    model = models.build("resnet8", "digits", width=2)
    out = next(model.children())(digits.train.x)
    assert abs(out.mean()) < 0.01 and abs(out.std() - 1) < 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.resnet(18), "depth is 18"),
        (lambda: models.resnet(8, width=0), "width is 0"),
        (lambda: models.resnet(8, in_channels=3, mean=(0.5,)), "one value for each"),
        (lambda: models.build("resnet18", "digits"), "Did you mean 'resnet"),
    ],
)
def test_bad_networks_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
