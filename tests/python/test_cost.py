"""Energy, area and power: the tables' form, and the functions' algebra and hand-computed values."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path

import pytest
from h2learn import _core, cost
from h2learn.accelerators import Accelerator, presets
from h2learn.cost.table import FOLDER, Number
from h2learn.errors import InputError
from hypothesis import given, settings
from hypothesis import strategies as st

H2LEARN = Accelerator.load("h2learn")
DENSE = Accelerator.load("h2learn-dense")
PASSES = _core.pass_names()
COUNTERS = _core.counter_names()
HOROWITZ, JOUPPI = (cost.Table.load(name) for name in ("horowitz-45nm", "jouppi-7nm"))


def one(passes: str, machine: Accelerator = H2LEARN, table=HOROWITZ, **counts: int):
    return cost.energy({passes: counts}, machine, table).by_component()


def sram_pj(bits: int, size_bytes: float, table=HOROWITZ) -> float:
    return bits * table.sram_pj_per_bit(size_bytes)


# ---- tables


def test_there_are_two_tables():
    assert cost.tables() == ("horowitz-45nm", "jouppi-7nm")
    assert {cost.Table.load(name).node_nm for name in cost.tables()} == {45, 7}


@pytest.mark.parametrize("name", cost.tables())
def test_every_number_says_where_it_comes_from(name):
    table = cost.Table.load(name)
    assert table.name == name
    assert table.leakage == "not modelled"
    numbers = dict(table.numbers())
    assert len(numbers) == 12 + len(table.energy.sram) + 3
    for number in numbers.values():
        assert math.isfinite(number.value)
        assert number.value > 0
        for text in (number.method, number.source, number.checked):
            assert len(text) >= 4
        # What no source states is never called verified.
        if number.method.startswith(("assumed", "scaled")):
            assert not number.verified
    assert table.energy.dram.technology in ("DDR3 class", "HBM2")
    # In the file nothing is left to a default.
    text = (FOLDER / f"{name}.toml").read_text()
    for field in Number.model_fields:
        assert len(re.findall(rf"^{field} = ", text, re.MULTILINE)) == len(numbers) + (
            field == "node_nm"
        )


def test_numbers_that_were_verified():
    assert [HOROWITZ.energy.add.of(p) for p in ("fp32", "fp16")] == [0.9, 0.4]
    assert [HOROWITZ.energy.multiply.of(p) for p in ("fp32", "fp16")] == [3.7, 1.1]
    points = [(point.bytes, point.value, point.bits) for point in HOROWITZ.energy.sram]
    assert points == [(8192, 10, 64), (32768, 20, 64), (1048576, 100, 64)]
    assert HOROWITZ.area.sram_cell.value == 0.346
    assert JOUPPI.area.sram_cell.value == 0.027
    assert JOUPPI.energy.multiply.of("fp32") == 1.31
    unverified = JOUPPI.unverified()
    assert "energy.multiply.fp32" not in unverified
    assert "energy.add.fp16" in unverified


def test_scaled_areas_follow_their_rule():
    ratio = JOUPPI.area.sram_cell.value / HOROWITZ.area.sram_cell.value
    for operation in ("add", "multiply"):
        for precision in ("fp32", "fp16", "bf16"):
            scaled = getattr(JOUPPI.area, operation).of(precision)
            base = getattr(HOROWITZ.area, operation).of(precision)
            assert scaled == pytest.approx(base * ratio, rel=1e-3)


@pytest.mark.parametrize("table", [HOROWITZ, JOUPPI], ids=lambda table: table.name)
def test_sram_between_and_beyond_the_published_sizes(table):
    for point in table.energy.sram:
        assert table.sram_pj_per_bit(point.bytes) * point.bits == pytest.approx(point.value)
        assert table.covers(point.bytes)
    assert not table.covers(8191)
    assert not table.covers((1 << 20) + 1)
    sizes = [2**n for n in range(2, 24)]
    energies = [table.sram_pj_per_bit(size) for size in sizes]
    assert energies == sorted(energies)


def test_sram_power_law_by_hand():
    # Four times the size, twice the energy: the square root.
    assert HOROWITZ.sram_pj_per_bit(16384) * 64 == pytest.approx(10 * math.sqrt(2))
    assert HOROWITZ.sram_pj_per_bit(128) * 64 == pytest.approx(1.25)
    slope = math.log(5) / math.log(32)
    assert HOROWITZ.sram_pj_per_bit(1 << 22) * 64 == pytest.approx(100 * 4**slope)


def whole_table() -> str:
    return (FOLDER / "horowitz-45nm.toml").read_text()


BAD_TABLES = {
    "unit": (('unit = "pJ"', 'unit = "nJ"'), ["energy.add.fp32.unit", "'nJ'"]),
    "unit of the other kind": (('unit = "pJ"', 'unit = "um2"'), ["energy.add.fp32.unit", "pJ"]),
    "negative": (("value = 0.9", "value = -0.9"), ["energy.add.fp32.value", "-0.9"]),
    "not finite": (("value = 0.9", "value = inf"), ["energy.add.fp32.value", "inf"]),
    "no source": (('source = "M. Horowitz', 'sauce = "M. Horowitz'), ["energy.add.fp32.source"]),
    "empty source": (('source = "none"', 'source = ""'), ["area.array_efficiency.source"]),
    "order": (("bytes = 8192", "bytes = 65536"), ["energy.sram must be sorted", "32768"]),
    "efficiency": (("value = 0.7", "value = 1.7"), ["area.array_efficiency.value", "1.7"]),
    "no technology": (('technology = "DDR3 class"\n', ""), ["energy.dram.technology is missing"]),
    "leakage": (("not modelled", "modelled"), ["leakage"]),
    "unknown key": (("leakage =", "leek = 1\nleakage ="), ["unknown key leek"]),
    "syntax": (("leakage =", "leakage = ="), ["not valid TOML", "line 7"]),
}


@pytest.mark.parametrize(("change", "parts"), BAD_TABLES.values(), ids=list(BAD_TABLES))
def test_bad_tables(tmp_path, change, parts):
    path = tmp_path / "mine.toml"
    path.write_text(whole_table())
    assert cost.Table.load(str(path)).name == "mine"
    assert change[0] in whole_table()
    path.write_text(whole_table().replace(*change, 1))
    with pytest.raises(InputError) as caught:
        cost.Table.load(str(path))
    assert "\n" not in str(caught.value)
    for part in ("mine.toml", *parts):
        assert part in str(caught.value)


def test_unknown_tables_are_answered_with_the_known():
    for call in (
        lambda: cost.Table.load("horowitz"),
        lambda: cost.energy({}, H2LEARN, "horowitz"),
        lambda: cost.area(H2LEARN, "horowitz"),
    ):
        with pytest.raises(InputError, match=r"'horowitz'.*horowitz-45nm, jouppi-7nm"):
            call()


# ---- energy: algebra

# Enough additions that building the tables fits into them.
counts = st.dictionaries(
    st.sampled_from(COUNTERS), st.integers(0, 10**12), max_size=len(COUNTERS)
).map(lambda c: c | {"additions": c.get("additions", 0) + 57 * c.get("table_builds", 0)})
workloads = st.dictionaries(st.sampled_from(PASSES), counts)
machines = st.sampled_from([Accelerator.load(name) for name in presets()])
tables = st.sampled_from([HOROWITZ, JOUPPI])


def summed(a, b):
    return {
        name: {
            counter: a.get(name, {}).get(counter, 0) + b.get(name, {}).get(counter, 0)
            for counter in {*a.get(name, {}), *b.get(name, {})}
        }
        for name in {*a, *b}
    }


@given(workloads, workloads, machines, tables)
@settings(max_examples=100, deadline=None)
def test_energy_is_linear(a, b, machine, table):
    of_a, of_b = (cost.energy(counters, machine, table) for counters in (a, b))
    both = cost.energy(summed(a, b), machine, table)
    assert both.total_pj == pytest.approx(of_a.total_pj + of_b.total_pj, rel=1e-9)
    assert both.dram_pj == pytest.approx(of_a.dram_pj + of_b.dram_pj, rel=1e-9)
    assert set(both.pj) == {*of_a.pj, *of_b.pj}
    for key, pj in both.pj.items():
        assert pj == pytest.approx(of_a.pj.get(key, 0) + of_b.pj.get(key, 0), rel=1e-9)


@given(workloads, machines, tables)
@settings(max_examples=50, deadline=None)
def test_energy_is_pure_and_adds_up(counters, machine, table):
    before = copy.deepcopy(counters)
    first, second = (cost.energy(counters, machine, table) for _ in range(2))
    assert counters == before
    assert first == second
    assert first.table == table.name
    assert first.accelerator == machine.name
    assert all(pj > 0 for pj in first.pj.values())
    assert first.on_chip_pj + first.dram_pj == pytest.approx(first.total_pj)
    assert sum(first.by_pass().values()) == pytest.approx(first.total_pj)
    assert sum(first.by_component().values()) == pytest.approx(first.total_pj)
    data = first.to_dict()
    assert data["total_pj"] == first.total_pj
    assert sum(pj for parts in data["passes_pj"].values() for pj in parts.values()) == (
        pytest.approx(first.total_pj)
    )


def test_nothing_done_costs_nothing():
    zeros = {name: dict.fromkeys(COUNTERS, 0) for name in PASSES}
    for counters in ({}, zeros):
        energy = cost.energy(counters, H2LEARN, HOROWITZ)
        assert energy.total_pj == 0
        assert energy.pj == {}
        assert energy.extrapolated == ()


def test_two_tables_say_two_things():
    counters = {"forward": {"additions": 100, "load_bursts": 3, "psum_reads": 5}}
    a, b = (cost.energy(counters, H2LEARN, name) for name in cost.tables())
    assert (a.table, b.table) == cost.tables()
    assert a.on_chip_pj != b.on_chip_pj
    assert a.dram_pj != b.dram_pj
    areas = [cost.area(H2LEARN, name) for name in cost.tables()]
    assert tuple(area.table for area in areas) == cost.tables()
    assert areas[0].total_um2 > areas[1].total_um2


# ---- energy: by hand


def test_arithmetic_of_tables():
    # Two builds of 2^6 - 1 - 6 = 57 additions each in fp16, the rest in fp32.
    parts = one("forward", table_builds=2, additions=200)
    assert parts == {"add.fp16": pytest.approx(114 * 0.4), "add.fp32": pytest.approx(86 * 0.9)}
    # 2^5 - 1 - 5 = 26 in the weight update.
    parts = one("update", table_builds=1, additions=26)
    assert parts == {"add.fp16": pytest.approx(26 * 0.4)}
    assert one("recompute_forward", additions=1) == {"add.fp32": 0.9}
    parts = one("forward", H2LEARN.with_(precision="fp32"), table_builds=1, additions=60)
    assert parts == {"add.fp32": pytest.approx(60 * 0.9)}
    bf16 = one("forward", H2LEARN.with_(precision="bf16"), JOUPPI, table_builds=1, additions=57)
    assert bf16 == {"add.bf16": pytest.approx(57 * 0.11)}


def test_arithmetic_of_the_other_passes():
    assert one("backward", multiplications=10, additions=10) == {
        "multiply.fp16": pytest.approx(11.0),
        "add.fp32": pytest.approx(9.0),
    }
    for name in ("soma", "recompute_soma", "gradient"):
        assert one(name, multiplications=1, additions=2, comparisons=2) == {
            "multiply.fp32": pytest.approx(3.7),
            "add.fp32": pytest.approx(1.8),
            "compare.fp32": pytest.approx(1.8),
        }


# pass, counter, component, bits of one, bytes that an access opens
ACCESSES = [
    ("forward", "weight_reads", "forward.weights.read", 16, 131072 / 128),
    ("forward", "weight_writes", "forward.weights.write", 16, 131072 / 128),
    ("forward", "spike_read_bits", "forward.spikes.read", 1, 1048576 / 8),
    ("forward", "spike_write_bits", "forward.spikes.write", 1, 1048576 / 8),
    ("forward", "psum_reads", "forward.psum.read", 32, 1048576 / 64),
    ("forward", "psum_writes", "forward.psum.write", 32, 1048576 / 64),
    ("forward", "table_reads", "forward.tables.read", 16, 64 * 2),
    ("forward", "table_writes", "forward.tables.write", 16, 64 * 2),
    ("recompute_forward", "table_reads", "forward.tables.read", 16, 64 * 2),
    ("soma", "psum_reads", "forward.psum.read", 32, 1048576 / 64),
    ("soma", "membrane_reads", "membrane.read", 32, 2097152 / 64),
    ("soma", "membrane_writes", "membrane.write", 32, 2097152 / 64),
    ("soma", "spike_write_bits", "state.write", 1, 4194304 / 64),
    ("recompute_soma", "mask_write_bits", "state.write", 1, 4194304 / 64),
    ("gradient", "spike_read_bits", "gradient.buffer.read", 1, 262144 / 64),
    ("gradient", "mask_read_bits", "gradient.buffer.read", 1, 262144 / 64),
    ("gradient", "membrane_reads", "gradient.buffer.read", 32, 262144 / 64),
    ("gradient", "gradient_reads", "gradient.buffer.read", 16, 262144 / 64),
    ("gradient", "gradient_writes", "gradient.buffer.write", 16, 262144 / 64),
    ("backward", "weight_reads", "backward.weights.read", 16, 1048576 / 32),
    ("backward", "weight_writes", "backward.weights.write", 16, 1048576 / 32),
    ("backward", "mask_read_bits", "state.read", 1, 4194304 / 64),
    ("backward", "mask_write_bits", "state.write", 1, 4194304 / 64),
    ("backward", "gradient_reads", "backward.gradients.read", 16, 2097152 / 384),
    ("backward", "psum_reads", "backward.psum.read", 32, 1048576 / 384),
    ("backward", "psum_writes", "backward.psum.write", 32, 1048576 / 384),
    ("update", "gradient_reads", "update.gradients.read", 16, 65536 / 256),
    ("update", "gradient_writes", "update.gradients.write", 16, 65536 / 256),
    ("update", "spike_read_bits", "update.spikes.read", 1, 524288 / 8),
    ("update", "spike_write_bits", "update.spikes.write", 1, 524288 / 8),
    ("update", "psum_reads", "update.psum.read", 32, 2097152 / 64),
    ("update", "psum_writes", "update.psum.write", 32, 2097152 / 64),
    ("update", "table_reads", "update.tables.read", 16, 32 * 2),
    ("update", "table_writes", "update.tables.write", 16, 32 * 2),
]


@pytest.mark.parametrize(
    ("name", "counter", "component", "bits", "size"),
    ACCESSES,
    ids=[f"{a[0]}-{a[1]}" for a in ACCESSES],
)
def test_accesses(name, counter, component, bits, size):
    energy = cost.energy({name: {counter: 7}}, H2LEARN, HOROWITZ)
    assert energy.by_component() == {component: pytest.approx(7 * sram_pj(bits, size))}
    outside = not 8192 <= size <= 1 << 20
    assert energy.extrapolated == ((component.rpartition(".")[0],) if outside else ())


@pytest.mark.parametrize(
    ("name", "operands", "size"),
    [("forward", "weight_reads", 12), ("recompute_forward", "weight_reads", 12),
     ("update", "gradient_reads", 10)],
)  # fmt: skip
def test_without_tables_operands_are_written_once_and_read_by_every_addition(name, operands, size):
    engine = name.removeprefix("recompute_")
    parts = one(name, DENSE, additions=100, **{operands: 3})
    assert parts.pop(f"{engine}.{operands.partition('_')[0]}s.read") > 0
    assert parts == {
        "add.fp32": pytest.approx(100 * 0.9),
        f"{engine}.tables.read": pytest.approx(100 * sram_pj(16, size)),
        f"{engine}.tables.write": pytest.approx(3 * sram_pj(16, size)),
    }
    # With tables neither is charged to them.
    assert f"{engine}.tables.read" not in one(name, additions=100, **{operands: 3})


def test_every_access_that_is_counted_is_charged():
    """No counter of reads, writes or arithmetic goes missing in a pass that has it."""
    charged = {(name, counter) for name, counter, *_ in ACCESSES}
    page = (Path(__file__).parents[2] / "docs" / "microarchitecture.md").read_text()
    rows = page[page.index("| counter | forward, recompute_forward |") :].partition("\n\n")[0]
    columns = ("forward", "soma", "gradient", "backward", "update")
    found = 0
    for row in rows.splitlines()[2:]:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        for counter in cells[0].split(", "):
            if not re.search(r"(reads|writes|_bits)$", counter):
                continue
            for name, cell in zip(columns, cells[1:], strict=True):
                if cell:
                    found += 1
                    names = {name, f"recompute_{name}"}
                    assert any((n, counter) in charged for n in names), (name, counter)
    assert found >= 25


def test_dram():
    energy = cost.energy({"update": {"load_bursts": 2, "store_bursts": 3}}, H2LEARN, HOROWITZ)
    per_burst = 64 * 8 * 1300 / 64
    assert energy.by_component() == {
        "dram.read": pytest.approx(2 * per_burst),
        "dram.write": pytest.approx(3 * per_burst),
    }
    assert energy.on_chip_pj == 0
    assert energy.dram_pj == pytest.approx(5 * per_burst)
    # Bytes that are not in a burst of their own cost nothing more.
    assert one("update", load_bytes=10**6, loads=5) == {}


def test_a_memory_left_out_is_a_register():
    machine = H2LEARN.with_(membrane_bytes=0, state_bytes=0)
    parts = one("soma", machine, membrane_reads=1, spike_write_bits=32)
    assert parts == {
        "membrane.read": pytest.approx(sram_pj(32, 4)),
        "state.write": pytest.approx(sram_pj(32, 4)),
    }


BAD_COUNTERS = {
    "pass": ({"forwards": {}}, ["'forwards'", "recompute_soma"]),
    "counter": ({"forward": {"adds": 1}}, ["'adds'", "forward", "additions"]),
    "negative": ({"soma": {"additions": -1}}, ["additions", "soma", "-1"]),
    "fraction": ({"soma": {"additions": 1.5}}, ["additions", "1.5"]),
    "truth": ({"soma": {"additions": True}}, ["additions", "True"]),
    "contradiction": (
        {"forward": {"table_builds": 1, "additions": 56}},
        ["table_builds", "57", "additions = 56"],
    ),
}


@pytest.mark.parametrize(("counters", "parts"), BAD_COUNTERS.values(), ids=list(BAD_COUNTERS))
def test_bad_counters(counters, parts):
    with pytest.raises(InputError) as caught:
        cost.energy(counters, H2LEARN, HOROWITZ)
    for part in parts:
        assert part in str(caught.value)


# ---- area and power


def test_area_by_hand():
    um2 = cost.area(H2LEARN, HOROWITZ).um2
    bit = 0.346 / 0.7
    assert um2["forward.tables"] == pytest.approx(8 * 524288 * bit)
    assert um2["backward.gradients"] == pytest.approx(8 * 2097152 * bit)
    assert um2["state"] == pytest.approx(8 * 4194304 * bit)
    assert um2["forward.adders"] == pytest.approx(1024 * (1360 + 4184))
    assert um2["update.adders"] == pytest.approx(1024 * (1360 + 4184))
    assert um2["backward.adders"] == pytest.approx(6144 * 4184)
    assert um2["backward.multipliers"] == pytest.approx(6144 * 1640)
    assert um2["soma.adders"] == pytest.approx(64 * 4 * 4184)
    assert um2["gradient.multipliers"] == pytest.approx(64 * 3 * 7700)
    dense = cost.area(DENSE, HOROWITZ).um2
    assert dense["forward.tables"] == pytest.approx(8 * 2 * 1024 * 6 * 2 * bit)
    assert dense["forward.adders"] == pytest.approx(1024 * 2 * 4184)


def test_every_buffer_has_an_area():
    """Doubling any one of the capacities adds silicon; a comparison stands beside the total."""
    base = cost.area(H2LEARN, JOUPPI)
    for row in H2LEARN.describe():
        if row.name.endswith("_bytes") and row.name != "dram.burst_bytes":
            larger = cost.area(H2LEARN.with_(**{row.name: 2 * row.value}), JOUPPI)
            assert larger.total_um2 > base.total_um2, row.name
    assert base.total_mm2 == pytest.approx(base.total_um2 / 1e6)
    assert base.to_dict()["third_party_h2learn_mm2"] == cost.THIRD_PARTY_AREA_MM2 == 110.46
    assert sum(base.to_dict()["components_um2"].values()) == pytest.approx(base.total_um2)


def test_area_does_not_depend_on_what_is_only_timing():
    changes = {"clock_hz": 10**9, "dram.bytes_per_cycle": 1, "schedule": "serial", "parts": 9}
    assert cost.area(H2LEARN.with_(**changes), JOUPPI).um2 == cost.area(H2LEARN, JOUPPI).um2


def test_power():
    energy = cost.energy({"soma": {"additions": 10**12, "load_bursts": 10**6}}, H2LEARN, HOROWITZ)
    power = cost.power_w(energy, 0.5)
    assert power.on_chip_w == pytest.approx(1.8)
    assert power.dram_w == pytest.approx(2 * 10**6 * 64 * 8 * 1300 / 64 * 1e-12)
    assert power.total_w == pytest.approx(power.on_chip_w + power.dram_w)
    for seconds in (0, -1, math.nan, math.inf):
        with pytest.raises(InputError, match="seconds must be greater than 0"):
            cost.power_w(energy, seconds)
