"""Linear and Conv2d: currents as forward.hpp orders their sums, gradients against the gold model,
for every kernel, on spikes, counts and analog inputs."""

from __future__ import annotations

import copy
import io

import gold
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from h2learn import SpikeTensor, _core, nn, ops
from h2learn.kernels import KERNELS, set_kernel
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

SUM_BLOCK = 256  # forward.hpp
INF = float("inf")


def spikes(shape, rate: float = 0.3, seed: int = 0) -> SpikeTensor:
    generator = torch.Generator().manual_seed(seed)
    return SpikeTensor.from_dense((torch.rand(shape, generator=generator) < rate).float())


def counts(shape, rate: float = 0.3, seed: int = 0) -> SpikeTensor:
    """Averages over 3 x 3 windows: four bit planes, scale 1 / 9."""
    *lead, height, width = shape
    return nn.AvgPool2d(3, 1)(spikes((*lead, height + 2, width + 2), rate, seed))


def analog(shape, rate: float = 0.3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(shape, generator=generator)
    return dense * (torch.rand(shape, generator=generator) < rate)


def make(module: type, *args, seed: int = 0, **options):
    torch.manual_seed(seed)
    return module(*args, **options)


# The order of additions.


def contract(layer: nn.Conv2d, inputs: SpikeTensor) -> Tensor:
    """forward.hpp's currents in numpy, one rounding after another."""
    images = inputs.to_dense().flatten(0, 1)
    currents = sum_in_order(layer, (images / inputs.scale).round()) * np.float32(inputs.scale)
    if layer.bias is not None:
        currents = currents + layer.bias.detach().numpy()
    height = (
        images.shape[2] + 2 * layer.padding[0] - layer.dilation[0] * (layer.kernel_size[0] - 1) - 1
    ) // layer.stride[0] + 1
    result = torch.from_numpy(currents).transpose(1, 2)
    return result.unflatten(2, (height, -1)).unflatten(0, inputs.shape[:2])


def sum_in_order(layer: nn.Conv2d, values: Tensor) -> np.ndarray:
    """[images, positions, outputs]: blocks of SUM_BLOCK terms, taps outside, channels inside."""
    taps = layer.kernel_size[0] * layer.kernel_size[1]
    sums = []
    for group, weight in zip(
        values.chunk(layer.groups, 1), layer.weight.detach().chunk(layer.groups), strict=True
    ):
        columns = F.unfold(group, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        columns = columns.unflatten(1, (-1, taps)).transpose(1, 2).flatten(1, 2)
        flat = weight.flatten(2).transpose(1, 2).flatten(1)
        terms = columns[:, :, :, None].numpy().astype(np.longdouble)
        terms = terms * flat.T[None, :, None, :].numpy()
        blocks = [
            fused_sum(terms[:, start : start + SUM_BLOCK])
            for start in range(0, terms.shape[1], SUM_BLOCK)
        ]
        sums.append(np.add.accumulate(np.stack(blocks), axis=0)[-1])
    return np.concatenate(sums, axis=-1)


def fused_sum(terms: np.ndarray) -> np.ndarray:
    """Sums over axis 1, rounding to float32 after each term. A long double holds products of counts
    and weights exactly."""
    total = np.zeros_like(terms[:, 0], dtype=np.float32)
    for k in range(terms.shape[1]):
        total = (total + terms[:, k]).astype(np.float32)
    return total


@pytest.mark.parametrize("kernel", ["auto", "event", "dense"])
@pytest.mark.parametrize("kind", [spikes, counts])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((3, 2, 5, 7, 6), {"out_channels": 4, "kernel_size": 3}),
        ((2, 1, 40, 5, 5), {"out_channels": 9, "kernel_size": 3, "padding": 1, "bias": False}),
        ((1, 2, 65, 6, 4), {"out_channels": 17, "kernel_size": (2, 3), "stride": (2, 1)}),
        ((1, 1, 300, 4, 4), {"out_channels": 3, "kernel_size": 2, "dilation": 2}),
        ((2, 2, 12, 5, 5), {"out_channels": 6, "kernel_size": 3, "groups": 3, "padding": 2}),
    ],
)
def test_currents_in_the_order_of_the_contract(shape, options, kind, kernel):
    layer = make(nn.Conv2d, shape[2], **options, kernel=kernel)
    inputs = kind(shape)
    assert torch.equal(layer(inputs), contract(layer, inputs))


@pytest.mark.parametrize("kernel", ["auto", "event", "dense"])
@pytest.mark.parametrize("features", [1, 63, 256, 257, 1000])
def test_linear_in_the_order_of_the_contract(features, kernel):
    layer = make(nn.Linear, features, 37, kernel=kernel)
    inputs = spikes((2, 3, features))
    terms = (inputs.to_dense()[..., None] * layer.weight.detach().T).numpy()
    blocks = [
        np.add.accumulate(terms[:, :, k : k + SUM_BLOCK], axis=2)[:, :, -1]
        for k in range(0, features, SUM_BLOCK)
    ]
    expected = np.add.accumulate(np.stack(blocks), axis=0)[-1] + layer.bias.detach().numpy()
    assert np.array_equal(layer(inputs).detach().numpy(), expected)


# Values and gradients.


def assert_gold(layer, inputs: Tensor, tolerance: float = 1e-6) -> None:
    """Currents and all gradients, against torch's own operator in float64. Each element's error is
    relative to the sum of its terms' magnitudes: rounding is, whatever cancels."""
    inputs = inputs.detach().requires_grad_()
    currents = layer(inputs)
    assert currents.dtype == torch.float32
    weights = torch.randn(currents.shape)
    wanted = [inputs, *layer.parameters()]
    values = [currents, *torch.autograd.grad((currents * weights).sum(), wanted)]

    x = (inputs.to_dense() if isinstance(inputs, SpikeTensor) else inputs).detach().double()
    references = in_float64(layer, x, weights.double(), lambda tensor: tensor)
    magnitudes = in_float64(layer, x, weights.double(), torch.abs)
    for value, reference, magnitude in zip(values, references, magnitudes, strict=True):
        value = value.to_dense() if isinstance(value, SpikeTensor) else value
        assert value.shape == reference.shape
        assert ((value - reference).abs() <= tolerance * magnitude).all()


def in_float64(layer, x: Tensor, weights: Tensor, change) -> list[Tensor]:
    """Currents and gradients of the gold model, every operand changed first."""
    twin = gold.Twin(torch.nn.Sequential(layer))
    leaves = [x, *twin.parameters.values()]
    changed = [change(leaf.detach()).requires_grad_() for leaf in leaves]
    twin.parameters = dict(zip(twin.parameters, changed[1:], strict=True))
    currents = twin(changed[0])
    return [currents, *torch.autograd.grad((currents * change(weights)).sum(), changed)]


KINDS = st.sampled_from([spikes, counts, analog])
RATES = st.sampled_from([0.0, 0.02, 0.3, 0.9, 1.0])


@st.composite
def convolutions(draw):
    """(inputs' shape, options of Conv2d): every size odd and even, windows that fit."""

    def two(low, high):
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels = groups * draw(st.sampled_from([1, 2, 3, 7, 16, 33, 65]))
    outputs = groups * draw(st.sampled_from([1, 2, 5, 16, 19]))
    kernel, stride, padding, dilation = two(1, 3), two(1, 3), two(0, 2), two(1, 2)
    size = [
        max(1, d * (k - 1) + 1 - 2 * p) + draw(st.integers(0, 5))
        for k, p, d in zip(kernel, padding, dilation, strict=True)
    ]
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), channels, *size)
    options = {
        "out_channels": outputs, "kernel_size": kernel, "stride": stride, "padding": padding,
        "dilation": dilation, "groups": groups, "bias": draw(st.booleans()),
    }  # fmt: skip
    return shape, options


@given(convolutions(), KINDS, RATES, st.sampled_from(sorted(KERNELS)), st.integers(0, 2**16))
def test_convolution(geometry, kind, rate, kernel, seed):
    shape, options = geometry
    layer = make(nn.Conv2d, shape[2], **options, kernel=kernel, seed=seed)
    assert_gold(layer, kind(shape, rate, seed))


@given(
    st.integers(1, 3),
    st.integers(1, 5),
    st.sampled_from([1, 5, 64, 100, 257, 600]),
    st.sampled_from([1, 3, 10, 16, 65]),
    st.booleans(),
    st.sampled_from([spikes, analog]),
    RATES,
    st.sampled_from(sorted(KERNELS)),
    st.integers(0, 2**16),
)
def test_linear(steps, batch, features, outputs, bias, kind, rate, kernel, seed):
    layer = make(nn.Linear, features, outputs, bias, kernel=kernel, seed=seed)
    assert_gold(layer, kind((steps, batch, features), rate, seed))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("rate", [0.0, 1.0])
@pytest.mark.parametrize("kind", [spikes, counts, analog])
def test_silence_and_saturation(kind, rate, kernel):
    layer = make(nn.Conv2d, 5, 7, 3, kernel=kernel)
    assert_gold(layer, kind((2, 2, 5, 6, 6), rate))
    if rate == 0.0:
        currents = layer(kind((2, 2, 5, 6, 6), rate))
        assert torch.equal(currents, layer.bias[:, None, None].expand_as(currents))


@pytest.mark.parametrize("kernel", KERNELS)
def test_single_step(kernel):
    """[B, ...] without T gives that step of [T, B, ...]."""
    linear, conv = make(nn.Linear, 70, 9, kernel=kernel), make(nn.Conv2d, 3, 4, 3, kernel=kernel)
    for layer, x in ((linear, spikes((2, 4, 70))), (conv, spikes((2, 4, 3, 6, 5)))):
        whole = layer(x)
        for step, expected in zip(x, whole, strict=True):
            assert torch.equal(layer(step), expected)
            assert torch.equal(layer(step.to_dense()), layer(x.to_dense())[0]) or step is not x[0]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:1].expand(5, *x.shape[1:]),
        lambda x: x[:, :1].expand(x.shape[0], 4, *x.shape[2:]),
        lambda x: x[:1, :1].expand(3, 2, *x.shape[2:]),
        lambda x: x[..., :1].expand_as(x),
        lambda x: x.movedim(-1, 0),
        lambda x: x.transpose(0, 1),
        lambda x: x[::2, 1:],
        lambda x: x.flip(0).transpose(3, 4),
        lambda x: x.movedim(2, -1).contiguous().movedim(-1, 2),
        lambda x: x.bfloat16(),
    ],
)
def test_views_and_narrow_floats(view, kernel):
    """Gradients of the base of a view, which for expanded inputs are sums over the copies."""
    layer = make(nn.Conv2d, 3, 4, 3, kernel=kernel)
    base = analog((4, 3, 3, 6, 6), 0.7).requires_grad_()
    plain = view(base).detach().float().clone(memory_format=torch.contiguous_format)
    plain.requires_grad_()
    weights = torch.randn(layer(plain).shape)
    grads = []
    for x in (view(base), plain):
        layer.zero_grad()
        (layer(x) * weights).sum().backward()
        grads.append([p.grad.clone() for p in layer.parameters()])
    assert torch.equal(layer(view(base)), layer(plain))
    for value, expected in zip(*grads, strict=True):
        assert gold.relative_error(value, expected) <= 1e-6
    (expected,) = torch.autograd.grad(view(base), base, plain.grad.to(view(base).dtype))
    assert gold.relative_error(base.grad, expected) <= 1e-6


def test_currents_may_be_modified_in_place():
    """Also where one image was computed once for all timesteps."""
    layer, image = make(nn.Conv2d, 3, 4, 3), torch.randn(2, 3, 6, 6)
    x = image.expand(5, *image.shape)
    weights = torch.randn(5, 2, 4, 4, 4)
    expected = torch.autograd.grad((F.relu(layer(x)) * weights).sum(), layer.weight)[0]
    currents = F.relu_(layer(x))
    assert torch.equal(torch.autograd.grad((currents * weights).sum(), layer.weight)[0], expected)


@pytest.mark.parametrize(
    "lay_out",
    [
        lambda w: w.transpose(2, 3).contiguous().transpose(2, 3),
        lambda w: w.contiguous(memory_format=torch.channels_last),
    ],
)
def test_weights_in_any_memory_layout(lay_out):
    layer, x = make(nn.Conv2d, 3, 4, 3), spikes((2, 2, 3, 6, 6))
    expected = layer(x)
    layer.weight.data = lay_out(layer.weight.data)
    assert not layer.weight.is_contiguous()
    assert torch.equal(layer(x), expected)
    assert_gold(layer, x)


@pytest.mark.parametrize("shape", [(2, 0, 5), (3, 2, 0)])
def test_empty_linear(shape):
    if shape[2] == 0:
        with pytest.raises(ValueError, match=r"in_channels|in_features"):
            nn.Linear(0, 4)
        return
    x = torch.zeros(shape, requires_grad=True)
    for inputs in (x, SpikeTensor.from_dense(x).requires_grad_()):
        layer = make(nn.Linear, 5, 4)
        currents = layer(inputs)
        assert currents.shape == (*shape[:2], 4)
        currents.sum().backward()
        assert not layer.weight.grad.any()
        assert inputs.grad.shape == shape


def test_empty_batch_of_images():
    layer = make(nn.Conv2d, 3, 4, 3)
    for x in (torch.zeros(2, 0, 3, 6, 6), SpikeTensor.from_dense(torch.zeros(2, 0, 3, 6, 6))):
        layer.zero_grad()
        currents = layer(x)
        assert currents.shape == (2, 0, 4, 4, 4)
        currents.sum().backward()
        assert not layer.weight.grad.any()
        assert not layer.bias.grad.any()


def test_only_what_is_asked_for():
    layer = make(nn.Linear, 5, 4)
    layer.weight.requires_grad_(False)
    x = spikes((2, 3, 5)).requires_grad_()
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert torch.equal(layer.bias.grad, torch.full((4,), 6.0))
    assert torch.allclose(x.grad[0, 0], layer.weight.sum(0))
    with torch.no_grad():
        assert not layer(x).requires_grad


def test_saves_its_inputs_packed():
    layer, x = make(nn.Linear, 640, 4), spikes((8, 4, 640))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(x)
    kept = [t for t in saved if t is not layer.weight and t is not layer.bias]
    assert all(isinstance(t, SpikeTensor) or t.dtype == torch.int64 for t in kept)
    assert (
        sum(t.packed_nbytes if isinstance(t, SpikeTensor) else t.nbytes for t in kept) == 8 * 4 * 80
    )


def saved_and_loaded(tensor: Tensor) -> Tensor:
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    return torch.load(file)


# The mask: gradients that nobody uses are not computed, and nothing else changes.


@pytest.mark.parametrize("kernel", KERNELS)
def test_masked_gradient_is_the_gradient(kernel):
    currents = torch.rand(4, 2, 3, 8, 8, requires_grad=True)
    model = torch.nn.Sequential(nn.LIF().eval(), make(nn.Conv2d, 3, 4, 3, kernel=kernel))
    spiking = model[0](currents)
    outside = ~SpikeTensor(spiking.mask[None], spiking.features).to_dense().bool()
    assert outside.any()
    output = model[1](spiking)
    weights = torch.randn(output.shape)
    masked, through = torch.autograd.grad(
        (output * weights).sum(), [spiking, currents], retain_graph=True
    )
    dense = spiking.to_dense().detach().requires_grad_()
    (full,) = torch.autograd.grad((model[1](dense) * weights).sum(), dense)
    assert not masked[outside].any()
    assert gold.relative_error(masked[~outside], full[~outside]) <= 1e-6
    (expected,) = torch.autograd.grad(spiking, currents, full)
    assert gold.relative_error(through, expected) <= 1e-6


@pytest.mark.parametrize("cut", [SpikeTensor.detach, copy.deepcopy, saved_and_loaded])
def test_a_leaf_gets_every_gradient(cut):
    """Cut from its neurons, a spike tensor is an input like any other: no gradient is skipped."""
    layer = make(nn.Conv2d, 3, 4, 3)
    spiking = nn.LIF().eval()(torch.rand(4, 2, 3, 8, 8, requires_grad=True))
    x = cut(spiking.detach()).requires_grad_()
    weights = torch.randn(4, 2, 4, 6, 6)
    (value,) = torch.autograd.grad((layer(x) * weights).sum(), x)
    dense = x.detach().to_dense().requires_grad_()
    (expected,) = torch.autograd.grad((layer(dense) * weights).sum(), dense)
    assert gold.relative_error(value, expected) <= 1e-6


def test_set_kernel():
    model = torch.nn.Sequential(nn.Linear(4, 4), torch.nn.Sequential(nn.Conv2d(1, 1, 1)))
    set_kernel(model, "lut")
    assert [model[0].kernel, model[1][0].kernel] == ["lut", "lut"]


# Sizes and numbers at their ends.


def exactly(value: Tensor, expected: Tensor) -> bool:
    """The same numbers, where NaN is NaN."""
    return torch.equal(value.isnan(), expected.isnan()) and torch.equal(
        value.nan_to_num(0.0, INF, -INF), expected.nan_to_num(0.0, INF, -INF)
    )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("outputs", [1, 17])
@pytest.mark.parametrize("features", [1, 65])
@pytest.mark.parametrize("batch", [1, 3, 300])
def test_one_of_everything(batch, features, outputs, kernel):
    for kind in (spikes, analog):
        assert_gold(make(nn.Linear, features, outputs, kernel=kernel), kind((1, batch, features)))


@pytest.mark.parametrize("kernel", KERNELS)
def test_unaligned_memory(kernel):
    """Operands that begin anywhere a float or a word may."""

    def moved(tensor: Tensor) -> Tensor:
        copy = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)[1:].view(tensor.shape)
        return copy.copy_(tensor)

    shape = list(ops.geometry(33, (7, 6), 19, (3, 3), padding=(1, 1)))
    words = spikes((1, 3, 33, 7, 6)).words[0]
    weight, bias, grads = torch.randn(19, 33, 3, 3), torch.randn(19), torch.randn(3, 42, 19)
    inputs, mask = torch.randn(3, 33 * 42), spikes((1, 3, 33, 7, 6), 0.5).words[0, 0]
    for call, operands in (
        (lambda w, k, b: ops.forward_packed(w, 1.0, k, b, shape, kernel), (words, weight, bias)),
        (lambda x, k, b: ops.forward_dense(x, k, b, shape, kernel), (inputs, weight, bias)),
        (lambda g, k, m: ops.backward(g, k, m, shape, kernel), (grads, weight, mask)),
        (lambda w, g: ops.weight_update_packed(w, 1.0, g, shape, kernel), (words, grads)),
        (lambda x, g: ops.weight_update_dense(x, g, shape, kernel), (inputs, grads)),
    ):
        assert torch.equal(call(*map(moved, operands)), call(*operands))


def whole(shape, largest: int) -> Tensor:
    return torch.randint(-largest, largest + 1, shape).float()


@pytest.mark.parametrize("kernel", ["auto", "event", "dense"])
def test_ten_million_positions(kernel):
    """Whole numbers below 2^24, of which float32 sums are exact in any order."""
    layer, side = make(nn.Conv2d, 1, 1, 3, padding=1, kernel=kernel), 3163
    layer.weight.data = whole((1, 1, 3, 3), 4)
    layer.bias.data = whole((1,), 4)
    x = spikes((1, 1, 1, side, side)).requires_grad_()
    grads = whole((1, 1, 1, side, side), 1)
    dense = x.detach().to_dense()[0].requires_grad_()
    wanted = [layer.weight, layer.bias]
    expected = F.conv2d(dense, *wanted, padding=1)
    currents = layer(x)
    assert torch.equal(currents[0], expected)
    values = torch.autograd.grad(currents, [x, *wanted], grads)
    references = torch.autograd.grad(expected, [dense, *wanted], grads[0])
    for value, reference in zip(values, references, strict=True):
        assert torch.equal(value.view_as(reference), reference)


@pytest.mark.parametrize("kernel", ["auto", "event", "dense"])
def test_ten_million_images(kernel):
    layer, images = make(nn.Linear, 1, 1, kernel=kernel), 10_000_001
    layer.weight.data.fill_(3.0)
    layer.bias.data.fill_(-2.0)
    x, grads = spikes((1, images, 1)).requires_grad_(), whole((1, images, 1), 1)
    dense = x.detach().to_dense()
    currents = layer(x)
    assert torch.equal(currents, 3.0 * dense - 2.0)
    values = torch.autograd.grad(currents, [x, layer.weight, layer.bias], grads)
    assert torch.equal(values[0], 3.0 * grads)
    assert values[1].item() == (grads * dense).sum(dtype=torch.float64).item()
    assert values[2].item() == grads.sum(dtype=torch.float64).item()


@pytest.mark.parametrize("kernel", ["auto", "event", "dense"])
@pytest.mark.parametrize("target", _core.available_targets())
def test_the_largest_weights(target, kernel):
    """Sums overflow as float32 sums in the order of the contract do, and nowhere else."""
    _core.set_target(target)
    layer = make(nn.Conv2d, 300, 5, 2, kernel=kernel)
    signs = whole(layer.weight.shape, 1)
    layer.weight.data = signs * torch.finfo(torch.float32).max
    inputs = spikes((1, 2, 300, 4, 4), 0.01).requires_grad_()
    with np.errstate(over="ignore", invalid="ignore"):
        expected = contract(layer, inputs.detach())
    currents = layer(inputs)
    assert currents.isinf().any()
    assert currents.isfinite().any()
    assert exactly(currents, expected)
    grads = whole(currents.shape, 1)
    layer.kernel = "dense"
    wanted = [inputs, layer.weight]
    reference = torch.autograd.grad(layer(inputs), wanted, grads * torch.finfo(torch.float32).max)
    layer.kernel = kernel
    values = torch.autograd.grad(layer(inputs), wanted, grads * torch.finfo(torch.float32).max)
    for value, expected in zip(values, reference, strict=True):
        assert exactly(value, expected)


@pytest.mark.parametrize("target", _core.available_targets())
def test_digits_overflow_where_the_sum_does(target):
    _core.set_target(target)
    layer = make(nn.Linear, 600, 5, bias=False, kernel="digits")
    layer.weight.data = whole(layer.weight.shape, 1) * torch.finfo(torch.float32).max
    inputs = spikes((1, 50, 600), 0.02)
    expected = (inputs.to_dense().double() @ layer.weight.double().T).float()
    assert expected.isinf().any()
    assert expected.isfinite().any()
    assert torch.equal(layer(inputs), expected)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("target", _core.available_targets())
def test_denormals_are_numbers(target, kernel):
    """The smallest floats add up exactly; none is taken for zero."""
    _core.set_target(target)
    smallest = 2.0**-149
    layer = make(nn.Conv2d, 40, 17, 3, kernel=kernel)
    x, grads = spikes((2, 3, 40, 6, 7)).requires_grad_(), whole((2, 3, 17, 4, 5), 8)
    dense = x.detach().to_dense().flatten(0, 1).requires_grad_()
    numbers, bias = whole(layer.weight.shape, 8).requires_grad_(), whole((17,), 8)
    currents = F.conv2d(dense, numbers, bias)
    references = torch.autograd.grad(currents, [dense, numbers], grads.flatten(0, 1))
    layer.weight.data, layer.bias.data = numbers.detach() * smallest, bias * smallest
    assert torch.equal(layer(x).flatten(0, 1), currents.detach() * smallest)
    assert currents.any()
    layer.weight.data = numbers.detach()
    values = torch.autograd.grad(layer(x), [x, layer.weight], grads * smallest)
    for value, reference in zip(values, references, strict=True):
        assert torch.equal(value.view_as(reference), reference * smallest)
