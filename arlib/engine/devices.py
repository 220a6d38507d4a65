"""Which device is meant by a name, and the kernels it runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from arlib.errors import InputError, one_of, shown


def device(name: str | torch.device = "auto") -> torch.device:
    """The device meant by `name`: "auto" is the first GPU if there is one, else the CPU.

    Raises `InputError` for an unknown name or a device that this machine does not have.
    """
    if str(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"device is {shown(name)}; allowed: auto, cpu, cuda, cuda:0, …, mps."
        ) from error
    if chosen.type != "cuda" and chosen.index:
        raise InputError(
            f"device is {str(name)!r}, but there is only one {chosen.type} here. Use "
            f"device={chosen.type!r}."
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device is {str(name)!r}, but torch sees {torch.cuda.device_count()} GPUs here. Use "
            "device='cpu' or 'auto'."
        )
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(
            "device is 'mps', but torch has no Metal device here. Use device='cpu' or 'auto'."
        )
    one_of("device", chosen.type, ("cpu", "cuda", "mps"))
    return chosen


@contextmanager
def fastest_kernels() -> Iterator[None]:
    """Inside it a GPU's convolutions are tried out once for each shape,
    and the fastest is kept; else nothing.
    """
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
