"""bench/step.py: the work that it counts is the work that there is, and its tables add up."""

from __future__ import annotations

import json
from dataclasses import replace

import contestants
import problems
import pytest
import results
import step
import torch
import torch.nn.functional as F
from ceiling import Ceiling
from h2learn import ops
from problems import Workload, make_problem

TINY = Workload("a", "6C3-AP2-8C3-10", 1, (2, 10, 10), 3, 2, "events", 0.2)
ROOF = Ceiling(
    flops=2e9,
    l1_bytes_per_second=8e9,
    l2_bytes_per_second=4e9,
    dram_read_bytes_per_second=1e9,
    dram_copy_bytes_per_second=1e9,
)


@pytest.mark.parametrize(
    ("channels", "size", "outputs", "kernel", "stride", "padding", "dilation", "groups"),
    [
        (3, (7, 9), 5, (3, 3), (1, 1), (1, 1), (1, 1), 1),
        (4, (8, 6), 6, (5, 3), (2, 1), (2, 0), (1, 2), 2),
        (2, (4, 4), 2, (1, 1), (3, 2), (0, 0), (1, 1), 2),
        (9, (1, 1), 7, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    ],
)
def test_multiply_adds_are_those_of_a_convolution(
    channels, size, outputs, kernel, stride, padding, dilation, groups
) -> None:
    shape = ops.geometry(channels, size, outputs, kernel, stride, padding, dilation, groups)
    ones = torch.ones(1, channels, *size)
    weight = torch.ones(outputs, channels // groups, *kernel)
    summed = F.conv2d(ones, weight, None, stride, padding, dilation, groups).sum()
    assert step.multiply_adds(shape) == summed


def test_every_operator_of_a_step_is_counted() -> None:
    torch.set_num_threads(1)
    problem = make_problem(TINY)
    calls, whole, _ = step.measure_calls(problem, "rect", 3)
    assert len(whole) == 3
    assert all(len(call.seconds) == 3 for call in calls)
    for i, seconds in enumerate(whole):
        assert 0 < sum(call.seconds[i] for call in calls) < seconds
    kinds = [call.what for call in calls]
    assert kinds.count("forward and neurons") == 3
    assert kinds.count("weight gradient") == 3
    assert kinds.count("input gradient") == 2
    works = [call.work for call in calls if call.work is not None]
    rates = [problem.inputs.mean().item(), *problem.firing_rates]
    first, last = works[0], [w for w in works if w.layer == "200 -> 10"]
    assert first.nonzero == pytest.approx(rates[0])
    assert first.macs == 3 * 2 * step.multiply_adds(ops.geometry(2, (10, 10), 6, (3, 3), (1, 1), (1, 1)))  # noqa: E501 # fmt: skip
    assert len(last) == 3
    assert last[0].nonzero == pytest.approx(rates[2])  # forward: spikes of the layer before
    assert 0 < last[1].needed < 1  # backward: under their mask
    assert {call.work.layer for call in calls if call.what == "input gradient"} == {
        "200 -> 10", "6x5x5 -> 8, 3x3",
    }  # fmt: skip


def test_operators_are_themselves_again_afterwards() -> None:
    before = {name: getattr(ops, name) for name in (*step.SYNAPSES, *step.OTHERS)}
    with pytest.raises(ZeroDivisionError), step.watched([]):
        raise ZeroDivisionError
    assert all(getattr(ops, name) is function for name, function in before.items())


def test_what_is_left_of_a_step_is_taken_step_by_step() -> None:
    """Medians of noisy steps, subtracted from each other, could be negative."""
    calls = [step.Call("", None, [1.0, 5.0, 2.0]), step.Call("", None, [3.0, 1.0, 2.0])]
    assert step._without_ms([4.5, 6.25, 5.0], calls) == pytest.approx(500)
    assert step._without_ms([4.5, 6.25, 5.0], []) == pytest.approx(5000)


def test_the_least_time_is_the_cheapest_way_at_the_rates() -> None:
    # 1e9 multiply-adds and 2e9 additions a second.
    assert step.Work("", 1e6, 1.0, 1.0).least_ms(ROOF) == pytest.approx(0.5)
    assert step.Work("", 1e6, 0.1, 1.0).least_ms(ROOF) == pytest.approx(0.05)
    assert step.Work("", 1e6, 1.0, 0.2).least_ms(ROOF) == pytest.approx(0.2)
    with_bytes = replace(ROOF, int8_ops=1e11)
    assert step.Work("", 1e6, 1.0, 1.0, 4).least_ms(with_bytes) == pytest.approx(0.5)
    assert step.Work("", 1e6, 1.0, 1.0, 4).least_ms(with_bytes, "fastest") == pytest.approx(0.08)
    assert step.Work("", 1e6, 1.0, 1.0, 4).least_ms(ROOF, "fastest") == pytest.approx(0.5)
    assert step.Work("", 1e6, 1.0, 1.0).least_ms(with_bytes, "fastest") == pytest.approx(0.5)


def test_the_command_prints_and_writes(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(problems.WORKLOADS, "a", TINY)
    monkeypatch.setattr(step, "measure_ceiling", lambda target, threads: ROOF)
    file, page = tmp_path / "step.json", tmp_path / "RESULTS.md"
    assert step.main(["--workloads", "a", "--threads", "1,2", "--rounds", "1", "--peer", "pytorch",
                      "--json", str(file)]) == 0  # fmt: skip
    printed = capsys.readouterr().out
    assert "Steps beside the roof of their products" in printed
    report = json.loads(file.read_text())
    (one, two) = report["steps"]
    operators = [row for row in report["operators"] if row["threads"] == 1]
    assert one["least_ms"] == pytest.approx(sum(row["least_ms"] or 0 for row in operators))
    assert one["most_ratio"] == pytest.approx(one["peer_ms"] / one["least_ms"])
    assert 0 < one["outside_ms"] < one["rest_ms"] < one["watched_ms"]
    assert one["highest_bytes"] >= 0
    all_else = one["least_ms"] + one["rest_ms"]
    assert one["products_ratio"] == pytest.approx(one["peer_ms"] / all_else)
    summary = step.tables(report)[0]
    assert summary.rows[1][3] == f"{one['ms'] / two['ms']:.2f}"
    page.write_text("<!-- step -->\nold\n<!-- /step -->\n")
    monkeypatch.setattr(results, "RESULTS", page)
    assert results.main([str(file)]) == 0
    assert "| forward and neurons | 2x10x10 -> 6, 3x3 |" in page.read_text()


def test_a_step_that_disagrees_is_refused(monkeypatch, capsys) -> None:
    monkeypatch.setitem(problems.WORKLOADS, "a", TINY)
    monkeypatch.setattr(step, "measure_ceiling", lambda target, threads: ROOF)
    right = contestants.Contestant.loss
    monkeypatch.setattr(contestants.Contestant, "loss", lambda *a: right(*a) * 1.01)
    command = ["--workloads", "a", "--threads", "1", "--rounds", "1", "--peer", "pytorch"]
    assert step.main(command) == 1
    assert "h2learn disagrees with float64" in capsys.readouterr().err
