"""Checkpoints: weights and optimiser state in one safetensors file, which executes nothing.

    model.<name>              an entry of the model's state_dict
    adam.<parameter>.step     number of updates, float32 scalar        (these three are absent
    adam.<parameter>.mean     first moment                              until a parameter has
    adam.<parameter>.square   second moment                             been updated)

and as metadata `format`, `version`, `epoch` (finished epochs) and `model`, the hash of the
model's description (`Trainer.model_hash`). A file is checked against the model at hand before a
single weight is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from h2learn.errors import InputError
from h2learn.files import replace_file
from h2learn.training import Trainer

FORMAT = "h2learn-checkpoint"
VERSION = "1"
# Names in the file, and torch's own, of what Adam keeps for a parameter.
ADAM_FIELDS = {"step": "step", "mean": "exp_avg", "square": "exp_avg_sq"}
# Room for safetensors' JSON header: a generous bound for each tensor, and some to spare.
HEADER_BYTES = 4096
HEADER_BYTES_PER_TENSOR = 1024


def write_checkpoint(path: Path, trainer: Trainer) -> None:
    """Replaces `path` by the state of `trainer`, at once or not at all."""
    tensors = {f"model.{name}": tensor for name, tensor in _state(trainer.model).items()}
    for name, parameter in _trained(trainer).items():
        for key, field in ADAM_FIELDS.items():
            kept = trainer.optimizer.state.get(parameter, {})
            if kept:
                tensors[f"adam.{name}.{key}"] = kept[field]
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "epoch": str(trainer.epoch),
        "model": trainer.model_hash,
    }
    # Cloned, because two names may share one tensor, which safetensors refuses.
    copies = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    replace_file(path, save(copies, metadata))


def read_checkpoint(path: Path, trainer: Trainer) -> None:
    """Puts the state in `path` into `trainer`: weights, optimiser and epoch.

    Raises:
        InputError: the file is missing, damaged, of another version or of another model, or
            holds values that no training leaves. The trainer is then unchanged.
    """
    model_state = _state(trainer.model)
    trained = _trained(trainer)
    _check_size(path, model_state, trained)
    metadata, tensors = _load(path)
    epoch = _check_metadata(path, metadata, trainer)
    weights = {k.removeprefix("model."): t for k, t in tensors.items() if k.startswith("model.")}
    _check_alike(path, weights, model_state)
    if metadata.get("model") != trainer.model_hash:
        raise InputError(
            f"{path}: checkpoint of another model: its weights have the right shapes, but its "
            "layers or their options (threshold, decay, kernel size, ...) differ"
        )
    moments = {k: t for k, t in tensors.items() if not k.startswith("model.")}
    state = _adam_state(path, moments, trained, limit=epoch * trainer.steps_per_epoch)

    with torch.no_grad():
        for name, tensor in weights.items():
            model_state[name].copy_(tensor)
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": state, "param_groups": groups})
    trainer.epoch = epoch


def _state(model: torch.nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"the model's state {name!r} is a {type(value).__name__}; a checkpoint holds "
                "tensors only"
            )
    return dict(state)


def _trained(trainer: Trainer) -> dict[str, torch.nn.Parameter]:
    """Parameters by name, in the optimiser's order."""
    return {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}


def _check_size(
    path: Path, state: Mapping[str, Tensor], trained: Mapping[str, torch.nn.Parameter]
) -> None:
    tensors = [*state.values(), *(t for p in trained.values() for t in (p, p, torch.zeros(())))]
    most = sum(t.numel() * t.element_size() + HEADER_BYTES_PER_TENSOR for t in tensors)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if size > most + HEADER_BYTES:
        raise InputError(
            f"{path}: {size} bytes; a checkpoint of this model has at most {most + HEADER_BYTES}"
        )


def _load(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable checkpoint: {reason}") from error


def _check_metadata(path: Path, metadata: Mapping[str, str], trainer: Trainer) -> int:
    """Format and version; returns the epoch."""
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path}: not a checkpoint of h2learn: format {metadata.get('format')!r}")
    if metadata.get("version") != VERSION:
        raise InputError(
            f"{path}: checkpoint of version {metadata.get('version')!r}; this h2learn reads "
            f"version {VERSION!r}"
        )
    epoch = metadata.get("epoch", "")
    most = trainer.config.epochs
    if not (epoch.isascii() and epoch.isdigit() and len(epoch) < 10 and int(epoch) <= most):
        raise InputError(f"{path}: epoch must be 0 to {most}, the run's last, got {epoch!r}")
    return int(epoch)


def _check_alike(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Same names, shapes, dtypes; finite."""
    prefix = f"{path}: checkpoint of another model:"
    for name, tensor in wanted.items():
        if name not in found:
            raise InputError(f"{prefix} it has no {name}")
        if found[name].shape != tensor.shape or found[name].dtype != tensor.dtype:
            raise InputError(
                f"{prefix} its {name} is {_form(found[name])}, this model's {_form(tensor)}"
            )
        if not bool(found[name].isfinite().all()):
            raise InputError(f"{path}: {name} holds NaN or infinity")
    for name in found:
        if name not in wanted:
            raise InputError(f"{prefix} this one has no {name}")


def _adam_state(
    path: Path,
    moments: Mapping[str, Tensor],
    trained: Mapping[str, torch.nn.Parameter],
    limit: int,
) -> dict[int, dict[str, Tensor]]:
    """The optimiser's state as torch has it, by the parameter's index."""
    state: dict[int, dict[str, Tensor]] = {}
    wanted: dict[str, Tensor] = {}
    for index, (name, parameter) in enumerate(trained.items()):
        keys = {field: f"adam.{name}.{key}" for key, field in ADAM_FIELDS.items()}
        if not any(key in moments for key in keys.values()):
            continue
        like = {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
        wanted |= {key: like[field] for field, key in keys.items()}
        # In the parameter's own memory format, as the optimiser would have made it.
        state[index] = {
            field: torch.empty_like(like[field]).copy_(moments[key])
            for field, key in keys.items()
            if key in moments and moments[key].shape == like[field].shape
        }
    _check_alike(path, moments, wanted)
    for kept in state.values():
        step = kept["step"].item()
        if not (0 <= step <= limit and step == int(step)) or bool((kept["exp_avg_sq"] < 0).any()):
            raise InputError(f"{path}: holds an optimiser state that no training leaves")
    return state


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
