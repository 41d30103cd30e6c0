"""The timeline: every cycle explained, every track in order, the same bytes each time."""

from __future__ import annotations

import gzip
import importlib.util
import itertools
import json
from collections import defaultdict

import numpy as np
import pytest
from fake_accelerator import fake_simulation
from h2learn.accelerators import Accelerator
from h2learn.accelerators.results import (
    COUNTER_NAMES,
    ENGINES,
    PASSES,
    TILE_FIELDS,
    Simulation,
)
from h2learn.errors import InputError
from h2learn.report.trace import ENGINE_TITLES, Interval, Timeline
from hypothesis import given, settings
from hypothesis import strategies as st


def events_of(timeline):
    return json.loads(timeline.to_json())["traceEvents"]


def tracks_of(events):
    """Track name to its complete events, in the order of the file."""
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    tracks = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            tracks[names[event["tid"]]].append(event)
    return tracks


def nanoseconds(event):
    since = round(event["ts"] * 1e3)
    return since, since + round(event["dur"] * 1e3)


def by_hand(tiles):
    """A simulation of given tiles: engine to dictionaries of what is not 0."""
    arrays = [
        np.array(
            [[tile.get(field, 0) for field in TILE_FIELDS] for tile in tiles.get(engine, [])],
            np.int64,
        ).reshape(-1, len(TILE_FIELDS))
        for engine in ENGINES
    ]
    raw = {
        "cycles": 100,
        "dram_busy_cycles": 0,
        "tail_idle_cycles": np.zeros(len(ENGINES), np.int64),
        "counters": np.zeros((1, len(PASSES), len(COUNTER_NAMES)), np.int64),
        "resident": np.zeros(1, np.int64),
        "tiles": arrays,
    }
    return Simulation(Accelerator.load("h2learn"), ("fc",), raw)


# Tile 0 loads from 0 to 16, builds to 24, runs to 29. Tile 1 finds its tables late, tile 2 its
# output slot; tile 3 waits for the soma.
FORWARD = [
    {"load_bytes": 50, "load_done": 16, "build_end": 24, "start": 24, "end": 29, "store_issue": 29,
     "store_bytes": 8, "store_done": 45},
    {"row": 1, "load_done": 0, "build_end": 32, "start": 32, "end": 37, "store_issue": 37,
     "store_done": 45},
    {"column": 1, "load_issue": 29, "load_done": 29, "build_end": 36, "start": 45, "end": 50,
     "store_issue": 50, "store_done": 50},
    {"column": 1, "row": 1, "ready": 60, "load_issue": 60, "load_done": 60, "build_end": 60,
     "start": 60, "end": 70, "store_issue": 70, "store_done": 70},
]  # fmt: skip
SOMA = [
    {"pass": 1, "ready": 37, "start": 37, "end": 60, "store_issue": 60, "store_done": 60},
    {"pass": 1, "column": 1, "ready": 70, "start": 70, "end": 90, "store_issue": 90,
     "store_bytes": 64, "store_done": 100},
]  # fmt: skip


@pytest.fixture
def handmade():
    return Timeline(by_hand({"forward": FORWARD, "soma": SOMA}))


def test_the_time_between_tiles_says_what_it_was_lost_to(handmade):
    assert handmade.intervals("forward") == [
        Interval("stalled: load", "stalled: load", 0, 0, 16),
        Interval("building", "building", 0, 16, 24),
        Interval("building", "building", 1, 29, 32),
        Interval("stalled: store", "stalled: store", 2, 37, 45),
        Interval("waiting", "waiting: soma", 3, 50, 60),
        Interval("waiting", "waiting: the end of the step", 4, 70, 100),
    ]
    assert handmade.intervals("soma")[:2] == [
        Interval("waiting", "waiting: forward", 0, 0, 37),
        Interval("waiting", "waiting: forward", 1, 60, 70),
    ]
    assert handmade.intervals("backward") == [
        Interval("waiting", "waiting: the end of the step", 0, 0, 100)
    ]


def test_a_trace_by_hand(handmade):
    events = events_of(handmade)
    tracks = tracks_of(events)
    assert list(tracks) == [
        "forward engine", "forward: tables", "forward: load A", "forward: store A", "soma",
        "soma: store B", "DRAM bus",
    ]  # fmt: skip
    first = next(e for e in tracks["forward engine"] if e["cat"] == "tile")
    assert (first["ts"], first["dur"]) == (0.03, 0.006)  # 24 and 5 cycles of 1.25 ns, rounded
    assert first["name"] == "fc forward b0 c0 r0"
    assert first["args"] == {
        "layer": "fc", "pass": "forward", "part": 0, "block": 0, "column": 0, "row": 0, "depth": 0,
        "start_cycle": 24, "cycles": 5, "load_bytes": 50, "store_bytes": 8,
    }  # fmt: skip
    builds = [nanoseconds(e) for e in tracks["forward: tables"]]
    assert builds == [(20, 30), (30, 40), (40, 45)]  # cycles 16-24, 24-32, 32-36
    # 50 bytes are one burst of 64: one cycle of a bus of 320 bytes a cycle, its last one.
    assert [nanoseconds(e) for e in tracks["DRAM bus"]] == [(19, 20), (55, 56), (124, 125)]
    stalls = {e["name"]: e["cname"] for e in tracks["forward engine"] if "cname" in e}
    assert stalls == {
        "stalled: load": "terrible",
        "building": "yellow",
        "stalled: store": "bad",
        "waiting: soma": "grey",
        "waiting: the end of the step": "grey",
    }
    levels = [
        (round(e["ts"] * 1e3), e["args"]["halves"])
        for e in events
        if e["name"] == "forward: psum halves in use"
    ]
    # Set 0 from cycle 24 to the soma's end at 60, set 1 from 45 to 90.
    assert levels == [(30, 1), (56, 2), (75, 1), (112, 0)]


simulations = st.builds(
    fake_simulation,
    parts=st.integers(1, 3),
    sets=st.integers(1, 3),
    rows=st.integers(1, 4),
    seed=st.integers(0, 99),
)


@settings(max_examples=20)
@given(simulations)
def test_an_engines_events_follow_each_other_without_gap_or_overlap(simulation):
    tracks = tracks_of(events_of(Timeline(simulation)))
    clock = simulation.accelerator.clock_hz
    for engine in ENGINES:
        spans = [nanoseconds(event) for event in tracks[ENGINE_TITLES[engine]]]
        assert spans[0][0] == 0
        assert spans[-1][1] == round(simulation.cycles * 1e9 / clock)
        assert all(end == start for (_, end), (start, _) in itertools.pairwise(spans))
    for name, events in tracks.items():
        spans = [nanoseconds(event) for event in events]
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans)), name


@settings(max_examples=20)
@given(simulations)
def test_the_events_add_up_to_the_counters(simulation):
    timeline = Timeline(simulation)
    tracks = tracks_of(events_of(timeline))
    for engine in ENGINES:
        cycles = defaultdict(int)
        for event in tracks[ENGINE_TITLES[engine]]:
            cycles[event["cat"]] += event["args"]["cycles"]
        told = simulation.engine(engine)
        assert cycles["tile"] == told.counters.run_cycles
        assert cycles["building"] == told.counters.building_cycles
        assert cycles["stalled: load"] == told.counters.stalled_load_cycles
        assert cycles["stalled: store"] == told.counters.stalled_store_cycles
        assert cycles["waiting"] == told.idle_cycles
    bus = sum(event["args"]["cycles"] for event in tracks["DRAM bus"])
    assert bus == simulation.dram_busy_cycles
    moved = sum(event["args"]["bytes"] for event in tracks["DRAM bus"])
    assert moved == simulation.counters().load_bytes + simulation.counters().store_bytes


@settings(max_examples=20)
@given(simulations)
def test_double_buffers_have_two_halves(simulation):
    levels = defaultdict(list)
    for event in events_of(Timeline(simulation)):
        if event["ph"] == "C":
            levels[event["name"]].append((event["ts"], event["args"]["halves"]))
    assert len(levels) == 2 * len(ENGINES) + 1
    for name, steps in levels.items():
        assert {level for _, level in steps} <= {0, 1, 2}, name
        assert steps[-1][1] == 0, name
        assert [time for time, _ in steps] == sorted(time for time, _ in steps)


def test_every_track_has_a_name_and_a_place(handmade):
    events = events_of(handmade)
    assert {e["ph"] for e in events} == {"M", "X", "C"}
    assert {e["pid"] for e in events} == {1}
    named = {e["tid"] for e in events if e["name"] == "thread_name"}
    order = {e["tid"]: e["args"]["sort_index"] for e in events if e["name"] == "thread_sort_index"}
    assert named == set(order) == {e["tid"] for e in events if e["ph"] == "X"}
    assert events[0]["args"]["name"] == "h2learn, 800 MHz"


def test_who_is_waited_for_when_two_finish_at_once_is_the_likelier_one():
    end = {"end": 40, "store_issue": 40, "store_done": 40}
    tiles = {
        "soma": [{"pass": 1, **end}],
        "gradient": [{"pass": 4, **end}],
        "backward": [{"pass": 5, "ready": 40, "start": 40, "end": 50, "store_done": 50}],
        "update": [{"pass": 6, "ready": 41, "start": 41, "end": 50, "store_done": 50}],
    }
    timeline = Timeline(by_hand(tiles))
    assert timeline.intervals("backward")[0].name == "waiting: gradient"
    assert timeline.intervals("update")[0].name == "waiting: other engines"


class TestSaving:
    def test_the_same_simulation_gives_the_same_bytes(self, tmp_path):
        for name in ("one.json", "two.json", "one.json.gz", "two.json.gz"):
            Timeline(fake_simulation()).save(tmp_path / name)
        one = (tmp_path / "one.json").read_bytes()
        assert one == (tmp_path / "two.json").read_bytes()
        assert gzip.decompress((tmp_path / "one.json.gz").read_bytes()) == one
        assert (tmp_path / "one.json.gz").read_bytes() == (tmp_path / "two.json.gz").read_bytes()
        assert len(list(tmp_path.iterdir())) == 4
        assert json.loads(one)["otherData"] == {
            "accelerator": "h2learn",
            "clock_hz": 800_000_000,
            "cycles": fake_simulation().cycles,
            "tiles": Timeline(fake_simulation()).tiles,
        }

    def test_a_long_step_is_cut_and_says_so(self):
        whole, cut = Timeline(fake_simulation()), Timeline(fake_simulation(), max_tiles=20)
        # Tiles that start together with the first one that is left out are left out, too.
        assert 15 < cut.shown_tiles <= 20 < cut.tiles == whole.tiles
        content = json.loads(cut.to_json())
        note = content["otherData"]["note"]
        assert note.startswith(f"cut: the first {cut.shown_tiles} of {cut.tiles} tiles, ")
        assert note in content["traceEvents"][0]["args"]["name"]
        tiles = [e for e in content["traceEvents"] if e.get("cat") == "tile"]
        assert len(tiles) == cut.shown_tiles
        assert {e["name"] for e in tiles} <= {e["name"] for e in events_of(whole)}
        *gaps, last = cut.intervals("forward")
        assert gaps == whole.intervals("forward")[: len(gaps)]
        assert (last.name, last.end_cycle) == ("waiting: cut", cut.cycles)

    def test_a_trace_needs_tiles(self):
        simulation = fake_simulation()
        with pytest.raises(ValueError, match="max_tiles must be at least 1, got 0"):
            Timeline(simulation, max_tiles=0)
        simulation.tiles = None
        with pytest.raises(ValueError, match="simulate with tiles=True"):
            Timeline(simulation)

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            Timeline(fake_simulation()).save(tmp_path / "absent" / "step.json")


class TestPlot:
    @pytest.mark.parametrize(
        ("name", "magic"), [("p.png", b"\x89PNG"), ("p.svg", b"<?xml"), ("p.pdf", b"%PDF")]
    )
    def test_it_is_drawn_and_the_same_each_time(self, tmp_path, name, magic):
        pytest.importorskip("matplotlib")
        contents = []
        for _ in range(2):
            Timeline(fake_simulation()).save_plot(tmp_path / name)
            contents.append((tmp_path / name).read_bytes())
        assert contents[0] == contents[1]
        assert contents[0].startswith(magic)
        assert [p.name for p in tmp_path.iterdir()] == [name]

    def test_its_words_can_be_read(self, tmp_path):
        pytest.importorskip("matplotlib")
        Timeline(fake_simulation()).save_plot(tmp_path / "p.svg")
        text = (tmp_path / "p.svg").read_text()
        for word in ("conv1", "conv2", "fc", "stalled on a load", "time [µs]", "cycles", "800 MHz"):
            assert f">{word}" in text or f" {word}" in text, word

    def test_many_layers_and_tiles(self, tmp_path):
        pytest.importorskip("matplotlib")
        layers = tuple(f"features.{i}" for i in range(30))
        Timeline(fake_simulation(layers=layers)).save_plot(tmp_path / "p.svg")
        text = (tmp_path / "p.svg").read_text()
        assert "features.0<" in text
        assert "features.29<" in text
        assert text.count(">features.") == 12

    def test_another_kind_of_file(self, tmp_path):
        with pytest.raises(InputError, match=r"must be a file .png, .svg, .pdf, got 'p.gif'"):
            Timeline(fake_simulation()).save_plot(tmp_path / "p.gif")

    def test_without_matplotlib_it_says_what_to_install(self, tmp_path, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(InputError, match=r"pip install 'h2learn\[plot\]'"):
            Timeline(fake_simulation()).save_plot(tmp_path / "p.png")
        assert not list(tmp_path.iterdir())
