"""Draws a timeline: a row an engine, tiles in their layer's colour, and what held it up."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from h2learn.accelerators.results import ENGINES
from h2learn.report.units import measure, percent

if TYPE_CHECKING:
    from h2learn.report.trace import Timeline

ENGINE_LABELS = {
    "forward": "forward\nengine",
    "soma": "soma",
    "gradient": "gradient\nunit",
    "backward": "backward\nengine",
    "update": "weight\nupdate",
}
# Tiles run from dark violet (first layer) to green (last); what holds them up is red to yellow.
LAYER_COLOURS = matplotlib.colormaps["viridis"]
FIRST_COLOUR, LAST_COLOUR = 0.05, 0.76
GAP_COLOURS = {
    "building": "#f7d13d",
    "stalled: load": "#d7191c",
    "stalled: store": "#f58518",
    "waiting": "#e4e4e4",
}
GAP_LABELS = {
    "building": "building tables",
    "stalled: load": "stalled on a load",
    "stalled: store": "stalled on a store",
    "waiting": "waiting for another engine",
}
# Still told apart where narrow boxes are drawn paler.
BUS_COLOURS = {"load": "#303030", "store": "#d0389a"}
TILE_HEIGHT, GAP_HEIGHT = 0.72, 0.36
OUTLINED_TILES = 300
"""Up to so many tiles each has an outline; of more one would see nothing else."""
OUTLINED_SHARE = 0.003
"""Of the width of the plot: a narrower tile would be nothing but outline."""
VECTOR_BOXES = 3000
"""Of more, a vector file holds them as a picture."""
MOST_LEGEND_LAYERS = 12

Spans = npt.NDArray[np.floating[Any]]
ArrayLike = npt.ArrayLike


def draw(timeline: Timeline, kind: str) -> bytes:
    """The picture as a file of this kind: "png", "svg" or "pdf". Same timeline, same bytes."""
    with matplotlib.rc_context({"svg.hashsalt": "h2learn", "svg.fonttype": "none"}):
        figure = Figure(figsize=(11.0, 5.2), dpi=110, layout="constrained")
        _fill(figure.add_subplot(), timeline)
        content = io.BytesIO()
        dates = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
        figure.savefig(content, format=kind, metadata=dates[kind])
    return content.getvalue()


def _fill(axes: Axes, timeline: Timeline) -> None:
    scale, unit = _time_unit(timeline.cycles / timeline.accelerator.clock_hz)
    scale /= timeline.accelerator.clock_hz  # cycles to the axis' unit
    ran = [engine for engine in ENGINES if timeline.tile_spans(engine).size]
    for row, engine in enumerate(ran):
        _draw_engine(axes, timeline, engine, row, scale)
    _draw_bus(axes, timeline, len(ran), scale)
    axes.set_yticks(range(len(ran) + 1), [*(ENGINE_LABELS[name] for name in ran), "DRAM\nbus"])
    axes.set_ylim(len(ran) + 0.6, -0.6)
    axes.set_xlim(0.0, max(timeline.cycles, 1) * scale)
    axes.set_xlabel(f"time [{unit}]")
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)

    def to_cycles(time: ArrayLike) -> Spans:
        return np.asarray(time, float) / scale

    def to_time(cycle: ArrayLike) -> Spans:
        return np.asarray(cycle, float) * scale

    cycles = axes.secondary_xaxis("top", functions=(to_cycles, to_time))
    cycles.set_xlabel("cycles")
    cycles.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_title(timeline.title(), loc="left", fontsize=11, fontweight="bold", pad=12)
    _add_legend(axes, timeline)


def _draw_engine(axes: Axes, timeline: Timeline, engine: str, row: int, scale: float) -> None:
    spans = timeline.tile_spans(engine)
    gaps = timeline.intervals(engine)
    for kind, colour in GAP_COLOURS.items():
        found = [(g.start_cycle, g.end_cycle) for g in gaps if g.kind == kind]
        _boxes(axes, np.array(found, float).reshape(-1, 2) * scale, row, GAP_HEIGHT, colour)
    few = timeline.shown_tiles <= OUTLINED_TILES
    for layer in range(len(timeline.layer_names)):
        times = spans[spans[:, 0] == layer, 1:] * scale
        shade = _layer_colour(layer, len(timeline.layer_names))
        if few:
            wide = times[:, 1] - times[:, 0] > OUTLINED_SHARE * timeline.cycles * scale
            _boxes(axes, times[wide], row, TILE_HEIGHT, shade, outlined=True)
            _boxes(axes, times[~wide], row, TILE_HEIGHT, shade)
        else:
            _boxes(axes, _joined(times), row, TILE_HEIGHT, shade)
    busy = int((spans[:, 2] - spans[:, 1]).sum())
    busy += sum(g.end_cycle - g.start_cycle for g in gaps if g.kind == "building")
    _say_share(axes, row, busy / max(timeline.cycles, 1))


def _draw_bus(axes: Axes, timeline: Timeline, row: int, scale: float) -> None:
    bus = timeline.bus()
    for kind, colour in BUS_COLOURS.items():
        found = [(since, until) for since, until, _, what, _ in bus if what == kind]
        _boxes(axes, np.array(found, float).reshape(-1, 2) * scale, row, GAP_HEIGHT, colour)
    busy = sum(until - since for since, until, *_ in bus)
    _say_share(axes, row, busy / max(timeline.cycles, 1))


def _say_share(axes: Axes, row: int, share: float) -> None:
    axes.text(
        1.008, row, f"{percent(min(share, 1.0), 0)}\nbusy", transform=axes.get_yaxis_transform(),
        va="center", fontsize=8, color="#404040",
    )  # fmt: skip


def _boxes(
    axes: Axes, spans: Spans, row: int, height: float, colour: object, *, outlined: bool = False
) -> None:
    if not len(spans):
        return
    low, high = row - height / 2, row + height / 2
    corners = np.empty((len(spans), 4, 2))
    corners[:, :2, 0], corners[:, 2:, 0] = spans[:, :1], spans[:, 1:]
    corners[:, (0, 3), 1], corners[:, (1, 2), 1] = low, high
    axes.add_collection(
        PolyCollection(
            list(corners),
            facecolors=[colour],
            edgecolors="white" if outlined else "none",
            linewidths=0.6 if outlined else 0.0,
            rasterized=len(spans) > VECTOR_BOXES,
            snap=False,  # narrower than a pixel is a paler pixel, not none
        )
    )


def _joined(spans: Spans) -> Spans:
    """Spans that touch made one, so that no seams show."""
    if not len(spans):
        return spans
    first = np.concatenate([[True], spans[1:, 0] > spans[:-1, 1]])
    last = np.concatenate([first[1:], [True]])
    return np.stack([spans[first, 0], spans[last, 1]], axis=1)


def _layer_colour(layer: int, layers: int) -> tuple[float, float, float, float]:
    place = layer / max(1, layers - 1)
    red, green, blue, alpha = LAYER_COLOURS(FIRST_COLOUR + place * (LAST_COLOUR - FIRST_COLOUR))
    return red, green, blue, alpha


def _add_legend(axes: Axes, timeline: Timeline) -> None:
    names = timeline.layer_names
    shown = range(len(names))
    if len(names) > MOST_LEGEND_LAYERS:
        shown = np.unique(np.linspace(0, len(names) - 1, MOST_LEGEND_LAYERS).astype(int)).tolist()
    handles = [Patch(color=_layer_colour(i, len(names)), label=names[i]) for i in shown]
    handles += [Patch(color=c, label=GAP_LABELS[kind]) for kind, c in GAP_COLOURS.items()]
    handles += [Patch(color=c, label=f"DRAM {kind}") for kind, c in BUS_COLOURS.items()]
    axes.figure.legend(
        handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8,
        handlelength=1.2, columnspacing=1.4,
    )  # fmt: skip


def _time_unit(seconds: float) -> tuple[float, str]:
    """How many of the unit are a second, and the unit, so that the axis has few digits."""
    unit = measure(seconds, "s").split()[-1]
    return {"s": 1.0, "ms": 1e3, "µs": 1e6, "ns": 1e9, "ps": 1e12}.get(unit, 1.0), unit
