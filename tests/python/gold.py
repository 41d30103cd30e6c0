"""The gold model: what h2learn computes, written as plainly as possible in PyTorch.

Neuron equations are those of soma.hpp, layers are torch.nn.functional's, gradients are autograd's
through one custom function for the spike. Everything keeps the dtype it is given:

* in float64 it is the reference for gradients;
* in float32 `neuron` also rounds as soma.hpp promises (each product and each sum, never fused),
  so it predicts the library's spikes bit for bit.

A float32 membrane can land on the other side of the threshold than its float64 twin, and the two
networks then differ in kind. Gradients are therefore compared *given the same spikes*: `Given`
holds what the float32 run decided, and `neuron` takes those decisions instead of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Bump:
    """A surrogate derivative: a bump of unit area over v = u - threshold, times `scale`."""

    shape: str = "rect"
    width: float = 0.5
    scale: float = 1.0

    def __call__(self, v: Tensor) -> Tensor:
        x = v / self.width
        if self.shape == "rect":
            height = (v.abs() < self.width).to(v.dtype) / 2
        elif self.shape == "triangle":
            height = (1 - x.abs()).clamp(min=0)
        elif self.shape == "atan":
            height = 1 / (math.pi * (1 + x * x))
        elif self.shape == "sigmoid":
            height = torch.sigmoid(x) * torch.sigmoid(-x)
        else:
            raise ValueError(f"unknown bump {self.shape!r}")
        return self.scale * height / self.width

    @property
    def is_compact(self) -> bool:
        return self.shape in ("rect", "triangle")


@dataclass(frozen=True)
class Neuron:
    """Options of soma.hpp; `decay` and `threshold` may be tensors that require gradients."""

    decay: float | Tensor = 0.25
    threshold: float | Tensor = 0.25
    inclusive: bool = False
    soft: bool = False
    detach_reset: bool = False
    decay_input: bool = False
    bump: Bump = field(default_factory=Bump)


class Given(NamedTuple):
    """Decisions of another run of the same neurons, [T, B, ...] each."""

    spikes: Tensor
    """Zeros and ones that the layer emitted."""
    window: Tensor | None = None
    """True where |v| < width: the only other decision that a rounding can turn (rect's)."""


class Trace(NamedTuple):
    """What `neuron` returns."""

    spikes: Tensor
    """s_t, [T, B, ...]."""
    membrane: Tensor
    """u_t, before the reset, [T, B, ...]."""
    last: Tensor
    """h_T, after the last reset, [B, ...]."""


class _Fire(torch.autograd.Function):
    """Emits `spikes`, whatever v is, and differentiates as if their slope over v were `slope`."""

    @staticmethod
    def forward(ctx, v: Tensor, spikes: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return spikes.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return grad * slope, None, None


def neuron(
    currents: Tensor,
    options: Neuron | None = None,
    *,
    initial: Tensor | None = None,
    given: Given | None = None,
    relaxed: Callable[[Tensor], Tensor] | None = None,
) -> Trace:
    """Runs the neurons over currents[T, B, ...].

    `initial` is h_0. `relaxed`, a smooth function of v, replaces the spike: the dynamics are then
    differentiable in the ordinary sense, which is how this model is itself checked.
    """
    options = options or Neuron()
    decay = torch.as_tensor(options.decay, dtype=currents.dtype)
    threshold = torch.as_tensor(options.threshold, dtype=currents.dtype)
    gain = 1 - decay if options.decay_input else torch.ones_like(decay)
    h = torch.zeros_like(currents[0]) if initial is None else initial
    spikes, membranes = [], []
    for t, x in enumerate(currents):
        u = decay * h + gain * x
        v = u - threshold
        if relaxed is not None:
            s = relaxed(v)
        elif given is not None:
            slope = options.bump(v.detach())
            if given.window is not None and options.bump.shape == "rect":
                height = options.bump(torch.zeros_like(v))
                slope = torch.where(given.window[t], height, torch.zeros_like(height))
            s = _Fire.apply(v, given.spikes[t].to(v.dtype), slope)
        else:
            fires = u >= threshold if options.inclusive else u > threshold
            s = _Fire.apply(v, fires.to(v.dtype), options.bump(v.detach()))
        r = s.detach() if options.detach_reset else s
        h = u - threshold * r if options.soft else u * (1 - r)
        spikes.append(s)
        membranes.append(u)
    return Trace(torch.stack(spikes), torch.stack(membranes), h)


def decisions(currents: Tensor, options: Neuron, initial: Tensor | None = None) -> Given:
    """The spikes and windows that float32 neurons decide on for `currents`."""
    single = replace(options, decay=_single(options.decay), threshold=_single(options.threshold))
    start = None if initial is None else initial.detach().float()
    with torch.no_grad():
        trace = neuron(currents.detach().float(), single, initial=start)
        v = trace.membrane - torch.as_tensor(single.threshold, dtype=torch.float32)
        window = v.abs() < torch.tensor(options.bump.width, dtype=torch.float32)
    return Given(trace.spikes, window)


def _single(value: float | Tensor) -> Tensor:
    return torch.as_tensor(value).detach().to(torch.float32)


# Layers over [T, B, ...]: images are rows for everything but the neurons and the readout.


def over_rows(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Applies a function of [rows, ...] to x[T, B, ...]."""
    y = function(x.flatten(0, 1))
    return y.unflatten(0, x.shape[:2])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight, bias)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, **shape) -> Tensor:
    return over_rows(lambda rows: F.conv2d(rows, weight, bias, **shape), x)


def average_pool(x: Tensor, kernel, stride=None) -> Tensor:
    return over_rows(lambda rows: F.avg_pool2d(rows, kernel, stride), x)


def max_pool(x: Tensor, kernel, stride=None) -> Tensor:
    return over_rows(lambda rows: F.max_pool2d(rows, kernel, stride), x)


def flatten(x: Tensor) -> Tensor:
    return x.flatten(2)


def batch_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    mean: Tensor | None = None,
    variance: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalises each channel of x[T, B, C, ...] over T, B and space, with the batch's own
    statistics unless `mean` and `variance` are given."""
    axes = [axis for axis in range(x.dim()) if axis != 2]
    shape = [-1 if axis == 2 else 1 for axis in range(x.dim())]
    if mean is None or variance is None:
        mean, variance = x.mean(axes), x.var(axes, unbiased=False)
    y = (x - mean.view(shape)) / (variance.view(shape) + eps).sqrt()
    if weight is not None:
        y = y * weight.view(shape)
    return y if bias is None else y + bias.view(shape)


def dropout(x: Tensor, keep: Tensor, p: float) -> Tensor:
    """`keep[B, ...]` of zeros and ones: one mask for every timestep."""
    return x * keep.to(x.dtype) / (1 - p)


def readout(x: Tensor, mode: str = "membrane", decay: float = 0.25) -> Tensor:
    """[T, B, N] -> [B, N]; a membrane here has no threshold and no reset."""
    if mode == "rate":
        return x.mean(0)
    u = torch.zeros_like(x[0])
    membranes = []
    for current in x:
        u = decay * u + current
        membranes.append(u)
    return u if mode == "last" else torch.stack(membranes).mean(0)


def relative_error(value: Tensor, reference: Tensor) -> float:
    """|value - reference| / |reference| in the Euclidean norm; 0 where both are zero."""
    value, reference = value.detach().double(), reference.detach().double()
    assert value.shape == reference.shape, f"{tuple(value.shape)} != {tuple(reference.shape)}"
    difference = (value - reference).norm().item()
    scale = reference.norm().item()
    return 0.0 if difference == 0 else difference / scale if scale > 0 else math.inf


# Whole networks.


def options_of(module: torch.nn.Module) -> Neuron:
    """A library neuron's options as numbers, rounded to float32 as the library holds them."""
    return Neuron(
        decay=module.effective_decay().item(),
        threshold=module.threshold.item(),
        inclusive=module.inclusive,
        soft=module.reset_mode == "soft",
        detach_reset=module.detach_reset,
        decay_input=module.decay_input,
        bump=Bump(
            module.surrogate.name, _single(module.surrogate.width).item(), module.surrogate.scale
        ),
    )


class Twin:
    """The float64 twin of an h2learn model: same parameters, and on request same decisions.

        with Twin(model) as twin:          # watches the float32 model
            scores = model(inputs)
        reference = twin(inputs)           # the same network by this file, spikes as watched

    `parameters` holds the float64 leaves that gradients accumulate in, by name.
    """

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype = torch.float64) -> None:
        self.model = model
        self.dtype = dtype
        self.parameters = {
            name: value.detach().to(dtype, copy=True).requires_grad_(value.requires_grad)
            for name, value in model.named_parameters()
        }
        self.names = {module: name for name, module in model.named_modules()}
        self.emitted: dict[str, Tensor] = {}
        self.contributions: dict[str, float] = {}
        self._watched: dict[str, list] = {}
        self._handles: list = []

    def __enter__(self) -> Twin:
        for module in self.names:
            if hasattr(module, "surrogate"):
                self._handles.append(module.register_forward_hook(self._watch_neurons))
            elif type(module).__name__ == "Dropout":
                self._handles.append(module.register_forward_pre_hook(self._watch_dropout))
        return self

    def __exit__(self, *_) -> None:
        for handle in self._handles:
            handle.remove()

    def _watch_neurons(self, module, args, spikes) -> None:
        name = self.names[module]
        given = decisions(args[0], options_of(module))
        self.emitted[name] = spikes.detach().to_dense()
        assert torch.equal(given.spikes, self.emitted[name]), f"{name}: spikes differ from float32"
        self._watched.setdefault(name, []).append(given)

    def _watch_dropout(self, module, args) -> None:
        """One mask over time shows in what becomes of ones, drawn from the same random state."""
        state = torch.get_rng_state()
        keep = module.forward(torch.ones(args[0].shape))[0] != 0
        torch.set_rng_state(state)
        self._watched.setdefault(self.names[module], []).append(keep)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Runs the twin. Gradients reach inputs that already have the twin's dtype."""
        calls = {name: iter(list(given)) for name, given in self._watched.items()}
        return self._run(self.model, inputs.to(self.dtype), calls)

    def in_float32(self) -> Twin:
        """Plain PyTorch in single precision with the same decisions: the yardstick of rounding."""
        single = Twin(self.model, torch.float32)
        single._watched = self._watched
        return single

    def _one_a_neuron(self, name: str, value: Tensor, x: Tensor) -> Tensor:
        """A learned scalar as a tensor over the neurons, to see what each adds to its gradient."""
        spread = value.expand(x.shape[1:]).clone()
        spread.register_hook(
            lambda grad: self.contributions.update(
                {name: self.contributions.get(name, 0.0) + grad.abs().sum().item()}
            )
        )
        return spread

    def error(self, name: str, gradient: Tensor) -> float:
        """Relative norm error of a parameter's gradient. A learned scalar's is a sum over neurons
        that may cancel to almost nothing: its error is relative to the sum of magnitudes."""
        reference = self.parameters[name].grad
        if name not in self.contributions:
            return relative_error(gradient, reference)
        difference = (gradient.double() - reference).abs().item()
        return difference / self.contributions[name] if difference else 0.0

    def _run(self, module: torch.nn.Module, x: Tensor, calls: dict) -> Tensor:
        name, kind = self.names[module], type(module).__name__
        own = {key: self.parameters.get(f"{name}.{key}") for key, _ in module.named_parameters()}
        if isinstance(module, torch.nn.Sequential):
            for child in module:
                x = self._run(child, x, calls)
            return x
        if kind == "Residual":
            return self._run(module.body, x, calls) + self._run(module.shortcut, x, calls)
        if hasattr(module, "surrogate"):
            own = {key: self._one_a_neuron(f"{name}.{key}", value, x) for key, value in own.items()}
            options = options_of(module)
            decay = own.get("decay", options.decay)
            decay = torch.sigmoid(own["decay_logit"]) if "decay_logit" in own else decay
            threshold = own.get("threshold", options.threshold)
            options = replace(options, decay=decay, threshold=threshold)
            return neuron(x, options, given=next(calls[name]) if name in calls else None).spikes
        if kind == "Linear":
            return linear(x, own["weight"], own.get("bias"))
        if kind == "Conv2d":
            shape = {
                key: getattr(module, key) for key in ("stride", "padding", "dilation", "groups")
            }
            return conv2d(x, own["weight"], own.get("bias"), **shape)
        if kind == "AvgPool2d":
            return average_pool(x, module.kernel_size, module.stride)
        if kind == "MaxPool2d":
            return max_pool(x, module.kernel_size, module.stride)
        if kind == "BatchNorm":
            statistics = {}
            if not module.training:
                statistics["mean"] = module.running_mean.to(x.dtype)
                statistics["variance"] = module.running_var.to(x.dtype)
            return batch_norm(x, own.get("weight"), own.get("bias"), eps=module.eps, **statistics)
        if kind == "Dropout":
            return dropout(x, next(calls[name]), module.p) if name in calls else x
        if kind == "Readout":
            return readout(x, module.mode, module.decay)
        if kind == "Flatten":
            return flatten(x)
        assert kind == "Identity", f"no gold model of {kind}"
        return x


class Errors(NamedTuple):
    """Relative norm errors against float64, by the name of a parameter, and "scores"."""

    library: dict[str, float]
    """Of the model itself."""
    plain: dict[str, float]
    """Of plain PyTorch in float32, given the same spikes: what rounding alone does here."""


def gradient_errors(
    model: torch.nn.Module, inputs: Tensor, loss: Callable[[Tensor], Tensor]
) -> Errors:
    """Errors of the scores and of every parameter's gradient, given the same spikes.

    Asserts on the way that the model's spikes are those of the float32 contract."""
    model.zero_grad()
    with Twin(model) as twin:
        scores = model(inputs)
    dense = inputs.detach() if type(inputs) is Tensor else inputs.to_dense()
    single = twin.in_float32()
    reference, plain = twin(dense), single(dense)
    for result in (scores, reference, plain):
        loss(result).backward()
    errors = Errors({}, {})
    for result, own in ((scores, errors.library), (plain, errors.plain)):
        own["scores"] = relative_error(result, reference)
    for name, value in model.named_parameters():
        errors.library[name] = twin.error(name, value.grad)
        errors.plain[name] = twin.error(name, single.parameters[name].grad)
    return errors
