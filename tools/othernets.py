"""Networks that other people trained, rebuilt as torch modules from a folder of arrays;
nothing of them is in arlib.

The folder (argument `--nets`, else the environment variable `ARLIB_NETS`) holds for each network
`NAME.npz`, an array per parameter, and for some `NAME.graph.json`, the list of their operations;
the MNIST test set in its own format lies in `mnist/` (or where `ARLIB_MNIST` says). Where each file
comes from stands in `FAMILIES`; none of them is committed.
"""

import gzip
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import arlib
from arlib import data, files
from arlib.errors import InputError, one_of


@dataclass(frozen=True)
class Source:
    """Where the files of a family were published."""

    address: str
    commit: str
    licence: str


@dataclass(frozen=True)
class Family:
    """Networks of one architecture by the same people:
    one to compare with, and one or more that are more robust.
    """

    title: str
    source: Source
    dataset: str
    base: str
    base_training: str
    robust: tuple[str, ...]
    training: str
    """How the robust ones were trained; both as far as their source says."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.base, *self.robust)


_SALMAN = Source("github.com/Hadisalman/robust-verify-benchmark", "fce1c27", "MIT")
_ADA = Source("github.com/ADA-research/NNV_JAIR_robustness_distributions", "3703a84", "Apache-2.0")
_SDP = Source("github.com/Verified-Intelligence/alpha-beta-CROWN", "8250d5f", "BSD-3-Clause")
_STATED = "PGD, its radius in the name"
_CIFAR_SCALE = {
    "mean": (125.3 / 255, 123.0 / 255, 113.9 / 255),
    "std": (63.0 / 255, 62.1 / 255, 66.7 / 255),
}

FAMILIES = {
    "mlp_b": Family(
        "fully connected, 2 hidden layers",
        _SALMAN,
        "mnist",
        "salman_NOR_MLP_B",
        "natural",
        ("salman_ADV_MLP_B_0.03", "salman_ADV_MLP_B_0.05", "salman_ADV_MLP_B_0.1"),
        _STATED,
    ),
    **{
        f"cnn_{size}": Family(
            f"2 convolutions, {size}",
            _SALMAN,
            "mnist",
            f"salman_mnist_cnn_{size}_NOR",
            "natural",
            (f"salman_mnist_cnn_{size}_ADV",),
            "PGD, radius not stated",
        )
        for size in ("small", "wide_1", "wide_2")
    },
    "convsmall": Family(
        "2 convolutions, no padding",
        _ADA,
        "mnist",
        "mnist_convsmall_Point",
        "natural",
        ("mnist_convsmall_PGDK",),
        "PGD, radius not stated",
    ),
    "resnet4b": Family(
        "residual, 9 convolutions, no batch norm",
        _ADA,
        "cifar10",
        "ada_resnet4b_standard",
        "natural",
        ("ada_resnet4b_fgsm", "ada_resnet4b_pgd"),
        "as its name says; pgd: 7 steps at 8/255",
    ),
    "cnn_a_adv": Family(
        "2 convolutions",
        _SDP,
        "cifar10",
        "sdp_cnn_a_adv",
        "adversarial",
        ("sdp_cnn_a_adv4",),
        "adversarial, stronger",
        **_CIFAR_SCALE,
    ),
    "cnn_a_mix": Family(
        "2 convolutions",
        _SDP,
        "cifar10",
        "sdp_cnn_a_mix",
        "natural and adversarial",
        ("sdp_cnn_a_mix4",),
        "natural and adversarial, stronger",
        **_CIFAR_SCALE,
    ),
}
DATASETS = ("mnist", "cifar10")
SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
# A convolution whose stride and padding no graph file tells: read off the kernel's size.
_CONVOLUTIONS = {4: {"stride": 2, "padding": 1}, 3: {"stride": 1, "padding": 1}}


def folder(given: str | Path | None = None) -> Path:
    """The folder of the networks: the argument, else `ARLIB_NETS`;
    `InputError` where there is none.
    """
    where = given or os.environ.get("ARLIB_NETS")
    if not where:
        raise InputError(
            "ARLIB_NETS is not set; set it to (or give) the folder with the networks of other "
            "people."
        )
    path = Path(where).expanduser()
    if not path.is_dir():
        raise InputError(f"the folder of networks is {str(where)!r}; there is no such folder.")
    return path


def load(name: str, nets: Path) -> nn.Module:
    """One network in eval mode, from images in [0, 1] to logits;
    its normalisation, if any, is its first layer.

    Raises `InputError` for an unknown name, `RecordError` for a file that is missing or damaged.
    """
    families = [family for family in FAMILIES.values() if name in family.names]
    if not families:
        one_of("network", name, [one for family in FAMILIES.values() for one in family.names])
    arrays = files.read_arrays(nets / f"{name}.npz")
    described = nets / f"{name}.graph.json"
    model = Graph(files.read_json(described), arrays) if described.is_file() else chain(arrays)
    if families[0].mean:
        model = arlib.with_normalization(model, families[0].mean, families[0].std)
    return model.eval().requires_grad_(False)


def chain(arrays: dict[str, np.ndarray]) -> nn.Sequential:
    """Layers one after the other: each array's name begins with its layer's place,
    and the gaps say the rest.

    The gap before the first linear layer is a flattening, every other one a ReLU.
    """
    weights = {
        int(name.partition(".")[0]): a for name, a in arrays.items() if name.endswith(".weight")
    }
    first_linear = min(place for place, weight in weights.items() if weight.ndim == 2)
    layers = OrderedDict()
    for place in range(max(weights) + 1):
        if place in weights:
            layers[str(place)] = _layer(weights[place].shape)
        else:
            layers[str(place)] = nn.Flatten() if place == first_linear - 1 else nn.ReLU()
    model = nn.Sequential(layers)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return model


def _layer(shape: tuple[int, ...], **how) -> nn.Module:
    """The module of a weight: (out, in) or (out, in, height, width)."""
    if len(shape) == 2:
        return nn.Linear(shape[1], shape[0])
    return nn.Conv2d(shape[1], shape[0], shape[2:], **(how or _CONVOLUTIONS[shape[2]]))


class Graph(nn.Module):
    """A network as its list of operations says, in order; the few kinds that these networks have.

    said: {"input", "output", "ops": [{"op", "attr", "inp", "out"}]}, names of tensors; a name that
    begins with @ is an array, with # a constant. Raises `InputError` for an operation of another
    kind.
    """

    def __init__(self, about: dict, arrays: dict[str, np.ndarray]):
        super().__init__()
        self.layers = nn.ModuleDict()
        self.input, self.output, self.steps = about["input"], about["output"], []
        for operation in about["ops"]:
            self.steps.append(self._step(operation, arrays))

    def _step(self, operation: dict, arrays: dict) -> tuple[str, tuple[str, ...], str]:
        """(name of a module or "Add", names of what it reads, name of what it gives)."""
        kind, attributes, read = operation["op"], operation["attr"], operation["inp"]
        tensors = tuple(name for name in read if name[0] not in "@#")
        if kind == "Add":
            return kind, tensors, operation["out"]
        if kind in ("Conv", "Gemm"):
            name = read[1].removeprefix("@").removesuffix(".weight")
            module = _with_weights(
                kind, attributes, *(arrays[one.removeprefix("@")] for one in read[1:])
            )
        else:
            name, module = (
                f"{kind.lower()}{len(self.layers)}",
                _without_weights(kind, attributes, read),
            )
        self.layers[name] = module
        return name, tensors, operation["out"]

    def forward(self, x: Tensor) -> Tensor:
        seen = {self.input: x}
        for name, read, gives in self.steps:
            values = [seen[one] for one in read]
            seen[gives] = values[0] + values[1] if name == "Add" else self.layers[name](*values)
        return seen[self.output]


def _with_weights(kind: str, attributes: dict, weight: np.ndarray, bias: np.ndarray) -> nn.Module:
    how = {}
    if kind == "Conv":
        top, left, bottom, right = attributes["pads"]
        if (top, left) != (bottom, right):
            raise InputError(
                f"a convolution is padded by {attributes['pads']}; known: alike on both sides."
            )
        how = {
            "stride": tuple(attributes["strides"]),
            "padding": (top, left),
            "groups": attributes["group"],
        }
    elif attributes != {"transB": 1}:
        raise InputError(f"a Gemm has the attributes {attributes}; known: transB = 1.")
    module = _layer(weight.shape, **how)
    module.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    return module


class Permute(nn.Module):
    """The axes of a tensor in another order."""

    def __init__(self, order: list[int]):
        super().__init__()
        self.order = tuple(order)

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)


def _without_weights(kind: str, attributes: dict, read: list[str]) -> nn.Module:
    if kind == "Relu":
        return nn.ReLU()
    if kind == "Transpose":
        return Permute(attributes["perm"])
    if kind == "Flatten" or (kind == "Reshape" and read[1].startswith("#[-1, ")):
        return nn.Flatten()
    raise InputError(
        f"the graph has {kind} of {read}; known: Conv, Gemm, Add, Relu, Transpose, Flatten, "
        "Reshape."
    )


def images(dataset: str, nets: Path, part: str = "test") -> tuple[Tensor, Tensor]:
    """Images (n, c, h, w) in [0, 1] and labels (n,) of "test" or (CIFAR-10 only) "train"."""
    one_of("dataset", dataset, DATASETS)
    if dataset == "mnist":
        if part != "test":
            raise InputError(f"part is {part!r}; of MNIST only the test images are there.")
        return mnist(Path(os.environ.get("ARLIB_MNIST") or nets / "mnist"))
    split = getattr(data.load(dataset, device="cpu"), part)
    return split.x, split.y


def mnist(where: Path) -> tuple[Tensor, Tensor]:
    """The MNIST test set from its two files: (10000, 1, 28, 28) in [0, 1] and (10000,)."""
    pixels = _idx(where / "t10k-images-idx3-ubyte.gz").reshape(-1, 1, 28, 28)
    labels = _idx(where / "t10k-labels-idx1-ubyte.gz")
    return torch.from_numpy(pixels).float() / 255, torch.from_numpy(labels).long()


def _idx(path: Path) -> np.ndarray:
    """The array of an idx file of bytes:
    the fourth byte is the number of axes, then their lengths.
    """
    if not path.is_file():
        raise InputError(
            f"{path} is missing; set ARLIB_MNIST to the folder with the MNIST test set."
        )
    content = gzip.decompress(path.read_bytes())
    axes = content[3]
    shape = np.frombuffer(content, ">i4", axes, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape).copy()
