"""What an accelerator is made of: the parameters of docs/microarchitecture.md, by name.

A machine is a TOML file: a preset of this package, or a user's own that names a preset as its
`base` and gives only what differs. A new accelerator of this kind is one more file in `presets`.
Ranges of single parameters are checked here; whether they go together is for the core to say,
which both simulators ask.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from h2learn import _core, toml
from h2learn.errors import InputError

__all__ = ["Accelerator", "Parameter", "presets"]

PRESETS = Path(__file__).parent / "presets"

MOST_COUNT = 1 << 16
MOST_BYTES = 1 << 40

MOST_ROWS = 1024

VALUE_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


class Parameter(NamedTuple):
    """A parameter of a machine, as a report lists it."""

    name: str
    value: int | bool | str
    unit: str
    """Empty for names and switches."""
    grade: str
    """P the paper's abstract, T a third party's model of H2Learn, A code published by the paper's
    first author, I inferred or chosen: an assumption."""
    meaning: str


def _parameter(
    meaning: str, grade: str, unit: str = "", least: int | None = None, most: int | None = None
) -> Any:
    return Field(
        ge=least, le=most, description=meaning, json_schema_extra={"unit": unit, "grade": grade}
    )


def _count(meaning: str, unit: str, most: int = MOST_COUNT, least: int = 1) -> Any:
    return _parameter(meaning, "I", unit, least, most)


def _buffer(meaning: str, least: int = 1) -> Any:
    return _parameter(meaning, "I", "bytes", least, MOST_BYTES)


def _banks(meaning: str) -> Any:
    return _count(meaning, "words per cycle")


def _printable(text: str) -> str:
    # A name is shown on terminals and written into titles: nothing in it may act there.
    if not text.isprintable():
        raise ValueError("not printable")
    return text


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TableEngine(_Group):
    """An array of table PEs: the structure of the forward and of the weight-update engine."""

    rows: int = _count("PEs that feed one adder tree", "PEs", MOST_ROWS)
    columns: int = _count("adder trees, each with an accumulator", "columns", 1024)
    inputs: int = _count("operands that one table covers: 2^inputs entries", "operands", 12)
    tables: bool = _parameter("look-up tables; without them a conditional adder a PE", "P")
    tables_bytes: int = _buffer("room for the two banks of tables", least=0)
    spikes_bytes: int = _buffer("buffer of the layer's inputs, both halves")
    spikes_banks: int = _count("banks of 32 bits that are read in a cycle", "banks")
    psum_bytes: int = _buffer("buffer of accumulators, both halves")
    psum_banks: int = _banks("accumulators that are read and written in a cycle")


class ForwardEngine(TableEngine):
    """The forward engine."""

    weights_bytes: int = _buffer("buffer of weights, both halves")
    weights_banks: int = _banks("weights that are read in a cycle, to build tables")


class UpdateEngine(TableEngine):
    """The weight-update engine: tables of gradients, read by spikes."""

    gradients_bytes: int = _buffer("buffer of gradients, both halves")
    gradients_banks: int = _banks("gradients that are read in a cycle, to build tables")
    compact: bool = _parameter("leave out positions whose gradients are all zero", "I")


class LaneEngine(_Group):
    """Lanes that take one neuron-step a cycle each."""

    lanes: int = _count("neuron-steps a cycle", "lanes")
    latency_cycles: int = _count("of the pipeline", "cycles", 1000, least=0)


class GradientUnit(LaneEngine):
    """The gradient unit."""

    buffer_bytes: int = _buffer("buffer of gradients and membranes, both halves")


class BackwardEngine(_Group):
    """The backward engine: groups of multiply-accumulate lanes that skip zeros."""

    groups: int = _count("groups of lanes, each working on an item of its own", "groups")
    lanes: int = _count("multiply-accumulate lanes of a group", "lanes")
    slice: int = _count("input channels of one work item", "channels")
    encode_cycles: int = _count("to compress an item's operands", "cycles", 1000, least=0)
    tile_rows: int = _count("gradients (taps x output channels) of a tile", "gradients", 1 << 20)
    weights_bytes: int = _buffer("buffer of weights, both halves")
    weights_banks: int = _banks("weights that a group reads in a cycle")
    gradients_bytes: int = _buffer("buffer of gradients, both halves")
    psum_bytes: int = _buffer("buffer of accumulators, both halves")
    input_sparsity: bool = _parameter("skip gradients that are zero", "P")
    output_sparsity: bool = _parameter("skip neurons whose surrogate mask is not set", "P")


class Dram(_Group):
    """The DRAM channel."""

    bytes_per_cycle: int = _count("bandwidth, in the chip's cycles", "bytes per cycle", 1 << 20)
    latency_cycles: int = _count("from the issue to the first byte", "cycles", 1_000_000, least=0)
    burst_bytes: int = _count("least that is transferred", "bytes")


class Accelerator(_Group):
    """A machine of the H2Learn kind. Frozen; `with_` derives others.

    Use `load` or `checked`, which give one clear line for wrong input.
    """

    name: Annotated[str, AfterValidator(_printable)] = Field(min_length=1, max_length=200)
    description: Annotated[str, AfterValidator(_printable)] = Field(max_length=2000)
    hypothetical: bool = Field(description="the whole machine is invented: all grades are I")
    clock_hz: int = _parameter("of the chip", "T", "Hz", 10**6, 10**10)
    precision: Literal["fp32", "fp16", "bf16"] = _parameter(
        "of a weight, a gradient, a table entry; sums are fp32", "I"
    )
    compressed_gradients: bool = _parameter("in DRAM: a bit map and the values not zero", "I")
    forward: ForwardEngine
    soma: LaneEngine
    gradient: GradientUnit
    backward: BackwardEngine
    update: UpdateEngine
    state_bytes: int = _buffer("spikes, masks, gradients kept from pass to pass", least=0)
    membrane_bytes: int = _buffer("membranes carried from timestep to timestep", least=0)
    membrane: Literal["store", "recompute"] = _parameter(
        "membranes of the forward pass: kept for the backward pass, or computed again", "I"
    )
    dram: Dram
    schedule: Literal["serial", "layer", "batch"] = _parameter("how engines overlap", "I")
    parts: int = _count("parts of a mini-batch that follow each other", "parts")

    @model_validator(mode="after")
    def _possible(self) -> Accelerator:
        self.to_core().validate()
        return self

    @classmethod
    def load(cls, name_or_path: str, overrides: Sequence[str] = ()) -> Accelerator:
        """A preset or a file, with single parameters changed.

        Args:
            name_or_path: one of `presets()`, or a path that ends in .toml.
            overrides: "key=value" each, as `--set` takes them: `dram.bytes_per_cycle=64`. A value
                is written as in TOML; a bare word is a string. The last one of a key counts.

        Raises:
            InputError: one line: what was found and what is allowed.
        """
        machine = _load_file(toml.find(name_or_path, PRESETS, "accelerator"))
        return machine.with_(**dict(map(_parse_override, overrides)))

    @classmethod
    def of(cls, accelerator: Accelerator | str) -> Accelerator:
        """What functions take as `accelerator`: a machine, or what `load` takes.

        Raises:
            InputError: as `load`.
            TypeError: it is neither.
        """
        if isinstance(accelerator, cls):
            return accelerator
        if not isinstance(accelerator, str):
            raise TypeError(
                "accelerator must be a preset's name, the path of a TOML file, or an Accelerator, "
                f"got {type(accelerator).__name__}"
            )
        return cls.load(accelerator)

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Accelerator:
        """Builds a machine from nested values, as a TOML file holds them.

        Raises:
            InputError: one line naming the first parameter that is unknown, missing, out of its
                range, or impossible together with others; or the name is that of a preset, and
                the machine is not.
        """
        machine = cls._checked(values)
        if machine.name in presets():
            _require_preset(machine)
        return machine

    @classmethod
    def _checked(cls, values: Mapping[str, Any]) -> Accelerator:
        """As `checked`, but for the name."""
        nested: dict[str, Any] = {}
        for key, value in _flat(values).items():
            _put(nested, key, value)
        try:
            return cls.model_validate(nested)
        except ValidationError as error:
            raise InputError(_explain(error)) from None

    def with_(self, **changes: object) -> Accelerator:
        """This machine with parameters changed: `machine.with_(**{"forward.tables": False})`.

        The name tells what was changed, unless `name` is among the changes.

        Raises:
            InputError: as `checked`.
        """
        if not changes:
            return self
        values = self.model_dump()
        for key, value in changes.items():
            _put(values, key, value)
        if "name" not in changes:
            told = ", ".join(f"{key}={_as_toml(value)}" for key, value in changes.items())
            name = f"{self.name} ({told})"
            values["name"] = name if len(name) <= 200 else f"{name[:195]} ...)"
        return self.checked(values)

    def ablations(self) -> dict[str, Accelerator]:
        """This machine with each of its mechanisms switched off, by what was switched off.

        What the machine does not have to begin with is left out. "without tables" keeps the PEs,
        each of which then adds one operand a cycle, so that the peak falls by `inputs`; "plain
        adders, same peak" has `inputs` times as many PEs instead, and is left out where those are
        more rows than a machine can have.
        """
        plain: dict[str, object] = {}
        rows = [0]
        for name, engine in (("forward", self.forward), ("update", self.update)):
            if engine.tables:
                plain[f"{name}.tables"] = False
                rows.append(engine.rows * engine.inputs)
                plain[f"{name}.rows"] = rows[-1]
                plain[f"{name}.inputs"] = 1
        either = {"backward.input_sparsity": False, "backward.output_sparsity": False}
        every: dict[str, dict[str, object]] = {
            "without tables": {"forward.tables": False, "update.tables": False},
            "plain adders, same peak": plain,
            "without input sparsity": {"backward.input_sparsity": False},
            "without output sparsity": {"backward.output_sparsity": False},
            "without either sparsity": dict(either),
            "layer by layer": {"schedule": "layer"},
            "serial": {"schedule": "serial"},
        }
        if max(rows) > MOST_ROWS:
            del every["plain adders, same peak"]
        if self.schedule == "serial":
            del every["layer by layer"]
        if not (self.backward.input_sparsity and self.backward.output_sparsity):
            del every["without either sparsity"]
        return {
            label: self.with_(name=f"{self.name}, {label}"[:200], **changes)
            for label, changes in every.items()
            if any(self.value(key) != value for key, value in changes.items())
        }

    @property
    def value_bytes(self) -> int:
        """Bytes of a weight, a gradient or a table entry."""
        return VALUE_BYTES[self.precision]

    @property
    def peak_operations_per_cycle(self) -> dict[str, int]:
        """Of the engines that have one: two operations a multiply-accumulate of a dense layer."""
        return {
            "forward": 2 * _macs_per_cycle(self.forward),
            "backward": 2 * self.backward.groups * self.backward.lanes,
            "update": 2 * _macs_per_cycle(self.update),
        }

    def value(self, name: str) -> int | bool | str:
        """The value of a parameter by its dotted name."""
        value: Any = self
        for part in name.split("."):
            value = getattr(value, part)
        if not isinstance(value, (int, str)):
            raise KeyError(name)
        return value

    def describe(self) -> list[Parameter]:
        """Every parameter, in the order of the documentation.

        The grade belongs to a value: a parameter changed from what the preset `h2learn` has is an
        assumption, and so is each one of a hypothetical machine.
        """
        evidence = None if self.hypothetical else _load_file(PRESETS / "h2learn.toml")
        rows = []
        for name, field in _PARAMETERS.items():
            value = self.value(name)
            extra = _extra(field)
            known = evidence is not None and evidence.value(name) == value
            grade = extra["grade"] if known else "I"
            rows.append(Parameter(name, value, extra["unit"], grade, field.description or ""))
        return rows

    def assumptions(self) -> list[tuple[str, int | bool | str, str]]:
        """(parameter, value, grade) of every input that is an assumption (grade I)."""
        return [(row.name, row.value, row.grade) for row in self.describe() if row.grade == "I"]

    def to_core(self) -> _core.Machine:
        """The machine as the compiled core takes it (which knows neither clock nor name)."""
        machine = _core.Machine()
        machine.value_bytes = self.value_bytes
        for name in _PARAMETERS:
            if name in ("clock_hz", "precision"):
                continue
            group, _, last = name.rpartition(".")
            setattr(getattr(machine, group) if group else machine, last, self.value(name))
        return machine


def presets() -> tuple[str, ...]:
    """The names of the machines that come with the package."""
    return toml.names(PRESETS)


def _macs_per_cycle(engine: TableEngine) -> int:
    return engine.rows * engine.columns * (engine.inputs if engine.tables else 1)


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _leaves(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, field


_LEAVES = dict(_leaves(Accelerator))
_GROUPS = tuple(dict.fromkeys(name.partition(".")[0] for name in _LEAVES if "." in name))
# Those that say what the machine is made of; the others only name it.
_PARAMETERS = {name: field for name, field in _LEAVES.items() if field.json_schema_extra}


def _extra(field: FieldInfo) -> dict[str, str]:
    extra = field.json_schema_extra
    return {key: str(value) for key, value in extra.items()} if isinstance(extra, dict) else {}


@cache
def _load_preset(path: Path) -> Accelerator:
    return _build(path)


def _load_file(path: Path) -> Accelerator:
    # Presets do not change while we run, and every report asks for one.
    return _load_preset(path) if path.parent == PRESETS else _build(path)


def _build(path: Path) -> Accelerator:
    content = toml.read(path)
    base = content.pop("base", None)
    values: dict[str, Any] = {"name": path.stem, "description": "", "hypothetical": False}
    if base is not None:
        if base not in presets():
            raise InputError(
                f"{path}: base must be one of {', '.join(presets())}, got {toml.shown(base)}"
            )
        values = _load_file(PRESETS / f"{base}.toml").model_dump() | {"name": path.stem}
    try:
        for key, value in _flat(content).items():
            _put(values, key, value)
        preset = path.parent == PRESETS
        return Accelerator._checked(values) if preset else Accelerator.checked(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _require_preset(machine: Accelerator) -> None:
    """Whoever reads a preset's name in a result must be able to rely on its parameters."""
    preset = _load_file(PRESETS / f"{machine.name}.toml")
    if machine.hypothetical != preset.hypothetical:
        differs = "another hypothetical"
    else:
        names = [name for name in _PARAMETERS if machine.value(name) != preset.value(name)]
        if not names:
            return
        differs = f"another {names[0]}"
    raise InputError(
        f"name must not be {machine.name!r}, that of a preset, for a machine that has {differs}: "
        f"give it a name that is not one of {', '.join(presets())}"
    )


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names to values."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if name in _GROUPS and isinstance(value, Mapping):
            flat.update({f"{name}.{last}": inner for last, inner in value.items()})
        else:
            flat[name] = value
    return flat


def _put(values: dict[str, Any], key: str, value: object) -> None:
    """Sets a parameter by its dotted name in nested values."""
    _require_known(key)
    if key in _GROUPS:
        raise InputError(
            f"{key} is a group of parameters, got {toml.shown(value)}: "
            f"give {', '.join(_known_in(key))}"
        )
    group, _, last = key.rpartition(".")
    (values.setdefault(group, {}) if group else values)[last] = value


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, written = text.partition("=")
    key, written = key.strip(), written.strip()
    if not equals or not key or not written:
        raise InputError(
            f"a parameter is set by key=value, like dram.bytes_per_cycle=64, got {toml.shown(text)}"
        )
    _require_known(key)
    try:
        parsed = toml.parse(f"value = {written}")
    except ValueError:
        return key, written  # a bare word, or something that the parameter's type will refuse
    return key, parsed["value"] if len(parsed) == 1 else written


def _require_known(key: str) -> None:
    if key in _LEAVES or key in _GROUPS:
        return
    near = _nearest(key)
    hint = f": did you mean {' or '.join(map(repr, near))}?" if near else ""
    group = key.partition(".")[0]
    known = _known_in(group) or [
        *(name for name in _LEAVES if "." not in name),
        *(f"{name}.*" for name in _GROUPS),
    ]
    raise InputError(f"unknown parameter {toml.shown(key)}{hint} (known: {', '.join(known)})")


def _known_in(group: str) -> list[str]:
    return [name for name in _LEAVES if name.startswith(f"{group}.")]


def _nearest(key: str) -> list[str]:
    """Up to three names like `key`, as a whole or in what stands after the dot."""

    def alike(a: str, b: str) -> float:
        return difflib.SequenceMatcher(None, a, b).ratio()

    key = key[:200]  # the comparison takes quadratic time
    last = key.rpartition(".")[2]
    scores = {
        name: max(alike(key, name), alike(last, name.rpartition(".")[2]))
        for name in (*_LEAVES, *_GROUPS)
    }
    best = max(scores.values())
    near = [name for name, score in scores.items() if score >= max(0.7, best - 0.05)]
    return sorted(near, key=lambda name: -alike(key, name))[:3]


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f'{name} is missing: give it, or start from a preset with base = "h2learn"'
    if name not in _LEAVES:  # parameters that do not go together, as the core says
        return str(first["msg"]).removeprefix("Value error, ")
    value = first["input"]
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    hint = f": write {int(value)}" if whole and _LEAVES[name].annotation is int else ""
    return f"{name} must be {_allowed(_LEAVES[name])}, got {toml.shown(value)}{hint}"


def _allowed(field: FieldInfo) -> str:
    if field.annotation is bool:
        return "true or false"
    limits = {type(limit).__name__: limit for limit in field.metadata}
    if field.annotation is str:
        least = limits["MinLen"].min_length if "MinLen" in limits else 0
        return f"one line of printable text, {least} to {limits['MaxLen'].max_length} characters"
    if field.annotation is int:
        unit = _extra(field)["unit"]
        return f"a whole number of {unit}, {limits['Ge'].ge} to {limits['Le'].le}"
    return f"one of {', '.join(get_args(field.annotation))}"


def _as_toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return toml.shown(value).strip("'")
