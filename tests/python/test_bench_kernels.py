"""bench/kernels.py on layers small enough for a test run.

What makes its ratios worth printing is tested here: every way of a kernel computes the same as
float64, the rows say who was compared with whom, and a wrong result is not passed over.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable

import ceiling
import kernel_cases
import kernel_tables
import kernels
import pytest
import results
import roofline
import targets
import torch
from ceiling import Ceiling, NoCeilingError
from h2learn import _core, ops
from h2learn.shapes import GEOMETRY_FIELDS
from kernel_cases import LAYERS, NEURONS, SIZES, VARIANTS, Case, NeuronCase
from measure import Timing

CONV = ops.geometry(5, (7, 6), 9, (3, 3), padding=(1, 1))
TINY = {
    "images": Case("images", CONV, 16),
    "counts": Case("counts", ops.geometry(5, (4, 6), 9, (3, 3), padding=(1, 1)), 16, 8, "counts"),
    "vectors": Case("vectors", ops.geometry(70, (1, 1), 9), 80),
    "analog": Case("analog", CONV, 4, 1, "analog"),
    "groups": Case(
        "groups",
        ops.geometry(6, (9, 8), 12, (3, 2), (2, 1), padding=(1, 2), dilation=(1, 3), groups=3),
        16,
    ),
    "depthwise": Case("depthwise", ops.geometry(5, (7, 6), 5, (3, 3), groups=5), 16),
}
ROOF = Ceiling(1e12, 4e11, 2e11, 1e10, 2e10)
RATES = [0.05, 0.1, 0.5]
GOALS = [dataclasses.asdict(goal) for goal in kernels.GOALS if goal.title]


# ---- ways


@pytest.mark.parametrize("kernel", kernel_cases.SYNAPSE_KERNELS)
@pytest.mark.parametrize("case", TINY)
def test_every_way_computes_what_float64_does(kernel: str, case: str) -> None:
    if (kernel, case) == ("backward", "analog"):
        pytest.skip("nobody asks for the gradient at an image")
    names = set()
    for way in kernel_cases.KERNELS[kernel](TINY[case], RATES, True):
        names.add(way.name)
        limit = 2e-2 if way.name == "torch-bf16" else kernels.DEFAULT_ERROR_TOLERANCE
        assert 0 < way.error(way.run()) < limit, way.name
        assert way.read_bytes > 0
        assert way.written_bytes > 0
    expected = {"h2learn-auto", "h2learn-dense", "torch-float32", "torch-bf16"}
    expected |= {"h2learn-event", "h2learn-fastest"} if case != "analog" else set()
    if (kernel, case) == ("forward", "vectors"):
        expected |= {"torch-csr", "torch-csr-made"}
    expected |= {"h2learn-digits"} if kernel == "forward" and case != "analog" else set()
    expected |= {"h2learn-sampled"} if kernel == "backward" and case != "counts" else set()
    assert names == expected


def test_few_spikes_of_linear_layers_stand_beside_none() -> None:
    def silent(case: str, rates: list[float]) -> list[kernel_cases.Way]:
        ways = kernel_cases.forward(TINY[case], rates, False)
        return [way for way in ways if way.name == kernel_tables.SILENT_WAY]

    (way,) = silent("vectors", [0.01, 0.1])
    found = way.run()
    assert found.shape == (80, 1, 9)
    assert way.error(found) == 0
    assert way.rate is None
    found[3, 0, 2] = -1.0
    assert way.error(found) == 1  # nothing else is right
    assert silent("vectors", RATES) == []
    assert silent("images", [0.01]) == silent("analog", [0.01]) == []


@pytest.mark.parametrize("case", ["images", "groups"])
def test_an_error_is_seen(case: str) -> None:
    for kernel in kernel_cases.SYNAPSE_KERNELS:
        way = next(iter(kernel_cases.KERNELS[kernel](TINY[case], [0.3], False)))
        assert way.error(1.01 * way.run()) == pytest.approx(0.01, rel=0.01)


def test_a_convolution_and_its_neurons_give_the_same_spikes() -> None:
    ways = list(kernel_cases.conv_neuron(TINY["images"], RATES, True))
    assert [way.rate for way in ways if way.name == "h2learn-auto"] == RATES
    for way in ways:
        assert way.error(way.run()) < (0.05 if way.name == "torch-bf16" else 0.01)
    words = next(way for way in ways if way.rate == RATES[-1]).run()
    assert ways[0].error(~words) > 0.3


def test_neurons_agree_with_float64_forward_and_backward() -> None:
    ways = list(kernel_cases.neuron(NeuronCase("n", 8, 3, 100), [], False))
    assert [way.name for way in ways] == [
        "h2learn-auto", "h2learn-in-place", "torch-float32", "torch-float32-written"
    ]  # fmt: skip
    for way in ways:
        assert way.error(way.run()) < 1e-6
    words, gradient = ways[0].run()
    assert 0.05 < ops.popcount(words) / gradient.numel() < 0.5
    assert ways[0].error((words ^ 1, gradient)) == math.inf


def test_layers_of_workload_c_are_those_of_the_network() -> None:
    assert [case.inputs for case in LAYERS.values()] == [
        "analog", "spikes", "counts", "counts", "spikes", "spikes", "spikes", "spikes"
    ]  # fmt: skip
    assert LAYERS["c:conv2"].shape[:4] == (128, 32, 32, 256)
    assert LAYERS["c:linear1"].shape[:4] == (32768, 1, 1, 1024)
    assert {case.images for case in LAYERS.values()} == {8, 64}
    assert LAYERS["c:conv2"].flops == 2 * 64 * 32 * 32 * 9 * 128 * 256


def test_variants_differ_from_the_base_in_what_they_are_named_after() -> None:
    base = VARIANTS[kernel_cases.BASE]
    assert base.shape == ops.geometry(64, (16, 16), 64, (3, 3), padding=(1, 1))
    assert base.flops == 2 * 64 * 16 * 16 * 9 * 64 * 64
    assert {case.images for case in VARIANTS.values()} == {64}
    assert {n: c.inputs for n, c in VARIANTS.items() if c.inputs != "spikes"} == {
        "conv:analog": "analog", "conv:counts": "counts"
    }  # fmt: skip
    fields = {
        name: {
            field: value
            for field, value, of_base in zip(GEOMETRY_FIELDS, case.shape, base.shape, strict=True)
            if value != of_base
        }
        for name, case in VARIANTS.items()
    }
    assert fields["conv:depthwise"] == {"groups": 64}
    assert fields["conv:stride2"] == {"stride_height": 2, "stride_width": 2}
    assert fields["conv:64to10"] == {"out_channels": 10}
    assert fields["conv:counts"] == {}
    assert VARIANTS["conv:depthwise"].flops * 64 == VARIANTS["conv:groups4"].flops * 4 == base.flops
    resized = {n for n, c in VARIANTS.items() if ops.out_size(c.shape) != ops.out_size(base.shape)}
    assert resized == {"conv:unpadded", "conv:stride2", "conv:odd"}


@pytest.mark.parametrize("case", ["images", "counts", "vectors"])
def test_inputs_have_the_rate_asked_for(case: str) -> None:
    inputs = kernel_cases.make_inputs(TINY[case], 0.3)
    assert inputs.dense().mean() == pytest.approx(0.3, abs=0.03)
    assert inputs.density == pytest.approx(1 - 0.7**4 if case == "counts" else 0.3, abs=0.05)


# ---- the plan


def options(*arguments: str):
    return kernels._parse(list(arguments))


def test_all_is_every_combination(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = options("--all", "--threads", "1,2")
    monkeypatch.setattr(kernels, "DIGITS_ONLY", ())  # what repeats another is left out even so
    jobs = [(t, *vars(j).values()) for t in chosen.targets for j in kernels.plan(chosen, t)]
    cases = sum(len(kernel_cases.cases_of(kernel)) for kernel in kernel_cases.KERNELS)
    assert len(jobs) == len(kernels.TARGETS) * 2 * cases
    assert all(job[-2:] == ([0.01, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5], None) for job in jobs)


def test_variants_are_measured_once_and_not_by_quick() -> None:
    chosen = options("--threads", "1,2")
    jobs = [
        (target, job)
        for target in chosen.targets
        for job in kernels.plan(chosen, target)
        if job.case in VARIANTS
    ]
    assert {target for target, _ in jobs} == {kernels.TARGETS[-1]}
    assert {(job.threads, *job.rates, job.ways) for _, job in jobs} == {
        (2, 0.15, kernels.VARIANT_WAYS)
    }
    assert len(jobs) == 3 * len(VARIANTS) - 1  # nobody asks for the gradient at an image
    quick = kernels.plan(options("--quick"), kernels.TARGETS[-1])
    assert not any(job.case in VARIANTS for job in quick)
    (job,) = kernels.plan(
        options("--cases", "conv:odd", "--rates", "10", "--kernels", "forward"), kernels.TARGETS[-1]
    )
    assert job.rates == [0.1]


def test_each_goal_is_measured_by_default_and_by_quick() -> None:
    for arguments in ((), ("--quick",)):
        jobs = list(kernels.plan(options(*arguments), kernels.TARGETS[-1]))
        for goal in kernels.GOALS:
            if arguments and goal.cases == tuple(VARIANTS):
                continue
            fitting = [
                job
                for job in jobs
                if job.kernel == goal.kernel
                and (goal.cases is None or job.case in goal.cases)
                and any(
                    kernels.goal_of(job.kernel, job.case, goal.rival, rate) == goal.ratio
                    for rate in job.rates
                )
            ]
            assert fitting, goal


def test_goals_are_those_of_the_sizes_and_rates_they_name() -> None:
    (size, *_), layer = SIZES, "c:conv3"
    assert kernels.goal_of("forward", size, "torch-float32", 0.01) == 14
    assert kernels.goal_of("forward", size, "torch-float32", 0.05) is None
    assert kernels.goal_of("forward", size, "torch-float32", 0.3) == 7
    assert kernels.goal_of("forward", size, "torch-float32", 0.5) is None
    assert kernels.goal_of("forward", layer, "torch-float32", 0.1) is None
    assert kernels.goal_of("forward", layer, "h2learn-event", 0.1) == pytest.approx(1 / 1.15)
    assert kernels.goal_of("neuron", "8x8x262144", "ceiling", None) == 0.85
    assert kernels.goal_of("neuron", "8x1x4096", "ceiling", None) is None


def test_torch_is_held_to_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "is_intel", lambda: True)
    assert targets.environment("avx512") == {"H2LEARN_TARGET": "avx512"}
    assert targets.environment("avx2")["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert "MKL_CBWR" not in targets.environment("baseline")
    monkeypatch.setattr(targets, "is_intel", lambda: False)
    assert targets.environment("baseline")["MKL_CBWR"] == "COMPATIBLE"


# ---- rows


def measured(way: str, ms: float, rate: float | None = None, **changes) -> dict:
    return {
        "kernel": "forward", "case": next(iter(SIZES)), "rate": rate, "target": "avx2",
        "threads": 1, "way": way, "detail": "", "ms": ms, "quartiles_ms": (ms, ms),
        "error": 1e-7, "flops": 2e9, "macs": 1e9, "read_bytes": 1e6, "written_bytes": 1e6,
        "nonzero": 0.1 if rate is None else rate, "needed": 1.0, **changes,
    }  # fmt: skip


def test_rows_compare_auto_with_the_fastest_of_each_rival() -> None:
    rows = kernels.rows_of(
        [
            measured("h2learn-auto", 1.0, 0.1),
            measured("h2learn-auto", 4.0, 0.3),
            measured("h2learn-event", 2.0, 0.1),
            measured("h2learn-event", 2.0, 0.3),
            measured("h2learn-dense", 3.0),
            measured("torch-float32", 9.0, detail="channels-first"),
            measured("torch-float32", 8.0, detail="channels-last"),
            measured("torch-csr", 5.0, 0.1),
            measured("torch-float32", 1.0, threads=2),
        ],
        {("avx2", 1): ROOF},
    )
    by = {(row["rate"], row["rival"]): row for row in rows}
    assert len(by) == len(rows)
    assert by[0.1, "torch-float32"]["ratio"] == 8.0
    assert by[0.1, "torch-float32"]["rival_detail"] == "channels-last"
    assert by[0.1, "torch-float32"]["goal"] == 7.0
    assert by[0.1, "torch-float32"]["most_ratio"] == 8.0  # an addition reads 4 of 4e11 bytes/s
    assert by[0.3, "torch-float32"]["most_ratio"] == 4.0  # so many take longer than multiplying
    assert by[0.1, "torch-csr"]["ratio"] == 5.0
    assert (0.3, "torch-csr") not in by
    assert by[0.3, "h2learn-event"]["ratio"] == 0.5
    assert by[0.1, "h2learn-dense"]["ratio"] == 3.0
    assert by[0.1, "ceiling"]["ratio"] == pytest.approx(2.0)  # 2 GFLOP at 1 TFLOP/s
    assert {row["threads"] for row in rows} == {1}
    ((fast, _), (slow, worst)) = kernel_tables.auto_losses(rows)
    assert (fast, slow) == (0.5, 2.0)
    assert worst["rival"] == "h2learn-event"
    report = {"rows": rows, "ceilings": [], "goals": GOALS, "variants": []}
    shown = {table.title: table for table in kernel_tables.tables(report)}
    (auto,) = [table for title, table in shown.items() if "auto" in title]
    assert auto.rows == [["forward", "avx2", "1", "0", "1 of 2", "2.00", f"{worst['case']} at 30 %",
                          "event"]]  # fmt: skip
    (goals,) = [table for title, table in shown.items() if title.startswith("Goals")]
    lines = {(line[0], line[1]): line[3:] for line in goals.rows}
    assert lines["forward, 10 to 30 %", "torch-float32"][:6] == [
        "auto", "avx2", "1", "no", "1 of 2", "2.00"
    ]  # fmt: skip
    assert lines["forward, 10 to 30 %", "torch-float32"][6] == f"{worst['case']} at 30 %"
    assert lines["forward, 10 to 30 %", kernels.INT8][3] == "n/a"  # ROOF multiplies no bytes
    assert not any(work.startswith("neurons") for work, _ in lines)  # not measured


def test_what_auto_seems_to_lose_is_measured_again_and_that_counts() -> None:
    rows = [
        measured("h2learn-auto", 4.0, 0.1),
        measured("h2learn-auto", 4.0, 0.3),
        measured("h2learn-event", 2.0, 0.1),
        measured("h2learn-event", 3.6, 0.3),
        measured("h2learn-dense", 5.0),
        measured("torch-float32", 9.0),
    ]
    assert list(kernels.lost_by_auto(rows)) == [(0.1, [0, 2, 4])]
    assert list(kernels.lost_by_auto([rows[0], rows[5]])) == []
    for row, ms in zip((rows[0], rows[2], rows[4]), (3.0, 2.9, 6.0), strict=True):
        row["again_ms"] = {"0.1": ms}
    compared = kernels.rows_of(rows, {})
    losses = {row["rate"]: loss for loss, row in kernel_tables.auto_losses(compared)}
    assert losses == {0.1: pytest.approx(3.0 / 2.9), 0.3: pytest.approx(4.0 / 3.6)}
    report = {"rows": compared, "ceilings": [], "goals": GOALS, "variants": []}
    auto = next(table for table in kernel_tables.tables(report) if "auto" in table.title)
    assert auto.rows[0][3:5] == ["1", "0 of 2"]
    assert {row["ratio"] for row in compared if row["rival"] == "torch-float32"} == {9.0 / 4.0}


def test_a_job_measures_again_what_auto_seems_to_lose(monkeypatch) -> None:
    turns = []

    def timed(steps: dict, rounds: int) -> dict:
        turns.append((len(steps), rounds))
        slow = 9.0 if len(turns) == 1 else 1.5  # `auto` is the first
        return {name: Timing(slow if i == 0 else 2.0, (0.0, 0.0)) for i, name in enumerate(steps)}

    monkeypatch.setattr(kernels, "interleave", timed)
    ways = ("h2learn-auto", "h2learn-event", "h2learn-dense", "torch-float32")
    job = kernels.Job("forward", next(iter(SIZES)), 1, [0.1], ways)
    rows = kernels.measure_job(job, _core.active_target(), 2)
    assert turns == [(len(rows), 2), (3, 6)]
    again = {row["way"]: row["again_ms"] for row in rows if row["again_ms"]}
    assert again == {
        "h2learn-auto": {"0.1": 1.5}, "h2learn-event": {"0.1": 2.0}, "h2learn-dense": {"0.1": 2.0}
    }  # fmt: skip


def test_kernels_asked_for_by_name_stand_beside_torch_and_the_ceilings() -> None:
    rows = kernels.rows_of(
        [
            measured("h2learn-auto", 4.0, 0.1),
            measured("h2learn-digits", 2.0),
            measured("h2learn-dense", 8.0),
            measured("torch-float32", 16.0),
            measured("torch-csr", 5.0, 0.1),
        ],
        {("avx2", 1): dataclasses.replace(ROOF, int8_ops=6e12)},
    )
    by = {(row["h2learn_kernel"], row["rival"]): row for row in rows}
    digits = {rival for kernel, rival in by if kernel == "digits"}
    assert digits == {"torch-float32", "ceiling", kernels.INT8}
    assert by["digits", "torch-float32"]["ratio"] == 8.0
    assert by["digits", kernels.INT8]["ratio"] == pytest.approx(0.5)  # 3 * 2 GOP at 6 TOP/s
    assert by["auto", "h2learn-digits"]["ratio"] == 0.5
    report = {"rows": rows, "ceilings": [], "goals": GOALS, "variants": []}
    shown = kernel_tables.tables(report)
    (goals,) = [table for table in shown if table.title.startswith("Goals")]
    of_digits = {(line[0], line[1]): line[6] for line in goals.rows if line[3] == "digits"}
    assert of_digits["forward, 10 to 30 %", "torch-float32"] == "yes"
    assert of_digits["forward, 10 to 30 %", kernels.INT8] == "no"
    most = {(line[3], line[1]): line[12] for line in goals.rows if line[0] == "forward, 10 to 30 %"}
    assert most["auto", "torch-float32"] == "16.0"  # 0.1 of 1e9 additions at 1e11 a second: 1 ms
    assert most["digits", kernels.INT8] == "-"


def test_a_goal_says_what_additions_alone_would_reach() -> None:
    events = [
        measured("h2learn-event", 2.0 + 20.0 * rate, rate) for rate in (0.01, 0.1, 0.2, 0.3, 0.5)
    ]
    chosen = [measured("h2learn-auto", 2.0 + 20.0 * rate, rate) for rate in (0.01, 0.1, 0.2, 0.3)]
    measurements = [*events, *chosen, measured("torch-float32", 12.0)]
    rows = kernels.rows_of(measurements, {})

    def alone(rows: list[dict], work: str = "forward, 10 to 30 %") -> str:
        report = {"rows": rows, "ceilings": [], "goals": GOALS, "variants": [],
                  "measurements": measurements}  # fmt: skip
        goals = next(t for t in kernel_tables.tables(report) if t.title.startswith("Goals"))
        (line,) = [line for line in goals.rows if line[0] == work and line[3] == "auto"]
        return line[goals.columns.index("of event's additions")]

    assert alone(rows) == "3.0"  # 12 ms over the 4 of 20 % of 20
    assert alone(rows, "forward, 1 %") == "-"  # few spikes are walked through
    measurements.append(measured(kernel_tables.SILENT_WAY, 2.15))
    assert alone(rows, "forward, 1 %") == "240.0"  # 12 ms over the 0.05 that 1 % adds
    assert {row["rival"] for row in kernels.rows_of(measurements, {})} == {
        "torch-float32",
        *kernels.CHOICES[:1],
    }
    measurements[-1]["ms"] = 2.3
    assert alone(rows, "forward, 1 %") == "-"  # noise
    unfitted = [row | {"case": list(SIZES)[1]} for row in rows]
    assert alone([*rows, *unfitted]) == "-"


def test_the_time_of_events_is_additions_and_the_rest() -> None:
    rows = [measured("h2learn-event", 2.0 + 20.0 * rate, rate) for rate in (0.05, 0.1, 0.15, 0.5)]
    rows.append(measured("h2learn-event", 0.1, 0.01))  # of another way
    report = {
        "rows": [], "goals": [], "variants": [],
        "measurements": [*rows, measured("torch-float32", 10)],
        "ceilings": [{"target": "avx2", "threads": 1, **ROOF.as_dict()}],
    }  # fmt: skip
    (line,) = next(
        table.rows for table in kernel_tables.tables(report) if table.title.startswith("Events")
    )
    assert line[:6] == ["forward", rows[0]["case"], "avx2", "1", "15 %", "5.00"]
    assert line[6] == "40%"  # 2 of 5 ms
    assert line[7:10] == ["200", "400", "50%"]  # 4e9 bytes in 20 ms at a density of 1
    assert line[10:] == ["2.00", "3.33"]  # 10 ms over 5, and over 3


@pytest.mark.parametrize(
    ("rates", "targets", "rivals", "slope"),
    [
        ([0.01, 0.1, 0.5], ["avx2"], ["torch-float32"], 9.0),
        ([0.1, 0.2, 0.5], ["baseline"], ["torch-float32"], 9.0),
        ([0.1, 0.2, 0.5], ["avx2"], ["torch-bf16"], 9.0),
        ([0.1, 0.2, 0.5], ["avx2"], ["torch-float32"], -1.0),
    ],
    ids=["few rates", "no ceiling", "no rival", "noise"],
)
def test_events_that_cannot_be_split_are_left_out(rates, targets, rivals, slope) -> None:
    rows = [measured("h2learn-event", 2.0 + slope * rate, rate) for rate in rates]
    report = {
        "rows": [], "goals": [], "variants": [],
        "measurements": [*rows, *(measured(rival, 10) for rival in rivals)],
        "ceilings": [{"target": target, "threads": 1, **ROOF.as_dict()} for target in targets],
    }  # fmt: skip
    assert not any(table.title.startswith("Events") for table in kernel_tables.tables(report))


def test_a_variant_stands_beside_torch_and_the_base() -> None:
    case = {"case": "conv:1x1", "flops": 4e9}
    rows = kernels.rows_of(
        [
            measured("h2learn-auto", 2.0, 0.15, **case),
            measured("torch-float32", 4.0, **case),
            measured("torch-float32", 1.0, **case, detail="channels-last"),
            measured("h2learn-base", 4.0, 0.15, case="conv:1x1", flops=32e9),
            measured("h2learn-auto", 1.0, **case | {"case": "conv:analog"}),
            measured("torch-float32", 3.0, **case | {"case": "conv:analog"}),
            measured("h2learn-base", 4.0, case="conv:analog", flops=32e9),
        ],
        {},
    )
    report = {"rows": rows, "ceilings": [], "goals": GOALS, "variants": list(VARIANTS)}
    goals, variants = kernel_tables.tables(report)  # they are in no other table
    assert variants.title == "Layers of every kind, avx2, 1 thread"
    assert variants.rows == [
        ["forward", "conv:1x1", "15 %", "2.00", "1.00", "0.50", "1000.0", "0.25"],
        ["forward", "conv:analog", "any", "1.00", "3.00", "3.00", "2000.0", "0.50"],
    ]
    (goal,) = goals.rows
    assert goal[0] == "layers of every kind, forward"
    assert goal[2:9] == [">= 1", "auto", "avx2", "1", "no", "1 of 2", "0.50"]
    assert goal[9] == "conv:1x1 at 15 %"


@pytest.mark.parametrize("name", ["conv:1to64", "conv:analog"])
def test_the_base_is_measured_in_turns_with_a_variant(name: str) -> None:
    job = kernels.Job("forward", name, 1, [0.15], kernels.VARIANT_WAYS)
    rows = kernels.measure_job(job, _core.active_target(), 1)
    assert {row["way"] for row in rows} == set(kernels.VARIANT_WAYS)
    assert kernels.wrong(rows) == []
    base, variant = VARIANTS[kernel_cases.BASE], VARIANTS[name]
    for row in rows:
        assert row["flops"] == (base if row["way"] == "h2learn-base" else variant).flops
    report = {"rows": kernels.rows_of(rows, {}), "ceilings": [], "goals": [],
              "variants": list(VARIANTS)}  # fmt: skip
    ((line,),) = (table.rows for table in kernel_tables.tables(report))
    assert line[:3] == ["forward", name, "any" if name == "conv:analog" else "15 %"]
    assert all(float(cell) > 0 for cell in line[3:])


def test_what_a_target_shares_with_the_best_is_measured_once(monkeypatch) -> None:
    monkeypatch.setattr(kernels, "TARGETS", ["baseline", "avx2", "avx512", "avx512vnni", "amx"])
    chosen = options("--all", "--targets", kernels.TARGETS[0])
    every = set(kernel_cases.KERNELS)
    for target, expected in (
        ("avx2", every), ("amx", every), ("avx512", {"forward", "conv_neuron"})
    ):  # fmt: skip
        assert {job.kernel for job in kernels.plan(chosen, target)} == expected
    ways = list(kernel_cases.forward(TINY["vectors"], RATES, False))
    names = {target: {w.name for w in ways if kernels._is_new(target, w)} for target in
             ("avx512", "amx")}  # fmt: skip
    assert names["avx512"] == {"h2learn-digits", "torch-float32"}
    assert names["amx"] == {way.name for way in ways}


def test_the_share_of_bandwidth_is_that_of_the_kernels_alone() -> None:
    (case,) = (name for name, neurons in NEURONS.items() if neurons.from_memory)
    changes = {"kernel": "neuron", "case": case, "flops": 0.0}
    names = {"h2learn-auto": 9.0, "h2learn-in-place": 0.25, "torch-float32": 18.0}
    rows = kernels.rows_of(
        [measured(name, ms, **changes) for name, ms in names.items()], {("avx2", 1): ROOF}
    )
    by = {row["rival"]: row for row in rows}
    assert by["torch-float32"]["ratio"] == 2.0
    assert by["ceiling"]["ratio"] == pytest.approx(0.4)  # 2 MB copied at 20 GB/s in 0.25 ms
    assert by["ceiling"]["goal"] == 0.85
    assert by["torch-float32"]["most_ratio"] == pytest.approx(180)


def test_a_roof_is_the_slower_of_arithmetic_and_memory() -> None:
    assert ROOF.roof_ms(1e9, 1e3, 1e3) == pytest.approx(1.0)
    assert ROOF.roof_ms(0, 4e7, 0) == pytest.approx(4.0)  # read at 10 GB/s
    assert ROOF.roof_ms(0, 4e7, 4e7) == pytest.approx(4.0)  # both copied at 20 GB/s
    assert ROOF.roof_ms(0, 4e7, 1e7) == pytest.approx(1.0 + 3.0)
    assert ROOF.int8_roof_ms(1e9, 1e3, 1e3) is None
    bytewise = dataclasses.replace(ROOF, int8_ops=4e12)
    assert bytewise.int8_roof_ms(1e9, 1e3, 1e3) == pytest.approx(0.75)
    assert ceiling.highest(ROOF, bytewise) == bytewise
    assert ceiling.highest(ROOF, ROOF) == ROOF


def test_a_wrong_result_is_named() -> None:
    rows = [
        measured("h2learn-auto", 1.0, 0.1, error=2e-5),
        measured("h2learn-event", 1.0, 0.1, error=math.nan),
        measured("h2learn-dense", 1.0, error=1e-6),
        measured("torch-bf16", 1.0, error=1e-2),
        measured("h2learn-auto", 1.0, 0.1, kernel="conv_neuron", error=5e-4),
    ]
    assert kernels.wrong(rows) == rows[:2]


# ---- the ceiling


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_ceilings_are_measured_on_every_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    for target in kernels.TARGETS:
        figures = ceiling.measure_ceiling(target, 2, seconds=0.001).as_dict()
        assert (figures.pop("int8_ops") is not None) == (target in targets.DIGITS_ONLY)
        assert all(1e7 < figure < 1e14 for figure in figures.values()), figures


def test_without_a_compiler_there_is_no_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NoCeilingError, match="no-such-compiler"):
        ceiling.measure_ceiling("avx2", 1)


# ---- the command


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the command writes about one small layer on the slowest target."""
    file = tmp_path_factory.mktemp("kernels") / "new" / "kernels.json"
    status = kernels.main(
        ["--all", "--cases", "c:linear3,8x1x4096", "--rates", "10,50", "--threads", "1",
         "--rounds", "1", "--targets", "baseline", "--ceiling-seconds", "0.001",
         "--json", str(file)]
    )  # fmt: skip
    assert status == 0
    return json.loads(file.read_text())


def test_the_command_writes_its_rows(report: dict) -> None:
    stable = {"kernel", "case", "target", "threads", "rival", "rival_ms", "h2learn_ms", "ratio"}
    stable |= {"goal", "error"}
    assert all(stable <= set(row) for row in report["rows"])
    assert {row["kernel"] for row in report["rows"]} == {*kernel_cases.SYNAPSE_KERNELS, "neuron"}
    assert {row["target"] for row in report["rows"]} == {"baseline"}
    rivals = {row["rival"] for row in report["rows"] if row["kernel"] == "forward"}
    assert rivals >= {"torch-float32", "torch-csr", "h2learn-event", "h2learn-dense"}
    assert "torch-bf16" not in rivals  # emulated there, minutes long
    assert all(row["ratio"] == row["rival_ms"] / row["h2learn_ms"] for row in report["rows"])
    assert report["held"]["baseline"]["ONEDNN_MAX_CPU_ISA"] == "SSE41"


def test_results_have_a_section_for_it(report: dict, tmp_path, monkeypatch) -> None:
    file, page = tmp_path / "kernels.json", tmp_path / "RESULTS.md"
    file.write_text(json.dumps(report))
    page.write_text("before\n<!-- kernels -->\nold\n<!-- /kernels -->\nafter\n")
    monkeypatch.setattr(results, "RESULTS", page)
    assert results.main([str(file)]) == 0
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| c:linear3 | auto | torch-float32 |" in text
    assert "| c:linear3 | sampled | torch-float32 |" in text
    assert "python bench/kernels.py --all" in text


def test_the_roofline_is_drawn(report: dict, tmp_path, capsys) -> None:
    file = tmp_path / "kernels.json"
    if not report["ceilings"]:
        pytest.skip("no C++ compiler")
    variants = [row | {"case": "conv:1x1"} for row in report["measurements"]]
    file.write_text(json.dumps(report | {"measurements": report["measurements"] + variants}))
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    assert roofline.main([str(file), str(first)]) == 0
    assert roofline.main([str(file), str(second)]) == 0
    text = first.read_text()
    assert text == second.read_text()
    assert "c:linear3" in text
    assert "conv:1x1" not in text
    assert "h2learn, 10 % not zero" in text
    assert roofline.main([str(file), str(tmp_path / "a.txt")]) == 2
    assert "a.txt" in capsys.readouterr().err
    assert roofline.main([str(file), str(first), "--target", "sve"]) == 2
    assert "no ceiling of target sve" in capsys.readouterr().err


def test_nothing_to_measure_is_said(capsys) -> None:
    arguments = ["--quick", "--cases", "c:conv3", "--kernels", "forward"]
    assert kernels.main(arguments) == 2
    assert "--all" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--cases", "c:conv9"], ["--rates", "101"], ["--targets", "scalar"], ["--rounds", "0"],
     ["--kernels", "lut"]],
)  # fmt: skip
def test_a_wrong_argument_ends_with_status_2(arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as error:
        kernels.main(arguments)
    assert error.value.code == 2
    assert arguments[1] in capsys.readouterr().err


def test_a_worker_of_another_target_is_refused() -> None:
    others = [target for target in kernels.TARGETS if target != _core.active_target()]
    if not others:
        pytest.skip("one target only")
    with pytest.raises(RuntimeError, match=f"asked for {others[0]}"):
        kernels.measure_target(others[0], options("--quick"))


def test_a_job_is_timed_in_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernel_cases.NEURONS, "small", NeuronCase("small", 4, 2, 64))
    seen: list[int] = []

    def interleave(steps: dict[str, Callable], rounds: int) -> dict:
        seen.append(torch.get_num_threads())
        return real(steps, rounds)

    real = kernels.interleave
    monkeypatch.setattr(kernels, "interleave", interleave)
    rows = kernels.measure_job(kernels.Job("neuron", "small", 2, [0.1]), "avx2", 1)
    assert seen == [2]
    assert {row["threads"] for row in rows} == {2}
    assert "small" in NEURONS
