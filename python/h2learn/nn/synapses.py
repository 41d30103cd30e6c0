"""Linear and Conv2d: torch.nn's own layers, over [T, B, ...], computed on packed spikes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from h2learn import checks, ops, recording
from h2learn.autograd import synapse
from h2learn.kernels import Synapse, check_kernel
from h2learn.spikes import SpikeTensor

__all__ = ["Conv2d", "Linear"]


class Linear(Synapse, nn.Linear):
    """Fully connected synapses: currents = W s + b at every timestep.

    A torch.nn.Linear by its parameters and state_dict. Input: SpikeTensor or dense
    [T, B, in_features] (or [B, in_features]); output: float32 [T, B, out_features].

    Args:
        in_features: inputs.
        out_features: outputs.
        bias: add a learned bias.
        kernel: "auto", "event", "dense", "lut", "digits", "sampled" or "fastest"
            (docs/kernels.md).
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, kernel: str = "auto"
    ) -> None:
        in_features = checks.integer("in_features", in_features, 1)
        out_features = checks.integer("out_features", out_features, 1)
        super().__init__(in_features, out_features, bias)
        self.kernel = check_kernel(kernel)

    def forward(self, inputs: Tensor) -> Tensor:
        """Currents of all timesteps at once."""
        return make_currents(self, inputs)

    def geometry(self, inputs: Tensor) -> ops.Geometry:
        """Shape of the layer for such inputs. ValueError for those that it does not take."""
        _check_input(self, inputs, 1, f"[T, B, {self.in_features}]")
        if inputs.shape[-1] != self.in_features:
            raise ValueError(
                f"inputs must have in_features = {self.in_features} as their last dimension, "
                f"got shape {list(inputs.shape)}"
            )
        return ops.geometry(self.in_features, (1, 1), self.out_features)

    def extra_repr(self) -> str:
        """What printing the module shows."""
        return f"{super().extra_repr()}, kernel={self.kernel}"


class Conv2d(Synapse, nn.Conv2d):
    """2-D convolution synapses at every timestep.

    A torch.nn.Conv2d by its parameters and state_dict (zero padding only). Input: SpikeTensor
    or dense [T, B, C, H, W] (or [B, C, H, W]); output: float32 [T, B, N, H_out, W_out],
    channels-last in memory.

    Args:
        in_channels: C.
        out_channels: N.
        kernel_size: one size, or (height, width); likewise stride, padding, dilation.
        stride: step of the window.
        padding: zeros added on each side.
        dilation: distance of the taps.
        groups: groups of channels that do not mix.
        bias: add a learned bias.
        kernel: "auto", "event", "dense", "lut", "digits", "sampled" or "fastest"
            (docs/kernels.md).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        kernel: str = "auto",
    ) -> None:
        groups = checks.integer("groups", groups, 1)
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if checks.integer(name, channels, 1) % groups:
                raise ValueError(f"{name} must be a multiple of groups ({groups}), got {channels}")
        kernel_size = checks.pair("kernel_size", kernel_size, 1)
        stride = checks.pair("stride", stride, 1)
        padding = checks.pair("padding", padding, 0)
        dilation = checks.pair("dilation", dilation, 1)
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
        )
        self.kernel = check_kernel(kernel)

    def forward(self, inputs: Tensor) -> Tensor:
        """Currents of all timesteps at once."""
        return make_currents(self, inputs)

    def geometry(self, inputs: Tensor) -> ops.Geometry:
        """Shape of the layer for such inputs. ValueError for those that it does not take."""
        _check_input(self, inputs, 3, f"[T, B, {self.in_channels}, H, W]")
        if inputs.shape[-3] != self.in_channels:
            raise ValueError(
                f"inputs must have in_channels = {self.in_channels} as their third dimension "
                f"from the end, got shape {list(inputs.shape)}"
            )
        shape = ops.geometry(
            self.in_channels, (inputs.shape[-2], inputs.shape[-1]), self.out_channels,
            self.kernel_size, self.stride, self.padding, self.dilation, self.groups,  # type: ignore[arg-type]
        )  # fmt: skip
        if not torch.compiler.is_compiling():
            ops.core_geometry(shape)  # names the size that does not fit
        return shape

    def extra_repr(self) -> str:
        """What printing the module shows."""
        return f"{super().extra_repr()}, kernel={self.kernel}"  # type: ignore[no-untyped-call]


def _check_input(module: nn.Module, inputs: Any, features: int, layout: str) -> None:
    checks.tensor("inputs", inputs)
    if inputs.dim() not in (features + 1, features + 2):
        name = type(module).__name__
        raise ValueError(
            f"{name} takes inputs of shape {layout} (or one step, without T), "
            f"got {list(inputs.shape)}"
            + ("; put nn.Flatten() before it" if name == "Linear" and inputs.dim() > 3 else "")
        )
    if inputs.dim() == features + 2 and inputs.shape[0] == 0:
        raise ValueError(f"inputs must have T of at least 1, got shape {list(inputs.shape)}")


def lead_of(module: Linear | Conv2d, inputs: Tensor) -> int:
    """Leading dimensions of the layer's inputs: 2, or 1 for a single step, without T."""
    return inputs.dim() - (1 if isinstance(module, Linear) else 3)


def make_currents(module: Linear | Conv2d, inputs: Tensor, **deferring: Any) -> Tensor:
    """What the module's forward returns, or with `autograd.synapse`'s options a deferral of it."""
    shape = module.geometry(inputs)
    lead = lead_of(module, inputs)
    if isinstance(inputs, SpikeTensor) and len(inputs.features) != inputs.dim() - lead:
        inputs = inputs.to_dense()
    weight, bias = module.weight, module.bias
    if not recording.listening():
        return synapse(inputs, weight, bias, lead, shape, module.kernel, **deferring)
    with recording.owned_by(module):
        return synapse(inputs, weight, bias, lead, shape, module.kernel, **deferring)
