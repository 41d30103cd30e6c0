"""What must hold of every simulation, whatever the machine and the work.

docs/microarchitecture-properties.md says which of these have exceptions; each exception has a test
here that shows it.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from h2learn import _core
from h2learn.shapes import core_geometry, geometry, out_size
from h2learn.verify import first_difference
from h2learn.verify_cases import (
    Case,
    CaseLayer,
    draw_case,
    parameters_of,
    roughly_cycles,
)
from hypothesis import given, settings
from hypothesis import strategies as st

ENGINES = _core.engine_names()
PASSES = _core.pass_names()
COUNTERS = _core.counter_names()
FIELDS = _core.tile_fields()
ENGINE_OF = [ENGINES.index(name.removeprefix("recompute_")) for name in PASSES]
TIMED = [
    "run_cycles",
    "building_cycles",
    "stalled_load_cycles",
    "stalled_store_cycles",
    "idle_cycles",
]
DEFAULTS = parameters_of(_core.Machine())

seeds = st.integers(0, 2**32 - 1)


def simulate(case):
    return _core.simulate(case.machine(), case.core_layers())


def cycles(case, **changes):
    return simulate(case.with_parameters(**changes))["cycles"]


def case_of(seed):
    """A random case that runs, and its result."""
    rng = np.random.default_rng(seed)
    while True:
        case = draw_case(rng)
        if roughly_cycles(case) < 100_000:
            try:
                return case, simulate(case)
            except ValueError:
                continue


def counter(result, name, passes=None, layer=None):
    """A counter, summed over the layers and passes that are not named."""
    chosen = result["counters"][..., COUNTERS.index(name)]
    if passes is not None:
        chosen = chosen[:, [PASSES.index(passes)]]
    if layer is not None:
        chosen = chosen[[layer]]
    return int(chosen.sum())


def tiles(result, engine):
    """Columns of an engine's tiles by name."""
    array = result["tiles"][ENGINES.index(engine)]
    return dict(zip(FIELDS, array.T, strict=True))


def dense(*size, **options):
    """A layer of ones: linear for two sizes, else `geometry`'s arguments."""
    return patterned(lambda shape: np.ones(shape, bool), *size, **options)


def patterned(
    bits, inputs, outputs, *, steps=1, samples=1, planes=1, side=(1, 1), kernel=(1, 1), masked=True,
    input_gradient=True, weight_gradient=True, neurons=True, membrane=True,
):  # fmt: skip
    """A layer whose bits come from a function of their shape [T, B, H, W, channels]."""
    shape = geometry(inputs, side, outputs, kernel)
    image = (steps, samples, *side, inputs)
    learns = input_gradient or weight_gradient
    return CaseLayer(
        shape,
        np.stack([bits(image) for _ in range(planes)]),
        bits(image) if masked and input_gradient else None,
        bits((steps, samples, *out_size(shape), outputs)) if learns else None,
        input_gradient,
        weight_gradient,
        neurons,
        membrane,
    )


def machine(**changes):
    """Parameters that differ from the default; `__` stands for the dot."""
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    assert changed.keys() <= DEFAULTS.keys()
    return {**DEFAULTS, **changed}


# ---- conservation


@given(seeds)
def test_cycles_of_each_engine_add_up(seed):
    _, result = case_of(seed)
    ends = [0]
    for engine, name in enumerate(ENGINES):
        passes = [at for at, owner in enumerate(ENGINE_OF) if owner == engine]
        columns = [COUNTERS.index(each) for each in TIMED]
        spent = result["counters"][:, passes][:, :, columns].sum()
        assert spent + result["tail_idle_cycles"][engine] == result["cycles"]
        times = tiles(result, name)
        ran = result["counters"][:, passes, COUNTERS.index("run_cycles")].sum()
        assert ran == (times["end"] - times["start"]).sum()
        ends += times["store_done"].tolist()
    assert result["cycles"] == max(ends)


@given(seeds)
def test_times_of_tiles_are_in_order(seed):
    _, result = case_of(seed)
    for name in ENGINES:
        times = tiles(result, name)
        for before, after in (
            ("load_issue", "load_done"), ("load_done", "build_end"), ("build_end", "start"),
            ("ready", "start"), ("start", "end"), ("end", "store_issue"),
            ("store_issue", "store_done"),
        ):  # fmt: skip
            assert (times[before] <= times[after]).all(), (before, after)
        assert (times["end"] > times["start"]).all()
        for field in ("load_issue", "build_end", "start", "store_issue", "store_done"):
            assert (np.diff(times[field]) >= 0).all(), field
        assert (times["start"][1:] >= times["end"][:-1]).all()
        assert (times["load_issue"][2:] >= times["end"][:-2]).all()  # two slots
        assert (times["start"][2:] >= times["store_done"][:-2]).all()


@given(seeds)
def test_transfers_share_one_bus_in_the_order_of_issue(seed):
    case, result = case_of(seed)
    per_cycle, latency, burst = (
        case.parameters[f"dram.{name}"]
        for name in ("bytes_per_cycle", "latency_cycles", "burst_bytes")
    )  # fmt: skip
    transfers = []
    for engine, name in enumerate(ENGINES):
        times = tiles(result, name)
        for kind, order in (("load", 0), ("store", 1)):
            for tile in np.flatnonzero(times[f"{kind}_bytes"]):
                moved = int(times[f"{kind}_bytes"][tile])
                busy = -(-(-(-moved // burst) * burst) // per_cycle)
                issue = int(times[f"{kind}_issue"][tile])
                transfers.append(
                    (issue, engine, order, tile, busy, int(times[f"{kind}_done"][tile]))
                )
    free = 0
    for issue, _, _, _, busy, done in sorted(transfers):
        free = max(free, issue + latency) + busy
        assert done == free
    assert sum(transfer[4] for transfer in transfers) == result["dram_busy_cycles"]


@given(seeds)
def test_counters_of_the_dram_are_sums_over_tiles(seed):
    case, result = case_of(seed)
    burst = case.parameters["dram.burst_bytes"]
    expected = np.zeros((len(case.layers), len(PASSES), 7), np.int64)
    for engine in ENGINES:
        for tile in result["tiles"][ENGINES.index(engine)].tolist():
            line = dict(zip(FIELDS, tile, strict=True))
            load, store = line["load_bytes"], line["store_bytes"]
            expected[line["layer"], line["pass"]] += (
                1, load > 0, store > 0, load, store, -(-load // burst), -(-store // burst)
            )  # fmt: skip
            assert ENGINES[ENGINE_OF[line["pass"]]] == engine
    names = ["tiles", "loads", "stores", "load_bytes", "store_bytes", "load_bursts", "store_bursts"]
    found = result["counters"][:, :, [COUNTERS.index(name) for name in names]]
    assert np.array_equal(found, expected)


@given(seeds)
def test_words_and_operations_are_what_the_shapes_say(seed):
    case, result = case_of(seed)
    p = case.parameters
    for index, layer in enumerate(case.layers):
        g = core_geometry(layer.geometry)
        rows, planes = case.timesteps * case.samples, len(layer.inputs)
        positions = g.out_height * g.out_width
        everything = rows * positions * planes * g.fan_in * g.out_channels
        words = layer.words()

        def of(name, passes, index=index):
            return counter(result, name, passes, index)

        def reached(kind, words=words, g=g, layer=layer, rows=rows, positions=positions):
            """Operations that a kernel of the core counts: set bits times gradients they meet."""
            outputs = None
            if kind != "forward":
                per_group = layer.nonzero.reshape(rows, positions, g.groups, -1).sum(axis=3)
                outputs = np.ascontiguousarray(per_group, np.int64)
            bits = words["mask"][np.newaxis] if kind == "backward" else words["inputs"]
            return _core.count_operations(g, bits, outputs)

        for passes in ("forward", "recompute_forward"):
            if not of("tiles", passes):
                continue
            assert of("operations_offered", passes) == everything
            assert of("operations_needed", passes) == reached("forward")
            assert of("load_bytes", passes) == (
                of("weight_writes", passes) * p["value_bytes"] + of("spike_write_bits", passes) // 8
            )
            reach = p["forward.rows"] * p["forward.inputs"]
            tables = sum(
                -(-min(reach, g.fan_in - at) // p["forward.inputs"])
                for at in range(0, g.fan_in, reach)
            )
            reads = of("table_reads", passes) + of("table_reads_skipped", passes)
            if p["forward.tables"]:
                assert reads == rows * positions * planes * tables * g.out_channels
                assert of("table_writes", passes) == of("table_builds", passes) * (
                    2 ** p["forward.inputs"] - 1
                )
                assert of("table_reads", passes) <= of("operations_needed", passes)
            else:
                assert reads == of("table_builds", passes) == of("table_writes", passes) == 0
                assert of("additions", passes) == of("operations_needed", passes)
            assert (
                of("psum_reads", passes.replace("forward", "soma"))
                == rows * positions * g.out_channels
            )

        if of("tiles", "update"):
            offered = of("operations_offered", "update")
            left = offered - of("skipped_by_gradient", "update")
            assert offered == everything
            assert of("operations_needed", "update") == reached("update") <= left
            assert p["update.compact"] or left == offered
        if of("tiles", "backward"):
            offered, needed = (
                of("operations_offered", "backward"),
                of("operations_needed", "backward"),
            )
            skipped = of("skipped_by_gradient", "backward") + of("skipped_by_mask", "backward")
            assert offered == needed + skipped == _core.count_dense_operations(g, rows)
            assert of("lane_slots", "backward") >= needed
            if (
                p["backward.input_sparsity"]
                and p["backward.output_sparsity"]
                and words["mask"] is not None
            ):
                assert needed == reached("backward")
        if of("tiles", "gradient"):
            assert of("gradient_writes", "gradient") == rows * positions * g.out_channels


@given(seeds)
def test_bytes_out_of_one_pass_are_bytes_into_the_next(seed):
    case, _ = case_of(seed)
    layers = tuple(
        # Without neurons the gradient unit loads nothing but the gradient at the spikes.
        CaseLayer(**{**vars(layer), "neurons": False, "membrane": False})
        for layer in case.layers
    )
    case = Case({**case.parameters, "state_bytes": 0, "compressed_gradients": False}, layers)
    result = simulate(case)
    value_bytes, rows = case.parameters["value_bytes"], case.timesteps * case.samples
    for index, layer in enumerate(layers):
        if layer.nonzero is None:
            continue
        size = layer.nonzero.size * value_bytes
        assert counter(result, "store_bytes", "gradient", index) == size
        above = layers[index + 1] if index + 1 < len(layers) else None
        made = counter(result, "store_bytes", "backward", index + 1) if above else 0
        if above is None or not (above.nonzero is not None and above.input_gradient):
            assert counter(result, "load_bytes", "gradient", index) == size  # from the host
        else:
            assert counter(result, "load_bytes", "gradient", index) == made
        if layer.input_gradient:
            loaded = counter(result, "load_bytes", "backward", index)
            weights = counter(result, "weight_writes", "backward", index) * value_bytes
            mask = counter(result, "mask_write_bits", "backward", index) // 8
            assert loaded == size + weights + mask
            if layer.mask is not None and case.parameters["backward.output_sparsity"]:
                assert mask == rows * -(-math.prod(layer.geometry[:3]) // 8)
                assert (
                    counter(result, "store_bytes", "backward", index)
                    == value_bytes * layer.mask.sum()
                )


# ---- what a backward tile costs


def backward_runs(case):
    """Cycles of each backward tile, by its place."""
    found = {}
    times = tiles(simulate(case), "backward")
    for at in range(len(times["start"])):
        place = tuple(int(times[name][at]) for name in ("part", "layer", "block", "column", "row"))
        found[place] = int(times["end"][at] - times["start"][at])
    return found


def backward_case_of(seed):
    """A random case with a backward pass, and the index of a layer that has one."""
    for attempt in itertools.count():
        case, _ = case_of([seed, attempt])
        having = [
            i
            for i, layer in enumerate(case.layers)
            if layer.nonzero is not None and layer.input_gradient
        ]
        if having:
            return case, having[seed % len(having)]
    raise AssertionError


@given(seeds, st.sampled_from(["mask", "nonzero"]), st.floats(0, 1))
def test_more_active_bits_never_make_a_backward_tile_faster(seed, name, share):
    case, index = backward_case_of(seed)
    layer = case.layers[index]
    bits = getattr(layer, name)
    if bits is None:  # no mask: everything is needed; fewer bits instead
        less, more = np.random.default_rng(seed).random(layer.inputs.shape[1:]) < share, None
    else:
        less, more = bits, bits | (np.random.default_rng(seed).random(bits.shape) < share)
    fewer, many = (
        backward_runs(
            Case(
                case.parameters,
                tuple(
                    CaseLayer(**{**vars(each), name: changed}) if at == index else each
                    for at, each in enumerate(case.layers)
                ),
            )
        )
        for changed in (less, more)
    )
    assert fewer.keys() == many.keys()
    assert all(fewer[place] <= many[place] for place in fewer)


SHORTER = [
    "soma.latency_cycles", "gradient.latency_cycles", "backward.encode_cycles",
    "dram.latency_cycles",
]  # fmt: skip


def faster(case, name, change):
    """The case on a machine that has more of this, or waits less for it."""
    value = case.parameters[name]
    if name in SHORTER:
        value = max(0, value - change)
    elif name == "backward.weights_banks":  # a multiple: channels that share no bank share none
        value *= 1 + change % 4
    else:
        value = min(value + change, 1 << (20 if name.startswith("dram") else 16))
    return Case({**case.parameters, name: value}, case.layers)


BACKWARD = ["groups", "lanes", "weights_banks", "encode_cycles"]


@given(seeds, st.sampled_from(BACKWARD), st.integers(1, 100))
def test_more_hardware_never_makes_a_backward_tile_slower(seed, name, change):
    case, _ = backward_case_of(seed)
    fewer, many = backward_runs(case), backward_runs(faster(case, f"backward.{name}", change))
    assert fewer.keys() == many.keys()
    assert all(many[place] <= fewer[place] for place in fewer)


def test_a_bank_more_can_make_a_backward_tile_slower():
    """Channels 0 and 3 are in different banks of two, and in the same one of three."""
    layer = dense(4, 8, neurons=False, membrane=False)
    layer.mask[..., 1:3] = False
    runs = [
        backward_runs(Case(machine(backward__weights_banks=banks), (layer,))).popitem()[1]
        for banks in (2, 3, 4)
    ]
    assert runs == [8 + 4, 2 * 8 + 4, 8 + 4]


# ---- closed forms


def test_a_tile_by_hand():
    """The numbers of the section of this name."""
    layer = patterned(
        lambda shape: np.ones(shape, bool),
        8,
        3,
        steps=2,
        input_gradient=False,
        weight_gradient=False,
    )
    case = Case(
        machine(
            forward__rows=2, forward__columns=2, forward__inputs=2, forward__weights_banks=1,
            forward__weights_bytes=128, value_bytes=2,
            dram__bytes_per_cycle=4, dram__latency_cycles=3, dram__burst_bytes=4,
        ),
        (layer,),
    )  # fmt: skip
    result = simulate(case)
    times = tiles(result, "forward")
    for field, expected in {
        "load_bytes": [50, 0, 0, 0],
        "load_issue": [0, 0, 29, 37],
        "load_done": [16, 0, 29, 37],
        "build_end": [24, 32, 36, 41],
        "start": [24, 32, 37, 42],
        "end": [29, 37, 42, 47],
        "column": [0, 0, 1, 1],
        "row": [0, 1, 0, 1],
    }.items():
        assert times[field].tolist() == expected, field
    assert counter(result, "load_bursts", "forward") == 13
    assert counter(result, "stalled_load_cycles", "forward") == 16
    assert counter(result, "building_cycles", "forward") == 8 + 3
    soma = tiles(result, "soma")
    assert soma["start"].tolist() == [37, 47]
    assert soma["end"].tolist() == [37 + 1 + 4, 47 + 1 + 4]  # 4 and 2 neuron-steps on 64 lanes
    assert result["cycles"] == 52  # spikes stay on chip


def test_dense_inference_meets_its_closed_form():
    """K 8, N 4 on two rows of two tables of two inputs: two sets of two tiles, m positions each.

    One cycle of DRAM, three to build the first tables; then every tile streams m positions and
    drains 1 + 2 cycles while the next tables are built; the last set's 2m psums take m cycles on
    two lanes, and 5.
    """
    for steps, samples in ((5, 1), (3, 2), (7, 3)):
        m = steps * samples
        layer = dense(
            8, 4, steps=steps, samples=samples,
            input_gradient=False, weight_gradient=False, neurons=False, membrane=False,
        )  # fmt: skip
        case = Case(
            machine(
                forward__rows=2, forward__columns=2, forward__inputs=2, soma__lanes=2,
                soma__latency_cycles=5, dram__bytes_per_cycle=1 << 20, dram__latency_cycles=0,
                parts=1,
            ),
            (layer,),
        )  # fmt: skip
        assert cycles(case) == 1 + 3 + 4 * (m + 3) + m + 5


def test_a_dense_training_step_meets_its_closed_form():
    """64 -> 32, T 3, B 2, all ones: 12 288 dense multiply-accumulates a pass, one part."""
    images, fan_in, outputs = 6, 64, 32
    case = Case(
        machine(
            forward__rows=4, forward__columns=8, forward__inputs=4,
            update__rows=2, update__columns=8, update__inputs=2,
            backward__groups=3, backward__lanes=4, backward__slice=16, backward__weights_banks=8,
            backward__tile_rows=20, backward__encode_cycles=7,
            soma__lanes=5, gradient__lanes=3, gradient__latency_cycles=9, parts=1,
            gradient__buffer_bytes=2 * 6 * 64,
        ),
        (dense(fan_in, outputs, steps=3, samples=2),),
    )  # fmt: skip
    result = simulate(case)
    # Forward: 4 column tiles x 4 row tiles of 16 inputs; 6 positions and a drain of 2 + 2.
    assert counter(result, "run_cycles", "forward") == 16 * (images + 4)
    # Soma: 4 sets of 6 x 8 neuron-steps on 5 lanes, latency 4.
    assert counter(result, "run_cycles", "soma") == 4 * (10 + 4)
    # Gradient: half a buffer holds 64 neuron-steps, two images of 32; three tiles on 3 lanes.
    assert counter(result, "run_cycles", "gradient") == 3 * (22 + 9)
    # Backward: all 4 slices of 16 channels in one column tile, row tiles of 20 and 12 gradients;
    # 6 x 4 items on 3 groups, each 4 rounds a gradient (16 channels / 4 lanes; 2 a bank).
    assert counter(result, "run_cycles", "backward") == 8 * (4 * 20 + 7) + 8 * (4 * 12 + 7)
    # Update: 4 column tiles, row tiles of 4 and 2 positions; 64 inputs each, a drain of 1 + 2.
    assert counter(result, "run_cycles", "update") == 4 * 2 * (fan_in + 3)
    for passes in ("forward", "backward", "update"):
        assert counter(result, "operations_offered", passes) == images * fan_in * outputs
        assert counter(result, "operations_needed", passes) == images * fan_in * outputs


def test_nothing_overflows_at_ten_to_the_twelve():
    """65536 -> 65536 channels on 16 x 16 positions: 1.1e12 multiply-accumulates a pass."""
    channels, positions = 1 << 16, 256
    layer = dense(channels, channels, side=(16, 16))
    case = Case(
        machine(
            forward__rows=256, forward__columns=1024, forward__inputs=8,
            forward__tables_bytes=1 << 40, forward__weights_bytes=1 << 30,
            forward__spikes_bytes=1 << 24,
            update__rows=64, update__columns=1024, update__tables_bytes=1 << 40,
            update__spikes_bytes=1 << 24, update__gradients_bytes=1 << 30,
            update__psum_bytes=1 << 30,
            backward__gradients_bytes=1 << 30, backward__weights_bytes=1 << 34,
            backward__tile_rows=1 << 16, backward__slice=1 << 15, backward__psum_bytes=1 << 30,
            schedule="serial",
        ),
        (layer,),
    )  # fmt: skip
    result = simulate(case)
    operations = channels * channels * positions
    assert operations > 10**12
    for passes in ("forward", "update"):
        assert counter(result, "operations_offered", passes) == operations
        assert counter(result, "operations_needed", passes) == operations
    assert counter(result, "operations_needed", "backward") == operations
    assert counter(result, "lane_slots", "backward") == operations
    # 65536 / 2048 row tiles of 256 full tables; every index is read.
    assert counter(result, "table_reads", "forward") == operations // 8
    rounds = (1 << 15) // 16  # of lanes; only half as many channels share a bank
    assert counter(result, "run_cycles", "backward") == math.ceil(512 / 384) * (
        rounds * channels + 4
    )
    assert result["cycles"] > 0
    assert (result["counters"] >= 0).all()


@pytest.mark.parametrize("schedule", ["serial", "layer", "batch"])
def test_results_do_not_depend_on_threads(schedule):
    rng = np.random.default_rng(0)

    def bits(shape):
        return rng.random(shape) < 0.3

    layers = (
        patterned(
            bits, 6, 40, steps=4, samples=5, side=(9, 9), kernel=(3, 3), planes=3,
            input_gradient=False,
        ),
        patterned(bits, 40, 30, steps=4, samples=5, side=(7, 7), kernel=(3, 3)),
        patterned(bits, 750, 10, steps=4, samples=5, neurons=False, membrane=False),
    )  # fmt: skip
    case = Case(machine(schedule=schedule, state_bytes=2000, update__compact=True), layers)
    torch.set_num_threads(1)
    expected = simulate(case)
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        assert first_difference(simulate(case), expected) is None


def test_equal_density_in_another_pattern_takes_other_cycles():
    """Half of the bits set: every second one, or one half of the channels."""

    def checkers(shape):
        return np.indices(shape).sum(axis=0) % 2 == 0

    def halves(shape):
        return np.broadcast_to(np.arange(shape[-1]) < shape[-1] // 2, shape).copy()

    results = []
    for bits in (checkers, halves):
        layer = patterned(bits, 64, 64, steps=4, samples=4)
        result = simulate(Case(machine(backward__slice=16, backward__groups=2), (layer,)))
        assert layer.inputs.mean() == layer.mask.mean() == layer.nonzero.mean() == 0.5
        results.append(result)
    for name in ("table_reads", "run_cycles", "items_empty"):
        passes = "forward" if name == "table_reads" else "backward"
        first, second = (counter(result, name, passes) for result in results)
        assert first != second
    assert results[0]["cycles"] != results[1]["cycles"]


# ---- layers under `serial`


def program_order(result):
    """Tiles of all engines in the order in which `serial` runs them: by start."""
    found = []
    for engine, array in enumerate(result["tiles"]):
        for line in array.tolist():
            tile = dict(zip(FIELDS, line, strict=True))
            found.append((tile["start"], tile["end"], engine, tile["store_done"]))
    return sorted(found)


@given(seeds)
def test_serial_runs_one_tile_at_a_time(seed):
    """Cycles of the step = what tiles run + what is seen between them + the last stores."""
    case, _ = case_of(seed)
    result = simulate(case.with_parameters(schedule="serial"))
    order = program_order(result)
    run = seen = now = 0
    for start, end, _, _ in order:
        assert start >= now
        seen += start - now
        run += end - start
        now = end
    assert run == counter(result, "run_cycles")
    assert result["cycles"] == run + seen + max(store_done for *_, store_done in order) - now


SPENT_WAITING = {
    "building_cycles", "stalled_load_cycles", "stalled_store_cycles", "idle_cycles"
}  # fmt: skip


@given(seeds)
def test_layers_add_up(seed):
    """Where no state stays on chip, a layer in a step counts what it counts alone.

    Two things excepted: time spent waiting, and the bytes that the gradient unit loads (a layer
    alone gets all of its gradient from the host, in a step what the layer above made).
    """
    case, _ = case_of(seed)
    case = case.with_parameters(state_bytes=0)
    whole = simulate(case)["counters"]
    alone = np.stack(
        [simulate(Case(case.parameters, (layer,)))["counters"][0] for layer in case.layers]
    )
    differs = {COUNTERS[at] for at in np.argwhere(whole != alone)[:, 2]}
    gradient = PASSES.index("gradient")
    loads = {"loads", "load_bytes", "load_bursts"}
    assert differs <= SPENT_WAITING | loads
    for name in loads:
        others = [at for at in range(len(PASSES)) if at != gradient]
        at = COUNTERS.index(name)
        assert np.array_equal(whole[:, others, at], alone[:, others, at])


@given(seeds)
def test_work_does_not_depend_on_the_schedule(seed):
    case, _ = case_of(seed)
    results = [
        simulate(case.with_parameters(schedule=name)) for name in ("serial", "layer", "batch")
    ]
    for result in results[1:]:
        differing = np.argwhere(result["counters"] != results[0]["counters"])[:, 2]
        assert {COUNTERS[at] for at in differing} <= SPENT_WAITING
        assert result["dram_busy_cycles"] == results[0]["dram_busy_cycles"]


# ---- monotonicity: exact where the DRAM serves in the same order


FASTER = [
    "soma.lanes", "gradient.lanes", "backward.lanes", "backward.groups", "backward.weights_banks",
    "forward.weights_banks", "forward.spikes_banks", "forward.psum_banks",
    "update.spikes_banks", "update.psum_banks", "update.gradients_banks", "dram.bytes_per_cycle",
]  # fmt: skip


def bus_order(result):
    """(engine, load or store, tile) of every transfer, in the order of the bus."""
    transfers = []
    for engine, name in enumerate(ENGINES):
        times = tiles(result, name)
        for kind, order in (("load", 0), ("store", 1)):
            for tile in np.flatnonzero(times[f"{kind}_bytes"]):
                transfers.append((int(times[f"{kind}_issue"][tile]), engine, order, int(tile)))
    return [transfer[1:] for transfer in sorted(transfers)]


@settings(max_examples=400)
@given(seeds, st.sampled_from(FASTER + SHORTER), st.integers(1, 64))
def test_a_faster_part_costs_no_time_where_the_bus_keeps_its_order(seed, name, change):
    case, before = case_of(seed)
    after = simulate(faster(case, name, change))
    if bus_order(after) == bus_order(before):
        times = FIELDS.index("ready")
        for ours, theirs in zip(after["tiles"], before["tiles"], strict=True):
            assert (ours[:, times:] <= theirs[:, times:]).all()
        assert after["cycles"] <= before["cycles"]


@given(seeds)
def test_a_looser_schedule_costs_no_time_where_the_bus_keeps_its_order(seed):
    case, _ = case_of(seed)
    if case.parameters["membrane"] == "recompute":
        case = case.with_parameters(membrane="store")  # under batch it is another order of tiles
    results = [
        simulate(case.with_parameters(schedule=name)) for name in ("serial", "layer", "batch")
    ]
    for tighter, looser in itertools.combinations(results, 2):
        if bus_order(tighter) == bus_order(looser):
            assert looser["cycles"] <= tighter["cycles"]


FEWER_BYTES = [
    "forward.weights_bytes", "backward.gradients_bytes", "backward.psum_bytes",
    "update.psum_bytes", "membrane_bytes",
]  # fmt: skip


@pytest.mark.parametrize("name", FEWER_BYTES)
@settings(max_examples=60)
@given(seed=seeds, more=st.integers(1, 1 << 14))
def test_a_larger_buffer_moves_no_more_bytes(name, seed, more):
    case, before = case_of(seed)
    after = simulate(Case({**case.parameters, name: case.parameters[name] + more}, case.layers))
    for direction in ("load_bytes", "store_bytes"):
        assert counter(after, direction) <= counter(before, direction)


# ---- the exceptions: docs/microarchitecture-properties.md tells the story of each


def small(shape, steps, samples=1, *, learns=True, ones=(), **options):
    """A layer of zeros but for these places of `nonzero`; without neurons unless said."""
    image = (steps, samples, *out_size(shape), shape[3])
    nonzero = np.zeros(image, bool)
    nonzero.reshape(-1)[list(ones)] = True
    inputs = np.zeros((1, steps, samples, *shape[1:3], shape[0]), bool)
    return CaseLayer(shape, inputs, None, nonzero if learns else None, **options)


BOTH = {"input_gradient": True, "weight_gradient": True}
POINT = geometry(1, (1, 1), 1)

# Name: machine, layers, what is changed, from and to, cycles before and after.
OVERTAKING = {
    "encode_cycles under serial": (
        machine(
            gradient__buffer_bytes=12, backward__psum_bytes=8, backward__slice=1,
            dram__burst_bytes=321, schedule="serial", state_bytes=0,
        ),
        [small(POINT, 3, ones=[2], **BOTH)],
        ("backward.encode_cycles", 4, 3), (745, 746),
    ),
    "dram.latency_cycles under serial": (
        machine(
            gradient__buffer_bytes=60, gradient__lanes=2, gradient__latency_cycles=1,
            backward__gradients_bytes=20, backward__input_sparsity=False, update__spikes_bytes=4,
            update__tables=False, dram__burst_bytes=4, dram__bytes_per_cycle=6, schedule="serial",
            state_bytes=0,
        ),
        [small(geometry(9, (1, 1), 5), 4, ones=[19], **BOTH)],
        ("dram.latency_cycles", 1, 0), (403, 404),
    ),
    "soma.latency_cycles under layer": (
        machine(
            forward__columns=1, forward__inputs=4, forward__psum_banks=1, forward__rows=1,
            forward__weights_bytes=16, dram__burst_bytes=13, dram__bytes_per_cycle=4,
            dram__latency_cycles=0, schedule="layer", state_bytes=0,
        ),
        [small(
            geometry(2, (4, 1), 2, (2, 3), (1, 1), (1, 1), groups=2), 3, 2,
            learns=False, neurons=True,
        )],
        ("soma.latency_cycles", 4, 3), (184, 186),
    ),
    "update.psum_banks under layer": (
        machine(
            backward__encode_cycles=5, backward__lanes=1, backward__psum_bytes=16,
            backward__slice=2, update__compact=True, update__inputs=4, update__psum_banks=1,
            update__rows=1, dram__burst_bytes=1, dram__bytes_per_cycle=1, dram__latency_cycles=0,
            schedule="layer",
        ),
        [small(
            geometry(2, (1, 5), 2, (2, 2), padding=(1, 0), dilation=(1, 2)), 1,
            ones=range(6), **BOTH,
        )],
        ("update.psum_banks", 1, 2), (283, 284),
    ),
    "dram.latency_cycles under layer": (
        machine(
            gradient__buffer_bytes=96, gradient__latency_cycles=17, backward__gradients_bytes=96,
            dram__bytes_per_cycle=8, schedule="layer", value_bytes=4,
        ),
        [small(geometry(1, (1, 1), 3, (1, 1), (1, 2), (0, 1)), 3, **BOTH)],
        ("dram.latency_cycles", 10, 9), (246, 250),
    ),
    "dram.bytes_per_cycle under batch": (
        machine(
            gradient__buffer_bytes=12, gradient__latency_cycles=5, update__columns=2,
            update__compact=True, update__psum_bytes=32, update__spikes_bytes=4,
            dram__burst_bytes=1,
        ),
        [small(geometry(1, (3, 3), 3, (1, 2)), 3, weight_gradient=True)],
        ("dram.bytes_per_cycle", 4, 5), (3307, 3308),
    ),
    "schedule": (
        machine(dram__bytes_per_cycle=1, dram__latency_cycles=0, membrane="recompute"),
        [small(POINT, 1, neurons=True, membrane=True), small(POINT, 1, **BOTH)],
        ("schedule", "serial", "layer"), (559, 622),
    ),
    "membrane_bytes under batch": (
        machine(
            gradient__buffer_bytes=12, gradient__latency_cycles=0, update__columns=4,
            update__psum_banks=1, update__psum_bytes=2112, update__spikes_bytes=18,
            dram__burst_bytes=1, dram__bytes_per_cycle=8, dram__latency_cycles=0,
        ),
        [
            small(
                geometry(4, (3, 4), 8, (1, 1), (2, 1), (0, 1), groups=4), 3,
                input_gradient=True, neurons=True,
            ),
            small(geometry(66, (1, 1), 5), 3, weight_gradient=True),
        ],
        ("membrane_bytes", 384, 768), (2023, 2027),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OVERTAKING)
def test_a_transfer_that_overtakes_another_can_cost_cycles(name):
    parameters, layers, (changed, before, after), expected = OVERTAKING[name]
    results = [
        simulate(Case({**parameters, changed: value}, tuple(layers))) for value in (before, after)
    ]
    assert tuple(result["cycles"] for result in results) == expected
    assert bus_order(results[0]) != bus_order(results[1])


# Name: machine, layers, what grows, from and to, cycles before and after, bytes moved.
COARSER = {
    # All weights have to be there before the first tile starts, where they all fit.
    "forward.weights_bytes": (
        machine(
            forward__columns=1, forward__rows=1, value_bytes=4, dram__bytes_per_cycle=1,
            dram__latency_cycles=0,
        ),
        [small(geometry(2, (1, 1), 4, (1, 2), (1, 1), (0, 1)), 1, learns=False)],
        (48, 192), (331, 389), (65, 65),
    ),
    # A block of two images has to be read before it starts.
    "forward.spikes_bytes": (
        machine(
            forward__tables=False, forward__psum_banks=1, forward__weights_banks=1 << 16,
            dram__bytes_per_cycle=1, parts=1,
        ),
        [small(geometry(192, (1, 1), 32), 1, 2, learns=False)],
        (48, 96), (12887, 12912), (12336, 12336),
    ),
    # The soma waits for a block of 64 positions instead of 32.
    "forward.psum_bytes": (
        machine(
            forward__columns=1, forward__inputs=1, forward__rows=8, soma__lanes=1, parts=1,
        ),
        [small(geometry(6, (1, 1), 1), 1, 64, learns=False)],
        (256, 512), (212, 239), (76, 76),
    ),
    # The backward engine waits for both images' gradients.
    "gradient.buffer_bytes": (
        machine(
            gradient__lanes=1, backward__input_sparsity=False, backward__gradients_bytes=256,
            parts=1,
        ),
        [small(geometry(1, (1, 1), 64), 1, 2, input_gradient=True)],
        (768, 1536), (748, 812), (518, 518),
    ),
    "backward.gradients_bytes": (
        machine(gradient__buffer_bytes=12),
        [small(geometry(1, (1, 1), 2), 2, input_gradient=True)],
        (8, 16), (497, 598), (22, 22),
    ),
    "backward.psum_bytes": (
        machine(
            gradient__lanes=1, gradient__latency_cycles=100, backward__slice=8,
            gradient__buffer_bytes=12, backward__input_sparsity=False, parts=1,
        ),
        [small(geometry(8, (1, 1), 1), 1, 2, input_gradient=True)],
        (64, 128), (592, 688), (70, 70),
    ),
    # More slices a tile, so fewer positions a block: an image in two chunks, weights read twice.
    "backward.weights_bytes": (
        machine(
            backward__slice=4, backward__psum_bytes=64, backward__tile_rows=4,
            dram__bytes_per_cycle=1, dram__burst_bytes=1, dram__latency_cycles=0,
        ),
        [small(geometry(8, (1, 2), 8), 1, input_gradient=True)],
        (64, 128), (405, 533), (322, 450),
    ),
    # The update of the first image waits for the second's gradients.
    "update.spikes_bytes": (
        machine(
            gradient__lanes=1, gradient__buffer_bytes=384, update__rows=1, update__inputs=1,
            parts=1,
        ),
        [small(geometry(32, (1, 1), 32), 1, 2, weight_gradient=True)],
        (8, 16), (606, 640), (6288, 6288),
    ),
    # Accumulators that stay are stored at the end, all at once.
    "update.psum_bytes": (
        machine(update__columns=1, dram__burst_bytes=1, dram__bytes_per_cycle=1),
        [small(geometry(1, (1, 1), 2), 1, weight_gradient=True, neurons=True)],
        (8, 16), (565, 569), (18, 18),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COARSER)
def test_a_larger_buffer_can_cost_cycles(name):
    parameters, layers, sizes, expected, moved = COARSER[name]
    results = [simulate(Case({**parameters, name: size}, tuple(layers))) for size in sizes]
    assert tuple(result["cycles"] for result in results) == expected
    found = [counter(result, "load_bytes") + counter(result, "store_bytes") for result in results]
    assert tuple(found) == moved


def test_room_for_another_tensor_can_cost_cycles():
    """320 bytes more hold the gradients of layer 1, and then not those of layer 0, stored last."""
    layers = (small(POINT, 2), small(geometry(1, (1, 1), 10, (1, 1), (2, 2), (1, 1)), 2))
    results = [
        simulate(Case(machine(schedule="serial", value_bytes=4, state_bytes=size), layers))
        for size in (320, 640)
    ]
    assert [result["resident"].tolist() for result in results] == [[4, 0], [0, 4]]
    assert [result["cycles"] for result in results] == [571, 576]
