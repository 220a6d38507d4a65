"""The table of a whole model: which operator each row measures, on which map,
and what is refused.
"""

import math

import pytest
import torch
from torch import nn

from arlib import models, spectra
from arlib.errors import InputError


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    model = models.resnet(8, width=4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model


def row(frame, layer):
    return frame.set_index("layer").loc[layer]


def test_every_layer_with_its_map(resnet):
    frame = spectra.of(resnet)
    convs = [f"blocks.{b}.conv{i}" for b in range(3) for i in (1, 2)]
    assert frame.layer.tolist() == ["stem", *convs, "classifier"]
    assert frame[frame.counted].layer.tolist() == convs
    assert row(frame, "blocks.1.conv1")["size"] == (32, 32)
    assert row(frame, "blocks.1.conv1").stride == (2, 2)
    assert row(frame, "blocks.2.conv2")["size"] == (8, 8)
    assert set(frame.method) == {"frequencies", "svd"}
    assert not frame.isna().any().drop("dead_channels").any()


def test_rows_are_the_layers_own_spectra(resnet):
    frame = spectra.of(resnet)
    expected = spectra.singular_values(resnet.blocks[1].conv1.weight, 32, stride=2)
    values = row(frame, "blocks.1.conv1")
    assert values["std"] == pytest.approx(expected.std(correction=0).item(), rel=1e-12)
    assert values["count"] == 8 * 16 * 16
    assert frame.attrs["quantiles"]["blocks.1.conv1"].shape == (201,)
    assert frame.attrs["quantiles"]["blocks.1.conv1"][-1] == pytest.approx(values["max"])


def test_as_built_uses_the_layers_padding(resnet):
    frame = spectra.of(resnet, (3, 8, 8), "as-built")
    values = row(frame, "blocks.0.conv2")
    expected = spectra.singular_values(resnet.blocks[0].conv2.weight, 8, padding=1)
    assert values["max"] == pytest.approx(expected[0].item(), rel=1e-12)
    assert (values.padding, values.method) == ("zeros", "dense")


def test_as_built_circular_padding_is_the_circular_operator():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), nn.Conv2d(3, 4, 2, stride=2)
    )
    circular, built = spectra.of(model, (2, 6, 6)), spectra.of(model, (2, 6, 6), "as-built")
    assert built.method.tolist() == ["frequencies"] * 2
    assert built["std"].tolist() == pytest.approx(circular["std"].tolist())
    assert built.padding.tolist() == ["circular", "valid"]


def test_circular_padding_of_another_amount_is_not_taken_for_the_circular_operator():
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=2, padding_mode="circular", bias=False))
    nn.init.ones_(model[0].weight)
    built = spectra.of(model, (1, 4, 4), "as-built").iloc[0]
    columns = [model(e.view(1, 1, 4, 4)).flatten() for e in torch.eye(16)]
    assert built["max"] == pytest.approx(
        torch.linalg.svdvals(torch.stack(columns))[0].item(), rel=1e-5
    )
    assert built.method == "dense"


def test_reshaped_is_the_flattened_kernel(resnet):
    values = row(spectra.of(resnet, operator="reshaped"), "blocks.0.conv1")
    expected = torch.linalg.svdvals(resnet.blocks[0].conv1.weight.flatten(1).double())
    assert values["max"] == pytest.approx(expected[0].item(), rel=1e-10)
    assert (values["count"], values.padding, values.method) == (4, "reshaped", "svd")


def test_folding_multiplies_by_gamma_over_root_of_var_plus_eps(resnet):
    frame = spectra.of(resnet, fold_bn=True)
    block = resnet.blocks[0]
    scale = block.bn1.weight / (block.bn1.running_var + block.bn1.eps).sqrt()
    expected = spectra.singular_values(block.conv1.weight * scale.view(-1, 1, 1, 1), 32)
    assert row(frame, "blocks.0.conv1")["std"] == pytest.approx(
        expected.std(correction=0).item(), rel=1e-5
    )
    assert frame.folded.tolist() == ["yes"] * 7 + ["no"]
    assert set(spectra.of(resnet).folded) == {"no"}


def test_a_batch_norm_behind_a_skip_is_not_folded():
    class PreActivation(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.bn, self.conv = (
                nn.Conv2d(3, 4, 3),
                nn.BatchNorm2d(4),
                nn.Conv2d(4, 4, 3, padding=1),
            )

        def forward(self, x):
            x = self.stem(x)
            return x + self.conv(torch.relu(self.bn(x)))

    frame = spectra.of(PreActivation(), (3, 8, 8), fold_bn=True)
    assert frame.folded.tolist() == ["not foldable"] * 2
    assert "6" in frame.note[0]
    assert frame.note[1] == ""


def test_dead_channels():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, 1.0, 1e-5, 0.9]))
    assert spectra.of(model, (1, 4, 4)).dead_channels.tolist() == [0.25]
    assert math.isnan(spectra.of(model[:1], (1, 4, 4)).dead_channels[0])


def test_transposed_convolution_is_the_adjoint_on_its_output_map():
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1, groups=1, bias=False)
    spectrum = spectra.of(nn.Sequential(layer), (3, 3, 3), "as-built").iloc[0]
    columns = [layer(e.view(1, 3, 3, 3)).flatten() for e in torch.eye(27)]
    expected = torch.linalg.svdvals(torch.stack(columns).double())
    assert spectrum["size"] == (6, 6)
    assert spectrum["count"] == 27
    assert (spectrum["max"], spectrum["std"]) == pytest.approx(
        (expected[0].item(), expected.std(correction=0).item()), rel=1e-5
    )


def test_attention_projections_are_rows_of_one_matrix():
    class Attend(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.attention = (
                nn.Conv2d(3, 8, 4, stride=4),
                nn.MultiheadAttention(8, 2, batch_first=True),
            )

        def forward(self, x):
            tokens = self.patch(x).flatten(2).transpose(1, 2)
            return self.attention(tokens, tokens, tokens)[0]

    model = Attend()
    frame = spectra.of(model, (3, 8, 8))
    assert frame.layer.tolist()[:4] == ["patch", "attention.q", "attention.k", "attention.v"]
    expected = torch.linalg.svdvals(model.attention.in_proj_weight[8:16].double())
    assert row(frame, "attention.k")["max"] == pytest.approx(expected[0].item(), rel=1e-10)
    assert not frame.counted.any()
    assert row(frame, "patch")["count"] == 4 * 8


def test_model_is_left_as_found(resnet):
    resnet.train()
    resnet.blocks[1].bn1.eval()
    before = {name: value.clone() for name, value in resnet.state_dict().items()}
    modes = [module.training for module in resnet.modules()]
    random = torch.get_rng_state()
    spectra.of(resnet, fold_bn=True)
    assert modes == [module.training for module in resnet.modules()]
    assert all(torch.equal(value, before[name]) for name, value in resnet.state_dict().items())
    assert not any(module._forward_hooks for module in resnet.modules())
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.requires_grad for p in resnet.parameters())


class Twice(nn.Module):
    """One convolution on two maps, another one never used."""

    def __init__(self):
        super().__init__()
        self.conv, self.unused = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x):
        return self.conv(self.conv(x)[:, :, ::2, ::2])


def test_unknown_maps_are_named_and_can_be_given():
    with pytest.raises(InputError, match=r"Layer conv sees maps of \[\(4, 4\), \(8, 8\)\].*sizes="):
        spectra.of(Twice(), (1, 8, 8))
    with pytest.raises(InputError, match="Layer unused is not called"):
        spectra.of(Twice(), (1, 8, 8), sizes={"conv": (8, 8)})
    frame = spectra.of(Twice(), (1, 8, 8), sizes={"conv": (8, 8), "unused": (4, 4)})
    assert frame["size"].tolist() == [(8, 8), (4, 4)]
    assert spectra.of(
        Twice(), (1, 8, 8), sizes={"conv": (8, 8), "unused": None}
    ).layer.tolist() == ["conv"]


def test_bad_models_are_refused_by_layer():
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3, dtype=torch.float32))
    with torch.no_grad():
        model[1].weight[0, 0, 0, 0] = math.inf
    with pytest.raises(InputError, match="Layer 1 holds NaN or infinite"):
        spectra.of(model, (1, 8, 8))
    with pytest.raises(InputError, match="does not run on input_shape"):
        spectra.of(model[:1], (3, 8, 8))
    with pytest.raises(InputError, match="Did you mean 'circular'"):
        spectra.of(model[:1], (1, 8, 8), "circula")
    with pytest.raises(InputError, match="lazy"):
        spectra.of(nn.Sequential(nn.LazyConv2d(2, 3)), (1, 8, 8))


def test_complex_and_quantised_layers_are_refused():
    with pytest.raises(InputError, match=r"Layer 0 is torch\.complex64"):
        spectra.of(nn.Sequential(nn.Linear(2, 2, dtype=torch.complex64)), (2,))
    quantised = torch.ao.nn.quantized.dynamic.Linear(2, 2)
    with pytest.raises(InputError, match="Layer 0 is quantised"):
        spectra.of(nn.Sequential(quantised), (2,))


def foreign(name, **options):
    """A torchvision model without its pretrained weights."""
    import torchvision

    torch.manual_seed(0)
    return getattr(torchvision.models, name)(weights=None, **options)


@pytest.mark.slow
def test_mobilenet_at_224_pixels():
    model = foreign("mobilenet_v3_small")
    frame = spectra.of(model, (3, 224, 224), fold_bn=True).set_index("layer")
    assert len(frame) == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == 54
    depthwise = frame.loc["features.2.block.1.0"]
    assert (depthwise["shape"], depthwise["size"], depthwise.stride) == (
        (72, 1, 3, 3),
        (56, 56),
        (2, 2),
    )
    assert depthwise["count"] == 72 * 28 * 28
    assert frame.loc["features.1.block.1.fc1"].folded == "not foldable"
    assert frame.loc["features.0.0"].folded == "yes"
    assert not frame.loc["features.0.0"].counted
    assert frame.counted.sum() == 11  # the depthwise ones


@pytest.mark.slow
def test_torchvision_resnet():
    frame = spectra.of(foreign("resnet18"), (3, 32, 32))
    assert (len(frame), frame.counted.sum()) == (21, 16)
    assert not frame[frame.layer.str.contains("downsample")].counted.any()
    assert set(frame.method) == {"frequencies", "svd"}
    assert frame["size"].iloc[0] == (32, 32)


def test_vision_transformer_shows_its_projections():
    import torchvision

    torch.manual_seed(0)
    options = {
        "image_size": 16,
        "patch_size": 4,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 16,
        "mlp_dim": 32,
    }
    frame = spectra.of(torchvision.models.VisionTransformer(**options), (3, 16, 16))
    layer = "encoder.layers.encoder_layer_1"
    expected = [f"{layer}.self_attention.{part}" for part in ("q", "k", "v", "out_proj")]
    assert frame.layer.tolist()[7:11] == expected
    assert frame.layer.tolist()[0] == "conv_proj"
    assert frame[frame.kind == "attention"]["shape"].tolist() == [(16, 16)] * 6
    assert frame.method[0] == "frequencies"
