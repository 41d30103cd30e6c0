"""The smallest case that still shows a difference, and a program that shows it to somebody else."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from h2learn import _core
from h2learn.shapes import GEOMETRY_FIELDS, Geometry, core_geometry, out_size
from h2learn.verify_cases import Bits, Case, CaseLayer, parameters_of

__all__ = ["shrink_case", "snippet"]

MAY_BE_ZERO = {
    "soma.latency_cycles", "gradient.latency_cycles", "backward.encode_cycles",
    "dram.latency_cycles", "state_bytes", "membrane_bytes",
}  # fmt: skip


def shrink_case(case: Case, differs: Callable[[Case], bool], *, seconds: float = 20.0) -> Case:
    """The smallest case found, step by step, for which `differs` still holds.

    Steps: fewer layers, samples, timesteps, planes; smaller shapes; passes and masks left out;
    parameters at their defaults or smaller; bits cleared. Greedy and in a fixed order, so the same
    case gives the same result unless the time runs out.

    Args:
        case: one for which `differs` holds.
        differs: whether a case shows a difference, of whatever kind.
        seconds: to look for smaller ones, at most.
    """
    deadline = time.monotonic() + seconds
    while True:
        for smaller in _smaller_cases(case):
            if time.monotonic() > deadline:
                return case
            if differs(smaller):
                case = smaller
                break
        else:
            return case


def _smaller_cases(case: Case) -> Iterator[Case]:
    """Every case one step smaller: what saves most comes first."""
    for index in range(len(case.layers)):
        if len(case.layers) > 1:
            yield replace(case, layers=case.layers[:index] + case.layers[index + 1 :])
    for axis, size in ((2, case.samples), (1, case.timesteps)):
        for kept in _smaller(size):
            for span in (range(kept), range(size - kept, size)):
                layers = tuple(_some_images(layer, axis, span) for layer in case.layers)
                yield replace(case, layers=layers)
    for index, layer in enumerate(case.layers):
        for smaller in _smaller_layers(layer):
            layers = (*case.layers[:index], smaller, *case.layers[index + 1 :])
            yield replace(case, layers=layers)
    defaults = parameters_of(_core.Machine())
    for name, value in case.parameters.items():
        if value == defaults[name]:
            continue
        yield replace(case, parameters={**case.parameters, name: defaults[name]})
        if not isinstance(value, (bool, str)):
            for smaller_value in _smaller(value, least=0 if name in MAY_BE_ZERO else 1):
                yield replace(case, parameters={**case.parameters, name: smaller_value})
    for index, layer in enumerate(case.layers):
        for cleared in _cleared_layers(layer):
            layers = (*case.layers[:index], cleared, *case.layers[index + 1 :])
            yield replace(case, layers=layers)


def _smaller(value: int, least: int = 1) -> list[int]:
    """At most `least`, half, one less; none that is not smaller."""
    return [n for n in dict.fromkeys((least, value // 2, value - 1)) if least <= n < value]


def _some_images(layer: CaseLayer, axis: int, kept: range) -> CaseLayer:
    """The layer with these timesteps (axis 1) or samples (axis 2) only."""

    def cut(bits: Bits | None, at: int) -> Bits | None:
        return None if bits is None else bits.take(kept, axis=at)

    return replace(
        layer,
        inputs=layer.inputs.take(kept, axis=axis),
        mask=cut(layer.mask, axis - 1),
        nonzero=cut(layer.nonzero, axis - 1),
    )


def _with(layer: CaseLayer, name: str, value: Any) -> CaseLayer:
    changes: dict[str, Any] = {name: value}
    return replace(layer, **changes)


def _smaller_layers(layer: CaseLayer) -> Iterator[CaseLayer]:
    if layer.nonzero is not None:
        yield replace(layer, nonzero=None, mask=None, input_gradient=False, weight_gradient=False)
    for flag in ("input_gradient", "weight_gradient", "membrane", "neurons"):
        if getattr(layer, flag):
            yield _with(layer, flag, False)
    if layer.mask is not None:
        yield replace(layer, mask=None)
    for planes in _smaller(len(layer.inputs)):
        yield replace(layer, inputs=layer.inputs[:planes])
        yield replace(layer, inputs=layer.inputs[-planes:])
    for shape in _smaller_shapes(layer.geometry):
        try:
            core_geometry(shape)
        except ValueError:
            continue
        for halves in range(3):
            yield _reshaped(layer, shape, halves)


def _smaller_shapes(shape: Geometry) -> Iterator[Geometry]:
    named = dict(zip(GEOMETRY_FIELDS, shape, strict=True))

    def changed(**changes: int) -> Geometry:
        return tuple({**named, **changes}.values())

    groups = named["groups"]
    if groups > 1:
        for fewer in _smaller(groups):
            yield changed(
                groups=fewer,
                in_channels=named["in_channels"] // groups * fewer,
                out_channels=named["out_channels"] // groups * fewer,
            )
    for channels in ("in_channels", "out_channels"):
        for fewer in _smaller(named[channels] // groups):
            yield changed(**{channels: fewer * groups})
    for name in (
        "in_height", "in_width", "kernel_height", "kernel_width",
        "stride_height", "stride_width", "dilation_height", "dilation_width",
    ):  # fmt: skip
        for fewer in _smaller(named[name]):
            yield changed(**{name: fewer})
    for side in ("height", "width"):
        # Kernel and padding together: one of them alone moves the window off its inputs.
        if named[f"padding_{side}"] > 0 and named[f"kernel_{side}"] > 1:
            yield changed(**{f"padding_{side}": 0, f"kernel_{side}": 1})
    for name in ("padding_height", "padding_width"):
        for fewer in _smaller(named[name], least=0):
            yield changed(**{name: fewer})


def _reshaped(layer: CaseLayer, shape: Geometry, halves: int) -> CaseLayer:
    """The layer with another shape; it keeps the first, middle or last bits (halves 0, 1, 2)."""

    def fitted(bits: Bits, image: tuple[int, ...]) -> Bits:
        changed = np.zeros((*bits.shape[:-3], *image), dtype=np.bool_)
        old, new = [], []
        for before, after in zip(bits.shape[-3:], image, strict=True):
            size = min(before, after)
            old.append(slice((before - size) * halves // 2, (before - size) * halves // 2 + size))
            new.append(slice((after - size) * halves // 2, (after - size) * halves // 2 + size))
        changed[..., new[0], new[1], new[2]] = bits[..., old[0], old[1], old[2]]
        return changed

    image_in = (*shape[1:3], shape[0])
    image_out = (*out_size(shape), shape[3])
    return replace(
        layer,
        geometry=shape,
        inputs=fitted(layer.inputs, image_in),
        mask=None if layer.mask is None else fitted(layer.mask, image_in),
        nonzero=None if layer.nonzero is None else fitted(layer.nonzero, image_out),
    )


def _cleared_layers(layer: CaseLayer) -> Iterator[CaseLayer]:
    """The layer with fewer bits set in one of its arrays: none, half of them, one less."""
    for name in ("inputs", "mask", "nonzero"):
        bits: Bits | None = getattr(layer, name)
        if bits is None:
            continue
        places = np.flatnonzero(bits)
        for kept in _smaller(len(places), least=0):
            for chosen in (places[:kept], places[len(places) - kept :]):
                fewer = np.zeros(bits.size, dtype=np.bool_)
                fewer[chosen] = True
                yield _with(layer, name, fewer.reshape(bits.shape))


def snippet(case: Case) -> str:
    """A program that builds the case from plain numbers, runs both simulators, and compares them.

    It leaves `machine`, `layers` and, once run, `difference` behind.
    """
    lines = [
        "import numpy as np",
        "from h2learn import _core",
        "from h2learn.verify import first_difference",
        "",
        "machine = _core.Machine()",
    ]
    for name, value in case.parameters.items():
        lines.append(f"machine.{name} = {value!r}")
    lines += [
        "",
        "def words(values, *shape):",
        "    return np.array(values, dtype=np.uint64).view(np.int64).reshape(shape)",
        "",
        "layers = []",
    ]
    for index, layer in enumerate(case.layers):
        arrays: dict[str, NDArray[np.int64] | None] = layer.words()
        fields = zip(GEOMETRY_FIELDS, layer.geometry, strict=True)
        lines += [
            "layers.append(_core.LayerWork(",
            f"    name='layer{index}',",
            f"    geometry=_core.Geometry({', '.join(f'{name}={size}' for name, size in fields)}),",
            f"    timesteps={case.timesteps}, samples={case.samples},",
            *(f"    {name}={_words_text(words)}," for name, words in arrays.items()),
            f"    input_gradient={layer.input_gradient}, weight_gradient={layer.weight_gradient},",
            f"    neurons={layer.neurons}, membrane={layer.membrane},",
            "))",
        ]
    lines += [
        "",
        "difference = first_difference(",
        "    _core.simulate(machine, layers), _core.simulate(machine, layers, clocked=True)",
        ")",
        "print(difference)",
    ]
    return "\n".join(lines) + "\n"


def _words_text(words: NDArray[Any] | None) -> str:
    if words is None:
        return "None"
    numbers = words.view(np.uint64).reshape(math.prod(words.shape)).tolist()
    return f"words({numbers}, {', '.join(map(str, words.shape))})"
