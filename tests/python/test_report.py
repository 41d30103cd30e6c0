"""Numbers with units, and the table per layer."""

from __future__ import annotations

import io
import json

import pytest
import torch
from h2learn import count_operations
from h2learn.counters import LayerCounts
from h2learn.models import load_model
from h2learn.report.progress import firing_rates
from h2learn.report.table import layer_rows, layer_tables, total_row
from h2learn.report.units import amount, byte_size, duration, percent
from rich.console import Console


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (amount(0), "0"),
        (amount(999), "999"),
        (amount(999.6), "1.00 k"),
        (amount(12_345), "12.3 k"),
        (amount(99_960), "100 k"),
        (amount(999_499), "999 k"),
        (amount(999_500), "1.00 M"),
        (amount(1.05e9), "1.05 G"),
        (amount(0.25), "0.25"),
        (amount(float("inf")), "inf"),
        (byte_size(12), "12 B"),
        (byte_size(1_702_000), "1.70 MB"),
        (percent(0.12345), "12.3 %"),
        (percent(1, 0), "100 %"),
        (duration(0.0123), "12.3 ms"),
        (duration(0.9996), "1.0 s"),
        (duration(59.94), "59.9 s"),
        (duration(59.96), "1 min 00 s"),
        (duration(200), "3 min 20 s"),
        (duration(7499), "2 h 05 min"),
    ],
)
def test_numbers_are_shown_with_three_digits_and_a_unit(shown, expected):
    assert shown == expected


def counted():
    model = load_model("lenet", (1, 16, 16), 4)
    with count_operations(model) as counter:
        model(torch.rand(3, 2, 1, 16, 16)).sum().backward()
    return counter.layers


def test_a_row_joins_a_synapse_layer_and_its_neurons():
    layers = counted()
    rows = layer_rows(layers)
    assert [(r["name"], r["neurons"]) for r in rows] == [
        ("conv1", "lif1"),
        ("conv2", "lif2"),
        ("fc", None),
    ]
    first, last = rows[0], rows[-1]
    assert first["spikes"] == layers["lif1"].spikes > 0
    assert first["firing_rate"] == layers["lif1"].spikes / (3 * 2 * 16 * 12 * 12)
    assert first["zero_gradient_share"] == layers["lif1"].zero_gradients / first["gradients"]
    assert first["saved_bytes"] == layers["conv1"].saved_bytes + layers["lif1"].saved_bytes
    assert last["firing_rate"] is last["zero_gradient_share"] is None
    for row in rows:
        counts = layers[row["name"]]
        for key, field in (("forward", "forward"), ("weight_update", "update")):
            done, skipped = row[f"{key}_operations_done"], row[f"{key}_operations_skipped"]
            assert done == getattr(counts, f"{field}_done")
            assert done + skipped == getattr(counts, f"{field}_offered")
    assert first["backward_operations_done"] + first["backward_operations_skipped"] == 0
    json.dumps(rows)


def test_neurons_without_a_synapse_layer_before_them_have_a_row_of_their_own():
    neurons = {f"n{i}": LayerCounts(f"n{i}", "lif", neuron_steps=4, spikes=i) for i in (1, 2)}
    rows = layer_rows(neurons)
    assert [(r["name"], r["neurons"], r["firing_rate"]) for r in rows] == [
        ("n1", "n1", 0.25),
        ("n2", "n2", 0.5),
    ]


def test_the_total_adds_counts_and_averages_rates():
    rows = layer_rows(counted())
    total = total_row(rows)
    assert total["spikes"] == sum(r["spikes"] for r in rows)
    assert total["dense_bytes"] == sum(r["dense_bytes"] for r in rows)
    assert total["firing_rate"] == total["spikes"] / total["neuron_steps"]
    assert total["zero_gradient_share"] == total["zero_gradients"] / total["gradients"]
    assert total_row([])["firing_rate"] is None


def test_tables_fit_80_columns_even_with_the_widest_numbers():
    wide = LayerCounts("features.stage1.convolution", "conv2d", saved_bytes=999_000)
    wide.dense_bytes = 888_000_000
    for field in ("forward", "backward", "update"):
        setattr(wide, f"{field}_offered", 988_800_000)
        setattr(wide, f"{field}_done", 99_000_000)
    neurons = LayerCounts("features.stage1.neurons", "lif", 10**9, 888_000_000, 10**9, 10**9)
    out = io.StringIO()
    console = Console(file=out, width=80)
    for table in layer_tables(layer_rows({"a": wide, "b": neurons})):
        console.print(table)
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for number in (
        "888 M",
        "88.8 %",
        "100.0 %",
        "999 kB",
        "888 MB",
        "888.9",
        "99.0 M",
        "890 M  89%",
    ):
        assert number in text


def test_firing_rates_are_listed_up_to_three_layers():
    assert firing_rates({}) == "-"
    assert firing_rates({"lif1": 0.216, "lif2": 0.041}) == "lif1 22 %, lif2 4.1 %"
    rates = {f"lif{i}": i / 10 for i in range(1, 5)}
    assert firing_rates(rates) == "10 % to 40 % in 4 layers"
