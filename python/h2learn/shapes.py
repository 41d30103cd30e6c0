"""Shapes of synapse layers, and what follows from them; without torch.

A linear layer is a convolution with one position and one tap, so thirteen integers describe every
synapse to the operators, to a workload file and to the accelerators.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from h2learn import _core

__all__ = [
    "GEOMETRY_FIELDS",
    "Geometry",
    "core_geometry",
    "geometry",
    "in_features",
    "out_features",
    "out_size",
    "words_for",
]

Geometry = tuple[int, ...]
"""in_channels, in_height, in_width, out_channels, kernel, stride, padding, dilation (two
each: height, width), groups: thirteen integers, as `geometry` puts them."""

GEOMETRY_FIELDS = (
    "in_channels", "in_height", "in_width", "out_channels",
    "kernel_height", "kernel_width", "stride_height", "stride_width",
    "padding_height", "padding_width", "dilation_height", "dilation_width", "groups",
)  # fmt: skip


def geometry(
    in_channels: int,
    in_size: tuple[int, int],
    out_channels: int,
    kernel: tuple[int, int] = (1, 1),
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Geometry:
    """The thirteen integers that describe a synapse to the operators."""
    return (
        in_channels, *in_size, out_channels, *kernel, *stride, *padding, *dilation, groups,
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def core_geometry(shape: Geometry) -> _core.Geometry:
    """The core's object for it. Raises ValueError naming the field that is impossible."""
    return _core.Geometry(**dict(zip(GEOMETRY_FIELDS, shape, strict=True)))


def words_for(features: int) -> int:
    """64-bit words that hold `features` bits."""
    return (features + 63) // 64


def out_size(shape: Sequence[int]) -> tuple[int, int]:
    """Output height and width of the synapse `shape` describes."""
    (_, height, width, _, kh, kw, sh, sw, ph, pw, dh, dw, _) = shape
    return (
        (height + 2 * ph - dh * (kh - 1) - 1) // sh + 1,
        (width + 2 * pw - dw * (kw - 1) - 1) // sw + 1,
    )


def in_features(shape: Sequence[int]) -> int:
    """Inputs of one image of the synapse `shape` describes."""
    return math.prod(shape[:3])


def out_features(shape: Sequence[int]) -> int:
    """Currents of one image of it."""
    return math.prod(out_size(shape)) * shape[3]
