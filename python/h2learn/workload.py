"""Workloads: what training steps asked of the hardware, layer by layer, in packed bits.

A `Workload` is the one currency between training and the accelerator models: shapes, and the
operands that decide how much work there is (input spikes, surrogate masks, where the gradients
are not zero). Weights and values of gradients are not in it. It comes from a training step
(`h2learn.record`), from a file (`load_workload`) or from shapes and densities alone
(`Workload.synthetic`). Nothing here needs torch.

Packed arrays are those of `h2learn.SpikeTensor`: a row is one image, row = t * samples + sample;
its features are ordered channels-last and numpy.packbits(row, bitorder="little") gives its bytes,
padded with zero bits to whole 64-bit words.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from h2learn import _core
from h2learn.errors import InputError
from h2learn.report.units import amount, byte_size, percent
from h2learn.shapes import Geometry, core_geometry, in_features, out_features, out_size, words_for

__all__ = ["LayerWork", "Step", "Words", "Workload", "load_workload", "pack_bits"]

Words = NDArray[np.uint64]

MOST_PLANES = 24
"""Bit planes: a float32 holds every count of this many bits exactly, so no layer has more."""
MOST_ROWS = 2**31
NAME_CHARACTERS = 256
TEXT_CHARACTERS = 4096
"""The longest name of a layer, and value of `info`: they are shown in tables."""


@dataclass(frozen=True, eq=False, repr=False)
class LayerWork:
    """What one layer of synapses, and the neurons behind it, did in one training step.

    R = timesteps * samples rows; W = ceil(features / 64) words a row. Arrays are C-contiguous and
    may be views of memory that a training step made: do not write into them.

    Attributes:
        name: of the layer in its model.
        kind: "linear", "conv1d", "conv2d", ...: the module's class name in lower case.
        geometry: thirteen integers, in the order of `h2learn.shapes.GEOMETRY_FIELDS`.
        timesteps: T.
        samples: B.
        inputs: uint64 [planes, R, W_in]; plane p holds bit p of each input.
        mask: uint64 [R, W_in], where the gradient at the inputs is needed; None: everywhere.
        nonzero: uint64 [R, W_out], features (position, channel), where the gradient at the
            currents is not exactly zero; None: no backward pass was run.
        input_gradient: the gradient at the inputs was computed (backward engine).
        weight_gradient: the gradient at the weights was computed (weight-update engine).
        neurons: spiking neurons follow, not a readout.
        membrane: the neurons' gradient needs the membrane potential: a hard reset kept in the
            gradient, a surrogate other than Rect, or a decay that is learned.
        analog_bits: 0 when the inputs are spikes or counts of spikes. Else the planes are those
            of analog inputs whose magnitude is quantised to this many bits; where there are
            negative ones, as many planes follow for those (`h2learn.analog`).

    Raises:
        InputError: a field is of the wrong type or shape, or out of its range; a padding bit is
            not zero.
    """

    name: str
    kind: str
    geometry: Geometry
    timesteps: int
    samples: int
    inputs: Words
    mask: Words | None = None
    nonzero: Words | None = None
    input_gradient: bool = False
    weight_gradient: bool = False
    neurons: bool = False
    membrane: bool = False
    analog_bits: int = 0

    def __post_init__(self) -> None:
        _check_text("a layer's name", self.name, NAME_CHARACTERS)
        _check_text(f"layer {self.name!r}: kind", self.kind, NAME_CHARACTERS)
        object.__setattr__(self, "geometry", checked_geometry(self.name, self.geometry))
        for name in ("timesteps", "samples"):
            self._check_integer(name, 1, MOST_ROWS)
        if self.rows > MOST_ROWS:
            raise self._error(
                "timesteps", f"* samples must be at most {MOST_ROWS}, got {self.rows}"
            )
        self._check_integer("analog_bits", 0, MOST_PLANES)
        for name in ("input_gradient", "weight_gradient", "neurons", "membrane"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise self._error(name, f"must be True or False, got {value!r}")
        self._check_arrays()
        self._check_passes()

    def _error(self, name: str, text: str) -> InputError:
        return InputError(f"layer {self.name!r}: {name} {text}")

    def _check_integer(self, name: str, least: int, most: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._error(name, f"must be an integer, got {value!r}")
        if not least <= value <= most:
            raise self._error(name, f"must be {least} to {most}, got {value}")

    def _check_arrays(self) -> None:
        if not isinstance(self.inputs, np.ndarray) or self.inputs.ndim != 3:
            raise self._error("inputs", f"must be [planes, rows, words], got {_form(self.inputs)}")
        planes = self.inputs.shape[0]
        if not 1 <= planes <= MOST_PLANES:
            raise self._error("inputs", f"must have 1 to {MOST_PLANES} planes, got {planes}")
        if self.analog_bits and planes not in (self.analog_bits, 2 * self.analog_bits):
            raise self._error(
                "analog_bits", f"must be 0, all or half of {planes} planes, got {self.analog_bits}"
            )
        for name, features in self._array_features().items():
            array = getattr(self, name)
            if array is None:
                continue
            lead = (planes, self.rows) if name == "inputs" else (self.rows,)
            shape = (*lead, words_for(features))
            if not isinstance(array, np.ndarray) or array.dtype != np.uint64:
                raise self._error(name, f"must be an array of uint64, got {_form(array)}")
            if array.shape != shape:
                raise self._error(name, f"must be {list(shape)}, got {list(array.shape)}")
            if not array.flags.c_contiguous:
                raise self._error(name, "must be C-contiguous; use numpy.ascontiguousarray")
            used = features % 64
            if used and bool((array[..., -1] >> np.uint64(used)).any()):
                raise self._error(name, f"must have padding bits of 0 after {features} features")

    def _check_passes(self) -> None:
        backward = self.input_gradient or self.weight_gradient
        if backward != (self.nonzero is not None):
            raise self._error(
                "nonzero", "must be given exactly when input_gradient or weight_gradient is True"
            )
        if self.mask is not None and not self.input_gradient:
            raise self._error("mask", "must be None when input_gradient is False")
        if self.membrane and not self.neurons:
            raise self._error("membrane", "must be False when neurons is False")

    def _array_features(self) -> dict[str, int]:
        """Features of a row of each array, by the array's name, in the order of the file."""
        return {
            "inputs": self.in_features,
            "mask": self.in_features,
            "nonzero": self.out_features,
        }

    @property
    def rows(self) -> int:
        """Images: timesteps * samples."""
        return self.timesteps * self.samples

    @property
    def planes(self) -> int:
        """Bit planes of the inputs."""
        return len(self.inputs)

    @property
    def in_features(self) -> int:
        """Inputs of one image."""
        return in_features(self.geometry)

    @property
    def out_features(self) -> int:
        """Currents of one image."""
        return out_features(self.geometry)

    @property
    def arrays(self) -> dict[str, Words]:
        """The arrays that are there, by name."""
        found = {name: getattr(self, name) for name in self._array_features()}
        return {name: array for name, array in found.items() if array is not None}

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    @property
    def shape_text(self) -> str:
        """As in "128x32x32 -> 256x32x32, 3x3", or "512 -> 10"."""
        return shape_text(self.geometry)

    def __repr__(self) -> str:
        return (
            f"LayerWork({self.name!r}, {self.kind}, {self.shape_text}, T {self.timesteps}, "
            f"B {self.samples}, {byte_size(self.nbytes)})"
        )


Step = tuple[LayerWork, ...]
"""The layers of one training step, in the order of the forward pass."""


@dataclass(frozen=True, eq=False, repr=False)
class Workload:
    """Training steps, each a tuple of `LayerWork` in the order of the forward pass.

    Attributes:
        steps: one tuple a step; within it names are unique and T and B are the same.
        info: where it comes from, text by key.

    Raises:
        InputError: a step is empty, or its layers disagree.

    Example:
        >>> from h2learn.workload import Workload
        >>> work = Workload.synthetic("512-10", sample_shape=(784,), timesteps=8, samples=4)
        >>> work
        Workload(1 step of 2 layers, T 8, B 4, 9.73 kB)
        >>> work.select(layers=["linear2"]).steps[0][0].geometry[:4]
        (512, 1, 1, 10)
    """

    steps: tuple[Step, ...]
    info: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        steps = tuple(tuple(step) for step in self.steps)
        for index, step in enumerate(steps):
            check_step(f"step {index}", step)
        for key, value in self.info.items():
            _check_text("info: a key", key, NAME_CHARACTERS)
            _check_text(f"info: {key!r}", value, TEXT_CHARACTERS)
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "info", MappingProxyType(dict(self.info)))

    @staticmethod
    def synthetic(
        layers: str | Sequence[Mapping[str, Any]],
        *,
        timesteps: int,
        samples: int,
        **options: Any,
    ) -> Workload:
        """One step of given shapes and densities; see `h2learn.synthetic.synthetic_workload`."""
        from h2learn.synthetic import synthetic_workload

        return synthetic_workload(layers, timesteps=timesteps, samples=samples, **options)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays of all layers."""
        return sum(layer.nbytes for step in self.steps for layer in step)

    @property
    def names(self) -> list[str]:
        """Names of the layers, each once, in the order in which they first ran."""
        return list(dict.fromkeys(layer.name for step in self.steps for layer in step))

    def select(
        self,
        layers: Sequence[str] | None = None,
        steps: slice | Sequence[int] | None = None,
    ) -> Workload:
        """A part of it, sharing the arrays.

        Args:
            layers: names of the layers to keep; by default all.
            steps: indices of the steps to keep, or a slice; by default all. Steps that have none
                of the layers are left out.

        Raises:
            InputError: there is no such layer or step.
        """
        chosen = self._chosen_steps(steps)
        if layers is not None:
            known = self.names
            if isinstance(layers, str) or not all(isinstance(name, str) for name in layers):
                raise InputError(f"layers must be a list of names, got {layers!r}")
            for name in layers:
                if name not in known:
                    near = difflib.get_close_matches(name, known, 1)
                    hint = (
                        f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known[:8])}"
                    )
                    raise InputError(f"layers: this workload has no layer {name!r}; {hint}")
            wanted = set(layers)
            chosen = [tuple(layer for layer in step if layer.name in wanted) for step in chosen]
        return Workload(tuple(step for step in chosen if step), self.info)

    def _chosen_steps(self, steps: slice | Sequence[int] | None) -> list[Step]:
        if steps is None:
            return list(self.steps)
        if isinstance(steps, slice):
            return list(self.steps[steps])
        if isinstance(steps, (int, str)) or not all(
            isinstance(index, int) and not isinstance(index, bool) for index in steps
        ):
            raise InputError(f"steps must be a slice or a list of integers, got {steps!r}")
        count = len(self.steps)
        for index in steps:
            if not -count <= index < count:
                raise InputError(f"steps: this workload has {count} steps, there is no {index}")
        return [self.steps[index] for index in steps]

    def summary(self) -> list[dict[str, Any]]:
        """One dict a layer, over all steps in which it did work of the same shape.

        Keys: `name`, `kind`, `shape` (text), `steps` (how many), `timesteps`, `samples`, `planes`,
        `analog_bits`; `input_density` (set bits of all planes), `mask_density` (None without an
        input gradient), `nonzero_density` (None without a backward pass): shares between 0 and
        1; `forward_macs`, `backward_macs`, `update_macs`: multiply-accumulates of all these steps
        if every input and gradient counted, taps in the padding left out, 0 for a pass that was
        not run; `bytes`.
        """
        groups: dict[Any, list[LayerWork]] = {}
        for step in self.steps:
            for layer in step:
                key = (
                    layer.name, layer.kind, layer.geometry, layer.timesteps, layer.samples,
                    layer.planes, layer.analog_bits, layer.input_gradient, layer.weight_gradient,
                )  # fmt: skip
                groups.setdefault(key, []).append(layer)
        return [_summary_row(group) for group in groups.values()]

    def save(self, path: str | Path) -> None:
        """Writes a file that `load_workload` reads: beside `path`, then renamed over it.

        Raises:
            InputError: it has no steps, or the file cannot be written there.
        """
        from h2learn.workload_file import write_workload

        write_workload(Path(path), self)

    def __reduce__(self) -> Any:
        # A read-only view of a dict cannot be pickled or copied.
        return Workload, (self.steps, dict(self.info))

    def __str__(self) -> str:
        return _table(self)

    def __repr__(self) -> str:
        return f"Workload({_headline(self)})"


def load_workload(path: str | Path) -> Workload:
    """Reads a workload file. Nothing in it is executed; it is checked before it is used.

    Raises:
        InputError: the file is missing, cut short, damaged, of a newer version, not a workload,
            or holds what no training step leaves.
    """
    from h2learn.workload_file import read_workload

    return read_workload(Path(path))


def pack_bits(bits: NDArray[np.bool_]) -> Words:
    """Packs bits [..., features], one row each, into words [..., W]."""
    features = bits.shape[-1]
    words = np.zeros((*bits.shape[:-1], words_for(features)), dtype="<u8")
    packed = np.packbits(bits, axis=-1, bitorder="little")
    words.view(np.uint8)[..., : packed.shape[-1]] = packed
    return words.astype(np.uint64, copy=False)


def checked_geometry(layer: str, shape: Any) -> Geometry:
    """The thirteen integers, as a tuple. InputError when no layer can have them."""
    whole = isinstance(shape, (tuple, list)) and all(
        isinstance(n, int) and not isinstance(n, bool) and abs(n) < 2**62 for n in shape
    )
    if not whole or len(shape) != 13:
        raise InputError(f"layer {layer!r}: geometry must be thirteen integers, got {shape!r:.200}")
    try:
        core_geometry(tuple(shape))
    except ValueError as error:
        raise InputError(f"layer {layer!r}: geometry is impossible: {error}") from None
    return tuple(shape)


def shape_text(geometry: Geometry) -> str:
    """As in "128x32x32 -> 256x32x32, 3x3, stride 2", or "512 -> 10"."""
    channels, height, width, outputs, *window, groups = geometry
    out = out_size(geometry)
    if (height, width) == out == (1, 1) and window[:2] == [1, 1]:
        text = f"{channels} -> {outputs}"
    else:
        text = f"{channels}x{height}x{width} -> {outputs}x{out[0]}x{out[1]}"
        text += f", {window[0]}x{window[1]}"
    for name, at, usual in (("stride", 2, 1), ("dilation", 6, 1)):
        tall, wide = window[at : at + 2]
        if (tall, wide) != (usual, usual):
            text += f", {name} {tall}" if tall == wide else f", {name} {tall}x{wide}"
    return text if groups == 1 else f"{text}, groups {groups}"


def _check_text(what: str, value: Any, most: int) -> None:
    """Printable, so that a file cannot send control characters to a terminal."""
    if not isinstance(value, str) or not value.isprintable() or not value:
        raise InputError(f"{what} must be printable text, got {value!r:.100}")
    if len(value) > most:
        raise InputError(f"{what} must have at most {most} characters, got {len(value)}")


def _form(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return type(value).__name__
    return f"{value.dtype} {list(value.shape)}"


def check_step(where: str, step: Iterable[Any]) -> None:
    """InputError, saying `where`, unless the layers can be those of one step."""
    first: LayerWork | None = None
    names: set[str] = set()
    for layer in step:
        if not isinstance(layer, LayerWork):
            raise InputError(f"{where}: a layer must be a LayerWork, got {type(layer).__name__}")
        first = first or layer
        if layer.name in names:
            raise InputError(f"{where}: two layers have the name {layer.name!r}")
        names.add(layer.name)
        if (layer.timesteps, layer.samples) != (first.timesteps, first.samples):
            raise InputError(
                f"{where}: all layers must run the same T and B, but layer {first.name!r} ran "
                f"T {first.timesteps}, B {first.samples} and layer {layer.name!r} "
                f"T {layer.timesteps}, B {layer.samples}"
            )
    if first is None:
        raise InputError(f"{where} has no layers")


def _density(arrays: list[Words | None], features: int) -> float:
    """Set bits of all rows, over features."""
    found = [array for array in arrays if array is not None]
    set_bits = sum(_core.popcount(array.view(np.int64)) for array in found)
    return set_bits / (sum(math.prod(array.shape[:-1]) for array in found) * features)


def _summary_row(layers: list[LayerWork]) -> dict[str, Any]:
    first = layers[0]
    macs = len(layers) * _core.count_dense_operations(core_geometry(first.geometry), first.rows)
    mask_density = 1.0 if first.input_gradient else None
    if first.mask is not None:
        mask_density = _density([layer.mask for layer in layers], first.in_features)
    nonzero_density = None
    if first.nonzero is not None:
        nonzero_density = _density([layer.nonzero for layer in layers], first.out_features)
    return {
        "name": first.name,
        "kind": first.kind,
        "shape": first.shape_text,
        "steps": len(layers),
        "timesteps": first.timesteps,
        "samples": first.samples,
        "planes": first.planes,
        "analog_bits": first.analog_bits,
        "input_density": _density([layer.inputs for layer in layers], first.in_features),
        "mask_density": mask_density,
        "nonzero_density": nonzero_density,
        "forward_macs": macs,
        "backward_macs": macs if first.input_gradient else 0,
        "update_macs": macs if first.weight_gradient else 0,
        "bytes": sum(layer.nbytes for layer in layers),
    }


def _headline(workload: Workload) -> str:
    def counted(count: int, noun: str) -> str:
        return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

    sizes = {(layer.timesteps, layer.samples) for step in workload.steps for layer in step}
    shared = "".join(f", T {t}, B {b}" for t, b in sizes) if len(sizes) == 1 else ""
    return (
        f"{counted(len(workload.steps), 'step')} of {counted(len(workload.names), 'layer')}"
        f"{shared}, {byte_size(workload.nbytes)}"
    )


_COLUMNS = ("layer", "shape", "planes", "inputs", "mask", "gradients", "forward MACs",
            "backward MACs", "update MACs", "size")  # fmt: skip


def _table(workload: Workload) -> str:
    def share(value: float | None) -> str:
        return "-" if value is None else percent(value)

    def work(value: int) -> str:
        return amount(value) if value else "-"

    if not workload.steps:
        return _headline(workload)
    lines = [_COLUMNS] + [
        (
            row["name"], row["shape"], str(row["planes"]), share(row["input_density"]),
            share(row["mask_density"]), share(row["nonzero_density"]), work(row["forward_macs"]),
            work(row["backward_macs"]), work(row["update_macs"]), byte_size(row["bytes"]),
        )
        for row in workload.summary()
    ]  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS))]
    text = [_headline(workload)]
    for line in lines:
        cells = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)
