"""The readers on real recordings and images: counts, balance, and labels that fit the pictures.

The data lies in the folder that H2LEARN_DATA names, or in ../shared/data beside the repository;
without it these tests skip.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from h2learn.datasets import Cifar10, load, nmnist

ROOT = Path(os.environ.get("H2LEARN_DATA") or Path(__file__).parents[2] / ".." / "shared" / "data")
FOLDERS = {"mnist": "mnist", "nmnist": "nmnist", "cifar10": "cifar-10-batches-bin"}


def folder(name: str) -> Path:
    path = (ROOT / FOLDERS[name]).resolve()
    if not path.is_dir():
        pytest.skip(f"real data is not at {path}; H2LEARN_DATA names its folder")
    return path


def load_part(name: str, train: bool):
    if name == "digits":
        pytest.importorskip("sklearn", reason="the extra `data` is not installed")
        return load(name, train=train)
    return load(name, folder(name), train)


@pytest.mark.parametrize(
    ("name", "train", "per_class"),
    [
        ("mnist", True, [672, 795, 729, 702, 700, 633, 656, 712, 682, 719]),
        ("mnist", False, [101, 110, 105, 101, 88, 90, 100, 101, 105, 99]),
        ("nmnist", True, [79, 98, 81, 73, 81, 72, 73, 86, 73, 84]),
        ("nmnist", False, [18, 18, 18, 20, 24, 20, 21, 31, 14, 16]),
        ("cifar10", True, [1000] * 10),
        ("cifar10", False, [200] * 10),
    ],
)
def test_samples_a_class(name, train, per_class):
    data = load_part(name, train)
    assert torch.bincount(data.labels, minlength=10).tolist() == per_class
    assert len(data) == sum(per_class)


@pytest.mark.parametrize(
    ("name", "least"), [("digits", 0.85), ("mnist", 0.75), ("nmnist", 0.65), ("cifar10", 0.22)]
)
def test_labels_fit_the_pictures(name, least):
    """The nearest class mean is right far more often than one in ten: read well, in both parts."""
    train, test = load_part(name, True), load_part(name, False)
    parts = []
    for data in (train, test):
        inputs, labels = data.batch(range(len(data)))
        parts.append(((inputs.sum(0) if data.is_event else inputs).flatten(1), labels))
    (inputs, labels), (questions, answers) = parts
    means = torch.stack([inputs[labels == label].mean(0) for label in range(10)])
    guesses = torch.cdist(questions, means).argmin(1)
    assert (guesses == answers).float().mean() >= least


@pytest.mark.parametrize("timesteps", [1, 10])
def test_nmnist_frames_event_by_event(timesteps):
    data = load("nmnist", folder("nmnist"), train=False, timesteps=timesteps)
    for index in (0, 120):
        raw = data.paths[index].read_bytes()
        events = [int.from_bytes(raw[at : at + 5], "big") for at in range(0, len(raw), 5)]
        times = [event & 0x7FFFFF for event in events]
        span = max(times) - min(times) + 1
        frames = torch.zeros(timesteps, 2, nmnist.SIDE, nmnist.SIDE)
        for event, time in zip(events, times, strict=True):
            x, y, polarity = event >> 32, event >> 24 & 0xFF, event >> 23 & 1
            frames[(time - min(times)) * timesteps // span, polarity, y, x] = 1.0
        assert torch.equal(data[index][0], frames)
        assert data[index][1] == int(data.paths[index].parent.name)


def test_cifar10_standardised():
    """The published channel statistics are about those of this subset."""
    images, _ = Cifar10(folder("cifar10"), standardise=True).batch(range(10_000))
    assert images.mean((0, 2, 3)).abs().max() < 0.1
    assert (images.std((0, 2, 3)) - 1).abs().max() < 0.05
