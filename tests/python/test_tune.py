"""bench/tune.py: the file that it writes, the fit, and the choice that it foretells."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import choice
import costs
import fitting
import pytest
import tune
from choice import Row, Sample
from costs import Costs, KernelChoice
from layer import Layer

KNOWN = Costs(
    gather_row=60.0, gather_run=35.0, gather_values=80.0, list_bit=0.3, list_value=6.0,
    bit_event=1.4, value_event=1.9, start_sum=8.0, start_tap=13.0, walk_event=2.5,
    next_bit=20.0, next_output=3.0,
    next_weight=9.0, bit_scatter=2.5, start_scatter=12.0, narrow=1.2, far=0.8,
)  # fmt: skip
OTHER = Costs(**{name: 3.0 * value for name, value in KNOWN.as_dict().items()})
CHOICE = KernelChoice(lanes=8)
ROOT = Path(tune.__file__).parent.parent
PROGRAMS = sorted(ROOT.glob("build/*/bench/h2learn_tune"), key=lambda file: file.stat().st_mtime)


def made_up(noise: float = 0.0) -> list[Sample]:
    """Times that follow the model, each layer's on top of what all its kernels pay."""
    generator = random.Random(1)  # noqa: S311
    samples = []
    for layer in tune.grid(tune.PRODUCTS, quick=False)[::4]:
        both = generator.uniform(0.0, 1e6)
        ns = {
            way: both + 0.3 * layer.blocks(CHOICE.lanes) * CHOICE.cost(layer, way, KNOWN)
            for way in CHOICE.ways_of(layer)
        }
        ns = {way: time * generator.uniform(1 - noise, 1 + noise) for way, time in ns.items()}
        samples.append(Sample(layer, ns, min(ns.values())))
    return samples


# ---- the file


def test_the_file_in_the_tree_is_what_the_tool_writes() -> None:
    text = costs.FILE.read_text()
    rows = costs.parse(text)
    assert set(rows) == set(tune.WIDTHS.values())
    assert costs.render(rows) == text


def test_a_row_that_is_replaced_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "costs.inc"
    path.write_text(costs.FILE.read_text())
    rows = costs.parse(path.read_text())
    choice.write(costs.render({**rows, 32: Row("Made up.", KNOWN.rounded())}), path)
    assert costs.parse(path.read_text()) == {**rows, 32: Row("Made up.", KNOWN)}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("old", "new"),
    [(".list_bit", ".list_bits"), ("    .narrow = ", "    // "), ("{\n", "")],
)
def test_a_row_that_lacks_a_constant_is_an_error(old: str, new: str) -> None:
    text = costs.render({32: Row("Made up.", KNOWN)})
    with pytest.raises(ValueError, match="row"):
        costs.parse(text.replace(old, new))


def test_numbers_are_written_as_the_compiler_reads_them() -> None:
    row = dataclasses.replace(KNOWN, list_bit=0.0000123, list_value=250.0, narrow=0.0)
    text = costs.render({32: Row("Made up.", row)})
    assert ".list_bit = 0.0000123F," in text
    assert ".list_value = 250," in text
    assert costs.parse(text)[32].costs == row


# ---- the fit


def test_least_squares_find_the_constants_that_made_the_times() -> None:
    found = fitting.least_squares(made_up(), OTHER, CHOICE)
    assert found.as_dict() == pytest.approx(KNOWN.as_dict(), rel=1e-4)


def test_noise_moves_them_little_and_the_choice_less() -> None:
    samples = made_up(noise=0.05)
    found = fitting.fit(samples, OTHER, CHOICE)
    for name in ("bit_event", "value_event", "list_value", "bit_scatter"):
        assert found.as_dict()[name] == pytest.approx(KNOWN.as_dict()[name], rel=0.3), name
    assert fitting.losses(samples, found, CHOICE).slow == 0
    assert fitting.losses(samples, OTHER, CHOICE).slow > 5


def test_constants_that_no_sample_knows_stay() -> None:
    samples = [s for s in made_up() if s.layer.product == "backward"]
    found = fitting.fit(samples, OTHER, CHOICE)
    assert found.bit_event == OTHER.bit_event
    assert found.next_weight == OTHER.next_weight
    assert found.value_event == pytest.approx(KNOWN.value_event, rel=1e-4)


def test_losses_are_the_chosen_ones_times_over_the_best() -> None:
    layer = Layer("forward", 784, 1, 512, 1, 0, 1, 512, 0.01)
    samples = [
        Sample(layer, {"event": 3.0, "dense": 1.0, "walk": 2.0}, 1.5),
        Sample(layer, {"event": 3.0, "dense": 2.0, "walk": 1.0}, 1.0),
    ]
    found = fitting.losses(samples, KNOWN, CHOICE)  # at 1 % it walks
    assert (found.slow, found.worst, found.mean) == (1, 2.0, 1.5)
    assert fitting.measured_losses(samples).mean == 1.25
    assert "784-512" in found.there


# ---- the choice


def test_events_are_chosen_where_they_are_few() -> None:
    layer = Layer("forward", 784, 1, 512, 1, 0, 1, 512, 0.01)
    assert CHOICE.choose(layer, KNOWN) == "walk"
    assert CHOICE.choose(dataclasses.replace(layer, density=0.1), KNOWN) == "event"
    assert CHOICE.choose(dataclasses.replace(layer, density=0.99), KNOWN) == "dense"
    image = Layer("forward", 2, 34, 16, 5, 0, 1, 8, 0.01)
    assert CHOICE.ways_of(image) == ["windows", "dense", "event", "scatter"]
    assert CHOICE.choose(image, KNOWN) == "scatter"


def test_runs_are_the_stretches_of_a_window_in_a_block() -> None:
    assert Layer("forward", 64, 16, 8, 1, 0, 1, 1, 0.1).runs == 1
    assert Layer("forward", 2, 34, 16, 5, 0, 1, 1, 0.1).runs == 5
    # 3 rows of 384 in blocks of 256: 1, 2, 1, 1 and 1 runs.
    assert Layer("forward", 128, 32, 8, 3, 1, 1, 1, 0.1).runs == pytest.approx(6 / 5)


# ---- the command


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The file and the report of a run on a few small layers."""
    if not PROGRAMS:
        pytest.skip("h2learn_tune is not built: make cpp-test, or make tune")
    folder = tmp_path_factory.mktemp("tune")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune, "LINEAR", ((70, 1, 40), (300, 1, 9), (100, 1, 100), (64, 1, 8)))
        patch.setattr(tune, "CONVOLUTIONS", ((3, 9, 16, 3, 1, 1), (40, 6, 24, 3, 1, 1)))
        patch.setattr(tune, "MULTIPLY_ADDS", 2**18)
        status = tune.main(
            ["--quick", "--rounds", "1", "--program", str(PROGRAMS[-1]), "--targets", "baseline",
             "--out", str(folder / "costs.inc"), "--json", str(folder / "new" / "tune.json")]
        )  # fmt: skip
    assert status == 0
    return folder / "costs.inc", json.loads((folder / "new" / "tune.json").read_text())


def test_a_run_writes_a_file_that_the_build_can_read(written: tuple[Path, dict]) -> None:
    rows, old = costs.parse(written[0].read_text()), costs.parse(costs.FILE.read_text())
    assert {rows[width] == old[width] for width in (32, 64)} == {True}
    report = written[1]["targets"]["baseline"]
    better = report["after"]["mean"] < report["before"]["mean"]
    assert rows[16].costs.as_dict() == report["new" if better else "old"]
    assert all(sample["ns"]["event"] > 0 for sample in report["samples"])
    assert {sample["product"] for sample in report["samples"]} == set(tune.PRODUCTS)


def test_the_core_chooses_as_foretold(tmp_path: Path) -> None:
    if not PROGRAMS:
        pytest.skip("h2learn_tune is not built: make cpp-test, or make tune")
    shapes = [(2, 34, 16, 5, 0, 1, 4), (40, 12, 48, 3, 1, 1, 2), (64, 8, 40, 1, 0, 1, 4),
              (128, 9, 64, 3, 1, 1, 2), (192, 6, 70, 3, 0, 1, 3),
              (24, 9, 8, 3, 1, 2, 4), (128, 4, 96, 3, 1, 1, 2),
              (784, 1, 96, 1, 0, 1, 300), (2000, 1, 40, 1, 0, 1, 300),
              (784, 1, 512, 1, 0, 1, 64)]  # fmt: skip
    layers = [
        Layer(product, *shape, density)
        for product in tune.PRODUCTS
        for shape in shapes
        for density in (0.01, 0.1, 0.3, 0.6)
    ]
    layers = [layer for layer in layers if layer.has_windows or layer.can_walk]
    target = tune.TARGETS[-1]
    kernel_choice = KernelChoice(tune.WIDTHS[target] // 4)
    constants = costs.parse(costs.FILE.read_text())[tune.WIDTHS[target]].costs
    seen = set()
    for sample in tune.measure(PROGRAMS[-1], target, layers, rounds=1):
        prices = [
            kernel_choice.cost(sample.layer, way, constants)
            for way in kernel_choice.ways_of(sample.layer)
        ]
        least, second, *_ = sorted(prices)
        if second > 1.1 * least:  # else the density that was drawn decides
            found = kernel_choice.choose(sample.layer, constants)
            reading = found if found in ("windows", "taps", "scatter", "walk") else "gather"
            assert sample.chosen == reading, sample.layer
            seen.add(found)
    assert seen >= {"windows", "event", "taps", "scatter", "walk"}


def test_a_program_that_fails_writes_nothing(tmp_path: Path, capsys) -> None:
    out = tmp_path / "costs.inc"
    for program, message in (("/bin/false", "status 1"), (str(tmp_path / "absent"), "absent")):
        assert tune.main(["--program", program, "--out", str(out)]) == 1
        assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("arguments", [["--targets", "scalar"], ["--products", "pool"]])
def test_a_wrong_argument_ends_with_status_2(arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as error:
        tune.main(arguments)
    assert error.value.code == 2
    assert arguments[1] in capsys.readouterr().err
