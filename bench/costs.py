"""The costs by which kernel="auto" chooses between events and dense: their file, and the choice.

`cpp/src/kernels/costs.inc` holds them, `cpp/src/kernels/synapse_choice.hpp` says what they mean and
is what the core runs; `KernelChoice` is the same in Python, so that tune.py can tell what other
costs would have chosen. A test compares the two.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import choice
from choice import Choice, Constants, Row, Sample
from layer import PANEL_VECTORS, Layer

FILE = Path(__file__).parent.parent / "cpp/src/kernels/costs.inc"
NARROW_WINDOWS = 8


@dataclass(frozen=True)
class Costs(Constants):
    """One row: costs in units of multiplying and adding one vector (`struct Costs`)."""

    gather_row: float
    gather_run: float
    gather_values: float
    list_bit: float
    list_value: float
    bit_event: float
    value_event: float
    start_sum: float
    start_tap: float
    walk_event: float
    next_bit: float
    next_output: float
    next_weight: float
    bit_scatter: float
    start_scatter: float
    narrow: float
    far: float


# ---- the file


def parse(text: str) -> dict[int, Row]:
    """Rows of the file by width of vectors in bytes.

    Raises:
        ValueError: a row lacks a constant, has one twice or one that is unknown.
    """
    rows = {}
    for comment, body in re.findall(r"((?://[^\n]*\n)+)\{\n(.*?)\n\},", text, re.S):
        values = choice.parse(body, ["vector_bytes", *Costs.names()])
        width = int(values.pop("vector_bytes"))
        origin = " ".join(line.removeprefix("//").strip() for line in comment.splitlines())
        rows[width] = Row(origin, Costs(**values))
    if not rows:
        raise ValueError("no row of costs")
    return rows


_HEAD = """\
// What a product's steps cost (struct Costs in synapse_choice.hpp, which includes this), a row for
// each width of vectors. Data, not code: `make tune` measures and writes the rows of a machine's
// own instruction sets and leaves the others.
"""


def render(rows: Mapping[int, Row]) -> str:
    """The file's text, which `parse` reads."""
    parts = [_HEAD]
    for width, row in sorted(rows.items()):
        lines = choice.render({"vector_bytes": width} | row.costs.as_dict(), indent="    ")
        parts.append("\n".join([f"// {row.origin}", "{", *lines, "},", ""]))
    return "\n".join(parts)


# ---- the choice


@dataclass(frozen=True)
class KernelChoice(Choice):
    """Between the ways to make one product.

    ``event`` and ``dense`` are of rows that are gathered, ``windows`` is dense in place, ``taps``
    by events that are listed once for all taps, ``walk`` by those of a linear layer's row at once.

    Attributes:
        lanes: floats of a vector.
    """

    lanes: int

    ways = ("windows", "dense", "event", "taps", "scatter", "walk")
    unit = "vectors multiplied and added"
    groups = "product"

    def ways_of(self, layer: Layer) -> list[str]:
        """Those that a layer can be computed by."""
        impossible = set() if layer.has_windows else {"windows"}
        impossible |= set() if layer.can_list_taps else {"taps"}
        impossible |= set() if layer.can_scatter else {"scatter"}
        impossible |= set() if layer.can_walk else {"walk"}
        return [way for way in self.ways if way not in impossible]

    def group(self, layer: Layer) -> str:
        """Its product."""
        return layer.product

    def size(self, sample: Sample) -> float:
        """In rows of one block."""
        return sample.layer.blocks(self.lanes)

    def terms(self, layer: Layer, way: str) -> dict[str, float]:
        """How often a row of one block pays each cost; `unit` is the vector's own."""
        depth, vectors = layer.row(self.lanes)
        if way == "windows":
            if layer.is_outer:
                return {"unit": vectors * depth, "far": vectors * depth * layer.read_mebibytes}
            return {"narrow" if layer.width <= NARROW_WINDOWS else "unit": vectors * depth}
        events = layer.density * layer.reached * depth
        if way == "scatter":
            panels = math.ceil(vectors / PANEL_VECTORS)
            taps = depth / layer.window_channels
            return {
                "next_bit": events * panels / taps,
                "next_weight" if layer.is_outer else "next_output": events * panels,
                "bit_scatter": events * vectors,
                "start_scatter": vectors,
            }
        kind = "bit" if layer.is_bits else "value"
        if way == "taps":
            return {
                f"list_{kind}": depth * layer.reached / layer.kernel**2,
                f"{kind}_event": vectors * events,
                "start_tap": vectors * depth * layer.reached / layer.tap_chunk,
            }
        if way == "walk":
            return {"walk_event": vectors * events}
        gathering = {}
        if layer.has_windows or layer.can_list_taps:
            gathering = {"gather_row": 1.0, "gather_run": layer.runs}
            gathering |= {} if layer.is_bits else {"gather_values": 1.0}
        if way == "dense":
            return gathering | {"unit": vectors * depth}
        listing = {f"list_{kind}": depth, f"{kind}_event": vectors * events, "start_sum": vectors}
        return gathering | listing
