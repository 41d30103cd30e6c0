"""The costs by which kernel="auto" chooses: their file, and the choice as the core makes it.

`cpp/src/kernels/costs.inc` holds them, `cpp/src/kernels/synapse_choice.hpp` says what they mean and
is what the core runs; `choose` is the same in Python, so that tune.py can tell what other costs
would have chosen. A test compares the two.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

FILE = Path(__file__).parent.parent / "cpp/src/kernels/costs.inc"
SUM_BLOCK = 256
PANEL_VECTORS = 2
NARROW_WINDOWS = 8
MOST_SCATTERED = 1024
WINDOWS_IN_A_ROW = range(4, 1025)
PRODUCT_TASK_VECTORS = 32
OUTER_TASK_VECTORS = 16
OUTER_TASK_TERMS = 512
FEW_IMAGES = 224
TASKS_A_THREAD = 4


@dataclass(frozen=True)
class Costs:
    """One row: costs in units of multiplying and adding one vector (`struct Costs`)."""

    gather_row: float
    gather_run: float
    gather_values: float
    list_bit: float
    list_value: float
    bit_event: float
    value_event: float
    start_sum: float
    next_bit: float
    next_output: float
    next_weight: float
    bit_scatter: float
    start_scatter: float
    narrow: float
    far: float

    def as_dict(self) -> dict[str, float]:
        """The constants by name, in the order of the file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Row:
    """A width's costs and where they come from, as the file says."""

    origin: str
    costs: Costs


# ---- the file


def parse(text: str) -> dict[int, Row]:
    """Rows of the file by width of vectors in bytes.

    Raises:
        ValueError: a row lacks a constant, has one twice or one that is unknown.
    """
    rows = {}
    for comment, body in re.findall(r"((?://[^\n]*\n)+)\{\n(.*?)\n\},", text, re.S):
        entries = re.findall(r"^ +\.(\w+) = ([0-9.e+-]+)F?,$", body, re.M)
        values = {name: float(value) for name, value in entries}
        width = int(values.pop("vector_bytes", 0))
        expected = [field.name for field in fields(Costs)]
        if list(values) != expected or len(entries) != len(body.splitlines()):
            raise ValueError(f"a row of {width} bytes has {', '.join(values)}; not {expected}")
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
        lines = [f"// {row.origin}", "{", f"    .vector_bytes = {width},"]
        lines += [
            f"    .{name} = {_literal(value)}," for name, value in row.costs.as_dict().items()
        ]
        parts.append("\n".join([*lines, "},", ""]))
    return "\n".join(parts)


def write(rows: Mapping[int, Row], path: Path) -> None:
    """Writes the file beside `path` and puts it in its place."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".new")
    with os.fdopen(handle, "w") as file:
        file.write(render(rows))
    Path(name).chmod(0o644)
    Path(name).replace(path)


def rounded(costs: Costs) -> Costs:
    """Three digits: more were not measured."""
    return Costs(**{name: float(f"{value:.3g}") for name, value in costs.as_dict().items()})


def _literal(value: float) -> str:
    if value == int(value):
        return str(int(value))
    return f"{value:g}F" if "e" not in f"{value:g}" else f"{value:.9f}".rstrip("0") + "F"


# ---- the choice


@dataclass(frozen=True)
class Layer:
    """One layer and product, at one density of what can be skipped.

    Attributes:
        product: ``forward``, ``weight_update`` (bits), ``backward``, ``forward_values``,
            ``weight_update_values`` (floats).
        channels: of its inputs; `size` their height and width.
        outputs: channels of its outputs.
        kernel: taps a side; `padding` and `stride` likewise.
        images: T * B.
        density: part of the operand that is not zero.
    """

    product: str
    channels: int
    size: int
    outputs: int
    kernel: int
    padding: int
    stride: int
    images: int
    density: float

    @property
    def line(self) -> str:
        """As h2learn_tune reads it."""
        return (
            f"{self.product} {self.channels} {self.size} {self.size} {self.outputs} {self.kernel} "
            f"{self.padding} {self.stride} {self.images} {self.density}"
        )

    @property
    def name(self) -> str:
        """For tables."""
        shape = f"{self.channels}-{self.outputs}"
        if self.size > 1:
            shape += f" {self.kernel}x{self.kernel} on {self.size}x{self.size}"
        return f"{self.product} {shape}, {self.images} images"

    @property
    def out_size(self) -> int:
        """Height and width of the outputs."""
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def is_bits(self) -> bool:
        """Spikes rather than floats are what can be zero."""
        return self.product in ("forward", "weight_update")

    @property
    def is_outer(self) -> bool:
        """A weight gradient."""
        return self.product.startswith("weight_update")

    @property
    def window_channels(self) -> int:
        """Channels of the windows: a backward pass' are the outputs'."""
        return self.outputs if self.product == "backward" else self.channels

    @property
    def length(self) -> int:
        """Elements of a window."""
        return self.kernel**2 * self.window_channels

    @property
    def width(self) -> int:
        """Windows in a row."""
        return self.size if self.product == "backward" else self.out_size

    @property
    def has_windows(self) -> bool:
        """Dense kernels need no gathering."""
        return self.width in WINDOWS_IN_A_ROW and (self.product != "backward" or self.stride == 1)

    @property
    def can_scatter(self) -> bool:
        """From each spike to its outputs."""
        return (
            self.is_bits and self.has_windows and self.stride == 1 and self.length <= MOST_SCATTERED
        )

    @property
    def read_mebibytes(self) -> float:
        """Of windows, that a block of positions reads; of a weight gradient."""
        height = min(self.out_size, -(-SUM_BLOCK // self.out_size))
        images = max(SUM_BLOCK // self.out_size**2, 1)
        rows, columns = ((n - 1) * self.stride + self.kernel for n in (height, self.out_size))
        return images * rows * columns * min(self.channels, OUTER_TASK_TERMS) / 2**18

    def columns(self, lanes: int) -> int:
        """Vectors of columns."""
        return -(-(self.channels if self.product == "backward" else self.outputs) // lanes)

    def row(self, lanes: int) -> tuple[float, float]:
        """Depth and vectors of the row of one block by which the core chooses."""
        vectors = self.columns(lanes)
        if self.has_windows:
            return min(self.length, SUM_BLOCK), vectors
        if self.is_outer:
            return min(self.images * self.out_size**2, SUM_BLOCK), min(vectors, OUTER_TASK_VECTORS)
        if self.size == 1 and self.images <= FEW_IMAGES:
            share = -(-vectors // TASKS_A_THREAD)  # weights are read in place, tasks share columns
            vectors = -(-share // PANEL_VECTORS) * PANEL_VECTORS
        return min(self.length, SUM_BLOCK), min(vectors, PRODUCT_TASK_VECTORS)

    @property
    def runs(self) -> float:
        """Stretches of an image that a row of one block is gathered from, on average."""
        tap_row = self.kernel * self.window_channels
        blocks = -(-self.length // SUM_BLOCK)
        ends = [(r * tap_row, (r + 1) * tap_row - 1) for r in range(self.kernel)]
        return sum(last // SUM_BLOCK - first // SUM_BLOCK + 1 for first, last in ends) / blocks

    def blocks(self, lanes: int) -> float:
        """Such rows of the whole product."""
        depth, vectors = self.row(lanes)
        side = self.size if self.product == "backward" else self.out_size
        return self.images * side**2 * self.length * self.columns(lanes) / (depth * vectors)


def terms(layer: Layer, way: str, lanes: int) -> dict[str, float]:
    """How often a row of one block pays each cost by one way; `unit` is the vector's own.

    Ways: ``event`` and ``dense`` (rows that are gathered), ``windows`` (dense, in place),
    ``scatter``.
    """
    depth, vectors = layer.row(lanes)
    if way == "windows":
        if layer.is_outer:
            return {"unit": vectors * depth, "far": vectors * depth * layer.read_mebibytes}
        return {"narrow" if layer.width <= NARROW_WINDOWS else "unit": vectors * depth}
    events = layer.density * depth
    if way == "scatter":
        panels = math.ceil(vectors / PANEL_VECTORS)
        taps = depth / layer.window_channels
        return {
            "next_bit": events * panels / taps,
            "next_weight" if layer.is_outer else "next_output": events * panels,
            "bit_scatter": events * vectors,
            "start_scatter": vectors,
        }
    gathering = {}
    if layer.has_windows:
        gathering = {"gather_row": 1.0, "gather_run": layer.runs}
        gathering |= {} if layer.is_bits else {"gather_values": 1.0}
    if way == "dense":
        return gathering | {"unit": vectors * depth}
    kind = "bit" if layer.is_bits else "value"
    listing = {f"list_{kind}": depth, f"{kind}_event": vectors * events, "start_sum": vectors}
    return gathering | listing


def cost(layer: Layer, way: str, costs: Costs, lanes: int) -> float:
    """Of a row of one block, in vectors."""
    price = costs.as_dict() | {"unit": 1.0}
    return sum(count * price[name] for name, count in terms(layer, way, lanes).items())


def ways_of(layer: Layer) -> list[str]:
    """Those that the core chooses from; it takes an earlier one where two cost the same."""
    ways = ["windows"] if layer.has_windows else []
    return [*ways, "dense", "event", *(["scatter"] if layer.can_scatter else [])]


def choose(layer: Layer, costs: Costs, lanes: int) -> str:
    """The way that the core takes with these costs."""
    return min(ways_of(layer), key=lambda way: cost(layer, way, costs, lanes))
