"""Images that lie in a data set, read when they are needed: more than memory holds at one time."""

import hashlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from arlib.engine.given import device_of, digest
from arlib.errors import InputError

PART = 256  # images that are read at one time


class Streamed:
    """The images of a data set, by number, as a tensor (n, …) of them would give them.

    A data set gives (image, label) by number. Of a `DataLoader` its data set and `collate_fn` are
    taken: order, batches and workers are those of whoever asks. Every image is read once at the
    beginning, for its label, the range of its pixels and the digest, and again whenever it is
    asked for, so images must not be drawn at random (no augmentation).

    Raises `InputError` for a data set without length, one that is empty, and images that do not
    stack.
    """

    def __init__(self, given: Dataset | DataLoader, device: torch.device | None = None):
        loader = given if isinstance(given, DataLoader) else None
        self._data = given.dataset if loader else given
        # without batches, torch's loader converts single images and stacks none
        own = loader is not None and loader.batch_size is not None
        self._collate = loader.collate_fn if own else default_collate
        self.device = torch.device("cpu") if device is None else device
        if isinstance(self._data, IterableDataset) or not hasattr(self._data, "__len__"):
            raise InputError(
                f"the data set is a {type(self._data).__name__} without a length; give one that "
                "knows its images by number, or a tensor of them."
            )
        if not len(self._data):
            raise InputError("the data set is empty; give at least one image.")
        self._read_once()

    def _read_once(self) -> None:
        sha, labels, low, high = hashlib.sha256(), [], math.inf, -math.inf
        for start in range(0, len(self), PART):
            images, own = self._pairs(range(start, min(start + PART, len(self))))
            if not start:
                self.dtype, self.shape = images.dtype, torch.Size([len(self), *images.shape[1:]])
                sha.update(f"{self.dtype}{tuple(self.shape)}".encode())
            if images.shape[1:] != self.shape[1:] or images.dtype != self.dtype:
                raise InputError(
                    f"image {start} of the data set is {images.dtype} of shape "
                    f"{tuple(images.shape[1:])}, the first is {self.dtype} of "
                    f"{tuple(self.shape[1:])}; they must be alike."
                )
            sha.update(images.contiguous().reshape(-1).view(torch.uint8).numpy())
            labels += torch.as_tensor(own).tolist()
            ends = torch.stack(torch.aminmax(images)).tolist()
            # a NaN stays: it is neither below nor above
            low = low if math.isnan(low) else min(ends[0], low)
            high = high if math.isnan(high) else max(ends[1], high)
        self.digest = sha.hexdigest()[:16]
        """That of the tensor of all images."""
        self.labels = torch.tensor([int(label) for label in labels], device=self.device)
        self.range = low, high
        """Lowest and highest pixel; NaN where one is none."""

    def _pairs(self, numbers) -> tuple[Tensor, Tensor]:
        pairs = [self._data[int(number)] for number in numbers]
        try:
            images, labels = self._collate(pairs)
        except (RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                "the data set must give (image, label) with images that stack, such as float "
                f"tensors of one shape: {error}"
            ) from None
        if not isinstance(images, Tensor):
            raise InputError(f"the data set gives a {type(images).__name__} as image, no tensor.")
        return images, labels

    def __len__(self) -> int:
        return len(self._data)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        if isinstance(index, int):
            return self._pairs([range(len(self))[index]])[0][0].to(self.device)
        numbers = range(len(self))[index] if isinstance(index, slice) else index.tolist()
        if not len(numbers):
            return torch.empty(0, *self.shape[1:], dtype=self.dtype, device=self.device)
        return self._pairs(numbers)[0].to(self.device)

    def split(self, size: int) -> Iterator[Tensor]:
        """One part after the other, as `Tensor.split` has them all."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point


def streamed(model: nn.Module, x, y=None):
    """(x, y) as they are, or, where x is a `Dataset` or `DataLoader`, as a `Streamed` and its
    labels on the model's device.

    Raises `InputError` for labels beside a data set, which has its own.
    """
    if not isinstance(x, Dataset | DataLoader):
        return x, y
    if y is not None:
        raise InputError("x is a data set, which has labels of its own; leave y out.")
    images = Streamed(x, device_of(model))
    return images, images.labels


def digest_of(x: Tensor | Streamed) -> str:
    """The digest of images, wherever they lie."""
    return x.digest if isinstance(x, Streamed) else digest(x)
