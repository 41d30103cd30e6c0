"""A layer's product as h2learn_tune measures it, and what of it the core chooses by."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kernel_tables import percent

SUM_BLOCK = 256
PANEL_VECTORS = 2
MOST_SCATTERED = 1024
MOST_WALK_TERMS = 1 << 13
WINDOWS_IN_A_ROW = range(4, 1025)
LEAST_TASK_VECTORS = 32
MOST_TASK_VECTORS = 256
NEAR_WEIGHTS = 1 << 19
OUTER_TASK_TERMS = 256
OUTER_TASK_VECTORS = 32
KEPT_OUTER_TASK_VECTORS = 64
FEW_IMAGES = 224
TASKS_A_THREAD = 4
LEAST_TAP_CHUNK = 64


@dataclass(frozen=True)
class Layer:
    """One layer and product, at one density of what can be skipped.

    Attributes:
        product: ``forward``, ``weight_update`` (bits), ``backward``, ``forward_values``,
            ``weight_update_values`` (floats); ``masked_backward``, a whole backward pass;
            ``digits_forward``, ``digits_backward``, ``digits_weight_update``, each whole.
        channels: of its inputs; `size` their height and width.
        outputs: channels of its outputs.
        kernel: taps a side; `padding` and `stride` likewise.
        images: T * B.
        density: part of the operand that is not zero.
        needed: part of the mask that is set; for ``masked_backward``.
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
    needed: float = 1.0

    @property
    def line(self) -> str:
        """As h2learn_tune reads it."""
        line = (
            f"{self.product} {self.channels} {self.size} {self.size} {self.outputs} {self.kernel} "
            f"{self.padding} {self.stride} {self.images} {self.density}"
        )
        return f"{line} {self.needed}" if self.is_masked else line

    @property
    def name(self) -> str:
        """For tables."""
        shape = f"{self.channels}-{self.outputs}"
        if self.size > 1:
            shape += f" {self.kernel}x{self.kernel} on {self.size}x{self.size}"
        needed = f", {percent(self.needed)} needed" if self.is_masked else ""
        return f"{self.product} {shape}, {self.images} images{needed}"

    @property
    def out_size(self) -> int:
        """Height and width of the outputs."""
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def is_masked(self) -> bool:
        """Its mask can skip something, too."""
        return self.product == "masked_backward"

    @property
    def is_bits(self) -> bool:
        """Spikes rather than floats are what can be zero."""
        return self.product.removeprefix("digits_") in ("forward", "weight_update")

    @property
    def is_outer(self) -> bool:
        """A weight gradient."""
        return self.product.removeprefix("digits_").startswith("weight_update")

    @property
    def is_backward(self) -> bool:
        """Gradients of inputs."""
        return self.product in ("backward", "masked_backward", "digits_backward")

    @property
    def window_channels(self) -> int:
        """Channels of the windows: a backward pass' are the outputs'."""
        return self.outputs if self.is_backward else self.channels

    @property
    def length(self) -> int:
        """Elements of a window."""
        return self.kernel**2 * self.window_channels

    @property
    def width(self) -> int:
        """Windows in a row."""
        return self.size if self.is_backward else self.out_size

    @property
    def has_windows(self) -> bool:
        """Dense kernels need no gathering."""
        return self.width in WINDOWS_IN_A_ROW and (not self.is_backward or self.stride == 1)

    @property
    def can_scatter(self) -> bool:
        """From each spike to its outputs."""
        return (
            self.is_bits and self.has_windows and self.stride == 1 and self.length <= MOST_SCATTERED
        )

    @property
    def tap_chunk(self) -> int:
        """Channels of a window that are listed together for all its taps."""
        return math.gcd(self.window_channels, SUM_BLOCK)

    @property
    def can_list_taps(self) -> bool:
        """Events are listed once for all taps."""
        return (
            self.width in WINDOWS_IN_A_ROW
            and not self.is_outer
            and (self.is_backward or self.stride == 1)
            and self.tap_chunk >= LEAST_TAP_CHUNK
        )

    @property
    def can_walk(self) -> bool:
        """A row's events are added at once: spikes of a linear layer."""
        return (
            self.is_bits
            and not self.is_outer
            and (self.size, self.kernel, self.padding) == (1, 1, 0)
            and self.length <= MOST_WALK_TERMS
        )

    @property
    def reached(self) -> float:
        """Part of a row's terms that are not the zeros which a stride leaves between gradients."""
        return 1 / self.stride**2 if self.is_backward else 1.0

    @property
    def read_mebibytes(self) -> float:
        """Of windows, that a block of positions reads; of a weight gradient."""
        height = min(self.out_size, -(-SUM_BLOCK // self.out_size))
        images = max(SUM_BLOCK // self.out_size**2, 1)
        rows, columns = ((n - 1) * self.stride + self.kernel for n in (height, self.out_size))
        return images * rows * columns * min(self.channels, OUTER_TASK_TERMS) / 2**18

    def columns(self, lanes: int) -> int:
        """Vectors of columns."""
        return -(-(self.channels if self.is_backward else self.outputs) // lanes)

    def row(self, lanes: int) -> tuple[float, float]:
        """Depth and vectors of the row of one block by which the core chooses."""
        vectors = self.columns(lanes)
        if self.has_windows or self.can_list_taps:
            return min(self.length, SUM_BLOCK), vectors
        if self.is_outer:
            depth = min(self.images * self.out_size**2, SUM_BLOCK)
            most = (
                OUTER_TASK_VECTORS if self.length <= OUTER_TASK_TERMS else KEPT_OUTER_TASK_VECTORS
            )
            return depth, _even(vectors, most)
        if self.size == 1 and self.images <= FEW_IMAGES:
            share = -(-vectors // TASKS_A_THREAD)  # weights are read in place, tasks share columns
            vectors = -(-share // PANEL_VECTORS) * PANEL_VECTORS
            vectors = min(vectors, LEAST_TASK_VECTORS, self.columns(lanes))
            return min(self.length, SUM_BLOCK), vectors
        near = NEAR_WEIGHTS / self.length / lanes
        most = min(max(near, LEAST_TASK_VECTORS), MOST_TASK_VECTORS)
        return min(self.length, SUM_BLOCK), _even(vectors, most)

    @property
    def runs(self) -> float:
        """Stretches of an image that a row of one block is gathered from, on average."""
        blocks = -(-self.length // SUM_BLOCK)
        # A backward pass reads taps in descending order: neighbours do not follow each other.
        taps = 1 if self.is_backward else self.kernel
        stretch = taps * self.window_channels
        ends = [(at, at + stretch - 1) for at in range(0, self.length, stretch)]
        return sum(last // SUM_BLOCK - first // SUM_BLOCK + 1 for first, last in ends) / blocks

    def blocks(self, lanes: int) -> float:
        """Such rows of the whole product."""
        depth, vectors = self.row(lanes)
        side = self.size if self.is_backward else self.out_size
        return self.images * side**2 * self.length * self.columns(lanes) / (depth * vectors)


def _even(vectors: int, most: float) -> int:
    """Vectors of the widest task, of so few tasks of whole panels as there can be."""
    tasks = math.ceil(vectors / most)
    return min(vectors, math.ceil(vectors / tasks / PANEL_VECTORS) * PANEL_VECTORS)
