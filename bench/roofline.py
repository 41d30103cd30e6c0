"""Draws a report of kernels.py beneath the machine's roofs.

    python bench/roofline.py build/kernels.json docs/roofline.svg [--target NAME] [--threads N]

Needs matplotlib. Across: operations of the dense product for each byte that must be read or
written. Up: operations of the dense product a second, whether computed or skipped; so a kernel that
skips zeros can stand above the roof, and one that does not cannot. The circles of a layer, one a
firing rate, stand above each other; triangles are kernel="fastest", where units multiply bytes.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import matplotlib
from arguments import count
from kernel_cases import SYNAPSE_KERNELS
from kernel_tables import percent
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

Row = dict[str, Any]

_TITLES = {
    "forward": "forward",
    "backward": "gradient at the inputs",
    "weight_update": "weight gradient",
}
_ANALOG, _STEM, _RIVAL, _ROOF = "#222222", "#c8c8c8", "#d0389a", "#444444"
_NAME_WIDTH = 0.035
_SMALL: dict[str, Any] = {"fontsize": 7, "color": _ROOF}
_BYTES = 4
"""Multiplications of bytes by which digits do one multiply-add (of an input gradient ten)."""
_FASTEST = "h2learn-fastest"
_RIVALS = {"torch-float32": ("s", "torch float32"), "torch-bf16": ("D", "torch bfloat16")}


def chosen(report: dict[str, Any], target: str | None, threads: int | None) -> tuple[str, int]:
    """The target and threads to draw: as asked, else the first target and the most threads.

    Raises:
        ValueError: the report has no ceiling for them.
    """
    known = [(roof["target"], roof["threads"]) for roof in report["ceilings"]]
    fitting = [
        pair
        for pair in known
        if (target is None or pair[0] == target) and (threads is None or pair[1] == threads)
    ]
    if not fitting:
        raise ValueError(f"no ceiling of target {target}, threads {threads}; there are {known}")
    return max((pair for pair in fitting if pair[0] == fitting[0][0]), key=lambda pair: pair[1])


def point(row: Row) -> tuple[float, float]:
    """Operations a byte, and billions of them a second."""
    return row["flops"] / (row["read_bytes"] + row["written_bytes"]), row["flops"] / row["ms"] / 1e6


def draw(report: dict[str, Any], target: str, threads: int) -> Figure:
    """The plot; one panel a product. Variants, which have a table, are left out.

    Raises:
        ValueError: no product was measured there.
    """
    rows = [
        r
        for r in report["measurements"]
        if (r["target"], r["threads"]) == (target, threads) and r["case"] not in report["variants"]
    ]
    kernels = [k for k in SYNAPSE_KERNELS if any(r["kernel"] == k for r in rows)]
    if not kernels:
        raise ValueError(f"no product was measured on {target} with {threads} threads")
    (roof,) = (r for r in report["ceilings"] if (r["target"], r["threads"]) == (target, threads))
    ways = ["h2learn-auto", *_RIVALS] + ([_FASTEST] if roof["int8_ops"] else [])
    shown = [r for r in rows if r["kernel"] in kernels and r["way"] in ways]
    rates = sorted({r["rate"] for r in shown if r["rate"] is not None})
    places = [point(r) for r in shown]
    knee = roof["flops"] / roof["l2_bytes_per_second"]
    left, right = min(knee, *(x for x, _ in places)) / 2, max(x for x, _ in places) * 2
    bottom, top = min(y for _, y in places) / 2, max(y for _, y in places) * 40
    figure = Figure(figsize=(3.9 * len(kernels), 5.4), layout="constrained")
    panels = figure.subplots(1, len(kernels), sharex=True, sharey=True, squeeze=False)[0]
    for panel, kernel in zip(panels, kernels, strict=True):
        panel.set(xscale="log", yscale="log", xlim=(left, right), ylim=(bottom, top))
        _roofs(panel, roof, left, right)
        _cases(panel, [r for r in shown if r["kernel"] == kernel], _shades(rates))
        panel.set_title(_TITLES[kernel], fontsize=10)
        panel.set_xlabel("dense operations a byte")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("dense operations, GFLOP/s")
    handles = [
        Line2D([], [], ls="", marker="o", color=shade, label=f"h2learn, {percent(rate)} not zero")
        for rate, shade in _shades(rates).items()
    ] + [
        Line2D([], [], ls="", marker=mark, mfc="none", mec=_RIVAL, label=label)
        for mark, label in _RIVALS.values()
    ]
    if _FASTEST in ways:
        fastest = 'kernel="fastest"'
        handles.append(Line2D([], [], ls="", marker="^", mfc="none", mec=_ANALOG, label=fastest))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    noun = "thread" if threads == 1 else "threads"
    figure.suptitle(
        f"{report['machine']['processor']}, {target}, {threads} {noun}",
        fontsize=10,
        x=0.01,
        ha="left",
    )
    return figure


def _shades(rates: list[float]) -> dict[float, Any]:
    """A colour a rate, from pale to dark."""
    colours = matplotlib.colormaps["viridis_r"]
    return {r: colours(0.1 + 0.85 * i / max(1, len(rates) - 1)) for i, r in enumerate(rates)}


def _roofs(panel: Axes, roof: Row, left: float, right: float) -> None:
    peak = roof["flops"] / 1e9
    slopes = {
        "L2": roof["l2_bytes_per_second"] / 1e9,
        "memory": roof["dram_read_bytes_per_second"] / 1e9,
    }
    for name, slope in slopes.items():
        knee = peak / slope
        panel.plot([left, knee], [left * slope, peak], color=_ROOF, lw=1, zorder=1)
        x = max(left, 1.2 * panel.get_ylim()[0] / slope)  # where the line enters the panel
        panel.annotate(
            f"{name}, {slope:.0f} GB/s", (x, x * slope), xytext=(8, -2),
            textcoords="offset points", va="center", **_SMALL,
        )  # fmt: skip
    panel.plot([peak / max(slopes.values()), right], [peak, peak], color=_ROOF, lw=1, zorder=1)
    panel.annotate(
        f"{peak:.0f} GFLOP/s", (peak / max(slopes.values()), peak), **_SMALL, va="bottom"
    )
    if roof["int8_ops"]:
        digits = roof["int8_ops"] / _BYTES / 1e9
        panel.plot([left, right], [digits, digits], color=_ROOF, lw=1, ls=":", zorder=1)
        # At the left end, off the other roof's label where the two are about as high.
        near = peak / 1.5 < digits < peak * 1.5
        panel.annotate(
            f"bytes, {_BYTES} a weight: {digits:.0f} GFLOP/s", (left * 1.2, digits),
            xytext=(0, 11 if near else 0), textcoords="offset points", **_SMALL, va="bottom",
        )  # fmt: skip


def _cases(panel: Axes, rows: list[Row], shades: dict[float, Any]) -> None:
    """Each layer: a circle a rate on a stem that leads to its name, the rivals beside it."""
    ends: list[tuple[float, float, str]] = []
    for case in dict.fromkeys(r["case"] for r in rows):
        of_case = [r for r in rows if r["case"] == case]
        places = sorted(point(r) for r in of_case if r["way"] == "h2learn-auto")
        panel.plot(*zip(*places, strict=True), color=_STEM, lw=0.8, zorder=1)
        for row in of_case:
            if row["way"] == "h2learn-auto":
                panel.plot(*point(row), "o", ms=5, color=shades.get(row["rate"], _ANALOG), zorder=3)
            elif row["way"] == _FASTEST:
                shade = shades.get(row["rate"], _ANALOG)
                panel.plot(*point(row), "^", ms=5, mfc="none", mec=shade, zorder=4)
        for way, (mark, _) in _RIVALS.items():
            theirs = [r for r in of_case if r["way"] == way]
            if theirs:
                best = min(theirs, key=lambda r: r["ms"])
                panel.plot(*point(best), mark, ms=4.5, mfc="none", mec=_RIVAL, zorder=2)
        ends.append((*max(places, key=lambda place: place[1]), case))
    # Names stand in one row above everything, as far apart as their letters are high.
    left, right = (math.log(limit) for limit in panel.get_xlim())
    height = panel.get_ylim()[1] / 20
    gap = _NAME_WIDTH * (right - left)
    at = left
    for index, (x, y, case) in enumerate(sorted(ends)):
        at = max(at, min(math.log(x), right - gap * (len(ends) - index)))
        panel.plot([x, math.exp(at)], [y, height], color=_STEM, lw=0.5, zorder=0)
        panel.annotate(
            case, (math.exp(at), height), xytext=(0, 2), textcoords="offset points", rotation=90,
            ha="center", va="bottom", **_SMALL,
        )  # fmt: skip
        at += gap


def save(figure: Figure, out: Path) -> None:
    """Writes .svg, .png or .pdf. Same report, same bytes.

    Raises:
        ValueError: another kind of file.
    """
    dates: dict[str, dict[str, Any]] = {
        ".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}
    }  # fmt: skip
    if out.suffix not in dates:
        raise ValueError(f"{out} is none of {', '.join(dates)}")
    with matplotlib.rc_context({"svg.hashsalt": "h2learn", "svg.fonttype": "none"}):
        figure.savefig(out, dpi=110, metadata=dates[out.suffix])


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("report", type=Path, help="what kernels.py wrote with --json")
    parser.add_argument("out", type=Path, help=".svg, .png or .pdf")
    parser.add_argument("--target", help="default: the first of the report")
    parser.add_argument("--threads", type=count, help="default: the most of the report")
    options = parser.parse_args(arguments)
    try:
        report = json.loads(options.report.read_text())
        save(draw(report, *chosen(report, options.target, options.threads)), options.out)
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {options.report}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
