"""Initialisation from data: weights scaled so that every layer fires at a chosen rate.

With a threshold of 1 and a narrow surrogate, torch's default initialisation leaves deep spiking
networks silent: no spike, no gradient. `calibrate` runs the model once and, layer by layer in
the order in which they run, searches the factor on a layer's currents at which its neurons fire
at the rate asked for; the factor goes into the weights in front of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from h2learn.autograd import soma
from h2learn.nn.layers import BatchNorm
from h2learn.nn.neurons import LIF, reset
from h2learn.nn.synapses import Conv2d, Linear

__all__ = ["calibrate"]

_STEPS = 24
"""Halvings of the logarithmic search interval: far below the resolution of a rate."""
_LARGEST_FACTOR = 1e4


@torch.no_grad()
def calibrate(model: nn.Module, inputs: Tensor, rate: float = 0.15) -> dict[str, float]:
    """Scales weights in place so that each neuron layer fires at `rate` on `inputs`.

    Args:
        model: its neuron layers must each have a Linear, Conv2d or BatchNorm of h2learn before
            them; the last one that ran before a layer is the one scaled (weight and bias).
        inputs: a representative batch, [T, B, ...].
        rate: spikes per neuron and timestep, between 0 and 1.

    Returns:
        The firing rate of each neuron layer afterwards, by module name, in run order.

    Raises:
        ValueError: `rate` out of range, or a neuron layer without weights before it.
    """
    if not (math.isfinite(rate) and 0.0 < rate < 1.0):
        raise ValueError(f"rate must lie strictly between 0 and 1, got {rate}")
    rates: dict[str, float] = {}
    names = {module: name for name, module in model.named_modules()}
    source: list[nn.Module] = []
    scaled: set[nn.Module] = set()

    def remember(module: nn.Module, _args: tuple[Tensor, ...], _out: Tensor) -> None:
        source[:] = [module]

    def adjust(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        assert isinstance(module, LIF)  # noqa: S101
        name = names[module] or type(module).__name__
        if not source:
            raise ValueError(
                f"model has no Linear, Conv2d or BatchNorm before its neuron layer '{name}'"
            )
        currents = args[0]
        before = source[0]
        if before not in scaled:  # a layer used twice keeps its first scale
            factor = _find_factor(module, currents, rate)
            scaled.add(before)
            before.weight.mul_(factor)  # type: ignore[operator]
            if before.bias is not None:
                before.bias.mul_(factor)  # type: ignore[operator]
            currents = currents * factor
        rates[name] = _rate(module, currents)
        return (currents, *args[1:])

    handles = []
    for module in model.modules():
        if isinstance(module, (Linear, Conv2d, BatchNorm)):
            handles.append(module.register_forward_hook(remember))
        elif isinstance(module, LIF):
            handles.append(module.register_forward_pre_hook(adjust))
    try:
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    reset(model)
    return rates


def _rate(neurons: LIF, currents: Tensor) -> float:
    spikes, _ = soma(
        currents,
        decay=neurons.effective_decay(),
        threshold=neurons.threshold,
        surrogate=neurons.surrogate,
        lead=2 if neurons.step_mode == "m" else 1,
        inclusive=neurons.inclusive,
        reset=neurons.reset_mode,
        decay_input=neurons.decay_input,
    )
    return spikes.firing_rate()


def _find_factor(neurons: LIF, currents: Tensor, rate: float) -> float:
    """Bisects the logarithm of the factor: the rate grows with it, though not strictly."""
    low, high = math.log(1.0 / _LARGEST_FACTOR), math.log(_LARGEST_FACTOR)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _rate(neurons, currents * math.exp(middle)) < rate:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)
