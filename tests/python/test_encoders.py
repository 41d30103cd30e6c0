"""Encoders: shapes, the documented formulas element by element, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from h2learn.datasets import collate_time_first
from h2learn.encoders import (
    Direct,
    Events,
    Latency,
    Rate,
    direct,
    event_frames,
    latency,
    rate,
)
from h2learn.errors import InputError
from hypothesis import given
from hypothesis import strategies as st

ENCODERS = [direct, rate, latency]
TRANSFORMS = [Direct, Rate, Latency]


@pytest.mark.parametrize("encode", ENCODERS)
@pytest.mark.parametrize("shape", [(3, 1, 4, 5), (2, 7), (0, 4), (6,), ()])
def test_time_comes_first(encode, shape):
    spikes = encode(torch.rand(shape), 4)
    assert spikes.shape == (4, *shape)
    assert spikes.dtype == torch.float32


def test_direct_copies_nothing_and_passes_gradients():
    x = torch.rand(2, 3, requires_grad=True)
    currents = direct(x, 5)
    assert currents.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    currents.sum().backward()
    assert x.grad.tolist() == [[5.0] * 3] * 2


def test_rate_is_bernoulli():
    steps = 20_000
    x = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    spikes = rate(x, steps, torch.Generator().manual_seed(1))
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    mean = spikes.mean(0)
    assert mean[0] == 0.0
    assert mean[-1] == 1.0
    deviation = (x * (1 - x) / steps).sqrt()
    assert ((mean - x).abs() <= 4 * deviation).all()
    # Independent in time: lag-1 correlation of the middle ones within 4 standard errors.
    centred = (spikes - x)[:, 1:4] / (x * (1 - x)).sqrt()[1:4]
    assert ((centred[1:] * centred[:-1]).mean(0).abs() <= 4 / math.sqrt(steps)).all()


def test_rate_repeats_with_its_generator():
    x = torch.rand(4, 6)
    runs = [rate(x, 8, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_rate_at_the_edge_of_the_noise(monkeypatch):
    """Noise may be exactly 0, once in 2^24 draws: even then an intensity of 0 is silent."""
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.zeros(shape))
    assert rate(torch.tensor([0.0, 1e-6]), 2).tolist() == [[0.0, 1.0]] * 2


def test_latency_does_not_round():
    """The float32 next above 0.2 is a little earlier than timestep 8; 1 - x in float32 is not."""
    x = torch.tensor([0.20000000298023224, 0.2 - 2e-8])
    assert latency(x, 10).argmax(0).tolist() == [7, 8]


@pytest.mark.parametrize(
    ("intensity", "step"), [(1.0, 0), (0.76, 0), (0.75, 1), (0.5, 2), (0.25, 3), (1e-7, 3)]
)
def test_latency_by_hand(intensity, step):
    spikes = latency(torch.tensor([intensity]), 4)
    assert spikes[:, 0].nonzero().flatten().tolist() == [step]


@given(
    x=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30),
    steps=st.integers(1, 40),
    threshold=st.sampled_from([0.0, 0.1, 0.5, 0.99]),
)
def test_latency_is_its_formula(x, steps, threshold):
    spikes = latency(torch.tensor(x), steps, threshold)
    for column, value in enumerate(torch.tensor(x).double().tolist()):
        times = spikes[:, column].nonzero().flatten().tolist()
        if value <= threshold:
            assert times == []
        else:
            late = (1 - value) / (1 - threshold) * steps
            assert times == [min(steps - 1, math.floor(late))]
    order = torch.tensor(x).argsort(descending=True)
    fired = spikes[:, order][:, spikes[:, order].sum(0) > 0]
    assert fired.argmax(0).diff().ge(0).all()  # the brighter, the earlier


@pytest.mark.parametrize("encode", [rate, latency])
@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
def test_intensities_outside_0_to_1_are_refused(encode, value):
    with pytest.raises(InputError, match=r"intensities in 0\.\.1, got values"):
        encode(torch.tensor([0.5, value]), 4)


@pytest.mark.parametrize("encode", ENCODERS)
class TestRefused:
    @pytest.mark.parametrize("timesteps", [0, -3])
    def test_no_timestep(self, encode, timesteps):
        with pytest.raises(InputError, match=f"timesteps must be at least 1, got {timesteps}"):
            encode(torch.rand(2), timesteps)

    @pytest.mark.parametrize("timesteps", [2.0, "2", None, True])
    def test_timesteps_that_are_no_integer(self, encode, timesteps):
        with pytest.raises(TypeError, match="timesteps must be an integer"):
            encode(torch.rand(2), timesteps)

    def test_bytes(self, encode):
        with pytest.raises(TypeError, match=r"floating type, got torch\.uint8"):
            encode(torch.zeros(2, dtype=torch.uint8), 3)

    def test_not_a_tensor(self, encode):
        with pytest.raises(TypeError, match="must be a tensor, got list"):
            encode([0.5], 3)


@pytest.mark.parametrize("threshold", [-0.1, 1.0, math.nan])
def test_latency_threshold(threshold):
    for refused in (lambda: latency(torch.rand(2), 3, threshold), lambda: Latency(3, threshold)):
        with pytest.raises(InputError, match=r"threshold must be in \[0, 1\)"):
            refused()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types(dtype):
    x = torch.tensor([0.0, 0.5, 1.0], dtype=dtype)
    assert latency(x, 4).tolist() == latency(x.float(), 4).tolist()
    assert rate(x, 50)[:, ::2].mean(0).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("encode", [rate, latency])
def test_spikes_carry_no_gradient(encode):
    assert not encode(torch.rand(3, requires_grad=True), 2).requires_grad


@pytest.mark.parametrize("layout", [lambda x: x.t(), lambda x: x[:, :1].expand(-1, 5)])
def test_strided_inputs(layout):
    x = layout(torch.rand(4, 5))
    assert torch.equal(latency(x, 6), latency(x.contiguous(), 6))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_on_single_samples(transform):
    """A DataLoader's view: encoded one by one and collated, or encoded as a batch, is the same."""
    images = torch.rand(5, 1, 4, 4)
    encode = dict(zip(TRANSFORMS, ENCODERS, strict=True))[transform]
    torch.manual_seed(7)
    samples = [(transform(3)(image), label) for label, image in enumerate(images)]
    spikes, labels = collate_time_first(samples)
    assert spikes.shape == (3, 5, 1, 4, 4)
    assert labels.tolist() == [0, 1, 2, 3, 4]
    if encode is not rate:
        assert torch.equal(spikes, encode(images, 3))
    with pytest.raises(InputError, match="timesteps must be at least 1, got 0"):
        transform(0)


def test_rate_transform_uses_its_generator():
    x = torch.rand(3, 4)
    first = Rate(6, torch.Generator().manual_seed(5))(x)
    assert torch.equal(first, rate(x, 6, torch.Generator().manual_seed(5)))


# Event frames.


def recording(*events: tuple[int, int, int, int]) -> Events:
    return Events(*np.array(events, dtype=np.int64).reshape(-1, 4).T)


def test_event_frames_by_hand():
    # x, y, polarity, time: a span of 10..19 µs, so two bins of 5 µs
    events = recording((0, 1, 0, 10), (2, 1, 1, 14), (2, 1, 1, 15), (2, 0, 0, 19), (2, 0, 0, 18))
    frames = event_frames(events, 2, size=(2, 3))
    assert frames.shape == (2, 2, 2, 3)
    assert {tuple(cell) for cell in frames.nonzero().tolist()} == {
        (0, 0, 1, 0),
        (0, 1, 1, 2),
        (1, 1, 1, 2),
        (1, 0, 0, 2),
    }
    counts = event_frames(events, 2, size=(2, 3), values="count")
    assert counts[1, 0, 0, 2] == 2.0
    assert counts.sum() == 5.0
    assert torch.equal(counts > 0, frames > 0)


@given(data=st.data(), steps=st.integers(1, 20))
def test_event_frames_put_each_event_where_the_formula_says(data, steps):
    height, width = 3, 4
    cells = st.tuples(
        st.integers(0, width - 1),
        st.integers(0, height - 1),
        st.integers(0, 1),
        st.integers(0, (1 << 23) - 1),
    )
    events = data.draw(st.lists(cells, min_size=1, max_size=40))
    counts = torch.zeros(steps, 2, height, width)
    first = min(time for *_, time in events)
    span = max(time for *_, time in events) - first + 1
    for x, y, polarity, time in events:
        counts[(time - first) * steps // span, polarity, y, x] += 1
    got = event_frames(recording(*events), steps, (height, width), "count")
    assert torch.equal(got, counts)
    assert torch.equal(
        event_frames(recording(*events), steps, (height, width)), counts.clamp(max=1)
    )


def test_event_frames_of_one_instant():
    frames = event_frames(recording((0, 0, 0, 7), (1, 0, 1, 7)), 3, size=(1, 2))
    assert frames.flatten(1).sum(1).tolist() == [2.0, 0.0, 0.0]


def test_event_frames_of_narrow_integers():
    events = recording((30, 33, 1, 0), (33, 2, 0, 60_000))
    narrow = Events(*(column.astype(np.uint16) for column in events))
    assert torch.equal(event_frames(narrow, 5, (34, 34)), event_frames(events, 5, (34, 34)))


def test_event_columns_that_do_not_fit():
    x, y, polarity, time_us = recording((0, 0, 0, 0), (0, 0, 0, 1))
    with pytest.raises(InputError, match=r"different lengths: \[1, 2, 2, 2\]"):
        event_frames(Events(x[:1], y, polarity, time_us), 2, (1, 1))
    with pytest.raises(TypeError, match="Cannot cast"):
        event_frames(Events(x + 0.5, y, polarity, time_us), 2, (1, 1))


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ((), "found no event"),
        (((0, 0, 0, 0), (3, 0, 0, 1)), "event 1 has x = 3; expected 0 to 2"),
        (((0, 2, 0, 0),), "event 0 has y = 2; expected 0 to 1"),
        (((0, -1, 0, 0),), "event 0 has y = -1; expected 0 to 1"),
        (((0, 0, 2, 0),), "event 0 has polarity = 2; expected 0 to 1"),
    ],
)
def test_bad_events(events, message):
    with pytest.raises(InputError, match=message):
        event_frames(recording(*events), 2, size=(2, 3))


def test_bad_frame_options():
    with pytest.raises(InputError, match='"binary" or "count", got \'counts\''):
        event_frames(recording((0, 0, 0, 0)), 2, (1, 1), "counts")
    with pytest.raises(InputError, match="timesteps must be at least 1, got 0"):
        event_frames(recording((0, 0, 0, 0)), 0, (1, 1))
