"""Reader of IDX files, the format of MNIST: a big-endian header, then the values.

    bytes 0-1   zero
    byte  2     element type; 8 is the unsigned byte, the only one read here
    byte  3     number of dimensions
    4 bytes     size of each dimension
    the rest    the values, last dimension fastest

The header is believed only as far as the file bears it out: no memory is taken for a size that the
file cannot hold, and a gzipped file is expanded to the size that its header claims, no further.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from h2learn.datasets.base import bad_file, reading

_CHUNK_BYTES = 1 << 20
# The most that DEFLATE can expand its input, about 1032 to 1 (a match of 258 bytes in 2 bits).
_DEFLATE_MAX_RATIO = 1032


def read_idx(path: Path, shape: tuple[int | None, ...], expected: str) -> npt.NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes, gzipped when its name ends in `.gz`.

    Args:
        path: the file.
        shape: the size that each dimension must have; None for any.
        expected: what the file should hold, for the error message.

    Raises:
        InputError: the file is missing or damaged, is not such a file, has another shape, or holds
            fewer or more values than its header says.
    """
    gzipped = path.suffix == ".gz"
    with reading(path, expected):
        file_bytes = path.stat().st_size
        try:
            with gzip.open(path, "rb") if gzipped else path.open("rb") as stream:
                found = _read_header(stream, path, len(shape))
                if any(size not in (None, has) for size, has in zip(shape, found, strict=True)):
                    raise bad_file(path, f"an array of {_times(found)}", expected)
                ratio = _DEFLATE_MAX_RATIO if gzipped else 1
                values = _read_values(stream, path, found, most=file_bytes * ratio)
        # Caught here because BadGzipFile is an OSError without a strerror.
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise bad_file(path, f"a damaged gzip file ({error})", expected) from error
    return np.frombuffer(values, dtype=np.uint8).reshape(found)


def _read_header(stream: IO[bytes] | gzip.GzipFile, path: Path, dimensions: int) -> tuple[int, ...]:
    length = 4 + 4 * dimensions
    header = stream.read(length)
    if len(header) < length:
        raise bad_file(path, f"{len(header)} bytes", f"an IDX file: a header of {length} bytes")
    magic, *shape = struct.unpack(f">{1 + dimensions}I", header)
    wanted = 0x0800 | dimensions
    if magic != wanted:
        kind = f"unsigned bytes in {dimensions} dimension(s)"
        raise bad_file(
            path, f"magic number 0x{magic:08x}", f"0x{wanted:08x}, an IDX file of {kind}"
        )
    return tuple(shape)


def _read_values(
    stream: IO[bytes] | gzip.GzipFile, path: Path, shape: tuple[int, ...], most: int
) -> bytearray:
    size = math.prod(shape)
    claim = f"{size}, as the header says ({_times(shape)})"
    if size > most:
        raise bad_file(path, f"a file that can hold no more than {most} values", claim)
    values = bytearray()
    # One byte more than claimed is asked for: it shows surplus, and makes gzip check its CRC.
    while chunk := stream.read(min(_CHUNK_BYTES, size + 1 - len(values))):
        values += chunk
    if len(values) != size:
        raise bad_file(
            path, "more values" if len(values) > size else f"{len(values)} values", claim
        )
    return values


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)
