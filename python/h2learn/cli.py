"""The `h2learn` command: its options, its errors and its exit status.

Exit status: 0 done; 2 the user's input was wrong, with one line on stderr that says what; 1 for
anything else, Ctrl-C included. What the commands do is in `h2learn.commands`, imported when one
runs: it needs torch, and `--help` should not wait for that.
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
    help="Train spiking neural networks on bit-packed spikes.",
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
        str | None, typer.Option(help="Accelerator to emulate: none, so far.", metavar="NAME")
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


@app.command()
def info(json_file: JsonOption = None) -> None:
    """Show version, build, instruction sets, threads, kernels, data sets and models."""
    from h2learn import commands

    commands.info(json_file)
