"""What a recipe can name, without reading or building it:
data sets, one `Source` each, and our networks.

To add a data set that torchvision has, add its row here; for one of another shape of files, also a
reader in `data`.
"""

from dataclasses import dataclass

from arlib.errors import one_of


@dataclass(frozen=True)
class Source:
    """One data set. Images have values in [0, 1]; counts are of images, by part."""

    name: str
    classes: int
    shape: tuple[int, int, int]
    """Channels, height, width."""
    mean: tuple[float, ...]
    """Of the training images (of the digits: of all), per channel;
    with `std` our networks' first layer.
    """
    std: tuple[float, ...]
    train: int
    """Training images that the validation part leaves."""
    val: int
    """Validation images, equally many of each class of CIFAR."""
    test: int
    augmentation: str
    """What it is trained with unless a recipe says otherwise."""
    torchvision: str = ""
    """torchvision's class that reads it; empty for what scikit-learn carries."""


SOURCES = {
    source.name: source
    for source in (
        Source(
            "digits",
            classes=10,
            shape=(1, 8, 8),
            mean=(0.3053,),
            std=(0.3760,),
            train=1149,
            val=288,
            test=360,
            augmentation="none",
        ),
        Source(
            "cifar10",
            classes=10,
            shape=(3, 32, 32),
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            train=45_000,
            val=5_000,
            test=10_000,
            augmentation="crop-flip",
            torchvision="CIFAR10",
        ),
        Source(
            "cifar100",
            classes=100,
            shape=(3, 32, 32),
            mean=(0.5071, 0.4865, 0.4409),
            std=(0.2673, 0.2564, 0.2762),
            train=45_000,
            val=5_000,
            test=10_000,
            augmentation="crop-flip",
            torchvision="CIFAR100",
        ),
    )
}
NAMES = tuple(SOURCES)
DEPTHS = (8, 20, 32, 44, 56, 110)
NETWORKS = tuple(f"resnet{depth}" for depth in DEPTHS)


def source(name: str) -> Source:
    """The data set of that name; `InputError` for an unknown one."""
    one_of("dataset", name, NAMES)
    return SOURCES[name]
