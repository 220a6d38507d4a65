"""`arlib compare`: any models side by side, from the command line."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from arlib.cli.loudness import bars
from arlib.cli.options import Device, seconds
from arlib.cli.output import print_json
from arlib.errors import InputError
from arlib.sources import NAMES

IMAGES = 1000


def run_compare(
    model: Annotated[
        list[str],
        typer.Argument(
            help=(
                "Models, each NAME=WHERE or WHERE: FILE.py:OBJECT (a module, or a function that "
                "makes one), torchvision:NAME or timm:NAME, these two with @WEIGHTS.safetensors "
                "if wanted."
            ),
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help=(
                "digits, cifar10, cifar100 (test images), or an .npz file with arrays x (in [0, "
                "1]) and y."
            ),
        ),
    ],
    images: Annotated[int, typer.Option(help="The first so many images.")] = IMAGES,
    strength: Annotated[
        list[float] | None,
        typer.Option(help="Strengths (255·eps) of the strong attack; may be given several times."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where to write it: .html (one page), .csv or .json.", resolve_path=True),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="A .json file for finished parts; the same command goes on.", resolve_path=True
        ),
    ] = None,
    time_budget: Annotated[
        str | None, typer.Option(help="Leave out what would not fit any more, e.g. 9m.")
    ] = None,
    device: Device = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON instead of the table.")
    ] = False,
) -> None:
    """Measure what the book measures (claims C1 to C7) on any models, alike and on the same images.

    A FILE.py is run as Python: give only files that you trust.
    """
    named = dict(_named(one, index) for index, one in enumerate(model))
    if len(named) < len(model):
        raise InputError(f"two models have one name ({', '.join(named)}); write NAME=WHERE.")
    _check_data(data)
    for text in named.values():
        _check_place(text)
    budget = seconds(time_budget)
    from arlib import compare, engine  # torch takes seconds, which a mistake need not wait for

    engine.keep_memory()
    where = engine.device(device)
    x, y = _images(data, images, where)
    nets = {name: _model(text, where) for name, text in named.items()}
    eps = [s / 255 for s in strength or (2, 4, 8)]
    comparison = compare(nets, x, y, eps=eps, time_budget=budget, resume=resume, progress=bars())
    if out is not None:
        comparison.save(out)
    if as_json:
        print_json(comparison.to_dict())
        return
    print(comparison.table.to_string())
    for text in (*comparison.doubts, *comparison.left_out):
        print(f"- {text}")
    print(f"written to {out}" if out is not None else "--out report.html writes one page of it.")


def _named(text: str, index: int) -> tuple[str, str]:
    name, equals, rest = text.partition("=")
    return (
        (name, rest)
        if equals
        else (Path(text.partition(":")[0]).stem + f":{text.partition(':')[2]}", text)
    )


def _check_data(name: str) -> None:
    if name not in NAMES and not (name.endswith(".npz") and Path(name).is_file()):
        raise InputError(
            f"data is {name!r}; allowed: {', '.join(NAMES)}, or an .npz file with arrays x and y."
        )


def _check_place(text: str) -> None:
    """Whether a model can be there, as far as that is known before anything is loaded."""
    place, _, rest = text.rpartition(":")
    if place == "timm" and importlib.util.find_spec("timm") is None:
        raise InputError(f"{text} needs timm: pip install timm.")
    if place in ("torchvision", "timm"):
        weights = rest.partition("@")[2]
        if weights and not Path(weights).is_file():
            raise InputError(f"weights of {text} are in {weights!r}; there is no such file.")
    elif not place.endswith(".py"):
        raise InputError(f"model is {text!r}; write FILE.py:OBJECT, torchvision:NAME or timm:NAME.")
    elif not Path(place).is_file():
        raise InputError(f"model is in {place!r}; there is no such file.")


def _images(name: str, count: int, where):
    import numpy as np
    import torch

    from arlib import data, files

    if name in NAMES:
        split = data.load(name, device=str(where)).test[:count]
        return split.x, split.y
    path = Path(name)
    arrays = files.read_arrays(path)
    if not {"x", "y"} <= set(arrays):
        raise InputError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; needed: x (images in [0, 1]) and y "
            "(labels)."
        )
    x = torch.from_numpy(np.ascontiguousarray(arrays["x"][:count])).to(where)
    return x, torch.from_numpy(np.ascontiguousarray(arrays["y"][:count])).to(where)


def _model(text: str, where):
    from torch import nn

    place, _, rest = text.rpartition(":")
    name, _, weights = rest.partition("@")
    if place == "torchvision":
        import torchvision

        made = _made(lambda: torchvision.models.get_model(name, weights=None), text)
    elif place == "timm":
        import timm

        made = _made(lambda: timm.create_model(name, pretrained=False), text)
    else:
        made = _from_file(Path(place), name)
        made = made if isinstance(made, nn.Module) else _made(made, text)
    if not isinstance(made, nn.Module):
        raise InputError(f"{text} is a {type(made).__name__}, not a torch module.")
    if weights:
        from arlib import files

        made.load_state_dict(files.read_tensors(Path(weights)))
    return made.to(where).eval()


def _from_file(path: Path, name: str):
    described = importlib.util.spec_from_file_location(f"arlib_compared_{path.stem}", path)
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    if not hasattr(module, name):
        raise InputError(f"{path} defines no {name!r}.")
    return getattr(module, name)


def _made(make, text: str):
    try:
        return make()
    except Exception as error:  # whatever making a foreign model raises
        raise InputError(f"{text} could not be made: {type(error).__name__}: {error}") from error
