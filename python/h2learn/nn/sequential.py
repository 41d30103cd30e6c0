"""Sequential: torch's, but synapses and the neurons right behind them run as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

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

    A `Linear` or `Conv2d` and the neurons right behind it run as one: the currents of a few samples
    at a time are computed and go through the neurons, so that no tensor holds all currents. In
    evaluation without gradients (`torch.no_grad`) there may be a `BatchNorm` between them. Spikes,
    gradients and all that is recorded are the same bits either way.

    They run one after the other, as in torch, wherever somebody could see the currents or make
    others of them: when a module has hooks, a `forward` of its own or is compiled by itself; with
    numerics="hardware"; and inside `torch.compile`.

    Args:
        modules: as torch.nn.Sequential takes them.
        fuse: False: all modules run one after the other.

    Example:
        >>> from h2learn import nn
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.LIF(), nn.Linear(3, 2), nn.Readout())
        >>> model.fused()
        [('0', '1')]
    """

    fuse: bool = True

    def __init__(self, *modules: Any, fuse: bool = True) -> None:
        super().__init__(*modules)
        self.fuse = checks.flag("fuse", fuse)

    def fused(self) -> list[tuple[str, ...]]:
        """Names of the modules that run as one, as hooks and modes are now."""
        names = list(self._modules)
        groups = []
        for index in range(len(names)):
            layer = self._layer_at(list(self._modules.values()), index)
            if layer is not None:
                groups.append(tuple(names[index : index + layer.modules]))
        return groups

    def forward(self, inputs: Any) -> Any:
        """Passes the inputs through all modules."""
        modules = list(self._modules.values())
        index = 0
        while index < len(modules):
            layer = self._layer_at(modules, index)
            if layer is not None and layer.takes(inputs):
                inputs = layer.run(inputs)
                index += layer.modules
            else:
                inputs = modules[index](inputs)
                index += 1
        return inputs

    def __getitem__(self, index: Any) -> Any:
        part: Any = super().__getitem__(index)
        if isinstance(index, slice):
            part.fuse = self.fuse
        return part

    def extra_repr(self) -> str:
        """What printing the module shows."""
        return "" if self.fuse else "fuse=False"

    def _layer_at(self, modules: Sequence[nn.Module | None], index: int) -> _FusedLayer | None:
        """The modules from `index` on that run as one; None if that one runs by itself."""
        if not self.fuse or torch.compiler.is_compiling() or numerics.active() is not None:
            return None
        if not isinstance(modules[index], (Linear, Conv2d)) or _has_any_global_hook():
            return None
        synapses, *following = modules[index : index + 3]
        norm = following.pop(0) if following and isinstance(following[0], BatchNorm) else None
        neurons = following[0] if following else None
        if not isinstance(synapses, (Linear, Conv2d)) or not isinstance(neurons, LIF):
            return None
        layer = _FusedLayer(synapses, norm, neurons)  # type: ignore[arg-type]
        return layer if layer.is_possible() else None


class _FusedLayer(NamedTuple):
    """Synapses and neurons that run as one."""

    synapses: Linear | Conv2d
    norm: BatchNorm | None
    neurons: LIF

    @property
    def modules(self) -> int:
        """Modules that it is made of."""
        return 2 if self.norm is None else 3

    def is_possible(self) -> bool:
        """Whether nobody sees the currents and all that happens to them is a scaling."""
        watched = (self.synapses, self.neurons) if self.norm is None else self
        return all(map(_is_unwatched, watched)) and (self.norm is None or self._only_scales())

    def _only_scales(self) -> bool:
        norm, synapses = self.norm, self.synapses
        assert norm is not None  # noqa: S101
        outputs = synapses.out_features if isinstance(synapses, Linear) else synapses.out_channels
        values = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        return (
            norm.is_scaling
            and not torch.is_grad_enabled()
            and norm.num_features == outputs
            and all(value is None or value.dtype == torch.float32 for value in values)
        )

    def takes(self, inputs: Any) -> bool:
        """Whether synapses and neurons understand the same dimensions as T and B."""
        lead = 2 if self.neurons.step_mode == "m" else 1
        return isinstance(inputs, Tensor) and lead_of(self.synapses, inputs) == lead

    def run(self, inputs: Tensor) -> Tensor:
        """The neurons' spikes."""
        scaling = None if self.norm is None else self.norm.scaling()
        currents = make_currents(self.synapses, inputs, deferred=True, scaling=scaling)
        return self.neurons(currents)  # type: ignore[no-any-return]


_FORWARDS = (Linear.forward, Conv2d.forward, BatchNorm.forward, LIF.forward)


def _is_unwatched(module: Any) -> bool:
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
