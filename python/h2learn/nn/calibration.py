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
from torch.nn.modules.batchnorm import _BatchNorm

from h2learn import checks
from h2learn.autograd import soma
from h2learn.nn.neurons import LIF, reset

__all__ = ["calibrate"]

_WITH_WEIGHTS = (nn.Linear, nn.Conv2d, _BatchNorm)  # h2learn's own are among them

_STEPS = 24
"""Halvings of the logarithmic search interval: far below the resolution of a rate."""
_LARGEST_FACTOR = 1e4


@torch.no_grad()
def calibrate(model: nn.Module, inputs: Tensor, rate: float = 0.15) -> dict[str, float]:
    """Scales weights in place so that each neuron layer fires at `rate` on `inputs`.

    Dropout is off meanwhile, BatchNorm normalises with the batch, and running statistics, kept
    membranes and the training mode are left as they were.

    Args:
        model: its neuron layers must each have a Linear, Conv2d or BatchNorm before them; the last
            one that ran before a layer is the one scaled (weight and bias).
        inputs: a representative batch, [T, B, ...].
        rate: spikes per neuron and timestep, between 0 and 1.

    Returns:
        The firing rate of each neuron layer afterwards, by module name, in run order.

    Raises:
        ValueError: `rate` out of range, a neuron layer without weights before it, or one that
            cannot reach the rate (its currents are zero, say); weights are left as they were.
    """
    checks.module("model", model)
    if not 0.0 < checks.number("rate", rate) < 1.0:
        raise ValueError(f"rate must lie strictly between 0 and 1, got {rate}")
    search = _Search({module: name for name, module in model.named_modules()}, rate)
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    weights = [(weight, weight.clone()) for weight in model.parameters()]
    handles = []
    membranes = {m: m.membrane for m in model.modules() if isinstance(m, LIF)}
    reset(model)
    for module in model.modules():
        module.training = isinstance(module, _BatchNorm)
        if isinstance(module, _WITH_WEIGHTS):
            handles.append(module.register_forward_hook(search.remember))
        elif isinstance(module, LIF):
            handles.append(module.register_forward_pre_hook(search.adjust))
    try:
        model(inputs)
    except BaseException:
        for weight, before in weights:
            weight.copy_(before)
        raise
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
        for buffer, before in buffers:
            buffer.copy_(before)
        for neurons, membrane in membranes.items():
            neurons.membrane = membrane
    return search.rates


class _Search:
    """Hooks that adjust each neuron layer's weights as the model runs."""

    def __init__(self, names: dict[nn.Module, str], rate: float) -> None:
        self.rates: dict[str, float] = {}
        self._names = names
        self._rate = rate
        self._source: nn.Module | None = None
        self._scaled: set[nn.Module] = set()

    def remember(self, module: nn.Module, _args: tuple[Tensor, ...], _out: Tensor) -> None:
        """Notes the module whose weights set the currents that come next."""
        self._source = module

    def adjust(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Scales the weights before a neuron layer and hands it the scaled currents."""
        assert isinstance(module, LIF)  # noqa: S101
        name = self._names[module] or type(module).__name__
        source, currents = self._source, args[0]
        if source is None or not isinstance(source.weight, Tensor):
            raise ValueError(
                f"model must have a Linear, Conv2d or BatchNorm with weights right before its "
                f"neuron layer '{name}'"
            )
        if source not in self._scaled:  # a layer used twice keeps its first scale
            factor = self._find_factor(module, currents, name)
            self._scaled.add(source)
            source.weight.mul_(factor)
            if isinstance(source.bias, Tensor):
                source.bias.mul_(factor)
            currents = currents * factor
        self.rates[name] = _rate(module, currents)
        return (currents, *args[1:])

    def _find_factor(self, neurons: LIF, currents: Tensor, name: str) -> float:
        """Bisects the logarithm of the factor: the rate grows with it, though not strictly."""
        highest = _rate(neurons, currents * _LARGEST_FACTOR)
        if highest < self._rate:
            raise ValueError(
                f"neuron layer '{name}' cannot reach a rate of {self._rate}: it fires at "
                f"{highest:.3g} with weights {_LARGEST_FACTOR:g} times as large; choose a lower "
                "rate or other inputs"
            )
        low, high = math.log(1.0 / _LARGEST_FACTOR), math.log(_LARGEST_FACTOR)
        for _ in range(_STEPS):
            middle = (low + high) / 2
            if _rate(neurons, currents * math.exp(middle)) < self._rate:
                low = middle
            else:
                high = middle
        return math.exp((low + high) / 2)


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
