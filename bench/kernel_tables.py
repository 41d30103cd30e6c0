"""Tables of a report of kernels.py, for the terminal and for RESULTS.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Report = dict[str, Any]
Row = dict[str, Any]

# `auto` may cost this much more than the better of the kernels that it chooses from.
AUTO_SLACK = 1.15
_OWN = ("h2learn-event", "h2learn-dense")


@dataclass(frozen=True)
class Table:
    """What to show: a heading, columns, and cells as text."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def tables(report: Report) -> list[Table]:
    """All of them: the goals, what `auto` costs, the ceilings, and the ratios by kernel."""
    wanted = [_goals(report), _auto(report), _ceilings(report), *_ratios(report)]
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
    """For each measurement of `auto`: its time over the better kernel's, with that one's row."""
    own = [row for row in rows if row["rival"] in _OWN]
    losses = []
    for _, same in groups(own, "kernel", "case", "rate", "target", "threads"):
        best = min(same, key=lambda row: row["rival_ms"])
        losses.append((best["h2learn_ms"] / best["rival_ms"], best))
    return losses


def _goals(report: Report) -> Table:
    lines = []
    with_goals = [r for r in report["rows"] if r["goal"] is not None and r["rival"] not in _OWN]
    for (kernel, rival, goal, target, threads), rows in groups(
        with_goals, "kernel", "rival", "goal", "target", "threads"
    ):
        worst = min(rows, key=lambda row: row["ratio"])
        lines.append([
            kernel, rival, f"{goal:g}", target, str(threads),
            f"{sum(row['ratio'] >= goal for row in rows)} of {len(rows)}",
            f"{worst['ratio']:.2f}", where(worst),
            f"{statistics.median(row['ratio'] for row in rows):.2f}",
        ])  # fmt: skip
    columns = ["kernel", "rival", "goal", "target", "threads", "reached", "lowest ratio", "there",
               "median ratio"]  # fmt: skip
    return Table("Goals: the rival's time over h2learn's", columns, lines)


def _auto(report: Report) -> Table:
    losses = auto_losses(report["rows"])
    lines = []
    for (kernel, target, threads), rows in groups(
        [row for _, row in losses], "kernel", "target", "threads"
    ):
        of_group = [(loss, row) for loss, row in losses if any(row is r for r in rows)]
        loss, row = max(of_group, key=lambda pair: pair[0])
        slow = sum(loss > AUTO_SLACK for loss, _ in of_group)
        better = row["rival"].removeprefix("h2learn-")
        lines.append([
            kernel, target, str(threads), f"{slow} of {len(of_group)}", f"{loss:.2f}", where(row),
            better,
        ])  # fmt: skip
    columns = ["kernel", "target", "threads", f"slower by {AUTO_SLACK - 1:.0%} or more",
               "worst", "there", "better"]  # fmt: skip
    return Table('`kernel="auto"`: its time over the better of event and dense', columns, lines)


def _ceilings(report: Report) -> Table:
    lines = []
    for ceiling in report["ceilings"]:
        figures = (
            f"{ceiling[name] / 1e9:.1f}"
            for name in ("flops", "l1_bytes_per_second", "l2_bytes_per_second",
                         "dram_read_bytes_per_second", "dram_copy_bytes_per_second")
        )  # fmt: skip
        lines.append([ceiling["target"], str(ceiling["threads"]), *figures])
    columns = ["target", "threads", "float32, GFLOP/s", "L1, GB/s", "L2, GB/s",
               "memory read, GB/s", "memory copy, GB/s"]  # fmt: skip
    return Table("Measured ceilings", columns, lines)


def _ratios(report: Report) -> Iterator[Table]:
    """A table for each kernel: a line a case, a column a rate."""
    for (kernel, target, threads), rows in groups(report["rows"], "kernel", "target", "threads"):
        # A rate of None: analog inputs, or neurons.
        rates = sorted({row["rate"] for row in rows}, key=lambda r: 2.0 if r is None else r)
        lines = []
        for (case,), of_case in groups(rows, "case"):
            for (rival,), of_rival in groups(of_case, "rival"):
                if rival in _OWN:
                    continue
                by_rate = {row["rate"]: row for row in of_rival}
                cells = [_cell(by_rate.get(rate)) for rate in rates]
                errors = [row["error"] for row in of_rival]
                lines.append([
                    case, rival, f"{of_rival[0]['rival_ms']:.2f}", *cells, f"{max(errors):.0e}",
                    f"{max(row['rival_error'] for row in of_rival):.0e}"
                    if rival != "ceiling" else "-",
                ])  # fmt: skip
        headings = ["ratio" if rate is None else percent(rate) for rate in rates]
        columns = ["case", "rival", "its ms", *headings, "error", "its error"]
        noun = "thread" if threads == 1 else "threads"
        yield Table(f"{kernel}, {target}, {threads} {noun}", columns, lines)


def _cell(row: Row | None) -> str:
    return "-" if row is None else f"{row['ratio']:.2f}"
