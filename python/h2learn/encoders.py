"""Encoders: from intensities or events to a sequence of T timesteps.

Each function puts time first: `x [B, ...]` becomes `[T, B, ...]`, and a single sample `[...]`
becomes `[T, ...]`. So one function serves a whole batch in a training loop and one sample in a
`DataLoader`; for the latter, the classes `Direct`, `Rate` and `Latency` hold the parameters and
are handed to a dataset as `transform=` (collate with `h2learn.datasets.collate_time_first`).

    direct        every timestep sees the analog intensity; the first layer makes the spikes
    rate          independent random spikes, probability = intensity
    latency       one spike, the earlier the brighter
    event_frames  recorded events, put into T bins of equal duration
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from h2learn.errors import InputError

FrameValues = Literal["binary", "count"]


def direct(x: Tensor, timesteps: int) -> Tensor:
    """The same analog input at every timestep.

    Args:
        x: `[B, ...]`, any floating type.
        timesteps: T, at least 1.

    Returns:
        `[T, B, ...]`, a view of `x` with stride 0 over T: nothing is copied, and gradients flow.

    Raises:
        InputError: `timesteps` below 1. TypeError: `x` is not a floating tensor, or `timesteps`
            not an integer.
    """
    _check_floating(x)
    return x.unsqueeze(0).expand(check_timesteps(timesteps), *x.shape)


def rate(x: Tensor, timesteps: int, generator: torch.Generator | None = None) -> Tensor:
    """Bernoulli spikes: at each timestep, independently, 1 with probability `x`.

    Args:
        x: `[B, ...]`, intensities in 0..1. 0 never spikes, 1 always does.
        timesteps: T, at least 1.
        generator: source of randomness, on the device of `x`; torch's default one when None.

    Returns:
        `[T, B, ...]`, float32 of 0 and 1, without gradient.

    Raises:
        InputError: a value outside 0..1 (or NaN), `timesteps` below 1. TypeError: as `direct`.
    """
    check_timesteps(timesteps)
    x = _check_intensities(x, "rate").to(torch.float32)
    noise = torch.rand((timesteps, *x.shape), generator=generator, device=x.device)  # in [0, 1)
    return (noise < x).to(torch.float32)


def latency(x: Tensor, timesteps: int, threshold: float = 0.0) -> Tensor:
    """At most one spike, at a timestep that falls with the intensity.

    With `x' = (x - threshold) / (1 - threshold)`, an element spikes at timestep (from 0)

        t = min(T - 1, floor((1 - x') * T))        where x > threshold, and never elsewhere.

    So an intensity of 1 spikes at once, the faintest above the threshold at the last timestep,
    and zero intensity never: equal shares of the intensity range fall to each timestep.

    Args:
        x: `[B, ...]`, intensities in 0..1.
        timesteps: T, at least 1.
        threshold: intensities up to this one stay silent; in [0, 1).

    Returns:
        `[T, B, ...]`, float32 of 0 and 1, without gradient.

    Raises:
        InputError: a value outside 0..1 (or NaN), `timesteps` below 1, `threshold` outside [0, 1).
        TypeError: as `direct`.
    """
    check_timesteps(timesteps)
    _check_threshold(threshold)
    # float64, so that the timestep is the formula's for every float32 intensity.
    intensity = _check_intensities(x, "latency").to(torch.float64)
    late = (1.0 - intensity) / (1.0 - threshold)
    step = (late * timesteps).floor_().clamp_(max=timesteps - 1).to(torch.int64)
    spikes = torch.zeros((timesteps, *x.shape), device=x.device)
    return spikes.scatter_(0, step.unsqueeze(0), (intensity > threshold).float().unsqueeze(0))


class Events(NamedTuple):
    """One event-camera recording: four integer arrays `[E]`, in the order of the file."""

    x: npt.NDArray[np.int64]
    y: npt.NDArray[np.int64]
    polarity: npt.NDArray[np.int64]
    time_us: npt.NDArray[np.int64]


def event_frames(
    events: Events, timesteps: int, size: tuple[int, int], values: FrameValues = "binary"
) -> Tensor:
    """Events put into T bins of equal duration, one frame a bin, one channel a polarity.

    The recording's own span is divided: with `t0` and `t1` its first and last time in µs, an
    event at `t` falls into bin `floor((t - t0) * T / (t1 - t0 + 1))`. Integer arithmetic
    throughout, so no event changes bin by rounding.

    Args:
        events: at least one event, coordinates within `size`, polarity 0 or 1; integers of any
            width.
        timesteps: T, at least 1.
        size: (height, width) of the sensor.
        values: "binary", 1 where a bin holds an event; "count", the number of its events.

    Returns:
        `[T, 2, height, width]`, float32.

    Raises:
        InputError: `timesteps` below 1, no event, columns of different lengths, an event outside
            the frame, unknown `values`. TypeError: columns that are not integers.
    """
    check_timesteps(timesteps)
    check_frame_values(values)
    height, width = size
    # Narrow integers, as files have them, would overflow in the products below.
    events = Events(*(column.astype(np.int64, casting="same_kind") for column in events))
    _check_events(events, height, width)
    start = events.time_us.min()
    span = events.time_us.max() - start + 1
    step = (events.time_us - start) * timesteps // span
    cell = ((step * 2 + events.polarity) * height + events.y) * width + events.x
    cells = timesteps * 2 * height * width
    if values == "binary":
        frames = np.zeros(cells, dtype=np.float32)
        frames[cell] = 1.0
    else:
        frames = np.bincount(cell, minlength=cells).astype(np.float32)
    return torch.from_numpy(frames).view(timesteps, 2, height, width)


@dataclass(frozen=True)
class Direct:
    """`direct` as a `transform=`."""

    timesteps: int

    def __post_init__(self) -> None:
        check_timesteps(self.timesteps)

    def __call__(self, x: Tensor) -> Tensor:
        """`x [...]` to `[T, ...]`."""
        return direct(x, self.timesteps)


@dataclass(frozen=True)
class Rate:
    """`rate` as a `transform=`.

    Leave `generator` None in a `DataLoader` with workers: each worker seeds torch's default
    generator differently, whereas a generator of your own is copied and repeats itself in each.
    """

    timesteps: int
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        check_timesteps(self.timesteps)

    def __call__(self, x: Tensor) -> Tensor:
        """`x [...]` to `[T, ...]`."""
        return rate(x, self.timesteps, self.generator)


@dataclass(frozen=True)
class Latency:
    """`latency` as a `transform=`."""

    timesteps: int
    threshold: float = 0.0

    def __post_init__(self) -> None:
        check_timesteps(self.timesteps)
        _check_threshold(self.threshold)

    def __call__(self, x: Tensor) -> Tensor:
        """`x [...]` to `[T, ...]`."""
        return latency(x, self.timesteps, self.threshold)


def check_timesteps(timesteps: int) -> int:
    """`timesteps` itself when it is an integer of at least 1; TypeError or InputError otherwise."""
    if isinstance(timesteps, bool) or not isinstance(timesteps, int):
        raise TypeError(f"timesteps must be an integer, got {timesteps!r}")
    if timesteps < 1:
        raise InputError(f"timesteps must be at least 1, got {timesteps}")
    return timesteps


def check_frame_values(values: FrameValues) -> FrameValues:
    """`values` itself when it is one of the two kinds of frame values; InputError otherwise."""
    if values not in get_args(FrameValues):
        raise InputError(f'values must be "binary" or "count", got {values!r}')
    return values


def _check_threshold(threshold: float) -> None:
    if not 0.0 <= threshold < 1.0:  # NaN fails too
        raise InputError(f"threshold must be in [0, 1), got {threshold}")


def _check_floating(x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"x must have a floating type, got {x.dtype}: divide by its maximum first")


def _check_intensities(x: Tensor, encoder: str) -> Tensor:
    _check_floating(x)
    x = x.detach()
    if x.numel():
        low, high = (bound.item() for bound in torch.aminmax(x))  # NaN propagates to both
        if not (low >= 0.0 and high <= 1.0):
            raise InputError(f"{encoder} encodes intensities in 0..1, got values {low} to {high}")
    return x


def _check_events(events: Events, height: int, width: int) -> None:
    lengths = [len(column) for column in events]
    if len(set(lengths)) > 1:
        raise InputError(f"x, y, polarity and time_us have different lengths: {lengths}")
    if lengths[0] == 0:
        raise InputError("found no event; expected at least one")
    limits = (("x", events.x, width), ("y", events.y, height), ("polarity", events.polarity, 2))
    for name, column, limit in limits:
        wrong = (column < 0) | (column >= limit)
        if wrong.any():
            first = int(wrong.argmax())
            raise InputError(
                f"event {first} has {name} = {column[first]}; expected 0 to {limit - 1}"
            )
