"""The fast simulator against the clocked one, on random machines and random training steps.

Both are written from docs/microarchitecture.md and share no code, so every counter and every time
of every tile has to be the same number twice. Needs no torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from h2learn import _core
from h2learn.errors import InputError
from h2learn.verify_cases import MOST_CYCLES, Case, draw_case, roughly_cycles
from h2learn.verify_shrinking import shrink_case, snippet

__all__ = [
    "CaseReport",
    "Simulator",
    "VerifyReport",
    "clocked_simulator",
    "fast_simulator",
    "first_difference",
    "run_case",
    "verify",
]

Raw = Mapping[str, Any]
Simulator = Callable[[_core.Machine, "list[_core.LayerWork]"], Raw]
"""Takes a machine and a step, gives what `_core.simulate` gives."""

MOST_DRAWS = 1000
"""For one case, before giving up: a dozen is unusual."""


def fast_simulator(machine: _core.Machine, layers: list[_core.LayerWork]) -> Raw:
    """The one that users run."""
    return _core.simulate(machine, layers)


def clocked_simulator(machine: _core.Machine, layers: list[_core.LayerWork]) -> Raw:
    """The plain one, a tick a cycle."""
    return _core.simulate(machine, layers, clocked=True)


@dataclass(frozen=True)
class CaseReport:
    """One random case on both simulators.

    Attributes:
        seed: with `case` it draws the same machine and work again (`run_case`).
        case: its number.
        refused: draws before it that no machine could run, or that were too large.
        simulated_cycles: by the clocked simulator; 0 when it failed.
        fast_seconds: wall time of the fast simulator.
        clocked_seconds: wall time of the clocked simulator.
        drawn: the machine and its work.
        difference: the first number that differs, with both values; None: all are equal.
        shrunk_difference: that of the smallest case found that still differs.
        snippet: a program that builds this smallest case and prints the difference.
    """

    seed: int
    case: int
    refused: int
    simulated_cycles: int
    fast_seconds: float
    clocked_seconds: float
    drawn: Case = field(repr=False)
    difference: str | None = None
    shrunk_difference: str | None = None
    snippet: str | None = None

    def __str__(self) -> str:
        if self.difference is None:
            return f"seed {self.seed}, case {self.case}: equal"
        text = f"seed {self.seed}, case {self.case}: {self.difference}"
        if self.snippet is None:
            return text
        return f"{text}\nshrunk to: {self.shrunk_difference}\n\n{self.snippet}"


@dataclass(frozen=True)
class VerifyReport:
    """All cases of one `verify`.

    Attributes:
        configs: cases compared.
        mismatches: how many of them differ.
        seed: what they were drawn from.
        refused: draws that no machine could run, or that were too large, and were drawn again.
        simulated_cycles: of all cases together, by the clocked simulator.
        fast_seconds: wall time of the fast simulator, all cases together.
        clocked_seconds: wall time of the clocked simulator.
        first_mismatch: the first case that differs, shrunk, as text with a program that shows it;
            None when there is none.
        mismatched_cases: numbers of the cases that differ.
    """

    configs: int
    mismatches: int
    seed: int
    refused: int
    simulated_cycles: int
    fast_seconds: float
    clocked_seconds: float
    first_mismatch: str | None = None
    mismatched_cases: tuple[int, ...] = ()

    @property
    def fast_cycles_per_second(self) -> float:
        """Simulated cycles a second of wall time."""
        return self.simulated_cycles / self.fast_seconds if self.fast_seconds else 0.0

    @property
    def clocked_cycles_per_second(self) -> float:
        """Simulated cycles a second of wall time."""
        return self.simulated_cycles / self.clocked_seconds if self.clocked_seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """As data, for `--json`."""
        return {
            "configs": self.configs,
            "mismatches": self.mismatches,
            "seed": self.seed,
            "refused": self.refused,
            "simulated_cycles": self.simulated_cycles,
            "fast_seconds": self.fast_seconds,
            "clocked_seconds": self.clocked_seconds,
            "fast_cycles_per_second": self.fast_cycles_per_second,
            "clocked_cycles_per_second": self.clocked_cycles_per_second,
            "mismatched_cases": list(self.mismatched_cases),
            "first_mismatch": self.first_mismatch,
        }


def verify(
    configs: int = 300,
    seed: int = 0,
    *,
    on_case: Callable[[CaseReport], None] | None = None,
    shrink: bool = True,
    shrink_seconds: float = 20.0,
    fast: Simulator = fast_simulator,
    clocked: Simulator = clocked_simulator,
) -> VerifyReport:
    """Compares both simulators on random cases 0 to `configs` - 1 of `seed`.

    Args:
        configs: how many machines, each with a step of its own; at least 1.
        seed: at least 0.
        on_case: called after each case, for a progress bar.
        shrink: make the first case that differs as small as possible.
        shrink_seconds: for that, at most.
        fast: what is tested.
        clocked: what it is tested against.

    Returns:
        Counts and times; `mismatches` is 0 when every number of every case is equal.

    Raises:
        InputError: `configs` or `seed` is out of its range.
    """
    _check_integer("configs", configs, 1)
    _check_integer("seed", seed, 0)
    mismatched: list[int] = []
    first: str | None = None
    refused = cycles = 0
    seconds = np.zeros(2)
    for case in range(configs):
        report = run_case(
            seed,
            case,
            shrink=shrink and first is None,
            shrink_seconds=shrink_seconds,
            fast=fast,
            clocked=clocked,
        )
        refused += report.refused
        cycles += report.simulated_cycles
        seconds += report.fast_seconds, report.clocked_seconds
        if report.difference is not None:
            mismatched.append(case)
            first = first or str(report)
        if on_case is not None:
            on_case(report)
    return VerifyReport(
        configs=configs,
        mismatches=len(mismatched),
        seed=seed,
        refused=refused,
        simulated_cycles=cycles,
        fast_seconds=float(seconds[0]),
        clocked_seconds=float(seconds[1]),
        first_mismatch=first,
        mismatched_cases=tuple(mismatched),
    )


def run_case(
    seed: int,
    case: int,
    *,
    shrink: bool = True,
    shrink_seconds: float = 20.0,
    fast: Simulator = fast_simulator,
    clocked: Simulator = clocked_simulator,
) -> CaseReport:
    """One case alone: the same machine and work for the same seed and number, whatever ran before.

    Raises:
        InputError: `seed` or `case` is out of its range.
    """
    _check_integer("seed", seed, 0)
    _check_integer("case", case, 0)
    rng = np.random.Generator(np.random.PCG64([seed, case]))
    refused = 0
    while (compared := _compare(drawn := draw_case(rng), fast, clocked)).refused:
        refused += 1
        if refused == MOST_DRAWS:
            raise RuntimeError(f"seed {seed}, case {case}: {refused} draws, none of which can run")
    report = CaseReport(
        seed=seed,
        case=case,
        refused=refused,
        simulated_cycles=compared.cycles,
        fast_seconds=compared.fast_seconds,
        clocked_seconds=compared.clocked_seconds,
        drawn=drawn,
        difference=compared.difference,
    )
    if report.difference is None or not shrink:
        return report

    def differs(candidate: Case) -> bool:
        return _compare(candidate, fast, clocked).difference is not None

    smallest = shrink_case(drawn, differs, seconds=shrink_seconds)
    return replace(
        report,
        shrunk_difference=_compare(smallest, fast, clocked).difference,
        snippet=snippet(smallest),
    )


def first_difference(fast: Raw, clocked: Raw) -> str | None:
    """The first number that differs between two results, with both values; None: all are equal.

    Causes come before what follows from them: what stays on chip, which tiles there are, when the
    earliest tile goes another way, counters, totals.
    """
    residents = fast["resident"], clocked["resident"]
    if not np.array_equal(*residents):
        return f"resident: fast {residents[0].tolist()}, clocked {residents[1].tolist()}"
    return (
        _tile_difference(fast["tiles"], clocked["tiles"])
        or _counter_difference(fast["counters"], clocked["counters"])
        or _total_difference(fast, clocked)
    )


def _tile_difference(fast: Any, clocked: Any) -> str | None:
    """Of the tile that starts earliest, in the clocked simulator, among those that differ."""
    names = _core.tile_fields()
    found: list[tuple[int, str]] = []
    for engine, ours, theirs in zip(_core.engine_names(), fast, clocked, strict=True):
        both = min(len(ours), len(theirs))
        unequal = np.argwhere(ours[:both] != theirs[:both])
        if len(unequal):
            tile, column = unequal[0]
            line = dict(zip(names, theirs[tile].tolist(), strict=True))
            found.append((
                line["start"],
                f"tile {tile} of the {engine} engine ({_core.pass_names()[line['pass']]}, part "
                f"{line['part']}, layer {line['layer']}, block {line['block']}, column "
                f"{line['column']}, row {line['row']}, depth {line['depth']}): {names[column]}: "
                f"fast {ours[tile, column]}, clocked {theirs[tile, column]}",
            ))  # fmt: skip
        elif len(ours) != len(theirs):
            found.append(
                (0, f"tiles of the {engine} engine: fast {len(ours)}, clocked {len(theirs)}")
            )
    return min(found)[1] if found else None


def _counter_difference(fast: Any, clocked: Any) -> str | None:
    if fast.shape != clocked.shape:
        return f"counters: fast has the shape {fast.shape}, clocked {clocked.shape}"
    for layer, passes, counter in np.argwhere(fast != clocked):
        return (
            f"layer {layer}, {_core.pass_names()[passes]}: {_core.counter_names()[counter]}: "
            f"fast {fast[layer, passes, counter]}, clocked {clocked[layer, passes, counter]}"
        )
    return None


def _total_difference(fast: Raw, clocked: Raw) -> str | None:
    for name in ("cycles", "dram_busy_cycles"):
        if fast[name] != clocked[name]:
            return f"{name}: fast {fast[name]}, clocked {clocked[name]}"
    tails = fast["tail_idle_cycles"], clocked["tail_idle_cycles"]
    if not np.array_equal(*tails):
        return f"tail_idle_cycles: fast {tails[0].tolist()}, clocked {tails[1].tolist()}"
    return None


@dataclass(frozen=True)
class _Compared:
    """Both simulators on one case; `refused`: too large, or neither of them takes it."""

    refused: bool = False
    difference: str | None = None
    cycles: int = 0
    fast_seconds: float = 0.0
    clocked_seconds: float = 0.0


def _compare(case: Case, fast: Simulator, clocked: Simulator) -> _Compared:
    if roughly_cycles(case) > MOST_CYCLES:
        return _Compared(refused=True)
    machine, layers = case.machine(), case.core_layers()
    results: list[Raw] = []
    seconds: list[float] = []
    failures: dict[str, Exception] = {}
    for name, simulator in (("fast", fast), ("clocked", clocked)):
        began = time.perf_counter()
        try:
            results.append(simulator(machine, layers))
        except Exception as error:  # any failure of one alone is a finding
            failures[name] = error
        seconds.append(time.perf_counter() - began)
    errors = list(failures.values())
    if (
        len(errors) == 2
        and all(isinstance(error, ValueError) for error in errors)
        and str(errors[0]) == str(errors[1])
    ):
        return _Compared(refused=True)
    if failures:
        difference: str | None = "; ".join(
            f"{name} fails: {type(error).__name__}: {error}" for name, error in failures.items()
        )
        return _Compared(False, difference, 0, *seconds)
    return _Compared(False, first_difference(*results), int(results[1]["cycles"]), *seconds)


def _check_integer(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} must be an integer of at least {least}, got {value!r}")
