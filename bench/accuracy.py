"""Trains the same networks with h2learn and with plain PyTorch, and compares their accuracy.

    python bench/accuracy.py [--only digits-mlp,mnist-lenet] [--seeds 0,1,2] [--root DIR]
                             [--epochs N] [--threads N] [--json FILE]

Both sides go through the trainer behind `h2learn train`, with its defaults: same first weights,
samples in the same order, same neuron, optimiser and schedule. They part only where float32 sums
are rounded differently: near a threshold that decides a spike, so that two runs of the same seed
end with different weights of the same quality. Hence several seeds, and their mean.

Exit status: 0 when every mean reaches its goal and lies within 0.7 points of PyTorch's; 1 when
not; 2 for a wrong argument or missing data.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import plain
import torch
from arguments import choices
from h2learn import SpikeTensor, nn
from h2learn.config import TrainConfig
from h2learn.datasets import Dataset
from h2learn.errors import InputError
from h2learn.training import Data, Trainer, build_model
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ALLOWED_DIFFERENCE_POINTS = 0.7


@dataclass(frozen=True)
class Task:
    """A data set (`folder` below --root; "" when it needs none), a model, and the goal in %."""

    dataset: str
    model: str
    folder: str
    goal_percent: float


TASKS = {
    f"{t.dataset}-{t.model}": t
    for t in (
        Task("digits", "mlp", "", 97.0),
        Task("mnist", "mlp", "mnist", 96.5),
        Task("mnist", "lenet", "mnist", 98.0),
        Task("nmnist", "lenet", "nmnist", 90.0),
    )
}


@dataclass(frozen=True)
class Outcome:
    """One finished training run."""

    accuracy_percent: float
    train_seconds: float


class DenseData(Data):
    """The same batches as ordinary dense tensors: plain PyTorch's side of the comparison."""

    def batch(self, part: Dataset, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs [T, B, C, H, W] in float32, and labels [B]."""
        inputs, labels = super().batch(part, indices)
        return (inputs.to_dense() if isinstance(inputs, SpikeTensor) else inputs), labels


def in_plain_pytorch(model: torch.nn.Sequential) -> torch.nn.Sequential:
    """The same network from torch.nn layers and `plain.FusedLIF`, with copies of the weights.

    Raises:
        TypeError: a layer, or an option of one, that the four tasks do not use.
    """
    return torch.nn.Sequential(*(_plain_layer(layer) for layer in model))


def _plain_layer(layer: torch.nn.Module) -> torch.nn.Module:
    if isinstance(layer, nn.Flatten):
        return torch.nn.Flatten(2)
    if isinstance(layer, nn.AvgPool2d):
        return plain.OverTime(torch.nn.AvgPool2d(layer.kernel_size, layer.stride))
    if isinstance(layer, nn.Linear):
        has_bias = layer.bias is not None
        linear = torch.nn.Linear(layer.in_features, layer.out_features, has_bias)
        return _with_weights(linear, layer)
    if isinstance(layer, nn.Conv2d):
        options: dict[str, Any] = {
            name: getattr(layer, name)
            for name in ("kernel_size", "stride", "padding", "dilation", "groups")
        }
        has_bias = layer.bias is not None
        convolution = torch.nn.Conv2d(
            layer.in_channels, layer.out_channels, bias=has_bias, **options
        )
        return plain.OverTime(_with_weights(convolution, layer))
    if (
        type(layer) is nn.LIF
        and layer.reset_mode == "hard"
        and not (layer.inclusive or layer.decay_input or layer.stateful)
    ):
        surrogate = layer.surrogate
        neuron = plain.Neuron(
            layer.decay.item(),
            layer.threshold.item(),
            surrogate.name,
            surrogate.width,
            layer.detach_reset,
        )
        return plain.FusedLIF(neuron)
    if isinstance(layer, nn.Readout) and layer.mode == "membrane" and layer.decay == 0.0:
        return plain.MeanOverTime()
    raise TypeError(f"no plain counterpart for {layer}")


def _with_weights(layer: torch.nn.Module, source: torch.nn.Module) -> torch.nn.Module:
    layer.load_state_dict(source.state_dict())
    return layer


def train(config: TrainConfig, data: Data, *, plainly: bool) -> Outcome:
    """One run from the first weights to the test accuracy after the last epoch."""
    model = build_model(config, data)
    if plainly:
        assert isinstance(model, torch.nn.Sequential)
        model = in_plain_pytorch(model)
        data = DenseData(data.train, data.test, data.timesteps)
    trainer = Trainer(model, data, config)
    seconds = sum(trainer.train_epoch().seconds for _ in range(config.epochs))
    return Outcome(100.0 * trainer.evaluate().accuracy, seconds)


def run_task(
    name: str, seeds: list[int], root: Path, epochs: int | None, console: Console
) -> dict[str, Any]:
    """Both sides on every seed; one row of the table, accuracies in per cent."""
    task = TASKS[name]
    options = {
        "dataset": task.dataset,
        "model": task.model,
        "root": str(root / task.folder) if task.folder else None,
        "epochs": epochs,
    }
    data = Data.load(TrainConfig.from_options(options))
    outcomes: dict[str, list[Outcome]] = {"h2learn": [], "pytorch": []}
    for seed in seeds:
        config = TrainConfig.from_options(options | {"seed": seed})
        for side, done in outcomes.items():
            done.append(train(config, data, plainly=side == "pytorch"))
            console.print(
                f"{name} seed {seed} {side}: {done[-1].accuracy_percent:.2f} %, "
                f"{done[-1].train_seconds:.1f} s of training"
            )
    means = {
        side: statistics.mean(o.accuracy_percent for o in done) for side, done in outcomes.items()
    }
    difference = means["h2learn"] - means["pytorch"]
    reached = means["h2learn"] >= task.goal_percent and abs(difference) <= ALLOWED_DIFFERENCE_POINTS
    row: dict[str, Any] = {"task": name, "seeds": seeds, **config.model_dump(exclude={"seed"})}
    for side, done in outcomes.items():
        row[f"{side}_accuracy_percent"] = means[side]
        row[f"{side}_accuracies_percent"] = [o.accuracy_percent for o in done]
        row[f"{side}_train_seconds"] = statistics.mean(o.train_seconds for o in done)
    return row | {
        "difference_points": difference,
        "goal_percent": task.goal_percent,
        "allowed_difference_points": ALLOWED_DIFFERENCE_POINTS,
        "reached": reached,
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows for the terminal."""
    view = Table(box=box.SIMPLE)
    view.add_column("task")
    for heading in (
        "h2learn\n% (by seed)", "PyTorch\n% (by seed)", "difference\npoints", "goal\n%",
        "h2learn\ns", "PyTorch\ns",
    ):  # fmt: skip
        view.add_column(heading, justify="right", no_wrap=True)
    view.add_column("reached")
    for row in rows:
        accuracies = (
            f"{row[f'{side}_accuracy_percent']:.2f} "
            f"({' '.join(f'{a:.1f}' for a in row[f'{side}_accuracies_percent'])})"
            for side in ("h2learn", "pytorch")
        )
        view.add_row(
            row["task"],
            *accuracies,
            f"{row['difference_points']:+.2f}",
            f"{row['goal_percent']:.1f}",
            f"{row['h2learn_train_seconds']:.1f}",
            f"{row['pytorch_train_seconds']:.1f}",
            "yes" if row["reached"] else "no",
        )
    return view


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    options = _parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(machine.line(), soft_wrap=True)
    rows = []
    try:
        for name in options.only:
            rows.append(run_task(name, options.seeds, options.root, options.epochs, console))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console.print(table(rows))
    if options.json:
        report = {
            "command": machine.command("accuracy", arguments),
            "machine": machine.facts(),
            "threads": torch.get_num_threads(),
            "rows": rows,
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if all(row["reached"] for row in rows) else 1


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--only", type=choices(TASKS), default=list(TASKS), help="some of " + ",".join(TASKS))
    add("--seeds", type=_whole_numbers, default=[0, 1, 2], help="for instance 0,1,2")
    add("--root", type=Path, default=DATA, help="folder of the data sets (%(default)s)")
    add("--epochs", type=int, help="instead of the defaults of `h2learn train`")
    add("--threads", type=int, help="for torch and the core")
    add("--json", type=Path, metavar="FILE", help="write the table as data")
    return parser.parse_args(arguments)


def _whole_numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers")
    return [int(part) for part in parts]


if __name__ == "__main__":
    sys.exit(main())
