"""numerics="hardware": layers that compute as the accelerator's engines do.

That the engines' sums are right to the bit is tested in tests/cpp/datapath_test.cpp; here is what
Python adds: who computes when, quantised inputs, accuracy, errors.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from h2learn import SpikeTensor, datasets, encoders, nn, numerics, ops, recording
from h2learn.analog import analog_planes
from h2learn.autograd import synapse
from h2learn.datapath import rounded
from h2learn.numerics import Arithmetic, hardware
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor
from torch.nn import functional as F

PRECISIONS = ("fp32", "fp16", "bf16")
UNIT = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}
"""Half a step of each format at 1: the largest relative error of rounding once."""

CONV = ops.geometry(6, (7, 6), 9, (3, 3), (1, 2), (1, 0), (1, 1), 3)
CONV_ARGS = {"stride": (1, 2), "padding": (1, 0), "groups": 3}


def spikes(*shape: int, rate: float = 0.3) -> SpikeTensor:
    return SpikeTensor.from_dense((torch.rand(shape) < rate).float())


def products(inputs: Tensor, weight: Tensor, grad: Tensor, shape, **options) -> tuple[Tensor, ...]:
    """Currents, gradient at the inputs and weight gradient of one layer."""
    inputs = inputs.detach().requires_grad_()
    weight = weight.detach().requires_grad_()
    currents = synapse(inputs, weight, options.get("bias"), 2, shape)
    currents.backward(grad)
    return currents.detach(), inputs.grad, weight.grad


def gold(inputs: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """The same in float64, and sums of magnitudes that bound the rounding error of each."""
    dense = (inputs.to_dense() if isinstance(inputs, SpikeTensor) else inputs).double()

    def run(dense: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        dense, weight = dense.detach().requires_grad_(), weight.detach().requires_grad_()
        out = F.conv2d(dense.flatten(0, 1), weight, **CONV_ARGS).unflatten(0, dense.shape[:2])
        out.backward(grad)
        return out.detach(), dense.grad, weight.grad

    exact = run(dense, weight.double(), grad.double())
    return exact, run(dense.abs(), weight.double().abs(), grad.double().abs())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("compact", [False, True])
def test_error_is_that_of_the_format(precision: str, compact: bool) -> None:
    inputs, weight = spikes(4, 3, 6, 7, 6), torch.randn(9, 2, 3, 3)
    grad = torch.randn(4, 3, 9, 7, 2) * (torch.rand(4, 3, 9, 7, 2) < 0.4)
    arithmetic = Arithmetic(precision, update_compact=compact, update_columns=2)
    with hardware(arithmetic):
        found = products(inputs, weight, grad, CONV)
    exact, magnitudes = gold(inputs, weight, grad)
    # A term is rounded as an operand, again in each of up to 6 entries, and sums are fp32; twice
    # for the backward engine's two operands.
    units = 8 * UNIT[precision] + 200 * UNIT["fp32"]
    for value, right, size in zip(found, exact, magnitudes, strict=True):
        assert ((value.double() - right).abs() <= units * size + 1e-7).all()
    if precision != "fp32":
        assert not torch.equal(found[0].double(), exact[0])


def test_fp32_with_exact_weights_is_the_exact_sum() -> None:
    inputs = spikes(3, 2, 6, 7, 6)
    weight = torch.randint(-8, 9, (9, 2, 3, 3)) / 16
    grad = torch.randint(-8, 9, (3, 2, 9, 7, 2)) / 32
    exact, _ = gold(inputs, weight, grad)
    for precision in PRECISIONS:
        with hardware(Arithmetic(precision)):
            found = products(inputs, weight, grad, CONV)
        if precision == "fp32":
            assert all(torch.equal(f.double(), e) for f, e in zip(found, exact, strict=True))
        assert torch.equal(found[2].double(), exact[2])


def test_counts_and_bias() -> None:
    pooled = nn.AvgPool2d(2)(spikes(2, 3, 4, 6, 6, rate=0.5))
    weight = torch.randint(-8, 9, (5, 4, 3, 3)) / 16
    bias = torch.randn(5)
    shape = ops.geometry(4, (3, 3), 5, (3, 3))
    with hardware(Arithmetic("fp16")):
        currents = synapse(pooled, weight, bias, 2, shape)
    right = F.conv2d(pooled.to_dense().flatten(0, 1), weight).unflatten(0, (2, 3))
    assert torch.equal(currents, right + bias[:, None, None])


def test_mask_keeps_the_other_gradients_zero() -> None:
    mask = spikes(3, 2, 70)
    inputs = SpikeTensor(spikes(3, 2, 70).words, (70,), mask=mask.words[0]).requires_grad_()
    with hardware(Arithmetic("bf16")):
        synapse(inputs, torch.randn(8, 70), None, 2, ops.geometry(70, (1, 1), 8)).sum().backward()
    assert torch.equal((inputs.grad != 0).float(), mask.to_dense())


# ---- analog inputs


def values_of(words, plane_weights, scale, features: int) -> Tensor:
    planes = [ops.unpack(torch.from_numpy(plane[None]), features, 1.0) for plane in words]
    return sum(w * p.double() for w, p in zip(plane_weights, planes, strict=True)) * scale


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 70)),
        elements=st.floats(-100, 100, width=32),
    ),
    st.integers(1, 12),
)
def test_analog_planes_are_within_half_a_level(values, bits: int) -> None:
    words, plane_weights, scale = analog_planes(values, bits)
    found = values_of(words, plane_weights, scale, values.shape[1])
    assert words.shape[0] == len(plane_weights) in (1, bits, 2 * bits)
    tolerance = 0.5001 * np.abs(values).max() / (2**bits - 1)
    assert (found - torch.from_numpy(values).double()).abs().max() <= tolerance
    assert (words.shape[0] == 2 * bits) == bool((values < 0).any())


def test_binary_inputs_are_one_exact_plane() -> None:
    values = (np.arange(140).reshape(2, 70) % 3 == 0).astype(np.float32)
    words, plane_weights, scale = analog_planes(values)
    assert (len(words), plane_weights, scale) == (1, [1.0], 1.0)
    assert torch.equal(values_of(words, plane_weights, scale, 70).float(), torch.from_numpy(values))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_analog_inputs_must_be_finite(bad: float) -> None:
    values = np.full((2, 3), 0.5, dtype=np.float32)
    values[1, 1] = bad
    with pytest.raises(ValueError, match=r"finite, got .*(nan|inf) at flat index 4"):
        analog_planes(values)
    with hardware(Arithmetic()), pytest.raises(ValueError, match="finite"):
        nn.Linear(3, 2)(torch.from_numpy(values)[None])


@pytest.mark.parametrize("signed", [False, True])
def test_analog_layers_compute_with_the_levels(signed: bool) -> None:
    images = torch.rand(3, 2, 6, 7, 6) - (0.5 if signed else 0)
    weight, grad = torch.randn(9, 2, 3, 3), torch.randn(3, 2, 9, 7, 2)
    rows = images.movedim(2, -1).reshape(6, -1)
    levels = values_of(*analog_planes(rows.numpy(), 5), rows.shape[1]).float()
    quantised = levels.view(3, 2, 7, 6, 6).movedim(-1, 2)
    with hardware(Arithmetic("fp32", analog_bits=5)):
        found = products(images, weight, grad, CONV)
    exact, magnitudes = gold(quantised, weight, grad)
    for value, right, size in zip(found, exact, magnitudes, strict=True):
        assert ((value.double() - right).abs() <= 1e-5 * size + 1e-7).all()


def test_an_image_repeated_over_time_is_each_timestep_s_input() -> None:
    image, weight = torch.rand(1, 3, 20), torch.randn(8, 20)
    grad, shape = torch.randn(4, 3, 8), ops.geometry(20, (1, 1), 8)
    with hardware(Arithmetic("fp16", update_rows=1, update_inputs=3)):
        repeated = products(image.expand(4, 3, 20), weight, grad, shape)
        copied = products(image.expand(4, 3, 20).contiguous(), weight, grad, shape)
    assert all(torch.equal(a, b) for a, b in zip(repeated, copied, strict=True))


# ---- the update engine's order


def test_order_of_the_update_follows_parts_blocks_and_compaction() -> None:
    inputs, weight = spikes(5, 6, 40, rate=0.5), torch.randn(4, 40)
    grad = torch.randn(5, 6, 4) * (torch.rand(5, 6, 1) < 0.5)
    shape = ops.geometry(40, (1, 1), 4)

    def update(**options: object) -> Tensor:
        with hardware(Arithmetic("bf16", update_rows=1, update_inputs=4, **options)):
            return products(inputs, weight, grad, shape)[2]

    base = update()
    assert torch.equal(base, update(update_columns=1))
    for other in ({"update_parts": 1}, {"update_compact": True}, {"update_spikes_bytes": 30}):
        assert not torch.equal(base, update(**other))
        assert torch.allclose(base, update(**other), rtol=0, atol=0.3)


def test_gradients_that_underflow_are_zero_for_the_chip() -> None:
    events: list[recording.Event] = []

    class Keep:
        def record(self, event: recording.Event) -> None:
            events.append(event)

    layer = nn.Linear(4, 2)
    inputs = spikes(1, 1, 4, rate=1.0).requires_grad_()
    with hardware(Arithmetic("fp16")), recording.listen(Keep()):
        layer(inputs).backward(torch.tensor([[[1e-9, 1e-3]]]))
    assert (layer.weight.grad[0] == 0).all()
    assert (layer.weight.grad[1] != 0).all()
    assert (layer.bias.grad != 0).all()  # a float32 sum beside the engines
    kept = [e.grad_currents for e in events if isinstance(e, recording.WeightUpdate)]
    assert kept[0].flatten().tolist() == [0.0, rounded(torch.tensor(1e-3), "fp16").item()]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rounded(precision: str) -> None:
    values = torch.tensor([1 + 2.0**-9, -1e-9, 65519.0, 65520.0, float("nan")])
    found = rounded(values, precision)
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    torch.testing.assert_close(found, values.to(dtype).float(), rtol=0, atol=0, equal_nan=True)


# ---- the context


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.LIF(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(54, 10), nn.LIF(), nn.Linear(10, 4), nn.Readout(),
    )  # fmt: skip


def gradients(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_backward_outside_of_the_block_is_the_hardware_s_too() -> None:
    model, inputs = network(), torch.rand(3, 2, 2, 6, 6)

    def run(inside: bool) -> Tensor:
        model.zero_grad()
        with hardware(Arithmetic("bf16")):
            loss = model(inputs).square().sum()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        return gradients(model)

    assert torch.equal(run(True), run(False))


def test_blocks_nest_and_end() -> None:
    assert numerics.active() is None
    with hardware(Arithmetic("bf16")) as outer:
        with hardware(Arithmetic("fp32")):
            assert numerics.active() == Arithmetic("fp32")
        assert numerics.active() is outer
        with pytest.raises(RuntimeError), hardware(Arithmetic("fp16")):
            raise RuntimeError
        assert numerics.active() is outer
    assert numerics.active() is None


def test_every_kernel_gives_way() -> None:
    layer, inputs = nn.Linear(20, 5), spikes(2, 3, 20)
    with hardware(Arithmetic("fp16")):
        first = layer(inputs)
        for kernel in ("event", "dense", "lut"):
            layer.kernel = kernel
            assert torch.equal(layer(inputs), first)


def test_does_not_depend_on_threads() -> None:
    model, inputs = network(), torch.rand(3, 4, 2, 6, 6)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        model.zero_grad()
        with hardware(Arithmetic("fp16")):
            model(inputs).square().sum().backward()
        found.append(gradients(model))
    assert torch.equal(*found)


def test_single_steps() -> None:
    layer, inputs = nn.Linear(20, 5), spikes(3, 2, 20)
    with hardware(Arithmetic("fp16")):
        together = layer(inputs)
        apart = torch.stack([layer(inputs[t]) for t in range(3)])
        apart.sum().backward()
    assert torch.equal(together, apart)
    right = inputs.to_dense().sum((0, 1)).expand(5, 20)
    assert torch.equal(layer.weight.grad, right)


def test_no_samples() -> None:
    layer = nn.Linear(20, 5)
    with hardware(Arithmetic()):
        for inputs in (spikes(3, 0, 20), torch.rand(3, 0, 20)):
            layer.zero_grad()
            out = layer(inputs)
            out.sum().backward()
            assert out.shape == (3, 0, 5)
            assert (layer.weight.grad == 0).all()


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_code_follows_the_block() -> None:
    model, inputs = network(), torch.rand(3, 2, 2, 6, 6)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for precision in (None, "bf16", None):
        found = []
        for run in (model, compiled):
            model.zero_grad()
            if precision is None:
                run(inputs).square().sum().backward()
            else:
                with hardware(Arithmetic(precision)):
                    run(inputs).square().sum().backward()
            found.append(gradients(model))
        assert torch.equal(*found)


# ---- the accelerator, errors, training


def test_arithmetic_of_an_accelerator() -> None:
    config = pytest.importorskip("h2learn.accelerators.config")
    machine = config.Accelerator.load("h2learn")
    assert Arithmetic.of(machine) == Arithmetic()
    other = machine.with_(**{"precision": "bf16", "parts": 2, "update.compact": True})
    assert Arithmetic.of(other) == Arithmetic("bf16", update_parts=2, update_compact=True)
    with hardware(machine) as arithmetic:
        assert numerics.active() is arithmetic


def test_bad_arithmetic_is_refused() -> None:
    with pytest.raises(ValueError, match="precision must be one of fp32, fp16, bf16, got 'fp8'"):
        Arithmetic("fp8")
    with pytest.raises(ValueError, match="analog_bits must be 1 to 12, got 13"):
        Arithmetic(analog_bits=13)
    layer, inputs = nn.Linear(200, 5), spikes(3, 2, 200)
    with hardware(Arithmetic(forward_rows=0)), pytest.raises(ValueError, match="rows must be 1"):
        layer(inputs)
    with hardware(Arithmetic(update_spikes_bytes=49)):
        out = layer(inputs)
        with pytest.raises(ValueError, match=r"update\.spikes_bytes = 49 .* at least 50"):
            out.sum().backward()
    layer.weight.data[1, 3] = float("nan")
    with hardware(Arithmetic()), pytest.raises(ValueError, match="weight must be finite, got nan"):
        layer(inputs)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_training_on_digits(precision: str) -> None:
    pytest.importorskip("sklearn")
    digits = datasets.Digits(train=True)
    images, labels = digits.batch(torch.arange(256))
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.LIF(), nn.Linear(64, 10), nn.Readout()
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        with hardware(Arithmetic(precision)):
            loss = F.cross_entropy(model(encoders.direct(images, 4)), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
