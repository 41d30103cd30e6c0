"""Whose arithmetic synapses compute with: float32 kernels, or the accelerator's engines.

Inside `with hardware(accelerator):` the currents, the gradients at the inputs and the weight
gradients of every h2learn layer are those that the accelerator would compute: the order of
additions of its engines, in its precision (docs/numerics.md). Of the accelerator only what
decides a number gets as far as the layers: an `Arithmetic`. Nothing here needs torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from h2learn.analog import ANALOG_BITS, MOST_ANALOG_BITS

if TYPE_CHECKING:
    from h2learn.accelerators.config import Accelerator

__all__ = ["PRECISIONS", "Arithmetic", "active", "hardware"]

PRECISIONS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Arithmetic:
    """What of a machine decides its numbers ("Arithmetic" in docs/microarchitecture.md).

    Attributes:
        precision: of weights, gradients and table entries: fp32, fp16 or bf16. Sums are fp32.
        forward_rows: tables that feed one adder tree of the forward engine.
        forward_inputs: weights that one of them covers.
        forward_tables: tables, or conditional adders.
        update_rows: likewise of the weight-update engine.
        update_inputs: positions that one of them covers.
        update_tables: likewise.
        update_columns: output channels of a tile; they matter with `update_compact` only.
        update_spikes_bytes: its buffer of inputs: half of it holds a block of images.
        update_parts: parts of a mini-batch.
        update_compact: leave out positions whose gradients are all zero.
        analog_bits: bits that the magnitude of analog inputs is quantised to.

    Raises:
        ValueError: no such precision, or bits out of range.
    """

    precision: str = "fp16"
    forward_rows: int = 32
    forward_inputs: int = 6
    forward_tables: bool = True
    update_rows: int = 32
    update_inputs: int = 5
    update_tables: bool = True
    update_columns: int = 32
    update_spikes_bytes: int = 512 << 10
    update_parts: int = 4
    update_compact: bool = False
    analog_bits: int = ANALOG_BITS

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}"
            )
        if not 1 <= self.analog_bits <= MOST_ANALOG_BITS:
            raise ValueError(f"analog_bits must be 1 to {MOST_ANALOG_BITS}, got {self.analog_bits}")

    @classmethod
    def of(cls, accelerator: Accelerator) -> Arithmetic:
        """That of an accelerator."""
        forward, update = accelerator.forward, accelerator.update
        return cls(
            precision=accelerator.precision,
            forward_rows=forward.rows,
            forward_inputs=forward.inputs,
            forward_tables=forward.tables,
            update_rows=update.rows,
            update_inputs=update.inputs,
            update_tables=update.tables,
            update_columns=update.columns,
            update_spikes_bytes=update.spikes_bytes,
            update_parts=accelerator.parts,
            update_compact=update.compact,
        )

    @property
    def forward(self) -> list[int]:
        """The forward engine's, as operators take it: rows, inputs, tables."""
        return [self.forward_rows, self.forward_inputs, int(self.forward_tables)]

    @property
    def update(self) -> list[int]:
        """The update engine's: rows, inputs, tables, columns, spikes_bytes, parts, compact."""
        return [
            self.update_rows, self.update_inputs, int(self.update_tables), self.update_columns,
            self.update_spikes_bytes, self.update_parts, int(self.update_compact),
        ]  # fmt: skip


# A module's variable, as the recording listeners are, and not a ContextVar: torch.compile guards
# it, so that compiled code never computes with the arithmetic of another block.
_active: Arithmetic | None = None


def active() -> Arithmetic | None:
    """What layers compute with now; None for the float32 kernels."""
    return _active


@contextlib.contextmanager
def hardware(accelerator: Accelerator | Arithmetic) -> Iterator[Arithmetic]:
    """Computes every synapse layer's products as an accelerator's engines do (all threads).

    What ran forward inside the block computes its backward pass likewise, also outside of it. A
    block inside a block takes its place until it ends.

    Example:
        >>> import torch
        >>> from h2learn import nn
        >>> from h2learn.numerics import Arithmetic, hardware
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> _ = torch.nn.init.constant_(layer.weight, 0.1)
        >>> with hardware(Arithmetic(precision="fp16")):
        ...     layer(torch.ones(1, 1, 2)).item()
        0.199951171875
    """
    global _active
    before = _active
    _active = accelerator if isinstance(accelerator, Arithmetic) else Arithmetic.of(accelerator)
    try:
        yield _active
    finally:
        _active = before
