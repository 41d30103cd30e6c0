"""The costs by which kernel="fastest" takes `digits`: their file, and the choice.

`cpp/src/digits_costs.inc` holds them, a row for each instruction set and product where digits pay;
`cpp/src/fastest.cpp` says what they mean and is what the core runs. A test compares the two.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import choice
from choice import Constants, NamedChoice, Row
from kernel_tables import percent
from layer import FEW_IMAGES, Layer

FILE = Path(__file__).parent.parent / "cpp/src/digits_costs.inc"
PRODUCTS = ("forward", "backward", "weight_update")
PANEL_COLUMNS = 16
TILE_CHANNELS = 16
STEP_IMAGES = 64
"""A weight update's channels and images come in multiples of these."""
RUN_STEPS = {"amx": 64}
"""Bytes that runs of a window are packed to a multiple of; elsewhere 4."""


@dataclass(frozen=True)
class DigitsCosts(Constants):
    """One row: costs in units of the dense kernel's time (`struct DigitsCosts`)."""

    multiply: float
    by_rows: float
    by_terms: float
    by_columns: float
    events: float
    events_by_columns: float
    nonzero: float


NEVER = DigitsCosts(1e6, 1.0, 1.0, 1.0, 0.5, 1.0, 1.0)
"""Where there is no row, digits never pay."""

Key = tuple[str, str]
"""Target and product."""

_HEAD = """\
// What Kernel::digits and Kernel::event cost beside the dense kernel (struct DigitsCosts in
// fastest.cpp, which includes this), a row for each instruction set and product. Where there is
// none, digits do not pay. Data, not code: `make tune TUNE=--digits` measures and writes the rows
// of a machine's own instruction sets and leaves the others.
"""


def parse(text: str) -> dict[Key, Row]:
    """Rows of the file.

    Raises:
        ValueError: a row lacks a constant, has one twice or one that is unknown.
    """
    rows = {}
    key = r"    \.target = Target::(\w+),\n    \.product = Product::(\w+),\n"
    pattern = rf"// ([^\n]*)\n{{\n{key}(.*?)\n}},"
    body = text.removeprefix(_HEAD)
    for origin, target, product, values in re.findall(pattern, body, re.S):
        constants = choice.parse(values, DigitsCosts.names())
        rows[target, product] = Row(origin, DigitsCosts(**constants))
    if body.count("{") != len(rows):
        raise ValueError("a row of costs has no target and product, or another's")
    return rows


def render(rows: Mapping[Key, Row]) -> str:
    """The file's text, which `parse` reads."""
    text = _HEAD
    for (target, product), row in sorted(rows.items()):
        lines = [
            "", f"// {row.origin}", "{", f"    .target = Target::{target},",
            f"    .product = Product::{product},",
            *choice.render(row.costs.as_dict(), indent="    "), "},", "",
        ]  # fmt: skip
        text += "\n".join(lines)
    return text


class DigitsChoice(NamedChoice):
    """Between ``digits`` and the two others, on one instruction set."""

    ways = ("dense", "event", "digits")
    groups = "operand"

    def __init__(self, target: str) -> None:
        self.run_step = RUN_STEPS.get(target, 4)

    def group(self, layer: Layer) -> str:
        """How much of the operand is not zero."""
        return f"{percent(layer.density)} not zero"

    def ways_of(self, layer: Layer) -> list[str]:
        """All, but digits where `fastest` leaves them out.

        That is without tiles, where weights would be packed to be used once, and in weight updates
        of one tap.
        """
        in_place = layer.size == 1 and layer.images <= FEW_IMAGES
        one_tap = layer.is_outer and layer.kernel == 1
        digits = not in_place and not one_tap and math.isfinite(self.padding(layer))
        return [way for way in self.ways if way != "digits" or digits]

    def padding(self, layer: Layer) -> float:
        """Bytes that digits multiply over those that there are; infinite without tiles."""
        of_columns = _padded(_columns(layer), PANEL_COLUMNS)
        if layer.is_outer:
            tiles = _padded(layer.channels, TILE_CHANNELS)
            return of_columns * _padded(layer.images, STEP_IMAGES) * tiles
        run = layer.kernel * layer.window_channels
        packed, least = (-(-run // step) * step for step in (self.run_step, 4))
        return of_columns * packed / run if packed <= 2 * least else math.inf

    def terms(self, layer: Layer, way: str) -> dict[str, float]:
        """How often a product pays each cost; `unit` is the dense kernel's own."""
        columns = _columns(layer)
        if way == "dense":
            return {"unit": 1.0}
        if way == "event":
            return {"events": 1.0, "events_by_columns": 1 / columns, "nonzero": layer.density}
        side = layer.size if layer.is_backward else layer.out_size
        return {
            "multiply": self.padding(layer),
            "by_rows": 1 / (layer.images * side**2),
            "by_terms": 1 / layer.length,
            "by_columns": 1 / columns,
        }


def _padded(n: int, multiple: int) -> float:
    """The number up to a multiple, over itself."""
    return -(-n // multiple) * multiple / n


def _columns(layer: Layer) -> int:
    return layer.channels if layer.is_backward else layer.outputs
