"""How large a training a recipe asks for; what would never end is refused before it begins."""

from arlib import sources
from arlib.errors import InputError, shown

EPOCHS, STEPS, PARAMETERS = 100_000, 10_000, 10**9  # the most of each
SPEED = 10_000  # passes of an image through a small network in a second, on one good GPU


def refuse_absurd(recipe) -> None:
    """`InputError` for a number of epochs or steps that would never end
    or a width that fits into no memory, with what it would take.
    """
    images = min(recipe.train_images or 10**9, sources.source(recipe.dataset).train)
    passes = images * recipe.epochs * (1 + recipe.steps)
    for name, most in (("epochs", EPOCHS), ("steps", STEPS)):
        if (value := getattr(recipe, name)) > most:
            raise InputError(
                f"{name} is {shown(value)}, with which {_about(passes)} images pass through the "
                f"network, some {_about(passes // SPEED // 31_536_000)} years on one GPU; "
                f"allowed: up to {most}.",
                field=name,
            )
    depth = int(recipe.model.removeprefix("resnet"))
    # two convolutions of 3 × 3 a block, three stages of (depth − 2) / 6 blocks, each twice as wide
    parameters = 63 * (depth - 2) * recipe.width**2
    if parameters > PARAMETERS:
        most = int((PARAMETERS / 63 / (depth - 2)) ** 0.5)
        raise InputError(
            f"width is {shown(recipe.width)}, with which a {recipe.model} has {_about(parameters)} "
            f"parameters, {_about(4 * parameters // 10**9)} GB; allowed: up to {most}.",
            field="width",
        )


def _about(number: int) -> str:
    """The size of a whole number, be it of thousands of digits."""
    if number < 10_000:
        return str(number)
    return f"1e{int(number.bit_length() * 0.30103)}"
