"""nn.calibrate: every neuron layer fires at the rate asked for, and nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
import workloads
from h2learn import nn
from h2learn.surrogate import ATan


def firing_rates(model: torch.nn.Module, inputs: torch.Tensor) -> dict[str, float]:
    rates: dict[str, float] = {}
    handles = [
        module.register_forward_hook(
            lambda _m, _a, out, name=name: rates.update({name: out.firing_rate()})
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.LIF)
    ]
    with torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    return rates


def deep(neurons=lambda: nn.LIF(0.5, 1.0)) -> torch.nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), neurons(), nn.AvgPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1, bias=False), neurons(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64, 50), neurons(), nn.Linear(50, 10), nn.Readout(),
    )  # fmt: skip


NEURONS = {
    "hard": lambda: nn.LIF(0.5, 1.0),
    "soft": lambda: nn.LIF(0.9, 2.0, reset="soft"),
    "decayed input": lambda: nn.LIF(0.5, 0.3, decay_input=True, inclusive=True),
    "PLIF": lambda: nn.PLIF(0.7, 1.0, surrogate=ATan()),
    "IF": lambda: nn.IF(1.0),
    "stateful": lambda: nn.LIF(0.5, 1.0, stateful=True),
}


@pytest.mark.parametrize("rate", [0.03, 0.15])
@pytest.mark.parametrize("neurons", NEURONS)
def test_reaches_the_rate(neurons, rate):
    model, inputs = deep(NEURONS[neurons]), workloads.spikes(8, 8, 2, 8, 8, rate=0.2)
    rates = nn.calibrate(model, inputs, rate)
    assert list(rates) == ["1", "4", "8"]
    for value in rates.values():
        assert value == pytest.approx(rate, abs=0.02)
    nn.reset(model)
    assert firing_rates(model, inputs) == pytest.approx(rates, abs=1e-3)


def test_wakes_a_dead_network():
    inputs = workloads.spikes(8, 8, 2, 8, 8, rate=0.2)
    model = deep(lambda: nn.LIF(0.25, 20.0))
    assert set(firing_rates(model.eval(), inputs).values()) == {0.0}
    rates = nn.calibrate(model, inputs)
    assert all(value == pytest.approx(0.15, abs=0.02) for value in rates.values())
    loss = model.train()(inputs).square().sum()  # and no ActivityWarning
    loss.backward()
    assert all(parameter.grad.any() for parameter in model.parameters())


def test_scales_weights_and_biases_by_one_factor_a_layer():
    model, inputs = deep(), workloads.spikes(8, 4, 2, 8, 8, rate=0.2)
    before = copy.deepcopy(model.state_dict())
    nn.calibrate(model, inputs)
    for layer in ("0", "3", "7"):
        factor = (model.state_dict()[f"{layer}.weight"] / before[f"{layer}.weight"]).flatten()
        assert factor[0] > 0
        assert torch.allclose(factor, factor[0].expand_as(factor), rtol=1e-5)
        if f"{layer}.bias" in before:
            bias = model.state_dict()[f"{layer}.bias"] / before[f"{layer}.bias"]
            assert torch.allclose(bias, factor[0].expand_as(bias), rtol=1e-5)
    assert torch.equal(model.state_dict()["9.weight"], before["9.weight"])  # no neurons behind it


def test_scales_batch_norm_in_front_of_neurons():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm(4), nn.LIF(0.5, 1.0), nn.Flatten()
    )
    weight = model[0].weight.clone()
    rates = nn.calibrate(model, workloads.spikes(8, 4, 2, 8, 8, rate=0.2))
    assert rates["2"] == pytest.approx(0.15, abs=0.02)
    assert torch.equal(model[0].weight, weight)


@pytest.mark.parametrize("training", [True, False])
def test_leaves_everything_else_alone(training):
    model = nn.Sequential(
        nn.Linear(30, 20), nn.BatchNorm(20), nn.LIF(0.5, 1.0, stateful=True), nn.Dropout(0.5),
        nn.Linear(20, 20), nn.LIF(0.5, 1.0), nn.Readout(),
    ).train(training)  # fmt: skip
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model]
    random = torch.get_rng_state()
    inputs = workloads.spikes(6, 8, 30, rate=0.3)
    torch.set_rng_state(random)
    nn.calibrate(model, inputs)
    for name, value in model.named_buffers():
        assert torch.equal(value, buffers[name]), name
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model] == hooks
    assert all(module.training == training for module in model)
    assert model[2].membrane is None
    assert all(
        parameter.grad is None and parameter.requires_grad for parameter in model.parameters()
    )


def test_same_result_twice():
    model, inputs = deep(), workloads.spikes(8, 4, 2, 8, 8, rate=0.2)
    other = copy.deepcopy(model)
    assert nn.calibrate(model, inputs) == nn.calibrate(other, inputs)
    for value, reference in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(value, reference)


def test_a_layer_used_twice_is_scaled_once():
    linear, neurons = nn.Linear(30, 30), nn.LIF(0.5, 1.0)
    model = torch.nn.Sequential(linear, neurons, linear, neurons)
    before = linear.weight.clone()
    nn.calibrate(model, workloads.spikes(6, 8, 30, rate=0.3))
    factor = linear.weight / before
    assert torch.allclose(factor, factor[0, 0].expand_as(factor), rtol=1e-5)


# What cannot be calibrated is said, and then nothing is changed.


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: nn.Sequential(nn.LIF(), nn.Linear(30, 4)), "'0'"),
        (lambda: nn.Sequential(nn.BatchNorm(30, affine=False), nn.LIF()), "'1'"),
    ],
)
def test_neurons_without_weights_before_them(model, words):
    with pytest.raises(ValueError, match=words):
        nn.calibrate(model(), workloads.spikes(6, 8, 30, rate=0.3))


@pytest.mark.parametrize(
    ("inputs", "rate"), [(torch.zeros(4, 2, 30), "0.15"), (workloads.spikes(4, 2, 30), "0.9")]
)
def test_a_rate_out_of_reach(inputs, rate):
    """Silent inputs without bias never make a layer fire, nor can random weights fire always."""
    model = nn.Sequential(
        nn.Linear(30, 20, bias=False), nn.LIF(), nn.Linear(20, 20, bias=False), nn.LIF()
    )
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=rf"'1'.*{rate}"):
        nn.calibrate(model, inputs, float(rate))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_scales_torch_layers_too():
    """What ran last before the neurons is scaled, whoever wrote it."""
    model = nn.Sequential(nn.Linear(30, 20), torch.nn.Linear(20, 10), nn.LIF(0.5, 1.0))
    first = model[0].weight.clone()
    rates = nn.calibrate(model, workloads.spikes(6, 8, 30, rate=0.3), 0.15)
    assert abs(rates["2"] - 0.15) < 0.02
    assert torch.equal(model[0].weight, first)


def test_keeps_the_membranes_of_stateful_neurons():
    model = nn.Sequential(nn.Linear(8, 5), nn.LIF(0.9, 5.0, stateful=True))
    model(torch.rand(3, 4, 8))
    before = model[1].membrane.clone()
    nn.calibrate(model, torch.rand(5, 2, 8), 0.1)  # another batch size: starts from zero
    assert torch.equal(model[1].membrane, before)
