"""Memory of large tensors, reused from step to step.

Currents and gradients of a training step are large, live shortly, and come in the same sizes in the
next step. Fresh pages cost several times what a kernel needs to fill them, so h2learn's operators
take tensors of a MiB or more from a pool of their own. It never holds more than one and a
half times what was in use at once at the highest point; a tensor counts as the piece of memory that
it lies in, which may be twice its size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from h2learn import _core

__all__ = ["empty", "release", "statistics"]

POOLED_FROM_BYTES = 1 << 20
"""Smaller tensors are left to torch's allocator, which reuses them well."""


def empty(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """A contiguous CPU tensor of this shape with unspecified contents.

    Its memory goes back to the pool when the last tensor that shares it is gone. It cannot be
    resized beyond its size (`resize_`), as any tensor over memory that torch did not allocate.
    """
    count = math.prod(shape)
    size = count * dtype.itemsize
    if size < POOLED_FROM_BYTES:
        return torch.empty(shape, dtype=dtype)
    flat = torch.frombuffer(_core.Block(size), dtype=dtype, count=count)
    # Not a view of `flat`: autograd treats views made inside its functions differently.
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    return torch.empty(0, dtype=dtype).set_(flat.untyped_storage(), 0, shape, strides)


def statistics() -> dict[str, int]:
    """Bytes that the process holds in the pool and beside it.

    Returns:
        `in_use_bytes`, `free_bytes` (kept to be used again), `highest_bytes` (the most ever in use
        at once), `scratch_bytes` (what kernels keep from call to call, of all threads), and
        `weights_bytes` (packed weights of small products, at most 64 MiB).
    """
    return _core.memory_statistics()


def release() -> None:
    """Gives free memory and packed weights back to the system, after training for instance."""
    _core.release_free_blocks()
