"""Files that a command leaves for the user: checked before the work, written whole after it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from h2learn.errors import InputError
from h2learn.files import check_creatable, replace_file

__all__ = ["check_outputs", "write_json", "write_output"]


def check_outputs(outputs: Mapping[str, Path | None], inputs: tuple[Path, ...] = ()) -> None:
    """Makes sure, without writing, that every file can be written and none is named twice.

    Args:
        outputs: option to file; None where the user wants none.
        inputs: files that the command reads.

    Raises:
        InputError: a folder, no permission, or two of the files are one.
    """
    seen = {path.resolve(): "the file that is read" for path in inputs}
    for option, path in outputs.items():
        if path is None:
            continue
        if path.is_dir():
            raise InputError(f"{option} {path} is a folder; name a file")
        check_creatable(path, option)
        if path.exists() and not path.is_file():
            if option != "--json":
                raise InputError(f"{option} {path} must be a regular file")
            continue
        other = seen.setdefault(path.resolve(), option)
        if other != option:
            raise InputError(f"{option} {path} is also {other}; name another file")


def write_output(path: Path, option: str, content: bytes) -> None:
    """Writes a file, its folder made where it is missing; a pipe or device is written to.

    Raises:
        InputError: it cannot be written.
    """
    try:
        if path.exists() and not path.is_file():  # /dev/stdout, a pipe
            path.write_bytes(content)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    except OSError as error:
        raise InputError(f"{option} {path} cannot be written: {error.strerror}") from error


def write_json(path: Path | None, content: Mapping[str, Any]) -> None:
    """Writes what `--json FILE` asks for, if it asks; NaN is an error.

    Raises:
        InputError: it cannot be written.
    """
    if path is not None:
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        write_output(path, "--json", text.encode())
