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

from h2learn import __version__, build_info, cost, models
from h2learn.accelerators.config import Accelerator, presets
from h2learn.accelerators.simulation import simulate
from h2learn.config import TrainConfig, default_model, defaults
from h2learn.datasets import NAMES
from h2learn.errors import InputError
from h2learn.kernels import KERNELS
from h2learn.offloading import Offload, offload
from h2learn.outputs import check_outputs, write_json
from h2learn.recorder import workload_from_model
from h2learn.report.accelerator import accelerator_facts, show_accelerator
from h2learn.report.progress import TrainingDisplay
from h2learn.report.screen import show_header, show_info, show_results
from h2learn.report.table import layer_rows
from h2learn.runs import WORKLOAD, Record, Run, check_free, software
from h2learn.training import (
    Data,
    Evaluation,
    Progress,
    Trainer,
    TrainingError,
    build_model,
)
from h2learn.workload import load_workload

MAX_THREADS = 1024
# Options that a resumed run may be given anew: they name things, and decide no weight.
RENAMABLE = {"root", "model", "accelerator"}


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
    machine = _machine(config)
    trainer = _trainer(config)
    if machine is not None:
        _require_runnable(machine, trainer)
    console = Console()
    if resume:
        run.restore(trainer)
        run.cut_metrics(trainer.epoch)
        _note_other_software(run)
    else:
        run = Run.create(path, trainer)
    show_header(console, trainer, path)
    finished, last_epoch = _run_epochs(console, run, trainer, machine)
    if not finished:
        return False
    summary = _summary("train", run, trainer)
    title = "The last epoch on the accelerator"
    if last_epoch is not None:
        summary["accelerator"] = _simulated(run, trainer, last_epoch)
    elif machine is not None and (run.path / WORKLOAD).is_file():
        title = "A step of the last epoch on the accelerator"  # nothing was left to train
        summary["accelerator"] = _simulated_again(run, machine)
    run.save_results(summary)
    show_results(console, summary)
    if "accelerator" in summary:
        console.print(f"\n{title}", style="bold")
        show_accelerator(console, summary["accelerator"])
        _say_workload(console, summary["accelerator"])
    write_json(json_file, summary)
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
    run, trainer = trained(path, options)
    console = Console()
    show_header(console, trainer, path)
    summary = _summary("evaluate", run, trainer)
    show_results(console, summary)
    write_json(json_file, summary)


def trained(path: Path, options: Mapping[str, Any]) -> tuple[Run, Trainer]:
    """A run, and a trainer with the model and data of its last checkpoint.

    Args:
        path: run directory.
        options: `dataset`, `root` and `model` where they differ from the run's; else None.

    Raises:
        InputError: anything the user can put right.
    """
    run = Run.open(path)
    config = _renamed(run.config, options)
    dataset = options.get("dataset")
    if dataset is not None and dataset != config.dataset:
        # The run's own root belongs to the data it was trained on.
        config = TrainConfig.checked(
            config.model_dump() | {"dataset": dataset, "root": options["root"]}
        )
    models.check_name(config.model)
    trainer = _trainer(config)
    run.restore(trainer)
    return run, trainer


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
        "accelerators": {name: Accelerator.load(name).description for name in presets()},
        "cost_tables": {name: cost.Table.load(name).title for name in cost.tables()},
    }
    show_info(Console(), facts)
    write_json(json_file, facts)


def _prepare(threads: int | None, json_file: Path | None) -> None:
    """Checks what needs no data, and sets the number of threads."""
    check_outputs({"--json": json_file})
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
    changes = {"root": config.root, "model": trained, "accelerator": config.accelerator}
    given = {name: options.get(name) for name in changes}
    changes |= {name: value for name, value in given.items() if value is not None}
    return config.model_copy(update=changes)


def _trainer(config: TrainConfig) -> Trainer:
    data = Data.load(config)
    return Trainer(build_model(config, data), data, config)


def _machine(config: TrainConfig) -> Accelerator | None:
    return None if config.accelerator == "none" else Accelerator.load(config.accelerator)


def _require_runnable(machine: Accelerator, trainer: Trainer) -> None:
    """Says before anything is written that the machine cannot run the model."""
    shape = trainer.data.train.sample_shape
    simulate(workload_from_model(trainer.model, shape, timesteps=1, samples=1), machine)


def _run_epochs(
    console: Console, run: Run, trainer: Trainer, machine: Accelerator | None
) -> tuple[bool, Offload | None]:
    """Trains what is left, saving each epoch; False, and a message, if that is cut short.

    With a machine, also what it would have done in the last epoch.
    """
    epochs, saved = trainer.config.epochs, trainer.epoch
    simulated: Offload | None = None
    try:
        with TrainingDisplay(console, epochs, trainer.epoch + 1) as display:
            while trainer.epoch < epochs:
                if machine is None:
                    progress = trainer.train_epoch(display.step)
                else:
                    with offload(machine, model=trainer.model) as simulated:
                        progress = trainer.train_epoch(display.step)
                evaluation = trainer.evaluate()
                run.save_epoch(trainer, _metrics(progress, evaluation, simulated))
                saved = trainer.epoch
                display.epoch(progress, evaluation)
    except KeyboardInterrupt:
        # On the disk since the last epoch ended: nothing is left to be done in a hurry.
        _say(
            f"interrupted; {saved} of {epochs} epochs are kept, and this continues with: "
            f"{_resume_command(run, trainer)}"
        )
        return False, None
    except TrainingError as error:
        _say(f"error: {error}; {run.path} keeps {saved} of {epochs} epochs")
        return False, None
    return True, simulated


def _simulated(run: Run, trainer: Trainer, epoch: Offload) -> Record:
    """What the last epoch would have cost on the chip. Leaves a step's workload in the run."""
    assert epoch.workload is not None  # noqa: S101 - an epoch has a step
    assert epoch.step is not None  # noqa: S101
    epoch.workload.save(run.path / WORKLOAD)
    return {
        **accelerator_facts(
            epoch.counters, samples=len(trainer.data.train), ablations=epoch.ablations(),
            step=epoch.step, step_samples=epoch.workload.steps[0][0].samples,
        ),
        "workload": str(run.path / WORKLOAD),
        "workload_step": epoch.step.to_dict(),
    }  # fmt: skip


def _resume_command(run: Run, trainer: Trainer) -> str:
    model = trainer.config.model
    own_code = "" if model in models.MODELS else f" --model {shlex.quote(model)}"
    return f"h2learn train --resume --out {shlex.quote(str(run.path))}{own_code}"


def _simulated_again(run: Run, machine: Accelerator) -> Record:
    """The step that a finished run keeps."""
    path = run.path / WORKLOAD
    workload = load_workload(path)
    simulation = simulate(workload, machine)
    ablations = {name: simulate(workload, other) for name, other in machine.ablations().items()}
    return {
        **accelerator_facts(simulation, samples=workload.steps[0][0].samples, ablations=ablations),
        "workload": str(path),
        "workload_step": simulation.to_dict(),
    }


def _say_workload(console: Console, facts: Record) -> None:
    file = shlex.quote(facts["workload"])
    console.print(
        f"\nA step of it is kept: h2learn simulate {file} --trace step.json, or h2learn compare "
        f"{file} --accelerators h2learn,h2learn-small",
        highlight=False,
        soft_wrap=True,
    )


def _metrics(progress: Progress, evaluation: Evaluation, simulated: Offload | None) -> Record:
    """An epoch's line in metrics.jsonl. Accuracies and rates are shares of one."""
    chip = {} if simulated is None else {"accelerator_cycles": simulated.counters.cycles}
    return {
        "epoch": progress.epoch,
        "loss": progress.loss,
        "train_accuracy": progress.accuracy,
        "test_loss": evaluation.loss,
        "test_accuracy": evaluation.accuracy,
        "firing_rates": progress.firing_rates,
        "seconds": progress.seconds,
        "samples_per_second": progress.samples_per_second,
        **chip,
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
        **trainer.config.model_dump(exclude={"accelerator"}),
        "accelerator_name": trainer.config.accelerator,
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


def _say(message: str) -> None:
    print(message, file=sys.stderr)
