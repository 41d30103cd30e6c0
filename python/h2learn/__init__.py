"""h2learn trains spiking neural networks by backpropagation through time on bit-packed spikes.

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
    from h2learn import datasets, encoders, nn, surrogate
    from h2learn.counters import count_operations
    from h2learn.spikes import SpikeTensor

__version__ = "0.1.0"

__all__ = [
    "SpikeTensor",
    "__version__",
    "build_info",
    "count_operations",
    "datasets",
    "encoders",
    "nn",
    "surrogate",
]

# Imported on first use: `h2learn --help` and tools that need no torch should not wait for it.
_LAZY = {
    "SpikeTensor": ("h2learn.spikes", "SpikeTensor"),
    "count_operations": ("h2learn.counters", "count_operations"),
    "datasets": ("h2learn.datasets", None),
    "encoders": ("h2learn.encoders", None),
    "nn": ("h2learn.nn", None),
    "surrogate": ("h2learn.surrogate", None),
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
