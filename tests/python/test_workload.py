"""Workloads: checks, selection, summary, the file format, and synthetic ones. No training here."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from h2learn.errors import InputError
from h2learn.shapes import geometry
from h2learn.workload import LayerWork, Workload, load_workload, pack_bits
from hypothesis import given, settings
from hypothesis import strategies as st

CONV = geometry(5, (6, 7), 4, (3, 3), (1, 2), (1, 0))  # 210 inputs, 6 x 3 x 4 = 72 currents
LINEAR = geometry(70, (1, 1), 3)


def words(*shape: int, rate: float = 0.4, seed: int = 0) -> np.ndarray:
    return pack_bits(np.random.default_rng(seed).random(shape) < rate)


def layer(**changes) -> LayerWork:
    fields = {
        "name": "conv", "kind": "conv2d", "geometry": CONV, "timesteps": 3, "samples": 2,
        "inputs": words(2, 6, 210), "mask": words(6, 210, seed=1), "nonzero": words(6, 72, seed=2),
        "input_gradient": True, "weight_gradient": True, "neurons": True, "membrane": True,
    }  # fmt: skip
    return LayerWork(**{**fields, **changes})


def forward_only(**changes) -> LayerWork:
    none = {"mask": None, "nonzero": None, "input_gradient": False, "weight_gradient": False}
    linear = {
        "name": "fc", "kind": "linear", "geometry": LINEAR, "inputs": words(1, 6, 70, seed=3),
        "neurons": False, "membrane": False,
    }  # fmt: skip
    return layer(**{**linear, **none, **changes})


def example() -> Workload:
    second = layer(inputs=words(2, 6, 210, seed=4), mask=None)
    steps = ((layer(), forward_only()), (second, forward_only(name="other")))
    return Workload(steps, {"source": "a test", "schrift": "größer"})


def assert_same(a: Workload, b: Workload) -> None:
    assert dict(a.info) == dict(b.info)
    assert [len(step) for step in a.steps] == [len(step) for step in b.steps]
    for left, right in zip(
        (x for step in a.steps for x in step), (x for step in b.steps for x in step), strict=True
    ):
        for field in dataclasses.fields(LayerWork):
            mine, other = getattr(left, field.name), getattr(right, field.name)
            if isinstance(mine, np.ndarray):
                assert mine.dtype == other.dtype
                np.testing.assert_array_equal(mine, other)
            else:
                assert mine == other
                assert type(mine) is type(other)


# ---- checks


def test_pack_bits_is_the_layout_of_spike_tensors():
    bits = np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1], dtype=bool)
    assert pack_bits(bits).tolist() == [0x018601]
    assert pack_bits(np.ones((2, 64), bool)).tolist() == [[2**64 - 1]] * 2
    assert pack_bits(np.ones((2, 3, 65), bool)).tolist() == [[[2**64 - 1, 1]] * 3] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "name must be printable"),
        ({"name": 7}, "name must be printable"),
        ({"name": "a\x1b[2Jb"}, r"printable text, got 'a\\x1b\[2Jb'"),
        ({"name": "x" * 300}, "at most 256 characters, got 300"),
        ({"kind": "a\nb"}, "layer 'conv': kind must be printable"),
        ({"geometry": CONV[:12]}, "layer 'conv': geometry must be thirteen integers"),
        ({"geometry": (*CONV[:12], 1.0)}, "geometry must be thirteen integers"),
        ({"geometry": (*CONV[:12], True)}, "geometry must be thirteen integers"),
        ({"geometry": (*CONV[:12], 2**70)}, "geometry must be thirteen integers"),
        ({"geometry": (*CONV[:12], 3)}, "geometry is impossible: in_channels must be a multiple"),
        ({"geometry": (5, 2**40, *CONV[2:])}, "geometry is impossible: in_height"),
        ({"timesteps": 0}, "timesteps must be 1 to 2147483648, got 0"),
        ({"timesteps": 3.0}, "timesteps must be an integer, got 3.0"),
        ({"samples": True}, "samples must be an integer, got True"),
        ({"samples": 2**30}, r"timesteps \* samples must be at most 2147483648, got 3221225472"),
        ({"samples": 3}, r"inputs must be \[2, 9, 4\], got \[2, 6, 4\]"),
        ({"inputs": None}, r"inputs must be \[planes, rows, words\], got NoneType"),
        ({"inputs": words(6, 210)}, r"inputs must be \[planes, rows, words\], got uint64 \[6, 4\]"),
        ({"inputs": words(2, 6, 210).view(np.int64)}, "inputs must be an array of uint64"),
        ({"inputs": words(25, 6, 210)}, "inputs must have 1 to 24 planes, got 25"),
        ({"inputs": words(0, 6, 210)}, "inputs must have 1 to 24 planes, got 0"),
        ({"inputs": words(2, 6, 211, rate=1)}, "padding bits of 0 after 210 features"),
        ({"inputs": np.asfortranarray(words(2, 6, 210))}, "inputs must be C-contiguous"),
        ({"mask": words(6, 300)}, r"mask must be \[6, 4\], got \[6, 5\]"),
        ({"mask": words(6, 256, rate=1)}, "mask must have padding bits of 0"),
        ({"nonzero": words(6, 210)}, r"nonzero must be \[6, 2\], got \[6, 4\]"),
        ({"nonzero": words(6, 128, rate=1)}, "nonzero must have padding bits of 0"),
        ({"nonzero": words(6, 72).tolist()}, "nonzero must be an array of uint64, got list"),
        ({"nonzero": None}, "nonzero must be given exactly when"),
        ({"input_gradient": False}, "mask must be None when input_gradient is False"),
        ({"input_gradient": 1}, "input_gradient must be True or False, got 1"),
        (
            {"mask": None, "input_gradient": False, "weight_gradient": False},
            "nonzero must be given exactly when",
        ),
        ({"neurons": False}, "membrane must be False when neurons is False"),
        ({"analog_bits": 8}, "analog_bits must be 0, all or half of 2 planes, got 8"),
        ({"analog_bits": -1}, "analog_bits must be 0 to 24, got -1"),
    ],
)  # fmt: skip
def test_a_layer_that_cannot_be_is_refused(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        layer(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ((), "step 1 has no layers"),
        ((layer(), layer()), "step 1: two layers have the name 'conv'"),
        ((layer(), "fc"), "step 1: a layer must be a LayerWork, got str"),
        (
            (layer(), forward_only(timesteps=2, samples=3)),
            "layer 'conv' ran T 3, B 2 and layer 'fc' T 2, B 3",
        ),
    ],
)
def test_a_step_that_cannot_be_is_refused(step, message):
    with pytest.raises(InputError, match=message):
        Workload(((layer(),), step))


@pytest.mark.parametrize("info", [{"a": 1}, {"": "b"}, {"a": "b\n"}, {"a": "x" * 5000}])
def test_info_is_short_printable_text(info):
    with pytest.raises(InputError, match="info: "):
        Workload(((layer(),),), info)


def test_it_cannot_be_changed():
    work = example()
    with pytest.raises(dataclasses.FrozenInstanceError):
        work.steps = ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        work.steps[0][0].timesteps = 1
    with pytest.raises(TypeError):
        work.info["source"] = "elsewhere"


def test_it_can_be_sent_to_another_process():
    assert_same(pickle.loads(pickle.dumps(example())), example())  # noqa: S301 - our own bytes
    assert_same(copy.deepcopy(example()), example())


def test_arrays_are_not_copied():
    inputs = words(2, 6, 210)
    assert layer(inputs=inputs).inputs is inputs
    work = example()
    assert work.select(layers=["conv"]).steps[0][0] is work.steps[0][0]


# ---- selection and summary


def test_select():
    work = example()
    assert work.names == ["conv", "fc", "other"]
    assert [len(step) for step in work.select(steps=[1]).steps] == [2]
    assert work.select(steps=[-1]).steps == (work.steps[1],)
    assert work.select(steps=slice(0, 1)).steps == (work.steps[0],)
    assert work.select(steps=[1, 0, 1]).steps == (work.steps[1], work.steps[0], work.steps[1])
    assert work.select(["fc"]).steps == ((work.steps[0][1],),)
    assert work.select(["other", "conv"], [1]).names == ["conv", "other"]
    assert work.select().steps == work.steps
    assert dict(work.select(["fc"]).info) == dict(work.info)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": ["con"]}, "no layer 'con'; did you mean 'conv'?"),
        ({"layers": ["qqq"]}, "no layer 'qqq'; it has conv, fc, other"),
        ({"layers": "conv"}, "layers must be a list of names, got 'conv'"),
        ({"layers": [3]}, "layers must be a list of names"),
        ({"steps": [2]}, "this workload has 2 steps, there is no 2"),
        ({"steps": [-3]}, "there is no -3"),
        ({"steps": 1}, "steps must be a slice or a list of integers, got 1"),
        ({"steps": ["0"]}, "steps must be a slice or a list of integers"),
    ],
)
def test_select_refuses_what_is_not_there(arguments, message):
    with pytest.raises(InputError) as caught:
        example().select(**arguments)
    assert message in str(caught.value)


def test_summary_of_a_layer_over_its_steps():
    work = example()
    rows = {
        row["name"]: row for row in work.summary() if row["steps"] == 2 or row["name"] != "conv"
    }
    conv = rows["conv"]
    # 6 x 3 outputs of 3 x 3 taps; the first and last row of outputs lose three taps a column.
    macs = 2 * 6 * (6 * 3 * 9 - 2 * 3 * 3) * 5 * 4
    assert conv["forward_macs"] == conv["backward_macs"] == conv["update_macs"] == macs
    assert conv["shape"] == "5x6x7 -> 4x6x3, 3x3, stride 1x2"
    assert (conv["timesteps"], conv["samples"], conv["planes"]) == (3, 2, 2)
    assert conv["bytes"] == sum(step[0].nbytes for step in work.steps)
    planes = [np.unpackbits(step[0].inputs.view(np.uint8)).sum() for step in work.steps]
    assert conv["input_density"] == sum(planes) / (2 * 2 * 6 * 210)
    nonzero = np.unpackbits(layer().nonzero.view(np.uint8)).sum()
    assert conv["nonzero_density"] == nonzero / (6 * 72)
    fc = rows["fc"]
    assert fc["forward_macs"] == 6 * 70 * 3
    assert fc["backward_macs"] == fc["update_macs"] == 0
    assert fc["mask_density"] is fc["nonzero_density"] is None
    assert fc["shape"] == "70 -> 3"


def test_summary_of_masks():
    assert Workload(((layer(mask=None),),)).summary()[0]["mask_density"] == 1.0
    mask = words(6, 210, rate=0.2)
    row = Workload(((layer(mask=mask),),)).summary()[0]
    assert row["mask_density"] == np.unpackbits(mask.view(np.uint8)).sum() / (6 * 210)


def test_layers_of_another_shape_have_rows_of_their_own():
    small = layer(samples=1, inputs=words(2, 3, 210), mask=None, nonzero=words(3, 72))
    rows = Workload(((layer(),), (small,), (layer(),))).summary()
    assert [(row["samples"], row["steps"]) for row in rows] == [(2, 2), (1, 1)]


def test_shown_as_a_table():
    text = str(Workload(((layer(), forward_only()),)))
    assert text.splitlines()[0] == "1 step of 2 layers, T 3, B 2, 768 B"
    header, conv, fc = (line.split("  ") for line in text.splitlines()[1:])
    assert [cell.strip() for cell in header if cell] == [
        "layer", "shape", "planes", "inputs", "mask", "gradients", "forward MACs",
        "backward MACs", "update MACs", "size",
    ]  # fmt: skip
    assert [cell.strip() for cell in conv if cell][:3] == [
        "conv", "5x6x7 -> 4x6x3, 3x3, stride 1x2", "2"
    ]  # fmt: skip
    assert [cell.strip() for cell in fc if cell][4:] == ["-", "-", "1.26 k", "-", "-", "96 B"]
    assert len({len(line) for line in text.splitlines()[1:]}) == 1, "columns are aligned"
    assert repr(Workload(((layer(),),))) == "Workload(1 step of 1 layer, T 3, B 2, 672 B)"
    assert repr(layer()).startswith("LayerWork('conv', conv2d, 5x6x7 -> ")
    assert str(Workload(())) == "0 steps of 0 layers, 0 B"


# ---- files


@pytest.fixture
def path(tmp_path):
    return tmp_path / "steps.h2w"


@pytest.fixture
def content(path):
    """The bytes of a good file."""
    example().save(path)
    return path.read_bytes()


def test_round_trip(path):
    example().save(path)
    assert_same(load_workload(path), example())
    assert_same(load_workload(str(path)), example())
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@settings(max_examples=25)
@given(
    channels=st.integers(1, 70), outputs=st.integers(1, 70), size=st.integers(1, 5),
    kernel=st.integers(1, 3), timesteps=st.integers(1, 4), samples=st.integers(1, 3),
    bits=st.integers(0, 9), density=st.floats(0, 1), seed=st.integers(0, 2**40),
)  # fmt: skip
def test_round_trip_of_any_workload(
    path, channels, outputs, size, kernel, timesteps, samples, bits, density, seed
):
    layers = [
        {"in_channels": channels, "out_channels": outputs, "size": size, "kernel": kernel,
         "padding": 1},
        {"in_channels": outputs, "out_channels": 3, "planes": 3},
    ]  # fmt: skip
    work = Workload.synthetic(
        layers, timesteps=timesteps, samples=samples, analog_bits=bits, input_density=density,
        seed=seed,
    )  # fmt: skip
    work.save(path)
    assert_same(load_workload(path), work)


def test_the_same_workload_is_the_same_bytes(path):
    example().save(path)
    first = path.read_bytes()
    load_workload(path).save(path)
    assert path.read_bytes() == first


def test_readable_with_safetensors_alone(path):
    from safetensors import safe_open

    example().save(path)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        description = json.loads(metadata["description"])
        assert (metadata["format"], metadata["version"]) == ("h2learn-workload", "1")
        assert description["info"]["schrift"] == "größer"
        digest = hashlib.blake2b(metadata["description"].encode(), digest_size=32)
        for s, step in enumerate(description["steps"]):
            for n, fields in enumerate(step):
                for name in fields["arrays"]:
                    array = file.get_tensor(f"{s}.{n}.{name}")
                    np.testing.assert_array_equal(array, getattr(example().steps[s][n], name))
                    digest.update(array.tobytes())
        assert digest.hexdigest() == metadata["digest"]


def test_read_and_simulated_without_torch(path):
    example().save(path)
    code = (
        "import sys; from h2learn.workload import load_workload, Workload;"
        f"work = load_workload({str(path)!r}); print(work); work.summary();"
        "Workload.synthetic('3C3-2', sample_shape=(1, 4, 4), timesteps=1, samples=1);"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def refused(path, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_workload(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert message in text, text
    assert "\n" not in text
    assert len(text) < 600 + len(str(path))


def test_files_that_are_not_there(path, tmp_path):
    refused(path, "there is no such file")
    refused(tmp_path, "not a file")


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 100, b"PK\x03\x04" * 50, b"{}" * 40])
def test_garbage_is_refused(path, content):
    path.write_bytes(content)
    refused(path, "not a readable workload")


@settings(max_examples=60)
@given(data=st.data())
def test_a_file_cut_short_anywhere_is_refused(path, content, data):
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    refused(path, "not a readable workload")


def test_a_longer_file_is_refused(path):
    example().save(path)
    with path.open("ab") as file:
        file.write(b"more")
    refused(path, "not a readable workload")


@settings(max_examples=400)
@given(data=st.data())
def test_any_flipped_bit_is_found(path, content, data):
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    path.write_bytes(flipped)
    refused(path, "")


def rewrite(path, change) -> None:
    """Changes the header's metadata, description and tensors; the digest is made to fit."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, tensors = json.loads(content[8 : 8 + size]), content[8 + size :]
    metadata = header["__metadata__"]
    written = metadata["description"]
    description = json.loads(written)
    tensors = change(header, metadata, description) or tensors
    if "description" in metadata:
        if metadata["description"] == written:
            metadata["description"] = json.dumps(description)
        sealed = hashlib.blake2b(metadata["description"].encode() + tensors, digest_size=32)
        metadata["digest"] = sealed.hexdigest()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + tensors)


def edit(where: str, value):
    """A change of one thing: "metadata:version" or "layer:timesteps"."""
    part, _, key = where.partition(":")

    def change(header, metadata, description):
        targets = {
            "metadata": metadata, "description": description, "header": header,
            "layer": description["steps"][0][0], "step": description["steps"],
        }  # fmt: skip
        target = targets[part]
        if value is KeyError:
            del target[int(key) if isinstance(target, list) else key]
        else:
            target[int(key) if isinstance(target, list) else key] = value

    return change


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("metadata:format", "h2learn-checkpoint", "not a workload of h2learn: format 'h2learn-ch"),
        ("metadata:format", KeyError, "not a workload of h2learn: format None"),
        ("metadata:version", "2", "written by a newer h2learn (workload version 2; this one reads 1"
                                  "): update h2learn"),
        ("metadata:version", "0", "workload version 0 never was"),
        ("metadata:version", "1.5", "version must be an integer, got '1.5'"),
        ("metadata:version", "9" * 5000, "version must be an integer, got '999"),
        ("metadata:version", KeyError, "version must be an integer, got ''"),
        ("metadata:description", KeyError, "metadata must be description, digest, format, version"),
        ("metadata:more", "x", "metadata must be description, digest, format, version"),
        ("metadata:description", "[" * 100_000, "description is not JSON"),
        ("metadata:description", "9" * 5000, "description is not JSON"),
        ("metadata:description", "{", "description is not JSON"),
        ("metadata:description", "[]", "description must have the fields info, steps, got list"),
        ("description:steps", {}, "description: steps must be of type list"),
        ("description:steps", [], "description has no steps"),
        ("description:steps", [[]], "description has no steps"),
        ("description:steps", [3], "step 0 must be a list of layers"),
        ("description:steps", [[3]], "step 0, layer 0 must have the fields name, kind"),
        ("description:info", KeyError, "description must have the fields info, steps"),
        ("description:info", {"a": 1}, "info: 'a' must be printable text"),
        ("description:more", 1, "description must have the fields info, steps"),
        ("step:1", [], "unknown tensors: ['1.0.inputs', '1.0.nonzero', '1.1.inputs']"),
        ("layer:timesteps", KeyError, "step 0, layer 0 must have the fields"),
        ("layer:code", "import os", "step 0, layer 0 must have the fields"),
        ("layer:timesteps", "3", "layer 'conv': timesteps must be an integer, got '3'"),
        ("layer:timesteps", 10**400, "timesteps must be 1 to"),
        ("layer:timesteps", 2, "inputs must be [2, 4, 4], got [2, 6, 4]"),
        ("layer:timesteps", 1e3, "timesteps must be an integer"),
        ("layer:name", "\u001b]0;x\u0007", "name must be printable"),
        ("layer:name", "fc", "two layers have the name 'fc'"),
        ("layer:name", None, "name must be printable"),
        ("layer:geometry", [5, 6], "geometry must be thirteen integers"),
        ("layer:geometry", [5, 6, 7, 4, 3, 3, 0, *CONV[7:]], "stride_height must be at least 1"),
        ("layer:geometry", [2**30, 2**30, *CONV[2:]], "geometry is impossible"),
        ("layer:neurons", 1, "neurons must be True or False, got 1"),
        ("layer:analog_bits", 3, "analog_bits must be 0, all or half of 2 planes, got 3"),
        ("layer:arrays", [], "arrays must be of inputs, mask, nonzero, in this order"),
        ("layer:arrays", ["mask", "inputs"], "arrays must be of inputs, mask, nonzero"),
        ("layer:arrays", ["inputs", "inputs"], "arrays must be of inputs, mask, nonzero"),
        ("layer:arrays", ["inputs", "nonzero"], "unknown tensors: ['0.0.mask']"),
        ("header:0.0.mask", KeyError, ""),
    ],
)  # fmt: skip
def test_a_file_that_was_tampered_with_is_refused(path, where, value, message):
    """Even where the digest was made to fit."""
    example().save(path)
    rewrite(path, edit(where, value))
    refused(path, message)


def test_tensors_that_were_tampered_with_are_refused(path):
    def renamed(header, metadata, description):
        header["0.0.weights"] = header.pop("0.0.mask")

    def typed(header, metadata, description):
        header["0.0.mask"]["dtype"] = "I64"

    def reshaped(header, metadata, description):
        header["0.0.mask"]["shape"] = [4, 6]

    def padded(header, metadata, description):
        content = path.read_bytes()
        begin, end = header["0.0.mask"]["data_offsets"]
        data = bytearray(content[8 + int.from_bytes(content[:8], "little") :])
        data[begin:end] = b"\xff" * (end - begin)
        return bytes(data)

    for change, message in (
        (renamed, "tensor 0.0.mask is missing"),
        (typed, "tensor 0.0.mask must be U64, got I64"),
        (reshaped, "mask must be [6, 4], got [4, 6]"),
        (padded, "layer 'conv': mask must have padding bits of 0 after 210 features"),
    ):
        example().save(path)
        rewrite(path, change)
        refused(path, message)


def test_rewriting_alone_breaks_nothing(path):
    """So what the tests above see refused is refused for its own sake."""
    example().save(path)
    rewrite(path, lambda *parts: None)
    assert_same(load_workload(path), example())


def test_what_cannot_be_saved(path, tmp_path):
    with pytest.raises(InputError, match="has no steps: run a training step while recording"):
        Workload(()).save(path)
    with pytest.raises(InputError, match="is a folder; name a file"):
        example().save(tmp_path)
    (tmp_path / "plain").write_text("a file")
    with pytest.raises(InputError, match="plain is not a folder"):
        example().save(tmp_path / "plain" / "steps.h2w")
    assert not path.exists()


def test_a_failed_save_leaves_the_old_file(path, monkeypatch):
    example().save(path)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        example().select(steps=[0]).save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


# ---- synthetic workloads


CIFAR10NET = "128C3-256C3-AP2-512C3-AP2-1024C3-512C3-1024-512-10"


def synthetic(layers="8C3-AP2-16C3s2-20-4", **changes) -> Workload:
    options = {"sample_shape": (3, 8, 8), "timesteps": 4, "samples": 3}
    return Workload.synthetic(layers, **{**options, **changes})


def test_cifar10net_takes_less_than_40_megabytes(path):
    """Shapes decide a file's size, so this is that of any recorded step of it, T 8 and B 8."""
    work = synthetic(CIFAR10NET, sample_shape=(3, 32, 32), timesteps=8, samples=8, analog_bits=8)
    work.save(path)
    assert path.stat().st_size < 13e6
    assert [layer.planes for layer in work.steps[0]] == [8, 1, 3, 3, 1, 1, 1, 1]
    assert [layer.shape_text for layer in work.steps[0]] == [
        "3x32x32 -> 128x32x32, 3x3", "128x32x32 -> 256x32x32, 3x3", "256x16x16 -> 512x16x16, 3x3",
        "512x8x8 -> 1024x8x8, 3x3", "1024x8x8 -> 512x8x8, 3x3", "32768 -> 1024", "1024 -> 512",
        "512 -> 10",
    ]  # fmt: skip


def test_shapes_of_the_notation():
    layers = synthetic().steps[0]
    assert [layer.name for layer in layers] == ["conv2d1", "conv2d2", "linear3", "linear4"]
    assert [layer.geometry for layer in layers] == [
        geometry(3, (8, 8), 8, (3, 3), padding=(1, 1)),
        geometry(8, (4, 4), 16, (3, 3), (2, 2), (1, 1)),
        geometry(16 * 2 * 2, (1, 1), 20),
        geometry(20, (1, 1), 4),
    ]
    assert [layer.planes for layer in layers] == [1, 3, 1, 1]
    assert [layer.neurons for layer in layers] == [True, True, True, False]
    assert [layer.membrane for layer in layers] == [True, True, True, False]
    assert [layer.input_gradient for layer in layers] == [False, True, True, True]
    assert [layer.mask is None for layer in layers] == [True, False, False, False]
    assert not any(layer.membrane for layer in synthetic(membrane=False).steps[0])

    valid = synthetic("4C3-MP2-AP3-5", sample_shape=(1, 14, 14), padding="valid").steps[0]
    assert valid[0].geometry == geometry(1, (14, 14), 4, (3, 3))
    assert valid[1].geometry[0] == 4 * 2 * 2
    assert valid[1].planes == 4, "counts up to 9"
    assert synthetic("AP2-AP2-5").steps[0][0].planes == 5, "counts up to 16"
    flat = synthetic("7-2", sample_shape=(30,)).steps[0]
    assert [layer.geometry[0] for layer in flat] == [30, 7]


def test_shapes_from_dicts():
    layers = [
        {"in_channels": 4, "out_channels": 6, "size": (5, 7), "kernel": (3, 1), "stride": (2, 1),
         "padding": (1, 0), "dilation": (1, 2), "groups": 2, "name": "stem", "kind": "conv2d",
         "planes": 2, "neurons": False},
        {"in_channels": 9, "out_channels": 5},
    ]  # fmt: skip
    first, second = synthetic(layers, sample_shape=None).steps[0]
    assert first.geometry == geometry(4, (5, 7), 6, (3, 1), (2, 1), (1, 0), (1, 2), 2)
    assert (first.name, first.planes, first.neurons, first.membrane) == ("stem", 2, False, False)
    assert (second.name, second.kind, second.geometry) == (
        "linear2", "linear", geometry(9, (1, 1), 5)
    )  # fmt: skip


def density(array: np.ndarray, features: int) -> float:
    return np.unpackbits(array.view(np.uint8)).sum() / (array.size // array.shape[-1] * features)


def test_densities_are_those_asked_for():
    work = Workload.synthetic(
        "64C3-100", sample_shape=(32, 16, 16), timesteps=4, samples=4, analog_bits=4,
        input_density=[0.5, 0.1], mask_density=0.25, gradient_density=(0.0, 1.0),
    )  # fmt: skip
    first, second = work.steps[0]
    for array, features, wanted in (
        (first.inputs, first.in_features, 0.5),
        (first.nonzero, first.out_features, 0.0),
        (second.inputs, second.in_features, 0.1),
        (second.mask, second.in_features, 0.25),
        (second.nonzero, second.out_features, 1.0),
    ):
        assert density(array, features) == pytest.approx(wanted, abs=0.01)
        if wanted in (0.0, 1.0):
            assert density(array, features) == wanted
    planes = [density(plane, first.in_features) for plane in first.inputs]
    assert planes == pytest.approx([0.5] * 4, abs=0.02)
    assert len({plane.tobytes() for plane in first.inputs}) == 4, "planes are independent"


def test_synthetic_workloads_are_repeatable():
    assert_same(synthetic(), synthetic())
    other = synthetic(seed=1)
    assert any((a.inputs != b.inputs).any() for a, b in zip(*(
        w.steps[0] for w in (synthetic(), other)), strict=True))  # fmt: skip
    digest = hashlib.blake2b(digest_size=8)
    for one in synthetic().steps[0]:
        for array in one.arrays.values():
            digest.update(array)
    assert digest.hexdigest() == "53c930599c06cd3a", "other bits than earlier versions drew"


def test_a_higher_density_only_adds_bits():
    for field, option in (
        ("inputs", "input_density"), ("mask", "mask_density"), ("nonzero", "gradient_density"),
    ):  # fmt: skip
        few, many = (synthetic(**{option: d}).steps[0][1] for d in (0.2, 0.6))
        assert not (getattr(few, field) & ~getattr(many, field)).any()
        for same in {"inputs", "mask", "nonzero"} - {field}:
            np.testing.assert_array_equal(getattr(few, same), getattr(many, same))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ""}, "'' is none of 128C3, 128C3s2, AP2, MP2, 512"),
        ({"layers": "8C3-x"}, "layers '8C3-x': 'x' is none of"),
        ({"layers": "8C3-10-4C3"}, "'4C3' needs images [C, H, W], not 10 features"),
        ({"layers": "8C3-AP9"}, "'AP9' must fit the 8x8 image"),
        ({"layers": "AP2"}, "must have at least one layer"),
        ({"layers": []}, "layers must have at least one layer"),
        ({"layers": "8C0"}, "kernel_height must be at least 1, got 0"),
        ({"layers": "8C9", "padding": "valid"}, "geometry is impossible"),
        ({"layers": "8C3-AP1-4C99s1", "padding": "valid"}, "geometry is impossible"),
        ({"sample_shape": None}, "sample_shape must be (C, H, W) or (F,), got None"),
        ({"sample_shape": (3, 8)}, "sample_shape must be (C, H, W) or (F,), got (3, 8)"),
        ({"sample_shape": (3, 0, 8)}, "sample_shape must be"),
        ({"padding": "full"}, "padding must be 'same' or 'valid', got 'full'"),
        ({"timesteps": 0}, "timesteps must be at least 1, got 0"),
        ({"samples": 1.5}, "samples must be an integer, got 1.5"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"membrane": 1}, "membrane must be True or False, got 1"),
        ({"analog_bits": 25}, "layer 'conv2d1': planes must be 1 to 24, got 25"),
        ({"input_density": 1.1}, "input_density must lie between 0 and 1, got 1.1"),
        ({"input_density": float("nan")}, "input_density must lie between 0 and 1, got nan"),
        ({"mask_density": [0.1, 0.2]}, "mask_density must be one number or 4, one a layer, got 2"),
        ({"gradient_density": "0.5"}, "gradient_density"),
        ({"layers": [{"in_channels": 3}]}, "layer 0 has no out_channels"),
        ({"layers": [{"in_channels": 3, "out_channels": 0}]}, "layer 0: out_channels must be at"),
        ({"layers": [{"in_channels": 3, "out_channels": 1, "bias": 1}]}, "not 'bias'"),
        ({"layers": ["8C3"]}, "layer 0 must be a dict, got str"),
        ({"layers": [{"in_channels": 3, "out_channels": 1, "kernel": "3"}]}, "kernel"),
        ({"layers": [{"in_channels": 3, "out_channels": 1, "planes": 0}]}, "planes must be 1 to"),
        ({"layers": [{"in_channels": 3, "out_channels": 1, "neurons": "yes"}]}, "neurons"),
    ],
)  # fmt: skip
def test_synthetic_workloads_refuse(changes, message):
    if not isinstance(changes.get("layers", ""), str):
        changes = {"sample_shape": None, **changes}
    with pytest.raises(InputError) as caught:
        synthetic(**changes)
    assert message in str(caught.value)


def test_dicts_have_no_sample_shape():
    with pytest.raises(InputError, match="sample_shape belongs to layers in notation"):
        synthetic([{"in_channels": 3, "out_channels": 1}])


def test_a_synthetic_workload_that_fills_the_memory_is_refused_at_once():
    with pytest.raises(InputError, match=r"make a workload of .* GB; 4.29 GB are allowed"):
        Workload.synthetic("1000-1000", sample_shape=(1000,), timesteps=100_000, samples=10_000)
