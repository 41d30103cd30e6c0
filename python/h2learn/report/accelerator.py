"""What an accelerator did: facts of a simulation as plain data, and the same facts as tables.

`accelerator_facts` makes data with units in its keys: that is what goes into JSON.
`show_accelerator` shows it, in 80 columns or more, `report_text` as plain text.
`show_comparison` sets several machines side by side.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from h2learn import cost
from h2learn.accelerators.results import ENGINE_OF_PASS, ENGINES, RESIDENT, Counters
from h2learn.report.layout import number_table
from h2learn.report.units import amount, byte_size, measure, percent, ratio

if TYPE_CHECKING:
    from h2learn.accelerators.results import Simulation

__all__ = [
    "accelerator_facts",
    "report_text",
    "show_accelerator",
    "show_comparison",
]

Facts = dict[str, Any]

NONE = "-"
NO_TIME = (
    "the optimiser, the loss, batch normalisation, pooling, skip connections, and transfers "
    "from the host into DRAM"
)
WIDTH = 100
NARROWEST_BAR, WIDEST_BAR = 10, 30
MOST_TIME_ROWS = 5

ENGINE_NAMES = {
    "forward": "forward engine",
    "soma": "soma",
    "gradient": "gradient unit",
    "backward": "backward engine",
    "update": "weight update",
}
# Engines whose work a mechanism makes less; without it they are busy so much longer.
ABLATED = ("forward", "backward", "update")
ON_CHIP_LETTERS = dict(zip(RESIDENT, "SMCGU", strict=True))
# For terminals that know no more.
ASCII = str.maketrans({"µ": "u", "²": "2", "█": "#", "▒": "%", "░": ".", "…": "."})
BUSY, STALLED, IDLE = ("█", "green"), ("▒", "red"), ("░", "dim")


# ---- facts


def accelerator_facts(
    simulation: Simulation,
    *,
    tables: Sequence[str] | None = None,
    ablations: Mapping[str, Simulation] | None = None,
    step: Simulation | None = None,
    samples: int | None = None,
    step_samples: int | None = None,
) -> Facts:
    """Everything that the report says of a simulation, as JSON takes it.

    Keys (of all steps together unless they begin with `step_`; shares are between 0 and 1):

    - `accelerator`, `hypothetical`, `clock_hz`, `precision`, `schedule`, `parts`;
    - `steps`, `cycles`, `seconds`, `step_cycles`, `step_seconds`, and with `samples`
      `samples_per_second`;
    - `energy_pj`: a cost table's name to `on_chip`, `dram`, `total`, and the total again by
      `engines` and by `kinds` (arithmetic, tables, buffers, dram); `power_w`: to `on_chip`,
      `dram`, `total`; `area_um2`: to `total` and `components`; `cost_tables`: to `title`,
      `node_nm`, `dram_technology`, `dram_pj_per_bit`, `unverified` numbers, `extrapolated`
      memories; `third_party_area_mm2`;
    - `engines`: a name to cycles `busy` (of them `building` tables), `stalled` (on a load, on a
      store), `idle`, `utilisation` of its peak, `operations_per_second` of a dense layer;
    - `dram`: `load_bytes`, `store_bytes`, `busy_cycles`, `busy_share`, and
      `bytes_per_second`, used and `peak_`;
    - `layers`: a row a layer (`_layer_facts`); `busiest`: layers and passes by busy cycles;
    - `ablations`: a row a mechanism: `name`, `cycles`, `cycles_ratio`, `busy_ratio` by engine,
      `energy_ratio` by table, ratios None where the machine's own is 0, and
      `peak_operations_per_cycle` by engine; `ablations_base`: what they are compared with, the
      machine's own `steps`, `cycles` and `samples` (None: not known);
    - `assumptions`: parameters of grade I; `parameters`: how many there are.

    Args:
        simulation: of one step or more.
        tables: names or files of cost tables; by default all that come with the package.
        ablations: name to the same work on a machine that lacks something. The accelerator's own
            name may be among them.
        step: the machine's own result on the ablations' work, if that is not `simulation`.
        samples: training samples of all steps together.
        step_samples: those of `step`.

    Raises:
        InputError: no such cost table.
    """
    machine = simulation.accelerator
    chosen = [cost.Table.load(name) for name in (cost.tables() if tables is None else tables)]
    facts: Facts = {
        "accelerator": machine.name,
        "hypothetical": machine.hypothetical,
        "clock_hz": machine.clock_hz,
        "precision": machine.precision,
        "schedule": machine.schedule,
        "parts": machine.parts,
        "steps": simulation.steps,
        "cycles": simulation.cycles,
        "seconds": simulation.seconds,
        "step_cycles": simulation.cycles / simulation.steps,
        "step_seconds": simulation.seconds / simulation.steps,
    }
    if samples is not None:
        facts["samples"] = samples
        facts["samples_per_second"] = _share(samples, simulation.seconds)
    facts |= _cost_facts(simulation, chosen)
    facts["engines"] = {name: _engine_facts(simulation, name) for name in ENGINES}
    facts["dram"] = _dram_facts(simulation)
    facts["layers"] = [_layer_facts(simulation, name) for name in simulation.layer_names]
    facts["busiest"] = _busiest(simulation)
    base = (ablations or {}).get(machine.name, step or simulation)
    facts["ablations"] = _ablation_facts(base, ablations or {}, chosen)
    known = step_samples if base.steps != simulation.steps else samples
    facts["ablations_base"] = {"steps": base.steps, "cycles": base.cycles, "samples": known}
    facts["assumptions"] = [
        {"parameter": name, "value": value, "grade": grade}
        for name, value, grade in machine.assumptions()
    ]
    facts["parameters"] = len(machine.describe())
    return facts


def _cost_facts(simulation: Simulation, tables: Sequence[cost.Table]) -> Facts:
    machine, counters = simulation.accelerator, simulation.by_pass()
    energy_pj, power_w, area_um2, about = {}, {}, {}, {}
    for table in tables:
        energy, area = cost.energy(counters, machine, table), cost.area(machine, table)
        kinds = dict.fromkeys(("arithmetic", "tables", "buffers", "dram"), 0.0)
        for component, pj in energy.by_component().items():
            kinds[_kind(component)] += pj
        engines = dict.fromkeys(ENGINES, 0.0)
        for name, pj in energy.by_pass().items():
            engines[ENGINE_OF_PASS[name]] += pj
        energy_pj[table.name] = {
            "on_chip": energy.on_chip_pj,
            "dram": energy.dram_pj,
            "total": energy.total_pj,
            "engines": engines,
            "kinds": kinds,
        }
        power = cost.power_w(energy, simulation.seconds)
        power_w[table.name] = {
            "on_chip": power.on_chip_w, "dram": power.dram_w, "total": power.total_w,
        }  # fmt: skip
        area_um2[table.name] = {"total": area.total_um2, "components": dict(area.um2)}
        about[table.name] = {
            "title": table.title,
            "node_nm": table.node_nm,
            "dram_technology": table.energy.dram.technology,
            "dram_pj_per_bit": table.energy.dram.value / table.energy.dram.bits,
            "unverified": list(table.unverified()),
            "extrapolated": list(energy.extrapolated),
        }
    return {
        "energy_pj": energy_pj,
        "power_w": power_w,
        "area_um2": area_um2,
        "third_party_area_mm2": cost.THIRD_PARTY_AREA_MM2,
        "cost_tables": about,
    }


def _kind(component: str) -> str:
    if component.startswith("dram."):
        return "dram"
    if component.startswith(("add.", "multiply.", "compare.")):
        return "arithmetic"
    return "tables" if ".tables." in component else "buffers"


def _engine_facts(simulation: Simulation, name: str) -> Facts:
    engine, machine = simulation.engine(name), simulation.accelerator
    peak = machine.peak_operations_per_cycle.get(name)
    return {
        "busy_cycles": engine.busy_cycles,
        "building_cycles": engine.counters.building_cycles,
        "stalled_cycles": engine.stalled_cycles,
        "stalled_load_cycles": engine.counters.stalled_load_cycles,
        "stalled_store_cycles": engine.counters.stalled_store_cycles,
        "idle_cycles": engine.idle_cycles,
        "utilisation": engine.utilisation,
        "peak_operations_per_cycle": peak,
        "operations_per_second": peak and engine.utilisation * peak * machine.clock_hz,
        "tiles": engine.counters.tiles,
    }


def _dram_facts(simulation: Simulation) -> Facts:
    total, machine = simulation.counters(), simulation.accelerator
    moved = total.load_bytes + total.store_bytes
    return {
        "load_bytes": total.load_bytes,
        "store_bytes": total.store_bytes,
        "busy_cycles": simulation.dram_busy_cycles,
        "busy_share": _share(simulation.dram_busy_cycles, simulation.cycles),
        "bytes_per_second": _share(moved, simulation.seconds),
        "peak_bytes_per_second": machine.dram.bytes_per_cycle * machine.clock_hz,
    }


def _layer_facts(simulation: Simulation, name: str) -> Facts:
    """A row of a layer.

    Keys: `name`; `passes`: a pass that ran to `busy_cycles`, `stalled_cycles`; `busy_cycles` and
    `busy_share` of the busy cycles of all layers; `load_bytes`, `store_bytes`; `input_density`,
    the set bits among the forward engine's inputs; `forward_zero_indices`, `update_zero_indices`,
    shares of table reads that were skipped; `backward_skipped_by_gradient`,
    `backward_skipped_by_mask`, shares of the operations offered; `update_needed`, the share of
    operations with a spike and a gradient; each None where the pass did not run; `on_chip`.
    """
    passes = {row["pass"] for row in simulation.rows() if row["layer"] == name}
    counted = {p: simulation.counters(name, p) for p in passes}
    total = simulation.counters(name)
    forward, backward, update = (counted.get(p) for p in ("forward", "backward", "update"))
    return {
        "name": name,
        "passes": {
            p: {"busy_cycles": counted[p].busy_cycles, "stalled_cycles": counted[p].stalled_cycles}
            for p in ENGINE_OF_PASS
            if p in counted
        },
        "busy_cycles": total.busy_cycles,
        "busy_share": _share(total.busy_cycles, simulation.counters().busy_cycles),
        "load_bytes": total.load_bytes,
        "store_bytes": total.store_bytes,
        "input_density": forward and _share(forward.operations_needed, forward.operations_offered),
        "forward_zero_indices": _zero_indices(forward),
        "backward_skipped_by_gradient": backward
        and _share(backward.skipped_by_gradient, backward.operations_offered),
        "backward_skipped_by_mask": backward
        and _share(backward.skipped_by_mask, backward.operations_offered),
        "update_zero_indices": _zero_indices(update),
        "update_needed": update and _share(update.operations_needed, update.operations_offered),
        "on_chip": list(simulation.resident(name)),
    }


def _zero_indices(counters: Counters | None) -> float | None:
    if counters is None or not counters.table_reads + counters.table_reads_skipped:
        return None
    skipped = counters.table_reads_skipped
    return skipped / (counters.table_reads + skipped)


def _busiest(simulation: Simulation) -> list[Facts]:
    """Layers and passes that keep their engine busy longest; shares are of the step's time."""
    rows = [
        {
            "layer": row["layer"],
            "pass": row["pass"],
            "busy_cycles": row["run_cycles"] + row["building_cycles"],
            "share": _share(row["run_cycles"] + row["building_cycles"], simulation.cycles),
        }
        for row in simulation.rows()
    ]
    return sorted(rows, key=lambda row: -row["busy_cycles"])[:MOST_TIME_ROWS]


def _ablation_facts(
    base: Simulation, ablations: Mapping[str, Simulation], tables: Sequence[cost.Table]
) -> list[Facts]:
    rows = []
    for name, other in ablations.items():
        if name == base.accelerator.name:
            continue
        energies = {
            table.name: _times(_total_pj(other, table), _total_pj(base, table)) for table in tables
        }
        rows.append(
            {
                "name": name,
                "cycles": other.cycles,
                "cycles_ratio": _times(other.cycles, base.cycles),
                "busy_ratio": {
                    engine: _times(
                        other.engine(engine).busy_cycles, base.engine(engine).busy_cycles
                    )
                    for engine in ABLATED
                },
                "energy_ratio": energies,
                "peak_operations_per_cycle": other.accelerator.peak_operations_per_cycle,
            }
        )
    return rows


def _total_pj(simulation: Simulation, table: cost.Table) -> float:
    return cost.energy(simulation.by_pass(), simulation.accelerator, table).total_pj


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _times(value: float, base: float) -> float | None:
    """A ratio, which nothing has to nothing."""
    return value / base if base else None


def _shown_times(times: float | None) -> str:
    return NONE if times is None else ratio(times)


# ---- tables


def report_text(
    simulation: Simulation,
    *,
    tables: Sequence[str] | None = None,
    ablations: Mapping[str, Simulation] | None = None,
    step: Simulation | None = None,
    samples: int | None = None,
    step_samples: int | None = None,
) -> str:
    """The report as plain text, 100 columns wide; arguments of `accelerator_facts`."""
    facts = accelerator_facts(
        simulation, tables=tables, ablations=ablations, step=step, samples=samples,
        step_samples=step_samples,
    )  # fmt: skip
    out = io.StringIO()
    show_accelerator(Console(file=out, width=WIDTH, color_system=None), facts)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def show_accelerator(console: Console, facts: Mapping[str, Any]) -> None:
    """Shows what `accelerator_facts` made: time and cost, engines, layers, mechanisms."""
    page = _Page(console)
    _show_headline(page, facts)
    page.table(_cost_table(facts))
    page.table(_energy_table(facts))
    page.table(_engine_table(facts, console.width))
    page.table(_time_table(facts))
    page.table(_sparsity_table(facts))
    if facts["ablations"]:
        page.table(_ablation_table(facts))
        _show_peaks(page, facts)
    _show_notes(page, facts)


class _Page:
    """Prints for a console, in ASCII where it knows no more."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._is_ascii = console.options.ascii_only

    def say(self, text: str, style: str | None = None, indent: int = 0) -> None:
        """A paragraph, its lines broken at the console's width and indented alike."""
        shown = Text(text.translate(ASCII) if self._is_ascii else text, style=style or "")
        for line in shown.wrap(self._console, max(20, self._console.width - indent)):
            line.rstrip()
            self._console.print(Text(" " * indent) + line, soft_wrap=True)

    def table(self, table: Table) -> None:
        """A table and an empty line."""
        if not self._is_ascii:
            self._console.print(table)
            return
        with self._console.capture() as capture:
            self._console.print(table)
        self._console.out(capture.get().translate(ASCII), end="", highlight=False)


def _show_headline(page: _Page, facts: Mapping[str, Any]) -> None:
    steps, dram = facts["steps"], facts["dram"]
    parts = f"{facts['parts']} part" + ("s" if facts["parts"] != 1 else "")
    page.say(
        f"{facts['accelerator']}: {measure(facts['clock_hz'], 'Hz')}, {facts['precision']}, "
        f"schedule {facts['schedule']}, {parts}",
        "bold",
    )
    text = f"a step   {measure(facts['step_seconds'], 's')}, {facts['step_cycles']:,.0f} cycles"
    if steps > 1:
        text += f" (mean of {steps:,} steps)"
    if facts.get("samples_per_second"):
        text += f", {amount(facts['samples_per_second'])} samples/s"
    page.say(text, indent=2)
    if steps > 1:
        energies = " or ".join(
            f"{measure(pj['total'] * 1e-12, 'J')} ({name})"
            for name, pj in facts["energy_pj"].items()
        )
        page.say(
            f"in all   {steps:,} steps: {measure(facts['seconds'], 's')}, "
            f"{facts['cycles']:,} cycles, {energies}",
            indent=2,
        )
    used, peak = dram["bytes_per_second"] / 1e9, dram["peak_bytes_per_second"] / 1e9
    page.say(
        f"DRAM     {byte_size(dram['load_bytes'] / steps)} loaded, "
        f"{byte_size(dram['store_bytes'] / steps)} stored; bus busy "
        f"{percent(dram['busy_share'])} ({used:.3g} of {peak:.3g} GB/s)",
        indent=2,
    )
    tops = [
        f"{row['layer']} {row['pass']} {percent(row['share'], 0)}" for row in facts["busiest"][:3]
    ]
    if tops:
        page.say(f"busiest  {', '.join(tops)} of the step", indent=2)
    page.say("")


def _cost_table(facts: Mapping[str, Any]) -> Table:
    table = number_table(
        "Energy, power and area",
        "\ncost table", "energy a step\non chip", "\nDRAM", "\ntotal", "mean\npower", "\narea",
    )  # fmt: skip
    for name, energy in facts["energy_pj"].items():
        joules = [energy[key] * 1e-12 / facts["steps"] for key in ("on_chip", "dram", "total")]
        table.add_row(
            name, *(measure(value, "J") for value in joules),
            measure(facts["power_w"][name]["total"], "W"),
            _square_mm(facts["area_um2"][name]["total"]),
        )  # fmt: skip
    if not facts["hypothetical"]:
        table.add_section()
        area = f"{facts['third_party_area_mm2']:.1f} mm²"
        table.add_row("third party", *[NONE] * 4, area, style="dim")
    return table


def _energy_table(facts: Mapping[str, Any]) -> Table:
    table = number_table(
        "Where the energy goes: by kind of work, and by engine with its DRAM",
        "\ncost table", "arith-\nmetic", "\ntables", "\nbuffers", "\nDRAM", "for-\nward",
        "\nneurons", "back-\nward", "\nupdate",
    )  # fmt: skip
    for name, energy in facts["energy_pj"].items():
        engines = energy["engines"]
        neurons = engines["soma"] + engines["gradient"]
        parts = [
            *energy["kinds"].values(),
            *(engines["forward"], neurons, engines["backward"], engines["update"]),
        ]
        table.add_row(name, *(percent(_share(pj, energy["total"]), 0) for pj in parts))
    return table


def _square_mm(area_um2: float) -> str:
    mm2 = area_um2 / 1e6
    return f"{mm2:.1f} mm²" if mm2 >= 1 else f"{mm2:.2g} mm²"


def _engine_table(facts: Mapping[str, Any], width: int) -> Table:
    table = number_table(
        f"Engines, shares of the time ({BUSY[0]} busy, {STALLED[0]} stalled, {IDLE[0]} idle)",
        "\nengine", "", "\nbusy", "build-\ning", "stalled\nload", "\nstore", "\nidle",
        "peak\nused",
    )  # fmt: skip
    bar_width = max(NARROWEST_BAR, min(WIDEST_BAR, width - 70))
    table.columns[0].no_wrap = True
    for name, engine in facts["engines"].items():
        if not engine["tiles"]:
            continue
        keys = ("busy", "building", "stalled_load", "stalled_store", "idle")
        shares = [_share(engine[f"{key}_cycles"], facts["cycles"]) for key in keys]
        peak = engine["peak_operations_per_cycle"]
        table.add_row(
            ENGINE_NAMES[name],
            _bar([shares[0], shares[2] + shares[3], shares[4]], bar_width),
            percent(shares[0]),
            percent(shares[1]) if engine["building_cycles"] else NONE,
            *map(percent, shares[2:]),
            NONE if peak is None else percent(engine["utilisation"]),
        )
    dram = facts["dram"]
    bus, used = dram["busy_share"], _share(dram["bytes_per_second"], dram["peak_bytes_per_second"])
    table.add_row(
        "DRAM bus", _bar([bus, 0.0, 1.0 - bus], bar_width), percent(bus), *[NONE] * 3,
        percent(1.0 - bus), percent(used),
    )  # fmt: skip
    return table


def _bar(shares: Sequence[float], width: int) -> Text:
    """Shares of one as a bar; each end is rounded, so that the bar has its width."""
    text = Text(no_wrap=True)
    total, drawn = 0.0, 0
    for share, (mark, style) in zip(shares, (BUSY, STALLED, IDLE), strict=True):
        total += share
        until = min(width, round(total * width))
        text.append(mark * max(0, until - drawn), style)
        drawn = max(drawn, until)
    return text


PASS_COLUMNS = (
    ("forward", ("forward", "recompute_forward")),
    ("soma", ("soma", "recompute_soma")),
    ("gradient", ("gradient",)),
    ("backward", ("backward",)),
    ("update", ("update",)),
)


def _time_table(facts: Mapping[str, Any]) -> Table:
    table = number_table(
        "Layers: busy cycles and DRAM traffic a step",
        "\nlayer", *(f"\n{name}" for name, _ in PASS_COLUMNS), "of all\nbusy", "\nDRAM",
        "on\nchip",
    )  # fmt: skip
    steps = facts["steps"]
    sums = dict.fromkeys((name for name, _ in PASS_COLUMNS), 0)
    for layer in facts["layers"]:
        cells = []
        for name, passes in PASS_COLUMNS:
            ran = [layer["passes"][p]["busy_cycles"] for p in passes if p in layer["passes"]]
            sums[name] += sum(ran)
            cells.append(amount(sum(ran) / steps) if ran else NONE)
        kept = "".join(
            letter if tensor in layer["on_chip"] else NONE
            for tensor, letter in ON_CHIP_LETTERS.items()
        )
        moved = (layer["load_bytes"] + layer["store_bytes"]) / steps
        share = percent(layer["busy_share"], 0)
        table.add_row(layer["name"], *cells, share, byte_size(moved), kept)
    table.add_section()
    moved = (facts["dram"]["load_bytes"] + facts["dram"]["store_bytes"]) / steps
    totals = (amount(count / steps) for count in sums.values())
    table.add_row("total", *totals, percent(1.0, 0), byte_size(moved), "")
    return table


SPARSITY_COLUMNS = (
    "input_density", "forward_zero_indices", "backward_skipped_by_gradient",
    "backward_skipped_by_mask", "update_zero_indices", "update_needed",
)  # fmt: skip


def _sparsity_table(facts: Mapping[str, Any]) -> Table:
    table = number_table(
        "Layers: inputs that are set, and what sparsity leaves out",
        "\nlayer", "inputs\nset", "forward:\nreads", "backward:\nby gradient", "\nby mask",
        "update:\nreads", "update\nneeded",
    )  # fmt: skip
    for layer in facts["layers"]:
        shares = [layer[key] for key in SPARSITY_COLUMNS]
        table.add_row(layer["name"], *(NONE if s is None else percent(s) for s in shares))
    return table


def _ablation_table(facts: Mapping[str, Any]) -> Table:
    names = list(facts["energy_pj"])
    table = number_table(
        f"Without each mechanism, in multiples of {_ablations_of(facts)}",
        "\nmachine", "\ntime", *(f"{engine}\nbusy" for engine in ABLATED),
        *(f"energy\n{name}" for name in names),
    )  # fmt: skip
    for row in facts["ablations"]:
        busy = (_shown_times(row["busy_ratio"][engine]) for engine in ABLATED)
        energies = (_shown_times(row["energy_ratio"][name]) for name in names)
        table.add_row(row["name"], _shown_times(row["cycles_ratio"]), *busy, *energies)
    return table


def _ablations_of(facts: Mapping[str, Any]) -> str:
    """What was done on each machine: of an epoch one step is kept, and stands for it."""
    base = facts["ablations_base"]
    if base["steps"] != facts["steps"]:
        what = "the kept step"
    else:
        what = "the step" if base["steps"] == 1 else f"all {base['steps']:,} steps"
    if base["samples"] is not None:
        what += f" of {base['samples']:,} samples"
    return f"{what}, {base['cycles']:,} cycles"


def _show_peaks(page: _Page, facts: Mapping[str, Any]) -> None:
    """Without a mechanism a machine may also have another peak; its times are of both."""
    own = {name: facts["engines"][name]["peak_operations_per_cycle"] for name in ABLATED}

    def told(peaks: Mapping[str, int]) -> str:
        return ", ".join(f"{name} {peak:,}" for name, peak in peaks.items())

    changed = []
    for row in facts["ablations"]:
        peaks = row["peak_operations_per_cycle"]
        other = {name: peak for name, peak in peaks.items() if peak != own[name]}
        if other:
            changed.append(f"{row['name']}: {told(other)}")
    text = f"Peaks in OP/cycle: {told(own)}"
    text += f"; but {'; '.join(changed)}." if changed else "; the same without any of them."
    page.say(text, "dim")
    page.say("")


def _show_notes(page: _Page, facts: Mapping[str, Any]) -> None:
    assumed, parameters = len(facts["assumptions"]), facts["parameters"]
    every = assumed == parameters
    legend = ", ".join(f"{letter} {tensor}" for tensor, letter in ON_CHIP_LETTERS.items())
    page.say(f"On chip: {legend}; the others live in DRAM.", "dim")
    kind = "invented: no such chip is known, and all" if facts["hypothetical"] else "modelled:"
    page.say(
        f"The machine is {kind} {assumed} of its {parameters} parameters are assumptions "
        f"(grade I){'.' if every else ':'}",
        "dim",
    )
    if not every:
        page.say(_grouped([row["parameter"] for row in facts["assumptions"]]), "dim", indent=2)
    if not facts["hypothetical"]:
        page.say(
            "third party: the area of H2Learn in somebody else's model, to compare with; nothing "
            "is fitted to it.",
            "dim",
        )
    page.say(f"No time and no energy is in these numbers for {NO_TIME}.", "dim")
    peak = facts["dram"]["peak_bytes_per_second"] / 1e9
    page.say(
        "Energy has no leakage, and is a table's published numbers times counters. Its DRAM is the "
        f"table's, whatever kind has the machine's {peak:.3g} GB/s:",
        "dim",
    )
    for name, about in facts["cost_tables"].items():
        text = f"{name}: {about['title']}; DRAM {about['dram_technology']}, "
        text += f"{about['dram_pj_per_bit']:.3g} pJ a bit"
        if about["unverified"]:
            text += f"; {len(about['unverified'])} of its numbers not verified"
        if about["extrapolated"]:
            text += f"; extrapolated for {', '.join(about['extrapolated'])}"
        page.say(f"{text}.", "dim", indent=2)


def _grouped(names: Iterable[str]) -> str:
    """Dotted names, each group named once: "parts; forward: rows, columns; dram: burst_bytes."."""
    groups: dict[str, list[str]] = {}
    for name in names:
        group, _, last = name.rpartition(".")
        groups.setdefault(group, []).append(last)
    told = (
        (f"{group}: " if group else "") + ", ".join(members) for group, members in groups.items()
    )
    return "; ".join(told) + "."


def show_comparison(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Facts of several machines on the same work, side by side; ratios are to the first."""
    page = _Page(console)
    table = number_table(
        "The same work on each machine",
        "\nmachine", "time\na step", "times\nthe first", "peak used\nforward", "\nbackward",
        "\nupdate", "DRAM bus\nbusy",
    )  # fmt: skip
    first = rows[0]
    for row in rows:
        table.add_row(
            row["accelerator"], measure(row["step_seconds"], "s"),
            _shown_times(_times(row["step_seconds"], first["step_seconds"])),
            *(percent(row["engines"][e]["utilisation"]) for e in ("forward", "backward", "update")),
            percent(row["dram"]["busy_share"]),
        )  # fmt: skip
    page.table(table)
    page.table(_rate_comparison(rows))
    for name in first["energy_pj"]:
        page.table(_cost_comparison(name, rows))


def _rate_comparison(rows: Iterable[Mapping[str, Any]]) -> Table:
    """What shares of different peaks are shares of."""
    table = number_table(
        "TOP/s of dense layers: done, of the engine's peak",
        "machine", *ABLATED,
    )  # fmt: skip
    for row in rows:
        cells = []
        for name in ABLATED:
            engine = row["engines"][name]
            peak = engine["peak_operations_per_cycle"] * row["clock_hz"] / 1e12
            cells.append(f"{engine['operations_per_second'] / 1e12:.3g} of {peak:.3g}")
        table.add_row(row["accelerator"], *cells)
    return table


def _cost_comparison(name: str, rows: Iterable[Mapping[str, Any]]) -> Table:
    rows = list(rows)
    table = number_table(
        f"Energy, power and area by {name}",
        "\nmachine", "energy a step\non chip", "\nDRAM", "\ntotal", "times\nthe first",
        "mean\npower", "\narea",
    )  # fmt: skip
    first = rows[0]["energy_pj"][name]["total"] / rows[0]["steps"]
    for row in rows:
        energy, steps = row["energy_pj"][name], row["steps"]
        joules = [energy[key] * 1e-12 / steps for key in ("on_chip", "dram", "total")]
        table.add_row(
            row["accelerator"], *(measure(value, "J") for value in joules),
            _shown_times(_times(energy["total"] / steps, first)),
            measure(row["power_w"][name]["total"], "W"),
            _square_mm(row["area_um2"][name]["total"]),
        )  # fmt: skip
    return table
