"""CIFAR residual networks (He et al. 2016, section 4.2) with the normalisation as first layer.

Post-activation blocks, option-A shortcuts (subsample and pad channels with zeros, no weights),
so that an image in [0, 1] goes in and every attack radius is in pixel units.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from arlib.errors import InputError, one_of
from arlib.sources import DEPTHS, NETWORKS, source


class Normalize(nn.Module):
    """(x − mean) / std per channel; x: (n, c, h, w) in [0, 1]."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


def with_normalization(model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """A network on pixels in [0, 1] from one on normalised images:
    (x − mean) / std a channel comes first.

    The model itself is inside, not a copy. Every radius is then in pixel units, the same for all
    channels.

    >>> import torch
    >>> net = with_normalization(torch.nn.Flatten(), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    >>> net(torch.ones(2, 3, 4, 4)).shape, net(torch.ones(1, 3, 1, 1)).tolist()
    (torch.Size([2, 48]), [[2.0, 2.0, 2.0]])

    Raises `InputError` for lengths that differ, or a std that is not above 0.
    """
    mean, std = tuple(map(float, mean)), tuple(map(float, std))
    if len(mean) != len(std) or not mean or min(std) <= 0:
        raise InputError(f"mean is {mean} and std {std}; give one of each a channel, std above 0.")
    first = next(model.parameters(), torch.zeros(()))
    return nn.Sequential(Normalize(mean, std).to(first.device, first.dtype), model).train(
        model.training
    )


class Shortcut(nn.Module):
    """Option A: every stride-th pixel, new channels zero (half of them on each side)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.stride, self.extra = stride, channels_out - channels_in

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = self.extra // 2
        return F.pad(
            x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.extra - before)
        )


class Block(nn.Module):
    """Two 3×3 convolutions with batch norm, added to the shortcut; the output is after its ReLU."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        # no bias: the batch norm behind would take it out again
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        same = stride == 1 and channels_in == channels
        self.shortcut = nn.Identity() if same else Shortcut(channels_in, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """normalize → stem → three stages of blocks (width, 2·width, 4·width channels) → pool →
    classifier.
    """

    def __init__(self, depth: int, classes: int, width: int, in_channels: int, mean, std):
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*self._stages(width, (depth - 2) // 6))
        self.classifier = nn.Linear(4 * width, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight)

    @staticmethod
    def _stages(width: int, count: int) -> list[Block]:
        channels = [width] + [width * 2**stage for stage in range(3) for _ in range(count)]
        strides = [2 if stage and not index else 1 for stage in range(3) for index in range(count)]
        return [Block(a, b, s) for a, b, s in zip(channels, channels[1:], strides, strict=False)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn(self.stem(self.normalize(x))))
        return self.classifier(self.blocks(x).mean((2, 3)))  # (n, classes)


def resnet(
    depth: int, classes: int = 10, width: int = 16, in_channels: int = 3, mean=None, std=None
) -> ResNet:
    """A CIFAR ResNet of `depth` layers (8, 20, 32, 44, 56 or 110) on images in [0, 1].

    mean, std: per-channel normalisation; by default none (0 and 1). Initial weights come from
    torch's global generator, as for any torch module.
    """
    one_of("depth", depth, DEPTHS)
    if width < 1 or classes < 2:
        raise InputError(f"width is {width} and classes {classes}; at least 1 and 2 are needed.")
    mean, std = mean or (0.0,) * in_channels, std or (1.0,) * in_channels
    if len(mean) != in_channels or len(std) != in_channels:
        raise InputError(
            f"mean and std need one value for each of the {in_channels} channels: {mean}, {std}."
        )
    return ResNet(depth, classes, width, in_channels, tuple(mean), tuple(std))


def build(name: str, dataset: str, width: int = 16) -> ResNet:
    """The network `name` ("resnet20", …) for a data set ("cifar10", …),
    with its normalisation and classes.
    """
    one_of("model", name, NETWORKS)
    of = source(dataset)
    depth = int(name.removeprefix("resnet"))
    return resnet(depth, of.classes, width, of.shape[0], of.mean, of.std)


def block_names(model: nn.Module) -> list[str]:
    """Names of the residual blocks of our networks, in order; empty for any other model."""
    return [name for name, module in model.named_modules() if isinstance(module, Block)]
