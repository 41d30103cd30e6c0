"""What training shows while it runs: a line an epoch, and under it a bar on a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Live

from h2learn.report.units import amount, duration, percent

if TYPE_CHECKING:
    from h2learn.training import Evaluation, Progress

_HEADER = " epoch     loss  training     test  samples/s      time  firing rates"


class TrainingDisplay:
    """Context manager around the epochs of a run.

    Each finished epoch is one line, on a terminal or in a file. On a terminal the last line is
    the epoch in progress, with a bar where its test accuracy will stand, and with the time left
    until the whole run ends.
    """

    def __init__(self, console: Console, epochs: int, first_epoch: int) -> None:
        self._epochs = epochs
        self._done_before = first_epoch - 1
        self._started = 0.0
        self._live = Live(
            TextColumn("{task.fields[before]}", style="cyan"),
            BarColumn(bar_width=7),
            TextColumn("{task.fields[after]}", style="cyan"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            refresh_per_second=5,
        )
        self._task = self._live.add_task("", before="", after="", visible=False)

    def __enter__(self) -> TrainingDisplay:
        self._started = time.perf_counter()
        self._live.start()
        if self._done_before < self._epochs:
            self._live.console.print(_HEADER, style="bold")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def step(self, progress: Progress) -> None:
        """After each training step."""
        before, after = self._columns(progress, f"{self._time_left(progress)} left")
        self._live.update(
            self._task,
            completed=progress.step,
            total=progress.steps,
            before=before,
            after=" " + after,
            visible=True,
        )

    def epoch(self, progress: Progress, evaluation: Evaluation) -> None:
        """After each epoch."""
        before, after = self._columns(progress, duration(progress.seconds))
        self._live.update(self._task, visible=False)
        line = f"{before}  {percent(evaluation.accuracy):>7}  {after}"
        self._live.console.print(line, highlight=False, soft_wrap=True)

    def _columns(self, progress: Progress, time_shown: str) -> tuple[str, str]:
        """What stands before and after the test accuracy."""
        count = f"{progress.epoch}/{self._epochs}"
        before = f"{count:>6}  {progress.loss:7.4f}  {percent(progress.accuracy):>8}"
        speed = amount(progress.samples_per_second)
        return before, f"{speed:>9}  {time_shown:>8}  {firing_rates(progress.firing_rates)}"

    def _time_left(self, progress: Progress) -> str:
        """Until the run ends, from the pace so far, evaluations included."""
        done = (progress.epoch - 1 - self._done_before) * progress.steps + progress.step
        left = (self._epochs - self._done_before) * progress.steps - done
        return duration((time.perf_counter() - self._started) / done * left)


def firing_rates(rates: Mapping[str, float]) -> str:
    """Rates of up to three layers one by one, of more the lowest and the highest."""
    if len(rates) <= 3:
        return ", ".join(f"{name} {_rate(rate)}" for name, rate in rates.items()) or "-"
    low, high = min(rates.values()), max(rates.values())
    return f"{_rate(low)} to {_rate(high)} in {len(rates)} layers"


def _rate(share: float) -> str:
    return percent(share, decimals=0 if share >= 0.0995 else 1)
