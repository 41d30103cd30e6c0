"""Damaged, missing and mislabelled data files: each gives one line that says where and what.

And no header is trusted: no memory is taken for what a file only claims.
"""

from __future__ import annotations

import gzip
import pickle
import re
import struct
import tracemalloc

import numpy as np
import pytest
import python2_pickle
from h2learn.datasets import Cifar10, Mnist, NMnist
from h2learn.errors import InputError
from hypothesis import given
from hypothesis import strategies as st
from small_datasets import (
    CIFAR_IMAGES,
    LABELS,
    MNIST_IMAGES,
    WRITERS,
    idx,
    write_cifar_binary,
    write_mnist,
    write_nmnist,
)

# What becomes of a file's content, and what the error then says.


def delete(content: bytes) -> None:
    return None


def empty(content: bytes) -> bytes:
    return b""


def cut(content: bytes) -> bytes:
    return content[:-1]


def put(at: int, by: bytes):
    return lambda content: content[:at] + by + content[at + len(by) :]


def zipped(change):
    """The same done to what is inside a gzip file."""
    return lambda content: gzip.compress(change(gzip.decompress(content)))


def zipped_idx(values: np.ndarray):
    return lambda _: gzip.compress(idx(values))


def pickled(**entries):
    return lambda _: python2_pickle.dumps({key.encode(): value for key, value in entries.items()})


BAD_FILES = {
    ("mnist", "train-images-idx3-ubyte.gz"): [
        (delete, "found no train-images-idx3-ubyte; expected it or train-images-idx3-ubyte.gz"),
        (cut, "a damaged gzip file"),
        (empty, "0 bytes; expected an IDX file: a header of 16 bytes"),
        (gzip.decompress, "a damaged gzip file (Not a gzipped file"),
        (put(40, b"\xff" * 30), "a damaged gzip file"),
        (zipped(cut), "3919 values; expected 3920, as the header says (5x28x28)"),
        (zipped(lambda content: content + b"\0"), "more values; expected 3920"),
        (zipped(lambda content: content[:9]), "9 bytes; expected an IDX file: a header of 16"),
        (zipped(put(2, b"\x0d")), "magic number 0x00000d03; expected 0x00000803"),
        (zipped_idx(MNIST_IMAGES[:4]), "an array of 4x28x28; expected 5 images of 28x28"),
        (zipped_idx(MNIST_IMAGES[:, 1:]), "an array of 5x27x28; expected 5 images of 28x28"),
    ],
    ("mnist", "train-labels-idx1-ubyte.gz"): [
        (delete, "found no train-labels-idx1-ubyte; expected it or train-labels-idx1-ubyte.gz"),
        (zipped(cut), "4 values; expected 5, as the header says (5)"),
        (zipped(put(4, b"\xff" * 4)), "expected 4294967295, as the header says"),
        (zipped(put(12, b"\x0a")), "label 10 (sample 4); expected labels 0 to 9"),
        (zipped_idx(np.zeros(0, np.uint8)), "no label; expected at least one"),
        (zipped_idx(MNIST_IMAGES), "magic number 0x00000803; expected 0x00000801"),
    ],
    ("nmnist", "Train/4/00042.bin"): [
        (delete, "Train/4: found no .bin file; expected recordings named <id>.bin"),
        (cut, "44 bytes; expected a positive multiple of 5"),
        (empty, "0 bytes; expected a positive multiple of 5"),
        (put(15, b"\x22"), "event 3 has x = 34; expected 0 to 33"),
        (put(6, b"\xff"), "event 1 has y = 255; expected 0 to 33"),
    ],
    ("cifar10 binary", "data_batch_2.bin"): [
        (cut, "12291 bytes; expected a positive multiple of 3073"),
        (empty, "0 bytes; expected a positive multiple of 3073"),
        (put(3073, b"\x0a"), "label 10 (sample 1); expected labels 0 to 9"),
    ],
    ("cifar10 binary", "batches.meta.txt"): [
        (lambda _: b"cat\ndog\n", "2 class names; expected 10"),
        (put(0, b"\x1b"), "the class name '\\x1birplane'; expected printable ASCII"),
    ],
    ("cifar10 Python", "data_batch_1"): [
        (cut, "a truncated file"),
        (lambda _: pickle.dumps({"data": eval}, 2), "opcode BINUNICODE"),
        (pickled(data=CIFAR_IMAGES, labels=[1, 2, 3]), "data of shape 4x3072 and 3 labels"),
        (pickled(data=CIFAR_IMAGES[:, 1:], labels=LABELS[:4]), "shape 4x3071 and 4 labels"),
        (pickled(data=CIFAR_IMAGES[:0], labels=[]), "shape does not fit its 0 bytes"),
        (pickled(data=CIFAR_IMAGES, labels=[1, 2, 3, 10]), "label 10; expected labels 0 to 9"),
        (pickled(data=CIFAR_IMAGES, labels=[1, 2, 3, -1]), "label -1; expected labels 0 to 9"),
        (pickled(data=CIFAR_IMAGES, labels=[1, 2, 3, b"4"]), "label of type bytes; expected"),
        (pickled(data=CIFAR_IMAGES), "nothing under 'labels'; expected a list"),
        (pickled(data=b"pixels", labels=LABELS), "a bytes under 'data'; expected a ndarray"),
    ],
    ("cifar10 Python", "batches.meta"): [
        (pickled(label_names=[b"cat"]), "1 class names; expected 10"),
        (pickled(label_names=[1] * 10), "a name that is not text"),
    ],
}
CASES = [(*place, *case) for place, cases in BAD_FILES.items() for case in cases]


@pytest.mark.parametrize(
    ("dataset", "file", "change", "message"), CASES, ids=[f"{c[0]} {c[1]} {c[3]}" for c in CASES]
)
def test_bad_files(tmp_path, dataset, file, change, message):
    write, reader = WRITERS[dataset]
    path = write(tmp_path) / file
    content = change(path.read_bytes())
    path.unlink() if content is None else path.write_bytes(content)
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


IMAGE_FILE, LABEL_FILE = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


@pytest.mark.parametrize(
    ("file", "header", "zeros", "message"),
    [
        # A few bytes that claim to be four billion labels.
        (LABEL_FILE, struct.pack(">2I", 0x801, 0xFFFFFFFF), 0, "can hold no more than"),
        # 20 MB that claim to be five labels: expanded no further than claimed.
        (LABEL_FILE, struct.pack(">2I", 0x801, 5), 20_000_000, "more values; expected 5"),
        # Images enough, for labels too few: not expanded at all.
        (IMAGE_FILE, struct.pack(">4I", 0x803, 25_000, 28, 28), 19_600_000, "25000x28x28"),
    ],
)
def test_claims_and_gzip_bombs_take_no_memory(tmp_path, file, header, zeros, message):
    write_mnist(tmp_path)
    (tmp_path / file).write_bytes(gzip.compress(header + bytes(zeros), 1))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message):
            Mnist(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
