"""The benchmarks' own helpers, on networks small enough for a test run.

What makes a comparison worth printing is tested here: all contestants compute the same thing, a
library that does not gets no ratio, and the memory counted is the memory kept.
"""

from __future__ import annotations

import json
import time

import accelerator
import accuracy
import contestants
import h2learn
import machine
import measure
import peers
import plain
import problems
import pytest
import results
import targets
import torch
from contestants import CONTESTANTS, reference
from problems import Workload, make_problem
from torch import nn

TINY = {
    "images": Workload("images", "6C3-AP2-8C3-AP2-10", 1, (2, 12, 12), 4, 3, "events", 0.2),
    "vectors": Workload("vectors", "24-10", 0, (70,), 5, 6, "spikes", 0.3),
    "analog": Workload("analog", "6C3-AP2-10", 1, (3, 8, 8), 4, 3, "analog", 1.0),
}
SURROGATES = ("rect", "triangle", "atan")


def run(name: str, workload: str, surrogate: str) -> tuple[float, float]:
    """Errors of loss and gradients of one contestant against float64."""
    problem = make_problem(TINY[workload])
    expected_loss, expected_gradients = reference(problem, surrogate)
    parameters = [nn.Parameter(w) for w in problem.weights]
    contestant = CONTESTANTS[name](problem, parameters, surrogate)
    loss = contestant.step(problem.inputs, problem.labels)
    gradients = [p.grad for p in parameters]
    return abs(loss - expected_loss), measure.relative_error(gradients, expected_gradients)


# ---- workloads


def test_issue_workloads_have_the_shapes_of_the_comparison() -> None:
    shapes = {
        name: (len([x for x in w.layers if not isinstance(x, problems.Pool)]), w.steps, w.batch)
        for name, w in problems.WORKLOADS.items()
    }
    assert shapes == {"a": (2, 8, 128), "b": (3, 16, 16), "c": (8, 8, 8)}


def test_every_layer_fires_at_the_chosen_rate() -> None:
    workload = Workload("w", "16C3-AP2-64-50", 1, (2, 16, 16), 8, 16, "events", 0.1)
    rates = make_problem(workload).firing_rates
    assert rates == pytest.approx([problems.FIRING_RATE] * 3, abs=0.005)


def test_the_same_seed_gives_the_same_problem() -> None:
    first, second = (make_problem(TINY["images"], seed=3) for _ in range(2))
    assert torch.equal(first.inputs, second.inputs)
    assert all(torch.equal(a, b) for a, b in zip(first.weights, second.weights, strict=True))
    assert not torch.equal(first.inputs, make_problem(TINY["images"], seed=4).inputs)


@pytest.mark.parametrize(("fraction_bits", "levels"), [(0, 1), (2, 4), (8, 256)])
def test_sums_of_snapped_weights_are_exact_in_any_order(fraction_bits: int, levels: int) -> None:
    weight = problems.snap(torch.randn(5, 1000), fraction_bits)
    inputs = torch.randint(levels + 1, (40, 1000)) / levels
    exact = inputs.double() @ weight.double().t()
    for order in (torch.arange(1000), torch.randperm(1000), weight[0].argsort()):
        running = torch.zeros(40, 5)
        for k in order:
            running = running + inputs[:, k, None] * weight[:, k]
        assert torch.equal(running.double(), exact)


def test_free_weights_are_those_before_snapping() -> None:
    grid, free = (make_problem(TINY["vectors"], exact=exact) for exact in (True, False))
    assert torch.equal(grid.inputs, free.inputs)
    assert not torch.equal(grid.weights[0], free.weights[0])
    torch.testing.assert_close(grid.weights[0], free.weights[0], rtol=0, atol=1e-4)


def test_snapped_weights_never_reach_the_threshold_exactly() -> None:
    weight = problems.snap(torch.randn(64, 512), 0)
    currents = (torch.rand(4096, 512) < 0.15).float() @ weight.t()
    assert (currents - problems.THRESHOLD).abs().min() > 0
    assert weight.unique().numel() > 1000  # fine enough to be a weight


def test_an_unknown_layer_is_named() -> None:
    with pytest.raises(ValueError, match="'MP2'"):
        _ = Workload("w", "16C3-MP2", 0, (1, 8, 8), 1, 1, "events", 0.1).layers


# ---- contestants


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize(
    ("name", "workload"),
    [
        (name, workload)
        for name in ("h2learn", "pytorch", "pytorch-channels-last")
        for workload in TINY
        if contestants.applies(name, TINY[workload])
    ],
)
def test_contestants_agree_with_float64(name: str, workload: str, surrogate: str) -> None:
    loss_error, gradient_error = run(name, workload, surrogate)
    assert loss_error <= peers.LOSS_TOLERANCE
    assert gradient_error <= 1e-6


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize(
    ("name", "package"), [("spikingjelly", "spikingjelly"), ("snntorch", "snntorch")]
)
def test_peers_agree_with_float64(name: str, package: str, surrogate: str) -> None:
    pytest.importorskip(package, reason="the peers live in an environment of their own")
    loss_error, gradient_error = run(name, "images", surrogate)
    assert loss_error <= peers.LOSS_TOLERANCE
    assert gradient_error <= 1e-6


def test_an_absent_library_is_unavailable_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "snntorch", None)
    problem = make_problem(TINY["vectors"])
    with pytest.raises(contestants.UnavailableError, match="not installed"):
        CONTESTANTS["snntorch"](problem, [nn.Parameter(w) for w in problem.weights], "rect")


# ---- plain neurons


@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize(("surrogate", "width"), [("rect", 0.4), ("triangle", 1.0), ("atan", 0.3)])
def test_the_written_backward_pass_is_what_autograd_finds(
    surrogate: str, width: float, detach_reset: bool
) -> None:
    neuron = plain.Neuron(0.25, 0.5, surrogate, width, detach_reset)
    currents = torch.randn(7, 3, 11, dtype=torch.float64)
    weights = torch.randn_like(currents)
    gradients = []
    for module in (plain.FusedLIF(neuron), plain.LoopLIF(neuron)):
        x = currents.clone().requires_grad_()
        spikes = module(x)
        (spikes * weights).sum().backward()
        gradients.append((spikes.detach(), x.grad))
    (fused_spikes, fused), (loop_spikes, loop) = gradients
    assert torch.equal(fused_spikes, loop_spikes)
    assert 0.1 < fused_spikes.mean() < 0.9
    torch.testing.assert_close(fused, loop, rtol=1e-12, atol=1e-12)


# ---- measuring


def test_saved_bytes_counts_each_storage_once_and_no_parameter() -> None:
    parameter = torch.randn(10, 20, requires_grad=True)
    x = torch.randn(30, 20)
    y = torch.relu(x @ parameter.t())  # saves x; relu saves its result, [30, 10]
    loss = (y * y).sum()  # saves y twice: the same storage
    assert measure.saved_bytes(loss, [parameter]) == (30 * 20 + 30 * 10) * 4


def test_saved_bytes_counts_the_whole_base_of_a_view() -> None:
    base = torch.randn(100, 8)
    parameter = torch.randn(8, requires_grad=True)
    assert measure.saved_bytes((base[:2] * parameter).sum(), [parameter]) == 100 * 8 * 4


def test_saved_bytes_of_packed_spikes_are_words_and_masks() -> None:
    layer = h2learn.nn.Linear(128, 256, bias=False)
    neuron = h2learn.nn.LIF(
        0.5, 1.0, surrogate=h2learn.surrogate.Rect(width=10.0), detach_reset=True
    )
    readout = h2learn.nn.Linear(256, 4, bias=False)
    inputs = h2learn.SpikeTensor.from_dense((torch.rand(3, 5, 128) < 0.5).float())
    result = readout(neuron(layer(inputs))).sum()
    parameters = [layer.weight, readout.weight]
    words = 3 * 5 * (128 + 256 + 256) // 8  # the input's, the neurons', and their mask's
    scalars = 8  # decay and threshold
    assert measure.saved_bytes(result, parameters) == words + scalars


def test_interleaved_timing_tells_slow_from_fast() -> None:
    timings = measure.interleave(
        {"fast": lambda: time.sleep(0.001), "slow": lambda: time.sleep(0.12)}, rounds=2
    )
    assert 1.0 <= timings["fast"].median_ms < timings["slow"].median_ms
    assert timings["slow"].median_ms >= 120.0
    low, high = timings["slow"].quartiles_ms
    assert low <= timings["slow"].median_ms <= high


def test_time_limit_ends_what_takes_too_long() -> None:
    with pytest.raises(TimeoutError, match=r"longer than 0\.05 s"), measure.time_limit(0.05):
        time.sleep(5)


# ---- the command


def result(name: str, loss: float, milliseconds: float) -> peers.Result:
    return peers.Result(
        name,
        loss=loss,
        loss_error=abs(loss - 2.0),
        gradient_error=0.0,
        saved_mb=1.0,
        timing=measure.Timing(milliseconds, (milliseconds, milliseconds)),
    )


def test_a_peer_that_computes_something_else_gets_no_ratio() -> None:
    ours, same, other = result("h2learn", 2.0, 2.0), result("x", 2.0, 6.0), result("y", 2.1, 6.0)
    rows = peers.rows("a", 1, [ours, same, other])
    assert [row["ratio"] for row in rows] == [3.0, None]
    assert rows[1]["loss_difference"] == pytest.approx(0.1)
    assert rows[1]["peer_ms"] == 6.0


def report_of(results: list[peers.Result], workload: str = "a", target: str | None = None) -> dict:
    report = {"target": target, "rows": peers.rows(workload, 2, results)}
    return report | {"goals": peers.goals(report)}


def test_goals_are_beside_the_best_peer() -> None:
    ours, jelly = result("h2learn", 2.0, 2.0), result("spikingjelly", 2.0, 12.0)
    fast, other = result("pytorch-compile", 2.0, 6.0), result("pytorch-bf16", 2.3, 4.0)
    jelly.saved_mb, other.comparable = 24.0, False
    report = report_of([ours, jelly, fast, other])
    lines = {line[0]: line[1:] for line in peers.goal_lines(report)}
    assert lines == {
        "step against SpikingJelly": ["a", "2", ">= 5", "spikingjelly", "6.00", "yes"],
        "step against the best of torch.compile and bf16": [
            "a", "2", ">= 2.5", "pytorch-bf16", "2.00", "no"
        ],
        "saved for the backward pass": ["a", "2", ">= 25", "spikingjelly", "24.00", "no"],
    }  # fmt: skip


def test_no_goal_is_reached_by_a_wrong_result_or_beside_an_absent_peer() -> None:
    wrong = report_of([result("h2learn", 2.1, 2.0), result("spikingjelly", 2.0, 100.0)])
    absent = report_of([result("h2learn", 2.0, 2.0), peers.Result("spikingjelly", "not installed")])
    for report in (wrong, absent):
        assert [line[-3:] for line in peers.goal_lines(report)] == [["-", "-", "n/a"]] * 2


def test_the_goal_on_avx2_is_that_of_a_run_held_to_it() -> None:
    both = [result("h2learn", 2.0, 2.0), result("pytorch", 2.0, 5.0)]
    assert report_of(both, "c")["goals"] == []
    (goal,) = report_of(both, "c", "avx2")["goals"]
    assert (goal["ratio"], goal["reached"]) == (2.5, True)


def test_a_run_is_held_to_a_target(tmp_path, capfd) -> None:
    target = targets.TARGETS[-1]
    file = tmp_path / "peers.json"
    options = ["--workloads", "a", "--threads", "1", "--rounds", "1", "--peers", "h2learn,pytorch"]
    assert peers.main([*options, "--target", target, "--json", str(file)]) == 0
    assert json.loads(file.read_text())["target"] == target
    assert f"target {target}," in capfd.readouterr().out


def test_no_ratio_when_h2learn_itself_is_wrong() -> None:
    rows = peers.rows("a", 1, [result("h2learn", 2.1, 2.0), result("x", 2.0, 6.0)])
    assert rows[0]["ratio"] is None


def test_the_command_writes_its_rows(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(problems.WORKLOADS, "a", TINY["images"])
    monkeypatch.setitem(
        CONTESTANTS, "snntorch", lambda *_: (_ for _ in ()).throw(RuntimeError("broken"))
    )
    file = tmp_path / "peers.json"
    options = ["--workloads", "a", "--threads", "1", "--rounds", "1"]
    names = ["--peers", "h2learn,pytorch,snntorch,pytorch-bf16"]
    status = peers.main([*options, *names, "--json", str(file)])
    report = json.loads(file.read_text())
    rows = {row["peer"]: row for row in report["rows"]}
    assert status == 0
    assert set(rows) == {"pytorch", "snntorch", "pytorch-bf16"}
    stable = {"workload", "peer", "threads", "peer_ms", "h2learn_ms", "ratio", "loss_difference"}
    stable |= {"peer_saved_mb", "h2learn_saved_mb"}
    assert all(stable <= set(row) for row in rows.values())
    assert rows["pytorch"]["ratio"] > 0
    assert rows["pytorch"]["peer_saved_mb"] > rows["pytorch"]["h2learn_saved_mb"] > 0
    assert rows["snntorch"]["ratio"] is None
    assert rows["snntorch"]["reason"] == "failed: RuntimeError: broken"
    assert "pytorch" in capsys.readouterr().out


def test_bfloat16_is_left_out_where_it_would_be_emulated(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(machine, "has_bfloat16", lambda: False)
    monkeypatch.setitem(problems.WORKLOADS, "a", TINY["vectors"])
    file = tmp_path / "peers.json"
    options = ["--workloads", "a", "--threads", "1", "--rounds", "1"]
    peers.main([*options, "--peers", "h2learn,pytorch-bf16", "--json", str(file)])
    (row,) = json.loads(file.read_text())["rows"]
    assert row["peer_ms"] is None
    assert "no bfloat16 instructions" in row["reason"]


def test_results_take_the_place_of_the_old_ones(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(problems.WORKLOADS, "a", TINY["images"])
    file, page = tmp_path / "peers.json", tmp_path / "RESULTS.md"
    options = ["--workloads", "a", "--threads", "1", "--rounds", "1", "--peers", "h2learn,pytorch"]
    peers.main([*options, "--json", str(file)])
    page.write_text("before\n<!-- peers-rect -->\nold\n<!-- /peers-rect -->\nafter\n")
    monkeypatch.setattr(results, "RESULTS", page)
    assert results.main([str(file)]) == 0
    once = page.read_text()
    assert "old" not in once
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    assert f"python bench/peers.py {' '.join(options)}" in once
    assert machine.line() in once
    assert "| 1 | pytorch | " in once
    assert results.main([str(file)]) == 0
    assert page.read_text() == once


def test_results_of_an_unknown_kind_change_nothing(tmp_path, monkeypatch, capsys) -> None:
    file, page = tmp_path / "other.json", tmp_path / "RESULTS.md"
    file.write_text('{"rows": [{"x": 1}]}')
    page.write_text("kept")
    monkeypatch.setattr(results, "RESULTS", page)
    assert results.main([str(file)]) == 2
    assert "written by none of peers.py" in capsys.readouterr().err
    assert page.read_text() == "kept"


def test_results_go_to_the_page_and_the_section_that_are_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "untouched.md")
    file, page = tmp_path / "few.json", tmp_path / "OTHER.md"
    file.write_text(json.dumps({"context": {"date": "2026-11-30", "executable": "x"},
                                "benchmarks": []}))  # fmt: skip
    page.write_text("<!-- few -->\nold\n<!-- /few -->\n")
    assert results.main(["--page", str(page), f"few={file}"]) == 0
    assert "old" not in page.read_text()
    assert "`x`" in page.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["OTHER.md", "few.json"]


@pytest.mark.parametrize("report", ["none.json", "google-benchmark", "few=none.json"])
def test_a_report_that_fits_nowhere_changes_nothing(report, tmp_path, capsys) -> None:
    file, page = tmp_path / "google-benchmark", tmp_path / "OTHER.md"
    file.write_text(json.dumps({"context": {"date": "2026-11-30", "executable": "x"},
                                "benchmarks": []}))  # fmt: skip
    page.write_text("<!-- few -->\nold\n<!-- /few -->\n")
    section, equals, name = report.rpartition("=")
    given = f"{section}{equals}{tmp_path / name}"
    assert results.main(["--page", str(page), f"few={file}", given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {given}: ")
    assert page.read_text() == "<!-- few -->\nold\n<!-- /few -->\n"


def test_a_page_that_is_not_there_is_one_line(tmp_path, capsys) -> None:
    file, page = tmp_path / "few.json", tmp_path / "none.md"
    file.write_text("{}")
    assert results.main(["--page", str(page), str(file)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {page}: ")
    assert not page.exists()


EVERY_MACHINE = ("peers-rect", "peers-rect-avx2", "peers-atan", "step", "kernels",
                 "google-benchmark", "accelerator")  # fmt: skip
PAGES = {
    "RESULTS.md": (*EVERY_MACHINE, "peers-rect-fastest", "step-fastest", "accuracy"),
    "RESULTS-avx2.md": (*EVERY_MACHINE, "few-spikes"),
}


@pytest.mark.parametrize(("page", "sections"), PAGES.items(), ids=PAGES)
def test_the_pages_of_results_have_every_section(page, sections) -> None:
    text = results.RESULTS.with_name(page).read_text()
    for name in sections:
        assert "figures" in results.replace(text, name, "figures")


def test_a_line_about_the_machine_names_the_commit(monkeypatch) -> None:
    facts = machine.facts()
    assert machine.line(facts | {"commit": "abc1234"}).endswith(", commit abc1234")
    assert "commit" not in machine.line(facts | {"commit": ""})
    del facts["commit"]  # as in reports of before
    assert "commit" not in machine.line(facts)
    monkeypatch.setenv("PATH", "")
    assert machine.facts()["commit"] == ""


@pytest.mark.parametrize(
    "arguments",
    [["--workloads", "d"], ["--threads", "0"], ["--rounds", "x"], ["--peers", "norse"]],
)
def test_a_wrong_argument_ends_with_status_2(arguments, capsys) -> None:
    with pytest.raises(SystemExit) as error:
        peers.main(arguments)
    assert error.value.code == 2
    assert arguments[1] in capsys.readouterr().err


# ---- accelerator


def test_the_accelerator_is_measured_and_written_down(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(problems.WORKLOADS, "a", TINY["images"])
    file, page = tmp_path / "accelerator.json", tmp_path / "RESULTS.md"
    options = ["--workloads", "a", "--threads", "1", "--rounds", "1", "--configs", "3"]
    threads = torch.get_num_threads()
    assert accelerator.main([*options, "--json", str(file)]) == 0
    torch.set_num_threads(threads)
    report = json.loads(file.read_text())
    assert report["configs"] == 3
    assert report["mismatches"] == 0
    (row,) = report["rows"]
    assert row["cycles"] > 0
    assert row["overhead"] == pytest.approx(row["offloaded_ms"] / row["step_ms"] - 1)
    assert "M cycles/s" in capsys.readouterr().out
    page.write_text("<!-- accelerator -->\n<!-- /accelerator -->\n")
    monkeypatch.setattr(results, "RESULTS", page)
    assert results.main([str(file)]) == 0
    assert f"{row['cycles']:,}" in page.read_text()


# ---- accuracy


def test_the_plain_network_computes_the_same_as_the_model() -> None:
    torch.manual_seed(1)
    model = h2learn.models.lenet((2, 20, 20), 10)
    copy = accuracy.in_plain_pytorch(model)
    inputs = (torch.rand(4, 3, 2, 20, 20) < 0.3).float()
    scores, copied = model(h2learn.SpikeTensor.from_dense(inputs)), copy(inputs)
    torch.testing.assert_close(copied, scores, rtol=1e-5, atol=1e-5)
    labels = torch.tensor([1, 2, 3])
    for s in (scores, copied):
        nn.functional.cross_entropy(s, labels).backward()
    found = [p.grad for p in copy.parameters()]
    assert measure.relative_error(found, [p.grad for p in model.parameters()]) < 1e-5


def test_a_layer_without_plain_counterpart_is_named() -> None:
    with pytest.raises(TypeError, match="Dropout"):
        accuracy.in_plain_pytorch(nn.Sequential(h2learn.nn.Dropout(0.5)))


def test_accuracy_is_compared_on_the_digits(tmp_path, capsys) -> None:
    pytest.importorskip("sklearn")
    file = tmp_path / "accuracy.json"
    arguments = ["--only", "digits-mlp", "--seeds", "0", "--epochs", "1", "--json", str(file)]
    accuracy.main(arguments)
    (row,) = json.loads(file.read_text())["rows"]
    assert row["h2learn_accuracy_percent"] > 85
    assert abs(row["difference_points"]) < 3
    assert row["epochs"] == 1
    assert "digits-mlp" in capsys.readouterr().out


def test_missing_data_ends_with_status_2(tmp_path, capsys) -> None:
    assert accuracy.main(["--only", "mnist-mlp", "--root", str(tmp_path)]) == 2
    assert "mnist" in capsys.readouterr().err


def test_the_machine_is_named_in_one_line() -> None:
    text = machine.line()
    assert "\n" not in text
    assert torch.__version__ in text
    assert f"{machine.facts()['cores']} cores" in text
