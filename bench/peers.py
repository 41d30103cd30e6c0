"""One training step of h2learn beside PyTorch, SpikingJelly and snnTorch.

    python bench/peers.py [--workloads a,b,c] [--threads 1,2] [--rounds 9] [--surrogate rect]
                          [--reset detached|kept] [--membrane store|recompute] [--peers ...]
                          [--kernel fastest] [--target avx2] [--json FILE]

Same network, weights, neuron and inputs for all, in one process, interleaved. A step clears the
gradients, resets the neurons, runs forward, cross-entropy on the mean output rate, and backward.
Losses and gradients are compared, with each other and with float64, before anything is timed; a
library that computes something else gets no ratio. --target holds h2learn and torch to an
instruction set. A last table says which of the `GOALS` are reached. Exit status: 0; 1 when h2learn
did not run or disagrees; 2 for a wrong argument. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import torch
from arguments import choices, count, counts
from contestants import (
    CONTESTANTS,
    DETACHED,
    Contestant,
    NeuronOptions,
    UnavailableError,
    applies,
    reference,
    versions,
)
from h2learn import _core
from h2learn.kernels import KERNELS
from measure import Timing, interleave, relative_error, saved_bytes, time_limit
from problems import SURROGATE_WIDTHS, WORKLOADS, Problem, make_problem
from rich import box
from rich.console import Console
from rich.table import Table
from targets import TARGETS, environment
from torch import Tensor, nn

OURS = "h2learn"
# The weights make spikes, and so losses, equal to rounding; see problems.snap.
LOSS_TOLERANCE = 1e-6
GRADIENT_TOLERANCE = 1e-4
MB = 1e6
SPIKINGJELLY = ("spikingjelly",)
BEST = ("pytorch-compile", "pytorch-bf16")
EAGER = ("pytorch", "pytorch-channels-last")


@dataclass(frozen=True)
class Goal:
    """What a step of h2learn should be beside the best of some peers: faster or smaller.

    Attributes:
        quantity: ``ms`` or ``saved_mb``; the peers' least, over h2learn's, is the ratio.
        target: held to that instruction set only; empty: in runs that are not held.
    """

    title: str
    workload: str
    peers: tuple[str, ...]
    ratio: float
    quantity: str = "ms"
    target: str = ""


GOALS = (
    *(
        Goal("step against SpikingJelly", workload, SPIKINGJELLY, ratio)
        for workload, ratio in (("a", 5.0), ("b", 10.0), ("c", 7.0))
    ),
    *(
        Goal("step against the best of torch.compile and bf16", workload, BEST, ratio)
        for workload, ratio in (("a", 2.5), ("b", 5.0), ("c", 3.0))
    ),
    *(
        Goal("saved for the backward pass", workload, SPIKINGJELLY, 25.0, "saved_mb")
        for workload in ("a", "b", "c")
    ),
    Goal("step against PyTorch, both on AVX2", "c", EAGER, 2.0, target="avx2"),
)


@dataclass
class Result:
    """What one contestant did with one problem; `reason` says why something is missing."""

    name: str
    reason: str = ""
    comparable: bool = True
    loss: float | None = None
    loss_error: float | None = None
    gradient_error: float | None = None
    saved_mb: float | None = None
    timing: Timing | None = None

    @property
    def agrees(self) -> bool:
        """True when it computed the same loss and gradients as float64."""
        return (
            self.loss_error is not None
            and self.gradient_error is not None
            and self.loss_error <= LOSS_TOLERANCE
            and self.gradient_error <= GRADIENT_TOLERANCE
        )


def run_workload(
    problem: Problem,
    expected: tuple[float, list[Tensor]],
    names: list[str],
    surrogate: str,
    rounds: int,
    compile_limit_s: float,
    neurons: NeuronOptions = DETACHED,
) -> list[Result]:
    """Checks, weighs and times the named contestants on one problem at the present threads."""
    parameters = [nn.Parameter(w) for w in problem.weights]
    results: list[Result] = []
    running: dict[str, Contestant] = {}
    for name in names:
        result = Result(name)
        results.append(result)
        try:
            with time_limit(compile_limit_s):
                contestant = CONTESTANTS[name](problem, parameters, surrogate, neurons)
                _check(contestant, problem, expected, result)
        except UnavailableError as error:
            result.reason = str(error)
        except TimeoutError as error:
            result.reason = f"first step {error}"
        except Exception as error:  # a rival's failure is a row, not the end of the run
            logging.debug(traceback.format_exc())
            first_line = (str(error).strip().splitlines() or [""])[0]
            result.reason = f"failed: {type(error).__name__}: {first_line}"
        else:
            running[name] = contestant
    timings = interleave({name: _stepper(c, problem) for name, c in running.items()}, rounds)
    for result in results:
        result.timing = timings.get(result.name)
    return results


def rows(workload: str, threads: int, results: list[Result]) -> list[dict[str, Any]]:
    """One row a peer, h2learn's figures beside it. Times in ms, memory in MB (10**6 bytes).

    `ratio` is peer_ms / h2learn_ms, null unless both agree with float64. `*_error` are against
    float64; `loss_difference` is between peer and h2learn.
    """
    ours = next((r for r in results if r.name == OURS), Result(OURS, "not run"))
    return [
        {
            "workload": workload,
            "peer": peer.name,
            "threads": threads,
            "peer_ms": _median(peer),
            "h2learn_ms": _median(ours),
            "ratio": _ratio(peer, ours),
            "loss_difference": _difference(peer.loss, ours.loss),
            "peer_saved_mb": peer.saved_mb,
            "h2learn_saved_mb": ours.saved_mb,
            "peer_loss_error": peer.loss_error,
            "h2learn_loss_error": ours.loss_error,
            "peer_gradient_error": peer.gradient_error,
            "h2learn_gradient_error": ours.gradient_error,
            "h2learn_agrees": ours.agrees,
            "peer_quartiles_ms": peer.timing.quartiles_ms if peer.timing else None,
            "h2learn_quartiles_ms": ours.timing.quartiles_ms if ours.timing else None,
            "reason": peer.reason or ours.reason,
        }
        for peer in results
        if peer.name != OURS
    ]


def goals(report: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a goal and number of threads, of what was measured.

    A peer whose arithmetic differs (bfloat16) counts here, too: it is what a user would run.
    `ratio` and `reached` are null where h2learn disagrees with float64 or no peer ran; `peer` is
    the best one.
    """
    found = []
    for goal in GOALS:
        if goal.target != (report["target"] or ""):
            continue
        rivals = [
            row
            for row in report["rows"]
            if row["workload"] == goal.workload and row["peer"] in goal.peers
        ]
        for threads in dict.fromkeys(row["threads"] for row in rivals):
            ratios = {
                row["peer"]: _quotient(
                    row[f"peer_{goal.quantity}"], row[f"h2learn_{goal.quantity}"]
                )
                for row in rivals
                if row["threads"] == threads and row["h2learn_agrees"]
            }
            known = {peer: ratio for peer, ratio in ratios.items() if ratio is not None}
            best = min(known, key=lambda peer: known[peer], default=None)
            ratio = None if best is None else known[best]
            found.append(
                {
                    "title": goal.title,
                    "workload": goal.workload,
                    "threads": threads,
                    "goal": goal.ratio,
                    "peer": best,
                    "ratio": ratio,
                    "reached": None if ratio is None else ratio >= goal.ratio,
                }
            )
    return found


GOAL_COLUMNS = ["work", "workload", "threads", "goal", "best peer", "ratio", "reached"]


def goal_lines(report: dict[str, Any]) -> list[list[str]]:
    """The same as text, in the order of GOAL_COLUMNS."""
    verdicts = {True: "yes", False: "no", None: "n/a"}
    return [
        [
            row["title"], row["workload"], str(row["threads"]), f">= {row['goal']:g}",
            row["peer"] or "-", _text(row["ratio"], ".2f"), verdicts[row["reached"]],
        ]
        for row in report["goals"]
    ]  # fmt: skip


def table(results: list[Result]) -> Table:
    """The same for the terminal, h2learn's own row among them; notes stand below."""
    ours = next((r for r in results if r.name == OURS), Result(OURS))
    notes = "\n".join(f"{r.name}: {r.reason}" for r in results if r.reason)
    view = Table(caption=notes, caption_justify="left", box=box.SIMPLE)
    view.add_column("library", no_wrap=True)
    for heading in (
        "step\nms", "quartiles\nms", "time/\nh2learn", "loss\nerror", "gradient\nerror",
        "saved\nMB", "saved/\nh2learn",
    ):  # fmt: skip
        view.add_column(heading, justify="right", no_wrap=True)
    for r in results:
        view.add_row(
            r.name,
            _text(_median(r), ".1f"),
            "-".join(format(q, ".1f") for q in r.timing.quartiles_ms) if r.timing else "-",
            _text(_ratio(r, ours), ".2f"),
            _text(r.loss_error, ".0e"),
            _text(r.gradient_error, ".0e"),
            _text(r.saved_mb, ".2f"),
            _text(_quotient(r.saved_mb, ours.saved_mb), ".1f"),
        )
    return view


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    options = _parse(arguments)
    held = os.environ | (environment(options.target) if options.target else {})
    if held != os.environ:  # libraries look at it when they are loaded
        given = sys.argv[1:] if arguments is None else arguments
        return subprocess.run([sys.executable, __file__, *given], env=held, check=False).returncode
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(machine.line(), soft_wrap=True)
    neurons = NeuronOptions(options.reset == "detached", options.membrane, options.kernel)
    console.print(
        f"target {_core.active_target()}, surrogate {options.surrogate}, reset {options.reset}, "
        f"membrane {options.membrane}, kernel {options.kernel}, "
        f"medians of {options.rounds} rounds\n"
    )
    report: dict[str, Any] = {
        "command": machine.command("peers", arguments),
        "machine": machine.facts(),
        "versions": versions(),
        "target": options.target,
        "surrogate": options.surrogate,
        "reset": options.reset,
        "membrane": options.membrane,
        "kernel": options.kernel,
        "rounds": options.rounds,
        "seed": options.seed,
        "weights": options.weights,
        "workloads": {},
        "rows": [],
    }
    ours_agrees = True
    for letter in options.workloads:
        problem = make_problem(WORKLOADS[letter], options.seed, exact=options.weights == "grid")
        expected = reference(problem, options.surrogate, neurons)
        report["workloads"][letter] = {
            "network": problem.workload.describe(),
            "firing_rates": problem.firing_rates,
        }
        for threads in options.threads:
            torch.set_num_threads(threads)
            results = run_workload(
                problem,
                expected,
                [name for name in options.peers if applies(name, problem.workload)],
                options.surrogate,
                options.rounds,
                options.compile_limit,
                neurons,
            )
            ours_agrees &= all(r.agrees for r in results if r.name == OURS)
            report["rows"] += rows(letter, threads, results)
            noun = "thread" if threads == 1 else "threads"
            title = f"{letter}: {problem.workload.describe()}; {threads} {noun}"
            console.print(title, soft_wrap=True)
            console.print(table(results))
    report["goals"] = goals(report)
    if report["goals"]:
        view = Table(title="Goals: the best peer's over h2learn's", title_justify="left",
                     box=box.SIMPLE)  # fmt: skip
        for column in GOAL_COLUMNS:
            view.add_column(column)
        for line in goal_lines(report):
            view.add_row(*line)
        console.print(view)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if ours_agrees else 1


def _check(
    contestant: Contestant, problem: Problem, expected: tuple[float, list[Tensor]], result: Result
) -> None:
    """Fills in loss, errors and saved memory.

    The first step compiles whatever is compiled, and h2learn's layers look at their activity; what
    is checked is the second, which runs as those that are timed.
    """
    result.comparable = contestant.comparable
    contestant.step(problem.inputs, problem.labels)
    result.loss = contestant.step(problem.inputs, problem.labels)
    result.loss_error = abs(result.loss - expected[0])
    gradients = [p.grad for p in contestant.parameters]
    result.gradient_error = relative_error(gradients, expected[1])
    contestant.reset()
    loss = contestant.loss(problem.inputs, problem.labels)
    result.saved_mb = saved_bytes(loss, contestant.parameters) / MB
    if not contestant.comparable:
        result.reason = "for information: other arithmetic, so other spikes"
    elif not result.agrees:
        result.reason = (
            f"disagrees: loss off by {result.loss_error:.1e}, "
            f"gradients by {result.gradient_error:.1e}; not compared"
        )


def _stepper(contestant: Contestant, problem: Problem) -> Callable[[], None]:
    """A step for the clock.

    Weights count as changed, as after an optimiser's step, so that no library may reuse what it
    has prepared from them.
    """

    def step() -> None:
        torch.autograd.graph.increment_version(contestant.parameters)
        contestant.step(problem.inputs, problem.labels)

    return step


def _median(result: Result) -> float | None:
    return result.timing.median_ms if result.timing else None


def _quotient(numerator: float | None, denominator: float | None) -> float | None:
    return numerator / denominator if numerator is not None and denominator else None


def _difference(a: float | None, b: float | None) -> float | None:
    return abs(a - b) if a is not None and b is not None else None


def _ratio(peer: Result, ours: Result) -> float | None:
    if not (peer.agrees and ours.agrees):
        return None
    return _quotient(_median(peer), _median(ours))


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--workloads", type=choices(WORKLOADS), default=list(WORKLOADS), help="of a,b,c")
    add("--threads", type=counts, default=[1, 2], help="thread counts, for instance 1,2")
    add("--rounds", type=count, default=9, help="turns of each library")
    add("--surrogate", choices=list(SURROGATE_WIDTHS), default="rect")
    add(
        "--reset",
        choices=["detached", "kept"],
        default="detached",
        help="gradient through the spike in the reset (default: %(default)s, as snnTorch must)",
    )
    add("--membrane", choices=["store", "recompute"], default="store",
        help="what h2learn's neurons do (default: %(default)s)")  # fmt: skip
    add("--kernel", choices=list(KERNELS), default="auto",
        help="of h2learn's synapses (default: %(default)s)")  # fmt: skip
    add("--peers", type=choices(CONTESTANTS), default=list(CONTESTANTS), help="which of "
        + ",".join(CONTESTANTS))  # fmt: skip
    add("--target", choices=TARGETS, help="hold h2learn and torch to it (default: do not)")
    add("--compile-limit", type=float, default=180.0, metavar="S",
        help="seconds that a library's first step, compilation included, may take")  # fmt: skip
    add("--seed", type=int, default=0)
    add("--weights", choices=["grid", "free"], default="grid",
        help="on a grid that makes sums exact, or not (%(default)s)")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write everything as data")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
