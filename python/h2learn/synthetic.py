"""Synthetic workloads: work of given shapes and densities, for who has no trained network.

Every bit is drawn independently, with its density as probability, from PCG64 with one stream an
array: the same arguments give the same bits, and with the same seed a higher density only adds
bits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from h2learn import checks
from h2learn.errors import InputError
from h2learn.shapes import Geometry, geometry, in_features, out_features, out_size
from h2learn.workload import MOST_PLANES, LayerWork, Words, Workload, checked_geometry, pack_bits

__all__ = ["LayerShape", "synthetic_workload"]

Densities = float | Sequence[float]

BLOCK_BITS = 1 << 22
MOST_BYTES = 4 << 30
"""Of a synthetic workload: what is a typing error more often than a plan is refused."""
"""Bits drawn at once: bounds the memory beyond that of the workload itself."""


@dataclass(frozen=True)
class LayerShape:
    """A `LayerWork` without its arrays; `None` where a default follows from the layer's place."""

    geometry: Geometry
    name: str | None = None
    kind: str | None = None
    planes: int = 1
    analog_bits: int = 0
    neurons: bool | None = None
    membrane: bool | None = None


def synthetic_workload(
    layers: str | Sequence[Mapping[str, Any] | LayerShape],
    *,
    timesteps: int,
    samples: int,
    sample_shape: Sequence[int] | None = None,
    padding: str = "same",
    input_density: Densities = 0.15,
    mask_density: Densities = 0.35,
    gradient_density: Densities = 0.4,
    analog_bits: int = 0,
    membrane: bool = True,
    seed: int = 0,
) -> Workload:
    """One training step of layers of given shapes; every bit is drawn independently.

    The first layer computes no gradient at its inputs; the last one has no neurons behind it.

    Args:
        layers: the field's notation, "128C3-256C3s2-AP2-512-10": convolutions with channels, kernel
            and stride, average (AP) or maximum (MP) pooling of windows, fully connected layers.
            Or a dict a layer: `in_channels` and `out_channels`, and where they are not 1 (0 for
            padding) `size`, `kernel`, `stride`, `padding`, `dilation`, one number or (height,
            width), and `groups`; also `name`, `kind`, `planes`, `analog_bits`, `neurons`,
            `membrane`, as in `LayerWork`.
        timesteps: T.
        samples: B.
        sample_shape: (C, H, W) or (F,), what the first layer of a notation sees.
        padding: of the notation's convolutions: "same" (half the kernel) or "valid" (none).
        input_density: share of set bits in each plane of the inputs: one for all layers, or a
            list with one a layer, as all densities.
        mask_density: share of the inputs where the gradient is needed.
        gradient_density: share of the gradients at the currents that are not zero.
        analog_bits: bit planes of the first layer's inputs; 0 for spikes.
        membrane: the neurons' gradients need the membrane potential.
        seed: of the random bits.

    Raises:
        InputError: an argument that cannot be used, named with its value.
    """
    try:
        checks.integer("timesteps", timesteps, 1)
        checks.integer("samples", samples, 1)
        checks.integer("analog_bits", analog_bits, 0)
        checks.integer("seed", seed, 0)
        checks.flag("membrane", membrane)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from None
    shapes = _shapes(layers, sample_shape, padding)
    if analog_bits:
        shapes[0] = replace(shapes[0], planes=analog_bits, analog_bits=analog_bits)
    densities = {
        "inputs": _densities("input_density", input_density, len(shapes)),
        "mask": _densities("mask_density", mask_density, len(shapes)),
        "nonzero": _densities("gradient_density", gradient_density, len(shapes)),
    }
    rows, most_bits = timesteps * samples, 8 * MOST_BYTES
    bits = sum(
        rows * ((shape.planes + 1) * in_features(shape.geometry) + out_features(shape.geometry))
        for shape in shapes
    )
    if bits > most_bits:
        raise InputError(
            f"timesteps = {timesteps} and samples = {samples} make a workload of "
            f"{bits / 8e9:.3g} GB; {MOST_BYTES / 1e9:.3g} GB are allowed"
        )
    step = []
    for index, shape in enumerate(shapes):
        last = index == len(shapes) - 1
        kind = shape.kind or kind_of(shape.geometry)
        name = shape.name or f"{kind}{index + 1}"
        checked_geometry(name, shape.geometry)
        if shape.planes not in range(1, MOST_PLANES + 1):
            raise InputError(
                f"layer {name!r}: planes must be 1 to {MOST_PLANES}, got {shape.planes!r}"
            )
        neurons = not last if shape.neurons is None else shape.neurons
        keeps = membrane if shape.membrane is None else shape.membrane
        sizes = {
            "inputs": (shape.planes, timesteps * samples, in_features(shape.geometry)),
            "mask": (timesteps * samples, in_features(shape.geometry)),
            "nonzero": (timesteps * samples, out_features(shape.geometry)),
        }
        if index == 0:
            del sizes["mask"]
        arrays = {
            field: _bits((seed, index, stream), sizes[field], densities[field][index])
            for stream, field in enumerate(densities)
            if field in sizes
        }
        step.append(
            LayerWork(
                name, kind, shape.geometry, timesteps, samples, **arrays,
                input_gradient=index > 0, weight_gradient=True, neurons=neurons,
                membrane=neurons and keeps, analog_bits=shape.analog_bits,
            )
        )  # fmt: skip
    info = {"source": "synthetic", "seed": str(seed)}
    return Workload((tuple(step),), info | ({"layers": layers} if isinstance(layers, str) else {}))


def _bits(stream: tuple[int, ...], shape: tuple[int, ...], density: float) -> Words:
    """Random bits [..., features] as words [..., W]."""
    *lead, features = shape
    generator = np.random.Generator(np.random.PCG64(list(stream)))
    rows = math.prod(lead)
    block = max(1, BLOCK_BITS // features)
    blocks = [
        pack_bits(
            generator.random((min(block, rows - start), features), dtype=np.float32) < density
        )
        for start in range(0, rows, block)
    ]
    return np.concatenate(blocks).reshape(*lead, -1)


def _densities(name: str, value: Densities, count: int) -> list[float]:
    values = list(value) if isinstance(value, Sequence) else [value] * count
    if len(values) != count:
        raise InputError(f"{name} must be one number or {count}, one a layer, got {len(values)}")
    try:
        numbers = [checks.number(name, one) for one in values]
    except TypeError as error:
        raise InputError(str(error)) from None
    for number in numbers:
        if not 0.0 <= number <= 1.0:
            raise InputError(f"{name} must lie between 0 and 1, got {number}")
    return numbers


def kind_of(shape: Geometry) -> str:
    """What to call a layer of which no more is known."""
    return "linear" if tuple(shape[1:3]) == tuple(shape[4:6]) == (1, 1) else "conv2d"


# ---- what the layers may be


def _shapes(
    layers: str | Sequence[Mapping[str, Any] | LayerShape],
    sample_shape: Sequence[int] | None,
    padding: str,
) -> list[LayerShape]:
    if isinstance(layers, str):
        return _parse(layers, sample_shape, padding)
    if sample_shape is not None:
        raise InputError(
            "sample_shape belongs to layers in notation; dicts have sizes of their own"
        )
    shapes = [
        layer if isinstance(layer, LayerShape) else _from_dict(index, layer)
        for index, layer in enumerate(layers)
    ]
    if not shapes:
        raise InputError("layers must have at least one layer")
    return shapes


_KEYS = {
    "in_channels": None, "out_channels": None, "size": 1, "kernel": 1, "stride": 1, "padding": 0,
    "dilation": 1, "groups": 1,
}  # fmt: skip
"""Keys of a layer's dict that make its geometry, with what they are when left out."""
_OTHERS = ("name", "kind", "planes", "analog_bits", "neurons", "membrane")


def _from_dict(index: int, layer: Any) -> LayerShape:
    where = f"layers: layer {index}"
    if not isinstance(layer, Mapping):
        raise InputError(f"{where} must be a dict, got {type(layer).__name__}")
    for key in layer:
        if key not in _KEYS and key not in _OTHERS:
            raise InputError(f"{where} may have {', '.join([*_KEYS, *_OTHERS])}, not {key!r}")
    numbers: dict[str, int] = {}
    pairs: dict[str, tuple[int, int]] = {}
    for key, usual in _KEYS.items():
        if usual is None and key not in layer:
            raise InputError(f"{where} has no {key}")
        value, least = layer.get(key, usual), int(key != "padding")
        try:
            if key in ("in_channels", "out_channels", "groups"):
                numbers[key] = checks.integer(key, value, least)
            else:
                pairs[key] = checks.pair(key, value, least)
        except (TypeError, ValueError) as error:
            raise InputError(f"{where}: {error}") from None
    shape = geometry(
        numbers["in_channels"], pairs["size"], numbers["out_channels"], pairs["kernel"],
        pairs["stride"], pairs["padding"], pairs["dilation"], numbers["groups"],
    )  # fmt: skip
    others: dict[str, Any] = {"planes": layer.get("analog_bits", 0) or 1}
    others |= {key: layer[key] for key in _OTHERS if key in layer}
    return LayerShape(shape, **others)


_TOKEN = re.compile(r"(?P<channels>\d{1,9})C(?P<kernel>\d{1,9})(s(?P<stride>\d{1,9}))?"
                    r"|(?P<pool>AP|MP)(?P<window>\d{1,9})|(?P<features>\d{1,9})")  # fmt: skip


def _parse(notation: str, sample_shape: Sequence[int] | None, padding: str) -> list[LayerShape]:
    """The layers of "128C3-AP2-10" on samples of this shape."""
    if padding not in ("same", "valid"):
        raise InputError(f"padding must be 'same' or 'valid', got {padding!r}")
    sizes = tuple(sample_shape) if isinstance(sample_shape, Sequence) else ()
    if len(sizes) not in (1, 3) or any(not isinstance(n, int) or n < 1 for n in sizes):
        raise InputError(f"sample_shape must be (C, H, W) or (F,), got {sample_shape!r}")
    channels, height, width = (*sizes, 1, 1)[:3]
    images = len(sizes) == 3
    most = 1  # the largest count that an input can be
    shapes: list[LayerShape] = []
    for token in notation.split("-"):
        match = _TOKEN.fullmatch(token)
        where = f"layers {notation!r:.80}: {token!r:.20}"
        if match is None:
            raise InputError(f"{where} is none of 128C3, 128C3s2, AP2, MP2, 512")
        if match["features"]:
            shape = geometry(channels * height * width, (1, 1), int(match["features"]))
            images = False
        elif not images:
            raise InputError(f"{where} needs images [C, H, W], not {channels} features")
        elif match["pool"]:
            window = int(match["window"])
            if not 1 <= window <= min(height, width):
                raise InputError(f"{where} must fit the {height}x{width} image it is given")
            height, width = height // window, width // window
            most *= window**2 if match["pool"] == "AP" else 1
            continue
        else:
            kernel, stride = int(match["kernel"]), int(match["stride"] or 1)
            pad = kernel // 2 if padding == "same" else 0
            shape = geometry(
                channels, (height, width), int(match["channels"]), (kernel, kernel),
                (stride, stride), (pad, pad),
            )  # fmt: skip
        checked_geometry(where, shape)
        shapes.append(LayerShape(shape, planes=most.bit_length()))
        channels, (height, width), most = shape[3], out_size(shape), 1
    if not shapes:
        raise InputError(f"layers {notation!r} must have at least one layer")
    return shapes
