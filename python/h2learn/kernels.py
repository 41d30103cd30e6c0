"""Names of the kernels that compute a synapse layer, and choosing one for a whole model."""

from __future__ import annotations

from torch import nn

from h2learn import checks

__all__ = ["KERNELS", "Synapse", "check_kernel", "set_kernel"]

KERNELS = {
    "auto": "event, dense or sampled, chosen by the measured density of the operand",
    "event": "walks spikes (or non-zero gradients) and adds weight rows",
    "dense": "multiplies every element",
    "lut": "tables of partial sums, as the accelerator's engines; backward as dense",
    "digits": "8-bit digits, exact integer sums; as auto where a layer or its numbers do not suit",
    "sampled": "input gradients one by one, where the mask needs them; all else as auto",
    "fastest": "digits or auto, whichever is sooner done here; sums may differ between machines",
}


class Synapse:
    """What marks a module as a synapse layer: it computes with the kernel that it names."""

    kernel: str


def check_kernel(name: str) -> str:
    """Returns `name`. ValueError, listing what is allowed, if it is not a kernel."""
    if not isinstance(name, str) or name not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got {name!r}")
    return name


def set_kernel(model: nn.Module, name: str) -> None:
    """Sets the kernel of every Linear and Conv2d of h2learn in `model`."""
    check_kernel(name)
    checks.module("model", model)
    for module in model.modules():
        if isinstance(module, Synapse):
            module.kernel = name
