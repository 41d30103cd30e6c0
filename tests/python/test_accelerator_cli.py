"""The commands about accelerators: what they print and write, and what they refuse."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h2learn
import pytest
from h2learn import _core, cost
from h2learn.accelerators import Accelerator, presets
from h2learn.accelerators.simulation import simulate
from h2learn.cli import main
from h2learn.workload import Workload, load_workload

PACKAGE_FOLDER = str(Path(h2learn.__file__).parents[1])
PASSES = {"forward", "soma", "gradient", "backward", "update"}


def small_step(seed=0):
    return Workload.synthetic(
        "8C3-AP2-16C3-10", sample_shape=(2, 8, 8), timesteps=3, samples=2, seed=seed
    )


@pytest.fixture(scope="module")
def workload(tmp_path_factory):
    """A file of two small steps."""
    steps = [small_step(seed).steps[0] for seed in (0, 1)]
    path = tmp_path_factory.mktemp("work") / "w.safetensors"
    Workload(tuple(steps)).save(path)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / "run"
    options = ["--timesteps", "2", "--epochs", "1", "--batch-size", "256"]
    assert main(["train", *options, "--out", str(run)]) == 0
    return run


def tree(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
    }


def run_json(tmp_path, *arguments):
    assert main([*map(str, arguments), "--json", str(tmp_path / "out.json")]) == 0
    return json.loads((tmp_path / "out.json").read_text())


class TestSimulate:
    def test_it_shows_and_writes_what_the_simulation_says(self, workload, tmp_path, capsys):
        facts = run_json(tmp_path, "simulate", workload)
        out, err = capsys.readouterr()
        assert err == ""
        simulation = simulate(load_workload(workload))
        assert facts["command"] == "simulate"
        assert facts["workload"] == str(workload)
        assert facts["accelerator"] == "h2learn"
        assert facts["steps"] == 2
        assert facts["cycles"] == simulation.cycles
        assert facts["seconds"] == simulation.seconds
        assert tuple(facts["energy_pj"]) == cost.tables() == tuple(facts["area_um2"])
        for name, engine in facts["engines"].items():
            assert engine["busy_cycles"] == simulation.engine(name).busy_cycles
        assert [layer["name"] for layer in facts["layers"]] == list(simulation.layer_names)
        assert facts["wall_seconds"] > 0
        speed = facts["cycles"] / facts["wall_seconds"]
        assert facts["simulated_cycles_per_second"] == pytest.approx(speed)
        for shown in ("2 steps of 3 layers, T 3, B 2", "forward engine", "conv2d1", *cost.tables()):
            assert shown in out

    def test_parameters_tables_layers_and_steps_can_be_chosen(self, workload, tmp_path, capsys):
        facts = run_json(
            tmp_path, "simulate", workload, "--set", "schedule=serial", "--set", "parts=1",
            "--cost", cost.tables()[0], "--layers", "conv2d1, conv2d2", "--steps", "1",
        )  # fmt: skip
        part = load_workload(workload).select(["conv2d1", "conv2d2"], [1])
        machine = Accelerator.load("h2learn", ["schedule=serial", "parts=1"])
        assert facts["cycles"] == simulate(part, machine).cycles
        assert facts["steps"] == 1
        assert (facts["schedule"], facts["parts"]) == ("serial", 1)
        assert list(facts["energy_pj"]) == [cost.tables()[0]]
        assert len(facts["layers"]) == 2
        assert "schedule=serial" in capsys.readouterr().out

    def test_a_machine_from_a_file(self, workload, tmp_path, capsys):
        (tmp_path / "mine.toml").write_text('base = "h2learn"\nparts = 2\n')
        facts = run_json(tmp_path, "simulate", workload, "--accelerator", tmp_path / "mine.toml")
        assert (facts["accelerator"], facts["parts"]) == ("mine", 2)

    def test_ablations(self, workload, tmp_path, capsys):
        facts = run_json(tmp_path, "simulate", workload, "--ablations")
        lesser = Accelerator.load("h2learn").ablations()
        assert [row["name"] for row in facts["ablations"]] == list(lesser)
        serial = simulate(load_workload(workload), lesser["serial"])
        row = facts["ablations"][-1]
        assert row["cycles"] == serial.cycles
        assert row["cycles_ratio"] == serial.cycles / facts["cycles"] >= 1
        assert "without tables" in capsys.readouterr().out

    def test_the_timeline_is_that_of_the_last_step(self, workload, tmp_path, capsys):
        trace = tmp_path / "new" / "step.json"
        assert main(["simulate", str(workload), "--trace", str(trace)]) == 0
        last = simulate(load_workload(workload).select(steps=[1]), tiles=True)
        content = json.loads(trace.read_text())
        assert content["otherData"]["cycles"] == last.cycles
        tiles = [e for e in content["traceEvents"] if e.get("cat") == "tile"]
        assert len(tiles) == last.counters().tiles
        assert {e["args"]["pass"] for e in tiles} == PASSES
        assert f"Trace in {trace}" in capsys.readouterr().out

    def test_a_plot(self, workload, tmp_path, capsys):
        pytest.importorskip("matplotlib")
        assert main(["simulate", str(workload), "--plot", str(tmp_path / "step.svg")]) == 0
        assert "conv2d2" in (tmp_path / "step.svg").read_text()
        assert [p.name for p in tmp_path.iterdir()] == ["step.svg"]

    def test_the_same_workload_gives_the_same_facts(self, workload, tmp_path, capsys):
        one, two = (run_json(tmp_path, "simulate", workload) for _ in range(2))
        for key in ("wall_seconds", "simulated_cycles_per_second"):
            del one[key], two[key]
        assert one == two


class TestCompare:
    def test_a_row_a_machine(self, workload, tmp_path, capsys):
        facts = run_json(
            tmp_path, "compare", workload, "--accelerators", "h2learn,h2learn-small",
            "--set", "parts=1",
        )  # fmt: skip
        out = capsys.readouterr().out
        assert facts["command"] == "compare"
        work = load_workload(workload)
        times = []
        for row, name in zip(facts["rows"], ("h2learn", "h2learn-small"), strict=True):
            assert row["accelerator"].startswith(name)
            assert name in out
            result = simulate(work, Accelerator.load(name, ["parts=1"]))
            assert row["cycles"] == result.cycles
            times.append(result.seconds)
        assert facts["rows"][0]["time_ratio"] == 1.0
        assert facts["rows"][1]["time_ratio"] == times[1] / times[0]
        assert all(name in out for name in cost.tables())


class TestSynthesize:
    def test_it_writes_what_the_function_makes(self, tmp_path, capsys):
        out = tmp_path / "new" / "w.safetensors"
        options = ["--timesteps", "3", "--samples", "2", "--input-density", "0.1,0.2,0.3"]
        options += ["--gradient-density", "0.5", "--analog-bits", "4", "--seed", "7"]
        layers = ["8C3-AP2-16C3-10", "--shape", "2,8,8"]
        assert main(["synthesize", *layers, *options, "--out", str(out)]) == 0
        expected = Workload.synthetic(
            "8C3-AP2-16C3-10", sample_shape=(2, 8, 8), timesteps=3, samples=2, seed=7,
            input_density=[0.1, 0.2, 0.3], gradient_density=0.5, analog_bits=4,
        )  # fmt: skip
        assert load_workload(out).summary() == expected.summary()
        shown = capsys.readouterr().out
        assert str(expected) in shown
        assert f"h2learn simulate {out}" in shown


class TestRecord:
    def test_steps_of_a_run_become_a_workload(self, trained, tmp_path, capsys):
        before = tree(trained)
        out = tmp_path / "w.safetensors"
        assert main(["record", str(trained), "--steps", "2", "--out", str(out)]) == 0
        assert tree(trained) == before
        work = load_workload(out)
        assert len(work.steps) == 2
        assert work.names == ["fc1", "fc2"]
        assert work.info["dataset"] == "digits"
        for step in work.steps:
            first, last = step
            assert (first.timesteps, first.samples) == (2, 256)
            assert first.neurons
            assert not last.neurons
            assert first.weight_gradient
            assert not first.input_gradient
            assert last.weight_gradient
            assert last.input_gradient
        assert (work.steps[0][0].inputs != work.steps[1][0].inputs).any()
        assert main(["simulate", str(out)]) == 0

    def test_the_same_run_gives_the_same_file(self, trained, tmp_path, capsys):
        for name in ("one", "two"):
            assert main(["record", str(trained), "--out", str(tmp_path / name)]) == 0
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


class TestVerify:
    def test_no_mismatch(self, tmp_path, capsys):
        facts = run_json(tmp_path, "verify", "--configs", "5", "--seed", "3")
        assert (facts["configs"], facts["mismatches"], facts["seed"]) == (5, 0, 3)
        assert facts["simulated_cycles"] > 0
        assert facts["fast_cycles_per_second"] > 0
        assert facts["clocked_cycles_per_second"] > 0
        assert "0 mismatches in 5 random machines" in capsys.readouterr().out

    def test_a_mismatch_is_status_1_and_a_program_that_shows_it(
        self, tmp_path, capsys, monkeypatch
    ):
        real = _core.simulate

        def wrong(machine, layers, *, clocked=False, tiles=True):
            result = real(machine, layers, clocked=clocked, tiles=tiles)
            return result if clocked else result | {"cycles": result["cycles"] + 1}

        monkeypatch.setattr(_core, "simulate", wrong)
        json_file = tmp_path / "v.json"
        assert main(["verify", "--configs", "1", "--json", str(json_file)]) == 1
        facts = json.loads(json_file.read_text())
        assert facts["mismatches"] == 1
        assert facts["first_mismatch"] in capsys.readouterr().out
        assert "cycles" in facts["first_mismatch"]
        assert "import" in facts["first_mismatch"]


LAYERS = ["8C3-10", "--shape", "2,8,8", "--out", "new"]
BAD_INPUT = {
    "no workload": (["simulate"], "Missing argument 'WORKLOAD'"),
    "no such workload": (["simulate", "absent"], "absent: there is no such file"),
    "not a workload": (["simulate", "text"], "text"),
    "no such accelerator": (["simulate", "w", "--accelerator", "v100"], "h2learn-small"),
    "no such file": (["simulate", "w", "--accelerator", "absent.toml"], "absent.toml"),
    "unknown parameter": (["simulate", "w", "--set", "forward.lanes=3"], "did you mean"),
    "parameter without value": (["simulate", "w", "--set", "parts"], "key=value"),
    "parameter with unit": (["simulate", "w", "--set", "dram.bytes_per_cycle=256GB/s"], "bytes"),
    "unknown cost table": (["simulate", "w", "--cost", "14nm"], "horowitz-45nm"),
    "unknown layer": (["simulate", "w", "--layers", "conv2d9"], "no layer 'conv2d9'"),
    "layers empty": (["simulate", "w", "--layers", "a,,b"], "--layers must be names with commas"),
    "unknown step": (["simulate", "w", "--steps", "2"], "2 steps, there is no 2"),
    "steps text": (["simulate", "w", "--steps", "x"], "--steps must be whole numbers with commas"),
    "a layer that does not fit": (
        ["simulate", "w", "--set", "forward.spikes_bytes=2"],
        "accelerator h2learn.*conv2d",
    ),
    "plot of another kind": (["simulate", "w", "--plot", "p.gif"], "must be a file .png, .svg"),
    "json is a folder": (["simulate", "w", "--json", "empty"], "--json empty is a folder"),
    "trace is a folder": (["simulate", "w", "--trace", "empty"], "--trace empty is a folder"),
    "trace below a file": (["simulate", "w", "--trace", "text/t"], "text is not a folder"),
    "trace to a device": (["simulate", "w", "--trace", "/dev/null"], "must be a regular file"),
    "trace is the json": (
        ["simulate", "w", "--json", "x.json", "--trace", "./x.json"],
        "--trace x.json is also --json",
    ),
    "json is the workload": (["simulate", "w", "--json", "w"], "is also the file that is read"),
    "compare with nothing": (["compare", "w"], "Missing option '--accelerators'"),
    "compare unknown": (["compare", "w", "--accelerators", "h2learn,x"], "h2learn-small"),
    "compare twice": (["compare", "w", "--accelerators", "h2learn,h2learn"], "names h2learn twice"),
    "verify nothing": (["verify", "--configs", "0"], "configs must be an integer of at least 1"),
    "verify seed": (["verify", "--seed", "-1"], "seed must be an integer of at least 0, got -1"),
    "record nothing": (["record", "empty", "--out", "new"], "there is no run in empty"),
    "record nowhere": (["record", "empty"], "Missing option '--out'"),
    "record to a folder": (["record", "empty", "--out", "empty"], "--out empty is a folder"),
    "shape text": (["synthesize", "10", "--shape", "a", "--out", "new"], "--shape must be whole"),
    "bad notation": (["synthesize", "8X3", "--shape", "2,8,8", "--out", "new"], "8X3"),
    "bad density": (["synthesize", *LAYERS, "--input-density", "1.5"], "input_density.*1.5"),
    "density text": (["synthesize", *LAYERS, "--mask-density", "x"], "--mask-density must be a nu"),
    "no timesteps": (["synthesize", *LAYERS, "--timesteps", "0"], "timesteps.*at least 1.*got 0"),
}


class TestBadInput:
    """Each case: exit status 2, one line on stderr, and nothing written."""

    @pytest.fixture
    def place(self, tmp_path, monkeypatch, workload):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "empty").mkdir()
        (tmp_path / "text").write_text("not a workload")
        (tmp_path / "w").write_bytes(workload.read_bytes())
        return tmp_path

    @pytest.mark.parametrize("case", BAD_INPUT)
    def test_it_is_refused(self, place, capsys, case):
        arguments, message = BAD_INPUT[case]
        before = tree(place)
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        assert re.search(message, err), err
        assert tree(place) == before

    def test_more_steps_than_an_epoch_has(self, trained, place, capsys):
        arguments = ["record", str(trained), "--steps", "99", "--out", "new"]
        assert main(arguments) == 2
        assert re.search("--steps must be 1 to 6, .* got 99", capsys.readouterr().err)
        assert not Path("new").exists()

    def test_no_plot_without_matplotlib_and_no_work_before_it_is_said(
        self, place, capsys, monkeypatch
    ):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert main(["simulate", "w", "--plot", "p.png"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "pip install 'h2learn[plot]'" in err


def test_presets_and_cost_tables_are_in_info(tmp_path, capsys):
    facts = run_json(tmp_path, "info")
    out = capsys.readouterr().out
    assert tuple(facts["accelerators"]) == presets()
    assert tuple(facts["cost_tables"]) == cost.tables()
    for name in (*presets(), *cost.tables()):
        assert name in out


def test_torch_is_needed_for_none_of_it(workload, tmp_path):
    """In a process where importing torch is an error."""
    code = f"""
import sys
sys.modules["torch"] = None
from h2learn.cli import main
work = {str(workload)!r}
for arguments in (
    ["simulate", work, "--ablations", "--json", "s.json", "--trace", "t.json"],
    ["compare", work, "--accelerators", "h2learn,h2learn-small"],
    ["synthesize", "10", "--shape", "4", "--out", "w"],
    ["verify", "--configs", "1"],
):
    assert main(arguments) == 0, arguments
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": PACKAGE_FOLDER, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.isascii()
    assert "?" not in result.stdout
    assert {p.name for p in tmp_path.iterdir()} == {"s.json", "t.json", "w"}
