"""Every kernel beside PyTorch's operator for the same product, and beside the machine's ceiling.

    python bench/kernels.py [--quick | --all] [--kernels ...] [--cases ...] [--rates 1,15,50]
                            [--targets ...] [--threads 1,2] [--rounds 3] [--json FILE]

Kernels: `forward`, `backward` (gradient at the inputs, with the mask), `weight_update`,
`conv_neuron` (a convolution and its neurons, bits out) and `neuron` (forward and backward over T).
Each is measured with kernel="auto", "fastest", "event", "dense" and by name ("digits" forward,
"sampled" backward) beside torch in float32, bfloat16 and as a CSR matrix, interleaved; each result
is compared with float64. One process an instruction set, with torch held to the same; what one
instruction set runs by another's code is measured once. --quick is the best instruction set alone
at a few rates; without it the layers of workload c and the other instruction sets are measured at a
selection of rates and threads, and variants of one convolution ("auto" beside torch in float32) at
one rate; --all is every combination, and takes hours. Exit status: 0; 1 when
h2learn computes something else than float64 does; 2 for a wrong argument. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import machine
import torch
from arguments import choices, count, counts
from ceiling import DIGIT_PRODUCTS, Ceiling, NoCeilingError, highest, measure_ceiling
from h2learn import _core
from kernel_cases import (
    BASE,
    KERNELS,
    LAYERS,
    NEURONS,
    SIZES,
    SYNAPSE_KERNELS,
    SYNAPSES,
    VARIANTS,
    Case,
    NeuronCase,
    Way,
    cases_of,
    middle,
)
from kernel_tables import AUTO_SLACK, BASE_WAY, CHOICES, SILENT_WAY, Goal, show, tables
from measure import interleave
from rich.console import Console
from targets import DIGITS_ONLY, TARGETS, environment

Row = dict[str, Any]

RATES = (1, 5, 10, 15, 20, 30, 50)
FEW_RATES = (0.01, 0.1, 0.3)
VARIANT_RATES = (0.15,)
VARIANT_WAYS = ("h2learn-auto", BASE_WAY, "torch-float32")
FEW_LAYERS = ("c:conv2", "c:linear1")
FUSED = "c:conv2"
INT8 = "ceiling-int8x3"
AGAIN = 3
"""Times the rounds, for what looks as if `auto` had chosen wrong: machines are noisy."""
OURS = ("h2learn-auto", "h2learn-fastest", "h2learn-digits", "h2learn-sampled")
BF16_TARGETS = ("avx512", "avx512vnni", "amx")
ERROR_TOLERANCE = {"conv_neuron": 1e-3}
DEFAULT_ERROR_TOLERANCE = 1e-5


_SIZES, _VARIANTS = tuple(SIZES), tuple(VARIANTS)
_FROM_MEMORY = tuple(name for name, case in NEURONS.items() if case.from_memory)
_SPARSE, _FEW, _MASKED = "forward, 10 to 30 %", "forward, 1 %", "input gradient with mask"
_FUSED_TITLE = "convolution 128->256 3x3 and neurons, bits out"
_NEURON_TITLE = "neurons forward and backward over T"
GOALS = (
    Goal(_SPARSE, "forward", "torch-float32", 7.0, _SIZES, (0.10, 0.30)),
    Goal(_SPARSE, "forward", INT8, 0.65, _SIZES, (0.10, 0.30)),
    Goal(_FEW, "forward", "torch-float32", 14.0, _SIZES, (0.01, 0.01)),
    Goal(_FEW, "forward", "torch-csr", 1.8, _SIZES, (0.01, 0.01)),
    Goal(_FEW, "forward", "torch-csr-made", 1.8, _SIZES, (0.01, 0.01)),
    Goal(_FUSED_TITLE, "conv_neuron", "torch-float32", 13.0, (FUSED,)),
    Goal(_FUSED_TITLE, "conv_neuron", "torch-bf16", 1.0, (FUSED,)),
    Goal(_FUSED_TITLE, "conv_neuron", INT8, 0.75, (FUSED,)),
    Goal("weight gradient, packing included", "weight_update", "torch-float32", 6.0, _SIZES),
    Goal(_MASKED, "backward", "torch-float32", 3.5, _SIZES),
    Goal(_NEURON_TITLE, "neuron", "torch-float32", 28.0),
    Goal(_NEURON_TITLE, "neuron", "ceiling", 0.85, _FROM_MEMORY),
    *(
        Goal(f"layers of every kind, {kernel}", kernel, "torch-float32", 1.0, _VARIANTS)
        for kernel in SYNAPSE_KERNELS
    ),
    *(Goal("", kernel, own, 1.0 / AUTO_SLACK) for kernel in SYNAPSE_KERNELS for own in CHOICES),
)


def goal_of(kernel: str, case: str, rival: str, rate: float | None) -> float | None:
    """The goal of a row; None when it has none."""
    fitting = (goal.ratio for goal in GOALS if goal.is_of(kernel, case, rival, rate))
    return next(fitting, None)


# ---- what is measured


@dataclass(frozen=True)
class Job:
    """One kernel, case and number of threads, at several rates together.

    Attributes:
        ways: names of those to measure; None: all.
    """

    kernel: str
    case: str
    threads: int
    rates: list[float]
    ways: Sequence[str] | None = None


def plan(options: argparse.Namespace, target: str) -> Iterator[Job]:
    """The jobs of one target: of what the options ask for, what --quick or --all leaves."""
    for threads in options.threads:
        for kernel in options.kernels:
            for name in cases_of(kernel):
                if name not in options.cases:
                    continue
                rates = [percent / 100 for percent in options.rates]
                ways = None
                if _repeats_another(target) and kernel not in ("forward", "conv_neuron"):
                    continue  # digits by name are measured of currents only
                if not options.all:
                    if not _is_measured(options, target, threads, kernel, name):
                        continue
                    few = FEW_RATES if options.quick or target != TARGETS[-1] else rates
                    if name in VARIANTS:
                        few, ways = VARIANT_RATES, VARIANT_WAYS
                    rates = [rate for rate in rates if rate in few] or rates
                yield Job(kernel, name, threads, rates, ways)


def _repeats_another(target: str) -> bool:
    """True where the best target runs the same code, except that of the digits kernel."""
    best = TARGETS[-1]
    return best in DIGITS_ONLY and target in ("avx512", *DIGITS_ONLY) and target != best


def _is_new(target: str, way: Way) -> bool:
    """False for what is measured on the best target already."""
    own = way.name.startswith("h2learn") and way.name != "h2learn-digits"
    return not (_repeats_another(target) and (own or way.rate is not None))


def _is_measured(
    options: argparse.Namespace, target: str, threads: int, kernel: str, name: str
) -> bool:
    """Whether a combination is worth its time when not all are asked for."""
    if kernel == "conv_neuron" and name != FUSED:
        return False
    most, best = threads == max(options.threads), target == TARGETS[-1]
    if name in VARIANTS:
        return most and best and not options.quick
    if options.quick:
        return most and best and (kernel == "conv_neuron" or name not in LAYERS)
    if best:
        return most or name not in LAYERS or name == FUSED
    return most and (name not in LAYERS or name in FEW_LAYERS)


def measure_job(job: Job, target: str, rounds: int) -> list[Row]:
    """Times all ways of one job, interleaved; a row a way, with its error against float64."""
    torch.set_num_threads(job.threads)
    case = cases_of(job.kernel)[job.case]
    ways = list(KERNELS[job.kernel](case, job.rates, target in BF16_TARGETS))
    if isinstance(case, Case) and job.case in VARIANTS:
        ways += base_ways(job.kernel, case, job.rates)
    ways = [
        way for way in ways if _is_new(target, way) and (job.ways is None or way.name in job.ways)
    ]
    errors = [way.error(way.run()) for way in ways]
    timings = interleave({str(i): way.run for i, way in enumerate(ways)}, rounds)
    rows: list[Row] = [
        {
            "kernel": job.kernel,
            "case": job.case,
            "rate": way.rate,
            "target": target,
            "threads": job.threads,
            "way": way.name,
            "detail": way.detail,
            "ms": timings[str(i)].median_ms,
            "quartiles_ms": timings[str(i)].quartiles_ms,
            "error": errors[i],
            "flops": flops_of(VARIANTS[BASE] if way.name == BASE_WAY else case),
            "macs": case.macs if isinstance(case, Case) else 0.0,
            "read_bytes": way.read_bytes,
            "written_bytes": way.written_bytes,
            "nonzero": way.nonzero,
            "needed": way.needed,
            "again_ms": {},
        }
        for i, way in enumerate(ways)
    ]
    for rate, chosen in lost_by_auto(rows):
        again = interleave({str(i): ways[i].run for i in chosen}, AGAIN * rounds)
        for i in chosen:
            rows[i]["again_ms"][str(rate)] = again[str(i)].median_ms
    return rows


def lost_by_auto(rows: list[Row]) -> Iterator[tuple[float | None, list[int]]]:
    """Rates of one job at which `auto` was slower than it may be.

    Yields:
        the rate, and the numbers of the rows of `auto` and what it chooses from.
    """
    for own, ours in enumerate(rows):
        if ours["way"] != "h2learn-auto":
            continue
        others = [
            i
            for i, row in enumerate(rows)
            if row["way"] in CHOICES and row["rate"] in (None, ours["rate"])
        ]
        if others and ours["ms"] > AUTO_SLACK * min(rows[i]["ms"] for i in others):
            yield ours["rate"], [own, *others]


def base_ways(kernel: str, variant: Case, rates: list[float]) -> Iterator[Way]:
    """The base by `auto`, to be timed in turns with a variant: machines are noisy.

    Beside analog inputs, which have no rate, it has the middle one.
    """
    base = VARIANTS[BASE]
    analog = variant.inputs == "analog"
    rates = [middle(base, rates)] if analog else rates
    ways = (way for way in KERNELS[kernel](base, rates, False) if way.name == "h2learn-auto")
    for way in itertools.islice(ways, len(rates)):  # before the rivals are made
        yield replace(way, name=BASE_WAY, rate=None if analog else way.rate)


def flops_of(case: Case | NeuronCase) -> float:
    """Of the dense product; neurons have so few that their data is what counts."""
    return case.flops if isinstance(case, Case) else 0.0


def measure_target(target: str, options: argparse.Namespace) -> list[Row]:
    """All jobs of a target, in this process, which must have been started for it."""
    if _core.active_target() != target:
        raise RuntimeError(f"started for {_core.active_target()}, asked for {target}")
    jobs = list(plan(options, target))
    measured: list[Row] = []
    for done, job in enumerate(jobs):
        label = f"{job.kernel} {job.case}, {target}, threads {job.threads}"
        print(f"[{done + 1}/{len(jobs)}] {label}", file=sys.stderr, flush=True)
        measured += measure_job(job, target, options.rounds)
    return measured


def measure_elsewhere(target: str, options: argparse.Namespace) -> list[Row]:
    """The same in a process that is held to the target.

    Raises:
        RuntimeError: it failed; its own message is on stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "measured.json"
        command = [
            sys.executable, __file__, "--worker", str(file), "--targets", target,
            "--kernels", ",".join(options.kernels), "--cases", ",".join(options.cases),
            "--rates", ",".join(map(str, options.rates)),
            "--threads", ",".join(map(str, options.threads)), "--rounds", str(options.rounds),
            *(["--all"] if options.all else []), *(["--quick"] if options.quick else []),
        ]  # fmt: skip
        done = subprocess.run(command, env=os.environ | environment(target), check=False)
        if done.returncode != 0:
            raise RuntimeError(f"the process for {target} ended with status {done.returncode}")
        measured: list[Row] = json.loads(file.read_text())
        return measured


# ---- what it means


def rows_of(measured: list[Row], ceilings: dict[tuple[str, int], Ceiling]) -> list[Row]:
    """One row for each measurement of `OURS` and each of its rivals there.

    `ratio` is the rival's time over that of the kernel named in `h2learn_kernel`; of a rival's
    memory formats the fastest counts. The rival `ceiling` is the least time that the machine's
    arithmetic and memory allow for the dense product and h2learn's data: skipping zeros can beat
    it. `ceiling-int8x3` is the same with each weight as three bytes, where the instruction set
    multiplies bytes. Of neurons, `ceiling` stands beside `h2learn-in-place`. `most_ratio` is the
    rival's time over the least of `Ceiling.product_ms`, zeros skipped: no kernel of those kinds
    reaches it. `again_ms` is our time and the rival's where both were measured again.
    """
    rows: list[Row] = []
    for ours in measured:
        if ours["way"] not in OURS:
            continue
        rivals: dict[str, Row] = {}
        for other in measured:
            if other["way"] in (ours["way"], SILENT_WAY):
                continue
            if other["rate"] not in (None, ours["rate"]):
                continue
            if ours["way"] != "h2learn-auto" and other["way"].startswith("h2learn"):
                continue
            if any(other[key] != ours[key] for key in ("kernel", "case", "target", "threads")):
                continue
            if other["way"] not in rivals or other["ms"] < rivals[other["way"]]["ms"]:
                rivals[other["way"]] = other
        roof = ceilings.get((ours["target"], ours["threads"]))
        least = None if roof is None else _least_ms(ours, roof)
        if roof is not None and (ours["kernel"] != "neuron" or ours["case"] in _FROM_MEMORY):
            amount = ours["flops"], ours["read_bytes"], ours["written_bytes"]
            rivals["ceiling"] = _limit(roof.roof_ms(*amount))
            int8 = roof.int8_roof_ms(*amount)
            if int8 is not None and ours["kernel"] in ("forward", "conv_neuron"):
                rivals[INT8] = _limit(int8)
        for name, rival in rivals.items():
            # The share of memory's bandwidth is that of the kernels alone.
            in_place = name == "ceiling" and "h2learn-in-place" in rivals
            timed = rivals["h2learn-in-place"] if in_place else ours
            rows.append(
                {
                    "kernel": ours["kernel"],
                    "case": ours["case"],
                    "rate": ours["rate"],
                    "target": ours["target"],
                    "threads": ours["threads"],
                    "h2learn_kernel": ours["way"].removeprefix("h2learn-"),
                    "rival": name,
                    "rival_detail": rival["detail"],
                    "rival_ms": rival["ms"],
                    "h2learn_ms": timed["ms"],
                    "again_ms": _again(ours, rival),
                    "ratio": rival["ms"] / timed["ms"],
                    "most_ratio": None if least is None else rival["ms"] / least,
                    "goal": goal_of(ours["kernel"], ours["case"], name, ours["rate"]),
                    "flops": ours["flops"],
                    "rival_flops": rival["flops"],
                    "error": timed["error"],
                    "rival_error": rival["error"],
                    "rival_quartiles_ms": rival["quartiles_ms"],
                    "h2learn_quartiles_ms": timed["quartiles_ms"],
                }
            )
    return rows


def _again(ours: Row, rival: Row) -> tuple[float, float] | None:
    times = [row.get("again_ms", {}).get(str(ours["rate"])) for row in (ours, rival)]
    return None if None in times else (times[0], times[1])


def _least_ms(ours: Row, roof: Ceiling) -> float | None:
    """Of a product, computing it; of neurons, moving their data, where that is in memory."""
    if ours["kernel"] == "neuron":
        amount = ours["read_bytes"], ours["written_bytes"]
        return roof.roof_ms(0.0, *amount) if ours["case"] in _FROM_MEMORY else None
    product = "forward" if ours["kernel"] == "conv_neuron" else ours["kernel"]
    with_digits = ours["way"] in ("h2learn-digits", "h2learn-fastest")
    digits = DIGIT_PRODUCTS[product] if with_digits else 0
    return roof.product_ms(ours["macs"], ours["nonzero"], ours["needed"], digits)


def _limit(ms: float) -> Row:
    """A ceiling in a rival's place."""
    return {"ms": ms, "detail": "", "error": None, "quartiles_ms": None, "flops": None}


def wrong(measured: list[Row]) -> list[Row]:
    """Measurements of h2learn whose result is not float64's."""
    return [
        row
        for row in measured
        if row["way"].startswith("h2learn")
        and not row["error"] <= ERROR_TOLERANCE.get(row["kernel"], DEFAULT_ERROR_TOLERANCE)
    ]


# ---- the command


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    options = _parse(arguments)
    if options.worker is not None:
        (target,) = options.targets
        options.worker.write_text(json.dumps(measure_target(target, options)))
        return 0
    if not any(any(True for _ in plan(options, target)) for target in options.targets):
        print("error: nothing of that is measured without --all", file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(machine.line(), soft_wrap=True)
    measured: list[Row] = []
    ceilings: dict[tuple[str, int], Ceiling] = {}
    reason = ""
    for target in options.targets:
        threads = sorted({job.threads for job in plan(options, target)})
        try:
            before = {n: measure_ceiling(target, n, options.ceiling_seconds) for n in threads}
            measured += measure_elsewhere(target, options)
            for n in threads:  # again, since a ceiling is the best that was ever seen
                after = measure_ceiling(target, n, options.ceiling_seconds)
                ceilings[target, n] = highest(before[n], after)
        except NoCeilingError as error:
            reason = str(error)
            measured += measure_elsewhere(target, options)
    report = {
        "command": machine.command("kernels", arguments),
        "machine": machine.facts(),
        "rounds": options.rounds,
        "held": {target: environment(target) for target in options.targets},
        "ceilings": [
            {"target": target, "threads": n, **roof.as_dict()}
            for (target, n), roof in ceilings.items()
        ],
        "no_ceiling": reason,
        "goals": [asdict(goal) for goal in GOALS if goal.title],
        "variants": _VARIANTS,
        "rows": rows_of(measured, ceilings),
        "measurements": measured,
    }
    show(tables(report), console)
    if reason:
        console.print(f"no ceiling: {reason}", soft_wrap=True)
    for row in wrong(measured):
        print(f"error: {row['way']} of {row['kernel']} {row['case']} at rate {row['rate']} on "
              f"{row['target']} is off by {row['error']:.1e}", file=sys.stderr)  # fmt: skip
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if wrong(measured) else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    names = [*SYNAPSES, *NEURONS]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="a selection, under three minutes")
    extent.add_argument("--all", action="store_true", help="every combination: hours")
    add("--kernels", type=choices(KERNELS), default=list(KERNELS), help="of " + ",".join(KERNELS))
    add("--cases", type=choices(names), default=names, help="of " + ",".join(names))
    add("--rates", type=_percents, default=list(RATES), help="firing rates, percent")
    add("--targets", type=choices(TARGETS), default=TARGETS[::-1], help="of " + ",".join(TARGETS))
    add("--threads", type=counts, default=_default_threads(), help="for instance 1,2")
    add("--rounds", type=count, default=3, help="turns of each way")
    add("--ceiling-seconds", type=float, default=0.25, metavar="S",
        help="for each figure of the ceilings")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write everything as data")
    add("--worker", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _percents(text: str) -> list[int]:
    values = counts(text)
    if max(values) > 100:
        raise argparse.ArgumentTypeError(f"{text!r} has a rate above 100 percent")
    return values


def _default_threads() -> list[int]:
    """One, and all cores that this process may use."""
    return sorted({1, len(os.sched_getaffinity(0))})


if __name__ == "__main__":
    sys.exit(main())
