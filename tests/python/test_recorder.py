"""Recorded workloads against dense tensors that hooks saw; steps, modes, what stays untouched."""

from __future__ import annotations

import copy
import gc
import weakref

import numpy as np
import pytest
import torch
import workloads
from h2learn import SpikeTensor, nn, recording
from h2learn.autograd import synapse
from h2learn.errors import InputError
from h2learn.recorder import Recorder, record, workload_from_model
from h2learn.shapes import geometry
from h2learn.surrogate import ATan, Rect
from h2learn.workload import LayerWork, Workload, load_workload
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def events(*lead: int) -> SpikeTensor:
    return workloads.spikes(*(lead or (5, 3)), 2, 12, 12, rate=0.3)


def network(inputs: Tensor, neurons=workloads.lif, rate=0.2) -> torch.nn.Sequential:
    """Spikes, counts, strides and groups; calibrated to `inputs`."""
    model = nn.Sequential(
        nn.Conv2d(inputs.shape[2], 6, 3, padding=1), neurons(), nn.AvgPool2d(2),
        nn.Conv2d(6, 8, (3, 2), stride=2, groups=2), neurons(), nn.Flatten(),
        nn.Linear(48, 70), neurons(), nn.Linear(70, 4), nn.Readout(),
    )  # fmt: skip
    nn.calibrate(model, inputs, rate=rate)
    return model


def train(model, inputs: Tensor) -> Tensor:
    loss = model(inputs).square().sum()
    loss.backward()
    return loss


def recorded(model, inputs: Tensor, **options) -> Workload:
    with record(model, **options) as recorder:
        train(model, inputs)
    return recorder.workload


def unpacked(words: np.ndarray, features: int) -> np.ndarray:
    """Bits [..., features] of words [..., W]."""
    return np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")[..., :features]


def rows(dense: Tensor) -> np.ndarray:
    """[T, B, C, *space] as [T * B, features], channels last."""
    dense = dense.detach()
    dense = dense.to_dense() if isinstance(dense, SpikeTensor) else dense
    return dense.movedim(2, -1).flatten(0, 1).flatten(1).numpy()


class Watched:
    """One training step; inputs, gradients at currents and masks of each synapse by its name."""

    def __init__(self, model: torch.nn.Module, inputs: Tensor) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        for name, module in model.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                module.register_forward_hook(self._hook(name))
        train(model, inputs)

    def _hook(self, name: str):
        def hook(module, inputs, output):
            self.inputs[name] = inputs[0]
            output.register_hook(lambda gradient: self.gradients.update({name: gradient}))

        return hook


def assert_recorded(layer: LayerWork, seen: Tensor, gradient: Tensor) -> None:
    assert (layer.timesteps, layer.samples) == tuple(seen.shape[:2])
    planes = unpacked(layer.inputs, layer.in_features).astype(float)
    values = np.tensordot(2.0 ** np.arange(layer.planes), planes, 1)
    scale = seen.scale if isinstance(seen, SpikeTensor) else 1.0
    np.testing.assert_allclose(values * scale, rows(seen), rtol=1e-6)
    assert layer.analog_bits == 0
    np.testing.assert_array_equal(unpacked(layer.nonzero, layer.out_features), rows(gradient) != 0)
    mask = seen.mask if isinstance(seen, SpikeTensor) and layer.input_gradient else None
    if mask is None:
        assert layer.mask is None
    else:
        np.testing.assert_array_equal(layer.mask, mask.flatten(0, 1).numpy().view(np.uint64))


@pytest.mark.parametrize("bump", [Rect(), ATan()], ids=str)
@pytest.mark.parametrize("encoding", ["spikes", "counts", "dense spikes", "leaf"])
def test_against_hooks(encoding, bump):
    inputs = {
        "spikes": events(),
        "counts": events() + events(),
        "dense spikes": events().to_dense(),
        "leaf": events().clone().requires_grad_(),
    }[encoding]
    model = network(inputs, lambda: workloads.lif(bump))
    seen = Watched(copy.deepcopy(model), inputs)
    work = recorded(model, inputs)
    (step,) = work.steps
    assert [layer.name for layer in step] == list(seen.inputs) == ["0", "3", "6", "8"]
    assert [layer.kind for layer in step] == ["conv2d", "conv2d", "linear", "linear"]
    for layer in step:
        assert_recorded(layer, seen.inputs[layer.name], seen.gradients[layer.name])
    assert [layer.planes for layer in step] == [2 if encoding == "counts" else 1, 3, 1, 1]
    assert [layer.input_gradient for layer in step] == [encoding == "leaf", True, True, True]
    assert all(layer.weight_gradient for layer in step)
    assert [layer.neurons for layer in step] == [True, True, True, False]
    assert [layer.membrane for layer in step] == [True, True, True, False]
    assert step[1].geometry == geometry(6, (6, 6), 8, (3, 2), (2, 2), groups=2)
    assert [layer.mask is None for layer in step[1:]] == [isinstance(bump, ATan)] * 3
    assert work.info["source"] == "recorded"


@pytest.mark.parametrize(
    ("neurons", "membrane"),
    [
        (nn.LIF(0.5, 1.0), True),
        (nn.LIF(0.5, 1.0, detach_reset=True), False),
        (nn.LIF(0.5, 1.0, reset="soft"), False),
        (nn.LIF(0.5, 1.0, detach_reset=True, surrogate=ATan()), True),
        (nn.LIF(0.5, 1.0, detach_reset=True, learn_decay=True), True),
        (nn.PLIF(0.5, 1.0, detach_reset=True), True),
    ],
)
def test_whether_the_gradient_needs_the_membrane(neurons, membrane):
    model = nn.Sequential(nn.Linear(9, 8), neurons, nn.Linear(8, 2))
    torch.nn.init.constant_(model[0].weight, 0.5)
    layer = recorded(model, workloads.spikes(4, 2, 9)).steps[0][0]
    assert (layer.neurons, layer.membrane) == (True, membrane)
    shaped = workload_from_model(model, (9,), timesteps=4, samples=2).steps[0][0]
    assert (shaped.neurons, shaped.membrane) == (True, membrane)


def test_operands_are_the_ones_that_were_used_not_copies():
    spikes = workloads.spikes(4, 2, 64)
    layer = recorded(nn.Linear(64, 3), spikes).steps[0][0]
    assert layer.name == "model"
    assert layer.inputs.__array_interface__["data"][0] == spikes.words.data_ptr()


@pytest.mark.parametrize("bits", [2, 3, 8, 12])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("repeated", [False, True])
def test_analog_inputs_are_quantised(bits, signed, repeated):
    image = torch.randn(3, 2, 7, 5) if signed else torch.rand(3, 2, 7, 5)
    inputs = image.expand(4, *image.shape) if repeated else image * torch.rand(4, 3, 2, 7, 5)
    model = nn.Conv2d(2, 3, 3)
    with record(model, analog_bits=bits) as recorder:
        model(inputs)
    layer = recorder.workload.steps[0][0]
    assert (layer.analog_bits, layer.timesteps, layer.samples) == (bits, 4, 3)
    assert layer.planes == (2 * bits if signed else bits)
    weights = np.concatenate([2 ** np.arange(bits), -(2 ** np.arange(bits))])[: layer.planes]
    levels = np.tensordot(weights, unpacked(layer.inputs, 70).astype(int), 1)
    wanted = rows(inputs) / np.abs(rows(inputs)).max() * (2**bits - 1)
    np.testing.assert_allclose(levels, wanted, atol=0.501)
    assert np.abs(levels).max() == 2**bits - 1


def test_single_steps_of_either_sign_have_the_planes_of_both():
    model = nn.Linear(9, 3)
    with record(model, analog_bits=3) as recorder:
        for inputs in (torch.rand(2, 9), -torch.rand(2, 9), torch.eye(9)[:2]):
            model(inputs)
    (layer,) = recorder.workload.steps[0]
    assert (layer.planes, layer.analog_bits, layer.timesteps) == (6, 3, 3)
    bits = unpacked(layer.inputs, 9).reshape(6, 3, -1).any(-1)
    assert bits.tolist() == [
        [True, False, True], [True, False, False], [True, False, False],
        [False, True, False], [False, True, False], [False, True, False],
    ]  # fmt: skip


def test_dense_inputs_of_zeros_and_ones_are_spikes():
    model = nn.Linear(70, 3)
    for value in (0.0, 1.0):
        with record(model) as recorder:
            model(torch.full((4, 2, 70), value))
        layer = recorder.workload.steps[0][0]
        assert (layer.planes, layer.analog_bits) == (1, 0)
        assert (unpacked(layer.inputs, 70) == value).all()


# ---- modes


def single_step(model: torch.nn.Module) -> torch.nn.Module:
    model = copy.deepcopy(model)
    nn.set_step_mode(model, "s")
    return model


def run_single(model: torch.nn.Sequential, inputs: Tensor) -> Tensor:
    """All but the readout a step at a time."""
    nn.reset(model)
    return torch.stack([model[:-1](x) for x in inputs])


def assert_same_work(a: LayerWork, b: LayerWork) -> None:
    for name in ("kind", "geometry", "timesteps", "samples", "input_gradient", "weight_gradient",
                 "neurons", "membrane", "analog_bits"):  # fmt: skip
        assert getattr(a, name) == getattr(b, name), name
    assert a.arrays.keys() == b.arrays.keys()
    for name, array in a.arrays.items():
        np.testing.assert_array_equal(array, b.arrays[name], err_msg=f"{a.name} {name}")


@pytest.mark.parametrize("encoding", ["spikes", "analog"])
def test_single_steps_give_the_same_work_as_all_at_once(encoding):
    inputs = (
        events() if encoding == "spikes" else torch.rand(3, 2, 12, 12).expand(5, -1, -1, -1, -1)
    )
    model = network(inputs, rate=0.1)
    whole = recorded(model, inputs)
    stepwise = single_step(model)
    with record(stepwise) as recorder:
        for _ in range(2):
            stepwise[-1](run_single(stepwise, inputs)).square().sum().backward()
    first, second = recorder.workload.steps
    for a, b, c in zip(whole.steps[0], first, second, strict=True):
        assert a.name == b.name
        assert_same_work(a, b)
        assert_same_work(b, c)


def test_a_backward_pass_through_the_last_steps_only():
    """Truncated in time: no gradient was needed before the cut."""
    inputs = events()
    model = single_step(network(inputs))
    with record(model) as recorder:
        outputs = run_single(model, inputs)
        outputs[4].sum().backward()
    for layer in recorder.workload.steps[0]:
        nonzero = unpacked(layer.nonzero, layer.out_features).reshape(5, -1)
        assert nonzero[4].any()
    last = recorder.workload.steps[0][-1]
    assert not unpacked(last.nonzero, 4).reshape(5, -1)[:4].any(), "no path to earlier outputs"
    assert layer.timesteps == 5

    detached = nn.Sequential(nn.Linear(9, 3))
    with record(detached) as recorder:
        outputs = [detached(x) for x in torch.eye(9)[:4, None]]
        (outputs[1] + outputs[3]).sum().backward()
    (layer,) = recorder.workload.steps[0]
    assert unpacked(layer.nonzero, 3).tolist() == [[0] * 3, [1] * 3, [0] * 3, [1] * 3]


def test_masks_of_single_steps_that_have_none_of_their_own():
    """Words of a mask where it is known, all bits where the gradient is needed everywhere."""
    first, second = workloads.spikes(1, 2, 70)[0], workloads.spikes(1, 2, 70)[0]
    mask = SpikeTensor.from_dense((torch.rand(2, 70) < 0.5).float(), 1).words[0]
    masked = SpikeTensor(second.words, (70,), mask=mask)
    layer = nn.Linear(70, 3)
    with record(layer) as recorder:
        outputs = [layer(x.requires_grad_()) for x in (first, masked)] + [layer(second.detach())]
        sum(outputs).sum().backward()
    (work,) = recorder.workload.steps[0]
    bits = unpacked(work.mask, 70).reshape(3, 2, 70)
    assert bits[0].all()
    np.testing.assert_array_equal(bits[1], unpacked(mask.numpy().view(np.uint64), 70))
    assert not bits[2].any(), "no gradient was needed there"


def test_a_module_used_twice_has_two_names():
    shared = nn.Linear(16, 16)
    model = nn.Sequential(shared, nn.LIF(0.5, 0.2), shared, nn.LIF(0.5, 0.2), shared)
    inputs = workloads.spikes(4, 2, 16)
    for given, name in ((model, "0"), (None, "linear1")):
        with record(given) as recorder:
            train(model, inputs)
            train(model, inputs)
        assert len(recorder.workload.steps) == 2
        for step in recorder.workload.steps:
            assert [layer.name for layer in step] == [name, f"{name}#2", f"{name}#3"]
            assert [layer.input_gradient for layer in step] == [False, True, True]
            assert [layer.neurons for layer in step] == [True, True, False]
            assert unpacked(step[2].nonzero, 16).all(), "a readout's gradient is dense"


def test_uses_and_their_backward_passes_belong_together():
    """Whatever the order: a use whose result is thrown away has no backward pass."""
    layer = nn.Linear(8, 8)
    with record(layer) as recorder:
        first = layer(torch.eye(8)[None])
        layer(torch.eye(8)[None])
        first.diagonal(dim1=1, dim2=2).sum().backward()
    used, unused = recorder.workload.steps[0]
    assert used.name == "model"
    np.testing.assert_array_equal(unpacked(used.nonzero, 8), np.eye(8))
    assert unused.nonzero is None
    assert not unused.weight_gradient


def assert_same_steps(a: Workload, b: Workload) -> None:
    assert [len(step) for step in a.steps] == [len(step) for step in b.steps]
    for left, right in zip(a.steps, b.steps, strict=True):
        for one, other in zip(left, right, strict=True):
            assert one.name == other.name
            assert_same_work(one, other)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("mode", ["all steps", "a loop over steps inside"])
def test_checkpointing_records_what_the_plain_step_does(reentrant, mode):
    inputs = events().clone().requires_grad_()
    model = network(inputs)

    def whole(model):
        middle = checkpoint(model[:4], inputs, use_reentrant=reentrant)
        return checkpoint(model[4:-1], middle, use_reentrant=reentrant)

    def loop(model):
        return checkpoint(lambda x: run_single(model, x), inputs, use_reentrant=reentrant)

    if mode == "all steps":
        runs = [lambda model: model[:-1](inputs), whole]
    else:
        model = single_step(model)
        runs = [lambda model: run_single(model, inputs), loop]
    works = []
    for run in runs:
        twin = copy.deepcopy(model)
        with record(twin) as recorder:
            for _ in range(2):
                twin[-1](run(twin)).square().sum().backward()
        works.append(recorder.workload)
    assert_same_steps(*works)


def test_a_checkpoint_for_each_timestep():
    layer = nn.Linear(8, 8)
    inputs = workloads.spikes(4, 2, 8, rate=0.5)
    weights = (torch.rand(4, 2, 8) < 0.4).float()
    works = []
    for wrap in (
        lambda x: layer(x),
        lambda x: checkpoint(layer, x.clone().requires_grad_(), use_reentrant=True),
        lambda x: checkpoint(layer, x, use_reentrant=False),
    ):
        with record(layer) as recorder:
            (torch.stack([wrap(x) for x in inputs]) * weights).sum().backward()
        (work,) = recorder.workload.steps[0]
        np.testing.assert_array_equal(unpacked(work.nonzero, 8), weights.flatten(0, 1).numpy())
        works.append(work)
    for work in works[1:]:
        np.testing.assert_array_equal(work.inputs, works[0].inputs)
        assert work.timesteps == 4


# ---- steps


def test_steps_end_where_the_next_one_begins():
    inputs = events()
    model = network(inputs)
    with record(model) as recorder:
        train(model, inputs)
        assert recorder.workload.steps == (), "it may have more backward passes to come"
        train(model, inputs[:, :2])
        assert len(recorder.workload.steps) == 1
        train(model, inputs)
    train(model, inputs)
    assert [step[0].samples for step in recorder.workload.steps] == [3, 2, 3]
    with recorder:
        train(model, inputs)
    assert len(recorder.workload.steps) == 4, "a recorder goes on where it ended"


def test_a_backward_pass_in_parts_is_one_step():
    model = nn.Sequential(nn.Linear(9, 8), nn.LIF(0.5, 0.1), nn.Linear(8, 2))
    inputs = workloads.spikes(4, 2, 9, rate=0.5)
    with record(model) as recorder:
        outputs = model(inputs)
        outputs[..., 0].sum().backward(retain_graph=True)
        outputs[..., 1].sum().backward()
    (step,) = recorder.workload.steps
    assert unpacked(step[-1].nonzero, 2).any(0).tolist() == [0, 1], "the last one counts"


def test_forward_passes_alone():
    inputs = events()
    model = network(inputs)
    with torch.no_grad(), record(model) as recorder:
        model(inputs)
        step = recorder.step()
        assert recorder.step() == ()
        model(inputs)
    assert recorder.workload.steps[0] == step
    assert len(recorder.workload.steps) == 2
    for layer in step:
        assert list(layer.arrays) == ["inputs"]
        assert not layer.input_gradient
        assert not layer.weight_gradient
    assert [layer.neurons for layer in step] == [True, True, True, False]
    with torch.no_grad(), record(model) as recorder:
        model(inputs)
        model(inputs)
    first, second = recorder.workload.steps  # an evaluation is a step of its own
    names = [[layer.name for layer in one] for one in (first, second)]
    assert names == [["0", "3", "6", "8"]] * 2


def test_frozen_weights():
    inputs = events()
    model = network(inputs)
    for module in model[:4]:
        module.requires_grad_(False)
    first, second, third, last = recorded(model, inputs).steps[0]
    assert first.weight_gradient is first.input_gradient is second.input_gradient is False
    assert first.nonzero is second.nonzero is None
    assert (third.input_gradient, third.weight_gradient) == (False, True)
    assert (last.input_gradient, last.weight_gradient) == (True, True)
    model.requires_grad_(False)
    steps = recorded(model, events().clone().requires_grad_()).steps
    assert all(layer.input_gradient and not layer.weight_gradient for layer in steps[0])
    assert all(layer.nonzero is not None for layer in steps[0])


def test_names_without_a_model():
    inputs = events()
    model = network(inputs)
    with record() as recorder:
        train(model, inputs)
        train(model, inputs)
    for step in recorder.workload.steps:
        assert [layer.name for layer in step] == ["conv2d1", "conv2d2", "linear3", "linear4"]
    assert "model" not in recorder.workload.info


def test_functions_without_a_module_are_layers_of_their_own():
    weight = torch.randn(3, 8, requires_grad=True)
    inputs = workloads.spikes(4, 2, 8)
    with record() as recorder:
        for _ in range(2):
            hidden = synapse(inputs, weight, None, 2, geometry(8, (1, 1), 3))
            synapse(inputs, weight, None, 2, geometry(8, (1, 1), 3)).add(hidden).sum().backward()
    for step in recorder.workload.steps:
        assert [layer.name for layer in step] == ["linear1", "linear2"]
        assert all(layer.weight_gradient for layer in step)
    assert len(recorder.workload.steps) == 2


def test_only_its_model_and_only_inside():
    inputs = events()
    model, other = network(inputs), network(inputs)
    loss = model(inputs).sum()
    with record(model) as recorder:
        train(other, inputs)
        loss.backward()  # of a forward pass that nobody saw
    assert recorder.workload.steps == ()
    with record(model[:4]) as outer, record(model) as inner:
        train(model, inputs)
    assert [layer.name for layer in outer.workload.steps[0]] == ["0", "3"]
    assert outer.workload.steps[0][1].neurons is False, "its neurons are not in that part"
    assert len(inner.workload.steps[0]) == 4


def test_layers_that_disagree_on_time():
    slow, fast = nn.Linear(8, 8), nn.Linear(8, 2)
    model = nn.Sequential(slow, fast)
    with (
        pytest.raises(
            InputError, match=r"recorded step 0: .* layer '0' ran T 4, B 2 and layer '1' T 2, B 2"
        ),
        record(model),
    ):
        fast(slow(workloads.spikes(4, 2, 8))[::2])
    with record(model) as recorder:
        model(workloads.spikes(4, 2, 8))
    assert len(recorder.workload.steps) == 1, "the step that could not be is forgotten"


def test_an_error_drops_the_step():
    model = network(events())
    recorder = record(model)
    with pytest.raises(ValueError, match="in_channels"), recorder:
        train(model, torch.cat([events().to_dense(), torch.zeros(5, 3, 2, 12, 12)], 2))
    assert recorder.workload.steps == ()
    with recorder:
        train(model, events())
    assert len(recorder.workload.steps) == 1


def test_steps_handed_on():
    inputs = events()
    model = network(inputs)
    steps = []
    with Recorder(model, on_step=steps.append) as recorder:
        train(model, inputs)
        assert len(steps) == 0
        train(model, inputs)
        assert len(steps) == 1
        assert recorder.step() is steps[1]
        train(model, inputs)
    assert len(steps) == 3
    assert_same_steps(Workload((steps[0],)), Workload((steps[2],)))
    with pytest.raises(RuntimeError, match="hands its steps to on_step"):
        _ = recorder.workload


def test_misuse():
    model = nn.Linear(3, 2)
    with record(model) as recorder, pytest.raises(RuntimeError, match="recording already"):
        recorder.__enter__()
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        record("model")
    for bits in (0, 13):
        with pytest.raises(ValueError, match="analog_bits"):
            record(model, analog_bits=bits)


# ---- what stays untouched


def test_recording_changes_nothing():
    inputs = events()
    model = network(inputs)
    results = []
    for on in (False, True):
        twin = copy.deepcopy(model)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: saved.append((t.shape, t.dtype)) or t, lambda t: t
        ):
            if on:
                with record(twin):
                    loss = train(twin, inputs)
            else:
                loss = train(twin, inputs)
        results.append((loss, saved, [p.grad for p in twin.parameters()]))
    (loss, saved, grads), (other_loss, other_saved, other_grads) = results
    assert torch.equal(loss, other_loss)
    assert saved == other_saved
    assert all(torch.equal(a, b) for a, b in zip(grads, other_grads, strict=True))


class Gradients:
    """Listener that holds the float gradients weakly."""

    def __init__(self) -> None:
        self.seen: list[weakref.ref] = []

    def record(self, event: recording.Event) -> None:
        if hasattr(event, "grad_currents"):
            self.seen.append(weakref.ref(event.grad_currents))


def test_memory_is_released():
    inputs = events()
    model = network(inputs)
    held: list[weakref.ref] = []

    def on_step(step) -> None:
        held.extend(weakref.ref(a) for layer in step for a in layer.arrays.values())

    gradients = Gradients()
    with recording.listen(gradients), Recorder(model, on_step=on_step) as recorder:
        train(model, inputs)
        gc.collect()
        assert len(gradients.seen) == 4 + 3 + 3
        assert not any(ref() is not None for ref in gradients.seen), "floats were packed, not kept"
        recorder.step()
        gc.collect()
        assert len(held) == 4 * 3 - 1
        assert not any(ref() is not None for ref in held)


def test_gradients_are_packed_once_a_layer(monkeypatch):
    from h2learn import ops

    calls = []
    pack = ops.pack_nonzero
    monkeypatch.setattr(ops, "pack_nonzero", lambda dense: calls.append(1) or pack(dense))
    recorded(network(events()), events())
    assert len(calls) == 4


def test_saved_and_loaded(tmp_path):
    work = recorded(network(events()), events())
    work.save(tmp_path / "step.h2w")
    loaded = load_workload(tmp_path / "step.h2w")
    assert_same_steps(work, loaded)
    assert dict(loaded.info) == dict(work.info)
    assert loaded.summary() == work.summary()


# ---- shapes of a model


def test_shapes_of_our_models():
    inputs = events()
    model = network(inputs)
    before = copy.deepcopy(model.state_dict())
    work = workload_from_model(model, (2, 12, 12), timesteps=5, samples=3, seed=4)
    real = recorded(model, inputs)
    for made, found in zip(work.steps[0], real.steps[0], strict=True):
        for name in ("name", "kind", "geometry", "timesteps", "samples", "planes", "neurons",
                     "membrane", "input_gradient", "weight_gradient"):  # fmt: skip
            assert getattr(made, name) == getattr(found, name), name
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model[0]._forward_hooks
    stepwise = workload_from_model(single_step(model)[:-1], (2, 12, 12), timesteps=5, samples=3)
    assert [layer.geometry for layer in stepwise.steps[0]] == [
        layer.geometry for layer in work.steps[0]
    ]


def test_shapes_of_plain_models():
    shared = torch.nn.Linear(20, 20)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding="same", dilation=2), torch.nn.ReLU(),
        torch.nn.AvgPool2d(2), torch.nn.Conv2d(8, 4, (3, 1), stride=(2, 1), groups=2),
        torch.nn.Flatten(2), torch.nn.Conv1d(4, 5, 3, padding=1), torch.nn.AvgPool1d(2),
        torch.nn.Flatten(), torch.nn.Linear(5 * 2, 20), shared, shared,
    )  # fmt: skip
    work = workload_from_model(model, (3, 8, 8), timesteps=2, samples=3, analog_bits=4)
    assert [(layer.name, layer.kind, layer.planes) for layer in work.steps[0]] == [
        ("0", "conv2d", 4), ("3", "conv2d", 3), ("5", "conv1d", 1), ("8", "linear", 2),
        ("9", "linear", 1),
    ]  # fmt: skip
    assert [layer.geometry for layer in work.steps[0]] == [
        geometry(3, (8, 8), 8, (3, 3), padding=(2, 2), dilation=(2, 2)),
        geometry(8, (4, 4), 4, (3, 1), (2, 1), groups=2),
        geometry(4, (1, 4), 5, (1, 3), padding=(0, 1)),
        geometry(10, (1, 1), 20),
        geometry(20, (1, 1), 20),
    ]
    assert [layer.neurons for layer in work.steps[0]] == [True] * 4 + [False]
    averaged = torch.nn.Sequential(
        nn.Sequential(torch.nn.Conv2d(1, 4, 3)), torch.nn.AdaptiveAvgPool2d((2, 1)),
        torch.nn.Flatten(), torch.nn.Linear(8, 2),
    )  # fmt: skip
    layers = workload_from_model(averaged, (1, 7, 5), timesteps=1, samples=1).steps[0]
    assert [layer.planes for layer in layers] == [1, 4], "counts up to 3 x 3"
    tokens = workload_from_model(torch.nn.Linear(6, 7), (9, 6), timesteps=1, samples=1)
    assert tokens.steps[0][0].geometry == geometry(6, (1, 9), 7), "positions share the weights"
    assert tokens.names == ["model"]


def test_shapes_of_derived_modules():
    class Layer(nn.Conv2d):
        pass

    model = torch.nn.Sequential(Layer(1, 4, 3), torch.nn.ReLU())
    work = workload_from_model(model, (1, 5, 5), timesteps=2, samples=3)
    assert work.steps[0][0].kind == "layer"
    assert not work.steps[0][0].neurons


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (torch.nn.ReLU(), "model ReLU has no Linear, Conv1d or Conv2d that runs"),
        (torch.nn.Linear(5, 3), "does not run on zeros of shape [1, 4]: RuntimeError"),
        (torch.nn.ConvTranspose2d(4, 3, 3), "does not run"),
        (torch.nn.Sequential(torch.nn.LSTM(4, 3)), "layer '0' is a LSTM"),
        (torch.nn.Conv1d(1, 2, 2, padding="same"), "padding 'same' must be as wide on either side"),
        (torch.nn.Conv1d(1, 2, 3, padding=1, padding_mode="circular"), "padding_mode must be"),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_models_without_a_workload(model, message):
    shape = (1, 4) if isinstance(model, torch.nn.Conv1d) else (4,)
    with pytest.raises(InputError) as caught:
        workload_from_model(model, shape, timesteps=2, samples=2)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
