"""Tables of a report of kernels.py, for the terminal and for RESULTS.md."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table as View

Report = dict[str, Any]
Row = dict[str, Any]

# `auto` may cost this much more than the better of the kernels that it chooses from.
AUTO_SLACK = 1.15
CHOICES = ("h2learn-event", "h2learn-dense")
# Where events are shown as additions and the rest.
SHOWN_RATE = 0.15
LEAST_FITTED_RATE = 0.05
"""Below, most linear layers are walked through: there events cost more, and little else does."""
FLOAT_BYTES = 4
# The layer that variants differ from, timed beside one of them.
BASE_WAY = "h2learn-base"
# `event` where nothing spikes: what walking through few spikes costs beside them.
SILENT_WAY = "h2learn-silent"
_JOB = ("kernel", "case", "target", "threads")


@dataclass(frozen=True)
class Table:
    """What to show: a heading, columns, and cells as text."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def show(tables: Iterable[Table], console: Console) -> None:
    """Prints them on a terminal."""
    for table in tables:
        view = View(title=table.title, title_justify="left", box=box.SIMPLE)
        for column in table.columns:
            view.add_column(column)
        for line in table.rows:
            view.add_row(*line)
        console.print(view)


@dataclass(frozen=True)
class Goal:
    """The ratio that rows of a kernel and a rival should reach.

    Attributes:
        title: for the table of goals; empty: not listed there.
        cases: that it is for; None: all.
        rates: lowest and highest that it is for.
    """

    title: str
    kernel: str
    rival: str
    ratio: float
    cases: Sequence[str] | None = None
    rates: Sequence[float] = (0.0, 1.0)

    def is_of(self, kernel: str, case: str, rival: str, rate: float | None) -> bool:
        """Whether such a row should reach it; a rate of None is any."""
        return (
            (self.kernel, self.rival) == (kernel, rival)
            and (self.cases is None or case in self.cases)
            and (rate is None or self.rates[0] - 1e-9 <= rate <= self.rates[1] + 1e-9)
        )


def tables(report: Report) -> list[Table]:
    """All: the goals, what `auto` costs, the ceilings, events, variants, the ratios by kernel."""
    wanted = [
        _goals(report), _auto(report), _ceilings(report), _events(report), *_variants(report),
        *_ratios(report),
    ]  # fmt: skip
    return [table for table in wanted if table.rows]


def groups(rows: list[Row], *keys: str) -> Iterator[tuple[tuple[Any, ...], list[Row]]]:
    """Rows that agree in `keys`, in the order in which they first appear."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    yield from found.items()


def where(row: Row) -> str:
    """Case and rate of a row."""
    return row["case"] if row["rate"] is None else f"{row['case']} at {percent(row['rate'])}"


def percent(rate: float) -> str:
    """0.15 as 15 %."""
    return f"{100 * rate:g} %"


def auto_losses(rows: list[Row]) -> list[tuple[float, Row]]:
    """For each measurement of `auto`: its time over the better kernel's, with that one's row.

    Where it was measured again, that counts.
    """

    def times(row: Row) -> tuple[float, float]:
        return row.get("again_ms") or (row["h2learn_ms"], row["rival_ms"])

    own = [row for row in rows if row["rival"] in CHOICES]
    losses = []
    for _, same in groups(own, "kernel", "case", "rate", "target", "threads"):
        best = min(same, key=lambda row: times(row)[1])
        auto, better = times(best)
        losses.append((auto / better, best))
    return losses


def _goals(report: Report) -> Table:
    """A line a goal, h2learn's kernel, target and number of threads.

    A goal beside the int8 ceiling is n/a where the instruction set does not multiply bytes. `of
    event's additions`, where it is known of all rows of a goal, is what `event` would reach if
    nothing but its additions took time, at the rate that they have.
    """
    lines = []
    additions = _additions(report)
    for goal in (Goal(**fields) for fields in report["goals"]):
        rows = [
            row
            for row in report["rows"]
            if goal.is_of(row["kernel"], row["case"], row["rival"], row["rate"])
        ]
        start = [goal.title, goal.rival, f">= {goal.ratio:g}"]
        for (kernel, target, threads), same in groups(rows, "h2learn_kernel", "target", "threads"):
            worst = min(same, key=lambda row: row["ratio"])
            most = [row["most_ratio"] for row in same if row["most_ratio"] is not None]
            alone = [row["rival_ms"] / ms for row in same if (ms := additions(row)) is not None]
            count = sum(row["ratio"] >= goal.ratio for row in same)
            lines.append([
                *start, kernel, target, str(threads), "yes" if count == len(same) else "no",
                f"{count} of {len(same)}", f"{worst['ratio']:.2f}", where(worst),
                f"{statistics.median(row['ratio'] for row in same):.2f}",
                f"{statistics.median(alone):.1f}" if len(alone) == len(same) else "-",
                f"{statistics.median(most):.1f}" if most and not _is_ceiling(goal) else "-",
            ])  # fmt: skip
        measured = any(
            row["kernel"] == goal.kernel and (goal.cases is None or row["case"] in goal.cases)
            for row in report["rows"]
        )
        if measured and not rows:
            lines.append([*start, "-", "-", "-", "n/a", *["-"] * 6])
    columns = ["work", "rival", "goal", "kernel", "target", "threads", "reached", "rows",
               "lowest ratio", "there", "median ratio", "of event's additions",
               "at the ceiling"]  # fmt: skip
    return Table("Goals: the rival's time over h2learn's", columns, lines)


def _is_ceiling(goal: Goal) -> bool:
    return goal.rival.startswith("ceiling")


def _auto(report: Report) -> Table:
    losses = auto_losses(report["rows"])
    lines = []
    for (kernel, target, threads), rows in groups(
        [row for _, row in losses], "kernel", "target", "threads"
    ):
        of_group = [(loss, row) for loss, row in losses if any(row is r for r in rows)]
        loss, row = max(of_group, key=lambda pair: pair[0])
        slow = sum(loss > AUTO_SLACK for loss, _ in of_group)
        again = sum(row.get("again_ms") is not None for _, row in of_group)
        better = row["rival"].removeprefix("h2learn-")
        lines.append([
            kernel, target, str(threads), str(again), f"{slow} of {len(of_group)}", f"{loss:.2f}",
            where(row), better,
        ])  # fmt: skip
    columns = ["kernel", "target", "threads", "measured again",
               f"slower by {AUTO_SLACK - 1:.0%} or more",
               "worst", "there", "better"]  # fmt: skip
    return Table('`kernel="auto"`: its time over the better of event and dense', columns, lines)


def _ceilings(report: Report) -> Table:
    lines = []
    for ceiling in report["ceilings"]:
        figures = (
            f"{ceiling[name] / 1e9:.1f}" if ceiling[name] is not None else "n/a"
            for name in ("flops", "int8_ops", "l1_bytes_per_second", "l2_bytes_per_second",
                         "dram_read_bytes_per_second", "dram_copy_bytes_per_second")
        )  # fmt: skip
        lines.append([ceiling["target"], str(ceiling["threads"]), *figures])
    columns = ["target", "threads", "float32, GFLOP/s", "int8, GOP/s", "L1, GB/s", "L2, GB/s",
               "memory read, GB/s", "memory copy, GB/s"]  # fmt: skip
    return Table("Measured ceilings", columns, lines)


@dataclass(frozen=True)
class Fit:
    """How the times of `event` grow with what is not zero.

    Attributes:
        events: the measurements, from LEAST_FITTED_RATE on.
        slope: ms if nothing were zero: additions.
        rest: ms if everything were.
    """

    events: list[Row]
    slope: float
    rest: float


def _fits(report: Report) -> dict[tuple[Any, ...], Fit]:
    """By kernel, case, target and threads.

    A straight line through the times at three rates or more, by least squares of relative errors.
    Depthwise layers add nothing by events.
    """
    fits = {}
    measured = [
        row
        for row in report.get("measurements", [])
        if row["way"] == "h2learn-event" and row["macs"] and (row["rate"] or 0) >= LEAST_FITTED_RATE
    ]
    for key, events in groups(measured, *_JOB):
        if len({row["nonzero"] for row in events}) < 3 or "depthwise" in key[1]:
            continue
        ms = np.array([row["ms"] for row in events])
        slope, rest = np.polyfit([row["nonzero"] for row in events], ms, 1, w=1 / ms)
        if slope > 0:  # else nothing but noise
            fits[key] = Fit(events, float(slope), float(rest))
    return fits


def _additions(report: Report) -> Callable[[Row], float | None]:
    """For a row of `auto`, ms of the additions of `event` alone; None where that is not known.

    Of few spikes, which are walked through, what `event` takes beyond its time without any; of more
    by the fit, and no more than `event` took, which noise could make of it.
    """
    fits = _fits(report)
    measured = report.get("measurements", [])
    events = {
        tuple(row[key] for key in (*_JOB, "rate")): row
        for row in measured
        if row["way"] == "h2learn-event"
    }
    silent = {
        tuple(row[key] for key in _JOB): row["ms"] for row in measured if row["way"] == SILENT_WAY
    }

    def additions(row: Row) -> float | None:
        key = tuple(row[name] for name in _JOB)
        event = events.get((*key, row["rate"]))
        if event is None or row["h2learn_kernel"] != "auto":
            return None
        if row["kernel"] == "forward" and (row["rate"] or 0) < LEAST_FITTED_RATE:
            alone = event["ms"] - silent.get(key, math.inf)
            return alone if alone > 0 else None  # not measured, or nothing but noise
        return min(fits[key].slope * event["nonzero"], event["ms"]) if key in fits else None

    return additions


def _events(report: Report) -> Table:
    """How the time of `event` falls into additions, which grow with what is not zero, and the rest.

    Shown at the rate nearest SHOWN_RATE.
    """
    cache = {
        (ceiling["target"], ceiling["threads"]): ceiling["l1_bytes_per_second"]
        for ceiling in report["ceilings"]
    }
    torch = {
        key: min(row["ms"] for row in rows)
        for key, rows in groups(
            [row for row in report.get("measurements", []) if row["way"] == "torch-float32"],
            *_JOB,
        )
    }  # fmt: skip
    lines = []
    for key, fit in _fits(report).items():
        kernel, case, target, threads = key
        if key not in torch or key[2:] not in cache:
            continue
        shown = min(fit.events, key=lambda row: abs(row["rate"] - SHOWN_RATE))
        read = shown["macs"] * FLOAT_BYTES / (fit.slope / 1e3)
        lines.append([
            kernel, case, target, str(threads), percent(shown["rate"]), f"{shown['ms']:.2f}",
            f"{fit.rest / shown['ms']:.0%}", f"{read / 1e9:.0f}", f"{cache[key[2:]] / 1e9:.0f}",
            f"{read / cache[key[2:]]:.0%}", f"{torch[key] / shown['ms']:.2f}",
            f"{torch[key] / (fit.slope * shown['nonzero']):.2f}",
        ])  # fmt: skip
    columns = ["kernel", "case", "target", "threads", "not zero", "event, ms", "not additions",
               "added, GB/s", "L1, GB/s", "share", "torch-float32 over it",
               "over its additions"]  # fmt: skip
    return Table("Events: additions, and what does not grow with them", columns, lines)


def _variants(report: Report) -> Iterator[Table]:
    """Variants of one convolution beside it and beside torch: a line a kernel, variant and rate."""
    shown = [
        row
        for row in report["rows"]
        if row["case"] in report["variants"] and row["h2learn_kernel"] == "auto"
    ]
    for (target, threads), rows in groups(shown, "target", "threads"):
        lines = []
        for (kernel, case, rate), same in groups(rows, "kernel", "case", "rate"):
            rivals = {row["rival"]: row for row in same}
            torch, base = rivals["torch-float32"], rivals[BASE_WAY]
            gmacs = _gmacs(torch["flops"], torch["h2learn_ms"])
            of_base = gmacs / _gmacs(base["rival_flops"], base["rival_ms"])
            lines.append([
                kernel, case, "any" if rate is None else percent(rate),
                f"{torch['h2learn_ms']:.2f}", f"{torch['rival_ms']:.2f}", f"{torch['ratio']:.2f}",
                f"{gmacs:.1f}", f"{of_base:.2f}",
            ])  # fmt: skip
        columns = ["kernel", "layer", "not zero", "h2learn, ms", "torch-float32, ms", "ratio",
                   "h2learn, GMAC/s", "of the base's"]  # fmt: skip
        yield Table(f"Layers of every kind, {target}, {_threads(threads)}", columns, lines)


def _gmacs(flops: float, ms: float) -> float:
    """Billions of the dense product's multiply-adds a second, computed or skipped."""
    return flops / 2 / ms / 1e6


def _ratios(report: Report) -> Iterator[Table]:
    """A table for each kernel: a line a case and rival, a column a rate. Without the variants."""
    shown = [row for row in report["rows"] if row["case"] not in report["variants"]]
    for (kernel, target, threads), rows in groups(shown, "kernel", "target", "threads"):
        # A rate of None: analog inputs, neurons, or a kernel whose time depends on none.
        rates = sorted({row["rate"] for row in rows}, key=lambda r: 2.0 if r is None else r)
        lines = []
        for (case, own, rival), same in groups(rows, "case", "h2learn_kernel", "rival"):
            if rival in CHOICES:
                continue
            by_rate = {row["rate"]: row for row in same}
            cells = [_cell(by_rate.get(rate)) for rate in rates]
            rival_errors = [row["rival_error"] for row in same if row["rival_error"] is not None]
            lines.append([
                case, own, rival, f"{same[0]['rival_ms']:.2f}", *cells,
                f"{max(row['error'] for row in same):.0e}",
                f"{max(rival_errors):.0e}" if rival_errors else "-",
            ])  # fmt: skip
        headings = ["any" if rate is None else percent(rate) for rate in rates]
        columns = ["case", "kernel", "rival", "its ms", *headings, "error", "its error"]
        yield Table(f"{kernel}, {target}, {_threads(threads)}", columns, lines)


def _threads(count: int) -> str:
    return f"{count} thread" if count == 1 else f"{count} threads"


def _cell(row: Row | None) -> str:
    return "-" if row is None else f"{row['ratio']:.2f}"
