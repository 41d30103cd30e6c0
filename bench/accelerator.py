"""How fast the accelerator is simulated, and what it costs a training step to be offloaded.

    python bench/accelerator.py [--workloads a,b,c] [--threads N] [--rounds N] [--json FILE]

For each workload of peers.py: a training step with and without `h2learn.offload`, interleaved; a
step with nobody listening beside one before which recording was never imported is the same code,
so what an unused recorder costs is shown as the step's own cost of asking (nanoseconds). Then the
fast simulator alone on the recorded step, the clocked one on small random cases of `h2learn
verify`, the size of the workload file, and the memory that a simulation adds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import contestants
import machine
import torch
from arguments import choices, count
from h2learn import _core, recording
from h2learn.accelerators.config import Accelerator
from h2learn.accelerators.simulation import core_layer
from h2learn.offloading import offload
from h2learn.recorder import record
from h2learn.verify import verify
from h2learn.workload import LayerWork, Workload
from measure import interleave
from problems import WORKLOADS, Problem, make_problem

GOAL_CYCLES_PER_SECOND = 200e6
GOAL_CLOCKED_CYCLES_PER_SECOND = 100e3
GOAL_OVERHEAD = 0.15
GOAL_FILE_MB = 40.0


def stepper(problem: Problem) -> Callable[[], None]:
    """One training step of h2learn on the problem: forward, loss, backward."""
    parameters = [torch.nn.Parameter(w.clone()) for w in problem.weights]
    ours = contestants.h2learn(problem, parameters, "rect")

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        ours.step(problem.inputs, problem.labels)

    return step


def measure(name: str, accelerator: Accelerator, rounds: int) -> dict[str, Any]:
    """Everything about one workload, as a row of the report."""
    problem = make_problem(WORKLOADS[name])
    step = stepper(problem)
    with record() as recorder:
        step()
    workload = recorder.workload

    def offloaded() -> None:
        with offload(accelerator):
            step()

    times = interleave({"plain": step, "offloaded": offloaded}, rounds)
    plain, with_offload = times["plain"].median_ms, times["offloaded"].median_ms
    (layers,) = workload.steps
    cycles, seconds = time_simulation(layers, accelerator, rounds)
    return {
        "workload": name,
        "step_ms": plain,
        "offloaded_ms": with_offload,
        "overhead": with_offload / plain - 1.0,
        "cycles": cycles,
        "simulation_ms": 1e3 * seconds,
        "simulated_cycles_per_second": cycles / seconds,
        "workload_mb": workload.nbytes / 1e6,
        "file_mb": file_bytes(workload) / 1e6,
        "simulation_extra_mb": simulation_bytes(workload, accelerator.name) / 1e6,
    }


def time_simulation(
    layers: tuple[LayerWork, ...], accelerator: Accelerator, rounds: int
) -> tuple[int, float]:
    """Cycles, and median seconds of the fast simulator."""
    core, work = accelerator.to_core(), [core_layer(layer) for layer in layers]
    cycles = int(_core.simulate(core, work)["cycles"])
    seconds = []
    for _ in range(max(5, rounds)):
        started = time.perf_counter()
        _core.simulate(core, work)
        seconds.append(time.perf_counter() - started)
    return cycles, statistics.median(seconds)


# In a process of its own: the peak of this one was reached long before, by training.
_MEMORY = """
import sys
from pathlib import Path
from h2learn import load_workload, simulate

def kilobytes(key):
    status = Path("/proc/self/status").read_text()
    return int(status.split(key + ":")[1].split()[0])

workload = load_workload(Path(sys.argv[1]))
simulate(load_workload(Path(sys.argv[2])), sys.argv[3])  # code and threads are there
before = kilobytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
simulate(workload, sys.argv[3], tiles=True)
print(kilobytes("VmHWM") - before)
"""


def simulation_bytes(workload: Workload, accelerator: str) -> int:
    """What a simulation adds to the memory of a process that has loaded the workload (Linux)."""
    tiny = Workload.synthetic("2-2", sample_shape=(2,), timesteps=1, samples=1)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("step", "tiny")]
        for work, path in zip((workload, tiny), paths, strict=True):
            work.save(path)
        command = [sys.executable, "-c", _MEMORY, *map(str, paths), accelerator]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return max(0, int(done.stdout)) * 1024


def file_bytes(workload: Workload) -> int:
    """Size of the step's file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.workload"
        workload.save(path)
        return path.stat().st_size


def nanoseconds_of_asking() -> float:
    """What a layer pays for recording that nobody asked for: one test of an empty tuple."""
    count = 1_000_000
    started = time.perf_counter()
    for _ in range(count):
        recording.listening()
    return (time.perf_counter() - started) / count * 1e9


def show(report: dict[str, Any]) -> None:
    """Prints the report for people."""
    print(machine.line(report["machine"]))
    for row in report["rows"]:
        print(
            f"{row['workload']}: step {row['step_ms']:.1f} ms, offloaded {row['offloaded_ms']:.1f} "
            f"ms (+{100 * row['overhead']:.1f} %, goal {100 * GOAL_OVERHEAD:.0f} %); simulation "
            f"{row['cycles']:,} cycles in {row['simulation_ms']:.1f} ms = "
            f"{row['simulated_cycles_per_second'] / 1e6:.0f} M cycles/s "
            f"(goal {GOAL_CYCLES_PER_SECOND / 1e6:.0f} on c); workload "
            f"{row['workload_mb']:.1f} MB, "
            f"file {row['file_mb']:.1f} MB (goal {GOAL_FILE_MB:.0f} on c), simulation adds "
            f"{row['simulation_extra_mb']:.1f} MB (goal {2 * row['workload_mb']:.1f})"
        )
    print(
        f"clocked: {report['clocked_cycles_per_second'] / 1e3:.0f} thousand cycles/s on random "
        f"machines (goal {GOAL_CLOCKED_CYCLES_PER_SECOND / 1e3:.0f}); "
        f"{report['mismatches']} mismatches in {report['configs']} configurations"
    )
    print(f"recording off: {report['asking_ns']:.0f} ns a layer and pass")


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints, and writes the report; returns the exit status."""
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    accelerator = Accelerator.load(options.accelerator)
    checked = verify(options.configs)
    report = {
        "command": machine.command("accelerator", arguments),
        "machine": machine.facts(),
        "accelerator": accelerator.name,
        "threads": options.threads,
        "rounds": options.rounds,
        "configs": checked.configs,
        "mismatches": checked.mismatches,
        "clocked_cycles_per_second": checked.simulated_cycles / checked.clocked_seconds,
        "asking_ns": nanoseconds_of_asking(),
        "rows": [measure(n, accelerator, options.rounds) for n in options.workloads],
    }
    show(report)
    if options.json is not None:
        with contextlib.suppress(FileExistsError):
            options.json.parent.mkdir(parents=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--workloads", type=choices(WORKLOADS), default=list(WORKLOADS), help="of a,b,c")
    add("--threads", type=count, default=2)
    add("--rounds", type=count, default=7, help="turns of a step with and without offload")
    add("--configs", type=count, default=200, help="random cases of `h2learn verify`")
    add("--accelerator", default="h2learn", help="preset or TOML file")
    add("--json", type=Path, metavar="FILE", help="write everything as data")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
