"""Spiking layers in plain PyTorch, as a careful user writes them without a library.

Two neurons with the same equations (`cpp/include/h2learn/soma.hpp`; hard reset, strictly greater):
`FusedLIF` unrolls T inside one autograd.Function with a hand-written backward pass that saves
only what it needs, and `LoopLIF` leaves all but the spike itself to autograd. Activations are
[T, B, ...]. Used as rivals in the benchmarks, and as h2learn's counterpart in `accuracy.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Neuron:
    """Constants of a leaky integrate-and-fire neuron.

    Attributes:
        decay: of the membrane, each timestep.
        threshold: a spike is u > threshold.
        surrogate: ``rect``, ``triangle`` or ``atan``, each a bump of unit area.
        width: of the surrogate, as h2learn counts it (rect: half the window).
        detach_reset: no gradient through the spike in the reset.
    """

    decay: float
    threshold: float
    surrogate: str
    width: float
    detach_reset: bool

    def slope(self, membrane: Tensor) -> Tensor:
        """The surrogate of ds/du at these membrane potentials."""
        v = membrane - self.threshold
        if self.surrogate == "rect":
            return (v.abs() < self.width).to(v.dtype) / (2.0 * self.width)
        if self.surrogate == "triangle":
            return (1.0 - v.abs() / self.width).clamp_min(0.0) / self.width
        if self.surrogate == "atan":
            return 1.0 / (math.pi * self.width) / (1.0 + (v / self.width).square())
        raise ValueError(f"surrogate {self.surrogate!r} is none of rect, triangle, atan")


class _FusedNeuron(torch.autograd.Function):
    """T timesteps at once. The state is float32 or wider, also when autocast brings bfloat16.

    With the rectangular surrogate and a detached reset the backward pass needs one byte a
    neuron-step, the window, besides the spikes that the next layer saves anyway; otherwise it
    needs the membrane potential, which tells the spikes too.
    """

    @staticmethod
    def forward(ctx: Any, currents: Tensor, neuron: Neuron) -> Tensor:
        wide = currents.float() if currents.itemsize < 4 else currents
        keep_window = neuron.surrogate == "rect" and neuron.detach_reset
        spikes = torch.empty_like(wide)
        kept = torch.empty_like(wide, dtype=torch.bool if keep_window else None)
        state: Tensor | None = None
        for t in range(len(wide)):
            # decay * state is exact for the powers of two used here, so that fusing the two
            # operations changes no bit.
            u = wide[t] if state is None else torch.add(wide[t], state, alpha=neuron.decay)
            torch.gt(u, neuron.threshold, out=spikes[t])
            if keep_window:
                torch.lt((u - neuron.threshold).abs_(), neuron.width, out=kept[t])
            else:
                kept[t] = u
            state = torch.addcmul(u, u, spikes[t], value=-1.0)
        spikes = spikes.to(currents.dtype)
        if keep_window:
            ctx.save_for_backward(kept, spikes)
        else:
            ctx.save_for_backward(kept)
        ctx.neuron = neuron
        return spikes

    @staticmethod
    def backward(ctx: Any, grad_spikes: Tensor) -> tuple[Tensor, None]:
        neuron: Neuron = ctx.neuron
        keep_window = len(ctx.saved_tensors) == 2
        kept = ctx.saved_tensors[0]
        wide = torch.float32 if grad_spikes.itemsize < 4 else grad_spikes.dtype
        gradient = torch.empty_like(grad_spikes, dtype=wide)
        carry: Tensor | None = None  # gradient at the membrane after the reset
        for t in range(len(grad_spikes) - 1, -1, -1):
            arriving = grad_spikes[t]
            if keep_window:
                spiked = ctx.saved_tensors[1][t]
                torch.mul(arriving, kept[t], out=gradient[t])
                if neuron.width != 0.5:
                    gradient[t].div_(2.0 * neuron.width)
            else:
                u = kept[t]
                spiked = u > neuron.threshold
                if carry is not None and not neuron.detach_reset:
                    arriving = torch.addcmul(arriving, carry, u, value=-1.0)
                torch.mul(arriving, neuron.slope(u), out=gradient[t])
            if carry is not None:
                gradient[t].add_(carry.addcmul_(carry, spiked, value=-1.0))
            if t > 0:
                carry = gradient[t] * neuron.decay
        return gradient.to(grad_spikes.dtype), None


class FusedLIF(nn.Module):
    """Currents [T, B, ...] to spikes [T, B, ...], with a hand-written backward pass."""

    def __init__(self, neuron: Neuron) -> None:
        super().__init__()
        self.neuron = neuron

    def forward(self, currents: Tensor) -> Tensor:
        """Spikes of all T steps."""
        spikes: Tensor = _FusedNeuron.apply(currents, self.neuron)  # type: ignore[no-untyped-call]
        return spikes


class _Spike(torch.autograd.Function):
    """One timestep's spike, with the surrogate as its derivative."""

    @staticmethod
    def forward(ctx: Any, membrane: Tensor, neuron: Neuron) -> Tensor:
        ctx.save_for_backward(membrane)
        ctx.neuron = neuron
        return (membrane > neuron.threshold).to(membrane.dtype)

    @staticmethod
    def backward(ctx: Any, grad_spike: Tensor) -> tuple[Tensor, None]:
        (membrane,) = ctx.saved_tensors
        return grad_spike * ctx.neuron.slope(membrane), None


class LoopLIF(nn.Module):
    """The same as a loop over t that autograd differentiates; what torch.compile fuses best."""

    def __init__(self, neuron: Neuron) -> None:
        super().__init__()
        self.neuron = neuron

    def forward(self, currents: Tensor) -> Tensor:
        """Spikes of all T steps."""
        spikes = []
        state: Tensor | None = None
        for current in currents.unbind(0):
            u = current if state is None else state * self.neuron.decay + current
            spike = _Spike.apply(u, self.neuron)  # type: ignore[no-untyped-call]
            spikes.append(spike)
            state = u * (1.0 - (spike.detach() if self.neuron.detach_reset else spike))
        return torch.stack(spikes)


class OverTime(nn.Module):
    """A layer for [N, ...] applied to [T, B, ...], T and B taken together."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """[T, B, ...] to [T, B, ...]."""
        result: Tensor = self.layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return result


class MeanOverTime(nn.Module):
    """The readout: mean of spikes or of currents over T."""

    def forward(self, x: Tensor) -> Tensor:
        """[T, B, N] to [B, N]."""
        return x.mean(0)
