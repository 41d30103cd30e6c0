"""MNIST, and whatever comes in its format (Fashion-MNIST, KMNIST): 28x28 grey images in IDX files.

The folder holds, gzipped (`.gz`) or not:

    train-images-idx3-ubyte  train-labels-idx1-ubyte  t10k-images-idx3-ubyte  t10k-labels-idx1-ubyte
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from h2learn.datasets.base import (
    ImageDataset,
    Transform,
    bad_file,
    check_labels,
    data_folder,
    reading,
)
from h2learn.datasets.idx import read_idx

CLASSES = tuple(str(digit) for digit in range(10))
SIDE = 28


class Mnist(ImageDataset):
    """Handwritten digits: `[1, 28, 28]` in 0..1, labels 0 to 9."""

    def __init__(
        self,
        root: str | PathLike[str] | None,
        train: bool = True,
        *,
        transform: Transform | None = None,
    ) -> None:
        """Reads the training or the test files in `root`, or in `root/MNIST/raw` (torchvision's).

        Raises:
            InputError: a file is missing, damaged, or contradicts the other one.
        """
        prefix = "train" if train else "t10k"
        images_name, labels_name = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
        folder = data_folder(root, "mnist", f"{images_name}[.gz] and {labels_name}[.gz]")
        labels_path = _find(folder, labels_name)
        images_path = _find(folder, images_name)

        labels = read_idx(labels_path, (None,), "one label an image")
        if len(labels) == 0:
            raise bad_file(labels_path, "no label", "at least one")
        check_labels(labels_path, labels, len(CLASSES))
        images = read_idx(
            images_path,
            (len(labels), SIDE, SIDE),
            f"{len(labels)} images of {SIDE}x{SIDE}, one for each label in {labels_path}",
        )
        super().__init__(images[:, None], labels, CLASSES, transform=transform)


def _find(folder: Path, name: str) -> Path:
    expected = f"it or {name}.gz, here or in MNIST/raw"
    with reading(folder, expected):
        for place in (folder, folder / "MNIST" / "raw"):
            for path in (place / name, place / f"{name}.gz"):
                if path.exists():
                    return path
    raise bad_file(folder, f"no {name}", expected)
