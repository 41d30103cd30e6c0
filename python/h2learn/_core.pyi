"""
C++ core of h2learn. Private: use the h2learn package.
"""
from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing
__all__: list[str] = ['BackwardEngine', 'Block', 'Dram', 'ForwardEngine', 'Geometry', 'GradientUnit', 'LaneEngine', 'LayerWork', 'Machine', 'PoolGeometry', 'SomaOptions', 'TableEngine', 'UpdateEngine', 'active_target', 'available_targets', 'average_pool_backward', 'backward', 'backward_has_digits', 'bias_update', 'build_info', 'count_dense_operations', 'count_operations', 'count_pool', 'counter_names', 'engine_names', 'forward_dense', 'forward_has_digits', 'forward_packed', 'fused_forward_dense', 'fused_forward_packed', 'hardware_backward', 'hardware_forward', 'hardware_update', 'max_pool', 'max_pool_backward', 'max_threads', 'memory_statistics', 'pack', 'pack_nonzero', 'pass_names', 'popcount', 'popcount_rows', 'release_free_blocks', 'set_target', 'simulate', 'soma_backward', 'soma_forward', 'tile_fields', 'transpose_bits', 'transpose_features', 'unpack', 'weight_update_dense', 'weight_update_packed']
class Block:
    """
    Bytes from the pool, given back when nobody refers to them.
    """
    def __init__(self, bytes: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def bytes(self) -> int:
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
class TableEngine:
    tables: bool
    @property
    def columns(self) -> int:
        ...
    @columns.setter
    def columns(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def inputs(self) -> int:
        ...
    @inputs.setter
    def inputs(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def psum_banks(self) -> int:
        ...
    @psum_banks.setter
    def psum_banks(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def psum_bytes(self) -> int:
        ...
    @psum_bytes.setter
    def psum_bytes(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def rows(self) -> int:
        ...
    @rows.setter
    def rows(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def spikes_banks(self) -> int:
        ...
    @spikes_banks.setter
    def spikes_banks(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def spikes_bytes(self) -> int:
        ...
    @spikes_bytes.setter
    def spikes_bytes(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def tables_bytes(self) -> int:
        ...
    @tables_bytes.setter
    def tables_bytes(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
class ForwardEngine(TableEngine):
    @property
    def weights_banks(self) -> int:
        ...
    @weights_banks.setter
    def weights_banks(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def weights_bytes(self) -> int:
        ...
    @weights_bytes.setter
    def weights_bytes(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
class UpdateEngine(TableEngine):
    compact: bool
    @property
    def gradients_banks(self) -> int:
        ...
    @gradients_banks.setter
    def gradients_banks(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def gradients_bytes(self) -> int:
        ...
    @gradients_bytes.setter
    def gradients_bytes(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
class LaneEngine:
    @property
    def lanes(self) -> int:
        ...
    @lanes.setter
    def lanes(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def latency_cycles(self) -> int:
        ...
    @latency_cycles.setter
    def latency_cycles(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
class GradientUnit(LaneEngine):
    @property
    def buffer_bytes(self) -> int:
        ...
    @buffer_bytes.setter
    def buffer_bytes(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
class BackwardEngine:
    input_sparsity: bool
    output_sparsity: bool
    @property
    def encode_cycles(self) -> int:
        ...
    @encode_cycles.setter
    def encode_cycles(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def gradients_bytes(self) -> int:
        ...
    @gradients_bytes.setter
    def gradients_bytes(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def groups(self) -> int:
        ...
    @groups.setter
    def groups(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def lanes(self) -> int:
        ...
    @lanes.setter
    def lanes(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def psum_bytes(self) -> int:
        ...
    @psum_bytes.setter
    def psum_bytes(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def slice(self) -> int:
        ...
    @slice.setter
    def slice(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def tile_rows(self) -> int:
        ...
    @tile_rows.setter
    def tile_rows(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def weights_banks(self) -> int:
        ...
    @weights_banks.setter
    def weights_banks(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def weights_bytes(self) -> int:
        ...
    @weights_bytes.setter
    def weights_bytes(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
class Dram:
    @property
    def burst_bytes(self) -> int:
        ...
    @burst_bytes.setter
    def burst_bytes(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def bytes_per_cycle(self) -> int:
        ...
    @bytes_per_cycle.setter
    def bytes_per_cycle(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def latency_cycles(self) -> int:
        ...
    @latency_cycles.setter
    def latency_cycles(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
class Machine:
    compressed_gradients: bool
    membrane: str
    schedule: str
    def __init__(self) -> None:
        ...
    def validate(self) -> None:
        ...
    @property
    def backward(self) -> BackwardEngine:
        ...
    @property
    def dram(self) -> Dram:
        ...
    @property
    def forward(self) -> ForwardEngine:
        ...
    @property
    def gradient(self) -> GradientUnit:
        ...
    @property
    def membrane_bytes(self) -> int:
        ...
    @membrane_bytes.setter
    def membrane_bytes(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def parts(self) -> int:
        ...
    @parts.setter
    def parts(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def soma(self) -> LaneEngine:
        ...
    @property
    def state_bytes(self) -> int:
        ...
    @state_bytes.setter
    def state_bytes(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def update(self) -> UpdateEngine:
        ...
    @property
    def value_bytes(self) -> int:
        ...
    @value_bytes.setter
    def value_bytes(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
class LayerWork:
    def __init__(self, *, name: str, geometry: Geometry, timesteps: typing.SupportsInt | typing.SupportsIndex, samples: typing.SupportsInt | typing.SupportsIndex, inputs: numpy.typing.NDArray[numpy.int64], mask: numpy.typing.NDArray[numpy.int64] | None, nonzero: numpy.typing.NDArray[numpy.int64] | None, input_gradient: bool, weight_gradient: bool, neurons: bool, membrane: bool) -> None:
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
def backward_has_digits(geometry: Geometry, grad_currents: numpy.typing.NDArray[numpy.float32], weight: numpy.typing.NDArray[numpy.float32]) -> bool:
    """
    Whether kernel 'digits' computes these input gradients by digits.
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
def counter_names() -> list[str]:
    ...
def engine_names() -> list[str]:
    ...
def forward_dense(geometry: Geometry, inputs: numpy.typing.NDArray[numpy.float32], weight: numpy.typing.NDArray[numpy.float32], bias: numpy.typing.NDArray[numpy.float32] | None, kernel: str, out: numpy.typing.NDArray[numpy.float32]) -> None:
    """
    out[images, positions, out_channels] from analog inputs[images, positions, channels].
    """
def forward_has_digits(geometry: Geometry, weight: numpy.typing.NDArray[numpy.float32], planes: typing.SupportsInt | typing.SupportsIndex = 1) -> bool:
    """
    Whether kernel 'digits' computes this layer's currents by digits.
    """
def forward_packed(geometry: Geometry, words: numpy.typing.NDArray[numpy.int64], scale: typing.SupportsFloat | typing.SupportsIndex, weight: numpy.typing.NDArray[numpy.float32], bias: numpy.typing.NDArray[numpy.float32] | None, kernel: str, lut_inputs: typing.SupportsInt | typing.SupportsIndex, lut_rows: typing.SupportsInt | typing.SupportsIndex, out: numpy.typing.NDArray[numpy.float32]) -> None:
    """
    out[rows, positions, out_channels] from packed spikes int64[planes, rows, words].
    """
def fused_forward_dense(geometry: Geometry, inputs: numpy.typing.NDArray[numpy.float32], weight: numpy.typing.NDArray[numpy.float32], bias: numpy.typing.NDArray[numpy.float32] | None, kernel: str, gain: numpy.typing.NDArray[numpy.float32] | None, offset: numpy.typing.NDArray[numpy.float32] | None, options: SomaOptions, steps: typing.SupportsInt | typing.SupportsIndex, batch: typing.SupportsInt | typing.SupportsIndex, initial: numpy.typing.NDArray[numpy.float32] | None, spikes: numpy.typing.NDArray[numpy.int64], mask: numpy.typing.NDArray[numpy.int64] | None, membrane: numpy.typing.NDArray[numpy.float32] | None, last: numpy.typing.NDArray[numpy.float32] | None) -> None:
    """
    The same of forward_dense's. With batch images they are the same ones at every step.
    """
def fused_forward_packed(geometry: Geometry, words: numpy.typing.NDArray[numpy.int64], scale: typing.SupportsFloat | typing.SupportsIndex, weight: numpy.typing.NDArray[numpy.float32], bias: numpy.typing.NDArray[numpy.float32] | None, kernel: str, lut_inputs: typing.SupportsInt | typing.SupportsIndex, lut_rows: typing.SupportsInt | typing.SupportsIndex, gain: numpy.typing.NDArray[numpy.float32] | None, offset: numpy.typing.NDArray[numpy.float32] | None, options: SomaOptions, steps: typing.SupportsInt | typing.SupportsIndex, batch: typing.SupportsInt | typing.SupportsIndex, initial: numpy.typing.NDArray[numpy.float32] | None, spikes: numpy.typing.NDArray[numpy.int64], mask: numpy.typing.NDArray[numpy.int64] | None, membrane: numpy.typing.NDArray[numpy.float32] | None, last: numpy.typing.NDArray[numpy.float32] | None) -> None:
    """
    What soma_forward makes of forward_packed's currents, which are never stored; where gain
    and offset [out_channels] are given, of currents * gain + offset.
    """
def hardware_backward(geometry: Geometry, grad_currents: numpy.typing.NDArray[numpy.float32], weight: numpy.typing.NDArray[numpy.float32], mask: numpy.typing.NDArray[numpy.int64] | None, precision: str, out: numpy.typing.NDArray[numpy.float32]) -> None:
    """
    out[images, positions, in_channels] of the backward engine, +0 where mask has no bit.
    """
def hardware_forward(geometry: Geometry, words: numpy.typing.NDArray[numpy.int64], plane_weights: numpy.typing.NDArray[numpy.float32], scale: typing.SupportsFloat | typing.SupportsIndex, weight: numpy.typing.NDArray[numpy.float32], bias: numpy.typing.NDArray[numpy.float32] | None, precision: str, rows: typing.SupportsInt | typing.SupportsIndex, inputs: typing.SupportsInt | typing.SupportsIndex, tables: bool, out: numpy.typing.NDArray[numpy.float32]) -> None:
    """
    out[rows, positions, out_channels] of the forward engine from int64[planes, rows, words].
    """
def hardware_update(geometry: Geometry, words: numpy.typing.NDArray[numpy.int64], plane_weights: numpy.typing.NDArray[numpy.float32], scale: typing.SupportsFloat | typing.SupportsIndex, grad_currents: numpy.typing.NDArray[numpy.float32], timesteps: typing.SupportsInt | typing.SupportsIndex, samples: typing.SupportsInt | typing.SupportsIndex, precision: str, rows: typing.SupportsInt | typing.SupportsIndex, inputs: typing.SupportsInt | typing.SupportsIndex, tables: bool, columns: typing.SupportsInt | typing.SupportsIndex, spikes_bytes: typing.SupportsInt | typing.SupportsIndex, parts: typing.SupportsInt | typing.SupportsIndex, compact: bool, out: numpy.typing.NDArray[numpy.float32]) -> None:
    """
    out, in the weight's order, of the weight-update engine; a row of words and of grad_currents is timestep * samples + sample.
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
def memory_statistics() -> dict[str, int]:
    """
    Bytes of the pool: in use, kept free, the most ever in use; the kernels' scratch; and packed
    weights kept from call to call.
    """
def pack(dense: numpy.typing.NDArray[numpy.float32], out: numpy.typing.NDArray[numpy.int64]) -> int:
    """
    Packs float32[rows, features] of zeros and ones into int64[rows, words]; returns the
    flat index of the first element that is neither, or -1.
    """
def pack_nonzero(dense: numpy.typing.NDArray[numpy.float32], out: numpy.typing.NDArray[numpy.int64]) -> None:
    """
    Packs where float32[rows, features] are not zero into int64[rows, words].
    """
def pass_names() -> list[str]:
    ...
def popcount(words: numpy.typing.NDArray[numpy.int64]) -> int:
    """
    Set bits of an int64 array of any shape.
    """
def popcount_rows(words: numpy.typing.NDArray[numpy.int64], out: numpy.typing.NDArray[numpy.int64]) -> None:
    """
    Set bits of each row of words[planes, rows, words], summed over planes.
    """
def release_free_blocks() -> None:
    """
    Gives the pool's free blocks, and kept packed weights, back to the system.
    """
def set_target(name: str) -> None:
    """
    Forces a target for the whole process; 'auto' returns to the choice at start.
    """
def simulate(machine: Machine, layers: collections.abc.Sequence[LayerWork], *, clocked: bool = False, tiles: bool = True) -> dict[str, typing.Any]:
    ...
def soma_backward(options: SomaOptions, steps: typing.SupportsInt | typing.SupportsIndex, batch: typing.SupportsInt | typing.SupportsIndex, features: typing.SupportsInt | typing.SupportsIndex, *, grad_spikes: numpy.typing.NDArray[numpy.float32], pool: PoolGeometry | None = None, grad_last: numpy.typing.NDArray[numpy.float32] | None = None, spikes: numpy.typing.NDArray[numpy.int64], mask: numpy.typing.NDArray[numpy.int64] | None = None, membrane: numpy.typing.NDArray[numpy.float32] | None = None, currents: numpy.typing.NDArray[numpy.float32] | None = None, initial: numpy.typing.NDArray[numpy.float32] | None = None, grad_currents: numpy.typing.NDArray[numpy.float32], grad_initial: numpy.typing.NDArray[numpy.float32] | None = None, want_decay: bool = False, want_threshold: bool = False) -> tuple[float, float]:
    """
    Gradients of the currents and, where asked, of the initial membrane; returns the
    gradients of decay and threshold, 0.0 where not wanted. With a pool, grad_spikes are the
    gradients at the averages of its windows.
    """
def soma_forward(options: SomaOptions, steps: typing.SupportsInt | typing.SupportsIndex, batch: typing.SupportsInt | typing.SupportsIndex, features: typing.SupportsInt | typing.SupportsIndex, currents: numpy.typing.NDArray[numpy.float32], initial: numpy.typing.NDArray[numpy.float32] | None, spikes: numpy.typing.NDArray[numpy.int64], mask: numpy.typing.NDArray[numpy.int64] | None, membrane: numpy.typing.NDArray[numpy.float32] | None, last: numpy.typing.NDArray[numpy.float32] | None) -> None:
    """
    currents[T, B, F] to spikes[T, B, words] and, where not None, mask, membrane[T, B, F]
    and last[B, F]. ValueError names the first current that is not finite.
    """
def tile_fields() -> list[str]:
    ...
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
