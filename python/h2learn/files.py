"""Files that are whole or absent, and readers that believe no size.

A file is replaced by writing beside it and renaming; both reach the disk before we go on, so that
a power cut or `kill -9` leaves either the old content or the new.
"""

from __future__ import annotations

import os
from pathlib import Path

from h2learn.errors import InputError


def replace_file(path: Path, content: bytes) -> None:
    """Writes `content` to `path`, at once or not at all."""
    beside = path.with_name(path.name + ".partial")
    try:
        with beside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    _sync_directory(path.parent)


def append_line(path: Path, line: str) -> None:
    """Adds a line; on the disk when this returns. A line cut short by a kill lacks its newline."""
    with path.open("ab") as stream:
        stream.write(line.encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_file(path: Path, limit_bytes: int) -> bytes:
    """The whole content of a file.

    Raises:
        InputError: the file is missing, unreadable, or larger than `limit_bytes`.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for, a device never ends
            raise InputError(f"{path}: cannot be read: not a regular file")
        with path.open("rb") as stream:
            content = stream.read(limit_bytes + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(content) > limit_bytes:
        raise InputError(f"{path}: larger than the {limit_bytes} bytes it can have")
    return content


def check_creatable(path: Path, name: str) -> None:
    """Makes sure, without writing, that `path` may be created or written as far as one can tell.

    Args:
        path: what is to be created, parents included, or written to.
        name: what the user calls it, for the error.

    Raises:
        InputError: a parent is not a folder, or the permissions forbid it.
    """
    nearest = path
    while not os.path.lexists(nearest) and nearest.parent != nearest:
        nearest = nearest.parent
    if nearest != path and not nearest.is_dir():
        raise InputError(f"{name} {path} cannot be created: {nearest} is not a folder")
    if not os.access(nearest, os.W_OK | (os.X_OK if nearest.is_dir() else 0)):
        raise InputError(f"{name} {path} cannot be written: no permission to write {nearest}")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
