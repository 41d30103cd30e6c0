"""bench/tune.py --digits: the rows of constants that decide where `fastest` takes `digits`."""

from __future__ import annotations

import json
import random
from pathlib import Path

import digits_costs
import fitting
import pytest
import tune
from choice import Row, Sample
from digits_costs import NEVER, DigitsChoice, DigitsCosts
from layer import Layer
from test_tune import PROGRAMS

CHOICE = DigitsChoice("amx")
KNOWN = DigitsCosts(
    multiply=0.3, by_rows=40.0, by_terms=12.0, by_columns=2.0, events=0.2, events_by_columns=6.0,
    nonzero=1.2,
)  # fmt: skip


def layer(density: float, outputs: int = 256, images: int = 8, channels: int = 64) -> Layer:
    return Layer("digits_forward", channels, 16, outputs, 3, 1, 1, images, density)


def made_up(product: str = "forward", noise: float = 0.0) -> list[Sample]:
    """Times that follow the model."""
    generator = random.Random(1)  # noqa: S311
    samples = []
    for each in tune.digits_grid(product, quick=False):
        ways = CHOICE.ways_of(each)
        if "digits" in ways:
            dense = generator.uniform(1e5, 1e8)
            ns = {way: dense * CHOICE.cost(each, way, KNOWN) for way in ways}
            ns = {way: time * generator.uniform(1 - noise, 1 + noise) for way, time in ns.items()}
            samples.append(Sample(each, ns, min(ns.values())))
    return samples


# ---- the file


def test_the_file_in_the_tree_is_what_the_tool_writes() -> None:
    text = digits_costs.FILE.read_text()
    rows = digits_costs.parse(text)
    assert digits_costs.render(rows) == text
    for (target, product), row in rows.items():
        assert target in tune.DIGITS_ONLY
        assert product in digits_costs.PRODUCTS
        assert "make tune TUNE=--digits" in row.origin
        assert min(row.costs.as_dict().values()) >= 0


def test_any_number_of_rows_is_read_again() -> None:
    rows = {}
    assert digits_costs.parse(digits_costs.render(rows)) == rows
    for key in (("amx", "forward"), ("amx", "backward"), ("avx512vnni", "weight_update")):
        rows[key] = Row("Made up.", KNOWN)
        assert digits_costs.parse(digits_costs.render(rows)) == rows


@pytest.mark.parametrize(
    ("old", "new"),
    [(".multiply =", ".multiplies ="), (".by_terms", "// "), ("Target::amx", "amx")],
)
def test_a_row_that_lacks_something_is_an_error(old: str, new: str) -> None:
    text = digits_costs.render({("amx", "forward"): Row("Made up.", KNOWN)})
    with pytest.raises(ValueError, match="row"):
        digits_costs.parse(text.replace(old, new))


# ---- the choice and its fit


def test_digits_are_chosen_where_much_is_not_zero_and_tiles_are_full() -> None:
    assert CHOICE.choose(layer(0.5), KNOWN) == "digits"
    assert CHOICE.choose(layer(0.01), KNOWN) == "event"
    assert CHOICE.choose(layer(0.5, outputs=2), KNOWN) == "dense"
    assert CHOICE.choose(Layer("digits_forward", 512, 1, 512, 1, 0, 1, 1, 0.5), KNOWN) == "event"
    assert CHOICE.choose(layer(0.5), NEVER) != "digits"
    assert "digits" not in CHOICE.ways_of(layer(0.5, channels=2))  # no tiles
    assert "digits" in DigitsChoice("avx512vnni").ways_of(layer(0.5, channels=2))


@pytest.mark.parametrize("product", digits_costs.PRODUCTS)
def test_least_squares_find_the_constants_that_made_the_times(product: str) -> None:
    found = fitting.least_squares(made_up(product), NEVER, CHOICE)
    assert found.as_dict() == pytest.approx(KNOWN.as_dict(), rel=1e-4)


def test_noise_moves_the_choice_little() -> None:
    samples = made_up(noise=0.05)
    found = fitting.fit(samples, NEVER, CHOICE)
    assert found.multiply == pytest.approx(KNOWN.multiply, rel=0.1)
    assert fitting.losses(samples, found, CHOICE).slow == 0
    assert fitting.losses(samples, NEVER, CHOICE).slow > 20


# ---- the command


def _digits_of_forward(_program: Path, _target: str, layers: list[Layer], _rounds: int):
    """Times of a machine whose only product by digits is the forward one."""
    samples = []
    for each in layers:
        ns = {way: 1e6 * CHOICE.cost(each, way, KNOWN) for way in CHOICE.ways_of(each)}
        if each.product != "digits_forward":
            ns.pop("digits", None)
        samples.append(Sample(each, ns, min(ns.values())))
    return samples


def test_rows_are_written_for_products_that_digits_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    kept = {("avx512vnni", "backward"): Row("Made up.", KNOWN)}
    file, out, report = (tmp_path / name for name in ("old.inc", "new.inc", "tune.json"))
    file.write_text(digits_costs.render(kept))
    monkeypatch.setattr(digits_costs, "FILE", file)
    monkeypatch.setattr(tune, "DIGITS_TARGETS", ["amx"])
    monkeypatch.setattr(tune, "measure", _digits_of_forward)
    assert tune.main(["--digits", "--out", str(out), "--json", str(report)]) == 0
    rows = digits_costs.parse(out.read_text())
    assert rows.keys() == {("avx512vnni", "backward"), ("amx", "forward")}
    assert rows["avx512vnni", "backward"] == kept["avx512vnni", "backward"]
    assert rows["amx", "forward"].costs.as_dict() == pytest.approx(KNOWN.as_dict(), rel=0.01)
    assert json.loads(report.read_text())["targets"].keys() == {"amx, forward"}
    assert "amx, backward: digits leave it to auto" in capsys.readouterr().out


def test_a_row_that_gains_nothing_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def slow(*arguments) -> list[Sample]:
        return [
            Sample(s.layer, {**s.ns, "digits": 10 * s.ns["dense"]}, s.auto_ns)
            for s in _digits_of_forward(*arguments)
        ]

    file = tmp_path / "digits_costs.inc"
    file.write_text(digits_costs.render({}))
    monkeypatch.setattr(digits_costs, "FILE", file)
    monkeypatch.setattr(tune, "DIGITS_TARGETS", ["avx512vnni"])
    monkeypatch.setattr(tune, "measure", slow)
    assert tune.main(["--digits"]) == 0
    assert digits_costs.parse(file.read_text()) == {}
    assert "the old constants lose less and stay" in capsys.readouterr().out


def test_targets_must_fit_what_is_measured(capsys) -> None:
    for arguments in (["--digits", "--targets", "baseline"], ["--digits", "--sampled"]):
        with pytest.raises(SystemExit) as error:
            tune.main(arguments)
        assert error.value.code == 2
    assert "--targets" in capsys.readouterr().err


def test_the_core_chooses_as_foretold() -> None:
    if not PROGRAMS:
        pytest.skip("h2learn_tune is not built: make cpp-test, or make tune")
    rows = digits_costs.parse(digits_costs.FILE.read_text())
    layers = [
        Layer("digits_forward", channels, size, outputs, kernel, kernel // 2, 1, images, density)
        for channels, size, outputs, kernel in (
            (64, 8, 256, 3), (64, 8, 16, 3), (512, 1, 512, 1), (2, 12, 32, 3), (48, 8, 40, 3),
        )
        for images in (2, 64)
        for density in (0.0, 0.02, 0.1, 0.5)
    ]  # fmt: skip
    for target in tune.DIGITS_TARGETS:
        choice = DigitsChoice(target)
        row = rows.get((target, "forward"))
        constants = NEVER if row is None else row.costs
        seen = set()
        for sample in tune.measure(PROGRAMS[-1], target, layers, rounds=1):
            each = sample.layer
            others = min(choice.cost(each, way, constants) for way in choice.ways[:-1])
            if "digits" not in sample.ns or "digits" not in choice.ways_of(each):
                assert sample.chosen == "others", sample
            elif abs(choice.cost(each, "digits", constants) / others - 1) > 0.1:
                found = choice.choose(each, constants)
                assert sample.chosen == ("digits" if found == "digits" else "others"), sample
                seen.add(sample.chosen)
        assert seen == ({"others"} if row is None else {"digits", "others"})
