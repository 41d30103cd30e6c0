"""Types of command-line arguments that the benchmarks share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable


def choices(allowed: Iterable[str]) -> Callable[[str], list[str]]:
    """Names out of `allowed`, separated by commas."""
    known = list(allowed)

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return chosen

    return parse


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def counts(text: str) -> list[int]:
    """Several of them, separated by commas."""
    return [count(part) for part in text.split(",")]
