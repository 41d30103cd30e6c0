"""count_operations against brute force: convolutions of ones over dense tensors."""

from __future__ import annotations

import gold
import pytest
import torch
import workloads
from h2learn import SpikeTensor, _core, count_operations, nn
from h2learn.kernels import set_kernel
from h2learn.surrogate import ATan, Rect, Triangle
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor


def dense(x: Tensor) -> Tensor:
    return x.to_dense() if isinstance(x, SpikeTensor) else x


class Watched:
    """One training step with everything that the counts are about, as dense tensors."""

    def __init__(self, model: torch.nn.Sequential, inputs: Tensor) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.grads: dict[str, Tensor] = {}
        self.currents: dict[str, Tensor] = {}
        handles = []
        for name, module in model.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.LIF)):
                handles.append(module.register_forward_hook(self._watch(name)))
        with count_operations(model) as counter:
            dense(model(inputs)).square().sum().backward()
        for handle in handles:
            handle.remove()
        self.layers = counter.layers

    def _watch(self, name: str):
        def hook(module, args, out):
            self.inputs[name], self.outputs[name] = args[0], out
            # Of a neuron layer the gradient at its currents, of a synapse that at its output.
            at = args[0] if isinstance(module, nn.LIF) else out
            if at.requires_grad:
                at.register_hook(lambda grad: self.grads.update({name: grad}))

        return hook


def windows(module, x: Tensor) -> Tensor:
    """Sum over each output's window: every weight is one."""
    ones = torch.ones(module.weight.shape, dtype=torch.float64)
    if isinstance(module, nn.Linear):
        return gold.linear(x.double(), ones)
    shape = {key: getattr(module, key) for key in ("stride", "padding", "dilation", "groups")}
    return gold.conv2d(x.double(), ones, **shape)


def active(x: Tensor) -> Tensor:
    """Set bits of each input over its planes; analog inputs count where they are not zero."""
    if not isinstance(x, SpikeTensor):
        return (x != 0).double()
    counts = (x.to_dense() / x.scale).round().long()
    return sum(((counts >> plane) & 1).double() for plane in range(x.planes))


def mask_of(x: Tensor) -> Tensor:
    if not isinstance(x, SpikeTensor) or x.mask is None:
        return torch.ones(x.shape)
    return SpikeTensor(x.mask[None], x.features).to_dense()


def assert_brute_force(model: torch.nn.Sequential, inputs: Tensor) -> None:
    watched = Watched(model, inputs)
    modules = dict(model.named_modules())
    assert list(watched.layers) == list(watched.inputs)
    for name, counts in watched.layers.items():
        module, x = modules[name], watched.inputs[name]
        assert counts.name == name
        assert counts.kind == type(module).__name__.lower()
        if isinstance(module, nn.LIF):
            emitted, grad = watched.outputs[name].to_dense(), watched.grads[name]
            assert counts.neuron_steps == counts.gradients == emitted.numel()
            assert counts.spikes == int(emitted.sum())
            assert counts.firing_rate == pytest.approx(emitted.mean().item())
            assert counts.zero_gradients == int((grad == 0).sum())
            assert counts.zero_gradient_share == pytest.approx((grad == 0).float().mean().item())
            assert counts.forward_done == counts.forward_offered == 0
            continue
        nonzero = watched.grads[name] != 0
        offered = int(windows(module, torch.ones(x.shape)).sum())
        assert counts.forward_offered == counts.update_offered == offered
        assert counts.forward_done == int(windows(module, active(x)).sum())
        assert counts.update_done == int((windows(module, active(x)) * nonzero).sum())
        assert counts.backward_offered == (offered if x.requires_grad else 0)
        needed = int((windows(module, mask_of(x)) * nonzero).sum())
        assert counts.backward_done == (needed if x.requires_grad else 0)
        assert counts.neuron_steps == counts.spikes == counts.gradients == 0


def network(inputs: Tensor, neurons=workloads.lif) -> torch.nn.Sequential:
    """Every layer that is counted, calibrated to `inputs`."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), neurons(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, (3, 2), stride=2, dilation=(1, 2), groups=2), neurons(),
        nn.MaxPool2d((2, 1)), nn.Flatten(), nn.Linear(16, 9), neurons(),
        nn.Linear(9, 3), nn.Readout(),
    )  # fmt: skip
    nn.calibrate(model, inputs, rate=0.15)
    return model


def events() -> SpikeTensor:
    return workloads.spikes(5, 2, 3, 12, 9, rate=0.3)


@pytest.mark.parametrize("bump", [Rect(), Triangle(), ATan()], ids=str)
@pytest.mark.parametrize("encoding", ["spikes", "counts", "analog", "direct", "leaf"])
def test_against_brute_force(encoding, bump):
    spikes = events()
    inputs = {
        "spikes": spikes,
        "counts": spikes + events(),
        "analog": torch.randn(5, 2, 3, 12, 9) * (torch.rand(5, 2, 3, 12, 9) < 0.5),
        "direct": torch.randn(2, 3, 12, 9).expand(5, -1, -1, -1, -1),
        "leaf": spikes.clone().requires_grad_(),
    }[encoding]
    assert_brute_force(network(inputs, lambda: workloads.lif(bump)), inputs)


@settings(max_examples=40)
@given(
    channels=st.sampled_from([1, 2, 65]),
    outputs=st.sampled_from([1, 2, 5]),
    groups=st.sampled_from([1, 2]),
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    rate=st.sampled_from([0.0, 0.2, 1.0]),
)
@pytest.mark.filterwarnings("ignore::h2learn.nn.ActivityWarning")
def test_any_convolution(channels, outputs, groups, size, kernel, stride, padding, dilation, rate):
    model = nn.Sequential(
        nn.LIF(),
        nn.Conv2d(channels * groups, outputs * groups, kernel, stride, padding, dilation, groups),
        nn.LIF(),
    )
    drive = (torch.rand(2, 2, channels * groups, *size) < rate).float() - 0.3
    assert_brute_force(model, drive.requires_grad_())


def test_same_counts_whatever_computed_them():
    """Kernel, instruction set and threads change how the work is done, not what it is."""
    inputs = events()
    model = network(inputs)
    expected = Watched(model, inputs).layers
    for kernel in ("event", "dense"):
        set_kernel(model, kernel)
        assert Watched(model, inputs).layers == expected
    set_kernel(model, "auto")
    for target in _core.available_targets():
        _core.set_target(target)
        assert Watched(model, inputs).layers == expected
    torch.set_num_threads(1)
    assert Watched(model, inputs).layers == expected


def test_counting_changes_nothing():
    inputs = events()
    model = network(inputs)
    grads = []
    for count in (False, True):
        model.zero_grad()
        if count:
            with count_operations(model):
                model(inputs).sum().backward()
        else:
            model(inputs).sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for plain, counted in zip(*grads, strict=True):
        assert torch.equal(plain, counted)


def test_counts_add_up_over_steps():
    inputs = events()
    model = network(inputs)
    with count_operations(model) as counter:
        model(inputs).sum().backward()
        once = {name: vars(counts).copy() for name, counts in counter.layers.items()}
        model(inputs).sum().backward()
    for name, counts in counter.layers.items():
        for key, value in vars(counts).items():
            assert value == (once[name][key] if key in ("name", "kind") else 2 * once[name][key])


def test_counts_only_its_model_and_only_inside():
    inputs = events()
    model, other = network(inputs), network(inputs)
    model(inputs).sum().backward()
    with count_operations(model) as counter:
        other(inputs).sum().backward()
    model(inputs).sum().backward()
    assert not counter.layers
    with count_operations(model) as outer, count_operations(model) as inner:
        model(inputs).sum().backward()
    assert outer.layers == inner.layers
    assert len(outer.layers) == 7


def test_forward_alone():
    inputs = events()
    model = network(inputs)
    with torch.no_grad(), count_operations(model) as counter:
        model(inputs)
    for counts in counter.layers.values():
        assert counts.backward_offered == counts.update_offered == counts.gradients == 0
    assert counter.layers["0"].forward_done > 0


def test_an_error_stops_the_counting():
    model = network(events())
    with pytest.raises(ValueError, match="in_channels"), count_operations(model) as counter:
        model(torch.zeros(5, 2, 4, 12, 9))
    model(events())
    assert not counter.layers


@pytest.mark.parametrize(
    ("neurons", "floats"),
    [
        (nn.LIF(0.5, 1.0, detach_reset=True), 0),
        (nn.LIF(0.5, 1.0, reset="soft"), 0),
        (nn.LIF(0.5, 1.0), 1),
        (nn.LIF(0.5, 1.0, learn_decay=True, detach_reset=True), 1),
        (nn.LIF(0.5, 1.0, learn_decay=True, decay_input=True), 2),
    ],
)
def test_bytes_saved(neurons, floats):
    """Spikes and the window at one bit each, and the float tensors that the options ask for."""
    model = nn.Sequential(nn.Linear(100, 640), neurons, nn.Linear(640, 10))
    with count_operations(model) as counter:
        model(workloads.spikes(8, 4, 100, rate=0.5))
    steps = 8 * 4
    fields = {name: (c.saved_bytes, c.dense_bytes) for name, c in counter.layers.items()}
    words = (100 + 63) // 64 * 8
    assert fields["0"] == (steps * words, steps * 100 * 4)
    dense_bytes = steps * 640 * 4
    assert fields["1"] == (steps * 640 // 8 * 2 + floats * dense_bytes, (2 + floats) * dense_bytes)
    assert fields["2"] == (0, 0), "its inputs are the spikes that the neurons keep"


def test_an_image_shown_at_every_timestep_is_saved_once():
    image = torch.randn(4, 100)
    model = nn.Sequential(nn.Linear(100, 10))
    with count_operations(model) as counter:
        model(image.expand(8, 4, 100))
    assert counter.layers["0"].saved_bytes == 4 * 100 * 4
    assert counter.layers["0"].dense_bytes == 8 * 4 * 100 * 4


def test_bytes_saved_are_what_autograd_keeps():
    """The sum over the layers is what is in memory: a tensor that two layers share counts once."""
    inputs = events()
    model = network(inputs)
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        parts = [tensor.words, tensor.mask] if isinstance(tensor, SpikeTensor) else [tensor]
        for part in parts:
            if part is not None and part.numel() > 1 and not isinstance(part, torch.nn.Parameter):
                storages[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
        return tensor

    keep = []  # so that no storage is freed and its address used again
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: keep.append(t) or pack(t), lambda t: t),
        count_operations(model) as counter,
    ):
        layers = torch.nn.Sequential(*list(model)[:-1])
        layers(inputs)
    assert sum(counts.saved_bytes for counts in counter.layers.values()) == sum(storages.values())
