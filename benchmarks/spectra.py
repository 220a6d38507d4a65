"""Time and accuracy of `arlib.spectra` against what others do: python -m benchmarks.spectra [--quick]

All convolutions of ResNet-56 at 32 px, and (not with --quick) of torchvision's ResNet-18 at 224 px,
as circular operators with their own strides; a CPU, and a GPU if there is one. In the same run:

    fft + numpy     the published method (Sedghi, Gupta & Long 2019): FFT of the kernel, all n² complex SVDs
                    by numpy. It knows no stride: a strided layer is timed as one of stride 1
    torch batched   the same through torch.fft and torch.linalg.svdvals
    half, svd       this library's blocks, SVD throughout
    ours            this library as it is, float64 and float32
    power, gram     σ_max only: 50 steps of the power method; 6 squarings of the Gram blocks (Delattre et al. 2023)

`error` is max |σ̂ − σ| / σ_max over the layers against float64 SVD; `cpu` is processor seconds of the
whole process, the number to compare on a machine that others use too. Best of `--repeats` runs.
The second table: zero padding as built, by Lanczos, with its error bars.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import torchvision

from arlib import models, spectra
from arlib.spectra import layers
from arlib.spectra.geometry import geometry
from arlib.spectra.squares import largest_bound
from arlib.spectra.symbol import Symbol

Layers = list[tuple[torch.Tensor, tuple[int, ...], tuple[int, ...]]]


def convolutions(model: torch.nn.Module, size: int, device: str) -> Layers:
    """(weight, map, stride) of each convolution."""
    found = layers.find(model, (3, size, size))
    return [(x.weight.detach().to(device), x.built.size, x.built.stride) for x in found if x.built]


def fft_numpy(weight, size, stride):
    kernel = weight.double().cpu().numpy()
    kernel = np.pad(kernel, [(0, 0)] * 2 + [(0, max(0, n - k)) for n, k in zip(size, kernel.shape[2:], strict=True)])
    return np.linalg.svd(np.fft.fft2(kernel, axes=(2, 3)).transpose(2, 3, 0, 1), compute_uv=False)


def torch_batched(weight, size, stride):
    return torch.linalg.svdvals(torch.fft.fft2(weight.double(), size).permute(2, 3, 0, 1))


def half_svd(weight, size, stride):
    symbol = Symbol(weight.double(), geometry(weight, size, stride))
    return torch.cat(symbol.map(torch.linalg.svdvals))


def ours(weight, size, stride):
    return spectra.singular_values(weight, size, stride)


def ours_float32(weight, size, stride):
    return spectra.singular_values(weight, size, stride, dtype=torch.float32)


def power(weight, size, stride, steps=50):
    """σ_max from below, by products with the circular convolution and its adjoint."""
    low = [(k - 1) // 2 for k in weight.shape[2:]]
    pad = [v for k, p in zip(reversed(weight.shape[2:]), reversed(low), strict=True) for v in (p, k - 1 - p)]
    x = torch.randn(1, weight.shape[1], *size, device=weight.device, requires_grad=True)
    for _ in range(steps):
        y = F.conv2d(F.pad(x, pad, mode="circular"), weight, stride=stride)
        (x,) = torch.autograd.grad(y, x, y.detach())
        scale = x.norm()
        x = (x / scale).requires_grad_()
    return scale.sqrt()


def gram(weight, size, stride, squarings=6):
    """σ_max from above: ‖B‖₂ ≤ ‖(B*B)^(2^t)‖_F^(1/2^(t+1)), rescaled at each squaring."""

    def bound(blocks):
        product = blocks @ blocks.mH if blocks.shape[-2] <= blocks.shape[-1] else blocks.mH @ blocks
        logs = torch.zeros(product.shape[:-2], dtype=torch.float64, device=blocks.device)
        for _ in range(squarings):
            norm = torch.linalg.matrix_norm(product).clamp_min(1e-300)
            product, logs = product / norm[..., None, None], 2 * (logs + norm.log())
            product = product @ product
        return ((logs + torch.linalg.matrix_norm(product).log()) / 2 ** (squarings + 1)).exp()

    return torch.cat(Symbol(weight.double(), geometry(weight, size, stride)).map(bound)).max()


ALL = {"fft + numpy": fft_numpy, "torch batched": torch_batched, "half, svd": half_svd, "ours": ours,
       "ours, float32": ours_float32, "power, σ_max": power, "gram, σ_max": gram}  # fmt: skip


def best(function: Callable[[], object], repeats: int, device: str) -> tuple[float, float]:
    """Wall and processor seconds of the best of some runs, after one to warm up on a GPU."""
    times = []
    for _ in range(repeats + (device != "cpu")):
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(times)


def error(method: Callable, convs: Layers) -> float:
    """Largest relative error over the layers, where the method gives all values of the same operator."""
    worst = 0.0
    for weight, size, stride in convs:
        exact = Symbol(weight.double(), geometry(weight, size, stride))
        times = exact.multiplicity.to(weight.device)
        reference = torch.cat(exact.map(torch.linalg.svdvals)).repeat_interleave(times, dim=0).flatten()
        reference = reference.sort(descending=True).values
        values = method(weight, size, stride)
        if values.numel() == 1:
            worst = max(worst, abs(float(values) / float(reference[0]) - 1))
        else:
            values = values.double()[: len(reference)]
            worst = max(worst, float((values - reference).abs().max() / reference[0]))
    return worst


def circular(name: str, convs: Layers, device: str, repeats: int) -> pd.DataFrame:
    rows = []
    for label, method in ALL.items():
        if device != "cpu" and "numpy" in label:
            continue
        wall, cpu = best(lambda method=method: [method(*conv) for conv in convs], repeats, device)
        checked = label.startswith(("ours", "power", "gram"))
        rows.append({"network": name, "device": device, "method": label, "wall s": wall, "cpu s": cpu,
                     "error": error(method, convs) if checked else np.nan})  # fmt: skip
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def zero_padded(device: str) -> pd.DataFrame:
    """Lanczos with 8 probes to ±1 % of std on growing maps and channels, and the certified bound's part."""
    rows = []
    for channels, n in ((16, 32), (32, 16), (64, 8), (64, 16), (64, 32), (128, 16)):
        weight = torch.randn(channels, channels, 3, 3, generator=torch.Generator().manual_seed(0))
        weight = (weight / (3 * channels**0.5)).to(device)
        kept = []
        wall, cpu = best(lambda: kept.append(spectra.estimate(weight, n, tolerance=0.01)), 2, device)  # noqa: B023
        bound, _ = best(lambda: largest_bound(weight.double(), geometry(weight, n, padding="zeros")), 1, device)  # noqa: B023
        std, low, high = kept[-1].values["std"]
        rows.append({"channels": channels, "map": n, "wall s": wall, "cpu s": cpu, "of it σ_max bound": bound,
                     "std": std, "half-width": (high - low) / 2 / std, "steps": kept[-1].steps})  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="ResNet-56 at 32 px only")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    machine = platform.processor() or platform.machine()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} of {os.cpu_count()} cores, {machine}")
    print(f"load {os.getloadavg()[0]:.1f}: above the number of cores, compare cpu and not wall")
    torch.manual_seed(0)
    networks = [("resnet56, 32 px", models.resnet(56), 32)]
    if not options.quick:
        networks.append(("torchvision resnet18, 224 px", torchvision.models.resnet18(), 224))
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    tables = [circular(n, convolutions(m, s, d), d, options.repeats) for d in devices for n, m, s in networks]
    print(pd.concat(tables).to_string(index=False, float_format="{:.3g}".format))
    for device in devices:
        print(f"\nzero padding, Lanczos, {device}")
        print(zero_padded(device).to_string(index=False, float_format="{:.3g}".format))


if __name__ == "__main__":
    main()
