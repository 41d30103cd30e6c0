"""Listeners: who wants to know what a training step really computed.

Kernels and modules know nothing of counters or accelerators. While at least one listener is
registered, the differentiable functions hand it one event a layer and pass, holding the very
operands that were used (packed spikes, masks, gradients), not copies. With none registered the
cost is one test of an empty tuple.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from h2learn.ops import Geometry
    from h2learn.spikes import SpikeTensor

__all__ = [
    "Event",
    "Kept",
    "Listener",
    "SomaBackward",
    "SomaForward",
    "SynapseBackward",
    "SynapseForward",
    "WeightUpdate",
    "listen",
]


@dataclass(frozen=True)
class Kept:
    """A tensor kept for the backward pass, and how many elements (packed or not) it stands for."""

    tensor: Tensor
    elements: int


@dataclass(frozen=True)
class SynapseForward:
    """Currents were computed from `inputs` [*lead, ...], packed or analog; R = `rows` images.

    `kept`: what the layer keeps for the backward pass beyond its parameters. `call`: a number that
    the events of this call's backward pass bear too.
    """

    owner: nn.Module | None
    shape: Geometry
    lead: int
    rows: int
    inputs: SpikeTensor | Tensor
    kept: tuple[Kept, ...]
    call: int


@dataclass(frozen=True)
class SynapseBackward:
    """The gradient at the inputs was computed from grad_currents [R, P_out, N].

    `mask` [R, W]: where it was needed, None for everywhere. `call`: that of the forward pass, None
    if nobody listened to it.
    """

    owner: nn.Module | None
    shape: Geometry
    rows: int
    mask: Tensor | None
    grad_currents: Tensor
    call: int | None


@dataclass(frozen=True)
class WeightUpdate:
    """The weight gradient was computed from the inputs and grad_currents [R, P_out, N].

    `call` as in `SynapseBackward`; both carry the same tensor.
    """

    owner: nn.Module | None
    shape: Geometry
    lead: int
    rows: int
    inputs: SpikeTensor | Tensor
    grad_currents: Tensor
    call: int | None


@dataclass(frozen=True)
class SomaForward:
    """Neurons ran: `spikes` came out; `kept` as in `SynapseForward`.

    `membrane`: their gradient needs the membrane potential.
    """

    owner: nn.Module | None
    spikes: SpikeTensor
    kept: tuple[Kept, ...]
    membrane: bool


@dataclass(frozen=True)
class SomaBackward:
    """The gradient at the currents, [T, B, F], came out of the neurons' backward pass."""

    owner: nn.Module | None
    grad_currents: Tensor


Event = SynapseForward | SynapseBackward | WeightUpdate | SomaForward | SomaBackward


class Listener(Protocol):
    """Anything with `record(event)`; called synchronously, must not modify the operands."""

    def record(self, event: Event) -> None:
        """Takes one event."""


_listeners: tuple[Listener, ...] = ()
_current = threading.local()
_calls = itertools.count()


def listening() -> bool:
    """Whether anybody wants events."""
    return bool(_listeners)


def record(event: Event) -> None:
    """Hands an event to every listener."""
    for listener in _listeners:
        listener.record(event)


@contextlib.contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Registers `listener` for the duration of the block (all threads)."""
    global _listeners
    _listeners = (*_listeners, listener)
    try:
        yield
    finally:
        _listeners = tuple(other for other in _listeners if other is not listener)


def new_call() -> int:
    """A number for one forward call of a synapse layer, by which its backward pass is known."""
    return next(_calls)


def owner() -> nn.Module | None:
    """The module whose forward is running, when somebody listens."""
    return getattr(_current, "owner", None)


def differentiable() -> bool:
    """Whether autograd follows the module whose forward is running; True outside of any.

    Asked for here, because inside an autograd.Function it is switched off.
    """
    return getattr(_current, "differentiable", True)


@contextlib.contextmanager
def owned_by(module: nn.Module) -> Iterator[None]:
    """Marks `module` as the owner of the events of the block."""
    before = owner(), differentiable()
    _current.owner, _current.differentiable = module, torch.is_grad_enabled()
    try:
        yield
    finally:
        _current.owner, _current.differentiable = before
