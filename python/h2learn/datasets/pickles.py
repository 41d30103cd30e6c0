"""Reads CIFAR-10's pickles without executing them.

Unpickling runs whatever the file says: a pickle is a program, and `pickle.load` imports and calls
what it names. The batches of CIFAR-10's Python version need next to none of that. They are
protocol-2 pickles that Python 2 made of one dictionary of byte strings, integers, lists and a NumPy
array of bytes. So this reader knows the opcodes that build those and no others. Of names it knows
three, which stand for themselves: `numpy.core.multiarray._reconstruct`, `numpy.ndarray` and
`numpy.dtype` are compared as text and never looked up. Everything else is refused by name.

The machine is pickle's: a stack, marks on it, a memo. An array arrives in three steps, as NumPy
writes it: REDUCE makes an empty one, REDUCE and BUILD make its type, BUILD fills in shape and
bytes.
"""

from __future__ import annotations

import math
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from h2learn.datasets.base import bad_file, reading

_OPCODE_NAMES = {opcode.code: opcode.name for opcode in pickletools.opcodes}
EXPECTED = "a pickle of CIFAR-10's Python version (protocol 2: bytes, integers, lists, byte arrays)"


@dataclass(frozen=True)
class _Global:
    name: str


_RECONSTRUCT = _Global("numpy.core.multiarray._reconstruct")
_NDARRAY = _Global("numpy.ndarray")
_DTYPE = _Global("numpy.dtype")
_GLOBALS = {known.name: known for known in (_RECONSTRUCT, _NDARRAY, _DTYPE)}


class _ByteType:
    """A dtype under construction; the only type there is, unsigned bytes."""


class _Array:
    """An array under construction: the memo may refer to it before BUILD gives it its values."""

    values: npt.NDArray[np.uint8] | None = None


def read_pickle(path: Path) -> dict[bytes, Any]:
    """The dictionary in a pickle of CIFAR-10's Python version.

    Returns:
        Keys are bytes. Values are None, bool, int, bytes, tuples, lists and dictionaries of these,
        or arrays of uint8 (directly in the dictionary; read-only).

    Raises:
        InputError: the file is missing, truncated, or contains anything that such a file does not.
    """
    with reading(path, EXPECTED):
        data = path.read_bytes()
    return _Machine(data, path).run()


class _Machine:
    def __init__(self, data: bytes, path: Path) -> None:
        self.data = data
        self.path = path
        self.position = 0
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below each MARK
        self.memo: dict[int, Any] = {}

    def run(self) -> dict[bytes, Any]:
        if self.take(2) != b"\x80\x02":
            self.refuse(f"{self.data[:2]!r} in front")
        while (opcode := self.take(1)) != b".":
            step = _STEPS.get(opcode)
            if step is None:
                self.refuse(f"opcode {_OPCODE_NAMES.get(opcode.decode('latin-1'), opcode)}")
            step(self)
        result = self.pop()
        if not isinstance(result, dict):
            self.refuse(f"a {_kind(result)} instead of a dictionary")
        if self.stack or self.marked or self.position != len(self.data):
            self.refuse("something beside the dictionary")
        return {key: self.finished(value) for key, value in result.items()}

    def finished(self, value: Any) -> Any:
        if not isinstance(value, _Array):
            return value
        if value.values is None:
            self.refuse("an array without values")
        return value.values

    def refuse(self, found: str) -> NoReturn:
        raise bad_file(self.path, f"{found} (byte {self.position})", EXPECTED)

    # Reading the file: never past its end, so no length in it is believed unchecked.

    def take(self, count: int) -> bytes:
        chunk = self.data[self.position : self.position + count]
        if len(chunk) < count:
            left = len(self.data) - self.position
            self.refuse(f"a truncated file, {left} bytes where {count} are announced,")
        self.position += count
        return chunk

    def take_int(self, layout: str) -> int:
        (value,) = struct.unpack(layout, self.take(struct.calcsize(layout)))
        return int(value)

    def take_line(self) -> str:
        end = self.data.find(b"\n", self.position)
        if end < 0:
            self.refuse("a truncated file, a name without an end,")
        line = self.data[self.position : end]
        self.position = end + 1
        return line.decode("latin-1")

    # The stack.

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            self.refuse("an operand missing")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        if not self.marked:
            self.refuse("a mark missing")
        items, self.stack = self.stack, self.marked.pop()
        return items

    def top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            self.refuse(f"no {kind.__name__} where one is needed")
        return self.stack[-1]

    # What the opcodes do, where it takes more than a line.

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def byte_string(self, length: int) -> None:
        if length < 0:
            self.refuse(f"a string of {length} bytes")
        self.push(self.take(length))

    def long_integer(self) -> None:
        self.push(int.from_bytes(self.take(self.take_int("<B")), "little", signed=True))

    def tuple_of(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def put(self, key: int) -> None:
        self.memo[key] = self.top(object)

    def get(self, key: int) -> None:
        if key not in self.memo:
            self.refuse(f"no memo {key} where one is needed")
        self.push(self.memo[key])

    def append(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        if len(items) % 2:
            self.refuse("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, bytes):
                self.refuse(f"a {_kind(key)} as a key")
            target[key] = value

    def global_name(self) -> None:
        name = f"{self.take_line()}.{self.take_line()}"
        if name not in _GLOBALS:
            self.refuse(f"the name {name[:80]!a}")
        self.push(_GLOBALS[name])

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if function is _RECONSTRUCT and arguments == (_NDARRAY, (0,), b"b"):
            self.push(_Array())
        elif function is _DTYPE and arguments == (b"u1", 0, 1):
            self.push(_ByteType())
        elif function is _DTYPE and isinstance(arguments, tuple) and arguments:
            self.refuse(f"an array of type {_text(arguments[0])}")
        else:
            self.refuse(f"a call of {_kind(function)}")

    def build(self) -> None:
        state, target = self.pop(), self.top(object)
        if isinstance(target, _Array):
            target.values = self.array(state)
        elif not isinstance(target, _ByteType) or state != (3, b"|", None, None, None, -1, -1, 0):
            self.refuse(f"a state for a {_kind(target)}")

    def array(self, state: Any) -> npt.NDArray[np.uint8]:
        match state:
            case (1, tuple(shape), _ByteType(), bool(by_column), bytes(values)):
                pass
            case _:
                self.refuse("an array's state that is not NumPy's")
        sizes_fit = all(type(size) is int and 0 <= size <= len(values) for size in shape)
        if not shape or not sizes_fit or math.prod(shape) != len(values):
            self.refuse(f"an array whose shape does not fit its {len(values)} bytes")
        array = np.frombuffer(values, dtype=np.uint8)
        return array.reshape(shape, order="F" if by_column else "C")


def _kind(value: Any) -> str:
    if isinstance(value, _Global):
        return value.name
    return {_Array: "array", _ByteType: "dtype"}.get(type(value), type(value).__name__)


def _text(value: Any) -> str:
    """A value from the file, safe to print: short, ASCII, and no nested structure."""
    if isinstance(value, bytes):
        return ascii(value[:40].decode("latin-1"))
    return f"given by a {_kind(value)}"


_STEPS: dict[bytes, Callable[[_Machine], None]] = {
    b"(": _Machine.mark,
    # Values.
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.take_int("<B")),
    b"M": lambda m: m.push(m.take_int("<H")),
    b"J": lambda m: m.push(m.take_int("<i")),
    b"\x8a": _Machine.long_integer,
    b"U": lambda m: m.byte_string(m.take_int("<B")),
    b"T": lambda m: m.byte_string(m.take_int("<i")),
    # Containers.
    b"}": lambda m: m.push({}),
    b"]": lambda m: m.push([]),
    b")": lambda m: m.push(()),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"t": lambda m: m.push(tuple(m.pop_to_mark())),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.pop_to_mark()),
    b"s": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    b"u": lambda m: m.set_items(m.pop_to_mark()),
    # The memo.
    b"q": lambda m: m.put(m.take_int("<B")),
    b"r": lambda m: m.put(m.take_int("<I")),
    b"h": lambda m: m.get(m.take_int("<B")),
    b"j": lambda m: m.get(m.take_int("<I")),
    # Arrays.
    b"c": _Machine.global_name,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
}
