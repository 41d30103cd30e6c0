"""Offload: an accelerator beside training, which it does not change."""

import json
import threading

import h2learn
import pytest
import torch
import torch.nn.functional as F
from h2learn import nn
from h2learn.accelerators.results import COUNTER_NAMES, ENGINES, PASSES
from h2learn.cli import main
from h2learn.errors import InputError

SMALL = h2learn.Accelerator.load("h2learn", ["parts=2", "forward.rows=2", "update.rows=2"])


def network():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.LIF(),
        nn.AvgPool2d(2),
        nn.Conv2d(8, 16, 3),
        nn.LIF(),
        nn.Flatten(),
        nn.Linear(64, 10),
        nn.Readout(),
    )


def batch(samples=4):
    generator = torch.Generator().manual_seed(samples)
    events = (torch.rand(3, samples, 2, 8, 8, generator=generator) < 0.3).float()
    labels = torch.randint(10, (samples,), generator=generator)
    return h2learn.SpikeTensor.from_dense(events), labels


def train(model, steps=2, samples=4):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        inputs, labels = batch(samples)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class TestCounters:
    def test_training_is_not_changed(self):
        plain, beside = network(), network()
        train(plain)
        with h2learn.offload("h2learn"):
            train(beside)
        assert torch.equal(weights(plain), weights(beside))

    def test_steps_add_up_to_the_recorded_workload(self):
        model = network()
        with h2learn.offload(SMALL) as accelerator, h2learn.record() as recorder:
            train(model, steps=3)
        simulation = h2learn.simulate(recorder.workload, SMALL)
        assert accelerator.counters.steps == 3
        assert accelerator.counters.to_dict() == simulation.to_dict()
        assert accelerator.counters.counters(passes="backward").multiplications > 0

    def test_saved_workload_gives_the_same_counters(self, tmp_path):
        with h2learn.offload("h2learn", model=network()) as accelerator:
            train(accelerator._recorder._model, steps=1)
        accelerator.workload.save(tmp_path / "step.safetensors")
        loaded = h2learn.load_workload(tmp_path / "step.safetensors")
        again = h2learn.simulate(loaded, "h2learn")
        assert again.to_dict() == accelerator.counters.to_dict()
        assert again.layer_names == ("0", "3", "6")

    def test_counters_can_be_read_between_steps(self):
        model = network()
        with h2learn.offload(SMALL) as accelerator:
            train(model, steps=1)
            first = accelerator.counters.cycles
            train(model, steps=1)
            assert accelerator.counters.steps == 2
            assert accelerator.counters.cycles > first > 0

    def test_the_step_kept_is_the_latest_of_the_largest(self):
        model = network()
        with h2learn.offload(SMALL) as accelerator:
            train(model, steps=1, samples=4)
            train(model, steps=1, samples=4)
            train(model, steps=1, samples=2)
        assert accelerator.steps == 3
        assert accelerator.workload.steps[0][0].samples == 4
        assert accelerator.step.cycles == h2learn.simulate(accelerator.workload, SMALL).cycles

    def test_cycles_of_every_engine_add_up(self):
        with h2learn.offload(SMALL) as accelerator:
            train(network())
        total = accelerator.counters
        for engine in total.engines().values():
            parts = engine.busy_cycles + engine.stalled_cycles + engine.idle_cycles
            assert parts == total.cycles, engine.name

    @pytest.mark.parametrize("samples", [4, 2])
    @pytest.mark.parametrize("when", ["first", "between", "last"])
    def test_evaluations_are_no_steps(self, when, samples):
        model, alone = network(), network()
        with h2learn.offload(SMALL) as reference:
            train(alone, steps=2)

        def evaluate():
            with torch.no_grad():
                for _ in range(3):
                    model(batch(samples)[0])

        with h2learn.offload(SMALL) as accelerator:
            if when == "first":
                evaluate()
            train(model, steps=1)
            if when == "between":
                evaluate()
            train(model, steps=1)
            if when == "last":
                evaluate()
        assert accelerator.steps == 2
        assert accelerator.counters.to_dict() == reference.counters.to_dict()

    def test_forward_passes_alone_can_be_recorded_and_simulated(self):
        model = network()
        with torch.no_grad(), h2learn.record() as recorder:
            model(batch()[0])
            model(batch(2)[0])
        assert [step[0].samples for step in recorder.workload.steps] == [4, 2]
        result = h2learn.simulate(recorder.workload, SMALL)
        assert result.engine("update").counters.tiles == 0
        assert result.engine("forward").counters.tiles > 0

    def test_reading_a_count_does_not_cut_a_step(self):
        model = network()
        inputs, labels = batch()
        with h2learn.offload(SMALL) as accelerator:
            loss = F.cross_entropy(model(inputs), labels)
            assert accelerator.steps == 0
            loss.backward()
            assert accelerator.steps == 1
        assert accelerator.counters.engine("update").counters.tiles > 0

    def test_other_threads_are_not_counted(self):
        model, other = network(), network()
        with h2learn.offload(SMALL) as accelerator:
            thread = threading.Thread(target=train, args=(other,))
            thread.start()
            train(model, steps=1)
            thread.join()
        assert accelerator.steps == 1

    def test_rows_dict_and_frame_say_the_same(self):
        pandas = pytest.importorskip("pandas")
        with h2learn.offload(SMALL) as accelerator:
            train(network(), steps=1)
        counters = accelerator.counters
        frame = counters.to_pandas()
        assert isinstance(frame, pandas.DataFrame)
        assert list(frame.columns) == ["layer", "pass", "engine", *COUNTER_NAMES]
        assert frame["run_cycles"].sum() == sum(
            counters.engine(name).counters.run_cycles for name in ENGINES
        )
        layers = json.loads(json.dumps(counters.to_dict()))["layers"]
        assert sum(len(layer["passes"]) for layer in layers) == len(frame)
        assert set(frame["pass"]) <= set(PASSES)

    def test_counter_names_are_those_of_the_core(self):
        assert tuple(h2learn._core.counter_names()) == COUNTER_NAMES


class TestReports:
    def test_report_and_timeline(self, tmp_path):
        with h2learn.offload(SMALL) as accelerator:
            train(network(), steps=2)
        text = accelerator.report()
        assert "forward engine" in text
        assert "without tables" not in text
        assert "without tables" in accelerator.report(ablations=True)
        accelerator.timeline().save(tmp_path / "step.json")
        events = json.loads((tmp_path / "step.json").read_text())["traceEvents"]
        assert any(event["ph"] == "X" for event in events)

    def test_every_ablation_has_the_step_s_operations(self):
        with h2learn.offload(SMALL) as accelerator:
            train(network(), steps=1)
        done = accelerator.step.counters(passes="forward").operations_needed
        ablations = accelerator.ablations()
        assert len(ablations) >= 5
        for name, simulation in ablations.items():
            assert simulation.counters(passes="forward").operations_needed == done, name


class TestNumerics:
    def test_hardware_arithmetic_is_the_machine_s_precision(self):
        inputs, labels = batch()
        losses = {}
        for precision in ("fp32", "bf16"):
            machine = SMALL.with_(precision=precision)
            with h2learn.offload(machine, numerics="hardware") as accelerator:
                losses[precision] = F.cross_entropy(network()(inputs), labels)
                losses[precision].backward()
            assert accelerator.steps == 1
        plain = F.cross_entropy(network()(inputs), labels)
        assert losses["fp32"].item() == pytest.approx(plain.item(), abs=0.05)
        assert losses["bf16"].item() != losses["fp32"].item()

    def test_unknown_numerics(self):
        with pytest.raises(InputError, match="numerics must be one of float32, hardware, got 'x'"):
            h2learn.offload("h2learn", numerics="x")


class TestBadInput:
    def test_unknown_accelerator(self):
        with pytest.raises(InputError, match="unknown accelerator 'v100'"):
            h2learn.offload("v100")

    def test_no_accelerator_at_all(self):
        with pytest.raises(TypeError, match=r"accelerator must be a preset's name, .* got int"):
            h2learn.offload(3)
        with pytest.raises(TypeError, match="workload must be a Workload, got dict"):
            h2learn.simulate({}, "h2learn")

    def test_nothing_ran(self):
        with h2learn.offload("h2learn") as accelerator:
            pass
        with pytest.raises(RuntimeError, match="no training step of h2learn layers has run"):
            accelerator.report()

    def test_two_networks(self):
        first, second = network(), nn.Sequential(nn.Linear(4, 3), nn.LIF(), nn.Readout())
        accelerator = h2learn.offload(SMALL)
        with accelerator:
            train(first, steps=1)
            assert accelerator.steps == 1
            second(torch.ones(2, 3, 4)).sum().backward()
            with pytest.raises(InputError, match="one offload counts steps of one network"):
                accelerator.steps  # noqa: B018 - closes the second network's step

    def test_a_layer_that_does_not_fit(self):
        tiny = SMALL.with_(**{"forward.spikes_bytes": 8})
        with (
            pytest.raises(InputError, match=r"layer conv2d1 cannot run .* forward.spikes_bytes"),
            h2learn.offload(tiny),
        ):
            train(network(), steps=1)

    def test_entered_twice(self):
        with (
            h2learn.offload("h2learn") as accelerator,
            pytest.raises(RuntimeError, match="running already"),
        ):
            accelerator.__enter__()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    summaries = {}
    for name in ("none", "h2learn"):
        arguments = ["--dataset", "digits", "--epochs", "2", "--accelerator", name]
        json_file = folder / f"{name}.json"
        assert (
            main(["train", *arguments, "--out", str(folder / name), "--json", str(json_file)]) == 0
        )
        summaries[name] = json.loads(json_file.read_text())
    return folder, summaries


class TestTrainCommand:
    def test_same_weights_with_and_without(self, runs):
        folder, _ = runs
        plain, beside = ((folder / name / "checkpoint.safetensors") for name in ("none", "h2learn"))
        from safetensors.torch import load_file

        first, second = load_file(plain), load_file(beside)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_summary_reports_the_last_epoch(self, runs):
        _, summaries = runs
        assert "accelerator" in summaries["h2learn"]
        facts = summaries["h2learn"]["accelerator"]
        assert facts["steps"] == 23
        assert facts["cycles"] > 0
        assert facts["seconds"] == facts["cycles"] / facts["clock_hz"]
        assert all(energy["total"] > 0 for energy in facts["energy_pj"].values())
        assert {row["name"] for row in facts["ablations"]} >= {"without tables", "serial"}

    def test_simulate_gives_what_the_offload_counted(self, runs):
        _, summaries = runs
        kept = summaries["h2learn"]["accelerator"]
        simulation = h2learn.simulate(h2learn.load_workload(kept["workload"]), "h2learn")
        assert json.loads(json.dumps(simulation.to_dict())) == kept["workload_step"]

    def test_metrics_hold_the_cycles_of_each_epoch(self, runs):
        folder, summaries = runs
        lines = (folder / "h2learn" / "metrics.jsonl").read_text().splitlines()
        cycles = [json.loads(line)["accelerator_cycles"] for line in lines]
        assert len(cycles) == 2
        assert cycles[-1] == summaries["h2learn"]["accelerator"]["cycles"]
