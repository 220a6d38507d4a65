"""What a CUDA graph does to memory and to Python, imitated on the CPU:
a replay writes where its recording wrote.

Whether graphs are captured at all only a GPU can tell (the tests marked `gpu`); that nothing here
reads what a later replay has overwritten, or relies on Python that a replay does not run, is seen
with these imitations.
"""

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from arlib import attacks, data, engine, models, training
from arlib.engine import graphs
from arlib.training.step import Step


class _Stream:
    def wait_stream(self, other):
        pass


@pytest.fixture
def recorder(monkeypatch):
    """`torch.cuda` as far as `Captured` uses it.
    A replay computes into the recorded outputs and moves no `.grad`.
    """
    monkeypatch.setattr(graphs, "has_graphs", lambda tensor: True)
    monkeypatch.setattr(torch.cuda, "Stream", _Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", _Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replays=0))
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: nullcontext())
    capture = engine.Captured._capture

    def captured(self, tensors):
        capture(self, tensors)
        self.graph.replay = lambda: _replay(self)

    monkeypatch.setattr(engine.Captured, "_capture", captured)


def _replay(captured: engine.Captured) -> None:
    weights = [weight for module in captured.state for weight in module.parameters()]
    before = [weight.grad for weight in weights]
    for old, value in zip(
        _flat(captured.outputs), _flat(captured.function(*captured.inputs)), strict=True
    ):
        old.copy_(value)
    for weight, gradient in zip(weights, before, strict=True):
        weight.grad = gradient
    captured.graph.replays += 1


def _flat(result) -> list[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        return [result]
    return [tensor for part in result for tensor in (part if isinstance(part, list) else [part])]


@pytest.mark.parametrize("eps", [0.0, 32 / 255])
def test_batches_of_other_sizes_between_replays_leave_the_training_as_it_is(eps, recorder):
    digits = data.load("digits", device="cpu")
    recipe = training.Recipe(dataset="digits", model="resnet8", width=4, eps=eps, steps=2)

    def trained(mode: str) -> tuple[torch.Tensor, Step]:
        model = training.initial_model(recipe).train()
        step = Step(recipe, model, engine.Machine(torch.device("cpu"), mode))
        generator = torch.Generator().manual_seed(5)
        for begin, end in ((0, 32), (32, 64), (64, 75), (75, 107), (107, 139)):
            step(*digits.train[begin:end], generator, 0.05, 0.0)
        return torch.cat([value.flatten().float() for value in model.state_dict().values()]), step

    (expected, _), (result, step) = trained("folded"), trained("graphed")
    assert step.differentiate.graph.replays == 4  # of five batches, one has another size
    assert (result - expected).norm() < 1e-5 * expected.norm()


def test_warming_up_leaves_no_trace_in_the_buffers(recorder):
    norm, plain = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    captured = engine.Captured(lambda x: norm(x).detach(), state=(norm,))
    for x in torch.rand(3, 5, 3):
        assert torch.allclose(captured(x), plain(x).detach())
        assert torch.allclose(norm.running_mean, plain.running_mean)
        assert norm.num_batches_tracked == plain.num_batches_tracked


def test_a_function_that_cannot_be_captured_runs_eagerly_and_says_so(recorder, caplog):
    def function(x):
        if calls.append(x) or len(calls) == graphs.WARM_UP + 1:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return 2 * x

    calls, captured = [], engine.Captured(function)
    assert torch.equal(captured(torch.ones(2)), torch.full((2,), 2.0)) and captured.refused
    assert torch.equal(captured(torch.ones(2)), torch.full((2,), 2.0))
    assert [r.getMessage() for r in caplog.records] == [
        "a CUDA graph could not be captured (operation not permitted when stream is capturing); "
        "it runs eagerly"
    ]


def test_memory_that_does_not_suffice_for_a_capture_is_the_callers_to_handle(recorder):
    enough = []

    def function(x):
        if not enough:
            raise torch.OutOfMemoryError("out of memory")
        return 2 * x

    captured = engine.Captured(function)
    with pytest.raises(torch.OutOfMemoryError):
        captured(torch.ones(2))
    enough.append(True)
    assert torch.equal(captured(torch.ones(3)), torch.full((3,), 2.0)) and not captured.refused


def graphed_callables(function, samples, num_warmup_iters):
    """As `torch.cuda.make_graphed_callables`:
    one shape, and one memory for all logits and all gradients.
    """
    assert not isinstance(function, nn.Module), "torch replaces a module's own forward"
    static = {
        "x": samples[0].detach().clone(),
        "out": None,
        "gradient": samples[0].detach().clone(),
    }

    class Graphed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            static["x"].copy_(x)
            with torch.enable_grad():
                static["leaf"] = static["x"].clone().requires_grad_()
                static["live"] = function(static["leaf"])
            static["out"] = (
                static["live"].detach().clone() if static["out"] is None else static["out"]
            )
            return static["out"].copy_(static["live"].detach()).detach()

        @staticmethod
        def backward(ctx, gradient):
            result = torch.autograd.grad(
                static["live"], static["leaf"], gradient, retain_graph=True
            )[0]
            return static["gradient"].copy_(result).detach()

    return Graphed.apply


@pytest.fixture
def graphed(monkeypatch):
    monkeypatch.setattr(graphs, "has_graphs", lambda tensor: True)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed_callables)
    torch.manual_seed(0)
    model = models.resnet(8, width=4, in_channels=1)
    model.train()(torch.rand(64, 1, 8, 8))
    return model.eval()


def gradient_at(network, x):
    x = x.clone().requires_grad_()
    logits = network(x)
    return logits.detach(), torch.autograd.grad(logits[:, 0].sum(), x)[0]


def test_each_shape_has_its_graph_and_the_next_ones_run_eagerly(graphed):
    network, plain = engine.prepare(graphed, "graphed"), engine.prepare(graphed, "folded")
    for n in (3, 5, 3, 4, 6, 7, 8, 5):
        x = torch.rand(n, 1, 8, 8)
        for result, expected in zip(gradient_at(network, x), gradient_at(plain, x), strict=True):
            assert torch.allclose(result, expected, rtol=1e-4, atol=1e-6)


def test_what_a_graph_gave_stays_when_it_is_replayed(graphed):
    network = engine.prepare(graphed, "graphed")
    first = gradient_at(network, torch.rand(3, 1, 8, 8))
    kept = copy.deepcopy(first)
    gradient_at(network, torch.rand(3, 1, 8, 8))
    assert all(map(torch.equal, first, kept))


@pytest.mark.parametrize("attack", [attacks.pgd, attacks.apgd, attacks.minimum_norm])
def test_attacks_on_a_graphed_network_are_those_on_the_eager_one(attack, graphed):
    x, y = torch.rand(12, 1, 8, 8), torch.arange(12) % 10
    options = {"steps": 6} if attack is attacks.minimum_norm else {"steps": 6, "eps": 0.1}
    result, expected = (
        attack(engine.prepare(graphed, mode), x, y, **options) for mode in ("graphed", "folded")
    )
    assert torch.allclose(result, expected, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["graphed", "compiled+graphed"])
def test_on_a_gpu_attacks_on_a_graphed_network_are_those_on_the_eager_one(mode):
    torch.manual_seed(0)
    model = models.resnet(8, width=8, in_channels=1).cuda()
    model.train()(torch.rand(64, 1, 8, 8, device="cuda"))
    fast, plain = engine.prepare(model.eval(), mode), engine.prepare(model, "folded")
    for n in (12, 7, 12, 5, 3, 2):  # the last ones have no graph any more
        x, y = torch.rand(n, 1, 8, 8, device="cuda"), torch.arange(n, device="cuda") % 10
        for result, expected in zip(gradient_at(fast, x), gradient_at(plain, x), strict=True):
            assert torch.allclose(result, expected, rtol=1e-2, atol=1e-4)
        result, expected = (
            attacks.apgd(network, x, y, eps=0.1, steps=12) for network in (fast, plain)
        )
        assert (result - expected).abs().mean() < 1e-3
