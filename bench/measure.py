"""How the comparison measures: time a step, memory saved for the backward pass, agreement."""

from __future__ import annotations

import contextlib
import gc
import math
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

# A turn of one contestant lasts about this long, so that its caches are warm for most of it.
TURN_SECONDS = 0.1
MAX_STEPS_A_TURN = 20


@dataclass(frozen=True)
class Timing:
    """Milliseconds a step over all rounds."""

    median_ms: float
    quartiles_ms: tuple[float, float]


def interleave(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Times each step in turns, round after round, so that a slow minute hits all alike.

    A turn runs its step several times when it is short; the first of these is not counted.
    """
    repeats = {name: _steps_a_turn(step) for name, step in steps.items()}
    samples: dict[str, list[float]] = {name: [] for name in steps}
    gc.collect()
    gc.freeze()  # looking through torch before each turn takes longer than the turn
    try:
        for _ in range(rounds):
            for name, step in steps.items():
                gc.collect()
                gc.disable()
                times = [_seconds(step) for _ in range(repeats[name])]
                gc.enable()
                samples[name] += times[1:] or times
    finally:
        gc.unfreeze()
    return {name: _timing(values) for name, values in samples.items()}


def saved_bytes(result: Tensor, parameters: Sequence[Tensor]) -> int:
    """Bytes that the graph behind `result` keeps alive for its backward pass.

    Counts the storage of every tensor saved by a node of the graph, each storage once, whole (a
    saved view keeps all of its base alive), parameters excluded. A tensor subclass counts as the
    tensors it is made of: for packed spikes, their words and their mask.

    The graph is walked rather than torch's saved-tensor hooks used, because hooks see a detached
    copy of what is saved, and a detached SpikeTensor has no mask.
    """
    excluded = {p.untyped_storage().data_ptr() for p in parameters}
    kept: dict[int, int] = {}
    for tensor in saved_tensors(result):
        for part in components(tensor):
            storage = part.untyped_storage()
            if storage.nbytes() and storage.data_ptr() not in excluded:
                kept[storage.data_ptr()] = storage.nbytes()
    return sum(kept.values())


def saved_tensors(result: Tensor) -> Iterator[Tensor]:
    """Every tensor saved by the nodes of the autograd graph behind `result`."""
    waiting = [result.grad_fn]
    seen = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
        names = [name for name in dir(node) if name.startswith("_saved_")]  # torch's own nodes
        for value in [getattr(node, "saved_tensors", ()), *(getattr(node, n) for n in names)]:
            values = value if isinstance(value, (tuple, list)) else (value,)
            yield from (v for v in values if isinstance(v, Tensor))


def components(tensor: Tensor) -> Iterator[Tensor]:
    """The ordinary tensors that a tensor is made of: itself, or a subclass's inner tensors."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from components(getattr(tensor, name))
    else:
        yield tensor


def relative_error(found: Sequence[Tensor | None], expected: Sequence[Tensor]) -> float:
    """The largest relative norm error over the tensors; infinite when one is missing."""
    worst = 0.0
    for value, reference in zip(found, expected, strict=True):
        if value is None:
            return math.inf
        difference = (value.double() - reference.double()).norm()
        worst = max(worst, (difference / reference.double().norm()).item())
    return worst


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the block once it has taken so long. Main thread only."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"took longer than {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _steps_a_turn(step: Callable[[], object]) -> int:
    duration = min(_seconds(step) for _ in range(2))
    if duration > TURN_SECONDS:
        return 1
    return min(MAX_STEPS_A_TURN, 1 + math.ceil(TURN_SECONDS / duration))


def _timing(seconds: list[float]) -> Timing:
    milliseconds = sorted(1e3 * s for s in seconds)
    if len(milliseconds) == 1:
        return Timing(milliseconds[0], (milliseconds[0], milliseconds[0]))
    low, median, high = statistics.quantiles(milliseconds, n=4, method="inclusive")
    return Timing(median, (low, high))
