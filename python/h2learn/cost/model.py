"""What work costs: pure functions of counters, a machine and a table.

The rules are stated in docs/cost.md; this file is their only implementation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

from h2learn import _core, toml
from h2learn.accelerators.config import Accelerator, TableEngine
from h2learn.cost.table import Table
from h2learn.errors import InputError

__all__ = ["THIRD_PARTY_AREA_MM2", "Area", "Energy", "Power", "area", "energy", "power_w"]

# The area of H2Learn in a third party's model (grade T). For comparison: nothing is fitted to it.
THIRD_PARTY_AREA_MM2 = 110.46

ACCUMULATOR_BYTES = 4
ACCUMULATOR_BITS = 8 * ACCUMULATOR_BYTES
SPIKE_BANK_BITS = 32

Counts = Mapping[str, int]


@dataclass(frozen=True)
class Energy:
    """Energy by pass and component, in pJ.

    `pj` maps (pass, component) to pJ; components of DRAM begin with "dram.". `extrapolated` names
    the memories that are smaller or larger than any that the table has a number for.
    """

    table: str
    accelerator: str
    pj: Mapping[tuple[str, str], float]
    extrapolated: tuple[str, ...]

    @property
    def on_chip_pj(self) -> float:
        """Everything but DRAM."""
        return math.fsum(pj for (_, part), pj in self.pj.items() if not _off_chip(part))

    @property
    def dram_pj(self) -> float:
        """DRAM with its interface."""
        return math.fsum(pj for (_, part), pj in self.pj.items() if _off_chip(part))

    @property
    def total_pj(self) -> float:
        """On chip and DRAM."""
        return math.fsum(self.pj.values())

    def by_pass(self) -> dict[str, float]:
        """Pass to pJ."""
        return _sums((passes, pj) for (passes, _), pj in self.pj.items())

    def by_component(self) -> dict[str, float]:
        """Component to pJ."""
        return _sums((part, pj) for (_, part), pj in self.pj.items())

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        nested: dict[str, dict[str, float]] = {}
        for (passes, part), pj in self.pj.items():
            nested.setdefault(passes, {})[part] = pj
        return {
            "table": self.table,
            "accelerator": self.accelerator,
            "on_chip_pj": self.on_chip_pj,
            "dram_pj": self.dram_pj,
            "total_pj": self.total_pj,
            "passes_pj": nested,
            "extrapolated": list(self.extrapolated),
        }


@dataclass(frozen=True)
class Area:
    """Area by component, in um2."""

    table: str
    accelerator: str
    um2: Mapping[str, float]

    @property
    def total_um2(self) -> float:
        """Of all components."""
        return math.fsum(self.um2.values())

    @property
    def total_mm2(self) -> float:
        """Of all components, in mm2."""
        return self.total_um2 / 1e6

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "table": self.table,
            "accelerator": self.accelerator,
            "total_um2": self.total_um2,
            "components_um2": dict(self.um2),
            "third_party_h2learn_mm2": THIRD_PARTY_AREA_MM2,
        }


class Power(NamedTuple):
    """Mean power, in W; leakage is in none of it."""

    on_chip_w: float
    dram_w: float

    @property
    def total_w(self) -> float:
        """On chip and DRAM."""
        return self.on_chip_w + self.dram_w


class _Memory(NamedTuple):
    total_bytes: int
    bank_bytes: float
    """What one access opens."""


class _Access(NamedTuple):
    counter: str
    memory: str
    direction: str
    bits: int


class _Passes(NamedTuple):
    accesses: tuple[_Access, ...]
    tables: TableEngine | None
    multiply_precision: str


def energy(counters: Mapping[str, Counts], accelerator: Accelerator, table: Table | str) -> Energy:
    """Energy of counted work. Linear in the counters.

    Args:
        counters: pass to {counter: count}, as `Simulation.by_pass` gives them (the names are those
            of docs/microarchitecture.md); what is absent is 0.
        accelerator: the machine that did the work.
        table: a table, its name, or a TOML file.

    Raises:
        InputError: an unknown pass, counter or table, or a count that is not a whole number from 0.
    """
    table = Table.load(table) if isinstance(table, str) else table
    memories = _memories(accelerator)
    passes = _passes(accelerator)
    parts: dict[tuple[str, str], float] = {}
    extrapolated: dict[str, None] = {}

    for name, counts in counters.items():
        if name not in passes:
            raise InputError(f"unknown pass {toml.shown(name)}: known are {', '.join(passes)}")
        _check_counts(name, counts)
        rules = passes[name]
        for part, pj in _arithmetic(name, counts, accelerator, rules, table):
            parts[name, part] = parts.get((name, part), 0.0) + pj
        for access in rules.accesses:
            count = int(counts.get(access.counter, 0))
            if count == 0:
                continue
            size = memories[access.memory].bank_bytes
            if not table.covers(size):
                extrapolated[access.memory] = None
            part = f"{access.memory}.{access.direction}"
            pj = count * access.bits * table.sram_pj_per_bit(size)
            parts[name, part] = parts.get((name, part), 0.0) + pj
        dram = table.energy.dram
        for direction, counter in (("read", "load_bursts"), ("write", "store_bursts")):
            bits = 8 * accelerator.dram.burst_bytes * int(counts.get(counter, 0))
            if bits:
                parts[name, f"dram.{direction}"] = bits * dram.value / dram.bits

    return Energy(table.name, accelerator.name, parts, tuple(extrapolated))


def area(accelerator: Accelerator, table: Table | str) -> Area:
    """Area of a machine's tables, buffers, adders and multipliers.

    Raises:
        InputError: no such table.
    """
    table = Table.load(table) if isinstance(table, str) else table
    numbers = table.area
    add, multiply = numbers.add, numbers.multiply
    precision = accelerator.precision
    um2_per_bit = numbers.sram_cell.value / numbers.sram_cell.bits / numbers.array_efficiency.value

    parts = {
        name: 8 * memory.total_bytes * um2_per_bit
        for name, memory in _memories(accelerator).items()
    }
    for name, engine in (("forward", accelerator.forward), ("update", accelerator.update)):
        pes = engine.rows * engine.columns
        # An adder a PE, which builds its table or adds its operands; a tree a column with as many
        # adders as it has rows, the accumulator among them.
        parts[f"{name}.adders"] = pes * (
            add.of(precision if engine.tables else "fp32") + add.of("fp32")
        )
    lanes = accelerator.backward.groups * accelerator.backward.lanes
    parts["backward.adders"] = lanes * add.of("fp32")
    parts["backward.multipliers"] = lanes * multiply.of(precision)
    # As many units a lane as it has operations in a neuron-step; a comparator is an adder.
    parts["soma.adders"] = accelerator.soma.lanes * 4 * add.of("fp32")
    parts["soma.multipliers"] = accelerator.soma.lanes * multiply.of("fp32")
    parts["gradient.adders"] = accelerator.gradient.lanes * 2 * add.of("fp32")
    parts["gradient.multipliers"] = accelerator.gradient.lanes * 3 * multiply.of("fp32")
    return Area(table.name, accelerator.name, parts)


def power_w(energy: Energy, seconds: float) -> Power:
    """Mean power over a time.

    Raises:
        InputError: the time is not positive and finite.
    """
    if not (math.isfinite(seconds) and seconds > 0):
        raise InputError(f"seconds must be greater than 0, got {seconds}")
    return Power(energy.on_chip_pj * 1e-12 / seconds, energy.dram_pj * 1e-12 / seconds)


def _off_chip(component: str) -> bool:
    return component.startswith("dram.")


def _sums(pairs: Iterator[tuple[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for name, pj in pairs:
        sums[name] = sums.get(name, 0.0) + pj
    return sums


def _memories(accelerator: Accelerator) -> dict[str, _Memory]:
    """Every memory of a machine, with the banks that it is read in.

    A buffer without a parameter for its banks has one for each lane or group that it feeds.
    """
    v = accelerator.value_bytes
    forward, update, backward = accelerator.forward, accelerator.update, accelerator.backward
    groups, soma, lanes = backward.groups, accelerator.soma.lanes, accelerator.gradient.lanes
    a, spikes = ACCUMULATOR_BYTES, SPIKE_BANK_BITS // 8
    return {
        "forward.tables": _tables(forward, v),
        "forward.weights": _banked(forward.weights_bytes, forward.weights_banks, v),
        "forward.spikes": _banked(forward.spikes_bytes, forward.spikes_banks, spikes),
        "forward.psum": _banked(forward.psum_bytes, forward.psum_banks, a),
        "gradient.buffer": _banked(accelerator.gradient.buffer_bytes, lanes, a),
        "backward.weights": _banked(backward.weights_bytes, backward.weights_banks, v),
        "backward.gradients": _banked(backward.gradients_bytes, groups, v),
        "backward.psum": _banked(backward.psum_bytes, groups, a),
        "update.tables": _tables(update, v),
        "update.gradients": _banked(update.gradients_bytes, update.gradients_banks, v),
        "update.spikes": _banked(update.spikes_bytes, update.spikes_banks, spikes),
        "update.psum": _banked(update.psum_bytes, update.psum_banks, a),
        "membrane": _banked(accelerator.membrane_bytes, soma, a),
        "state": _banked(accelerator.state_bytes, soma, spikes),
    }


def _banked(total_bytes: int, banks: int, word_bytes: int) -> _Memory:
    # A memory left out of a machine (0 bytes) still passes words on: a register.
    return _Memory(total_bytes, max(total_bytes / banks, word_bytes))


def _tables(engine: TableEngine, value_bytes: int) -> _Memory:
    """The tables of all PEs; without tables, the two sets of operands that each PE holds."""
    if engine.tables:
        return _Memory(engine.tables_bytes, (1 << engine.inputs) * value_bytes)
    operands = engine.inputs * value_bytes
    return _Memory(2 * engine.rows * engine.columns * operands, operands)


def _table_accesses(name: str, engine: TableEngine, operands: str, bits: int) -> list[_Access]:
    """Of an engine's tables; without them, of the operands that its PEs hold.

    Without tables a PE takes in each operand that its buffer reads (counter `operands`), and reads
    one for each addition.
    """
    reads, writes = ("table_reads", "table_writes") if engine.tables else ("additions", operands)
    return [
        _Access(reads, f"{name}.tables", "read", bits),
        _Access(writes, f"{name}.tables", "write", bits),
    ]


def _passes(accelerator: Accelerator) -> dict[str, _Passes]:
    value = 8 * accelerator.value_bytes
    word = ACCUMULATOR_BITS
    precision = accelerator.precision
    forward = (
        _Access("weight_reads", "forward.weights", "read", value),
        _Access("weight_writes", "forward.weights", "write", value),
        _Access("spike_read_bits", "forward.spikes", "read", 1),
        _Access("spike_write_bits", "forward.spikes", "write", 1),
        _Access("psum_reads", "forward.psum", "read", word),
        _Access("psum_writes", "forward.psum", "write", word),
        *_table_accesses("forward", accelerator.forward, "weight_reads", value),
    )
    soma = (
        _Access("psum_reads", "forward.psum", "read", word),
        _Access("membrane_reads", "membrane", "read", word),
        _Access("membrane_writes", "membrane", "write", word),
        _Access("spike_write_bits", "state", "write", 1),
        _Access("mask_write_bits", "state", "write", 1),
    )
    gradient = (
        _Access("spike_read_bits", "gradient.buffer", "read", 1),
        _Access("mask_read_bits", "gradient.buffer", "read", 1),
        _Access("membrane_reads", "gradient.buffer", "read", word),
        _Access("gradient_reads", "gradient.buffer", "read", value),
        _Access("gradient_writes", "gradient.buffer", "write", value),
    )
    backward = (
        _Access("weight_reads", "backward.weights", "read", value),
        _Access("weight_writes", "backward.weights", "write", value),
        _Access("mask_read_bits", "state", "read", 1),
        _Access("mask_write_bits", "state", "write", 1),
        _Access("gradient_reads", "backward.gradients", "read", value),
        _Access("psum_reads", "backward.psum", "read", word),
        _Access("psum_writes", "backward.psum", "write", word),
    )
    update = (
        _Access("gradient_reads", "update.gradients", "read", value),
        _Access("gradient_writes", "update.gradients", "write", value),
        _Access("spike_read_bits", "update.spikes", "read", 1),
        _Access("spike_write_bits", "update.spikes", "write", 1),
        _Access("psum_reads", "update.psum", "read", word),
        _Access("psum_writes", "update.psum", "write", word),
        *_table_accesses("update", accelerator.update, "gradient_reads", value),
    )
    rules = {
        "forward": _Passes(forward, accelerator.forward, "fp32"),
        "soma": _Passes(soma, None, "fp32"),
        "gradient": _Passes(gradient, None, "fp32"),
        "backward": _Passes(backward, None, precision),
        "update": _Passes(update, accelerator.update, "fp32"),
    }
    return {name: rules[name.removeprefix("recompute_")] for name in _core.pass_names()}


def _arithmetic(
    name: str, counts: Counts, accelerator: Accelerator, rules: _Passes, table: Table
) -> Iterator[tuple[str, float]]:
    """Components and pJ of a pass's additions, multiplications and comparisons."""
    additions = int(counts.get("additions", 0))
    built = 0
    if rules.tables is not None:
        inputs = rules.tables.inputs
        built = int(counts.get("table_builds", 0)) * ((1 << inputs) - 1 - inputs)
    if built > additions:
        raise InputError(
            f"counters of pass {name} contradict each other: its table_builds alone take {built} "
            f"additions, but additions = {additions}"
        )
    add, multiply = table.energy.add, table.energy.multiply
    width = rules.multiply_precision
    for part, count, pj in (
        (f"add.{accelerator.precision}", built, add.of(accelerator.precision)),
        ("add.fp32", additions - built, add.of("fp32")),
        (f"multiply.{width}", int(counts.get("multiplications", 0)), multiply.of(width)),
        ("compare.fp32", int(counts.get("comparisons", 0)), add.of("fp32")),
    ):
        if count:
            yield part, count * pj


def _check_counts(name: str, counts: Counts) -> None:
    known = _core.counter_names()
    for counter, count in counts.items():
        if counter not in known:
            raise InputError(
                f"unknown counter {toml.shown(counter)} of pass {name}: "
                f"known are {', '.join(known)}"
            )
        if not isinstance(count, Integral) or isinstance(count, bool) or count < 0:
            raise InputError(
                f"counter {counter} of pass {name} must be a whole number from 0, "
                f"got {toml.shown(count)}"
            )
