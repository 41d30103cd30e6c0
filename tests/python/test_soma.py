"""Neuron layers: spikes bit for bit as soma.hpp rounds them, gradients against the gold model."""

from __future__ import annotations

import itertools

import gold
import pytest
import torch
from h2learn import SpikeTensor, nn, ops
from h2learn.surrogate import ATan, Rect, Sigmoid, Triangle
from hypothesis import given
from hypothesis import strategies as st

SURROGATES = [Rect(0.5), Rect(0.3, 2.0), Triangle(0.6), ATan(), ATan(0.5, 0.7), Sigmoid()]
OPTIONS = [
    dict(zip(("inclusive", "soft", "detach_reset", "decay_input"), flags, strict=True))
    for flags in itertools.product((False, True), repeat=4)
]


def layer(*, soft: bool = False, **options) -> nn.LIF:
    """A LIF that does not warn about its activity."""
    return nn.LIF(reset="soft" if soft else "hard", **options).eval()


def currents(shape=(6, 3, 5), seed: int = 0, scale: float = 0.8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.rand(shape, generator=generator) - 0.1).requires_grad_()


def assert_gold(neurons: nn.LIF, x: torch.Tensor, tolerance: float = 1e-6) -> torch.Tensor:
    """Spikes, and the gradients of a random functional of them, against the gold model."""
    twin = gold.Twin(torch.nn.Sequential(neurons))
    with twin:
        spikes = twin.model(x)
    weights = torch.randn(x.shape)
    grads = torch.autograd.grad((spikes * weights).sum(), [x, *neurons.parameters()])
    x64 = x.detach().double().requires_grad_()
    reference = torch.autograd.grad(
        (twin(x64) * weights.double()).sum(), [x64, *twin.parameters.values()]
    )
    for value, expected in zip(grads, reference, strict=True):
        assert gold.relative_error(value, expected) <= tolerance
    return spikes


@pytest.mark.parametrize("surrogate", SURROGATES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("learn", [False, True], ids=["fixed", "learned"])
def test_every_option(options, surrogate, learn):
    neurons = layer(
        decay=0.6, threshold=0.3, surrogate=surrogate,
        learn_decay=learn, learn_threshold=learn, **options,
    )  # fmt: skip
    spikes = assert_gold(neurons, currents())
    assert 0.1 < spikes.firing_rate() < 0.9


@given(
    steps=st.integers(1, 9),
    batch=st.integers(1, 4),
    features=st.sampled_from([(1,), (63,), (64,), (65,), (200,), (3, 4, 5), (1, 1, 1), (70, 2, 3)]),
    scale=st.sampled_from([0.0, 0.3, 1.0, 4.0]),
    options=st.sampled_from(OPTIONS),
    surrogate=st.sampled_from(SURROGATES),
    decay=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_shapes_and_rates(steps, batch, features, scale, options, surrogate, decay, seed):
    neurons = layer(decay=decay, threshold=0.3, surrogate=surrogate, **options)
    # A lone neuron's few terms may cancel, which costs a digit.
    assert_gold(neurons, currents((steps, batch, *features), seed, scale), tolerance=1e-5)


@pytest.mark.parametrize("value", [-1.0, 10.0])
def test_silent_and_saturated(value):
    spikes = assert_gold(layer(surrogate=ATan()), torch.full((4, 2, 70), value).requires_grad_())
    assert spikes.firing_rate() == (value > 0)


def test_threshold_met_exactly():
    x = torch.tensor([0.25, 0.25]).view(2, 1, 1)
    assert layer(decay=0.0)(x).count() == 0
    assert layer(decay=0.0, inclusive=True)(x).count() == 2


def test_zero_gradients_are_exact_zeros():
    """Where the window is closed and nothing comes back from the future: the chip's sparsity."""
    x = currents((1, 8, 64), scale=3.0)
    layer(surrogate=Rect(0.5))(x).sum().backward()
    outside = (x.detach() - 0.25).abs() >= 0.5
    assert outside.any()
    assert not outside.all()
    assert torch.equal(x.grad == 0, outside)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_membranes_round_as_promised(options):
    """u_t and h_T bit for bit: every product and every sum is rounded, none is fused."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, 200, generator=generator)
    h0 = torch.randn(3, 200, generator=generator)
    inclusive, soft, detach_reset, decay_input = options.values()
    _, _, membrane, last = ops.soma_forward(
        x, h0, torch.tensor(0.7), torch.tensor(0.9), inclusive, "soft" if soft else "hard",
        detach_reset, decay_input, "atan", 0.5, 1.0, False, True, True,
    )  # fmt: skip
    trace = gold.neuron(x, gold.Neuron(0.7, 0.9, **options), initial=h0)
    assert torch.equal(membrane, trace.membrane)
    assert torch.equal(last, trace.last)


def test_window_is_open():
    """|v| < width strictly: with threshold 0.25 and width 0.5, -0.25 and 0.75 are outside."""
    x = torch.tensor([-0.25, -0.2421875, 0.7421875, 0.75]).view(1, 1, 4).requires_grad_()
    for neurons in (layer(), layer(surrogate=Triangle(0.5)), layer(detach_reset=True)):
        spikes = neurons(x)
        assert SpikeTensor(spikes.mask[None], (4,)).tolist() == [[[0, 1, 1, 0]]]
        (grad,) = torch.autograd.grad(spikes.sum(), x)
        assert (grad != 0).flatten().tolist() == [False, True, True, False]


@pytest.mark.parametrize("features", [1, 63, 65, 100])
def test_padding_bits_are_zero(features):
    """In the spikes and in the mask, which of silent neurons would be all ones."""
    x = torch.full((3, 2, features), 0.1, requires_grad=True)
    for options in ({}, {"inclusive": True}, {"soft": True}):
        spikes = layer(**options)(x)
        assert ops.popcount(spikes.mask) == x.numel()
        assert ops.popcount(spikes.words) == spikes.to_dense().sum()


@pytest.mark.parametrize("learned", ["decay", "threshold"])
def test_learns_one_without_the_other(learned):
    neurons = layer(surrogate=Triangle(), **{f"learn_{learned}": True})
    assert [name for name, _ in neurons.named_parameters()] == [learned]
    assert_gold(neurons, currents())


def test_plif():
    neurons = nn.PLIF(0.7, 0.3, surrogate=ATan()).eval()
    assert neurons.effective_decay().item() == pytest.approx(0.7)
    assert [name for name, _ in neurons.named_parameters()] == ["decay_logit"]
    assert_gold(neurons, currents())


def test_if_does_not_leak():
    x = torch.full((5, 1, 1), 0.2)
    assert nn.IF(0.5).eval()(x).to_dense().flatten().tolist() == [0, 0, 1, 0, 0]
    assert_gold(nn.IF(0.5).eval(), currents())


# Other libraries' neurons, as in test_gold.


def test_spikingjelly_and_snntorch_correspondences():
    x = 1.2 * currents((20, 4, 65)).detach()
    jelly = layer(decay=0.5, threshold=0.5, inclusive=True)(x)
    leaky = layer(decay=0.5, threshold=0.5)(x)
    assert 0.1 < leaky.firing_rate() < 0.9
    assert torch.equal(jelly, leaky)
    on_threshold = torch.tensor([0.5, 0.0, 0.4375]).view(3, 1, 1)
    assert layer(decay=0.5, threshold=0.5, inclusive=True)(on_threshold).count() == 1
    assert layer(decay=0.5, threshold=0.5)(on_threshold).to_dense().flatten().tolist() == [0, 0, 1]


# State.


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_state_carries_on(options):
    """Two calls of a stateful layer are one call of twice the length, gradients included."""
    x = currents((8, 3, 65))
    whole = layer(decay=0.6, threshold=0.3, surrogate=ATan(), learn_decay=True, **options)
    parts = layer(
        decay=0.6, threshold=0.3, surrogate=ATan(), learn_decay=True, stateful=True, **options
    )
    weights = torch.randn(x.shape)
    expected = whole(x)
    spikes = torch.cat([parts(x[:3]), parts(x[3:4]), parts(x[4:])])
    assert isinstance(spikes, SpikeTensor)
    assert torch.equal(spikes, expected)
    grads = [
        torch.autograd.grad((s * weights).sum(), [x, module.decay])
        for s, module in ((expected, whole), (spikes, parts))
    ]
    assert torch.equal(grads[0][0], grads[1][0])
    assert torch.allclose(grads[0][1], grads[1][1], rtol=1e-5)


def test_reset_forgets():
    neurons = layer(decay=1.0, threshold=0.5, stateful=True)
    x = torch.full((1, 1, 1), 0.3)
    assert [neurons(x).count() for _ in range(2)] == [0, 1]
    neurons(x)
    neurons.reset()
    assert neurons(x).count() == 0


def test_state_is_kept_only_within_a_call_by_default():
    neurons = layer(decay=1.0, threshold=0.5)
    x = torch.full((1, 1, 1), 0.3)
    assert [neurons(x).count() for _ in range(3)] == [0, 0, 0]


def test_single_steps():
    x = currents((6, 3, 5, 4, 4))
    multi, single = layer(surrogate=ATan()), layer(surrogate=ATan())
    single.step_mode = "s"
    weights = torch.randn(x.shape)
    expected, spikes = multi(x), torch.stack([single(step) for step in x])
    assert torch.equal(spikes, expected)
    left, right = (torch.autograd.grad((s * weights).sum(), x)[0] for s in (expected, spikes))
    assert torch.equal(left, right)
    nn.reset(torch.nn.Sequential(single))
    assert torch.equal(single(x[0]), expected[0])


def test_detached_state_truncates_the_gradient():
    neurons = layer(decay=0.9, threshold=5.0, surrogate=ATan(), stateful=True)
    x = currents((4, 2, 5))
    neurons(x[:2])
    neurons.membrane = neurons.membrane.detach()
    neurons(x[2:]).sum().backward()
    assert not x.grad[:2].any()
    assert x.grad[2:].all()


# What comes in, what is kept.


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.transpose(0, 1),
        lambda x: x[::2],
        lambda x: x[..., ::2],
        lambda x: x[:1].expand(5, *x.shape[1:]),
        lambda x: x.permute(0, 1, 4, 2, 3),
        lambda x: x.bfloat16(),
        lambda x: x.half(),
    ],
)
def test_views_and_narrow_floats(view):
    base = currents((4, 4, 6, 6, 6))
    neurons = layer(surrogate=ATan())
    weights = torch.randn(view(base).shape)
    plain = view(base).detach().float().contiguous().requires_grad_()
    reference = neurons(plain)
    spikes = neurons(view(base))
    assert torch.equal(spikes, reference)
    (spikes * weights).sum().backward()
    (reference * weights).sum().backward()
    (expected,) = torch.autograd.grad(view(base), base, plain.grad.to(view(base).dtype))
    assert torch.equal(base.grad, expected)


def test_takes_spikes_as_currents():
    spikes = SpikeTensor.from_dense((torch.rand(4, 2, 70) < 0.5).float())
    assert torch.equal(layer()(spikes), layer()(spikes.to_dense()))


@pytest.mark.parametrize("shape", [(3, 0, 5), (3, 2, 0), (3, 0, 2, 4, 4)])
def test_empty(shape):
    x = torch.zeros(shape, requires_grad=True)
    spikes = layer()(x)
    assert spikes.shape == shape
    spikes.sum().backward()
    assert x.grad.shape == shape


def saved_bytes(neurons: nn.LIF, x: torch.Tensor) -> int:
    """Bytes autograd keeps of a call, every storage once, parameters aside."""
    storages = {}

    def pack(tensor):
        inner = [tensor.words, tensor.mask] if isinstance(tensor, SpikeTensor) else [tensor]
        for part in inner:
            if part is not None and part.numel() > 1:
                storages[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        neurons(x)
    return sum(storages.values())


def test_saved_for_backward():
    x = currents((8, 4, 640))
    bit = x.numel() // 8
    membrane = x.numel() * 4
    assert saved_bytes(layer(surrogate=Rect(), detach_reset=True), x) == 2 * bit
    assert saved_bytes(layer(surrogate=Rect(), soft=True), x) == 2 * bit
    assert saved_bytes(layer(surrogate=Rect()), x) == 2 * bit + membrane
    assert saved_bytes(layer(surrogate=ATan(), detach_reset=True), x) == bit + membrane
    with torch.no_grad():
        assert saved_bytes(layer(), x) == 0


def test_needs_no_gradient():
    spikes = layer()(currents().detach())
    assert not spikes.requires_grad
    assert spikes.mask is None
