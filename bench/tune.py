"""Measures what the kernels' steps cost on this machine, and writes it where the build reads it.

    python bench/tune.py [--quick] [--targets avx2] [--program FILE] [--out FILE] [--json FILE]
    python bench/tune.py --sampled [...]
    python bench/tune.py --digits [...]

kernel="auto" chooses between the event kernels and the dense ones by a model of their costs
(`cpp/src/kernels/synapse_choice.hpp`), whose constants stand in `cpp/src/kernels/costs.inc`, a row
for each width of vectors. This command times every single kernel over a grid of layers and
densities, on each instruction set of the machine, by one thread (`h2learn_tune`, bench/tune.cpp);
fits the constants; shows what `auto` loses with the old ones and with the new; and writes the new
where they lose less. Rows of widths that this machine does not have stay as they are.

With --sampled it does the same with the one row of `cpp/src/sampled_costs.inc`, by which `auto`
takes `sampled` for gradients of inputs, on the best instruction set (or on all of --targets, as one
set of samples). The order of additions follows from that choice: builds with different rows compute
different gradients in the last bits. A new row belongs to a release of the project, not to a
machine, and so is made only when asked for.

With --digits it does the same with the rows of `cpp/src/digits_costs.inc`, by which
kernel="fastest" takes `digits`, one for each instruction set that multiplies bytes and each product
that digits compute. Where they gain nothing there is no row.

Exit status: 0; 1 when a kernel could not be measured; 2 for a wrong argument. See
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import choice as choice_files
import costs
import digits_costs
import machine
import sampled_costs
from arguments import choices, count
from choice import Choice, Constants, Row, Sample
from costs import KernelChoice
from digits_costs import DigitsChoice
from fitting import fit, losses, measured_losses
from h2learn import _core
from kernel_tables import AUTO_SLACK, Table, show
from layer import FEW_IMAGES, Layer
from rich.console import Console
from sampled_costs import SampledChoice
from targets import DIGITS_ONLY

PROGRAM = Path("build/bench/bench/h2learn_tune")
# avx512vnni and amx run avx512's kernels; the plain reference has no choice to make.
WIDTHS = {"baseline": 16, "avx2": 32, "avx512": 64}
TARGETS = [target for target in _core.available_targets() if target in WIDTHS]
DIGITS_TARGETS = [target for target in _core.available_targets() if target in DIGITS_ONLY]

BIT_DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7)
VALUE_DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
MASKED_DENSITIES = (0.05, 0.15, 0.35, 0.6, 1.0)
NEEDED = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6)
DIGITS_DENSITIES = (0.01, 0.05, 0.1, 0.2, 0.35, 0.6)
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
MANY_ROWS = 4096
"""Of a whole product at least, as in a step: costs that rows share have to be told apart."""
MASKED_ROWS = 1024
"""Of a masked backward pass together at least: in training, too, packing weights counts little."""


# ---- measuring


def grid(products: Sequence[str], quick: bool) -> list[Layer]:
    """Every layer, product and density that is measured."""
    layers = []
    for product, shape in itertools.product(products, _shapes(quick)):
        is_bits = Layer(product, *shape, 0.0).is_bits
        densities = BIT_DENSITIES if is_bits else VALUE_DENSITIES
        layers += [Layer(product, *shape, d) for d in (densities[QUICK] if quick else densities)]
    return layers


def masked_grid(quick: bool) -> list[Layer]:
    """Backward passes under a mask, where `auto` may choose `sampled` at all."""
    kept = QUICK if quick else slice(None)
    layers = [
        Layer("masked_backward", *shape, density, needed)
        for shape in _shapes(quick, MASKED_ROWS)
        for density, needed in itertools.product(MASKED_DENSITIES[kept], NEEDED[kept])
    ]
    return [layer for layer in layers if layer.size > 1 or layer.images > FEW_IMAGES]


def digits_grid(product: str, quick: bool) -> list[Layer]:
    """Whole products, of few positions and of many: packing weights counts for less there."""
    shapes = dict.fromkeys(_shapes(quick) + _shapes(quick, MASKED_ROWS) + _shapes(quick, MANY_ROWS))
    if product == "weight_update":  # digits take 64 images at a time
        shapes |= dict.fromkeys((*shape[:-1], 64) for shape in shapes)
    densities = DIGITS_DENSITIES[QUICK] if quick else DIGITS_DENSITIES
    return [
        Layer(f"digits_{product}", *shape, density)
        for shape, density in itertools.product(shapes, densities)
    ]


def _shapes(quick: bool, least_rows: int = 0) -> list[tuple[int, ...]]:
    """Layer's fields from channels to images."""
    shapes = [(*shape, 1, 0, 1, images) for shape in LINEAR for images in IMAGES]
    for channels, size, outputs, kernel, padding, stride in CONVOLUTIONS:
        out_size = (size + 2 * padding - kernel) // stride + 1
        work = out_size**2 * kernel**2 * channels * outputs
        images = min(max(1, MULTIPLY_ADDS // work, least_rows // size**2), 64)
        shapes.append((channels, size, outputs, kernel, padding, stride, images))
    return shapes[QUICK] if quick else shapes


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


# ---- the command


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    options = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(machine.line(), soft_wrap=True)
    report: dict[str, Any] = {
        "command": machine.command("tune", arguments), "machine": machine.facts(),
        "rounds": options.rounds,
    }  # fmt: skip
    try:
        tune = tune_sampled if options.sampled else tune_digits if options.digits else tune_kernels
        report["targets"] = tune(options, console)
    except (OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def tune_kernels(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The rows of costs.inc, a target's each; returns what to report of each."""
    rows = costs.parse(costs.FILE.read_text())
    report = {}
    for target in options.targets or TARGETS:
        width = WIDTHS[target]
        choice = KernelChoice(width // 4)
        old = rows[width].costs
        layers = grid(options.products, options.quick)
        samples = measure(options.program, target, layers, options.rounds)
        new = fit(samples, old, choice).rounded()
        report[target] = _compare(console, target, samples, old, new, choice)
        if losses(samples, new, choice).mean < losses(samples, old, choice).mean:
            rows[width] = Row(_origin("make tune", target), new)
        else:
            console.print(f"{target}: the old constants lose less and stay")
    _write(console, costs.render(rows), options.out or costs.FILE)
    return report


def tune_sampled(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The row of sampled_costs.inc, of all targets' samples; returns what to report of each."""
    choice = SampledChoice()
    old = sampled_costs.parse(sampled_costs.FILE.read_text()).costs
    layers = masked_grid(options.quick)
    measured = {
        target: measure(options.program, target, layers, options.rounds)
        for target in options.targets or TARGETS[-1:]
    }
    samples = list(itertools.chain(*measured.values()))
    new = fit(samples, old, choice).rounded()
    report = {t: _compare(console, t, some, old, new, choice) for t, some in measured.items()}
    if losses(samples, new, choice).mean >= losses(samples, old, choice).mean:
        console.print("The old constants lose less and stay.")
        return report
    row = Row(_origin("make tune TUNE=--sampled", ", ".join(measured)), new)
    _write(console, sampled_costs.render(row), options.out or sampled_costs.FILE)
    console.print(
        "With it, `auto` adds up gradients of inputs in another order, and their last bits differ "
        "from those of builds with the old one: it belongs to a release of the project, not to a "
        "machine.",
        soft_wrap=True,
    )
    return report


def tune_digits(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The rows of digits_costs.inc, a target's and product's each; what to report of each."""
    rows = digits_costs.parse(digits_costs.FILE.read_text())
    report = {}
    for target, product in itertools.product(
        options.targets or DIGITS_TARGETS, digits_costs.PRODUCTS
    ):
        choice = DigitsChoice(target)
        layers = digits_grid(product, options.quick)
        layers = [layer for layer in layers if "digits" in choice.ways_of(layer)]
        key = target, product
        if not any("digits" in s.ns for s in measure(options.program, target, layers[-3:], 1)):
            console.print(f"{target}, {product}: digits leave it to auto")
            continue
        old = rows[key].costs if key in rows else digits_costs.NEVER
        samples = measure(options.program, target, layers, options.rounds)
        # What digits leave to auto (a backward pass' strides, say), they leave whatever is chosen.
        samples = [sample for sample in samples if "digits" in sample.ns]
        new = fit(samples, old, choice).rounded()
        title = f"{target}, {product}"
        report[title] = _compare(console, title, samples, old, new, choice)
        if losses(samples, new, choice).mean < losses(samples, old, choice).mean:
            rows[key] = Row(_origin("make tune TUNE=--digits", target), new)
        else:
            console.print(f"{title}: the old constants lose less and stay")
    _write(console, digits_costs.render(rows), options.out or digits_costs.FILE)
    return report


def _compare(
    console: Console,
    target: str,
    samples: Sequence[Sample],
    old: Constants,
    new: Constants,
    choice: Choice,
) -> dict[str, Any]:
    """Prints the tables of one target; the same as data."""
    show(tables(target, samples, old, new, choice), console)
    return {
        "old": old.as_dict(),
        "new": new.as_dict(),
        "before": asdict(losses(samples, old, choice)),
        "after": asdict(losses(samples, new, choice)),
        "ran": asdict(measured_losses(samples)),
        "samples": [{**asdict(s.layer), "ns": s.ns, "auto_ns": s.auto_ns} for s in samples],
    }


def tables(
    target: str, samples: Sequence[Sample], old: Constants, new: Constants, choice: Choice
) -> list[Table]:
    """The constants, and what `auto` loses by them on each group of samples."""
    before, after = old.as_dict(), new.as_dict()
    constants = Table(
        f"Costs on {target}, in {choice.unit}", ["constant", "old", "new"],
        [[name, f"{before[name]:g}", f"{after[name]:g}"] for name in before],
    )  # fmt: skip
    lines = []
    for group in [*dict.fromkeys(choice.group(sample.layer) for sample in samples), "all"]:
        chosen = [s for s in samples if group in ("all", choice.group(s.layer))]
        for label, found in (
            ("as it ran", measured_losses(chosen)),
            ("by the old", losses(chosen, old, choice)),
            ("by the new", losses(chosen, new, choice)),
        ):
            lines.append([
                group, label, f"{found.slow} of {found.samples}", f"{found.median:.2f}",
                f"{found.mean:.3f}", f"{found.worst:.2f}", found.there,
            ])  # fmt: skip
    columns = [choice.groups, "choice", f"slower by over {AUTO_SLACK - 1:.0%}", "median", "mean",
               "worst", "there"]  # fmt: skip
    title = f"`auto` on {target}: its time over the fastest single kernel's"
    return [constants, Table(title, columns, lines)]


def _write(console: Console, text: str, path: Path) -> None:
    choice_files.write(text, path)
    console.print(f"{path} is written; the next build reads it.", soft_wrap=True)


def _origin(command: str, targets: str) -> str:
    facts = machine.facts()
    return (
        f"Written by `{command}` on {facts['date']}: {facts['processor']}, {targets}, one thread."
    )


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="a ninth of the grid, some minutes")
    every = list(dict.fromkeys([*TARGETS, *DIGITS_TARGETS]))
    add(
        "--targets",
        type=choices(every),
        help="of " + ",".join(every) + " (default: all that have a row; with --sampled the last)",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--products",
        type=choices(PRODUCTS),
        default=list(PRODUCTS),
        help="of " + ",".join(PRODUCTS),
    )
    what.add_argument(
        "--sampled",
        action="store_true",
        help="where `auto` takes `sampled`: changes the order of additions, for releases",
    )
    what.add_argument(
        "--digits", action="store_true", help="where `fastest` takes `digits`, beside `auto`"
    )
    add("--rounds", type=count, default=7, help="turns of each kernel")
    add("--program", type=Path, default=PROGRAM, help="h2learn_tune (default: %(default)s)")
    add("--out", type=Path, help="the file to write (default: the build's)")
    add("--json", type=Path, metavar="FILE", help="write everything as data")
    options = parser.parse_args(arguments)
    allowed = DIGITS_TARGETS if options.digits else TARGETS
    if not set(options.targets or []) <= set(allowed):
        parser.error(f"--targets must be of {','.join(allowed)} here")
    return options


if __name__ == "__main__":
    sys.exit(main())
