"""Names the machine that a measurement was made on.

    python bench/machine.py [--json]

prints the line that stands beside every table in RESULTS.md.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch


def facts() -> dict[str, str | int | float]:
    """Processor, cores that may be used, memory, vector instructions, versions, commit, date."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30, 1),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "instruction_flags": " ".join(_notable_flags()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 by itself; torch emulates it elsewhere, slowly.

    True where that cannot be told.
    """
    x86, arm = _cpuinfo("flags").split(), _cpuinfo("Features").split()
    return not (x86 or arm) or "bf16" in arm or not {"avx512_bf16", "amx_bf16"}.isdisjoint(x86)


def line(f: Mapping[str, object] | None = None) -> str:
    """Facts, by default this machine's, as one line of text."""
    f = facts() if f is None else f
    flags = f" ({f['instruction_flags']})" if f["instruction_flags"] else ""
    commit = f", commit {f['commit']}" if f.get("commit") else ""  # old reports have none
    return (
        f"{f['date']}: {f['processor']}, {f['cores']} cores, {f['vector_instructions']}{flags}, "
        f"{f['memory_gib']} GiB, {f['system']}, Python {f['python']}, torch {f['torch']}{commit}"
    )


def command(script: str, arguments: list[str] | None) -> str:
    """The command line that made a measurement, to stand beside its figures."""
    given = sys.argv[1:] if arguments is None else arguments
    return shlex.join(["python", f"bench/{script}.py", *given])


def _commit() -> str:
    """Of the checkout that this file lies in; empty where it is none or git is missing."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()


def _cpuinfo(key: str) -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for text in path.read_text().splitlines():
            name, _, value = text.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _notable_flags() -> list[str]:
    """The extensions that h2learn's and torch's kernels choose by."""
    present = set(_cpuinfo("flags").split())
    notable = ("avx2", "avx512f", "avx512_vnni", "avx512vbmi", "avx512_bf16",
               "avx512_vpopcntdq", "amx_int8", "amx_bf16")  # fmt: skip
    return [flag for flag in notable if flag in present]


if __name__ == "__main__":
    print(json.dumps(facts(), indent=2) if "--json" in sys.argv[1:] else line())
