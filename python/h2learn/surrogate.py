"""Surrogate gradients: what the backward pass uses for the derivative of the spike.

Each is a bump of unit area over v = u - threshold, `width` wide, times `scale`:

========  =======================================================  =======
name      phi(v)                                                   compact
========  =======================================================  =======
Rect      1 / (2 width) where |v| < width, else 0                  yes
Triangle  max(0, 1 - |v| / width) / width                          yes
ATan      1 / (pi width) / (1 + (v / width)^2)                     no
Sigmoid   sigma(v / width) (1 - sigma(v / width)) / width          no
========  =======================================================  =======

Only the compact ones are exactly zero away from the threshold, and only they let the backward
pass skip work (both sparsities of the H2Learn backward engine rest on that). `Rect` also needs
no stored membrane where the reset is soft or detached: one bit a neuron and step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from h2learn import checks

__all__ = ["ATan", "Rect", "Sigmoid", "Surrogate", "Triangle"]


@dataclass(frozen=True)
class Surrogate:
    """A unit-area bump of `width` (in units of the membrane potential), times `scale`.

    Raises:
        TypeError: one of them is not a number.
        ValueError: `width` is not a positive finite number, or `scale` is not finite.
    """

    width: float
    scale: float = 1.0

    name: ClassVar[str] = ""
    compact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.number("width", self.width)
        checks.number("scale", self.scale)
        if not (math.isfinite(self.width) and self.width > 0):
            raise ValueError(f"width must be positive and finite, got {self.width}")
        if not math.isfinite(self.scale):
            raise ValueError(f"scale must be finite, got {self.scale}")


@dataclass(frozen=True)
class Rect(Surrogate):
    """1 / (2 width) inside |v| < width. The H2Learn authors' choice, with width 0.5."""

    width: float = 0.5
    name: ClassVar[str] = "rect"
    compact: ClassVar[bool] = True


@dataclass(frozen=True)
class Triangle(Surrogate):
    """max(0, 1 - |v| / width) / width; SpikingJelly's PiecewiseQuadratic(alpha=1 / width)."""

    width: float = 1.0
    name: ClassVar[str] = "triangle"
    compact: ClassVar[bool] = True


@dataclass(frozen=True)
class ATan(Surrogate):
    """1 / (pi width) / (1 + (v / width)^2); SpikingJelly's ATan(alpha=2 / (pi width))."""

    width: float = 1.0 / math.pi
    name: ClassVar[str] = "atan"


@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """Derivative of sigma(v / width); SpikingJelly's Sigmoid(alpha=1 / width)."""

    width: float = 0.25
    name: ClassVar[str] = "sigmoid"
