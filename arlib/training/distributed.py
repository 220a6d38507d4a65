"""One training on several processes, started by `torchrun`: who we are, and what is shared.

Every process holds the network and the data and draws the same random numbers; each works on its
part of every batch. Gradients are averaged by DistributedDataParallel, batch norm's running
statistics after each step by `World.average`, so all processes hold the same network at all times.
The first one writes.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from arlib.errors import TrainingStopped


@dataclass(frozen=True)
class World:
    """This process, number `rank` of `size`."""

    rank: int = 0
    size: int = 1

    @classmethod
    def launched(cls) -> "World":
        """As `torchrun` describes it to its processes; without it, a world of one."""
        variables = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR")]
        return cls(int(variables[0]), int(variables[1])) if all(variables) else cls()

    @property
    def first(self) -> bool:
        return self.rank == 0

    def part(self, n: int) -> tuple[slice, float]:
        """Our part of a batch of n images, and its weight against the mean over processes.

        A batch smaller than the world leaves some without images: they take its first one with
        weight 0.
        """
        parts = [len(p) for p in torch.arange(n).tensor_split(self.size)]
        begin, mine = sum(parts[: self.rank]), parts[self.rank]
        return (slice(begin, begin + mine), mine * self.size / n) if mine else (slice(0, 1), 0.0)

    @torch.no_grad()
    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace floating tensors by their mean over the processes, in one exchange."""
        self._reduce([tensor for tensor in tensors if tensor.is_floating_point()], self.size)

    @torch.no_grad()
    def total(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors of one type by their sum over the processes, in one exchange."""
        self._reduce(list(tensors), 1)

    def _reduce(self, tensors: list[Tensor], divisor: int) -> None:
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, value in zip(
            tensors, flat.div_(divisor).split([t.numel() for t in tensors]), strict=True
        ):
            tensor.copy_(value.view_as(tensor))


def own_device(device: str) -> str:
    """Under torchrun each process of a machine takes a GPU of its own,
    where "auto" or "cuda" leaves the choice.
    """
    count = torch.cuda.device_count()
    several = World.launched().size > 1 and device in ("auto", "cuda") and count
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % count}" if several else device


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """The world that torchrun describes, joined for the time of the block;
    without torchrun a world of one.
    """
    if World.launched().size == 1:
        yield World()
        return
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        if ours:
            dist.destroy_process_group()


@contextmanager
def explained(world: World, what: str) -> Iterator[None]:
    """Turn torch's complaint about a lost partner into a `TrainingStopped` that says what to do."""
    try:
        yield
    except RuntimeError as error:  # of which torch's errors of communication are a kind
        if world.size == 1 or not _is_loss_of_partner(error):
            raise
        raise TrainingStopped(
            f"{what}: process {world.rank} of {world.size} lost touch with another one, which has "
            "died or was stopped. The last whole epoch is kept; the same command goes on from it."
        ) from error


def _is_loss_of_partner(error: Exception) -> bool:
    words = (
        "connection closed",
        "connection reset",
        "broken pipe",
        "gloo",
        "nccl",
        "peer",
        "timed out",
    )
    return isinstance(error, dist.DistBackendError) or any(
        word in str(error).lower() for word in words
    )
