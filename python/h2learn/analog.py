"""Analog inputs as bit planes: what engines that know only bits are given of them.

One function, so that what is recorded of a layer and what is computed of it cannot differ.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from h2learn import _core
from h2learn.shapes import words_for

__all__ = ["ANALOG_BITS", "MOST_ANALOG_BITS", "analog_planes"]

ANALOG_BITS = 8
"""Bits of an analog input's magnitude, unless something else is asked for."""
MOST_ANALOG_BITS = 12
"""With planes of both signs, all that a layer may have."""


def analog_planes(
    values: NDArray[np.float32], bits: int = ANALOG_BITS
) -> tuple[NDArray[np.int64], list[float], float]:
    """Bit planes of analog values, and what they stand for.

    A value x becomes the level round(|x| / max|x| * (2^bits - 1)), ties to even; then
    x ~ scale * sum of plane_weights[p] * bit_p. Plane p holds bit p of the levels of positive
    values; if any value is negative, as many planes follow for those. Values that are all 0 or 1
    are spikes: one plane, exact.

    Args:
        values: float32 [R, F], C-contiguous; R rows, F features channels-last.
        bits: of a level, 1 to 12.

    Returns:
        words: int64 [planes, R, ceil(F / 64)]: 1, `bits` or 2 * `bits` planes.
        plane_weights: 1, 2, 4, ..., then -1, -2, -4, ... where there are negative values.
        scale: value of one level, max|x| / (2^bits - 1).

    Raises:
        ValueError: a value is not finite, or `bits` is out of range.
    """
    if not 1 <= bits <= MOST_ANALOG_BITS:
        raise ValueError(f"analog_bits must be 1 to {MOST_ANALOG_BITS}, got {bits}")
    spikes = _packed(values)
    if spikes is not None:
        return spikes[None], [1.0], 1.0
    magnitudes = np.abs(values)
    largest = magnitudes.max()
    if not np.isfinite(largest):
        index = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(
            f"analog inputs must be finite, got {values.flat[index]} at flat index {index} "
            "(features channels-last)"
        )
    top = 2**bits - 1
    levels = np.rint(magnitudes / largest * np.float32(top)).astype(np.int32)
    negative = values < 0
    halves = [np.where(negative, 0, levels)]
    if negative.any():
        halves.append(np.where(negative, levels, 0))
    planes = [_packed((half >> p & 1).astype(np.float32)) for half in halves for p in range(bits)]
    weights = [sign * 2.0**p for sign in (1, -1)[: len(halves)] for p in range(bits)]
    return np.stack(planes), weights, float(largest) / top  # type: ignore[arg-type]


def _packed(dense: NDArray[np.float32]) -> NDArray[np.int64] | None:
    """Zeros and ones [R, F] as words [R, W]; None where there is anything else."""
    rows, features = dense.shape
    words = np.empty((rows, words_for(features)), dtype=np.int64)
    return words if _core.pack(dense, words) < 0 else None
