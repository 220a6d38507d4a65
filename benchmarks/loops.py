"""The training loops that are compared:
one batch per step, the same network, pictures and radius in each.

    public         adversarial training as most public codes have it: torch autograd to weights and
                   input inside the attack, a DataLoader that crops and flips image by image on the
                   CPU, `.item()` every batch
    torchattacks   the same loop with that library's PGD inside
    art            the same loop with adversarial-robustness-toolbox's PGD inside
    ours …         this project's step, in one of its modes and precisions

All craft in eval mode (batch statistics frozen), so that all compute the same thing. The pictures
are random and fixed: time does not depend on what they show, and no data set has to be there.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.models import resnet18 as imagenet

from arlib import models
from arlib.sources import source

ROOT = Path(__file__).resolve().parents[1]
MEAN, STD = source("cifar10").mean, source("cifar10").std
MOMENTUM, DECAY = 0.9, 5e-4
Craft = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Missing(RuntimeError):
    """A contender cannot run here; the message says why and what to do."""


@dataclass(frozen=True)
class Setting:
    """What every contender of one comparison shares. eps and step_size in [0, 1] pixel units."""

    network: str = "resnet56"
    batch: int = 128
    steps: int = 10
    eps: float = 8 / 255
    device: str = "cpu"
    seed: int = 0
    width: int = 16
    images: int = 1024
    size: int = 32
    lr: float = 0.01

    @property
    def step_size(self) -> float:
        return self.eps / 4


def resnet18(classes: int = 10) -> nn.Module:
    """ResNet-18 for 32-pixel images: torchvision's,
    with a 3×3 stem of stride 1 and no pooling after it.
    """
    net = imagenet(num_classes=classes)
    net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return nn.Sequential(models.Normalize(MEAN, STD), net)


def network(setting: Setting) -> nn.Module:
    """The untrained network of a setting: the same weights for all contenders."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setting.seed)
        if setting.network == "resnet18":
            return resnet18()
        return models.resnet(
            int(setting.network.removeprefix("resnet")), 10, setting.width, mean=MEAN, std=STD
        )


def pictures(setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Random pictures (n, h, w, 3) uint8 and labels (n,) int64."""
    random = np.random.default_rng(setting.seed)
    shape = (max(setting.images, setting.batch), setting.size, setting.size, 3)
    return random.integers(0, 256, shape, dtype=np.uint8), random.integers(0, 10, shape[0])


class Pictures(Dataset):
    """Pictures as torchvision's CIFAR classes hand them out:
    through PIL, transformed one by one.
    """

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, transform: Callable):
        self.pixels, self.labels, self.transform = pixels, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), int(self.labels[index])


def public_batches(setting: Setting) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end from a DataLoader;
    two workers on a GPU, none on a CPU that is busy anyway.
    """
    crop = transforms.RandomCrop(setting.size, padding=4)
    transform = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.ToTensor()])
    gpu = setting.device != "cpu"
    workers = {"num_workers": 2, "persistent_workers": True, "pin_memory": True} if gpu else {}
    loader = DataLoader(
        Pictures(*pictures(setting), transform),
        setting.batch,
        shuffle=True,
        drop_last=True,
        **workers,
    )
    while True:
        yield from loader


def public_pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int,
    step_size: float,
    start: Tensor | None = None,
) -> Tensor:
    """PGD on a perturbation through `loss.backward()`,
    which computes every weight's gradient as well.
    """
    delta = torch.empty_like(x).uniform_(-eps, eps) if start is None else start - x
    delta = torch.max(torch.min(delta, 1 - x), -x).requires_grad_()
    for _ in range(steps):
        F.cross_entropy(model(x + delta), y).backward()
        moved = (delta.detach() + step_size * delta.grad.sign()).clamp(-eps, eps)
        delta.data = torch.max(torch.min(moved, 1 - x), -x)
        delta.grad.zero_()
    return (x + delta).detach()


class Public:
    """The loop of the public codes around any attack; `step()` is one batch."""

    def __init__(self, setting: Setting, craft: Craft | None = None):
        options = {"eps": setting.eps, "steps": setting.steps, "step_size": setting.step_size}
        self.craft = craft or (lambda model, x, y: public_pgd(model, x, y, **options))
        self.device, self.batches = setting.device, public_batches(setting)
        self.model = network(setting).to(setting.device)
        self.optimizer = sgd(self.model, setting.lr)
        self.seen, self.loss, self.right = 0, 0.0, 0

    def step(self) -> int:
        x, y = next(self.batches)
        x, y = x.to(self.device), y.to(self.device)
        self.model.eval()
        crafted = self.craft(self.model, x, y)
        self.model.train()
        logits = self.model(crafted)
        value = F.cross_entropy(logits, y)
        self.optimizer.zero_grad()
        value.backward()
        self.optimizer.step()
        self.seen += len(y)
        self.loss += value.item() * len(y)
        self.right += (logits.max(1)[1] == y).sum().item()
        return len(y)


def sgd(model: nn.Module, lr: float) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=MOMENTUM, weight_decay=DECAY)


def show_peers(folder: str | Path | None = None) -> Path:
    """Let this process see the peers' packages, behind its own. folder: their site-packages.

    Raises `Missing` with the command that installs them.
    """
    peer = (
        [Path(folder)]
        if folder
        else sorted((ROOT / ".venv-peers").glob("lib/python*/site-packages"))
    )
    if not peer or not (peer[0] / "torchattacks").is_dir():
        raise Missing(
            f"the peers are not in {folder or ROOT / '.venv-peers'}; install them by `python "
            "tests/environments.py peers`, or leave them out by --no-peers"
        )
    if str(peer[0]) not in sys.path:
        sys.path.append(str(peer[0]))
    return peer[0]


def torchattacks_craft(setting: Setting) -> Craft:
    """torchattacks' PGD on the network it is called with."""
    import torchattacks

    options = {"eps": setting.eps, "alpha": setting.step_size, "steps": setting.steps}
    made = {}

    def craft(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if "attack" not in made:
            made["attack"] = torchattacks.PGD(model, **options, random_start=True)
        return made["attack"](x, y)

    return craft


def art_craft(setting: Setting) -> Craft:
    """adversarial-robustness-toolbox's PGD for torch, which takes and gives numpy arrays."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    made = {}

    def attack(model: nn.Module) -> ProjectedGradientDescentPyTorch:
        kind = "gpu" if setting.device != "cpu" else "cpu"
        shape = {
            "input_shape": (3, setting.size, setting.size),
            "nb_classes": 10,
            "clip_values": (0.0, 1.0),
        }
        classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), **shape, device_type=kind)
        options = {
            "norm": np.inf,
            "eps": setting.eps,
            "eps_step": setting.step_size,
            "max_iter": setting.steps,
        }
        return ProjectedGradientDescentPyTorch(
            classifier, **options, num_random_init=1, batch_size=setting.batch, verbose=False
        )

    def craft(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if "attack" not in made:
            made["attack"] = attack(model)
        return torch.from_numpy(made["attack"].generate(x=x.cpu().numpy(), y=y.cpu().numpy())).to(x)

    return craft


PEERS = {"torchattacks": torchattacks_craft, "art": art_craft}
