"""The three networks that gradients are checked and benchmarks are run on, at any size.

    a   MLP 784-512-10, T 8
    b   16C5-AP2-32C5-AP2-10 on 2 x 34 x 34, T 16
    c   CIFAR10Net, 128C3-256C3-AP2-512C3-AP2-1024C3-512C3-1024-512-10 on 3 x 32 x 32, T 8,
        padding 1, no bias; an analog image shown at every timestep

Neurons are LIF, decay 0.5, threshold 1, hard reset; weights are calibrated to fire at 15 %.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from h2learn import SpikeTensor, nn, surrogate
from torch import Tensor

Neurons = Callable[[], nn.LIF]


class Workload(NamedTuple):
    """A calibrated model, a batch of inputs [T, B, ...] and their labels [B]."""

    model: torch.nn.Sequential
    inputs: Tensor
    labels: Tensor


def lif(bump: surrogate.Surrogate | None = None) -> nn.LIF:
    """The workloads' neuron, with H2Learn's surrogate or another."""
    return nn.LIF(decay=0.5, threshold=1.0, surrogate=bump)


def spikes(*shape: int, rate: float = 0.15) -> SpikeTensor:
    """Random spikes from torch's default generator."""
    return SpikeTensor.from_dense((torch.rand(shape) < rate).float())


def a(neurons: Neurons = lif, *, steps: int = 8, batch: int = 4, width: float = 1.0) -> Workload:
    """MLP; `width` scales the layers between."""
    hidden = round(512 * width)
    model = nn.Sequential(nn.Linear(784, hidden), neurons(), nn.Linear(hidden, 10), _scores())
    return _calibrated(model, spikes(steps, batch, 784))


def b(
    neurons: Neurons = lif, *, steps: int = 16, batch: int = 4, width: float = 1.0, side: int = 34
) -> Workload:
    """Convolutional network on binary event frames of `side` x `side`."""
    first, second = round(16 * width), round(32 * width)
    left = ((side - 4) // 2 - 4) // 2
    model = nn.Sequential(
        nn.Conv2d(2, first, 5), neurons(), nn.AvgPool2d(2),
        nn.Conv2d(first, second, 5), neurons(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(second * left * left, 10), _scores(),
    )  # fmt: skip
    return _calibrated(model, spikes(steps, batch, 2, side, side))


def c(
    neurons: Neurons = lif, *, steps: int = 8, batch: int = 2, width: float = 1.0, side: int = 32
) -> Workload:
    """CIFAR10Net on random images of `side` x `side`."""
    layers: list[torch.nn.Module] = []
    features = 3
    for index, full in enumerate((128, 256, 512, 1024, 512), start=1):
        channels = round(full * width)
        layers += [nn.Conv2d(features, channels, 3, padding=1, bias=False), neurons()]
        if index in (2, 3):
            layers.append(nn.AvgPool2d(2))
        features = channels
    layers.append(nn.Flatten())
    features *= (side // 4) ** 2
    for full in (1024, 512):
        layers += [nn.Linear(features, round(full * width), bias=False), neurons()]
        features = round(full * width)
    layers += [nn.Linear(features, 10, bias=False), _scores()]
    image = torch.rand(batch, 3, side, side)
    return _calibrated(nn.Sequential(*layers), image.expand(steps, *image.shape))


def _one_layer(layer: torch.nn.Module, inputs: Tensor) -> Workload:
    model = nn.Sequential(layer, lif(), nn.Flatten(), nn.Readout("rate"))
    return _calibrated(model, inputs)


def _averages(*shape: int) -> Tensor:
    *lead, height, width = shape
    return nn.AvgPool2d(2, 1)(spikes(*lead, height + 1, width + 1))


LARGE: dict[str, Callable[[], Workload]] = {
    "long sums": lambda: _one_layer(nn.Linear(2300, 70), spikes(4, 60, 2300)),
    "many outputs": lambda: _one_layer(nn.Linear(300, 1100, bias=False), spikes(4, 70, 300)),
    "many channels": lambda: _one_layer(nn.Conv2d(230, 37, 3), spikes(2, 4, 230, 7, 6)),
    "many positions": lambda: _one_layer(nn.Conv2d(3, 34, 5), spikes(4, 3, 3, 24, 26)),
    "counts": lambda: _one_layer(nn.Conv2d(20, 16, 3, padding=1), _averages(3, 5, 20, 19, 21)),
    "analog": lambda: _one_layer(nn.Conv2d(20, 40, 3, 2), torch.randn(4, 5, 20, 25, 23)),
    "groups": lambda: _one_layer(nn.Conv2d(64, 96, 3, groups=4), spikes(3, 4, 64, 14, 14)),
}
"""Single layers whose work is cut: into blocks of the sum, tasks, stretches of positions."""


def _scores() -> nn.Readout:
    return nn.Readout("membrane", decay=0.0)


def _calibrated(model: torch.nn.Sequential, inputs: Tensor) -> Workload:
    nn.calibrate(model, inputs, rate=0.15)
    return Workload(model, inputs, torch.randint(10, (inputs.shape[1],)))
