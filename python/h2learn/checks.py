"""Checks of plain arguments: each names the argument, its value and what is allowed."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

__all__ = ["flag", "integer", "module", "number", "pair", "tensor"]


def number(name: str, value: Any) -> float:
    """A real number as float. TypeError for anything else (a tensor, text, a bool)."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return float(value)


def flag(name: str, value: Any) -> bool:
    """True or False. TypeError for anything else."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def integer(name: str, value: Any, least: int) -> int:
    """An integer of at least `least`. TypeError or ValueError otherwise."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def pair(name: str, value: Any, least: int) -> tuple[int, int]:
    """One integer for both directions, or two (height, width), each at least `least`."""
    values = value if isinstance(value, (tuple, list)) else (value, value)
    if len(values) != 2:
        raise TypeError(f"{name} must be an integer or a pair of integers, got {value!r}")
    return integer(name, values[0], least), integer(name, values[1], least)


def tensor(name: str, value: Any) -> None:
    """TypeError unless `value` is a torch.Tensor."""
    from torch import Tensor

    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")


def module(name: str, value: Any) -> None:
    """TypeError unless `value` is a torch.nn.Module."""
    from torch import nn

    if not isinstance(value, nn.Module):
        raise TypeError(f"{name} must be a torch.nn.Module, got {type(value).__name__}")
