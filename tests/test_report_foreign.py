"""Comparing models as other libraries build them:
layers that see windows or positions instead of images.
"""

import importlib.util
import sys
import types
import warnings

import pytest
import torch
from torch import nn

import arlib
from arlib import data, smoothness
from arlib.errors import InputError

FEW = {
    "robust_images": 4,
    "instance_images": 2,
    "jacobian_images": 2,
    "eps": [0.05],
    "progress": False,
    "band": None,
}


class Windows(nn.Module):
    """As in windowed attention: patches become rows of the batch;
    positions go through a layer of their own.
    """

    def __init__(self):
        super().__init__()
        self.stem, self.position = nn.Conv2d(1, 8, 2, 2), nn.Linear(2, 8)
        self.window, self.answer = nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, x):
        h = self.stem(x)  # (n, 8, 4, 4)
        where = self.position(torch.ones(1, 2))  # one row, whatever the images
        h = h.flatten(2).transpose(1, 2) + where[:, None]  # (n, 16, 8)
        h = torch.relu(self.window(h.reshape(-1, 4, 8)))  # (4 n, 4, 8)
        return self.answer(h.reshape(len(x), 16, 8).mean(1))


@pytest.fixture(scope="module")
def images():
    return data.load("digits", device="cpu").test[:20]


def test_layers_without_a_row_an_image_are_left_out_and_named(images):
    torch.manual_seed(0)
    model = Windows().eval()
    comparison = arlib.compare({"windows": model}, *images, **FEW)
    assert not comparison.left_out
    doubts = [doubt for doubt in comparison.doubts if "not one row per image" in doubt]
    assert [doubt.split(":")[0] for doubt in doubts] == ["windows, features", "windows, jacobians"]
    assert all("2 of 4 layers" in doubt and "position, window" in doubt for doubt in doubts)
    rows = comparison.rows
    changes = rows[(rows["quantity"] == "feature_change") & (rows["layer"] != "")].set_index(
        "layer"
    )["value"]
    assert list(changes.index) == ["stem", "answer"]
    alone = smoothness.feature_change(
        model,
        images.x,
        radius=4 / 255,
        layers=["stem", "answer"],
        generator=torch.Generator().manual_seed(0),
    )
    assert changes.tolist() == pytest.approx(alone["change"].tolist(), rel=1e-5)
    assert {"stem", "position", "window", "answer"} <= set(
        rows.loc[rows["quantity"] == "sv_std", "layer"]
    )


def test_such_a_layer_asked_for_by_name_is_refused(images):
    with pytest.raises(
        InputError, match=r"do not have 20 rows, one an image: window \(80, 4, 8\). Give layers="
    ):
        smoothness.feature_change(
            Windows().eval(), images.x, radius=4 / 255, layers=["stem", "window"]
        )
    comparison = arlib.compare({"w": Windows().eval()}, *images, layers=["stem", "window"], **FEW)
    assert any(text.startswith("features of w: of 20 images") for text in comparison.left_out)


def test_the_command_line_makes_networks_of_timm(monkeypatch):
    from arlib.cli.compare import _model

    made = []

    def create_model(name, pretrained):
        made.append((name, pretrained))
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(create_model=create_model))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert isinstance(_model("timm:resnet10t", torch.device("cpu")), nn.Sequential)
    assert made == [("resnet10t", False)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, how",
    [("resnet10t", {}), ("swin_tiny_patch4_window7_224", {"img_size": 32, "window_size": 4})],
)
def test_networks_of_timm_are_measured(name, how):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=10, **how).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        comparison = arlib.compare({name: model}, torch.rand(4, 3, 32, 32), torch.arange(4), **FEW)
    assert not comparison.left_out
