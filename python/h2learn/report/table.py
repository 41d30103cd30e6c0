"""The table per layer: what one training step did, and what sparsity let it leave out.

`layer_rows` merges the counts of a synapse layer and of the neurons behind it into one row of
plain data, with units in its keys: that is what goes into JSON. `layer_tables` shows the same
rows, as two tables that fit a terminal of 80 columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from h2learn.report.layout import number_table
from h2learn.report.units import amount, byte_size, percent

if TYPE_CHECKING:
    from h2learn.counters import LayerCounts

Row = dict[str, Any]
ALL = "total"
NONE = "-"

PASSES = {"forward": "forward", "backward": "backward", "update": "weight_update"}
"""Prefix of the counters' fields, and of the keys in a row."""


def layer_rows(layers: Mapping[str, LayerCounts]) -> list[Row]:
    """One row a synapse layer, in the order of execution, with the neurons that follow it.

    Keys (counts are of one training step over a batch; operations are synaptic operations):

    - `name`, `kind`, and `neurons`, the name of the neuron layer, None for a readout;
    - `neuron_steps`, `spikes`, `firing_rate` (None without neurons);
    - `gradients`, `zero_gradients`, `zero_gradient_share`: of the loss by the currents of the
      neurons, None without neurons;
    - `forward_`, `backward_`, `weight_update_` + `operations_done`, `operations_skipped`;
    - `saved_bytes` for the backward pass, and `dense_bytes`, the same in dense float32.
    """
    rows: list[Row] = []
    for name, counts in layers.items():
        is_synapse = counts.forward_offered > 0
        if is_synapse or not rows or rows[-1]["neurons"] is not None:
            rows.append(_empty_row(name, counts.kind))
        row = rows[-1]
        if is_synapse:
            for field, key in PASSES.items():
                done = getattr(counts, f"{field}_done")
                row[f"{key}_operations_done"] += done
                row[f"{key}_operations_skipped"] += getattr(counts, f"{field}_offered") - done
        else:
            row |= {
                "neurons": name,
                "neuron_steps": counts.neuron_steps,
                "spikes": counts.spikes,
                "firing_rate": counts.firing_rate,
                "gradients": counts.gradients,
                "zero_gradients": counts.zero_gradients,
                "zero_gradient_share": counts.zero_gradient_share,
            }
        row["saved_bytes"] += counts.saved_bytes
        row["dense_bytes"] += counts.dense_bytes
    return rows


def _empty_row(name: str, kind: str) -> Row:
    row: Row = {"name": name, "kind": kind, "neurons": None, "neuron_steps": 0, "spikes": 0}
    row |= {"firing_rate": None, "gradients": 0, "zero_gradients": 0, "zero_gradient_share": None}
    for key in PASSES.values():
        row |= {f"{key}_operations_done": 0, f"{key}_operations_skipped": 0}
    return row | {"saved_bytes": 0, "dense_bytes": 0}


def total_row(rows: Sequence[Row]) -> Row:
    """The sums over all layers, rates over all neurons; same keys."""
    total = _empty_row(ALL, "")
    for key, value in total.items():
        if isinstance(value, int):
            total[key] = sum(row[key] for row in rows)
    if total["neuron_steps"]:
        total["firing_rate"] = total["spikes"] / total["neuron_steps"]
    if total["gradients"]:
        total["zero_gradient_share"] = total["zero_gradients"] / total["gradients"]
    return total


def layer_tables(rows: Sequence[Row]) -> tuple[Table, Table]:
    """Activity and memory; synaptic operations."""
    activity = number_table(
        "Spikes, zero gradients and memory",
        *(f"\n{name}" for name in ("layer", "spikes")),
        "firing\nrate", "zero\ngradients", "saved for\nbackward", "in dense\nfloat32",
        "times\nsmaller",
    )  # fmt: skip
    operations = number_table(
        "Synaptic operations",
        "\nlayer", "\ndone", "forward\nskipped", "\ndone", "backward\nskipped", "\ndone",
        "update\nskipped",
    )  # fmt: skip
    for row in [*rows, total_row(rows)]:
        if row["name"] == ALL:
            activity.add_section()
            operations.add_section()
        label = row["name"] if row["neurons"] is None else f"{row['name']}, {row['neurons']}"
        fires, learns = row["neuron_steps"] > 0, row["gradients"] > 0
        activity.add_row(
            label,
            amount(row["spikes"]) if fires else NONE,
            percent(row["firing_rate"]) if fires else NONE,
            percent(row["zero_gradient_share"]) if learns else NONE,
            byte_size(row["saved_bytes"]),
            byte_size(row["dense_bytes"]),
            f"{row['dense_bytes'] / row['saved_bytes']:.1f}" if row["saved_bytes"] else NONE,
        )
        cells = []
        for key in PASSES.values():
            done, skipped = row[f"{key}_operations_done"], row[f"{key}_operations_skipped"]
            cells += [amount(done), _skipped(done, skipped)] if done + skipped else [NONE, NONE]
        operations.add_row(label, *cells)
    return activity, operations


def _skipped(done: int, skipped: int) -> str:
    return f"{amount(skipped)} {100 * skipped // (done + skipped):3d}%"
