"""What a command prints: the head of a run, its results, the facts of an installation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from h2learn import __version__
from h2learn.report.table import layer_tables
from h2learn.report.units import amount, duration, percent

if TYPE_CHECKING:
    from h2learn.training import Trainer


def show_header(console: Console, trainer: Trainer, path: Path) -> None:
    """What is trained, on what, how, and where it goes."""
    config, data = trainer.config, trainer.data
    shape = "x".join(str(size) for size in data.train.sample_shape)
    parameters = sum(p.numel() for p in trainer.model.parameters())
    before = f", {trainer.epoch} done" if trainer.epoch else ""
    _facts(
        console,
        f"h2learn {__version__}: {config.model} on {config.dataset}",
        {
            "data": f"{len(data.train):,} training and {len(data.test):,} test samples of {shape}, "
            f"{len(data.train.classes)} classes, {config.timesteps} timesteps",
            "model": f"{parameters:,} parameters, kernel {config.kernel}",
            "run": f"{config.epochs} epochs{before}, {trainer.steps_per_epoch} steps of "
            f"{config.batch_size} samples each, learning rate {config.lr:g}, seed {config.seed}",
            "out": str(path),
        },
    )


def show_results(console: Console, summary: Mapping[str, Any]) -> None:
    """Accuracy, times, and the table per layer."""
    right = round(summary["test_accuracy"] * summary["test_samples"])
    console.print()
    console.print(
        f"Test accuracy {percent(summary['test_accuracy'], 2)} "
        f"({right:,} of {summary['test_samples']:,}) after {summary['epochs_done']} of "
        f"{summary['epochs']} epochs.",
        style="bold",
        highlight=False,
        soft_wrap=True,
    )
    if summary["step_ms"] is not None:
        console.print(
            f"Training took {duration(summary['train_seconds'])}: "
            f"{summary['step_ms']:.3g} ms a step, "
            f"{amount(summary['samples_per_second'])} samples/s. "
            f"Testing took {duration(summary['test_seconds'])}.",
            highlight=False,
            soft_wrap=True,
        )
    console.print()
    console.print(
        f"One training step: {summary['layers_samples']} samples, "
        f"{summary['timesteps']} timesteps.",
        highlight=False,
    )
    console.print()
    for table in layer_tables(summary["layers"]):
        console.print(table)


def show_info(console: Console, facts: Mapping[str, Any]) -> None:
    """The facts that `h2learn info` collects."""
    build = facts["build"]
    targets = [
        f"{name} (active)" if name == facts["active_target"] else name for name in facts["targets"]
    ]
    _facts(
        console,
        f"h2learn {facts['version']}",
        {
            "build": ", ".join(f"{key} {build[key]}" for key in build if key != "version"),
            "python": f"{facts['python']}, torch {facts['torch']}",
            "targets": ", ".join(targets),
            "threads": str(facts["threads"]),
        },
    )
    _facts(console, "\nKernels (--kernel)", facts["kernels"])
    rows = {
        name: f"{row['model']}, {row['timesteps']} timesteps, {row['epochs']} epochs, "
        f"batches of {row['batch_size']}, learning rate {row['lr']:g}"
        for name, row in facts["datasets"].items()
    }
    _facts(console, "\nData sets (--dataset) and their defaults", rows)
    _facts(console, "\nAccelerators (--accelerator), or FILE.toml", facts["accelerators"])
    _facts(console, "\nCost tables (--cost), or FILE.toml", facts["cost_tables"])
    names = ", ".join([*facts["models"], "or file.py:factory"])
    console.print("\nModels (--model)", style="bold")
    console.print(f"  {names}", highlight=False)


def _facts(console: Console, title: str, facts: Mapping[str, str]) -> None:
    """A bold title and under it one line a fact, aligned."""
    width = max(len(name) for name in facts)
    console.print(title, style="bold", highlight=False, soft_wrap=True)
    for name, value in facts.items():
        console.print(f"  [dim]{name:<{width}}[/]  ", end="", highlight=False)
        console.print(value, highlight=False, markup=False, soft_wrap=True)
