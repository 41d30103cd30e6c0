"""The libraries that the comparison runs, each built the way its own documentation does.

A contestant turns a problem (`problems.Problem`) into a function from inputs [T, B, ...] to
firing rates [B, classes]. All of them share one set of parameters, so that a gradient computed by
one can be laid beside another's. The neuron is the one whose reset gradient every library offers:
u <- 0.5 u + x, a spike above 1, hard reset, detached. `NeuronOptions` keep the reset's gradient.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import machine
import plain
import torch
from problems import (
    DECAY,
    SURROGATE_WIDTHS,
    THRESHOLD,
    Conv,
    Pool,
    Problem,
    Workload,
)
from torch import Tensor, nn


class UnavailableError(Exception):
    """This contestant cannot run here; the message says why."""


@dataclass
class Contestant:
    """One library, ready to run one problem.

    Attributes:
        name: as in the tables.
        rates: inputs [T, B, ...] to mean output rates [B, classes].
        parameters: the shared weights.
        reset: forgets the neurons' state; called before every step.
        comparable: False for arithmetic other than float32, whose loss is bound to differ.
    """

    name: str
    rates: Callable[[Tensor], Tensor]
    parameters: list[nn.Parameter]
    reset: Callable[[], object] = field(default=lambda: None)
    comparable: bool = True

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Forward pass: cross-entropy on the mean output rate."""
        return nn.functional.cross_entropy(self.rates(inputs).float(), labels)

    def step(self, inputs: Tensor, labels: Tensor) -> float:
        """One training step without the optimiser: clear, reset, forward, backward."""
        for parameter in self.parameters:
            parameter.grad = None
        self.reset()
        loss = self.loss(inputs, labels)
        loss.backward()
        return loss.item()


@dataclass(frozen=True)
class NeuronOptions:
    """How the neurons are trained, and what h2learn computes synapses with.

    Attributes:
        detach_reset: no gradient through the spike in the reset.
        membrane: of h2learn, which alone offers the choice: "store" or "recompute".
        kernel: of h2learn's synapses.
    """

    detach_reset: bool = True
    membrane: str = "store"
    kernel: str = "auto"


DETACHED = NeuronOptions()
Builder = Callable[[Problem, list[nn.Parameter], str, NeuronOptions], Contestant]


def _plain_layers(
    problem: Problem, parameters: list[nn.Parameter], neuron: Callable[[], nn.Module]
) -> nn.Sequential:
    """The network from torch.nn layers, T and B taken together, with the given neuron module."""
    return _assemble(
        problem,
        parameters,
        conv=lambda *size, **options: plain.OverTime(nn.Conv2d(*size, **options)),
        pool=lambda size: plain.OverTime(nn.AvgPool2d(size)),
        flatten=lambda: nn.Flatten(2),
        linear=nn.Linear,
        neuron=neuron,
        readout=plain.MeanOverTime,
    )


def _assemble(
    problem: Problem,
    parameters: list[nn.Parameter],
    *,
    conv: Callable[..., nn.Module],
    pool: Callable[[int], nn.Module],
    flatten: Callable[[], nn.Module],
    linear: Callable[..., nn.Module],
    neuron: Callable[[], nn.Module],
    readout: Callable[[], nn.Module] | None,
    container: type[nn.Sequential] = nn.Sequential,
) -> nn.Sequential:
    """Builds the problem's network from a library's own layers and gives it the shared weights."""
    modules: list[nn.Module] = []
    remaining = iter(parameters)
    is_image = len(problem.workload.input_shape) == 3
    for layer in problem.workload.layers:
        if isinstance(layer, Pool):
            modules.append(pool(layer.size))
            continue
        weight = next(remaining)
        if isinstance(layer, Conv):
            synapse = conv(
                weight.shape[1], layer.channels, layer.kernel, padding=layer.padding, bias=False
            )
        else:
            if is_image:
                modules.append(flatten())
                is_image = False
            synapse = linear(weight.shape[1], layer.features, bias=False)
        (synapse.layer if isinstance(synapse, plain.OverTime) else synapse).weight = weight
        modules += [synapse, neuron()]
    if readout is not None:
        modules.append(readout())
    return container(*modules)


def _neuron(surrogate: str, options: NeuronOptions) -> plain.Neuron:
    width = SURROGATE_WIDTHS[surrogate]
    return plain.Neuron(DECAY, THRESHOLD, surrogate, width, options.detach_reset)


def pytorch(
    problem: Problem,
    parameters: list[nn.Parameter],
    surrogate: str,
    options: NeuronOptions = DETACHED,
) -> Contestant:
    """Eager PyTorch with the neuron's backward pass written by hand."""
    model = _plain_layers(problem, parameters, lambda: plain.FusedLIF(_neuron(surrogate, options)))
    return Contestant("pytorch", model, parameters)


def pytorch_channels_last(
    problem: Problem,
    parameters: list[nn.Parameter],
    surrogate: str,
    options: NeuronOptions = DETACHED,
) -> Contestant:
    """The same with images stored channels-last."""
    model = _plain_layers(problem, parameters, lambda: plain.FusedLIF(_neuron(surrogate, options)))

    def rates(inputs: Tensor) -> Tensor:
        images = inputs.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        result: Tensor = model(images.unflatten(0, inputs.shape[:2]))
        return result

    return Contestant("pytorch-channels-last", rates, parameters)


def pytorch_compile(
    problem: Problem,
    parameters: list[nn.Parameter],
    surrogate: str,
    options: NeuronOptions = DETACHED,
) -> Contestant:
    """torch.compile of the network whose neuron autograd differentiates."""
    import torch._inductor.config as inductor

    # Generated code has its number of threads built in; a cached one must not be taken for another.
    inductor.cpp.threads = torch.get_num_threads()
    torch.compiler.reset()
    model = _plain_layers(problem, parameters, lambda: plain.LoopLIF(_neuron(surrogate, options)))
    return Contestant("pytorch-compile", torch.compile(model, dynamic=False), parameters)


def pytorch_bf16(
    problem: Problem,
    parameters: list[nn.Parameter],
    surrogate: str,
    options: NeuronOptions = DETACHED,
) -> Contestant:
    """Eager PyTorch under bfloat16 autocast: what giving up float32 buys. For information."""
    if not machine.has_bfloat16():
        raise UnavailableError("this processor has no bfloat16 instructions, and emulating is slow")
    model = _plain_layers(problem, parameters, lambda: plain.FusedLIF(_neuron(surrogate, options)))

    def rates(inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            result: Tensor = model(inputs)
        return result

    return Contestant("pytorch-bf16", rates, parameters, comparable=False)


def spikingjelly(
    problem: Problem,
    parameters: list[nn.Parameter],
    surrogate: str,
    options: NeuronOptions = DETACHED,
) -> Contestant:
    """SpikingJelly in multi-step mode. Spikes at u >= 1."""
    try:
        from spikingjelly.activation_based import functional, layer, neuron
    except ImportError as error:
        raise UnavailableError(f"not installed: {error}") from error
    model = _assemble(
        problem,
        parameters,
        conv=layer.Conv2d,
        pool=layer.AvgPool2d,
        flatten=layer.Flatten,
        linear=layer.Linear,
        neuron=lambda: neuron.LIFNode(
            tau=1.0 / (1.0 - DECAY),
            decay_input=False,
            v_threshold=THRESHOLD,
            v_reset=0.0,
            surrogate_function=_spikingjelly_surrogate(surrogate),
            detach_reset=options.detach_reset,
        ),
        readout=plain.MeanOverTime,
    )
    functional.set_step_mode(model, "m")
    return Contestant("spikingjelly", model, parameters, reset=lambda: functional.reset_net(model))


def _spikingjelly_surrogate(name: str) -> Any:
    """Its own surrogate where it has one; its fused neuron operator knows only those."""
    from spikingjelly.activation_based import surrogate

    if name == "atan":
        return surrogate.ATan(alpha=2.0)
    if name == "triangle":
        return surrogate.PiecewiseQuadratic(alpha=1.0)

    class RectFunction(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, width: float) -> Tensor:
            ctx.save_for_backward(x)
            ctx.width = width
            return surrogate.heaviside(x)  # type: ignore[no-any-return]

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
            (x,) = ctx.saved_tensors
            return grad_output * (x.abs() < ctx.width) / (2.0 * ctx.width), None

    class Rect(surrogate.SurrogateFunctionBase):  # type: ignore[misc]
        @staticmethod
        def spiking_function(x: Tensor, width: float) -> Tensor:
            spikes: Tensor = RectFunction.apply(x, width)  # type: ignore[no-untyped-call]
            return spikes

    return Rect(width=SURROGATE_WIDTHS["rect"])


def snntorch(
    problem: Problem,
    parameters: list[nn.Parameter],
    surrogate: str,
    options: NeuronOptions = DETACHED,
) -> Contestant:
    """A loop over t of snnTorch. Spikes at u > 1; its delayed reset to zero is the same neuron."""
    try:
        import snntorch as snn
    except ImportError as error:
        raise UnavailableError(f"not installed: {error}") from error
    if not options.detach_reset:
        raise UnavailableError("always detaches its reset")
    slope = _neuron(surrogate, options).slope
    if surrogate == "atan":
        spike_grad = snn.surrogate.atan(alpha=2.0)
    else:
        spike_grad = snn.surrogate.custom_surrogate(
            lambda v, grad, spikes: grad * slope(v + THRESHOLD)
        )
    model = _assemble(
        problem,
        parameters,
        conv=nn.Conv2d,
        pool=nn.AvgPool2d,
        flatten=nn.Flatten,
        linear=nn.Linear,
        neuron=lambda: snn.Leaky(
            beta=DECAY, threshold=THRESHOLD, spike_grad=spike_grad, reset_mechanism="zero"
        ),
        readout=None,
    )

    def rates(inputs: Tensor) -> Tensor:
        membranes = {m: m.reset_mem() for m in model if isinstance(m, snn.Leaky)}
        outputs = []
        for x in inputs:
            for module in model:
                if isinstance(module, snn.Leaky):
                    x, membranes[module] = module(x, membranes[module])
                else:
                    x = module(x)
            outputs.append(x)
        return torch.stack(outputs).mean(0)

    return Contestant("snntorch", rates, parameters)


def h2learn(
    problem: Problem,
    parameters: list[nn.Parameter],
    surrogate: str,
    options: NeuronOptions = DETACHED,
) -> Contestant:
    """This project. Packing the input's bits, where it is binary, is part of its step."""
    try:
        import h2learn as library
        from h2learn import nn as spiking
        from h2learn import surrogate as surrogates
    except ImportError as error:
        raise UnavailableError(f"not installed: {error}") from error
    bump = {"rect": surrogates.Rect, "triangle": surrogates.Triangle, "atan": surrogates.ATan}
    model = _assemble(
        problem,
        parameters,
        conv=functools.partial(spiking.Conv2d, kernel=options.kernel),
        pool=spiking.AvgPool2d,
        flatten=spiking.Flatten,
        linear=functools.partial(spiking.Linear, kernel=options.kernel),
        neuron=lambda: spiking.LIF(
            DECAY,
            THRESHOLD,
            surrogate=bump[surrogate](width=SURROGATE_WIDTHS[surrogate]),
            detach_reset=options.detach_reset,
            membrane=options.membrane,
        ),
        readout=lambda: spiking.Readout("rate"),
        container=spiking.Sequential,
    )
    binary = problem.workload.binary_input

    def rates(inputs: Tensor) -> Tensor:
        result: Tensor = model(library.SpikeTensor.from_dense(inputs) if binary else inputs)
        return result

    return Contestant("h2learn", rates, parameters)


CONTESTANTS: dict[str, Builder] = {
    "h2learn": h2learn,
    "pytorch": pytorch,
    "pytorch-channels-last": pytorch_channels_last,
    "pytorch-compile": pytorch_compile,
    "spikingjelly": spikingjelly,
    "snntorch": snntorch,
    "pytorch-bf16": pytorch_bf16,
}


def applies(name: str, workload: Workload) -> bool:
    """False when a contestant would only repeat another: memory formats are for images."""
    return name != "pytorch-channels-last" or len(workload.input_shape) == 3


def versions() -> dict[str, str]:
    """Versions of the libraries compared; those that are not installed are left out."""
    found = {}
    for package in ("torch", "h2learn", "spikingjelly", "snntorch"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def reference(
    problem: Problem, surrogate: str, options: NeuronOptions = DETACHED
) -> tuple[float, list[Tensor]]:
    """Loss and gradients of the network in plain PyTorch, in float64."""
    parameters = [nn.Parameter(w.double()) for w in problem.weights]
    contestant = pytorch(problem, parameters, surrogate, options)
    rates = contestant.rates(problem.inputs.double())
    loss = nn.functional.cross_entropy(rates, problem.labels)
    loss.backward()
    return loss.item(), [p.grad for p in parameters if p.grad is not None]
