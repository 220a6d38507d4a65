"""Data sets as tensors on the device, with one fixed train / validation / test split.

`digits` comes with scikit-learn; `cifar10` and `cifar100` are read by torchvision's own
classes, whose files are checked by md5, and are downloaded only when asked to.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from arlib import engine, places
from arlib.errors import InputError
from arlib.sources import Source, source

DIGITS_SPLIT_SEED = 0


@dataclass(frozen=True)
class Split:
    """Images and labels of one part of a data set; unpacks as `x, y = split`.

    pixels: (n, c, h, w) uint8, y: (n,) int64, levels: pixel value that means 1.0.
    """

    # bytes: a quarter of the memory that the same images take as float32
    pixels: torch.Tensor
    y: torch.Tensor
    levels: int = 255

    @property
    def x(self) -> torch.Tensor:
        """Images as float32 in [0, 1], (n, c, h, w), made anew at each access."""
        return self.pixels.float() / self.levels

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield self.x
        yield self.y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index) -> "Split":
        return Split(self.pixels[index], self.y[index], self.levels)


@dataclass(frozen=True)
class Dataset:
    """One data set: its three parts, class names and image shape (c, h, w)."""

    name: str
    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    shape: tuple[int, int, int]


def load(
    name: str, root: str | Path | None = None, download: bool = False, device: str = "auto"
) -> Dataset:
    """Load a data set onto `device`.

    name: "digits" (8×8, embedded), "cifar10" or "cifar100" (32×32). root: the folder that holds
    torchvision's files; by default `ARLIB_DATA`, else the checkout's `data/`. download: fetch the
    files there if they are missing. The split is fixed: validation is 20 % of the digits' training
    part, 500 (50) images per class of CIFAR-10 (-100).

    Raises `InputError` for an unknown name, missing files without `download`, or a missing device.
    """
    chosen, where = source(name), engine.device(device)
    pixels, labels, classes, levels = (
        _cifar(chosen, root, download) if chosen.torchvision else _digits()
    )
    parts = [
        Split(torch.from_numpy(p).to(where), torch.from_numpy(y).to(where), levels)
        for p, y in zip(pixels, labels, strict=True)
    ]
    return Dataset(name, *parts, classes=tuple(classes), shape=tuple(pixels[0].shape[1:]))


def augment(x: torch.Tensor, generator: torch.Generator, padding: int = 4) -> torch.Tensor:
    """Random crop after zero padding, and horizontal flip, each image its own. x: (n, c, h, w)."""
    n, _, height, width = x.shape

    def draw(high: int) -> torch.Tensor:
        return torch.randint(high, (n,), generator=generator, device=generator.device).to(x.device)

    top, left, flip = draw(2 * padding + 1), draw(2 * padding + 1), draw(2).bool()
    rows = top[:, None] + torch.arange(height, device=x.device)  # (n, h)
    columns = torch.arange(width, device=x.device).expand(n, width)
    # crop and flip in one gather
    columns = left[:, None] + torch.where(flip[:, None], columns.flip(1), columns)  # (n, w)
    padded = F.pad(x, (padding,) * 4)
    image = torch.arange(n, device=x.device)
    return padded[image[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def _digits():
    """scikit-learn's 8×8 digits: 360 test, 288 validation, 1,149 training images, stratified."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels.reshape(-1, 1, 8, 8).astype(np.uint8)
    labels = labels.astype(np.int64)
    split = partial(train_test_split, test_size=0.2, random_state=DIGITS_SPLIT_SEED)
    x_rest, x_test, y_rest, y_test = split(pixels, labels, stratify=labels)
    x_train, x_val, y_train, y_val = split(x_rest, y_rest, stratify=y_rest)
    return (x_train, x_val, x_test), (y_train, y_val, y_test), [str(d) for d in range(10)], 16


def _cifar(chosen: Source, root: str | Path | None, download: bool):
    from torchvision import datasets

    kind = getattr(datasets, chosen.torchvision)
    folder = places.data_root(root)
    try:
        train, test = (kind(folder, train=part, download=download) for part in (True, False))
    except RuntimeError as error:
        raise InputError(
            f"{chosen.name} was not found whole in {folder} ({error}). Download it once with "
            f"data.load({chosen.name!r}, download=True), or set ARLIB_DATA to the folder that has "
            "it."
        ) from error
    x, y = _planar(train.data), np.asarray(train.targets, dtype=np.int64)
    held = _last_of_each_class(y, chosen.val // chosen.classes)
    pixels = (x[~held], x[held], _planar(test.data))
    return pixels, (y[~held], y[held], np.asarray(test.targets, dtype=np.int64)), train.classes, 255


def _planar(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))  # (n, h, w, c) -> (n, c, h, w)


def _last_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Mask of the last `count` images of each class, in file order."""
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[-count:]] = True
    return chosen
