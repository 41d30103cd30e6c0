"""Random machines and random training steps, on which the two simulators must agree.

A case is drawn from a seed and its number alone, so any one of them can be drawn again. Sizes are
small and capacities lie around the thresholds of docs/microarchitecture.md: a block of one image
or several, an image in chunks, weights that fit and that do not, state of which a part stays on
chip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from h2learn import _core
from h2learn.shapes import Geometry, core_geometry, geometry, out_size
from h2learn.workload import pack_bits

__all__ = [
    "MOST_CYCLES",
    "Case",
    "CaseLayer",
    "Parameters",
    "draw_case",
    "parameters_of",
    "roughly_cycles",
]

Bits = NDArray[np.bool_]
Parameters = dict[str, Any]
"""Every parameter of a machine by its dotted name, as in `forward.psum_bytes`."""
T = TypeVar("T")

UNITS = ("forward", "soma", "gradient", "backward", "update", "dram")
MOST_CYCLES = 250_000
"""Of a case, by a rough estimate from above: what the clocked simulator does in a moment."""


def parameters_of(machine: _core.Machine) -> Parameters:
    """What a machine is made of: engines' parameters by dotted name, then its own."""

    def names(owner: object) -> list[str]:
        return sorted(
            name
            for base in type(owner).__mro__
            for name, value in vars(base).items()
            if isinstance(value, property) and name not in UNITS
        )

    owners = [(f"{unit}.", getattr(machine, unit)) for unit in UNITS] + [("", machine)]
    return {
        f"{prefix}{name}": getattr(owner, name) for prefix, owner in owners for name in names(owner)
    }


@dataclass(frozen=True, eq=False)
class CaseLayer:
    """A layer's work with its bits unpacked, so that it can be cut.

    Attributes:
        geometry: thirteen integers, as in a workload.
        inputs: [planes, T, B, H, W, C].
        mask: [T, B, H, W, C], or None.
        nonzero: [T, B, H_out, W_out, N], or None: no backward pass.
        input_gradient: as in a workload; so are the others.
    """

    geometry: Geometry
    inputs: Bits
    mask: Bits | None = None
    nonzero: Bits | None = None
    input_gradient: bool = False
    weight_gradient: bool = False
    neurons: bool = False
    membrane: bool = False

    def words(self) -> dict[str, NDArray[np.int64] | None]:
        """Packed arrays by name, as the core takes them."""
        return {
            "inputs": _packed(self.inputs),
            "mask": None if self.mask is None else _packed(self.mask),
            "nonzero": None if self.nonzero is None else _packed(self.nonzero),
        }


def _packed(bits: Bits) -> NDArray[np.int64]:
    """Words [..., T * B, words] of bits [..., T, B, H, W, channels]."""
    leading, (steps, samples, *image) = bits.shape[:-5], bits.shape[-5:]
    return pack_bits(bits.reshape(*leading, steps * samples, math.prod(image))).view(np.int64)


@dataclass(frozen=True, eq=False)
class Case:
    """A machine and one training step."""

    parameters: Parameters
    layers: tuple[CaseLayer, ...]

    @property
    def timesteps(self) -> int:
        """T of every layer."""
        return int(self.layers[0].inputs.shape[1])

    @property
    def samples(self) -> int:
        """B of every layer."""
        return int(self.layers[0].inputs.shape[2])

    def machine(self) -> _core.Machine:
        """The core's object."""
        machine = _core.Machine()
        for name, value in self.parameters.items():
            unit, _, field = name.rpartition(".")
            setattr(getattr(machine, unit) if unit else machine, field, value)
        return machine

    def core_layers(self) -> list[_core.LayerWork]:
        """The core's objects."""
        return [
            _core.LayerWork(
                name=f"layer{index}",
                geometry=core_geometry(layer.geometry),
                timesteps=self.timesteps,
                samples=self.samples,
                input_gradient=layer.input_gradient,
                weight_gradient=layer.weight_gradient,
                neurons=layer.neurons,
                membrane=layer.membrane,
                inputs=_packed(layer.inputs),
                mask=None if layer.mask is None else _packed(layer.mask),
                nonzero=None if layer.nonzero is None else _packed(layer.nonzero),
            )
            for index, layer in enumerate(self.layers)
        ]

    def with_parameters(self, **changes: Any) -> Case:
        """The same work on a machine with other values; `__` stands for the dot of a name."""
        changed = {name.replace("__", "."): value for name, value in changes.items()}
        unknown = changed.keys() - self.parameters.keys()
        if unknown:
            raise KeyError(f"no such parameters: {', '.join(sorted(unknown))}")
        return replace(self, parameters={**self.parameters, **changed})


def draw_case(rng: np.random.Generator) -> Case:
    """One random case. It may be too large, or one that its machine refuses: the caller looks."""
    draw = _Draw(rng)
    layers = _draw_layers(draw, draw.between(1, 5), draw.between(1, 5))
    return Case(_draw_parameters(draw, layers), layers)


class _Draw:
    """The few kinds of choice that the draws below are made of."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def between(self, least: int, most: int) -> int:
        return int(self.rng.integers(least, most + 1))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.between(0, len(choices) - 1)]

    def buffer_bytes(self, least: int, around: int) -> int:
        """A capacity of two halves that hold `least`, often just `around`; rarely too small."""
        around = max(least, around)
        if least > 0 and self.chance(0.003):
            return 2 * least - 1
        half = self.pick(
            [
                least,
                around,
                around,
                max(least, around - 1),
                self.between(least, 2 * around),
                1 << 24,
            ]
        )
        return 2 * half + self.between(0, 1)


def _draw_layers(draw: _Draw, timesteps: int, samples: int) -> tuple[CaseLayer, ...]:
    count = draw.pick([1, 1, 2, 2, 3, 4])
    # Layers below the first that learns have no backward pass; in inference none has.
    first_learning = (
        count if draw.chance(0.06) else draw.pick([0, 0, 0, draw.between(0, count - 1)])
    )
    size = (draw.between(1, 9), draw.between(1, 6), draw.between(1, 6))
    layers: list[CaseLayer] = []
    for index in range(count):
        shape = _draw_geometry(draw, size, conv=draw.chance(0.65))
        learns = index >= first_learning
        last = index == count - 1
        neurons = draw.chance(0.5 if last else 0.9)
        image = (timesteps, samples, *shape[1:3], shape[0])
        planes = draw.pick([1, 1, 1, 1, 2, 3, 4, draw.between(5, 8)])
        input_gradient = learns and draw.chance(0.93 if index > first_learning else 0.4)
        layers.append(
            CaseLayer(
                shape,
                np.stack([_draw_bits(draw, image) for _ in range(planes)]),
                _draw_bits(draw, image) if input_gradient and draw.chance(0.8) else None,
                _draw_bits(draw, (timesteps, samples, *out_size(shape), shape[3]))
                if learns
                else None,
                input_gradient=input_gradient,
                weight_gradient=learns and draw.chance(0.85),
                neurons=neurons,
                membrane=neurons and draw.chance(0.7),
            )
        )
        size = _draw_next_size(draw, shape)
    return tuple(layers)


def _draw_next_size(draw: _Draw, shape: Geometry) -> tuple[int, int, int]:
    """Inputs of the layer behind: the outputs, pooled, flattened, or of any other shape."""
    channels, (height, width) = shape[3], out_size(shape)
    kind = draw.pick(["same", "same", "pooled", "flat", "other"])
    if kind == "same":
        return channels, height, width
    if kind == "pooled":
        return channels, max(1, height // 2), max(1, width // 2)
    if kind == "flat":
        return channels * height * width, 1, 1
    return draw.between(1, 6), draw.between(1, 5), draw.between(1, 5)


def _draw_geometry(draw: _Draw, size: tuple[int, int, int], *, conv: bool) -> Geometry:
    """A layer on inputs of this size (channels, height, width); a linear one flattens them."""
    channels, height, width = size
    if not conv:
        features = draw.pick([math.prod(size), math.prod(size), draw.between(1, 150)])
        return geometry(
            min(features, 200), (1, 1), draw.pick([draw.between(1, 12), draw.between(1, 70)])
        )
    channels = min(channels, 70)
    divisors = [n for n in range(1, channels + 1) if channels % n == 0]
    groups = draw.pick([1, 1, 1, channels, draw.pick(divisors)])
    outputs = groups * draw.between(1, max(1, 10 // groups))
    padding = (draw.pick([0, 1, draw.between(0, 2)]), draw.pick([0, 1, draw.between(0, 2)]))
    kernel, dilation = [], []
    for side, pad in zip((height, width), padding, strict=True):
        spread = draw.pick([1, 1, 2])
        reach = (side + 2 * pad - 1) // spread + 1  # the largest kernel that fits
        kernel.append(draw.between(1, min(3, reach)))
        dilation.append(spread)
    stride = (draw.pick([1, 1, 2, 3]), draw.pick([1, 1, 2]))
    return geometry(
        channels, (height, width), outputs,
        (kernel[0], kernel[1]), stride, padding, (dilation[0], dilation[1]), groups,
    )  # fmt: skip


def _draw_bits(draw: _Draw, shape: tuple[int, ...]) -> Bits:
    """Bits [T, B, H, W, channels] of a random density in a random pattern."""
    density = draw.pick([0.0, 0.03, 0.15, 0.3, 0.5, 0.85, 1.0])
    steps, samples, height, width, channels = shape
    pattern = draw.pick(
        ["each", "each", "each", "images", "positions", "channels", "checkers", "one", "cluster"]
    )
    if pattern == "checkers":
        checkers: Bits = np.indices(shape).sum(axis=0) % 2 == draw.between(0, 1)
        return checkers
    bits: Bits = np.zeros(shape, dtype=np.bool_)
    if pattern == "one":
        bits.reshape(-1)[draw.between(0, bits.size - 1)] = True
        return bits
    if pattern == "cluster":
        origin = [draw.between(0, n - 1) for n in shape]
        bits[
            tuple(slice(at, at + draw.between(1, n)) for at, n in zip(origin, shape, strict=True))
        ] = True
        return bits
    varying = {
        "each": shape,
        "images": (steps, samples, 1, 1, 1),
        "positions": (steps, samples, height, width, 1),
        "channels": (1, 1, 1, 1, channels),
    }[pattern]
    bits[...] = draw.rng.random(varying) < density
    return bits


def _draw_parameters(draw: _Draw, layers: Sequence[CaseLayer]) -> Parameters:
    parameters = parameters_of(_core.Machine())
    value_bytes = draw.pick([2, 4])
    parameters.update(
        value_bytes=value_bytes,
        compressed_gradients=draw.chance(0.5),
        schedule=draw.pick(["serial", "layer", "batch"]),
        membrane=draw.pick(["store", "recompute"]),
        parts=draw.pick([1, 2, 2, 3, 4, 65536]),
        state_bytes=_draw_state_bytes(draw, layers, value_bytes),
        membrane_bytes=_around_layer(draw, layers, lambda g: 4 * _outputs(g), 0),
    )
    if draw.chance(0.05):  # as it is shipped
        return parameters
    parameters.update(_draw_table_engine(draw, layers, value_bytes, "forward"))
    parameters.update(_draw_table_engine(draw, layers, value_bytes, "update"))
    parameters.update(_draw_backward(draw, layers, value_bytes))
    state = value_bytes + 4  # a gradient and a membrane
    parameters.update({
        "soma.lanes": draw.pick([1, 2, 3, 8, 64]),
        "soma.latency_cycles": draw.pick([0, 1, 4, draw.between(0, 30)]),
        "gradient.lanes": draw.pick([1, 2, 3, 8, 64]),
        "gradient.latency_cycles": draw.pick([0, 1, 4, draw.between(0, 30)]),
        "gradient.buffer_bytes": _around_layer(
            draw, layers, lambda g: state * _outputs(g) * draw.between(1, 3), state
        ),
        "dram.bytes_per_cycle": draw.pick([1, 2, 3, 4, 7, 16, 64, 320, 1 << 20]),
        "dram.latency_cycles": draw.pick([0, 0, 1, 3, 10, 100]),
        "dram.burst_bytes": draw.pick([1, 4, 16, 64, 100, 512]),
    })  # fmt: skip
    return parameters


def _draw_table_engine(
    draw: _Draw, layers: Sequence[CaseLayer], value_bytes: int, name: str
) -> Parameters:
    rows = draw.pick([1, 2, 3, 4, 5, 8, 32])
    columns = draw.pick([1, 2, 3, 4, 7, 16])
    inputs = draw.pick([1, 2, 3, 4, 5, 6, draw.between(1, 8)])
    images = max(len(layer.inputs) * _ceil(math.prod(layer.geometry[:3]), 8) for layer in layers)
    chosen: Parameters = {
        "rows": rows,
        "columns": columns,
        "inputs": inputs,
        "tables": draw.chance(0.8),
        "tables_bytes": 2 * rows * columns * (1 << inputs) * value_bytes,
        "spikes_bytes": draw.buffer_bytes(images, images * draw.between(1, 6)),
        "spikes_banks": draw.pick([1, 2, 8]),
        "psum_banks": draw.pick([1, 2, 3, 64]),
    }
    tile_bytes = rows * inputs * columns * value_bytes
    if name == "forward":
        chosen["psum_bytes"] = _around_layer(
            draw,
            layers,
            lambda g: 4 * columns * math.prod(out_size(g)) * draw.between(1, 4),
            4 * columns,
        )
        chosen["weights_bytes"] = _around_layer(
            draw, layers, lambda g: _weights(g) * value_bytes, tile_bytes
        )
        chosen["weights_banks"] = draw.pick([1, 2, 5, 128])
    else:
        chosen["psum_bytes"] = _around_layer(draw, layers, lambda g: 4 * _weights(g), 4 * columns)
        chosen["gradients_bytes"] = 2 * tile_bytes + draw.pick([0, 1, 1 << 16])
        chosen["gradients_banks"] = draw.pick([1, 2, 5, 256])
        chosen["compact"] = draw.chance(0.5)
    return {f"{name}.{field}": value for field, value in chosen.items()}


def _draw_backward(draw: _Draw, layers: Sequence[CaseLayer], value_bytes: int) -> Parameters:
    size = draw.pick([1, 2, 3, 5, 8, 16, 128])
    tile_rows = draw.pick([1, 3, 7, 16, 40, 1024])
    images = max(_outputs(layer.geometry) * value_bytes for layer in layers)
    return {
        "backward.groups": draw.pick([1, 2, 3, 5, 16, 384]),
        "backward.lanes": draw.pick([1, 2, 3, 8, 16]),
        "backward.slice": size,
        "backward.encode_cycles": draw.pick([0, 1, 4, 9]),
        "backward.tile_rows": tile_rows,
        "backward.weights_bytes": _around_layer(
            draw, layers, lambda g: _weights(g) * value_bytes, tile_rows * size * value_bytes
        ),
        "backward.weights_banks": draw.pick([1, 2, 3, 4, 32]),
        "backward.gradients_bytes": draw.buffer_bytes(images, images * draw.between(1, 6)),
        "backward.psum_bytes": _around_layer(
            draw, layers, lambda g: 4 * math.prod(g[:3]) // g[12] * draw.between(1, 3), 4 * size
        ),
        "backward.input_sparsity": draw.chance(0.8),
        "backward.output_sparsity": draw.chance(0.8),
    }


def _draw_state_bytes(draw: _Draw, layers: Sequence[CaseLayer], value_bytes: int) -> int:
    """Room for a random share of what the first part keeps, often to the byte."""
    _, steps, samples = layers[0].inputs.shape[:3]
    images = steps * draw.between(1, samples)
    sizes: list[int] = []
    for layer in layers:
        outputs = _outputs(layer.geometry)
        sizes += [images * ((outputs + 7) // 8)] * 2 + [images * outputs * value_bytes] * 2
        sizes += [images * outputs * 4]
    kept = sum(sizes[: draw.between(0, len(sizes))])
    return draw.pick(
        [0, 2 * kept, 2 * kept + 1, max(0, 2 * kept - 2), draw.between(0, 2 * sum(sizes)), 1 << 24]
    )


def _around_layer(
    draw: _Draw, layers: Sequence[CaseLayer], need: Callable[[Geometry], int], least: int
) -> int:
    """A capacity around what one of the layers needs."""
    return draw.buffer_bytes(least, need(draw.pick(layers).geometry))


def _outputs(shape: Geometry) -> int:
    return math.prod(out_size(shape)) * shape[3]


def _weights(shape: Geometry) -> int:
    return shape[3] * shape[0] // shape[12] * shape[4] * shape[5]


def roughly_cycles(case: Case) -> int:
    """Cycles that the engines and the DRAM would take one after another, from above."""
    p = case.parameters
    images = case.timesteps * case.samples
    parts = min(p["parts"], case.samples)
    cycles = 0
    for layer in case.layers:
        g, planes = layer.geometry, layer.inputs.shape[0]
        positions_in, positions_out = g[1] * g[2], math.prod(out_size(g))
        taps, group_in, group_out = g[4] * g[5], g[0] // g[12], g[3] // g[12]
        fan_in, image_bytes = taps * group_in, planes * ((math.prod(g[:3]) + 7) // 8)
        backward = layer.nonzero is not None
        twice = 2 if backward and layer.membrane and p["membrane"] == "recompute" else 1

        # Forward: every tile streams its positions, reads its weights, and drains.
        columns, rows = p["forward.columns"], p["forward.rows"] * p["forward.inputs"]
        columns_of = g[12] * _ceil(group_out, columns)
        sets = columns_of * (
            parts + _blocks(images, positions_out, p["forward.psum_bytes"] // (8 * columns))
        )
        tiles = sets * _ceil(fan_in, rows)
        position = max(
            1, _ceil(columns, p["forward.psum_banks"]), _ceil(rows, 32 * p["forward.spikes_banks"])
        )
        streamed = images * positions_out * planes * columns_of * _ceil(fan_in, rows) * position
        if p["forward.tables"]:
            build = 1 << p["forward.inputs"]
        else:
            build, streamed = 0, streamed * p["forward.inputs"]
        build += _ceil(min(rows, fan_in) * columns, p["forward.weights_banks"])
        neurons = images * _outputs(g)
        moved = (
            tiles * min(rows, fan_in) * columns * p["value_bytes"]
            + images * image_bytes
            + 12 * neurons
        )
        transfers = tiles + 2 * sets
        engines = tiles * (build + 12) + streamed
        engines += neurons // min(p["soma.lanes"], p["forward.psum_banks"]) + sets * (
            1 + p["soma.latency_cycles"]
        )
        cycles += twice * (engines + _dram_cycles(p, moved, transfers))
        if not backward:
            continue

        steps = parts + _blocks(
            images, _outputs(g), p["gradient.buffer_bytes"] // 2 // (p["value_bytes"] + 4)
        )
        cycles += neurons // p["gradient.lanes"] + steps * (1 + p["gradient.latency_cycles"])
        cycles += _dram_cycles(p, 20 * neurons, 2 * steps)

        if layer.input_gradient:
            size = min(p["backward.slice"], group_in)
            slices = g[12] * _ceil(group_in, size)
            lines = _ceil(taps * group_out, p["backward.tile_rows"])
            items = images * positions_in * slices
            rounds = max(_ceil(size, p["backward.lanes"]), _ceil(size, p["backward.weights_banks"]))
            busy = items * (rounds * taps * group_out + lines * (1 + p["backward.encode_cycles"]))
            tiles = (
                slices
                * lines
                * (parts + _blocks(images, positions_in, p["backward.psum_bytes"] // (8 * size)))
            )
            cycles += tiles + busy // min(p["backward.groups"], max(1, items // tiles))
            weights = min(p["backward.tile_rows"], taps * group_out) * size
            cycles += _dram_cycles(p, tiles * weights * p["value_bytes"] + 12 * neurons, 2 * tiles)

        if layer.weight_gradient:
            columns, rows = p["update.columns"], p["update.rows"] * p["update.inputs"]
            blocks = parts + _blocks(images, 1, p["update.spikes_bytes"] // 2 // image_bytes)
            visits = g[12] * _ceil(group_out, columns) * blocks
            depth = _ceil(fan_in, max(1, p["update.psum_bytes"] // (8 * columns)))
            tiles = visits * depth + depth * visits // blocks * _ceil(images * positions_out, rows)
            position = max(
                1,
                _ceil(columns, p["update.psum_banks"]),
                _ceil(rows, 32 * p["update.spikes_banks"]),
            )
            streamed = _ceil(tiles, depth) * fan_in * planes * position
            if p["update.tables"]:
                build = 1 << p["update.inputs"]
            else:
                build, streamed = 0, streamed * p["update.inputs"]
            build += _ceil(rows * columns, p["update.gradients_banks"])
            moved = tiles * rows * columns * p["value_bytes"] + 8 * visits * fan_in * columns
            cycles += (
                tiles * (build + 12) + streamed + _dram_cycles(p, moved, tiles + 2 * visits * depth)
            )
    return cycles


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _blocks(images: int, units: int, room: int) -> int:
    """Blocks that `images` images of `units` units make, where a block has room for so many."""
    room = max(1, room)
    return images * _ceil(units, room) if units > room else _ceil(images, room // units)


def _dram_cycles(p: Parameters, moved: int, transfers: int) -> int:
    moved += transfers * p["dram.burst_bytes"]
    return int(moved // p["dram.bytes_per_cycle"] + transfers * (1 + p["dram.latency_cycles"]))
