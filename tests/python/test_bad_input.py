"""Bad input to the Python surface: one clear error that names the argument, what was given and what
is allowed, before anything is computed or changed."""

from __future__ import annotations

import math

import pytest
import torch
from h2learn import SpikeTensor, _core, count_operations, nn, ops
from h2learn.kernels import set_kernel
from h2learn.surrogate import ATan, Rect, Sigmoid, Triangle

NAN, INF = math.nan, math.inf


def zeros(*shape: int, **options) -> torch.Tensor:
    return torch.zeros(shape, **options)


def spikes(*shape: int) -> SpikeTensor:
    return SpikeTensor.from_dense(torch.zeros(shape))


def changed(shape, value, at=(1, 1, 2)) -> torch.Tensor:
    x = torch.zeros(shape)
    x[at] = value
    return x


def with_weight(layer, value):
    layer.weight.data.view(-1)[1] = value
    return layer


def with_bias(layer, value):
    layer.bias.data[1] = value
    return layer


def single_step(layer):
    layer.step_mode = "s"
    return layer


def continued(layer):
    layer(zeros(2, 3, 5))
    return layer(zeros(2, 4, 5))


def with_threshold(layer, value):
    layer.threshold.data.fill_(value)
    return layer


MODEL = nn.Sequential(nn.Linear(3, 2), nn.LIF())

# name: (call, exception, what the message must hold)
CALLS = {
    # SpikeTensor
    "half a spike": (
        lambda: SpikeTensor.from_dense(changed((2, 3, 5), 0.5)), ValueError, ["0 or 1", "0.5"]),
    "negative spike": (
        lambda: SpikeTensor.from_dense(changed((2, 3, 5), -1.0)), ValueError, ["0 or 1", "-1"]),
    "NaN spike": (
        lambda: SpikeTensor.from_dense(changed((2, 3, 5), NAN)), ValueError, ["0 or 1", "nan"]),
    "spike of 2 as integer": (
        lambda: SpikeTensor.from_dense(changed((2, 3, 5), 2).long()), ValueError, ["0 or 1", "2"]),
    "almost a spike in float64": (
        lambda: SpikeTensor.from_dense(torch.full((2, 3, 5), 1 - 1e-12, dtype=torch.float64)),
        ValueError, ["0 or 1"]),
    "non-binary image": (
        lambda: SpikeTensor.from_dense(changed((2, 3, 5, 4, 4), 7.0, (1, 2, 3, 1, 1))),
        ValueError, ["0 or 1", "7"]),
    "complex spikes": (
        lambda: SpikeTensor.from_dense(zeros(2, 3, 5, dtype=torch.complex64)),
        TypeError, ["dense", "complex64"]),
    "list of spikes": (
        lambda: SpikeTensor.from_dense([[[0, 1]]]), TypeError, ["dense", "torch.Tensor", "list"]),
    "no features": (
        lambda: SpikeTensor.from_dense(zeros(2, 3)),
        ValueError, ["lead", "2", "[2, 3]"]),
    "lead of 0": (lambda: SpikeTensor.from_dense(zeros(2, 3), 0), ValueError, ["lead", "0"]),
    "float words": (lambda: SpikeTensor(zeros(1, 2, 3, 1), (5,)), TypeError, ["words", "int64"]),
    "short words": (
        lambda: SpikeTensor(zeros(1, 2, 3, 1, dtype=torch.int64), (65,)),
        ValueError, ["words", "(65,)", "[1, 2, 3, 1]"]),
    # neurons
    "decay above 1": (lambda: nn.LIF(decay=1.5), ValueError, ["decay", "1.5", "0", "1"]),
    "negative decay": (lambda: nn.LIF(decay=-0.1), ValueError, ["decay", "-0.1"]),
    "NaN decay": (lambda: nn.LIF(decay=NAN), ValueError, ["decay", "nan"]),
    "text as decay": (lambda: nn.LIF(decay="fast"), TypeError, ["decay", "fast"]),
    "zero threshold": (
        lambda: nn.LIF(threshold=0.0),
        ValueError, ["threshold", "got 0", "greater than 0"]),
    "negative threshold": (lambda: nn.LIF(threshold=-1.0), ValueError, ["threshold", "-1"]),
    "infinite threshold": (lambda: nn.LIF(threshold=INF), ValueError, ["threshold", "inf"]),
    "unknown reset": (
        lambda: nn.LIF(reset="zero"), ValueError, ["reset", "hard", "soft", "zero"]),
    "surrogate by name": (lambda: nn.LIF(surrogate="atan"), TypeError, ["surrogate", "'atan'"]),
    "surrogate's class": (lambda: nn.LIF(surrogate=ATan), TypeError, ["surrogate", "ATan"]),
    "unknown option": (lambda: nn.LIF(tau=2.0), TypeError, ["tau"]),
    "PLIF without leak": (lambda: nn.PLIF(decay=1.0), ValueError, ["decay", "1", "between"]),
    "PLIF NaN": (lambda: nn.PLIF(decay=NAN), ValueError, ["decay", "nan"]),
    "IF threshold": (lambda: nn.IF(threshold=0.0), ValueError, ["threshold", "0"]),
    "unknown step mode": (
        lambda: setattr(nn.LIF(), "step_mode", "x"),
        ValueError, ["step_mode", "'m'", "'s'", "'x'"]),
    "T of zero": (lambda: nn.LIF()(zeros(0, 2, 3)), ValueError, ["currents", "T", "[0, 2, 3]"]),
    "currents without B": (
        lambda: nn.LIF()(zeros(4, 3)), ValueError, ["currents", "[T, B, ...]", "[4, 3]"]),
    "single step without B": (
        lambda: single_step(nn.LIF())(zeros(3)), ValueError, ["currents", "[B, ...]", "[3]"]),
    "NaN current": (
        lambda: nn.LIF()(changed((2, 3, 5), NAN)), ValueError, ["currents", "finite", "nan"]),
    "infinite current": (
        lambda: nn.LIF()(changed((2, 3, 5), -INF)), ValueError, ["currents", "finite", "-inf"]),
    "currents in float64": (
        lambda: nn.LIF()(zeros(2, 3, 5).double()), TypeError, ["currents", "float32", "float64"]),
    "integer currents": (
        lambda: nn.LIF()(zeros(2, 3, 5).long()), TypeError, ["currents", "float32", "int64"]),
    "numpy currents": (
        lambda: nn.LIF()(zeros(2, 3, 5).numpy()),
        TypeError, ["currents", "torch.Tensor", "ndarray"]),
    "meta currents": (
        lambda: nn.LIF()(zeros(2, 3, 5, device="meta")), TypeError, ["currents", "meta"]),
    "another batch in a sequence": (
        lambda: continued(nn.LIF(stateful=True).eval()), ValueError,
        ["membrane", "[3, 5]", "[2, 4, 5]", "reset()"]),
    "threshold learned away": (
        lambda: with_threshold(nn.LIF(learn_threshold=True), -0.5)(zeros(2, 3, 5)),
        ValueError, ["threshold", "-0.5", "greater than 0"]),
    # surrogates
    "negative width": (lambda: Rect(-1.0), ValueError, ["width", "positive", "-1"]),
    "zero width": (lambda: Triangle(0.0), ValueError, ["width", "positive", "0"]),
    "NaN width": (lambda: ATan(NAN), ValueError, ["width", "positive", "nan"]),
    "infinite width": (lambda: Sigmoid(INF), ValueError, ["width", "inf"]),
    "NaN scale": (lambda: Rect(0.5, NAN), ValueError, ["scale", "finite", "nan"]),
    "text as width": (lambda: Rect("wide"), TypeError, ["width", "wide"]),
    # synapses: making them
    "no inputs": (lambda: nn.Linear(0, 4), ValueError, ["in_features", "0", "at least 1"]),
    "negative outputs": (lambda: nn.Linear(4, -1), ValueError, ["out_features", "-1"]),
    "fractional size": (lambda: nn.Linear(4, 2.5), TypeError, ["out_features", "2.5"]),
    "no channels": (lambda: nn.Conv2d(0, 4, 3), ValueError, ["in_channels", "0"]),
    "kernel of 0": (lambda: nn.Conv2d(3, 4, 0), ValueError, ["kernel", "0"]),
    "kernel in one dimension": (
        lambda: nn.Conv2d(3, 4, (3,)), TypeError, ["kernel_size", "pair", "(3,)"]),
    "kernel as text": (lambda: nn.Conv2d(3, 4, "3"), TypeError, ["kernel_size", "'3'"]),
    "stride of 0": (lambda: nn.Conv2d(3, 4, 3, stride=0), ValueError, ["stride", "0"]),
    "negative padding": (lambda: nn.Conv2d(3, 4, 3, padding=-1), ValueError, ["padding", "-1"]),
    "padding by name": (lambda: nn.Conv2d(3, 4, 3, padding="same"), TypeError, ["padding", "same"]),
    "dilation of 0": (lambda: nn.Conv2d(3, 4, 3, dilation=0), ValueError, ["dilation", "0"]),
    "groups that do not divide": (
        lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, ["in_channels", "groups", "3"]),
    "groups of 0": (lambda: nn.Conv2d(3, 4, 3, groups=0), ValueError, ["groups", "0"]),
    "unknown kernel": (
        lambda: nn.Linear(3, 4, kernel="fast"), ValueError,
        ["kernel", "auto", "event", "dense", "lut", "digits", "sampled", "fastest", "'fast'"]),
    "unknown kernel for a model": (
        lambda: set_kernel(MODEL, "fast"), ValueError, ["kernel", "auto", "'fast'"]),
    # synapses: running them
    "too few features": (
        lambda: nn.Linear(5, 4)(zeros(2, 3, 4)), ValueError, ["in_features", "5", "[2, 3, 4]"]),
    "too few features, packed": (
        lambda: nn.Linear(5, 4)(spikes(2, 3, 4)), ValueError, ["in_features", "5", "[2, 3, 4]"]),
    "image into Linear": (
        lambda: nn.Linear(48, 4)(zeros(2, 3, 3, 4, 4)), ValueError, ["inputs", "Flatten"]),
    "vector into Linear": (lambda: nn.Linear(5, 4)(zeros(5)), ValueError, ["inputs", "[5]"]),
    "vector into Conv2d": (
        lambda: nn.Conv2d(3, 4, 3)(zeros(2, 3, 5)),
        ValueError, ["inputs", "[T, B, 3, H, W]", "[2, 3, 5]"]),
    "other channels": (
        lambda: nn.Conv2d(3, 4, 3)(spikes(2, 2, 4, 5, 5)),
        ValueError, ["in_channels", "3", "[2, 2, 4, 5, 5]"]),
    "image smaller than the kernel": (
        lambda: nn.Conv2d(3, 4, 5)(zeros(2, 2, 3, 4, 6)), ValueError, ["kernel", "5", "4 x 6"]),
    "no timesteps": (lambda: nn.Linear(5, 4)(zeros(0, 2, 5)), ValueError, ["T", "[0, 2, 5]"]),
    "inputs in float64": (
        lambda: nn.Linear(5, 4)(zeros(2, 3, 5).double()),
        TypeError, ["inputs", "float32", "float64"]),
    "integer inputs": (
        lambda: nn.Conv2d(3, 4, 3)(zeros(2, 2, 3, 5, 5).int()),
        TypeError, ["inputs", "float32", "int32"]),
    "weights in float64": (
        lambda: nn.Linear(5, 4).double()(zeros(2, 3, 5)),
        TypeError, ["weight", "float32", "float64"]),
    "list as inputs": (
        lambda: nn.Linear(2, 4)([[[0.0, 1.0]]]),
        TypeError, ["inputs", "torch.Tensor", "list"]),
    "NaN input": (
        lambda: nn.Linear(5, 4)(changed((2, 3, 5), NAN)), ValueError, ["inputs", "finite", "nan"]),
    "infinite input": (
        lambda: nn.Linear(5, 4)(changed((2, 3, 5), INF)), ValueError, ["inputs", "finite", "inf"]),
    "NaN weight": (
        lambda: with_weight(nn.Linear(5, 4), NAN)(spikes(2, 3, 5)),
        ValueError, ["weight", "finite", "nan"]),
    "infinite weight": (
        lambda: with_weight(nn.Conv2d(3, 4, 3), INF)(spikes(2, 3, 3, 5, 5)),
        ValueError, ["weight", "finite", "inf"]),
    "NaN weight, analog input": (
        lambda: with_weight(nn.Linear(5, 4), NAN)(zeros(2, 3, 5)),
        ValueError, ["weight", "finite", "nan"]),
    "NaN bias": (
        lambda: with_bias(nn.Linear(5, 4), NAN)(spikes(2, 3, 5)),
        ValueError, ["bias", "finite", "nan"]),
    # between the layers
    "window of 0": (lambda: nn.AvgPool2d(0), ValueError, ["kernel_size", "0", "at least 1"]),
    "window as float": (lambda: nn.MaxPool2d(2.0), TypeError, ["kernel_size", "2.0"]),
    "pooling stride of 0": (lambda: nn.MaxPool2d(2, 0), ValueError, ["stride", "0"]),
    "window larger than the image": (
        lambda: nn.AvgPool2d(5)(spikes(2, 2, 3, 4, 6)),
        ValueError, ["kernel_size", "(5, 5)", "(4, 6)"]),
    "pooling a vector": (
        lambda: nn.MaxPool2d(2)(spikes(2, 3, 5)),
        ValueError, ["inputs", "[2, 3, 5]"]),
    "flattening nothing": (
        lambda: nn.Flatten()(zeros(3)),
        ValueError, ["inputs", "[T, B, F]", "[3]"]),
    "other channels to normalise": (
        lambda: nn.BatchNorm(4)(zeros(2, 3, 5)),
        ValueError, ["inputs", "[T, B, 4, ...]", "[2, 3, 5]"]),
    "dropping everything": (lambda: nn.Dropout(1.0), ValueError, ["p", "1.0", "below 1"]),
    "negative dropout": (lambda: nn.Dropout(-0.1), ValueError, ["p", "-0.1"]),
    "NaN dropout": (lambda: nn.Dropout(NAN), ValueError, ["p", "nan"]),
    "dropout without T": (lambda: nn.Dropout(0.5)(zeros(4)), ValueError, ["inputs", "[4]"]),
    "unknown readout": (
        lambda: nn.Readout("max"), ValueError, ["mode", "membrane", "rate", "last", "'max'"]),
    "readout that explodes": (lambda: nn.Readout(decay=1.1), ValueError, ["decay", "1.1"]),
    "readout of nothing": (
        lambda: nn.Readout()(zeros(0, 2, 3)),
        ValueError, ["inputs", "T", "[0, 2, 3]"]),
    "readout without B": (lambda: nn.Readout()(zeros(2, 3)), ValueError, ["inputs", "[2, 3]"]),
    "branches of two shapes": (
        lambda: nn.Residual(nn.Linear(5, 4))(zeros(2, 3, 5)), ValueError,
        ["body", "shortcut", "[2, 3, 4]", "[2, 3, 5]"]),
    # whole models
    "calibrating to silence": (
        lambda: nn.calibrate(MODEL, zeros(2, 2, 3), 0.0),
        ValueError, ["rate", "between 0 and 1", "0.0"]),
    "calibrating to 1": (
        lambda: nn.calibrate(MODEL, zeros(2, 2, 3), 1.0),
        ValueError, ["rate", "between 0 and 1", "1.0"]),
    "calibrating a list": (
        lambda: nn.calibrate([nn.LIF()], zeros(2, 2, 3)),
        TypeError, ["model", "torch.nn.Module", "list"]),
    "resetting a list": (
        lambda: nn.reset([nn.LIF()]),
        TypeError, ["model", "torch.nn.Module", "list"]),
    "counting a list": (
        lambda: count_operations([nn.LIF()]),
        TypeError, ["model", "torch.nn.Module", "list"]),
    "unknown target": (
        lambda: _core.set_target("sse9"), ValueError, ["target", "scalar", "'sse9'"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_says_what_is_wrong(name):
    call, kind, words = CALLS[name]
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert type(caught.value) in (ValueError, TypeError)
    assert "\n" not in message.strip()
    assert len(message) < 300
    for word in words:
        assert word in message, message


# Operators called directly: wrong sizes are refused, never read past the end.

CONV = list(ops.geometry(3, (5, 5), 4, (3, 3)))
POOL = [3, 5, 5, 2, 2, 2, 2]
SOMA = (False, "hard", False, False, "rect", 0.5, 1.0)
LONG = torch.int64


WEIGHT = zeros(4, 3, 3, 3)
HALF = torch.tensor(0.5)
KEEP = (True, True, True)


def words(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=LONG)


PAIRS = [1, 1, 5, 1, 2, 1, 2]
"""A pooling of five neurons in two pairs."""


def packed(bits=(1, 2, 2), scale=1.0, weight=WEIGHT, bias=None, shape=CONV, kernel="auto"):
    return torch.ops.h2learn.forward_packed(words(*bits), scale, weight, bias, shape, kernel)


def soma(currents=(2, 3, 5), initial=None, options=SOMA):
    x = zeros(*currents)
    return torch.ops.h2learn.soma_forward(x, initial, HALF, HALF, *options, *KEEP)


def soma_backward(
    grad=(2, 3, 5), spikes_shape=(2, 3, 1), mask=(2, 3, 1), membrane=(2, 3, 5), pool=None
):
    return torch.ops.h2learn.soma_backward(
        zeros(*grad), None, words(*spikes_shape), words(*mask), zeros(*membrane), None, None,
        HALF, HALF, *SOMA, False, False, False, pool,
    )  # fmt: skip


DIRECT = {
    "pack float64": lambda op: op.pack(zeros(2, 70).double()),
    "pack a vector": lambda op: op.pack(zeros(70)),
    "unpack short words": lambda op: op.unpack(words(1, 2, 1), 70, 1.0),
    "unpack negative features": lambda op: op.unpack(words(1, 2, 1), -5, 1.0),
    "transpose short words": lambda op: op.transpose_features(words(1, 2, 1), 10, 10, False),
    "transpose nothing": lambda op: op.transpose_features(words(1, 2, 1), 0, 10, False),
    "forward short words": lambda _: packed((1, 2, 1)),
    "forward other weights": lambda _: packed(weight=zeros(4, 2, 3, 3)),
    "forward other bias": lambda _: packed(bias=zeros(5)),
    "forward unknown kernel": lambda _: packed(kernel="fast"),
    "forward no geometry": lambda _: packed(shape=CONV[:5]),
    "forward large kernel": lambda _: packed(
        weight=zeros(4, 3, 9, 9), shape=list(ops.geometry(3, (5, 5), 4, (9, 9)))
    ),
    "forward NaN scale": lambda _: packed(scale=NAN),
    "forward too many planes": lambda _: packed((40, 2, 2)),
    "forward short analog": lambda op: op.forward_dense(zeros(2, 74), WEIGHT, None, CONV, "auto"),
    "forward float64": lambda op: op.forward_dense(
        zeros(2, 75).double(), WEIGHT, None, CONV, "auto"
    ),
    "backward short gradient": lambda op: op.backward(zeros(2, 9, 3), WEIGHT, None, CONV, "auto"),
    "backward short mask": lambda op: op.backward(
        zeros(2, 9, 4), WEIGHT, words(2, 1), CONV, "auto"
    ),
    "update other rows": lambda op: op.weight_update_packed(
        words(1, 3, 2), 1.0, zeros(2, 9, 4), CONV, "auto"
    ),
    "update other analog rows": lambda op: op.weight_update_dense(
        zeros(3, 75), zeros(2, 9, 4), CONV, "auto"
    ),
    "soma other initial": lambda _: soma(initial=zeros(3, 4)),
    "soma rank": lambda _: soma((6, 5)),
    "soma unknown surrogate": lambda _: soma(options=(*SOMA[:4], "box", *SOMA[5:])),
    "soma backward short spikes": lambda _: soma_backward(spikes_shape=(2, 2, 1)),
    "soma backward short mask": lambda _: soma_backward(mask=(1, 3, 1)),
    "soma backward short membrane": lambda _: soma_backward(membrane=(2, 3, 4)),
    "soma backward pool short gradient": lambda _: soma_backward((2, 3, 1), pool=PAIRS),
    "soma backward pool no geometry": lambda _: soma_backward((2, 3, 2), pool=PAIRS[:5]),
    "soma backward pool other neurons": lambda _: soma_backward(
        (2, 3, 3), pool=[1, 1, 6, *PAIRS[3:]]
    ),
    "soma backward pool large window": lambda _: soma_backward(
        (2, 3, 2), pool=[1, 1, 5, 2, 2, 1, 2]
    ),
    "soma backward pool negative": lambda _: soma_backward((2, 3, 2), pool=[-1, -1, 5, 1, 2, 1, 2]),
    "pool short words": lambda op: op.count_pool(words(2, 1), POOL),
    "pool large window": lambda op: op.max_pool(words(2, 2), [3, 5, 5, 6, 6, 1, 1]),
    "pool no geometry": lambda op: op.max_pool(words(2, 2), [3, 5]),
    "pool short gradient": lambda op: op.average_pool_backward(zeros(2, 11), POOL),
    "pool other rows": lambda op: op.max_pool_backward(words(3, 2), zeros(2, 12), POOL),
}


@pytest.mark.parametrize("name", DIRECT)
def test_operators_refuse_wrong_sizes(name):
    with pytest.raises((ValueError, TypeError, IndexError, RuntimeError)):
        DIRECT[name](torch.ops.h2learn)


def test_nothing_changes_when_something_is_wrong():
    layer = nn.LIF(stateful=True).eval()
    layer(torch.full((2, 1, 3), 0.1))
    before = layer.membrane.clone()
    with pytest.raises(ValueError, match="finite"):
        layer(torch.full((2, 1, 3), NAN))
    assert torch.equal(layer.membrane, before)
    model = nn.Sequential(nn.Linear(3, 2), nn.LIF(), nn.Linear(4, 2), nn.LIF())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="in_features"):
        nn.calibrate(model, torch.rand(4, 2, 3))
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_gradients_that_are_not_finite_pass_through():
    """A loss that overflows is the optimiser's business (GradScaler skips such steps)."""
    layer = nn.Linear(5, 4)
    (layer(spikes(2, 3, 5)) * INF).sum().backward()
    assert not layer.bias.grad.isfinite().any()
