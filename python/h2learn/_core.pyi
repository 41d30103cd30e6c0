"""
C++ core of h2learn. Private: use the h2learn package.
"""
from __future__ import annotations
import numpy
import numpy.typing
import typing
__all__: list[str] = ['Geometry', 'PoolGeometry', 'SomaOptions', 'active_target', 'available_targets', 'average_pool_backward', 'backward', 'bias_update', 'build_info', 'count_dense_operations', 'count_operations', 'count_pool', 'forward_dense', 'forward_packed', 'max_pool', 'max_pool_backward', 'max_threads', 'pack', 'popcount', 'popcount_rows', 'set_target', 'soma_backward', 'soma_forward', 'transpose_bits', 'transpose_features', 'unpack', 'weight_update_dense', 'weight_update_packed']
class SomaOptions:
    """
    Options of a neuron; checked when made, read-only.
    """
    def __init__(self, *, decay: typing.SupportsFloat | typing.SupportsIndex = 0.25, threshold: typing.SupportsFloat | typing.SupportsIndex = 0.25, inclusive: bool = False, reset: str = 'hard', detach_reset: bool = False, decay_input: bool = False, surrogate: str = 'rect', width: typing.SupportsFloat | typing.SupportsIndex = 0.5, scale: typing.SupportsFloat | typing.SupportsIndex = 1.0) -> None:
        ...
    @property
    def compact(self) -> bool:
        """
        Whether the surrogate is zero outside its width, so that it has a mask.
        """
    @property
    def decay(self) -> float:
        ...
    @property
    def decay_input(self) -> bool:
        ...
    @property
    def detach_reset(self) -> bool:
        ...
    @property
    def inclusive(self) -> bool:
        ...
    @property
    def needs_membrane(self) -> bool:
        """
        Whether the backward pass reads the membrane itself.
        """
    @property
    def reset(self) -> str:
        ...
    @property
    def scale(self) -> float:
        ...
    @property
    def surrogate(self) -> str:
        ...
    @property
    def threshold(self) -> float:
        ...
    @property
    def width(self) -> float:
        ...
class Geometry:
    """
    Shape of a synapse layer for one image; a linear layer has one position and one tap. Sizes in elements.
    """
    def __init__(self, *, in_channels: typing.SupportsInt | typing.SupportsIndex = 1, in_height: typing.SupportsInt | typing.SupportsIndex = 1, in_width: typing.SupportsInt | typing.SupportsIndex = 1, out_channels: typing.SupportsInt | typing.SupportsIndex = 1, kernel_height: typing.SupportsInt | typing.SupportsIndex = 1, kernel_width: typing.SupportsInt | typing.SupportsIndex = 1, stride_height: typing.SupportsInt | typing.SupportsIndex = 1, stride_width: typing.SupportsInt | typing.SupportsIndex = 1, padding_height: typing.SupportsInt | typing.SupportsIndex = 0, padding_width: typing.SupportsInt | typing.SupportsIndex = 0, dilation_height: typing.SupportsInt | typing.SupportsIndex = 1, dilation_width: typing.SupportsInt | typing.SupportsIndex = 1, groups: typing.SupportsInt | typing.SupportsIndex = 1) -> None:
        ...
    @property
    def dilation_height(self) -> int:
        ...
    @property
    def dilation_width(self) -> int:
        ...
    @property
    def fan_in(self) -> int:
        """
        Weights that reach one output.
        """
    @property
    def groups(self) -> int:
        ...
    @property
    def in_channels(self) -> int:
        ...
    @property
    def in_height(self) -> int:
        ...
    @property
    def in_width(self) -> int:
        ...
    @property
    def kernel_height(self) -> int:
        ...
    @property
    def kernel_width(self) -> int:
        ...
    @property
    def out_channels(self) -> int:
        ...
    @property
    def out_height(self) -> int:
        ...
    @property
    def out_width(self) -> int:
        ...
    @property
    def padding_height(self) -> int:
        ...
    @property
    def padding_width(self) -> int:
        ...
    @property
    def stride_height(self) -> int:
        ...
    @property
    def stride_width(self) -> int:
        ...
class PoolGeometry:
    """
    Windows of one image, without padding; checked when made.
    """
    def __init__(self, *, channels: typing.SupportsInt | typing.SupportsIndex = 1, in_height: typing.SupportsInt | typing.SupportsIndex, in_width: typing.SupportsInt | typing.SupportsIndex, kernel_height: typing.SupportsInt | typing.SupportsIndex = 2, kernel_width: typing.SupportsInt | typing.SupportsIndex = 2, stride_height: typing.SupportsInt | typing.SupportsIndex = 2, stride_width: typing.SupportsInt | typing.SupportsIndex = 2) -> None:
        ...
    @property
    def channels(self) -> int:
        ...
    @property
    def in_height(self) -> int:
        ...
    @property
    def in_width(self) -> int:
        ...
    @property
    def kernel_height(self) -> int:
        ...
    @property
    def kernel_width(self) -> int:
        ...
    @property
    def out_height(self) -> int:
        ...
    @property
    def out_width(self) -> int:
        ...
    @property
    def planes(self) -> int:
        """
        Bit planes of a count of the window's spikes.
        """
    @property
    def stride_height(self) -> int:
        ...
    @property
    def stride_width(self) -> int:
        ...
def active_target() -> str:
    """
    The target in use.
    """
def available_targets() -> list[str]:
    """
    Instruction-set targets this build has and this machine runs, slowest first.
    """
def average_pool_backward(geometry: PoolGeometry, grad_outputs: numpy.typing.NDArray[numpy.float32], grad_inputs: numpy.typing.NDArray[numpy.float32]) -> None:
    """
    float32[rows, out_features] to float32[rows, in_features], channels-last.
    """
def backward(geometry: Geometry, grad_currents: numpy.typing.NDArray[numpy.float32], weight: numpy.typing.NDArray[numpy.float32], mask: numpy.typing.NDArray[numpy.int64] | None, kernel: str, out: numpy.typing.NDArray[numpy.float32]) -> None:
    """
    out[images, positions, in_channels], +0 where mask int64[images, words] has no bit.
    """
def bias_update(grad_currents: numpy.typing.NDArray[numpy.float32], out: numpy.typing.NDArray[numpy.float32]) -> None:
    """
    out[out_channels]: grad_currents[positions, out_channels] summed over positions.
    """
def build_info() -> dict[str, str]:
    """
    Facts of this build: version, compiler, build type, sanitizers, OpenMP date.
    """
def count_dense_operations(geometry: Geometry, rows: typing.SupportsInt | typing.SupportsIndex) -> int:
    """
    Multiply-accumulates without skipping; taps in the padding are not counted.
    """
def count_operations(geometry: Geometry, words: numpy.typing.NDArray[numpy.int64], outputs: numpy.typing.NDArray[numpy.int64] | None) -> int:
    """
    Synaptic operations of these spikes: set bits in every window times the outputs they reach (int64[rows, positions, groups]; None: all).
    """
def count_pool(geometry: PoolGeometry, words: numpy.typing.NDArray[numpy.int64], out: numpy.typing.NDArray[numpy.int64]) -> None:
    """
    Counts of spikes in each window: words[rows, words] to out[planes, rows, out_words].
    """
def forward_dense(geometry: Geometry, inputs: numpy.typing.NDArray[numpy.float32], weight: numpy.typing.NDArray[numpy.float32], bias: numpy.typing.NDArray[numpy.float32] | None, kernel: str, out: numpy.typing.NDArray[numpy.float32]) -> None:
    """
    out[images, positions, out_channels] from analog inputs[images, positions, channels].
    """
def forward_packed(geometry: Geometry, words: numpy.typing.NDArray[numpy.int64], scale: typing.SupportsFloat | typing.SupportsIndex, weight: numpy.typing.NDArray[numpy.float32], bias: numpy.typing.NDArray[numpy.float32] | None, kernel: str, lut_inputs: typing.SupportsInt | typing.SupportsIndex, lut_rows: typing.SupportsInt | typing.SupportsIndex, out: numpy.typing.NDArray[numpy.float32]) -> None:
    """
    out[rows, positions, out_channels] from packed spikes int64[planes, rows, words].
    """
def max_pool(geometry: PoolGeometry, words: numpy.typing.NDArray[numpy.int64], out: numpy.typing.NDArray[numpy.int64]) -> None:
    """
    OR over each window: words[rows, words] to out[rows, out_words].
    """
def max_pool_backward(geometry: PoolGeometry, words: numpy.typing.NDArray[numpy.int64], grad_outputs: numpy.typing.NDArray[numpy.float32], grad_inputs: numpy.typing.NDArray[numpy.float32]) -> None:
    """
    Gradient to each window's first spike, or to its first element when none fired.
    """
def max_threads() -> int:
    """
    Threads a kernel called from this thread would use.
    """
def pack(dense: numpy.typing.NDArray[numpy.float32], out: numpy.typing.NDArray[numpy.int64]) -> int:
    """
    Packs float32[rows, features] of zeros and ones into int64[rows, words]; returns the
    flat index of the first element that is neither, or -1.
    """
def popcount(words: numpy.typing.NDArray[numpy.int64]) -> int:
    """
    Set bits of an int64 array of any shape.
    """
def popcount_rows(words: numpy.typing.NDArray[numpy.int64], out: numpy.typing.NDArray[numpy.int64]) -> None:
    """
    Set bits of each row of words[planes, rows, words], summed over planes.
    """
def set_target(name: str) -> None:
    """
    Forces a target for the whole process; 'auto' returns to the choice at start.
    """
def soma_backward(options: SomaOptions, steps: typing.SupportsInt | typing.SupportsIndex, batch: typing.SupportsInt | typing.SupportsIndex, features: typing.SupportsInt | typing.SupportsIndex, *, grad_spikes: numpy.typing.NDArray[numpy.float32], grad_last: numpy.typing.NDArray[numpy.float32] | None = None, spikes: numpy.typing.NDArray[numpy.int64], mask: numpy.typing.NDArray[numpy.int64] | None = None, membrane: numpy.typing.NDArray[numpy.float32] | None = None, currents: numpy.typing.NDArray[numpy.float32] | None = None, initial: numpy.typing.NDArray[numpy.float32] | None = None, grad_currents: numpy.typing.NDArray[numpy.float32], grad_initial: numpy.typing.NDArray[numpy.float32] | None = None, want_decay: bool = False, want_threshold: bool = False) -> tuple[float, float]:
    """
    Gradients of the currents and, where asked, of the initial membrane; returns the
    gradients of decay and threshold, 0.0 where not wanted.
    """
def soma_forward(options: SomaOptions, steps: typing.SupportsInt | typing.SupportsIndex, batch: typing.SupportsInt | typing.SupportsIndex, features: typing.SupportsInt | typing.SupportsIndex, currents: numpy.typing.NDArray[numpy.float32], initial: numpy.typing.NDArray[numpy.float32] | None, spikes: numpy.typing.NDArray[numpy.int64], mask: numpy.typing.NDArray[numpy.int64] | None, membrane: numpy.typing.NDArray[numpy.float32] | None, last: numpy.typing.NDArray[numpy.float32] | None) -> None:
    """
    currents[T, B, F] to spikes[T, B, words] and, where not None, mask, membrane[T, B, F]
    and last[B, F]. ValueError names the first current that is not finite.
    """
def transpose_bits(bits: numpy.typing.NDArray[numpy.int64], columns: typing.SupportsInt | typing.SupportsIndex, out: numpy.typing.NDArray[numpy.int64]) -> None:
    """
    Transposes the bit matrix bits[rows, words] into out[columns, words].
    """
def transpose_features(words: numpy.typing.NDArray[numpy.int64], positions: typing.SupportsInt | typing.SupportsIndex, channels: typing.SupportsInt | typing.SupportsIndex, to_positions: bool, out: numpy.typing.NDArray[numpy.int64]) -> None:
    """
    Reorders each row from (position, channel) to (channel, position), or back.
    """
def unpack(words: numpy.typing.NDArray[numpy.int64], features: typing.SupportsInt | typing.SupportsIndex, scale: typing.SupportsFloat | typing.SupportsIndex, out: numpy.typing.NDArray[numpy.float32]) -> None:
    """
    Writes scale * count of words[planes, rows, words] into float32[rows, features].
    """
def weight_update_dense(geometry: Geometry, inputs: numpy.typing.NDArray[numpy.float32], grad_currents: numpy.typing.NDArray[numpy.float32], kernel: str, out: numpy.typing.NDArray[numpy.float32]) -> None:
    """
    out, in the weight's order, from analog inputs.
    """
def weight_update_packed(geometry: Geometry, words: numpy.typing.NDArray[numpy.int64], scale: typing.SupportsFloat | typing.SupportsIndex, grad_currents: numpy.typing.NDArray[numpy.float32], kernel: str, lut_inputs: typing.SupportsInt | typing.SupportsIndex, lut_rows: typing.SupportsInt | typing.SupportsIndex, out: numpy.typing.NDArray[numpy.float32]) -> None:
    """
    out, in the weight's order, from packed spikes int64[planes, rows, words].
    """
