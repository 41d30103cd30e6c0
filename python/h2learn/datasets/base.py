"""What every dataset offers, whatever its files look like.

A reader is a subclass of `Dataset` that hands over labels once and samples by index. Images keep
their bytes and become floats when they are asked for (`ImageDataset`); event recordings keep
their bits (`nmnist`). Both give one sample at a time to a `torch.utils.data.DataLoader`, and a
whole batch at once to a training loop, which is many times faster.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.utils.data
from torch import Tensor

from h2learn.errors import InputError

Transform = Callable[[Tensor], Tensor]
Indices = Sequence[int] | npt.NDArray[np.integer] | Tensor


class Dataset(torch.utils.data.Dataset[tuple[Tensor, int]], ABC):
    """Labelled samples, float32.

    Attributes:
        labels: int64 `[N]`.
        classes: a name for each label.
        sample_shape: `(C, H, W)` of a sample at one timestep: what a network's first layer sees.
        is_event: True when a sample is `[T, C, H, W]` already, False when it is `[C, H, W]` and
            an encoder has yet to give it time.
        timesteps: T of an event dataset, None otherwise.
        transform: applied to each sample by indexing, not by `batch`.
    """

    is_event: bool = False
    timesteps: int | None = None

    def __init__(
        self,
        labels: npt.NDArray[np.integer],
        classes: Sequence[str],
        sample_shape: tuple[int, int, int],
        transform: Transform | None = None,
    ) -> None:
        self.labels = torch.from_numpy(labels.astype(np.int64))
        self.classes = tuple(classes)
        self.sample_shape = sample_shape
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One sample, `[C, H, W]` or `[T, C, H, W]`, transformed, and its label."""
        chosen = self._checked([operator.index(index)])
        sample = self._read(chosen).squeeze(1 if self.is_event else 0)
        if self.transform is not None:
            sample = self.transform(sample)
        return sample, int(self.labels[chosen])

    def batch(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """Several samples at once, and their labels (int64 `[B]`).

        Images come as `[B, C, H, W]`, to be encoded as a batch; events as `[T, B, C, H, W]`.

        Raises:
            IndexError: an index outside the dataset. TypeError: indices that are not integers.
            ValueError: the dataset has a transform, which is for one sample at a time.
        """
        if self.transform is not None:
            raise ValueError(
                "batch() reads samples before any transform, and this dataset has one: "
                "index it, or leave the transform out and encode the batch (h2learn.encoders)"
            )
        chosen = self._checked(indices)
        return self._read(chosen), self.labels[chosen]

    def preload(self) -> None:
        """Reads whatever is not in memory yet, so that a bad file shows up now, not in training."""

    @abstractmethod
    def _read(self, indices: Tensor) -> Tensor:
        """Samples at `indices` (int64 `[B]`, from -N to N - 1): `[B, ...]` or `[T, B, ...]`."""

    def _checked(self, indices: Indices) -> Tensor:
        chosen = torch.as_tensor(indices)
        kind = chosen.dtype
        is_integer = not (kind.is_floating_point or kind.is_complex or kind == torch.bool)
        if chosen.dim() != 1 or not (is_integer or chosen.numel() == 0):
            raise TypeError(f"indices must be integers [B], got {kind} {list(chosen.shape)}")
        chosen = chosen.to(torch.int64)  # torch takes bytes for a mask, not for indices
        wrong = (chosen < -len(self)) | (chosen >= len(self))
        if wrong.any():
            raise IndexError(f"index {int(chosen[wrong][0])} in a dataset of {len(self)} samples")
        return chosen


class ImageDataset(Dataset):
    """Images held as bytes; a sample is `byte / full_scale`, so in 0..1."""

    def __init__(
        self,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.integer],
        classes: Sequence[str],
        *,
        full_scale: int = 255,
        transform: Transform | None = None,
    ) -> None:
        """`images`: `[N, C, H, W]`; `full_scale`: the byte that means 1."""
        _, channels, height, width = images.shape
        super().__init__(labels, classes, (channels, height, width), transform)
        self.images = torch.from_numpy(images)
        self.full_scale = full_scale

    def _read(self, indices: Tensor) -> Tensor:
        return self.images[indices].to(torch.float32).div_(self.full_scale)


def collate_time_first(samples: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """`collate_fn` of a `DataLoader` whose samples are `[T, ...]`: gives `[T, B, ...]`, `[B]`.

    torch's own collation would stack the batch in front of time.
    """
    inputs, labels = zip(*samples, strict=True)
    return torch.stack(inputs, dim=1), torch.tensor(labels, dtype=torch.int64)


def bad_file(path: Path, found: str, expected: str) -> InputError:
    """The one form in which every reader complains about a file or folder."""
    return InputError(f"{path}: found {found}; expected {expected}")


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """What the system says of `path` (missing, a folder, no permission), as an InputError."""
    try:
        yield
    except FileNotFoundError as error:
        raise bad_file(path, "no such file or folder", expected) from error
    except OSError as error:
        raise bad_file(path, error.strerror or "an unreadable file", expected) from error


def data_folder(root: str | PathLike[str] | None, dataset: str, expected: str) -> Path:
    """`root` as a path, once it is known to be a folder."""
    if root is None:
        raise InputError(f"dataset {dataset} needs root, the folder that holds {expected}")
    folder = Path(root).expanduser()
    expected = f"the folder that holds {expected}"
    with reading(folder, expected):
        if not folder.is_dir():
            found = "a file" if folder.exists() else "no such folder"
            raise bad_file(folder, found, expected)
    return folder


def check_labels(path: Path, labels: npt.NDArray[np.integer], classes: int) -> None:
    """Every label names one of `classes` classes; the first that does not is reported."""
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        first = int(wrong.argmax())
        raise bad_file(
            path, f"label {labels[first]} (sample {first})", f"labels 0 to {classes - 1}"
        )
