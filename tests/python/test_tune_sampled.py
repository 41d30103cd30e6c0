"""bench/tune.py --sampled: the row of constants that decides where `auto` takes `sampled`."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import costs
import fitting
import pytest
import sampled_costs
import tune
from choice import Row, Sample
from layer import Layer
from sampled_costs import SampledChoice, SampledCosts
from test_tune import PROGRAMS

CHOICE = SampledChoice()
KNOWN = SampledCosts(
    fixed=0.25, by_channels=9.0, by_terms=14.0, needed=1.5, needed_by_terms=70.0,
    events=0.3, events_by_channels=20.0, taps=0.2, taps_by_channels=6.0, nonzero=1.2,
)  # fmt: skip
OTHER = SampledCosts(**{name: 4.0 * value for name, value in KNOWN.as_dict().items()})


def layer(density: float, needed: float, channels: int = 128) -> Layer:
    return Layer("masked_backward", channels, 8, 64, 3, 1, 1, 4, density, needed)


def made_up(noise: float = 0.0) -> list[Sample]:
    """Times that follow the model."""
    generator = random.Random(1)  # noqa: S311
    samples = []
    for each in tune.masked_grid(quick=False):
        dense = generator.uniform(1e5, 1e8)
        ns = {way: dense * CHOICE.cost(each, way, KNOWN) for way in CHOICE.ways}
        ns = {way: time * generator.uniform(1 - noise, 1 + noise) for way, time in ns.items()}
        samples.append(Sample(each, ns, min(ns.values())))
    return samples


# ---- the file


def test_the_file_in_the_tree_is_what_the_tool_writes() -> None:
    text = sampled_costs.FILE.read_text()
    row = sampled_costs.parse(text)
    assert sampled_costs.render(row) == text
    assert "make tune TUNE=--sampled" in row.origin
    assert min(row.costs.as_dict().values()) >= 0


@pytest.mark.parametrize(
    ("old", "new"), [(".needed =", ".need ="), (".by_terms", "// "), (".events =", ".fixed =")]
)
def test_a_row_that_lacks_a_constant_is_an_error(old: str, new: str) -> None:
    text = sampled_costs.render(Row("Made up.", KNOWN))
    assert sampled_costs.parse(text) == Row("Made up.", KNOWN)
    with pytest.raises(ValueError, match="row"):
        sampled_costs.parse(text.replace(old, new))


# ---- the fit


def test_least_squares_find_the_constants_that_made_the_times() -> None:
    found = fitting.least_squares(made_up(), OTHER, CHOICE)
    assert found.as_dict() == pytest.approx(KNOWN.as_dict(), rel=1e-4)


def test_noise_moves_the_choice_little() -> None:
    samples = made_up(noise=0.05)
    found = fitting.fit(samples, OTHER, CHOICE)
    for name in ("needed", "nonzero", "events_by_channels"):
        assert found.as_dict()[name] == pytest.approx(KNOWN.as_dict()[name], rel=0.3), name
    assert fitting.losses(samples, found, CHOICE).slow == 0
    assert fitting.losses(samples, OTHER, CHOICE).slow > 20


def test_what_is_not_sampled_costs_what_the_better_other_kernel_does() -> None:
    sample = Sample(layer(1.0, 0.9), {"dense": 3.0, "event": 2.0, "sampled": 1.0}, 1.0)
    assert CHOICE.choose(sample.layer, KNOWN) == "dense"
    assert fitting.losses([sample], KNOWN, CHOICE).mean == 2.0
    assert CHOICE.regret(sample, "sampled") == 1.0


# ---- the choice


def test_sampled_is_chosen_where_few_gradients_are_needed_and_many_are_not_zero() -> None:
    assert CHOICE.choose(layer(1.0, 0.1), KNOWN) == "sampled"
    assert CHOICE.choose(layer(1.0, 0.6), KNOWN) == "dense"
    assert CHOICE.choose(layer(0.05, 0.2), KNOWN) == "event"
    assert CHOICE.choose(layer(1.0, 0.1, channels=8), KNOWN) == "dense"


def test_the_grid_holds_what_the_core_could_sample() -> None:
    layers = tune.masked_grid(quick=False)
    assert {(each.density, each.needed) for each in layers} == set(
        itertools.product(tune.MASKED_DENSITIES, tune.NEEDED)
    )
    # Linear layers of few images read their weights in place, whatever the mask is.
    assert {each.images for each in layers if each.size == 1} == {512}


# ---- the command


@pytest.mark.parametrize("old", [OTHER, KNOWN])
def test_the_row_is_replaced_only_where_it_loses_less(
    old: SampledCosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    before = sampled_costs.render(Row("Made up.", old))
    out = tmp_path / "sampled_costs.inc"
    out.write_text(before)
    others = costs.FILE.read_text()
    monkeypatch.setattr(sampled_costs, "FILE", out)
    monkeypatch.setattr(tune, "measure", lambda *_: made_up())
    report_file = tmp_path / "tune.json"
    assert tune.main(["--sampled", "--json", str(report_file)]) == 0
    printed = capsys.readouterr().out
    (report,) = json.loads(report_file.read_text())["targets"].values()
    assert report["old"] == old.as_dict()
    assert report["after"]["slow"] == 0
    assert costs.FILE.read_text() == others
    if old == KNOWN:  # which nothing can better
        assert out.read_text() == before
        assert "The old constants lose less and stay." in printed
        return
    row = sampled_costs.parse(out.read_text())
    assert row.costs.as_dict() == report["new"] == pytest.approx(KNOWN.as_dict(), rel=0.01)
    assert f"{tune.TARGETS[-1]}, one thread" in row.origin
    assert "belongs to a release of the project" in printed


def test_the_core_chooses_as_foretold_on_every_target() -> None:
    if not PROGRAMS:
        pytest.skip("h2learn_tune is not built: make cpp-test, or make tune")
    constants = sampled_costs.parse(sampled_costs.FILE.read_text()).costs
    layers = [
        layer(density, needed, channels)
        for channels in (16, 128, 256)
        for density in (0.0, 0.1, 0.3, 1.0)
        for needed in (0.02, 0.1, 0.3, 0.6)
    ]
    seen = set()
    for target in tune.TARGETS:
        for sample in tune.measure(PROGRAMS[-1], target, layers, rounds=1):
            prices = [CHOICE.cost(sample.layer, way, constants) for way in CHOICE.ways]
            if abs(min(prices[:2]) / prices[2] - 1) > 0.1:  # else the densities drawn decide
                found = CHOICE.choose(sample.layer, constants)
                assert sample.chosen == ("sampled" if found == "sampled" else "others"), sample
                seen.add(found)
    assert seen == set(CHOICE.ways)


def test_a_program_that_fails_writes_nothing(tmp_path: Path, capsys) -> None:
    out = tmp_path / "sampled_costs.inc"
    assert tune.main(["--sampled", "--program", "/bin/false", "--out", str(out)]) == 1
    assert "status 1" in capsys.readouterr().err
    assert not out.exists()


def test_products_and_sampled_exclude_each_other(capsys) -> None:
    with pytest.raises(SystemExit) as error:
        tune.main(["--sampled", "--products", "forward"])
    assert error.value.code == 2
    assert "--products" in capsys.readouterr().err
