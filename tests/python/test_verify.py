"""Both simulators on random machines and work; and that what compares them would find a fault."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter

import accelerator_gold
import numpy as np
import pytest
from h2learn import _core, verify_cases
from h2learn.errors import InputError
from h2learn.shapes import out_size
from h2learn.verify import (
    clocked_simulator,
    fast_simulator,
    first_difference,
    run_case,
    verify,
)
from h2learn.verify_cases import draw_case

COUNTERS = _core.counter_names()
PASSES = _core.pass_names()
FIELDS = _core.tile_fields()


def test_both_simulators_give_the_same_numbers():
    seen = []
    report = verify(300, 0, on_case=seen.append)
    assert report.mismatches == 0, report.first_mismatch
    assert [case.case for case in seen] == list(range(300))
    assert report.simulated_cycles == sum(case.simulated_cycles for case in seen) > 500_000
    assert json.loads(json.dumps(report.to_dict()))["configs"] == 300


def test_both_simulators_give_the_numbers_of_the_plain_python_one():
    for case in range(60):
        drawn = run_case(1, case, shrink=False).drawn
        gold = accelerator_gold.simulate(drawn)
        difference = first_difference(fast_simulator(drawn.machine(), drawn.core_layers()), gold)
        assert difference is None, f"case {case}: {difference}"


def test_a_case_is_drawn_from_its_seed_and_number_alone():
    cycles = []
    verify(5, 3, on_case=lambda report: cycles.append(report.simulated_cycles))
    assert [run_case(3, case).simulated_cycles for case in (4, 0)] == [cycles[4], cycles[0]]
    assert len(set(cycles)) == 5
    assert run_case(4, 0).simulated_cycles != cycles[0]


# ---- what the random cases reach


def sum_of(result, passes, *names):
    columns = [COUNTERS.index(name) for name in names]
    return int(result["counters"][:, PASSES.index(passes)][:, columns].sum())


def tiles_of(result, engine):
    names = _core.engine_names()
    return [
        dict(zip(FIELDS, line, strict=True))
        for line in result["tiles"][names.index(engine)].tolist()
    ]


def layer_features(index, layer, case, result):
    """What of the document one layer's work reaches on its machine."""
    p, g = case.parameters, layer.geometry
    planes, steps, samples = layer.inputs.shape[:3]
    positions_in, positions_out = g[1] * g[2], math.prod(out_size(g))
    group_in, group_out, taps = g[0] // g[12], g[3] // g[12], g[4] * g[5]
    fan_in, weights, v = taps * group_in, g[3] * taps * group_in, p["value_bytes"]
    backward = layer.nonzero is not None and layer.input_gradient
    update = layer.nonzero is not None and layer.weight_gradient
    below_learns = any(other.nonzero is not None for other in case.layers[:index])
    conv = (g[1:3] != (1, 1)) or taps > 1

    yield "linear layer", not conv
    yield "convolution", conv
    yield "grouped convolution", 1 < g[12] < g[0]
    yield "depthwise convolution", 1 < g[12] == g[0]
    yield "stride", max(g[6:8]) > 1
    yield "padding", max(g[8:10]) > 0
    yield "dilation that matters", (g[10] > 1 and g[4] > 1) or (g[11] > 1 and g[5] > 1)
    yield "image that is not square", g[1] != g[2]
    yield "kernel that is not square", g[4] != g[5]
    yield "several planes", planes > 1
    yield "eight planes", planes == 8
    yield "channels across words", conv and g[0] % 64 != 0 and math.prod(g[:3]) > 64
    yield "inputs of layer above are pooled or reshaped", index > 0 and g[:3] != (
        case.layers[index - 1].geometry[3], *out_size(case.layers[index - 1].geometry)
    )  # fmt: skip
    yield "no backward pass in this layer", layer.nonzero is None
    yield (
        "frozen layer below",
        layer.nonzero is None and any(other.nonzero is not None for other in case.layers[index:]),
    )
    yield (
        "no input gradient where a layer below learns",
        layer.nonzero is not None and (below_learns and not layer.input_gradient),
    )
    yield "no weight gradient", layer.nonzero is not None and not layer.weight_gradient
    yield "input gradient in layer 0", backward and index == 0
    yield "readout", not layer.neurons
    yield "layer without neurons in the middle", not layer.neurons and index < len(case.layers) - 1
    yield "neurons that need no membrane", layer.neurons and not layer.membrane
    yield "no mask", backward and layer.mask is None
    yield "mask of nothing", backward and layer.mask is not None and not layer.mask.any()
    yield "mask of everything", backward and layer.mask is not None and layer.mask.all()
    for name, bits in (("input", layer.inputs), ("gradient", layer.nonzero)):
        if bits is not None:
            yield f"no {name} set", not bits.any()
            yield f"every {name} set", bits.all()
            yield f"a single {name} set", bits.sum() == 1
            images = bits.reshape(-1, steps * samples, math.prod(bits.shape[-3:])).any(axis=(0, 2))
            yield f"some images without {name}", bool(images.any() and not images.all())

    # forward engine and soma
    cap = p["forward.psum_bytes"] // 2 // (4 * p["forward.columns"])
    most = p["forward.spikes_bytes"] // 2 // (planes * -(-math.prod(g[:3]) // 8))
    yield "forward: image in chunks", positions_out > cap
    yield "forward: block of several images by psums", most > cap // positions_out > 1
    yield "forward: block of several images by spikes", cap // positions_out > most > 1
    yield "forward: several row tiles", fan_in > p["forward.rows"] * p["forward.inputs"]
    yield "forward: several column tiles", group_out > p["forward.columns"]
    yield "forward: short table", fan_in % p["forward.inputs"] != 0
    fits = weights * v <= p["forward.weights_bytes"] // 2
    yield f"forward: weights {'fit' if fits else 'do not fit'}", True
    yield "forward: weights just fit", weights * v == p["forward.weights_bytes"] // 2
    narrow = min(group_out, p["forward.columns"])
    yield "forward: conflict of psum banks", narrow > p["forward.psum_banks"]
    deep = min(fan_in, p["forward.rows"] * p["forward.inputs"])
    yield (
        "forward: conflict of spike banks",
        -(-deep // (32 * p["forward.spikes_banks"]))
        > max(1, -(-narrow // p["forward.psum_banks"])),
    )
    bound_by_weights = (
        -(-deep * narrow // p["forward.weights_banks"]) > 2 ** p["forward.inputs"] - 1
    )
    yield (
        f"forward: build bound by {'weights' if bound_by_weights else 'entries'}",
        p["forward.tables"],
    )
    yield f"forward: {'with' if p['forward.tables'] else 'without'} tables", True
    yield "soma: bound by psum banks", p["forward.psum_banks"] < p["soma.lanes"]
    spills = layer.neurons and g[3] * positions_out * 4 > p["membrane_bytes"] // 2 and steps > 1
    yield "soma: membranes carried through DRAM", spills
    yield "soma: chunk carries membranes through DRAM", spills and positions_out > cap
    recompute = layer.nonzero is not None and layer.membrane and p["membrane"] == "recompute"
    yield "membranes recomputed", recompute

    # state: bits 1, 2, 4, 8, 16
    kept = int(result["resident"][index])
    learning = layer.nonzero is not None
    for name, bit, exists in (
        ("spikes", 1, layer.neurons),
        ("mask", 2, layer.neurons and learning),
        ("gradient at the currents", 4, learning),
        ("gradient at the spikes", 8, index + 1 < len(case.layers) and (
            case.layers[index + 1].nonzero is not None and case.layers[index + 1].input_gradient)),
        ("membrane", 16, learning and layer.neurons and layer.membrane),
    ):  # fmt: skip
        if exists:
            yield f"{name} {'on chip' if kept & bit else 'in DRAM'}", True
        else:
            assert not kept & bit

    if not learning:
        return
    # gradient unit
    yield (
        f"gradients {'compressed' if p['compressed_gradients'] else 'not compressed'} in DRAM",
        not kept & 4,
    )
    neurons, room = g[3] * positions_out, p["gradient.buffer_bytes"] // 2 // (v + 4)
    yield "gradient: image in chunks", neurons > room
    yield "gradient: block of several images", room // neurons > 1 and steps * samples > 1
    yield "gradient: carried through DRAM", spills
    yield "gradient: chunk carries through DRAM", spills and neurons > room

    if backward:
        size = p["backward.slice"]
        slices = -(-group_in // size)
        reduction = taps * group_out
        rho = min(p["backward.tile_rows"], reduction)
        by_weights = p["backward.weights_bytes"] // 2 // (v * rho * size)
        by_psums = p["backward.psum_bytes"] // 2 // (4 * size)
        j = min(slices, by_weights, by_psums)
        room = p["backward.psum_bytes"] // 2 // (4 * min(j * size, group_in))
        most = p["backward.gradients_bytes"] // 2 // (neurons * v)
        yield "backward: image in chunks", positions_in > room
        yield "backward: block of several images", min(room // positions_in, most) > 1
        yield "backward: several slices in a column tile", j > 1
        yield "backward: column tiles bound by weights", by_weights < min(slices, by_psums)
        yield "backward: column tiles bound by psums", by_psums < min(slices, by_weights)
        yield "backward: several column tiles in a group", j < slices
        yield "backward: short slice", group_in % size != 0
        yield "backward: several row tiles", reduction > p["backward.tile_rows"]
        fits = weights * v <= p["backward.weights_bytes"] // 2
        yield f"backward: weights {'fit' if fits else 'do not fit'}", True
        widest = min(size, group_in)
        banks = -(-widest // p["backward.weights_banks"])
        yield "backward: banks conflict", banks > -(-widest // p["backward.lanes"])
        yield "backward: rounds bound by lanes", banks < -(-widest // p["backward.lanes"])
        yield "backward: input sparsity off", not p["backward.input_sparsity"]
        yield (
            "backward: output sparsity off",
            not p["backward.output_sparsity"] and layer.mask is not None,
        )
        yield (
            "backward: both sparsities on",
            p["backward.input_sparsity"]
            and (p["backward.output_sparsity"] and layer.mask is not None),
        )
        items = steps * samples * positions_in * slices * g[12]
        yield "backward: fewer items than groups", items < p["backward.groups"]
        yield "backward: one group", p["backward.groups"] == 1
        yield "backward: no cycles to encode", p["backward.encode_cycles"] == 0
    if update:
        half = p["update.psum_bytes"] // 2
        stay = weights * 4 <= half
        yield f"update: accumulators {'stay' if stay else 'come and go'}", True
        yield (
            "update: several input blocks",
            not stay and fan_in > half // (4 * p["update.columns"]),
        )
        yield (
            "update: one input block, but not all columns",
            not stay and (fan_in <= half // (4 * p["update.columns"])),
        )
        image_bytes = planes * -(-math.prod(g[:3]) // 8)
        yield (
            "update: several blocks",
            p["update.spikes_bytes"] // 2 // image_bytes
            < steps * -(-samples // min(samples, p["parts"])),
        )
        yield "update: several column tiles", group_out > p["update.columns"]
        yield (
            "update: conflict of psum banks",
            min(group_out, p["update.columns"]) > p["update.psum_banks"],
        )
        reach = p["update.rows"] * p["update.inputs"]
        yield "update: conflict of spike banks", reach > 32 * p["update.spikes_banks"]
        yield f"update: {'with' if p['update.tables'] else 'without'} tables", True
        yield f"update: {'compact' if p['update.compact'] else 'not compact'}", True


def step_features(case, result):
    """What of the document the step as a whole reaches."""
    p = case.parameters
    samples = case.samples
    yield f"schedule {p['schedule']}", True
    yield f"schedule {p['schedule']} with several parts", min(p["parts"], samples) > 2
    yield (
        f"schedule {p['schedule']} with recomputation",
        sum_of(result, "recompute_forward", "tiles") > 0,
    )
    yield f"policy {p['membrane']}", any(layer.membrane for layer in case.layers)
    yield f"values of {p['value_bytes']} bytes", True
    yield "more parts than samples", p["parts"] > samples
    yield "parts of different sizes", 1 < p["parts"] < samples and samples % p["parts"] != 0
    yield "inference", all(layer.nonzero is None for layer in case.layers)
    yield "four layers", len(case.layers) == 4
    yield "one timestep", case.timesteps == 1
    yield "burst longer than a cycle", p["dram.burst_bytes"] > p["dram.bytes_per_cycle"]
    yield "burst shorter than a cycle", p["dram.burst_bytes"] < p["dram.bytes_per_cycle"]
    yield "DRAM without latency", p["dram.latency_cycles"] == 0
    yield "DRAM with latency", p["dram.latency_cycles"] > 0
    yield "a byte a cycle", p["dram.bytes_per_cycle"] == 1
    yield "DRAM without limit", p["dram.bytes_per_cycle"] == 1 << 20
    yield "no state buffer", p["state_bytes"] == 0
    for counter in (
        "idle_cycles",
        "stalled_load_cycles",
        "stalled_store_cycles",
        "building_cycles",
    ):
        for engine in _core.engine_names():
            if engine in ("soma", "gradient", "backward") and counter == "building_cycles":
                assert sum_of(result, engine, counter) == 0
            elif engine != "forward" or counter != "stalled_store_cycles":  # it stores nothing
                yield f"{engine}: {counter}", sum_of(result, engine, counter) > 0
    yield "backward: item without gradient or mask", sum_of(result, "backward", "items_empty") > 0
    yield "update: positions left out", sum_of(result, "update", "skipped_by_gradient") > 0
    update = tiles_of(result, "update")
    yield (
        "update: tile of no positions",
        p["update.compact"] and any(tile["end"] - tile["start"] == 1 for tile in update),
    )
    yield (
        "update: accumulators loaded by a later part",
        any(tile["part"] > 0 and tile["load_bytes"] > 0 for tile in update),
    )
    issued = Counter(
        (kind, engine, tile[f"{kind}_issue"])
        for engine in _core.engine_names()
        for tile in tiles_of(result, engine)
        for kind in ("load", "store")
        if tile[f"{kind}_bytes"]
    )
    at_once = Counter((kind, time) for kind, _, time in issued)
    yield (
        "two engines load at once",
        any(n > 1 for (kind, _), n in at_once.items() if kind == "load"),
    )
    yield (
        "two engines store at once",
        any(n > 1 for (kind, _), n in at_once.items() if kind == "store"),
    )
    yield (
        "a load and a store at once",
        any(("store", time) in at_once for kind, time in at_once if kind == "load"),
    )
    yield (
        "an engine loads and stores at once",
        any(("store", engine, time) in issued for kind, engine, time in issued if kind == "load"),
    )


def test_random_cases_reach_every_branch_of_the_document():
    hits: Counter[str] = Counter()
    refused = 0
    for case in range(200):
        report = run_case(0, case, shrink=False, clocked=fast_simulator)
        result = fast_simulator(report.drawn.machine(), report.drawn.core_layers())
        found = dict.fromkeys((name for name, is_so in step_features(report.drawn, result)), False)
        for name, is_so in step_features(report.drawn, result):
            found[name] = found[name] or bool(is_so)
        for index, layer in enumerate(report.drawn.layers):
            for name, is_so in layer_features(index, layer, report.drawn, result):
                found[name] = found.get(name, False) or bool(is_so)
        for name, is_so in found.items():
            hits[name] += is_so
        refused += report.refused
    assert {name for name, count in hits.items() if count == 0} == set()
    assert len(hits) > 130
    assert refused > 0  # some are too large or impossible, and were drawn again


# ---- that a fault would be found


def test_every_number_is_compared():
    drawn = run_case(0, 1, shrink=False).drawn
    machine, layers = drawn.machine(), drawn.core_layers()
    result = fast_simulator(machine, layers)
    assert first_difference(result, fast_simulator(machine, layers)) is None
    for name in ("cycles", "dram_busy_cycles"):
        assert name in first_difference({**result, name: result[name] + 1}, result)
    rng = np.random.default_rng(0)
    for name in ("tail_idle_cycles", "resident", "counters"):
        array = result[name]
        for at in range(array.size):
            wrong = array.copy()
            wrong.reshape(-1)[at] += 1
            difference = first_difference({**result, name: wrong}, result)
            label = COUNTERS[at % len(COUNTERS)] if name == "counters" else name
            assert f"{label}: fast " in difference
    for engine, tiles in enumerate(result["tiles"]):
        for column, label in enumerate(FIELDS):
            if not len(tiles):
                continue
            wrong = [tiles.copy() for tiles in result["tiles"]]
            wrong[engine][rng.integers(len(tiles)), column] += 1
            assert f": {label}: fast " in first_difference({**result, "tiles": wrong}, result)
        fewer = [tiles[:-1] if at == engine else tiles for at, tiles in enumerate(result["tiles"])]
        if len(tiles):
            assert "tiles of the" in first_difference({**result, "tiles": fewer}, result)


def off_by_one_when_compact(machine, layers):
    """Counts a table read too many where a compact update has an operation that it needs."""
    result = dict(fast_simulator(machine, layers))
    counters = result["counters"].copy()
    update = counters[:, PASSES.index("update")]
    at_fault = machine.update.compact & (update[:, COUNTERS.index("operations_needed")] > 0)
    update[:, COUNTERS.index("table_reads")] += at_fault
    return {**result, "counters": counters}


def test_a_fault_is_found_shrunk_and_shown():
    report = verify(60, 0, fast=off_by_one_when_compact)
    assert 0 < report.mismatches < 60
    assert report.mismatches == len(report.mismatched_cases)
    assert "table_reads: fast" in report.first_mismatch

    case = run_case(0, report.mismatched_cases[0], fast=off_by_one_when_compact)
    assert str(case) == report.first_mismatch
    shown: dict = {}
    exec(case.snippet, shown)  # noqa: S102
    assert shown["difference"] is None  # of the real simulators
    machine, layers = shown["machine"], shown["layers"]
    wrong = off_by_one_when_compact(machine, layers)
    difference = first_difference(wrong, clocked_simulator(machine, layers))
    assert difference == case.shrunk_difference

    # Nothing is left but what the fault needs: one position, one spike, one gradient, the switch.
    assert "layer1" not in case.snippet
    assert "timesteps=1, samples=1," in case.snippet
    assert wrong["counters"][0, PASSES.index("update"), COUNTERS.index("operations_offered")] == 1
    assert "input_gradient=False, weight_gradient=True," in case.snippet
    assert "neurons=False, membrane=False," in case.snippet
    default = verify_cases.parameters_of(_core.Machine())
    found = verify_cases.parameters_of(machine)
    assert {name for name in found if found[name] != default[name]} == {"update.compact"}


def test_shrinking_can_be_left_out_and_ends_in_time():
    found = verify(20, 0, fast=off_by_one_when_compact, shrink=False)
    assert found.mismatches
    assert "machine = " not in found.first_mismatch
    case = run_case(0, found.mismatched_cases[0], fast=off_by_one_when_compact, shrink_seconds=0)
    exec(case.snippet, shown := {})  # noqa: S102
    assert verify_cases.parameters_of(shown["machine"]) == case.drawn.parameters


def test_a_simulator_that_fails_is_a_mismatch():
    def broken(machine, layers):
        raise RuntimeError("tile 3 waits for ever")

    case = run_case(0, 0, fast=broken, shrink=False)
    assert case.difference == "fast fails: RuntimeError: tile 3 waits for ever"

    def picky(machine, layers):
        raise ValueError("too large")

    case = run_case(0, 0, fast=picky, shrink=False)
    assert case.difference == "fast fails: ValueError: too large"  # the other one took it


def test_what_both_refuse_is_drawn_again():
    def small_only(machine, layers):
        if len(layers) > 1:
            raise ValueError("one layer, please")
        return fast_simulator(machine, layers)

    plain = [run_case(0, case, shrink=False).refused for case in range(10)]
    picky = [
        run_case(0, case, fast=small_only, clocked=small_only, shrink=False) for case in range(10)
    ]
    assert all(len(case.drawn.layers) == 1 and case.difference is None for case in picky)
    assert sum(case.refused for case in picky) > sum(plain)

    def nothing(machine, layers):
        raise ValueError("no")

    with pytest.raises(RuntimeError, match="none of which can run"):
        run_case(0, 0, fast=nothing, clocked=nothing)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0), "configs must be an integer of at least 1, got 0"),
        ((1, -1), "seed must be an integer of at least 0, got -1"),
        ((2.5, 0), "configs must be an integer of at least 1, got 2.5"),
        ((1, True), "seed must be an integer of at least 0, got True"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        verify(*arguments)


def test_it_needs_no_torch():
    program = "import sys, h2learn.verify as v; v.verify(1); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_drawn_machines_have_every_parameter():
    rng = np.random.default_rng(0)
    default = verify_cases.parameters_of(_core.Machine())
    changed = set()
    for _ in range(50):
        parameters = draw_case(rng).parameters
        assert list(parameters) == list(default)
        changed |= {name for name in default if parameters[name] != default[name]}
    assert changed == set(default)
