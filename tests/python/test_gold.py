"""The gold model against the equations: examples by hand, finite differences, explicit recursions
of the backward pass, and the correspondences with other libraries' neurons."""

from __future__ import annotations

import itertools
import math

import gold
import pytest
import torch
from gold import Bump, Neuron

BUMPS = ["rect", "triangle", "atan", "sigmoid"]
OPTIONS = [
    dict(zip(("inclusive", "soft", "detach_reset", "decay_input"), flags, strict=True))
    for flags in itertools.product((False, True), repeat=4)
]


def currents(steps: int = 7, batch: int = 3, features: int = 5, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(steps, batch, features, generator=generator, dtype=torch.float64)
    return 0.8 * x - 0.1


# By hand.


def test_default_neuron_by_hand():
    x = torch.tensor([0.2, 0.3, 0.1, 0.5, 0.25], dtype=torch.float64).view(5, 1, 1)
    trace = gold.neuron(x)
    # 0.2; 0.05 + 0.3, fires; 0 + 0.1; 0.025 + 0.5, fires; 0 + 0.25 = threshold, does not fire
    membrane = torch.tensor([0.2, 0.35, 0.1, 0.525, 0.25], dtype=torch.float64)
    torch.testing.assert_close(trace.membrane.flatten(), membrane)
    assert trace.spikes.flatten().tolist() == [0, 1, 0, 1, 0]
    assert trace.last.item() == 0.25


def test_options_by_hand():
    x = torch.tensor([1.0, 1.5, 0.25], dtype=torch.float64).view(3, 1, 1)
    inclusive = gold.neuron(x, Neuron(decay=0.5, threshold=1.0, inclusive=True))
    assert inclusive.spikes.flatten().tolist() == [1, 1, 0]
    soft = gold.neuron(x, Neuron(decay=0.5, threshold=1.0, soft=True))
    # 1; 0.5 + 1.5 = 2, fires, leaves 1; 0.5 + 0.25
    assert soft.membrane.flatten().tolist() == [1, 2, 0.75]
    gained = gold.neuron(x, Neuron(decay=0.75, threshold=9.0, decay_input=True))
    # 0.25; 0.1875 + 0.375; 0.421875 + 0.0625
    assert gained.membrane.flatten().tolist() == [0.25, 0.5625, 0.484375]
    started = gold.neuron(x, Neuron(decay=0.5), initial=torch.full((1, 1), 2.0).double())
    assert started.membrane[0].item() == 2.0


def test_gradient_by_hand():
    """Two steps, one neuron, u = 0.2 then 0.35: with G and U of soma.hpp worked out on paper."""
    x = torch.tensor([0.2, 0.3], dtype=torch.float64).view(2, 1, 1).requires_grad_()
    gold.neuron(x).spikes.sum().backward()
    # t = 2: phi = 1, G = 1, U_2 = 1, H_1 = 0.25.
    # t = 1: phi = 1, G = 1 - 0.25 * 0.2 = 0.95, U_1 = 0.95 + 0.25 * (1 - 0) = 1.2
    assert x.grad.flatten().tolist() == pytest.approx([1.2, 1.0], rel=1e-15)


# Surrogates.


@pytest.mark.parametrize("shape", BUMPS)
@pytest.mark.parametrize("width", [0.25, 1.0])
def test_bumps_have_unit_area(shape, width):
    # Midpoints, so that rect's edges lie between two of them.
    step = 2.0**-8
    v = step * (torch.arange(-(2**20), 2**20, dtype=torch.float64) + 0.5)
    area = step * Bump(shape, width, scale=3.0)(v).sum().item()
    tail = 3.0 * 2 * width / (math.pi * 2**12) if shape == "atan" else 0.0
    assert area + tail == pytest.approx(3.0, rel=1e-5)


def test_bumps_are_the_usual_surrogates():
    v = torch.linspace(-2, 2, 401, dtype=torch.float64, requires_grad=True)
    for alpha in (1.0, 2.0, 4.0):
        # SpikingJelly's ATan(alpha) and Sigmoid(alpha) differentiate these primitives.
        primitive = torch.atan(math.pi / 2 * alpha * v) / math.pi + 0.5
        (slope,) = torch.autograd.grad(primitive.sum(), v)
        torch.testing.assert_close(Bump("atan", 2 / (math.pi * alpha))(v.detach()), slope)
        (slope,) = torch.autograd.grad(torch.sigmoid(alpha * v).sum(), v)
        torch.testing.assert_close(Bump("sigmoid", 1 / alpha)(v.detach()), slope)
    rect = Bump("rect", 0.5)(torch.tensor([-0.5, -0.49, 0.0, 0.49, 0.5]))
    assert rect.tolist() == [0, 1, 1, 1, 0]
    triangle = Bump("triangle", 1.0)(torch.tensor([-1.0, -0.5, 0.0, 0.25, 1.0]))
    assert triangle.tolist() == [0, 0.5, 1, 0.75, 0]


# Finite differences: with the spike relaxed to the bump's own primitive, the gradient that the
# surrogate defines is the true one.


def primitive(bump: Bump):
    def smooth(v):
        x = v / bump.width
        if bump.shape == "atan":
            return bump.scale * (torch.atan(x) / math.pi + 0.5)
        return bump.scale * torch.sigmoid(x)

    return smooth


@pytest.mark.parametrize("shape", ["atan", "sigmoid"])
@pytest.mark.parametrize("options", [o for o in OPTIONS if not o["detach_reset"]], ids=str)
def test_relaxed_dynamics_by_finite_differences(options, shape):
    bump = Bump(shape, 0.3, 0.9)
    x = currents(5, 2, 3).requires_grad_()
    h0 = currents(1, 2, 3, seed=1)[0].requires_grad_()
    decay = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    threshold = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def run(x, h0, decay, threshold):
        neuron = Neuron(decay, threshold, **options, bump=bump)
        trace = gold.neuron(x, neuron, initial=h0, relaxed=primitive(bump))
        return trace.spikes, trace.last

    assert torch.autograd.gradcheck(run, (x, h0, decay, threshold))


@pytest.mark.parametrize("soft", [False, True])
def test_detached_reset_by_finite_differences(soft):
    """With s_t constant in the reset, h_T is smooth in everything else; the threshold that a soft
    reset subtracts is not detached."""
    options = {"soft": soft, "detach_reset": True}
    given = gold.Given(gold.neuron(currents(), Neuron(0.6, 0.3, **options)).spikes)
    assert 0 < given.spikes.mean() < 1

    def run(x, decay, threshold):
        zero_slope = Bump("rect", scale=0.0)
        neuron = Neuron(decay, threshold, **options, bump=zero_slope)
        return gold.neuron(x, neuron, given=given).last

    decay = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    threshold = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    x = currents().requires_grad_()
    assert torch.autograd.gradcheck(run, (x, decay, threshold))
    (grad,) = torch.autograd.grad(run(x, decay, threshold).sum(), threshold, allow_unused=True)
    assert (grad is not None and grad != 0) == soft


# The recursions of the backward pass, as soma.hpp and as the accelerator's author write them.


def soma_backward(x, trace, neuron, grad_spikes, grad_last, initial):
    """soma.hpp's backward equations, in a loop."""
    decay, threshold = neuron.decay, neuron.threshold
    gain = 1 - decay if neuron.decay_input else 1.0
    big_h = grad_last
    grad_x = torch.zeros_like(x)
    grad_decay = grad_threshold = 0.0
    for t in reversed(range(len(x))):
        u, s = trace.membrane[t], trace.spikes[t]
        phi = neuron.bump(u - threshold)
        to_spike = torch.zeros_like(u)
        if not neuron.detach_reset:
            to_spike = torch.full_like(u, -threshold) if neuron.soft else -u
        to_membrane = torch.ones_like(u) if neuron.soft else 1 - s
        g = grad_spikes[t] + big_h * to_spike
        big_u = phi * g + big_h * to_membrane
        before = trace.membrane[t - 1] if t else initial
        if t:
            fired = trace.spikes[t - 1]
            before = before - threshold * fired if neuron.soft else before * (1 - fired)
        grad_decay += (big_u * before).sum() - (big_u * x[t]).sum() * neuron.decay_input
        grad_threshold -= (phi * g).sum() + (big_h * s).sum() * neuron.soft
        grad_x[t] = gain * big_u
        big_h = decay * big_u
    return grad_x, big_h, grad_decay, grad_threshold


@pytest.mark.parametrize("shape", BUMPS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_autograd_is_the_recursion_of_soma_hpp(options, shape):
    generator = torch.Generator().manual_seed(3)
    x = currents().requires_grad_()
    h0 = currents(1, seed=1)[0].requires_grad_()
    decay = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    threshold = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    neuron = Neuron(decay, threshold, **options, bump=Bump(shape, 0.4, 0.7))
    trace = gold.neuron(x, neuron, initial=h0)
    assert 0.1 < trace.spikes.mean() < 0.9
    grad_spikes = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    grad_last = torch.randn(h0.shape, generator=generator, dtype=torch.float64)
    (trace.spikes * grad_spikes).sum().add((trace.last * grad_last).sum()).backward()

    constant = Neuron(0.6, 0.3, **options, bump=neuron.bump)
    with torch.no_grad():
        expected = soma_backward(x, trace, constant, grad_spikes, grad_last, h0)
    grads = (x.grad, h0.grad, decay.grad, threshold.grad)
    for value, reference in zip(grads, expected, strict=True):
        torch.testing.assert_close(value, torch.as_tensor(reference), rtol=1e-12, atol=1e-12)


def test_autograd_is_the_published_recursion():
    """The default neuron, as the accelerator's first author publishes it (STBP)."""
    alpha, theta, a, beta = 0.25, 0.25, 0.5, 1.0
    x = currents(9).requires_grad_()
    trace = gold.neuron(x, Neuron(alpha, theta, bump=Bump("rect", a)))
    gs = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (trace.spikes * gs).sum().backward()
    grad_u = torch.zeros_like(x[0])
    for t in reversed(range(9)):
        u = trace.membrane[t].detach()
        mask = (u - theta).abs() < a
        g = torch.where(mask, gs[t] - alpha * u * grad_u, torch.zeros_like(u))
        grad_u = beta * g + alpha * (u <= theta) * grad_u
        torch.testing.assert_close(x.grad[t], grad_u, rtol=1e-13, atol=1e-13)


# Other libraries' neurons, as formulas.


def spikingjelly_lif(x, tau, threshold, decay_input):
    """LIFNode(tau, decay_input, v_threshold, v_reset=0.): charge, fire at >=, hard reset."""
    v, spikes = torch.zeros_like(x[0]), []
    for current in x:
        v = v + (current - v) / tau if decay_input else v - v / tau + current
        s = (v >= threshold).to(x.dtype)
        v = (1 - s) * v
        spikes.append(s)
    return torch.stack(spikes)


def snntorch_leaky(x, beta, threshold, reset):
    """Leaky(beta, threshold, reset_mechanism=reset, reset_delay=False): fire at > strictly."""
    mem, spikes = torch.zeros_like(x[0]), []
    for current in x:
        mem = beta * mem + current
        s = (mem > threshold).to(x.dtype)
        mem = mem - s * (mem if reset == "zero" else threshold)
        spikes.append(s)
    return torch.stack(spikes)


def test_spikingjelly_and_snntorch_correspondences():
    x = 1.2 * currents(20, 8, 16)
    jelly = spikingjelly_lif(x, 2.0, 0.5, decay_input=False)
    assert torch.equal(jelly, gold.neuron(x, Neuron(0.5, 0.5, inclusive=True)).spikes)
    leaky = snntorch_leaky(x, 0.5, 0.5, "zero")
    assert torch.equal(leaky, gold.neuron(x, Neuron(0.5, 0.5)).spikes)
    assert torch.equal(jelly, leaky)
    subtract = snntorch_leaky(x, 0.5, 0.5, "subtract")
    assert torch.equal(subtract, gold.neuron(x, Neuron(0.5, 0.5, soft=True)).spikes)
    decayed = spikingjelly_lif(x, 2.0, 0.25, decay_input=True)
    options = Neuron(0.5, 0.25, inclusive=True, decay_input=True)
    assert torch.equal(decayed, gold.neuron(x, options).spikes)


def test_spikingjelly_and_snntorch_part_at_the_threshold():
    x = torch.tensor([0.5, 0.0, 0.25], dtype=torch.float64).view(3, 1, 1)
    # 0.5 meets the threshold: SpikingJelly fires and starts over; snnTorch keeps it, and 0.125
    # of it is left at the third step, where a little more current then decides.
    assert spikingjelly_lif(x, 2.0, 0.5, decay_input=False).flatten().tolist() == [1, 0, 0]
    assert snntorch_leaky(x, 0.5, 0.5, "zero").flatten().tolist() == [0, 0, 0]
    x[2] += 0.1875
    assert spikingjelly_lif(x, 2.0, 0.5, decay_input=False).flatten().tolist() == [1, 0, 0]
    assert snntorch_leaky(x, 0.5, 0.5, "zero").flatten().tolist() == [0, 0, 1]


# Given decisions, layers, readouts.


def test_given_spikes_replace_the_model_s_own():
    x = currents().requires_grad_()
    free = gold.neuron(x)
    flipped = gold.Given(1 - free.spikes.detach())
    forced = gold.neuron(x, given=flipped)
    assert torch.equal(forced.spikes, flipped.spikes)
    assert not torch.equal(forced.membrane[1:], free.membrane[1:])
    same = gold.neuron(x, given=gold.decisions(x, Neuron()))
    a = torch.autograd.grad(free.spikes.sum(), x, retain_graph=True)[0]
    b = torch.autograd.grad(same.spikes.sum(), x)[0]
    assert torch.equal(a, b)


def test_given_window_overrides_rect_alone():
    x = currents().requires_grad_()
    decided = gold.decisions(x, Neuron())
    closed = gold.Given(decided.spikes, torch.zeros_like(decided.window))
    grad = torch.autograd.grad(gold.neuron(x, given=closed).spikes.sum(), x)[0]
    assert not grad.any()
    atan = Neuron(bump=Bump("atan"))
    grad = torch.autograd.grad(gold.neuron(x, atan, given=closed).spikes.sum(), x)[0]
    assert grad.all()


def test_convolution_by_hand():
    x = torch.arange(9.0).view(1, 1, 1, 3, 3)
    weight = torch.tensor([[[[1.0, 0.0], [0.0, -1.0]]]])
    y = gold.conv2d(x, weight, torch.tensor([10.0]), stride=1, padding=1)
    expected = [[10, 9, 8, 10], [7, 6, 6, 12], [4, 6, 6, 15], [10, 16, 17, 18]]
    assert y[0, 0, 0].tolist() == expected


def test_pooling_by_hand():
    x = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).view(1, 1, 1, 3, 3)
    assert gold.average_pool(x, 2).flatten().tolist() == [0.75]
    assert gold.average_pool(x, 2, 1).flatten().tolist() == [0.75, 0.5, 0.5, 0.5]
    assert gold.max_pool(x, 2, 1).flatten().tolist() == [1, 1, 1, 1]


def test_readouts_by_hand():
    x = torch.tensor([4.0, 8.0, 0.0]).view(3, 1, 1)
    assert gold.readout(x, "rate").item() == 4.0
    assert gold.readout(x, "membrane", 0.0).item() == 4.0
    assert gold.readout(x, "last", 0.25).item() == 2.25  # 4; 1 + 8; 9 / 4
    assert gold.readout(x, "membrane", 0.25).item() == pytest.approx(15.25 / 3)


def test_batch_norm_by_finite_differences():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 4, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(4, generator=generator, dtype=torch.float64, requires_grad=True)
    bias = torch.rand(4, generator=generator, dtype=torch.float64, requires_grad=True)
    y = gold.batch_norm(x)
    mean, variance = y.mean((0, 1, 3, 4)), y.var((0, 1, 3, 4), unbiased=False)
    assert mean.detach().abs().max() < 1e-12
    assert (variance.detach() - 1).abs().max() < 1e-3  # eps keeps it below 1
    assert torch.autograd.gradcheck(gold.batch_norm, (x, weight, bias))


def test_dropout_is_one_mask_over_time():
    x = torch.ones(4, 2, 3)
    keep = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    y = gold.dropout(x, keep, 0.25)
    assert all(torch.equal(step, keep / 0.75) for step in y)


def test_relative_error_can_be_large():
    one = torch.ones(3)
    assert gold.relative_error(one, one) == 0
    assert gold.relative_error(1.5 * one, one) == 0.5
    assert gold.relative_error(one, 0 * one) == math.inf
