"""Small networks with known answers, for the tests of the attacks."""

import functools
import math

import torch
import torch.nn.functional as F
from torch import nn

from arlib import data, models

DUAL = {"linf": 1, "l2": 2}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(classes=2, shape=(1, 4, 4), n=32, seed=0, dtype=torch.float64, scale=1.0):
    """A linear model with images x around mid-grey and the labels it gives them."""

    def draw(*size):
        return torch.randn(*size, generator=generator(seed), dtype=dtype)

    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes, dtype=dtype))
    x = 0.5 + 0.05 * draw(n, *shape).clamp(-2, 2)
    with torch.no_grad():
        model[1].weight.copy_(scale * draw(classes, math.prod(shape)))
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)  # mid-grey has equal logits
        return model, x, model(x).argmax(1)


@torch.no_grad()
def smallest_perturbation(model, x, y, norm):
    """min over other classes j of (z_y − z_j) / ‖w_y − w_j‖_q,
    the distance to a linear model's boundary. (n,).
    """
    z, w = model(x), model[1].weight
    lengths = torch.linalg.vector_norm(w[y][:, None] - w[None], DUAL[norm], dim=2)  # (n, classes)
    distances = (z.gather(1, y[:, None]) - z) / lengths.clamp_min(1e-12)
    return distances.scatter(1, y[:, None], math.inf).amin(1)


class Seen(list):
    """A list that stays as it is: what a model keeps in plain lists is put back after an attack."""


class Function(nn.Module):
    """A network that is any function of the images."""

    def __init__(self, function):
        super().__init__()
        self.function, self.seen = function, Seen()

    def forward(self, x):
        self.seen.append(len(x))
        return self.function(x)


def binary(score):
    """Logits of two classes whose difference is `score` (positive: class 0)."""
    return Function(lambda x: torch.stack([score(x), torch.zeros(len(x), dtype=x.dtype)], 1))


def convolutional(seed=0, dtype=torch.float32, classes=4):
    """A tiny untrained network with batch norm whose statistics are not the default ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
        )
        model.append(nn.Linear(6 * 36, classes)).to(dtype)
        model[1].running_mean.uniform_(-0.2, 0.2)
        model[1].running_var.uniform_(0.5, 2)
    return model.eval()


def pictures(n=24, seed=1, dtype=torch.float32, shape=(1, 6, 6)):
    return torch.rand(n, *shape, generator=generator(seed), dtype=dtype)


@functools.cache
def digits():
    """A residual network trained for some seconds on the digits;
    with the first 200 test images and labels.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dataset = data.load("digits", device="cpu")
        model = models.build("resnet8", dataset.name, width=8)
        x, y = dataset.train
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(6):
            for index in torch.randperm(len(x)).split(128):
                optimiser.zero_grad()
                F.cross_entropy(model(x[index]), y[index]).backward()
                optimiser.step()
    return model.eval(), *dataset.test[:200]


def right(model, x, y):
    """Which images are classified right, (n,) bool."""
    with torch.no_grad():
        return model(x).argmax(1) == y
