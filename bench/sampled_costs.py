"""The costs by which kernel="auto" takes `sampled` for gradients of inputs: file, and choice.

`cpp/src/sampled_costs.inc` holds them, `needs_few` in `cpp/src/backward.cpp` says what they mean
and is what the core runs. A test compares the two. The order of additions follows from the choice,
so it depends on neither machine nor instruction set: there is one row for all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import choice
from choice import Constants, NamedChoice, Row
from kernel_tables import percent
from layer import Layer

FILE = Path(__file__).parent.parent / "cpp/src/sampled_costs.inc"


@dataclass(frozen=True)
class SampledCosts(Constants):
    """Costs in units of the dense kernel's time (`struct SampledCosts`)."""

    fixed: float
    by_channels: float
    by_terms: float
    needed: float
    needed_by_terms: float
    events: float
    events_by_channels: float
    taps: float
    taps_by_channels: float
    nonzero: float


_HEAD = """\
// What Method::sampled and Method::event cost beside the dense kernel (struct SampledCosts in
// backward.cpp, which includes this). One row for all machines and instruction sets: the order of
// additions follows from it. Data, not code: `make tune TUNE=--sampled` measures and writes it, for
// a release of the project rather than for a machine.

"""


def parse(text: str) -> Row:
    """The file's only row.

    Raises:
        ValueError: it lacks a constant, has one twice or one that is unknown.
    """
    body = text.removeprefix(_HEAD)
    origin = "".join(re.findall(r"^// (.*)\n", body))
    return Row(origin, SampledCosts(**choice.parse(body.partition("\n")[2], SampledCosts.names())))


def render(row: Row) -> str:
    """The file's text, which `parse` reads."""
    return _HEAD + "\n".join([f"// {row.origin}", *choice.render(row.costs.as_dict()), ""])


class SampledChoice(NamedChoice):
    """Between ``sampled`` and the two others."""

    ways = ("dense", "event", "sampled")
    groups = "gradients"

    def group(self, layer: Layer) -> str:
        """How many of the gradients at its outputs are not zero."""
        return f"{percent(layer.density)} not zero"

    def terms(self, layer: Layer, way: str) -> dict[str, float]:
        """How often a product pays each cost; `unit` is the dense kernel's own."""
        if way == "dense":
            return {"unit": 1.0}
        if way == "event":
            kind = "taps" if layer.can_list_taps else "events"
            return {
                kind: 1.0,
                f"{kind}_by_channels": 1 / layer.channels,
                "nonzero": layer.density * layer.reached,
            }
        return {
            "fixed": 1.0,
            "by_channels": 1 / layer.channels,
            "by_terms": 1 / layer.length,
            "needed": layer.needed,
            "needed_by_terms": layer.needed / layer.length,
        }
