"""Records workloads from training steps: a listener to what the modules really computed.

Packed operands (spikes, surrogate masks) are taken as they are, without a copy; gradients are
packed to one bit each, where they are not zero; analog inputs are quantised.
"""

from __future__ import annotations

import copy
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from h2learn import __version__, checks, ops, recording
from h2learn.analog import ANALOG_BITS, MOST_ANALOG_BITS, analog_planes
from h2learn.autograd import repeats_over_time
from h2learn.errors import InputError
from h2learn.nn import LIF, Sequential
from h2learn.shapes import Geometry, geometry, in_features, out_features
from h2learn.spikes import SpikeTensor, channels_last
from h2learn.synthetic import LayerShape, kind_of, synthetic_workload
from h2learn.workload import LayerWork, Step, Words, Workload, check_step, pack_bits

__all__ = ["Recorder", "record", "workload_from_model"]


@dataclass
class _Call:
    """One forward call of a layer, and what its backward pass said."""

    inputs: Words
    analog_bits: int
    mask: Words | None = None
    nonzero: Words | None = None
    input_gradient: bool = False
    weight_gradient: bool = False
    packed: weakref.ref[Tensor] | None = None  # whose bits `nonzero` has


@dataclass
class _Layer:
    """A layer of the step under way; in single-step mode it has one call a timestep."""

    name: str
    kind: str
    owner: nn.Module | None  # held, so that no other module gets its id meanwhile
    shape: Geometry
    steps_a_call: int
    samples: int
    calls: list[_Call] = field(default_factory=list)
    differentiable: bool = False  # its first forward call kept something for a backward pass
    neurons: bool = False
    membrane: bool = False


class _OpenStep:
    """The step under way."""

    def __init__(self) -> None:
        self.layers: dict[Any, _Layer] = {}
        self.calls: dict[int, _Call] = {}  # by the number that their events bear
        self.recomputed: set[int] = set()  # numbers of calls that checkpointing computed again
        self.latest: _Layer | None = None
        self.backward_began = False

    @property
    def is_inference(self) -> bool:
        """Whether nothing so far will be differentiated."""
        layers = self.layers.values()
        return not self.backward_began and not any(layer.differentiable for layer in layers)

    def starts_again(self, owner: nn.Module | None) -> bool:
        """Whether this module is the one that ran first."""
        return any(layer.owner is owner for layer in list(self.layers.values())[:1])

    def of(self, owner: nn.Module | None) -> list[_Layer]:
        """The layers that are this module's work, in run order."""
        return [layer for layer in self.layers.values() if layer.owner is owner]


class Recorder:
    """Context manager and listener: collects training steps as a `Workload`.

    A step is closed when a layer runs forward again after the step's backward pass has begun, when
    `step()` is called, and when the block ends; not when an error leaves the block. A forward pass
    that will not be differentiated (an evaluation) is a step of its own: it is closed when its
    first layer runs again, which in single-step mode is seen only once training goes on. Other
    forward passes without a backward pass between them are one step unless `step()` parts them.
    Only what runs in the thread that entered the block is recorded.

    Within a step, a module that takes one timestep a call ([B, ...]) is one layer, T its number of
    calls. A module that takes all timesteps ([T, B, ...]) and runs twice is two layers, `name` and
    `name#2`. A forward pass that activation checkpointing computes again is not work of the
    network: it is left out, and its gradients count for the first one. Of several backward passes
    through one forward pass, the last one counts.

    Args:
        model: names the layers, and leaves out all others; by default every h2learn layer is
            recorded, as "conv2d1", "linear2" and so on in run order.
        on_step: is given each step when it is closed; the recorder then keeps none.
        inference: keep steps without a backward pass, too.
        analog_bits: bits that the magnitude of analog inputs is quantised to
            (`h2learn.analog`). Dense inputs that are all 0 or 1 are spikes.

    Raises:
        InputError: (when a step is closed) its layers ran a different T or B.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        on_step: Callable[[Step], object] | None = None,
        inference: bool = True,
        analog_bits: int = ANALOG_BITS,
    ) -> None:
        if model is not None:
            checks.module("model", model)
        checks.integer("analog_bits", analog_bits, 1)
        if analog_bits > MOST_ANALOG_BITS:
            raise InputError(f"analog_bits must be 1 to {MOST_ANALOG_BITS}, got {analog_bits}")
        self._model = model  # keeps the ids of its modules valid
        self._names = {} if model is None else {id(m): n for n, m in model.named_modules()}
        self._on_step = on_step
        self._inference = inference
        self._thread = 0
        self._analog_bits = analog_bits
        self._steps: list[Step] = []
        self._closed = 0
        self._open = _OpenStep()
        self._listening: Any = None

    def __enter__(self) -> Recorder:
        if self._listening is not None:
            raise RuntimeError("this recorder is recording already; make another one")
        self._thread = threading.get_ident()
        self._listening = recording.listen(self)
        self._listening.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listening.__exit__(kind, error, trace)
        self._listening = None
        if kind is None:
            self.step()
        else:
            self._open = _OpenStep()

    @property
    def workload(self) -> Workload:
        """All steps that are closed.

        Raises:
            RuntimeError: they were handed to `on_step`.
        """
        if self._on_step is not None:
            raise RuntimeError("this recorder hands its steps to on_step and keeps none")
        info = {"source": "recorded", "h2learn": __version__, "torch": str(torch.__version__)}
        if self._model is not None:
            info["model"] = type(self._model).__name__
        return Workload(tuple(self._steps), info)

    def step(self) -> Step:
        """Closes the step under way and returns it; an empty tuple if nothing ran since the last.

        Raises:
            InputError: its layers ran a different T or B.
        """
        opened, self._open = self._open, _OpenStep()
        if not opened.layers or not (self._inference or opened.backward_began):
            return ()
        step = tuple(_layer_work(layer) for layer in opened.layers.values())
        check_step(f"recorded step {self._closed}", step)
        self._closed += 1
        if self._on_step is not None:
            self._on_step(step)
        else:
            self._steps.append(step)
        return step

    @property
    def backward_began(self) -> bool:
        """Whether the step under way has come to its backward pass."""
        return self._open.backward_began

    def record(self, event: recording.Event) -> None:
        """Takes one event; those of other threads and of modules outside the model are ignored."""
        if threading.get_ident() != self._thread:
            return
        if isinstance(event, recording.SynapseForward):
            self._forward(event)
        elif isinstance(event, recording.SomaForward):
            latest = self._open.latest
            if latest is not None and not _in_backward_pass() and self._is_mine(event.owner):
                latest.neurons = True
                latest.membrane = event.membrane
        elif isinstance(event, (recording.SynapseBackward, recording.WeightUpdate)):
            self._backward(event)

    def _is_mine(self, owner: nn.Module | None) -> bool:
        return self._model is None or id(owner) in self._names

    def _forward(self, event: recording.SynapseForward) -> None:
        if not self._is_mine(event.owner):
            return
        if _in_backward_pass():
            self._open.recomputed.add(event.call)
            return
        opened, differentiable = self._open, _is_differentiable(event)
        is_new = opened.backward_began and bool(opened.of(event.owner))
        if opened.is_inference and opened.starts_again(event.owner):
            is_new = differentiable or event.lead > 1
        if is_new:
            self.step()
        layer = self._layer(event)
        call = self._inputs(event)
        layer.calls.append(call)
        self._open.calls[event.call] = call
        self._open.latest = layer

    def _layer(self, event: recording.SynapseForward) -> _Layer:
        """The layer that a forward call belongs to, made if it is the first."""
        owner, lead = event.owner, event.inputs.shape[: event.lead]
        samples = math.prod(lead[1:]) if event.lead > 1 else lead[0]
        key: Any = event.call
        if event.lead == 1 and owner is not None:
            key = (id(owner), event.shape, samples)
        if key not in self._open.layers:
            kind = kind_of(event.shape) if owner is None else type(owner).__name__.lower()
            steps = lead[0] if event.lead > 1 else 1
            name = self._name(owner, kind)
            layer = _Layer(name, kind, owner, event.shape, steps, samples)
            layer.differentiable = _is_differentiable(event)
            self._open.layers[key] = layer
        return self._open.layers[key]

    def _name(self, owner: nn.Module | None, kind: str) -> str:
        earlier = [] if owner is None else self._open.of(owner)
        if earlier:
            return f"{earlier[0].name}#{len(earlier) + 1}"
        if self._model is not None:
            return self._names[id(owner)] or "model"
        first_uses = [layer for layer in self._open.layers.values() if "#" not in layer.name]
        return f"{kind}{len(first_uses) + 1}"

    def _inputs(self, event: recording.SynapseForward) -> _Call:
        inputs = event.inputs
        if isinstance(inputs, SpikeTensor):
            # The plain tensors inside: an operator on a SpikeTensor costs several of theirs.
            packed = _words(inputs.words)
            planes, *lead, length = packed.shape
            rows = math.prod(lead)
            mask = None if inputs.mask is None else _words(inputs.mask).reshape(rows, length)
            return _Call(packed.reshape(planes, rows, length), 0, mask)
        # An image shown at every timestep is quantised once.
        repeats = inputs.shape[0] if repeats_over_time(inputs, event.lead) else 1
        dense = inputs.detach()[:1] if repeats > 1 else inputs.detach()
        images = channels_last(dense, event.lead).numpy()
        words, _, _ = analog_planes(images, self._analog_bits)
        planes = words.view(np.uint64)
        bits = self._analog_bits if len(planes) > 1 else 0  # a single plane is one of spikes
        return _Call(np.tile(planes, (1, repeats, 1)) if repeats > 1 else planes, bits)

    def _backward(self, event: recording.SynapseBackward | recording.WeightUpdate) -> None:
        call = self._call(event)
        if call is None:
            return
        self._open.backward_began = True
        if isinstance(event, recording.SynapseBackward):
            call.input_gradient = True
            # Checkpointing detaches what it computes again, and so may have lost the mask that the
            # forward pass knew, or may have computed it only now.
            call.mask = call.mask if event.mask is None else _words(event.mask)
        else:
            call.weight_gradient = True
        gradient = event.grad_currents
        if call.packed is None or call.packed() is not gradient:  # it comes with both events
            call.nonzero = _words(ops.pack_nonzero(gradient.flatten(1)))
            call.packed = weakref.ref(gradient)

    def _call(self, event: recording.SynapseBackward | recording.WeightUpdate) -> _Call | None:
        """The forward call that this is the backward pass of; None for one not recorded."""
        opened = self._open
        if event.call is None:
            return None
        if event.call not in opened.calls and event.call in opened.recomputed:
            # Backward passes go back in time: it is the last call that had none yet.
            calls = [call for layer in opened.of(event.owner) for call in layer.calls]
            waiting = [call for call in calls if call.nonzero is None] or calls
            if waiting:
                opened.calls[event.call] = waiting[-1]
        return opened.calls.get(event.call)


def record(model: nn.Module | None = None, *, analog_bits: int = ANALOG_BITS) -> Recorder:
    """Records the training steps inside a `with` block; see `Recorder`.

    Example:
        >>> import torch
        >>> from h2learn import nn
        >>> from h2learn.recorder import record
        >>> model = nn.Sequential(nn.Linear(64, 32), nn.LIF(), nn.Linear(32, 10), nn.Readout())
        >>> with record(model) as recorder:
        ...     model(torch.rand(8, 2, 64)).sum().backward()
        >>> [layer.name for layer in recorder.workload.steps[0]]
        ['0', '2']
    """
    return Recorder(model, analog_bits=analog_bits)


def _is_differentiable(event: recording.SynapseForward) -> bool:
    return bool(event.kept) and recording.differentiable()


def _in_backward_pass() -> bool:
    """Whether autograd is going back in this thread: a forward pass then is a recomputation."""
    return torch._C._current_graph_task_id() != -1


def _words(words: Tensor) -> Words:
    """The tensor's own memory."""
    array: Words = words.detach().contiguous().numpy().view(np.uint64)
    return array


def _layer_work(layer: _Layer) -> LayerWork:
    calls = layer.calls
    backward = [call for call in calls if call.nonzero is not None]
    input_gradient = any(call.input_gradient for call in calls)
    planes = max(len(call.inputs) for call in calls)
    analog_bits = max(call.analog_bits for call in calls)
    if analog_bits:  # one call may have negative values, another none
        planes = analog_bits if planes <= analog_bits else 2 * analog_bits
    # Where no call says where the gradient is needed, and each has it, it is needed everywhere.
    masked = any(call.mask is not None or not call.input_gradient for call in calls)
    return LayerWork(
        name=layer.name,
        kind=layer.kind,
        geometry=layer.shape,
        timesteps=layer.steps_a_call * len(calls),
        samples=layer.samples,
        inputs=_joined([_padded(call.inputs, planes) for call in calls], axis=1),
        mask=_joined([_mask(layer, call) for call in calls]) if input_gradient and masked else None,
        nonzero=_joined([_nonzero(layer, call) for call in calls]) if backward else None,
        input_gradient=input_gradient,
        weight_gradient=any(call.weight_gradient for call in calls),
        neurons=layer.neurons,
        membrane=layer.membrane,
        analog_bits=analog_bits,
    )


def _joined(parts: list[Words], axis: int = 0) -> Words:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis)


def _padded(inputs: Words, planes: int) -> Words:
    missing = planes - len(inputs)
    return inputs if missing == 0 else np.pad(inputs, ((0, missing), (0, 0), (0, 0)))


def _mask(layer: _Layer, call: _Call) -> Words:
    """Where the gradient at this call's inputs was needed: nowhere without a backward pass."""
    if call.mask is not None and call.input_gradient:
        return call.mask
    return _filled(call.inputs.shape[1], in_features(layer.shape), call.input_gradient)


def _nonzero(layer: _Layer, call: _Call) -> Words:
    if call.nonzero is not None:
        return call.nonzero
    return _filled(call.inputs.shape[1], out_features(layer.shape), False)


def _filled(rows: int, features: int, bit: bool) -> Words:
    return np.tile(pack_bits(np.full((1, features), bit)), (rows, 1))


# ---- shapes of a model


def workload_from_model(
    model: nn.Module,
    sample_shape: Sequence[int],
    *,
    timesteps: int,
    samples: int,
    **options: Any,
) -> Workload:
    """A synthetic workload with the shapes of a model's layers, found by running one zero sample.

    Counts torch.nn.Linear, Conv1d and Conv2d, and h2learn's, each once, in the order in which they
    first run; a functional call in the model's code is not seen. A copy of the model runs, in
    evaluation mode: the model is left as it was.

    Args:
        model: any torch.nn.Module. With modules of `h2learn.nn` it gets [T, B, ...] or, in
            single-step mode, [B, ...]; without, [B, ...].
        sample_shape: shape of one sample at one timestep.
        timesteps: T of the workload.
        samples: B of the workload.
        options: densities, `analog_bits`, `membrane` and `seed`, as `Workload.synthetic` takes
            them. `membrane` is for neurons that are not h2learn's; theirs is known.

    Raises:
        InputError: the model cannot run on such a sample, has no layers, or one whose work cannot
            be described (a transposed or 3-D convolution, padding other than with zeros, a
            recurrent or attention layer).
    """
    checks.module("model", model)
    shape = tuple(checks.integer("sample_shape", size, 1) for size in sample_shape)
    shapes = _ModelShapes(model)
    shapes.run(shape)
    if not shapes.layers:
        raise InputError(f"model {type(model).__name__} has no Linear, Conv1d or Conv2d that runs")
    return synthetic_workload(shapes.layers, timesteps=timesteps, samples=samples, **options)


_UNKNOWN = (nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention, nn.Bilinear)
_KNOWN = (nn.Linear, nn.Conv1d, nn.Conv2d)
_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)


class _ModelShapes:
    """Shapes of a model's layers, in run order, from hooks on a copy of it."""

    def __init__(self, model: nn.Module) -> None:
        self.layers: list[LayerShape] = []
        self._model = copy.deepcopy(model).eval()
        self._seen: set[nn.Module] = set()
        self._most = 1  # the largest count that the next layer's inputs can be
        ours = [m for m in self._model.modules() if _is_ours(m)]
        self._spiking = bool(ours)
        steps = [m for m in ours if isinstance(m, LIF) and m.step_mode == "s"]
        self._lead = 2 if ours and not steps else 1
        for name, module in self._model.named_modules():
            module.register_forward_hook(self._hook(name or "model"))

    def run(self, sample_shape: tuple[int, ...]) -> None:
        parameter = next(self._model.parameters(), torch.zeros(()))
        lead = (1,) * self._lead
        zeros = torch.zeros(*lead, *sample_shape, dtype=parameter.dtype, device=parameter.device)
        try:
            with torch.no_grad():
                self._model(zeros)
        except InputError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"model {type(self._model).__name__} does not run on zeros of shape "
                f"{list(zeros.shape)}: {type(error).__name__}: {reason:.200}"
            ) from error

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(module, LIF) and self.layers:
                self._add_neurons(module)
            elif isinstance(module, _POOLS):
                self._most *= _window(module, inputs[0], output)
            elif isinstance(module, _KNOWN):
                if module not in self._seen:
                    self._add_layer(name, module, inputs[0])
                self._seen.add(module)
            elif isinstance(module, _UNKNOWN):
                raise InputError(
                    f"layer {name!r} is a {type(module).__name__}; a workload describes Linear, "
                    "Conv1d and Conv2d"
                )

        return hook

    def _add_neurons(self, neurons: LIF) -> None:
        bump = neurons.surrogate
        with torch.enable_grad():
            decay = neurons.effective_decay()
        options = ops.core_soma(
            decay.item(), neurons.threshold.item(), neurons.inclusive, neurons.reset_mode,
            neurons.detach_reset, neurons.decay_input, bump.name, bump.width, bump.scale,
        )  # fmt: skip
        membrane = options.needs_membrane or decay.requires_grad
        self.layers[-1] = replace(self.layers[-1], neurons=True, membrane=membrane)

    def _add_layer(self, name: str, module: nn.Module, inputs: Tensor) -> None:
        planes = inputs.planes if isinstance(inputs, SpikeTensor) else self._most.bit_length()
        self._most = 1
        # h2learn's neurons are seen when they run; others stand behind all layers but the last.
        neurons = False if self._spiking else None
        kind = type(module).__name__.lower()
        shape = _module_geometry(name, module, inputs)
        self.layers.append(LayerShape(shape, name, kind, planes=planes, neurons=neurons))


def _is_ours(module: nn.Module) -> bool:
    """Whether it, or what it is derived from, takes [T, B, ...]; a container takes anything."""
    classes = [kind.__module__ for kind in type(module).__mro__ if kind is not Sequential]
    return any(name.startswith("h2learn.nn.") for name in classes)


def _window(pool: nn.Module, inputs: Tensor, output: Tensor) -> int:
    """Inputs that are averaged into one output."""
    dimensions = 1 if isinstance(pool, (nn.AvgPool1d, nn.AdaptiveAvgPool1d)) else 2
    if isinstance(pool, (nn.AvgPool1d, nn.AvgPool2d)):
        size = pool.kernel_size
        return math.prod(size) if isinstance(size, tuple) else size**dimensions
    sizes = zip(inputs.shape[-dimensions:], output.shape[-dimensions:], strict=True)
    return math.prod(-(-before // after) for before, after in sizes)


def _module_geometry(name: str, module: nn.Module, inputs: Tensor) -> Geometry:
    if isinstance(module, nn.Linear):
        # One sample: the dimensions before the last are positions that share the weights.
        positions = math.prod(inputs.shape[:-1])
        return geometry(module.in_features, (1, positions), module.out_features)
    if not isinstance(module, (nn.Conv1d, nn.Conv2d)):
        raise AssertionError(f"{type(module).__name__} is none of {_KNOWN}")
    if module.padding_mode != "zeros":
        raise InputError(
            f"layer {name!r}: padding_mode must be 'zeros', got {module.padding_mode!r}"
        )
    count = len(module.kernel_size)
    padding = module.padding
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        if padding == "same" and any(n % 2 for n in reach):
            raise InputError(f"layer {name!r}: padding 'same' must be as wide on either side")
        padding = tuple(n // 2 if padding == "same" else 0 for n in reach)

    def pair(sizes: Sequence[int], usual: int) -> tuple[int, int]:
        return (usual, *sizes) if count == 1 else tuple(sizes)  # type: ignore[return-value]

    return geometry(
        module.in_channels, pair(inputs.shape[-count:], 1), module.out_channels,
        pair(module.kernel_size, 1), pair(module.stride, 1), pair(padding, 0),
        pair(module.dilation, 1), module.groups,
    )  # fmt: skip
