import pytest
import torch
from torch import nn

from arlib import models
from arlib.errors import InputError
from arlib.smoothness import layers


def network(seed=0):
    """A ResNet-8 whose batch norms are far from the identity."""
    torch.manual_seed(seed)
    model = models.resnet(8, width=4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
            module.running_mean.uniform_(-1, 1)
    return model


def hooked_outputs(model, x, layers):
    seen = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _, __, value, name=name: seen.setdefault(name, value.clone())
        )
        for name in layers
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return [seen[name] for name in layers]


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = network()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.inner(x) if x.sum() > 0 else self.inner(-x)


class Unused(nn.Module):
    def forward(self, x):
        return x


X = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_blocks_come_folded_and_equal_the_hooked_ones():
    model = network()
    names = layers.layer_names(model)
    assert names == ["blocks.0", "blocks.1", "blocks.2"]
    part = layers.prepare(model, names)
    assert len(part.pairs) == 7
    for mine, theirs in zip(part(X), hooked_outputs(model.eval(), X, names), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_only_what_the_layer_needs_is_run():
    model = network()
    part = layers.prepare(model, ["blocks.0"])
    convolutions = [m for m in part.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 3
    assert not [m for m in part.modules() if isinstance(m, nn.Linear)]


def test_the_model_is_left_as_it_was():
    model = network().train()
    model.blocks[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    layers.prepare(model, ["blocks.1"])(X)
    assert modes == [m.training for m in model.modules()]
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_model_that_cannot_be_traced_gives_the_same():
    model = Untraceable()
    part = layers.prepare(model, ["inner.blocks.1", "inner.blocks.0"])
    expected = hooked_outputs(model.eval(), X, ["inner.blocks.1", "inner.blocks.0"])
    for mine, theirs in zip(part(X), expected, strict=True):
        assert torch.equal(mine, theirs)
    assert not any(m._forward_hooks for m in part.modules())


def test_a_layer_written_over_in_place_keeps_its_own_output():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 2))
    x = torch.rand(6, 1, 2, 2)
    assert layers.layer_names(model) == ["1", "3"]
    first, second = layers.prepare(model, ["1", "3"])(x)
    assert torch.equal(first, model[1](x.flatten(1)))
    assert first.min() < 0
    assert torch.equal(second, model(x))


def test_a_convolution_before_its_batch_norm_is_not_the_folded_one():
    model = network()
    (mine,) = layers.prepare(model, ["stem"])(X)
    (theirs,) = hooked_outputs(model.eval(), X, ["stem"])
    assert torch.allclose(mine, theirs, atol=1e-6)


def test_bad_layers_are_named():
    model = network()
    with pytest.raises(InputError, match=r"Did you mean 'blocks\.1'"):
        layers.layer_names(model, ["blocks.1x"])
    with pytest.raises(InputError, match="layers are"):
        layers.layer_names(model, [])
    with pytest.raises(InputError, match="layers are"):
        layers.layer_names(nn.Flatten())


@pytest.mark.parametrize("kind", [Unused, Untraceable])
def test_a_layer_that_is_never_called_is_named(kind):
    model = kind()
    model.spare = nn.Linear(1, 1)
    with pytest.raises(InputError, match="spare"):
        layers.prepare(model, ["spare"])(X)


def test_a_layer_that_gives_more_than_a_tensor_is_named():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    model = nn.Sequential(Pair())
    with pytest.raises(InputError, match="layer 0 gives back a tuple"):
        layers.prepare(model, ["0"])(X)
