"""Training of spiking neural networks on bit-packed spikes, and an accelerator beside it.

h2learn trains by backpropagation through time, through a C++ core, and tells cycle by cycle what
the H2Learn accelerator would do with exactly that work.

>>> import torch, h2learn
>>> from h2learn import nn
>>> model = nn.Sequential(nn.Linear(64, 32), nn.LIF(), nn.Linear(32, 10), nn.Readout())
>>> model(torch.rand(8, 2, 64)).shape          # [T, B, 64] -> [B, 10]
torch.Size([2, 10])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from h2learn import accelerators, cost, datasets, encoders, memory, nn, surrogate
    from h2learn.accelerators.config import Accelerator
    from h2learn.accelerators.simulation import simulate
    from h2learn.counters import count_operations
    from h2learn.offloading import offload
    from h2learn.recorder import Recorder, record, workload_from_model
    from h2learn.spikes import SpikeTensor
    from h2learn.workload import LayerWork, Workload, load_workload

__version__ = "0.1.0"

__all__ = [
    "Accelerator",
    "LayerWork",
    "Recorder",
    "SpikeTensor",
    "Workload",
    "__version__",
    "accelerators",
    "build_info",
    "cost",
    "count_operations",
    "datasets",
    "encoders",
    "load_workload",
    "memory",
    "nn",
    "offload",
    "record",
    "simulate",
    "surrogate",
    "workload_from_model",
]

# Imported on first use: `h2learn --help` and tools that need no torch should not wait for it.
_LAZY = {
    "Accelerator": ("h2learn.accelerators.config", "Accelerator"),
    "LayerWork": ("h2learn.workload", "LayerWork"),
    "Recorder": ("h2learn.recorder", "Recorder"),
    "SpikeTensor": ("h2learn.spikes", "SpikeTensor"),
    "Workload": ("h2learn.workload", "Workload"),
    "accelerators": ("h2learn.accelerators", None),
    "cost": ("h2learn.cost", None),
    "count_operations": ("h2learn.counters", "count_operations"),
    "datasets": ("h2learn.datasets", None),
    "encoders": ("h2learn.encoders", None),
    "load_workload": ("h2learn.workload", "load_workload"),
    "memory": ("h2learn.memory", None),
    "nn": ("h2learn.nn", None),
    "offload": ("h2learn.offloading", "offload"),
    "record": ("h2learn.recorder", "record"),
    "simulate": ("h2learn.accelerators.simulation", "simulate"),
    "surrogate": ("h2learn.surrogate", None),
    "workload_from_model": ("h2learn.recorder", "workload_from_model"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'h2learn' has no attribute {name!r}")
    module, attribute = _LAZY[name]
    loaded = importlib.import_module(module)
    return loaded if attribute is None else getattr(loaded, attribute)


def __dir__() -> list[str]:
    return sorted(__all__)


def build_info() -> dict[str, Any]:
    """Facts of the compiled core: version, compiler, build type, instruction sets.

    Returns:
        A dictionary with `version`, `compiler`, `build_type`, `sanitizers`, `pybind11`,
        `openmp`, `targets` (what this machine can run, slowest first) and `active_target`.
    """
    from h2learn import _core

    return {
        **_core.build_info(),
        "targets": _core.available_targets(),
        "active_target": _core.active_target(),
    }
