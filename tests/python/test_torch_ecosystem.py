"""What a PyTorch user expects of ordinary modules: compile, checkpointing, autocast, deepcopy,
state_dict, optimisers, data loaders, parametrisation, several devices' worth of tools."""

from __future__ import annotations

import copy
import io
import pickle

import gold
import pytest
import torch
import torch.nn.functional as F
import workloads
from h2learn import SpikeTensor, nn
from h2learn.surrogate import ATan, Triangle
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint, checkpoint_sequential


def network(neurons=lambda: nn.LIF(0.5, 1.0, surrogate=ATan())) -> torch.nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), neurons(), nn.AvgPool2d(2),
        nn.Conv2d(6, 5, 3, bias=False), nn.BatchNorm(5), neurons(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(20, 10), neurons(), nn.Linear(10, 4), nn.Readout(),
    )  # fmt: skip


def events() -> SpikeTensor:
    return workloads.spikes(5, 3, 2, 12, 12, rate=0.3)


LABELS = torch.tensor([0, 3, 1])


def step(model, inputs, *, run=None) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Loss and gradients of one training step."""
    model.zero_grad()
    loss = F.cross_entropy((run or model)(inputs), LABELS)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters()]


def calibrated(**options) -> tuple[torch.nn.Sequential, SpikeTensor]:
    model, inputs = network(**options), events()
    nn.calibrate(model, inputs, 0.15)
    return model, inputs


def assert_same(result, reference) -> None:
    assert torch.equal(result[0], reference[0])
    for value, expected in zip(result[1], reference[1], strict=True):
        assert torch.equal(value, expected)


# torch.compile.


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("kind", ["packed", "dense"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compile(fresh_compiler, backend, kind):
    model, inputs = calibrated()
    inputs = inputs if kind == "packed" else inputs.to_dense()
    expected = step(model, inputs)
    compiled = torch.compile(copy.deepcopy(model), backend=backend)
    for _ in range(2):
        loss, grads = step(compiled, inputs)
        assert gold.relative_error(loss, expected[0]) < 1e-6
        for value, reference in zip(grads, expected[1], strict=True):
            assert gold.relative_error(value, reference) < 1e-5


@pytest.mark.filterwarnings("ignore")
def test_compile_around_a_mixed_model(fresh_compiler):
    mixed = torch.nn.Sequential(
        torch.nn.Linear(9, 16), torch.nn.GELU(), nn.LIF(surrogate=Triangle()).eval(),
        nn.Linear(16, 4), nn.Readout(),
    )  # fmt: skip
    x = torch.randn(5, 3, 9)
    expected = step(mixed, x)
    loss, grads = step(torch.compile(copy.deepcopy(mixed), backend="aot_eager"), x)
    assert gold.relative_error(loss, expected[0]) < 1e-6
    for value, reference in zip(grads, expected[1], strict=True):
        assert gold.relative_error(value, reference) < 1e-5


# Checkpointing.


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint(reentrant):
    model, inputs = calibrated()
    model[4].momentum = 0.0  # the recomputation would update running statistics a second time
    expected = step(model, inputs)
    result = step(
        model, inputs,
        run=lambda x: model[4:](
            checkpoint(model[:4], x.clone().requires_grad_(), use_reentrant=reentrant)
        ),
    )  # fmt: skip
    assert_same(result, expected)
    result = step(
        model, inputs,
        run=lambda x: checkpoint_sequential(
            model, 3, x.clone().requires_grad_(), use_reentrant=reentrant
        ),
    )  # fmt: skip
    assert_same(result, expected)


def test_checkpoint_keeps_little():
    model, inputs = calibrated()
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        checkpoint(model[:4], inputs, use_reentrant=False)
    assert not [t for t in saved if t.numel() > inputs.numel()]


# Precision.


def test_autocast():
    """Under autocast torch's layers give bfloat16, which ours widen; ours stay in float32."""
    mixed = torch.nn.Sequential(
        torch.nn.Linear(9, 16), nn.LIF(surrogate=ATan()).eval(), nn.Linear(16, 8),
        nn.LIF(surrogate=ATan()).eval(), torch.nn.Linear(8, 4), nn.Readout(),
    )  # fmt: skip
    x = torch.randn(5, 3, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = mixed[:2](x)
        currents = mixed[2](hidden)
        scores = mixed(x)
        loss = F.cross_entropy(scores.float(), LABELS)
    loss.backward()
    assert isinstance(hidden, SpikeTensor)
    assert currents.dtype == torch.float32
    assert torch.equal(currents, mixed[2](hidden))
    assert scores.dtype in (torch.bfloat16, torch.float32)
    assert all(p.grad.dtype == torch.float32 and p.grad.any() for p in mixed.parameters())


def test_bfloat16_model_is_widened():
    model = nn.Sequential(nn.Linear(9, 16), nn.LIF().eval(), nn.Linear(16, 4)).bfloat16()
    wide = copy.deepcopy(model).float()
    x = torch.randn(5, 3, 9)
    assert torch.equal(model(x.bfloat16()), wide(x.bfloat16().float()))
    model(x.bfloat16()).sum().backward()
    assert model[0].weight.grad.dtype == torch.bfloat16


# Copies and files.


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies(how):
    model, inputs = calibrated()
    step(model, inputs)
    if how == "deepcopy":
        other = copy.deepcopy(model)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(model))  # noqa: S301
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    assert_same(step(other, inputs), step(model, inputs))
    assert all(a is not b for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_copies_a_model_that_keeps_state():
    """A membrane in the middle of a graph is state, not something that forbids a copy."""
    model = nn.Sequential(nn.Linear(9, 5), nn.LIF(0.9, 5.0, stateful=True).eval())
    x = torch.rand(3, 2, 9)
    model(x)
    other = copy.deepcopy(model)
    assert torch.equal(other[1].membrane, model[1].membrane)
    assert torch.equal(other(x), model(x))


def test_state_dict_round_trip():
    model, inputs = calibrated(neurons=lambda: nn.PLIF(0.5, 1.0, learn_threshold=True))
    other = network(neurons=lambda: nn.PLIF(0.9, 2.0, learn_threshold=True))
    assert not other.load_state_dict(model.state_dict()).missing_keys
    assert_same(step(other, inputs), step(model, inputs))


# Training tools.


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
@pytest.mark.parametrize("foreach", [True, False])
def test_optimizers(optimizer, foreach):
    model, inputs = calibrated(neurons=lambda: nn.PLIF(0.5, 1.0, surrogate=ATan()))
    tool = optimizer(model.parameters(), lr=1e-3, foreach=foreach)
    first, _ = step(model, inputs)
    for _ in range(15):
        tool.step()
        last, _ = step(model, inputs)
    assert last < first


def test_gradient_accumulation_and_clipping():
    model, inputs = calibrated()
    model.eval()  # so that samples do not meet in the batch statistics
    _, whole = step(model, inputs)
    model.zero_grad()
    for sample in range(3):
        scores = model(inputs[:, sample : sample + 1])
        (F.cross_entropy(scores, LABELS[sample : sample + 1]) / 3).backward()
    for parameter, expected in zip(model.parameters(), whole, strict=True):
        assert gold.relative_error(parameter.grad, expected) < 1e-5
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    assert sum(p.grad.square().sum() for p in model.parameters()).sqrt() <= 0.1 + 1e-6


def test_parametrisation():
    """Weight norm makes the weight a computed tensor: gradients must reach its parts."""
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(9, 4))
    layer(workloads.spikes(3, 2, 9)).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    assert layer.parametrizations.weight.original1.grad.any()


def test_pruning():
    layer = nn.Conv2d(2, 4, 3)
    prune.l1_unstructured(layer, "weight", amount=0.5)
    x = events()
    expected = gold.conv2d(x.to_dense().double(), layer.weight.double(), layer.bias.double())
    assert gold.relative_error(layer(x), expected) < 1e-6


def test_functional_call():
    model, inputs = calibrated()
    doubled = {name: 2 * value for name, value in model.named_parameters()}
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    scores = torch.func.functional_call(model, doubled, (inputs,))
    assert torch.equal(scores, other(inputs))


def test_exponential_moving_average():
    model, inputs = calibrated()
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    assert torch.equal(average.module.eval()(inputs), model.eval()(inputs))


def test_data_loader_of_spikes_trains():
    data = [(workloads.spikes(5, 1, 2, 12, 12)[:, 0], int(i % 4)) for i in range(6)]

    def collate(samples):
        return torch.stack([x for x, _ in samples], dim=1), torch.tensor([y for _, y in samples])

    model, _ = calibrated()
    for inputs, labels in torch.utils.data.DataLoader(data, batch_size=3, collate_fn=collate):
        assert isinstance(inputs, SpikeTensor)
        assert inputs.shape == (5, 3, 2, 12, 12)
        F.cross_entropy(model(inputs), labels).backward()
    assert all(parameter.grad.any() for parameter in model.parameters())


def test_anomaly_detection_and_profiler():
    model, inputs = calibrated()
    expected = step(model, inputs)
    with torch.autograd.set_detect_anomaly(True, check_nan=True):
        assert_same(step(model, inputs), expected)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step(model, inputs)
    assert any("h2learn" in event.key for event in profile.key_averages())
