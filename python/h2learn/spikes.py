"""SpikeTensor: float32 zeros and ones to every torch operator, one bit each in memory.

A `torch.Tensor` wrapper subclass around packed words. h2learn's modules read the words; any
other operator gets a dense float32 tensor made on the fly, with the right values and the right
gradients. What autograd saves of it is the packed tensor.

Layout. The leading dimensions ([T, B], or [B] for a single step) are rows; the others are the
features of a row, ordered channels-last, and

    numpy.packbits(row, bitorder="little")      row = dense[t, b] moved to (H, W, C), flattened

gives the bytes of a row's words, padded with zero bits to a multiple of 64. Averages of spikes
are stored as counts in `planes` bit planes times `scale`; binary spikes have one plane and
scale 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from h2learn import ops

__all__ = ["SpikeTensor"]

aten = torch.ops.aten
Handler = Callable[..., Any]
_HANDLERS: dict[Any, Handler] = {}


def channels_last(dense: Tensor, lead: int) -> Tensor:
    """[*lead, C, *space] -> contiguous [rows, features] with channels fastest (float32)."""
    if dense.dim() > lead + 1:
        dense = dense.movedim(lead, -1)
    return dense.contiguous().view(math.prod(dense.shape[:lead]), math.prod(dense.shape[lead:]))


def channels_first(rows: Tensor, lead: Sequence[int], features: Sequence[int]) -> Tensor:
    """Undoes `channels_last`; a view, logically [*lead, C, *space]."""
    if len(features) < 2:
        return rows.view(*lead, *features)
    return rows.view(*lead, *features[1:], features[0]).movedim(-1, len(lead))


class SpikeTensor(Tensor):
    """Spikes (or averages of spikes) of shape [*lead, *features], bit-packed. Read-only.

    Args:
        words: int64 [planes, *lead, ceil(prod(features) / 64)]; padding bits must be 0.
        features: shape of a row, channels first as torch has it: (F,), (C, L) or (C, H, W).
        scale: value of one count.
        mask: words like one plane, or None: where the neuron's surrogate gradient is not zero.
            Gradients elsewhere are never used by the neuron, so the backward pass leaves them
            at zero: a hook on the spikes, or retain_grad(), sees the masked gradient. A
            detached or loaded tensor has no mask and gets every gradient.

    Results of operators are never views of a SpikeTensor: those that do not stay packed are dense
    tensors with memory of their own.
    """

    words: Tensor
    mask: Tensor | None
    features: tuple[int, ...]
    scale: float
    lead: tuple[int, ...]
    """Shape of the leading dimensions: (T, B), or (B,) for a single step."""

    @staticmethod
    def __new__(
        cls,
        words: Tensor,
        features: Sequence[int],
        scale: float = 1.0,
        mask: Tensor | None = None,
    ) -> SpikeTensor:
        """Wraps words without copying them."""
        if not isinstance(words, Tensor) or words.dtype != torch.int64:
            raise TypeError(f"words must be an int64 torch.Tensor, got {_describe(words)}")
        if not isinstance(features, (tuple, list, torch.Size)) or len(features) == 0:
            raise TypeError(f"features must be a tuple of sizes, got {features!r}")
        if any(size < 0 for size in features):
            raise ValueError(f"features must not be negative, got {tuple(features)}")
        if not math.isfinite(scale):
            raise ValueError(f"scale must be finite, got {scale}")
        expected = (math.prod(features) + 63) // 64
        if words.dim() < 2 or words.shape[-1] != expected:
            raise ValueError(
                f"words must have shape [planes, *lead, {expected}] for features "
                f"{tuple(features)}, got {list(words.shape)}"
            )
        if mask is not None and mask.shape != words.shape[1:]:
            raise ValueError(
                f"mask must have the shape of one plane of words, {list(words.shape[1:])}, "
                f"got {list(mask.shape)}"
            )
        tensor = Tensor._make_wrapper_subclass(
            cls, (*words.shape[1:-1], *features), dtype=torch.float32, device=words.device
        )
        tensor.words = words
        tensor.mask = mask
        tensor.features = tuple(features)
        tensor.scale = float(scale)
        # Not asked of torch each time, which would call __torch_function__.
        tensor.lead = tuple(words.shape[1:-1])
        return tensor

    @classmethod
    def from_dense(cls, dense: Tensor, lead: int = 2) -> SpikeTensor:
        """Packs a dense tensor of zeros and ones; its first `lead` dimensions are rows.

        The result is cut from autograd: encode data with it, not activations.

        Raises:
            TypeError: `dense` is not a floating-point, integer or boolean tensor.
            ValueError: an element is neither 0 nor 1, or there are too few dimensions.
        """
        if not isinstance(dense, Tensor) or dense.is_complex():
            raise TypeError(f"dense must be a real torch.Tensor, got {_describe(dense)}")
        if isinstance(dense, SpikeTensor):
            dense = dense.to_dense()
        if not 1 <= lead < dense.dim():
            raise ValueError(
                f"lead must leave at least one feature dimension: 1 <= lead < {dense.dim()} "
                f"for a tensor of shape {list(dense.shape)}, got {lead}"
            )
        shape = dense.shape
        dense = dense.detach()
        if dense.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.bool):
            # Rounding to float32 must not make a spike of what is not one.
            wrong = dense[(dense != 0) & (dense != 1)]
            if wrong.numel():
                raise ValueError(f"spikes must be 0 or 1, got {wrong[0].item()}")
        dense = dense.to(torch.float32)
        if dense.is_contiguous() and dense.dim() > lead + 1 and dense.numel() > 0:
            # Channels first in memory: bits are moved, a 32nd of the floats.
            rows = dense.view(math.prod(shape[:lead]), math.prod(shape[lead:]))
            positions = math.prod(shape[lead + 1 :])
            words = ops.pack(rows).unsqueeze(0)
            words = ops.transpose_features(words, positions, shape[lead], True)
        else:
            words = ops.pack(channels_last(dense, lead))
        return cls(words.view(1, *shape[:lead], words.shape[-1]), shape[lead:])

    @property
    def planes(self) -> int:
        """Bit planes: 1 for spikes, more for counts."""
        return self.words.shape[0]

    @property
    def packed_nbytes(self) -> int:
        """Bytes of the packed words, the surrogate mask not included."""
        return self.words.numel() * 8

    def rows(self) -> Tensor:
        """The words as [planes, rows, words], contiguous: what kernels take."""
        words = self.words.contiguous()
        return words.view(words.shape[0], math.prod(self.lead), words.shape[-1])

    def mask_rows(self) -> Tensor | None:
        """The surrogate mask as [rows, words], contiguous, or None."""
        if self.mask is None:
            return None
        return self.mask.contiguous().view(math.prod(self.lead), self.mask.shape[-1])

    def to_dense(self) -> Tensor:  # type: ignore[override]
        """A contiguous float32 copy; differentiable."""
        return self * 1.0 if self.requires_grad else self._dense()

    def count(self) -> int:
        """Spikes: set bits, over all planes."""
        return ops.popcount(self.words.contiguous())

    def firing_rate(self) -> float:
        """Set bits per element: spikes per neuron and timestep, between 0 and 1 if binary."""
        return self.count() / max(1, self.numel())

    def _dense(self) -> Tensor:
        rows = ops.unpack(self.rows(), math.prod(self.features), self.scale)
        return channels_first(rows, self.lead, self.features).contiguous()

    def _with(self, change: Callable[[Tensor, int], Tensor]) -> SpikeTensor:
        """The same change, given the index of the first leading dimension, on words and mask."""
        mask = None if self.mask is None else change(self.mask, 0)
        return SpikeTensor(change(self.words, 1), self.features, self.scale, mask)

    # ---- ways out of torch that would otherwise read a storage that is not there

    def numpy(self, *, force: bool = False) -> Any:
        """A dense float32 array; as torch, refuses tensors that require a gradient."""
        return self._detached("numpy()", force).numpy()

    def tolist(self) -> Any:
        """Nested lists of the dense values."""
        return self._dense().tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        array = self._detached("a conversion to numpy", force=False).numpy()
        return array if dtype is None else array.astype(dtype)

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        return self._detached("__dlpack__()", force=False).__dlpack__(*args, **kwargs)

    def _detached(self, what: str, force: bool) -> Tensor:
        if self.requires_grad and not force:
            raise RuntimeError(f"{what} needs a tensor without gradient; call .detach() first")
        with torch.no_grad():
            return self._dense()

    def share_memory_(self) -> SpikeTensor:
        """Moves the packed words to shared memory."""
        self.words.share_memory_()
        if self.mask is not None:
            self.mask.share_memory_()
        return self

    def apply_(self, *args: Any) -> Tensor:
        """Refused: spikes are read-only."""
        raise TypeError(
            "apply_ would write into a SpikeTensor, which is read-only; call .to_dense() first"
        )

    # ---- what torch asks of a wrapper subclass

    def __repr__(self) -> str:  # type: ignore[override]
        if type(self.words) is not Tensor or self.words.device.type == "meta":
            return f"SpikeTensor(shape={tuple(self.shape)}, without data)"
        kind = "" if self.planes == 1 else f", planes={self.planes}"
        kind += "" if self.scale == 1.0 else f", scale={self.scale:g}"
        grad = f", grad_fn={self.grad_fn}" if self.grad_fn is not None else ""
        return (
            f"SpikeTensor(shape={tuple(self.shape)}, {self.count()} spikes, "
            f"rate={self.firing_rate():.4f}{kind}, {self.packed_nbytes} bytes{grad})"
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuild, (self.words, tuple(self.features), self.scale, self.requires_grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> SpikeTensor:
        if not self.is_leaf:
            raise RuntimeError(
                "only leaf tensors can be deep-copied; call .detach() on this SpikeTensor first"
            )
        copy = self.detach().clone()
        copy.requires_grad_(self.requires_grad)
        memo[id(self)] = copy
        return copy  # type: ignore[return-value]

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        names = ["words"] if self.mask is None else ["words", "mask"]
        return names, (self.features, self.scale)

    @staticmethod
    def __tensor_unflatten__(
        inner: dict[str, Tensor], meta: Any, outer_size: Any, outer_stride: Any
    ) -> SpikeTensor:
        features, scale = meta
        return SpikeTensor(inner["words"], features, scale, inner.get("mask"))

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError(
            "assignment would write into a SpikeTensor, which is read-only; call .to_dense() first"
        )

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # No conversion of results to this class: what is packed is made so by __torch_dispatch__.
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            return _own_memory(result)
        if type(result) in (list, tuple):
            return type(result)(_own_memory(r) if isinstance(r, Tensor) else r for r in result)
        return result

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        handler = _HANDLERS.get(func)
        if handler is not None:
            packed = handler(*args, **kwargs)
            if packed is not NotImplemented:
                return packed
        for position, name in _written(func):
            value = args[position] if position < len(args) else kwargs.get(name)
            if any(isinstance(leaf, SpikeTensor) for leaf in tree_leaves(value)):
                raise TypeError(
                    f"{func} would write into a SpikeTensor, which is read-only; "
                    "call .to_dense() first"
                )
        return func(*map(_made_dense, args), **{k: _made_dense(v) for k, v in kwargs.items()})


def _made_dense(argument: Any) -> Any:
    """An operator's argument with dense tensors for packed ones, also in a list of tensors."""
    if isinstance(argument, SpikeTensor):
        return argument._dense()
    if type(argument) in (list, tuple):
        return type(argument)(map(_made_dense, argument))
    return argument


@functools.lru_cache(maxsize=4096)
def _written(func: Any) -> tuple[tuple[int, str], ...]:
    """Position and name of the arguments that an operator writes into."""
    return tuple(
        (position, argument.name)
        for position, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def _own_memory(result: Tensor) -> Tensor:
    """A dense result that torch takes for a view of packed spikes, as a tensor of its own.

    It has the values of a view but not the memory: writing into it would change nothing in the
    spikes, and yet autograd would record that it did.
    """
    if isinstance(result, SpikeTensor) or torch.compiler.is_compiling():
        return result
    is_view = result._is_view()
    return result.clone() if is_view and isinstance(result._base, SpikeTensor) else result


def _rebuild(
    words: Tensor,
    features: tuple[int, ...],
    scale: float,
    requires_grad: bool,
) -> SpikeTensor:
    spikes = SpikeTensor(words, features, scale)
    used = math.prod(features) % 64
    if used and bool((words[..., -1] >> used != 0).any()):
        raise ValueError("words must have padding bits of 0: this is not a saved SpikeTensor")
    spikes.requires_grad_(requires_grad)
    return spikes


torch.serialization.add_safe_globals([_rebuild])


def _describe(value: Any) -> str:
    return f"dtype {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


# ---- operators that keep the bits packed; each may return NotImplemented to go dense


def _handles(*overloads: Any) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        for overload in overloads:
            _HANDLERS[overload] = handler
        return handler

    return register


def _lead_dim(spikes: SpikeTensor, dim: int) -> int | None:
    """`dim` as a non-negative index when it is a leading dimension, else None."""
    dim = dim + spikes.dim() if dim < 0 else dim
    return dim if dim < len(spikes.lead) else None


@_handles(aten.alias.default)
def _alias(spikes: SpikeTensor) -> SpikeTensor:
    return spikes._with(lambda words, _: words)


@_handles(aten.detach.default)
def _detach(spikes: SpikeTensor) -> SpikeTensor:
    # Without the mask: a tensor cut from its neurons has no neuron to ignore a gradient.
    return SpikeTensor(spikes.words, spikes.features, spikes.scale)


@_handles(aten.clone.default)
def _clone(spikes: SpikeTensor, *, memory_format: Any = None) -> SpikeTensor:
    return spikes._with(lambda words, _: words.clone())


@_handles(aten._to_copy.default)
def _to_copy(spikes: SpikeTensor, **kwargs: Any) -> Any:
    if kwargs.pop("dtype", None) not in (None, torch.float32):
        return NotImplemented
    kwargs.pop("memory_format", None)
    return spikes._with(lambda words, _: aten._to_copy.default(words, **kwargs))


@_handles(aten.is_same_size.default)
def _is_same_size(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape


@_handles(aten.equal.default)
def _equal(left: Tensor, right: Tensor) -> Any:
    if not (isinstance(left, SpikeTensor) and isinstance(right, SpikeTensor)):
        return NotImplemented
    if left.features != right.features or left.words.shape != right.words.shape:
        return NotImplemented
    if left.scale != right.scale:
        return NotImplemented
    return torch.equal(left.words, right.words)


@_handles(aten.slice.Tensor)
def _slice(
    spikes: SpikeTensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Any:
    at = _lead_dim(spikes, dim)
    if at is None:
        return NotImplemented
    return spikes._with(lambda w, first: aten.slice.Tensor(w, at + first, start, end, step))


@_handles(aten.select.int)
def _select(spikes: SpikeTensor, dim: int, index: int) -> Any:
    at = _lead_dim(spikes, dim)
    if at is None or len(spikes.lead) == 1:
        return NotImplemented
    return spikes._with(lambda words, first: words.select(at + first, index))


@_handles(aten.unbind.int)
def _unbind(spikes: SpikeTensor, dim: int = 0) -> Any:
    at = _lead_dim(spikes, dim)
    if at is None or len(spikes.lead) == 1:
        return NotImplemented
    return [_select(spikes, at, i) for i in range(spikes.shape[at])]


@_handles(aten.split.Tensor)
def _split(spikes: SpikeTensor, size: int, dim: int = 0) -> Any:
    at = _lead_dim(spikes, dim)
    if at is None or size < 1:
        return NotImplemented
    starts = range(0, max(1, spikes.shape[at]), size)
    return [_slice(spikes, at, start, start + size) for start in starts]


@_handles(aten.index_select.default)
def _index_select(spikes: SpikeTensor, dim: int, index: Tensor) -> Any:
    at = _lead_dim(spikes, dim)
    if at is None or index.dim() != 1:
        return NotImplemented
    return spikes._with(lambda words, first: words.index_select(at + first, index))


@_handles(aten.index.Tensor)
def _index(spikes: SpikeTensor, indices: Sequence[Tensor | None]) -> Any:
    used = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    if len(used) != 1 or used[0][1] is None:
        return NotImplemented
    dim, index = used[0]
    if index.dim() != 1 or dim >= len(spikes.lead):
        return NotImplemented
    if index.dtype == torch.bool:
        if index.shape[0] != spikes.shape[dim]:
            return NotImplemented  # torch's own error says it best
        index = index.nonzero().flatten()
    chosen = index
    return spikes._with(
        lambda words, first: aten.index.Tensor(words, [None] * (dim + first) + [chosen])
    )


@_handles(aten.cat.default)
def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Any:
    return _join(tensors, dim, torch.cat, 0)


@_handles(aten.stack.default)
def _stack(tensors: Sequence[Tensor], dim: int = 0) -> Any:
    return _join(tensors, dim, torch.stack, 1)


def _join(tensors: Sequence[Tensor], dim: int, join: Any, added: int) -> Any:
    first = tensors[0]
    if not all(isinstance(t, SpikeTensor) for t in tensors):
        return NotImplemented
    spikes: list[SpikeTensor] = list(tensors)  # type: ignore[arg-type]
    like = spikes[0]
    same = all(
        s.features == like.features and s.scale == like.scale and s.planes == like.planes
        for s in spikes
    )
    at = dim + first.dim() + added if dim < 0 else dim
    if not same or at >= len(like.lead) + added:
        return NotImplemented
    masks = [s.mask for s in spikes]
    mask = None if any(m is None for m in masks) else join(masks, at)
    return SpikeTensor(join([s.words for s in spikes], at + 1), like.features, like.scale, mask)


@_handles(aten.view.default, aten._unsafe_view.default, aten.reshape.default)
def _view(spikes: SpikeTensor, shape: Sequence[int]) -> Any:
    shape = list(shape)
    if -1 in shape:
        known = math.prod(s for s in shape if s != -1)
        if known == 0:
            return NotImplemented
        shape[shape.index(-1)] = spikes.numel() // known
    kept = len(spikes.features)
    if len(shape) <= kept or tuple(shape[len(shape) - kept :]) != spikes.features:
        return NotImplemented
    lead = shape[: len(shape) - kept]
    if math.prod(lead) != math.prod(spikes.lead):
        return NotImplemented
    return spikes._with(
        lambda words, first: words.reshape(*words.shape[:first], *lead, words.shape[-1])
    )


@_handles(aten.add.Tensor)
def _add(left: Any, right: Any, *, alpha: float = 1) -> Any:
    """The sum of two binary tensors is a count of 0, 1 or 2: two bit planes."""
    both = isinstance(left, SpikeTensor) and isinstance(right, SpikeTensor)
    if not both or alpha != 1 or left.shape != right.shape or left.features != right.features:
        return NotImplemented
    if left.planes != 1 or right.planes != 1 or left.scale != right.scale:
        return NotImplemented
    words = torch.cat([left.words ^ right.words, left.words & right.words])
    either = left.mask is None or right.mask is None
    mask = None if either else left.mask | right.mask
    return SpikeTensor(words, left.features, left.scale, mask)
