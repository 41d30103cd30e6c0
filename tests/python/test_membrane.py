"""membrane="recompute": the same bits as "store", and less kept, where the rule says so."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import weakref

import contestants
import gold
import measure
import peers
import problems
import pytest
import torch
import torch.nn.functional as F
import workloads
from h2learn import SpikeTensor, _core, count_operations, nn, ops, recording
from h2learn.numerics import Arithmetic, hardware
from h2learn.recorder import record
from h2learn.surrogate import ATan, Rect, Sigmoid, Triangle
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

SURROGATES = [Rect(0.4), Triangle(0.7), ATan(), Sigmoid()]
T, B = 5, 3


def images(kind: str) -> Tensor:
    """[T, B, 2, 7, 6] of each kind that a synapse takes."""
    spikes = workloads.spikes(T, B, 2, 7, 6, rate=0.4)
    return {
        "spikes": lambda: spikes,
        "counts": lambda: nn.AvgPool2d(2, 1)(workloads.spikes(T, B, 2, 8, 7, rate=0.4)),
        "part": lambda: workloads.spikes(T, B + 2, 2, 7, 6, rate=0.4)[:, 1:-1],
        "analog": lambda: torch.randn(T, B, 2, 7, 6),
        "direct": lambda: torch.randn(B, 2, 7, 6).expand(T, -1, -1, -1, -1),
    }[kind]()


KINDS = ("spikes", "counts", "part", "analog", "direct")
LAYERS = {
    "linear": lambda: torch.nn.Sequential(nn.Flatten(), nn.Linear(84, 13)),
    "linear without bias": lambda: torch.nn.Sequential(nn.Flatten(), nn.Linear(84, 70, bias=False)),
    "conv": lambda: torch.nn.Sequential(nn.Conv2d(2, 4, 3, padding=1)),
    "conv with groups": lambda: torch.nn.Sequential(nn.Conv2d(2, 6, (3, 2), 2, groups=2)),
}


def pair(neurons, **options) -> list[nn.LIF]:
    """Two equal layers of neurons, one that stores and one that computes again."""
    made = [neurons(membrane=membrane, **options) for membrane in ("store", "recompute")]
    return [layer.eval() for layer in made]


def stores(spikes: SpikeTensor) -> bool:
    """Whether the neurons keep a float for each neuron and step."""
    kept = [t for t in spikes.grad_fn.saved_tensors if t is not None]
    return any(
        type(t) is Tensor and t.numel() == spikes.numel() for t in kept if t.is_floating_point()
    )


def results(run, inputs: Tensor, modules: list[torch.nn.Module]) -> list[Tensor]:
    """Outputs, and gradients at the inputs and all parameters."""
    inputs = inputs.detach().requires_grad_()
    for module in modules:
        module.zero_grad()
    outputs = run(inputs)
    total = 0.0
    for index, output in enumerate(outputs):
        weights = torch.linspace(-1, 2, output.numel()).view(output.shape)
        total = total + (output * weights).square().sum() * (index + 1)
    total.backward()
    parameters = [p.grad for module in modules for p in module.parameters()]
    return [*[o.detach() for o in outputs], inputs.grad, *parameters]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


# The same bits.


@settings(max_examples=120)
@given(
    layer=st.sampled_from(sorted(LAYERS)),
    kind=st.sampled_from(KINDS),
    surrogate=st.sampled_from(SURROGATES),
    reset=st.sampled_from(["hard", "soft"]),
    flags=st.fixed_dictionaries(
        {
            name: st.booleans()
            for name in (
                "detach_reset",
                "inclusive",
                "decay_input",
                "learn_decay",
                "learn_threshold",
            )
        }
    ),
    stateful=st.booleans(),
    plif=st.booleans(),
)
def test_the_same_bits(layer, kind, surrogate, reset, flags, stateful, plif):
    torch.manual_seed(1)
    synapse, inputs = LAYERS[layer](), images(kind)
    options = {"surrogate": surrogate, "reset": reset, "stateful": stateful, **flags}
    if plif:
        del options["learn_decay"]
    runs = []
    for neurons in pair(nn.PLIF if plif else nn.LIF, decay=0.7, threshold=0.3, **options):

        def run(x, neurons=neurons):
            outputs = [neurons(synapse(x))]
            needs = surrogate.name != "rect" or (reset == "hard" and not flags["detach_reset"])
            needs = needs or flags["learn_decay"] or plif
            assert stores(outputs[0]) == (needs and neurons.membrane_mode == "store")
            if stateful:  # a second call that begins with the first one's membranes
                outputs += [neurons(synapse(x)), neurons.membrane]
            return outputs

        runs.append(results(run, inputs, [synapse, neurons]))
    assert 0 < runs[0][0].float().mean() < 1
    assert_same(runs[1], runs[0])


@pytest.mark.parametrize("kernel", ["event", "dense", "lut"])
def test_the_same_bits_whatever_the_kernel_and_threads(kernel):
    synapse, inputs = nn.Conv2d(2, 4, 3, kernel=kernel), images("spikes")
    runs = []
    for neurons in pair(nn.LIF):
        torch.set_num_threads(2)
        loss = neurons(synapse(inputs)).square().sum()
        torch.set_num_threads(1)
        synapse.zero_grad()
        loss.backward()
        runs.append([p.grad.clone() for p in synapse.parameters()])
    assert_same(*runs)


@pytest.mark.parametrize("target", _core.available_targets())
@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("features", [1, 63, 64, 130])
def test_membranes_take_the_place_of_their_currents(target, reset, features):
    _core.set_target(target)
    currents, initial = torch.randn(T, B, features), torch.randn(B, features)
    constants = torch.tensor(0.7), torch.tensor(0.3)
    options = (False, reset, False, True, "atan", 1.0, 1.0)
    _, _, expected, _ = ops.soma_forward(
        currents, initial, *constants, *options, False, True, False
    )
    ops.integrate_in_place(currents, initial, *constants, *options)
    assert torch.equal(currents, expected)


@pytest.mark.parametrize("target", _core.available_targets())
def test_membranes_take_the_place_of_currents_too_large_for_the_caches(target):
    """Such are written past them: 64 MiB and more."""
    _core.set_target(target)
    currents = torch.randn(2, 64, 1 << 17)
    constants = torch.tensor(0.7), torch.tensor(0.3)
    options = (False, "hard", False, False, "rect", 0.5, 1.0)
    _, _, expected, _ = ops.soma_forward(currents, None, *constants, *options, False, True, False)
    ops.integrate_in_place(currents, None, *constants, *options)
    assert torch.equal(currents, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_in_the_accelerators_arithmetic(kind):
    """The backward pass computes again as the forward pass did, though it runs outside."""
    synapse, inputs = nn.Conv2d(2, 4, 3), images(kind)
    runs = []
    for neurons in pair(nn.LIF, surrogate=ATan()):
        with hardware(Arithmetic(precision="fp16")):
            spikes = neurons(synapse(inputs))
        assert stores(spikes) == (neurons.membrane_mode == "store")
        synapse.zero_grad()
        spikes.square().sum().backward()
        runs.append([p.grad.clone() for p in synapse.parameters()])
    assert_same(*runs)


@pytest.mark.parametrize("layer", sorted(LAYERS))
def test_one_step_a_call(layer):
    """Nothing to gain: the membrane that a step begins with is as large as the one spared."""
    synapse, inputs = LAYERS[layer](), images("spikes")
    runs = []
    for neurons in pair(nn.LIF, decay=0.7, threshold=0.3):
        neurons.step_mode = "s"

        def run(x, neurons=neurons):
            outputs = [neurons(synapse(step)) for step in x]
            assert all(stores(o) for o in outputs)
            return [*outputs, neurons.membrane]

        runs.append(results(run, inputs, [synapse, neurons]))
    assert_same(*runs)


@pytest.mark.parametrize("build", [workloads.a, workloads.b, workloads.c])
def test_the_same_bits_in_whole_networks(build):
    sizes = {"width": 0.1, "steps": 4, "batch": 2}
    if build is not workloads.a:
        sizes["side"] = 16
    steps = []
    for membrane in ("store", "recompute"):
        torch.manual_seed(3)
        model, inputs, labels = build(lambda m=membrane: nn.LIF(0.5, 1.0, membrane=m), **sizes)
        loss = torch.nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        steps.append([loss.detach(), *[p.grad for p in model.parameters()]])
    assert_same(*steps)


def test_bfloat16_weights_are_widened_once():
    synapse, inputs = nn.Linear(84, 13).bfloat16(), images("analog")
    runs = []
    for neurons in pair(nn.LIF):

        def run(x, neurons=neurons):
            spikes = neurons(synapse(x.flatten(2)))
            below = spikes.grad_fn.next_functions[0][0]
            while not hasattr(below, "saved_tensors"):  # views
                below = below.next_functions[0][0]
            if neurons.membrane_mode == "recompute":
                own, wide = (
                    {t.data_ptr() for t in node.saved_tensors if t is not None and t.dim() == 2}
                    for node in (spikes.grad_fn, below)
                )
                assert wide
                assert wide <= own
            return [spikes]

        runs.append(results(run, inputs, [synapse]))
    assert_same(*runs)


# When it computes again, and when it stores.


def changed_in_place(x: Tensor) -> Tensor:
    with torch.no_grad():
        x.mul_(2.0)
    return x


HELD: list[Tensor] = []


def held(currents: Tensor) -> Tensor:
    """Keeps the tensor alive: that it is gone must not be what tells it from another."""
    HELD[:] = [*HELD[-1:], currents]
    return currents


STORED = {
    "normalised": lambda conv, x: nn.BatchNorm(4)(held(conv(x))),
    "dropped out": lambda conv, x: nn.Dropout(0.5)(held(conv(x))),
    "another tensor": lambda conv, x: held(conv(x)) * 2.0,
    "a view": lambda conv, x: held(conv(x))[:, :],
    "written to": lambda conv, x: changed_in_place(conv(x)),
    "written to through a view": lambda conv, x: [y := conv(x), changed_in_place(y[1:])][0],
    "not the latest": lambda conv, x: [held(conv(x)), held(conv(2.0 * x))][0],
    "no layer's": lambda conv, x: [x, held(conv(x))][0],
    "torch's layer's": lambda conv, x: F.conv2d(x.flatten(0, 1), conv.weight).unflatten(0, (T, B)),
    "without T": lambda conv, x: conv(x.flatten(0, 1)),
    "of a sum": lambda conv, x: nn.Residual(conv, nn.Conv2d(2, 4, 1))(x),
}


@pytest.mark.parametrize("name", STORED)
def test_other_currents_are_stored(name):
    conv, inputs = nn.Conv2d(2, 4, 3, padding=1), images("analog")
    runs = []
    for neurons in pair(nn.LIF):

        def run(x, neurons=neurons):
            torch.manual_seed(4)
            spikes = neurons(STORED[name](conv, x))
            assert stores(spikes)
            return [spikes, conv(x)]

        runs.append(results(run, inputs, [conv]))
    assert_same(*runs)


def pruned(layer: torch.nn.Module) -> torch.nn.Module:
    prune.l1_unstructured(layer, "weight", amount=0.5)
    return layer


class Watched(torch.nn.Module):
    """A user's own module: no container of h2learn's, hooks that look."""

    def __init__(self, conv: torch.nn.Module, neurons: torch.nn.Module) -> None:
        super().__init__()
        self.conv, self.neurons = conv, neurons
        self.seen: list[tuple[int, ...]] = []
        conv.register_forward_hook(lambda _, args, out: self.seen.append(tuple(out.shape)))
        neurons.register_forward_pre_hook(lambda _, args: self.seen.append(tuple(args[0].shape)))

    def forward(self, x: Tensor) -> Tensor:
        return self.neurons(self.conv(x))


RECOMPUTED = {
    "Sequential": lambda conv, neurons: nn.Sequential(conv, neurons),
    "torch's Sequential": lambda conv, neurons: torch.nn.Sequential(conv, neurons),
    "a module with hooks": Watched,
    "identity between": lambda conv, n: nn.Sequential(conv, nn.Dropout(0.5).eval(), n),
    "weight norm": lambda conv, n: nn.Sequential(parametrizations.weight_norm(conv), n),
    "pruned": lambda conv, n: nn.Sequential(pruned(conv), n),
}


@pytest.mark.parametrize("name", RECOMPUTED)
def test_direct_currents_are_computed_again(name):
    conv, inputs = nn.Conv2d(2, 4, 3, padding=1), images("spikes")
    runs = []
    for neurons in pair(nn.LIF):
        model = RECOMPUTED[name](copy.deepcopy(conv), neurons)

        def run(x, neurons=neurons, model=model):
            spikes = model(x)
            assert stores(spikes) == (neurons.membrane_mode == "store")
            return [spikes]

        runs.append(results(run, inputs, [model]))
    assert_same(*runs)


def test_a_hook_that_replaces_the_currents_is_heeded():
    inputs, runs = images("spikes"), []
    conv = nn.Conv2d(2, 4, 3)
    conv.register_forward_hook(lambda _, args, out: out * 1.5)
    for neurons in pair(nn.LIF):
        runs.append(results(lambda x, n=neurons: [n(conv(x))], inputs, [conv]))
    assert_same(*runs)


def test_two_layers_of_neurons_on_the_same_currents():
    conv, inputs, runs = nn.Conv2d(2, 4, 3), images("spikes"), []
    for first, second in zip(pair(nn.LIF), pair(nn.PLIF, surrogate=ATan()), strict=True):

        def run(x, first=first, second=second):
            currents = conv(x)
            return [first(currents), second(currents)]

        runs.append(results(run, inputs, [conv, first, second]))
    assert_same(*runs)


def test_without_gradients_nothing_is_remembered():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.LIF(membrane="recompute").eval())
    inputs = images("spikes")
    expected = model(inputs).detach()
    with torch.no_grad():
        assert torch.equal(model(inputs), expected)
    with torch.inference_mode():  # whose tensors have no version to compare
        model(workloads.spikes(T, B, 2, 7, 6))


# Autograd's promises.


@pytest.mark.parametrize("change", ["weight", "bias", "inputs", "membrane"])
def test_operands_changed_before_backward_are_noticed(change):
    """Also those that only the neurons still need."""
    layer, inputs = nn.Linear(84, 13), images("analog").flatten(2)
    neurons = nn.LIF(membrane="recompute", stateful=True, learn_threshold=True).eval()
    layer.requires_grad_(False)
    neurons(layer(inputs))
    membrane = neurons.membrane = neurons.membrane.detach()
    loss = neurons(layer(inputs)).sum()
    changed = {"inputs": inputs, "membrane": membrane}.get(change)
    with torch.no_grad():
        (getattr(layer, change) if changed is None else changed).mul_(1.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_an_optimisers_step_before_backward_is_noticed():
    model = nn.Sequential(nn.Linear(84, 13), nn.LIF(membrane="recompute").eval())
    loss = model(images("spikes").flatten(2)).sum()
    loss.backward(retain_graph=True)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_backward_twice_and_second_derivatives():
    model = nn.Sequential(nn.Linear(84, 13), nn.LIF(membrane="recompute").eval())
    x = images("analog").flatten(2).requires_grad_()
    loss = model(x).square().sum()
    loss.backward(retain_graph=True)
    once = x.grad.clone()
    loss.backward()
    assert torch.equal(x.grad, 2 * once)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    (grad,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_operands_are_let_go():
    """Neither the graph nor what remembers the currents' source outlives its use."""
    model = nn.Sequential(nn.Linear(84, 13), nn.LIF(membrane="recompute").eval())
    for use in ("backward", "forward alone", "currents alone"):
        inputs = workloads.spikes(T, B, 84, rate=0.4)
        words = weakref.ref(inputs.words)
        out = model[0](inputs) if use == "currents alone" else model(inputs)
        del inputs
        assert words() is not None
        if use == "backward":
            out.square().sum().backward()
        del out
        gc.collect()
        assert words() is None, use


# What is kept.


@pytest.mark.parametrize(
    ("options", "bits"),
    [
        ({}, 2),
        ({"surrogate": Triangle()}, 2),
        ({"surrogate": ATan()}, 1),
        ({"surrogate": Sigmoid(), "reset": "soft"}, 1),
        ({"learn_decay": True, "decay_input": True}, 2),
        ({"learn_decay": True, "decay_input": True, "surrogate": ATan()}, 1),
        ({"detach_reset": True}, 2),
    ],
)
def test_bits_kept(options, bits):
    model = nn.Sequential(
        nn.Linear(100, 640), nn.LIF(0.5, 1.0, membrane="recompute", **options), nn.Linear(640, 10)
    )
    with count_operations(model) as counter:
        model(workloads.spikes(8, 4, 100, rate=0.5))
    counts = counter.layers["1"]
    assert counts.saved_bytes == 8 * 4 * 640 // 8 * bits
    assert counts.dense_bytes == 8 * 4 * 640 * 4 * bits
    assert counter.layers["0"].saved_bytes == 8 * 4 * 128 // 8


def test_bytes_counted_are_those_that_autograd_keeps():
    inputs = workloads.spikes(T, B, 2, 12, 12, rate=0.4)
    frozen = nn.Conv2d(2, 3, 3).requires_grad_(False)
    model = nn.Sequential(
        frozen, nn.LIF(membrane="recompute", learn_threshold=True, stateful=True), nn.AvgPool2d(2),
        nn.Conv2d(3, 4, 3), nn.PLIF(membrane="recompute", decay_input=True), nn.Flatten(),
        nn.Linear(36, 10), nn.LIF(membrane="recompute"),
    )  # fmt: skip
    nn.calibrate(model, inputs, rate=0.3)
    model[1](frozen(inputs))
    model[1].membrane = model[1].membrane.detach()
    storages: dict[int, int] = {}
    keep = []

    def pack(tensor: Tensor) -> Tensor:
        keep.append(tensor)
        parts = [tensor.words, tensor.mask] if isinstance(tensor, SpikeTensor) else [tensor]
        for part in parts:
            if part is not None and part.numel() > 1 and not isinstance(part, torch.nn.Parameter):
                storages[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
        count_operations(model) as counter,
    ):
        model(inputs)
    assert sum(counts.saved_bytes for counts in counter.layers.values()) == sum(storages.values())
    assert counter.layers["1"].saved_bytes > T * B * 2 * 144 // 8, "its layer keeps nothing itself"


class Events:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[recording.Event] = []

    def record(self, event: recording.Event) -> None:
        self.events.append(event)


def network(membrane: str) -> torch.nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.LIF(membrane=membrane), nn.AvgPool2d(2),
        nn.Conv2d(6, 5, 3, bias=False), nn.LIF(surrogate=Triangle(), membrane=membrane),
        nn.Flatten(), nn.Linear(45, 4), nn.Readout(),
    )  # fmt: skip
    torch.manual_seed(5)
    for layer in model:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    nn.calibrate(model, events(), rate=0.2)
    return model


def events() -> SpikeTensor:
    torch.manual_seed(6)
    return workloads.spikes(T, B, 2, 12, 12, rate=0.3)


def test_listeners_are_told_the_same():
    """Currents computed again are no work of the network; the events are the same ones."""
    told = []
    for membrane in ("store", "recompute"):
        model, listener = network(membrane), Events()
        with recording.listen(listener):
            model(events()).square().sum().backward()
        names = {module: name for name, module in model.named_modules()}
        told.append([(type(e).__name__, names[e.owner], e) for e in listener.events])
    assert [event[:2] for event in told[0]] == [event[:2] for event in told[1]]
    for (_, _, stored), (_, _, again) in zip(*told, strict=True):
        for field in ("inputs", "spikes", "grad_currents", "mask"):
            a, b = getattr(stored, field, None), getattr(again, field, None)
            assert a is b is None or torch.equal(a, b)
        assert getattr(stored, "membrane", None) == getattr(again, "membrane", None)


def test_recorded_work_is_the_same():
    recorded = []
    for membrane in ("store", "recompute"):
        model = network(membrane)
        with record(model) as recorder:
            model(events()).square().sum().backward()
        recorded.append(recorder.workload.steps[0])
    for stored, again in zip(*recorded, strict=True):
        assert (stored.name, stored.neurons, stored.membrane) == (
            again.name, again.neurons, again.membrane,
        )  # fmt: skip
        for field in ("inputs", "mask", "nonzero"):
            a, b = getattr(stored, field), getattr(again, field)
            assert a is b is None or (a == b).all()


# What surrounds it.


def step(model: torch.nn.Module, run=None) -> list[Tensor]:
    model.zero_grad()
    scores = (run or model)(events())
    scores.square().sum().backward()
    return [scores.detach(), *[p.grad.clone() for p in model.parameters()]]


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint(reentrant):
    model = network("recompute")
    expected = step(network("store"))

    def run(x: Tensor) -> Tensor:
        hidden = checkpoint(model[:5], x.clone().requires_grad_(), use_reentrant=reentrant)
        return model[5:](hidden)

    assert_same(step(model, run), expected)


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile(fresh_compiler, backend):
    expected = step(network("store"))
    found = step(torch.compile(network("recompute"), backend=backend, fullgraph=True))
    for value, reference in zip(found, expected, strict=True):
        assert gold.relative_error(value, reference) < 1e-5


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])  # noqa: S301
def test_copies(copied):
    model = network("recompute")
    step(model)
    other = copied(model)
    assert other[1].membrane_mode == "recompute"
    assert_same(step(other), step(model))


def test_state_dicts_do_not_tell_the_two_apart():
    stored, again = network("store"), network("recompute")
    assert list(stored.state_dict()) == list(again.state_dict())
    again.load_state_dict(stored.state_dict())


def test_saved_tensors_may_be_moved():
    """Packing hooks, as those that offload to disk or to the host, see what is computed from."""
    expected = step(network("store"))
    model = network("recompute")
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        scores = model(events().to_dense())
    scores.square().sum().backward()
    for parameter, value in zip(model.parameters(), expected[1:], strict=True):
        assert gold.relative_error(parameter.grad, value) < 1e-5


@pytest.mark.parametrize("value", ["keep", "", None, True, 1])
def test_an_unknown_policy_is_named(value):
    for neurons in (nn.LIF, nn.IF, nn.PLIF):
        with pytest.raises(ValueError, match="membrane must be 'store' or 'recompute', got"):
            neurons(membrane=value)


def test_printing_shows_the_policy():
    assert "membrane=recompute" in repr(nn.LIF(membrane="recompute"))
    assert "membrane" not in repr(nn.LIF())


# The comparison with other libraries.


@pytest.mark.parametrize("surrogate", ["rect", "triangle", "atan"])
@pytest.mark.parametrize("detach_reset", [True, False])
def test_the_comparison_measures_both(surrogate, detach_reset):
    workload = problems.Workload("w", "6C3-AP2-8C3-10", 1, (2, 12, 12), 4, 3, "events", 0.2)
    problem = problems.make_problem(workload)
    kept = {}
    for membrane in ("store", "recompute"):
        options = contestants.NeuronOptions(detach_reset, membrane)
        expected_loss, expected = contestants.reference(problem, surrogate, options)
        parameters = [torch.nn.Parameter(w) for w in problem.weights]
        contestant = contestants.h2learn(problem, parameters, surrogate, options)
        assert abs(contestant.step(problem.inputs, problem.labels) - expected_loss) <= 1e-6
        assert measure.relative_error([p.grad for p in parameters], expected) <= 1e-6
        loss = contestant.loss(problem.inputs, problem.labels)
        kept[membrane] = measure.saved_bytes(loss, parameters)
    if surrogate == "rect" and detach_reset:
        assert kept["recompute"] == kept["store"]
    else:
        assert kept["recompute"] < kept["store"] / 5


def test_the_comparisons_command_takes_the_options(tmp_path, monkeypatch):
    workload = problems.Workload("w", "24-10", 0, (70,), 5, 6, "spikes", 0.3)
    monkeypatch.setitem(problems.WORKLOADS, "a", workload)
    saved = {}
    for membrane in ("store", "recompute"):
        file = tmp_path / f"{membrane}.json"
        status = peers.main(
            ["--workloads", "a", "--threads", "1", "--rounds", "1", "--peers", "h2learn,pytorch",
             "--reset", "kept", "--membrane", membrane, "--json", str(file)]
        )  # fmt: skip
        report = json.loads(file.read_text())
        assert status == 0
        assert (report["reset"], report["membrane"]) == ("kept", membrane)
        saved[membrane] = report["rows"][0]["h2learn_saved_mb"]
    assert 0 < saved["recompute"] < saved["store"]
