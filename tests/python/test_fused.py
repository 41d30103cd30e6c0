"""Layers that run as one: the same bits as module after module, less memory, and only where nobody
sees the currents."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings

import gold
import pytest
import torch
import workloads
from h2learn import SpikeTensor, _core, autograd, count_operations, memory, nn, recording
from h2learn.numerics import Arithmetic, hardware
from h2learn.offloading import offload
from h2learn.recorder import record
from h2learn.surrogate import ATan, Rect, Sigmoid, Triangle
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

T, B = 5, 3


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", nn.ActivityWarning)
        yield


def images(kind: str, steps: int = T, samples: int = B) -> Tensor:
    """[T, B, 2, 7, 6] of each kind that synapses take."""
    shape = steps, samples, 2, 7, 6
    return {
        "spikes": lambda: workloads.spikes(*shape, rate=0.4),
        "counts": lambda: nn.AvgPool2d(2, 1)(workloads.spikes(steps, samples, 2, 8, 7, rate=0.4)),
        "part": lambda: workloads.spikes(steps, samples + 2, 2, 7, 6, rate=0.4)[:, 1:-1],
        "analog": lambda: torch.randn(shape),
        "direct": lambda: torch.randn(shape[1:]).expand(shape),
    }[kind]()


KINDS = ("spikes", "counts", "part", "analog", "direct")
LAYERS = {
    "linear": lambda kernel: [nn.Flatten(), nn.Linear(84, 13, kernel=kernel)],
    "linear without bias": lambda kernel: [
        nn.Flatten(), nn.Linear(84, 70, bias=False, kernel=kernel)
    ],
    "conv": lambda kernel: [nn.Conv2d(2, 4, 3, padding=1, kernel=kernel)],
    "conv with groups": lambda kernel: [nn.Conv2d(2, 6, (3, 2), 2, groups=2, kernel=kernel)],
}  # fmt: skip
KERNELS = ("auto", "event", "dense", "lut", "digits", "sampled", "fastest")


def both(model: nn.Sequential) -> list[nn.Sequential]:
    """The model, which runs fused, and a copy that does not."""
    apart = copy.deepcopy(model)
    apart.fuse = False
    assert model.fused()
    assert not apart.fused()
    return [model, apart]


def results(model: nn.Sequential, inputs: Tensor, calls: int = 1) -> list[Tensor]:
    """Outputs, kept membranes, gradients at the inputs and at all parameters."""
    inputs = inputs.detach().requires_grad_()
    total, outputs = 0.0, []
    for _ in range(calls):
        output = model(inputs)
        weights = torch.linspace(-1, 2, output.numel()).view(output.shape)
        total = total + (output * weights).square().sum()
        outputs.append(output.detach())
    neurons = [module for module in model if isinstance(module, nn.LIF)][-1]
    if neurons.membrane is not None:
        total = total + neurons.membrane.square().sum()
        outputs.append(neurons.membrane.detach())
    total.backward()
    return [*outputs, inputs.grad, *[p.grad for p in model.parameters()]]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


# The same bits.


@settings(max_examples=250)
@given(
    layer=st.sampled_from(sorted(LAYERS)),
    kernel=st.sampled_from(KERNELS),
    kind=st.sampled_from(KINDS),
    sizes=st.tuples(st.integers(1, 5), st.integers(0, 4)),
    surrogate=st.sampled_from([Rect(0.4), Triangle(0.7), ATan(), Sigmoid()]),
    reset=st.sampled_from(["hard", "soft"]),
    membrane=st.sampled_from(["store", "recompute"]),
    flags=st.fixed_dictionaries(
        {
            name: st.booleans()
            for name in (
                "detach_reset", "inclusive", "decay_input", "learn_decay", "learn_threshold",
                "stateful",
            )
        }
    ),
    plif=st.booleans(),
    target=st.sampled_from(_core.available_targets()),
)  # fmt: skip
def test_the_same_bits(layer, kernel, kind, sizes, surrogate, reset, membrane, flags, plif, target):
    _core.set_target(target)
    torch.manual_seed(1)
    options = {"surrogate": surrogate, "reset": reset, "membrane": membrane, **flags}
    if plif:
        del options["learn_decay"]
    neurons = (nn.PLIF if plif else nn.LIF)(0.7, 0.3, **options)
    inputs = images(kind, *sizes)
    runs = [
        results(model, inputs, calls=2 if flags["stateful"] else 1)
        for model in both(nn.Sequential(*LAYERS[layer](kernel), neurons))
    ]
    assert_same(*runs)


@pytest.mark.parametrize("layer", sorted(LAYERS))
@pytest.mark.parametrize("kind", ["spikes", "counts", "analog"])
def test_the_same_bits_one_step_a_call(layer, kind):
    torch.manual_seed(1)
    neurons = nn.LIF(0.7, 0.3)
    neurons.step_mode = "s"
    runs = []
    for model in both(nn.Sequential(*LAYERS[layer]("auto"), neurons)):
        torch.manual_seed(2)
        steps = [images(kind)[t].detach().requires_grad_() for t in range(T)]
        spikes = [model(step) for step in steps]
        sum((s * torch.linspace(-1, 2, s.numel()).view(s.shape)).sum() for s in spikes).backward()
        runs.append(
            [s.detach() for s in spikes]
            + [s.grad for s in steps]
            + [p.grad for p in model.parameters()]
            + [model[-1].membrane.detach()]
        )
    assert_same(*runs)


@pytest.mark.parametrize("target", [t for t in _core.available_targets() if t != "scalar"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["spikes", "counts", "analog", "direct"])
def test_the_same_bits_in_several_parts(target, threads, kind):
    """Currents of 25 MB (of one timestep, where it repeats) and odd numbers of samples. The scalar
    target would take long: C++ tests cut small layers into parts on it."""
    _core.set_target(target)
    torch.set_num_threads(threads)
    samples = 61 if kind == "direct" else 31
    shape = (2, samples, 2, 40, 40)
    inputs = {
        "spikes": lambda: workloads.spikes(*shape, rate=0.3),
        "counts": lambda: nn.AvgPool2d(2, 1)(workloads.spikes(2, samples, 2, 41, 41, rate=0.3)),
        "analog": lambda: torch.randn(shape),
        "direct": lambda: torch.randn(shape[1:]).expand(shape),
    }[kind]()
    runs = [
        results(model, inputs)
        for model in both(nn.Sequential(nn.Conv2d(2, 63, 3, padding=1), nn.LIF(0.5, 0.4)))
    ]
    assert_same(*runs)


@pytest.mark.parametrize("name", sorted(workloads.LARGE))
def test_the_same_bits_in_layers_whose_work_is_cut(name):
    model, inputs, _ = workloads.LARGE[name]()
    assert_same(*[results(part[:2], inputs) for part in both(model)])


@pytest.mark.parametrize("build", [workloads.a, workloads.b, workloads.c])
def test_the_same_bits_in_whole_networks(build):
    sizes = {"width": 0.1, "steps": 4, "batch": 2}
    if build is not workloads.a:
        sizes["side"] = 16
    model, inputs, labels = build(**sizes)
    steps = []
    for part in both(model):
        loss = torch.nn.functional.cross_entropy(part(inputs), labels)
        loss.backward()
        steps.append([loss.detach(), *[p.grad for p in part.parameters()]])
    assert_same(*steps)


def test_frozen_parts():
    """Where only the neurons, or only what is before, learn."""
    for frozen in ("0", "1"):
        model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.LIF(learn_threshold=True))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(frozen))
        inputs, runs = images("direct"), []
        for part in both(model):
            part(inputs).square().sum().backward()
            runs.append([p.grad for p in part.parameters() if p.grad is not None])
        assert runs[0]
        assert_same(*runs)


# Normalisation in evaluation.


def normalised(**options) -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm(5, **options), nn.LIF(0.6, 0.4))
    model[1].running_mean.uniform_(-0.5, 0.5)
    model[1].running_var.uniform_(0.5, 2.0)
    for parameter in model[1].parameters():
        torch.nn.init.uniform_(parameter, 0.2, 1.5)
    return model


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", _core.available_targets())
def test_the_same_bits_normalised(kind, affine, target):
    _core.set_target(target)
    model, inputs = normalised(affine=affine).eval(), images(kind)
    with torch.no_grad():
        assert model.fused() == [("0", "1", "2")]
        fused, apart = (part(inputs) for part in both(model))
        assert 0 < apart.firing_rate() < 1
        assert torch.equal(fused, apart)
        linear = nn.Sequential(nn.Flatten(), nn.Linear(84, 5), *model[1:]).eval()
        if kind != "counts":
            assert_same(*[[part(inputs)] for part in both(linear)])
    assert torch.equal(model(inputs), fused), "with gradients it is not fused"


def test_a_normalisation_is_fused_only_where_it_scales():
    model = normalised()
    assert not model.fused(), "training"
    assert not model.eval().fused(), "gradients"
    with torch.no_grad():
        assert model.fused()
        assert not model.train().fused()
        untracked = nn.Sequential(
            model[0], nn.BatchNorm(5, track_running_stats=False), model[2]
        ).eval()
        assert not untracked.fused()
        wide = nn.Sequential(model[0], nn.BatchNorm(4), model[2]).eval()
        assert not wide.fused()
        with pytest.raises(ValueError, match="4 channels"):
            wide(images("spikes"))
        assert not nn.Sequential(model[0], model[1].double(), model[2]).eval().fused()


# Pooling behind the neurons.

BEFORE = {
    "conv": lambda: [nn.Conv2d(2, 5, 3, padding=1)],
    "nothing": lambda: [],
    "normalised": lambda: [nn.Conv2d(2, 66, 3, padding=1), nn.BatchNorm(66)],
}


@settings(max_examples=150)
@given(
    before=st.sampled_from(sorted(BEFORE)),
    kind=st.sampled_from(KINDS),
    samples=st.integers(0, 4),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.none() | st.tuples(st.integers(1, 3), st.integers(1, 5)),
    surrogate=st.sampled_from([Rect(0.4), Triangle(0.7), ATan()]),
    membrane=st.sampled_from(["store", "recompute"]),
    flags=st.fixed_dictionaries(
        {name: st.booleans() for name in ("detach_reset", "learn_decay", "decay_input", "stateful")}
    ),
    training=st.booleans(),
    target=st.sampled_from(_core.available_targets()),
)
def test_the_same_bits_pooled(
    before, kind, samples, window, stride, surrogate, membrane, flags, training, target
):
    _core.set_target(target)
    torch.manual_seed(1)
    neurons = nn.LIF(0.7, 0.3, surrogate=surrogate, membrane=membrane, **flags)
    model = nn.Sequential(*BEFORE[before](), neurons, nn.AvgPool2d(window, stride))
    inputs = images(kind, T, samples or 1 if before == "normalised" else samples)
    runs = [results(part.train(training), inputs, calls=2) for part in both(model)]
    assert_same(*runs)


def test_the_same_bits_pooled_one_step_a_call():
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.LIF(0.7, 0.3), nn.AvgPool2d(2))
    nn.set_step_mode(model, "s")
    inputs = images("spikes")
    runs = []
    for part in both(model):
        nn.reset(part)
        outputs = [part(inputs[t]) for t in range(T)]
        sum(output.square().sum() for output in outputs).backward()
        runs.append([*[o.detach() for o in outputs], *[p.grad for p in part.parameters()]])
    assert_same(*runs)


def test_what_pooling_runs_together_with():
    layers = nn.Conv2d(2, 5, 3), nn.BatchNorm(5), nn.LIF(), nn.AvgPool2d(2)
    assert nn.Sequential(layers[0], *layers[2:]).fused() == [("0", "1", "2")]
    normalised = nn.Sequential(*layers)
    assert normalised.fused() == [("2", "3")]
    with torch.no_grad():
        assert normalised.eval().fused() == [("0", "1", "2", "3")]
    for hook in HOOKS:
        pair = copy.deepcopy((layers[0], *layers[2:]))
        assert watched(nn.Sequential(*copy.deepcopy(pair)), hook, 2).fused() == [("0", "1")]
        assert watched(nn.Sequential(*copy.deepcopy(pair)), hook, 0).fused() == [("1", "2")]
        assert not watched(nn.Sequential(*copy.deepcopy(pair)), hook, 1).fused()
    assert nn.Sequential(nn.Conv2d(2, 5, 3), nn.LIF(), nn.MaxPool2d(2)).fused() == [("0", "1")]
    assert not nn.Sequential(nn.LIF(), nn.MaxPool2d(2)).fused()


def test_windows_that_do_not_fit_are_refused_alike():
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.LIF(), nn.AvgPool2d((6, 2)))
    fused, apart = (message(lambda part=part: part(images("spikes"))) for part in both(model))
    assert fused == apart
    assert "kernel_size (6, 2) must fit" in fused


def test_pooled_neurons_that_cannot_learn_are_told_of():
    for part in both(nn.Sequential(nn.Conv2d(2, 5, 3), nn.LIF(threshold=1e6), nn.AvgPool2d(2))):
        with pytest.warns(nn.ActivityWarning, match=r"shape \[5, 5, 4\] is dead"):
            part(images("spikes"))


def test_gradients_behind_pooling_are_not_stored_in_full():
    torch.set_num_threads(1)
    model = nn.Sequential(nn.LIF(detach_reset=True), nn.AvgPool2d(4))
    currents = torch.randn(4, 32, 32, 32, 64).movedim(-1, 2).requires_grad_()
    peaks = []
    for part in both(model):
        part(currents)  # checks activity
        output = part(currents)
        peaks.append(highest(lambda output=output: output.backward(torch.ones(output.shape))))
    in_full = currents.numel() * 4
    assert peaks[1] >= 2 * in_full
    assert peaks[0] < 1.3 * in_full


# Less memory.


def highest(run) -> int:
    """Bytes in use at once at the highest point of a run."""
    gc.collect()
    memory.release()
    before = memory.statistics()["in_use_bytes"]
    run()
    return memory.statistics()["highest_bytes"] - before


def test_currents_are_not_stored():
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Conv2d(2, 64, 3, padding=1), nn.LIF(detach_reset=True))
    inputs = workloads.spikes(4, 32, 2, 32, 32, rate=0.3)
    currents = 4 * 32 * 64 * 32 * 32 * 4
    fused, apart = (highest(lambda part=part: part(inputs)) for part in both(model))
    assert apart >= currents
    assert fused < currents / 2


# When modules run as one, and when they do not.


class Own(nn.LIF):
    def forward(self, currents: Tensor) -> SpikeTensor:
        assert currents.isfinite().all()
        return super().forward(currents)


class Loud(nn.Linear):
    def __call__(self, inputs: Tensor) -> Tensor:
        return 2 * super().__call__(inputs)


class Derived(nn.LIF):
    """Adds nothing to what runs."""


def watched(model: nn.Sequential, hook: str, index: int) -> nn.Sequential:
    getattr(model[index], hook)(lambda *_: None)
    return model


def patched(model: nn.Sequential) -> nn.Sequential:
    plain = model[0].forward
    model[0].forward = lambda inputs: 2 * plain(inputs)
    return model


def pair() -> nn.Sequential:
    return nn.Sequential(nn.Linear(84, 13), nn.LIF())


HOOKS = [
    "register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook",
    "register_full_backward_pre_hook",
]  # fmt: skip
APART = {
    **{
        f"{hook} on {index}": lambda hook=hook, index=index: watched(pair(), hook, index)
        for hook in HOOKS
        for index in (0, 1)
    },
    "a forward of its own": lambda: nn.Sequential(nn.Linear(84, 13), Own()),
    "a call of its own": lambda: nn.Sequential(Loud(84, 13), nn.LIF()),
    "a forward put in its place": lambda: patched(pair()),
    "pruned": lambda: nn.Sequential(
        prune.l1_unstructured(nn.Linear(84, 13), "weight", amount=0.5), nn.LIF()
    ),
    "told so": lambda: nn.Sequential(nn.Linear(84, 13), nn.LIF(), fuse=False),
    "torch's layer": lambda: nn.Sequential(torch.nn.Linear(84, 13), nn.LIF()),
    "dropout between": lambda: nn.Sequential(nn.Linear(84, 13), nn.Dropout(0.5), nn.LIF()),
    "no neurons": lambda: nn.Sequential(nn.Linear(84, 13)),
    "nothing": lambda: nn.Sequential(),
}
TOGETHER = {
    "plain": pair,
    "a class of its own": lambda: nn.Sequential(nn.Linear(84, 13), Derived()),
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(84, 13)), nn.LIF()),
    "hooks elsewhere": lambda: watched(
        nn.Sequential(nn.Linear(84, 13), nn.LIF(), nn.Readout()), "register_forward_hook", 2
    ),
}


@pytest.mark.parametrize("name", APART)
def test_apart(name):
    model = APART[name]()
    assert not model.fused()
    model(images("analog").flatten(2))


@pytest.mark.parametrize("name", TOGETHER)
def test_together(name, monkeypatch):
    deferred = []
    monkeypatch.setattr(
        "h2learn.nn.synapses.synapse",
        lambda *args, **options: deferred.append(options) or autograd.synapse(*args, **options),
    )
    model = TOGETHER[name]()
    assert model.fused() == [("0", "1")]
    model(images("analog").flatten(2))
    assert deferred == [{"deferred": True, "scaling": None}]


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_see_what_they_would(hook):
    """In an unfused model of torch's own container, and here."""
    seen: list[list[Tensor]] = []
    inputs = images("analog").flatten(2)
    layers = [nn.Linear(84, 13), nn.LIF()]
    for container in (nn.Sequential, torch.nn.Sequential):
        model = container(*copy.deepcopy(layers))
        seen.append([])

        def look(_module, *values, seen=seen):
            for value in values:
                seen[-1] += [v.detach() for v in value if v is not None]

        for module in model:
            getattr(module, hook)(look)
        model(inputs.detach().requires_grad_()).square().sum().backward()
    assert seen[0]
    assert_same(*seen)


def test_global_hooks_and_hardware_numerics_keep_them_apart():
    model = pair()
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert not model.fused()
    finally:
        handle.remove()
    assert model.fused()
    with hardware(Arithmetic(precision="fp16")):
        assert not model.fused()
        inside = model(images("analog").flatten(2))
    assert inside.shape == (T, B, 13)


def test_neurons_that_take_other_steps_run_apart():
    """All timesteps into neurons that take one: [T, B, F] is then a batch of B x F neurons."""
    model = nn.Sequential(nn.Linear(84, 13), nn.LIF()).eval()
    model[1].step_mode = "s"
    inputs = images("analog").flatten(2)
    runs = []
    for part in both(model):
        runs.append([part(inputs), part[1].membrane])
    assert_same(*runs)


def test_slices_copies_and_printing_keep_the_switch():
    for fuse in (True, False):
        model = nn.Sequential(nn.Linear(84, 13), nn.LIF(), nn.Readout(), fuse=fuse)
        assert model.fuse is fuse
        for other in (model[:2], copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
            assert other.fuse is fuse
            assert bool(other.fused()) is fuse
        assert ("fuse=False" in repr(model)) is not fuse
    assert isinstance(model[0], nn.Linear)
    with pytest.raises(TypeError, match="fuse must be"):
        nn.Sequential(nn.Linear(2, 2), fuse=1)


def test_named_modules_are_named():
    from collections import OrderedDict

    model = nn.Sequential(OrderedDict(weights=nn.Linear(84, 13), neurons=nn.LIF()))
    assert model.fused() == [("weights", "neurons")]


# Errors are the same.


def message(run) -> str:
    with pytest.raises((ValueError, TypeError)) as caught:
        run()
    return str(caught.value)


def wrong_weight(model):
    with torch.no_grad():
        model[0].weight[1, 2] = float("nan")


def huge_weights(model):
    with torch.no_grad():
        model[0].weight.fill_(3e38)


def kept_membrane(model):
    model[1].stateful = True
    model[1].membrane = torch.zeros(7, 7)


@pytest.mark.parametrize(
    ("change", "inputs"),
    [
        (wrong_weight, torch.ones(T, B, 84)),
        (huge_weights, torch.ones(T, B, 84)),
        (kept_membrane, torch.ones(T, B, 84)),
        (lambda model: None, torch.ones(T, B, 85)),
        (lambda model: None, torch.ones(0, B, 84)),
        (lambda model: None, torch.ones(T, B, 84, dtype=torch.float64)),
        (lambda model: None, torch.full((T, B, 84), float("inf"))),
        (lambda model: model.double(), torch.ones(T, B, 84)),
    ],
)
def test_errors_are_the_same(change, inputs):
    model = pair()
    change(model)
    fused, apart = (message(lambda part=part: part(inputs)) for part in both(model))
    assert fused == apart


def test_deferred_currents_hold_no_numbers_and_no_memory():
    layer = nn.Linear(84, 13)
    currents = autograd.synapse(
        images("analog").flatten(2), layer.weight, layer.bias, 2, layer.geometry(torch.ones(1, 84)),
        deferred=True,
    )  # fmt: skip
    assert currents.shape == (T, B, 13)
    assert currents.untyped_storage().nbytes() == 4
    assert currents.isnan().all()


# What is told.


class Events:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[recording.Event] = []

    def record(self, event: recording.Event) -> None:
        self.events.append(event)


def network() -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.LIF(), nn.AvgPool2d(2),
        nn.Conv2d(6, 5, 3, bias=False), nn.LIF(surrogate=Triangle(), membrane="recompute"),
        nn.Flatten(), nn.Linear(45, 12), nn.PLIF(decay_input=True), nn.Linear(12, 4), nn.Readout(),
    )  # fmt: skip
    nn.calibrate(model, events(), rate=0.3)
    assert model.fused() == [("0", "1", "2"), ("3", "4"), ("6", "7")]
    run_once(model)  # the first training call pools apart
    model.zero_grad()
    return model


def events() -> SpikeTensor:
    torch.manual_seed(6)
    return workloads.spikes(T, B, 2, 12, 12, rate=0.3)


def run_once(model: torch.nn.Module) -> None:
    model(events()).square().sum().backward()


def test_listeners_are_told_the_same():
    told = []
    for model in both(network()):
        listener = Events()
        with recording.listen(listener):
            run_once(model)
        names = {module: name for name, module in model.named_modules()}
        told.append([(type(e).__name__, names[e.owner], e) for e in listener.events])
    assert [event[:2] for event in told[0]] == [event[:2] for event in told[1]]
    for (_, _, fused), (_, _, apart) in zip(*told, strict=True):
        for field in ("inputs", "spikes", "grad_currents", "mask"):
            a, b = getattr(fused, field, None), getattr(apart, field, None)
            assert a is b is None or torch.equal(a, b)
        assert getattr(fused, "membrane", None) == getattr(apart, "membrane", None)
        a, b = ([k.elements for k in getattr(e, "kept", ())] for e in (fused, apart))
        assert a == b


def test_workload_files_are_the_same(tmp_path):
    files = []
    for model in both(network()):
        with record(model) as recorder:
            run_once(model)
            with torch.no_grad():
                model.eval()(events())
        file = tmp_path / f"{model.fuse}.h2w"
        recorder.workload.save(file)
        files.append(file.read_bytes())
    assert files[0] == files[1]


def test_counters_and_simulations_are_the_same():
    counted, simulated = [], []
    for model in both(network()):
        with count_operations(model) as counter:
            run_once(model)
        counted.append(counter.layers)
        with offload("h2learn", model=model) as accelerator:
            run_once(model)
        simulated.append(accelerator.report())
    assert counted[0] == counted[1]
    assert str(simulated[0]) == str(simulated[1])


# What surrounds it.


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint(reentrant):
    runs = []
    for model in both(network()):
        hidden = checkpoint(model[:5], events().clone().requires_grad_(), use_reentrant=reentrant)
        scores = model[5:](hidden)
        scores.square().sum().backward()
        runs.append([scores.detach(), *[p.grad for p in model.parameters()]])
    assert_same(*runs)


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile(fresh_compiler, backend):
    model = network()
    run_once(model)
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    run_once(torch.compile(model, backend=backend, fullgraph=True))
    for parameter, reference in zip(model.parameters(), expected, strict=True):
        assert gold.relative_error(parameter.grad, reference) < 1e-5


def test_without_gradients():
    model = network()
    expected = model(events()).detach()
    with torch.no_grad():
        assert torch.equal(model(events()), expected)
    with torch.inference_mode():
        assert torch.equal(model(events()), expected)


def test_bfloat16_weights_are_widened():
    model = nn.Sequential(nn.Linear(84, 13).bfloat16(), nn.LIF())
    inputs = images("analog").flatten(2)
    assert_same(*[results(part, inputs) for part in both(model)])


def test_a_layer_used_twice():
    layer, neurons = nn.Linear(13, 13), nn.LIF()
    model = nn.Sequential(layer, neurons, layer, neurons)
    assert model.fused() == [("0", "1"), ("2", "3")]
    inputs = torch.randn(T, B, 13)
    assert_same(*[results(part, inputs) for part in both(model)])
