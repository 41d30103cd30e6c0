"""A choice between ways to compute a layer, and the constants that it follows from.

The constants stand in a file of designated initialisers, which the core includes.
"""

from __future__ import annotations

import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from layer import Layer


@dataclass(frozen=True)
class Constants:
    """What the ways' steps cost; a subclass has a field for each."""

    @classmethod
    def names(cls) -> list[str]:
        """Their names, in the order of the file."""
        return [field.name for field in fields(cls)]

    def as_dict(self) -> dict[str, float]:
        """By name."""
        return {name: getattr(self, name) for name in self.names()}

    def rounded(self) -> Constants:
        """Three digits: more were not measured."""
        return type(self)(**{name: float(f"{value:.3g}") for name, value in self.as_dict().items()})


@dataclass(frozen=True)
class Row:
    """Constants and where they come from, as their file says."""

    origin: str
    costs: Any


@dataclass(frozen=True)
class Sample:
    """One layer at one density.

    Attributes:
        ns: nanoseconds by each way.
        auto_ns: as `auto` ran, with the costs that it was compiled with.
        chosen: what it chose then, in the words of h2learn_tune.
    """

    layer: Layer
    ns: dict[str, float]
    auto_ns: float
    chosen: str = "gather"

    def regret(self, way: str) -> float:
        """Time of a way over that of the fastest."""
        return self.ns[way] / min(self.ns.values())


class Choice(ABC):
    """How it follows: a way costs a sum of constants, and the cheapest is taken.

    Attributes:
        ways: all that there are; of two that cost the same the earlier is taken.
        unit: of the constants, for tables.
        unit_ns: nanoseconds of a unit, where `size` is such that they are known.
        groups: what `group` tells apart, for tables.
    """

    ways: ClassVar[tuple[str, ...]]
    unit: ClassVar[str]
    unit_ns: ClassVar[float | None] = None
    groups: ClassVar[str]

    @abstractmethod
    def terms(self, layer: Layer, way: str) -> dict[str, float]:
        """How often a way pays each constant; `unit` is the unit's own."""

    @abstractmethod
    def size(self, sample: Sample) -> float:
        """How often the whole product pays these terms."""

    @abstractmethod
    def group(self, layer: Layer) -> str:
        """The line of a table that a layer belongs to."""

    def ways_of(self, layer: Layer) -> list[str]:
        """Those that a layer can be computed by."""
        return list(self.ways)

    def regret(self, sample: Sample, way: str) -> float:
        """Time over that of the fastest where a way is chosen."""
        return sample.regret(way)

    def cost(self, layer: Layer, way: str, constants: Constants) -> float:
        """In units."""
        price = constants.as_dict() | {"unit": 1.0}
        return sum(count * price[name] for name, count in self.terms(layer, way).items())

    def choose(self, layer: Layer, constants: Constants) -> str:
        """The way that the core takes with these constants."""
        return min(self.ways_of(layer), key=lambda way: self.cost(layer, way, constants))


class NamedChoice(Choice):
    """Between a kernel and the two others, by times beside the dense one's.

    Which of the two then runs, KernelChoice decides. The named one is the last of `ways`.
    """

    unit = "times of the dense kernel"
    unit_ns = 1.0

    def size(self, sample: Sample) -> float:
        """The dense kernel's nanoseconds, of which `terms` are parts."""
        return sample.ns["dense"]

    def regret(self, sample: Sample, way: str) -> float:
        """Of the better of the two others where the named one is not chosen."""
        if way == self.ways[-1]:
            return sample.regret(way)
        return min(sample.regret(other) for other in self.ways[:-1])


# ---- files of constants


def parse(body: str, names: Sequence[str]) -> dict[str, float]:
    """Values of one row of initialisers.

    Raises:
        ValueError: it lacks a name, has one twice or one that is unknown, or has something else.
    """
    entries = re.findall(r"^ *\.(\w+) = ([0-9.e+-]+)F?,$", body, re.M)
    values = {name: float(value) for name, value in entries}
    if list(values) != list(names) or len(entries) != len(body.splitlines()):
        raise ValueError(f"a row of costs has {', '.join(values)}; not {', '.join(names)}")
    return values


def render(values: Mapping[str, float], indent: str = "") -> list[str]:
    """Lines that `parse` reads."""
    return [f"{indent}.{name} = {_literal(value)}," for name, value in values.items()]


def write(text: str, path: Path) -> None:
    """Writes a file beside `path` and puts it in its place."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".new")
    with os.fdopen(handle, "w") as file:
        file.write(text)
    Path(name).chmod(0o644)
    Path(name).replace(path)


def _literal(value: float) -> str:
    if value == int(value):
        return str(int(value))
    return f"{value:g}F" if "e" not in f"{value:g}" else f"{value:.9f}".rstrip("0") + "F"
