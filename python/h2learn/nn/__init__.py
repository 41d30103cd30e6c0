"""Modules for spiking networks over tensors of shape [T, B, ...], time first.

Ordinary torch.nn.Modules with ordinary parameters. Spikes travel between them as bit-packed
`h2learn.SpikeTensor`s; state is kept only within a call unless a neuron is made stateful.
"""

from h2learn.nn.calibration import calibrate
from h2learn.nn.layers import (
    AvgPool2d,
    BatchNorm,
    Dropout,
    Flatten,
    MaxPool2d,
    Readout,
    Residual,
)
from h2learn.nn.neurons import IF, LIF, PLIF, ActivityWarning, reset, set_step_mode
from h2learn.nn.sequential import Sequential
from h2learn.nn.synapses import Conv2d, Linear

__all__ = [
    "IF",
    "LIF",
    "PLIF",
    "ActivityWarning",
    "AvgPool2d",
    "BatchNorm",
    "Conv2d",
    "Dropout",
    "Flatten",
    "Linear",
    "MaxPool2d",
    "Readout",
    "Residual",
    "Sequential",
    "calibrate",
    "reset",
    "set_step_mode",
]
