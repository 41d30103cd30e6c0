"""The workloads of the comparison with other libraries: networks, inputs and weights.

Three training problems of growing size, each with synthetic inputs and with weights set so that
every neuron layer fires at 15 %. Everything is a function of the seed.

The weights lie on a grid (`snap`), which makes the comparison exact: every product and every
partial sum of a synapse is then a float32 number, so libraries that add in different orders still
get the same currents, hence the same spikes, hence the same loss. Without it, one neuron within a
rounding error of its threshold spikes in one library and not in the other, and no tolerance tells
that from a wrong network. The grid's step is three times a power of two, so no membrane potential
falls on the threshold (1, no multiple of three), where `>` and `>=` differ.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

DECAY = 0.5
THRESHOLD = 1.0
FIRING_RATE = 0.15

SURROGATE_WIDTHS: dict[str, float] = {"rect": 0.5, "triangle": 1.0, "atan": 1.0 / math.pi}

# A float32 significand: integers up to 2**24 are exact.
_SIGNIFICAND_BITS = 24


@dataclass(frozen=True)
class Conv:
    """A convolution without bias, stride 1, followed by neurons."""

    channels: int
    kernel: int
    padding: int


@dataclass(frozen=True)
class Pool:
    """Average pooling; its stride is its size."""

    size: int


@dataclass(frozen=True)
class Dense:
    """A fully connected layer without bias, followed by neurons."""

    features: int


Layer = Conv | Pool | Dense


@dataclass(frozen=True)
class Workload:
    """A network in the field's notation, and the shape and kind of its input.

    Attributes:
        name: the letter it is asked for by.
        notation: for instance ``16C5-AP2-10``: 16 5x5 filters, 2x2 average pooling, 10 neurons.
        padding: of every convolution.
        input_shape: of one timestep of one sample.
        steps: T.
        batch: B.
        input_kind: ``spikes`` and ``events`` are zeros and ones (density `density`); ``analog`` is
            one image of 8-bit values in [0, 1), shown at every timestep.
        density: share of ones in a binary input.
        classes: labels, and output neurons.
    """

    name: str
    notation: str
    padding: int
    input_shape: tuple[int, ...]
    steps: int
    batch: int
    input_kind: Literal["spikes", "events", "analog"]
    density: float
    classes: int = 10

    @property
    def layers(self) -> list[Layer]:
        """The notation, parsed."""
        return [_parse_layer(token, self.padding) for token in self.notation.split("-")]

    @property
    def binary_input(self) -> bool:
        """True when the input is zeros and ones."""
        return self.input_kind != "analog"

    def describe(self) -> str:
        """One line for tables: network, input, T and B."""
        shape = "x".join(str(n) for n in self.input_shape)
        kind = "analog" if not self.binary_input else f"{self.input_kind}, {self.density:.0%} ones"
        return f"{self.notation} on {shape} ({kind}), T {self.steps}, B {self.batch}"


_CIFAR10NET = "128C3-256C3-AP2-512C3-AP2-1024C3-512C3-1024-512-10"

WORKLOADS: dict[str, Workload] = {
    w.name: w
    for w in (
        Workload("a", "512-10", 0, (784,), 8, 128, "spikes", 0.15),
        Workload("b", "16C5-AP2-32C5-AP2-10", 0, (2, 34, 34), 16, 16, "events", 0.10),
        Workload("c", _CIFAR10NET, 1, (3, 32, 32), 8, 8, "analog", 1.0),
    )
}


@dataclass(frozen=True)
class Problem:
    """A workload made concrete.

    Attributes:
        inputs: float32 [T, B, ...].
        labels: int64 [B].
        weights: one a synapse, in order; [N, K] or [C_out, C_in, k, k].
        firing_rates: of each neuron layer on `inputs`.
    """

    workload: Workload
    inputs: Tensor
    labels: Tensor
    weights: list[Tensor]
    firing_rates: list[float]


def make_problem(workload: Workload, seed: int = 0, *, exact: bool = True) -> Problem:
    """Draws inputs and labels, and weights that make every layer fire at `FIRING_RATE`.

    With `exact` the weights lie on the grid; without, each library rounds its own way.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = _make_inputs(workload, generator)
    labels = torch.randint(workload.classes, (workload.batch,), generator=generator)
    weights: list[Tensor] = []
    rates: list[float] = []
    activity = inputs
    fraction_bits = 0 if workload.binary_input else 8  # of the input's values
    for layer in workload.layers:
        if isinstance(layer, Pool):
            activity = over_time(activity, functools.partial(F.avg_pool2d, kernel_size=layer.size))
            fraction_bits += 2 * (layer.size - 1).bit_length()
            continue
        weight = _draw_weight(layer, activity.shape[2:], generator)
        gain = _gain_for_rate(synapse(layer, weight, activity))
        weight = snap(weight * gain, fraction_bits) if exact else weight * gain
        activity = fire(synapse(layer, weight, activity))
        weights.append(weight)
        rates.append(activity.mean().item())
        fraction_bits = 0
    return Problem(workload, inputs, labels, weights, rates)


def over_time(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Applies a function of [N, ...] to [T, B, ...], T and B taken together."""
    result: Tensor = function(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    return result


def synapse(layer: Conv | Dense, weight: Tensor, x: Tensor) -> Tensor:
    """Currents [T, B, ...] of one layer; images are flattened in front of a dense layer."""
    if isinstance(layer, Conv):
        return over_time(x, lambda images: F.conv2d(images, weight, padding=layer.padding))
    return x.flatten(2) @ weight.t()


def fire(currents: Tensor, gain: float = 1.0) -> Tensor:
    """Spikes [T, B, ...] of the neuron that all contestants share: hard reset, strictly greater."""
    spikes = torch.empty_like(currents)
    state = torch.zeros_like(currents[0])
    for t, current in enumerate(currents):
        membrane = state * DECAY + current * gain
        spikes[t] = membrane > THRESHOLD
        state = membrane * (1.0 - spikes[t])
    return spikes


def snap(weight: Tensor, fraction_bits: int) -> Tensor:
    """Rounds weights to multiples of 3 * 2**-m, m as large as keeps float32 sums exact.

    Args:
        weight: [N, ...], one output channel a row.
        fraction_bits: bits behind the binary point of the inputs, which lie in [0, 1].

    Returns:
        The weights; any sum of products with such inputs is exact in any order.
    """
    rows = weight.flatten(1).double()
    largest_sum = rows.abs().sum(dim=1).max().item()
    integer_bits = math.ceil(math.log2(largest_sum)) + 1  # one spare: rounding adds to the sum
    step = 3.0 * 2.0 ** (integer_bits + fraction_bits - _SIGNIFICAND_BITS)
    return ((rows / step).round() * step).float().reshape(weight.shape)


def _parse_layer(token: str, padding: int) -> Layer:
    if match := re.fullmatch(r"(\d+)C(\d+)", token):
        return Conv(int(match[1]), int(match[2]), padding)
    if match := re.fullmatch(r"AP(\d+)", token):
        return Pool(int(match[1]))
    if token.isdigit():
        return Dense(int(token))
    raise ValueError(f"layer {token!r} is none of 16C5, AP2, 512")


def _make_inputs(workload: Workload, generator: torch.Generator) -> Tensor:
    shape = (workload.steps, workload.batch, *workload.input_shape)
    if workload.binary_input:
        return (torch.rand(shape, generator=generator) < workload.density).float()
    image = torch.randint(256, shape[1:], generator=generator) / 256
    return image.expand(shape).contiguous()


def _draw_weight(layer: Conv | Dense, shape: torch.Size, generator: torch.Generator) -> Tensor:
    if isinstance(layer, Conv):
        size: tuple[int, ...] = (layer.channels, shape[0], layer.kernel, layer.kernel)
    else:
        size = (layer.features, math.prod(shape))
    return torch.randn(size, generator=generator) / math.sqrt(math.prod(size[1:]))


def _gain_for_rate(currents: Tensor) -> float:
    """The factor on `currents` at which the neurons fire at `FIRING_RATE`, by bisection."""
    low, high = 0.0, 1.0
    while fire(currents, high).mean() < FIRING_RATE:
        low, high = high, 2.0 * high
        if high > 1e6:
            raise ValueError(f"no gain makes this layer fire at {FIRING_RATE:.0%}")
    for _ in range(12):
        middle = 0.5 * (low + high)
        if fire(currents, middle).mean() < FIRING_RATE:
            low = middle
        else:
            high = middle
    return high
