"""Measures what the kernels' steps cost on this machine, and writes it where the build reads it.

    python bench/tune.py [--quick] [--targets avx2] [--program FILE] [--out FILE] [--json FILE]

kernel="auto" chooses between the event kernels and the dense ones by a model of their costs
(`cpp/src/kernels/synapse_choice.hpp`), whose constants stand in `cpp/src/kernels/costs.inc`, a row
for each width of vectors. This command times every single kernel over a grid of layers and
densities, on each instruction set of the machine, by one thread (`h2learn_tune`, bench/tune.cpp);
fits the constants; shows what `auto` loses with the old ones and with the new; and writes the new
where they lose less. Rows of widths that this machine does not have stay as they are. Exit status:
0; 1 when a kernel could not be measured; 2 for a wrong argument. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import costs
import machine
import numpy as np
from arguments import choices, count
from costs import Costs, Layer, Row
from h2learn import _core
from kernel_tables import AUTO_SLACK, Table, percent
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table as View
from scipy.optimize import nnls

Array = NDArray[np.float64]

PROGRAM = Path("build/bench/bench/h2learn_tune")
# avx512vnni and amx run avx512's kernels; the plain reference has no choice to make.
WIDTHS = {"baseline": 16, "avx2": 32, "avx512": 64}
TARGETS = [target for target in _core.available_targets() if target in WIDTHS]

BIT_DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7)
VALUE_DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
QUICK = slice(1, None, 3)
# Channels and size of the inputs, channels of the outputs, kernel, padding, stride.
LINEAR = ((784, 1, 512), (1152, 1, 128), (2304, 1, 256), (512, 1, 10), (512, 1, 1024), (128, 1, 64),
          (256, 1, 24))  # fmt: skip
CONVOLUTIONS = (
    (2, 34, 16, 5, 0, 1), (16, 15, 32, 5, 0, 1), (1, 28, 6, 5, 2, 1), (6, 14, 16, 5, 0, 1),
    (16, 32, 16, 3, 1, 1), (32, 16, 64, 3, 1, 1), (64, 32, 64, 3, 1, 1), (128, 32, 256, 3, 1, 1),
    (256, 16, 512, 3, 1, 1), (512, 8, 512, 3, 1, 1), (64, 16, 128, 1, 0, 1), (128, 4, 256, 3, 1, 1),
    (32, 32, 64, 3, 1, 2), (128, 16, 8, 3, 1, 1),
)  # fmt: skip
PRODUCTS = ("forward", "weight_update", "backward", "forward_values", "weight_update_values")
IMAGES = (64, 512)
MULTIPLY_ADDS = 2**25
"""Of a convolution's images together, so that a run takes about a millisecond."""

_NAMES = ("unit", *Costs.__dataclass_fields__)
_FACTORS = np.array([0.7, 0.85, 0.95, 1.05, 1.18, 1.43])
_STEPS = np.array([0.1, 1.0, 10.0])  # off zero
_LEAST_GAIN = 1e-4


@dataclass(frozen=True)
class Sample:
    """One layer at one density.

    Attributes:
        ns: nanoseconds by each way (costs.ways_of).
        auto_ns: as `auto` ran, with the costs that it was compiled with.
        chosen: its reading then: ``windows``, ``scatter``, or ``gather`` for both other ways.
    """

    layer: Layer
    ns: dict[str, float]
    auto_ns: float
    chosen: str = "gather"

    def regret(self, way: str) -> float:
        """Time of a way over that of the fastest."""
        return self.ns[way] / min(self.ns.values())


# ---- measuring


def grid(products: Sequence[str], quick: bool) -> list[Layer]:
    """Every layer, product and density that is measured."""
    shapes = [(*shape, 1, 0, 1, images) for shape in LINEAR for images in IMAGES]
    for channels, size, outputs, kernel, padding, stride in CONVOLUTIONS:
        out_size = (size + 2 * padding - kernel) // stride + 1
        work = out_size**2 * kernel**2 * channels * outputs
        images = min(max(1, MULTIPLY_ADDS // work), 64)
        shapes.append((channels, size, outputs, kernel, padding, stride, images))
    layers = []
    for product, shape in itertools.product(products, shapes[QUICK] if quick else shapes):
        is_bits = Layer(product, *shape, 0.0).is_bits
        densities = BIT_DENSITIES if is_bits else VALUE_DENSITIES
        layers += [Layer(product, *shape, d) for d in (densities[QUICK] if quick else densities)]
    return layers


def measure(program: Path, target: str, layers: Sequence[Layer], rounds: int) -> list[Sample]:
    """Times all of them.

    Raises:
        RuntimeError: the program failed; its message is in it.
    """
    command = [str(program), target, str(rounds)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    samples = []
    with contextlib.suppress(BrokenPipeError):  # it has ended, and says why
        for number, layer in enumerate(layers):
            if number % 50 == 0:
                print(f"{target}: {number} of {len(layers)}", file=sys.stderr, flush=True)
            process.stdin.write(layer.line + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                break
            ns = json.loads(answer)
            chosen, auto_ns = ns.pop("chosen"), ns.pop("auto")
            samples.append(Sample(layer, ns, auto_ns, chosen))
    _, message = process.communicate()
    if process.returncode != 0 or len(samples) != len(layers):
        raise RuntimeError(f"{program} ended with status {process.returncode}: {message.strip()}")
    return samples


# ---- fitting


def fit(samples: Sequence[Sample], old: Costs, lanes: int) -> Costs:
    """The constants from times; those that no sample tells anything about are the old ones.

    First by least squares on the differences between two kernels' times: they are linear in the
    constants, what both pay (writing results, packing gradients) cancels out, and `auto` asks for
    nothing but their sign. Each is divided by the longer time, so that no sample counts for more
    than another. Then, from there and from the old ones, one constant after the other is moved as
    long as that lowers what the choice loses: the model is no more than a model, and where it
    errs, it had better not be near a crossing.
    """
    starts = (least_squares(samples, old, lanes), old)
    found = [descend(samples, start, lanes) for start in starts]
    return min(found, key=lambda constants: losses(samples, constants, lanes).mean)


def least_squares(samples: Sequence[Sample], old: Costs, lanes: int) -> Costs:
    """The first step of `fit`."""
    matrix, target = [], []
    for sample in samples:
        for one, other in itertools.combinations(sample.ns, 2):
            longer = max(sample.ns[one], sample.ns[other])
            counts = _counts(sample.layer, one, lanes) - _counts(sample.layer, other, lanes)
            matrix.append(counts * sample.layer.blocks(lanes) / longer)
            target.append((sample.ns[one] - sample.ns[other]) / longer)
    found, _ = nnls(np.array(matrix), np.array(target))
    unit, known = found[0], np.any(np.array(matrix) != 0, axis=0)
    if unit == 0:
        return old
    return Costs(**{
        name: value / unit if is_known else old.as_dict()[name]
        for name, value, is_known in zip(_NAMES[1:], found[1:], known[1:], strict=True)
    })  # fmt: skip


def descend(samples: Sequence[Sample], start: Costs, lanes: int) -> Costs:
    """The second step of `fit`: coordinate descent, on the constants that the samples know."""
    ways = ["windows", "dense", "event", "scatter"]  # as in costs.ways_of
    counts = np.zeros((len(samples), len(ways), len(_NAMES)))
    regrets = np.full((len(samples), len(ways)), np.inf)
    for i, sample in enumerate(samples):
        for way in sample.ns:
            counts[i, ways.index(way)] = _counts(sample.layer, way, lanes)
            regrets[i, ways.index(way)] = sample.regret(way)

    def loss(values: Array) -> float:
        prices = np.where(np.isinf(regrets), np.inf, counts @ np.concatenate([[1.0], values]))
        chosen = np.take_along_axis(regrets, prices.argmin(axis=1)[:, None], axis=1)
        return float(np.mean(np.log(chosen) ** 2))

    values = np.array(list(start.as_dict().values()))
    least = loss(values)
    improved = True
    while improved:
        improved = False
        for i in np.flatnonzero(np.any(counts != 0, axis=(0, 1))[1:]):
            for value in (*(values[i] * _FACTORS), *(values[i] + _STEPS)):
                tried = values.copy()
                tried[i] = value
                if (found := loss(tried)) < (1 - _LEAST_GAIN) * least:
                    values, least, improved = tried, found, True
    return Costs(**dict(zip(_NAMES[1:], values.tolist(), strict=True)))


def _counts(layer: Layer, way: str, lanes: int) -> Array:
    """costs.terms as a vector, in the order of _NAMES."""
    found = costs.terms(layer, way, lanes)
    return np.array([found.get(name, 0.0) for name in _NAMES])


# ---- what it means


@dataclass(frozen=True)
class Losses:
    """What a choice costs: its times over those of the fastest single kernel.

    Attributes:
        slow: samples where it is slower than AUTO_SLACK allows.
        there: of the worst.
    """

    samples: int
    slow: int
    worst: float
    there: str
    median: float
    mean: float

    @classmethod
    def of(cls, samples: Sequence[Sample], regrets: Sequence[float]) -> Losses:
        """Of one regret a sample."""
        worst = max(range(len(samples)), key=lambda i: regrets[i])
        layer = samples[worst].layer
        return cls(
            len(samples),
            sum(regret > AUTO_SLACK for regret in regrets),
            regrets[worst],
            f"{layer.name}, {percent(layer.density)}",
            statistics.median(regrets),
            statistics.fmean(regrets),
        )


def losses(samples: Sequence[Sample], constants: Costs, lanes: int) -> Losses:
    """Of the choices by these constants."""
    chosen = [costs.choose(sample.layer, constants, lanes) for sample in samples]
    return Losses.of(samples, [s.regret(way) for s, way in zip(samples, chosen, strict=True)])


def measured_losses(samples: Sequence[Sample]) -> Losses:
    """Of `auto` as it ran: with the constants it was compiled with, its own decision included."""
    return Losses.of(samples, [s.auto_ns / min(s.ns.values()) for s in samples])


# ---- the command


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    options = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(machine.line(), soft_wrap=True)
    rows = costs.parse(costs.FILE.read_text())
    report: dict[str, Any] = {
        "command": machine.command("tune", arguments), "machine": machine.facts(),
        "rounds": options.rounds, "targets": {},
    }  # fmt: skip
    for target in options.targets:
        width = WIDTHS[target]
        lanes = width // 4
        old = rows[width].costs
        layers = grid(options.products, options.quick)
        try:
            samples = measure(options.program, target, layers, options.rounds)
        except (OSError, RuntimeError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        new = costs.rounded(fit(samples, old, lanes))
        before, after = losses(samples, old, lanes), losses(samples, new, lanes)
        for table in tables(target, samples, old, new, lanes):
            _print(console, table)
        if after.mean < before.mean:
            rows[width] = Row(_origin(target), new)
        else:
            console.print(f"{target}: the old constants lose less and stay")
        report["targets"][target] = {
            "old": old.as_dict(),
            "new": new.as_dict(),
            "before": asdict(before),
            "after": asdict(after),
            "ran": asdict(measured_losses(samples)),
            "samples": [{**asdict(s.layer), "ns": s.ns, "auto_ns": s.auto_ns} for s in samples],
        }
    costs.write(rows, options.out)
    console.print(f"{options.out} is written; the next build reads it.", soft_wrap=True)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def tables(
    target: str, samples: Sequence[Sample], old: Costs, new: Costs, lanes: int
) -> list[Table]:
    """The constants, and what `auto` loses by them on each product."""
    before, after = old.as_dict(), new.as_dict()
    constants = Table(
        f"Costs on {target}, in vectors multiplied and added", ["constant", "old", "new"],
        [[name, f"{before[name]:g}", f"{after[name]:g}"] for name in before],
    )  # fmt: skip
    lines = []
    for product in [*dict.fromkeys(sample.layer.product for sample in samples), "all"]:
        chosen = [s for s in samples if product in ("all", s.layer.product)]
        for label, found in (
            ("as it ran", measured_losses(chosen)),
            ("by the old", losses(chosen, old, lanes)),
            ("by the new", losses(chosen, new, lanes)),
        ):
            lines.append([
                product, label, f"{found.slow} of {found.samples}", f"{found.median:.2f}",
                f"{found.mean:.3f}", f"{found.worst:.2f}", found.there,
            ])  # fmt: skip
    columns = ["product", "choice", f"slower by over {AUTO_SLACK - 1:.0%}", "median", "mean",
               "worst", "there"]  # fmt: skip
    title = f"`auto` on {target}: its time over the fastest single kernel's"
    return [constants, Table(title, columns, lines)]


def _print(console: Console, table: Table) -> None:
    view = View(title=table.title, title_justify="left", box=box.SIMPLE)
    for column in table.columns:
        view.add_column(column)
    for line in table.rows:
        view.add_row(*line)
    console.print(view)


def _origin(target: str) -> str:
    facts = machine.facts()
    return f"Written by `make tune` on {facts['date']}: {facts['processor']}, {target}, one thread."


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="a ninth of the grid, some minutes")
    add("--targets", type=choices(TARGETS), default=TARGETS, help="of " + ",".join(TARGETS))
    add(
        "--products",
        type=choices(PRODUCTS),
        default=list(PRODUCTS),
        help="of " + ",".join(PRODUCTS),
    )
    add("--rounds", type=count, default=7, help="turns of each kernel")
    add("--program", type=Path, default=PROGRAM, help="h2learn_tune (default: %(default)s)")
    add("--out", type=Path, default=costs.FILE, help="the file to write (default: the build's)")
    add("--json", type=Path, metavar="FILE", help="write everything as data")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
