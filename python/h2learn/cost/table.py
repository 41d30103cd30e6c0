"""Tables of costs: what an operation, a memory access, a square of silicon costs, and who says so.

A table is a TOML file in `tables/`, or a user's own. Each number carries its unit, bits, node,
voltage, method and source, and whether somebody compared it with that source.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from h2learn import toml
from h2learn.errors import InputError

__all__ = ["Number", "SramPoint", "Table", "tables"]

FOLDER = Path(__file__).parent / "tables"

Text = Annotated[str, Field(min_length=1, max_length=2000)]
Stated = Literal["not stated"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Number(_Part):
    """A published number: `value` `unit` for `bits` bits."""

    value: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
    unit: Literal["pJ", "um2", "ratio"]
    bits: Annotated[int, Field(ge=1, le=4096)]
    node_nm: Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)] | Stated
    voltage_v: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] | Stated
    method: Text
    source: Text
    verified: bool
    """Whether the value was compared with the source, or with a text that quotes it."""
    checked: Text
    """What it was compared with; if it was not, how it is known."""


class SramPoint(Number):
    """Energy of an access of `bits` bits to an SRAM of `bytes` bytes."""

    bytes: Annotated[int, Field(ge=1, le=1 << 40)]


class DramNumber(Number):
    """Energy of an access of `bits` bits to a DRAM of a kind, interface included."""

    technology: Text
    """The kind of DRAM. A machine's parameters name none: who compares must look here."""


class Widths(_Part):
    """The same thing for each precision."""

    fp32: Number
    fp16: Number
    bf16: Number

    def of(self, precision: str) -> float:
        """The value for a precision by name."""
        return {"fp32": self.fp32, "fp16": self.fp16, "bf16": self.bf16}[precision].value


class EnergyNumbers(_Part):
    """Energies, in pJ."""

    add: Widths
    multiply: Widths
    sram: Annotated[tuple[SramPoint, ...], Field(strict=False, min_length=2, max_length=100)]
    dram: DramNumber


class AreaNumbers(_Part):
    """Areas, in um2."""

    add: Widths
    multiply: Widths
    sram_cell: Number
    array_efficiency: Number
    """Share of a memory's area that its cells are."""


class Table(_Part):
    """A table of costs. Use `load`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")]
    title: Text
    node_nm: Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)]
    leakage: Literal["not modelled"]
    energy: EnergyNumbers
    area: AreaNumbers

    @model_validator(mode="after")
    def _consistent(self) -> Table:
        for name, number in self.numbers():
            unit = "pJ" if name.startswith("energy.") else "um2"
            unit = "ratio" if name == "area.array_efficiency" else unit
            if number.unit != unit:
                raise ValueError(f"{name}.unit must be {unit!r}, got {number.unit!r}")
        if self.area.array_efficiency.value > 1:
            raise ValueError(
                f"area.array_efficiency.value must be at most 1, "
                f"got {self.area.array_efficiency.value}"
            )
        for smaller, larger in pairwise(self.energy.sram):
            if smaller.bytes >= larger.bytes:
                raise ValueError(
                    f"energy.sram must be sorted by bytes, got {larger.bytes} after {smaller.bytes}"
                )
        return self

    @classmethod
    def load(cls, name_or_path: str) -> Table:
        """One of `tables()`, or a path that ends in .toml.

        Raises:
            InputError: one line: no such table, or what in it is wrong.
        """
        path = toml.find(name_or_path, FOLDER, "cost table")
        try:
            return cls.model_validate({"name": path.stem} | toml.read(path))
        except ValidationError as error:
            raise InputError(f"{path}: {_explain(error)}") from None

    def numbers(self) -> Iterator[tuple[str, Number]]:
        """Every number with its dotted name."""
        for kind, group in (("energy", self.energy), ("area", self.area)):
            for operation, widths in (("add", group.add), ("multiply", group.multiply)):
                for precision in Widths.model_fields:
                    yield f"{kind}.{operation}.{precision}", getattr(widths, precision)
        for i, point in enumerate(self.energy.sram):
            yield f"energy.sram.{i}", point
        yield "energy.dram", self.energy.dram
        yield "area.sram_cell", self.area.sram_cell
        yield "area.array_efficiency", self.area.array_efficiency

    def unverified(self) -> tuple[str, ...]:
        """The names of the numbers that nobody compared with their source."""
        return tuple(name for name, number in self.numbers() if not number.verified)

    def sram_pj_per_bit(self, size_bytes: float) -> float:
        """Energy of reading or writing a bit in an SRAM of this size.

        A power law between the published sizes (straight lines of logarithms); beyond them the
        nearest one goes on.
        """
        points = self.energy.sram
        i = 1
        while i < len(points) - 1 and size_bytes > points[i].bytes:
            i += 1
        (x0, y0), (x1, y1) = (
            (math.log(point.bytes), math.log(point.value / point.bits))
            for point in (points[i - 1], points[i])
        )
        return math.exp(y0 + (y1 - y0) * (math.log(size_bytes) - x0) / (x1 - x0))

    def covers(self, size_bytes: float) -> bool:
        """Whether an SRAM of this size lies between the published ones."""
        return self.energy.sram[0].bytes <= size_bytes <= self.energy.sram[-1].bytes


def tables() -> tuple[str, ...]:
    """The names of the tables that come with the package."""
    return toml.names(FOLDER)


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "value_error":
        return str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{name} is missing"
    if first["type"] == "extra_forbidden":
        return f"unknown key {name}"
    return f"{name}: {first['msg'][0].lower()}{first['msg'][1:]}, got {toml.shown(first['input'])}"
