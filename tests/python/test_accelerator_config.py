"""Configuration of accelerators: presets, files, overrides, and what cannot be."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from h2learn import _core
from h2learn.accelerators import Accelerator, presets
from h2learn.accelerators.config import PRESETS
from h2learn.errors import InputError
from h2learn.toml import LIMIT_BYTES
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
GROUPS = ("forward", "soma", "gradient", "backward", "update", "dram")
H2LEARN = Accelerator.load("h2learn")
NAMES = [row.name for row in H2LEARN.describe()]


def core_values(machine) -> dict[str, object]:
    """Every attribute that the bindings give a machine, by dotted name."""
    values = {}
    for name in (name for name in dir(machine) if not name.startswith("_")):
        value = getattr(machine, name)
        if name in GROUPS:
            values |= {f"{name}.{n}": getattr(value, n) for n in dir(value) if n[0] != "_"}
        elif not callable(value):
            values[name] = value
    return values


def refusal(call) -> str:
    """The one line that bad input gives."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1500
    return message


def load_text(folder: Path, text: str | bytes, *overrides: str) -> Accelerator:
    path = folder / "mine.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Accelerator.load(str(path), overrides)


# ---- presets


def test_h2learn_is_what_the_core_has_by_default():
    assert core_values(H2LEARN.to_core()) == core_values(_core.Machine())


def test_every_parameter_of_the_core_is_a_parameter():
    of_core = set(core_values(_core.Machine())) - {"value_bytes"} | {"clock_hz", "precision"}
    assert of_core == set(NAMES)


def test_names_of_presets():
    assert presets() == ("h2learn", "h2learn-dense", "h2learn-small")
    for name in presets():
        assert Accelerator.load(name).name == name


def test_peaks():
    assert H2LEARN.peak_operations_per_cycle == {
        "forward": 12288,
        "backward": 12288,
        "update": 10240,
    }
    small = Accelerator.load("h2learn-small").peak_operations_per_cycle
    assert {name: 4 * peak for name, peak in small.items()} == H2LEARN.peak_operations_per_cycle
    # Without tables a PE adds one operand a cycle.
    dense = Accelerator.load("h2learn-dense").peak_operations_per_cycle
    assert dense == {"forward": 2048, "backward": 12288, "update": 2048}


def test_the_preset_writes_out_every_parameter_with_its_grade():
    section, written = "", {}
    for line in (PRESETS / "h2learn.toml").read_text().splitlines():
        if header := re.match(r"\[(\w+)\]", line):
            section = header[1] + "."
        elif entry := re.match(r"(\w+) = \S+ *# (.+)", line):
            written[section + entry[1]] = entry[2]
    described = {row.name: row for row in H2LEARN.describe()}
    assert set(written) - {"hypothetical"} == set(described)
    for name, row in described.items():
        grades = re.findall(r"\b[PTAI]\b", written[name].partition(":")[0])
        assert grades == [row.grade], name
        first_unit = row.unit.split()[0] if row.unit in ("bytes", "Hz", "cycles") else ""
        assert first_unit in written[name], name


def test_the_documentation_lists_every_parameter():
    page = (ROOT / "docs" / "accelerators.md").read_text()
    for row in H2LEARN.describe():
        value = str(row.value).lower() if isinstance(row.value, bool) else str(row.value)
        assert f"| `{row.name}` | {value} | {row.unit} |" in page
        assert row.meaning in page


# ---- grades


def test_grades_of_h2learn():
    grades = {row.name: row.grade for row in H2LEARN.describe()}
    assert {name for name, grade in grades.items() if grade != "I"} == {
        "clock_hz",
        "forward.tables",
        "update.tables",
        "backward.input_sparsity",
        "backward.output_sparsity",
    }
    assert len(H2LEARN.assumptions()) == len(grades) - 5 == 45
    assert grades["clock_hz"] == "T"
    assert grades["forward.tables"] == "P"
    assert all(row.meaning for row in H2LEARN.describe())


def test_a_changed_parameter_is_an_assumption():
    assert "clock_hz" not in {name for name, _, _ in H2LEARN.assumptions()}
    changed = H2LEARN.with_(clock_hz=400_000_000)
    assert ("clock_hz", 400_000_000, "I") in changed.assumptions()
    assert len(changed.assumptions()) == len(H2LEARN.assumptions()) + 1


def test_all_of_a_hypothetical_machine_is_assumed():
    small = Accelerator.load("h2learn-small")
    assert [row.name for row in small.describe()] == [name for name, _, _ in small.assumptions()]
    assert {grade for _, _, grade in small.assumptions()} == {"I"}


# ---- deriving


def test_machines_are_values():
    same = Accelerator.load("h2learn")
    assert same == H2LEARN
    assert hash(same) == hash(H2LEARN)
    assert same.with_() is same
    with pytest.raises(ValueError, match="frozen"):
        same.parts = 2


def test_ablations():
    ablations = H2LEARN.ablations()
    changed = {
        label: {n for n in NAMES if machine.value(n) != H2LEARN.value(n)}
        for label, machine in ablations.items()
    }
    assert changed == {
        "without tables": {"forward.tables", "update.tables"},
        "plain adders, same peak": {
            f"{engine}.{name}"
            for engine in ("forward", "update")
            for name in ("tables", "rows", "inputs")
        },
        "without input sparsity": {"backward.input_sparsity"},
        "without output sparsity": {"backward.output_sparsity"},
        "without either sparsity": {"backward.input_sparsity", "backward.output_sparsity"},
        "layer by layer": {"schedule"},
        "serial": {"schedule"},
    }
    assert ablations["layer by layer"].schedule == "layer"
    assert ablations["serial"].schedule == "serial"
    assert ablations["serial"].name == "h2learn, serial"


def test_plain_adders_have_the_peak_of_tables():
    ablations = H2LEARN.ablations()
    plain = ablations["plain adders, same peak"]
    assert (plain.forward.rows, plain.update.rows) == (192, 160)
    assert plain.peak_operations_per_cycle == H2LEARN.peak_operations_per_cycle
    assert ablations["without tables"].peak_operations_per_cycle["forward"] == 2048
    # An engine without tables to begin with stays as it is, whatever its rows.
    half = H2LEARN.with_(**{"update.tables": False, "update.inputs": 12, "update.rows": 100,
                            "update.gradients_bytes": 2**20})  # fmt: skip
    plain = half.ablations()["plain adders, same peak"]
    assert plain.update == half.update
    assert plain.forward.rows == 192
    # 171 * 6 rows are more than a machine can have.
    many = H2LEARN.with_(**{"forward.rows": 171, "forward.tables_bytes": 2**22,
                            "forward.weights_bytes": 2**20})  # fmt: skip
    assert "plain adders, same peak" not in many.ablations()
    assert "without tables" in many.ablations()


def test_ablations_leave_out_what_a_machine_does_not_have():
    assert set(Accelerator.load("h2learn-dense").ablations()) == {"layer by layer", "serial"}
    half = H2LEARN.with_(**{"backward.input_sparsity": False, "schedule": "serial"})
    assert set(half.ablations()) == {
        "without tables",
        "plain adders, same peak",
        "without output sparsity",
    }


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [
        ("dram.bytes_per_cycle=64", "dram.bytes_per_cycle", 64),
        (" forward.rows = 1_6 ", "forward.rows", 16),
        ("forward.tables=false", "forward.tables", False),
        ("precision=bf16", "precision", "bf16"),
        ("precision='bf16'", "precision", "bf16"),
        ('schedule="serial"', "schedule", "serial"),
        ("state_bytes=0", "state_bytes", 0),
    ],
)
def test_overrides(override, name, value):
    machine = Accelerator.load("h2learn", [override])
    assert machine.value(name) == value
    assert {n for n in NAMES if machine.value(n) != H2LEARN.value(n)} == {name}
    key = override.partition("=")[0].strip()
    assert machine.name.startswith(f"h2learn ({key}=")


def test_the_last_override_counts_and_all_are_checked_together():
    assert Accelerator.load("h2learn", ["parts=2", "parts=3"]).parts == 3
    # Either alone is impossible.
    machine = Accelerator.load("h2learn", ["forward.inputs=7", "forward.tables_bytes=1048576"])
    assert machine.forward.inputs == 7
    assert Accelerator.load("h2learn", ["name=mine", "parts=2"]).name == "mine"


def test_precision_is_bytes_for_the_core():
    sizes = {p: H2LEARN.with_(precision=p).to_core().value_bytes for p in ("fp32", "fp16", "bf16")}
    assert sizes == {"fp32": 4, "fp16": 2, "bf16": 2}


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "clock_hz": st.integers(10**6, 10**10),
            "forward.rows": st.integers(1, 32),
            "forward.columns": st.integers(1, 32),
            "forward.inputs": st.integers(1, 6),
            "forward.tables": st.booleans(),
            "soma.lanes": st.integers(1, 65536),
            "gradient.latency_cycles": st.integers(0, 1000),
            "backward.groups": st.integers(1, 65536),
            "backward.input_sparsity": st.booleans(),
            "update.compact": st.booleans(),
            "dram.latency_cycles": st.integers(0, 10**6),
            "state_bytes": st.integers(0, 2**40),
            "schedule": st.sampled_from(["serial", "layer", "batch"]),
            "membrane": st.sampled_from(["store", "recompute"]),
            "parts": st.integers(1, 65536),
        },
    )
)
@settings(max_examples=50, deadline=None)
def test_what_is_set_reaches_the_core(changes):
    machine = H2LEARN.with_(**changes)
    core = core_values(machine.to_core())
    expected = core_values(_core.Machine()) | changes
    expected.pop("clock_hz", None)
    assert core == expected
    assert Accelerator.checked(machine.model_dump()) == machine


# ---- what is refused

UNKNOWN = {
    "forward.row=3": ["'forward.row'", "did you mean 'forward.rows'?", "forward.columns"],
    "forward.lanes=3": ["'forward.lanes'", "'backward.lanes'", "'soma.lanes'", "forward.columns"],
    "lanes=3": ["'lanes'", "'soma.lanes'", "'gradient.lanes'", "'backward.lanes'"],
    "bytes_per_cycle=9": ["did you mean 'dram.bytes_per_cycle'?"],
    "forwards.rows=3": ["'forwards.rows'", "'forward.rows'"],
    "clock=1": ["'clock'", "'clock_hz'"],
    "zzz=1": ["unknown parameter 'zzz' (known: name", "dram.*"],
    "base=h2learn": ["'base'"],
    "forward.rows.x=1": ["'forward.rows.x'"],
    "__class__=1": ["'__class__'"],
    "forward.model_config=1": ["'forward.model_config'"],
}


@pytest.mark.parametrize(("override", "parts"), UNKNOWN.items(), ids=list(UNKNOWN))
def test_unknown_parameters(override, parts):
    message = refusal(lambda: Accelerator.load("h2learn", [override]))
    assert "unknown parameter" in message
    for part in parts:
        assert part in message


WRONG = {
    "forward.rows=0": ["forward.rows", "1 to 1024", "got 0"],
    "forward.rows=1025": ["forward.rows", "1 to 1024", "got 1025"],
    "forward.columns=-4": ["forward.columns", "got -4"],
    "update.inputs=13": ["update.inputs", "1 to 12", "got 13"],
    "forward.rows=16.5": ["forward.rows", "whole number of PEs", "got 16.5"],
    "clock_hz=1e9": ["clock_hz", "whole number of Hz", "write 1000000000"],
    "clock_hz=800MHz": ["clock_hz", "Hz", "'800MHz'"],
    "clock_hz=999999": ["clock_hz", "1000000 to 10000000000", "got 999999"],
    "dram.bytes_per_cycle=256GB/s": ["dram.bytes_per_cycle", "bytes per cycle", "'256GB/s'"],
    "dram.latency_cycles=125ns": ["dram.latency_cycles", "cycles", "'125ns'"],
    "dram.burst_bytes=true": ["dram.burst_bytes", "bytes", "got True"],
    "forward.tables=yes": ["forward.tables", "true or false", "'yes'"],
    "forward.tables=1": ["forward.tables", "true or false", "got 1"],
    "precision=fp8": ["precision", "fp32, fp16, bf16", "'fp8'"],
    "precision=32": ["precision", "fp32, fp16, bf16", "got 32"],
    "schedule=parallel": ["schedule", "serial, layer, batch", "'parallel'"],
    "membrane=": ["key=value", "'membrane='"],
    "=3": ["key=value"],
    "forward.rows": ["key=value", "'forward.rows'"],
    "": ["key=value"],
    "forward=3": ["forward is a group", "got 3", "forward.rows"],
    "soma={lanes=3}": ["soma is a group", "soma.lanes"],
    "soma.lanes={a=3}": ["soma.lanes", "got {'a': 3}"],
    "soma.lanes=nan": ["soma.lanes", "got nan"],
    "soma.lanes=1e400": ["soma.lanes", "got inf"],
    "soma.lanes=4\nparts=2": ["soma.lanes", r"'4\nparts=2'"],
    "state_bytes=1099511627777": ["state_bytes", "0 to 1099511627776"],
    "state_bytes=0x" + "f" * 5000: ["state_bytes", "thousands of digits"],
    "soma.lanes=" + "9" * 5000: ["soma.lanes", "..."],
    "soma.lanes=" + "[" * 5000: ["soma.lanes", "..."],
    "name=''": ["name", "1 to 200 characters"],
    'name="a\\nb"': ["name", "one line"],
    'name="a\\u001b[31mb"': ["name", "printable"],
    'name="a\\u202eb"': ["name", "printable"],
    'description="a\\u2028b"': ["description", "printable"],
    "name=h2learn-small": ["'h2learn-small'", "preset", "hypothetical"],
}


@pytest.mark.parametrize(
    ("override", "parts"), WRONG.items(), ids=[key[:30].replace("\n", " ") for key in WRONG]
)
def test_wrong_values(override, parts):
    message = refusal(lambda: Accelerator.load("h2learn", [override]))
    for part in parts:
        assert part in message


# parameter, the least that is possible with `others`, others
TIGHT = [
    ("forward.tables_bytes", 2 * 32 * 32 * 64 * 2, {}),
    ("forward.tables_bytes", 2 * 32 * 32 * 64 * 4, {"precision": "fp32"}),
    ("forward.tables_bytes", 0, {"forward.tables": False}),
    ("update.tables_bytes", 2 * 32 * 32 * 32 * 2, {}),
    ("forward.weights_bytes", 2 * 32 * 6 * 32 * 2, {}),
    ("forward.psum_bytes", 2 * 32 * 4, {}),
    ("update.psum_bytes", 2 * 32 * 4, {}),
    ("gradient.buffer_bytes", 2 * (2 + 4), {}),
    ("gradient.buffer_bytes", 2 * (4 + 4), {"precision": "fp32"}),
    ("backward.weights_bytes", 2 * 1024 * 128 * 2, {}),
    ("backward.psum_bytes", 2 * 128 * 4, {}),
    ("update.gradients_bytes", 2 * 32 * 5 * 32 * 2, {}),
]


@pytest.mark.parametrize(
    ("name", "least", "others"), TIGHT, ids=[f"{n}-{least}" for n, least, _ in TIGHT]
)
def test_what_does_not_go_together(name, least, others):
    assert H2LEARN.with_(**others, **{name: least}).value(name) == least
    if least == 0:
        return
    message = refusal(lambda: H2LEARN.with_(**others, **{name: least - 1}))
    assert message.startswith(f"{name} = {least - 1} is too small")
    needed = re.findall(r"\d+", message.replace(str(least - 1), "", 1))
    assert str(least) in needed or str(least // 2) in needed


def test_names_of_presets_are_theirs(tmp_path):
    parts = ["name must not be 'h2learn'", "another parts", "h2learn-dense"]
    for call in (
        lambda: Accelerator.load("h2learn", ["parts=2", "name=h2learn"]),
        lambda: H2LEARN.with_(parts=2, name="h2learn"),
        lambda: Accelerator.checked(H2LEARN.model_dump() | {"parts": 2}),
        lambda: load_text(tmp_path, 'base = "h2learn"\nname = "h2learn"\nparts = 2\n'),
    ):
        message = refusal(call)
        for part in parts:
            assert part in message
    # What is the preset may have its name, and tell more of itself.
    assert load_text(tmp_path, 'base = "h2learn"\nname = "h2learn"\n') == H2LEARN
    assert H2LEARN.with_(name="h2learn", description="mine").name == "h2learn"
    path = tmp_path / "h2learn-small.toml"
    path.write_text('base = "h2learn-small"\nparts = 2\n')
    assert "'h2learn-small'" in refusal(lambda: Accelerator.load(str(path)))


def test_unknown_accelerators():
    message = refusal(lambda: Accelerator.load("h2lern"))
    for part in ("'h2lern'", "did you mean 'h2learn'?", *presets(), ".toml"):
        assert part in message
    assert "did you mean" not in refusal(lambda: Accelerator.load("gpu"))
    refusal(lambda: Accelerator.load(""))
    refusal(lambda: Accelerator.load("../presets/h2learn"))


# ---- files


def test_a_file_with_a_base(tmp_path):
    text = 'base = "h2learn"\nparts = 2\n[dram]\nbytes_per_cycle = 64\n'
    machine = load_text(tmp_path, text, "parts=3")
    assert machine.dram.bytes_per_cycle == 64
    assert machine.dram.latency_cycles == H2LEARN.dram.latency_cycles
    assert machine.name == "mine (parts=3)"
    assert load_text(tmp_path, text + "\n").name == "mine"
    assert load_text(tmp_path, 'base = "h2learn"\nname = "other"\n').name == "other"


def test_a_file_without_a_base_gives_everything(tmp_path):
    whole = (PRESETS / "h2learn.toml").read_text()
    assert load_text(tmp_path, whole) == H2LEARN
    message = refusal(lambda: load_text(tmp_path, whole.replace("parts = 4", "")))
    assert "mine.toml: parts is missing" in message
    assert 'base = "h2learn"' in message
    assert "is missing" in refusal(lambda: load_text(tmp_path, ""))


BAD_FILES = {
    "syntax": ("parts = 1\nrows = = 2\n", ["not valid TOML", "line 2"]),
    "twice": ('base = "h2learn"\nparts = 1\nparts = 2\n', ["not valid TOML", "line 3"]),
    "bytes": (b"name = '\xff'\n", ["UTF-8"]),
    "binary": (b"\x00\x01\x02", ["not valid TOML"]),
    "deep": ("a = " + "[" * 20_000, ["not valid TOML"]),
    "large": (b"#" * (LIMIT_BYTES + 1), ["larger than"]),
    "base": ('base = "h2lern"', ["base must be one of h2learn", "'h2lern'"]),
    "base of a type": ("base = 3", ["base must be one of", "got 3"]),
    "base is itself": ('base = "mine.toml"', ["base must be one of"]),
    "unknown": ('base = "h2learn"\n[dram]\nbytes = 3', ["'dram.bytes'", "dram.burst_bytes"]),
    "section": ('base = "h2learn"\n[drams]\nbytes = 3', ["'drams'", "did you mean 'dram'?"]),
    "not a section": ('base = "h2learn"\ndram = 3', ["dram is a group", "got 3"]),
    "range": ('base = "h2learn"\nparts = 0', ["mine.toml: parts must be", "got 0"]),
    "type": ('base = "h2learn"\nparts = "4"', ["parts must be", "got '4'"]),
    "impossible": (
        'base = "h2learn"\n[backward]\nslice = 257',
        ["mine.toml: backward.weights_bytes", "1024 gradients x 257 channels"],
    ),
}


@pytest.mark.parametrize(("text", "parts"), BAD_FILES.values(), ids=list(BAD_FILES))
def test_bad_files(tmp_path, text, parts):
    message = refusal(lambda: load_text(tmp_path, text))
    for part in ("mine.toml", *parts):
        assert part in message


def test_files_that_are_not_there(tmp_path):
    assert "cannot be read" in refusal(lambda: Accelerator.load(str(tmp_path / "no.toml")))
    (tmp_path / "folder.toml").mkdir()
    assert "cannot be read" in refusal(lambda: Accelerator.load(str(tmp_path / "folder.toml")))


@given(st.text(max_size=60))
@settings(max_examples=50, deadline=None)
def test_any_text_is_a_parameter_or_one_line(text):
    for override in (text, f"parts={text}", f"forward.{text}=1"):
        try:
            Accelerator.load("h2learn", [override])
        except InputError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017


@given(
    st.lists(
        st.sampled_from(
            [
                'base = "h2learn"',
                "[forward]",
                "[[dram]]",
                "[dram]",
                "rows = 4",
                "rows.x = 4",
                'parts = "x"',
                "parts = 2",
                "slice = {a = 1}",
                '"forward.rows" = 8',
                "= 3",
                "x = [1,",
            ]
        ),
        max_size=6,
    )
)
@settings(max_examples=100, deadline=None)
def test_any_file_is_a_machine_or_one_line(tmp_path_factory, lines):
    folder = tmp_path_factory.getbasetemp()
    try:
        load_text(folder, "\n".join(lines))
    except InputError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017


def test_checked_takes_dotted_names_too():
    values = H2LEARN.model_dump() | {"forward.rows": 16, "name": "mine"}
    assert Accelerator.checked(values).forward.rows == 16


def test_no_torch():
    code = (
        "import sys; import h2learn.accelerators, h2learn.cost; "
        "h2learn.cost.area(h2learn.accelerators.Accelerator.load('h2learn'), 'horowitz-45nm'); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
