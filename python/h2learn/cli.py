"""The `h2learn` command: its options, its errors and its exit status.

Exit status: 0 done; 2 the user's input was wrong, with one line on stderr that says what; 1 for
anything else, Ctrl-C included. What the commands do is in `h2learn.commands`, which needs torch,
and in `h2learn.accelerator_commands`, which does not; they are imported when a command runs.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from h2learn import __version__
from h2learn.errors import InputError

# A usage error (unknown option, wrong type) is click's, and recent typers bring their own click.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="h2learn",
    help="Train spiking neural networks on bit-packed spikes, with an accelerator beside it.",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status; errors become one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # an ASCII terminal still gets its table
    # Threads that spin while they wait slow training down tenfold on a machine with other work.
    # OpenMP reads this when torch loads it, which has not happened yet.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    command = typer.main.get_command(app)
    try:
        with _one_line_warnings():
            status = command.main(arguments, prog_name="h2learn", standalone_mode=False)
    except (InputError, _UsageError) as error:
        text = error.format_message() if hasattr(error, "format_message") else str(error)
        _say(f"error: {text}")
        return 2
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted")
        return 1
    except BrokenPipeError:
        # Whoever read our output is gone; nothing may be flushed to it when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a folder that went away
        _say(f"error: {error}")
        return 1
    return status if isinstance(status, int) else 0


def _say(message: str) -> None:
    print(" ".join(message.split()), file=sys.stderr)


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Warnings without the source line that raised them, which tells a user nothing."""
    shown = warnings.showwarning
    warnings.showwarning = lambda message, *_args, **_kwargs: _say(f"warning: {message}")
    try:
        yield
    finally:
        warnings.showwarning = shown


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"must be a whole number, got {text!r}") from None


def _real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"must be a number, got {text!r}") from None


DatasetOption = Annotated[
    str | None,
    typer.Option(help="digits (the default), mnist, nmnist or cifar10.", metavar="NAME"),
]
RootOption = Annotated[
    Path | None, typer.Option(help="Folder with the files of the data set.", metavar="DIR")
]
ThreadsOption = Annotated[
    int | None, typer.Option(parser=_whole, help="Threads to compute with.", metavar="N")
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Also write what is shown, as JSON.", metavar="FILE")
]


@app.command()
def train(
    dataset: DatasetOption = None,
    root: RootOption = None,
    model: Annotated[
        str | None, typer.Option(help="mlp, lenet, cifar10net, or file.py:factory.", metavar="NAME")
    ] = None,
    timesteps: Annotated[
        int | None, typer.Option(parser=_whole, help="Timesteps that a sample lasts.", metavar="T")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(parser=_whole, help="Passes over the training data.", metavar="N")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(parser=_whole, help="Samples of one training step.", metavar="B")
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            parser=_real, help="First learning rate of Adam; it decays to 0.", metavar="LR"
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            parser=_whole, help="Decides first weights and order; 0 by default.", metavar="S"
        ),
    ] = None,
    threads: ThreadsOption = None,
    kernel: Annotated[
        str | None, typer.Option(help="auto (the default), event, dense or lut.", metavar="NAME")
    ] = None,
    accelerator: Annotated[
        str | None,
        typer.Option(
            help="To simulate beside it: a preset, FILE.toml, or none (the default).",
            metavar="NAME",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run directory; runs/<dataset>-<model> by default.", metavar="DIR"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    json_file: JsonOption = None,
) -> None:
    """Train a model and leave a run directory.

    Options left out take the data set's defaults: h2learn info lists them.
    """
    from h2learn import commands

    options = {
        "dataset": dataset,
        "root": None if root is None else str(root.expanduser().absolute()),
        "model": model,
        "timesteps": timesteps,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "kernel": kernel,
        "accelerator": accelerator,
    }
    finished = commands.train(options, out, resume=resume, threads=threads, json_file=json_file)
    if not finished:
        raise typer.Exit(1)


@app.command()
def evaluate(
    run_dir: Annotated[Path, typer.Argument(help="What h2learn train left.", metavar="RUN_DIR")],
    dataset: Annotated[
        str | None, typer.Option(help="Another data set, of the same shape.", metavar="NAME")
    ] = None,
    root: RootOption = None,
    model: Annotated[
        str | None,
        typer.Option(help="file.py:factory, if that is what the run trained.", metavar="NAME"),
    ] = None,
    threads: ThreadsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Test a trained model, and show its table per layer."""
    from h2learn import commands

    options = {
        "dataset": dataset,
        "root": None if root is None else str(root.expanduser().absolute()),
        "model": model,
    }
    commands.evaluate(options, run_dir, threads=threads, json_file=json_file)


WorkloadArgument = Annotated[
    Path, typer.Argument(help="What h2learn record or synthesize left.", metavar="WORKLOAD")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change a parameter, as in dram.bytes_per_cycle=64 (may be repeated). Sizes are in "
        "bytes, times in cycles of the chip's clock, clock_hz in Hz.",
        metavar="KEY=VALUE",
    ),
]
CostOption = Annotated[
    list[str] | None,
    typer.Option(
        "--cost",
        help="Table of energies (pJ) and areas (um2), a name or FILE.toml (may be repeated); all "
        "that come with h2learn by default.",
        metavar="TABLE",
    ),
]
LayersOption = Annotated[
    str | None, typer.Option(help="Only these layers, as if there were no others.", metavar="A,B")
]
StepsOption = Annotated[
    str | None, typer.Option(help="Only these steps of the workload, from 0.", metavar="I,J")
]


@app.command()
def simulate(
    workload: WorkloadArgument,
    accelerator: Annotated[
        str, typer.Option(help="A preset, or FILE.toml.", metavar="NAME")
    ] = "h2learn",
    overrides: SetOption = None,
    cost_tables: CostOption = None,
    layers: LayersOption = None,
    steps: StepsOption = None,
    ablations: Annotated[
        bool,
        typer.Option("--ablations", help="Also without each of the accelerator's mechanisms."),
    ] = False,
    json_file: JsonOption = None,
    trace_file: Annotated[
        Path | None,
        typer.Option(
            "--trace",
            help="Timeline of the last step's tiles (microseconds and cycles) for "
            "ui.perfetto.dev; .gz is compressed.",
            metavar="FILE",
        ),
    ] = None,
    plot_file: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            help="Picture of that timeline: .png, .svg or .pdf (needs matplotlib).",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Show what an accelerator would do with a workload.

    Time in s and cycles, energy in J, power in W, area in mm2, layer by layer.
    """
    from h2learn import accelerator_commands

    accelerator_commands.simulate(
        workload,
        accelerator,
        overrides=overrides or (),
        cost_tables=cost_tables or (),
        layers=_names("--layers", layers),
        steps=_indices("--steps", steps),
        ablations=ablations,
        json_file=json_file,
        trace_file=trace_file,
        plot_file=plot_file,
    )


@app.command()
def compare(
    workload: WorkloadArgument,
    accelerators: Annotated[
        str,
        typer.Option(help="Presets or TOML files; ratios are to the first.", metavar="A,B,..."),
    ],
    overrides: SetOption = None,
    cost_tables: CostOption = None,
    layers: LayersOption = None,
    steps: StepsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Set several accelerators side by side on the same work.

    Time in s, energy in J, power in W, area in mm2, use of the engines' peaks.
    """
    from h2learn import accelerator_commands

    accelerator_commands.compare(
        workload,
        _names("--accelerators", accelerators) or [],
        overrides=overrides or (),
        cost_tables=cost_tables or (),
        layers=_names("--layers", layers),
        steps=_indices("--steps", steps),
        json_file=json_file,
    )


@app.command()
def record(
    run_dir: Annotated[Path, typer.Argument(help="What h2learn train left.", metavar="RUN_DIR")],
    out: Annotated[Path, typer.Option(help="Workload file to write.", metavar="FILE")],
    steps: Annotated[
        int, typer.Option(parser=_whole, help="Training steps to record.", metavar="N")
    ] = 1,
    root: RootOption = None,
    model: Annotated[
        str | None,
        typer.Option(help="file.py:factory, if that is what the run trained.", metavar="NAME"),
    ] = None,
) -> None:
    """Record training steps of a trained run, for h2learn simulate."""
    from h2learn import accelerator_commands

    options = {"root": None if root is None else str(root.expanduser().absolute()), "model": model}
    accelerator_commands.record(run_dir, out, steps, options)


@app.command()
def synthesize(
    layers: Annotated[
        str,
        typer.Argument(
            help="Layers, as in 128C3-256C3s2-AP2-512-10: convolutions with channels, kernel and "
            "stride, average (AP) or maximum (MP) pooling, fully connected layers.",
            metavar="LAYERS",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Workload file to write.", metavar="FILE")],
    shape: Annotated[
        str,
        typer.Option(help="Of a sample at one timestep: channels, height, width.", metavar="C,H,W"),
    ],
    timesteps: Annotated[
        int, typer.Option(parser=_whole, help="Timesteps of a sample.", metavar="T")
    ] = 8,
    samples: Annotated[
        int, typer.Option(parser=_whole, help="Samples of the step.", metavar="B")
    ] = 8,
    input_density: Annotated[
        str | None,
        typer.Option(
            help="Share of set bits among the inputs, 0 to 1; one, or one a layer with commas.",
            metavar="D",
        ),
    ] = None,
    mask_density: Annotated[
        str | None,
        typer.Option(help="Share of neurons inside the surrogate's window.", metavar="D"),
    ] = None,
    gradient_density: Annotated[
        str | None, typer.Option(help="Share of gradients that are not zero.", metavar="D")
    ] = None,
    analog_bits: Annotated[
        int | None,
        typer.Option(
            parser=_whole,
            help="Bits of the first layer's inputs; 0, the default, for spikes.",
            metavar="N",
        ),
    ] = None,
    padding: Annotated[
        str | None, typer.Option(help="same (the default) or valid.", metavar="NAME")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(parser=_whole, help="Of the random bits.", metavar="S")
    ] = None,
) -> None:
    """Make a workload of given shapes and densities, without a network."""
    from h2learn import accelerator_commands

    options = {
        "sample_shape": _indices("--shape", shape),
        "timesteps": timesteps,
        "samples": samples,
        "input_density": _densities("--input-density", input_density),
        "mask_density": _densities("--mask-density", mask_density),
        "gradient_density": _densities("--gradient-density", gradient_density),
        "analog_bits": analog_bits,
        "padding": padding,
        "seed": seed,
    }
    given = {name: value for name, value in options.items() if value is not None}
    accelerator_commands.synthesize(layers, out, given)


@app.command()
def verify(
    configs: Annotated[
        int, typer.Option(parser=_whole, help="Random machines to try.", metavar="N")
    ] = 300,
    seed: Annotated[
        int, typer.Option(parser=_whole, help="Of the random machines and work.", metavar="S")
    ] = 0,
    json_file: JsonOption = None,
) -> None:
    """Compare the fast simulator with the clocked one, cycle by cycle.

    Status 1, and a program that shows it, if any number differs.
    """
    from h2learn import accelerator_commands

    if not accelerator_commands.verify(configs, seed, json_file):
        raise typer.Exit(1)


@app.command()
def info(json_file: JsonOption = None) -> None:
    """Show version, build, instruction sets, threads, and what options can name."""
    from h2learn import commands

    commands.info(json_file)


def _names(option: str, text: str | None) -> list[str] | None:
    """What stands between commas."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise InputError(f"{option} must be names with commas between them, got {text!r}")
    return names


def _indices(option: str, text: str | None) -> list[int] | None:
    names = _names(option, text)
    try:
        return None if names is None else [int(name) for name in names]
    except ValueError:
        raise InputError(
            f"{option} must be whole numbers with commas between them, got {text!r}"
        ) from None


def _densities(option: str, text: str | None) -> float | list[float] | None:
    names = _names(option, text)
    if names is None:
        return None
    try:
        shares = [float(name) for name in names]
    except ValueError:
        raise InputError(
            f"{option} must be a number, or numbers with commas between them, got {text!r}"
        ) from None
    return shares[0] if len(shares) == 1 else shares
