// What an accelerator of the H2Learn kind is made of: the parameters of docs/microarchitecture.md,
// with the default of each. Sizes of buffers are whole capacities; each buffer is used as two
// halves (double buffering). Everything is an integer, so that no result depends on rounding.
#pragma once

#include <cstdint>

#include "h2learn/accelerator/work.hpp"

namespace h2learn::accelerator {

enum class Schedule { serial, layer, batch };
enum class Membrane { store, recompute };

/// Forward engine and weight-update engine have the same structure: an array of table PEs.
struct TableEngine {
  std::int64_t rows = 32;
  std::int64_t columns = 32;
  std::int64_t inputs = 6;                ///< operands that one table covers: 2^inputs entries
  bool tables = true;                     ///< false: one conditional adder a PE instead of a table
  std::int64_t tables_bytes = 512 << 10;  ///< room for the two banks of tables
  std::int64_t spikes_bytes = 1 << 20;
  std::int64_t spikes_banks = 8;  ///< of `spike_bank_bits`, read in one cycle
  std::int64_t psum_bytes = 1 << 20;
  std::int64_t psum_banks = 64;
};

constexpr std::int64_t spike_bank_bits = 32;
constexpr std::int64_t accumulator_bytes = 4;

struct ForwardEngine : TableEngine {
  std::int64_t weights_bytes = 128 << 10;
  std::int64_t weights_banks = 128;
};

struct UpdateEngine : TableEngine {
  std::int64_t gradients_bytes = 64 << 10;
  std::int64_t gradients_banks = 256;
  bool compact = false;  ///< leave out positions whose gradients are all zero for the tile

  UpdateEngine() {
    inputs = 5;
    tables_bytes = 256 << 10;
    spikes_bytes = 512 << 10;
    psum_bytes = 2 << 20;
  }
};

/// Soma and gradient unit: lanes that take one neuron-step a cycle each.
struct LaneEngine {
  std::int64_t lanes = 64;
  std::int64_t latency_cycles = 4;
};

struct GradientUnit : LaneEngine {
  std::int64_t buffer_bytes = 256 << 10;
};

struct BackwardEngine {
  std::int64_t groups = 384;
  std::int64_t lanes = 16;
  std::int64_t slice = 128;  ///< input channels of one work item
  std::int64_t encode_cycles = 4;
  std::int64_t tile_rows = 1024;  ///< gradients (taps x output channels) of one tile
  std::int64_t weights_bytes = 1 << 20;
  std::int64_t weights_banks = 32;
  std::int64_t gradients_bytes = 2 << 20;
  std::int64_t psum_bytes = 1 << 20;
  bool input_sparsity = true;   ///< skip zero gradients at the currents
  bool output_sparsity = true;  ///< skip input neurons whose surrogate mask is not set
};

struct Dram {
  std::int64_t bytes_per_cycle = 320;
  std::int64_t latency_cycles = 100;
  std::int64_t burst_bytes = 64;
};

struct Machine {
  ForwardEngine forward;
  LaneEngine soma;
  GradientUnit gradient;
  BackwardEngine backward;
  UpdateEngine update;
  Dram dram;
  std::int64_t state_bytes = 4 << 20;     ///< spikes, masks, gradients kept from pass to pass
  std::int64_t membrane_bytes = 2 << 20;  ///< carried from timestep to timestep
  Membrane membrane = Membrane::store;
  std::int64_t value_bytes = 2;      ///< of a weight, a gradient, a table entry: 2 or 4
  bool compressed_gradients = true;  ///< in DRAM: a bit map and the values that are not zero
  Schedule schedule = Schedule::batch;
  std::int64_t parts = 4;  ///< of a mini-batch

  /// Throws std::invalid_argument naming the first parameter that is out of its range or makes
  /// the machine impossible (a tile that does not fit its buffer).
  void validate() const;
};

/// Throws std::invalid_argument naming the layer, the parameter and the value that would do, when
/// the machine cannot run this work, or when the work contradicts itself.
void require_runnable(const Machine& machine, const StepWork& step);

}  // namespace h2learn::accelerator
