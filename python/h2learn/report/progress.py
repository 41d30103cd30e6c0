"""What training shows while it runs: a line an epoch, and under it a bar on a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from h2learn.report.units import amount, duration, percent

if TYPE_CHECKING:
    from h2learn.training import Evaluation, Progress

_HEADER = " epoch     loss  training     test  samples/s      time  firing rates"


class TrainingDisplay:
    """Context manager around the epochs of a run.

    Each finished epoch is one line, on a terminal or in a file. On a terminal there is also a
    bar for the epoch in progress, with the time left until the whole run ends.
    """

    def __init__(self, console: Console, epochs: int, first_epoch: int) -> None:
        self._console = console
        self._epochs = epochs
        self._done_before = first_epoch - 1
        self._started = 0.0
        self._bar = Bar(
            TextColumn(" {task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[status]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            refresh_per_second=5,
        )
        self._task: TaskID = self._bar.add_task("", status="")

    def __enter__(self) -> TrainingDisplay:
        self._started = time.perf_counter()
        self._bar.start()
        self._bar.console.print(_HEADER, style="bold")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def step(self, progress: Progress) -> None:
        """After each training step."""
        status = (
            f"loss {progress.loss:.4f}  {percent(progress.accuracy)} right  "
            f"firing {firing_rates(progress.firing_rates)}  "
            f"{amount(progress.samples_per_second)} samples/s  {self._time_left(progress)} left"
        )
        self._bar.update(
            self._task,
            description=f"epoch {progress.epoch}/{self._epochs}",
            completed=progress.step,
            total=progress.steps,
            status=status,
        )

    def epoch(self, progress: Progress, evaluation: Evaluation) -> None:
        """After each epoch."""
        width = len(str(self._epochs))
        count = f"{progress.epoch:>{width}}/{self._epochs}"
        self._bar.console.print(
            f"{count:>6}  {progress.loss:7.4f}  {percent(progress.accuracy):>8}  "
            f"{percent(evaluation.accuracy):>7}  {amount(progress.samples_per_second):>9}  "
            f"{duration(progress.seconds):>8}  {firing_rates(progress.firing_rates, named=True)}",
            highlight=False,
            soft_wrap=True,
        )

    def _time_left(self, progress: Progress) -> str:
        """Until the run ends, from the pace so far, evaluations included."""
        done = (progress.epoch - 1 - self._done_before) * progress.steps + progress.step
        left = (self._epochs - self._done_before) * progress.steps - done
        return duration((time.perf_counter() - self._started) / done * left)


def firing_rates(rates: Mapping[str, float], named: bool = False) -> str:
    """Rates of up to three layers one by one, of more the lowest and the highest."""
    if not rates:
        return "-"
    if len(rates) > 3:
        low, high = min(rates.values()), max(rates.values())
        return f"{percent(low)} to {percent(high)} ({len(rates)} layers)"
    if named:
        return "  ".join(f"{name} {percent(rate)}" for name, rate in rates.items())
    return " ".join(percent(rate) for rate in rates.values())
