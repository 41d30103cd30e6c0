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
from h2learn.workload import LayerWork, Step, Workload

if TYPE_CHECKING:
    from h2learn.report.trace import Timeline

__all__ = ["Offload", "offload"]

Numerics = Literal["float32", "hardware"]


class Offload:
    """Context manager; see `offload`. Counters can be read inside the block, too, after a step.

    Attributes:
        accelerator: the machine.
        step: the simulation of the step that `workload` has; None before the first.
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
        self.step: Simulation | None = None
        self._largest: Step | None = None
        self._numerics = numerics
        self._recorder = Recorder(model, on_step=self._simulate, inference=False)
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
        result = simulate_step(step, self.accelerator)
        if self._total is None:
            self._total = copy.copy(result)
        else:
            try:
                self._total.add(result)
            except ValueError as error:
                raise InputError(
                    f"one offload counts steps of one network: {error}; use an offload for each"
                ) from None
        if self._largest is None or step[0].samples >= self._largest[0].samples:
            self._largest, self.step = tuple(step), result

    @property
    def workload(self) -> Workload | None:
        """One step, to save, or to simulate on another machine; None before the first.

        It is the latest of the largest: an epoch often ends with a smaller mini-batch.
        """
        if self._largest is None:
            return None
        return Workload((self._largest,), {"source": "offload"})

    @property
    def steps(self) -> int:
        """Training steps simulated so far. One that has come to its backward pass is closed."""
        self._close()
        return 0 if self._total is None else self._total.steps

    @property
    def counters(self) -> Simulation:
        """All steps so far, added up.

        Raises:
            RuntimeError: no step has run yet.
        """
        self._close()
        if self._total is None:
            raise RuntimeError(
                "no training step of h2learn layers has run under this offload: run one inside the "
                "block, forward and backward, in the thread that entered it, and not through "
                "torch.compile"
            )
        return self._total

    def _close(self) -> None:
        # Not before the backward pass: asking for a count must not cut a step in two.
        if self._recorder.backward_began:
            self._recorder.step()

    def ablations(self) -> dict[str, Simulation]:
        """`step` with each mechanism of the accelerator switched off, by what was done."""
        self.counters  # noqa: B018 - closes the step, or says that there is none
        workload = self.workload
        assert workload is not None  # noqa: S101 - a sum has a step
        return {
            name: simulate(workload, machine)
            for name, machine in self.accelerator.ablations().items()
        }

    def report(self, *, ablations: bool = False) -> str:
        """Time, energy, utilisation and traffic, as text; with `ablations` also what each gains."""
        from h2learn.report.accelerator import report_text

        counters, workload = self.counters, self.workload
        assert workload is not None  # noqa: S101 - a sum has a step
        return report_text(
            counters,
            step=self.step,
            step_samples=workload.steps[0][0].samples,
            ablations=self.ablations() if ablations else None,
        )

    def timeline(self) -> Timeline:
        """The tiles of `step`, for ui.perfetto.dev: `timeline().save("step.json")`."""
        from h2learn.report.trace import Timeline

        self.counters  # noqa: B018 - closes the step, or says that there is none
        assert self._largest is not None  # noqa: S101 - a sum has a step
        return Timeline(simulate_step(self._largest, self.accelerator, tiles=True))


def offload(
    accelerator: Accelerator | str = "h2learn",
    *,
    model: nn.Module | None = None,
    numerics: Numerics = "float32",
) -> Offload:
    """Simulates every training step inside the block on an accelerator.

    Evaluations inside the block are not counted: a step is a forward and a backward pass. A step
    that the machine cannot run is refused when it is closed, that is when the next one begins.

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
    machine = Accelerator.of(accelerator)
    return Offload(machine, model=model, numerics=numerics)
