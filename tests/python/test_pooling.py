"""AvgPool2d, MaxPool2d, Flatten: on packed spikes as on dense tensors, and packed all the way."""

from __future__ import annotations

import gold
import pytest
import torch
from h2learn import SpikeTensor, nn
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor


def spikes(shape, rate: float = 0.3, seed: int = 0) -> SpikeTensor:
    generator = torch.Generator().manual_seed(seed)
    return SpikeTensor.from_dense((torch.rand(shape, generator=generator) < rate).float())


def assert_gold(module: torch.nn.Module, inputs: Tensor) -> Tensor:
    """Values and the gradient at the inputs, against torch's own operator in float64."""
    inputs = inputs.detach().requires_grad_()
    outputs = module(inputs)
    weights = torch.randn(outputs.shape)
    (grad,) = torch.autograd.grad((outputs * weights).sum(), inputs)
    x = (inputs.to_dense() if isinstance(inputs, SpikeTensor) else inputs).detach().double()
    x.requires_grad_()
    expected = gold.Twin(torch.nn.Sequential(module))(x)
    (reference,) = torch.autograd.grad((expected * weights.double()).sum(), x)
    assert gold.relative_error(outputs, expected) <= 1e-7
    assert gold.relative_error(grad, reference) <= 1e-6
    return outputs


@st.composite
def windows(draw):
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    stride = draw(st.one_of(st.none(), st.tuples(st.integers(1, 4), st.integers(1, 4))))
    size = [k + draw(st.integers(0, 5)) for k in kernel]
    channels = draw(st.sampled_from([1, 2, 3, 31, 64, 65, 130]))
    return (draw(st.integers(1, 3)), draw(st.integers(1, 3)), channels, *size), kernel, stride


RATES = st.sampled_from([0.0, 0.05, 0.5, 1.0])


@given(windows(), RATES, st.integers(0, 2**16))
def test_average(window, rate, seed):
    shape, kernel, stride = window
    x = spikes(shape, rate, seed)
    outputs = assert_gold(nn.AvgPool2d(kernel, stride), x)
    assert isinstance(outputs, SpikeTensor)
    assert outputs.planes == (kernel[0] * kernel[1]).bit_length()
    if kernel[0] * kernel[1] in (1, 2, 4, 8, 16):  # an average without rounding
        assert torch.equal(outputs, nn.AvgPool2d(kernel, stride)(x.to_dense()))


@given(windows(), RATES, st.integers(0, 2**16))
def test_maximum(window, rate, seed):
    """Ties, of which spikes are full, send the gradient where torch sends it."""
    shape, kernel, stride = window
    x = spikes(shape, rate, seed)
    outputs = assert_gold(nn.MaxPool2d(kernel, stride), x)
    assert isinstance(outputs, SpikeTensor)
    assert torch.equal(outputs, nn.MaxPool2d(kernel, stride)(x.to_dense()))


@pytest.mark.parametrize("module", [nn.AvgPool2d(2), nn.MaxPool2d(2)])
@pytest.mark.parametrize("kind", ["counts", "scaled", "analog", "sum"])
def test_inputs_that_are_not_binary(module, kind):
    base = spikes((3, 2, 5, 9, 8))
    inputs = {
        "counts": lambda: nn.AvgPool2d(2, 1)(base),
        "scaled": lambda: nn.Dropout(0.3)(base),
        "analog": lambda: torch.randn(3, 2, 5, 9, 8),
        "sum": lambda: base + spikes((3, 2, 5, 9, 8), seed=1),
    }[kind]()
    assert_gold(module, inputs)


@pytest.mark.parametrize("module", [nn.AvgPool2d(2), nn.MaxPool2d((3, 2), 1), nn.Flatten()])
def test_single_step_and_empty_batch(module):
    x = spikes((2, 3, 5, 6, 6))
    if not isinstance(module, nn.Flatten):
        for step, expected in zip(x, module(x), strict=True):
            assert torch.equal(module(step), expected)
    for empty in (torch.zeros(2, 0, 5, 6, 6), SpikeTensor.from_dense(torch.zeros(2, 0, 5, 6, 6))):
        assert module(empty).shape[:2] == (2, 0)


@given(
    st.tuples(*[st.integers(1, 3)] * 2, st.sampled_from([1, 3, 64, 65]), *[st.integers(1, 6)] * 2),
    RATES,
    st.sampled_from(["spikes", "counts", "analog"]),
    st.integers(0, 2**16),
)
def test_flatten(shape, rate, kind, seed):
    x = spikes(shape, rate, seed)
    if kind == "counts":
        x = x + spikes(shape, rate, seed + 1)
    elif kind == "analog":
        x = torch.randn(shape)
    outputs = assert_gold(nn.Flatten(), x)
    assert isinstance(outputs, SpikeTensor) == (kind != "analog")
    assert torch.equal(outputs, (x.to_dense() if kind != "analog" else x).flatten(2))


def test_flatten_leaves_vectors_alone():
    x = spikes((3, 2, 70))
    assert torch.equal(nn.Flatten()(x), x)


@pytest.mark.parametrize("module", [nn.AvgPool2d(2), nn.MaxPool2d(3, 2), nn.Flatten()])
def test_mask_goes_along(module):
    """The surrogate mask behind a pooling covers every input whose gradient is used."""
    currents = torch.rand(3, 2, 5, 9, 9, requires_grad=True)
    spiking = nn.LIF().eval()(currents)
    pooled = module(spiking)
    assert pooled.mask is not None
    mask = SpikeTensor(pooled.mask[None], pooled.features).to_dense()
    weights = torch.randn(pooled.shape)
    full, masked = (
        torch.autograd.grad(pooled, currents, w, retain_graph=True)[0]
        for w in (weights, weights * mask)
    )
    assert torch.equal(full, masked)
    if not isinstance(module, nn.MaxPool2d):
        # Not larger than it need be: each set bit lets a gradient through.
        ones = torch.autograd.grad(pooled, spiking, torch.ones_like(weights), retain_graph=True)[0]
        inside = SpikeTensor(spiking.mask[None], spiking.features).to_dense() * (ones != 0)
        assert torch.equal(mask != 0, module(inside) != 0)
