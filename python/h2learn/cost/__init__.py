"""Energy, area and power: counters and a machine times a table of published numbers.

Nothing here needs torch. docs/cost.md states every rule.
"""

from __future__ import annotations

from h2learn.cost.model import (
    THIRD_PARTY_AREA_MM2,
    Area,
    Energy,
    Power,
    area,
    energy,
    power_w,
)
from h2learn.cost.table import Number, SramPoint, Table, tables

__all__ = [
    "THIRD_PARTY_AREA_MM2",
    "Area",
    "Energy",
    "Number",
    "Power",
    "SramPoint",
    "Table",
    "area",
    "energy",
    "power_w",
    "tables",
]
