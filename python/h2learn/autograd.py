"""Differentiable functions over SpikeTensor and dense tensors: what `h2learn.nn` calls.

All take logical torch shapes, [T, B, C, H, W] or [T, B, F], and keep dense tensors channels-last
in memory. What each saves for its backward pass is said in its docstring. Gradients are first
order only: differentiating twice raises torch's once_differentiable error.
"""

from __future__ import annotations

import math
import threading
import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from h2learn import datapath, numerics, ops, recording
from h2learn.spikes import SpikeTensor, channels_first, channels_last
from h2learn.surrogate import Surrogate

__all__ = ["average_pool", "dropout", "flatten", "max_pool", "soma", "synapse"]


def as_float32(value: Any, name: str) -> Tensor:
    """Float32 tensors pass, narrower floats are widened; anything else is refused.

    Raises:
        TypeError: not a tensor, or a dtype that float32 cannot hold exactly.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.device.type != "cpu":
        raise TypeError(f"{name} must be on the CPU, got device {value.device}; call .cpu()")
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {value.layout}")
    if value.dtype == torch.float32:
        return value
    if value.dtype in (torch.bfloat16, torch.float16):
        return value.to(torch.float32)
    raise TypeError(
        f"{name} must be float32 (or bfloat16, float16, which are widened), got {value.dtype}; "
        "call .float()"
    )


# ---- synapses


class _Synapse(torch.autograd.Function):
    """Linear and convolution layers. Saves the inputs as they are (packed if packed).

    With an `arithmetic` the accelerator's engines compute, in place of the kernel. Currents that
    are `deferred` are left to the neurons: what comes out has their shape and no numbers.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        lead: int,
        shape: list[int],
        kernel: str,
        arithmetic: numerics.Arithmetic | None,
        deferred: bool,
    ) -> Tensor:
        ctx.lead, ctx.shape, ctx.kernel, ctx.arithmetic = lead, shape, kernel, arithmetic
        ctx.save_for_backward(inputs, weight)
        # Direct encoding repeats one analog image over time (stride 0): compute it once.
        ctx.repeats = repeats_over_time(inputs, lead)
        if deferred:
            size = math.prod(inputs.shape[:lead]), math.prod(ops.out_size(shape)), shape[3]
            currents = torch.full((), math.nan).expand(size)
        else:
            currents = _currents(inputs, ctx.repeats, weight, bias, lead, shape, kernel, arithmetic)
        if recording.listening():
            ctx.owner, ctx.call = recording.owner(), recording.new_call()
            rows = math.prod(inputs.shape[:lead])
            kept = _kept_of_inputs(inputs) if any(ctx.needs_input_grad) else ()
            recording.record(
                recording.SynapseForward(
                    ctx.owner, tuple(shape), lead, rows, inputs, kept, ctx.call
                )
            )
        return currents

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        lead, shape, kernel, arithmetic = ctx.lead, ctx.shape, ctx.kernel, ctx.arithmetic
        want_inputs, want_weight, want_bias = ctx.needs_input_grad[:3]
        grad_currents = as_float32(grad, "gradient at the currents").contiguous()
        rows = grad_currents.shape[0]
        listening = recording.listening()
        owner, call = getattr(ctx, "owner", None), getattr(ctx, "call", None)

        grad_inputs = grad_weight = grad_bias = None
        if want_bias:
            grad_bias = ops.bias_update(grad_currents)
        if arithmetic is not None:
            # As the gradient unit writes it: one that underflows is zero for the engines, and so
            # it is for who records what they had to do.
            grad_currents = datapath.rounded(grad_currents, arithmetic.precision)
        if want_inputs:
            mask = inputs.mask_rows() if isinstance(inputs, SpikeTensor) else None
            if arithmetic is not None:
                flat = datapath.hardware_backward(
                    grad_currents, weight, mask, shape, arithmetic.precision
                )
            else:
                flat = ops.backward(grad_currents, weight, mask, shape, kernel)
            grad_inputs = channels_first(flat, inputs.shape[:lead], inputs.shape[lead:])
            if listening:
                recording.record(
                    recording.SynapseBackward(owner, tuple(shape), rows, mask, grad_currents, call)
                )
        if want_weight:
            if arithmetic is not None:
                grad_weight = _hardware_update(
                    arithmetic, inputs, ctx.repeats, grad_currents, lead, shape
                )
            elif isinstance(inputs, SpikeTensor):
                grad_weight = ops.weight_update_packed(
                    inputs.rows(), inputs.scale, grad_currents, shape, kernel
                )
            elif ctx.repeats:
                steps = inputs.shape[0]
                summed = grad_currents.view(steps, rows // steps, *grad.shape[1:]).sum(0)
                grad_weight = ops.weight_update_dense(
                    channels_last(inputs[:1], lead), summed, shape, kernel
                )
            else:
                grad_weight = ops.weight_update_dense(
                    channels_last(inputs, lead), grad_currents, shape, kernel
                )
            grad_weight = grad_weight.view(weight.shape)
            if listening:
                recording.record(
                    recording.WeightUpdate(
                        owner, tuple(shape), lead, rows, inputs, grad_currents, call
                    )
                )
        return grad_inputs, grad_weight, grad_bias, None, None, None, None, None


def _currents(
    inputs: Tensor,
    repeats: bool,
    weight: Tensor,
    bias: Tensor | None,
    lead: int,
    shape: list[int],
    kernel: str,
    arithmetic: numerics.Arithmetic | None,
) -> Tensor:
    """Currents [R, P_out, N]: the same bits whenever the same operands come in."""
    if arithmetic is not None:
        currents = _hardware_currents(arithmetic, inputs, repeats, weight, bias, lead, shape)
    elif isinstance(inputs, SpikeTensor):
        currents = ops.forward_packed(inputs.rows(), inputs.scale, weight, bias, shape, kernel)
    else:
        images = channels_last(inputs[:1] if repeats else inputs, lead)
        currents = ops.forward_dense(images, weight, bias, shape, kernel)
    if repeats:
        currents = currents.expand(inputs.shape[0], *currents.shape).flatten(0, 1)
    return currents


def _hardware_currents(
    arithmetic: numerics.Arithmetic,
    inputs: Tensor,
    repeats: bool,
    weight: Tensor,
    bias: Tensor | None,
    lead: int,
    shape: list[int],
) -> Tensor:
    """Currents [R, P_out, N] of the forward engine."""
    if isinstance(inputs, SpikeTensor):
        return datapath.hardware_forward_packed(  # type: ignore[no-any-return]
            inputs.rows(), inputs.scale, weight, bias, shape, arithmetic.precision,
            arithmetic.forward,
        )  # fmt: skip
    return datapath.hardware_forward_dense(  # type: ignore[no-any-return]
        channels_last(inputs[:1] if repeats else inputs, lead), arithmetic.analog_bits, weight,
        bias, shape, arithmetic.precision, arithmetic.forward,
    )  # fmt: skip


def _hardware_update(
    arithmetic: numerics.Arithmetic,
    inputs: Tensor,
    repeats: bool,
    grad_currents: Tensor,
    lead: int,
    shape: list[int],
) -> Tensor:
    """Weight gradient of the weight-update engine; with `lead` 1 a call is one timestep."""
    timesteps = inputs.shape[0] if lead > 1 else 1
    if isinstance(inputs, SpikeTensor):
        return datapath.hardware_update_packed(  # type: ignore[no-any-return]
            inputs.rows(), inputs.scale, grad_currents, timesteps, shape, arithmetic.precision,
            arithmetic.update,
        )  # fmt: skip
    return datapath.hardware_update_dense(  # type: ignore[no-any-return]
        channels_last(inputs[:1] if repeats else inputs, lead), arithmetic.analog_bits,
        grad_currents, timesteps, shape, arithmetic.precision, arithmetic.update,
    )  # fmt: skip


def repeats_over_time(inputs: Tensor, lead: int) -> bool:
    """Whether a dense input is one image repeated over its first leading dimension."""
    return (
        lead > 1
        and not isinstance(inputs, SpikeTensor)
        and inputs.shape[0] > 1
        and inputs.stride(0) == 0
    )


def _kept_of_inputs(inputs: Tensor) -> tuple[recording.Kept, ...]:
    if not isinstance(inputs, SpikeTensor):
        return (recording.Kept(inputs, inputs.numel()),)
    kept = [recording.Kept(inputs.words, inputs.numel())]
    if inputs.mask is not None:
        kept.append(recording.Kept(inputs.mask, inputs.numel()))
    return tuple(kept)


class _Source(NamedTuple):
    """What currents were computed from, and how: neurons can compute them again.

    `deferred`: nobody has computed them; the neurons do, and get currents * gain + offset where
    these two are given as `scaling`.
    """

    inputs: Tensor
    weight: Tensor
    bias: Tensor | None
    lead: int
    shape: list[int]
    kernel: str
    arithmetic: numerics.Arithmetic | None
    deferred: bool = False
    scaling: tuple[Tensor, Tensor] | None = None

    def currents(self) -> Tensor:
        """Computes them, [R, P_out, N]."""
        repeats = repeats_over_time(self.inputs, self.lead)
        return _currents(
            self.inputs, repeats, self.weight, self.bias, self.lead, self.shape, self.kernel,
            self.arithmetic,
        )  # fmt: skip

    def fire(self, steps: int, batch: int, *neurons: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What `ops.soma_forward` would make of deferred currents, given its other arguments."""
        gain, offset = self.scaling or (None, None)
        how = self.weight, self.bias, self.shape, self.kernel, gain, offset, steps, batch
        if isinstance(self.inputs, SpikeTensor):
            return ops.fused_forward_packed(  # type: ignore[no-any-return]
                self.inputs.rows(), self.inputs.scale, *how, *neurons
            )
        repeats = repeats_over_time(self.inputs, self.lead)
        images = channels_last(self.inputs[:1] if repeats else self.inputs, self.lead)
        return ops.fused_forward_dense(images, *how, *neurons)  # type: ignore[no-any-return]


class _Made(weakref.ref[Tensor]):
    """Currents, as long as they live, and their source, which is let go with them."""

    __slots__ = ("source", "version")

    source: _Source | None
    version: int

    def __new__(cls, currents: Tensor, source: _Source) -> _Made:
        made = super().__new__(cls, currents, _forget_source)
        # Nobody else has deferred currents; and made in inference mode, tensors have no version.
        made.source, made.version = source, 0 if source.deferred else currents._version
        return made


def _forget_source(made: weakref.ref[Tensor]) -> None:
    made.source = None  # type: ignore[attr-defined]


# The currents that each thread made last. Neurons that compute their membrane again look here for
# the source of the very tensor that they are given, and so find it in any container or forward
# function, while hooks and subclasses run as they always do.
_latest = threading.local()


def _source_of(currents: Tensor, lead: int) -> _Source | None:
    """None for any other tensor than the latest currents, and for those once written to."""
    made: _Made | None = getattr(_latest, "made", None)
    if made is None or made() is not currents or made.source is None:
        return None
    source = made.source
    unchanged = source.deferred or currents._version == made.version
    return source if unchanged and source.lead == lead else None


def synapse(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lead: int,
    shape: ops.Geometry,
    kernel: str = "auto",
    *,
    deferred: bool = False,
    scaling: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Currents [*lead, N] or [*lead, N, H_out, W_out] of a linear or convolution layer.

    Args:
        inputs: SpikeTensor or dense [*lead, K] or [*lead, C, H, W].
        weight: [N, K] or [N, C / groups, kh, kw].
        bias: [N] or None.
        lead: number of leading (row) dimensions.
        shape: `ops.geometry(...)`, matching `inputs` and `weight`.
        kernel: "auto", "event", "dense", "lut", "digits", "sampled" or "fastest".
        deferred: compute nothing. The result must go, as it is, to `soma` with the same `lead`, in
            this thread and before any other currents are made; it computes the currents of a few
            samples at a time. Anybody else reads NaNs. Not inside `torch.compile`.
        scaling: with `deferred` and without gradients, `soma` gets currents * gain + offset,
            (gain, offset) both [N].
    """
    if not isinstance(inputs, SpikeTensor):
        inputs = as_float32(inputs, "inputs")
    elif len(inputs.lead) != lead:
        inputs = inputs.to_dense()
    weight = as_float32(weight, "weight")
    bias = None if bias is None else as_float32(bias, "bias")
    arithmetic = numerics.active()
    currents = _Synapse.apply(  # type: ignore[no-untyped-call]
        inputs, weight, bias, lead, list(shape), kernel, arithmetic, deferred
    )
    # The view is taken out here: torch forbids writing into a view made inside a Function.
    features = (shape[3],) if inputs.dim() == lead + 1 else (shape[3], *ops.out_size(shape))
    currents = channels_first(currents, inputs.shape[:lead], features)
    if deferred or (not torch.compiler.is_compiling() and torch.is_grad_enabled()):
        source = _Source(
            inputs, weight, bias, lead, list(shape), kernel, arithmetic, deferred, scaling
        )
        _latest.made = _Made(currents, source)
    return currents


# ---- soma


class _Soma(torch.autograd.Function):
    """Neurons over T.

    Saves the spikes (shared with whoever reads them), the mask of a compact surrogate, and the
    membrane only if the gradient needs it: any surrogate but Rect, a hard reset that is not
    detached, or a learned decay. With a learned decay that also scales the input, the currents
    too. Given their `source` to `recompute` them from, it saves its operands, which the synapse
    saves as well, in place of membrane and currents, and computes these again in the backward
    pass. Where the source is `deferred`, `currents` hold no numbers. With a `pool` the averages of
    its windows come out in place of the spikes, and the gradient at the spikes is never stored.
    """

    @staticmethod
    def forward(
        ctx: Any,
        currents: Tensor,
        initial: Tensor | None,
        decay: Tensor,
        threshold: Tensor,
        features: tuple[int, ...],
        lead: int,
        inclusive: bool,
        reset: str,
        detach_reset: bool,
        decay_input: bool,
        surrogate: str,
        compact: bool,
        width: float,
        scale: float,
        keep_last: bool,
        source: _Source | None,
        recompute: bool,
        pool: list[int] | None,
    ) -> tuple[SpikeTensor, Tensor]:
        # currents [T, B, F] and initial [B, F], channels-last; spikes [T, B, *features] or, with
        # lead 1, [B, *features].
        want_grad = any(ctx.needs_input_grad[:4])
        want_decay = ctx.needs_input_grad[2]
        needs_membrane = surrogate != "rect" or (reset == "hard" and not detach_reset)
        ctx.options = (inclusive, reset, detach_reset, decay_input, surrogate, width, scale)
        ctx.lead, ctx.count, ctx.pool = lead, currents.shape[2], pool
        keep_mask = want_grad and compact
        keep_membrane = want_grad and (needs_membrane or want_decay)
        recompute = recompute and keep_membrane  # else there is nothing to compute again
        keep_membrane = keep_membrane and not recompute
        keep_currents = want_decay and decay_input and not recompute
        neurons = (
            initial, decay, threshold, *ctx.options, keep_mask, keep_membrane, keep_last
        )  # fmt: skip
        if source is not None and source.deferred and not keep_currents:
            words, mask, membrane, last = source.fire(*currents.shape[:2], *neurons)
        else:
            if source is not None and source.deferred:
                currents = source.currents().view(currents.shape)
            words, mask, membrane, last = ops.soma_forward(currents, *neurons)
        shape = words.shape if lead == 2 else words.shape[1:]
        spikes = SpikeTensor(
            words.view(1, *shape), features, mask=mask.view(shape) if keep_mask else None
        )
        kept = (
            words,
            mask if keep_mask else None,
            membrane if keep_membrane else None,
            currents if keep_currents else None,
        )
        start = initial if want_decay or recompute else None
        operands: tuple[Tensor | None, ...] = ()
        if recompute and source is not None:
            operands = source.inputs, source.weight, source.bias
            ctx.repeats = repeats_over_time(source.inputs, source.lead)
            ctx.how = source.lead, source.shape, source.kernel, source.arithmetic
        ctx.save_for_backward(*kept, start, decay, threshold, *operands)
        ctx.set_materialize_grads(False)
        if recording.listening():
            ctx.owner = recording.owner()
            held = tuple(recording.Kept(t, currents.numel()) for t in kept if t is not None)
            if start is not None:
                held += (recording.Kept(start, start.numel()),)
            if recompute and source is not None:
                held += _kept_of_inputs(source.inputs)
            recording.record(
                recording.SomaForward(
                    ctx.owner, spikes, held if want_grad else (), needs_membrane or want_decay
                )
            )
        if not keep_last:
            ctx.mark_non_differentiable(last)
        return spikes if pool is None else _averages(spikes, pool), last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor | None, grad_last: Tensor | None) -> Any:
        words, mask, membrane, currents, initial, decay, threshold, *operands = ctx.saved_tensors
        steps, batch = words.shape[:2]
        pool = ctx.pool
        if grad_spikes is None:
            rows = torch.zeros(steps, batch, ctx.count, dtype=torch.float32)
            pool = None
        else:
            grad_spikes = as_float32(grad_spikes, "gradient at the spikes or their averages")
            count = ctx.count if pool is None else pool[0] * math.prod(ops.pool_out_size(pool))
            rows = channels_last(grad_spikes, ctx.lead).view(steps, batch, count)
        if grad_last is not None:
            grad_last = as_float32(grad_last, "gradient at the membrane").contiguous()
        want_initial, want_decay, want_threshold = ctx.needs_input_grad[1:4]
        if operands:
            inputs, weight, bias = operands
            membrane = _currents(inputs, ctx.repeats, weight, bias, *ctx.how)
            membrane = membrane.view(steps, batch, ctx.count)
            decay_input = ctx.options[3]
            currents = membrane.clone() if want_decay and decay_input else None
            ops.integrate_in_place(membrane, initial, decay, threshold, *ctx.options)
        grad_currents, grad_initial, scalars = ops.soma_backward(
            rows, grad_last, words, mask, membrane, currents, initial, decay, threshold,
            *ctx.options, want_initial, want_decay, want_threshold, pool,
        )  # fmt: skip
        if recording.listening():
            recording.record(recording.SomaBackward(getattr(ctx, "owner", None), grad_currents))
        return (
            grad_currents,
            grad_initial if want_initial else None,
            scalars[0].view(decay.shape) if want_decay else None,
            scalars[1].view(threshold.shape) if want_threshold else None,
            *(None,) * 14,
        )


def soma(
    currents: Tensor,
    *,
    decay: Tensor,
    threshold: Tensor,
    surrogate: Surrogate,
    lead: int = 2,
    initial: Tensor | None = None,
    inclusive: bool = False,
    reset: str = "hard",
    detach_reset: bool = False,
    decay_input: bool = False,
    keep_last: bool = False,
    recompute: bool = False,
    pool: list[int] | None = None,
) -> tuple[SpikeTensor, Tensor | None]:
    """Spikes of a layer of neurons, and the membrane after the last step.

    Args:
        currents: [T, B, ...] with `lead` 2, or one step, [B, ...], with `lead` 1.
        decay: scalar float32 tensor, 0 to 1; learned if it requires a gradient.
        threshold: scalar float32 tensor, positive; likewise.
        surrogate: derivative of the spike used by the backward pass.
        lead: number of leading dimensions.
        initial: membrane h_0 [B, ...] left by an earlier call, or None for zeros.
        inclusive: spike at u >= threshold instead of u > threshold.
        reset: "hard" (to zero) or "soft" (minus the threshold).
        detach_reset: let no gradient through the spike in the reset.
        decay_input: weigh the input with (1 - decay).
        keep_last: return h_T [B, ...], else None.
        recompute: where `currents` are, unchanged, what `synapse` returned last in this thread,
            and hold more than one timestep, keep nothing that can be computed again from that
            layer's inputs.
        pool: channels, height, width, kernel (2) and stride (2) of an average pooling behind the
            neurons: its averages come back in place of the spikes, as `average_pool` makes them.

    Raises:
        ValueError: an option out of its range, or currents that are not finite.
    """
    currents = as_float32(currents, "currents")
    if isinstance(currents, SpikeTensor):
        currents = currents.to_dense()
    features = tuple(currents.shape[lead:])
    steps, batch = (currents.shape[0] if lead == 2 else 1), currents.shape[lead - 1]
    source = None if torch.compiler.is_compiling() else _source_of(currents, lead)
    if source is not None and source.deferred:
        rows = currents.movedim(lead, -1)  # one number, expanded: views of it, no copy
    else:
        rows = channels_last(currents, lead)
    # A single step begins with a membrane as large as the one that computing it again would spare.
    recompute = recompute and steps > 1 and source is not None
    spikes, last = _Soma.apply(  # type: ignore[no-untyped-call]
        rows.reshape(steps, batch, math.prod(features)),
        None if initial is None else channels_last(as_float32(initial, "initial"), 1),
        decay, threshold, features, lead, inclusive, reset, detach_reset, decay_input,
        surrogate.name, surrogate.compact, surrogate.width, surrogate.scale, keep_last, source,
        recompute, pool,
    )  # fmt: skip
    return spikes, channels_first(last, (batch,), features) if keep_last else None


# ---- pooling


class _AveragePool(torch.autograd.Function):
    """Counts of spikes in windows; saves nothing."""

    @staticmethod
    def forward(ctx: Any, spikes: SpikeTensor, shape: list[int]) -> SpikeTensor:
        ctx.shape = shape
        ctx.lead, ctx.features = spikes.lead, spikes.features
        return _averages(spikes, shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        rows = channels_last(as_float32(grad, "gradient"), len(ctx.lead))
        flat = ops.average_pool_backward(rows, ctx.shape)
        return channels_first(flat, ctx.lead, ctx.features), None


class _MaxPool(torch.autograd.Function):
    """OR of spikes in windows; saves the spikes."""

    @staticmethod
    def forward(ctx: Any, spikes: SpikeTensor, shape: list[int]) -> SpikeTensor:
        ctx.shape = shape
        ctx.lead, ctx.features = spikes.lead, spikes.features
        ctx.save_for_backward(spikes)
        pooled = ops.max_pool(spikes.rows()[0], shape)
        return _pooled(spikes, pooled.unsqueeze(0), spikes.scale, shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (spikes,) = ctx.saved_tensors
        rows = channels_last(as_float32(grad, "gradient"), len(ctx.lead))
        flat = ops.max_pool_backward(spikes.rows()[0], rows, ctx.shape)
        return channels_first(flat, ctx.lead, ctx.features), None


def _averages(spikes: SpikeTensor, shape: list[int]) -> SpikeTensor:
    counts = ops.count_pool(spikes.rows()[0], shape)
    return _pooled(spikes, counts, spikes.scale / (shape[3] * shape[4]), shape)


def _pooled(spikes: SpikeTensor, words: Tensor, scale: float, shape: list[int]) -> SpikeTensor:
    features = (shape[0], *ops.pool_out_size(shape))
    mask = spikes.mask_rows()
    if mask is not None:
        # A pooled gradient is needed where that of any input of its window is.
        mask = _rowed(ops.max_pool(mask, shape), spikes.lead)
    words = _rowed(words, (words.shape[0], *spikes.lead))
    return SpikeTensor(words, features, scale, mask)


def _rowed(words: Tensor, lead: tuple[int, ...]) -> Tensor:
    """Words [..., W] with the dimensions before W reshaped to `lead`; it may hold zeros."""
    return words.view(*lead, words.shape[-1])


def _pool_shape(spikes: SpikeTensor, kernel: tuple[int, int], stride: tuple[int, int]) -> list[int]:
    return [*spikes.features, *kernel, *stride]


def average_pool(
    spikes: SpikeTensor, kernel: tuple[int, int], stride: tuple[int, int]
) -> SpikeTensor:
    """Average of binary spikes [*lead, C, H, W] over windows, as counts in bit planes."""
    return _AveragePool.apply(spikes, _pool_shape(spikes, kernel, stride))  # type: ignore[no-any-return, no-untyped-call]


def max_pool(spikes: SpikeTensor, kernel: tuple[int, int], stride: tuple[int, int]) -> SpikeTensor:
    """Maximum of binary spikes [*lead, C, H, W] over windows."""
    return _MaxPool.apply(spikes, _pool_shape(spikes, kernel, stride))  # type: ignore[no-any-return, no-untyped-call]


# ---- layout and dropout


class _Flatten(torch.autograd.Function):
    """[*lead, C, H, W] -> [*lead, C * H * W], packed; saves nothing."""

    @staticmethod
    def forward(ctx: Any, spikes: SpikeTensor) -> SpikeTensor:
        ctx.shape = spikes.shape
        channels = spikes.features[0]
        positions = math.prod(spikes.features[1:])
        words = ops.transpose_features(spikes.rows(), positions, channels, False)
        mask = spikes.mask_rows()
        if mask is not None:
            mask = ops.transpose_features(mask.unsqueeze(0), positions, channels, False)
            mask = _rowed(mask, spikes.lead)
        words = _rowed(words, (spikes.planes, *spikes.lead))
        return SpikeTensor(words, (channels * positions,), spikes.scale, mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.reshape(ctx.shape)


def flatten(spikes: SpikeTensor) -> SpikeTensor:
    """[*lead, C, H, W] -> [*lead, C * H * W] in torch's order, without unpacking."""
    return _Flatten.apply(spikes)  # type: ignore[no-any-return, no-untyped-call]


class _Dropout(torch.autograd.Function):
    """Spikes AND one mask over time; saves the mask, one bit a neuron."""

    @staticmethod
    def forward(ctx: Any, spikes: SpikeTensor, keep: SpikeTensor, p: float) -> SpikeTensor:
        ctx.p = p
        ctx.save_for_backward(keep)
        kept = keep.words[0]
        mask = None if spikes.mask is None else spikes.mask & kept
        scale = spikes.scale / (1.0 - p)
        return SpikeTensor(spikes.words & kept, spikes.features, scale, mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return grad * (keep.to_dense() / (1.0 - ctx.p)), None, None


def dropout(spikes: SpikeTensor, keep: SpikeTensor, p: float) -> SpikeTensor:
    """`spikes` [T, B, ...] where `keep` [B, ...] is 1, divided by 1 - p."""
    return _Dropout.apply(spikes, keep, p)  # type: ignore[no-any-return, no-untyped-call]


# torch.compile traces these as single nodes; below autograd it sees the plain operators.
for _function in (_Synapse, _Soma, _AveragePool, _MaxPool, _Flatten, _Dropout):
    torch._dynamo.allow_in_graph(_function)
