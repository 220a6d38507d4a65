"""A set of images whose covering is known, so that the bound can be computed and be checked.

Its images have two pixels. They are uniform in the unit square (k = 2) or on its diagonal (k = 1),
and the distance is the maximum norm. Squares of side v cover them, (1/v)^k of them where 1/v is
whole; as balls of radius v/2 these are (C/(v/2))^k with C = ½. The true label is 1 above the line
x₁ + x₂ = 1, and some labels are flipped.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from arlib.bounds.theory import check_radius
from arlib.errors import InputError, one_of

C = 0.5
DIMENSIONS = (1, 2)  # what k may be
MOST = 1000  # squares in a row


@dataclass(frozen=True)
class Learnt:
    """What a learner made of a training set.

    answer: images (n, 2) -> classes (n,). margins: (m,) of the training images; no point nearer
    than that gets another answer than the image's label. 0 where the answer is wrong.
    """

    answer: Callable[[Tensor], Tensor]
    margins: Tensor


def draw(
    samples: int, *, k: int = 2, noise: float = 0.1, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Images (samples, 2) in float64 and their labels (samples,), each flipped with probability
    `noise`.

    Raises `InputError` for fewer than two samples, for k other than 1 or 2, and for a noise outside
    0 to 1.
    """
    _check(k, noise)
    if samples < 2:
        raise InputError(f"samples is {samples}; at least 2 are needed.", field="samples")
    x = torch.rand(samples, k, generator=generator, dtype=torch.float64).expand(-1, 2)
    flipped = torch.rand(samples, generator=generator, dtype=torch.float64) < noise
    return x.contiguous(), truth(x) ^ flipped.long()


def truth(x: Tensor) -> Tensor:
    """The true label of images (n, 2): 1 above the line x₁ + x₂ = 1."""
    return (x.sum(1) > 1).long()


def sides(v: float) -> int:
    """How many squares of side v or less stand in a row: 1/v, rounded up."""
    check_radius(v)
    count = math.ceil(round(1 / v, 9))
    if count > MOST:
        raise InputError(
            f"v is {v:g}; its covering would have {count:,} squares in a row, at most {MOST:,} are "
            "allowed.",
            field="v",
        )
    return count


def cells(x: Tensor, y: Tensor, v: float) -> Tensor:
    """(n,) index of the square and label that an image belongs to: two of one cell are less than v
    apart and have the same label.
    """
    n = sides(v)
    place = (x * n).long().clamp(max=n - 1)
    return (place[:, 0] * n + place[:, 1]) * 2 + y


def shares(v: float, *, k: int = 2, noise: float = 0.1) -> Tensor:
    """(2 · sides²,) exact probability of each cell, in the order of `cells`."""
    _check(k, noise)
    n = sides(v)
    row, column = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    # the line x₁ + x₂ = 1 halves the squares that it meets: it runs along their diagonals
    above = ((row + column - (n - 1)).sign() + 1).double() / 2
    square = torch.full((n, n), 1 / n**2, dtype=torch.float64)
    if k == 1:
        square = torch.eye(n, dtype=torch.float64) / n
    ones = above * (1 - noise) + (1 - above) * noise
    return torch.stack([square * (1 - ones), square * ones], dim=-1).flatten()


def kept(x: Tensor, y: Tensor, margins: Tensor, v: float) -> Tensor:
    """(2 · sides²,) bool: the cells with a training image that is right with margin v or more.

    No image of such a cell is answered wrongly: it is less than v from the training image, and has
    its label.
    """
    robust_cells = torch.zeros(2 * sides(v) ** 2, dtype=torch.bool)
    robust_cells[cells(x, y, v)[margins >= v]] = True
    return robust_cells


def line(x: Tensor, y: Tensor) -> Learnt:
    """The line of least squares. Its margins are exact, |w·x + b| / ‖w‖₁."""
    rows = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    # a small ridge: on the diagonal both pixels are equal, and the line is not unique
    squares = rows.T @ rows + 1e-9 * torch.eye(3, dtype=x.dtype)
    w = torch.linalg.solve(squares, rows.T @ (2 * y - 1).double())

    def height(points: Tensor) -> Tensor:
        return points @ w[:2] + w[2]

    signed = height(x) * (2 * y - 1) / w[:2].abs().sum()
    return Learnt(lambda points: (height(points) > 0).long(), signed.clamp_min(0))


def nearest(x: Tensor, y: Tensor) -> Learnt:
    """The label of the nearest training image: right on all of them, however noisy they are.

    An image's margin is half of its distance to the nearest one of the other label.
    """
    distances = torch.cdist(x, x, p=math.inf)
    other = distances.masked_fill(y[:, None] == y[None], math.inf).amin(1)

    def answer(points: Tensor) -> Tensor:
        return y[torch.cdist(points, x, p=math.inf).argmin(1)]

    return Learnt(answer, (other / 2).clamp_max(1))


def _check(k: int, noise: float) -> None:
    one_of("k", k, DIMENSIONS)
    if not 0 <= noise <= 1:
        raise InputError(f"noise is {noise}; a probability from 0 to 1 is needed.", field="noise")
