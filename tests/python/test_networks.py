"""Whole networks over T: spikes bit for bit, and every parameter's gradient within 1e-6 of float64
given the same spikes. `check_workloads.py` does the same at full size."""

from __future__ import annotations

import itertools

import gold
import pytest
import torch
import torch.nn.functional as F
import workloads
from h2learn import SpikeTensor, nn
from h2learn.kernels import KERNELS, set_kernel
from h2learn.surrogate import ATan, Rect, Sigmoid, Triangle
from hypothesis import given, settings
from hypothesis import strategies as st

SMALL = {
    "a": lambda neurons: workloads.a(neurons, width=0.25),
    "b": lambda neurons: workloads.b(neurons, steps=6, batch=2, side=22),
    "c": lambda neurons: workloads.c(neurons, steps=5, width=0.0625, side=16),
}
NEURONS = {
    "default": lambda: workloads.lif(),
    "atan": lambda: workloads.lif(ATan()),
    "triangle": lambda: workloads.lif(Triangle()),
    "soft": lambda: nn.LIF(0.5, 1.0, reset="soft", surrogate=Sigmoid()),
    "detached": lambda: nn.LIF(0.5, 1.0, detach_reset=True, inclusive=True),
    "decayed input": lambda: nn.LIF(0.5, 0.7, decay_input=True, surrogate=Triangle()),
    "learned": lambda: nn.LIF(
        0.5, 1.0, surrogate=ATan(), learn_decay=True, learn_threshold=True, decay_input=True
    ),
    "PLIF": lambda: nn.PLIF(0.5, 1.0, surrogate=ATan()),
    "IF": lambda: nn.IF(1.5, surrogate=Rect(1.0)),
}


GOAL = 1e-6
TINY_GOAL = 1e-5
"""Where a parameter may have one or two elements, whose few terms cancel: a digit is lost."""


def assert_gradients(workload: workloads.Workload, goal: float = GOAL) -> None:
    """Every gradient within the goal, or within thrice the rounding error that plain PyTorch in
    float32 makes in the same network: some networks amplify rounding."""
    errors = gold.gradient_errors(
        workload.model, workload.inputs, lambda scores: F.cross_entropy(scores, workload.labels)
    )
    assert max(errors.library.values()) <= max(goal, 3 * max(errors.plain.values())), errors


@pytest.mark.parametrize("neurons", NEURONS)
@pytest.mark.parametrize("name", SMALL)
def test_workloads(name, neurons):
    workload = SMALL[name](NEURONS[neurons])
    assert_gradients(workload)
    assert all(p.grad.any() for p in workload.model.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_workloads_within_the_goal(name):
    """The bare goal, for the workloads' own neuron."""
    workload = SMALL[name](workloads.lif)
    errors = gold.gradient_errors(
        workload.model, workload.inputs, lambda scores: F.cross_entropy(scores, workload.labels)
    )
    assert max(errors.library.values()) <= GOAL


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", SMALL)
def test_workloads_with_every_kernel(name, kernel):
    workload = SMALL[name](workloads.lif)
    set_kernel(workload.model, kernel)
    assert_gradients(workload)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", workloads.LARGE)
def test_large_layers(name, kernel):
    workload = workloads.LARGE[name]()
    set_kernel(workload.model, kernel)
    assert_gradients(workload)


def test_every_layer_in_one_network():
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm(6), nn.LIF(), nn.MaxPool2d(2),
        nn.Residual(
            nn.Sequential(
                nn.Conv2d(6, 6, 3, padding=1, groups=2, bias=False), nn.BatchNorm(6), nn.LIF()
            )
        ),
        nn.Conv2d(6, 5, 3, stride=2, dilation=2, bias=False), nn.PLIF(0.5), nn.AvgPool2d((2, 1)),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(45, 20), nn.LIF(reset="soft"),
        nn.Linear(20, 10), nn.Readout("membrane", 0.5),
    )  # fmt: skip
    inputs = workloads.spikes(6, 3, 2, 22, 18)
    shape = model[:9](inputs).shape[-1]
    model[10] = nn.Linear(shape, 20)
    assert_gradients(workloads.Workload(model, inputs, torch.tensor([1, 2, 3])))


@settings(max_examples=40)
@given(
    steps=st.integers(1, 7),
    batch=st.integers(1, 4),
    sizes=st.lists(st.sampled_from([1, 7, 63, 64, 65, 130]), min_size=2, max_size=4),
    rate=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    neurons=st.sampled_from(sorted(NEURONS)),
    kernel=st.sampled_from(sorted(KERNELS)),
    gain=st.sampled_from([0.3, 3.0, 30.0]),
    seed=st.integers(0, 2**16),
)
@pytest.mark.filterwarnings("ignore::h2learn.nn.ActivityWarning")
def test_any_mlp(steps, batch, sizes, rate, neurons, kernel, gain, seed):
    """Also with layers that are dead or saturated."""
    torch.manual_seed(seed)
    layers: list[torch.nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), NEURONS[neurons]()]
        layers[-2].weight.data.mul_(gain)
    model = nn.Sequential(*layers, nn.Linear(sizes[-1], 3), nn.Readout())
    set_kernel(model, kernel)
    inputs = workloads.spikes(steps, batch, sizes[0], rate=rate)
    assert_gradients(workloads.Workload(model, inputs, torch.randint(3, (batch,))), TINY_GOAL)


@settings(max_examples=40)
@given(
    steps=st.integers(1, 4),
    batch=st.integers(1, 3),
    channels=st.lists(st.sampled_from([2, 3, 16, 33, 65]), min_size=2, max_size=3),
    kernel_size=st.integers(1, 3),
    pool=st.sampled_from([nn.AvgPool2d, nn.MaxPool2d]),
    encoding=st.sampled_from(["spikes", "analog", "direct"]),
    neurons=st.sampled_from(sorted(NEURONS)),
    kernel=st.sampled_from(sorted(KERNELS)),
    seed=st.integers(0, 2**16),
)
@pytest.mark.filterwarnings("ignore::h2learn.nn.ActivityWarning")
def test_any_convolutional_network(
    steps, batch, channels, kernel_size, pool, encoding, neurons, kernel, seed
):
    torch.manual_seed(seed)
    layers: list[torch.nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(channels):
        layers += [
            nn.Conv2d(fan_in, fan_out, kernel_size, padding=kernel_size // 2),
            NEURONS[neurons](),
            pool(2, 1),
        ]
        layers[-3].weight.data.mul_(3.0)
    model = nn.Sequential(*layers, nn.Flatten())
    shape = (steps, batch, channels[0], 7, 6)
    inputs = {
        "spikes": lambda: workloads.spikes(*shape, rate=0.3),
        "analog": lambda: torch.randn(shape),
        "direct": lambda: torch.randn(shape[1:]).expand(shape),
    }[encoding]()
    model.append(nn.Linear(model(inputs).shape[-1], 3)).append(nn.Readout("last"))
    set_kernel(model, kernel)
    assert_gradients(workloads.Workload(model, inputs, torch.randint(3, (batch,))), TINY_GOAL)


@pytest.mark.parametrize("name", SMALL)
def test_packed_and_dense_inputs_train_alike(name):
    """A network fed a dense tensor of spikes gives the same losses and gradients up to rounding."""
    workload = SMALL[name](workloads.lif)
    results = []
    for inputs in (workload.inputs, dense(workload.inputs)):
        workload.model.zero_grad()
        F.cross_entropy(workload.model(inputs), workload.labels).backward()
        results.append([p.grad.clone() for p in workload.model.parameters()])
    for packed, unpacked in zip(*results, strict=True):
        assert gold.relative_error(packed, unpacked) < 1e-5


def dense(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.to_dense() if isinstance(inputs, SpikeTensor) else inputs.contiguous()


def test_learns():
    """Sixty steps of Adam on four random patterns: the loss falls as it does in the gold model."""
    torch.manual_seed(1)
    workload = workloads.a(batch=8, width=0.125)
    optimizer = torch.optim.Adam(workload.model.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(workload.model(workload.inputs), workload.labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.5
    assert losses[-1] < 0.05
