"""Time, accuracy and memory of `arlib.spectra` against what others do:
python -m benchmarks.spectra [--tiny]

All convolutions of ResNet-56 at 32 px and of torchvision's ResNet-18 at 224 px, as circular
operators with their own strides; a CPU, and a GPU if there is one. In the same run, in turns:

    fft + numpy       the published method (Sedghi, Gupta & Long 2019): FFT of the kernel, all n²
                      complex SVDs by numpy. It knows no stride: a strided layer is timed as one of
                      stride 1
    fft + torch       the same through torch.fft and torch.linalg.svdvals
    half, svd         this library's blocks, SVD throughout: what `error` is taken against
    half, gram        the same blocks, eigenvalues of their Gram matrices throughout
    ours              this library as it is, float64 and float32 ours, table       `spectra.of`: the
    same with statistics and quantiles, layers found in the model
    ours, on the CPU  GPU only: the weights go to the CPU, their values come back
    power, gram power σ_max only: 50 steps of the power method; 6 squarings of the Gram blocks
    (Delattre et al. 2023)

`error` is max |σ̂ − σ| / σ_max over the layers, `error of squares` max |σ̂² − σ²| / σ_max²; `cpu s`
is processor seconds of the whole process. Then zero padding as built, by Lanczos, with its error
bars; and how time and memory grow with channels and map. Writes
`records/benchmarks/spectra-DEVICE.json`; --tiny takes seconds and writes nothing.
"""

import argparse
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import torchvision

from arlib import models, spectra
from arlib.spectra import layers
from arlib.spectra.blocks import gram, gram_values
from arlib.spectra.geometry import geometry
from arlib.spectra.squares import largest_bound
from arlib.spectra.symbol import Symbol
from arlib.spectra.together import each_cyclic
from benchmarks import memory, report

Layer = tuple[torch.Tensor, tuple[int, ...], tuple[int, ...]]
"""Weight, map, stride."""
Method = Callable[[list[Layer], torch.nn.Module, int], object]


def convolutions(model: torch.nn.Module, size: int, device: str) -> list[Layer]:
    convs = layers.find(model, (3, size, size))
    return [(x.weight.detach().to(device), x.built.size, x.built.stride) for x in convs if x.built]


def fft_numpy(weight, size, stride):
    kernel = weight.double().cpu().numpy()
    kernel = np.pad(
        kernel,
        [(0, 0)] * 2 + [(0, max(0, n - k)) for n, k in zip(size, kernel.shape[2:], strict=True)],
    )
    return np.linalg.svd(np.fft.fft2(kernel, axes=(2, 3)).transpose(2, 3, 0, 1), compute_uv=False)


def fft_torch(weight, size, stride):
    return torch.linalg.svdvals(torch.fft.fft2(weight.double(), size).permute(2, 3, 0, 1))


def half(weight, size, stride, values=torch.linalg.svdvals):
    symbol = Symbol(weight.double(), geometry(weight, size, stride))
    times = symbol.multiplicity.to(weight.device)
    return symbol.map(values).repeat_interleave(times, dim=0).flatten().sort(descending=True).values


def half_gram(weight, size, stride):
    return half(weight, size, stride, lambda blocks: gram_values(gram(blocks)))


def power(weight, size, stride, steps=50):
    """σ_max from below, by products with the circular convolution and its adjoint."""
    low = [(k - 1) // 2 for k in weight.shape[2:]]
    pad = [
        v
        for k, p in zip(reversed(weight.shape[2:]), reversed(low), strict=True)
        for v in (p, k - 1 - p)
    ]
    x = torch.randn(1, weight.shape[1], *size, device=weight.device, requires_grad=True)
    for _ in range(steps):
        y = F.conv2d(F.pad(x, pad, mode="circular"), weight, stride=stride)
        (x,) = torch.autograd.grad(y, x, y.detach())
        scale = x.norm()
        x = (x / scale).requires_grad_()
    return scale.sqrt()[None]


def gram_power(weight, size, stride, squarings=6):
    """σ_max from above: ‖B‖₂ ≤ ‖(B*B)^(2^t)‖_F^(1/2^(t+1)), rescaled at each squaring."""

    def bound(blocks):
        product = gram(blocks)
        logs = torch.zeros(product.shape[:-2], dtype=torch.float64, device=blocks.device)
        for _ in range(squarings):
            norm = torch.linalg.matrix_norm(product).clamp_min(1e-300)
            product, logs = product / norm[..., None, None], 2 * (logs + norm.log())
            product = product @ product
        return ((logs + torch.linalg.matrix_norm(product).log()) / 2 ** (squarings + 1)).exp()

    return Symbol(weight.double(), geometry(weight, size, stride)).map(bound).max()[None]


def each(method: Callable) -> Method:
    return lambda convs, model, size: [method(*conv) for conv in convs]


def ours(convs, model, size, dtype=torch.float64):
    return each_cyclic(
        [(weight.to(dtype), geometry(weight, n, stride)) for weight, n, stride in convs]
    )


def ours_float32(convs, model, size):
    return ours(convs, model, size, torch.float32)


def ours_on_cpu(convs, model, size):
    spectra_of = ours([(weight.cpu(), n, stride) for weight, n, stride in convs], model, size)
    return [
        values.to(weight.device) for values, (weight, _, _) in zip(spectra_of, convs, strict=True)
    ]


def table(convs, model, size):
    spectra.of(model, (3, size, size))


REFERENCE, PUBLISHED = "half, svd", "fft + numpy"
FULL: dict[str, Method] = {
    PUBLISHED: each(fft_numpy),
    "fft + torch": each(fft_torch),
    REFERENCE: each(half),
    "half, gram": each(half_gram),
    "ours": ours,
    "ours, float32": ours_float32,
    "ours, table": table,
    "power, σ_max": each(power),
    "gram power, σ_max": each(gram_power),
}
ON_CPU = "ours, on the CPU"
ON_GPU: dict[str, Method] = {ON_CPU: ours_on_cpu}
# half a minute each would be too long for the others
LARGE = (PUBLISHED, REFERENCE, "ours", ON_CPU)


def runs(label: str, device: str) -> bool:
    """Whether a method has its place in a device's table."""
    return label not in ON_GPU if device == "cpu" else label != PUBLISHED


def circular(
    name: str, model: torch.nn.Module, size: int, device: str, methods, rounds: int
) -> pd.DataFrame:
    """Time and error of some methods, which take turns."""
    model = model.to(device)
    convs, results = convolutions(model, size, device), {}

    def run(label: str) -> None:
        results[label] = (FULL | ON_GPU)[label](convs, model, size)

    calls = {label: lambda label=label: run(label) for label in methods}
    times = report.interleaved(calls, rounds, device, warm_up=int(rounds > 1 or device != "cpu"))
    rows = []
    for label, taken in times.items():
        errors = (
            _errors(results[label], results[REFERENCE])
            if "fft" not in label and results[label]
            else {}
        )
        rows.append(
            {
                "network": name,
                "layers": len(convs),
                "method": label,
                **taken.row(),
                "rounds": rounds,
                **errors,
            }
        )
    return pd.DataFrame(rows)


def _errors(values: list[torch.Tensor], reference: list[torch.Tensor]) -> dict[str, float]:
    """Over all layers; of σ_max alone where that is all there is."""
    worst = {"error": 0.0, "error of squares": 0.0}
    for one, exact in zip(values, reference, strict=True):
        # unread phases' zeros are not in blocks
        one, exact = one.detach().double()[: len(exact)], exact[: len(one)]
        for (key, most), power_of in zip(worst.items(), (1, 2), strict=True):
            worst[key] = max(
                most, float((one**power_of - exact**power_of).abs().max() / exact[0] ** power_of)
            )
    return worst


def kernel(channels: int, device: str) -> torch.Tensor:
    weight = torch.randn(channels, channels, 3, 3, generator=torch.Generator().manual_seed(0))
    return (weight / (3 * channels**0.5)).to(device)


def zero_padded(shapes: list[tuple[int, int]], device: str, rounds: int) -> pd.DataFrame:
    """Lanczos to ±1 % of std, and the certified bound's part of the time."""
    rows = []
    for channels, n in shapes:
        weight, kept = kernel(channels, device), {}

        def estimate():
            return kept.update(it=spectra.estimate(weight, n, tolerance=0.01))  # noqa: B023

        def bound():
            return largest_bound(weight.double(), geometry(weight, n, padding="zeros"))  # noqa: B023

        times = report.interleaved({"estimate": estimate, "bound": bound}, rounds, device)
        std, low, high = kept["it"].values["std"]
        rows.append(
            {
                "channels": channels,
                "map": n,
                **times["estimate"].row(),
                "of it σ_max bound": times["bound"].median,
                "std": std,
                "half-width": (high - low) / 2 / std,
                "steps": kept["it"].steps,
                "probes": kept["it"].probes,
            }
        )
    return pd.DataFrame(rows)


GROWING: dict[str, Callable] = {
    PUBLISHED: lambda weight, n: fft_numpy(weight, (n, n), 1),
    "ours, circular": lambda weight, n: spectra.singular_values(weight, n),
    "ours, zero-padded": lambda weight, n: spectra.estimate(weight, n, tolerance=0.01),
}


def growth(shapes: list[tuple[int, int]], device: str, most: float = 5.0) -> pd.DataFrame:
    """Seconds and memory of one square 3×3 layer, one call each;
    what would take more than `most` s is left out.
    """
    rows = []
    for label, method in GROWING.items():
        if device != "cpu" and label == PUBLISHED:
            continue
        method(kernel(shapes[0][0], device), shapes[0][1])  # what only a first call pays
        rate = 0.0  # seconds an operation, at most, of those large enough to tell
        for channels, n in sorted(shapes, key=lambda shape: shape[0] ** 3 * shape[1] ** 2):
            operations = channels**3 * n**2
            if rate * operations <= most:
                times, taken = _once(method, kernel(channels, device), n, device)
                # other work on the machine counts in one of them at most
                seconds = min(times.median, times.cpu)
                rate = seconds / operations if seconds > most / 4 else 0.0
                rows.append(
                    {"channels": channels, "map": n, "method": label, **times.row(), "MiB": taken}
                )
    return pd.DataFrame(rows)


def _once(
    method: Callable, weight: torch.Tensor, n: int, device: str
) -> tuple[report.Times, float]:
    times = []

    def timed():
        return times.append(report.timed(lambda: method(weight, n), 1, device, warm_up=0))

    taken = memory.peak(timed, device)
    return times[0], taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--tiny", action="store_true", help="small networks, to see that it works; writes nothing"
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        tables = measure(device, options.tiny, options.rounds)
        for title, frame in tables.items():
            print(
                f"\n{title}, "
                f"{device}\n{frame.to_string(index=False, float_format='{:.3g}'.format)}",
                flush=True,
            )
        if not options.tiny:
            print(
                report.write(
                    "spectra",
                    device,
                    tables,
                    rounds=options.rounds,
                    kernel="3×3 Gaussian, fan-in scaled",
                )
            )


def measure(device: str, tiny: bool, rounds: int) -> dict[str, pd.DataFrame]:
    """All tables of one device."""
    if tiny:
        networks = [("resnet8, 8 px", models.resnet(8, width=4), 8, (*FULL, *ON_GPU), 2)]
        shapes, grown = [(4, 8)], [(4, 8), (8, 8), (8, 16)]
    else:
        networks = [
            ("ResNet-56, 32 px", models.resnet(56), 32, (*FULL, *ON_GPU), rounds),
            ("ResNet-18, 224 px", torchvision.models.resnet18(), 224, LARGE, 1),
        ]
        shapes = [(16, 32), (32, 16), (64, 8), (64, 16), (64, 32), (128, 16)]
        grown = [(c, 32) for c in (8, 16, 32, 64, 128, 256)] + [(64, n) for n in (8, 16, 64, 128)]
    parts = []
    for name, model, size, methods, times in networks:
        methods = [label for label in methods if runs(label, device)]
        print(f"{name}, {device}: {len(methods)} methods, {times} rounds", flush=True)
        parts.append(circular(name, model, size, device, methods, times))
    print("zero padding, growth", flush=True)
    tables = {"circular": pd.concat(parts, ignore_index=True)}
    return tables | {
        "zero padding": zero_padded(shapes, device, 2 if tiny else 3),
        "growth": growth(grown, device),
    }


if __name__ == "__main__":
    report.command(main)
