"""Which precision is fastest on this machine: measured, since no list of processors knows.

bfloat16 was 2 × as fast as float32 on one processor and 0.7 × on another that also has instructions
for it.
"""

import copy
import logging
import time
from functools import partial

import torch

from arlib import data, engine
from arlib.training.loop import generator, initial_model
from arlib.training.recipe import Recipe
from arlib.training.step import Step

log = logging.getLogger(__name__)
# What may be chosen: what gave results equivalent to float32's in the comparisons
# of the page Benchmarks.
CANDIDATES = ("float32", "bfloat16-attack")
SECONDS = 3.0  # that each is timed for, at least three steps
WORTH = 1.05  # a precision other than float32 has to be so many times as fast


def fastest_precision(recipe: Recipe, dataset: data.Dataset, machine: engine.Machine) -> str:
    """The precision in which a step of this recipe is fastest here,
    of those that give equivalent results.

    Each is timed for a few seconds on batches of the training images; the network trained is thrown
    away.
    """
    times = {}
    for precision in CANDIDATES:
        candidate = engine.settle(machine.device, machine.mode, precision)
        if candidate.precision == precision:
            times[precision] = _seconds_per_step(recipe, dataset, candidate)
    best = min(times, key=times.get)
    if times["float32"] < WORTH * times[best]:
        best = "float32"
    speeds = ", ".join(
        f"{name} {recipe.batch_size / seconds:.0f} images/s" for name, seconds in times.items()
    )
    log.info("precision auto: %s; %s is used", speeds, best)
    return best


def _seconds_per_step(recipe: Recipe, dataset: data.Dataset, machine: engine.Machine) -> float:
    model = initial_model(recipe).to(machine.device, memory_format=machine.layout).train()
    # an untrained network labels as fast as a trained one
    helper = copy.deepcopy(model).eval() if recipe.helper else None
    step = Step(recipe, model, machine, helper=helper)
    starts = generator(recipe.seed, 0, 0, machine.device)
    x, y = dataset.train[: recipe.batch_size]
    once = partial(step, x, y, starts, 0.0, recipe.eps_warmup)
    once()  # compiles and captures
    times, begun = [], time.monotonic()
    while len(times) < 3 or time.monotonic() - begun < SECONDS:
        start = time.monotonic()
        once()
        if machine.device.type == "cuda":
            torch.cuda.synchronize(machine.device)
        times.append(time.monotonic() - start)
    return min(times)  # whatever else ran meanwhile only adds
