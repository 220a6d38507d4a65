import copy
import warnings

import pytest
import torch
from torch import nn

from arlib import engine, models
from arlib.engine import folding
from arlib.errors import InputError


def trained_statistics(model: nn.Module, shape=(3, 8, 8)) -> nn.Module:
    """Batch norms that do something: random scales, shifts and running statistics."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -2, 2)
            nn.init.normal_(module.bias)
    model.train()(torch.rand(16, *shape))
    return model.eval()


def test_folding_is_exact_in_eval_mode():
    model = trained_statistics(models.resnet(8, width=4)).double()
    prepared = engine.prepare(model)
    x = torch.rand(5, 3, 8, 8, dtype=torch.float64)
    assert torch.allclose(prepared(x), model(x), rtol=0, atol=1e-12)
    assert len(prepared.pairs) == 7
    assert not any(isinstance(m, nn.BatchNorm2d) for m in prepared.module.modules())


def test_input_gradients_are_those_of_the_network():
    model = trained_statistics(models.resnet(8, width=4)).double()
    x = torch.rand(5, 3, 8, 8, dtype=torch.float64, requires_grad=True)

    def gradient(f):
        return torch.autograd.grad(f(x).square().sum(), x)[0]

    assert torch.allclose(gradient(engine.prepare(model)), gradient(model), rtol=1e-10, atol=1e-12)


def test_refresh_follows_the_weights():
    model = trained_statistics(models.resnet(8, width=4))
    prepared, x = engine.prepare(model), torch.rand(5, 3, 8, 8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.train()(x), model.eval()
    assert not torch.allclose(prepared(x), model(x), atol=1e-3)
    assert torch.allclose(prepared.refresh()(x), model(x), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("foreign", ["resnet18", "mobilenet_v3_small"])
def test_foreign_networks_fold_too(foreign):
    import torchvision

    model = trained_statistics(
        getattr(torchvision.models, foreign)(weights=None), (3, 64, 64)
    ).double()
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    prepared = engine.prepare(model)
    assert len(prepared.pairs) >= 20
    assert torch.allclose(prepared(x), model(x), rtol=1e-9, atol=1e-9)


class Shared(nn.Module):
    """One convolution read by a batch norm and by a skip, one used twice: nothing here may fold."""

    def __init__(self):
        super().__init__()
        self.skip, self.twice = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(2) for _ in range(3))

    def forward(self, x):
        h = self.skip(x)
        h = self.bn1(h) + h
        return self.bn3(self.twice(self.bn2(self.twice(h))))


def test_convolutions_with_other_readers_are_not_folded():
    model = trained_statistics(Shared(), (2, 8, 8)).double()
    assert engine.batchnorm_of(model) == {}
    x = torch.rand(3, 2, 8, 8, dtype=torch.float64)
    assert torch.allclose(engine.prepare(model)(x), model(x), atol=1e-12)
    with pytest.warns(UserWarning, match="no batch norm of this network could be folded"):
        engine.prepare(model, mode="folded")


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

    def forward(self, x):
        return self.bn(self.conv(x)) if x.sum() > 0 else self.conv(x)


def test_a_network_that_cannot_be_traced_runs_as_it_is():
    model = Branching().eval()
    x = torch.rand(2, 1, 5, 5)
    assert engine.batchnorm_of(model) == {}
    assert torch.allclose(engine.prepare(model)(x), model(x), atol=1e-6)


def test_frozen_leaves_every_module_and_parameter_as_it_was():
    model = models.resnet(8, width=4)
    model.blocks[0].bn1.eval()
    model.stem.requires_grad_(False)
    modes = [m.training for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyError), engine.frozen(model) as f:
        f(torch.rand(4, 3, 8, 8))
        raise KeyError
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_frozen_keeps_a_model_with_hooks_so_that_they_fire():
    model, seen = trained_statistics(models.resnet(8, width=4)), []
    model.blocks[0].register_forward_hook(lambda *_: seen.append(1))
    with engine.frozen(model) as f:
        f(torch.rand(1, 3, 8, 8))
    assert seen == [1]


def test_a_prepared_network_is_used_as_it_is_and_stays_in_eval_mode():
    prepared = engine.prepare(models.resnet(8, width=4))
    with engine.frozen(prepared) as f:
        assert f is prepared
    assert engine.prepare(prepared) is prepared
    with pytest.raises(RuntimeError, match="stays in eval mode"):
        prepared.train()


def test_where_torch_cannot_compile_is_said_beforehand(monkeypatch, caplog):
    monkeypatch.setattr(torch, "__file__", "/home/a b/torch/__init__.py")
    cpu = torch.device("cpu")
    assert engine.settle(cpu, "compiled") == engine.Machine(cpu, "folded")
    assert (
        "torch.compile cannot link to torch in a folder with a space (/home/a b/torch); folded"
        in caplog.text
    )
    with pytest.raises(
        InputError, match=r"mode is 'compiled', but torch.compile .*\. Use 'folded'"
    ):
        engine.prepare(models.resnet(8, width=4), mode="compiled")
    monkeypatch.setattr(torch, "__file__", "/home/ab/torch/__init__.py")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(InputError, match="finds no compiler here"):
        engine.settle(cpu, "compiled", strict=True)


@pytest.mark.slow
@pytest.mark.skipif(
    bool(engine.machine.why_not_compiled(torch.device("cpu"))), reason="torch cannot compile here"
)
def test_compiled_equals_plain():
    model = trained_statistics(models.resnet(8, width=4))
    x = torch.rand(4, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own deprecations
        compiled = engine.prepare(model, mode="compiled")
        assert torch.allclose(compiled(x), model(x), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "message"),
    [("gpu", "device is 'gpu'"), ("cuda:99", "GPUs here"), ("meta", "allowed: cpu, cuda, mps")],
)
def test_bad_devices_are_named(name, message):
    with pytest.raises(InputError, match=message):
        engine.device(name)


def test_unknown_mode_is_named():
    with pytest.raises(InputError, match="mode is 'fold'"):
        engine.prepare(models.resnet(8, width=2), mode="fold")


class _Tricky(nn.Module):
    """Sums and ReLUs whose operands are read again, or broadcast:
    nothing here may be overwritten by mistake.
    """

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.bn_a, self.bn_b, self.pool = (
            nn.BatchNorm2d(4),
            nn.BatchNorm2d(4),
            nn.AdaptiveAvgPool2d(1),
        )

    def forward(self, x):
        a, b = self.bn_a(self.a(x)), self.bn_b(self.b(x))
        both = nn.functional.relu(a + b) * a  # a is read twice
        broadcast = self.pool(b) + both
        return (torch.relu(broadcast + 1) + nn.functional.relu(x.sum(1, keepdim=True))).flatten(
            1
        ) + both.flatten(1)


@pytest.mark.parametrize("make", [lambda: models.resnet(8, width=4), _Tricky])
def test_overwriting_changes_no_bit_of_logits_or_gradients(make, monkeypatch):
    torch.manual_seed(0)
    model, x = make().eval(), torch.rand(5, 3, 12, 12)
    result = []
    for leave in (False, True):
        if leave:
            monkeypatch.setattr(folding, "in_place", lambda graph: None)
        z, kept = x.clone().requires_grad_(), x.clone()
        logits = engine.prepare(model, "folded")(z)
        result.append((logits.detach(), *torch.autograd.grad(logits.square().sum(), z)))
        assert torch.equal(z, kept)
    assert all(torch.equal(a, b) for a, b in zip(*result, strict=True))


def test_a_residual_networks_sums_and_relus_are_overwritten():
    targets = [node.target for node in engine.prepare(models.resnet(8, width=4)).module.graph.nodes]
    assert targets.count(torch.relu_) == 7 and targets.count(folding.add_into) == 3


@pytest.mark.parametrize("add", [folding.add_into, folding.add_into_second])
def test_a_sum_is_written_only_over_what_has_its_shape_and_type(add):
    """What is broadcast or widened has no room in either operand; a number or a list has none."""
    wide, thin = torch.rand(2, 3, 4), torch.rand(2, 3, 1)
    whole, half = torch.rand(2, 3), torch.rand(2, 3).bfloat16()
    tensors = ((wide, thin), (thin, wide), (whole, half), (half, whole))
    for a, b in (*tensors, (whole, 2.0), (2.0, whole), ([1], [2])):
        before = copy.deepcopy((a, b))
        expected = before[0] + before[1]
        result = add(a, b)
        assert type(result) is type(expected)
        if isinstance(expected, torch.Tensor):
            assert result.dtype == expected.dtype and torch.equal(result, expected)
        for now, then in zip((a, b), before, strict=True):
            assert torch.equal(now, then) if isinstance(now, torch.Tensor) else now == then


def test_a_sum_that_fits_is_written_over_one_operand():
    a, b = torch.rand(2, 3), torch.rand(2, 3)
    expected = a + b
    first, second = a.clone(), b.clone()
    assert folding.add_into_second(first, second) is second and torch.equal(second, expected)
    assert folding.add_into(a, b) is a and torch.equal(a, expected)


def test_there_is_one_cpu():
    assert engine.device("cpu").type == engine.device("cpu:0").type == "cpu"
    for name in ("cpu:7", "cpu:1"):
        with pytest.raises(InputError, match=f"device is '{name}', but there is only one cpu"):
            engine.device(name)
    with pytest.raises(InputError, match="allowed: auto, cpu") as refused:
        engine.device("cpu" * 2000)
    assert len(str(refused.value)) < 200
