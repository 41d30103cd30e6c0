"""Datasets in their standard on-disk formats, read from local files only.

    load("mnist", root="…/mnist")    by name, as the command line does
    Digits, Mnist, NMnist, Cifar10   the readers, with their options

All are `Dataset`s: `torch.utils.data.Dataset`s with `batch(indices)` for reading many samples at
once. Bad files raise `h2learn.errors.InputError` with the path, what was found and what was
expected. A new dataset is one reader and one line in `_READERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike

from h2learn.datasets.base import Dataset, ImageDataset, collate_time_first
from h2learn.datasets.cifar10 import Cifar10
from h2learn.datasets.digits import Digits
from h2learn.datasets.mnist import Mnist
from h2learn.datasets.nmnist import DEFAULT_TIMESTEPS, NMnist
from h2learn.encoders import check_timesteps
from h2learn.errors import InputError

__all__ = [
    "NAMES",
    "Cifar10",
    "Dataset",
    "Digits",
    "ImageDataset",
    "Mnist",
    "NMnist",
    "collate_time_first",
    "load",
]

_Root = str | PathLike[str] | None


def _digits(root: _Root, train: bool, timesteps: int) -> Dataset:
    if root is not None:
        raise InputError(f"dataset digits comes with scikit-learn: leave root out, got {root}")
    return Digits(train)


_READERS: dict[str, Callable[[_Root, bool, int], Dataset]] = {
    "digits": _digits,
    "mnist": lambda root, train, timesteps: Mnist(root, train),
    "nmnist": lambda root, train, timesteps: NMnist(root, train, timesteps=timesteps),
    "cifar10": lambda root, train, timesteps: Cifar10(root, train),
}

NAMES = tuple(_READERS)


def load(
    name: str, root: _Root = None, train: bool = True, timesteps: int | None = None
) -> Dataset:
    """The training or test part of a dataset, by name.

    Args:
        name: one of `NAMES`.
        root: the folder with its files; not for "digits", which comes with scikit-learn.
        train: the training part, or the test part.
        timesteps: T of event datasets (10 when None). Images have no time of their own: for them
            T is their encoder's business, and it is only checked here.

    Raises:
        InputError: unknown name, root missing or superfluous, `timesteps` below 1, bad files.
    """
    if name not in _READERS:
        raise InputError(f"unknown dataset {name!r}; expected one of {', '.join(NAMES)}")
    steps = DEFAULT_TIMESTEPS if timesteps is None else check_timesteps(timesteps)
    return _READERS[name](root, train, steps)
