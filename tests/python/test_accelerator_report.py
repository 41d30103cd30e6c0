"""The accelerator's report: facts as data, and the tables that show them."""

from __future__ import annotations

import io
import json

import pytest
from fake_accelerator import LAYERS, fake_simulation
from h2learn import cost
from h2learn.accelerators import Accelerator
from h2learn.accelerators.results import ENGINES
from h2learn.errors import InputError
from h2learn.report.accelerator import (
    accelerator_facts,
    report_text,
    show_accelerator,
    show_comparison,
)
from h2learn.report.units import measure, ratio
from rich.console import Console


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (measure(0, "J"), "0 J"),
        (measure(1.5, "s"), "1.50 s"),
        (measure(0.9996, "s"), "1.00 s"),
        (measure(0.99949, "s"), "999 ms"),
        (measure(22.5e-6, "s"), "22.5 µs"),
        (measure(6.77e-9, "J"), "6.77 nJ"),
        (measure(1.25e-12, "J"), "1.25 pJ"),
        (measure(-2e-3, "W"), "-2.00 mW"),
        (measure(800e6, "Hz"), "800 MHz"),
        (measure(123, "W"), "123 W"),
        (measure(1e9, "Hz"), "1.00 GHz"),
        (ratio(1), "1.00x"),
        (ratio(0.9996), "1.00x"),
        (ratio(3.14159), "3.14x"),
        (ratio(140.2), "140x"),
        (ratio(0), "0x"),
    ],
)
def test_quantities_are_shown_with_three_digits_and_a_prefix(shown, expected):
    assert shown == expected


class TestFacts:
    def test_they_are_json_and_nothing_else(self):
        simulation = fake_simulation()
        facts = accelerator_facts(simulation, samples=8)
        assert json.loads(json.dumps(facts, allow_nan=False)) == facts
        assert facts == accelerator_facts(simulation, samples=8)
        for key in ("accelerator", "cycles", "seconds", "energy_pj", "area_um2", "engines",
                    "layers", "power_w", "dram", "assumptions", "ablations"):  # fmt: skip
            assert key in facts

    def test_an_engines_cycles_add_up_to_the_steps(self):
        simulation = fake_simulation()
        facts = accelerator_facts(simulation)
        assert set(facts["engines"]) == set(ENGINES)
        for engine in facts["engines"].values():
            parts = (engine[f"{part}_cycles"] for part in ("busy", "stalled", "idle"))
            assert sum(parts) == facts["cycles"]
            stalls = engine["stalled_load_cycles"] + engine["stalled_store_cycles"]
            assert engine["stalled_cycles"] == stalls
        assert facts["engines"]["forward"]["building_cycles"] > 0
        assert facts["engines"]["soma"]["peak_operations_per_cycle"] is None
        assert facts["engines"]["backward"]["peak_operations_per_cycle"] == 12288

    def test_energy_and_area_are_the_cost_tables(self):
        simulation = fake_simulation()
        facts = accelerator_facts(simulation)
        assert tuple(facts["energy_pj"]) == cost.tables()
        for name, energy in facts["energy_pj"].items():
            expected = cost.energy(simulation.by_pass(), simulation.accelerator, name)
            assert energy["on_chip"] == expected.on_chip_pj > 0
            assert energy["dram"] == expected.dram_pj > 0
            assert energy["total"] == expected.total_pj
            for parts in ("engines", "kinds"):
                assert sum(energy[parts].values()) == pytest.approx(energy["total"])
            assert energy["kinds"]["dram"] == pytest.approx(energy["dram"])
            watts = energy["total"] * 1e-12 / facts["seconds"]
            assert facts["power_w"][name]["total"] == pytest.approx(watts)
            area = cost.area(simulation.accelerator, name)
            assert facts["area_um2"][name]["total"] == area.total_um2
        assert facts["third_party_area_mm2"] == 110.46

    def test_only_the_tables_asked_for(self):
        (name, *_) = cost.tables()
        facts = accelerator_facts(fake_simulation(), tables=[name])
        assert list(facts["energy_pj"]) == list(facts["area_um2"]) == [name]
        with pytest.raises(InputError, match="horowitz"):
            accelerator_facts(fake_simulation(), tables=["horowiz-45nm"])

    def test_layers_share_the_busy_cycles_and_the_traffic(self):
        facts = accelerator_facts(fake_simulation())
        layers = facts["layers"]
        assert tuple(layer["name"] for layer in layers) == LAYERS
        assert sum(layer["busy_share"] for layer in layers) == pytest.approx(1.0)
        for key in ("load_bytes", "store_bytes"):
            assert sum(layer[key] for layer in layers) == facts["dram"][key]
        first, second, last = layers
        assert "backward" not in first["passes"]
        assert first["backward_skipped_by_gradient"] is first["backward_skipped_by_mask"] is None
        assert second["backward_skipped_by_gradient"] == 0.36
        assert second["backward_skipped_by_mask"] == 0.4
        assert second["input_density"] == 0.15
        assert second["forward_zero_indices"] == 0.45
        assert second["update_zero_indices"] == 0.6
        assert second["update_needed"] == 0.06
        assert first["on_chip"] == ["spikes", "mask"]
        assert last["on_chip"] == ["gradient at the currents"]

    def test_the_busiest_come_first_and_are_shares_of_the_time(self):
        simulation = fake_simulation()
        rows = accelerator_facts(simulation)["busiest"]
        assert [r["busy_cycles"] for r in rows] == sorted(
            (r["busy_cycles"] for r in rows), reverse=True
        )
        top = simulation.counters(rows[0]["layer"], rows[0]["pass"])
        assert rows[0]["share"] == top.busy_cycles / simulation.cycles

    def test_steps_are_averaged_and_samples_counted_in_all(self):
        simulation = fake_simulation()
        alone = accelerator_facts(simulation)
        simulation.add(fake_simulation())
        both = accelerator_facts(simulation, samples=16)
        assert both["steps"] == 2
        assert both["cycles"] == 2 * alone["cycles"]
        assert both["step_seconds"] == pytest.approx(alone["step_seconds"])
        assert both["samples_per_second"] == pytest.approx(8 / alone["step_seconds"])
        assert "samples_per_second" not in alone
        name = cost.tables()[0]
        assert both["energy_pj"][name]["total"] == pytest.approx(
            2 * alone["energy_pj"][name]["total"]
        )
        assert both["power_w"][name]["total"] == pytest.approx(alone["power_w"][name]["total"])

    def test_an_ablation_is_compared_with_the_machine_on_the_same_work(self):
        machine = Accelerator.load("h2learn")
        epoch, step = fake_simulation(machine), fake_simulation(machine, seed=1)
        epoch.add(fake_simulation(machine, seed=1))
        lesser = {
            name: fake_simulation(other, rows=5) for name, other in machine.ablations().items()
        }
        rows = accelerator_facts(epoch, ablations=lesser, step=step)["ablations"]
        assert [row["name"] for row in rows] == list(machine.ablations())
        for row in rows:
            other = lesser[row["name"]]
            assert row["cycles_ratio"] == other.cycles / step.cycles
            for engine, times in row["busy_ratio"].items():
                busy = step.engine(engine).busy_cycles
                assert times == (other.engine(engine).busy_cycles / busy if busy else None)
            for table, times in row["energy_ratio"].items():
                assert times == pytest.approx(
                    cost.energy(other.by_pass(), other.accelerator, table).total_pj
                    / cost.energy(step.by_pass(), machine, table).total_pj
                )
        # The machine's own result among them is what they are compared with.
        own = accelerator_facts(epoch, ablations={"h2learn": step, **lesser})["ablations"]
        assert own == rows

    def test_the_work_of_the_ablations_is_told(self):
        machine = Accelerator.load("h2learn")
        epoch, step = fake_simulation(machine), fake_simulation(machine, seed=1)
        epoch.add(step)
        facts = accelerator_facts(epoch, step=step, samples=100, step_samples=64)
        expected = {"steps": 1, "cycles": step.cycles, "samples": 64}
        assert facts["ablations_base"] == expected
        facts = accelerator_facts(epoch, step=step, samples=100)
        assert facts["ablations_base"] == expected | {"samples": None}
        facts = accelerator_facts(epoch, samples=100)
        assert facts["ablations_base"] == {"steps": 2, "cycles": epoch.cycles, "samples": 100}

    def test_nothing_has_no_ratio_to_nothing(self):
        # A network of one layer has no backward pass.
        machine = Accelerator.load("h2learn")
        serial = fake_simulation(machine.ablations()["serial"], layers=("fc",))
        step = fake_simulation(machine, layers=("fc",))
        facts = accelerator_facts(step, ablations={"serial": serial})
        (row,) = facts["ablations"]
        assert row["busy_ratio"]["backward"] is None
        assert row["busy_ratio"]["forward"] == 1.0
        assert json.loads(json.dumps(facts, allow_nan=False)) == facts
        line = next(x for x in shown(facts, 100).splitlines() if x.strip().startswith("serial"))
        assert line.split()[1:5] == ["1.00x", "1.00x", "-", "1.00x"]
        assert "0x " not in line.replace("1.00x ", "")

    def test_operations_a_second_are_what_is_used_of_the_peak(self):
        facts = accelerator_facts(fake_simulation())
        for engine in facts["engines"].values():
            peak = engine["peak_operations_per_cycle"]
            expected = peak and engine["utilisation"] * peak * facts["clock_hz"]
            assert engine["operations_per_second"] == expected

    def test_assumptions_are_listed(self):
        machine = Accelerator.load("h2learn")
        facts = accelerator_facts(fake_simulation(machine))
        named = [row["parameter"] for row in facts["assumptions"]]
        assert "forward.rows" in named
        assert "clock_hz" not in named
        assert {row["grade"] for row in facts["assumptions"]} == {"I"}
        assert len(named) < facts["parameters"] == len(machine.describe())


def shown(facts, width=80, **options):
    out = io.StringIO()
    show_accelerator(Console(file=out, width=width, **options), facts)
    return out.getvalue()


class TestTables:
    def test_everything_is_there_and_fits_100_columns(self):
        machine = Accelerator.load("h2learn")
        lesser = {name: fake_simulation(other) for name, other in machine.ablations().items()}
        text = report_text(fake_simulation(machine), ablations=lesser, samples=8)
        assert max(map(len, text.splitlines())) <= 100
        assert "…" not in text
        assert "\x1b" not in text
        for word in (
            *LAYERS, *cost.tables(), *lesser, "forward engine", "weight update", "DRAM bus",
            "110.5 mm²", "800 MHz", "samples/s", "assumptions", "36.0 %", "40.0 %", "SMCGU",
        ):  # fmt: skip
            assert word in text, word

    def test_peaks_that_an_ablation_changes_are_told(self):
        machine = Accelerator.load("h2learn")
        lesser = {name: fake_simulation(other) for name, other in machine.ablations().items()}
        text = " ".join(report_text(fake_simulation(machine), ablations=lesser).split())
        assert "update 10,240; but without tables: forward 2,048, update 2,048." in text
        text = report_text(fake_simulation(machine), ablations={"serial": lesser["serial"]})
        assert "the same without any" in text

    def test_the_title_of_the_ablations_says_what_they_are_multiples_of(self):
        machine = Accelerator.load("h2learn")
        epoch, step = fake_simulation(machine), fake_simulation(machine, seed=1)
        lesser = {"serial": fake_simulation(machine.ablations()["serial"])}

        def title(simulation, **options):
            text = " ".join(report_text(simulation, ablations=lesser, **options).split())
            return text.partition("in multiples of ")[2].partition(" cycles")[0]

        assert title(epoch) == f"the step, {epoch.cycles:,}"
        assert title(epoch, samples=8) == f"the step of 8 samples, {epoch.cycles:,}"
        epoch.add(step)
        assert title(epoch, samples=16) == f"all 2 steps of 16 samples, {epoch.cycles:,}"
        kept = title(epoch, step=step, samples=16, step_samples=8)
        assert kept == f"the kept step of 8 samples, {step.cycles:,}"

    def test_notes_name_what_is_assumed_and_what_is_left_out(self):
        text = " ".join(report_text(fake_simulation()).split())
        named = text.partition("(grade I): ")[2].partition(". ")[0]
        found = set()
        for group in named.split("; "):
            name, colon, members = group.rpartition(": ")
            found |= {f"{name}.{m}" if colon else m for m in members.split(", ")}
        assumed = Accelerator.load("h2learn").assumptions()
        assert found == {name for name, _, _ in assumed}
        assert "45 of its 50" in text
        for word in (
            "optimiser", "batch normalisation", "pooling", "skip connections", "host",
            "DRAM DDR3 class, 20.3 pJ a bit", "DRAM HBM2, 3.9 pJ a bit", "256 GB/s",
        ):  # fmt: skip
            assert word in text, word

    def test_an_invented_machine_is_not_compared_with_the_chip(self):
        text = report_text(fake_simulation(Accelerator.load("h2learn-small")))
        assert "110.5" not in text
        assert "invented" in text

    def test_without_ablations_there_is_no_table_of_them(self):
        assert "mechanism" not in report_text(fake_simulation())

    def test_wide_names_and_numbers_still_fit_80_columns(self):
        layers = ("features.stage1.convolution", "b", "c")
        simulation = fake_simulation(layers=layers)
        facts = accelerator_facts(simulation)
        for layer in facts["layers"]:
            layer |= {"load_bytes": 400_000_000, "store_bytes": 599_000_000}
            for counts in layer["passes"].values():
                counts["busy_cycles"] = 888_000_000
            for key in ("backward_skipped_by_gradient", "input_density"):
                layer[key] = 1.0
        text = shown(facts)
        assert max(map(len, text.splitlines())) <= 80
        assert "…" not in text
        assert "888 M" in text
        assert "999 MB" in text

    def test_an_ascii_terminal_gets_the_same_numbers(self):
        class Ascii(io.StringIO):
            encoding = "ascii"

        facts = accelerator_facts(fake_simulation(), samples=8)
        out = Ascii()
        show_accelerator(Console(file=out, width=100), facts)
        assert out.getvalue().isascii()
        assert "110.5 mm2" in out.getvalue()
        assert "?" not in out.getvalue()

    def test_a_bar_is_as_long_as_its_shares(self):
        facts = accelerator_facts(fake_simulation())
        forward = facts["engines"]["forward"]
        forward |= {"busy_cycles": facts["cycles"] // 2, "stalled_load_cycles": 0}
        forward |= {"stalled_store_cycles": facts["cycles"] // 5}
        forward["idle_cycles"] = facts["cycles"] - facts["cycles"] // 2 - facts["cycles"] // 5
        line = next(x for x in shown(facts).splitlines() if "forward engine" in x)
        assert " " + "█" * 5 + "▒" * 2 + "░" * 3 + " " in line

    def test_a_comparison_has_a_row_a_machine(self):
        rows = [
            accelerator_facts(fake_simulation(Accelerator.load(name)))
            for name in ("h2learn", "h2learn-small")
        ]
        out = io.StringIO()
        show_comparison(Console(file=out, width=80), rows)
        text = out.getvalue()
        times = ratio(rows[1]["step_seconds"] / rows[0]["step_seconds"])
        assert max(map(len, text.splitlines())) <= 80
        assert "…" not in text
        assert text.count("h2learn-small") == 2 + len(cost.tables())
        assert "of 9.83" in text
        assert "of 2.46" in text
        assert "1.00x" in text
        assert times in text
