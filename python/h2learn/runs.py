"""Run directories: what a training run leaves on disk, and how it is taken up again.

    config.json             the configuration, and which software made the run
    checkpoint.safetensors  weights and optimiser state after the last finished epoch
    metrics.jsonl           one line an epoch
    layers.json             the table per layer, once the run is finished
    summary.json            what `--json` writes, likewise
    workload.safetensors    with an accelerator: one step of the last epoch, for `h2learn simulate`

A new directory appears whole, with the checkpoint of epoch 0. From then on each file is replaced
by a rename, or appended to, so that a process killed at any moment leaves a run that resumes. An
epoch's line of metrics is written before its checkpoint: a line too many is cut on resuming.

All of it is data: nothing in a run directory is ever executed. A model of the user's own code has
to be named again, because a stored path would otherwise decide which file is run. What is read is
checked, sizes first, and refused with an `InputError` when it does not fit.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from h2learn import __version__, _core
from h2learn.checkpoint import read_checkpoint, write_checkpoint
from h2learn.config import TrainConfig
from h2learn.errors import InputError
from h2learn.files import append_line, check_creatable, read_file, replace_file
from h2learn.training import Trainer

FORMAT = "h2learn-run"
VERSION = 1
CONFIG = "config.json"
CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"
LAYERS = "layers.json"
SUMMARY = "summary.json"
WORKLOAD = "workload.safetensors"
METRIC_NUMBERS = ("loss", "train_accuracy", "test_loss", "test_accuracy", "seconds")
"""Keys of a line of metrics that a summary is made of, or may be."""
_CONFIG_BYTES = 1 << 20
_METRICS_LINE_BYTES = 1 << 20

Record = dict[str, Any]


class Run:
    """A run directory that exists. Make one with `create`, or find one with `open`.

    Attributes:
        path: the directory.
        config: the configuration it was made with.
        made_by: versions of h2learn and torch, and the instruction set, that made it.
    """

    def __init__(self, path: Path, config: TrainConfig, made_by: Mapping[str, str]) -> None:
        self.path = path
        self.config = config
        self.made_by = dict(made_by)

    @classmethod
    def create(cls, path: Path, trainer: Trainer) -> Run:
        """Makes the directory, with the checkpoint of a trainer that has not trained.

        Raises:
            InputError: something is there already, or the directory cannot be made.
        """
        check_free(path)
        run = cls(path, trainer.config, software())
        beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():  # empty, and perhaps a mount point, which no rename can replace
                run._write_first(path, trainer)
            else:
                beside.mkdir()
                run._write_first(beside, trainer)
                beside.rename(path)
        except OSError as error:
            raise InputError(
                f"--out {path} cannot be created: {error.strerror or error}"
            ) from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return run

    def _write_first(self, directory: Path, trainer: Trainer) -> None:
        """The files of epoch 0; the configuration last, because it makes the directory a run."""
        write_checkpoint(directory / CHECKPOINT, trainer)
        replace_file(directory / METRICS, b"")
        content = {
            "format": FORMAT,
            "version": VERSION,
            "config": self.config.model_dump(),
            "made_by": self.made_by,
        }
        replace_file(directory / CONFIG, to_json(content))

    @classmethod
    def open(cls, path: Path) -> Run:
        """Reads the configuration of a run.

        Raises:
            InputError: there is no run, or its configuration is damaged or of another version.
        """
        file = path / CONFIG
        if not file.is_file():
            raise InputError(f"there is no run in {path} (no {CONFIG})")
        content = _parse(file, read_file(file, _CONFIG_BYTES))
        if content.get("format") != FORMAT:
            raise InputError(f"{file}: not a run of h2learn: format {content.get('format')!r}")
        if content.get("version") != VERSION:
            raise InputError(
                f"{file}: run of version {content.get('version')!r}; this h2learn reads "
                f"version {VERSION}"
            )
        config, made_by = content.get("config"), content.get("made_by")
        if not isinstance(config, dict) or not isinstance(made_by, dict):
            raise InputError(f"{file}: config and made_by must be JSON objects")
        made_by = {str(key): str(value) for key, value in made_by.items()}
        return cls(path, TrainConfig.checked(config, prefix=f"{file}: "), made_by)

    def restore(self, trainer: Trainer) -> None:
        """Puts the last checkpoint into `trainer`; nothing on disk changes.

        Raises:
            InputError: the checkpoint does not fit.
        """
        read_checkpoint(self.path / CHECKPOINT, trainer)

    def metrics(self, epochs: int) -> list[Record]:
        """The lines of the first `epochs` epochs.

        Raises:
            InputError: one of them is missing or damaged.
        """
        return [record for _, record in self._lines(epochs)]

    def cut_metrics(self, epochs: int) -> None:
        """Drops whatever follows the first `epochs` lines: epochs to be trained again."""
        kept = "".join(line + "\n" for line, _ in self._lines(epochs))
        replace_file(self.path / METRICS, kept.encode())

    def _lines(self, epochs: int) -> list[tuple[str, Record]]:
        file = self.path / METRICS
        text = read_file(file, _METRICS_LINE_BYTES * (self.config.epochs + 1))
        lines = text.decode(errors="replace").split("\n")[:epochs]
        records = []
        for number, line in enumerate(lines, start=1):
            record = _parse(file, line.encode())
            numbers = [record.get(key) for key in METRIC_NUMBERS]
            if record.get("epoch") != number or not all(map(_is_finite_float, numbers)):
                raise InputError(f"{file}: line {number} is not the metrics of epoch {number}")
            records.append((line, record))
        if len(records) < epochs:
            raise InputError(f"{file}: {len(records)} lines; the checkpoint has {epochs} epochs")
        return records

    def save_epoch(self, trainer: Trainer, record: Record) -> None:
        """Adds an epoch's line of metrics, then replaces the checkpoint."""
        append_line(self.path / METRICS, json.dumps(record))
        write_checkpoint(self.path / CHECKPOINT, trainer)

    def save_results(self, summary: Record) -> None:
        """Writes what the finished run is summed up by; `summary["layers"]` also alone."""
        replace_file(self.path / LAYERS, to_json(summary["layers"]))
        replace_file(self.path / SUMMARY, to_json(summary))


def check_free(path: Path) -> None:
    """Makes sure, without writing, that a new run may be made at `path`.

    Raises:
        InputError: there is a run or anything else, or no permission to create it.
    """
    try:
        if (path / CONFIG).exists():
            raise InputError(f"--out {path} holds a run already; continue it with --resume")
        if path.is_dir() and any(path.iterdir()):
            raise InputError(f"--out {path} is not empty, and nothing is overwritten")
        if os.path.lexists(path) and not path.is_dir():
            raise InputError(f"--out {path} is a file; name a directory")
    except OSError as error:
        raise InputError(f"--out {path} cannot be used: {error.strerror or error}") from error
    check_creatable(path, "--out")


def software() -> dict[str, str]:
    """What the bits of a run may depend on besides its configuration."""
    return {
        "h2learn": __version__,
        "torch": torch.__version__,
        "target": str(_core.active_target()),
    }


def to_json(content: Any) -> bytes:
    """JSON as we write it: indented, ending in a newline; NaN is an error."""
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def _is_finite_float(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _parse(file: Path, text: bytes) -> Record:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: must hold a JSON object, got {type(content).__name__}")
    return content
