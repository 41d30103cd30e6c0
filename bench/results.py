"""Puts measurements into a page of results, so that every figure there was written by a command.

    python bench/results.py build/peers.json build/accuracy.json build/kernels.json
    python bench/results.py --page bench/RESULTS-avx2.md few-spikes=build/few.json

Each file replaces one section, between `<!-- name -->` and `<!-- /name -->`: what peers.py,
step.py, kernels.py, accelerator.py and accuracy.py write with --json, and google-benchmark with
--benchmark_out. The section is the report's own, or the one named before it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import kernel_tables
import machine
import peers
import step

RESULTS = Path(__file__).with_name("RESULTS.md")
Report = dict[str, Any]


def section(report: Report) -> tuple[str, str]:
    """Name and Markdown of the section that a report fills.

    Raises:
        ValueError: the report is of no kind known here.
    """
    if "benchmarks" in report:
        return "google-benchmark", _google_benchmark(report)
    if "operators" in report:
        return f"step{_kernel(report)}", _heading(report) + _tables(step.tables(report), report)
    if "ceilings" in report:
        return "kernels", _heading(report) + _tables(kernel_tables.tables(report), report)
    if "clocked_cycles_per_second" in report:
        return "accelerator", _heading(report) + _accelerator(report)
    if "workloads" in report:
        held = f"-{report['target']}" if report["target"] else ""
        return f"peers-{report['surrogate']}{held}{_kernel(report)}", _heading(report) + _peers(
            report
        )
    if "rows" in report and "task" in report["rows"][0]:
        return "accuracy", _heading(report) + _accuracy(report)
    raise ValueError(
        "written by none of peers.py, step.py, kernels.py, accelerator.py, accuracy.py, "
        "google-benchmark"
    )


def replace(text: str, name: str, content: str) -> str:
    """`text` with the section's content exchanged.

    Raises:
        ValueError: `text` has no such section.
    """
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.S)
    changed, count = pattern.subn(lambda m: f"{m[1]}\n{content}\n{m[2]}", text)
    if count != 1:
        raise ValueError(f"expected one section {name!r}, found {count}")
    return changed


def main(arguments: list[str] | None = None) -> int:
    """Fills one section for each report; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", type=Path, default=RESULTS, help="default: %(default)s")
    parser.add_argument("reports", nargs="+", metavar="[SECTION=]REPORT")
    options = parser.parse_args(arguments)
    at = options.page
    try:
        text = options.page.read_text()
        for at in options.reports:
            named, _, file = at.rpartition("=")
            name, content = section(json.loads(Path(file).read_text()))
            text = replace(text, named or name, content)
        at = options.page
        beside = options.page.with_name(f"{options.page.name}.new")
        beside.write_text(text)
        beside.replace(options.page)
    except (OSError, ValueError, KeyError, IndexError) as error:
        print(f"error: {at}: {error}", file=sys.stderr)
        return 2
    return 0


def _kernel(report: Report) -> str:
    return "" if report["kernel"] == "auto" else f"-{report['kernel']}"


def _heading(report: Report) -> str:
    return f"`{report['command']}`\n\n{machine.line(report['machine'])}\n\n"


def _peers(report: Report) -> str:
    parts = [
        "Versions: " + ", ".join(f"{k} {v}" for k, v in report["versions"].items())
        + f". Surrogate {report['surrogate']}, kernel {report['kernel']}, medians of "
        f"{report['rounds']} rounds.\n"
    ]  # fmt: skip
    for letter, workload in report["workloads"].items():
        rates = ", ".join(f"{100 * r:.1f}" for r in workload["firing_rates"])
        parts.append(f"**{letter}**: {workload['network']}. Firing rates: {rates} %.\n")
        rows = [row for row in report["rows"] if row["workload"] == letter]
        parts.append(_markdown(
            ["threads", "library", "step, ms", "h2learn, ms", "ratio", "loss difference",
             "gradient error", "saved, MB", "h2learn, MB", "note"],
            [
                [
                    row["threads"], row["peer"], _text(row["peer_ms"], ".1f"),
                    _text(row["h2learn_ms"], ".1f"), _text(row["ratio"], ".2f"),
                    _text(row["loss_difference"], ".0e"), _text(row["peer_gradient_error"], ".0e"),
                    _text(row["peer_saved_mb"], ".2f"), _text(row["h2learn_saved_mb"], ".2f"),
                    row["reason"],
                ]
                for row in rows
            ],
        ))  # fmt: skip
    lines = peers.goal_lines(report)
    if lines:
        parts.append("**Goals: the best peer's over h2learn's**\n")
        parts.append(_markdown(peers.GOAL_COLUMNS, lines))
    return "\n".join(parts)


def _accelerator(report: Report) -> str:
    table = _markdown(
        ["workload", "step, ms", "offloaded, ms", "overhead, %", "cycles of the step",
         "simulation, ms", "million cycles/s", "workload, MB", "file, MB", "simulation adds, MB"],
        [
            [
                row["workload"], f"{row['step_ms']:.1f}", f"{row['offloaded_ms']:.1f}",
                f"{100 * row['overhead']:.1f}", f"{row['cycles']:,}",
                f"{row['simulation_ms']:.1f}",
                f"{row['simulated_cycles_per_second'] / 1e6:.0f}",
                f"{row['workload_mb']:.1f}", f"{row['file_mb']:.1f}",
                f"{row['simulation_extra_mb']:.1f}",
            ]
            for row in report["rows"]
        ],
    )  # fmt: skip
    return (
        f"{table}\nAccelerator {report['accelerator']}, {report['threads']} threads, medians of "
        f"{report['rounds']} rounds. The clocked simulator ran "
        f"{report['clocked_cycles_per_second'] / 1e3:.0f} thousand cycles/s on the small random "
        f"machines of `h2learn verify` ({report['mismatches']} mismatches in {report['configs']} "
        f"configurations). A layer's pass that nobody records pays {report['asking_ns']:.0f} ns.\n"
    )


def _accuracy(report: Report) -> str:
    return _markdown(
        ["task", "epochs", "h2learn, %", "PyTorch, %", "difference, points", "goal, %", "reached"],
        [
            [
                row["task"],
                row["epochs"],
                _mean_and_all(row, "h2learn"),
                _mean_and_all(row, "pytorch"),
                f"{row['difference_points']:+.2f}",
                f"{row['goal_percent']:.1f}",
                "yes" if row["reached"] else "no",
            ]
            for row in report["rows"]
        ],
    )


def _mean_and_all(row: Report, side: str) -> str:
    each = ", ".join(f"{a:.1f}" for a in row[f"{side}_accuracies_percent"])
    return f"{row[f'{side}_accuracy_percent']:.2f} ({each})"


def _tables(tables: list[kernel_tables.Table], report: Report) -> str:
    parts = [f"Medians of {report['rounds']} rounds."]
    if report.get("no_ceiling"):
        parts.append(f"No ceiling: {report['no_ceiling']}.")
    for table in tables:
        parts.append(f"**{table.title}**\n\n{_markdown(table.columns, table.rows).rstrip()}")
    return "\n\n".join(parts) + "\n"


def _google_benchmark(report: Report) -> str:
    context = report["context"]
    rows = [
        [b["name"], f"{b['real_time']:.1f} {b['time_unit']}"]
        for b in report["benchmarks"]
        if b.get("run_type") != "aggregate"
    ]
    facts = machine.facts() | {"date": context["date"][:10], "commit": context.get("commit", "")}
    heading = f"`{context['executable']}`\n\n{machine.line(facts)}"
    return f"{heading}\n\n{_markdown(['kernel', 'time'], rows)}"


def _markdown(heading: list[str], rows: list[list[Any]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


if __name__ == "__main__":
    sys.exit(main())
