"""Dataset readers: small files written here, the same files damaged, and real ones where present.

Real data is looked for in the folder that H2LEARN_DATA names, else in ../shared/data beside the
repository; tests that need it skip without it.
"""

from __future__ import annotations

import gzip
import os
import pickle
import re
import struct
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import python2_pickle
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from h2learn import datasets, encoders
from h2learn.datasets import Cifar10, Digits, Mnist, NMnist, collate_time_first, load
from h2learn.errors import InputError

RNG = np.random.default_rng(0)
MNIST_IMAGES = RNG.integers(0, 256, (5, 28, 28), dtype=np.uint8)
CIFAR_IMAGES = RNG.integers(0, 256, (4, 3072), dtype=np.uint8)
LABELS = [7, 0, 9, 3, 3]
NAMES = datasets.cifar10.CLASSES

# Writers of small datasets.


def idx(values: np.ndarray) -> bytes:
    header = struct.pack(f">{1 + values.ndim}I", 0x0800 | values.ndim, *values.shape)
    return header + values.tobytes()


def write_mnist(root: Path, zipped: bool = True) -> Path:
    for prefix in ("train", "t10k"):
        files = {"images-idx3": MNIST_IMAGES, "labels-idx1": np.array(LABELS, dtype=np.uint8)}
        for name, values in files.items():
            content = gzip.compress(idx(values)) if zipped else idx(values)
            (root / f"{prefix}-{name}-ubyte{'.gz' if zipped else ''}").write_bytes(content)
    return root


def event_bytes(x: int, y: int, polarity: int, time: int) -> bytes:
    return bytes([x, y]) + (polarity << 23 | time).to_bytes(3, "big")


RECORDING = b"".join(event_bytes(label, 33, label % 2, 99_999 * label) for label in range(8))


def write_nmnist(root: Path) -> Path:
    for part in ("Train", "Test"):
        for label in range(10):
            folder = root / part / str(label)
            folder.mkdir(parents=True)
            (folder / "00042.bin").write_bytes(RECORDING + event_bytes(3, label, 1, 8_000_000))
    return root


def write_cifar_binary(root: Path) -> Path:
    for name in ("data_batch_1.bin", "data_batch_10.bin", "data_batch_2.bin", "test_batch.bin"):
        records = np.concatenate([np.array([LABELS[:4]], np.uint8).T, CIFAR_IMAGES], axis=1)
        records[0, 0] = {"data_batch_10.bin": 8, "data_batch_2.bin": 2}.get(name, 7)
        (root / name).write_bytes(records.tobytes())
    (root / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    return root


def write_cifar_python(root: Path) -> Path:
    for name in ("data_batch_1", "test_batch"):
        (root / name).write_bytes(python2_pickle.cifar_batch(CIFAR_IMAGES, LABELS[:4]))
    meta = {b"num_cases_per_batch": 4, b"label_names": [n.encode() for n in NAMES], b"num_vis": 3072}
    (root / "batches.meta").write_bytes(python2_pickle.dumps(meta))
    return root


WRITERS = {
    "mnist": (write_mnist, Mnist),
    "nmnist": (write_nmnist, NMnist),
    "cifar10 binary": (write_cifar_binary, Cifar10),
    "cifar10 Python": (write_cifar_python, Cifar10),
}


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
    mean, std = datasets.cifar10.CHANNEL_MEAN, datasets.cifar10.CHANNEL_STD
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
    labels = sklearn.load_digits().target
    assert datasets.digits.split(labels, train=False)[:8].tolist() == SPLIT_START


SPLIT_START = [5, 10, 12, 16, 18, 20, 21, 22]


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
        ({"name": "digits", "root": "/x"}, "digits comes with scikit-learn: leave root out, got /x"),
        ({"name": "mnist", "root": "/no/such"}, "/no/such: found no such folder; expected"),
        ({"name": "nmnist", "root": __file__}, "test_datasets.py: found a file; expected"),
        ({"name": "mnist", "root": ".", "timesteps": 0}, "timesteps must be at least 1, got 0"),
        ({"name": "mnist", "root": "a" * 5000}, "File name too long; expected the folder"),
    ],
)
def test_load_refuses(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        load(**arguments)


# Damaged files: (dataset, file, what becomes of it, what the error says).


def cut(content: bytes) -> bytes:
    return content[:-1]


def rezip(change):
    return lambda content: gzip.compress(change(gzip.decompress(content)))


def replaced(at: int, by: bytes):
    return lambda content: content[:at] + by + content[at + len(by) :]


def cifar(labels: object, images: object = CIFAR_IMAGES, **others):
    return lambda content: python2_pickle.cifar_batch(images, labels, **others)


I, L = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
R = "Train/4/00042.bin"
B, P = "data_batch_2.bin", "data_batch_1"
BAD_FILES = [
    ("mnist", I, None, "found neither of its MNIST files; expected train-images-idx3-ubyte or"),
    ("mnist", L, None, "found neither of its MNIST files; expected train-labels-idx1-ubyte or"),
    ("mnist", I, cut, "a damaged gzip file"),
    ("mnist", I, lambda _: b"", "0 bytes; expected an IDX file: a header of 16 bytes"),
    ("mnist", I, rezip(lambda c: c), None),
    ("mnist", I, lambda c: gzip.decompress(c), "a damaged gzip file (Not a gzipped file"),
    ("mnist", I, replaced(40, b"\xff" * 30), "a damaged gzip file"),
    ("mnist", I, rezip(cut), "3919 values; expected 3920, as the header says (5x28x28)"),
    ("mnist", I, rezip(lambda c: c + b"\0"), "more values; expected 3920"),
    ("mnist", I, rezip(lambda c: c[:9]), "9 bytes; expected an IDX file: a header of 16 bytes"),
    ("mnist", I, rezip(replaced(0, b"\0\0\x0d\3")), "magic number 0x00000d03; expected 0x00000803"),
    ("mnist", I, rezip(lambda c: idx(MNIST_IMAGES[:4])), "an array of 4x28x28; expected 5 images"),
    ("mnist", I, rezip(lambda c: idx(MNIST_IMAGES[:, 1:])), "5x27x28; expected 5 images of 28x28"),
    ("mnist", L, rezip(cut), "4 values; expected 5, as the header says (5)"),
    ("mnist", L, rezip(lambda c: c[:4] + b"\xff" * 4 + c[8:]), "expected 4294967295, as the header"),
    ("mnist", L, rezip(lambda c: c[:-1] + b"\x0a"), "label 10 (sample 4); expected labels 0 to 9"),
    ("mnist", L, rezip(lambda _: idx(np.zeros(0, np.uint8))), "no label; expected at least one"),
    ("mnist", L, rezip(lambda _: idx(MNIST_IMAGES)), "0x00000803; expected 0x00000801"),
    ("nmnist", R, None, "4: found no .bin file; expected recordings named <id>.bin"),
    ("nmnist", R, cut, "44 bytes; expected a positive multiple of 5"),
    ("nmnist", R, lambda _: b"", "0 bytes; expected a positive multiple of 5"),
    ("nmnist", R, replaced(15, b"\x22"), "event 3 has x = 34; expected 0 to 33"),
    ("nmnist", R, replaced(6, b"\xff"), "event 1 has y = 255; expected 0 to 33"),
    ("cifar10 binary", B, cut, "12291 bytes; expected a positive multiple of 3073"),
    ("cifar10 binary", B, lambda _: b"", "0 bytes; expected a positive multiple of 3073"),
    ("cifar10 binary", B, replaced(3073, b"\x0a"), "label 10 (sample 1); expected labels 0 to 9"),
    ("cifar10 binary", "batches.meta.txt", lambda _: b"a\nb\n", "2 class names; expected 10"),
    ("cifar10 binary", "batches.meta.txt", replaced(0, b"\x1b"), "the class name '\\x1birplane'"),
    ("cifar10 Python", P, cut, "a truncated file"),
    ("cifar10 Python", P, lambda _: pickle.dumps({b"a": eval}, 2), "the name '__builtin__.eval'"),
    ("cifar10 Python", P, cifar([1, 2, 3]), "data of shape 4x3072 and 3 labels; expected 3072"),
    ("cifar10 Python", P, cifar(LABELS[:4], CIFAR_IMAGES[:, 1:]), "data of shape 4x3071 and 4"),
    ("cifar10 Python", P, cifar([], CIFAR_IMAGES[:0]), "no image; expected at least one"),
    ("cifar10 Python", P, cifar([1, 2, 3, 10]), "label 10; expected labels 0 to 9"),
    ("cifar10 Python", P, cifar([1, 2, 3, -1]), "label -1; expected labels 0 to 9"),
    ("cifar10 Python", P, cifar([1, 2, 3, b"4"]), "label of type bytes; expected labels 0 to 9"),
    ("cifar10 Python", P, cifar(None), "nothing under 'labels'; expected a list"),
    ("cifar10 Python", P, cifar(LABELS[:4], b"xyz"), "a bytes under 'data'; expected a ndarray"),
    ("cifar10 Python", "batches.meta", lambda _: python2_pickle.dumps({b"label_names": [b"a"]}),
     "1 class names; expected 10"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("dataset", "file", "change", "message"),
    BAD_FILES,
    ids=[f"{dataset} {file} {message}"[:70] for dataset, file, _, message in BAD_FILES],
)
def test_bad_files(tmp_path, dataset, file, change, message):
    write, reader = WRITERS[dataset]
    path = write(tmp_path) / file
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    if message is None:  # the damage itself does no harm: the table's own control
        reader(tmp_path).preload()
        return
    with pytest.raises(InputError, match=re.escape(message)) as error:
        reader(tmp_path).preload()
    assert str(path.parent) in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("dataset", WRITERS)
def test_folder_without_files(tmp_path, dataset):
    with pytest.raises(InputError, match=f"{re.escape(str(tmp_path))}.*found no.*; expected "):
        WRITERS[dataset][1](tmp_path)


def test_nmnist_folder_of_no_label(tmp_path):
    write_nmnist(tmp_path)
    (tmp_path / "Train" / "10").mkdir()
    with pytest.raises(InputError, match="10: found a folder that names no label; expected one"):
        NMnist(tmp_path)


def test_nmnist_label_missing(tmp_path):
    write_nmnist(tmp_path)
    (tmp_path / "Test" / "6").rename(tmp_path / "six")
    with pytest.raises(InputError, match="Test/6: found no such file or folder; expected rec"):
        NMnist(tmp_path, train=False)


def test_folder_in_place_of_a_file(tmp_path):
    write_cifar_binary(tmp_path)
    (tmp_path / "test_batch.bin").unlink()
    (tmp_path / "test_batch.bin").mkdir()
    with pytest.raises(InputError, match=r"test_batch\.bin: found "):
        Cifar10(tmp_path, train=False)


@pytest.mark.parametrize("dataset", WRITERS)
@given(data=st.data())
def test_any_damage_gives_an_input_error_or_a_sound_dataset(tmp_path_factory, dataset, data):
    write, reader = WRITERS[dataset]
    root = write(tmp_path_factory.mktemp("damaged"))
    path = data.draw(st.sampled_from(sorted(path for path in root.rglob("*") if path.is_file())))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        # Mostly the front, where headers are.
        at = data.draw(st.integers(0, min(len(content), 64) - 1) | st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    for train in (True, False):
        try:
            inputs, labels = read_all(reader(root, train))
        except InputError as error:
            assert str(root) in str(error)  # noqa: PT017 - an error is one of two right answers
            continue
        assert ((inputs >= 0) & (inputs <= 1)).all()
        assert ((labels >= 0) & (labels < 10)).all()


def read_all(data):
    data.preload()
    return data.batch(range(len(data)))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        # A label file of a few bytes that claims four billion labels.
        (L, struct.pack(">2I", 0x801, 0xFFFFFFFF), "can hold no more than"),
        # 100 MB of zeros behind a header that claims five labels: read no further than claimed.
        (L, struct.pack(">2I", 0x801, 5) + bytes(100_000_000), "more values; expected 5"),
        (I, struct.pack(">4I", 0x803, 60_000, 28, 28) + bytes(100_000_000), "60000x28x28"),
    ],
)
def test_headers_and_gzip_bombs_take_no_memory(tmp_path, file, content, message):
    write_mnist(tmp_path)
    (tmp_path / file).write_bytes(gzip.compress(content, 1))
    del content
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message):
            Mnist(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
