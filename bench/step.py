"""Where the time of a training step goes, and how close its products are to the machine's roof.

    python bench/step.py [--workloads a,b,c] [--threads 1,2] [--rounds 5] [--peer spikingjelly]
                         [--kernel fastest] [--json FILE]

Times every operator of h2learn in the step of peers.py, and lays beside each product of synapses
the least time in which one of its kernels could do that work at the rates that bench/ceiling.cpp
measures here: `dense`, all multiply-adds from registers; `event`, one addition for each term that
is not zero, each reading a vector in the first-level cache; of gradients under a mask also
`sampled`, the multiply-adds of those that are needed; with --kernel fastest also `digits`, four
multiplications of bytes for each multiply-add, or ten of an input gradient. Their sum is a bound
that no kernel of these kinds can beat. Two ratios follow, the peer's time over that sum and
everything else as it was measured, and over the sum alone, as if all else were free: that one no
tuning reaches.
Exit status: 0; 1 when h2learn disagrees with float64 or there is no ceiling; 2 for a wrong
argument. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import machine
import peers
import torch
from arguments import choices, count, counts
from ceiling import DIGIT_PRODUCTS, Ceiling, NoCeilingError, highest, measure_ceiling
from contestants import CONTESTANTS, DETACHED, NeuronOptions, reference
from h2learn import _core, memory, ops
from h2learn.kernels import KERNELS
from kernel_cases import multiply_adds
from kernel_tables import Table, show
from problems import WORKLOADS, Problem, make_problem
from rich.console import Console
from torch import Tensor, nn

Row = dict[str, Any]

SYNAPSES = {
    "forward_packed": "forward",
    "forward_dense": "forward",
    "fused_forward_packed": "forward and neurons",
    "fused_forward_dense": "forward and neurons",
    "backward": "input gradient",
    "weight_update_packed": "weight gradient",
    "weight_update_dense": "weight gradient",
}
OTHERS = {
    "soma_forward": "neurons",
    "soma_backward": "neurons, backward",
    "count_pool": "pooling",
    "max_pool": "pooling",
    "average_pool_backward": "pooling, backward",
    "max_pool_backward": "pooling, backward",
    "pack": "packing spikes",
    "unpack": "unpacking spikes",
    "transpose_features": "flattening",
}


WITH_BYTES = {
    "forward_packed": "forward",
    "fused_forward_packed": "forward",
    "weight_update_packed": "weight_update",
    "backward": "backward",
}
WITH_DIGITS = ("digits", "fastest")


# ---- what a product has to do


@dataclass(frozen=True)
class Work:
    """A product of synapses.

    Attributes:
        layer: in words.
        macs: multiply-adds of all terms, those with padding left out.
        nonzero: part of the operand that events skip by, of spikes or of gradients.
        needed: part of the results that the mask asks for.
        digit_products: multiplications of bytes by which digits do one multiply-add; 0 where they
            do none.
    """

    layer: str
    macs: float
    nonzero: float
    needed: float
    digit_products: int = 0

    def least_ms(self, roof: Ceiling, kernel: str = "auto") -> float:
        """The least time at the machine's rates of what `kernel` may run."""
        digit_products = self.digit_products if kernel in WITH_DIGITS else 0
        return roof.product_ms(self.macs, self.nonzero, self.needed, digit_products)


def work_of(name: str, arguments: Sequence[Any]) -> Work:
    """Of a call of one of `SYNAPSES`."""
    shape = next(a for a in arguments if isinstance(a, list | tuple) and len(a) == 13)
    operand = arguments[0]
    if name.endswith("_packed"):
        images = operand.shape[1]
        nonzero = _bits(_any_plane(operand), images * shape[0] * shape[1] * shape[2])
    else:
        images = operand.shape[0]
        nonzero = (operand.count_nonzero() / max(operand.numel(), 1)).item()
    needed = 1.0
    if name == "backward" and arguments[2] is not None:
        needed = _bits(arguments[2], images * shape[0] * shape[1] * shape[2])
    digit_products = DIGIT_PRODUCTS[WITH_BYTES[name]] if name in WITH_BYTES else 0
    macs = images * multiply_adds(shape)
    return Work(_layer(shape), macs, nonzero, needed, digit_products)


def _any_plane(words: Tensor) -> Tensor:
    found = words[0]
    for plane in words[1:]:
        found = found | plane
    return found


def _bits(words: Tensor, elements: int) -> float:
    return ops.popcount(words.contiguous()) / max(elements, 1)


def _layer(shape: Sequence[int]) -> str:
    channels, height, width, outputs, kh, kw = shape[:6]
    if (height, width, kh, kw) == (1, 1, 1, 1):
        return f"{channels} -> {outputs}"
    return f"{channels}x{height}x{width} -> {outputs}, {kh}x{kw}"


# ---- measuring


@dataclass
class Call:
    """One operator of the step."""

    what: str
    work: Work | None
    seconds: list[float]


@contextlib.contextmanager
def watched(calls: list[Call]) -> Iterator[Callable[[], None]]:
    """Times every operator of a step into `calls`, in order; yields what starts the next step."""
    kinds = {**SYNAPSES, **OTHERS}
    originals = {name: getattr(ops, name) for name in kinds}
    position = 0

    def restart() -> None:
        nonlocal position
        position = 0

    def watch(name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal position
            if position == len(calls):
                work = work_of(name, arguments) if name in SYNAPSES else None
                calls.append(Call(kinds[name], work, []))
            start = time.perf_counter()
            result = originals[name](*arguments)
            calls[position].seconds.append(time.perf_counter() - start)
            position += 1
            return result

        return call

    try:
        for name in kinds:
            setattr(ops, name, watch(name))
        yield restart
    finally:
        for name, function in originals.items():
            setattr(ops, name, function)


def measure_calls(
    problem: Problem, surrogate: str, steps: int, neurons: NeuronOptions = DETACHED
) -> tuple[list[Call], list[float], int]:
    """The operators of `steps` steps with their times, the seconds of each step, and memory.

    That is the most bytes of large tensors that h2learn held at once.

    Two steps before them are not counted. In the very first, layers look at their activity and run
    other operators than ever after.
    """
    parameters = [nn.Parameter(w) for w in problem.weights]
    ours = CONTESTANTS["h2learn"](problem, parameters, surrogate, neurons)
    ours.step(problem.inputs, problem.labels)
    gc.collect()
    memory.release()
    calls: list[Call] = []
    whole = []
    with watched(calls) as restart:
        for _ in range(steps + 1):
            restart()
            start = time.perf_counter()
            ours.step(problem.inputs, problem.labels)
            whole.append(time.perf_counter() - start)
    for call in calls:
        del call.seconds[0]
    return calls, whole[1:], memory.statistics()["highest_bytes"]


def _without_ms(whole: list[float], calls: list[Call]) -> float:
    """Median milliseconds of a step without these operators, each step's from that step."""
    rest = (seconds - sum(call.seconds[i] for call in calls) for i, seconds in enumerate(whole))
    return 1e3 * statistics.median(rest)


def measure(
    problem: Problem,
    expected: tuple[float, list[Tensor]],
    threads: int,
    options: argparse.Namespace,
    roof: Ceiling,
) -> tuple[Row, list[Row]]:
    """The step, and a row for each operator (of the same kind and layer: their sum)."""
    torch.set_num_threads(threads)
    neurons = NeuronOptions(kernel=options.kernel)
    ours, peer = peers.run_workload(
        problem, expected, ["h2learn", options.peer], options.surrogate, options.rounds, 180.0,
        neurons,
    )  # fmt: skip
    if not ours.agrees or ours.timing is None:
        raise RuntimeError(f"h2learn disagrees with float64: {ours.reason}")
    step_ms = ours.timing.median_ms
    steps = max(options.rounds, min(50, round(2e3 / step_ms)))
    rows: dict[tuple[str, str], Row] = {}
    calls, whole, highest_bytes = measure_calls(problem, options.surrogate, steps, neurons)
    for call in calls:
        layer = call.work.layer if call.work else ""
        row = rows.setdefault(
            (call.what, layer),
            {
                "workload": problem.workload.name, "threads": threads, "what": call.what,
                "layer": layer, "ms": 0.0, "work": asdict(call.work) if call.work else None,
                "least_ms": call.work.least_ms(roof, options.kernel) if call.work else None,
            },
        )  # fmt: skip
        row["ms"] += 1e3 * statistics.median(call.seconds)
    least = sum(row["least_ms"] or 0.0 for row in rows.values())
    rest = _without_ms(whole, [call for call in calls if call.work])
    peer_ms = peer.timing.median_ms if peer.timing else None
    step = {
        "workload": problem.workload.name,
        "threads": threads,
        "ms": step_ms,
        "watched_ms": 1e3 * statistics.median(whole),
        "outside_ms": _without_ms(whole, calls),
        "highest_bytes": highest_bytes,
        "least_ms": least,
        "rest_ms": rest,
        "peer": peer.name,
        "peer_ms": peer_ms,
        "ratio": None if peer_ms is None else peer_ms / step_ms,
        "most_ratio": None if peer_ms is None else peer_ms / least,
        "products_ratio": None if peer_ms is None else peer_ms / (least + rest),
    }
    return step, list(rows.values())


# ---- showing


def tables(report: dict[str, Any]) -> list[Table]:
    """One table of steps, and one of operators for each workload and number of threads."""
    summary = Table(
        f"Steps beside the roof of their products, kernel {report['kernel']}",
        ["workload", "threads", "step, ms", "1 thread over this", "products' least, ms",
         "all else, ms", "peer", "peer, ms", "ratio", "products at the roof",
         "and all else free", "goal", "tensors, MB"],
        [],
    )  # fmt: skip
    single = {s["workload"]: s["ms"] for s in report["steps"] if s["threads"] == 1}
    goals = {g.workload: g.ratio for g in peers.GOALS if g.title == "step against SpikingJelly"}
    for s in report["steps"]:
        one = single.get(s["workload"])
        goal = goals.get(s["workload"]) if s["peer"] in peers.SPIKINGJELLY else None
        summary.rows.append(
            [
                s["workload"], str(s["threads"]), f"{s['ms']:.1f}",
                "-" if one is None else f"{one / s['ms']:.2f}", f"{s['least_ms']:.1f}",
                f"{s['rest_ms']:.1f}", s["peer"], _text(s["peer_ms"], ".1f"),
                _text(s["ratio"], ".2f"), _text(s["products_ratio"], ".2f"),
                _text(s["most_ratio"], ".2f"), "-" if goal is None else f">= {goal:g}",
                f"{s['highest_bytes'] / peers.MB:.0f}",
            ]
        )  # fmt: skip
    found = [summary]
    for s in report["steps"]:
        operators = [
            row
            for row in report["operators"]
            if (row["workload"], row["threads"]) == (s["workload"], s["threads"])
        ]
        whole, rest = s["watched_ms"], s["outside_ms"]
        lines = [_line(row, whole) for row in operators]
        lines += [
            ["torch, Python, loss", "", f"{rest:.2f}", f"{100 * rest / whole:.0f}", *["-"] * 5],
            ["step", "", f"{whole:.2f}", "100", *["-"] * 5],
        ]
        columns = ["operator", "layer", "ms", "% of step", "GMAC", "not zero, %", "needed, %",
                   "least, ms", "% of roof"]  # fmt: skip
        found.append(Table(f"{s['workload']}, threads {s['threads']}", columns, lines))
    return found


def _line(row: Row, step_ms: float) -> list[str]:
    start = [row["what"], row["layer"], f"{row['ms']:.2f}", f"{100 * row['ms'] / step_ms:.0f}"]
    if row["work"] is None:
        return [*start, *["-"] * 5]
    work = Work(**row["work"])
    return [
        *start, f"{work.macs / 1e9:.3g}", f"{100 * work.nonzero:.0f}", f"{100 * work.needed:.0f}",
        f"{row['least_ms']:.2f}", f"{100 * row['least_ms'] / row['ms']:.0f}",
    ]  # fmt: skip


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    options = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(machine.line(), soft_wrap=True)
    target = _core.active_target()
    report: dict[str, Any] = {
        "command": machine.command("step", arguments),
        "machine": machine.facts(),
        "surrogate": options.surrogate,
        "kernel": options.kernel,
        "rounds": options.rounds,
        "steps": [],
        "operators": [],
    }
    try:
        roofs = {n: measure_ceiling(target, n) for n in options.threads}
        for letter in options.workloads:
            problem = make_problem(WORKLOADS[letter])
            expected = reference(problem, options.surrogate)
            for threads in options.threads:
                print(f"{letter}, threads {threads}", file=sys.stderr, flush=True)
                roofs[threads] = highest(roofs[threads], measure_ceiling(target, threads))
                step, operators = measure(problem, expected, threads, options, roofs[threads])
                report["steps"].append(step)
                report["operators"] += operators
    except (NoCeilingError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show(tables(report), console)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--workloads", type=choices(WORKLOADS), default=list(WORKLOADS), help="of a,b,c")
    add("--threads", type=counts, default=[1, 2], help="thread counts, for instance 1,2")
    add("--rounds", type=count, default=5, help="turns of h2learn and the peer")
    add("--surrogate", choices=["rect", "triangle", "atan"], default="rect")
    add("--peer", choices=[name for name in CONTESTANTS if name != "h2learn"],
        default="spikingjelly", help="default: %(default)s")  # fmt: skip
    add("--kernel", choices=list(KERNELS), default="auto",
        help="of h2learn's synapses (default: %(default)s)")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write everything as data")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
