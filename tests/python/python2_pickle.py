"""Writes protocol-2 pickles as Python 2's cPickle did, opcode by opcode.

CIFAR-10's Python version was made so, and no Python of today writes the same: byte strings are
SHORT_BINSTRING and BINSTRING, every object enters the memo, a NumPy array is a REDUCE and a BUILD.
The real files are too large to keep here; these have their structure.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

BATCH = 1000  # cPickle appends and sets items by the thousand


def dumps(value: Any) -> bytes:
    writer = _Writer()
    writer.save(value)
    return b"\x80\x02" + bytes(writer.out) + b"."


def cifar_batch(images: np.ndarray, labels: list[int]) -> bytes:
    """A batch with all four entries that the real ones have."""
    content = {
        b"batch_label": b"training batch 1 of 5",
        b"labels": labels,
        b"data": images,
        b"filenames": [b"image_s_%06d.png" % index for index in range(len(labels))],
    }
    return dumps(content)


class _Writer:
    def __init__(self) -> None:
        self.out = bytearray()
        self.memo: dict[Any, int] = {}

    def remember(self, key: Any) -> None:
        number = self.memo[key] = len(self.memo) + 1
        self.out += b"q%c" % number if number < 256 else b"r" + struct.pack("<I", number)

    def recall(self, key: Any) -> bool:
        number = self.memo.get(key)
        if number is not None:
            self.out += b"h%c" % number if number < 256 else b"j" + struct.pack("<I", number)
        return number is not None

    def save(self, value: Any) -> None:
        if value is None or isinstance(value, bool):
            self.out += {None: b"N", True: b"\x88", False: b"\x89"}[value]
        elif isinstance(value, int):
            self.save_int(value)
        else:
            {
                bytes: self.save_bytes,
                tuple: self.save_tuple,
                list: self.save_list,
                dict: self.save_dict,
                np.ndarray: self.save_array,
            }[type(value)](value)

    def save_int(self, value: int) -> None:
        if 0 <= value < 1 << 8:
            self.out += b"K" + struct.pack("<B", value)
        elif 0 <= value < 1 << 16:
            self.out += b"M" + struct.pack("<H", value)
        elif -(1 << 31) <= value < 1 << 31:
            self.out += b"J" + struct.pack("<i", value)
        else:
            digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.out += b"\x8a%c" % len(digits) + digits

    def save_bytes(self, value: bytes) -> None:
        if self.recall(value):  # Python 2 interned its short strings
            return
        short = len(value) < 256
        self.out += b"U%c" % len(value) if short else b"T" + struct.pack("<i", len(value))
        self.out += value
        self.remember(value)

    def save_tuple(self, value: tuple[Any, ...]) -> None:
        if len(value) > 3:
            self.out += b"("
        for item in value:
            self.save(item)
        self.out += {0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(value), b"t")
        if value:
            self.remember(object())

    def save_list(self, value: list[Any]) -> None:
        self.out += b"]"
        self.remember(object())
        for start in range(0, len(value), BATCH):
            part = value[start : start + BATCH]
            self.out += b"(" if len(part) > 1 else b""
            for item in part:
                self.save(item)
            self.out += b"e" if len(part) > 1 else b"a"

    def save_dict(self, value: dict[bytes, Any]) -> None:
        self.out += b"}"
        self.remember(object())
        self.out += b"(" if len(value) > 1 else b""
        for key, item in value.items():
            self.save(key)
            self.save(item)
        self.out += {0: b"", 1: b"s"}.get(len(value), b"u")

    def save_global(self, module: bytes, name: bytes) -> None:
        if not self.recall((module, name)):
            self.out += b"c" + module + b"\n" + name + b"\n"
            self.remember((module, name))

    def save_array(self, value: np.ndarray) -> None:
        self.save_global(b"numpy.core.multiarray", b"_reconstruct")
        self.save_global(b"numpy", b"ndarray")
        self.save((0,))
        self.save(b"b")
        self.out += b"\x87"
        self.remember(object())
        self.out += b"R"
        self.remember(object())
        self.out += b"("
        self.save(1)
        self.save(value.shape)
        self.save_dtype(value.dtype)
        by_column = value.flags.f_contiguous and not value.flags.c_contiguous
        self.save(by_column)
        self.save(value.tobytes("F" if by_column else "C"))
        self.out += b"t"
        self.remember(object())
        self.out += b"b"

    def save_dtype(self, dtype: np.dtype) -> None:
        if self.recall(dtype):
            return
        self.save_global(b"numpy", b"dtype")
        self.save((dtype.str[1:].encode(), 0, 1))
        self.out += b"R"
        self.remember(dtype)
        order = {"=": b"<"}.get(dtype.byteorder, dtype.byteorder.encode())
        self.save((3, order, None, None, None, -1, -1, 0))
        self.out += b"b"
