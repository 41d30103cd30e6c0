"""Sequential: torch's, but synapses and the neurons right behind them run as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from h2learn import checks, numerics
from h2learn.nn.layers import BatchNorm
from h2learn.nn.neurons import LIF
from h2learn.nn.synapses import Conv2d, Linear, lead_of, make_currents

__all__ = ["Sequential"]


class Sequential(nn.Sequential):
    """torch.nn.Sequential over tensors of shape [T, B, ...].

    A `Linear` or `Conv2d` with neurons right behind it runs as one: the currents of a few samples at
    a time are computed and go through the neurons, and no tensor of all currents is made. In
    evaluation and without gradients (`torch.no_grad`) a `BatchNorm` may stand between them. Spikes,
    gradients and what is recorded are the same bits either way.

    Modules run one after the other, as in torch, wherever somebody could see the currents or
    compute them differently: when either module has a hook, a `forward` of its own or was compiled by
    itself; with numerics="hardware"; and inside `torch.compile`.

    Args:
        modules: as torch.nn.Sequential takes them.
        fuse: False to run all modules one after the other.

    Example:
        >>> from h2learn import nn
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.LIF(), nn.Linear(3, 2), nn.Readout())
        >>> model.fused()
        [('0', '1')]
    """

    fuse = True

    def __init__(self, *modules: Any, fuse: bool = True) -> None:
        super().__init__(*modules)
        self.fuse = checks.flag("fuse", fuse)

    def fused(self) -> list[tuple[str, ...]]:
        """Names of the modules that run as one, as hooks and modes stand now."""
        return [group for group in self._groups() if len(group) > 1]

    def forward(self, inputs: Tensor) -> Tensor:
        """Passes the inputs through all modules."""
        if torch.compiler.is_compiling():
            return super().forward(inputs)  # type: ignore[no-any-return]
        for group in self._groups():
            modules = [self._modules[name] for name in group]
            inputs = _run(modules, inputs)  # type: ignore[arg-type]
        return inputs

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        if isinstance(index, slice):
            part.fuse = self.fuse
        return part

    def _groups(self) -> list[tuple[str, ...]]:
        """All modules' names, in order; those that run as one together."""
        names = list(self._modules)
        groups = []
        while names:
            count = 1
            if self.fuse:
                for length in (2, 3):
                    if _fuse([self._modules[name] for name in names[:length]]):
                        count = length
            groups.append(tuple(names[:count]))
            del names[:count]
        return groups

    def extra_repr(self) -> str:
        """What printing the module shows."""
        return "" if self.fuse else "fuse=False"


_FORWARDS = (Linear.forward, Conv2d.forward, BatchNorm.forward, LIF.forward)


def _fuse(modules: Sequence[nn.Module | None]) -> bool:
    """Whether these run as one: synapses, neurons, and perhaps a normalisation between them."""
    if len(modules) < 2 or numerics.active() is not None or _has_any_global_hook():
        return False
    synapses, *between, neurons = modules
    return (
        isinstance(synapses, (Linear, Conv2d))
        and isinstance(neurons, LIF)
        and all(map(_is_unwatched, modules))
        and all(isinstance(module, BatchNorm) and _scales(module, synapses) for module in between)
    )


def _scales(norm: BatchNorm, synapses: Linear | Conv2d) -> bool:
    """Whether all that it does to the synapses' currents is to scale them."""
    outputs = synapses.out_features if isinstance(synapses, Linear) else synapses.out_channels
    values = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    return (
        norm.is_scaling
        and not torch.is_grad_enabled()
        and norm.num_features == outputs
        and all(value is None or value.dtype == torch.float32 for value in values)
    )


def _is_unwatched(module: nn.Module) -> bool:
    """Whether calling the module runs h2learn's forward and nothing else."""
    kind = type(module)
    return (
        kind.forward in _FORWARDS
        and kind.__call__ is nn.Module.__call__
        and "forward" not in vars(module)
        and module._compiled_call_impl is None
        and not (
            module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
        )
    )


def _run(modules: Sequence[nn.Module], inputs: Any) -> Any:
    """The modules' result; those of a group are known to be able to run as one."""
    synapses, *rest = modules
    if rest and isinstance(inputs, Tensor):
        neurons = rest[-1]
        lead = 2 if neurons.step_mode == "m" else 1
        if lead_of(synapses, inputs) == lead:
            scaling = rest[0].scaling() if len(rest) > 1 else None
            return neurons(make_currents(synapses, inputs, deferred=True, scaling=scaling))
    for module in modules:
        inputs = module(inputs)
    return inputs
