"""Everything between synapses and neurons: pooling, normalisation, dropout, readout, wiring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from h2learn import autograd, checks
from h2learn.spikes import SpikeTensor

__all__ = [
    "AvgPool2d",
    "BatchNorm",
    "Dropout",
    "Flatten",
    "MaxPool2d",
    "Readout",
    "Residual",
]


class _Pool2d(nn.Module):
    """What both poolings share: windows without padding, borders that do not fit dropped."""

    def __init__(
        self, kernel_size: int | tuple[int, int], stride: int | tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.kernel_size = checks.pair("kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else checks.pair("stride", stride, 1)

    def _check(self, inputs: Tensor) -> bool:
        """Checks the shape; True when the packed path applies (binary spikes)."""
        checks.tensor("inputs", inputs)
        if inputs.dim() not in (4, 5):
            raise ValueError(
                f"inputs must have shape [T, B, C, H, W] (or [B, C, H, W]), "
                f"got {list(inputs.shape)}"
            )
        if not self._fits(inputs.shape[-2:]):
            raise ValueError(
                f"kernel_size {self.kernel_size} must fit the input's height and width "
                f"{tuple(inputs.shape[-2:])}"
            )
        return isinstance(inputs, SpikeTensor) and inputs.planes == 1 and len(inputs.features) == 3

    def windows(self, features: Sequence[int]) -> list[int] | None:
        """Channels, height, width, kernel and stride; None where features [C, H, W] do not fit."""
        if len(features) != 3 or not self._fits(features[1:]):
            return None
        return [*features, *self.kernel_size, *self.stride]

    def _fits(self, size: Sequence[int]) -> bool:
        return all(k <= n for k, n in zip(self.kernel_size, size, strict=True))

    def extra_repr(self) -> str:
        """What printing the module shows."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}"


class AvgPool2d(_Pool2d):
    """Average over windows; spikes stay packed, as counts in bit planes.

    Args:
        kernel_size: window, one size or (height, width).
        stride: step of the window; the window's size by default.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """[T, B, C, H, W] -> [T, B, C, H_out, W_out]."""
        if self._check(inputs):
            return autograd.average_pool(inputs, self.kernel_size, self.stride)  # type: ignore[arg-type]
        return _per_image(inputs, lambda x: F.avg_pool2d(x, self.kernel_size, self.stride))


class MaxPool2d(_Pool2d):
    """Maximum over windows; an OR on packed spikes. Ties go to the first, as in torch.

    Args:
        kernel_size: window, one size or (height, width).
        stride: step of the window; the window's size by default.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """[T, B, C, H, W] -> [T, B, C, H_out, W_out]."""
        if self._check(inputs):
            return autograd.max_pool(inputs, self.kernel_size, self.stride)  # type: ignore[arg-type]
        return _per_image(inputs, lambda x: F.max_pool2d(x, self.kernel_size, self.stride))


def _per_image(inputs: Tensor, apply: Any) -> Tensor:
    """Runs a torch operator for [images, C, H, W] on [T, B, C, H, W]."""
    dense = inputs.to_dense() if isinstance(inputs, SpikeTensor) else inputs
    if dense.dim() == 4:
        return apply(dense)  # type: ignore[no-any-return]
    return apply(dense.flatten(0, 1)).unflatten(0, dense.shape[:2])  # type: ignore[no-any-return]


def _lead(inputs: Tensor) -> int:
    """Leading dimensions: [T, B, F] and [T, B, C, H, W] have two, a single step has one."""
    checks.tensor("inputs", inputs)
    if inputs.dim() not in (2, 3, 4, 5):
        raise ValueError(
            "inputs must have shape [T, B, F] or [T, B, C, H, W] (or one step, without T), "
            f"got {list(inputs.shape)}"
        )
    return 2 if inputs.dim() in (3, 5) else 1


class Flatten(nn.Module):
    """[T, B, C, H, W] -> [T, B, C * H * W] in torch's order; spikes stay packed.

    One step, [B, C, H, W], gives [B, C * H * W].
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Flattens everything after T and B."""
        lead = _lead(inputs)
        if isinstance(inputs, SpikeTensor) and len(inputs.lead) == lead:
            return autograd.flatten(inputs) if len(inputs.features) > 1 else inputs
        return inputs.flatten(lead)


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation per channel over T, B and space (tdBN without its factor).

    torch.nn.BatchNorm2d by its parameters and state_dict; takes [T, B, C], [T, B, C, H, W], or
    one step of either. In evaluation, with running statistics, an input becomes x * gain + offset
    (`scaling`), rounded after either operation.
    """

    @property
    def is_scaling(self) -> bool:
        """Whether running statistics make it a scaling, as they do in evaluation."""
        return not self.training and self.running_mean is not None

    def scaling(self) -> tuple[Tensor, Tensor]:
        """(gain, offset), both [C], of the running statistics."""
        assert self.running_mean is not None  # noqa: S101
        assert self.running_var is not None  # noqa: S101
        gain = torch.rsqrt(self.running_var + self.eps)
        if self.weight is not None:
            gain = gain * self.weight
        offset = -self.running_mean * gain
        return gain, offset if self.bias is None else offset + self.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """Same shape as the input."""
        lead = _lead(inputs)
        if inputs.shape[lead] != self.num_features:
            raise ValueError(
                f"inputs must have {self.num_features} channels, [T, B, {self.num_features}, ...] "
                f"(or one step, without T), got {list(inputs.shape)}"
            )
        dense = inputs.to_dense() if isinstance(inputs, SpikeTensor) else inputs
        images = dense.flatten(0, lead - 1)
        flat = images if images.dim() == 4 else images[..., None, None]
        if self.is_scaling:
            gain, offset = (value.view(-1, 1, 1) for value in self.scaling())
            flat = (flat * gain).add_(offset)
        else:
            flat = super().forward(flat)
        return flat.reshape(images.shape).unflatten(0, dense.shape[:lead])  # type: ignore[no-any-return]


class Dropout(nn.Module):
    """Dropout with one mask for all timesteps, so that a neuron is silenced for a whole sample.

    Args:
        p: probability of dropping an element, 0 <= p < 1. What stays is divided by 1 - p.

    A single step, without T, draws a mask of its own at each call.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0.0 <= checks.number("p", p) < 1.0:
            raise ValueError(f"p must be at least 0 and below 1, got {p}")
        self.p = p

    def forward(self, inputs: Tensor) -> Tensor:
        """Same shape; spikes stay packed."""
        lead = _lead(inputs)
        if not self.training or self.p == 0.0:
            return inputs
        shape = inputs.shape[lead - 1 :]
        keep = torch.empty(shape, dtype=inputs.dtype).bernoulli_(1.0 - self.p)
        if isinstance(inputs, SpikeTensor) and len(inputs.lead) == lead:
            return autograd.dropout(inputs, SpikeTensor.from_dense(keep, 1), self.p)
        return inputs * (keep / (1.0 - self.p))

    def extra_repr(self) -> str:
        """What printing the module shows."""
        return f"p={self.p}"


class Readout(nn.Module):
    """Turns the last layer's [T, B, N] into scores [B, N].

    Args:
        mode: "membrane": the membrane of leaky integrators without threshold,
            u_t = decay * u_(t-1) + x_t, averaged over T; "last": its last value; "rate": the
            mean of the inputs (spikes) over T.
        decay: of the integrators, 0 to 1. With 0, "membrane" is the mean of the currents.
    """

    MODES = ("membrane", "rate", "last")

    def __init__(self, mode: str = "membrane", decay: float = 0.25) -> None:
        super().__init__()
        if mode not in self.MODES:
            raise ValueError(f"mode must be one of {', '.join(self.MODES)}, got {mode!r}")
        if not 0.0 <= checks.number("decay", decay) <= 1.0:
            raise ValueError(f"decay must lie between 0 and 1, got {decay}")
        self.mode = mode
        self.decay = decay

    def forward(self, inputs: Tensor) -> Tensor:
        """[T, B, N] -> [B, N]."""
        inputs = autograd.as_float32(inputs, "inputs")
        if inputs.dim() < 3 or inputs.shape[0] == 0:
            raise ValueError(
                f"inputs must have shape [T, B, N] with T of at least 1, got {list(inputs.shape)}"
            )
        steps = inputs.shape[0]
        if self.mode == "rate":
            return inputs.mean(0)
        # u_T = sum_t decay^(T-t) x_t, and the average of u_t weighs x_t with a geometric sum.
        powers = [self.decay**k for k in range(steps)]
        if self.mode == "last":
            weights = powers[::-1]
        else:
            weights = [sum(powers[: steps - t]) / steps for t in range(steps)]
        scale = torch.tensor(weights, dtype=inputs.dtype).view(-1, *[1] * (inputs.dim() - 1))
        return (inputs * scale).sum(0)

    def extra_repr(self) -> str:
        """What printing the module shows."""
        return f"mode={self.mode}" + ("" if self.mode == "rate" else f", decay={self.decay:g}")


class Residual(nn.Module):
    """body(x) + shortcut(x). The sum of two spike tensors stays packed, as counts 0, 1, 2.

    Args:
        body: any module.
        shortcut: module on the other way; the identity by default.
    """

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = nn.Identity() if shortcut is None else shortcut

    def forward(self, inputs: Tensor) -> Tensor:
        """ValueError when the two ways give different shapes."""
        main, side = self.body(inputs), self.shortcut(inputs)
        if main.shape != side.shape:
            raise ValueError(
                f"body and shortcut must give the same shape, got {list(main.shape)} and "
                f"{list(side.shape)}"
            )
        return main + side  # type: ignore[no-any-return]
