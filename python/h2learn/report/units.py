"""Numbers as people read them: three digits, a prefix, a unit."""

from __future__ import annotations

import math

_PREFIXES = ("", " k", " M", " G", " T", " P")
_SMALL = ("", "m", "µ", "n", "p")


def amount(value: float) -> str:
    """A count: 873, 12.3 k, 1.05 M."""
    return _scaled(value, 1000.0).rstrip()


def byte_size(value: float) -> str:
    """Bytes, in powers of 1000: 873 B, 12.3 kB, 1.05 MB."""
    text = _scaled(value, 1000.0)
    return f"{text}B" if text[-1].isalpha() else f"{text} B"


def measure(value: float, unit: str) -> str:
    """A quantity: 12.3 µs, 4.20 mJ, 800 MHz, 0 J. Give it in the unit without a prefix."""
    if not value or not math.isfinite(value):
        return f"{value:.0f} {unit}"
    index = 0
    while abs(value) < 0.9995 and index < len(_SMALL) - 1:
        value *= 1000.0
        index += 1
    if index:
        return f"{_three(value)} {_SMALL[index]}{unit}"
    text = _scaled(value, 1000.0)
    return f"{text}{unit}" if text[-1].isalpha() else f"{_three(value)} {unit}"


def ratio(value: float) -> str:
    """How many times: 1.00x, 12.3x, 140x."""
    return f"{_three(value)}x"


def percent(share: float, decimals: int = 1) -> str:
    """A share of one: 12.3 %."""
    return f"{100.0 * share:.{decimals}f} %"


def duration(seconds: float) -> str:
    """A time: 350 ms, 4.2 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def _three(value: float) -> str:
    """Three significant digits, never an exponent below a million."""
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value) * 1.0005)))
    return f"{value:.{decimals}f}"


def _scaled(value: float, base: float) -> str:
    """Three significant digits and a prefix; whole numbers below 1000 as they are."""
    if not math.isfinite(value):
        return str(value)
    index = 0
    while abs(value) >= 999.5 and index < len(_PREFIXES) - 1:
        value /= base
        index += 1
    if index == 0:
        return f"{value:.0f}" if value == int(value) else f"{value:.3g}"
    decimals = max(0, 2 - int(math.log10(abs(value) * 1.0005)))
    return f"{value:.{decimals}f}{_PREFIXES[index]}"
