"""What people call first, as a user's typed code calls it.

`mypy --strict` reads this (tests/test_typed.py); nobody runs it.
"""

from pathlib import Path
from typing import assert_type

import torch
from torch import Tensor, nn

import arlib
from arlib import (
    attacks,
    claims,
    compare,
    confidence,
    data,
    engine,
    margins,
    models,
    smoothness,
    spectra,
    studies,
    training,
    with_normalization,
)
from arlib.errors import InputError

digits = data.load("digits", device="cpu")
x, y = digits.test[:16]
assert_type(x, Tensor)
assert_type(y, Tensor)
assert_type(digits.classes, tuple[str, ...])

net = models.resnet(20, classes=10, width=16)
model = with_normalization(net, (0.5,), (0.25,))
assert_type(model, nn.Module)
assert_type(arlib.__version__, str)

generator = torch.Generator().manual_seed(0)
assert_type(attacks.fgsm(model, x, y, eps=8 / 255), Tensor)
assert_type(attacks.pgd(model, x, y, eps=8 / 255, norm="l2", generator=generator), Tensor)
assert_type(attacks.apgd(model, x, y, eps=torch.full((16,), 8 / 255)), Tensor)
assert_type(attacks.square(model, x, y, eps=8 / 255), Tensor)
assert_type(attacks.minimum_norm(model, x, y), Tensor)

result = attacks.evaluate(model, x, y, eps=[2 / 255, 8 / 255], attacks=("apgd-ce", "apgd-t"))
assert_type(result, attacks.Evaluation)
assert_type(result.eps, tuple[float, ...])
assert_type(result.warnings, list[str])

assert_type(spectra.singular_values(torch.zeros(4, 3, 3, 3), 32), Tensor)
rows = spectra.of(model, input_shape=(1, 8, 8), operator="as-built")
print(rows.columns)

assert_type(margins.output(model(x), y), Tensor)
distances = margins.instance(model, x, y)
print(distances)
print(smoothness.feature_change(model, x, radius=4 / 255))
print(confidence.entropy(model(x)))
fast = engine.prepare(model)
print(fast(x))

recipe = training.Recipe(dataset="digits", model="resnet8", eps=32 / 255, epochs=15, seed=0)
run = training.train(recipe, folder=Path("run"), device="cpu")
assert_type(run, training.Run)
assert_type(run.model, nn.Module)

study = studies.load("digits")
assert_type(study, studies.Study)
assert_type(study.missing(), list[studies.Entry])
print(claims.verdicts(study))

try:
    compare({"plain": net, "robust": model}, x, y, eps=(8 / 255,)).save("report.html")
except InputError as error:
    print(error.field)
