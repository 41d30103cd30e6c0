"""Every instruction set gives the same bits, and the one that was forced is the one that ran."""

from __future__ import annotations

import os
import subprocess
import sys

import gold
import pytest
import torch
import torch.nn.functional as F
import workloads
from h2learn import SpikeTensor, _core, build_info, nn, ops
from h2learn.kernels import KERNELS, set_kernel
from h2learn.surrogate import ATan, Sigmoid, Triangle
from hypothesis import given, settings
from hypothesis import strategies as st

TARGETS = _core.available_targets()
FUSED = [target for target in TARGETS if target != "baseline"]
"""Targets with fused multiply-adds. The others round gradients' products on their own; currents
are the same bits everywhere (forward.hpp)."""
AT_START = _core.active_target()


def run(workload: workloads.Workload) -> list[torch.Tensor]:
    """Every layer's output, the loss, and every gradient of one training step."""
    outputs: list[torch.Tensor] = []
    handles = [
        module.register_forward_hook(lambda _m, _a, out: outputs.append(out.detach()))
        for module in workload.model
    ]
    workload.model.zero_grad()
    inputs = workload.inputs.detach().requires_grad_()
    loss = F.cross_entropy(workload.model(inputs), workload.labels)
    loss.backward()
    for handle in handles:
        handle.remove()
    grads = [parameter.grad.clone() for parameter in workload.model.parameters()]
    return [*outputs, loss.detach(), inputs.grad, *grads]


def assert_same(results: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for index, (value, reference) in enumerate(zip(results, expected, strict=True)):
        assert torch.equal(value, reference), f"result {index} of shape {tuple(value.shape)}"


def assert_same_on_every_target(workload: workloads.Workload) -> None:
    """Everything is the same bits on the targets that fuse, and spikes on all of them."""
    layers = len(workload.model)
    for target in TARGETS:
        _core.set_target(target)
        assert _core.active_target() == target
        results = run(workload)
        if target == TARGETS[0]:
            expected = results
        elif target in FUSED:
            assert_same(results, expected)
        else:
            assert_same(results[:layers], expected[:layers])
            for value, reference in zip(results[layers:], expected[layers:], strict=True):
                assert gold.relative_error(dense(value), dense(reference)) < 1e-4


def dense(x: torch.Tensor) -> torch.Tensor:
    return x.to_dense() if isinstance(x, SpikeTensor) else x


NEURONS = {
    "default": lambda: workloads.lif(),
    "triangle": lambda: workloads.lif(Triangle()),
    "atan": lambda: workloads.lif(ATan()),
    "sigmoid": lambda: workloads.lif(Sigmoid()),
    "soft": lambda: nn.LIF(0.5, 1.0, reset="soft", inclusive=True),
    "detached": lambda: nn.LIF(0.5, 1.0, detach_reset=True, decay_input=True),
    "learned": lambda: nn.LIF(0.5, 1.0, learn_decay=True, learn_threshold=True),
}
SMALL = {
    "a": lambda neurons: workloads.a(neurons, steps=4, width=0.2),
    "b": lambda neurons: workloads.b(neurons, steps=4, batch=2, side=22),
    "c": lambda neurons: workloads.c(neurons, steps=3, width=0.0625, side=12),
}


SAME_EVERYWHERE = sorted(set(KERNELS) - {"fastest"})
BYTES = ("avx512vnni", "amx")


def test_there_is_a_reference():
    assert TARGETS[0] == "scalar"
    assert build_info()["targets"] == TARGETS
    assert os.environ.get("H2LEARN_TARGET", TARGETS[-1]) == AT_START
    assert build_info()["active_target"] == AT_START


@pytest.mark.parametrize("kernel", SAME_EVERYWHERE)
@pytest.mark.parametrize("name", SMALL)
def test_same_bits_with_every_kernel(name, kernel):
    workload = SMALL[name](workloads.lif)
    set_kernel(workload.model, kernel)
    assert_same_on_every_target(workload)


@pytest.mark.parametrize("kernel", SAME_EVERYWHERE)
@pytest.mark.parametrize("name", workloads.LARGE)
def test_same_bits_of_large_layers(name, kernel):
    workload = workloads.LARGE[name]()
    set_kernel(workload.model, kernel)
    assert_same_on_every_target(workload)


@pytest.mark.parametrize("target", TARGETS)
def test_fastest_is_auto_where_bytes_are_not_multiplied_faster(target):
    _core.set_target(target)
    workload = workloads.c(workloads.lif, steps=3, width=0.25, side=12)

    def step(kernel):
        set_kernel(workload.model, kernel)
        return run(workload)

    expected = step("fastest")
    assert_same(step("fastest"), expected)
    if target not in BYTES:
        assert_same(step("auto"), expected)


@pytest.mark.skipif("amx" not in TARGETS, reason="needs AMX")
@pytest.mark.parametrize(("rate", "kernel"), [(0.5, "digits"), (0.002, "auto")])
def test_fastest_follows_the_density(rate, kernel):
    _core.set_target("amx")
    torch.manual_seed(0)
    inputs = workloads.spikes(4, 4, 64, 16, 16, rate=rate)
    layer = nn.Conv2d(64, 256, 3, padding=1, bias=False)
    currents = {}
    for name in ("auto", "digits", "fastest"):
        layer.kernel = name
        currents[name] = layer(inputs)
    assert not torch.equal(currents["auto"], currents["digits"])
    assert torch.equal(currents["fastest"], currents[kernel])


@pytest.mark.parametrize("neurons", NEURONS)
def test_same_bits_with_every_neuron(neurons):
    assert_same_on_every_target(SMALL["b"](NEURONS[neurons]))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", SMALL)
def test_gradients_on_every_target(name, target):
    _core.set_target(target)
    workload = SMALL[name](workloads.lif)
    errors = gold.gradient_errors(
        workload.model, workload.inputs, lambda scores: F.cross_entropy(scores, workload.labels)
    )
    assert max(errors.library.values()) <= 1e-6


@settings(max_examples=60)
@given(
    channels=st.sampled_from([1, 3, 8, 16, 17, 31, 33, 64, 65]),
    outputs=st.sampled_from([1, 2, 7, 8, 15, 16, 17, 33, 40]),
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    stride=st.integers(1, 2),
    padding=st.integers(0, 1),
    groups=st.sampled_from([1, 1, 2]),
    rate=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    kernel=st.sampled_from(SAME_EVERYWHERE),
    pool=st.sampled_from([nn.AvgPool2d, nn.MaxPool2d]),
    kind=st.sampled_from(["packed", "dense", "direct"]),
    seed=st.integers(0, 2**16),
)
@pytest.mark.filterwarnings("ignore::h2learn.nn.ActivityWarning")
def test_same_bits_on_any_shape(
    channels, outputs, size, stride, padding, groups, rate, kernel, pool, kind, seed
):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(channels * groups, outputs * groups, 3, stride, padding, groups=groups),
        nn.LIF(), pool(1, 1), nn.Conv2d(outputs * groups, 5, 1), nn.LIF(surrogate=Triangle()),
        nn.Flatten(),
    )  # fmt: skip
    inputs = workloads.spikes(3, 2, channels * groups, *size, rate=rate)
    if kind == "dense":
        inputs = torch.randn(inputs.shape)
    elif kind == "direct":
        inputs = torch.randn(inputs.shape[1:]).expand(inputs.shape)
    model.append(nn.Linear(model(inputs).shape[-1], 3)).append(nn.Readout())
    set_kernel(model, kernel)
    assert_same_on_every_target(workloads.Workload(model, inputs, torch.randint(3, (2,))))


@given(
    st.sampled_from([1, 31, 32, 63, 64, 65, 127, 500]),
    st.integers(1, 3),
    st.sampled_from([(1, 1), (3, 5), (8, 8)]),
)
def test_same_bits_of_bits(features, planes, shape):
    """Pack, unpack, transposition and pooling work on nothing but bits."""
    positions, channels = shape
    results = []
    dense = (torch.rand(4, features) < 0.5).float()
    image = workloads.spikes(planes, 4, positions * channels).words[0]
    for target in TARGETS:
        _core.set_target(target)
        words = ops.pack(dense)
        pool = [channels, positions, 1, 1, 1, 1, 1]
        results.append([
            words, ops.unpack(words[None], features, 0.5),
            ops.transpose_features(image, positions, channels, False),
            ops.count_pool(image[0], pool), ops.max_pool(image[0], pool),
        ])  # fmt: skip
    assert torch.equal(results[0][1], 0.5 * dense)
    for other in results[1:]:
        assert_same(other, results[0])


def test_same_bits_of_many_neurons():
    """So many that membranes and gradients are written past the caches."""
    x = torch.rand(8, 4, 2**19)
    weights = torch.randn(8, 4, 1)
    results = []
    for target in ("scalar", TARGETS[-1]):
        _core.set_target(target)
        leaf = x.clone().requires_grad_()
        spikes = nn.LIF(surrogate=ATan()).eval()(leaf)
        results.append([spikes.detach(), torch.autograd.grad((spikes * weights).sum(), leaf)[0]])
    assert_same(*results)


# Choosing.


def test_auto_is_the_choice_at_start():
    _core.set_target("scalar")
    assert build_info()["active_target"] == "scalar"
    _core.set_target("auto")
    assert _core.active_target() == AT_START


def test_unknown_target():
    with pytest.raises(ValueError, match=r"scalar, .*mmx"):
        _core.set_target("mmx")
    assert _core.active_target() == AT_START


def in_a_new_process(target: str) -> subprocess.CompletedProcess[str]:
    code = "import h2learn; print(h2learn.build_info()['active_target'])"
    environment = {**os.environ, "H2LEARN_TARGET": target, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("target", TARGETS)
def test_environment_forces_a_target(target):
    assert in_a_new_process(target).stdout.strip() == target


def test_environment_names_an_unknown_target():
    outcome = in_a_new_process("mmx")
    assert outcome.returncode != 0
    assert "H2LEARN_TARGET" in outcome.stderr
    assert "mmx" in outcome.stderr
    assert "scalar" in outcome.stderr
