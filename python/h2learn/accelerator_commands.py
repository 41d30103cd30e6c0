"""What the commands about accelerators do. Only `record` needs torch, and imports it itself."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from h2learn import __version__, cost
from h2learn.accelerators.config import Accelerator
from h2learn.accelerators.results import Simulation
from h2learn.accelerators.simulation import simulate as run_simulation
from h2learn.errors import InputError
from h2learn.outputs import check_outputs, write_json
from h2learn.report.accelerator import accelerator_facts, show_accelerator, show_comparison
from h2learn.report.trace import Timeline, require_plotting
from h2learn.report.units import amount, byte_size, duration
from h2learn.workload import Workload, load_workload

Facts = dict[str, Any]

MOST_STEPS = 10_000


def simulate(
    path: Path,
    accelerator: str,
    *,
    overrides: Sequence[str] = (),
    cost_tables: Sequence[str] = (),
    layers: Sequence[str] | None = None,
    steps: Sequence[int] | None = None,
    ablations: bool = False,
    json_file: Path | None = None,
    trace_file: Path | None = None,
    plot_file: Path | None = None,
) -> None:
    """Simulates a workload file and shows what the accelerator did.

    Args:
        path: of the workload.
        accelerator: preset or TOML file.
        overrides: parameters, "key=value" each.
        cost_tables: names or files; none means all that come with the package.
        layers: names of those to keep, None for all.
        steps: indices of those to keep, None for all.
        ablations: also simulate it with each mechanism switched off.
        json_file: where the facts go as data.
        trace_file: where the last step's timeline goes.
        plot_file: where a picture of it goes.

    Raises:
        InputError: anything the user can put right, before anything is simulated.
    """
    outputs = {"--json": json_file, "--trace": trace_file, "--plot": plot_file}
    check_outputs(outputs, (path,))
    if plot_file is not None:
        require_plotting(plot_file)
    machine = Accelerator.load(accelerator, overrides)
    tables = _tables(cost_tables)
    work = load_workload(path).select(layers, steps)
    machines = {machine.name: machine}
    if ablations:
        machines |= machine.ablations()
    console = Console()
    wants_tiles = trace_file is not None or plot_file is not None
    results, wall_seconds = _simulate_all(console, work, machines, tiles=wants_tiles)
    simulation = results[machine.name]
    facts: Facts = {
        "command": "simulate",
        "h2learn_version": __version__,
        "workload": str(path),
        **accelerator_facts(simulation, tables=tables, ablations=results, samples=_samples(work)),
        **_speed(simulation, wall_seconds[machine.name]),
    }
    console.print(f"{path}: {_size(work)}", highlight=False, markup=False, soft_wrap=True)
    show_accelerator(console, facts)
    console.print(
        f"Simulated in {duration(facts['wall_seconds'])}: "
        f"{amount(facts['simulated_cycles_per_second'])} cycles/s.",
        style="dim", highlight=False,
    )  # fmt: skip
    write_json(json_file, facts)
    if wants_tiles:
        _write_timeline(console, Timeline(simulation), trace_file, plot_file)


def compare(
    path: Path,
    accelerators: Sequence[str],
    *,
    overrides: Sequence[str] = (),
    cost_tables: Sequence[str] = (),
    layers: Sequence[str] | None = None,
    steps: Sequence[int] | None = None,
    json_file: Path | None = None,
) -> None:
    """Simulates the same work on several machines, and shows them side by side.

    Args:
        path: of the workload.
        accelerators: presets or TOML files; ratios are to the first.
        overrides: as in `simulate`, for every machine.
        cost_tables: likewise.
        layers: likewise.
        steps: likewise.
        json_file: where the rows go as data.

    Raises:
        InputError: anything the user can put right, before anything is simulated.
    """
    check_outputs({"--json": json_file}, (path,))
    machines: dict[str, Accelerator] = {}
    for name in accelerators:
        machine = Accelerator.load(name, overrides)
        if machine.name in machines:
            raise InputError(f"--accelerators names {machine.name} twice")
        machines[machine.name] = machine
    tables = _tables(cost_tables)
    work = load_workload(path).select(layers, steps)
    console = Console()
    results, wall_seconds = _simulate_all(console, work, machines)
    first = results[next(iter(machines))]
    rows = [
        {
            **accelerator_facts(result, tables=tables, samples=_samples(work)),
            "time_ratio": result.seconds / first.seconds if first.seconds else None,
            **_speed(result, wall_seconds[name]),
        }
        for name, result in results.items()
    ]
    console.print(f"{path}: {_size(work)}", highlight=False, markup=False, soft_wrap=True)
    console.print()
    show_comparison(console, rows)
    write_json(
        json_file,
        {"command": "compare", "h2learn_version": __version__, "workload": str(path), "rows": rows},
    )


def verify(configs: int, seed: int, json_file: Path | None) -> bool:
    """Runs both simulators on random machines and work; False, and the case, if they differ.

    Raises:
        InputError: a number is out of its range.
    """
    from h2learn.verify import verify as run_verify

    check_outputs({"--json": json_file})
    console = Console()
    with _progress(console) as progress:
        task = progress.add_task("comparing", total=max(configs, 0))
        report = run_verify(configs, seed, on_case=lambda _: progress.advance(task))
    facts = {"command": "verify", "h2learn_version": __version__, **report.to_dict()}
    speeds = [
        f"{amount(facts[f'{name}_cycles_per_second'])} cycles/s" for name in ("fast", "clocked")
    ]
    console.print(
        f"{report.mismatches} mismatches in {report.configs:,} random machines with random work "
        f"(seed {report.seed}), {report.simulated_cycles:,} cycles.\n"
        f"Fast simulator {speeds[0]}, clocked simulator {speeds[1]}.",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if report.first_mismatch is not None:
        console.print(report.first_mismatch, highlight=False, markup=False, soft_wrap=True)
    write_json(json_file, facts)
    return report.mismatches == 0


def synthesize(layers: str, out: Path, options: Mapping[str, Any]) -> None:
    """Writes a synthetic workload; `options` are those of `h2learn.synthetic.synthetic_workload`.

    Raises:
        InputError: an option is wrong, or the file cannot be written.
    """
    from h2learn.synthetic import synthetic_workload

    check_outputs({"--out": out})
    _save(Console(), synthetic_workload(layers, **options), out)


def record(path: Path, out: Path, steps: int, options: Mapping[str, Any]) -> None:
    """Records training steps of a trained run; its weights are not changed, nor is its folder.

    Args:
        path: run directory.
        out: workload file.
        steps: how many, each on other samples.
        options: `root` and `model` where they differ from the run's; else None.

    Raises:
        InputError: anything the user can put right, before anything is recorded.
    """
    import torch

    from h2learn import commands
    from h2learn.recorder import record as recording
    from h2learn.training import forward_backward

    check_outputs({"--out": out})
    _, trainer = commands.trained(path, options)
    config = trainer.config
    most = min(trainer.steps_per_epoch, MOST_STEPS)
    if not 1 <= steps <= most:
        raise InputError(f"--steps must be 1 to {most}, the steps of an epoch, got {steps}")
    torch.manual_seed(config.seed)
    batches = torch.randperm(len(trainer.data.train)).split(config.batch_size)[:steps]
    trainer.model.train()
    console = Console()
    with _progress(console) as progress, recording(trainer.model) as recorder:
        for indices in progress.track(batches, description="recording"):
            # No step of the optimiser: each step sees the weights that training ended with.
            forward_backward(trainer.model, *trainer.data.batch(trainer.data.train, indices))
    work = recorder.workload
    about = {"run": path.name or "run", "model": config.model, "dataset": config.dataset}
    _save(console, Workload(work.steps, {**work.info, **about}), out)


def _save(console: Console, work: Workload, out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror}") from error
    work.save(out)
    console.print(str(work), highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"\nSaved in {out} ({byte_size(out.stat().st_size)}): h2learn simulate {out}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip


def _tables(names: Sequence[str]) -> list[str]:
    """The cost tables to use, each looked at now, so that a bad one stops us before the work."""
    chosen = list(dict.fromkeys(names)) or list(cost.tables())
    for name in chosen:
        cost.Table.load(name)
    return chosen


def _simulate_all(
    console: Console, work: Workload, machines: Mapping[str, Accelerator], *, tiles: bool = False
) -> tuple[dict[str, Simulation], dict[str, float]]:
    """Results and wall seconds by machine; tiles of the first one only."""
    results: dict[str, Simulation] = {}
    seconds: dict[str, float] = {}
    with _progress(console) as progress:
        task = progress.add_task("simulating", total=len(work.steps) * len(machines))
        for name, machine in machines.items():
            started = time.perf_counter()
            results[name] = run_simulation(
                work, machine, tiles=tiles and not results,
                on_step=lambda _: progress.advance(task),
            )  # fmt: skip
            seconds[name] = time.perf_counter() - started
    return results, seconds


def _progress(console: Console) -> Progress:
    """A bar on a terminal, nothing elsewhere, and nothing of it left when it ends."""
    return Progress(
        TextColumn("{task.description}", style="cyan"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _speed(simulation: Simulation, wall_seconds: float) -> Facts:
    return {
        "wall_seconds": wall_seconds,
        "simulated_cycles_per_second": simulation.cycles / max(wall_seconds, 1e-9),
    }


def _samples(work: Workload) -> int:
    return sum(step[0].samples for step in work.steps)


def _size(work: Workload) -> str:
    return str(work).partition("\n")[0]


def _write_timeline(
    console: Console, timeline: Timeline, trace_file: Path | None, plot_file: Path | None
) -> None:
    for option, path in (("--trace", trace_file), ("--plot", plot_file)):
        if path is None:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if option == "--trace":
                timeline.save(path)
                told = f"{timeline.shown_tiles:,} of {timeline.tiles:,} tiles; open it at"
                told = f"Trace in {path}: {told} https://ui.perfetto.dev"
            else:
                timeline.save_plot(path)
                told = f"Plot in {path}"
        except OSError as error:
            raise InputError(f"{option} {path} cannot be written: {error.strerror}") from error
        console.print(told, style="dim", highlight=False, markup=False, soft_wrap=True)
