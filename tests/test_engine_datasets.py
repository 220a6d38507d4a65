"""A data set gives what a tensor of its images gives, and is never in memory whole."""

import numpy as np
import pandas as pd
import pytest
import torch
from attacked import linear
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from arlib import attacks, engine, margins, smoothness
from arlib.engine import datasets
from arlib.errors import InputError
from benchmarks.memory import peak


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 4)
    ).eval()


@pytest.fixture
def images(net):
    """20 images and the labels that the network gives most of them."""
    x = torch.rand(20, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    y = net(x).argmax(1)
    y[::7] = (y[::7] + 1) % 4
    return x, y


class Numbered(Dataset):
    """Images by number, from tensors; it remembers which were asked for."""

    def __init__(self, x, y):
        self.x, self.y, self.asked = x, y, []

    def __len__(self):
        return len(self.x)

    def __getitem__(self, number):
        self.asked.append(number)
        return self.x[number], int(self.y[number])


@pytest.fixture(params=["data set", "tensor data set", "loader", "shuffled loader"])
def given(request, images):
    if request.param == "data set":
        return Numbered(*images)
    loader = {"batch_size": 3, "shuffle": request.param.startswith("shuffled")}
    data = TensorDataset(*images)
    return data if request.param == "tensor data set" else DataLoader(data, **loader)


def test_an_evaluation_is_that_of_the_tensor(net, images, given):
    options = {"eps": [0.02, 0.1], "attacks": ["fgsm", "pgd-5"], "batch_size": 8}
    whole = attacks.evaluate(net, *images, **options)
    other = attacks.evaluate(net, given, **options)
    pd.testing.assert_frame_equal(whole.table, other.table)
    assert np.array_equal(whole.robust, other.robust) and 0 < whole.robust.sum() < whole.robust.size
    # and goes on with the tensor's state
    again = attacks.evaluate(net, given, state=whole.state, **options)
    assert np.array_equal(again.robust, whole.robust)


def test_instance_margins_are_those_of_the_tensor(net, images, given):
    options = {"halvings": 2, "steps": 3, "batch_size": 8}
    whole = margins.instance(net, *images, **options)
    assert torch.equal(margins.instance(net, given, **options), whole)


@pytest.mark.parametrize("direction", smoothness.change.DIRECTIONS)
def test_feature_changes_are_those_of_the_tensor(net, images, given, direction):
    options = {"radius": 0.05, "direction": direction, "batch_size": 8, "steps": 3}
    whole = smoothness.feature_change(net, images[0], **options)
    pd.testing.assert_frame_equal(smoothness.feature_change(net, given, **options), whole)


def test_images_of_a_data_set_are_read_by_number_and_few_at_a_time(images, monkeypatch):
    monkeypatch.setattr(datasets, "PART", 4)
    x, y = images
    data = Numbered(x, y)
    given = engine.Streamed(data)
    assert data.asked == list(range(20)) and given.shape == x.shape and len(given) == 20
    assert torch.equal(given.labels, y) and given.range == (float(x.min()), float(x.max()))
    assert given.digest == engine.digest(x)
    data.asked.clear()
    assert torch.equal(given[torch.tensor([7, 3])], x[[7, 3]]) and data.asked == [7, 3]
    assert torch.equal(given[:5], x[:5]) and torch.equal(given[-1], x[-1])
    assert given[:0].shape == (0, 1, 6, 6)
    assert all(map(torch.equal, given.split(8), x.split(8)))


def test_a_loader_lays_its_images_together_in_its_own_way(images):
    def on_another_scale(pairs):
        x, y = zip(*pairs, strict=True)
        return torch.stack(x) / 2, torch.tensor(y)

    loader = DataLoader(Numbered(*images), batch_size=4, collate_fn=on_another_scale)
    assert torch.equal(engine.Streamed(loader)[:], images[0] / 2)


class Endless(IterableDataset):
    def __iter__(self):
        yield torch.zeros(1, 6, 6), 0


class Odd(Numbered):
    def __getitem__(self, number):
        return torch.zeros(1, 6 + number % 2, 6), 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Endless(), "Endless without a length"),
        (TensorDataset(torch.zeros(0, 1, 6, 6), torch.zeros(0)), "empty"),
        (Odd(torch.zeros(4), torch.zeros(4)), r"must give \(image, label\) with images that stack"),
        (TensorDataset(torch.zeros(4, 1, 6, 6)), r"must give \(image, label\)"),
        (TensorDataset(2 * torch.ones(4, 1, 6, 6), torch.zeros(4)), "images go from 2 to 2"),
    ],
    ids=["endless", "empty", "odd", "unlabelled", "range"],
)
def test_what_is_no_data_set_of_images_is_one_message(net, data, message):
    with pytest.raises(InputError, match=message):
        attacks.evaluate(net, data, eps=0.1)


def test_a_data_set_has_its_own_labels(net, images):
    with pytest.raises(InputError, match="leave y out"):
        attacks.evaluate(net, Numbered(*images), images[1], eps=0.1)
    with pytest.raises(InputError, match="give tensors"):
        attacks.evaluate(net, images[0], eps=0.1)


class Made(Dataset):
    """So many images of a megabyte, made when they are asked for."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, number):
        return torch.full((1, 512, 512), 0.25 + 0.5 * (number % 2)), number % 2


@pytest.mark.slow
def test_a_data_set_is_never_in_memory_whole(monkeypatch):
    monkeypatch.setattr(datasets, "PART", 8)
    net = nn.Sequential(nn.AvgPool2d(512), nn.Flatten(), nn.Linear(1, 2))

    def taken(n):
        change = {"radius": 0.1, "layers": ["0"], "batch_size": 4}
        return peak(lambda: smoothness.feature_change(net, Made(n), **change))

    taken(16)  # what the libraries take at their first use
    grown = taken(600)
    assert np.isnan(grown) or grown < 200  # MiB; all images are 600


# ---- what else has a bound --------------------------------------------------------------------


def test_a_digest_is_the_same_however_the_tensor_lies_in_memory():
    x = torch.rand(600, 3, 4, 4)
    laid = x.to(memory_format=torch.channels_last)
    assert engine.digest(x) == engine.digest(laid) == engine.digest(x.repeat_interleave(2, 0)[::2])
    assert engine.digest(x) != engine.digest(x.double()) != engine.digest(x[:, :, :, :2])
    # as states of before have it
    assert engine.digest(torch.arange(6.0).view(2, 3), torch.tensor(1.0)) == "b37b86653742cf8d"


@pytest.mark.slow
def test_a_digest_copies_no_images():
    x = torch.rand(64, 2**18)  # 64 MiB
    grown = peak(lambda: engine.digest(x))
    assert np.isnan(grown) or grown < 4


@pytest.mark.parametrize("direction", smoothness.change.DIRECTIONS)
def test_layers_too_large_for_memory_are_looked_at_in_smaller_parts(
    net, images, direction, monkeypatch
):
    options = {"radius": 0.05, "direction": direction, "steps": 3}
    whole = smoothness.feature_change(net, images[0], **options)
    monkeypatch.setattr(smoothness.change, "BYTES", 8 * 4 * (4 * 36 + 4))
    sizes = []
    monkeypatch.setattr(smoothness.change, "_fitting", watched(smoothness.change._fitting, sizes))
    parts = smoothness.feature_change(net, images[0], **options)
    assert 1 <= min(sizes) < 20
    columns = ["change", "normaliser"]
    np.testing.assert_allclose(parts[columns], whole[columns], rtol=1e-5)


def watched(function, told):
    def call(*args):
        told.append(function(*args))
        return told[-1]

    return call


def test_progress_shows_the_time_left(net, images, capsys):
    smoothness.feature_change(net, images[0], radius=0.05, progress=True)
    assert "feature change, random: 100%" in capsys.readouterr().err


def test_a_linear_network_has_the_same_known_answer_from_a_data_set():
    net, x, y = linear()
    data = TensorDataset(x, y)
    assert torch.equal(margins.instance(net, data), margins.instance(net, x, y))
