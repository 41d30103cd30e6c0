"""Holds h2learn and torch to one instruction set, so that the two are compared on the same."""

from __future__ import annotations

from pathlib import Path

from h2learn import _core

# The plain reference is no target to be fast on.
TARGETS = [target for target in _core.available_targets() if target != "scalar"]
DIGITS_ONLY = ("avx512vnni", "amx")
"""Differ from avx512 in the digits kernel, and in nothing else (docs/kernels.md)."""


def environment(target: str) -> dict[str, str]:
    """Variables that hold h2learn to a target, and torch's libraries to the same instructions."""
    held = {"H2LEARN_TARGET": target}
    if target == "avx2":
        held |= {
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        }
    elif target == "baseline":
        held |= {
            "ATEN_CPU_CAPABILITY": "default",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        }
        if not is_intel():
            # There MKL heeds the variable above for nothing less than AVX2.
            held["MKL_CBWR"] = "COMPATIBLE"
    return held


def is_intel() -> bool:
    """Whether MKL chooses its instructions by their names; on other processors it does not."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "GenuineIntel" in cpuinfo.read_text()
