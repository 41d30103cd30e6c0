"""The core's kernels as torch operators, `torch.ops.h2learn.*`.

Each has a schema, a CPU implementation that hands raw contiguous memory to `h2learn._core`, and
a fake implementation that knows shapes only; nothing links to torch. They work on rows
(images = T * B), positions and channels-last features, on plain tensors alone, so that tracing
and `torch.library.opcheck` see nothing unusual. `h2learn.autograd` builds the differentiable
functions from them: a SpikeTensor carries the gradient of float spikes that exist only as int64
words, which an autograd formula on these operators could not express.

Shapes: R rows, P positions, C / N channels, W = ceil(features / 64) words.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from h2learn import _core, memory
from h2learn.shapes import Geometry, core_geometry, geometry, out_size, words_for

__all__ = [
    "Geometry",
    "average_pool_backward",
    "backward",
    "bias_update",
    "core_geometry",
    "count_pool",
    "forward_dense",
    "forward_packed",
    "fused_forward_dense",
    "fused_forward_packed",
    "geometry",
    "integrate_in_place",
    "max_pool",
    "max_pool_backward",
    "out_size",
    "pack",
    "pack_nonzero",
    "popcount",
    "soma_backward",
    "soma_forward",
    "transpose_features",
    "unpack",
    "weight_update_dense",
    "weight_update_packed",
    "words_for",
]

_POOL_FIELDS = (
    "channels", "in_height", "in_width",
    "kernel_height", "kernel_width", "stride_height", "stride_width",
)  # fmt: skip

LUT_INPUTS = 6
"""Spikes a forward table covers, as the accelerator's default engine."""
LUT_UPDATE_INPUTS = 5
"""Positions a weight-update table covers, likewise."""
LUT_ROWS = 32
"""Tables that feed one adder tree, likewise."""


@functools.lru_cache(maxsize=1024)
def _core_pool(shape: tuple[int, ...]) -> _core.PoolGeometry:
    return _core.PoolGeometry(**dict(zip(_POOL_FIELDS, shape, strict=True)))


@functools.lru_cache(maxsize=256)
def core_soma(
    decay: float,
    threshold: float,
    inclusive: bool,
    reset: str,
    detach_reset: bool,
    decay_input: bool,
    surrogate: str,
    width: float,
    scale: float,
) -> _core.SomaOptions:
    """The core's options object. Raises ValueError naming field, value and what is allowed."""
    return _core.SomaOptions(
        decay=decay,
        threshold=threshold,
        inclusive=inclusive,
        reset=reset,
        detach_reset=detach_reset,
        decay_input=decay_input,
        surrogate=surrogate,
        width=width,
        scale=scale,
    )


def _array(tensor: Tensor) -> Any:
    """The tensor's own memory as a numpy array; kernels refuse what is not contiguous."""
    # No detach() without need: small layers feel every call into torch.
    return (tensor.detach() if tensor.requires_grad else tensor).contiguous().numpy()


def _optional(tensor: Tensor | None) -> Any:
    return None if tensor is None else _array(tensor)


def pool_out_size(shape: Sequence[int]) -> tuple[int, int]:
    """Output height and width of the pooling `shape` describes."""
    (_, height, width, kh, kw, sh, sw) = shape
    return (height - kh) // sh + 1, (width - kw) // sw + 1


# ---- registration

_LIBRARY = torch.library.Library("h2learn", "DEF")


def _operator(schema: str, fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Defines torch.ops.h2learn.<name> with a CPU and a fake implementation."""

    def register(implementation: Callable[..., Any]) -> Any:
        name = schema[: schema.index("(")]
        _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        _LIBRARY.impl(name, implementation, "CPU")
        torch.library.register_fake(f"h2learn::{name}", fake, lib=_LIBRARY)
        return getattr(torch.ops.h2learn, name).default

    return register


# ---- bits


def _pack_fake(dense: Tensor) -> Tensor:
    return dense.new_empty((dense.shape[0], words_for(dense.shape[1])), dtype=torch.int64)


@_operator("pack(Tensor dense) -> Tensor", _pack_fake)
def pack(dense: Tensor) -> Tensor:
    """Float32 [R, F] of zeros and ones -> words [R, W]. ValueError for any other value."""
    words = _pack_fake(dense)
    bad = _core.pack(_array(dense), words.numpy())
    if bad >= 0:
        row, feature = divmod(bad, dense.shape[1])
        raise ValueError(
            f"spikes must be 0 or 1, got {dense[row, feature].item()} in row {row}, at element "
            f"{feature} of it in memory"
        )
    return words


@_operator("pack_nonzero(Tensor dense) -> Tensor", _pack_fake)
def pack_nonzero(dense: Tensor) -> Tensor:
    """Float32 [R, F] -> words [R, W] with a bit wherever `dense` is not zero."""
    words = _pack_fake(dense)
    _core.pack_nonzero(_array(dense), words.numpy())
    return words


def _unpack_fake(words: Tensor, features: int, scale: float) -> Tensor:
    return words.new_empty((words.shape[1], features), dtype=torch.float32)


@_operator("unpack(Tensor words, int features, float scale) -> Tensor", _unpack_fake)
def unpack(words: Tensor, features: int, scale: float) -> Tensor:
    """Words [planes, R, W] -> float32 [R, F], scale times the count."""
    dense = memory.empty((words.shape[1], features))
    _core.unpack(_array(words), features, scale, dense.numpy())
    return dense


def _transpose_fake(words: Tensor, positions: int, channels: int, to_positions: bool) -> Tensor:
    return torch.empty_like(words, memory_format=torch.contiguous_format)


@_operator(
    "transpose_features(Tensor words, int positions, int channels, bool to_positions) -> Tensor",
    _transpose_fake,
)
def transpose_features(words: Tensor, positions: int, channels: int, to_positions: bool) -> Tensor:
    """Features of words [planes, R, W] from (position, channel) to (channel, position) order.

    `to_positions` undoes it.
    """
    out = _transpose_fake(words, positions, channels, to_positions)
    _core.transpose_features(_array(words), positions, channels, to_positions, out.numpy())
    return out


def popcount(words: Tensor) -> int:
    """Set bits."""
    return int(_core.popcount(_array(words)))


# ---- synapses


def _currents_shape(rows: int, shape: Sequence[int]) -> tuple[int, int, int]:
    return rows, math.prod(out_size(shape)), shape[3]


def _inputs_shape(rows: int, shape: Sequence[int]) -> tuple[int, int]:
    """Of gradients at the inputs of a synapse layer or a pooling: both begin with C, H, W."""
    return rows, shape[0] * shape[1] * shape[2]


def _forward_packed_fake(
    words: Tensor, scale: float, weight: Tensor, bias: Tensor | None, shape: list[int], kernel: str
) -> Tensor:
    return weight.new_empty(_currents_shape(words.shape[1], shape))


@_operator(
    "forward_packed(Tensor words, float scale, Tensor weight, Tensor? bias, int[] shape, "
    "str kernel) -> Tensor",
    _forward_packed_fake,
)
def forward_packed(
    words: Tensor, scale: float, weight: Tensor, bias: Tensor | None, shape: list[int], kernel: str
) -> Tensor:
    """Currents [R, P_out, N] from words [planes, R, W] and weight [N, C / groups, kh, kw]."""
    out = memory.empty(_currents_shape(words.shape[1], shape))
    _core.forward_packed(
        core_geometry(tuple(shape)), _array(words), scale, _array(weight), _optional(bias),
        kernel, LUT_INPUTS, LUT_ROWS, out.numpy(),
    )  # fmt: skip
    return out


def _forward_dense_fake(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, shape: list[int], kernel: str
) -> Tensor:
    return weight.new_empty(_currents_shape(inputs.shape[0], shape))


@_operator(
    "forward_dense(Tensor inputs, Tensor weight, Tensor? bias, int[] shape, str kernel) -> Tensor",
    _forward_dense_fake,
)
def forward_dense(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, shape: list[int], kernel: str
) -> Tensor:
    """Currents [R, P_out, N] from analog inputs [R, P_in * C]."""
    out = memory.empty(_currents_shape(inputs.shape[0], shape))
    _core.forward_dense(
        core_geometry(tuple(shape)), _array(inputs), _array(weight), _optional(bias), kernel,
        out.numpy(),
    )  # fmt: skip
    return out


def _backward_fake(
    grad_currents: Tensor, weight: Tensor, mask: Tensor | None, shape: list[int], kernel: str
) -> Tensor:
    return weight.new_empty(_inputs_shape(grad_currents.shape[0], shape))


@_operator(
    "backward(Tensor grad_currents, Tensor weight, Tensor? mask, int[] shape, str kernel) "
    "-> Tensor",
    _backward_fake,
)
def backward(
    grad_currents: Tensor, weight: Tensor, mask: Tensor | None, shape: list[int], kernel: str
) -> Tensor:
    """Gradient [R, P_in * C] at the inputs, +0 where mask [R, W] has a zero bit."""
    out = memory.empty(_inputs_shape(grad_currents.shape[0], shape))
    _core.backward(
        core_geometry(tuple(shape)), _array(grad_currents), _array(weight), _optional(mask),
        kernel, out.numpy(),
    )  # fmt: skip
    return out


def _weight_shape(shape: Sequence[int]) -> tuple[int, int, int, int]:
    return shape[3], shape[0] // shape[12], shape[4], shape[5]


def _weight_update_packed_fake(
    words: Tensor, scale: float, grad_currents: Tensor, shape: list[int], kernel: str
) -> Tensor:
    return grad_currents.new_empty(_weight_shape(shape))


@_operator(
    "weight_update_packed(Tensor words, float scale, Tensor grad_currents, int[] shape, "
    "str kernel) -> Tensor",
    _weight_update_packed_fake,
)
def weight_update_packed(
    words: Tensor, scale: float, grad_currents: Tensor, shape: list[int], kernel: str
) -> Tensor:
    """Weight gradient [N, C / groups, kh, kw] from words and grad_currents [R, P_out, N]."""
    out = memory.empty(_weight_shape(shape))
    _core.weight_update_packed(
        core_geometry(tuple(shape)), _array(words), scale, _array(grad_currents), kernel,
        LUT_UPDATE_INPUTS, LUT_ROWS, out.numpy(),
    )  # fmt: skip
    return out


def _weight_update_dense_fake(
    inputs: Tensor, grad_currents: Tensor, shape: list[int], kernel: str
) -> Tensor:
    return grad_currents.new_empty(_weight_shape(shape))


@_operator(
    "weight_update_dense(Tensor inputs, Tensor grad_currents, int[] shape, str kernel) -> Tensor",
    _weight_update_dense_fake,
)
def weight_update_dense(
    inputs: Tensor, grad_currents: Tensor, shape: list[int], kernel: str
) -> Tensor:
    """Weight gradient from analog inputs [R, P_in * C]."""
    out = memory.empty(_weight_shape(shape))
    _core.weight_update_dense(
        core_geometry(tuple(shape)), _array(inputs), _array(grad_currents), kernel, out.numpy()
    )
    return out


def _bias_update_fake(grad_currents: Tensor) -> Tensor:
    return grad_currents.new_empty((grad_currents.shape[-1],))


@_operator("bias_update(Tensor grad_currents) -> Tensor", _bias_update_fake)
def bias_update(grad_currents: Tensor) -> Tensor:
    """Sum of grad_currents [..., N] over everything but N."""
    out = _bias_update_fake(grad_currents)
    _core.bias_update(_array(grad_currents.reshape(-1, grad_currents.shape[-1])), out.numpy())
    return out


# ---- soma

_SOMA_SCHEMA = (
    "bool inclusive, str reset, bool detach_reset, bool decay_input, str surrogate, float width, "
    "float scale"
)


def _soma_forward_fake(
    currents: Tensor,
    initial: Tensor | None,
    decay: Tensor,
    threshold: Tensor,
    inclusive: bool,
    reset: str,
    detach_reset: bool,
    decay_input: bool,
    surrogate: str,
    width: float,
    scale: float,
    keep_mask: bool,
    keep_membrane: bool,
    keep_last: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _soma_outputs(torch.empty, currents.shape, keep_mask, keep_membrane, keep_last)


def _soma_outputs(
    empty: Callable[..., Tensor],
    shape: Sequence[int],
    keep_mask: bool,
    keep_membrane: bool,
    keep_last: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    steps, batch, features = shape
    packed = steps, batch, words_for(features)
    return (
        empty(packed, dtype=torch.int64),
        empty(packed if keep_mask else (0,), dtype=torch.int64),
        empty(tuple(shape) if keep_membrane else (0,), dtype=torch.float32),
        empty((batch, features) if keep_last else (0,), dtype=torch.float32),
    )


@_operator(
    "soma_forward(Tensor currents, Tensor? initial, Tensor decay, Tensor threshold, "
    f"{_SOMA_SCHEMA}, bool keep_mask, bool keep_membrane, bool keep_last) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _soma_forward_fake,
)
def soma_forward(
    currents: Tensor,
    initial: Tensor | None,
    decay: Tensor,
    threshold: Tensor,
    inclusive: bool,
    reset: str,
    detach_reset: bool,
    decay_input: bool,
    surrogate: str,
    width: float,
    scale: float,
    keep_mask: bool,
    keep_membrane: bool,
    keep_last: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Neuron dynamics over T: currents [T, B, F] -> spikes, mask, membrane, last.

    Spikes and mask are words [T, B, W], the membrane u_t is [T, B, F], the last one h_T [B, F];
    what is not kept comes back empty. `decay` and `threshold` are scalar float32 tensors, since
    they may be learned. Equations: cpp/include/h2learn/soma.hpp.
    """
    options = core_soma(
        decay.item(), threshold.item(), inclusive, reset, detach_reset, decay_input, surrogate,
        width, scale,
    )  # fmt: skip
    words, mask, membrane, last = _soma_outputs(
        memory.empty, currents.shape, keep_mask, keep_membrane, keep_last
    )
    steps, batch, features = currents.shape
    _core.soma_forward(
        options, steps, batch, features, _array(currents), _optional(initial), words.numpy(),
        mask.numpy() if keep_mask else None,
        membrane.numpy() if keep_membrane else None,
        last.numpy() if keep_last else None,
    )  # fmt: skip
    return words, mask, membrane, last


def integrate_in_place(
    currents: Tensor, initial: Tensor | None, decay: Tensor, threshold: Tensor, *options: Any
) -> None:
    """Turns contiguous currents [T, B, F] into the membranes u_t that `soma_forward` keeps of them.

    `options` are its own, from `inclusive` to `scale`. No torch operator: only backward passes that
    compute membranes again call it, on memory of their own.
    """
    steps, batch, features = currents.shape
    words = torch.empty((steps, batch, words_for(features)), dtype=torch.int64)
    values = currents.numpy()
    _core.soma_forward(
        core_soma(decay.item(), threshold.item(), *options), steps, batch, features, values,
        _optional(initial), words.numpy(), None, values, None,
    )  # fmt: skip


def _soma_backward_fake(
    grad_spikes: Tensor,
    grad_last: Tensor | None,
    spikes: Tensor,
    mask: Tensor | None,
    membrane: Tensor | None,
    currents: Tensor | None,
    initial: Tensor | None,
    decay: Tensor,
    threshold: Tensor,
    inclusive: bool,
    reset: str,
    detach_reset: bool,
    decay_input: bool,
    surrogate: str,
    width: float,
    scale: float,
    want_initial: bool,
    want_decay: bool,
    want_threshold: bool,
    pool: list[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    return _soma_gradients(torch.empty, _before_pooling(grad_spikes, pool), want_initial)


def _before_pooling(gradients: Tensor, pool: Sequence[int] | None) -> tuple[int, ...]:
    """Shape [T, B, F] of the gradients at the spikes."""
    if pool is None:
        return tuple(gradients.shape)
    return *gradients.shape[:2], math.prod(pool[:3])


def _soma_gradients(
    empty: Callable[..., Tensor], shape: Sequence[int], want_initial: bool
) -> tuple[Tensor, Tensor, Tensor]:
    _, batch, features = shape
    return (
        empty(tuple(shape), dtype=torch.float32),
        empty((batch, features) if want_initial else (0,), dtype=torch.float32),
        empty((2,), dtype=torch.float32),
    )


@_operator(
    "soma_backward(Tensor grad_spikes, Tensor? grad_last, Tensor spikes, Tensor? mask, "
    "Tensor? membrane, Tensor? currents, Tensor? initial, Tensor decay, Tensor threshold, "
    f"{_SOMA_SCHEMA}, bool want_initial, bool want_decay, bool want_threshold, "
    "int[]? pool=None) -> (Tensor, Tensor, Tensor)",
    _soma_backward_fake,
)
def soma_backward(
    grad_spikes: Tensor,
    grad_last: Tensor | None,
    spikes: Tensor,
    mask: Tensor | None,
    membrane: Tensor | None,
    currents: Tensor | None,
    initial: Tensor | None,
    decay: Tensor,
    threshold: Tensor,
    inclusive: bool,
    reset: str,
    detach_reset: bool,
    decay_input: bool,
    surrogate: str,
    width: float,
    scale: float,
    want_initial: bool,
    want_decay: bool,
    want_threshold: bool,
    pool: list[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients at the currents [T, B, F], at h_0 [B, F] and (decay, threshold) [2].

    With the shape of a `pool`, `grad_spikes` [T, B, F_out] are those at its averages; the result is
    that of `average_pool_backward` and then this, bit for bit.
    """
    options = core_soma(
        decay.item(), threshold.item(), inclusive, reset, detach_reset, decay_input, surrogate,
        width, scale,
    )  # fmt: skip
    windows = None if pool is None else _core_pool(tuple(pool))  # checked before its sizes are used
    shape = _before_pooling(grad_spikes, pool)
    grad_currents, grad_initial, grad_scalars = _soma_gradients(memory.empty, shape, want_initial)
    grads = _core.soma_backward(
        options,
        *shape,
        grad_spikes=_array(grad_spikes),
        pool=windows,
        grad_last=_optional(grad_last),
        spikes=_array(spikes),
        mask=_optional(mask),
        membrane=_optional(membrane),
        currents=_optional(currents),
        initial=_optional(initial),
        grad_currents=grad_currents.numpy(),
        grad_initial=grad_initial.numpy() if want_initial else None,
        want_decay=want_decay,
        want_threshold=want_threshold,
    )
    grad_scalars.numpy()[:] = grads  # no tensor made only to be copied
    return grad_currents, grad_initial, grad_scalars


# ---- synapses and the neurons behind them

_FUSED_SCHEMA = (
    "Tensor weight, Tensor? bias, int[] shape, str kernel, Tensor? gain, Tensor? offset, "
    "int steps, int batch, Tensor? initial, Tensor decay, Tensor threshold, "
    f"{_SOMA_SCHEMA}, bool keep_mask, bool keep_membrane, bool keep_last) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)


def _fused_outputs(
    empty: Callable[..., Tensor], shape: Sequence[int], steps: int, batch: int, keep: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    features = math.prod(_currents_shape(1, shape))
    return _soma_outputs(empty, (steps, batch, features), *keep)


def _fused_packed_fake(
    words: Tensor, count_scale: float, weight: Tensor, bias: Tensor | None, shape: list[int],
    kernel: str, gain: Tensor | None, offset: Tensor | None, steps: int, batch: int, *neurons: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return _fused_outputs(torch.empty, shape, steps, batch, neurons[-3:])


@_operator(
    f"fused_forward_packed(Tensor words, float count_scale, {_FUSED_SCHEMA}", _fused_packed_fake
)
def fused_forward_packed(
    words: Tensor, count_scale: float, weight: Tensor, bias: Tensor | None, shape: list[int],
    kernel: str, gain: Tensor | None, offset: Tensor | None, steps: int, batch: int, *neurons: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """What `soma_forward` makes of `forward_packed`'s currents, bit for bit; they are not stored.

    `words` are of steps * batch rows; `neurons` are `soma_forward`'s arguments behind its
    currents. With `gain` and `offset` [N], neurons get currents * gain + offset.
    """
    outputs = _fused_outputs(memory.empty, shape, steps, batch, neurons[-3:])
    _core.fused_forward_packed(
        core_geometry(tuple(shape)), _array(words), count_scale, _array(weight), _optional(bias),
        kernel, LUT_INPUTS, LUT_ROWS, _optional(gain), _optional(offset),
        *_fused_neurons(steps, batch, neurons, outputs),
    )  # fmt: skip
    return outputs


def _fused_dense_fake(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, shape: list[int], kernel: str,
    gain: Tensor | None, offset: Tensor | None, steps: int, batch: int, *neurons: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return _fused_outputs(torch.empty, shape, steps, batch, neurons[-3:])


@_operator(f"fused_forward_dense(Tensor inputs, {_FUSED_SCHEMA}", _fused_dense_fake)
def fused_forward_dense(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, shape: list[int], kernel: str,
    gain: Tensor | None, offset: Tensor | None, steps: int, batch: int, *neurons: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The same from analog inputs: steps * batch images, or batch that repeat at every step."""
    outputs = _fused_outputs(memory.empty, shape, steps, batch, neurons[-3:])
    _core.fused_forward_dense(
        core_geometry(tuple(shape)), _array(inputs), _array(weight), _optional(bias), kernel,
        _optional(gain), _optional(offset), *_fused_neurons(steps, batch, neurons, outputs),
    )  # fmt: skip
    return outputs


def _fused_neurons(
    steps: int, batch: int, neurons: Sequence[Any], outputs: tuple[Tensor, ...]
) -> tuple[Any, ...]:
    """The core's arguments from `options` on."""
    initial, decay, threshold, *options = neurons[:-3]
    words, *kept = outputs
    return (
        core_soma(decay.item(), threshold.item(), *options), steps, batch, _optional(initial),
        words.numpy(),
        *(t.numpy() if keep else None for t, keep in zip(kept, neurons[-3:], strict=True)),
    )  # fmt: skip


# ---- pooling


def _count_pool_fake(words: Tensor, shape: list[int]) -> Tensor:
    features = math.prod(pool_out_size(shape)) * shape[0]
    planes = (shape[3] * shape[4]).bit_length()
    return words.new_empty((planes, words.shape[0], words_for(features)))


@_operator("count_pool(Tensor words, int[] shape) -> Tensor", _count_pool_fake)
def count_pool(words: Tensor, shape: list[int]) -> Tensor:
    """Spikes in each window: words [R, W] -> counts [planes, R, W_out].

    `shape`: channels, in_height, in_width, kernel (2), stride (2).
    """
    out = _count_pool_fake(words, shape)
    _core.count_pool(_core_pool(tuple(shape)), _array(words), out.numpy())
    return out


def _max_pool_fake(words: Tensor, shape: list[int]) -> Tensor:
    features = math.prod(pool_out_size(shape)) * shape[0]
    return words.new_empty((words.shape[0], words_for(features)))


@_operator("max_pool(Tensor words, int[] shape) -> Tensor", _max_pool_fake)
def max_pool(words: Tensor, shape: list[int]) -> Tensor:
    """OR of each window: words [R, W] -> [R, W_out]."""
    out = _max_pool_fake(words, shape)
    _core.max_pool(_core_pool(tuple(shape)), _array(words), out.numpy())
    return out


def _average_pool_backward_fake(grad_outputs: Tensor, shape: list[int]) -> Tensor:
    return grad_outputs.new_empty(_inputs_shape(grad_outputs.shape[0], shape))


@_operator(
    "average_pool_backward(Tensor grad_outputs, int[] shape) -> Tensor",
    _average_pool_backward_fake,
)
def average_pool_backward(grad_outputs: Tensor, shape: list[int]) -> Tensor:
    """Gradient [R, F_in] from grad_outputs [R, F_out]: each window's, divided by its size."""
    out = memory.empty(_inputs_shape(grad_outputs.shape[0], shape))
    _core.average_pool_backward(_core_pool(tuple(shape)), _array(grad_outputs), out.numpy())
    return out


def _max_pool_backward_fake(words: Tensor, grad_outputs: Tensor, shape: list[int]) -> Tensor:
    return grad_outputs.new_empty(_inputs_shape(grad_outputs.shape[0], shape))


@_operator(
    "max_pool_backward(Tensor words, Tensor grad_outputs, int[] shape) -> Tensor",
    _max_pool_backward_fake,
)
def max_pool_backward(words: Tensor, grad_outputs: Tensor, shape: list[int]) -> Tensor:
    """Gradient [R, F_in]: each window's goes to its first spike, or its first element."""
    out = memory.empty(_inputs_shape(grad_outputs.shape[0], shape))
    _core.max_pool_backward(
        _core_pool(tuple(shape)), _array(words), _array(grad_outputs), out.numpy()
    )
    return out
