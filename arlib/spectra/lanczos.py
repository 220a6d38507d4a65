"""Golub–Kahan bidiagonalisation of many vectors at once, and the quadrature it carries.

Started at v, k steps give orthonormal U, V and an upper bidiagonal B with A V = U B (Golub & Kahan
1965). The singular values θ of B and the squared first entries w of its right singular vectors are
the Gauss rule for vᵀ f((AᵀA)^½) v (Golub & Meurant 1994, "Matrices, moments and quadrature");
working on A instead of AᵀA keeps small θ accurate. B with one more column is singular, and its rule
is Gauss–Radau with a node at 0. For f = σ, Gauss is an upper bound and Gauss–Radau a lower one.
"""

import torch

from arlib.spectra.operator import LinearMap

# relative size at which a new direction is rounding only
TINY = {torch.float32: 1e-6, torch.float64: 1e-13}


class Bidiagonalization:
    """State of the process for p starting vectors (p, columns), with full reorthogonalisation.

    `extend(steps)` continues it. A vector whose Krylov space is exhausted keeps its rule: further
    entries of B are zero and carry no weight. room: vectors that will be needed, where that is
    known: then no buffer grows.
    """

    def __init__(self, operator: LinearMap, start: torch.Tensor, room: int = 1):
        self.operator, self.room = operator, room
        self.right = _Basis(
            start / start.norm(dim=1, keepdim=True), room
        )  # of vectors (p, columns)
        self.left: _Basis | None = None  # of vectors (p, rows)
        # of each step a number per vector. No tensors: small ones that stay between large ones that
        # go leave holes into which glibc fits no large one, and memory grows with every step
        self.alpha: list[list[float]] = []
        self.beta: list[list[float]] = []

    @property
    def steps(self) -> int:
        return len(self.alpha)

    def extend(self, steps: int) -> "Bidiagonalization":
        for _ in range(steps):
            self._step()
        return self

    def forget(self) -> "Bidiagonalization":
        """Free the vectors; the bidiagonal matrix stays."""
        self.left = self.right = None
        return self

    def _step(self) -> None:
        u = self.operator.apply(self.right.last)
        if self.left is None:
            u, alpha = self._normalised(u)
            self.left = _Basis(u, self.room)
        else:
            u, alpha = self._normalised(self.left.project_out(u))
            self.left.append(u)
        v = self.right.project_out(self.operator.adjoint(u))
        v, beta = self._normalised(v)
        self.right.append(v)
        self.alpha.append(alpha.tolist())
        self.beta.append(beta.tolist())

    def _normalised(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x / ‖x‖ and ‖x‖; both 0 where x is but rounding noise."""
        length = x.norm(dim=1)
        scale = max((max(a) for a in self.alpha), default=0.0)
        kept = length > TINY[x.dtype] * scale
        return torch.where(
            kept[:, None], x / torch.where(kept, length, 1)[:, None], 0
        ), torch.where(kept, length, 0)

    def bidiagonal(self) -> torch.Tensor:
        """(p, k, k+1) in float64; without the last column it is Gauss's B."""
        alpha, beta = (torch.tensor(x, dtype=torch.float64).T for x in (self.alpha, self.beta))
        k = self.steps
        matrix = alpha.new_zeros(len(alpha), k, k + 1)
        index = torch.arange(k)
        matrix[:, index, index], matrix[:, index, index + 1] = alpha, beta
        return matrix


class _Basis:
    """Orthonormal vectors, k for each of p problems, in one growing buffer (p, capacity, n)."""

    def __init__(self, first: torch.Tensor, room: int):
        self.buffer = first.new_empty(len(first), room, first.shape[1])
        self.buffer[:, 0] = first
        self.size = 1

    @property
    def last(self) -> torch.Tensor:
        return self.buffer[:, self.size - 1]

    def append(self, x: torch.Tensor) -> None:
        if self.size == self.buffer.shape[1]:
            # room for 16 more at a time: how many steps it takes is not known before
            self.buffer = torch.nn.functional.pad(self.buffer, (0, 0, 0, 16))
        self.buffer[:, self.size] = x
        self.size += 1

    def project_out(self, x: torch.Tensor) -> torch.Tensor:
        """x made orthogonal to the basis, twice: "twice is enough" (Parlett 1998, section 6.9)."""
        basis = self.buffer[:, : self.size]
        for _ in range(2):
            if x.is_cuda:
                x = x - ((basis @ x[:, :, None]).transpose(1, 2) @ basis)[:, 0]
            else:  # batched matrix-vector products are slower than a loop over few probes
                x = torch.stack([one - (q @ one) @ q for one, q in zip(x, basis, strict=True)])
        return x


def gauss(bidiagonal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes θ and weights w, both (p, k), of the Gauss rule."""
    _, theta, vh = torch.linalg.svd(bidiagonal[:, :, :-1])
    return theta, vh[:, :, 0].square()


def radau(bidiagonal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes and weights, both (p, k+1), of the Gauss–Radau rule with its last node at 0."""
    _, theta, vh = torch.linalg.svd(bidiagonal, full_matrices=True)
    return torch.nn.functional.pad(theta, (0, 1)), vh[:, :, 0].square()
