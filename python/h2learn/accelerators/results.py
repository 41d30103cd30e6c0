"""What a simulation gives back: counters of each layer and pass, and the times of every tile.

Counters are kept as one array, so that steps add up quickly, and handed out as dataclasses, JSON
or a pandas frame. docs/microarchitecture.md says what each counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from h2learn import _core

if TYPE_CHECKING:
    import pandas as pd

    from h2learn.accelerators.config import Accelerator

__all__ = ["ENGINES", "PASSES", "TILE_FIELDS", "Counters", "EngineCounters", "Simulation"]

ENGINES: tuple[str, ...] = tuple(_core.engine_names())
PASSES: tuple[str, ...] = tuple(_core.pass_names())
TILE_FIELDS: tuple[str, ...] = tuple(_core.tile_fields())

ENGINE_OF_PASS = {name: name.removeprefix("recompute_") for name in PASSES}
RESIDENT = {
    "spikes": 1,
    "mask": 2,
    "gradient at the currents": 4,
    "gradient at the spikes": 8,
    "membrane": 16,
}

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Counters:
    """Counters of one layer's pass, or a sum of such."""

    tiles: int
    run_cycles: int
    building_cycles: int
    stalled_load_cycles: int
    stalled_store_cycles: int
    idle_cycles: int
    operations_offered: int
    operations_needed: int
    skipped_by_gradient: int
    skipped_by_mask: int
    items: int
    items_empty: int
    lane_slots: int
    table_builds: int
    table_writes: int
    table_reads: int
    table_reads_skipped: int
    additions: int
    multiplications: int
    comparisons: int
    weight_reads: int
    weight_writes: int
    spike_read_bits: int
    spike_write_bits: int
    mask_read_bits: int
    mask_write_bits: int
    membrane_reads: int
    membrane_writes: int
    gradient_reads: int
    gradient_writes: int
    psum_reads: int
    psum_writes: int
    loads: int
    stores: int
    load_bytes: int
    store_bytes: int
    load_bursts: int
    store_bursts: int

    @property
    def busy_cycles(self) -> int:
        """Cycles at work: streaming, or building tables that nothing hides."""
        return self.run_cycles + self.building_cycles

    @property
    def stalled_cycles(self) -> int:
        """Cycles in which work was ready and memory was not."""
        return self.stalled_load_cycles + self.stalled_store_cycles


COUNTER_NAMES: tuple[str, ...] = tuple(field.name for field in fields(Counters))


@dataclass(frozen=True)
class EngineCounters:
    """An engine over all layers: busy + stalled + idle = cycles of the steps."""

    name: str
    busy_cycles: int
    stalled_cycles: int
    idle_cycles: int
    utilisation: float
    """Operations it did, over what its peak would do in all of the time (0 to 1)."""
    counters: Counters

    def to_dict(self) -> dict[str, Any]:
        """As data."""
        return asdict(self)


class Simulation:
    """Result of one step or of several added up. Created by `simulate` and by `offload`.

    Attributes:
        accelerator: the machine.
        steps: training steps added up.
        cycles: of all of them, one after another.
        dram_busy_cycles: cycles in which the DRAM bus carried data.
        layer_names: in the order of the forward pass.
        tiles: times of the last step's tiles, a list of int64 arrays [tiles, TILE_FIELDS] in the
            order of ENGINES; None when they were not kept.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        layer_names: tuple[str, ...],
        raw: Mapping[str, Any],
    ) -> None:
        self.accelerator = accelerator
        self.layer_names = layer_names
        self.steps = 1
        self.cycles = int(raw["cycles"])
        self.dram_busy_cycles = int(raw["dram_busy_cycles"])
        self.tiles: list[Numbers] | None = raw.get("tiles")
        self._tails: Numbers = raw["tail_idle_cycles"]
        self._counters: Numbers = raw["counters"]  # [layers, PASSES, COUNTER_NAMES]
        self._resident: Numbers = raw["resident"]

    def add(self, other: Simulation) -> None:
        """Adds another step on the same machine; its tiles become the last step's.

        Raises:
            ValueError: the machines or the layers differ.
        """
        if other.accelerator != self.accelerator:
            raise ValueError(
                f"simulations of different accelerators cannot be added: "
                f"{self.accelerator.name} and {other.accelerator.name}"
            )
        if other.layer_names != self.layer_names:
            raise ValueError(
                f"simulations of different layers cannot be added: {', '.join(self.layer_names)} "
                f"and {', '.join(other.layer_names)}"
            )
        self.steps += other.steps
        self.cycles += other.cycles
        self.dram_busy_cycles += other.dram_busy_cycles
        self.tiles = other.tiles
        self._tails = self._tails + other._tails
        self._counters = self._counters + other._counters

    @property
    def seconds(self) -> float:
        """Time on the chip, at its clock."""
        return self.cycles / self.accelerator.clock_hz

    def counters(self, layer: str | None = None, passes: str | None = None) -> Counters:
        """Counters of a layer and a pass, or summed over those not named."""
        rows = self._counters
        if layer is not None:
            rows = rows[[self._layer_index(layer)]]
        if passes is not None:
            if passes not in PASSES:
                raise ValueError(f"passes must be one of {', '.join(PASSES)}, got {passes!r}")
            rows = rows[:, [PASSES.index(passes)]]
        return Counters(*(int(n) for n in rows.sum(axis=(0, 1))))

    def by_pass(self) -> dict[str, dict[str, int]]:
        """Pass name to counters, summed over layers: what `h2learn.cost` takes."""
        sums = self._counters.sum(axis=0)
        return {
            name: dict(zip(COUNTER_NAMES, (int(n) for n in row), strict=True))
            for name, row in zip(PASSES, sums, strict=True)
        }

    def engine(self, name: str) -> EngineCounters:
        """One engine, over all layers and steps."""
        if name not in ENGINES:
            raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {name!r}")
        passes = [i for i, p in enumerate(PASSES) if ENGINE_OF_PASS[p] == name]
        total = Counters(*(int(n) for n in self._counters[:, passes].sum(axis=(0, 1))))
        tail = int(self._tails[ENGINES.index(name)])
        return EngineCounters(
            name=name,
            busy_cycles=total.busy_cycles,
            stalled_cycles=total.stalled_cycles,
            idle_cycles=total.idle_cycles + tail,
            utilisation=self._utilisation(name, total),
            counters=total,
        )

    def engines(self) -> dict[str, EngineCounters]:
        """Engine name to `EngineCounters`."""
        return {name: self.engine(name) for name in ENGINES}

    def resident(self, layer: str) -> tuple[str, ...]:
        """What of a layer's training state stays on chip (in the first part of a step)."""
        bits = int(self._resident[self._layer_index(layer)])
        return tuple(name for name, bit in RESIDENT.items() if bits & bit)

    def rows(self) -> Iterator[dict[str, Any]]:
        """One flat dictionary a layer and pass that ran: layer, pass, engine, every counter."""
        for layer, passes in zip(self.layer_names, self._counters, strict=True):
            for name, values in zip(PASSES, passes, strict=True):
                if values[0]:  # tiles
                    counts = dict(zip(COUNTER_NAMES, (int(n) for n in values), strict=True))
                    yield {"layer": layer, "pass": name, "engine": ENGINE_OF_PASS[name], **counts}

    def to_pandas(self) -> pd.DataFrame:
        """`rows` as a frame (needs pandas)."""
        import pandas as pd

        return pd.DataFrame(list(self.rows()))

    def to_dict(self) -> dict[str, Any]:
        """Everything but tiles, nested, as JSON takes it."""
        layers: list[dict[str, Any]] = [
            {"name": name, "on_chip": list(self.resident(name)), "passes": {}}
            for name in self.layer_names
        ]
        by_name = {layer["name"]: layer for layer in layers}
        for row in self.rows():
            layer, name = row.pop("layer"), row.pop("pass")
            by_name[layer]["passes"][name] = row
        return {
            "accelerator": self.accelerator.name,
            "steps": self.steps,
            "cycles": self.cycles,
            "seconds": self.seconds,
            "dram_busy_cycles": self.dram_busy_cycles,
            "engines": {name: engine.to_dict() for name, engine in self.engines().items()},
            "layers": layers,
        }

    def _layer_index(self, layer: str) -> int:
        if layer not in self.layer_names:
            raise ValueError(f"layer must be one of {', '.join(self.layer_names)}, got {layer!r}")
        return self.layer_names.index(layer)

    def _utilisation(self, engine: str, counters: Counters) -> float:
        peak = self.accelerator.peak_operations_per_cycle.get(engine)
        if peak is None or self.cycles == 0:  # soma, gradient unit: share of the time
            return counters.run_cycles / self.cycles if self.cycles else 0.0
        done = (
            counters.operations_needed
            if engine == "backward"
            else counters.operations_offered - counters.skipped_by_gradient
        )
        return 2 * done / (peak * self.cycles)
