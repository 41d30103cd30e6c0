"""Offload: an accelerator beside every training step.

Inside `with offload("h2learn") as accelerator:` each training step of h2learn modules is recorded
and simulated, on the bits that were really computed, and its counters are added up. Training is
not changed by it, unless `numerics="hardware"` asks for the engines' own arithmetic.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal, get_args

from torch import nn

from h2learn.accelerators.config import Accelerator
from h2learn.accelerators.results import Simulation
from h2learn.accelerators.simulation import simulate, simulate_step
from h2learn.errors import InputError
from h2learn.numerics import hardware
from h2learn.recorder import Recorder
from h2learn.workload import LayerWork, Workload

if TYPE_CHECKING:
    from h2learn.report.trace import Timeline

__all__ = ["Offload", "offload"]

Numerics = Literal["float32", "hardware"]


class Offload:
    """Context manager; see `offload`. Counters can be read inside the block, too, after a step.

    Attributes:
        accelerator: the machine.
        workload: one step, to save, or to simulate on another machine; None before the first. It
            is the latest of the largest: an epoch often ends with a smaller mini-batch.
        step: that step's own simulation.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        *,
        model: nn.Module | None = None,
        numerics: Numerics = "float32",
    ) -> None:
        if numerics not in get_args(Numerics):
            raise InputError(
                f"numerics must be one of {', '.join(get_args(Numerics))}, got {numerics!r}"
            )
        self.accelerator = accelerator
        self.workload: Workload | None = None
        self.step: Simulation | None = None
        self._numerics = numerics
        self._recorder = Recorder(model, on_step=self._simulate)
        self._total: Simulation | None = None
        self._open: contextlib.ExitStack | None = None

    def __enter__(self) -> Offload:
        if self._open is not None:
            raise RuntimeError("this offload is running already; make another one")
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._recorder)
            if self._numerics == "hardware":
                stack.enter_context(hardware(self.accelerator))
            self._open = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            opened.__exit__(kind, error, trace)

    def _simulate(self, step: Sequence[LayerWork]) -> None:
        result = simulate_step(step, self.accelerator, tiles=True)
        if self._total is None:
            self._total = copy.copy(result)
        else:
            try:
                self._total.add(result)
            except ValueError as error:
                raise InputError(
                    f"one offload counts steps of one network: {error}; use an offload for each"
                ) from None
        if self.workload is None or step[0].samples >= self.workload.steps[0][0].samples:
            self.workload = Workload((tuple(step),), {"source": "offload"})
            self.step = result

    @property
    def steps(self) -> int:
        """Training steps simulated so far."""
        self._recorder.step()
        return 0 if self._total is None else self._total.steps

    @property
    def counters(self) -> Simulation:
        """All steps so far, added up.

        Raises:
            RuntimeError: no step has run yet.
        """
        self._recorder.step()
        if self._total is None:
            raise RuntimeError(
                "no training step has run under this offload: call a model of h2learn layers "
                "inside the block first"
            )
        return self._total

    def ablations(self) -> dict[str, Simulation]:
        """`step` with each mechanism of the accelerator switched off, by what was done."""
        self.counters  # noqa: B018 - closes the step, or says that there is none
        assert self.workload is not None  # noqa: S101 - a sum has a step
        return {
            name: simulate(self.workload, machine)
            for name, machine in self.accelerator.ablations().items()
        }

    def report(self, *, ablations: bool = False) -> str:
        """Time, energy, utilisation and traffic, as text; with `ablations` also what each gains."""
        from h2learn.report.accelerator import report_text

        return report_text(
            self.counters,
            step=self.step,
            ablations=self.ablations() if ablations else None,
        )

    def timeline(self) -> Timeline:
        """The tiles of `step`, for ui.perfetto.dev: `timeline().save("step.json")`."""
        from h2learn.report.trace import Timeline

        self.counters  # noqa: B018 - closes the step, or says that there is none
        assert self.step is not None  # noqa: S101 - a sum has a step
        return Timeline(self.step)


def offload(
    accelerator: Accelerator | str = "h2learn",
    *,
    model: nn.Module | None = None,
    numerics: Numerics = "float32",
) -> Offload:
    """Simulates every training step inside the block on an accelerator.

    Args:
        accelerator: a preset's name, a TOML file, or an `Accelerator`.
        model: names the layers as the model does, and leaves out others; by default all count.
        numerics: "float32" trains as without the accelerator; "hardware" computes with the
            engines' arithmetic: their order of additions, in the accelerator's precision.

    Example:
        >>> import torch, h2learn
        >>> from h2learn import nn
        >>> model = nn.Sequential(nn.Linear(64, 32), nn.LIF(), nn.Linear(32, 10), nn.Readout())
        >>> with h2learn.offload("h2learn") as accelerator:
        ...     model(torch.rand(4, 2, 64)).sum().backward()
        >>> accelerator.counters.steps
        1

    Raises:
        InputError: no such accelerator, an impossible one, or no such numerics.
    """
    machine = Accelerator.load(accelerator) if isinstance(accelerator, str) else accelerator
    return Offload(machine, model=model, numerics=numerics)
