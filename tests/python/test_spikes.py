"""SpikeTensor: bits as spikes.hpp lays them out, and a float32 tensor to everything in torch."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from h2learn import SpikeTensor, nn
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

SHAPES = [
    (3, 2, 5),
    (1, 1, 1),
    (2, 3, 64),
    (2, 1, 65),
    (3, 2, 3, 4, 5),
    (1, 2, 70, 1, 1),
    (2, 2, 7, 9),
]


def spikes(shape, rate: float = 0.4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator) < rate).float()


def packbits(dense: Tensor, lead: int = 2) -> np.ndarray:
    """The words that spikes.hpp documents, by numpy alone: [1, *lead, words]."""
    rows = np.moveaxis(dense.numpy(), lead, -1).reshape(*dense.shape[:lead], -1)
    octets = np.packbits(rows.astype(np.uint8), axis=-1, bitorder="little")
    padding = -octets.shape[-1] % 8
    octets = np.pad(octets, [(0, 0)] * lead + [(0, padding)])
    return octets.view("<i8")[None]


shapes = st.one_of(
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 200)),
    st.tuples(*[st.integers(1, 4)] * 2, st.integers(1, 70), *[st.integers(1, 5)] * 2),
)
rates = st.sampled_from([0.0, 0.03, 0.5, 0.97, 1.0])
seeds = st.integers(0, 2**16)


# Bits.


@given(shapes, rates, seeds)
def test_packs_as_numpy_packbits(shape, rate, seed):
    dense = spikes(shape, rate, seed)
    packed = SpikeTensor.from_dense(dense)
    assert np.array_equal(packed.words.numpy(), packbits(dense))
    assert torch.equal(packed.to_dense(), dense)
    assert packed.count() == int(dense.sum())
    assert packed.firing_rate() == pytest.approx(dense.mean().item())
    assert packed.packed_nbytes == packed.words.numel() * 8
    assert (packed.planes, packed.scale, packed.shape) == (1, 1.0, dense.shape)


@pytest.mark.parametrize("lead", [1, 2, 3])
def test_packs_any_number_of_leading_dimensions(lead):
    dense = spikes((2, 3, 4, 5, 6))
    packed = SpikeTensor.from_dense(dense, lead)
    assert np.array_equal(packed.words.numpy(), packbits(dense, lead))
    assert torch.equal(packed.to_dense(), dense)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.float64, torch.bfloat16]
)
def test_packs_any_real_type(dtype):
    dense = spikes((2, 3, 5, 4, 4))
    assert torch.equal(SpikeTensor.from_dense(dense.to(dtype)).to_dense(), dense)


def test_packs_views():
    dense = spikes((4, 3, 6, 5, 5))
    for view in (
        dense[::2],
        dense.transpose(0, 1),
        dense[..., 1:4],
        dense[:1].expand(5, -1, -1, -1, -1),
    ):
        assert torch.equal(SpikeTensor.from_dense(view).to_dense(), view)
    channels_last = dense.movedim(2, -1).contiguous().movedim(-1, 2)
    assert torch.equal(SpikeTensor.from_dense(channels_last).to_dense(), dense)


@pytest.mark.parametrize("shape", [(0, 2, 5), (2, 0, 5), (2, 3, 0), (2, 0, 3, 4, 4)])
def test_empty(shape):
    packed = SpikeTensor.from_dense(torch.zeros(shape))
    assert packed.to_dense().shape == shape
    assert packed.count() == 0
    assert packed.firing_rate() == 0.0


def test_counts_are_planes_times_scale():
    words = torch.tensor([[[[0b011]]], [[[0b110]]]])  # plane 0, plane 1 of one row
    counts = SpikeTensor(words, (4,), scale=0.25)
    assert counts.planes == 2
    assert counts.to_dense().flatten().tolist() == [0.25, 0.75, 0.5, 0]
    assert counts.count() == 4


# Indexing, joining: whatever stays packed must be the dense result.

index_part = st.one_of(
    st.slices(5), st.integers(-3, 2), st.just(slice(None)), st.just([2, 0, 1, 1]), st.none()
)


@given(st.lists(index_part, min_size=1, max_size=3), seeds)
def test_indexing_is_that_of_the_dense_tensor(parts, seed):
    dense = spikes((3, 3, 3, 4, 4), seed=seed)
    packed = SpikeTensor.from_dense(dense)
    index = tuple(
        slice(p.start, p.stop, abs(p.step) if p.step else None) if isinstance(p, slice) else p
        for p in parts
    )
    index = tuple(torch.tensor(p) if isinstance(p, list) else p for p in index)
    result = packed[index]
    assert torch.equal(dense_of(result), dense[index])


def dense_of(value):
    return value.to_dense() if isinstance(value, SpikeTensor) else value


@pytest.mark.parametrize(
    "slicing",
    [
        lambda s: s[1:3],
        lambda s: s[::2],
        lambda s: s[:, 1:],
        lambda s: s[1:, :1],
        lambda s: s[2],
        lambda s: s[:, 0],
        lambda s: s[-1],
        lambda s: s[[2, 0]],
        lambda s: s[torch.tensor([True, False, True, True])],
        lambda s: s.index_select(1, torch.tensor([1, 0])),
        lambda s: s.narrow(0, 1, 2),
        lambda s: s.split(3)[1],
        lambda s: s.chunk(2, dim=1)[0],
        lambda s: s.unbind(0)[3],
        lambda s: next(iter(s)),
        lambda s: torch.cat([s, s[:1]]),
        lambda s: torch.cat([s, s], dim=1),
        lambda s: torch.stack([s[0], s[3]]),
        lambda s: torch.stack([s[0], s[3]], dim=1),
        lambda s: s.flatten(0, 1),
        lambda s: s.flatten(0, 1).unflatten(0, (2, 4)),
        lambda s: s.detach(),
        lambda s: s.clone(),
        lambda s: s.contiguous(),
        lambda s: s.to(torch.float32),
        lambda s: s.cpu(),
        lambda s: copy.deepcopy(s),
    ],
)
@pytest.mark.parametrize("features", [(70,), (5, 4, 3)], ids=str)
def test_stays_packed(slicing, features):
    dense = spikes((4, 2, *features))
    result = slicing(SpikeTensor.from_dense(dense))
    assert isinstance(result, SpikeTensor)
    assert torch.equal(result.to_dense(), slicing(dense))
    lead = result.dim() - len(features)
    assert np.array_equal(result.words.numpy(), packbits(result.to_dense(), lead))


def test_sum_of_two_stays_packed():
    left, right = spikes((3, 2, 65), seed=1), spikes((3, 2, 65), seed=2)
    total = SpikeTensor.from_dense(left) + SpikeTensor.from_dense(right)
    assert isinstance(total, SpikeTensor)
    assert torch.equal(total.to_dense(), left + right)


def test_equality():
    dense = spikes((3, 2, 70))
    packed = SpikeTensor.from_dense(dense)
    other = dense.clone()
    other[2, 1, 69] = 1 - other[2, 1, 69]
    assert torch.equal(packed, SpikeTensor.from_dense(dense))
    assert not torch.equal(packed, SpikeTensor.from_dense(other))
    assert not torch.equal(packed, packed[:2])
    assert torch.equal(packed, dense)
    assert torch.equal(dense, packed)
    assert (packed == dense).all()
    assert not (packed == other).all()
    counts = packed + packed
    assert torch.equal(counts, 2 * dense)
    assert not torch.equal(counts, packed)


# Copies, files, printing.


def test_deepcopy_shares_nothing():
    packed = SpikeTensor.from_dense(spikes((3, 2, 9)))
    other = copy.deepcopy([packed, packed])
    assert other[0] is other[1]
    before = packed.to_dense()
    other[0].words.zero_()
    assert torch.equal(packed.to_dense(), before)


@pytest.mark.parametrize("weights_only", [True, False])
def test_saves_and_loads(weights_only):
    dense = spikes((3, 2, 5, 8, 8))
    packed = SpikeTensor.from_dense(dense)
    file = io.BytesIO()
    torch.save({"events": packed, "counts": packed + packed}, file)
    assert file.tell() < 3 * packed.packed_nbytes + 4096 < dense.numel() * 4
    file.seek(0)
    loaded = torch.load(file, weights_only=weights_only)
    assert isinstance(loaded["events"], SpikeTensor)
    assert torch.equal(loaded["events"].to_dense(), dense)
    assert torch.equal(loaded["counts"].to_dense(), 2 * dense)


def test_prints():
    packed = SpikeTensor.from_dense(spikes((3, 2, 5)))
    text = repr(packed)
    assert "SpikeTensor" in text
    assert "(3, 2, 5)" in text
    assert f"{packed.count()} spikes" in text
    assert str(packed) == text == f"{packed}"
    assert "(3, 2, 5)" in repr(packed.to("meta"))
    assert "2 planes" in repr(packed + packed) or "planes=2" in repr(packed + packed)
    assert "grad_fn" in repr(packed.clone().requires_grad_()[0])


def test_to():
    dense = spikes((3, 2, 5))
    packed = SpikeTensor.from_dense(dense)
    for dtype in (torch.float64, torch.bfloat16, torch.int64, torch.bool):
        result = packed.to(dtype)
        assert result.dtype == dtype
        assert torch.equal(result, dense.to(dtype))
    assert isinstance(packed.to("cpu"), SpikeTensor)
    assert packed.to("meta").shape == dense.shape


def test_numpy_and_lists():
    dense = spikes((3, 2, 5))
    packed = SpikeTensor.from_dense(dense)
    assert packed.tolist() == dense.tolist()
    for array in (packed.numpy(), np.asarray(packed), np.array(packed), np.from_dlpack(packed)):
        assert array.dtype == np.float32
        assert np.array_equal(array, dense.numpy())
    assert np.asarray(packed, dtype=np.int8).dtype == np.int8
    assert torch.equal(torch.from_dlpack(packed), dense)
    assert packed.sum().item() == dense.sum().item()
    assert len(packed) == 3
    learned = packed.clone().requires_grad_()
    for convert in (learned.numpy, lambda: np.asarray(learned), learned.__dlpack__):
        with pytest.raises(RuntimeError, match="detach"):
            convert()
    assert np.array_equal(learned.numpy(force=True), dense.numpy())


def test_shared_memory():
    dense = spikes((3, 2, 5))
    packed = SpikeTensor.from_dense(dense).share_memory_()
    assert packed.words.is_shared()
    assert torch.equal(packed.to_dense(), dense)


def test_collates_in_a_data_loader():
    samples = [(SpikeTensor.from_dense(spikes((4, 9), seed=i), lead=1), i) for i in range(4)]
    expected = torch.stack([s.to_dense() for s, _ in samples])
    batch, labels = next(iter(torch.utils.data.DataLoader(samples, batch_size=4)))
    assert isinstance(batch, SpikeTensor)
    assert torch.equal(batch, expected)
    assert labels.tolist() == [0, 1, 2, 3]
    workers = torch.utils.data.DataLoader(
        samples, batch_size=4, num_workers=1, multiprocessing_context="fork"
    )
    assert torch.equal(next(iter(workers))[0], expected)


# Autograd; test_spike_operators.py has the gradients of many more operators.


def test_accumulates_gradients_in_a_leaf():
    dense = spikes((3, 2, 5))
    packed = SpikeTensor.from_dense(dense).requires_grad_()
    for _ in range(2):
        (packed * 3).sum().backward()
    assert torch.equal(packed.grad, torch.full((3, 2, 5), 6.0))


def test_to_dense_is_differentiable():
    packed = SpikeTensor.from_dense(spikes((3, 2, 5))).requires_grad_()
    (packed.to_dense() ** 2).sum().backward()
    assert torch.equal(packed.grad, 2 * packed.detach().to_dense())


def test_from_dense_cuts_autograd():
    dense = spikes((3, 2, 5)).requires_grad_()
    assert not SpikeTensor.from_dense(dense).requires_grad


def test_saved_for_backward_stays_packed():
    """A plain torch layer that saves its input saves the words."""
    packed = SpikeTensor.from_dense(spikes((8, 4, 640)))
    weight = torch.randn(3, 640, requires_grad=True)
    saved = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t)
    with hooks:
        y = packed * weight[0]
    kept = [t for t in saved if t.shape == packed.shape]
    assert kept
    assert all(isinstance(t, SpikeTensor) for t in kept)
    y.sum().backward()
    assert torch.allclose(weight.grad[0], packed.to_dense().sum((0, 1)))


# Read-only.


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.zero_(),
        lambda x: x.add_(1),
        lambda x: x.__setitem__(0, 1.0),
        lambda x: x.copy_(torch.zeros(3, 2, 5)),
        lambda x: x.clone().mul_(2),
        lambda x: torch.add(x, x, out=x),
        lambda x: torch.mul(torch.ones(3, 2, 5), 2.0, out=x),
        lambda x: torch._foreach_mul_([x], 2.0),
        lambda x: x[0].fill_(1),
        lambda x: F.relu(x, inplace=True),
        lambda x: x.bernoulli_(),
        lambda x: x.apply_(lambda value: value + 1),
    ],
)
def test_writing_is_refused(write):
    packed = SpikeTensor.from_dense(spikes((3, 2, 5)))
    before = packed.to_dense()
    with pytest.raises(TypeError, match=r"read-only.*to_dense"):
        write(packed)
    assert torch.equal(packed.to_dense(), before)


@pytest.mark.parametrize(
    "take",
    [
        lambda s: s.transpose(0, 1),
        lambda s: s.flatten(),
        lambda s: s.view(-1),
        lambda s: s[..., 0],
        lambda s: s.unsqueeze(0),
        lambda s: s.permute(2, 0, 1),
        lambda s: s.chunk(2, dim=2)[0],
    ],
)
def test_results_are_not_views(take):
    """Writing into a dense result changes neither the spikes nor their gradient."""
    currents = (torch.rand(3, 2, 4) - 0.2).requires_grad_()
    spikes = nn.LIF().eval()(currents)
    (expected,) = torch.autograd.grad(spikes.sum(), currents, retain_graph=True)
    before = spikes.to_dense()
    taken = take(spikes)
    assert torch.equal(taken, take(before))
    taken.mul_(3.0)
    assert torch.equal(spikes.to_dense(), before)
    assert torch.equal(torch.autograd.grad(spikes.sum(), currents, retain_graph=True)[0], expected)
    (tripled,) = torch.autograd.grad(taken.sum(), currents)
    assert torch.equal(
        torch.autograd.grad(3 * take(nn.LIF().eval()(currents)).sum(), currents)[0], tripled
    )


def test_assignment_is_refused():
    spikes = SpikeTensor.from_dense(torch.ones(2, 3, 4))
    with pytest.raises(TypeError, match="read-only"):
        spikes[0] = 0.0
    with pytest.raises(IndexError):
        spikes[torch.tensor([True])]


def test_damaged_padding_is_refused_when_loaded(tmp_path):
    torch.save(SpikeTensor(torch.full((1, 2, 2, 1), -1), (3,)), tmp_path / "spikes.pt")
    with pytest.raises(ValueError, match="padding"):
        torch.load(tmp_path / "spikes.pt", weights_only=True)
