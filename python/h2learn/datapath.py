"""The accelerator's engines as torch operators: a synapse's products in their own arithmetic.

`torch.ops.h2learn.hardware_*`, made like those of `h2learn.ops` and with their shapes. `array`
says how an engine adds up, as `numerics.Arithmetic.forward` and `.update` give it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from h2learn import _core
from h2learn.analog import analog_planes
from h2learn.ops import _array, _currents_shape, _operator, _optional, _weight_shape
from h2learn.shapes import core_geometry

__all__ = [
    "hardware_backward",
    "hardware_forward_dense",
    "hardware_forward_packed",
    "hardware_update_dense",
    "hardware_update_packed",
    "rounded",
]

_FORWARD_ARRAY = ("rows", "inputs", "tables")
_UPDATE_ARRAY = (*_FORWARD_ARRAY, "columns", "spikes_bytes", "parts", "compact")


def _named(fields: tuple[str, ...], array: list[int]) -> dict[str, Any]:
    values = dict(zip(fields, array, strict=True))
    return {k: bool(v) if k in ("tables", "compact") else v for k, v in values.items()}


def rounded(values: Tensor, precision: str) -> Tensor:
    """Float32 values as the machine's memory holds them: rounded to fp32, fp16 or bf16.

    To nearest, ties to even; beyond the range they are infinite, below it subnormal or zero.
    """
    if precision == "fp32":
        return values
    return values.to(torch.float16 if precision == "fp16" else torch.bfloat16).to(torch.float32)


def _counts(words: Tensor, scale: float) -> tuple[Any, Any, float]:
    """Packed spikes or counts as the engines take inputs."""
    return _array(words), _powers_of_two(words.shape[0]), scale


def _powers_of_two(count: int) -> Any:
    return np.ldexp(np.float32(1), np.arange(count))


def _levels(inputs: Tensor, analog_bits: int) -> tuple[Any, Any, float]:
    """Analog inputs likewise, quantised."""
    words, plane_weights, scale = analog_planes(_array(inputs), analog_bits)
    return words, np.asarray(plane_weights, dtype=np.float32), scale


def _forward_packed_fake(
    words: Tensor,
    scale: float,
    weight: Tensor,
    bias: Tensor | None,
    shape: list[int],
    precision: str,
    array: list[int],
) -> Tensor:
    return weight.new_empty(_currents_shape(words.shape[1], shape))


@_operator(
    "hardware_forward_packed(Tensor words, float scale, Tensor weight, Tensor? bias, int[] shape, "
    "str precision, int[] array) -> Tensor",
    _forward_packed_fake,
)
def hardware_forward_packed(
    words: Tensor,
    scale: float,
    weight: Tensor,
    bias: Tensor | None,
    shape: list[int],
    precision: str,
    array: list[int],
) -> Tensor:
    """The forward engine's currents [R, P_out, N] from words [planes, R, W]."""
    out = _forward_packed_fake(words, scale, weight, bias, shape, precision, array)
    _forward(_counts(words, scale), weight, bias, shape, precision, array, out)
    return out


def _forward_dense_fake(
    inputs: Tensor,
    analog_bits: int,
    weight: Tensor,
    bias: Tensor | None,
    shape: list[int],
    precision: str,
    array: list[int],
) -> Tensor:
    return weight.new_empty(_currents_shape(inputs.shape[0], shape))


@_operator(
    "hardware_forward_dense(Tensor inputs, int analog_bits, Tensor weight, Tensor? bias, "
    "int[] shape, str precision, int[] array) -> Tensor",
    _forward_dense_fake,
)
def hardware_forward_dense(
    inputs: Tensor,
    analog_bits: int,
    weight: Tensor,
    bias: Tensor | None,
    shape: list[int],
    precision: str,
    array: list[int],
) -> Tensor:
    """The same from analog inputs [R, P_in * C], quantised by `analog_planes`."""
    out = _forward_dense_fake(inputs, analog_bits, weight, bias, shape, precision, array)
    _forward(_levels(inputs, analog_bits), weight, bias, shape, precision, array, out)
    return out


def _forward(
    planes: tuple[Any, Any, float],
    weight: Tensor,
    bias: Tensor | None,
    shape: list[int],
    precision: str,
    array: list[int],
    out: Tensor,
) -> None:
    _core.hardware_forward(
        core_geometry(tuple(shape)), *planes, _array(weight), _optional(bias), precision,
        **_named(_FORWARD_ARRAY, array), out=out.numpy(),
    )  # fmt: skip


def _backward_fake(
    grad_currents: Tensor, weight: Tensor, mask: Tensor | None, shape: list[int], precision: str
) -> Tensor:
    return weight.new_empty((grad_currents.shape[0], shape[0] * shape[1] * shape[2]))


@_operator(
    "hardware_backward(Tensor grad_currents, Tensor weight, Tensor? mask, int[] shape, "
    "str precision) -> Tensor",
    _backward_fake,
)
def hardware_backward(
    grad_currents: Tensor, weight: Tensor, mask: Tensor | None, shape: list[int], precision: str
) -> Tensor:
    """The backward engine's gradient [R, P_in * C], +0 where mask [R, W] has a zero bit."""
    out = _backward_fake(grad_currents, weight, mask, shape, precision)
    _core.hardware_backward(
        core_geometry(tuple(shape)), _array(grad_currents), _array(weight), _optional(mask),
        precision, out.numpy(),
    )  # fmt: skip
    return out


def _update_packed_fake(
    words: Tensor,
    scale: float,
    grad_currents: Tensor,
    timesteps: int,
    shape: list[int],
    precision: str,
    array: list[int],
) -> Tensor:
    return grad_currents.new_empty(_weight_shape(shape))


@_operator(
    "hardware_update_packed(Tensor words, float scale, Tensor grad_currents, SymInt timesteps, "
    "int[] shape, str precision, int[] array) -> Tensor",
    _update_packed_fake,
)
def hardware_update_packed(
    words: Tensor,
    scale: float,
    grad_currents: Tensor,
    timesteps: int,
    shape: list[int],
    precision: str,
    array: list[int],
) -> Tensor:
    """The weight-update engine's gradient [N, C / groups, kh, kw].

    Rows of words [planes, R, W] and grad_currents [R, P_out, N] are timestep * samples + sample.
    """
    out = _update_packed_fake(words, scale, grad_currents, timesteps, shape, precision, array)
    _update(_counts(words, scale), grad_currents, timesteps, shape, precision, array, out)
    return out


def _update_dense_fake(
    inputs: Tensor,
    analog_bits: int,
    grad_currents: Tensor,
    timesteps: int,
    shape: list[int],
    precision: str,
    array: list[int],
) -> Tensor:
    return grad_currents.new_empty(_weight_shape(shape))


@_operator(
    "hardware_update_dense(Tensor inputs, int analog_bits, Tensor grad_currents, "
    "SymInt timesteps, int[] shape, str precision, int[] array) -> Tensor",
    _update_dense_fake,
)
def hardware_update_dense(
    inputs: Tensor,
    analog_bits: int,
    grad_currents: Tensor,
    timesteps: int,
    shape: list[int],
    precision: str,
    array: list[int],
) -> Tensor:
    """The same from analog inputs [rows, P_in * C]; fewer rows than R repeat over time."""
    out = _update_dense_fake(inputs, analog_bits, grad_currents, timesteps, shape, precision, array)
    words, plane_weights, scale = _levels(inputs, analog_bits)
    repeats = grad_currents.shape[0] // max(1, inputs.shape[0])
    words = np.tile(words, (1, repeats, 1)) if repeats > 1 else words
    _update((words, plane_weights, scale), grad_currents, timesteps, shape, precision, array, out)
    return out


def _update(
    planes: tuple[Any, Any, float],
    grad_currents: Tensor,
    timesteps: int,
    shape: list[int],
    precision: str,
    array: list[int],
    out: Tensor,
) -> None:
    _core.hardware_update(
        core_geometry(tuple(shape)), *planes, _array(grad_currents), timesteps,
        grad_currents.shape[0] // timesteps, precision, **_named(_UPDATE_ARRAY, array),
        out=out.numpy(),
    )  # fmt: skip
