"""Scikit-learn's bundled handwritten digits: the dataset that needs no download.

1797 grey images of 8x8, each pixel 0 to 16 (E. Alpaydin and C. Kaynak, "Optical Recognition of
Handwritten Digits", UCI). Scikit-learn has only the original's test part and does not say who wrote
which digit, so the split here is ours.
"""

from __future__ import annotations

import importlib

import numpy as np
import numpy.typing as npt

from h2learn.datasets.base import ImageDataset, Transform
from h2learn.errors import InputError

CLASSES = tuple(str(digit) for digit in range(10))
TEST_SHARE = 0.2
SPLIT_SEED = 0


class Digits(ImageDataset):
    """Handwritten digits: `[1, 8, 8]` in 0..1, labels 0 to 9; 1438 to train on, 359 to test."""

    def __init__(self, train: bool = True, *, transform: Transform | None = None) -> None:
        """Loads from the installed scikit-learn.

        Raises:
            InputError: scikit-learn is not installed.
        """
        try:
            source = importlib.import_module("sklearn.datasets")
        except ModuleNotFoundError as error:
            raise InputError(
                f"dataset digits comes with scikit-learn, which cannot be imported ({error}): "
                "pip install h2learn[data]"
            ) from error
        bundled = source.load_digits()
        chosen = split(bundled.target, train)
        images = bundled.images[chosen, None].astype(np.uint8)
        super().__init__(
            images, bundled.target[chosen], CLASSES, full_scale=16, transform=transform
        )


def split(labels: npt.NDArray[np.integer], train: bool) -> npt.NDArray[np.int64]:
    """Indices of the training or the test part: always the same ones, disjoint, in file order.

    Of each class, `round(0.2 * n)` samples are for testing, drawn by one shuffle a class, class 0
    first, from NumPy's `RandomState(0)`, whose stream is frozen for good.
    """
    random = np.random.RandomState(SPLIT_SEED)
    is_test = np.zeros(len(labels), dtype=bool)
    for label in range(len(CLASSES)):
        members = random.permutation(np.flatnonzero(labels == label))
        is_test[members[: round(TEST_SHARE * len(members))]] = True
    return np.flatnonzero(~is_test if train else is_test)
