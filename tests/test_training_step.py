"""One step in its variants: micro-batches, processes, precision, memory;
each against the plain one.
"""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from arlib import data, engine, files, training
from arlib.errors import InputError, TrainingStopped
from arlib.training import awp, objectives
from arlib.training.distributed import World
from arlib.training.step import Step

CPU = torch.device("cpu")
BASE = {"dataset": "digits", "model": "resnet8", "width": 4, "steps": 2, "eps": 32 / 255}
RECIPES = {
    "standard": {"eps": 0.0},
    "pgd": {},
    "trades": {"objective": "trades"},
    "mixed": {"objective": "mixed"},
    "n-fgsm": {"attack": "n-fgsm", "steps": 10},
    "awp": {"awp": 5e-3},
}


def gradients(
    name: str, *, world: World | None = None, train: bool = True, n: int = 30, **options
) -> dict:
    """The weights' gradients (float64) after one step on the first n digits,
    with learning rate 0.
    """
    recipe = training.Recipe(**(BASE | RECIPES[name]))
    digits = data.load("digits", device="cpu")
    model = training.initial_model(recipe).double().train(train)
    step = Step(recipe, model, engine.Machine(CPU, options.pop("mode", "folded"), **options), world)
    generator = torch.Generator().manual_seed(5)
    step(digits.train[:n].x.double(), digits.train[:n].y, generator, 0.0, 0.0)
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def close(a: dict, b: dict) -> bool:
    return all(torch.allclose(a[k], b[k], rtol=1e-8, atol=1e-12) for k in a)


@pytest.mark.parametrize("name", RECIPES)
def test_micro_batches_change_no_gradient_where_batch_norm_is_in_eval_mode(name):
    whole = gradients(name, train=False)
    assert max(float(g.abs().max()) for g in whole.values()) > 1e-3
    assert close(gradients(name, train=False, micro_batches=4), whole)


def test_in_train_mode_batch_norm_sees_each_micro_batch_by_itself():
    recipe = training.Recipe(**(BASE | RECIPES["standard"]))
    digits = data.load("digits", device="cpu")
    model = training.initial_model(recipe).double().train()
    x, y = digits.train[:30].x.double(), digits.train[:30].y
    loss = (
        sum(
            torch.nn.functional.cross_entropy(model(x[h]), y[h]) for h in (slice(15), slice(15, 30))
        )
        / 2
    )
    loss.backward()
    by_hand = {name: p.grad for name, p in model.named_parameters()}
    assert close(gradients("standard", micro_batches=2), by_hand)
    assert not close(gradients("standard"), by_hand)


def test_the_plain_and_the_folded_path_take_the_same_step():
    assert close(gradients("pgd", mode="plain"), gradients("pgd"))


WORKER = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, {tests!r})
from test_training_step import RECIPES, gradients
from arlib import files
from arlib.training.distributed import World
from pathlib import Path
dist.init_process_group("gloo")
world = World(dist.get_rank(), dist.get_world_size())
for name in RECIPES:
    for train in (False, True):
        found = gradients(name, world=world, train=train, n=31)
        files.write_tensors(Path({out!r}) / f"{{name}}-{{train}}-{{world.rank}}.safetensors", found)
found = gradients("standard", world=world, train=False, n=1)  # one image for two processes
files.write_tensors(Path({out!r}) / f"one-{{world.rank}}.safetensors", found)
dist.destroy_process_group()
"""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(tests=str(Path(__file__).parent), out=str(tmp_path)))
    subprocess.run([*TORCHRUN, script], check=True, capture_output=True, timeout=240)

    def read(name):
        return files.read_tensors(tmp_path / f"{name}.safetensors")

    for name in RECIPES:
        # in train mode: one whose batch norm sees the same halves
        for train, parts in ((False, 1), (True, 2)):
            alone = gradients(name, train=train, n=31, micro_batches=parts)
            for rank in (0, 1):
                assert close(read(f"{name}-{train}-{rank}"), alone), (name, train)
    assert close(read("one-1"), gradients("standard", train=False, n=1))


class Second(World):
    """The second of two processes, without the first one: nothing is exchanged."""

    def average(self, tensors):
        pass


def test_a_process_without_images_counts_none(monkeypatch):
    monkeypatch.setattr("arlib.training.step.DistributedDataParallel", lambda model, **_: model)
    recipe = training.Recipe(**(BASE | RECIPES["pgd"]))
    step = Step(recipe, training.initial_model(recipe), engine.Machine(CPU, "folded"), Second(1, 2))
    x, y = data.load("digits", device="cpu").train[:2]
    sums = [step(x[:n], y[:n], torch.Generator().manual_seed(5), 0.0, 0.0) for n in (1, 2)]
    assert [float(total) > 0 for total, _ in sums] == [False, True]
    assert sums[0] == (0, 0)


def test_parts_of_a_batch_cover_it_once():
    for n in (1, 2, 7, 8):
        parts = [World(rank, 3).part(n) for rank in range(3)]
        used = [i for mine, weight in parts for i in range(n)[mine] if weight]
        assert used == list(range(n))
        assert sum(weight * len(range(n)[mine]) ** 0 for mine, weight in parts) == pytest.approx(3)


class Scalars(TorchDispatchMode):
    """Counts what would make the host wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.nonzero,
            torch.ops.aten.item,
        ):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_never_waits_for_the_device(name):
    recipe = training.Recipe(**(BASE | RECIPES[name]))
    digits = data.load("digits", device="cpu")
    model = training.initial_model(recipe).train()
    step, (x, y) = Step(recipe, model, engine.Machine(CPU, "folded")), digits.train[:16]
    step.prepared.compare(x)
    with Scalars() as scalars:
        step(x, y, torch.Generator().manual_seed(0), 0.1, 0.0)
    assert not scalars.seen
    with Scalars() as scalars:
        float(x.sum())
    assert scalars.seen


class Small:
    """Memory for so many images: a network's forward pass in train mode fails with more."""

    def __init__(self, model, most):
        self.most = most
        model.register_forward_pre_hook(self)

    def __call__(self, module, inputs):
        if len(inputs[0]) > self.most and module.training:
            raise torch.OutOfMemoryError("out of memory")


def step_in_small_memory(most: int, n: int = 30):
    recipe = training.Recipe(**BASE)
    digits = data.load("digits", device="cpu")
    model = training.initial_model(recipe).double().train()
    step = Step(recipe, model, engine.Machine(CPU, "folded"))
    Small(model, most)
    step(
        digits.train[:n].x.double(), digits.train[:n].y, torch.Generator().manual_seed(5), 0.0, 0.0
    )
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("most", "message"),
    [
        (20, r"30 images at a time .*15 would: use micro_batches=2"),
        (4, "3 would: use micro_batches=10"),
        (0, "not even one does"),
    ],
)
def test_out_of_memory_stops_and_says_what_would_fit(most, message):
    with pytest.raises(TrainingStopped, match=message):
        step_in_small_memory(most)


def test_what_a_device_lacks_falls_back_with_one_line_or_refuses_if_asked_strictly(caplog):
    cpu = torch.device("cpu")
    assert engine.settle(cpu) == engine.Machine(cpu, "folded")
    with caplog.at_level(logging.WARNING):
        assert engine.settle(cpu, "graphed") == engine.Machine(cpu, "folded")
        assert engine.settle(cpu, "compiled+graphed").mode in ("compiled", "folded")
    assert "cpu has no CUDA graphs; folded is used" in caplog.text
    with pytest.raises(
        InputError, match=r"mode is 'graphed', but cpu has no CUDA graphs\. Use 'folded'"
    ):
        engine.settle(cpu, "graphed", strict=True)
    with pytest.raises(InputError, match=r"precision is 'float16'"):
        engine.settle(cpu, precision="float16")
    with pytest.raises(InputError, match=r"mode is 'fast'"):
        engine.settle(cpu, "fast")


def test_bfloat16_is_only_inside_the_network():
    digits = data.load("digits", device="cpu")
    recipe = training.Recipe(**BASE)
    model = training.initial_model(recipe)
    prepared, exact = engine.prepare(model, dtype=torch.bfloat16), engine.prepare(model)
    x = digits.test[:20].x.clone().requires_grad_()
    logits = prepared(x)
    assert (
        prepared.module.stem.weight.dtype == torch.bfloat16
        and model.stem.weight.dtype == torch.float32
    )
    assert logits.dtype == torch.float32
    assert 1e-4 < (logits - exact(x)).abs().max() < 0.05 * logits.abs().max()
    gradient = torch.autograd.grad(logits.sum(), x)[0]
    assert gradient.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "eps"), [("bfloat16", 0.0), ("bfloat16-attack", 32 / 255)])
def test_training_in_bfloat16_learns_and_says_so_and_is_judged_in_float32(precision, eps, tmp_path):
    recipe = training.Recipe(
        dataset="digits",
        model="resnet8",
        width=4,
        epochs=5,
        batch_size=64,
        eps=eps,
        steps=2,
        monitor_images=50,
    )
    run = training.train(recipe, device="cpu", progress=False, precision=precision, folder=tmp_path)
    assert run.history.val_error.iloc[-1] < 0.3
    assert files.read_json(tmp_path / "provenance.json")["precision"] == precision
    assert run.model.stem.weight.dtype == torch.float32
    images = data.load("digits", device="cpu").val
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(run.model(images.x), images.y)
    assert run.history.val_loss.iloc[-1] == pytest.approx(float(loss), rel=1e-5)


def test_an_attack_in_bfloat16_leaves_the_weights_gradient_in_float32():
    digits = data.load("digits", device="cpu")
    recipe = training.Recipe(**BASE)
    dtypes = {}
    for precision in ("float32", "bfloat16-attack"):
        model = training.initial_model(recipe).train()
        step = Step(recipe, model, engine.Machine(CPU, "folded", precision))
        x, y = digits.train[:32]
        start = objectives.draws(x, recipe, recipe.eps, torch.Generator().manual_seed(0))
        crafted = step.craft(x, y, start, recipe.eps)
        step.differentiate(x, x, y, 1.0)
        dtypes[precision] = step.prepared.precision, crafted, [p.grad for p in model.parameters()]
    (exact, images, gradients), (half, rounded, same) = dtypes.values()
    assert (exact, half) == ("float32", "bfloat16")
    assert not torch.equal(images, rounded) and (rounded - x).abs().max() <= recipe.eps + 1e-6
    assert all(map(torch.equal, gradients, same))


def test_a_captured_function_runs_as_it_is_where_there_are_no_graphs():
    calls = []
    captured = engine.Captured(lambda x: calls.append(len(x)) or 2 * x)
    assert torch.equal(captured(torch.ones(3)), 2 * torch.ones(3)) and torch.equal(
        captured(torch.ones(2)), 2 * torch.ones(2)
    )
    assert calls == [3, 2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("mode", ["graphed", "compiled+graphed", "compiled"])
@pytest.mark.parametrize("name", RECIPES)
def test_on_a_gpu_every_mode_takes_the_plain_step(mode, name):
    def weights(mode):
        recipe = training.Recipe(**(BASE | RECIPES[name] | {"width": 8}))
        digits = data.load("digits", device="cuda")
        model = training.initial_model(recipe).cuda().train()
        step = Step(recipe, model, engine.Machine(torch.device("cuda"), mode))
        generator = torch.Generator("cuda").manual_seed(5)
        for begin in (0, 32, 64, 96):  # the last one is smaller: it runs eagerly
            x, y = digits.train[begin : min(begin + 32, 110)]
            step(x, y, generator, 0.01, 0.0)
        return torch.cat([value.flatten().float() for value in model.state_dict().values()])

    plain = weights("plain")
    assert (weights(mode) - plain).norm() < 1e-3 * plain.norm()


def test_a_recipe_without_weight_perturbation_does_not_pay_for_one(monkeypatch):
    monkeypatch.setattr(awp, "ascent", lambda *_: pytest.fail("an extra pass"))
    gradients("pgd")
    with pytest.raises(pytest.fail.Exception, match="an extra pass"):
        gradients("awp")
