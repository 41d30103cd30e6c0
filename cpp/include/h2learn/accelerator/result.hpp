// What a simulation gives back. The clocked and the fast simulator fill the same structure, and
// every number in it must be equal.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace h2learn::accelerator {

enum class Engine { forward, soma, gradient, backward, update };
constexpr int engine_count = 5;

/// A layer's visits to an engine. Recomputation of membranes runs the first two a second time.
enum class Pass { forward, soma, recompute_forward, recompute_soma, gradient, backward, update };
constexpr int pass_count = 7;

constexpr Engine engine_of(Pass pass) {
  constexpr std::array<Engine, pass_count> engines = {
      Engine::forward,  Engine::soma,     Engine::forward, Engine::soma,
      Engine::gradient, Engine::backward, Engine::update};
  return engines[static_cast<std::size_t>(pass)];
}

// The one list of counters (docs/microarchitecture.md says what each counts).
#define H2LEARN_COUNTERS(X) \
  X(tiles)                  \
  X(run_cycles)             \
  X(building_cycles)        \
  X(stalled_load_cycles)    \
  X(stalled_store_cycles)   \
  X(idle_cycles)            \
  X(operations_offered)     \
  X(operations_needed)      \
  X(skipped_by_gradient)    \
  X(skipped_by_mask)        \
  X(items)                  \
  X(items_empty)            \
  X(lane_slots)             \
  X(table_builds)           \
  X(table_writes)           \
  X(table_reads)            \
  X(table_reads_skipped)    \
  X(additions)              \
  X(multiplications)        \
  X(comparisons)            \
  X(weight_reads)           \
  X(weight_writes)          \
  X(spike_read_bits)        \
  X(spike_write_bits)       \
  X(mask_read_bits)         \
  X(mask_write_bits)        \
  X(membrane_reads)         \
  X(membrane_writes)        \
  X(gradient_reads)         \
  X(gradient_writes)        \
  X(psum_reads)             \
  X(psum_writes)            \
  X(loads)                  \
  X(stores)                 \
  X(load_bytes)             \
  X(store_bytes)            \
  X(load_bursts)            \
  X(store_bursts)

struct Counters {
#define H2LEARN_FIELD(name) std::int64_t name = 0;
  H2LEARN_COUNTERS(H2LEARN_FIELD)
#undef H2LEARN_FIELD
  bool operator==(const Counters&) const = default;
};

/// Times of one tile, in cycles from the start of the step. "done" and "end" are the first cycle
/// after. A load of no bytes is done when it is issued, a store of none when the one before is.
struct Tile {
  std::int64_t pass = 0;  ///< `Pass`
  std::int64_t part = 0;
  std::int64_t layer = 0;
  std::int64_t block = 0;
  std::int64_t column = 0;  ///< column tile within the layer (counted over its groups)
  std::int64_t row = 0;     ///< row tile; in the weight update the position tile of the block
  std::int64_t depth = 0;   ///< in the weight update the block of inputs, else 0
  std::int64_t load_bytes = 0;
  std::int64_t store_bytes = 0;
  std::int64_t ready = 0;  ///< when what it waits for in other engines had happened (P)
  std::int64_t load_issue = 0;
  std::int64_t load_done = 0;
  std::int64_t build_end = 0;
  std::int64_t start = 0;
  std::int64_t end = 0;
  std::int64_t store_issue = 0;
  std::int64_t store_done = 0;
  bool operator==(const Tile&) const = default;
};
constexpr int tile_fields = 17;

struct Result {
  std::int64_t cycles = 0;
  std::int64_t dram_busy_cycles = 0;
  std::array<std::int64_t, engine_count> tail_idle_cycles = {};  ///< after an engine's last tile
  std::vector<std::array<Counters, pass_count>> layers;
  /// A bit for each tensor of a layer that stays on chip: spikes 1, mask 2, gradient at the
  /// currents 4, gradient at the spikes 8, membrane 16. Of the first (largest) part.
  std::vector<std::int64_t> resident;
  std::array<std::vector<Tile>, engine_count> tiles;  ///< in the order that each engine ran them
};

}  // namespace h2learn::accelerator
