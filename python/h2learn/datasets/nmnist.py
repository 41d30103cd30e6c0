"""N-MNIST: MNIST's digits as a moving event camera saw them.

Orchard et al., "Converting Static Image Datasets to Spiking Neuromorphic Datasets Using Saccades",
Frontiers in Neuroscience 9, 2015. The folder holds `Train/<label>/<id>.bin` and
`Test/<label>/<id>.bin`, labels 0 to 9; a file is a row of 40-bit events, big-endian:

    x 8 bits | y 8 bits | polarity 1 bit (1: brighter) | time 23 bits, in microseconds
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from h2learn.datasets.base import Dataset, Transform, bad_file, data_folder, reading
from h2learn.encoders import (
    Events,
    FrameValues,
    check_frame_values,
    check_timesteps,
    event_frames,
)
from h2learn.errors import InputError

CLASSES = tuple(str(digit) for digit in range(10))
SIDE = 34
EVENT_BYTES = 5
DEFAULT_TIMESTEPS = 10
_FRAME_CELLS = 2 * SIDE * SIDE  # 2312 bits, 289 bytes: a frame packs without a remainder


class NMnist(Dataset):
    """Event frames `[T, 2, 34, 34]`, one channel a polarity (0: darker, 1: brighter).

    `h2learn.encoders.event_frames` says how events become frames. Binary frames are kept in memory
    as packed bits once read (289 bytes a timestep, 173 MB for all 60,000 at T = 10), each
    recording when it is first asked for; `preload` reads all. Counts are read anew each time.
    """

    is_event = True
    timesteps: int

    def __init__(
        self,
        root: str | PathLike[str] | None,
        train: bool = True,
        *,
        timesteps: int = DEFAULT_TIMESTEPS,
        values: FrameValues = "binary",
        transform: Transform | None = None,
    ) -> None:
        """Lists the recordings in `root/Train` or `root/Test` and checks their sizes.

        Args:
            root: the folder that holds `Train` and `Test`.
            train: which of the two.
            timesteps: T, the number of frames a recording.
            values: "binary" or "count", see `event_frames`.
            transform: see `Dataset`.

        Raises:
            InputError: a folder is missing or empty, a file's size is impossible. An event off the
                sensor is reported when its recording is read.
        """
        self.timesteps = check_timesteps(timesteps)
        self.values = check_frame_values(values)
        folder = data_folder(root, "nmnist", "Train/<label>/<id>.bin and Test/<label>/<id>.bin")
        self.paths, labels = _list_recordings(folder / ("Train" if train else "Test"))
        super().__init__(labels, CLASSES, (2, SIDE, SIDE), transform)
        self._packed: list[npt.NDArray[np.uint8] | None] = [None] * len(self.paths)

    def preload(self) -> None:
        """Reads every recording that has not been read yet; counts are only checked, not kept."""
        read = self._packed_frames if self.values == "binary" else self._frames
        for index in range(len(self)):
            read(index)

    def _read(self, indices: Tensor) -> Tensor:
        chosen = indices.tolist()
        if not chosen:
            return torch.zeros(self.timesteps, 0, *self.sample_shape)
        if self.values == "count":
            return torch.stack([self._frames(index) for index in chosen], dim=1)
        packed = np.stack([self._packed_frames(index) for index in chosen], axis=1)  # [T, B, 289]
        bits = torch.from_numpy(np.unpackbits(packed, axis=-1))
        return bits.view(*bits.shape[:2], *self.sample_shape).to(torch.float32)

    def _packed_frames(self, index: int) -> npt.NDArray[np.uint8]:
        packed = self._packed[index]
        if packed is None:
            frames = self._frames(index).view(-1, _FRAME_CELLS)
            packed = self._packed[index] = np.packbits(frames.numpy() != 0.0, axis=-1)
        return packed

    def _frames(self, index: int) -> Tensor:
        events = read_events(self.paths[index])
        try:
            return event_frames(events, self.timesteps, (SIDE, SIDE), self.values)
        except InputError as error:
            raise InputError(f"{self.paths[index]}: {error}") from error


def read_events(path: Path) -> Events:
    """All events of one N-MNIST recording, as stored: coordinates are not checked here.

    Raises:
        InputError: the file is missing, empty, or not a whole number of events.
    """
    with reading(path, "an N-MNIST recording"):
        raw = np.fromfile(path, dtype=np.uint8)
    _check_size(path, raw.size)
    x, y, high, middle, low = raw.reshape(-1, EVENT_BYTES).T.astype(np.int64)
    return Events(x, y, high >> 7, (high & 0x7F) << 16 | middle << 8 | low)


def _list_recordings(folder: Path) -> tuple[list[Path], npt.NDArray[np.int64]]:
    expected = "one folder a label, named 0 to 9"
    with reading(folder, expected):
        inside = [entry for entry in _visible(folder) if entry.is_dir()]
    for entry in inside:
        if entry.name not in CLASSES:
            raise bad_file(entry, "a folder that names no label", expected)
    recordings = [_list_label(folder / name) for name in CLASSES]
    labels = np.repeat(np.arange(len(CLASSES)), [len(paths) for paths in recordings])
    return [path for paths in recordings for path in paths], labels


def _list_label(folder: Path) -> list[Path]:
    expected = "recordings named <id>.bin, in one folder a label, named 0 to 9"
    with reading(folder, expected):
        paths = [path for path in _visible(folder) if path.suffix == ".bin"]
        for path in paths:
            _check_size(path, path.stat().st_size)
    if not paths:
        raise bad_file(folder, "no .bin file", expected)
    return paths


def _visible(folder: Path) -> list[Path]:
    """What is in `folder`, sorted by name so that order is the same everywhere; no hidden files."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _check_size(path: Path, size: int) -> None:
    if size == 0 or size % EVENT_BYTES:
        raise bad_file(
            path, f"{size} bytes", f"a positive multiple of {EVENT_BYTES}, the bytes of an event"
        )
