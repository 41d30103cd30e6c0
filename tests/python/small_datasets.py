"""Small datasets in their real formats, written by the tests that then read or damage them."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import python2_pickle
from h2learn.datasets import Cifar10, Mnist, NMnist, cifar10

RNG = np.random.default_rng(0)
MNIST_IMAGES = RNG.integers(0, 256, (5, 28, 28), dtype=np.uint8)
CIFAR_IMAGES = RNG.integers(0, 256, (4, 3072), dtype=np.uint8)
LABELS = [7, 0, 9, 3, 3]
NAMES = cifar10.CLASSES


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
    meta = {
        b"num_cases_per_batch": 4,
        b"label_names": [n.encode() for n in NAMES],
        b"num_vis": 3072,
    }
    (root / "batches.meta").write_bytes(python2_pickle.dumps(meta))
    return root


WRITERS = {
    "mnist": (write_mnist, Mnist),
    "nmnist": (write_nmnist, NMnist),
    "cifar10 binary": (write_cifar_binary, Cifar10),
    "cifar10 Python": (write_cifar_python, Cifar10),
}
