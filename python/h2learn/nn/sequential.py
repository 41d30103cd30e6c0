"""Sequential: torch's, but neurons run as one with what is right before and behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from h2learn import checks, numerics
from h2learn.nn.layers import AvgPool2d, BatchNorm
from h2learn.nn.neurons import LIF
from h2learn.nn.synapses import Conv2d, Linear, lead_of, make_currents

__all__ = ["Sequential"]


class Sequential(nn.Sequential):
    """torch.nn.Sequential over tensors of shape [T, B, ...].

    A `Linear` or `Conv2d` and the neurons right behind it run as one: the currents of a few samples
    at a time are computed and go through the neurons, so that no tensor holds all currents. In
    evaluation without gradients (`torch.no_grad`) there may be a `BatchNorm` between them. So do
    neurons and an `AvgPool2d` right behind them: the gradient at the spikes, which is several times
    as large as that at the averages, is never stored. Spikes, gradients and all that is recorded
    are the same bits either way.

    They run one after the other, as in torch, wherever somebody could see what is between or make
    something else of it: when a module has hooks, a `forward` of its own or is compiled by itself;
    with numerics="hardware"; and inside `torch.compile`. Neurons that have yet to look at their
    activity, in their first training call, run before the pooling. Hooks on the pooling alone
    leave synapses and neurons together.

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
        names, modules = list(self._modules), list(self._modules.values())
        groups = []
        index = 0
        while index < len(names):
            layer = self._layer_at(modules, index)
            count = 1 if layer is None else layer.modules
            if layer is not None:
                groups.append(tuple(names[index : index + count]))
            index += count
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
        layer = _FusedLayer.of(modules[index : index + 4])
        possible = layer is not None and layer.is_possible() and not _has_any_global_hook()
        return layer if possible else None


class _FusedLayer(NamedTuple):
    """Neurons that run as one with the synapses before them, a pooling behind them, or both."""

    synapses: Linear | Conv2d | None
    norm: BatchNorm | None
    neurons: LIF
    pool: AvgPool2d | None

    @classmethod
    def of(cls, modules: Sequence[nn.Module | None]) -> _FusedLayer | None:
        """What the first of these modules begins, if anything."""
        rest = list(modules)

        def take(*kinds: type[nn.Module]) -> Any:
            return rest.pop(0) if rest and isinstance(rest[0], kinds) else None

        synapses = take(Linear, Conv2d)
        norm = None if synapses is None else take(BatchNorm)
        neurons = take(LIF)
        pool = take(AvgPool2d)
        if pool is not None and not _is_unwatched(pool):
            pool = None
        if neurons is None or (synapses is None and pool is None):
            return None
        return cls(synapses, norm, neurons, pool)

    @property
    def modules(self) -> int:
        """Modules that it is made of."""
        return sum(module is not None for module in self)

    def is_possible(self) -> bool:
        """Whether nobody sees what is between and all that happens to currents is a scaling."""
        return all(module is None or _is_unwatched(module) for module in self) and (
            self.norm is None or self._only_scales()
        )

    def _only_scales(self) -> bool:
        norm, synapses = self.norm, self.synapses
        assert norm is not None  # noqa: S101
        assert synapses is not None  # noqa: S101
        outputs = synapses.out_features if isinstance(synapses, Linear) else synapses.out_channels
        values = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        return (
            norm.is_scaling
            and not torch.is_grad_enabled()
            and norm.num_features == outputs
            and all(value is None or value.dtype == torch.float32 for value in values)
        )

    @property
    def lead(self) -> int:
        """Dimensions that the neurons take for T and B."""
        return 2 if self.neurons.step_mode == "m" else 1

    def takes(self, inputs: Any) -> bool:
        """Whether synapses and neurons understand the same dimensions as T and B."""
        if not isinstance(inputs, Tensor):
            return False
        return self.synapses is None or lead_of(self.synapses, inputs) == self.lead

    def run(self, inputs: Tensor) -> Tensor:
        """The neurons' spikes, or what the pooling makes of them."""
        if self.synapses is not None:
            scaling = None if self.norm is None else self.norm.scaling()
            inputs = make_currents(self.synapses, inputs, deferred=True, scaling=scaling)
        if self.pool is None:
            return self.neurons(inputs)  # type: ignore[no-any-return]
        windows = self.pool.windows(inputs.shape[self.lead :])
        if windows is None or self.neurons._looks_at_activity:
            return self.pool(self.neurons(inputs))  # type: ignore[no-any-return]
        return self.neurons._fire(inputs, windows)


_FORWARDS = (
    Linear.forward, Conv2d.forward, BatchNorm.forward, LIF.forward, AvgPool2d.forward
)  # fmt: skip


def _is_unwatched(module: Any) -> bool:
    """Whether calling the module runs h2learn's forward and nothing else."""
    kind = type(module)
    return (
        kind.forward in _FORWARDS
        and getattr(kind, "_fire", LIF._fire) is LIF._fire
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
