"""Fits the constants of a choice to measured times, and says what the choice costs."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from choice import Choice, Constants, Sample
from kernel_tables import AUTO_SLACK, percent
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]

_FACTORS = np.array([0.7, 0.85, 0.95, 1.05, 1.18, 1.43])
_STEPS = np.array([0.1, 1.0, 10.0])  # off zero
_LEAST_GAIN = 1e-4


def fit(samples: Sequence[Sample], old: Constants, choice: Choice) -> Constants:
    """The constants from times; those that no sample tells anything about are the old ones.

    First by least squares on the differences between two kernels' times: they are linear in the
    constants, what both pay (writing results, packing gradients) cancels out, and `auto` asks for
    nothing but their sign. Each is divided by the longer time, so that no sample counts for more
    than another. Then, from there and from the old ones, one constant after the other is moved as
    long as that lowers what the choice loses: the model is no more than a model, and where it
    errs, it had better not be near a crossing.
    """
    starts = (least_squares(samples, old, choice), old)
    found = [descend(samples, start, choice) for start in starts]
    return min(found, key=lambda constants: losses(samples, constants, choice).mean)


def least_squares(samples: Sequence[Sample], old: Constants, choice: Choice) -> Constants:
    """The first step of `fit`."""
    rows, differences = [], []
    for sample in samples:
        for one, other in itertools.combinations(sample.ns, 2):
            longer = max(sample.ns[one], sample.ns[other])
            counts = _counts(sample, one, old, choice) - _counts(sample, other, old, choice)
            rows.append(counts * choice.size(sample) / longer)
            differences.append((sample.ns[one] - sample.ns[other]) / longer)
    matrix, target = np.array(rows), np.array(differences)
    if choice.unit_ns is None:
        (unit, *found), _ = nnls(matrix, target)
    else:
        unit = choice.unit_ns
        found, _ = nnls(matrix[:, 1:], target - unit * matrix[:, 0])
    if unit == 0:
        return old
    known = np.any(matrix[:, 1:] != 0, axis=0)
    return type(old)(**{
        name: value / unit if is_known else before
        for (name, before), value, is_known in zip(old.as_dict().items(), found, known, strict=True)
    })  # fmt: skip


def descend(samples: Sequence[Sample], start: Constants, choice: Choice) -> Constants:
    """The second step of `fit`: coordinate descent, on the constants that the samples know."""
    names = start.names()
    counts = np.zeros((len(samples), len(choice.ways), 1 + len(names)))
    regrets = np.full((len(samples), len(choice.ways)), np.inf)
    for i, sample in enumerate(samples):
        for way in sample.ns:
            counts[i, choice.ways.index(way)] = _counts(sample, way, start, choice)
            regrets[i, choice.ways.index(way)] = choice.regret(sample, way)

    def loss(values: Array) -> float:
        prices = np.where(np.isinf(regrets), np.inf, counts @ np.concatenate([[1.0], values]))
        chosen = np.take_along_axis(regrets, prices.argmin(axis=1)[:, None], axis=1)
        return float(np.mean(np.log(chosen) ** 2))

    values = np.array(list(start.as_dict().values()))
    least = loss(values)
    improved = True
    while improved:
        improved = False
        for i in np.flatnonzero(np.any(counts != 0, axis=(0, 1))[1:]):
            for value in (*(values[i] * _FACTORS), *(values[i] + _STEPS)):
                tried = values.copy()
                tried[i] = value
                if (found := loss(tried)) < (1 - _LEAST_GAIN) * least:
                    values, least, improved = tried, found, True
    return type(start)(**dict(zip(names, values.tolist(), strict=True)))


def _counts(sample: Sample, way: str, constants: Constants, choice: Choice) -> Array:
    """choice.terms as a vector: the unit, then the constants in their order."""
    found = choice.terms(sample.layer, way)
    return np.array([found.get(name, 0.0) for name in ("unit", *constants.names())])


# ---- what it means


@dataclass(frozen=True)
class Losses:
    """What a choice costs: its times over those of the fastest single kernel.

    Attributes:
        slow: samples where it is slower than AUTO_SLACK allows.
        there: of the worst.
    """

    samples: int
    slow: int
    worst: float
    there: str
    median: float
    mean: float

    @classmethod
    def of(cls, samples: Sequence[Sample], regrets: Sequence[float]) -> Losses:
        """Of one regret a sample."""
        worst = max(range(len(samples)), key=lambda i: regrets[i])
        layer = samples[worst].layer
        return cls(
            len(samples),
            sum(regret > AUTO_SLACK for regret in regrets),
            regrets[worst],
            f"{layer.name}, {percent(layer.density)}",
            statistics.median(regrets),
            statistics.fmean(regrets),
        )


def losses(samples: Sequence[Sample], constants: Constants, choice: Choice) -> Losses:
    """Of the choices by these constants."""
    chosen = [choice.choose(sample.layer, constants) for sample in samples]
    return Losses.of(samples, [choice.regret(s, w) for s, w in zip(samples, chosen, strict=True)])


def measured_losses(samples: Sequence[Sample]) -> Losses:
    """Of `auto` as it ran: with the constants it was compiled with, its own decision included."""
    return Losses.of(samples, [s.auto_ns / min(s.ns.values()) for s in samples])
