"""What the commands do: from checked options to a run directory and a report on the screen."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from h2learn import __version__, build_info, models
from h2learn.config import TrainConfig, default_model, defaults
from h2learn.datasets import NAMES
from h2learn.errors import InputError
from h2learn.files import check_creatable, replace_file
from h2learn.kernels import KERNELS
from h2learn.report.progress import TrainingDisplay
from h2learn.report.screen import show_header, show_info, show_results
from h2learn.report.table import layer_rows
from h2learn.runs import Record, Run, check_free, software, to_json
from h2learn.training import (
    Data,
    Evaluation,
    Progress,
    Trainer,
    TrainingError,
    build_model,
)

MAX_THREADS = 1024
# Options that a resumed run may be given anew: they name things, and decide no weight.
RENAMABLE = {"root", "model"}


def train(
    options: Mapping[str, Any],
    out: Path | None,
    *,
    resume: bool,
    threads: int | None,
    json_file: Path | None,
) -> bool:
    """Trains a new run, or the rest of one, and reports; False if it was cut short.

    Args:
        options: fields of `TrainConfig`; None where the user said nothing.
        out: run directory, by default `runs/<dataset>-<model>`.
        resume: continue the run in `out` instead of making it.
        threads: for torch and the core; None leaves torch's choice.
        json_file: where the summary goes as well.

    Raises:
        InputError: anything the user can put right, before any training.
    """
    _prepare(threads, json_file)
    path = _default_out(options) if out is None else out
    if resume:
        run = Run.open(path)
        config = _resumed(run, options)
    else:
        config = TrainConfig.from_options(options)
        check_free(path)
    models.check_name(config.model)
    trainer = _trainer(config)
    console = Console()
    if resume:
        run.restore(trainer)
        run.cut_metrics(trainer.epoch)
        _note_other_software(run)
    else:
        run = Run.create(path, trainer)
    show_header(console, trainer, path)
    if not _run_epochs(console, run, trainer):
        return False
    summary = _summary("train", run, trainer)
    run.save_results(summary)
    show_results(console, summary)
    _write_json(json_file, summary)
    return True


def evaluate(
    options: Mapping[str, Any], path: Path, *, threads: int | None, json_file: Path | None
) -> None:
    """Tests the last checkpoint of a run and reports.

    Args:
        options: `dataset`, `root` and `model` where they differ from the run's; else None.
        path: run directory.
        threads: as in `train`.
        json_file: likewise.

    Raises:
        InputError: anything the user can put right.
    """
    _prepare(threads, json_file)
    run = Run.open(path)
    config = _renamed(run.config, options)
    dataset = options["dataset"]
    if dataset is not None and dataset != config.dataset:
        # The run's own root belongs to the data it was trained on.
        config = TrainConfig.checked(
            config.model_dump() | {"dataset": dataset, "root": options["root"]}
        )
    models.check_name(config.model)
    trainer = _trainer(config)
    run.restore(trainer)
    console = Console()
    show_header(console, trainer, path)
    summary = _summary("evaluate", run, trainer)
    show_results(console, summary)
    _write_json(json_file, summary)


def info(json_file: Path | None) -> None:
    """Shows what this installation is and offers."""
    _prepare(None, json_file)
    build = build_info()
    facts: Record = {
        "version": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "build": {key: build[key] for key in build if "target" not in key},
        "targets": build["targets"],
        "active_target": build["active_target"],
        "threads": torch.get_num_threads(),
        "kernels": dict(KERNELS),
        "models": list(models.MODELS),
        "datasets": {
            name: {"model": default_model(name), **vars(defaults(name, default_model(name)))}
            for name in NAMES
        },
    }
    show_info(Console(), facts)
    _write_json(json_file, facts)


def _prepare(threads: int | None, json_file: Path | None) -> None:
    """Checks what needs no data, and sets the number of threads."""
    if json_file is not None:
        if json_file.is_dir():
            raise InputError(f"--json {json_file} is a folder; name a file")
        check_creatable(json_file, "--json")
    if threads is not None:
        if not 1 <= threads <= MAX_THREADS:
            raise InputError(f"--threads must be 1 to {MAX_THREADS}, got {threads}")
        torch.set_num_threads(threads)
    try:
        build_info()
    except ValueError as error:  # H2LEARN_TARGET names nothing that this machine has
        raise InputError(str(error)) from error


def _default_out(options: Mapping[str, Any]) -> Path:
    dataset = options["dataset"] or "digits"
    model = options["model"] or default_model(dataset)
    if model not in models.MODELS:
        model = Path(model.rpartition(":")[0]).stem or model
    return Path("runs") / f"{dataset}-{model}"


def _resumed(run: Run, options: Mapping[str, Any]) -> TrainConfig:
    """The run's configuration; an option that contradicts it is an error."""
    config = _renamed(run.config, options)
    for name, value in options.items():
        kept = getattr(config, name)
        if name not in RENAMABLE and value is not None and value != kept:
            raise InputError(
                f"--{name.replace('_', '-')} {value} differs from the run's {kept}: a resumed run "
                "keeps its options; leave it out, or start another run with --out"
            )
    return config


def _renamed(config: TrainConfig, options: Mapping[str, Any]) -> TrainConfig:
    """With the places where the user now says data and code are.

    A file named in a run directory is never imported: whoever made the directory could choose
    what we execute. So the user names it.
    """
    named, trained = options["model"], config.model
    is_own_code = trained not in models.MODELS
    if is_own_code and named is None:
        raise InputError(
            f"the run trained a model of your own, {trained}: name its code with "
            "--model file.py:factory, because no code is taken from a run directory"
        )
    if named is not None and named != trained and (not is_own_code or named in models.MODELS):
        raise InputError(f"--model {named} differs from the run's {trained}; leave it out")
    root = config.root if options["root"] is None else options["root"]
    return config.model_copy(update={"root": root, "model": named or trained})


def _trainer(config: TrainConfig) -> Trainer:
    data = Data.load(config)
    return Trainer(build_model(config, data), data, config)


def _run_epochs(console: Console, run: Run, trainer: Trainer) -> bool:
    """Trains what is left, saving each epoch; False, and a message, if that is cut short."""
    epochs, saved = trainer.config.epochs, trainer.epoch
    try:
        with TrainingDisplay(console, epochs, trainer.epoch + 1) as display:
            while trainer.epoch < epochs:
                progress = trainer.train_epoch(display.step)
                evaluation = trainer.evaluate()
                run.save_epoch(trainer, _metrics(progress, evaluation))
                saved = trainer.epoch
                display.epoch(progress, evaluation)
    except KeyboardInterrupt:
        # On the disk since the last epoch ended: nothing is left to be done in a hurry.
        _say(
            f"interrupted; {saved} of {epochs} epochs are kept, and this continues with: "
            f"{_resume_command(run, trainer)}"
        )
        return False
    except TrainingError as error:
        _say(f"error: {error}; {run.path} keeps {saved} of {epochs} epochs")
        return False
    return True


def _resume_command(run: Run, trainer: Trainer) -> str:
    model = trainer.config.model
    own_code = "" if model in models.MODELS else f" --model {shlex.quote(model)}"
    return f"h2learn train --resume --out {shlex.quote(str(run.path))}{own_code}"


def _metrics(progress: Progress, evaluation: Evaluation) -> Record:
    """An epoch's line in metrics.jsonl. Accuracies and rates are shares of one."""
    return {
        "epoch": progress.epoch,
        "loss": progress.loss,
        "train_accuracy": progress.accuracy,
        "test_loss": evaluation.loss,
        "test_accuracy": evaluation.accuracy,
        "firing_rates": progress.firing_rates,
        "seconds": progress.seconds,
        "samples_per_second": progress.samples_per_second,
    }


def _summary(command: str, run: Run, trainer: Trainer) -> Record:
    """What is shown at the end, as data. Measures the test part and one training step."""
    evaluation = trainer.evaluate()
    lines = run.metrics(trainer.epoch)
    train_seconds = sum(line["seconds"] for line in lines)
    steps = trainer.epoch * trainer.steps_per_epoch
    trained_samples = trainer.epoch * len(trainer.data.train)
    return {
        "command": command,
        "run": str(run.path),
        **trainer.config.model_dump(),
        "epochs_done": trainer.epoch,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "test_accuracy": evaluation.accuracy,
        "test_loss": evaluation.loss,
        "test_samples": evaluation.samples,
        "test_seconds": evaluation.seconds,
        "train_loss": lines[-1]["loss"] if lines else None,
        "train_accuracy": lines[-1]["train_accuracy"] if lines else None,
        "train_seconds": train_seconds,
        "step_ms": 1e3 * train_seconds / steps if steps else None,
        "samples_per_second": trained_samples / train_seconds if lines else None,
        "threads": torch.get_num_threads(),
        **{f"{name}_version" if name != "target" else name: v for name, v in software().items()},
        "layers_samples": trainer.table_batch,
        "layers": layer_rows(trainer.count_layers()),
    }


def _note_other_software(run: Run) -> None:
    for name, now in software().items():
        then = run.made_by.get(name)
        if then != now:
            _say(
                f"warning: this run was begun with {name} {then} and goes on with {now}: "
                "its weights may come out different in the last bits"
            )


def _write_json(json_file: Path | None, content: Record) -> None:
    if json_file is None:
        return
    try:
        if json_file.exists() and not json_file.is_file():  # /dev/stdout, a pipe
            json_file.write_bytes(to_json(content))
            return
        json_file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(json_file, to_json(content))
    except OSError as error:
        raise InputError(f"--json {json_file} cannot be written: {error.strerror}") from error


def _say(message: str) -> None:
    print(message, file=sys.stderr)
