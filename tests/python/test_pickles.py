"""The reader of CIFAR-10's pickles: what Python 2 wrote comes back, and nothing is executed."""

from __future__ import annotations

import os
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import python2_pickle
from h2learn.datasets.pickles import read_pickle
from h2learn.errors import InputError
from hypothesis import given
from hypothesis import strategies as st

IMAGES = np.arange(3 * 3072, dtype=np.uint32).astype(np.uint8).reshape(3, 3072)
BATCH = python2_pickle.cifar_batch(IMAGES, [3, 0, 9])


@pytest.fixture
def read(tmp_path):
    def read_bytes(content: bytes):
        path = tmp_path / "data_batch_1"
        path.write_bytes(content)
        return read_pickle(path)

    return read_bytes


def same(mine, theirs):
    if isinstance(theirs, np.ndarray):
        return mine.dtype == theirs.dtype and np.array_equal(mine, theirs)
    if isinstance(theirs, dict):
        return mine.keys() == theirs.keys() and all(same(mine[k], theirs[k]) for k in theirs)
    return type(mine) is type(theirs) and mine == theirs


def unpickled(content: bytes):
    """What pickle itself makes of a file that this test wrote."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy.core has moved
        return pickle.loads(content, encoding="bytes")  # noqa: S301


def test_batch(read):
    content = read(BATCH)
    assert sorted(content) == [b"batch_label", b"data", b"filenames", b"labels"]
    assert np.array_equal(content[b"data"], IMAGES)
    assert content[b"labels"] == [3, 0, 9]
    assert content[b"filenames"][2] == b"image_s_000002.png"
    assert same(content, unpickled(BATCH))


def test_full_size_batch(read):
    """10,000 labels: appended by the thousand, and a memo that outgrows one byte."""
    labels = [index % 10 for index in range(10_000)]
    content = read(python2_pickle.cifar_batch(IMAGES, labels))
    assert content[b"labels"] == labels
    assert len(content[b"filenames"]) == 10_000


def test_meta(read):
    names = [b"airplane", b"automobile"]
    meta = {b"num_cases_per_batch": 10000, b"label_names": names, b"num_vis": 3072}
    assert read(python2_pickle.dumps(meta)) == meta


def test_column_major_array(read):
    images = np.asfortranarray(IMAGES)
    assert np.array_equal(read(python2_pickle.cifar_batch(images, [1, 2, 3]))[b"data"], IMAGES)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.binary(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(st.binary(max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(content=st.dictionaries(st.binary(max_size=20), PLAIN, max_size=5))
def test_reads_what_pickle_reads(tmp_path, content):
    path = tmp_path / "pickle"
    path.write_bytes(python2_pickle.dumps(content))
    assert same(read_pickle(path), content)
    assert same(content, unpickled(path.read_bytes()))


class Bomb:
    """Unpickling it makes a folder: the mark that something was executed."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_malicious_pickle_is_refused_and_not_run(tmp_path, protocol):
    target, path = tmp_path / "executed", tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({b"data": Bomb(target)}, protocol))
    with pytest.raises(InputError, match="data_batch_1: found"):
        read_pickle(path)
    assert not target.exists()
    unpickled(path.read_bytes())  # the same file does harm where it is executed
    assert target.exists()


def g(module: bytes, name: bytes) -> bytes:
    return b"c" + module + b"\n" + name + b"\n"


RECONSTRUCT = g(b"numpy.core.multiarray", b"_reconstruct")
EMPTY_ARRAY = RECONSTRUCT + g(b"numpy", b"ndarray") + b"K\0\x85U\x01b\x87R"
U1 = g(b"numpy", b"dtype") + b"U\x02u1K\0K\x01\x87R"


def entry(value: bytes) -> bytes:
    return b"\x80\x02}U\x01a" + value + b"s."


REFUSED = {
    "empty file": (b"", "a truncated file, 0 bytes"),
    "no protocol": (b"}.", "in front"),
    "protocol 4": (pickle.dumps({b"a": 1}, 4), "in front"),
    "Python 3's bytes": (pickle.dumps({b"a": 1}, 2), "the name '_codecs.encode'"),
    "not a dictionary": (b"\x80\x02].", "a list instead of a dictionary"),
    "system": (entry(g(b"posix", b"system") + b"U\x02ls\x85R"), "the name 'posix.system'"),
    "eval": (entry(g(b"__builtin__", b"eval") + b"U\x011\x85R"), "the name '__builtin__.eval'"),
    "numpy's other names": (entry(g(b"numpy", b"load")), "the name 'numpy.load'"),
    "escape codes in a name": (entry(g(b"\x1b[2J", b"x")), r"'\x1b[2J.x'"),
    "INST": (entry(b"(ios\nsystem\n"), "opcode INST"),
    "OBJ": (entry(b"(" + RECONSTRUCT + b"o"), "opcode OBJ"),
    "NEWOBJ": (entry(g(b"numpy", b"ndarray") + b")\x81"), "opcode NEWOBJ"),
    "STACK_GLOBAL": (entry(b"U\x02osU\x06system\x93"), "opcode STACK_GLOBAL"),
    "PERSID": (entry(b"Pid\n"), "opcode PERSID"),
    "EXT1": (entry(b"\x82\x01"), "opcode EXT1"),
    "FLOAT": (entry(b"G" + bytes(8)), "opcode BINFLOAT"),
    "no opcode": (entry(b"\xff"), "opcode b'\\xff'"),
    "dtype as function": (entry(RECONSTRUCT + b"U\x01x\x85R"), "a call of numpy.core"),
    "ndarray called": (entry(g(b"numpy", b"ndarray") + b"K\x05\x85R"), "a call of numpy.ndarray"),
    "a string called": (entry(b"U\x01f)R"), "a call of bytes"),
    "float array": (entry(g(b"numpy", b"dtype") + b"U\x02f8K\0K\x01\x87R"), "of type 'f8'"),
    "object array": (entry(g(b"numpy", b"dtype") + b"U\x02O8K\0K\x01\x87R"), "of type 'O8'"),
    "big array of few bytes": (
        entry(EMPTY_ARRAY + b"(K\x01J\0\0\0\x7fK\x02\x86" + U1 + b"\x89U\x02abtb"),
        "shape does not fit its 2 bytes",
    ),
    "negative shape": (
        entry(EMPTY_ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + U1 + b"\x89U\x02abtb"),
        "shape does not fit its 2 bytes",
    ),
    "array without values": (entry(EMPTY_ARRAY), "an array without values"),
    "array's state": (entry(EMPTY_ARRAY + b"K\x01b"), "an array's state"),
    "dtype's state": (entry(U1 + b"K\x01b"), "a state for a dtype"),
    "state of a dictionary": (entry(b"}}b"), "a state for a dict"),
    "key that is no string": (b"\x80\x02}K\x01K\x02s.", "a int as a key"),
    "key without value": (b"\x80\x02}(K\x01u.", "a key without a value"),
    "append to a dictionary": (entry(b"}K\x01a"), "no list"),
    "unknown memo": (entry(b"h\x07"), "no memo 7"),
    "empty stack": (b"\x80\x02.", "an operand missing"),
    "no mark": (b"\x80\x02}u.", "a mark missing"),
    "negative length": (entry(b"T\xff\xff\xff\xff"), "a string of -1 bytes"),
    "length beyond the end": (entry(b"T\xff\xff\xff\x7f"), "2147483647 are announced"),
    "name without end": (b"\x80\x02cnumpy", "a name without an end"),
    "no STOP": (b"\x80\x02}", "a truncated file"),
    "bytes after STOP": (b"\x80\x02}.}", "something beside the dictionary"),
    "two values": (b"\x80\x02}}.", "something beside the dictionary"),
}


@pytest.mark.parametrize(("content", "found"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_by_name(read, content, found):
    with pytest.raises(InputError, match=re.escape(found)) as error:
        read(content)
    assert "\n" not in str(error.value)
    assert str(error.value).isprintable()


@given(end=st.integers(0, len(BATCH) - 1))
def test_every_truncation_is_refused(tmp_path, end):
    path = tmp_path / "truncated"
    path.write_bytes(BATCH[:end])
    with pytest.raises(InputError):
        read_pickle(path)


SMALL = python2_pickle.cifar_batch(IMAGES[:, :8], [1, 2, 3])


@given(edits=st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), max_size=4))
def test_damage_gives_a_dictionary_or_an_input_error(tmp_path, edits):
    damaged = bytearray(SMALL)
    for position, value in edits:
        damaged[position] = value
    path = tmp_path / "damaged"
    path.write_bytes(damaged)
    try:
        content = read_pickle(path)
    except InputError:
        return
    assert all(isinstance(key, bytes) for key in content)


def test_deep_nesting_is_only_data(read):
    """A hundred thousand lists, each in the next one: no recursion, so no crash."""
    depth = 100_000
    content = read(entry(b"]" * depth + b"a" * (depth - 1)))
    assert len(content[b"a"]) == 1
