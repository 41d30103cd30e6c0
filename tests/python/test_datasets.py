"""Readers on small files in the real formats: values, order, and what all have in common."""

from __future__ import annotations

import pickle
import re
import sys

import numpy as np
import pytest
import torch
from h2learn import encoders
from h2learn.datasets import (
    Cifar10,
    Digits,
    Mnist,
    NMnist,
    cifar10,
    collate_time_first,
    digits,
    load,
)
from h2learn.errors import InputError
from small_datasets import (
    CIFAR_IMAGES,
    LABELS,
    MNIST_IMAGES,
    NAMES,
    RECORDING,
    WRITERS,
    write_cifar_binary,
    write_cifar_python,
    write_mnist,
    write_nmnist,
)
from torch.utils.data import DataLoader


@pytest.fixture(params=WRITERS)
def small(request, tmp_path):
    write, reader = WRITERS[request.param]
    return reader(write(tmp_path))


# What every dataset promises.


def test_batch_and_samples_agree(small):
    indices = [2, 0, -1, 2]
    inputs, labels = small.batch(indices)
    assert inputs.dtype == torch.float32
    assert labels.dtype == torch.int64
    for place, index in enumerate(indices):
        sample, label = small[index]
        assert isinstance(label, int)
        assert label == labels[place]
        assert torch.equal(sample, inputs[:, place] if small.is_event else inputs[place])
    assert sample.shape[-3:] == small.sample_shape
    assert sample.shape[:-3] == ((small.timesteps,) if small.is_event else ())
    assert len(small.classes) == 10
    assert len(small) == len(small.labels)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_batch_takes_any_indices(small, kind):
    assert torch.equal(small.batch(kind([1, 3]))[0], small.batch((1, 3))[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint64, np.int16])
def test_batch_takes_any_integers(small, dtype):
    assert torch.equal(small.batch(np.array([1, 0, 1], dtype))[0], small.batch([1, 0, 1])[0])


def test_empty_batch(small):
    inputs, labels = small.batch([])
    full, _ = small.batch([0])
    time = 1 if small.is_event else 0
    assert inputs.shape == (*full.shape[:time], 0, *full.shape[time + 1 :])
    assert labels.tolist() == []


def test_indices_outside(small):
    for index in (len(small), -len(small) - 1):
        with pytest.raises(IndexError, match=f"index {index} in a dataset of {len(small)}"):
            small[index]
        with pytest.raises(IndexError, match=f"index {index} in a dataset of {len(small)}"):
            small.batch([0, index])


@pytest.mark.parametrize("indices", [[0.0], [True], [[0]], 3])
def test_indices_that_are_no_list_of_integers(small, indices):
    with pytest.raises(TypeError, match="indices must be integers"):
        small.batch(indices)


def test_iteration_ends(small):
    assert sum(1 for _ in small) == len(small)


def test_survives_pickling(small):
    copy = pickle.loads(pickle.dumps(small))  # noqa: S301 - what a DataLoader's workers do
    assert torch.equal(copy.batch([0, 1])[0], small.batch([0, 1])[0])


def test_transform_and_data_loader(tmp_path):
    data = Mnist(write_mnist(tmp_path), transform=encoders.Latency(6))
    (spikes, labels), *rest = DataLoader(data, batch_size=4, collate_fn=collate_time_first)
    assert spikes.shape == (6, 4, 1, 28, 28)
    assert labels.tolist() == LABELS[:4]
    assert len(rest) == 1
    plain, _ = Mnist(tmp_path).batch(range(4))
    assert torch.equal(spikes, encoders.latency(plain, 6))
    with pytest.raises(ValueError, match="before any transform"):
        data.batch([0])


# The values of each.


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("folder", [".", "MNIST/raw"])
def test_mnist(tmp_path, zipped, folder):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    write_mnist(tmp_path / folder, zipped)
    for train in (True, False):
        data = Mnist(tmp_path, train)
        images, labels = data.batch(range(5))
        assert torch.equal(images[:, 0], torch.from_numpy(MNIST_IMAGES) / 255)
        assert labels.tolist() == LABELS
        assert data.sample_shape == (1, 28, 28)
        assert not data.is_event


def test_nmnist(tmp_path):
    data = NMnist(write_nmnist(tmp_path), timesteps=8)
    data.preload()
    assert data.labels.tolist() == list(range(10))
    frames, label = data[4]
    # Span 8,000,001 µs, so bins of one second and an eighth of a µs.
    expected = torch.zeros(8, 2, 34, 34)
    expected[7, 1, 4, 3] = 1
    for x in range(8):
        expected[0, x % 2, 33, x] = 1
    assert torch.equal(frames, expected)
    assert label == 4
    assert data.sample_shape == (2, 34, 34)
    assert data.is_event
    assert data.timesteps == 8


def test_nmnist_counts(tmp_path):
    write_nmnist(tmp_path)
    (tmp_path / "Train" / "5" / "00042.bin").write_bytes(RECORDING * 3)
    counts, _ = NMnist(tmp_path, timesteps=2, values="count").batch([5, 4])
    assert counts[:, 0].sum() == 24
    assert counts.max() == 3
    binary, _ = NMnist(tmp_path, timesteps=2).batch([5, 4])
    assert torch.equal(binary, counts.clamp(max=1))


def test_nmnist_reads_a_recording_once(tmp_path):
    data = NMnist(write_nmnist(tmp_path))
    first = data[3][0]
    (tmp_path / "Train" / "3" / "00042.bin").unlink()
    assert torch.equal(data[3][0], first)


def test_nmnist_order_and_hidden_files(tmp_path):
    write_nmnist(tmp_path)
    for name in ("00100.bin", "00007.bin", ".hidden.bin", "notes.txt"):
        (tmp_path / "Train" / "1" / name).write_bytes(RECORDING)
    (tmp_path / "Train" / ".cache").mkdir()
    data = NMnist(tmp_path)
    assert [path.name for path in data.paths[1:4]] == ["00007.bin", "00042.bin", "00100.bin"]
    assert data.labels.tolist() == [0, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("folder", [".", "cifar-10-batches-bin"])
def test_cifar10_binary(tmp_path, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    write_cifar_binary(tmp_path / folder)
    data = Cifar10(tmp_path)
    assert data.labels.tolist() == [7, 0, 9, 3, 2, 0, 9, 3, 8, 0, 9, 3]  # batches 1, 2, 10
    images, _ = data.batch(range(4))
    assert torch.equal(images.flatten(1), torch.from_numpy(CIFAR_IMAGES) / 255)
    assert data.sample_shape == (3, 32, 32)
    assert data.classes[9] == "truck"
    assert len(Cifar10(tmp_path, train=False)) == 4


@pytest.mark.parametrize("folder", [".", "cifar-10-batches-py"])
def test_cifar10_python(tmp_path, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    write_cifar_python(tmp_path / folder)
    for train in (True, False):
        data = Cifar10(tmp_path, train)
        images, labels = data.batch(range(4))
        assert torch.equal(images.flatten(1), torch.from_numpy(CIFAR_IMAGES) / 255)
        assert labels.tolist() == LABELS[:4]
        assert data.classes[0] == "airplane"


def test_cifar10_names_are_optional(tmp_path):
    write_cifar_binary(tmp_path)
    (tmp_path / "batches.meta.txt").unlink()
    assert Cifar10(tmp_path).classes == NAMES


def test_cifar10_standardised(tmp_path):
    plain = Cifar10(write_cifar_binary(tmp_path))[1][0]
    standard = Cifar10(tmp_path, standardise=True)[1][0]
    mean, std = cifar10.CHANNEL_MEAN, cifar10.CHANNEL_STD
    for channel in range(3):
        torch.testing.assert_close(standard[channel] * std[channel] + mean[channel], plain[channel])


def test_digits():
    sklearn = pytest.importorskip("sklearn.datasets", reason="the extra `data` is not installed")
    train, test = Digits(), Digits(train=False)
    assert (len(train), len(test)) == (1438, 359)
    assert train.sample_shape == (1, 8, 8)
    for part in (train, test):
        share = torch.bincount(part.labels, minlength=10) / len(part)
        assert share.sub(0.1).abs().max() < 0.005
    # Together they are the whole bundle, nothing twice.
    both = torch.cat([data.batch(range(len(data)))[0] for data in (train, test)]).flatten(1)
    bundled = torch.from_numpy(sklearn.load_digits().data / 16).float()
    assert sorted(both.tolist()) == sorted(bundled.tolist())
    # The split is part of what results mean: it may never change.
    chosen = digits.split(sklearn.load_digits().target, train=False)
    assert chosen[:8].tolist() == [3, 7, 13, 19, 36, 38, 43, 48]
    assert chosen.sum() == 311_827


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "sklearn.datasets", raising=False)
    with pytest.raises(InputError, match=r"pip install h2learn\[data\]"):
        load("digits")


# Loading by name.


def test_load(tmp_path):
    for name, (write, reader) in zip(
        ("mnist", "nmnist", "cifar10"), list(WRITERS.values())[:3], strict=True
    ):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
        for train in (True, False):
            assert type(load(name, tmp_path / name, train)) is reader
    assert load("nmnist", str(tmp_path / "nmnist")).timesteps == 10
    assert load("nmnist", tmp_path / "nmnist", timesteps=3)[0][0].shape == (3, 2, 34, 34)
    assert load("mnist", tmp_path / "mnist", timesteps=3)[0][0].shape == (1, 28, 28)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "imagenet"}, "unknown dataset 'imagenet'; expected one of digits, mnist, nmn"),
        ({"name": "mnist"}, "dataset mnist needs root, the folder that holds train-images-idx3"),
        ({"name": "nmnist"}, "dataset nmnist needs root, the folder that holds Train/<label>/"),
        ({"name": "cifar10"}, "dataset cifar10 needs root, the folder that holds cifar-10-batch"),
        (
            {"name": "digits", "root": "/x"},
            "digits comes with scikit-learn: leave root out, got /x",
        ),
        ({"name": "mnist", "root": "/no/such"}, "/no/such: found no such folder; expected"),
        ({"name": "nmnist", "root": __file__}, "test_datasets.py: found a file; expected"),
        ({"name": "mnist", "root": ".", "timesteps": 0}, "timesteps must be at least 1, got 0"),
        ({"name": "mnist", "root": "a" * 5000}, "File name too long; expected the folder"),
    ],
)
def test_load_refuses(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        load(**arguments)
