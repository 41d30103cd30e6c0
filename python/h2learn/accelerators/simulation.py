"""Runs a workload through an accelerator model. Needs no torch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from h2learn import _core
from h2learn.accelerators.config import Accelerator
from h2learn.accelerators.results import Simulation
from h2learn.errors import InputError
from h2learn.shapes import core_geometry
from h2learn.workload import LayerWork, Workload

__all__ = ["core_layer", "simulate", "simulate_step"]


def simulate(
    workload: Workload,
    accelerator: Accelerator | str = "h2learn",
    *,
    tiles: bool = False,
    on_step: Callable[[int], None] | None = None,
) -> Simulation:
    """Simulates every step of a workload, one after another.

    Args:
        workload: recorded, loaded or synthetic.
        accelerator: a machine, a preset's name, or a TOML file.
        tiles: keep the last step's times of every tile, for a timeline.
        on_step: called with the number of steps done, for a progress bar.

    Returns:
        Counters of all steps together.

    Raises:
        InputError: no such accelerator, an impossible machine, a layer that it cannot run, or
            steps of different layers.
    """
    machine = Accelerator.of(accelerator)
    if not isinstance(workload, Workload):
        raise TypeError(f"workload must be a Workload, got {type(workload).__name__}")
    total: Simulation | None = None
    for done, step in enumerate(workload.steps, start=1):
        last = done == len(workload.steps)
        result = simulate_step(step, machine, tiles=tiles and last)
        if total is None:
            total = result
        else:
            try:
                total.add(result)
            except ValueError as error:
                raise InputError(f"step {done} of the workload: {error}") from None
        if on_step is not None:
            on_step(done)
    if total is None:
        raise InputError("the workload has no steps: record at least one")
    return total


def simulate_step(
    step: Sequence[LayerWork],
    accelerator: Accelerator,
    *,
    tiles: bool = False,
    clocked: bool = False,
) -> Simulation:
    """One step. `clocked` runs the plain simulator, which gives the same numbers slowly."""
    layers = [core_layer(layer) for layer in step]
    try:
        raw = _core.simulate(_core_machine(accelerator), layers, clocked=clocked, tiles=tiles)
    except ValueError as error:
        raise InputError(f"accelerator {accelerator.name}: {error}") from None
    return Simulation(accelerator, tuple(layer.name for layer in step), raw)


@functools.lru_cache(maxsize=8)
def _core_machine(accelerator: Accelerator) -> _core.Machine:
    # Training simulates one machine step after step, and its parameters are set one by one.
    return accelerator.to_core()


def core_layer(layer: LayerWork) -> _core.LayerWork:
    """The layer as the core takes it: the same memory, not a copy."""
    return _core.LayerWork(
        name=layer.name,
        geometry=core_geometry(layer.geometry),
        timesteps=layer.timesteps,
        samples=layer.samples,
        inputs=_words(layer.inputs),
        mask=None if layer.mask is None else _words(layer.mask),
        nonzero=None if layer.nonzero is None else _words(layer.nonzero),
        input_gradient=layer.input_gradient,
        weight_gradient=layer.weight_gradient,
        neurons=layer.neurons,
        membrane=layer.membrane,
    )


def _words(array: np.ndarray[Any, np.dtype[np.uint64]]) -> Any:
    # Nothing is copied unless somebody built the layer from strided arrays.
    return np.ascontiguousarray(array).view(np.int64)
