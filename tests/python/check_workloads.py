"""Gradients of workloads a, b and c at full size against float64, given the same spikes.

    python tests/python/check_workloads.py [a b c] [--batch N] [--surrogate rect|atan|...]

Prints the relative norm error of the scores and of every parameter's gradient, beside that of
plain PyTorch in float32; exit status 1 when one of ours is above 1e-6. Workload c takes about a
minute and 2 GB on two cores.
"""

from __future__ import annotations

import argparse
import sys
import time

import gold
import torch
import torch.nn.functional as F
import workloads
from h2learn import surrogate

GOAL = 1e-6
SURROGATES = {
    "rect": surrogate.Rect,
    "triangle": surrogate.Triangle,
    "atan": surrogate.ATan,
    "sigmoid": surrogate.Sigmoid,
}


def main() -> int:
    """Checks the workloads named on the command line, all three by default."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="of a, b, c (by default all)")
    parser.add_argument("--batch", type=int, help="samples (by default 32, 4 and 1)")
    parser.add_argument("--surrogate", choices=SURROGATES, default="rect")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    names = arguments.names or ["a", "b", "c"]
    if not set(names) <= {"a", "b", "c"}:
        parser.error(f"workloads are a, b and c, got {' '.join(names)}")
    worst = 0.0
    for name in names:
        torch.manual_seed(arguments.seed)
        batch = arguments.batch or {"a": 32, "b": 4, "c": 1}[name]
        bump = SURROGATES[arguments.surrogate]()
        started = time.perf_counter()
        workload = getattr(workloads, name)(lambda bump=bump: workloads.lif(bump), batch=batch)
        errors = gold.gradient_errors(
            workload.model,
            workload.inputs,
            lambda scores, labels=workload.labels: F.cross_entropy(scores, labels),
        )
        print(f"workload {name}, batch {batch}, {arguments.surrogate}")
        print("  parameter    h2learn   plain PyTorch in float32")
        for parameter, error in errors.library.items():
            verdict = "" if error <= GOAL else "  above the goal"
            print(f"  {parameter:<12} {error:.2e}  {errors.plain[parameter]:.2e}{verdict}")
        print(f"  {time.perf_counter() - started:.1f} s")
        worst = max(worst, *errors.library.values())
    print(f"worst {worst:.2e}, goal {GOAL:.0e}")
    return 0 if worst <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
