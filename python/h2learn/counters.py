"""Counts what a training step asked of the hardware: spikes, zero gradients, operations, bytes.

The counts come from the bits and masks that the kernels used, never from the kernel that ran,
so they are the same whatever the kernel, instruction set or number of threads. Nothing is
counted, and nothing is slowed down, outside a `count_operations` block.

A synaptic operation is one addition (or multiply-accumulate) of one input and one weight.
*Offered* operations are those of a dense layer, taps in the padding not counted; *done* ones
cannot be skipped:

- forward: the input has a spike there (each bit plane of a count is a pass of its own);
- backward: the gradient at the current is not zero, and the input neuron's surrogate mask is set;
- weight update: the gradient at the current is not zero, and the input has a spike there.

Analog inputs count where they are not zero.

Saved bytes are those kept from the forward to the backward pass, parameters not included: packed
words, masks, membranes, analog inputs. Memory that two layers share (a layer's spikes are the
next one's inputs) is counted once, at the first of them. Dense bytes are the same elements at four
bytes each. A forward pass that activation checkpointing computes again is counted again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from h2learn import _core, checks, ops, recording
from h2learn.spikes import SpikeTensor, channels_last

__all__ = ["LayerCounts", "OperationCounter", "count_operations"]


@dataclass
class LayerCounts:
    """Counts of one module since the counter started; integers, bytes where the name says so."""

    name: str
    kind: str
    neuron_steps: int = 0
    spikes: int = 0
    gradients: int = 0
    zero_gradients: int = 0
    forward_offered: int = 0
    forward_done: int = 0
    backward_offered: int = 0
    backward_done: int = 0
    update_offered: int = 0
    update_done: int = 0
    saved_bytes: int = 0
    dense_bytes: int = 0

    @property
    def firing_rate(self) -> float:
        """Spikes per neuron and timestep."""
        return self.spikes / self.neuron_steps if self.neuron_steps else 0.0

    @property
    def zero_gradient_share(self) -> float:
        """Share of the gradients at the currents that are exactly zero."""
        return self.zero_gradients / self.gradients if self.gradients else 0.0


class OperationCounter:
    """Context manager and listener; `layers` maps module names to `LayerCounts`, in run order.

    Example:
        >>> import torch, h2learn
        >>> from h2learn import nn
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.LIF(), nn.Readout("rate"))
        >>> _ = torch.nn.init.eye_(model[0].weight)
        >>> with h2learn.count_operations(model) as counter:
        ...     model(torch.eye(4)[:2, None]).sum().backward()
        >>> counter.layers["0"].forward_offered
        24
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers: dict[str, LayerCounts] = {}
        self._names = {id(module): name for name, module in model.named_modules()}
        self._model = model  # keeps the ids of its modules valid
        # Of the pass under way: its layers, and the tensors it keeps by address. Holding them
        # until the next pass makes sure that no address is used again meanwhile.
        self._forwarded: set[nn.Module] = set()
        self._kept: dict[int, Tensor] = {}
        self._listening: Any = None

    def __enter__(self) -> OperationCounter:
        if self._listening is not None:
            raise RuntimeError("this counter is counting already; make another one")
        self._listening = recording.listen(self)
        self._listening.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listening.__exit__(kind, error, trace)
        self._listening = None
        self._forwarded.clear()
        self._kept.clear()

    def record(self, event: recording.Event) -> None:
        """Takes one event; events of modules outside the model are ignored."""
        if event.owner is None or id(event.owner) not in self._names:
            return
        name = self._names[id(event.owner)] or "model"
        kind = type(event.owner).__name__.lower()
        counts = self.layers.setdefault(name, LayerCounts(name, kind))
        with torch.no_grad():
            _count(counts, event)
        if isinstance(event, (recording.SomaForward, recording.SynapseForward)):
            if event.owner in self._forwarded:  # a new pass: what it keeps is its own
                self._forwarded.clear()
                self._kept.clear()
            self._forwarded.add(event.owner)
            for kept in event.kept:
                self._count_bytes(counts, kept)

    def _count_bytes(self, counts: LayerCounts, kept: recording.Kept) -> None:
        """Adds a kept tensor unless another layer, which shares its memory, has counted it."""
        address = kept.tensor.untyped_storage().data_ptr()
        if address in self._kept:
            return
        self._kept[address] = kept.tensor
        sizes = zip(kept.tensor.shape, kept.tensor.stride(), strict=True)
        real = math.prod(size for size, stride in sizes if stride != 0)  # not what is broadcast
        counts.saved_bytes += real * kept.tensor.element_size()
        counts.dense_bytes += kept.elements * 4


def count_operations(model: nn.Module) -> OperationCounter:
    """Counts what `model` does inside a `with` block, forward and backward."""
    checks.module("model", model)
    return OperationCounter(model)


def _count(counts: LayerCounts, event: recording.Event) -> None:
    if isinstance(event, recording.SomaForward):
        counts.neuron_steps += event.spikes.numel()
        counts.spikes += event.spikes.count()
    elif isinstance(event, recording.SomaBackward):
        counts.gradients += event.grad_currents.numel()
        counts.zero_gradients += _zeros(event.grad_currents)
    elif isinstance(event, recording.SynapseForward):
        counts.forward_offered += _offered(event)
        counts.forward_done += _operations(event.shape, _active(event), None)
    elif isinstance(event, recording.SynapseBackward):
        counts.backward_offered += _offered(event)
        mask = event.mask
        if mask is None:
            mask = _all_set(event.rows, math.prod(event.shape[:3]))
        counts.backward_done += _operations(
            event.shape, mask.unsqueeze(0), _nonzero_outputs(event.shape, event.grad_currents)
        )
    else:
        counts.update_offered += _offered(event)
        counts.update_done += _operations(
            event.shape,
            _active(event),
            _nonzero_outputs(event.shape, event.grad_currents),
        )


def _offered(event: Any) -> int:
    return int(_core.count_dense_operations(ops.core_geometry(event.shape), event.rows))


def _zeros(gradient: Tensor) -> int:
    return gradient.numel() - int(torch.count_nonzero(gradient))


def _active(event: recording.SynapseForward | recording.WeightUpdate) -> Tensor:
    """Words [planes, R, W] with a bit wherever an input takes part."""
    if isinstance(event.inputs, SpikeTensor):
        return event.inputs.rows()
    return ops.pack(channels_last((event.inputs != 0).float(), event.lead)).unsqueeze(0)  # type: ignore[no-any-return]


def _all_set(rows: int, features: int) -> Tensor:
    ones = torch.ones(1, features, dtype=torch.float32)
    return ops.pack(ones).expand(rows, -1).contiguous()  # type: ignore[no-any-return]


def _nonzero_outputs(shape: ops.Geometry, grad_currents: Tensor) -> Tensor:
    """Non-zero gradients of each row, position and group, int64 [R, P, groups]."""
    grouped = grad_currents.unflatten(-1, (shape[12], -1))
    return torch.count_nonzero(grouped, dim=-1).contiguous()


def _operations(shape: ops.Geometry, words: Tensor, outputs: Tensor | None) -> int:
    return int(
        _core.count_operations(
            ops.core_geometry(shape),
            words.contiguous().numpy(),
            None if outputs is None else outputs.numpy(),
        )
    )
