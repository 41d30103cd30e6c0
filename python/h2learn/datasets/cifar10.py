"""CIFAR-10: 32x32 colour images of ten kinds of things (Krizhevsky 2009), in either version.

    binary   data_batch_N.bin, test_batch.bin, batches.meta.txt (class names, one a line);
             3073 bytes an image: label, then 32x32 red, 32x32 green, 32x32 blue
    Python   data_batch_N, test_batch, batches.meta; pickles, read without executing them

As many training batches as the folder has are read, in the order of N.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from h2learn.datasets.base import (
    ImageDataset,
    Transform,
    bad_file,
    check_labels,
    data_folder,
    reading,
)
from h2learn.datasets.pickles import read_pickle

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
SIDE = 32
IMAGE_BYTES = 3 * SIDE * SIDE
RECORD_BYTES = 1 + IMAGE_BYTES
# Mean and standard deviation of each channel over the 50,000 training images, intensities in 0..1.
CHANNEL_MEAN = (0.4914, 0.4822, 0.4465)
CHANNEL_STD = (0.2470, 0.2435, 0.2616)

_Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]


class Cifar10(ImageDataset):
    """Colour images: `[3, 32, 32]` in 0..1, labels 0 to 9."""

    def __init__(
        self,
        root: str | PathLike[str] | None,
        train: bool = True,
        *,
        standardise: bool = False,
        transform: Transform | None = None,
    ) -> None:
        """Reads `root`, or the folder of the archive in it (`cifar-10-batches-bin` or `-py`).

        Args:
            root: the folder; the binary version is taken where both are there.
            train: all training batches that are there, or the test batch.
            standardise: give `(x - mean) / std` a channel, with `CHANNEL_MEAN` and `CHANNEL_STD`,
                instead of 0..1. Such values suit direct encoding only.
            transform: see `Dataset`.

        Raises:
            InputError: a file is missing, damaged or mislabelled.
        """
        folder = data_folder(root, "cifar10", "cifar-10-batches-bin or cifar-10-batches-py")
        files, read, names = _find(folder, train)
        batches = [read(path) for path in files]
        images = np.concatenate([images for images, _ in batches])
        labels = np.concatenate([labels for _, labels in batches])
        super().__init__(images.reshape(-1, 3, SIDE, SIDE), labels, names, transform=transform)
        self.standardise = standardise

    def _read(self, indices: Tensor) -> Tensor:
        images = super()._read(indices)
        if self.standardise:
            mean = torch.tensor(CHANNEL_MEAN).view(3, 1, 1)
            std = torch.tensor(CHANNEL_STD).view(3, 1, 1)
            images.sub_(mean).div_(std)
        return images


def _find(root: Path, train: bool) -> tuple[list[Path], Callable[[Path], _Batch], tuple[str, ...]]:
    """The batch files, the function that reads one, and the names of the classes."""
    for folder in (root, root / "cifar-10-batches-bin", root / "cifar-10-batches-py"):
        with reading(folder, "batches of CIFAR-10"):
            inside = list(folder.iterdir()) if folder.is_dir() else []
        for ending, read, read_names in (
            (".bin", _read_binary, _names_from_text),
            ("", _read_python, _names_from_pickle),
        ):
            stem = r"data_batch_(\d+)" if train else r"test_batch()"
            found = [
                (int(match[1] or 0), path)
                for path in inside
                if (match := re.fullmatch(stem + re.escape(ending), path.name))
            ]
            if found:
                return [path for _, path in sorted(found)], read, read_names(folder)
    wanted = "data_batch_1" if train else "test_batch"
    raise bad_file(
        root,
        f"no {'training' if train else 'test'} batch",
        f"{wanted}.bin (binary version) or {wanted} (Python version), here or in "
        "cifar-10-batches-bin or cifar-10-batches-py",
    )


def _read_binary(path: Path) -> _Batch:
    expected = f"a positive multiple of {RECORD_BYTES}, the bytes of a label and an image"
    with reading(path, expected):
        size = path.stat().st_size
        if size == 0 or size % RECORD_BYTES:
            raise bad_file(path, f"{size} bytes", expected)
        records = np.fromfile(path, dtype=np.uint8).reshape(-1, RECORD_BYTES)
    labels = records[:, 0]
    check_labels(path, labels, len(CLASSES))
    return records[:, 1:], labels


def _read_python(path: Path) -> _Batch:
    content = read_pickle(path)
    images = _entry(path, content, b"data", np.ndarray)
    labels = _entry(path, content, b"labels", list)
    if images.shape != (len(labels), IMAGE_BYTES):
        raise bad_file(
            path,
            f"data of shape {'x'.join(map(str, images.shape))} and {len(labels)} labels",
            f"{IMAGE_BYTES} bytes a label",
        )
    for label in labels:
        if type(label) is not int or not 0 <= label < len(CLASSES):
            found = label if type(label) is int else f"of type {type(label).__name__}"
            raise bad_file(path, f"label {found}", f"labels 0 to {len(CLASSES) - 1}")
    return images, np.array(labels, dtype=np.int64)


def _names_from_text(folder: Path) -> tuple[str, ...]:
    path = folder / "batches.meta.txt"
    if not path.exists():
        return CLASSES
    with reading(path, "class names"):
        names = path.read_bytes().split()
    return _checked_names(path, names)


def _names_from_pickle(folder: Path) -> tuple[str, ...]:
    path = folder / "batches.meta"
    if not path.exists():
        return CLASSES
    names = _entry(path, read_pickle(path), b"label_names", list)
    if not all(isinstance(name, bytes) for name in names):
        raise bad_file(path, "a name that is not text", "class names")
    return _checked_names(path, names)


def _checked_names(path: Path, raw: list[bytes]) -> tuple[str, ...]:
    if len(raw) != len(CLASSES):
        raise bad_file(path, f"{len(raw)} class names", str(len(CLASSES)))
    names = tuple(name.decode("ascii", errors="replace") for name in raw)
    for name in names:
        # They reach terminals: no control characters.
        if not (name.isascii() and name.isprintable()):
            raise bad_file(path, f"the class name {name!a}", "printable ASCII")
    return names


def _entry(path: Path, content: dict[bytes, Any], key: bytes, kind: type) -> Any:
    value = content.get(key)
    if not isinstance(value, kind):
        found = "nothing" if key not in content else f"a {type(value).__name__}"
        raise bad_file(path, f"{found} under {key.decode()!r}", f"a {kind.__name__}")
    return value
