"""What bench/kernels.py times: layers, their operands, and every way to compute a kernel's result.

A `Case` is a layer's shape; `KERNELS` make, for one case and some firing rates, the ways (`Way`) of
computing one result: h2learn at each rate, and its rivals. All are handed the same numbers, each in
the layout and type that it likes best and before the clock runs: rivals are not charged for making
a dense, bfloat16 or CSR operand, h2learn not for packing spikes (they arrive packed from the layer
before; whatever a kernel packs or rearranges inside itself does count).

Errors are max |Y - Y64| / max |Y64| against float64, on a part of the output: computing all of a
large convolution in float64 takes longer than the measurement.
"""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import plain
import torch
import torch.nn.functional as F
from h2learn import _core, ops
from kernel_tables import LEAST_FITTED_RATE, SILENT_WAY
from problems import DECAY, THRESHOLD, WORKLOADS, Conv, Pool, Workload
from torch import Tensor

GRADIENT_DENSITY = 0.4
"""Part of the gradients that is not zero where the rate says something else, and part of the
inputs that lie in the surrogate's window: both as a rectangular surrogate leaves them."""
FEW_IMAGES = 64
FEW_INPUTS = 16
FEW_OUTPUTS = 8
FEW_NEURONS = 4096
MOST_CSR_RATE = 0.1
POOL = 2

NEURON = plain.Neuron(DECAY, THRESHOLD, surrogate="rect", width=0.5, detach_reset=True)


@dataclass(frozen=True)
class Case:
    """A synapse layer and the images of one step (T * B).

    Attributes:
        name: as it is asked for.
        shape: `ops.geometry`.
        images: rows; a multiple of `steps`.
        steps: T, for the neurons behind the layer.
        inputs: ``spikes``; ``counts``, averages of 2 x 2 spikes; or ``analog``.
    """

    name: str
    shape: ops.Geometry
    images: int
    steps: int = 8
    inputs: str = "spikes"

    @property
    def is_convolution(self) -> bool:
        """False for a linear layer, one position and one tap."""
        return self.shape[1:3] != (1, 1) or self.shape[4:6] != (1, 1)

    @property
    def flops(self) -> float:
        """Operations of the dense (or grouped) product; borders count as inside.

        A multiply-add is two.
        """
        return 2.0 * self.images * math.prod(ops.out_size(self.shape)) * self.weights

    @property
    def macs(self) -> float:
        """Multiply-adds of the dense (or grouped) product, without those of padding."""
        return float(self.images * multiply_adds(self.shape))

    @property
    def weights(self) -> int:
        """Elements of the weight."""
        return math.prod(self.weight_shape)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """[N, C / groups, kh, kw]."""
        return self.shape[3], self.shape[0] // self.groups, self.shape[4], self.shape[5]

    @property
    def options(self) -> dict[str, Any]:
        """Stride, padding, dilation (two each) and groups, as torch's operators name them."""
        stride, padding, dilation = (self.shape[i : i + 2] for i in (6, 8, 10))
        return {"stride": stride, "padding": padding, "dilation": dilation, "groups": self.groups}

    @property
    def groups(self) -> int:
        """1: every output sees every channel."""
        return self.shape[12]


@dataclass(frozen=True)
class NeuronCase:
    """A layer of neurons, [T, B, F].

    Attributes:
        from_memory: its tensors are too large for a cache, so memory's bandwidth is the ceiling.
    """

    name: str
    steps: int
    batch: int
    features: int
    from_memory: bool = False


def multiply_adds(shape: Sequence[int]) -> int:
    """Of one image: pairs of an output and an input that it reads, padding left out."""
    channels, height, width, outputs, kh, kw, sh, sw, ph, pw, dh, dw, groups = shape
    out_height, out_width = ops.out_size(shape)
    rows = _taps_inside(out_height, height, kh, sh, ph, dh)
    columns = _taps_inside(out_width, width, kw, sw, pw, dw)
    return rows * columns * outputs * channels // groups


def _taps_inside(outputs: int, size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    return sum(
        0 <= out * stride - pad + tap * dilation < size
        for out in range(outputs)
        for tap in range(kernel)
    )


@dataclass
class Way:
    """One way of computing a kernel's result.

    Attributes:
        name: ``h2learn-auto``, ``torch-float32`` ...
        run: computes everything.
        error: of what `run` returned.
        read_bytes: that it must read at least once.
        written_bytes: likewise.
        rate: of the operand it was given; None when its time does not depend on it.
        detail: the memory format, where several are tried; the best counts.
        nonzero: part of the operand that events skip by; None of neurons.
        needed: part of the results that is asked for.
    """

    name: str
    run: Callable[[], Any]
    error: Callable[[Any], float]
    read_bytes: float
    written_bytes: float
    rate: float | None = None
    detail: str = ""
    nonzero: float | None = None
    needed: float = 1.0


def _sizes() -> Iterator[Case]:
    for rows, depth, columns in (
        (1024, 784, 512),
        (4096, 1152, 128),
        (8192, 2304, 256),
        (512, 4608, 1024),
    ):
        yield Case(f"{rows}x{depth}x{columns}", ops.geometry(depth, (1, 1), columns), rows)


def layers_of(workload: Workload) -> Iterator[Case]:
    """The synapses of a workload of peers.py: ``c:conv2`` ... An analog image is computed once.

    Raises:
        ValueError: a linear layer right behind pooling, whose inputs are flattened averages.
    """
    size = workload.input_shape
    inputs = "analog" if workload.input_kind == "analog" else "spikes"
    convolutions = linears = 0
    for layer in workload.layers:
        images = workload.batch * (1 if inputs == "analog" else workload.steps)
        if isinstance(layer, Pool):
            size = (size[0], size[1] // layer.size, size[2] // layer.size)
            inputs = "counts"
            continue
        if isinstance(layer, Conv):
            convolutions += 1
            name = f"conv{convolutions}"
            taps, padding = (layer.kernel,) * 2, (layer.padding,) * 2
            shape = ops.geometry(size[0], (size[1], size[2]), layer.channels, taps, padding=padding)
            size = (layer.channels, *ops.out_size(shape))
        else:
            if inputs == "counts":
                raise ValueError(f"{workload.notation}: a linear layer right behind pooling")
            linears += 1
            name = f"linear{linears}"
            shape = ops.geometry(math.prod(size), (1, 1), layer.features)
            size = (layer.features,)
        steps = 1 if inputs == "analog" else workload.steps
        yield Case(f"{workload.name}:{name}", shape, images, steps, inputs)
        inputs = "spikes"


def _variants() -> Iterator[Case]:
    """A convolution and what differs from it in one thing; padded to keep the size."""

    def variant(
        name: str,
        channels: int = 64,
        outputs: int = 64,
        size: tuple[int, int] = (16, 16),
        taps: int = 3,
        dilation: int = 1,
        inputs: str = "spikes",
        **options: Any,
    ) -> Case:
        options.setdefault("padding", (dilation * (taps // 2),) * 2)
        shape = ops.geometry(
            channels, size, outputs, (taps, taps), dilation=(dilation, dilation), **options
        )
        return Case(f"conv:{name}", shape, 64, inputs=inputs)

    yield variant("base")
    yield variant("1x1", taps=1)
    yield variant("5x5", taps=5)
    yield variant("7x7", taps=7)
    yield variant("unpadded", padding=(0, 0))
    yield variant("stride2", stride=(2, 2))
    yield variant("dilation2", dilation=2)
    yield variant("groups4", groups=4)
    yield variant("depthwise", groups=64)
    for channels in (1, 2, 3, 16):
        yield variant(f"{channels}to64", channels=channels)
    yield variant("64to10", outputs=10)
    yield variant("odd", channels=61, outputs=67, size=(15, 17))
    yield variant("analog", channels=3, inputs="analog")
    yield variant("counts", inputs="counts")


SIZES: dict[str, Case] = {case.name: case for case in _sizes()}
LAYERS: dict[str, Case] = {case.name: case for case in layers_of(WORKLOADS["c"])}
BASE = "conv:base"
VARIANTS: dict[str, Case] = {case.name: case for case in _variants()}
SYNAPSES: dict[str, Case] = {**SIZES, **LAYERS, **VARIANTS}
NEURONS: dict[str, NeuronCase] = {
    case.name: case
    for case in (
        NeuronCase("8x1x4096", 8, 1, 4096),
        NeuronCase("8x128x512", 8, 128, 512),
        NeuronCase("8x8x262144", 8, 8, 262144, from_memory=True),
    )
}


# ---- operands


@dataclass(frozen=True)
class Inputs:
    """A layer's inputs at one rate.

    Attributes:
        rows: words [planes, images, W], or float32 [images, P * C] of an analog layer.
        scale: value of one count.
    """

    case: Case
    rows: Tensor
    scale: float

    @functools.cached_property
    def density(self) -> float:
        """Part of the dense inputs that is not zero."""
        return (self.dense() != 0).float().mean().item()

    @property
    def nbytes(self) -> int:
        """Bytes, as h2learn reads them."""
        return self.rows.numel() * self.rows.element_size()

    def dense(self) -> Tensor:
        """Float32 [images, C, H, W], channels-last in memory."""
        channels, height, width = self.case.shape[:3]
        rows = self.rows
        if rows.dtype == torch.int64:
            rows = ops.unpack(rows, channels * height * width, self.scale)
        return rows.view(-1, height, width, channels).permute(0, 3, 1, 2)


def make_inputs(case: Case, rate: float, seed: int = 0) -> Inputs:
    """Random inputs; where they are counts, `rate` is that of the spikes that are averaged."""
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = case.shape[:3]
    if case.inputs == "analog":
        values = torch.rand(case.images, height * width * channels, generator=generator)
        return Inputs(case, values, 1.0)
    if case.inputs == "counts":
        large = (channels, height * POOL, width * POOL)
        words = ops.pack(bernoulli((case.images, math.prod(large)), rate, generator))
        counts = ops.count_pool(words, [*large, POOL, POOL, POOL, POOL])
        return Inputs(case, counts, 1.0 / POOL**2)
    bits = bernoulli((case.images, height * width * channels), rate, generator)
    return Inputs(case, ops.pack(bits)[None], 1.0)


def make_weight(case: Case, seed: int = 1) -> Tensor:
    """Float32 [N, C / groups, kh, kw]; at 15 % spikes the currents have about unit variance."""
    generator = torch.Generator().manual_seed(seed)
    fan_in = case.weights / case.shape[3]
    return torch.randn(case.weight_shape, generator=generator) / math.sqrt(0.15 * fan_in)


def make_gradients(case: Case, density: float, seed: int = 2) -> Tensor:
    """Gradients at the currents, float32 [images, P_out, N], a part of them not zero."""
    generator = torch.Generator().manual_seed(seed)
    shape = (case.images, math.prod(ops.out_size(case.shape)), case.shape[3])
    return torch.randn(shape, generator=generator) * bernoulli(shape, density, generator)


def bernoulli(shape: tuple[int, ...], rate: float, generator: torch.Generator) -> Tensor:
    """Float32 ones, each with probability `rate`, among zeros."""
    return (torch.rand(shape, generator=generator) < rate).float()


def as_images(case: Case, gradients: Tensor) -> Tensor:
    """Rows [images, P_out, N] as [images, N, H, W], channels-last in memory."""
    return gradients.view(-1, *ops.out_size(case.shape), case.shape[3]).permute(0, 3, 1, 2)


# ---- synapses


@dataclass(frozen=True)
class Rival:
    """A dense type and memory format that PyTorch computes in."""

    name: str
    dtype: torch.dtype
    detail: str
    layout: torch.memory_format

    def __call__(self, tensor: Tensor) -> Tensor:
        """The tensor in this type and format."""
        return tensor.to(self.dtype).contiguous(memory_format=self.layout)


def rivals_of(case: Case, bf16: bool) -> list[Rival]:
    """Float32 in both memory formats of images; bfloat16 channels-last, its faster one."""
    if not case.is_convolution:
        rows = torch.contiguous_format
        float32 = [Rival("torch-float32", torch.float32, "", rows)]
        return float32 + ([Rival("torch-bf16", torch.bfloat16, "", rows)] if bf16 else [])
    float32 = [
        Rival("torch-float32", torch.float32, "channels-last", torch.channels_last),
        Rival("torch-float32", torch.float32, "channels-first", torch.contiguous_format),
    ]
    narrow = Rival("torch-bf16", torch.bfloat16, "channels-last", torch.channels_last)
    return float32 + ([narrow] if bf16 else [])


def h2learn_kernels(
    case: Case, rates: list[float], named: str = ""
) -> Iterator[tuple[str, float, bool]]:
    """Kernel, rate, and whether the time depends on it.

    `dense` runs at the middle rate alone, and so does the kernel `named`, which is asked for by
    name and multiplies zeros, too.
    """
    if case.inputs == "analog":
        yield "auto", 1.0, False
        yield "dense", 1.0, False
        return
    for rate in rates:
        yield "auto", rate, True
        yield "fastest", rate, True
        yield "event", rate, True
    yield "dense", middle(case, rates), False
    if named:
        yield named, middle(case, rates), False


def middle(case: Case, rates: list[float]) -> float:
    """The rate at which dense rivals are given their operands."""
    return 1.0 if case.inputs == "analog" else rates[len(rates) // 2]


def forward(case: Case, rates: list[float], bf16: bool) -> Iterator[Way]:
    """Currents from spikes.

    `torch-csr` is given the spikes of a linear layer as a CSR matrix and its weight transposed;
    `torch-csr-made` makes both of what a layer has, dense spikes and its weight. Beside few
    spikes `SILENT_WAY` is `event` with none.
    """
    weight = make_weight(case)
    shape = list(case.shape)
    few = few_images(case)
    outputs = case.images * math.prod(ops.out_size(case.shape)) * case.shape[3]
    inputs_at = functools.cache(functools.partial(make_inputs, case))

    @functools.cache
    def expected(rate: float) -> Tensor:
        images = inputs_at(rate).dense()[:few].double().contiguous()
        return F.conv2d(images, weight.double(), **case.options)

    def error(rate: float, found: Tensor) -> float:
        # Ours is [images, P, N], a linear rival's [images, N], a convolution's an image.
        found = as_images(case, found[:few]) if found.dim() == 3 else found[:few]
        return largest_error(found.reshape(expected(rate).shape), expected(rate))

    def way(name: str, run: Callable[[], Tensor], rate: float, read: float, itemsize: int) -> Way:
        check = functools.partial(error, rate)
        return Way(name, run, check, read, itemsize * outputs)

    for kernel, rate, depends in h2learn_kernels(case, rates, "digits"):
        inputs = inputs_at(rate)
        if case.inputs == "analog":
            run = functools.partial(ops.forward_dense, inputs.rows, weight, None, shape, kernel)
        else:
            run = functools.partial(
                ops.forward_packed, inputs.rows, inputs.scale, weight, None, shape, kernel
            )
        ours = way(f"h2learn-{kernel}", run, rate, inputs.nbytes + 4 * case.weights, 4)
        ours.rate = rate if depends else None
        ours.nonzero = inputs.density
        yield ours
    if case.inputs == "spikes" and not case.is_convolution and min(rates) < LEAST_FITTED_RATE:
        nothing = torch.zeros_like(inputs_at(min(rates)).rows)
        silent = functools.partial(ops.forward_packed, nothing, 1.0, weight, None, shape, "event")
        read = nothing.nbytes + 4 * case.weights
        yield Way(SILENT_WAY, silent, lambda found: found.abs().max().item(), read, 4 * outputs)
    at = middle(case, rates)
    for rival in rivals_of(case, bf16):
        x, w = rival(inputs_at(at).dense()), rival(weight)
        if case.is_convolution:
            run = functools.partial(F.conv2d, x, w, **case.options)
        else:
            run = functools.partial(F.linear, x.flatten(1), w.flatten(1))
        theirs = way(rival.name, run, at, x.nbytes + w.nbytes, rival.dtype.itemsize)
        theirs.detail = rival.detail
        yield theirs
    if case.is_convolution or case.inputs == "analog":
        return
    right = weight.flatten(1).t().contiguous()
    for rate in rates:
        if rate > MOST_CSR_RATE:
            continue
        dense = inputs_at(rate).dense().flatten(1)
        matrix = to_csr(dense)
        ready = functools.partial(torch.mm, matrix, right)
        made = functools.partial(_mm_of_csr_made, dense, weight.flatten(1))
        for name, run, read in (
            ("torch-csr", ready, 12 * matrix.values().numel() + 8 * case.images + right.nbytes),
            ("torch-csr-made", made, dense.nbytes + right.nbytes),
        ):
            sparse = way(name, run, rate, read, 4)
            sparse.rate = rate
            yield sparse


def backward(case: Case, rates: list[float], bf16: bool) -> Iterator[Way]:
    """Gradient at the inputs where the mask needs it; the rate is that of non-zero gradients.

    PyTorch multiplies its result with the mask, a byte an element, in place. Where the inputs are
    averages of spikes there is no mask.
    """
    weight = make_weight(case)
    shape = list(case.shape)
    few = few_images(case)
    channels, height, width = case.shape[:3]
    gradients_at = functools.cache(functools.partial(make_gradients, case))
    window = mask = None
    needed = 1.0
    if case.inputs == "spikes":
        generator = torch.Generator().manual_seed(3)
        rows = bernoulli((case.images, height * width * channels), GRADIENT_DENSITY, generator)
        mask = ops.pack(rows)
        needed = rows.mean().item()
        window = rows.view(-1, height, width, channels).permute(0, 3, 1, 2)
    results = case.images * channels * height * width

    @functools.cache
    def expected(rate: float) -> Tensor:
        images = as_images(case, gradients_at(rate)[:few]).double().contiguous()
        x = torch.empty((few, channels, height, width), dtype=torch.double)
        result = _convolution_backward(case.options, images, x, weight.double(), 0)
        return result if window is None else result * window[:few]

    def error(rate: float, found: Tensor) -> float:
        found = found[:few]
        if found.dim() == 2:
            found = found.view(-1, height, width, channels).permute(0, 3, 1, 2)
        return largest_error(found, expected(rate))

    for kernel, rate, depends in h2learn_kernels(
        case, rates, "sampled" if case.inputs == "spikes" else ""
    ):
        gradients = gradients_at(rate)
        run = functools.partial(ops.backward, gradients, weight, mask, shape, kernel)
        read = gradients.nbytes + 4 * case.weights + (0 if mask is None else mask.nbytes)
        check = functools.partial(error, rate)
        way = Way(f"h2learn-{kernel}", run, check, read, 4 * results)
        way.rate = rate if depends else None
        way.nonzero = (gradients.count_nonzero() / gradients.numel()).item()
        way.needed = needed
        yield way
    at = middle(case, rates)
    for rival in rivals_of(case, bf16):
        w, g = rival(weight), rival(as_images(case, gradients_at(at)))
        m = None if window is None else window.bool().contiguous(memory_format=rival.layout)
        if case.is_convolution:
            x = rival(torch.empty(case.images, channels, height, width))
            run = functools.partial(_convolution_backward, case.options, g, x, w, 0, m)
        else:
            m = None if m is None else m.flatten(1)
            run = functools.partial(_masked_mm, g.flatten(1), w.flatten(1), m)
        read = g.nbytes + w.nbytes + (0 if m is None else m.nbytes)
        check = functools.partial(error, at)
        written = rival.dtype.itemsize * results
        yield Way(rival.name, run, check, read, written, detail=rival.detail)


def weight_update(case: Case, rates: list[float], bf16: bool) -> Iterator[Way]:
    """Weight gradient from spikes; a part of the gradients is zero, as in training."""
    shape = list(case.shape)
    gradients = make_gradients(case, GRADIENT_DENSITY)
    few_in, few_out = case.shape[0], case.shape[3]
    if case.groups == 1:  # a part of several groups would be no convolution
        few_in, few_out = min(few_in, FEW_INPUTS), min(few_out, FEW_OUTPUTS)
    inputs_at = functools.cache(functools.partial(make_inputs, case))

    @functools.cache
    def expected(rate: float) -> Tensor:
        x = inputs_at(rate).dense()[:, :few_in].double().contiguous()
        g = as_images(case, gradients)[:, :few_out].double().contiguous()
        part = (few_out, few_in // case.groups, *case.weight_shape[2:])
        return _convolution_backward(case.options, g, x, torch.empty(part, dtype=torch.double), 1)

    def error(rate: float, found: Tensor) -> float:
        found = found.view(case.weight_shape)[:few_out, :few_in]
        return largest_error(found, expected(rate))

    for kernel, rate, depends in h2learn_kernels(case, rates):
        inputs = inputs_at(rate)
        if case.inputs == "analog":
            run = functools.partial(ops.weight_update_dense, inputs.rows, gradients, shape, kernel)
        else:
            run = functools.partial(
                ops.weight_update_packed, inputs.rows, inputs.scale, gradients, shape, kernel
            )
        check = functools.partial(error, rate)
        read = inputs.nbytes + gradients.nbytes
        way = Way(f"h2learn-{kernel}", run, check, read, 4 * case.weights)
        way.rate = rate if depends else None
        way.nonzero = inputs.density
        yield way
    at = middle(case, rates)
    for rival in rivals_of(case, bf16):
        x, g = rival(inputs_at(at).dense()), rival(as_images(case, gradients))
        if case.is_convolution:
            w = rival(torch.empty(case.weight_shape))
            run = functools.partial(_convolution_backward, case.options, g, x, w, 1)
        else:
            run = functools.partial(torch.mm, g.flatten(1).t(), x.flatten(1))
        check = functools.partial(error, at)
        written = rival.dtype.itemsize * case.weights
        yield Way(rival.name, run, check, x.nbytes + g.nbytes, written, detail=rival.detail)


def few_images(case: Case) -> int:
    """So many are compared with float64."""
    return 1 if case.is_convolution else FEW_IMAGES


def largest_error(found: Tensor, expected: Tensor) -> float:
    """Max |found - expected| / max |expected|."""
    return ((found.double() - expected).abs().max() / expected.abs().max()).item()


def to_csr(dense: Tensor) -> Tensor:
    """CSR with 32-bit indices, the faster ones."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        csr = dense.to_sparse_csr()
        return torch.sparse_csr_tensor(
            csr.crow_indices().int(),
            csr.col_indices().int(),
            csr.values(),
            csr.shape,
            check_invariants=False,
        )


def _mm_of_csr_made(dense: Tensor, weight: Tensor) -> Tensor:
    return torch.mm(to_csr(dense), weight.t().contiguous())


def _convolution_backward(
    options: dict[str, Any],
    gradients: Tensor,
    inputs: Tensor,
    weight: Tensor,
    wanted: int,
    window: Tensor | None = None,
) -> Tensor:
    """Gradient of the inputs (`wanted` 0), masked, or of the weight (1) of a convolution."""
    result: Tensor = torch.ops.aten.convolution_backward(
        gradients, inputs, weight, bias_sizes=None, **options, transposed=False,
        output_padding=(0, 0), output_mask=(wanted == 0, wanted == 1, False),
    )[wanted]  # fmt: skip
    return result if window is None else result.mul_(window)


def _masked_mm(gradients: Tensor, weight: Tensor, window: Tensor | None) -> Tensor:
    result = torch.mm(gradients, weight)
    return result if window is None else result.mul_(window)


# ---- neurons


def soma_forward(currents: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes and mask as words [T, B, W] from currents [T, B, F], by h2learn's kernel."""
    words, mask, _, _ = ops.soma_forward(currents, None, *_CONSTANTS, *_SOMA, *_KEEP)
    return words, mask


def soma_backward(gradients: Tensor, words: Tensor, mask: Tensor) -> Tensor:
    """Gradient at the currents, by h2learn's kernel."""
    result: Tensor = ops.soma_backward(
        gradients, None, words, mask, None, None, None, *_CONSTANTS, *_SOMA, False, False, False
    )[0]
    return result


_CONSTANTS = (torch.tensor(NEURON.decay), torch.tensor(NEURON.threshold))
_SOMA = (False, "hard", NEURON.detach_reset, False, NEURON.surrogate, NEURON.width, 1.0)
_KEEP = (True, False, False)  # the mask; neither all membranes nor the last ones


def neuron(case: NeuronCase, rates: list[float], bf16: bool) -> Iterator[Way]:
    """Neurons forward and backward over T; about one in seven fires, whatever the rates.

    `torch-float32` is a loop that autograd differentiates, `torch-float32-written` has its backward
    pass written by hand. `h2learn-in-place` are the kernels alone, without the operators around
    them and the tensors that those allocate. The currents lie on a grid on which float32 is exact,
    so that all have the same spikes. The error is that of the gradient; infinite when spikes
    differ.
    """
    del rates, bf16
    generator = torch.Generator().manual_seed(4)
    shape = (case.steps, case.batch, case.features)
    currents = torch.randint(-1024, 4096, shape, generator=generator) / 4096
    gradients = torch.randn(shape, generator=generator)

    def by_autograd(module: torch.nn.Module, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        spikes = module(x)
        spikes.backward(gradient)
        assert x.grad is not None
        return spikes.detach(), x.grad

    @functools.cache
    def expected() -> tuple[Tensor, Tensor]:
        part = slice(None), slice(None), slice(FEW_NEURONS)
        fused = plain.FusedLIF(NEURON)
        return by_autograd(fused, currents[part].double(), gradients[part].double())

    def error(found: tuple[Tensor, Tensor]) -> float:
        spikes, gradient = (tensor[..., :FEW_NEURONS] for tensor in found)
        if not torch.equal(spikes.double(), expected()[0]):
            return math.inf
        return largest_error(gradient, expected()[1])

    def ours() -> tuple[Tensor, Tensor]:
        words, mask = soma_forward(currents)
        return words, soma_backward(gradients, words, mask)

    def our_error(found: tuple[Tensor, Tensor]) -> float:
        words, gradient = found
        spikes = ops.unpack(words.flatten(0, 1)[None], case.features, 1.0).view(shape)
        return error((spikes, gradient))

    count = currents.numel()
    bits = count / 8  # of spikes, and as many of the mask
    words, mask = soma_forward(currents)
    result = torch.empty_like(gradients)
    options = ops.core_soma(NEURON.decay, NEURON.threshold, *_SOMA)

    def in_place() -> tuple[Tensor, Tensor]:
        _core.soma_forward(
            options, *shape, currents.numpy(), None, words.numpy(), mask.numpy(), None, None
        )
        _core.soma_backward(
            options, *shape, grad_spikes=gradients.numpy(), spikes=words.numpy(),
            mask=mask.numpy(), grad_currents=result.numpy(),
        )  # fmt: skip
        return words, result

    yield Way("h2learn-auto", ours, our_error, 8 * count + 2 * bits, 4 * count + 2 * bits)
    yield Way("h2learn-in-place", in_place, our_error, 8 * count + 2 * bits, 4 * count + 2 * bits)
    for name, module, kept in (
        ("torch-float32", plain.LoopLIF(NEURON), 8),
        ("torch-float32-written", plain.FusedLIF(NEURON), 1),
    ):
        run = functools.partial(by_autograd, module, currents, gradients)
        yield Way(name, run, error, (8 + 4 + kept) * count, (8 + kept) * count)


def conv_neuron(case: Case, rates: list[float], bf16: bool) -> Iterator[Way]:
    """A convolution and its neurons, spikes (h2learn: bits) and window out, forward alone.

    The error is the part of the first sample's spikes that differ from float64's: sums that are
    added in another order put a neuron on the other side of its threshold now and then.
    """
    weight = make_weight(case)
    shape = list(case.shape)
    inputs_at = functools.cache(functools.partial(make_inputs, case))
    samples = case.images // case.steps
    features = math.prod(ops.out_size(case.shape)) * case.shape[3]
    lif = plain.FusedLIF(NEURON)

    def fire(currents: Tensor) -> Tensor:
        with torch.no_grad():
            spikes: Tensor = lif(currents.unflatten(0, (case.steps, -1)))
            return spikes

    @functools.cache
    def expected(rate: float) -> Tensor:
        images = inputs_at(rate).dense()[::samples].double().contiguous()
        return fire(F.conv2d(images, weight.double(), **case.options))[:, 0]

    def error(rate: float, found: Tensor) -> float:
        return (found[:, 0].double() != expected(rate)).double().mean().item()

    def ours(inputs: Inputs, kernel: str) -> Tensor:
        words: Tensor = ops.fused_forward_packed(
            inputs.rows, inputs.scale, weight, None, shape, kernel, None, None, case.steps, samples,
            None, *_CONSTANTS, *_SOMA, *_KEEP,
        )[0]  # fmt: skip
        return words

    def our_error(rate: float, words: Tensor) -> float:
        rows = ops.unpack(words[None, :, 0].contiguous(), features, 1.0)
        spikes = as_images(case, rows.view(case.steps, -1, case.shape[3]))
        return error(rate, spikes[:, None])

    at = middle(case, rates)
    for kernel, rate in [*itertools.product(("auto", "fastest"), rates), ("digits", at)]:
        inputs = inputs_at(rate)
        run = functools.partial(ours, inputs, kernel)
        check = functools.partial(our_error, rate)
        bits = case.images * features / 8
        way = Way(f"h2learn-{kernel}", run, check, inputs.nbytes + weight.nbytes, 2 * bits)
        way.rate = rate if kernel != "digits" else None
        way.nonzero = inputs.density
        yield way
    for rival in rivals_of(case, bf16):
        x, w = rival(inputs_at(at).dense()), rival(weight)

        def convolve_and_fire(x: Tensor = x, w: Tensor = w) -> Tensor:
            return fire(F.conv2d(x, w, **case.options))

        written = (rival.dtype.itemsize + 1) * case.images * features
        check = functools.partial(error, at)
        read = x.nbytes + w.nbytes
        yield Way(rival.name, convolve_and_fire, check, read, written, detail=rival.detail)


Maker = Callable[[Any, list[float], bool], Iterator[Way]]

SYNAPSE_KERNELS: dict[str, Maker] = {
    "forward": forward,
    "backward": backward,
    "weight_update": weight_update,
}
KERNELS: dict[str, Maker] = {**SYNAPSE_KERNELS, "conv_neuron": conv_neuron, "neuron": neuron}


def cases_of(kernel: str) -> dict[str, Case | NeuronCase]:
    """The cases that a kernel has."""
    if kernel == "neuron":
        return dict(NEURONS)
    layers = SYNAPSES
    if kernel == "conv_neuron":
        layers = {n: c for n, c in layers.items() if c.is_convolution and c.inputs != "analog"}
    if kernel == "backward":  # nobody asks for the gradient at an image
        layers = {n: c for n, c in layers.items() if c.inputs != "analog"}
    return dict(layers)
