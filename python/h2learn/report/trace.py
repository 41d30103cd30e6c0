"""The timeline of a step: every tile, every wait and every transfer, as a trace or a plot.

`Timeline.save` writes Chrome's trace-event format, which ui.perfetto.dev and chrome://tracing
open. Every cycle of an engine is covered: by a tile, or by an event that says what it waited for.
docs/timeline.md shows how to read it.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from h2learn.accelerators.results import ENGINE_OF_PASS, ENGINES, PASSES, TILE_FIELDS, Simulation
from h2learn.errors import InputError
from h2learn.files import replace_file

__all__ = ["PLOT_SUFFIXES", "Interval", "Timeline", "require_plotting"]

Event = dict[str, Any]
Times = npt.NDArray[np.int64]

MOST_TILES = 50_000
"""Of a trace, unless told otherwise: about 50 MB, which the viewers still open quickly."""

PLOT_SUFFIXES = (".png", ".svg", ".pdf")

ENGINE_TITLES = {
    "forward": "forward engine",
    "soma": "soma",
    "gradient": "gradient unit",
    "backward": "backward engine",
    "update": "weight-update engine",
}

# Who may hold a pass up, the likelier first: what decides when two engines finish at one time.
WAITS_FOR = {
    "forward": ("soma", "update", "backward", "gradient"),
    "soma": ("forward", "update", "backward", "gradient"),
    "gradient": ("backward", "soma", "update", "forward"),
    "backward": ("gradient", "update", "forward", "soma"),
    "update": ("gradient", "backward", "forward", "soma"),
}

BUILDING, STALLED_LOAD, STALLED_STORE = "building", "stalled: load", "stalled: store"
WAITING = "waiting"

# Chrome's reserved colour names; Perfetto chooses colours by an event's name instead.
COLOURS = {
    BUILDING: "yellow",
    STALLED_LOAD: "terrible",
    STALLED_STORE: "bad",
    WAITING: "grey",
}


@dataclass(frozen=True)
class Interval:
    """What an engine does from `start_cycle` to `end_cycle` when it runs no tile.

    Attributes:
        kind: `building`, `stalled: load`, `stalled: store` or `waiting`.
        name: as shown: the kind, and after "waiting: " for whom.
        tile: index, in its engine's order, of the tile that is held up; the number of tiles after
            the last one.
    """

    kind: str
    name: str
    tile: int
    start_cycle: int
    end_cycle: int


class Timeline:
    """Times of every tile of one simulated step.

    Args:
        simulation: of `simulate(..., tiles=True)` or of an offload; of several steps the last one
            is shown.
        max_tiles: most tiles to show; of more, those that start first, and a note says so.

    Attributes:
        tiles: tiles of the step.
        shown_tiles: tiles that the trace and the plot show.
        cycles: that the trace and the plot show.

    Raises:
        ValueError: the simulation kept no tiles, or max_tiles is below 1.
    """

    def __init__(self, simulation: Simulation, *, max_tiles: int = MOST_TILES) -> None:
        if simulation.tiles is None:
            raise ValueError("the simulation kept no tiles: simulate with tiles=True")
        if max_tiles < 1:
            raise ValueError(f"max_tiles must be at least 1, got {max_tiles}")
        self.accelerator = simulation.accelerator
        self.layer_names = simulation.layer_names
        every = dict(zip(ENGINES, simulation.tiles, strict=True))
        self.tiles = sum(len(tiles) for tiles in every.values())
        self._last_cycle = max(int(_at(t, "store_done").max(initial=0)) for t in every.values())
        self._times, self.cycles = every, self._last_cycle
        if self.tiles > max_tiles:
            starts = np.sort(np.concatenate([_at(tiles, "start") for tiles in every.values()]))
            self.cycles = int(starts[max_tiles])
            self._times = {
                name: tiles[_at(tiles, "start") < self.cycles] for name, tiles in every.items()
            }
        self.shown_tiles = sum(len(tiles) for tiles in self._times.values())
        # Whole arrays, cut or not: who waited for whom is decided by every tile's end.
        self._ends = {
            name: set(_at(tiles, "end").tolist()) | set(_at(tiles, "store_done").tolist())
            for name, tiles in every.items()
        }

    def save(self, path: str | Path) -> None:
        """Writes the trace as JSON, compressed if the name ends in .gz; whole or not at all.

        Events of a tile: `ts` and `dur` in microseconds, on whole nanoseconds, because viewers
        keep no more; their `args` give cycles exactly.

        Raises:
            OSError: the file cannot be written.
        """
        path = Path(path)
        replace_file(path, self.to_bytes(compressed=path.suffix == ".gz"))

    def to_bytes(self, *, compressed: bool = False) -> bytes:
        """What `save` writes."""
        content = self.to_json().encode()
        # No date in it: the same trace, the same bytes.
        return gzip.compress(content, mtime=0) if compressed else content

    def to_json(self) -> str:
        """The trace as `save` writes it, an event a line."""
        other = json.dumps(self._facts())
        lines = ",\n".join(json.dumps(event, separators=(",", ":")) for event in self.events())
        return f'{{"displayTimeUnit":"ns","otherData":{other},"traceEvents":[\n{lines}\n]}}\n'

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "accelerator": self.accelerator.name,
            "clock_hz": self.accelerator.clock_hz,
            "cycles": self._last_cycle,
            "tiles": self.tiles,
        }
        if self.shown_tiles < self.tiles:
            facts["note"] = self._note()
        return facts

    def _note(self) -> str:
        return (
            f"cut: the first {self.shown_tiles:,} of {self.tiles:,} tiles, "
            f"{self.cycles:,} of {self._last_cycle:,} cycles"
        )

    def title(self) -> str:
        """The machine, its clock, and whether only a part is shown."""
        title = f"{self.accelerator.name}, {self.accelerator.clock_hz / 1e6:g} MHz"
        return f"{title} ({self._note()})" if self.shown_tiles < self.tiles else title

    def tile_spans(self, engine: str) -> Times:
        """Layer, start and end in cycles of an engine's tiles: int64 [tiles, 3]."""
        return np.stack([_at(self._times[engine], n) for n in ("layer", "start", "end")], axis=1)

    def events(self) -> Iterator[Event]:
        """Events of the trace: names of the tracks, then each track's events in order of time."""
        tracks = _Tracks()
        for engine in ENGINES:
            if len(self._times[engine]):
                tracks.add(ENGINE_TITLES[engine], self._engine_events(engine))
                tracks.add(f"{engine}: tables", self._table_events(engine))
                for kind in ("load", "store"):
                    for half in (0, 1):
                        track = f"{engine}: {kind} {'AB'[half]}"
                        tracks.add(track, self._transfer_events(engine, kind, half))
        tracks.add("DRAM bus", self._bus_events())
        yield {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": self.title()}}
        yield from tracks.events()
        yield from self._counters()

    def intervals(self, engine: str) -> list[Interval]:
        """The time between an engine's tiles, in order: with the tiles it adds up to the step."""
        found: list[Interval] = []
        before = before_that = 0  # ends of stores
        end = 0
        tiles = self._times[engine]
        for i, row in enumerate(tiles.tolist()):
            tile = dict(zip(TILE_FIELDS, row, strict=True))
            idle = max(end, tile["ready"])
            loaded = max(idle, tile["load_done"])
            stored = max(loaded, before_that)
            if idle > end:
                found.append(Interval(WAITING, self._waiting(tile), i, end, idle))
            for kind, since, until in (
                (STALLED_LOAD, idle, loaded),
                (STALLED_STORE, loaded, stored),
                (BUILDING, stored, tile["start"]),
            ):
                if until > since:
                    found.append(Interval(kind, kind, i, since, until))
            end, before_that, before = tile["end"], before, tile["store_done"]
        if end < self.cycles:
            done = self.shown_tiles == self.tiles
            name = f"{WAITING}: {'the end of the step' if done else 'cut'}"
            found.append(Interval(WAITING, name, len(tiles), end, self.cycles))
        return found

    def _waiting(self, tile: Mapping[str, int]) -> str:
        """For whom: the tile was ready when somebody had just finished."""
        name = PASSES[tile["pass"]]
        for engine in WAITS_FOR[ENGINE_OF_PASS[name]]:
            if tile["ready"] in self._ends[engine]:
                return f"{WAITING}: {engine}"
        return f"{WAITING}: other engines"

    def _engine_events(self, engine: str) -> Iterator[Event]:
        gaps = self.intervals(engine)
        at = 0
        for i, tile in enumerate(self._tiles_of(engine)):
            while at < len(gaps) and gaps[at].tile == i:
                yield self._gap_event(gaps[at])
                at += 1
            args = {
                "layer": self.layer_names[tile["layer"]],
                "pass": PASSES[tile["pass"]],
                **{name: tile[name] for name in ("part", "block", "column", "row", "depth")},
                "start_cycle": tile["start"],
                "cycles": tile["end"] - tile["start"],
                "load_bytes": tile["load_bytes"],
                "store_bytes": tile["store_bytes"],
            }
            yield self._complete(self.tile_name(tile), "tile", tile["start"], tile["end"], args)
        yield from (self._gap_event(gap) for gap in gaps[at:])

    def tile_name(self, tile: Mapping[str, int]) -> str:
        """As in "conv2 backward b0 c1 r3": block, column tile, row tile, and d for the depth."""
        name = f"{self.layer_names[tile['layer']]} {PASSES[tile['pass']]}"
        name += f" b{tile['block']} c{tile['column']} r{tile['row']}"
        return f"{name} d{tile['depth']}" if tile["depth"] else name

    def _gap_event(self, gap: Interval) -> Event:
        args = {"start_cycle": gap.start_cycle, "cycles": gap.end_cycle - gap.start_cycle}
        event = self._complete(gap.name, gap.kind, gap.start_cycle, gap.end_cycle, args)
        return event | {"cname": COLOURS[gap.kind]}

    def _table_events(self, engine: str) -> Iterator[Event]:
        """Builds, also those that a running tile hides."""
        before = {"build_end": 0, "end": 0}
        before_that = before
        for tile in self._tiles_of(engine):
            since = max(before["build_end"], before_that["end"], tile["load_done"])
            if tile["build_end"] > since:
                name = f"build {self.tile_name(tile)}"
                yield self._complete(name, "build", since, tile["build_end"], {})
            before_that, before = before, tile

    def _transfer_events(self, engine: str, kind: str, half: int) -> Iterator[Event]:
        """From issue to done, of the tiles that use one half of the buffer: they never overlap."""
        for tile in self._tiles_of(engine, half):
            if tile[f"{kind}_bytes"]:
                since, until = tile[f"{kind}_issue"], tile[f"{kind}_done"]
                args = {"bytes": tile[f"{kind}_bytes"], "cycles": until - since}
                name = f"{kind} {self.tile_name(tile)}"
                yield self._complete(name, kind, since, until, args)

    def _bus_events(self) -> Iterator[Event]:
        for since, until, engine, kind, size in self.bus():
            args = {"bytes": size, "cycles": until - since}
            yield self._complete(f"{engine} {kind}", kind, since, until, args)

    def bus(self) -> list[tuple[int, int, str, str, int]]:
        """What the DRAM bus carried: start and end in cycles, engine, "load" or "store", bytes."""
        dram = self.accelerator.dram
        found = []
        for engine in ENGINES:
            for kind in ("load", "store"):
                sizes = _at(self._times[engine], f"{kind}_bytes")
                ends = _at(self._times[engine], f"{kind}_done")
                for size, end in zip(sizes.tolist(), ends.tolist(), strict=True):
                    if size:
                        bursts = -(-size // dram.burst_bytes)
                        cycles = -(-bursts * dram.burst_bytes // dram.bytes_per_cycle)
                        found.append((end - cycles, end, engine, kind, size))
        return sorted(found)

    def _counters(self) -> Iterator[Event]:
        """How full the double buffers are: 0, 1 or 2 halves each."""
        for engine in ENGINES:
            tiles = self._times[engine]
            if not len(tiles):
                continue
            loads = _steps(_at(tiles, "load_issue"), _at(tiles, "end"))
            outputs = _steps(_at(tiles, "start"), _at(tiles, "store_done"))
            yield from self._counter(f"{engine}: load slots in use", loads)
            yield from self._counter(f"{engine}: output slots in use", outputs)
        psums = self._psum_halves()
        if psums:
            yield from self._counter("forward: psum halves in use", psums)

    def _psum_halves(self) -> list[tuple[int, int]]:
        """A half is taken by a set's first tile, and free when the soma has drained it."""
        where = [TILE_FIELDS.index(f) for f in ("part", "layer", "block", "column")]
        recomputed = {PASSES.index(f"recompute_{name}") for name in ("forward", "soma")}

        def key(row: list[int]) -> tuple[Any, ...]:
            return (row[0] in recomputed, *(row[i] for i in where))

        start, end = TILE_FIELDS.index("start"), TILE_FIELDS.index("end")
        taken: dict[tuple[Any, ...], int] = {}
        for row in self._times["forward"].tolist():
            taken.setdefault(key(row), row[start])
        drained = {key(row): row[end] for row in self._times["soma"].tolist()}
        freed = [drained.get(place, self._last_cycle) for place in taken]  # cut off: not yet
        return _steps(np.array(list(taken.values()), np.int64), np.array(freed, np.int64))

    def _counter(self, name: str, steps: Iterable[tuple[int, int]]) -> Iterator[Event]:
        for cycle, level in steps:
            if cycle <= self.cycles:
                yield {
                    "ph": "C", "pid": 1, "name": name, "ts": self._nanoseconds(cycle) / 1e3,
                    "args": {"halves": level},
                }  # fmt: skip

    def _tiles_of(self, engine: str, half: int | None = None) -> Iterator[dict[str, int]]:
        tiles = self._times[engine]
        for row in (tiles if half is None else tiles[half::2]).tolist():
            yield dict(zip(TILE_FIELDS, row, strict=True))

    def _complete(
        self, name: str, category: str, start: int, end: int, args: Mapping[str, Any]
    ) -> Event:
        since, until = self._nanoseconds(start), self._nanoseconds(end)
        event: Event = {"ph": "X", "pid": 1, "tid": 0, "ts": since / 1e3}
        event |= {"dur": (until - since) / 1e3, "name": name, "cat": category}
        return event | ({"args": dict(args)} if args else {})

    def _nanoseconds(self, cycle: int) -> int:
        # Both ends of an event are rounded alike, so that neighbours never overlap.
        return round(cycle * 10**9 / self.accelerator.clock_hz)

    def save_plot(self, path: str | Path) -> None:
        """Draws engines and the DRAM bus over time; .png, .svg or .pdf. Needs matplotlib.

        Raises:
            InputError: another kind of file, or matplotlib is missing.
            OSError: the file cannot be written.
        """
        from h2learn.report.timeline_plot import draw

        path = Path(path)
        require_plotting(path)
        replace_file(path, draw(self, path.suffix.lower().removeprefix(".")))


def require_plotting(path: Path) -> None:
    """Makes sure, before any work, that a plot can be drawn into such a file.

    Raises:
        InputError: another kind of file, or matplotlib is missing.
    """
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise InputError(f"a plot must be a file {', '.join(PLOT_SUFFIXES)}, got {path.name!r}")
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("plots need matplotlib: pip install 'h2learn[plot]'")


class _Tracks:
    """Threads of the one process, numbered as they are shown; those without events left out."""

    def __init__(self) -> None:
        self._tracks: list[tuple[str, list[Event]]] = []

    def add(self, name: str, events: Iterable[Event]) -> None:
        found = list(events)
        if found:
            self._tracks.append((name, found))

    def events(self) -> Iterator[Event]:
        for tid, (name, _) in enumerate(self._tracks, start=1):
            track = {"ph": "M", "pid": 1, "tid": tid}
            yield track | {"name": "thread_name", "args": {"name": name}}
            yield track | {"name": "thread_sort_index", "args": {"sort_index": tid}}
        for tid, (_, found) in enumerate(self._tracks, start=1):
            for event in found:
                yield event | {"tid": tid}


def _at(tiles: Times, name: str) -> Times:
    return tiles[:, TILE_FIELDS.index(name)]


def _steps(taken: Times, freed: Times) -> list[tuple[int, int]]:
    """(cycle, how many are in use from then on), one entry a change."""
    times = np.concatenate([taken, freed])
    change = np.concatenate([np.ones_like(taken), -np.ones_like(freed)])
    cycles, index = np.unique(times, return_inverse=True)
    delta = np.bincount(index, weights=change, minlength=len(cycles)).astype(np.int64)
    levels = np.cumsum(delta)
    return [
        (int(cycle), int(level))
        for cycle, level, step in zip(cycles, levels, delta, strict=True)
        if step
    ]
