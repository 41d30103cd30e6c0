"""TOML files from outside, and the named ones that come with the package.

Accelerators and cost tables are both a folder of `NAME.toml` that a user may add a file to: what
is common to the two stands here.
"""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Any

from h2learn.errors import InputError
from h2learn.files import read_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["find", "names", "parse", "read", "shown"]

# The largest that comes with the package has 11 kB, most of it comments.
LIMIT_BYTES = 256 * 1024


def names(folder: Path) -> tuple[str, ...]:
    """The names of the TOML files in one of the package's folders, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.toml")))


def find(name_or_path: str, folder: Path, what: str) -> Path:
    """The file that a user means: one of the package's by name, else a path ending in .toml.

    Raises:
        InputError: neither; lists the names.
    """
    known = names(folder)
    if name_or_path in known:
        return folder / f"{name_or_path}.toml"
    if name_or_path.lower().endswith(".toml"):
        return Path(name_or_path)
    near = difflib.get_close_matches(name_or_path, known, n=1)
    hint = f": did you mean {near[0]!r}?" if near else ":"
    raise InputError(
        f"unknown {what} {shown(name_or_path)}{hint} known are {', '.join(known)}, "
        f"or give a file that ends in .toml"
    )


def read(path: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        InputError: it cannot be read, is too large, or is not TOML (with line and column).
    """
    content = read_file(path, LIMIT_BYTES)
    try:
        return parse(content.decode())
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8 (byte {error.start})") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None


def parse(text: str) -> dict[str, Any]:
    """Parses TOML.

    Raises:
        ValueError: it is not TOML, or nested too deeply to be read.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def shown(value: object) -> str:
    """A value as an error message quotes it: one line, never long."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print integers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:76]} ..."
