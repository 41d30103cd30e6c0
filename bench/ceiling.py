"""The machine's ceilings: what no kernel can exceed with a given instruction set and threads.

    python bench/ceiling.py [TARGET] [THREADS]

`ceiling.cpp`, compiled here with the system's C++ compiler (`CXX`, else `c++`), measures
multiply-adds from registers, of float32 and of bytes, and the bandwidth of caches and memory.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".cpp")

# Options that compile for h2learn's target of that name; elsewhere than on x86-64, and for the
# baseline, the compiler's own choice.
_X86_OPTIONS = {
    "avx2": ["-mavx2", "-mfma", "-DVECTOR_BYTES=32"],
    "avx512": ["-mavx512f", "-mfma", "-DVECTOR_BYTES=64"],
}
# These add nothing to floats, but multiply bytes.
_X86_OPTIONS["avx512vnni"] = [*_X86_OPTIONS["avx512"], "-mavx512vnni"]
_X86_OPTIONS["amx"] = [*_X86_OPTIONS["avx512vnni"], "-mamx-tile", "-mamx-int8"]

DIGITS = 3
"""Bytes of a weight in the int8 ceiling, as the goals have it; the kernel makes four of one."""


DIGIT_PRODUCTS = {"forward": 4, "weight_update": 4, "backward": 10}
"""Multiplications of bytes by which the digits kernel does one multiply-add of each product."""


class NoCeilingError(Exception):
    """It could not be measured here; the message says why."""


@dataclass(frozen=True)
class Ceiling:
    """Rates of all threads together.

    Attributes:
        flops: float32 operations per second; a multiply-add is two.
        l1_bytes_per_second: reading what fits half of each core's cache; likewise L2.
        dram_read_bytes_per_second: reading memory.
        dram_copy_bytes_per_second: reading and writing it, past the caches; both counted.
        int8_ops: as `flops`, of bytes with 32-bit sums; None where no instruction does just that.
    """

    flops: float
    l1_bytes_per_second: float
    l2_bytes_per_second: float
    dram_read_bytes_per_second: float
    dram_copy_bytes_per_second: float
    int8_ops: float | None = None

    def roof_ms(self, flops: float, read_bytes: float, written_bytes: float) -> float:
        """The least time of so many operations on data that memory holds.

        A byte read for each byte written moves as fast as a copy, the rest as fast as reading.
        """
        return 1e3 * max(flops / self.flops, self._moving(read_bytes, written_bytes))

    def int8_roof_ms(self, flops: float, read_bytes: float, written_bytes: float) -> float | None:
        """The same where each weight is multiplied as `DIGITS` bytes."""
        if self.int8_ops is None:
            return None
        computing = DIGITS * flops / self.int8_ops
        return 1e3 * max(computing, self._moving(read_bytes, written_bytes))

    def product_ms(
        self, macs: float, nonzero: float, needed: float = 1.0, digit_products: int = 0
    ) -> float:
        """The least time in which `dense`, `event`, `sampled` or `digits` could make a product.

        `dense` multiplies all terms, `sampled` those of the results that are needed; `event` adds
        a vector, read from the first-level cache, for each term that is not zero; `digits`
        multiplies bytes, `digit_products` times a term (0: it is not to be had).
        """
        float_bytes = 4
        multiplied = macs * needed / (self.flops / 2)
        added = macs * nonzero * float_bytes / self.l1_bytes_per_second
        seconds = [multiplied, added]
        if digit_products and self.int8_ops is not None:
            seconds.append(macs * digit_products / (self.int8_ops / 2))
        return 1e3 * min(seconds)

    def _moving(self, read_bytes: float, written_bytes: float) -> float:
        copied = min(read_bytes, written_bytes)
        seconds = 2.0 * copied / self.dram_copy_bytes_per_second
        return seconds + (max(read_bytes, written_bytes) - copied) / self.dram_read_bytes_per_second

    def as_dict(self) -> dict[str, float | None]:
        """The figures by name."""
        return asdict(self)


def highest(one: Ceiling, other: Ceiling) -> Ceiling:
    """The higher of each pair of figures: what a ceiling was measured to be at its best."""
    mine, theirs = one.as_dict(), other.as_dict()
    found = {}
    for name in mine:
        known = [figure for figure in (mine[name], theirs[name]) if figure is not None]
        found[name] = max(known, default=None)
    return Ceiling(**found)


def measure_ceiling(target: str, threads: int, seconds: float = 0.25) -> Ceiling:
    """Compiles for the target and measures; about 6 times `seconds`.

    Raises:
        NoCeilingError: there is no compiler, or it or the program failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "ceiling"
        _run([*_compile_command(target), str(SOURCE), "-o", str(program)])
        return _parse(_run([str(program), str(threads), str(seconds)]))


def _compile_command(target: str) -> list[str]:
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        raise NoCeilingError(f"no C++ compiler {compiler!r}: set CXX")
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    options = _X86_OPTIONS.get(target, []) if is_x86 else []
    return [
        compiler, "-std=c++20", "-O3", "-ffp-contract=fast", "-fopenmp",
        *(options or ["-DVECTOR_BYTES=16"]),
    ]  # fmt: skip


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        first_line = (done.stderr.strip().splitlines() or ["no message"])[0]
        raise NoCeilingError(f"{command[0]} ended with status {done.returncode}: {first_line}")
    return done.stdout


def _parse(text: str) -> Ceiling:
    figures: Mapping[str, float] = json.loads(text)
    return Ceiling(**{name: float(value) for name, value in figures.items()})


if __name__ == "__main__":
    _target = sys.argv[1] if len(sys.argv) > 1 else "avx512"
    _threads = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    print(json.dumps(measure_ceiling(_target, _threads).as_dict(), indent=2))
