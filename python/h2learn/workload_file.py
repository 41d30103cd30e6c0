"""Workload files: a safetensors container with packed words and a description in JSON.

docs/workloads.md is the normative text. Reading executes nothing and believes nothing: the
container, the version, every field of the description, every tensor's shape, and a digest over
all of it are checked.

The container is written here rather than by safetensors, which puts metadata in an order that
changes from run to run: the same workload is the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from h2learn.errors import InputError
from h2learn.files import check_creatable, replace_file
from h2learn.workload import LayerWork, Words, Workload

FORMAT = "h2learn-workload"
VERSION = 1
METADATA = ("description", "digest", "format", "version")
DESCRIPTION_BYTES = 1 << 24
"""Most that a description may have: room for some 50 000 layers."""

SCALARS = (
    "name", "kind", "geometry", "timesteps", "samples", "input_gradient", "weight_gradient",
    "neurons", "membrane", "analog_bits",
)  # fmt: skip
"""Fields of a layer that stand in the description as they are; then "arrays"."""
ARRAYS = ("inputs", "mask", "nonzero")


def write_workload(path: Path, workload: Workload) -> None:
    """Replaces `path` by the workload, at once or not at all."""
    if not workload.steps:
        raise InputError("this workload has no steps: run a training step while recording")
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file for the workload")
    check_creatable(path, "workload file")
    content = _encode(workload)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content)


def read_workload(path: Path) -> Workload:
    """The workload in `path`. InputError, one line that names the file, if it is not one."""
    if not path.is_file():
        raise InputError(f"{path}: {'not a file' if path.exists() else 'there is no such file'}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            description = _description(metadata)
            types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            names = _tensor_names(description)
            _check_tensors(names, types)
            tensors = {name: file.get_tensor(name) for name in names}
        if _digest(metadata["description"], tensors.values()) != metadata["digest"]:
            raise InputError("damaged: its content is not what was written (the digest differs)")
        return _decode(description, tensors)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable workload: {reason:.200}") from None


def _encode(workload: Workload) -> bytes:
    steps = []
    tensors: dict[str, Words] = {}
    for s, step in enumerate(workload.steps):
        layers = []
        for n, layer in enumerate(step):
            fields: dict[str, Any] = {name: getattr(layer, name) for name in SCALARS}
            fields["arrays"] = list(layer.arrays)
            layers.append(fields)
            tensors |= {f"{s}.{n}.{name}": array for name, array in layer.arrays.items()}
        steps.append(layers)
    description = json.dumps({"info": dict(workload.info), "steps": steps}, separators=(",", ":"))
    if len(description) > DESCRIPTION_BYTES:
        raise InputError(
            f"this workload has too many layers and steps for one file: its description takes "
            f"{len(description)} bytes, the most is {DESCRIPTION_BYTES}; save fewer steps"
        )
    header: dict[str, Any] = {
        "__metadata__": {
            "format": FORMAT,
            "version": str(VERSION),
            "description": description,
            "digest": _digest(description, tensors.values()),
        }
    }
    end = 0
    for name, array in tensors.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": "U64", "shape": array.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    parts = [len(text).to_bytes(8, "little"), text]
    return b"".join([*parts, *(_bytes(array) for array in tensors.values())])


def _bytes(array: Words) -> memoryview:
    """The words' own memory, little-endian."""
    return np.ascontiguousarray(array, dtype="<u8").data


def _digest(description: str, tensors: Iterable[Words]) -> str:
    digest = hashlib.blake2b(description.encode(), digest_size=32)
    for array in tensors:
        digest.update(_bytes(array))
    return digest.hexdigest()


def _description(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Checks format and version, then parses the description."""
    if metadata.get("format") != FORMAT:
        raise InputError(f"not a workload of h2learn: format {metadata.get('format')!r:.80}")
    version = metadata.get("version", "")
    if not (version.isascii() and version.isdigit() and 0 < len(version) < 10):
        raise InputError(f"version must be an integer, got {version!r:.80}")
    if int(version) > VERSION:
        raise InputError(
            f"written by a newer h2learn (workload version {int(version)}; this one reads "
            f"{VERSION}): update h2learn"
        )
    if int(version) != VERSION:
        raise InputError(f"workload version {int(version)} never was; this h2learn reads {VERSION}")
    if sorted(metadata) != sorted(METADATA):
        raise InputError(f"metadata must be {', '.join(METADATA)}, got {_listed(metadata)}")
    text = metadata["description"]
    if len(text) > DESCRIPTION_BYTES:
        raise InputError(f"description must have at most {DESCRIPTION_BYTES} bytes")
    try:
        description = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"description is not JSON: {str(error).splitlines()[0]:.80}") from None
    _check_fields("description", description, {"info": dict, "steps": list})
    return description  # type: ignore[no-any-return]


def _tensor_names(description: Mapping[str, Any]) -> list[str]:
    """Names of the tensors that the description speaks of, in the digest's order."""
    found = []
    for s, step in enumerate(description["steps"]):
        if not isinstance(step, list):
            raise InputError(f"step {s} must be a list of layers")
        for n, fields in enumerate(step):
            where = f"step {s}, layer {n}"
            _check_fields(where, fields, dict.fromkeys(SCALARS, object) | {"arrays": list})
            names = fields["arrays"]
            if "inputs" not in names or names != [name for name in ARRAYS if name in names]:
                raise InputError(f"{where}: arrays must be of {', '.join(ARRAYS)}, in this order")
            found += [f"{s}.{n}.{name}" for name in names]
    if not found:
        raise InputError("description has no steps")
    return found


def _check_tensors(names: Iterable[str], types: Mapping[str, str]) -> None:
    """Those of the description, all of them and no others. The container checked their sizes."""
    for name in names:
        if name not in types:
            raise InputError(f"tensor {name} is missing")
        if types[name] != "U64":
            raise InputError(f"tensor {name} must be U64, got {types[name]}")
    unknown = set(types) - set(names)
    if unknown:
        raise InputError(f"unknown tensors: {_listed(unknown)}")


def _decode(description: Mapping[str, Any], tensors: Mapping[str, Words]) -> Workload:
    steps = []
    for s, step in enumerate(description["steps"]):
        layers = []
        for n, fields in enumerate(step):
            values = {name: fields[name] for name in SCALARS}
            values |= {name: tensors[f"{s}.{n}.{name}"] for name in fields["arrays"]}
            layers.append(LayerWork(**values))
        steps.append(tuple(layers))
    return Workload(tuple(steps), description["info"])


def _check_fields(where: str, value: Any, types: Mapping[str, type]) -> None:
    if not isinstance(value, dict) or sorted(value) != sorted(types):
        got = _listed(value) if isinstance(value, dict) else type(value).__name__
        raise InputError(f"{where} must have the fields {', '.join(types)}, got {got}")
    for name, kind in types.items():
        if not isinstance(value[name], kind):
            raise InputError(f"{where}: {name} must be of type {kind.__name__}")


def _listed(names: Iterable[str]) -> str:
    """A few of them, whatever they hold, on one line."""
    return f"{sorted(names)!r:.120}"
