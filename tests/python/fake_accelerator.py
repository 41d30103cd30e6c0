"""Simulations without a simulator: tiles with the document's recurrence and made-up durations.

What shows results is tested with these, so that its tests do not change with the machine's
parameters. A transfer keeps the bus in the order in which the program asks for it, which is a
legal order of a simpler DRAM than the accelerator's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from h2learn.accelerators.config import Accelerator
from h2learn.accelerators.results import (
    COUNTER_NAMES,
    ENGINE_OF_PASS,
    ENGINES,
    PASSES,
    TILE_FIELDS,
    Simulation,
)

LAYERS = ("conv1", "conv2", "fc")


@dataclass
class Engine:
    """The last tile's times, and those of the one before, of one engine."""

    tiles: list[dict[str, int]] = field(default_factory=list)

    def times(self, back: int) -> Mapping[str, int]:
        found = len(self.tiles) >= back
        return self.tiles[-back] if found else dict.fromkeys(TILE_FIELDS, 0)


class Toy:
    """Runs tiles one by one and keeps counters and times as the core does."""

    def __init__(self, accelerator: Accelerator, layers: tuple[str, ...]) -> None:
        self.dram = accelerator.dram
        self.engines = {name: Engine() for name in ENGINES}
        self.counters = np.zeros((len(layers), len(PASSES), len(COUNTER_NAMES)), np.int64)
        self.bus_free = 0
        self.bus_busy = 0

    def bursts(self, size: int) -> int:
        return -(-size // self.dram.burst_bytes)

    def transfer(self, issue: int, size: int) -> int:
        cycles = -(-self.bursts(size) * self.dram.burst_bytes // self.dram.bytes_per_cycle)
        self.bus_free = max(self.bus_free, issue + self.dram.latency_cycles) + cycles
        self.bus_busy += cycles
        return self.bus_free

    def run(
        self, name: str, *, after: int = 0, build: int = 0, run: int, **given: int
    ) -> dict[str, int]:
        engine = self.engines[ENGINE_OF_PASS[name]]
        last, second = engine.times(1), engine.times(2)
        tile = dict.fromkeys(TILE_FIELDS, 0) | {"pass": PASSES.index(name), "ready": after} | given
        issue = max(after, last["load_issue"], second["end"])
        load = tile["load_bytes"]
        done = self.transfer(issue, load) if load else issue
        tables = max(last["build_end"], second["end"], done) + build
        idle_until = max(last["end"], after)
        loaded = max(idle_until, done)
        stored = max(loaded, second["store_done"])
        start = max(stored, tables)
        issue_store = max(start + run, last["store_issue"])
        tile |= {"load_issue": issue, "load_done": done, "build_end": tables, "start": start}
        tile |= {"end": start + run, "store_issue": issue_store}
        store = tile["store_bytes"]
        tile["store_done"] = max(
            last["store_done"], self.transfer(issue_store, store) if store else issue_store
        )
        self.count(
            name, tile["layer"], tiles=1, run_cycles=run, building_cycles=start - stored,
            stalled_load_cycles=loaded - idle_until, stalled_store_cycles=stored - loaded,
            idle_cycles=idle_until - last["end"], load_bytes=load, store_bytes=store,
            loads=int(load > 0), stores=int(store > 0),
            load_bursts=self.bursts(load), store_bursts=self.bursts(store),
        )  # fmt: skip
        engine.tiles.append(tile)
        return tile

    def count(self, name: str, layer: int, **amounts: int) -> None:
        for counter, amount in amounts.items():
            self.counters[layer, PASSES.index(name), COUNTER_NAMES.index(counter)] += amount

    def result(self) -> dict[str, Any]:
        tiles = {
            name: np.array(
                [[tile[f] for f in TILE_FIELDS] for tile in engine.tiles], np.int64
            ).reshape(-1, len(TILE_FIELDS))
            for name, engine in self.engines.items()
        }
        column = TILE_FIELDS.index("store_done")
        cycles = max(int(t[:, column].max(initial=0)) for t in tiles.values())
        ends = [int(tiles[name][:, TILE_FIELDS.index("end")].max(initial=0)) for name in ENGINES]
        return {
            "cycles": cycles,
            "dram_busy_cycles": self.bus_busy,
            "tail_idle_cycles": np.array([cycles - end for end in ends], np.int64),
            "counters": self.counters,
            "resident": np.array([3, 31, 4][: len(self.counters)], np.int64),
            "tiles": [tiles[name] for name in ENGINES],
        }


def fake_simulation(
    accelerator: Accelerator | None = None,
    *,
    layers: tuple[str, ...] = LAYERS,
    parts: int = 2,
    sets: int = 2,
    rows: int = 3,
    seed: int = 0,
) -> Simulation:
    """One step of `parts` parts; each layer has `sets` sets of `rows` tiles."""
    machine = accelerator or Accelerator.load("h2learn")
    toy, random = Toy(machine, layers), np.random.default_rng(seed)
    last = len(layers) - 1

    def size(most: int) -> int:
        return int(random.integers(0, most)) * int(random.integers(0, 2))

    for part in range(parts):
        above = 0
        for layer in range(len(layers)):
            freed, place = [0, 0], {"part": part, "layer": layer}
            for column in range(sets):
                for row in range(rows):
                    made = toy.run(
                        "forward", after=max(above, freed[column % 2]), build=63,
                        run=int(random.integers(40, 200)), column=column, row=row,
                        load_bytes=size(20_000), **place,
                    )  # fmt: skip
                done = toy.run(
                    "soma", after=made["store_done"], run=int(random.integers(20, 60)),
                    column=column, store_bytes=size(3000), **place,
                )  # fmt: skip
                freed[column % 2] = done["end"]
            above = done["store_done"]
            toy.count(
                "forward", layer, operations_offered=1000, operations_needed=150,
                table_reads=55, table_reads_skipped=45, additions=900, psum_writes=100,
            )  # fmt: skip
        for layer in range(last, -1, -1):
            place = {"part": part, "layer": layer}
            for block in range(sets):
                made = toy.run(
                    "gradient", after=above, run=int(random.integers(20, 80)), block=block,
                    load_bytes=size(4000), store_bytes=size(2000), **place,
                )  # fmt: skip
                for row in range(rows):
                    wait = {"after": made["store_done"], "block": block, "row": row, **place}
                    if layer:
                        done = toy.run(
                            "backward", run=int(random.integers(100, 400)),
                            load_bytes=size(20_000), store_bytes=size(8000), **wait,
                        )  # fmt: skip
                    toy.run(
                        "update", build=31, run=int(random.integers(30, 120)),
                        load_bytes=size(2000), store_bytes=size(2000), **wait,
                    )  # fmt: skip
            above = max(above, done["store_done"])
            toy.count("update", layer, operations_offered=1000, operations_needed=60,
                      table_reads=40, table_reads_skipped=60, additions=400)  # fmt: skip
            if layer:
                toy.count("backward", layer, operations_offered=1000, operations_needed=240,
                          skipped_by_gradient=360, skipped_by_mask=400, items=9,
                          additions=240, multiplications=240)  # fmt: skip
    return Simulation(machine, layers, toy.result())
